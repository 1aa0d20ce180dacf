use std::fs;
use std::path::{Path, PathBuf};

use raglan_core::ChunkStore;
use raglan_store::{Error, Snapshot, Writer};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::fixture::*;

const TRIALS: usize = 1200;

/// A small index with everything in it: several segments, deleted chunks, skipped files, an older generation.
fn build(folder: &Path) {
    let mut writer = Writer::open_or_create(folder, passport()).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for batch in 0..4 {
        let files: Vec<(String, String)> = (0..5)
            .map(|file| {
                let lines = (0..30).map(|_| format!("{:x} is a word of {batch}\n", rng.next_u64()));
                (format!("f{}", batch * 3 + file), lines.collect())
            })
            .collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        index(&mut writer, &files).unwrap();
    }
    let mut ledger = writer.snapshot().ledger().unwrap().clone();
    ledger.insert_skipped(skipped("scan.pdf"));
    let (add, drop, delete) = (vec![], vec![], Default::default());
    writer.commit(raglan_store::Commit { add, drop, delete, ledger }).unwrap();
}

fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(all_files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn damage(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut damaged = bytes.to_vec();
    match rng.random_range(0..10) {
        0 => return None,
        1 => damaged.push(rng.random()),
        2..5 => damaged.truncate(rng.random_range(0..bytes.len().max(1))),
        5 if !bytes.is_empty() => {
            let start = rng.random_range(0..bytes.len());
            let end = rng.random_range(start..bytes.len()) + 1;
            damaged[start..end].fill(0);
        }
        _ if !bytes.is_empty() => {
            for _ in 0..rng.random_range(1..=3) {
                damaged[rng.random_range(0..bytes.len())] ^= 1 << rng.random_range(0..8);
            }
        }
        _ => {}
    }
    Some(damaged)
}

#[test]
fn any_damage_to_any_file_is_named_and_never_believed() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    build(folder);
    let whole = read_everything(folder).unwrap();
    let files = all_files(folder);
    let snapshot = Snapshot::open(folder).unwrap();
    let named: Vec<PathBuf> = snapshot
        .segments()
        .iter()
        .flat_map(|segment| &segment.files)
        .map(|file| folder.join(&file.path))
        .chain([5].map(|generation| folder.join(format!("tombstones-{generation}.bin"))))
        .chain([folder.join("ledger-6.parquet"), folder.join("manifest.json")])
        .collect();
    assert!(named.iter().all(|path| files.contains(path)), "{named:#?} {files:#?}");
    assert!(named.len() < files.len());

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut n_errors = 0;
    for trial in 0..TRIALS {
        let path = &files[rng.random_range(0..files.len())];
        let bytes = fs::read(path).unwrap();
        let damaged = damage(&mut rng, &bytes);
        if damaged.as_deref() == Some(&bytes) {
            continue;
        }
        match &damaged {
            Some(damaged) => fs::write(path, damaged).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let is_manifest = path.ends_with("manifest.json");
        let outcome = read_everything(folder);
        let what = || format!("trial {trial}: {} {:?}: {outcome:?}", path.display(), damaged.as_ref().map(Vec::len));
        match &outcome {
            Err(Error::Damaged { path: found, .. }) => {
                assert!(found == path && named.contains(path), "{}", what());
                n_errors += 1;
            }
            Err(Error::NotAnIndex { .. }) => assert!(is_manifest && damaged.is_none(), "{}", what()),
            Err(_) => panic!("{}", what()),
            Ok(read) => {
                assert!(*read == whole, "{}", what());
                // Only the column of text hashes is not read here, and of that the bytes that matter are verified.
                assert!(!named.contains(path) || path.ends_with("chunks.parquet"), "{}", what());
            }
        }
        match raglan_store::verify(folder) {
            Ok(report) => {
                let names_it = report.problems.iter().any(|problem| problem.path == *path);
                assert_eq!(names_it, named.contains(path), "{} {report:#?}", what());
            }
            Err(Error::NotAnIndex { .. }) => assert!(is_manifest && damaged.is_none(), "{}", what()),
            Err(error) => panic!("{}: {error}", what()),
        }
        fs::write(path, &bytes).unwrap();
    }
    assert!(n_errors > TRIALS / 2, "{n_errors}");
    assert_eq!(read_everything(folder).unwrap(), whole);
    assert_clean(&Snapshot::open(folder).unwrap());
}

/// Files that change after a snapshot was opened: every read is right or an error, though the file was good before.
#[test]
fn a_chunk_table_that_changes_under_a_reader_is_noticed() {
    let temporary = tempfile::tempdir().unwrap();
    build(temporary.path());
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut n_right, mut n_refused) = (0, 0);
    for _ in 0..200 {
        let snapshot = Snapshot::open(temporary.path()).unwrap();
        let live = snapshot.chunk_docs().unwrap();
        let (id, _) = live[rng.random_range(0..live.len())];
        let right = snapshot.chunks(&[id]).unwrap();
        let segment = &snapshot.segments()[rng.random_range(0..snapshot.segments().len())];
        let path = temporary.path().join(segment.folder()).join("chunks.parquet");
        let bytes = fs::read(&path).unwrap();
        let Some(damaged) = damage(&mut rng, &bytes) else { continue };
        fs::write(&path, damaged).unwrap(); // In place: the snapshot's handle sees it.
        match snapshot.chunks(&[id]) {
            Ok(read) => {
                assert_eq!(read, right);
                n_right += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("chunks.parquet"), "{error}");
                n_refused += 1;
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(n_right > 20 && n_refused > 20, "{n_right} {n_refused}");
}

#[test]
fn verify_lists_every_problem() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = temporary.path();
    build(folder);
    let snapshot = Snapshot::open(folder).unwrap();
    let segments = snapshot.segments();
    let broken = [
        folder.join(segments[0].folder()).join("bm25/postings"),
        folder.join(segments[1].folder()).join("chunks.parquet"),
        folder.join(segments[2].folder()).join("dense/graph/layer 0"),
        folder.join("ledger-6.parquet"),
    ];
    fs::remove_file(&broken[0]).unwrap();
    fs::write(&broken[1], "").unwrap();
    fs::write(&broken[2], "?").unwrap();
    fs::write(&broken[3], "?").unwrap();
    let report = snapshot.verify();
    let mut named: Vec<&Path> = report.problems.iter().map(|problem| problem.path.as_path()).collect();
    named.sort();
    let mut expected: Vec<&Path> = broken.iter().map(PathBuf::as_path).collect();
    expected.sort();
    assert_eq!(named, expected);
}
