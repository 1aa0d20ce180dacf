//! One file a command.

pub mod ask;
pub mod check;
pub mod chunks;
pub mod doctor;
pub mod eval;
pub mod explain;
pub mod gc;
pub mod index;
pub mod models;
pub mod questions;
pub mod run;
pub mod search;
pub mod status;
pub mod tune;
pub mod verify;
pub mod warm;

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;

use crate::args::Command;
use crate::session::Session;
use crate::{Outcome, output};

/// The index that a command is about, if it is about one.
pub fn index_of(session: &Session, command: &Command) -> Result<Option<PathBuf>> {
    let folder = match command {
        Command::Gc(command) => &command.folder,
        Command::Questions(command) => &command.folder,
        Command::Warm(command) => &command.folder,
        Command::Index(command) => return session.index_of(&command.folder).map(Some),
        Command::Ask(command) => &command.folder,
        Command::Search(command) => &command.folder,
        Command::Run(command) => &command.folder,
        Command::Chunks(command) => &command.folder,
        Command::Verify(command) => &command.folder,
        Command::Explain(command) => &command.folder,
        Command::Status(folder) | Command::Doctor(folder) => folder,
        _ => return Ok(None),
    };
    session.index_folder(folder).map(Some)
}

/// `--print-config`: every setting with its value and source.
pub fn print_config(session: &Session) -> Result<Outcome> {
    if session.json {
        let settings = session.settings.iter().map(|(setting, value, origin)| {
            json!({ "key": setting.key, "value": value, "from": origin.to_string(), "meaning": setting.help })
        });
        output::json(&settings.collect::<Vec<_>>())?;
    } else {
        for (setting, value, origin) in session.settings.iter() {
            println!("{:18} = {:24} # {}; from {origin}", setting.key, format!("{value:?}"), setting.help);
        }
    }
    Ok(Outcome::Success)
}
