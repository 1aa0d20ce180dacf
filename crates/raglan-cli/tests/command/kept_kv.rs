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

/// A folder with some documents and their index, when the model is there.
fn library(texts: &[(&str, &str)]) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = raglan(path, &["models", "path", "smollm2-135m-instruct"]);
    if !model.status.success() {
        let told = String::from_utf8_lossy(&model.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        eprintln!("skipped, for want of the model: {told}");
        return None;
    }
    for (name, text) in texts {
        std::fs::write(path.join(name), format!("{text}\n")).unwrap();
    }
    assert!(raglan(path, &["index", "."]).status.success());
    Some(folder)
}

const TEXTS: [(&str, &str); 3] = [
    ("warranty.txt", "The warranty lasts twenty-four months from the day of delivery."),
    ("tower.txt", "The tower has a warranty of thirty-eight metres, says the joke."),
    ("store.txt", "The store gives its members a warranty of sixty months."),
];

const ASK: [&str; 5] = ["ask", "--no-update", "--recipe", "ask-bm25", "--max-tokens=8"];

#[test]
fn the_second_question_finds_what_the_first_left() {
    let Some(folder) = library(&TEXTS[..2]) else { return };
    let path = folder.path();
    let ask = |kv: &str, question: &str| {
        let asked =
            ["ask", "--no-update", "--recipe", "ask-bm25", "--max-tokens=12", "--kv-shadow=0", "--kv", kv, question];
        json(path, &asked)
    };
    let kv = |answer: &Value| -> [u64; 2] { ["hits", "misses"].map(|key| answer["kv"][key].as_u64().unwrap()) };

    let whole = ask("full", "How long is the warranty?");
    assert!(whole["kv"].is_null());
    let exact = ask("prefix", "How long is the warranty?");
    assert_eq!((&exact["answer"], &exact["kv"]["method"]), (&whole["answer"], &Value::from("prefix")));
    // Another process takes over exactly what stood behind the same passages.
    let again = ask("prefix", "How long is the warranty?");
    assert_eq!((&again["answer"], kv(&exact), kv(&again)), (&whole["answer"], [0, 2], [2, 0]));
    assert!(3 * again["kv"]["computed_tokens"].as_u64().unwrap() < 2 * again["tokens"]["prompt"].as_u64().unwrap());
    assert_eq!(json(path, &["gc", "--kv"])["kv_blocks_removed"], 2);
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
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_raglan"));
    nowhere.args(["warm", "--offline", "-q"]).current_dir(path).env("RAGLAN_KV_DISK", "0").env_remove("RAGLAN_INDEX");
    let nowhere = nowhere.output().unwrap();
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("kv-disk"), "{nowhere:?}");
    for (limit, computed, blocks) in [("1", 1, 1), ("9", 1, 2), ("9", 0, 2)] {
        let report = warm(limit);
        assert_eq!((report["computed"].as_u64(), report["blocks"].as_u64()), (Some(computed), Some(blocks)));
    }
    assert_eq!(kv(&ask("link", "How long is the warranty?")), [2, 0]);
    // An index that is built anew has other chunks.
    assert!(raglan(path, &["index", ".", "--rebuild"]).status.success());
    assert_eq!(json(path, &["status"])["kv"][0]["blocks"], 0);

    let wrong = raglan(path, &["ask", "--kv", "focus=2", "Why?"]);
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && told.contains("focus=2") && told.contains("domain"), "{told}");
}

