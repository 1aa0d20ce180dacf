//! Results as files.

use std::fs;

use raglan_datasets::{Qrels, Run};
use raglan_eval::{CollectionStamp, Error, Latency, Metric, ResultFile, StageResult, Stamp};

fn result() -> ResultFile {
    let stamp = |name: &str| Stamp { name: name.to_owned(), hash: format!("blake3:{name}") };
    let mut qrels = Qrels::default();
    qrels.insert("q1", "a", 1);
    qrels.insert("q2", "a", 1);
    let mut run = Run::default();
    run.set("q1", [("x", 3.0), ("a", 2.0)]);
    let mut result = ResultFile {
        recipe: stamp("bm25"),
        collection: CollectionStamp { name: "tiny".into(), split: "test".into(), ..CollectionStamp::default() },
        models: vec![stamp("encoder")],
        threads: 2,
        stages: vec![StageResult { name: "bm25".into(), recall_after: 0.5, ..StageResult::default() }],
        ..ResultFile::default()
    };
    result.score(&run, &qrels, &[Metric::Ndcg { k: Some(10) }, Metric::ReciprocalRank { k: None }]);
    result.time([("q1", 0.1), ("q2", 1.0 / 3.0)]);
    result
}

#[test]
fn a_result_reads_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bm25.json");
    result().write(&path).unwrap();
    assert_eq!(ResultFile::read(&path).unwrap(), result());
    let json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(json["metrics"]["mrr"], 0.25); // (1/2 + 0) / 2
    assert_eq!(json["per_query"]["mrr"]["q2"], 0.0);
    assert_eq!((&json["n_judged"], &json["n_answered"]), (&2.into(), &1.into()));
    assert_eq!(json["latency_ms"]["p99"], 1.0 / 3.0);
}

#[test]
fn another_file_is_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.json");
    assert!(matches!(ResultFile::read(&path), Err(Error::Io { .. })));
    for content in ["", "{}", "[1]", "{\"recipe\": 3}", "q Q0 d 1 1 tag"] {
        fs::write(&path, content).unwrap();
        let error = ResultFile::read(&path).unwrap_err();
        assert!(matches!(&error, Error::NoResult { path: told, .. } if *told == path), "{error}");
    }
}

#[test]
fn latency_sums_up_times() {
    let latency = Latency::of((1..=100).rev().map(f64::from));
    assert_eq!((latency.p50, latency.p95, latency.p99, latency.mean), (50.0, 95.0, 99.0, 50.5));
    assert_eq!(Latency::of([]), Latency::default());
}
