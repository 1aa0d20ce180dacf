//! `raglan eval`: collections searched and scored, and the scores that are expected.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;
use serde_json::Value;

fn raglan(cache: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).env("NO_COLOR", "1").env("RAGLAN_CACHE", cache).env_remove("RAGLAN_INDEX");
    command.output().unwrap()
}

#[track_caller]
fn json(cache: &Path, args: &[&str]) -> Value {
    let output = raglan(cache, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Three documents and three queries, one of which is a document's own id and text.
fn collection(folder: &Path) -> PathBuf {
    let folder = folder.join("pets");
    std::fs::create_dir_all(folder.join("qrels")).unwrap();
    let corpus = [
        r#"{"_id": "cats", "title": "Cats", "text": "Cats purr and hunt mice."}"#,
        r#"{"_id": "dogs", "title": "Dogs", "text": "Dogs bark at cats and cars."}"#,
        r#"{"_id": "fish", "title": "", "text": "A goldfish swims in its bowl."}"#,
        r#"{"_id": "none", "title": "", "text": "  "}"#,
    ];
    std::fs::write(folder.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let queries = [
        r#"{"_id": "q1", "text": "who hunts mice"}"#,
        r#"{"_id": "q2", "text": "barking at cars"}"#,
        r#"{"_id": "dogs", "text": "Dogs bark at cats and cars."}"#,
        r#"{"_id": "unjudged", "text": "goldfish"}"#,
    ];
    std::fs::write(folder.join("queries.jsonl"), queries.join("\n")).unwrap();
    let qrels = "query-id\tcorpus-id\tscore\nq1\tcats\t1\nq2\tdogs\t1\ndogs\tcats\t1\n";
    std::fs::write(folder.join("qrels/test.tsv"), qrels).unwrap();
    folder
}

#[test]
fn a_collection_is_searched_and_scored_and_the_results_compared() {
    let place = tempfile::tempdir().unwrap();
    let path = collection(place.path());
    let path = path.to_str().unwrap();
    let (cache, out) = (place.path().join("cache"), place.path().join("out"));
    let arguments = ["eval", "beir", "--path", path, "--recipe", "bm25", "--out", out.to_str().unwrap()];
    let result = json(&cache, &arguments);
    // q1 finds `cats` and q2 `dogs` first. `dogs` is not offered itself, and finds `cats`, which shares a word.
    assert_eq!(result["metrics"]["ndcg@10"], 1.0, "{result}");
    assert_eq!(result["metrics"]["recall@100"], 1.0);
    assert_eq!((result["n_judged"].as_u64(), result["collection"]["n_documents"].as_u64()), (Some(3), Some(4)));
    assert!(result["latency_ms"]["p50"].as_f64().unwrap() > 0.0 && result["latency_ms"]["p99"].is_f64());

    let run = std::fs::read_to_string(out.join("run.trec")).unwrap();
    assert!(run.lines().any(|line| line.starts_with("q1 Q0 cats 1 ")), "{run}");
    assert!(!run.lines().any(|line| line.starts_with("dogs Q0 dogs ") || line.starts_with("unjudged")), "{run}");
    let qrels = format!("{path}/qrels/test.tsv");
    let scored = json(&cache, &["eval", "run", "--run", out.join("run.trec").to_str().unwrap(), "--qrels", &qrels]);
    assert_eq!(scored["metrics"]["ndcg@10"], result["metrics"]["ndcg@10"], "{scored}");

    // The index is there, and gives the same.
    let again = json(&cache, &arguments);
    assert_eq!((&again["metrics"], &again["per_query"]), (&result["metrics"], &result["per_query"]));
    let file = out.join("result.json");
    let difference = json(&cache, &["eval", "diff", file.to_str().unwrap(), file.to_str().unwrap()]);
    assert_eq!((difference["difference"].as_f64(), difference["ties"].as_u64()), (Some(0.0), Some(3)), "{difference}");
}

#[test]
fn indexes_of_evaluations_are_removed_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let path = collection(place.path());
    let cache = place.path().join("cache");
    let gc = ["gc", "--evaluations"];
    assert_eq!(json(&cache, &gc)["indexes_removed"].as_array().unwrap().len(), 0);
    let index = place.path().join("index");
    let eval = ["eval", "beir", "--path", path.to_str().unwrap(), "--recipe", "bm25"];
    let metrics = json(&cache, &eval)["metrics"].clone();
    json(&cache, &[&eval[..], &["--index", index.to_str().unwrap()]].concat());
    let shelf = cache.join("collections");
    std::fs::create_dir(shelf.join("mine")).unwrap();
    std::fs::write(shelf.join("mine/notes.txt"), "keep").unwrap();
    std::fs::write(cache.join("model.gguf"), "keep").unwrap();

    let removed = json(&cache, &gc);
    let [pets] = &removed["indexes_removed"].as_array().unwrap()[..] else { panic!("{removed}") };
    assert!(pets["index"].as_str().unwrap().starts_with("pets-"), "{removed}");
    assert!(pets["bytes"].as_u64().unwrap() > 1000 && pets["bytes"] == removed["bytes"], "{removed}");
    assert_eq!(removed["left"][0]["index"], "mine", "{removed}");
    assert!(removed["left"][0]["reason"].as_str().unwrap().contains("notes.txt"), "{removed}");
    for kept in [shelf.join("mine/notes.txt"), cache.join("model.gguf"), index.join("manifest.json")] {
        assert!(kept.is_file(), "{}", kept.display());
    }
    assert_eq!(json(&cache, &eval)["metrics"], metrics);
    let told = String::from_utf8(raglan(&cache, &gc).stdout).unwrap();
    assert!(told.starts_with("pets-") && told.contains("\n1 indexed collection removed, "), "{told}");
    assert_eq!(raglan(&cache, &["gc", "--evaluations", "-f", "docs"]).status.code(), Some(2));
}

#[test]
fn results_say_what_they_are_of() {
    let place = tempfile::tempdir().unwrap();
    let folder = collection(place.path());
    let path = folder.to_str().unwrap();
    let cache = place.path().join("cache");
    let [whole, first, index] = ["whole", "first", "index"].map(|name| place.path().join(name));
    let run = |path: &str, out: &Path, more: &[&str]| {
        let (out, index) = (out.to_str().unwrap(), index.to_str().unwrap());
        let args = ["eval", "beir", "--path", path, "--recipe", "bm25", "--out", out, "--index", index, "--json"];
        raglan(&cache, &[&args[..], more].concat())
    };
    let stages = whole.join("stages");
    std::fs::create_dir_all(&stages).unwrap();
    std::fs::write(stages.join("dense.trec"), "q1 Q0 cats 1 1.0 dense\n").unwrap();
    assert!(run(path, &whole, &[]).status.success());
    assert!(!stages.join("dense.trec").exists(), "the run of another recipe's stage is gone");
    assert!(run(path, &first, &["--limit", "1", "--depth", "2"]).status.success());
    let results = [&whole, &first].map(|out| out.join("result.json").to_str().unwrap().to_owned());
    // Queries that one of them was not asked are not counted against it.
    let difference = json(&cache, &["eval", "diff", &results[0], &results[1], "-n", "0"]);
    assert_eq!((&difference["n_queries"], &difference["n_left_out"]), (&1.into(), &2.into()), "{difference}");
    assert_eq!((&difference["difference"], &difference["metric"]), (&0.0.into(), &"ndcg@10".into()), "{difference}");
    let report = place.path().join("report");
    json(&cache, &["eval", "report", &results[0], &results[1], "--out", report.to_str().unwrap()]);
    let report = std::fs::read_to_string(report.join("report.md")).unwrap();
    assert!(report.contains("bm25 (depth 2, limit 1)"), "{report}");
    // The same ids with other texts are another collection, and so are fewer documents.
    for (from, to) in [("hunt mice", "hunt rats"), ("\"cats\"", "\"kittens\"")] {
        let other = place.path().join("other");
        std::fs::create_dir_all(other.join("qrels")).unwrap();
        for name in ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"] {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            std::fs::write(other.join(name), text.replace(from, to)).unwrap();
        }
        let refused = run(other.to_str().unwrap(), &first, &[]);
        let told = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && told.contains("another collection: its document `cats`"), "{told}");
        assert!(told.contains("`--fresh` makes it anew"), "{told}");
    }
    // What can never be found is told.
    let qrels = folder.join("qrels/test.tsv");
    let judged = std::fs::read_to_string(&qrels).unwrap();
    std::fs::write(&qrels, format!("{judged}q1\tbirds\t1\ndogs\tdogs\t2\n")).unwrap();
    let told = String::from_utf8(run(path, &whole, &[]).stderr).unwrap();
    assert!(told.contains("1 relevant document not in the corpus"), "{told}");
    assert!(told.contains("1 relevant document with the id of the query itself"), "{told}");
    std::fs::write(folder.join("corpus.jsonl"), "").unwrap();
    let refused = run(path, &whole, &[]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && told.contains("no documents in its corpus"), "{told}");
}

