//! Questions about long texts, from files.
//!
//! A line of L-Eval (An et al. 2023) is `{"input", "instructions": [text], "outputs": [text]}`, a text with several
//! questions; a file of RULER is a JSON list of `{"input", "answer", "depth_percent"}`, a text that ends in its question.

use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result, lines};

/// A question about a long text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LongContextItem {
    /// Its name.
    pub id: String,
    /// What kind of question it is.
    pub task: String,
    /// The text.
    pub text: String,
    /// What is asked, behind the text; empty where the text ends in its question.
    pub question: String,
    /// How the answer begins, which is given to the model; may be empty.
    pub answer_start: String,
    /// What the answer is to contain, each a part of the score.
    pub references: Vec<String>,
    /// The most tokens of an answer.
    pub answer_tokens: usize,
    /// Where in the text the answer stands, from 0 to 1, if that is known.
    pub depth: Option<f32>,
}

impl LongContextItem {
    /// The share of the references that an answer contains, whatever the case: RULER's score.
    pub fn score(&self, answer: &str) -> f64 {
        let answer = answer.to_lowercase();
        let found = self.references.iter().filter(|reference| answer.contains(&reference.to_lowercase())).count();
        found as f64 / self.references.len().max(1) as f64
    }
}

/// The most tokens of an answer to a question from a file.
const ANSWER_TOKENS: usize = 64;

#[derive(Deserialize)]
struct LEvalLine {
    input: String,
    instructions: Vec<String>,
    outputs: Vec<String>,
}

#[derive(Deserialize)]
struct RulerItem {
    input: String,
    answer: Answer,
    depth_percent: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`answer` is a text or a list of texts")]
enum Answer {
    One(String),
    Several(Vec<String>),
}

/// Reads a file of L-Eval (`.jsonl`) or of RULER (`.json`), also `.gz` or `.zst`.
///
/// # Errors
///
/// When the file is missing or unreadable, or is neither.
pub fn read(path: &Path) -> Result<Vec<LongContextItem>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let task = name.split(".json").next().unwrap_or_default().to_owned();
    let is_list = !name.contains(".jsonl");
    let mut items = Vec::new();
    let mut add = |id: String, text: String, question: String, references: Vec<String>, depth: Option<f32>| {
        let task = task.clone();
        let references: Vec<String> = references.into_iter().map(|text| text.trim().to_owned()).collect();
        if text.trim().is_empty() || references.is_empty() || references.iter().any(String::is_empty) {
            return Err("a text or its answer is empty".to_owned());
        }
        let answer_tokens = ANSWER_TOKENS;
        items.push(LongContextItem {
            id,
            task,
            text,
            question,
            references,
            answer_tokens,
            depth,
            ..Default::default()
        });
        Ok(())
    };
    if is_list {
        let whole = lines::whole(path)?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), line: 1, problem };
        let list: Vec<RulerItem> = serde_json::from_str(&whole).map_err(|error| {
            let problem = lines::json_problem(&error);
            let problem = format!(r#"{problem}; the file is a list of `{{"input", "answer", "depth_percent"}}`"#);
            Error::Malformed { path: path.to_owned(), line: error.line().max(1), problem }
        })?;
        for (i, RulerItem { input, answer, depth_percent }) in list.into_iter().enumerate() {
            let references = match answer {
                Answer::One(text) => vec![text],
                Answer::Several(texts) => texts,
            };
            let depth = depth_percent.map(|percent| percent / 100.0);
            add((i + 1).to_string(), input, String::new(), references, depth).map_err(malformed)?;
        }
    } else {
        lines::each(path, |number, line| {
            let form = r#"{"input", "instructions": [text], "outputs": [text]}"#;
            let LEvalLine { input, instructions, outputs } = lines::json(line, form)?;
            if instructions.len() != outputs.len() {
                return Err("there are not as many `outputs` as `instructions`".to_owned());
            }
            for (i, (question, output)) in instructions.into_iter().zip(outputs).enumerate() {
                add(format!("{number}-{}", i + 1), input.clone(), question, vec![output], None)?;
            }
            Ok(())
        })?;
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let path =
            file("quality.jsonl", r#"{"input": "Long.", "instructions": ["A?", "B?"], "outputs": [" a ", "b"]}"#);
        let items = read(&path).unwrap();
        assert_eq!((items.len(), &*items[0].references[0], &*items[1].id), (2, "a", "1-2"));
        assert_eq!((&*items[1].question, &*items[1].task), ("B?", "quality"));
        let path = file("niah.json", r#"[{"input": "Long. A?", "answer": "7", "depth_percent": 50.0}]"#);
        let item = &read(&path).unwrap()[0];
        assert_eq!(
            (&*item.text, item.depth, item.score("It is 7."), item.score("8")),
            ("Long. A?", Some(0.5), 1.0, 0.0)
        );
        for (name, text) in [
            ("a.jsonl", r#"{"input": "x", "instructions": ["A?"], "outputs": []}"#),
            ("b.jsonl", r#"{"input": "x", "instructions": ["A?"], "outputs": [""]}"#),
            ("c.json", r#"{"input": "x"}"#),
        ] {
            assert!(matches!(read(&file(name, text)), Err(Error::Malformed { .. })), "{name}");
        }
        let told =
            read(&file("d.json", "[{\"input\": \"x\", \"answer\": \"y\"},\n {\"input\": \"x\", \"answer\": 1}]"));
        let told = told.unwrap_err().to_string();
        assert!(
            told.contains("d.json` line 2: column 28: `answer` is a text or a list of texts; the file is"),
            "{told}"
        );
        assert!(matches!(read(&folder.path().join("none.jsonl")), Err(Error::Missing { .. })));
    }
}
