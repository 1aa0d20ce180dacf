//! Questions with the passages that they are to be answered from: what the reading of long prompts is measured on.
//!
//! A line of a file is `{"id", "question", "answers": [text], "ctxs": [{"title", "text"}]}`; `id` and `title` may be
//! missing, further keys are ignored. A folder in the layout of [BEIR](crate::beir) with `answers.jsonl`, whose lines
//! are `{"_id", "answers": [text]}`, gives the same: the passages that were judged relevant among others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::{Draws, Result, beir, lines};

/// A question with right answers, and passages in the order in which they are to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextQuestion {
    /// Its name.
    pub id: String,
    /// What is asked.
    pub question: String,
    /// The answers that count as right; there is one at least.
    pub answers: Vec<String>,
    /// The passages; there is one at least, and none is blank.
    pub passages: Vec<ContextPassage>,
}

/// A passage that may help to answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextPassage {
    /// The title of what it is from, empty when it is not given.
    pub title: String,
    /// Its text.
    pub text: String,
}

/// Reads questions with at most `n_passages` passages each, from a file of lines or a folder with judgements.
///
/// Of a file's passages the first are taken. Of a folder, those of the split `test` with a grade above 0, filled up with
/// documents that a seed draws, in an order that it draws too; queries without judgements or answers are left out.
///
/// # Errors
///
/// When a file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read(path: &Path, n_passages: usize, seed: u64) -> Result<Vec<ContextQuestion>> {
    if path.is_dir() { read_folder(path, n_passages, seed) } else { read_file(path, n_passages) }
}

#[derive(Deserialize)]
struct Line {
    id: Option<lines::Id>,
    question: String,
    answers: Vec<String>,
    ctxs: Vec<LinePassage>,
}

#[derive(Deserialize)]
struct LinePassage {
    title: Option<String>,
    text: String,
}

fn read_file(path: &Path, n_passages: usize) -> Result<Vec<ContextQuestion>> {
    let mut ids = HashSet::new();
    let mut questions = Vec::new();
    lines::each(path, |number, line| {
        let form = r#"{"question", "answers": [text], "ctxs": [{"title", "text"}]}"#;
        let Line { id, question, answers, ctxs } = lines::json(line, form)?;
        let id = id.map_or_else(|| number.to_string(), lines::Id::into_text);
        if !ids.insert(id.clone()) {
            return Err(format!("id `{id}` occurs twice"));
        }
        if question.trim().is_empty() {
            return Err("`question` is empty".to_owned());
        }
        if answers.is_empty() {
            return Err("`answers` has no answer".to_owned());
        }
        let passages = ctxs.into_iter().filter(|passage| !passage.text.trim().is_empty());
        let passages = passages.map(|LinePassage { title, text }| ContextPassage {
            title: title.unwrap_or_default(),
            text: text.trim().to_owned(),
        });
        let passages: Vec<_> = passages.take(n_passages).collect();
        if passages.is_empty() {
            return Err("`ctxs` has no passage with a text".to_owned());
        }
        questions.push(ContextQuestion { id, question, answers, passages });
        Ok(())
    })?;
    Ok(questions)
}

#[derive(Deserialize)]
struct AnswersLine {
    #[serde(rename = "_id")]
    id: lines::Id,
    answers: Vec<String>,
}

