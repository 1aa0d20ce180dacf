//! `raglan models`

use std::path::PathBuf;

use anyhow::{Result, bail};
use console::style;
use raglan::model::registry::State;
use serde_json::json;

use crate::args::ModelsCommand;
use crate::output::bytes;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &ModelsCommand) -> Result<Outcome> {
    match command {
        ModelsCommand::List => list(session),
        ModelsCommand::Pull { models } => pull(session, models),
        ModelsCommand::Path { model } => {
            let path = session.models.cache().path(model)?;
            if session.json {
                output::json(&json!({ "name": model, "path": path }))?;
            } else {
                println!("{}", path.display());
            }
            Ok(Outcome::Success)
        }
        ModelsCommand::Verify { models } => verify(session, models),
    }
}

fn list(session: &Session) -> Result<Outcome> {
    let listings = session.models.cache().list();
    if session.json {
        let lines = listings.iter().map(|listing| {
            let entry = &listing.entry;
            json!({
                "name": entry.name, "title": entry.title, "role": entry.role.to_string(), "dim": entry.dim,
                "max_tokens": entry.max_tokens, "licence": entry.licence, "bytes": entry.bytes(),
                "state": listing.state.to_string(),
                "sources": entry.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        });
        output::json(&lines.collect::<Vec<_>>())?;
        return Ok(Outcome::Success);
    }
    for listing in &listings {
        let entry = &listing.entry;
        let state = match listing.state {
            State::Present => style(listing.state.to_string()).green(),
            _ => style(listing.state.to_string()).yellow(),
        };
        println!(
            "{:24} {:15} {:>5} dim  {:>9}  {:14} {state}",
            style(&entry.name).bold(),
            entry.role.to_string(),
            entry.dim,
            bytes(entry.bytes()),
            entry.licence
        );
        println!("  {}", style(&entry.title).dim());
    }
    println!("in {}", session.models.cache().dir().display());
    Ok(Outcome::Success)
}

/// The named models, or the defaults when none is named.
fn named(session: &Session, models: &[String]) -> Vec<String> {
    if models.is_empty() {
        session.models.cache().list().into_iter().map(|listing| listing.entry.name).collect()
    } else {
        models.to_vec()
    }
}

/// How names of files with weights end.
const WEIGHTS: [&str; 3] = ["gguf", "safetensors", "onnx"];

fn pull(session: &Session, models: &[String]) -> Result<Outcome> {
    let mut pulled = Vec::new();
    for name in named(session, models) {
        let files = session.models.pull(&name)?;
        let is_model = |path: &PathBuf| WEIGHTS.iter().any(|kind| path.extension().is_some_and(|it| it == *kind));
        if !files.files.values().any(is_model) {
            bail!("`{}` holds no model: no file ends with .{}", files.dir.display(), WEIGHTS.join(", ."));
        }
        if !session.json {
            println!("{name}: {}", files.dir.display());
        }
        pulled.push(json!({ "name": name, "path": files.dir, "sha256": files.sha256 }));
    }
    if session.json {
        output::json(&pulled)?;
    }
    Ok(Outcome::Success)
}

fn verify(session: &Session, models: &[String]) -> Result<Outcome> {
    let cache = session.models.cache();
    let present = |name: &String| {
        models.contains(name) || cache.list().iter().any(|l| l.entry.name == *name && l.state != State::Absent)
    };
    let mut results = Vec::new();
    let mut sound = true;
    for name in named(session, models).into_iter().filter(present) {
        let result = cache.verify(&name, &*session.bars);
        session.bars.clear();
        sound &= result.is_ok();
        let problem = result.err().map(|error| error.to_string());
        if !session.json {
            match &problem {
                None => println!("{name}: {}", style("ok").green()),
                Some(problem) => println!("{name}: {}", style(problem).red()),
            }
        }
        results.push(json!({ "name": name, "ok": problem.is_none(), "problem": problem }));
    }
    if session.json {
        output::json(&results)?;
    } else if results.is_empty() {
        println!("no model is here yet; fetch the defaults with `raglan models pull`");
    }
    Ok(if sound { Outcome::Success } else { Outcome::Nothing })
}
