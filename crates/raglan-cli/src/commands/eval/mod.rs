//! `raglan eval`: one file a subcommand.

mod chunking;

use anyhow::Result;

use crate::Outcome;
use crate::args::EvalCommand;
use crate::session::Session;

pub fn run(session: &Session, command: &EvalCommand) -> Result<Outcome> {
    match command {
        EvalCommand::Chunking(command) => chunking::run(session, command),
    }
}
