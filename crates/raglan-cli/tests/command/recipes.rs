//! Recipes as users check, draw, run and change them.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::manners::{folder, json, raglan};

const RECIPE: &str = "
[stage.words]
use = \"bm25\"
k = 5

[stage.sure]
use = \"branch\"
input = \"words\"
measure = \"results\"
at_least = 1
[stage.sure.then.best]
use = \"select\"
input = \"input\"
k = 1
";

#[test]
fn mistakes_are_told_to_people_and_programs_with_their_place() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("r.toml"), RECIPE.replace("k = 5", "kk = 5")).unwrap();
    let output = raglan(path, &["check", "r.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    let expected = "r.toml:4:1: no parameter of `bm25` `kk`; did you mean `k`?\n  |\n4 | kk = 5\n  | ^^\n";
    assert_eq!(told, expected);

    let output = raglan(path, &["check", "r.toml", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told["ok"].as_bool(), told["line"].as_u64(), told["column"].as_u64()), (Some(false), Some(4), Some(1)));
    assert_eq!((&told["problem"]["kind"], &told["problem"]["nearest"]), (&"unknown_word".into(), &"k".into()));

    let told = json(path, &["check", "hybrid", "--set", "bm25.k=none"]);
    assert_eq!((told["path"].as_str(), told["problem"]["expected"].as_str()), (Some("--set"), Some("a whole number")));
}

#[test]
fn a_sound_recipe_is_shown_drawn_and_described() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("r.toml"), RECIPE).unwrap();
    let text = |args: &[&str]| {
        let output = raglan(path, args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = text(&["check", "r.toml"]);
    assert!(shown.contains("    best         select     Ranking → Ranking\n"), "{shown}");
    let canonical = text(&["check", "r.toml", "--format", "toml", "--set", "sure.then.best.k=2"]);
    assert!(canonical.ends_with("[stage.sure.then.best]\nuse = \"select\"\ninput = \"input\"\nk = 2\n"));
    assert!(text(&["check", "r.toml", "--graph", "mermaid"]).starts_with("flowchart LR\n"));
    let svg = text(&["check", "ask", "--graph", "svg"]);
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    let schema: Value = serde_json::from_str(&text(&["check", "--schema"])).unwrap();
    assert_eq!(schema["$defs"]["bm25"]["properties"]["k"]["default"], 100);
    assert!(text(&["check", "--reference"]).contains("### `bm25`: Query → Ranking"));
    assert_eq!(raglan(path, &["check"]).status.code(), Some(2));
}

#[test]
fn a_recipe_runs_on_questions_from_anywhere() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(raglan(path, &["index", "."]).status.code(), Some(0));
    std::fs::write(path.join("r.toml"), RECIPE).unwrap();
    std::fs::write(path.join("questions.txt"), "warranty months\n\nxylophone\n").unwrap();
    let lines = |output: std::process::Output| -> Vec<Value> {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let found = lines(raglan(path, &["run", "r.toml", "--questions", "questions.txt", "--json"]));
    assert_eq!(found.len(), 2);
    assert_eq!(found[0]["passages"][0]["path"], "warranty.md");
    assert_eq!((&found[1]["question"], &found[1]["passages"]), (&"xylophone".into(), &Value::Array(vec![])));

    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(["run", "r.toml", "--json"]).current_dir(path).env("RAGLAN_EMBEDDER", "none");
    let mut run = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"goods returned\n").unwrap();
    assert_eq!(lines(run.wait_with_output().unwrap())[0]["passages"][0]["path"], "returns.txt");

    assert_eq!(raglan(path, &["run", "r.toml", "xylophone"]).status.code(), Some(1));
    assert_eq!(raglan(path, &["run", "r.toml", " "]).status.code(), Some(2));
    let asked = ["search", "manifest days", "--recipe", "r.toml"];
    assert_eq!(json(path, &asked)["results"].as_array().unwrap().len(), 1);
    let wider = [&asked[..], &["--set", "sure.then.best.k=2"]].concat();
    assert_eq!(json(path, &wider)["results"].as_array().unwrap().len(), 2);
}