/// Answers by the query's id.
pub(crate) fn read_answers(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let mut answers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    lines::each(path, |_, line| {
        let AnswersLine { id, answers: right } = lines::json(line, r#"{"_id", "answers": [text]}"#)?;
        let id = id.into_text();
        match answers.insert(id.clone(), right) {
            Some(_) => Err(format!("id `{id}` occurs twice")),
            None => Ok(()),
        }
    })?;
    Ok(answers)
}

fn read_folder(folder: &Path, n_passages: usize, seed: u64) -> Result<Vec<ContextQuestion>> {
    let mut answers = read_answers(&folder.join("answers.jsonl"))?;
    let collection = beir::read(folder, "test")?;
    let documents: Vec<&beir::Document> =
        collection.documents.iter().filter(|document| !document.text.trim().is_empty()).collect();
    let places: HashMap<&str, usize> = documents.iter().enumerate().map(|(i, d)| (d.id.as_str(), i)).collect();
    let mut questions = Vec::new();
    for (number, query) in (0..).zip(&collection.queries) {
        let (Some(grades), Some(right)) = (collection.qrels.grades(&query.id), answers.remove(&query.id)) else {
            continue;
        };
        let gold = grades.iter().filter(|(_, grade)| **grade > 0).filter_map(|(id, _)| places.get(id.as_str()));
        let mut chosen: Vec<usize> = gold.copied().take(n_passages).collect();
        if chosen.is_empty() || right.is_empty() {
            continue;
        }
        let mut draws = Draws::new(seed, number);
        let wanted = n_passages.min(documents.len());
        while chosen.len() < wanted {
            let drawn = draws.below(documents.len());
            if !chosen.contains(&drawn) {
                chosen.push(drawn);
            }
        }
        draws.shuffle(&mut chosen);
        let passage = |&i: &usize| ContextPassage {
            title: documents[i].title.clone(),
            text: documents[i].text.trim().to_owned(),
        };
        questions.push(ContextQuestion {
            id: query.id.clone(),
            question: query.text.clone(),
            answers: right,
            passages: chosen.iter().map(passage).collect(),
        });
    }
    Ok(questions)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_give_questions_and_mistakes_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.jsonl");
        let line = r#"{"question": "Who?", "answers": ["A"], "ctxs": [{"text": " "}, {"title": "t", "text": "b"}, {"text": "c"}]}"#;
        fs::write(&path, format!("{line}\n")).unwrap();
        let read_all = read(&path, 10, 0).unwrap();
        assert_eq!((&*read_all[0].id, read_all[0].passages.len()), ("1", 2));
        assert_eq!(read(&path, 1, 0).unwrap()[0].passages, [ContextPassage { title: "t".into(), text: "b".into() }]);
        let refused = |text: &str, says: &str| {
            fs::write(&path, format!("{line}\n\n{text}\n")).unwrap();
            let told = read(&path, 10, 0).unwrap_err().to_string();
            assert!(told.contains("q.jsonl` line 3: ") && told.contains(says), "{told}");
        };
        refused("{", "EOF");
        refused(r#"{"question": "Who?", "answers": []}"#, "missing field `ctxs`");
        refused(r#"{"question": "Who?", "answers": [], "ctxs": [{"text": "b"}]}"#, "`answers` has no answer");
        refused(r#"{"question": "Who?", "answers": ["a"], "ctxs": [{"text": ""}]}"#, "no passage with a text");
        refused(r#"{"question": " ", "answers": ["a"], "ctxs": [{"text": "b"}]}"#, "`question` is empty");
        refused(r#"{"id": 1, "question": "Why?", "answers": ["a"], "ctxs": [{"text": "b"}]}"#, "occurs twice");
        assert!(read(&folder.path().join("none"), 10, 0).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn a_folders_questions_have_their_judged_passages_among_drawn_ones() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join("qrels")).unwrap();
        let corpus: String = (0..30).map(|i| format!("{{\"_id\": \"d{i}\", \"text\": \"text {i}\"}}\n")).collect();
        write("corpus.jsonl", &corpus);
        write("queries.jsonl", "{\"_id\": \"q1\", \"text\": \"?\"}\n{\"_id\": \"q2\", \"text\": \"??\"}\n");
        write("answers.jsonl", "{\"_id\": \"q2\", \"answers\": [\"x\"]}\n");
        write("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq2\td3\t1\nq2\td7\t1\nq2\td8\t0\nq1\td1\t1\n");
        let questions = read(folder.path(), 10, 5).unwrap();
        assert_eq!(questions, read(folder.path(), 10, 5).unwrap());
        assert_ne!(questions, read(folder.path(), 10, 6).unwrap());
        assert_eq!((questions.len(), &*questions[0].id), (1, "q2"));
        let texts: HashSet<&str> = questions[0].passages.iter().map(|passage| passage.text.as_str()).collect();
        assert_eq!(texts.len(), 10);
        assert!(texts.contains("text 3") && texts.contains("text 7"));
        assert_eq!(read(folder.path(), 50, 5).unwrap()[0].passages.len(), 30);
    }
}
