//! `raglan eval`: one file a subcommand.

mod beir;
mod chunking;

use anyhow::Result;

use crate::Outcome;
use crate::args::EvalCommand;
use crate::session::Session;

pub fn run(session: &mut Session, command: &EvalCommand) -> Result<Outcome> {
    match command {
        EvalCommand::Beir(command) => beir::run(session, command),
        EvalCommand::Chunking(command) => chunking::run(session, command),
    }
}
