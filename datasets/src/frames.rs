//! FRAMES (Krishna et al., 2024): questions that need several pages of Wikipedia, with answers and links.
//!
//! It travels as a table with the columns `Prompt`, `Answer`, `reasoning_types` (separated by `|`) and `wiki_links`
//! (a list in brackets and quotes), tab-separated or as Parquet; or as JSON lines
//! `{"id", "question", "answer", "wiki_links": […], "reasoning_types": […]}`.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result, columns, lines};

/// A question, its answer, and where the answer comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Its name: as given, or the number of its row, from 0.
    pub id: String,
    /// What is asked.
    pub text: String,
    /// The right answer.
    pub answer: String,
    /// The addresses of the pages that are needed.
    pub wiki_links: Vec<String>,
    /// What answering takes, such as `Numerical reasoning`.
    pub reasoning_types: Vec<String>,
}

/// Reads questions by the name's end, `.tsv`, `.parquet` or `.jsonl`, each but Parquet also with `.gz` or `.zst`.
///
/// # Errors
///
/// When the file is missing or unreadable, has another ending or other columns, or a question has no text.
pub fn read(path: &Path) -> Result<Vec<Question>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match plain.rsplit_once('.').map(|(_, end)| end) {
        Some("parquet") => read_parquet(path),
        Some("tsv") => read_tsv(path),
        Some("jsonl") => read_jsonl(path),
        _ => Err(Error::Table {
            path: path.to_owned(),
            problem: "the form is told by the name's end: `.tsv`, `.parquet` or `.jsonl`".to_owned(),
        }),
    }
}

fn read_jsonl(path: &Path) -> Result<Vec<Question>> {
    #[derive(Deserialize)]
    struct Line {
        id: lines::Id,
        #[serde(alias = "Prompt")]
        question: String,
        #[serde(alias = "Answer")]
        answer: String,
        #[serde(default)]
        wiki_links: Listed,
        #[serde(default)]
        reasoning_types: Listed,
    }
    /// A list, or the text that stands for it in a table.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listed {
        List(Vec<String>),
        Text(String),
    }
    impl Default for Listed {
        fn default() -> Self {
            Self::List(Vec::new())
        }
    }
    impl Listed {
        fn entries(self, of_text: fn(&str) -> Vec<String>) -> Vec<String> {
            match self {
                Self::List(list) => list,
                Self::Text(text) => of_text(&text),
            }
        }
    }
    let mut questions = Vec::new();
    lines::each(path, |_, line| {
        let form = r#"{"id", "question", "answer", "wiki_links": [address], "reasoning_types": [text]}"#;
        let Line { id, question, answer, wiki_links, reasoning_types } = lines::json(line, form)?;
        let (wiki_links, reasoning_types) = (wiki_links.entries(quoted), reasoning_types.entries(between_bars));
        questions.push(Question { id: id.into_text(), text: question, answer, wiki_links, reasoning_types });
        Ok(())
    })?;
    Ok(questions)
}

fn read_tsv(path: &Path) -> Result<Vec<Question>> {
    let (path, reader) = lines::open(path)?;
    let table = |problem| Error::Table { path: path.clone(), problem };
    let mut rows = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(reader);
    let heading = rows.headers().map_err(|error| table(error.to_string()))?.clone();
    let column = |name: &str| {
        let found = heading.iter().position(|heading| heading.trim_start_matches('\u{feff}') == name);
        found.ok_or_else(|| {
            let there = heading.iter().collect::<Vec<_>>().join("`, `");
            table(format!("there is no column `{name}`, but `{there}`; rename one"))
        })
    };
    let columns = [column("Prompt")?, column("Answer")?, column("wiki_links")?, column("reasoning_types")?];
    let mut questions = Vec::new();
    for row in rows.records() {
        let row = row.map_err(|error| table(error.to_string()))?;
        let [text, answer, links, kinds] = columns.map(|i| row.get(i).unwrap_or_default());
        let line = row.position().map_or(0, |position| position.line() as usize);
        let problem = |problem| Error::Malformed { path: path.clone(), line, problem };
        questions.push(question(questions.len(), text, answer, links, kinds).map_err(problem)?);
    }
    Ok(questions)
}

fn read_parquet(path: &Path) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    columns::each(path, |batch| {
        let columns = [
            batch.strings("Prompt")?,
            batch.strings("Answer")?,
            batch.strings("wiki_links")?,
            batch.strings("reasoning_types")?,
        ];
        for row in 0..batch.n_rows() {
            let [text, answer, links, kinds] = columns.each_ref().map(|column| column.or_empty(row));
            let made = question(questions.len(), &text, &answer, &links, &kinds);
            questions.push(made.map_err(|problem| batch.problem(row, &problem))?);
        }
        Ok(())
    })?;
    Ok(questions)
}

fn between_bars(kinds: &str) -> Vec<String> {
    kinds.split('|').map(str::trim).filter(|kind| !kind.is_empty()).map(str::to_owned).collect()
}

fn question(i: usize, text: &str, answer: &str, links: &str, kinds: &str) -> Result<Question, String> {
    if text.trim().is_empty() {
        return Err("the column `Prompt` is empty".to_owned());
    }
    Ok(Question {
        id: i.to_string(),
        text: text.to_owned(),
        answer: answer.to_owned(),
        wiki_links: quoted(links),
        reasoning_types: between_bars(kinds),
    })
}

/// The strings of a list as Python prints it: `['a', "b's"]`.
fn quoted(list: &str) -> Vec<String> {
    let mut strings = Vec::new();
    let mut rest = list;
    while let Some(start) = rest.find(['\'', '"']) {
        let quote = &rest[start..=start];
        let inside = &rest[start + 1..];
        let mut string = String::new();
        let mut characters = inside.char_indices();
        let mut end = inside.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => string.extend(characters.next().map(|(_, escaped)| escaped)),
                _ if quote.starts_with(character) => {
                    end = at + 1;
                    break;
                }
                _ => string.push(character),
            }
        }
        strings.push(string);
        rest = &inside[end..];
    }
    strings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_python_prints_them() {
        let check = |list: &str, expected: &[&str]| assert_eq!(quoted(list), expected, "{list}");
        check("['a', 'b']", &["a", "b"]);
        check(r#"["it's", 'x\'y', 'https://e.org/A,_B']"#, &["it's", "x'y", "https://e.org/A,_B"]);
        check("[]", &[]);
        check("['open", &["open"]);
        check("", &[]);
    }
}
