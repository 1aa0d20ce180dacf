//! Keys and values that are kept beside an index: the second question finds them, and they go with their chunks.
//!
//! The test runs when the default language model is in the cache, says so when it is not, and fails then if
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
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = raglan(folder, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_second_question_finds_what_the_first_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = raglan(path, &["models", "path", "smollm2-135m-instruct"]);
    if !model.status.success() {
        let told = String::from_utf8_lossy(&model.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        eprintln!("skipped, for want of the model: {told}");
        return;
    }
    std::fs::write(path.join("warranty.txt"), "The warranty lasts twenty-four months from the day of delivery.\n")
        .unwrap();
    std::fs::write(path.join("tower.txt"), "The tower has a warranty of thirty-eight metres, says the joke.\n")
        .unwrap();
    assert!(raglan(path, &["index", "."]).status.success());
    let ask = |kv: &str, question: &str| {
        let asked = ["ask", "--no-update", "--recipe", "ask-bm25", "--max-tokens", "12", "--kv", kv, question];
        json(path, &asked)
    };
    let kv = |answer: &Value| -> [u64; 2] { ["hits", "misses"].map(|key| answer["kv"][key].as_u64().unwrap()) };

    let whole = ask("full", "How long is the warranty?");
    assert!(whole["kv"].is_null());
    let exact = ask("prefix", "How long is the warranty?");
    assert_eq!((&exact["answer"], &exact["kv"]["method"]), (&whole["answer"], &Value::from("prefix")));
    // Nothing is there the first time, so all is computed, and the answer is that of the whole.
    let first = ask("naive", "How long is the warranty?");
    assert_eq!((&first["answer"], kv(&first)), (&whole["answer"], [0, 2]));
    // Another process, another question.
    let second = ask("focus=0.1", "What is said of the warranty?");
    assert_eq!(kv(&second), [2, 0]);
    let computed = second["kv"]["computed_tokens"].as_u64().unwrap();
    assert!(computed < second["tokens"]["prompt"].as_u64().unwrap(), "{second}");
    let kept = &json(path, &["status"])["kv"][0];
    assert_eq!([&kept["blocks"], &kept["hits"], &kept["misses"]].map(|n| n.as_u64().unwrap()), [2, 2, 2]);
    // A chunk that is gone takes its block along; the other is still there.
    std::fs::write(path.join("tower.txt"), "The tower is forty metres tall, and its warranty has run out.\n").unwrap();
    assert!(raglan(path, &["index", "."]).status.success());
    assert_eq!(json(path, &["status"])["kv"][0]["blocks"], 1);
    assert_eq!(kv(&ask("naive", "How long is the warranty?")), [1, 1]);
    let removed = json(path, &["gc", "--kv"]);
    assert_eq!(removed["kv_blocks_removed"], 2);
    // Or all is there before the first question.
    let warm = |limit: &str| json(path, &["warm", "--limit", limit]);
    for (limit, computed, blocks) in [("1", 1, 1), ("9", 1, 2), ("9", 0, 2)] {
        let report = warm(limit);
        assert_eq!((report["computed"].as_u64(), report["blocks"].as_u64()), (Some(computed), Some(blocks)));
    }
    assert_eq!(kv(&ask("link", "How long is the warranty?")), [2, 0]);

    let wrong = raglan(path, &["ask", "--kv", "focus=2", "Why?"]);
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && told.contains("focus=2") && told.contains("domain"), "{told}");
}
