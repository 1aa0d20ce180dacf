//! `raglan eval chunking`

use anyhow::{Result, bail};
use raglan::ChunkingRow;
use raglan::ingest::chunk::ChunkerKind;

use crate::args::ChunkingCommand;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &ChunkingCommand) -> Result<Outcome> {
    let ChunkingCommand { path, chunker, chunk_tokens, k } = command;
    let Some(embedder) = session.embedder()? else {
        bail!("chunkers are compared by what an encoder retrieves; choose one with the setting `embedder`");
    };
    let kinds: Vec<ChunkerKind> = if chunker.is_empty() {
        ChunkerKind::ALL.to_vec()
    } else {
        chunker.iter().map(|kind| Ok(kind.parse()?)).collect::<Result<_>>()?
    };
    let sizes =
        if chunk_tokens.is_empty() { vec![session.settings.parse("chunk-tokens")?] } else { chunk_tokens.clone() };
    let overlap = session.settings.parse("chunk-overlap")?;
    let prefix_headings = session.settings.parse("prefix-headings")?;
    let mut rows: Vec<ChunkingRow> = Vec::new();
    for &kind in &kinds {
        for &size in &sizes {
            let chunker = kind.build(size, overlap, prefix_headings, embedder.counter())?;
            let row = raglan::eval_chunking(path, &*chunker, prefix_headings, &embedder, *k)?;
            if !session.json {
                if rows.is_empty() {
                    println!(
                        "{:44} {:>7} {:>7} {:>7} {:>7} {:>12} {:>9}",
                        "chunker", "chunks", "tokens", "recall", "IoU", "precision", "ceiling"
                    );
                }
                println!(
                    "{:44} {:>7} {:>7.0} {:>7.3} {:>7.3} {:>12.3} {:>9.3}",
                    row.chunker, row.chunks, row.mean_tokens, row.recall, row.iou, row.precision, row.precision_omega
                );
            }
            rows.push(row);
        }
    }
    if session.json {
        output::json(&rows)?;
    }
    Ok(Outcome::Success)
}