#[test]
fn a_trace_has_a_span_for_each_stage_below_its_command() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(raglan(path, &["index", "."]).status.code(), Some(0));
    std::fs::write(path.join("r.toml"), RECIPE).unwrap();
    assert_eq!(raglan(path, &["run", "r.toml", "goods", "--trace", "spans.jsonl"]).status.code(), Some(0));
    let text = std::fs::read_to_string(path.join("spans.jsonl")).unwrap();
    let spans: Vec<Value> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["resourceSpans"][0]["scopeSpans"][0]["spans"][0].take()
        })
        .collect();
    let named = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("{text}"));
    let (root, sure, best) = (named("raglan"), named("stage sure"), named("stage best"));
    assert_eq!(root["parentSpanId"], Value::Null);
    assert_eq!((&sure["parentSpanId"], &best["parentSpanId"]), (&root["spanId"], &sure["spanId"]));
    assert!(spans.iter().all(|span| span["traceId"] == root["traceId"]));
    let time = |span: &Value, key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
    assert!(time(sure, "startTimeUnixNano") <= time(best, "startTimeUnixNano"));
    assert!(time(best, "endTimeUnixNano") <= time(sure, "endTimeUnixNano"));
    let attributes = best["attributes"].as_array().unwrap();
    assert!(attributes.iter().any(|a| a["key"] == "kind" && a["value"]["stringValue"] == "select"), "{best}");
    assert!(attributes.iter().any(|a| a["key"] == "results" && a["value"]["intValue"] == "1"), "{best}");
}

#[test]
fn a_cross_encoder_is_the_users_own_and_its_place_is_asked_for() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(raglan(path, &["index", "."]).status.code(), Some(0));
    let name = "ablations/rerank-cross-encoder";
    let remedy = "stage `judged`: `./cross-encoder` does not exist; check the path of the model; no cross-encoder comes \
                  with raglan: give the folder of one, with safetensors or ONNX, as the stage's `model`, such as \
                  `--set judged.model=FOLDER`";
    let checked = raglan(path, &["check", name]);
    let told = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.status.success() && told.contains("sound: ") && told.contains(remedy), "{told}");
    assert_eq!(json(path, &["check", name])["lacks"], remedy);
    let collection = ["eval", "beir", "--path", "nowhere", "--recipe", name];
    for args in [&["run", name, "goods"][..], &["search", "goods", "--recipe", name], &collection] {
        let output = raglan(path, args);
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && told.contains(remedy), "{args:?}: {told}");
    }
    // A folder that is there is looked into when the recipe runs.
    std::fs::create_dir(path.join("mine")).unwrap();
    let with_mine = [name, "--set", "judged.model=./mine"];
    assert_eq!(json(path, &[&["check"], &with_mine[..]].concat())["lacks"], Value::Null);
    let output = raglan(path, &[&["run"], &with_mine[..], &["goods"]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && told.contains("mine"), "{told}");
    // So is the device that is to compute it, and before that.
    let output = raglan(path, &[&["run", "--device", "cuda"], &with_mine[..], &["goods"]].concat());
    let told = String::from_utf8(output.stderr).unwrap();
    let is_asked_for = told.contains("without kernels for NVIDIA devices") || told.contains("no CUDA device");
    assert!(output.status.code() == Some(2) && (is_asked_for || told.contains("mine")), "{told}");
    if !cfg!(feature = "cuda") {
        let lacks = json(path, &[&["check", "--device", "cuda"], &with_mine[..]].concat())["lacks"].to_string();
        assert!(is_asked_for && lacks.contains("--features cuda"), "{told} {lacks}");
    }
    // One that is fetched by its address need not be here yet.
    let hub = [name, "--set", "judged.model=hf:owner/repo/model.safetensors"];
    assert_eq!(json(path, &[&["check"], &hub[..]].concat())["lacks"], Value::Null);
    let unknown = [name, "--set", "judged.model=ms-marco"];
    let lacks = json(path, &[&["check"], &unknown[..]].concat())["lacks"].as_str().unwrap().to_owned();
    assert!(lacks.contains("no model is called `ms-marco`") && lacks.contains("judged.model=FOLDER"), "{lacks}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_trace_that_cannot_be_written_is_said_and_loses_nothing() {
    let folder = folder();
    let path = folder.path();
    assert_eq!(raglan(path, &["index", "."]).status.code(), Some(0));
    std::fs::write(path.join("r.toml"), RECIPE).unwrap();
    let run = |trace: &str| {
        let output = raglan(path, &["run", "r.toml", "goods", "--trace", trace, "--json"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, found, told) = run("/dev/full");
    assert!(code == Some(0) && found.contains("returns.txt"), "{code:?}: {found}");
    assert_eq!(told.matches("warning: the trace in `/dev/full` is not whole: ").count(), 1, "{told}");
    assert_eq!(run("spans.jsonl"), (code, found, String::new()));
    let (code, _, told) = run("nowhere/spans.jsonl");
    assert!(code == Some(2) && told.contains("nowhere/spans.jsonl"), "{told}");
}
