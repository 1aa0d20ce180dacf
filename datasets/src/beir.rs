//! Collections in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv` in one folder.
//!
//! A line of the corpus is `{"_id", "title", "text"}`, one of the queries `{"_id", "text"}`; the judgements are
//! tab-separated under the heading `query-id corpus-id score`. Further keys are ignored.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use crate::{Qrels, Result, lines};

/// Documents, queries, and which document answers which query.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// The documents, in the file's order; no two have one id.
    pub documents: Vec<Document>,
    /// The queries of every split, in the file's order; no two have one id. Those to ask are in `qrels`.
    pub queries: Vec<Query>,
    /// The judgements of the split that was read.
    pub qrels: Qrels,
}

/// A text to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its name in the judgements.
    pub id: String,
    /// Its title, empty when it has none.
    pub title: String,
    /// Its text.
    pub text: String,
}

/// A question or claim to find documents for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Its name in the judgements.
    pub id: String,
    /// What is asked.
    pub text: String,
}

/// Reads a folder: its documents, its queries, and the judgements of one split, such as `test`.
///
/// # Errors
///
/// As [`read_documents`], [`read_queries`] and [`read_qrels`].
pub fn read(folder: &Path, split: &str) -> Result<Collection> {
    // The small files first, so that a misspelt split shows at once.
    let qrels = read_qrels(folder, split)?;
    let queries = read_queries(folder)?;
    let documents = read_documents(folder)?;
    Ok(Collection { documents, queries, qrels })
}

/// Reads the documents of `corpus.jsonl`.
///
/// # Errors
///
/// When the file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read_documents(folder: &Path) -> Result<Vec<Document>> {
    let entries = entries(&folder.join("corpus.jsonl"))?;
    let document =
        |entry: Entry| Document { id: entry.id.into(), title: entry.title.unwrap_or_default(), text: entry.text };
    Ok(entries.into_iter().map(document).collect())
}

/// Reads the queries of `queries.jsonl`, those of every split.
///
/// # Errors
///
/// When the file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read_queries(folder: &Path) -> Result<Vec<Query>> {
    let entries = entries(&folder.join("queries.jsonl"))?;
    Ok(entries.into_iter().map(|entry| Query { id: entry.id.into(), text: entry.text }).collect())
}

/// Reads the judgements of `qrels/SPLIT.tsv`.
///
/// # Errors
///
/// When the file is missing or unreadable, a line has other fields, or a pair has two different grades.
pub fn read_qrels(folder: &Path, split: &str) -> Result<Qrels> {
    let mut qrels = Qrels::default();
    lines::each(&folder.join("qrels").join(format!("{split}.tsv")), |number, line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [query, document, grade] = fields[..] else {
            return Err(format!("expected 3 fields, found {}", fields.len()));
        };
        if number == 1 && query == "query-id" {
            return Ok(());
        }
        qrels.judge(query, document, grade.trim())
    })?;
    Ok(qrels)
}

/// A line of the corpus or of the queries.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "_id")]
    id: Id,
    title: Option<String>,
    text: String,
}

/// An id; some collections write it as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        match id {
            Id::Text(text) => text,
            Id::Number(number) => number.to_string(),
        }
    }
}

fn entries(path: &Path) -> Result<Vec<Entry>> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    lines::each(path, |_, line| {
        let mut entry: Entry = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let id = String::from(entry.id);
        if !seen.insert(id.clone()) {
            return Err(format!("id `{id}` occurs twice"));
        }
        entry.id = Id::Text(id);
        entries.push(entry);
        Ok(())
    })?;
    Ok(entries)
}
