//! Settings of encoders: an index is searched as it was made, and values that do not fit the model are told.
//!
//! These tests run when the default encoder is in the cache, say so when it is not, and fail then if
//! `RAGLAN_REQUIRE_MODELS` is set.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn raglan(folder: &Path, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--offline", "--quiet"]).current_dir(folder).env("NO_COLOR", "1");
    for variable in ["RAGLAN_INDEX", "RAGLAN_EMBEDDER"] {
        command.env_remove(variable);
    }
    command.envs(environment.iter().copied()).output().unwrap()
}

/// A folder with a long text, a short one and code; nothing where the model is not there.
fn folder() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let path = raglan(folder.path(), &["models", "path", "all-minilm-l6-v2"], &[]);
    if !path.status.success() {
        let told = String::from_utf8_lossy(&path.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        eprintln!("skipped, for want of the model: {told}");
        return None;
    }
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let sentence = "The orchard on the northern slope bears apples that keep well into the winter months. ";
    write("orchard.txt", &sentence.repeat(24));
    write("warranty.txt", "The warranty lasts twenty-four months from the day of delivery.\n");
    let lines: String = (0..12).map(|i| format!("    let page_{i} = cache.read(page + {i});\n")).collect();
    write(
        "cache.rs",
        &format!("/// Reads pages through the cache.\nfn read_pages(cache: &Cache, page: usize) {{\n{lines}}}\n"),
    );
    Some(folder)
}

/// Indexes a folder anew and searches it by vectors; gives the stamp of the encoder, and names and scores.
#[track_caller]
fn indexed(folder: &Path, settings: &[&str]) -> (Value, Vec<(String, f64)>) {
    let output = raglan(folder, &[&["index", ".", "--rebuild"][..], settings].concat(), &[]);
    assert!(output.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&output.stderr));
    let output = raglan(folder, &["search", "apples in winter", "--recipe", "dense", "--json"], &[]);
    assert!(output.status.success(), "{settings:?}: {}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let hits = found["results"].as_array().unwrap().iter();
    let hits = hits.map(|hit| (hit["path"].as_str().unwrap().to_owned(), hit["score"].as_f64().unwrap())).collect();
    let output = raglan(folder, &["status", "--json"], &[]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    (status["passport"]["embedder"].clone(), hits)
}

#[test]
fn an_encoder_that_comes_later_leaves_chunks_as_they_were_cut() {
    let Some(folder) = folder() else { return };
    let path = folder.path();
    let index = |settings: &[&str]| {
        let output = raglan(path, &[&["index", ".", "--json"], settings].concat(), &[]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), told)
    };
    // What was cut by words may be more than the encoder reads.
    let long = path.join("words.txt");
    std::fs::write(&long, "antidisestablishmentarianism ".repeat(200)).unwrap();
    assert_eq!(index(&["--embedder", "none"]).0, Some(0));
    let (code, _, told) = index(&["--embedder", "all-minilm-l6-v2"]);
    assert!(code == Some(2) && told.contains("add `--rebuild`"), "{told}");
    std::fs::write(&long, "antidisestablishmentarianism ".repeat(25)).unwrap();
    // Of shorter chunks it counts the tokens otherwise, and would cut other ones: files that are the same keep theirs.
    assert_eq!(index(&["--rebuild", "--embedder", "none", "--chunk-tokens", "100"]).0, Some(0));
    let (code, extended, told) = index(&["--embedder", "all-minilm-l6-v2", "--chunk-tokens", "100"]);
    assert_eq!(code, Some(0), "{told}");
    let file = std::fs::File::options().append(true).open(&long).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).unwrap();
    std::fs::rename(path.join("cache.rs"), path.join("pages.rs")).unwrap();
    std::fs::write(path.join("zebra.txt"), "A zebra has stripes.").unwrap();
    let (code, report, told) = index(&[]);
    assert_eq!(code, Some(0), "{told}");
    assert_eq!((&report["unchanged"], &report["moved"], &report["new"]), (&3.into(), &1.into(), &1.into()), "{report}");
    assert_eq!(report["chunks"].as_u64().unwrap(), extended["chunks"].as_u64().unwrap() + 1, "{report}");
    // Cut anew there are more of them.
    let (_, rebuilt, _) = index(&["--rebuild"]);
    assert!(rebuilt["chunks"].as_u64() > report["chunks"].as_u64(), "{rebuilt}");
}

