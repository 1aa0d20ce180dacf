//! Reads every file of a folder and says what became of it.
//!
//! `read_folder <folder>` prints totals and speed by format; with `--text`, the text of each document too.
//! The risky formats are read in child processes: this same program, run with `--worker`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use raglan_ingest::{Isolation, Limits, ReaderPool, WalkOptions, walk};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == "--worker") {
        raglan_ingest::worker_main();
    }
    let Some(folder) = args.iter().find(|arg| !arg.starts_with("--")) else {
        return Err("name a folder".into());
    };
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let isolation = if has("--in-process") {
        Isolation::InProcess
    } else {
        Isolation::Worker { program: std::env::current_exe()?, args: vec!["--worker".to_owned()] }
    };
    let started = Instant::now();
    let found = walk(Path::new(folder), &WalkOptions::default())?;
    println!("walked {} files in {:.2?}", found.files.len() + found.skipped.len(), started.elapsed());
    let pool = ReaderPool::new(Limits::default(), isolation, 1);
    let mut by_kind: BTreeMap<String, (usize, u64, u64, Duration)> = BTreeMap::new();
    for file in &found.files {
        let started = Instant::now();
        let read = pool.read(file);
        let seconds = started.elapsed();
        let (kind, n_text) = match &read.outcome {
            Ok(document) => (document.reader.clone(), document.text.len() as u64),
            Err(reason) => {
                println!("skipped {}: {reason}", file.name);
                (format!("skipped: {}", reason.kind()), 0)
            }
        };
        if let (true, Ok(document)) = (has("--text"), &read.outcome) {
            println!("=== {} {:?} {:?}\n{}", file.name, document.title, document.metadata, document.text);
        }
        let total = by_kind.entry(kind).or_default();
        *total = (total.0 + 1, total.1 + read.size, total.2 + n_text, total.3 + seconds);
    }
    for skipped in &found.skipped {
        println!("skipped {}: {}", skipped.name, skipped.reason);
    }
    for (kind, (n_files, n_bytes, n_text, seconds)) in by_kind {
        let mb = n_bytes as f64 / 1e6;
        println!(
            "{kind}: {n_files} files, {mb:.1} MB, text {:.1} MB, {seconds:.2?}, {:.1} MB/s",
            n_text as f64 / 1e6,
            mb / seconds.as_secs_f64()
        );
    }
    Ok(())
}