#[test]
fn a_method_is_tested_before_it_answers_and_not_used_above_its_bound() {
    let Some(folder) = library(&TEXTS) else { return };
    let path = folder.path();
    let ask = |more: &[&str]| json(path, &[&ASK[..], more, &["How long is the warranty?"]].concat());
    let whole = ask(&["--kv=full"]);
    let first = ask(&["--kv=naive", "--kv-drift=1000"]);
    assert_eq!(first["answer"], whole["answer"]);
    assert_eq!((&first["kv"]["method"], &first["kv"]["instead_of"]["reason"]), (&"prefix".into(), &"untested".into()));
    let drift = |at: usize| json(path, &["status"])["kv"][0]["drift"][at].clone();
    let kl = drift(0)["mean_kl"].as_f64().unwrap();
    assert!(kl > 0.0 && drift(0)["method"] == "naive" && drift(0)["tests"] == 1, "{}", drift(0));
    // It is within the bound, and is used.
    let second = ask(&["--kv=naive", "--kv-drift=1000"]);
    assert_eq!((&second["kv"]["method"], &second["kv"]["hits"]), (&"naive".into(), &3.into()));
    assert!(second["kv"]["instead_of"].is_null() && drift(0)["questions"] == 2 && drift(0)["tests"] == 1);
    // Every question is tested, if that is asked for.
    ask(&["--kv=naive", "--kv-drift=1000", "--kv-shadow=1"]);
    assert_eq!(drift(0)["tests"], 2);
    // A narrower bound takes it out of use.
    let third = ask(&["--kv=naive", "--kv-drift=0"]);
    assert_eq!((&third["answer"], &third["kv"]["method"]), (&whole["answer"], &"prefix".into()));
    assert!(third["kv"]["instead_of"]["reason"]["drift"]["mean_kl"].as_f64().unwrap() > 0.0);
    let told = raglan(path, &[&ASK[..], &["--kv=naive", "--kv-drift=0", "How long is the warranty?"]].concat());
    let told = String::from_utf8_lossy(&told.stderr);
    assert!(told.contains("`naive`") && told.contains("kv-drift") && told.contains("gc --kv"), "{told}");
    let told = raglan(path, &["status"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("naive (f16): "));
    // A damaged line costs only itself.
    let kept = std::fs::read_dir(path.join(".raglan/kv")).unwrap().next().unwrap().unwrap().path();
    let mut record = std::fs::read(kept.join("drift.tsv")).unwrap();
    record[3] ^= 0xff;
    std::fs::write(kept.join("drift.tsv"), [&record[..], b"\xff half a line"].concat()).unwrap();
    assert_eq!((&drift(0)["tests"], &drift(0)["questions"]), (&2.into(), &2.into()));
    assert_eq!(ask(&["--kv=naive", "--kv-drift=0"])["kv"]["method"], "prefix");
    // What is cleared is tested anew.
    json(path, &["gc", "--kv"]);
    assert!(drift(0).is_null());
    assert_eq!(ask(&["--kv=naive", "--kv-drift=0"])["kv"]["instead_of"]["reason"], "untested");
    for wrong in ["--kv-shadow=2", "--kv-drift=-1", "--kv-order=best", "--kv-precision=f8"] {
        let told = raglan(path, &["ask", wrong, "Why?"]);
        assert!(!told.status.success(), "{wrong}");
    }
}

#[test]
fn keys_and_values_are_computed_with_the_index_as_far_as_there_is_room() {
    let Some(folder) = library(&TEXTS) else { return };
    let path = folder.path();
    let kept = |report: &Value| {
        ["computed", "no_room", "blocks"].map(|key| report["kv"][key].as_u64().unwrap_or_else(|| panic!("{report}")))
    };
    assert!(json(path, &["index", "."])["kv"].is_null());
    // What questions found comes first: here the last in the order of the index.
    let found = json(path, &[&ASK[..], &["--kv=naive", "--kv-shadow=0", "members"]].concat());
    assert_eq!(found["sources"][0]["path"], "store.txt");
    assert_eq!(kept(&json(path, &["index", ".", "--kv", "top=1"])), [0, 0, 1]);
    assert_eq!(kept(&json(path, &["index", ".", "--kv", "top=2"])), [1, 0, 2]);
    let bytes = json(path, &["status"])["kv"][0]["bytes"].as_u64().unwrap();
    let size = format!("{}", bytes + 1000);
    std::fs::write(path.join("raglan.toml"), format!("kv-disk = \"{size}\"\n")).unwrap();
    let full = json(path, &["index", ".", "--exclude", "raglan.toml", "--kv", "all"]);
    assert_eq!(kept(&full), [0, 1, 2], "{full}");
    let told = raglan(path, &["index", ".", "--exclude", "raglan.toml", "--kv", "all"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("1 passage did not fit"), "{told:?}");
    std::fs::remove_file(path.join("raglan.toml")).unwrap();
    assert_eq!(kept(&json(path, &["index", ".", "--exclude", "raglan.toml", "--kv", "all"])), [1, 0, 3]);
    let wrong = raglan(path, &["index", ".", "--kv", "some"]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("top=N"));
}

#[test]
fn blocks_are_of_one_index_and_of_one_precision() {
    let Some(folder) = library(&TEXTS) else { return };
    let Some(other) = library(&TEXTS) else { return };
    let kv = |path: &Path, precision: &str| {
        let flags = ["--kv=naive", "--kv-shadow=0", "--kv-precision", precision, "How long is the warranty?"];
        let answer = json(path, &[&ASK[..], &flags].concat());
        ["hits", "misses"].map(|key| answer["kv"][key].as_u64().unwrap())
    };
    let bytes = |path: &Path| json(path, &["status"])["kv"][0]["bytes"].as_u64().unwrap();
    assert_eq!(kv(folder.path(), "f16"), [0, 3]);
    assert_eq!(kv(folder.path(), "f16"), [3, 0]);
    // The same texts in another index are others' texts.
    assert_eq!(kv(other.path(), "int8"), [0, 3]);
    assert_eq!(kv(other.path(), "int8"), [3, 0]);
    assert!(bytes(other.path()) < bytes(folder.path()) * 3 / 4);
    // What is kept otherwise is made anew.
    assert_eq!(kv(other.path(), "f16"), [0, 3]);
    assert_eq!(bytes(other.path()), bytes(folder.path()));
}
