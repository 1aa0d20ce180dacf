//! `raglan chunks`

use anyhow::Result;
use console::style;
use raglan::core::{Chunk, Document, Locator, SpanOf};
use serde::Serialize;

use crate::args::ChunksCommand;
use crate::output::{one_line, printable};
use crate::session::Session;
use crate::{Outcome, output};

/// A chunk as `--json` prints it.
#[derive(Serialize)]
struct Listed<'a> {
    chunk: u32,
    path: &'a str,
    locator: &'a Locator,
    start: usize,
    end: usize,
    span_of: SpanOf,
    text: &'a str,
    tokens: u32,
}

impl<'a> Listed<'a> {
    fn new(document: &'a Document, chunk: &'a Chunk) -> Self {
        Self {
            chunk: chunk.id.0,
            path: &document.path,
            locator: &chunk.locator,
            start: chunk.span.start,
            end: chunk.span.end,
            span_of: document.span_of(),
            text: &chunk.text,
            tokens: chunk.n_tokens,
        }
    }
}

pub fn run(session: &Session, command: &ChunksCommand) -> Result<Outcome> {
    let index = session.open(&session.index_folder(&command.folder)?)?;
    let snapshot = index.snapshot();
    let ledger = snapshot.ledger()?;
    let chosen: Vec<&Document> = match &command.document {
        Some(path) => match ledger.by_path(path) {
            Some(entry) => vec![&entry.document],
            None => return Err(raglan::Error::NotIndexed { name: path.clone() }.into()),
        },
        None => ledger.documents().collect(),
    };
    let mut all = Vec::new();
    for document in chosen {
        let chunks = snapshot.chunks_of(document.id)?;
        if session.json {
            all.extend(chunks.into_iter().map(|chunk| (document, chunk)));
            continue;
        }
        println!("{}", style(one_line(&document.path)).bold().cyan());
        for chunk in chunks {
            let span = document.span_of().told(chunk.span.clone());
            let about = format!("[chunk {}] {span}, {}", chunk.id.0, output::count(chunk.n_tokens as usize, "token"));
            println!("{} {}", style(about).dim(), one_line(&chunk.locator.to_string()));
            println!("{}\n", printable(&chunk.text));
        }
    }
    if session.json {
        output::json(&all.iter().map(|(document, chunk)| Listed::new(document, chunk)).collect::<Vec<_>>())?;
    }
    Ok(Outcome::Success)
}