#[test]
fn mistakes_are_told_with_what_helps() {
    let place = tempfile::tempdir().unwrap();
    let path = collection(place.path());
    let path = path.to_str().unwrap();
    let told = |args: &[&str]| {
        let output = raglan(&place.path().join("cache"), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (args, part) in [
        (vec!["eval", "beir", "--path", path, "--recipe", "bm26"], "bm25"),
        (vec!["eval", "beir", "--path", path, "--recipe", "bm25", "--split", "dev"], "dev"),
        (vec!["eval", "beir", "--path", path, "--recipe", "bm25", "--metrics", "ndgc@10"], "ndgc@10"),
        (vec!["eval", "beir", "--path", "nowhere", "--recipe", "bm25"], "nowhere"),
        (vec!["eval", "beir", "--dataset", "scifacts", "--recipe", "bm25"], "scifact"),
        (vec!["eval", "beir", "--recipe", "bm25"], "--path"),
    ] {
        let message = told(&args);
        assert!(message.contains(part), "{args:?}: {message}");
    }
}

#[derive(Deserialize)]
struct Expected {
    score: Vec<Score>,
}

#[derive(Deserialize)]
struct Score {
    collection: String,
    recipe: String,
    metric: String,
    value: f64,
    tolerance: f64,
    #[serde(default)]
    needs_models: bool,
}

#[test]
fn published_collections_score_as_expected() {
    let Some(data) = std::env::var_os("RAGLAN_DATA").map(PathBuf::from) else {
        eprintln!("skipped: set RAGLAN_DATA to the folder of evaluation sets");
        return;
    };
    let with_models = std::env::var_os("RAGLAN_EVAL_MODELS").is_some();
    let text = include_str!("../../../../datasets/expected-scores.toml");
    let expected: Expected = toml::from_str(text).unwrap();
    // With models, theirs is the cache, which keeps the indexes too.
    let temporary = tempfile::tempdir().unwrap();
    let cache = std::env::var_os("RAGLAN_CACHE").filter(|_| with_models).map(PathBuf::from);
    let cache = cache.unwrap_or_else(|| temporary.path().to_owned());
    for Score { collection, recipe, metric, value, tolerance, needs_models } in expected.score {
        let path = data.join(&collection);
        if needs_models && !with_models {
            eprintln!("skipped: {recipe} on {collection}; set RAGLAN_EVAL_MODELS");
            continue;
        }
        let result = json(&cache, &["eval", "beir", "--path", path.to_str().unwrap(), "--recipe", &recipe]);
        let found = result["metrics"][&metric].as_f64().unwrap_or(f64::NAN);
        assert!((found - value).abs() <= tolerance, "{recipe} on {collection}: {metric} is {found}, not {value}");
    }
}
