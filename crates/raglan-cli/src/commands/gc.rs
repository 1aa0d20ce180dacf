//! `raglan gc`

use anyhow::Result;

use crate::args::GcCommand;
use crate::output::{bytes, count};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &GcCommand) -> Result<Outcome> {
    let index = session.index_folder(&command.folder)?;
    let report = raglan::gc(&index)?;
    let (kv_blocks, kv_bytes) = if command.kv { raglan::drop_kept_kv(&index)? } else { (0, 0) };
    if session.json {
        output::json(&serde_json::json!({
            "files_removed": report.files_removed, "bytes": report.bytes,
            "kv_blocks_removed": kv_blocks, "kv_bytes": kv_bytes,
        }))?;
    } else {
        println!("{} removed, {}", count(report.files_removed, "file"), bytes(report.bytes));
        if command.kv {
            println!("keys and values of {} removed, {}", count(kv_blocks, "passage"), bytes(kv_bytes));
        }
    }
    Ok(Outcome::Success)
}
