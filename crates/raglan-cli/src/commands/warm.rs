//! `raglan warm`

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::Result;
use raglan::generate::reuse::ReuseMethod;

use crate::args::WarmCommand;
use crate::output::{bytes, count};
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &WarmCommand) -> Result<Outcome> {
    let folder = session.index_folder(&command.folder)?;
    let index = session.open(&folder)?;
    // Prompts are written as `ask` writes them; how blocks are used later does not matter here.
    let (_, recipe) = session.recipe(&index, "ask", "ask-bm25")?;
    let kv = raglan::KvSettings { method: ReuseMethod::Naive, ..session.kv_settings(&folder)? };
    let generator = session.models.generator(session.settings.text("generator"), &recipe, STOP.clone(), Some(kv))?;
    let generator = generator.loaded()?;
    let limit = command.limit.unwrap_or(usize::MAX);
    session.bars.count(index.snapshot().n_chunks().min(limit), "keys and values");
    let mut interrupted = false;
    let computed = index.warm(generator, limit, &mut |n_done| {
        session.bars.done(n_done);
        interrupted = STOP.load(Ordering::Relaxed);
        if interrupted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    session.bars.clear();
    let computed = computed?;
    let usage = generator.keeper().map(|keeper| keeper.chunks().usage()).unwrap_or_default();
    if session.json {
        output::json(&serde_json::json!({
            "computed": computed, "blocks": usage.blocks, "bytes": usage.bytes, "interrupted": interrupted,
        }))?;
    } else {
        println!(
            "{} computed; {}, {} in all",
            count(computed, "passage"),
            count(usage.blocks, "block"),
            bytes(usage.bytes)
        );
        if interrupted {
            println!("interrupted; what was done is kept");
        }
    }
    Ok(Outcome::Success)
}
