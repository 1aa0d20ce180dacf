//! A truncated or flipped file of an index is an error that names it, or changes nothing: never a panic, never a wrong
//! result.

use std::path::{Path, PathBuf};

use raglan::{Filter, Index, SearchOutcome};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{fill, open, update};

/// How many files are damaged, one at a time.
const TRIALS: usize = 1000;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Everything an index can be asked for, in a form that can be compared.
fn ask(index: &Path) -> raglan::Result<Vec<String>> {
    let index = open(index)?;
    let told = |outcome: SearchOutcome| {
        let results = outcome.results.iter().map(|r| format!("{} {} {} {}", r.chunk, r.score, r.path, r.text));
        results.collect::<Vec<_>>().join("\n")
    };
    let search = |index: &Index, name: &str, query: &str| -> raglan::Result<String> {
        Ok(told(index.search(&raglan::recipe(name)?, query, &Filter::default())?))
    };
    let mut all = Vec::new();
    for query in ["cache manifest", "vector of a segment", "file 7"] {
        all.push(search(&index, "bm25", query)?);
        all.push(search(&index, "dense", query)?);
    }
    for document in index.snapshot().ledger()?.documents() {
        all.push(format!("{document:?} {:?}", index.snapshot().chunks_of(document.id)?));
    }
    Ok(all)
}

fn damage(rng: &mut impl Rng, bytes: &mut Vec<u8>) {
    match rng.random_range(0..4) {
        0 if !bytes.is_empty() => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => bytes.extend([0; 7]),
        2 if !bytes.is_empty() => {
            let at = rng.random_range(0..bytes.len());
            let end = (at + 64).min(bytes.len());
            bytes[at..end].fill(0xa5);
        }
        _ if !bytes.is_empty() => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        _ => bytes.push(1),
    }
}

#[test]
fn damaged_files_are_errors_that_name_them() {
    let place = tempfile::tempdir().unwrap();
    let (documents, index) = (place.path().join("documents"), place.path().join("index"));
    std::fs::create_dir(&documents).unwrap();
    fill(&documents, 12);
    update(&documents, &index, 2).unwrap();
    std::fs::remove_file(documents.join("003.md")).unwrap();
    update(&documents, &index, 2).unwrap();

    let sound = ask(&index).unwrap();
    let files = files(&index);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut refused, mut unaffected) = (0, 0);
    for trial in 0..TRIALS {
        let path = &files[trial % files.len()];
        let content = std::fs::read(path).unwrap();
        let mut damaged = content.clone();
        damage(&mut rng, &mut damaged);
        std::fs::write(path, &damaged).unwrap();
        match ask(&index) {
            Ok(answers) => {
                assert_eq!(answers, sound, "`{}` was damaged and the answers changed", path.display());
                unaffected += 1;
            }
            Err(error) => {
                let name = path.file_name().unwrap().to_str().unwrap();
                assert!(error.to_string().contains(name), "`{}` was damaged, but: {error}", path.display());
                let report = raglan::store::verify(&index);
                assert!(report.is_err() || report.is_ok_and(|report| !report.is_clean()), "`{}`", path.display());
                refused += 1;
            }
        }
        std::fs::write(path, &content).unwrap();
    }
    println!("{TRIALS} files damaged: {refused} refused by name, {unaffected} without effect");
    assert!(refused > TRIALS / 2);
    assert_eq!(ask(&index).unwrap(), sound);
}
