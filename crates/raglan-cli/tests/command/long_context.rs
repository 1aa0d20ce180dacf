//! Attention to a part of a long prompt's keys, by the command.
//!
//! What needs the default language model runs when it is in the cache, says so when it is not, and fails then if
//! `RAGLAN_REQUIRE_MODELS` is set.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn raglan(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--offline", "--quiet"]).current_dir(folder).env("NO_COLOR", "1");
    command.env_remove("RAGLAN_INDEX").env("RAGLAN_EMBEDDER", "none").output().unwrap()
}

#[track_caller]
fn check_refused(args: &[&str], told: &[&str]) {
    let output = raglan(&std::env::temp_dir(), args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
    assert!(told.iter().all(|part| error.contains(part)), "{args:?}: {error}");
}

#[test]
fn policies_tasks_and_ways_that_there_are_not_are_refused_by_name() {
    check_refused(&["eval", "longcontext", "--policy", "full,nearest=3"], &["nearest=3", "quest=BUDGET"]);
    check_refused(&["eval", "longcontext", "--policy", "quest=0"], &["`0`", "from 1"]);
    check_refused(&["eval", "longcontext", "--tasks", "haystack"], &["`haystack`", "niah_single_1"]);
    check_refused(&["eval", "longcontext", "--rope-scaling", "yarn=0.5"], &["rope-scaling", "0.5"]);
    check_refused(&["ask", "--attention", "quest", "Why?"], &["--attention quest", "quest=BUDGET"]);
}

#[test]
fn policies_answer_from_long_texts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = raglan(path, &["models", "path", "smollm2-135m-instruct"]);
    if !model.status.success() {
        let told = String::from_utf8_lossy(&model.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        eprintln!("skipped, for want of the model: {told}");
        return;
    }
    let args = ["eval", "longcontext", "--lengths", "500", "--limit", "2", "--tasks", "passkey,vt", "--tokens", "12"];
    let policies = "full,sinks=64,snapkv=64,quest=64,razor=64,retrieval=100,razor-random=64";
    let output = raglan(path, &[&args[..], &["--policy", policies, "--out", "out", "--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = result["rows"].as_array().unwrap();
    assert_eq!((rows.len(), result["scores"].as_array().unwrap().len()), (3 * 7, 4 * 7));
    for row in rows {
        let (share, n) = (row["key_share"].as_f64().unwrap(), row["n"].as_u64().unwrap());
        assert_eq!(n, if row["task"] == "all" { 4 } else { 2 });
        assert!(if row["policy"] == "full" { share == 1.0 } else { share < 0.7 }, "{row}");
        assert!(row["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    }
    let length = |score: &Value| score["n_prompt_tokens"].as_u64().unwrap();
    assert!(result["scores"].as_array().unwrap().iter().all(|score| (300..=500).contains(&length(score))));
    assert!(path.join("out/longcontext.json").is_file() && path.join("out/longcontext.html").is_file());

    let long = ["eval", "longcontext", "--lengths", "9000", "--limit", "1", "--policy", "full"];
    let refused = raglan(path, &long);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("rope-scaling"), "{told}");

    let words = (0..6000).map(|i| format!("{} ", i * i % 97)).collect::<String>();
    std::fs::write(path.join("long.txt"), words).unwrap();
    let args = ["eval", "longcontext", "--path", "long.txt", "--perplexity", "--limit", "1", "--json"];
    let perplexities = |lengths: &str, policies: &str| {
        let output = raglan(path, &[&args[..], &["--lengths", lengths, "--policy", policies]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        result["rows"].as_array().unwrap().iter().map(|row| row["perplexity"].as_f64()).collect::<Vec<_>>()
    };
    let short = perplexities("600", "full,sinks=1.0,sinks=100");
    assert!(short[0] == short[1] && short[0].unwrap() < short[2].unwrap(), "{short:?}");
    // Only `sinks` reads more than the model's context.
    let long = perplexities("8300", "full,sinks=100");
    assert!(long[0].is_none() && long[1].is_some_and(|perplexity| perplexity > 1.0), "{long:?}");
    check_refused(&["eval", "longcontext", "--perplexity"], &["--path"]);
    let long = raglan(path, &[&args[..], &["--lengths", "90000"]].concat());
    assert!(String::from_utf8_lossy(&long.stderr).contains("long.txt"));

    std::fs::write(path.join("warranty.txt"), "The warranty lasts twenty-four months from delivery.\n").unwrap();
    let ask = |attention: &str| {
        let asked = ["ask", "--recipe", "ask-bm25", "--max-tokens", "12", "--attention", attention, "--json"];
        let output = raglan(path, &[&asked[..], &["-f", ".", "How long is the warranty?"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["answer"].clone()
    };
    assert_eq!(ask("full"), ask("quest=1.0"));
    assert!(ask("snapkv=40").is_string());
}
