//! A writer is killed at random moments, again and again, and nothing that was committed is ever lost or doubled.
//!
//! The writer is this test binary itself, started with an environment variable. `RAGLAN_KILLS` sets how often it is
//! killed. What is killed here is a process; that bytes reach the disk before the rename is the work of `fsync`,
//! which no test without a power switch can check.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use raglan_store::{Error, Snapshot, Writer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::*;

const FOLDER: &str = "RAGLAN_STORE_TEST_FOLDER";
const STOP_AFTER: &str = "RAGLAN_STORE_TEST_BATCHES";
const N_PATHS: usize = 24;
/// A path that holds the number of the last batch.
const CLOCK: &str = "clock";

/// The files that batch `n` writes.
fn batch(n: usize) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = (0..3)
        .map(|i| {
            let lines = (0..=(n + i) % 40).map(|line| format!("line {line} of file {i} of batch {n}\n"));
            (format!("folder/{}", (n * 5 + i * 7) % N_PATHS), lines.collect())
        })
        .collect();
    files.push((CLOCK.into(), format!("{n}\n")));
    files
}

/// The files after batches 0 to `n`.
fn after(n: usize) -> BTreeMap<String, String> {
    (0..=n).flat_map(batch).collect()
}

/// The last batch that is in an index.
fn last_batch(snapshot: &Snapshot) -> Option<usize> {
    let clock = snapshot.ledger().unwrap().by_path(CLOCK)?.document.id;
    Some(snapshot.chunks_of(clock).unwrap()[0].text.parse().unwrap())
}

/// Writes batches from where the index is, saying on standard output when each is committed.
#[test]
fn writer_process() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let stop_after: usize = std::env::var(STOP_AFTER).map_or(usize::MAX, |n| n.parse().unwrap());
    let mut writer = Writer::open_or_create(Path::new(&folder), passport()).unwrap();
    let first = last_batch(writer.snapshot()).map_or(0, |n| n + 1);
    for n in first..=stop_after {
        let files = batch(n);
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        // Merging depends on the index alone, so that a run that was killed does what one that was not does.
        if writer.snapshot().segments().len() > 6 {
            let ids: Vec<_> = writer.snapshot().segments().iter().map(|segment| segment.id).collect();
            merge(&mut writer, &ids).unwrap();
        }
        index(&mut writer, &files).unwrap();
        println!("\ncommitted {n}");
        std::io::stdout().flush().unwrap();
        if n % 4 == 0 {
            writer.gc().unwrap();
        }
    }
}

fn start(folder: &Path, stop_after: Option<usize>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "kill::writer_process", "--nocapture"]).env(FOLDER, folder);
    if let Some(stop_after) = stop_after {
        command.env(STOP_AFTER, stop_after.to_string());
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap()
}

/// The last batch that the writer said was committed, once it is dead.
fn last_said(child: &mut Child) -> Option<usize> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.filter_map(|line| line.strip_prefix("committed ")?.parse().ok()).last()
}

fn run_to(folder: &Path, n: usize) {
    let child = start(folder, Some(n));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
}

#[test]
fn a_writer_killed_at_any_moment_loses_nothing_and_doubles_nothing() {
    let kills: usize = std::env::var("RAGLAN_KILLS").map_or(25, |n| n.parse().expect("a number"));
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path().join("index");
    let mut rng = ChaCha8Rng::seed_from_u64(std::env::var("RAGLAN_SEED").map_or(11, |n| n.parse().expect("a number")));
    let (mut last_seen, mut kills_at_work, mut left_behind) = (None, 0, 0);
    // Grows while writers are killed before they get anything done, so that it fits slow machines and fast ones.
    let mut longest_life = Duration::from_millis(100);
    for kill in 0..kills {
        let mut child = start(&folder, None);
        std::thread::sleep(longest_life.mul_f64(rng.random_range(0.0..1.0)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(!status.success(), "the writer ended by itself");
        let said = last_said(&mut child).max(last_seen);

        let snapshot = match Snapshot::open(&folder) {
            Ok(snapshot) => snapshot,
            // Killed before there was an index, or even a folder.
            Err(Error::NotAnIndex { .. }) if said.is_none() => continue,
            Err(error) => panic!("kill {kill}: {error}"),
        };
        assert_clean(&snapshot);
        let found = last_batch(&snapshot);
        // At most the batch whose commit was not yet announced is there beyond those that were.
        assert!(
            found == said || found == said.map_or(Some(0), |n| Some(n + 1)),
            "kill {kill}: {found:?}, said {said:?}"
        );
        assert_eq!(texts(&snapshot), found.map(after).unwrap_or_default(), "kill {kill}");
        assert_eq!(snapshot.n_chunks(), texts(&snapshot).values().map(|text| text.lines().count()).sum::<usize>());
        longest_life = longest_life.mul_f64(if found > last_seen { 0.9 } else { 1.25 }).min(Duration::from_secs(5));
        kills_at_work += usize::from(found > last_seen);
        left_behind +=
            usize::from(folder.join("manifest.json.tmp").exists() || n_segments(&folder) > snapshot.segments().len());
        last_seen = found;
    }
    println!("{kills} kills, {kills_at_work} after new batches, {left_behind} with files left behind, {last_seen:?}");
    assert!(kills < 10 || kills_at_work > kills / 4, "too few of the kills came while batches were written");

    // A re-run ends as a run that was never interrupted, to the byte of every file that it names.
    let n = last_seen.unwrap_or(0) + 5;
    let uninterrupted = temporary.path().join("uninterrupted");
    run_to(&folder, n);
    run_to(&uninterrupted, n);
    let (resumed, straight) = (Snapshot::open(&folder).unwrap(), Snapshot::open(&uninterrupted).unwrap());
    assert_clean(&resumed);
    assert_eq!(texts(&resumed), after(n));
    assert_eq!(resumed.segments(), straight.segments());
    // A generation whose writer was killed leaves files behind, and its number is not used again: numbers may differ.
    let manifest = |folder: &Path| {
        let text = std::fs::read_to_string(folder.join("manifest.json")).unwrap();
        let (_, body) = text.split_once('\n').unwrap();
        let mut manifest: serde_json::Value = serde_json::from_str(body).unwrap();
        for place in ["/generation", "/ledger/path", "/tombstones/path", "/retired"] {
            *manifest.pointer_mut(place).unwrap() = serde_json::Value::Null;
        }
        manifest
    };
    assert_eq!(manifest(&folder), manifest(&uninterrupted));
}

fn n_segments(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("segments")).map_or(0, Iterator::count)
}
