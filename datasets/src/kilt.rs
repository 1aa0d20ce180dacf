//! Tasks and predictions in the format of KILT (Petroni et al., 2021): JSON lines with answers and the Wikipedia pages
//! that bear them out.
//!
//! A line is `{"id", "input", "output": [{"answer", "provenance": [{"wikipedia_id", "title", …}]}]}`; further keys are
//! ignored. Predictions have the same form with one output a line.

use std::collections::HashSet;
use std::path::Path;

use serde::Deserialize;

use crate::{Result, lines};

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

/// Reads records, in the file's order.
///
/// # Errors
///
/// When the file is missing or unreadable, a line is not such an object, or an id occurs twice.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let mut ids = HashSet::new();
    let mut records = Vec::new();
    lines::each(path, |_, line| {
        let line: Line = lines::json(line)?;
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
