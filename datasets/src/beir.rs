//! Collections in the layout of BEIR: `corpus.jsonl`, `queries.jsonl` and `qrels/SPLIT.tsv` in one folder.
//!
//! A line of the corpus is `{"_id", "title", "text"}`, one of the queries `{"_id", "text"}`; the judgements are
//! tab-separated under the heading `query-id corpus-id score`. Further keys are ignored. Each file may also be there as
//! `.gz` or `.zst`, or as `corpus.parquet`, `queries.parquet` and `qrels/SPLIT.parquet` with the same names of columns.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use arrow_schema::DataType::Utf8;
use serde::Deserialize;

use crate::columns::Cell;
use crate::{Error, Qrels, Result, columns, lines};

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
    let document = |id, title, text| Document { id, title, text };
    match parquet_instead(folder, "corpus.jsonl") {
        Some(table) => read_documents_parquet(&table),
        None => entries(&folder.join("corpus.jsonl"), r#"{"_id", "title", "text"}"#, document),
    }
}

/// Reads the queries of `queries.jsonl`, those of every split.
///
/// # Errors
///
/// When the file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read_queries(folder: &Path) -> Result<Vec<Query>> {
    match parquet_instead(folder, "queries.jsonl") {
        Some(table) => read_queries_parquet(&table),
        None => entries(&folder.join("queries.jsonl"), r#"{"_id", "text"}"#, |id, _, text| Query { id, text }),
    }
}

/// Reads the judgements of `qrels/SPLIT.tsv`.
///
/// # Errors
///
/// When the file is missing or unreadable, a line has other fields, or a pair has two different grades.
pub fn read_qrels(folder: &Path, split: &str) -> Result<Qrels> {
    let name = format!("qrels/{split}.tsv");
    if let Some(table) = parquet_instead(folder, &name) {
        return Qrels::read_parquet(&table);
    }
    Qrels::read_tsv(&folder.join(name)).map_err(|error| match error {
        Error::Missing { path, .. } => {
            let splits = splits(folder);
            let remedy = match splits.is_empty() {
                true => "; a BEIR folder has its judgements in `qrels/`".to_owned(),
                false => format!("; the splits there are: {}", splits.join(", ")),
            };
            Error::Missing { path, remedy }
        }
        error => error,
    })
}

/// The splits that a folder has judgements for, in alphabetical order.
pub fn splits(folder: &Path) -> Vec<String> {
    let Ok(files) = folder.join("qrels").read_dir() else { return Vec::new() };
    let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
    let mut splits: Vec<String> = names
        .filter_map(|name| {
            let plain = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
            Some(plain.strip_suffix(".tsv").or_else(|| plain.strip_suffix(".parquet"))?.to_owned())
        })
        .collect();
    splits.sort();
    splits.dedup();
    splits
}

/// Reads documents from a table with the columns `_id`, `title` (may be missing) and `text`.
///
/// # Errors
///
/// When the file is missing or damaged, has other columns, or an id occurs twice.
pub fn read_documents_parquet(path: &Path) -> Result<Vec<Document>> {
    rows(path, |id, title, text| Document { id, title, text })
}

/// Reads queries from a table with the columns `_id` and `text`.
///
/// # Errors
///
/// When the file is missing or damaged, has other columns, or an id occurs twice.
pub fn read_queries_parquet(path: &Path) -> Result<Vec<Query>> {
    rows(path, |id, _, text| Query { id, text })
}

/// Writes documents as a table with the columns `_id`, `title` and `text`; it reads back equal.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_documents_parquet(path: &Path, documents: &[Document]) -> Result<()> {
    let rows = documents.iter().map(|Document { id, title, text }| [id, title, text].map(|text| Cell::Text(text)));
    columns::write(path, ["_id", "title", "text"], [Utf8, Utf8, Utf8], rows)
}

/// Writes queries as a table with the columns `_id` and `text`; it reads back equal.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write_queries_parquet(path: &Path, queries: &[Query]) -> Result<()> {
    let rows = queries.iter().map(|Query { id, text }| [id, text].map(|text| Cell::Text(text)));
    columns::write(path, ["_id", "text"], [Utf8, Utf8], rows)
}

/// The table that stands in for a file of lines, if there is one and no such file.
fn parquet_instead(folder: &Path, name: &str) -> Option<PathBuf> {
    let lines = folder.join(name);
    let table = lines.with_extension("parquet");
    (table.is_file() && !lines::exists(&lines)).then_some(table)
}

/// A line of the corpus or of the queries.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "_id")]
    id: lines::Id,
    title: Option<String>,
    text: String,
}

fn entries<T>(path: &Path, form: &str, make: impl Fn(String, String, String) -> T) -> Result<Vec<T>> {
    let mut seen = HashSet::new();
    let mut made = Vec::new();
    lines::each(path, |_, line| {
        let Entry { id, title, text } = lines::json(line, form)?;
        let id = id.into_text();
        if !seen.insert(id.clone()) {
            return Err(twice(&id));
        }
        made.push(make(id, title.unwrap_or_default(), text));
        Ok(())
    })?;
    Ok(made)
}

fn rows<T>(path: &Path, make: impl Fn(String, String, String) -> T) -> Result<Vec<T>> {
    let mut seen = HashSet::new();
    let mut made = Vec::new();
    columns::each(path, |batch| {
        let (ids, texts) = (batch.strings("_id")?, batch.strings("text")?);
        let titles = batch.has("title").then(|| batch.strings("title")).transpose()?;
        for row in 0..batch.n_rows() {
            let id = ids.at(row)?.into_owned();
            if !seen.insert(id.clone()) {
                return Err(batch.problem(row, &twice(&id)));
            }
            let title = titles.as_ref().map_or_else(String::new, |titles| titles.or_empty(row).into_owned());
            made.push(make(id, title, texts.at(row)?.into_owned()));
        }
        Ok(())
    })?;
    Ok(made)
}

fn twice(id: &str) -> String {
    format!("id `{id}` occurs twice")
}
