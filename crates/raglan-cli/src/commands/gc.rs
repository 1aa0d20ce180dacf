//! `raglan gc`

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use raglan::store::remove_index;

use crate::args::GcCommand;
use crate::commands::eval;
use crate::output::{bytes, count};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &GcCommand) -> Result<Outcome> {
    if command.evaluations {
        return evaluations(session);
    }
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

/// Removes the indexes on the shelf of evaluations; what cannot be removed, as it is written to or no index, is told and left.
fn evaluations(session: &Session) -> Result<Outcome> {
    let shelf = eval::shelf(session);
    let folders = match fs::read_dir(&shelf) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        folders => folders.and_then(Iterator::collect).with_context(|| format!("`{}`", shelf.display()))?,
    };
    let mut folders: Vec<_> = folders.iter().map(fs::DirEntry::path).filter(|path| path.is_dir()).collect();
    folders.sort_unstable();
    let (mut removed, mut left, mut total) = (Vec::new(), Vec::new(), 0);
    for folder in folders {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match remove_index(&folder) {
            Ok(report) => {
                total += report.bytes;
                removed.push((name, report.bytes));
            }
            Err(error) => left.push((name, error.to_string())),
        }
    }
    if session.json {
        let removed = removed.iter().map(|(name, bytes)| serde_json::json!({ "index": name, "bytes": bytes }));
        let left = left.iter().map(|(name, reason)| serde_json::json!({ "index": name, "reason": reason }));
        output::json(&serde_json::json!({
            "indexes_removed": removed.collect::<Vec<_>>(), "bytes": total, "left": left.collect::<Vec<_>>(),
        }))?;
    } else {
        for (name, size) in &removed {
            println!("{name}: {}", bytes(*size));
        }
        for (name, reason) in &left {
            say!("{name} is left: {reason}");
        }
        println!("{} removed, {}", count(removed.len(), "indexed collection"), bytes(total));
    }
    Ok(Outcome::Success)
}
