//! Tasks and predictions in the format of KILT (Petroni et al., 2021): JSON lines with answers and the Wikipedia pages
//! that bear them out.
//!
//! A line is `{"id", "input", "output": [{"answer", "provenance": [{"wikipedia_id", "title", …}]}]}`; further keys are
//! ignored. Predictions have the same form with one output a line.
//!
//! A folder in the layout of [BEIR](crate::beir), with `answers.jsonl` or without, gives the same: what was judged relevant
//! are the pages of each answer.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde::Deserialize;

use crate::{Result, beir, context_questions, lines};

/// A question with the answers that count as right, or with the one that a system gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub id: String,
    /// What is asked; empty in predictions that leave it out.
    pub input: String,
    /// The right answers with their sources, or the predicted one.
    pub outputs: Vec<Output>,
}

/// An answer, or only the pages that would give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The answer, if this output has one.
    pub answer: Option<String>,
    /// Where it stands; in predictions, best first.
    pub provenance: Vec<Provenance>,
}

/// A passage of Wikipedia.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The page's id in KILT's snapshot of Wikipedia.
    pub wikipedia_id: String,
    /// The page's title, empty when it is not given.
    pub title: String,
    /// The paragraphs of the page, first and last, where they are given.
    pub paragraphs: Option<(u32, u32)>,
}

/// Reads records, in the file's order; of a folder, the queries of the split `test` that have a relevant document.
///
/// # Errors
///
/// When the file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    if path.is_dir() {
        return read_folder(path);
    }
    let mut ids = HashSet::new();
    let mut records = Vec::new();
    lines::each(path, |_, line| {
        let form = r#"{"id", "input", "output": [{"answer", "provenance": [{"wikipedia_id"}]}]}"#;
        let line: Line = lines::json(line, form)?;
        let id = line.id.into_text();
        if !ids.insert(id.clone()) {
            return Err(format!("id `{id}` occurs twice"));
        }
        let outputs = line.output.into_iter().map(Output::from).collect();
        records.push(Record { id, input: line.input.unwrap_or_default(), outputs });
        Ok(())
    })?;
    Ok(records)
}

fn read_folder(folder: &Path) -> Result<Vec<Record>> {
    let answers = folder.join("answers.jsonl");
    let answers = if lines::exists(&answers) { context_questions::read_answers(&answers)? } else { BTreeMap::new() };
    let qrels = beir::read_qrels(folder, "test")?;
    let record = |query: beir::Query| {
        let relevant = qrels.grades(&query.id)?.iter().filter(|(_, grade)| **grade > 0);
        let page = |(id, _): (&String, _)| Provenance { wikipedia_id: id.clone(), ..Provenance::default() };
        let provenance: Vec<Provenance> = relevant.map(page).collect();
        let output = |answer: Option<String>| Output { answer, provenance: provenance.clone() };
        let outputs = match answers.get(&query.id) {
            _ if provenance.is_empty() => return None,
            Some(right) if !right.is_empty() => right.iter().cloned().map(Some).map(output).collect(),
            _ => vec![output(None)],
        };
        Some(Record { id: query.id, input: query.text, outputs })
    };
    Ok(beir::read_queries(folder)?.into_iter().filter_map(record).collect())
}

#[derive(Deserialize)]
struct Line {
    id: lines::Id,
    input: Option<String>,
    output: Vec<LineOutput>,
}

#[derive(Deserialize)]
struct LineOutput {
    answer: Option<String>,
    #[serde(default)]
    provenance: Vec<LineProvenance>,
}

#[derive(Deserialize)]
struct LineProvenance {
    wikipedia_id: lines::Id,
    title: Option<String>,
    start_paragraph_id: Option<u32>,
    end_paragraph_id: Option<u32>,
}

impl From<LineOutput> for Output {
    fn from(line: LineOutput) -> Self {
        let provenance = line.provenance.into_iter().map(|page| Provenance {
            wikipedia_id: page.wikipedia_id.into_text(),
            title: page.title.unwrap_or_default(),
            paragraphs: page.start_paragraph_id.zip(page.end_paragraph_id),
        });
        Self { answer: line.answer, provenance: provenance.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_gives_questions_whose_relevant_documents_are_the_pages() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        fs::create_dir(path.join("qrels")).unwrap();
        fs::write(path.join("qrels/test.tsv"), "query-id\tcorpus-id\tscore\n1\ta\t1\n1\tb\t1\n2\tc\t0\n3\tc\t2\n")
            .unwrap();
        let queries = ["1", "2", "3"].map(|id| format!(r#"{{"_id": "{id}", "text": "q{id}?"}}"#));
        fs::write(path.join("queries.jsonl"), queries.join("\n")).unwrap();
        fs::write(path.join("answers.jsonl"), r#"{"_id": "1", "answers": ["x", "y"]}"#).unwrap();
        let records = read(path).unwrap();
        let told: Vec<_> = records.iter().map(|record| (record.id.as_str(), record.outputs.len())).collect();
        assert_eq!(told, [("1", 2), ("3", 1)]);
        let pages: Vec<_> = records[0].outputs[1].provenance.iter().map(|page| page.wikipedia_id.as_str()).collect();
        assert_eq!((pages, records[0].outputs[1].answer.as_deref()), (vec!["a", "b"], Some("y")));
        assert_eq!(records[1].outputs[0].answer, None);
    }
}
