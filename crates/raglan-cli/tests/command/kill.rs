//! Indexing that is killed at random moments loses nothing that was committed, and a re-run ends as if nothing happened.
//!
//! `RAGLAN_KILLS` says how many times (8 unless it is set), `RAGLAN_SEED` when.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const FILES: usize = 40;

fn raglan(index: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.arg("--index").arg(index).args(["--json", "--quiet", "--offline"]).args(args);
    command.env("RAGLAN_EMBEDDER", "none").env("RAGLAN_COMMIT_SECONDS", "0").env("RAGLAN_THREADS", "2");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn json(index: &Path, args: &[&str]) -> Value {
    let output = raglan(index, args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

/// A folder of files of very different lengths.
fn fill(folder: &Path) {
    let words = ["cache", "index", "query", "ranking", "passage", "token", "vector", "segment", "commit", "manifest"];
    let mut state = 1_u64;
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for file in 0..FILES {
        let mut text = format!("# File {file}\n\n");
        for _ in 0..10 + next(400) {
            text += words[next(words.len())];
            text += if next(12) == 0 { ".\n\n" } else { " " };
        }
        std::fs::write(folder.join(format!("{file:03}.md")), text).unwrap();
    }
}

/// How many chunks each document has.
fn chunks_by_path(chunks: &Value) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for chunk in chunks.as_array().unwrap() {
        *counts.entry(chunk["path"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    counts
}

#[test]
fn killed_indexing_loses_nothing_and_doubles_nothing() {
    let kills: usize = std::env::var("RAGLAN_KILLS").map_or(8, |n| n.parse().unwrap());
    let mut state: u64 = std::env::var("RAGLAN_SEED").map_or(7, |n| n.parse().unwrap());
    let place = tempfile::tempdir().unwrap();
    let documents = place.path().join("documents");
    std::fs::create_dir(&documents).unwrap();
    fill(&documents);
    let documents = documents.to_str().unwrap();

    let whole = place.path().join("whole");
    let started = Instant::now();
    json(&whole, &["index", documents]);
    let took = started.elapsed();
    let expected = json(&whole, &["chunks"]);
    let expected_counts = chunks_by_path(&expected);
    assert_eq!(expected_counts.len(), FILES);

    let killed = place.path().join("killed");
    let (mut done, mut rounds, mut midway) = (0, 0, 0);
    while done < kills {
        // The index is begun anew whenever a run came to its end before it was killed.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let moment = took.mul_f64((state >> 40) as f64 / (1_u64 << 24) as f64);
        let mut child = raglan(&killed, &["index", documents]).spawn().unwrap();
        std::thread::sleep(moment.max(Duration::from_millis(1)));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if !ended {
            done += 1;
        }
        if killed.join("manifest.json").is_file() {
            let report = json(&killed, &["verify"]);
            assert_eq!(report["clean"], true, "after kill {done}: {report}");
            let counts = chunks_by_path(&json(&killed, &["chunks"]));
            midway += usize::from(counts.len() < FILES);
            for (path, n) in &counts {
                assert_eq!(*n, expected_counts[path], "`{path}` after kill {done}");
            }
        }
        if ended {
            assert_eq!(json(&killed, &["chunks"]), expected);
            std::fs::remove_dir_all(&killed).unwrap();
            rounds += 1;
        }
    }
    json(&killed, &["index", documents]);
    assert_eq!(json(&killed, &["chunks"]), expected);
    for query in ["cache commit", "vector segment manifest", "file 17"] {
        let results = |index: &Path| json(index, &["search", query, "-k", "20"])["results"].clone();
        assert_eq!(results(&killed), results(&whole), "{query}");
    }
    println!("{done} kills, {midway} of them with part of the files committed, {rounds} runs that came to their end");
}