#[test]
fn an_index_is_searched_as_it_was_made_and_refuses_other_ways() {
    let Some(folder) = folder() else { return };
    let path = folder.path();
    let (usual, scores) = indexed(path, &[]);
    assert_eq!((usual["pooling"].as_str(), usual["dim"].as_u64()), (Some("mean"), Some(384)));
    assert!(usual.get("parameters").is_none(), "{usual}");
    for (settings, variable, other, stamped) in [
        (&["--pooling", "cls"][..], "RAGLAN_POOLING", "max", ("/pooling", "cls")),
        (&["--truncate-dim", "64"][..], "RAGLAN_TRUNCATE_DIM", "65", ("/dim", "64")),
        (
            &["--long-inputs", "grouped:512", "--chunk-tokens", "500"][..],
            "RAGLAN_LONG_INPUTS",
            "recurrent:512",
            ("/parameters/long inputs", "grouped:512"),
        ),
        (
            &["--long-inputs", "windows", "--chunk-tokens", "500"][..],
            "RAGLAN_LONG_INPUTS",
            "interpolated:512",
            ("/parameters/long inputs", "windows"),
        ),
        (&["--line-windows", "4/2/max"][..], "RAGLAN_LINE_WINDOWS", "8/4", ("/parameters/line windows", "4/2/max")),
    ] {
        // What is remembered of the index before is said again.
        let usual = ["--pooling", "mean", "--truncate-dim", "0", "--long-inputs", "refuse", "--chunk-tokens", "200"];
        let said: Vec<&str> =
            usual.chunks(2).filter(|pair| !settings.contains(&pair[0])).flatten().chain(settings).copied().collect();
        let (stamp, hits) = indexed(path, &said);
        let has = stamp.pointer(stamped.0).map(|value| value.to_string().replace('"', ""));
        assert_eq!(has.as_deref(), Some(stamped.1), "{stamp}");
        assert_eq!(hits[0].0, "orchard.txt", "{settings:?}");
        assert_ne!(hits, scores, "{settings:?}");
        let refused = raglan(path, &["search", "apples", "--recipe", "dense"], &[(variable, other)]);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{settings:?}");
        assert!(told.contains("raglan index --rebuild"), "{told}");
        let again = raglan(path, &["index", ".", "--json"], &[]);
        let report: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(report["unchanged"], 3, "{report}");
    }
}

#[test]
fn a_long_chunk_needs_an_encoder_that_reads_it() {
    let Some(folder) = folder() else { return };
    let code = |settings: &[&str]| {
        let output = raglan(folder.path(), &[&["index", ".", "--chunk-tokens", "400"][..], settings].concat(), &[]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (refused, told) = code(&[]);
    assert_eq!(refused, Some(2));
    assert!(told.contains("reads at most 254 tokens"), "{told}");
    let (refused, told) = code(&["--long-inputs", "grouped:300"]);
    assert_eq!(refused, Some(2));
    assert!(told.contains("reads at most 298 tokens"), "{told}");
    assert_eq!(code(&["--long-inputs", "grouped:402"]).0, Some(0));
}

#[test]
fn values_that_do_not_fit_the_model_are_told_before_anything_is_read() {
    let Some(folder) = folder() else { return };
    for (settings, part) in [
        (["--truncate-dim", "385"], "of 384 coordinates the encoder is to keep 385"),
        (["--long-inputs", "raised-base:512"], "in a model with a table of positions"),
        (["--long-inputs", "grouped:100"], "of long texts the encoder is to read 100 tokens, and of others 256"),
        (["--long-inputs", "cut"], "would leave text out"),
        (["--line-windows", "4/8"], "LINES/STEP"),
        (["--pooling", "median"], "none of mean, cls, last_token, max"),
    ] {
        let output = raglan(folder.path(), &[&["index", "."][..], &settings[..]].concat(), &[]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {told}");
        assert!(told.contains(part), "{settings:?}: {told}");
        assert!(!folder.path().join(".raglan/manifest.json").exists(), "{settings:?}");
    }
}
