//! Documents and questions whose answers are marked in them: what chunkers are measured on.
//!
//! The layout is that of Chroma's `chunking_evaluation` with its questions as JSON lines: `corpora/NAME.md` (or `.txt`)
//! and `questions.jsonl`, each line `{"corpus_id", "question", "references": [{"content", "start_index", "end_index"}]}`.
//! The file counts Unicode code points; what is given here counts bytes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result, lines};

/// Documents, and questions about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collection {
    /// The text of each document by its name.
    pub corpora: BTreeMap<String, String>,
    /// The questions, in the file's order.
    pub questions: Vec<Question>,
}

/// A question and where it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name of the document it is about, one of [`Collection::corpora`].
    pub corpus: String,
    /// What is asked.
    pub text: String,
    /// The passages that answer it, as bytes of that document; each holds the text that the file quotes.
    pub references: Vec<Range<usize>>,
}

/// Reads a folder.
///
/// # Errors
///
/// When a file is missing or unreadable, a question names no document of the folder, or a reference is not the text
/// that it quotes.
pub fn read(folder: &Path) -> Result<Collection> {
    let corpora = corpora(&folder.join("corpora"))?;
    // Where each code point begins, and the end, by document.
    let starts: BTreeMap<&str, Vec<usize>> = corpora
        .iter()
        .map(|(name, text)| (name.as_str(), text.char_indices().map(|(start, _)| start).chain([text.len()]).collect()))
        .collect();
    let mut questions = Vec::new();
    lines::each(&folder.join("questions.jsonl"), |_, line| {
        let form = r#"{"corpus_id", "question", "references": [{"content", "start_index", "end_index"}]}"#;
        let entry: Entry = lines::json(line, form)?;
        let name = entry.corpus_id;
        let text = corpora.get(&name).ok_or_else(|| format!("there is no document `{name}`"))?;
        let starts = &starts[name.as_str()];
        let byte = |code_point: usize| starts.get(code_point).copied();
        let mut references = Vec::with_capacity(entry.references.len());
        for Reference { content, start_index, end_index } in entry.references {
            let range = byte(start_index).zip(byte(end_index)).map(|(start, end)| start..end);
            match range.filter(|range| text.get(range.clone()) == Some(&content)) {
                Some(range) => references.push(range),
                None => return Err(format!("`{name}` has another text at {start_index}..{end_index}")),
            }
        }
        questions.push(Question { corpus: name, text: entry.question, references });
        Ok(())
    })?;
    Ok(Collection { corpora, questions })
}

#[derive(Deserialize)]
struct Entry {
    corpus_id: String,
    question: String,
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    content: String,
    start_index: usize,
    end_index: usize,
}

fn corpora(folder: &Path) -> Result<BTreeMap<String, String>> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut corpora = BTreeMap::new();
    for entry in folder.read_dir().map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(file) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let plain = file.strip_suffix(".gz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
        if let Some(name) = plain.strip_suffix(".md").or_else(|| plain.strip_suffix(".txt")) {
            corpora.insert(name.to_owned(), lines::whole(&path)?);
        }
    }
    Ok(corpora)
}
