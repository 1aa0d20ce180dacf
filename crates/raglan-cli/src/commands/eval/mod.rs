//! `raglan eval`: one file a subcommand.

mod beir;
mod chunking;
mod diff;
mod kv;
mod long_context;
pub mod pages;
mod report;
mod run;

use std::path::PathBuf;

use anyhow::Result;

use crate::Outcome;
use crate::args::EvalCommand;
use crate::session::Session;

/// Where the indexes of evaluations are kept that are given no other place: each in a folder of its own.
pub fn shelf(session: &Session) -> PathBuf {
    session.models.cache().dir().join("collections")
}

pub fn run(session: &mut Session, command: &EvalCommand) -> Result<Outcome> {
    match command {
        EvalCommand::Beir(command) => beir::run(session, command),
        EvalCommand::Run(command) => run::run(session, command),
        EvalCommand::Diff(command) => diff::run(session, command),
        EvalCommand::Report(command) => report::run(session, command),
        EvalCommand::Kv(command) => kv::run(session, command),
        EvalCommand::LongContext(command) => long_context::run(session, command),
        EvalCommand::Kilt(command) => pages::kilt(session, command),
        EvalCommand::Frames(command) => pages::frames(session, command),
        EvalCommand::Chunking(command) => chunking::run(session, command),
    }
}
