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
pub mod search;
pub mod status;
pub mod verify;

use anyhow::Result;
use serde_json::json;

use crate::session::Session;
use crate::{Outcome, output};

/// `--print-config`: every setting with its value and source.
pub fn print_config(session: &Session) -> Result<Outcome> {
    if session.json {
        let settings = session.settings.iter().map(|(setting, value, origin)| {
            json!({ "key": setting.key, "value": value, "from": origin.to_string(), "meaning": setting.help })
        });
        output::json(&settings.collect::<Vec<_>>())?;
    } else {
        for (setting, value, origin) in session.settings.iter() {
            println!("{:18} = {:24} # {}; from {origin}", setting.key, format!("\"{value}\""), setting.help);
        }
    }
    Ok(Outcome::Success)
}
