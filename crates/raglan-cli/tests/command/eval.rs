//! `raglan eval` from files to files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use raglan::datasets::{Qrels, Run};
use raglan::eval::{CollectionStamp, Metric, ResultFile, Stamp};
use serde_json::Value;

fn raglan(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.arg("eval").args(args).current_dir(folder).env("NO_COLOR", "1").output().unwrap()
}

#[track_caller]
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = raglan(folder, &[args, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

const RUN: &str = "q1 Q0 a 1 .9 t\nq1 Q0 c 2 .8 t\nq1 Q0 b 3 .7 t\nq7 Q0 q7 1 9 t\nq7 Q0 x 2 1 t\n";
const OTHER: &str = "q1 Q0 b 1 .9 t\nq1 Q0 a 2 .8 t\nq7 Q0 x 1 1 t\nq9 Q0 z 1 1 t\n";
const QRELS: &str = "q1 0 a 2\nq1 0 b 1\nq1 0 c 0\nq7 0 x 1\nq9 0 z 1\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("a.run", RUN), ("b.run", OTHER), ("qrels.txt", QRELS)] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

#[track_caller]
fn is_close(value: &Value, want: f64) {
    let got = value.as_f64().unwrap();
    assert!((got - want).abs() <= 1e-5, "{got}, not {want}");
}

#[test]
fn a_run_is_scored_over_all_judged_queries() {
    let folder = folder();
    let files = ["run", "--run", "a.run", "--qrels", "qrels.txt", "--metrics", "ndcg@10,mrr"];
    let scores = json(folder.path(), &files);
    // q1: 2.5 / 2.63093, q7: 1/log2(3), q9: not answered.
    is_close(&scores["metrics"]["ndcg@10"], (0.95023 + 0.63093) / 3.0);
    is_close(&scores["metrics_of_answered"]["mrr"], (1.0 + 0.5) / 2.0);
    assert_eq!((&scores["n_judged"], &scores["n_answered"]), (&3.into(), &2.into()));
    assert_eq!(scores.get("per_query"), None);

    let scores = json(folder.path(), &[&files[..], &["--remove-own-ids", "--per-query"]].concat());
    assert_eq!(scores["per_query"]["mrr"], serde_json::json!({ "q1": 1.0, "q7": 1.0, "q9": 0.0 }));
    assert!(!scores.to_string().contains("-0.0"), "{scores}");

    let output = raglan(folder.path(), &[&files[..], &["--per-query"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("q7") && text.contains("all 3 judged") && text.contains("the 2 answered"), "{text}");
}

#[test]
fn mistakes_are_told() {
    let folder = folder();
    let check = |args: &[&str], says: &str| {
        let output = raglan(folder.path(), args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(&["run", "--run", "a.run", "--qrels", "qrels.txt", "--metrics", "f1"], "no metric `f1`");
    check(&["run", "--run", "qrels.txt", "--qrels", "qrels.txt"], "`qrels.txt` line 1: expected 6 fields, found 4");
    check(&["diff", "a.run", "b.run"], "`a.run` is no result file");
    check(&["report", "a.run", "--out", "report"], "`a.run` is no result file");
}

#[test]
fn two_runs_are_compared_by_query() {
    let folder = folder();
    let args = ["diff", "a.run", "b.run", "--qrels", "qrels.txt", "--metric", "mrr"];
    let comparison = json(folder.path(), &args);
    // q7: 1/2 to 1, q9: 0 to 1; of the four choices of signs two are as large.
    is_close(&comparison["difference"], 0.5);
    is_close(&comparison["p"], 0.5);
    assert_eq!((&comparison["wins"], &comparison["ties"], &comparison["losses"]), (&2.into(), &1.into(), &0.into()));
    let text = String::from_utf8(raglan(folder.path(), &args).stdout).unwrap();
    assert!(text.contains("not significant") && text.contains("B better 2, same 1, worse 0"), "{text}");
}

/// A result of a run, as `eval` writes it.
fn write_result(folder: &Path, recipe: &str, run: &str, qrels_hash: &str) {
    let (run, qrels) = (Run::read(&folder.join(run)).unwrap(), Qrels::read(&folder.join("qrels.txt")).unwrap());
    let mut result = ResultFile {
        recipe: Stamp { name: recipe.into(), hash: format!("blake3:{recipe}") },
        collection: CollectionStamp {
            name: "tiny".into(),
            qrels_hash: qrels_hash.into(),
            ..CollectionStamp::default()
        },
        ..ResultFile::default()
    };
    result.score(&run, &qrels, &[Metric::Ndcg { k: Some(10) }]);
    result.time(run.queries().map(|query| (query, 1.5)));
    result.write(&folder.join(format!("{recipe}.json"))).unwrap();
}

#[test]
fn results_are_compared_and_reported() {
    let folder = folder();
    write_result(folder.path(), "a", "a.run", "1");
    write_result(folder.path(), "b", "b.run", "1");
    write_result(folder.path(), "other", "b.run", "2");
    let comparison = json(folder.path(), &["diff", "a.json", "b.json"]);
    assert_eq!(comparison["changed"][0]["query"], "q9");
    let output = raglan(folder.path(), &["diff", "a.json", "other.json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("with other judgements"), "{output:?}");
    let output = raglan(folder.path(), &["diff", "a.json", "b.json", "--metric", "map"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("choose of these with `--metric`: ndcg@10"), "{output:?}");

    let paths = json(folder.path(), &["report", "a.json", "b.json", "other.json", "--out", "new/report"]);
    let page = fs::read_to_string(folder.path().join(paths["html"].as_str().unwrap())).unwrap();
    let text = fs::read_to_string(folder.path().join("new/report/report.md")).unwrap();
    assert!(page.contains("Latency distribution") && page.contains("b is best"), "{page}");
    assert_eq!(text.matches("\n## tiny").count(), 2, "{text}");
}

#[test]
fn mistakes_in_questions_with_passages_are_told_before_a_model_is_sought() {
    let folder = tempfile::tempdir().unwrap();
    let line = r#"{"question": "Who?", "answers": ["a"], "ctxs": [{"text": "b"}]}"#;
    fs::write(folder.path().join("q.jsonl"), format!("{line}\n{{\"question\": 1}}\n")).unwrap();
    let check = |args: &[&str], says: &str| {
        let output = raglan(folder.path(), &[&["kv"], args].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(says), "{text}");
    };
    check(&["--path", "q.jsonl"], "`q.jsonl` line 2: column ");
    check(&["--path", "none.jsonl"], "`none.jsonl` is missing");
    check(&["--set", "three-chunks"], "no set `three-chunks`; there are single, two-chunks");
    check(&["--set", "single", "--method", "naive,fuller"], "`fuller` is no way to reuse keys and values");
    check(&["--set", "single", "--method", "random=2"], "`random=2` has a parameter outside of its domain");
    check(&["--set", "single", "--capture", "behind"], "no capture `behind`; there are alone, prefix, context");
    check(&["--set", "single", "--replaced", "1.5"], "`--replaced` is 1.5");
    check(&["--set", "single", "--passage-tokens", "0"], "must be at least 1");
    check(&["--set", "single", "--filler", "."], "no paragraph of twenty words");
    check(&["--path", "q.jsonl", "--set", "single"], "cannot be used with");
}
