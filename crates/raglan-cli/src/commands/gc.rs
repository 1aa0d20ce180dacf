//! `raglan gc`

use anyhow::Result;

use crate::args::FolderArgs;
use crate::output::{bytes, count};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, folder: &FolderArgs) -> Result<Outcome> {
    let report = raglan::gc(&session.index_folder(folder)?)?;
    if session.json {
        output::json(&serde_json::json!({ "files_removed": report.files_removed, "bytes": report.bytes }))?;
    } else {
        println!("{} removed, {}", count(report.files_removed, "file"), bytes(report.bytes));
    }
    Ok(Outcome::Success)
}
