//! `raglan status`

use anyhow::Result;
use raglan::{KvDrift, Status};

use crate::args::FolderArgs;
use crate::output::{bytes, count, one_line};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, folder: &FolderArgs) -> Result<Outcome> {
    let index = session.open(&session.index_folder(folder)?)?;
    let status = index.status()?;
    if session.json {
        output::json(&status)?;
    } else {
        print(&status);
    }
    Ok(Outcome::Success)
}

fn print_drift(drift: &KvDrift) {
    let share = |share: Option<f64>| format!("{:.0} %", 100.0 * share.unwrap_or(0.0));
    let told = match drift.mean_kl {
        Some(kl) => format!(
            "{kl:.3} nats a token from computing all, the same token at {} of places, all of them in {} of tests",
            share(drift.top1),
            share(drift.greedy_equal)
        ),
        None => "not tested yet".to_owned(),
    };
    println!(
        "  drift     {} ({}): {told}; {}, {}",
        drift.method,
        drift.precision,
        count(drift.tests as usize, "test"),
        count(drift.questions as usize, "question")
    );
}

fn print(status: &Status) {
    println!("index       {}", status.index.display());
    if let Some(folder) = &status.folder {
        println!("folder      {}", folder.display());
    }
    println!("generation  {}", status.generation);
    let formats: Vec<_> = status.formats.iter().map(|(format, n)| format!("{n} {format}")).collect();
    println!("documents   {} ({})", status.documents, formats.join(", "));
    let segments: Vec<_> = status.segments.iter().map(u32::to_string).collect();
    println!(
        "chunks      {} in {} ({}), {} deleted",
        status.chunks,
        count(status.segments.len(), "segment"),
        segments.join(" + "),
        status.deleted_chunks
    );
    let parts: Vec<_> = status.bytes.iter().map(|(part, n)| format!("{part} {}", bytes(*n))).collect();
    println!("on disk     {} ({})", bytes(status.bytes.values().sum()), parts.join(", "));
    for kv in &status.kv {
        println!(
            "kv          {}: {}, {}; {} hits, {} misses, {} tokens saved",
            kv.model,
            count(kv.blocks, "block"),
            bytes(kv.bytes),
            kv.hits,
            kv.misses,
            kv.saved_tokens
        );
        for drift in &kv.drift {
            print_drift(drift);
        }
    }
    match &status.passport.embedder {
        Some(model) => println!("embedder    {} ({} dimensions)", model.name, model.dim),
        None => println!("embedder    none: no dense vectors"),
    }
    for (part, model) in &status.passport.models {
        println!("{part:11} {}", model.name);
    }
    println!("chunker     {}", status.passport.chunker);
    println!("analyzer    {}", status.passport.analyzer);
    let settings: Vec<_> = status.passport.settings.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    println!("settings    {}", settings.join(" "));
    for skipped in &status.skipped {
        println!("skipped     {}: {}", one_line(&skipped.path), one_line(&skipped.reason));
    }
}
