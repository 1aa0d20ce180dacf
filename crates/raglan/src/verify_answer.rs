//! Are an answer's quotes still in the files?

use std::collections::HashMap;
use std::path::Path;

use raglan_core::{AnswerSentence, Attribution, ParsedDocument, Source, SpanOf};
use raglan_ingest::{FoundFile, ReaderPool, path_of};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What `ask --json` writes, as far as checking it needs.
#[derive(Deserialize)]
struct Quotes {
    #[serde(default)]
    sentences: Vec<AnswerSentence>,
    sources: Vec<Source>,
}

/// Whether a quote stands where the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuoteState {
    /// The file's text at the span is the quote.
    Ok,
    /// The file is there, but its text at the span is another.
    Changed,
    /// The file is gone or cannot be read.
    Missing,
}

/// A quote that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckedQuote {
    /// The file, relative to the folder.
    pub path: String,
    /// First byte of the quote in the extracted text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Whether that is the file, byte for byte.
    pub span_of: SpanOf,
    /// Whether it stands there.
    pub state: QuoteState,
    /// Where the quote stands now, when it was moved within its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now_at: Option<usize>,
    /// Why the file cannot be read, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// An answer that was checked.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckedAnswer {
    /// Its quotes, in order.
    pub quotes: Vec<CheckedQuote>,
    /// Sentences that claim a source which the answer does not have.
    pub without_source: Vec<String>,
}

impl CheckedAnswer {
    /// Whether every quote stands where the answer says, and every source that a sentence claims is there.
    pub fn is_sound(&self) -> bool {
        self.without_source.is_empty() && self.quotes.iter().all(|quote| quote.state == QuoteState::Ok)
    }
}

/// Checks the quotes of an answer, as `raglan ask --json` writes it, against the files below `root`.
///
/// # Errors
///
/// [`Error::Malformed`] when the answer is not of that form.
pub fn verify_answer(root: &Path, answer: &Path, pool: &ReaderPool) -> Result<CheckedAnswer> {
    let text = std::fs::read(answer).map_err(|source| Error::Io { path: answer.to_owned(), source })?;
    let quotes: Quotes = serde_json::from_slice(&text)
        .map_err(|error| Error::Malformed { path: answer.to_owned(), problem: error.to_string() })?;
    let mut files: HashMap<&str, Result<ParsedDocument, String>> = HashMap::new();
    let checked = quotes.sources.iter().map(|source| {
        let file = files.entry(&source.path).or_insert_with(|| read(root, &source.path, pool));
        let (state, now_at, problem) = match file {
            Err(problem) => (QuoteState::Missing, None, Some(problem.clone())),
            Ok(document) if document.text.get(source.start..source.end) == Some(&source.text) => {
                (QuoteState::Ok, None, None)
            }
            Ok(document) => (QuoteState::Changed, document.text.find(&source.text), None),
        };
        let (path, start, end, span_of) = (source.path.clone(), source.start, source.end, source.span_of);
        CheckedQuote { path, start, end, span_of, state, now_at, problem }
    });
    let checked = checked.collect();
    let claims = quotes.sentences.into_iter().filter(|sentence| match sentence.source {
        Some(i) => i >= quotes.sources.len(),
        None => sentence.attribution != Attribution::Unsupported,
    });
    Ok(CheckedAnswer { quotes: checked, without_source: claims.map(|sentence| sentence.text).collect() })
}

fn read(root: &Path, name: &str, pool: &ReaderPool) -> Result<ParsedDocument, String> {
    let relative = path_of(name);
    let sound = relative.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !sound {
        return Err("the path leaves the folder".to_owned());
    }
    let path = root.join(relative);
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let file = FoundFile { path, name: name.to_owned(), size: metadata.len(), mtime_ns: 0 };
    pool.read(&file).outcome.map_err(|reason| reason.to_string())
}
