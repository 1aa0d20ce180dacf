//! `raglan chunks`

use anyhow::Result;
use console::style;
use raglan::core::{Chunk, Document};
use serde::Serialize;

use crate::args::ChunksCommand;
use crate::output::{one_line, printable};
use crate::session::Session;
use crate::{Outcome, output};

/// A chunk as `--json` prints it.
#[derive(Serialize)]
struct Listed<'a> {
    path: &'a str,
    #[serde(flatten)]
    chunk: &'a Chunk,
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
            all.extend(chunks.into_iter().map(|chunk| (document.path.clone(), chunk)));
            continue;
        }
        println!("{}", style(one_line(&document.path)).bold().cyan());
        for chunk in chunks {
            let about = format!(
                "[chunk {}] bytes {}–{}, {} tokens",
                chunk.id.0, chunk.span.start, chunk.span.end, chunk.n_tokens
            );
            println!("{} {}", style(about).dim(), one_line(&chunk.locator.to_string()));
            println!("{}\n", printable(&chunk.text));
        }
    }
    if session.json {
        output::json(&all.iter().map(|(path, chunk)| Listed { path, chunk }).collect::<Vec<_>>())?;
    }
    Ok(Outcome::Success)
}
