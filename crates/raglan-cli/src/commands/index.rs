//! `raglan index`

use std::path::Path;

use anyhow::Result;
use console::style;
use raglan::{IndexReport, Start};

use crate::args::IndexCommand;
use crate::commands::warm::{as_json, print as print_kept, warm};
use crate::output::{bytes, count};
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &IndexCommand) -> Result<Outcome> {
    let index = session.index_of(&command.folder)?;
    let start = if command.rebuild { Start::Rebuild } else { Start::Continue };
    if command.rebuild && index.join("manifest.json").is_file() && raglan::store::Passport::read(&index).is_err() {
        say!(
            "the old index cannot be read, nor the settings that it was made with: those that are not given now are the \
             usual ones"
        );
    }
    let report = update(session, &command.folder, &index, start)?;
    let wanted = command.kv.filter(|_| !report.interrupted);
    if !session.json {
        print(&report, &index);
    }
    let kept = wanted.map(|passages| warm(session, &index, passages.limit())).transpose()?;
    if session.json {
        let mut report = serde_json::to_value(&report)?;
        if let Some((kept, usage)) = &kept {
            report["kv"] = as_json(kept, usage);
        }
        output::json(&report)?;
    } else if let Some((kept, usage)) = &kept {
        print_kept(kept, usage);
    }
    let failed = report.interrupted || command.strict && !report.skipped.is_empty();
    Ok(if failed { Outcome::Nothing } else { Outcome::Success })
}

/// Brings an index up to date, with progress.
pub fn update(session: &Session, folder: &Path, index: &Path, start: Start) -> Result<IndexReport> {
    session.check_encoder_device()?;
    let indexer = session.indexer(folder, index)?;
    let report = indexer.update(start, &*session.bars, &STOP);
    session.bars.clear();
    report.map_err(|error| {
        let unwritable = matches!(&error, raglan::Error::Store(raglan::store::Error::Io { .. }));
        let error = anyhow::Error::new(error);
        if unwritable { error.context("the index cannot be written; `--index DIR` names another place") } else { error }
    })
}

fn print(report: &IndexReport, index: &Path) {
    let parts =
        [(report.new, "new"), (report.changed, "changed"), (report.moved, "moved"), (report.unchanged, "unchanged")];
    let mut told: Vec<String> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if !report.skipped.is_empty() {
        told.push(format!("{} skipped", report.skipped.len()));
    }
    if report.not_reached > 0 {
        told.push(format!("{} not reached", report.not_reached));
    }
    let told = if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) };
    println!("{} found{told}", count(report.found, "file"));
    if report.deleted > 0 {
        println!("{} no longer there", count(report.deleted, "document"));
    }
    for skipped in &report.skipped {
        println!(
            "  {} {}: {}",
            style("skipped").yellow(),
            output::one_line(&skipped.path),
            output::one_line(&skipped.reason)
        );
    }
    if report.extended > 0 {
        println!("vectors that were missing added to {}", count(report.extended, "chunk"));
    }
    let t = &report.timings;
    if report.chunks_written > 0 {
        println!(
            "{} from {} of text in {:.1} s (reading {:.1}, cutting {:.1}, embedding {:.1}, terms {:.1}, vectors {:.1}, writing {:.1}, merging {:.1})",
            count(report.chunks_written, "chunk"),
            bytes(report.text_bytes),
            t.total_s,
            t.read_s,
            t.chunk_s,
            t.embed_s,
            t.bm25_s,
            t.dense_s,
            t.commit_s,
            t.merge_s
        );
    }
    println!("{}: {}, {}", index.display(), count(report.documents, "document"), count(report.chunks, "chunk"));
    if report.interrupted {
        println!("interrupted; what was done is kept, and the next run goes on from here");
    }
}
