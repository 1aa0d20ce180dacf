//! `raglan warm`

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use raglan::WarmReport;
use raglan::generate::reuse::ReuseMethod;
use raglan::kv::CacheUsage;
use serde_json::{Value, json};

use crate::args::WarmCommand;
use crate::output::{bytes, count};
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &WarmCommand) -> Result<Outcome> {
    let folder = session.index_folder(&command.folder)?;
    let (report, usage) = warm(session, &folder, command.limit.unwrap_or(usize::MAX))?;
    if session.json {
        output::json(&as_json(&report, &usage))?;
    } else {
        print(&report, &usage);
    }
    Ok(Outcome::Success)
}

/// Computes the keys and values of passages, with progress.
pub fn warm(session: &Session, folder: &Path, limit: usize) -> Result<(WarmReport, CacheUsage)> {
    let index = session.open(folder)?;
    // Prompts are written as `ask` writes them; how blocks are used later does not matter here.
    let (_, recipe) = session.recipe(&index, "ask", "ask-bm25", &[])?;
    let kv = raglan::KvSettings { method: ReuseMethod::Naive, ..session.kv_settings(folder)? };
    if kv.limits.disk_bytes == 0 {
        bail!("setting `kv-disk` is 0, so what was computed would be kept nowhere; it says how much disk it may take");
    }
    let generator = session.models.generator(session.settings.text("generator"), &recipe, STOP.clone(), Some(kv))?;
    let generator = generator.loaded()?;
    session.bars.count(index.snapshot().n_chunks().min(limit), "keys and values");
    let report = index.warm(generator, limit, &mut |n_done| {
        session.bars.done(n_done);
        if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    session.bars.clear();
    let usage = generator.keeper().map(|keeper| keeper.chunks().usage()).unwrap_or_default();
    Ok((report?, usage))
}

/// What came of it, and what is kept now.
pub fn as_json(report: &WarmReport, usage: &CacheUsage) -> Value {
    let WarmReport { wanted, computed, no_room, interrupted } = report;
    let CacheUsage { blocks, bytes, .. } = usage;
    json!({
        "wanted": wanted, "computed": computed, "no_room": no_room, "blocks": blocks, "bytes": bytes,
        "interrupted": interrupted,
    })
}

/// Prints the same.
pub fn print(report: &WarmReport, usage: &CacheUsage) {
    println!(
        "keys and values of {} computed; {}, {} in all",
        count(report.computed, "passage"),
        count(usage.blocks, "block"),
        bytes(usage.bytes)
    );
    if report.no_room > 0 {
        println!("{} did not fit; setting `kv-disk` makes room", count(report.no_room, "passage"));
    }
    if report.interrupted {
        println!("interrupted; what was done is kept");
    }
}
