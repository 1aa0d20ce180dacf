//! The command's manners: exit codes, JSON, settings, and what changes between two runs.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub fn raglan(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command
        .args(args)
        .current_dir(folder)
        .env("RAGLAN_EMBEDDER", "none")
        .env("NO_COLOR", "1")
        .env_remove("RAGLAN_INDEX");
    command.output().unwrap()
}

#[track_caller]
pub fn json(folder: &Path, args: &[&str]) -> Value {
    let output = raglan(folder, &[args, &["--json"]].concat());
    assert_ne!(output.status.code(), Some(2), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("warranty.md", "# Warranty\n\nThe warranty lasts twenty-four months from the day of delivery.\n");
    write("returns.txt", "Goods may be returned within thirty days.\n");
    write("lib.rs", "/// Reads the manifest.\npub fn read_manifest(path: &str) -> u32 { path.len() as u32 }\n");
    folder
}

#[cfg(target_os = "linux")]
#[test]
fn what_nobody_can_hear_does_not_stop_the_work() {
    let folder = folder();
    for (args, code) in [(&["index", "."][..], 0), (&["search", "warranty"], 0), (&["search", "-f", "nowhere", "x"], 2)]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
        command.args(args).current_dir(folder.path()).env("RAGLAN_EMBEDDER", "none").env_remove("RAGLAN_INDEX");
        let output = command.stderr(full).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert_eq!(output.stdout.is_empty(), code == 2, "{args:?}");
    }
}

#[test]
fn a_form_of_the_kernels_that_there_is_not_is_refused() {
    let folder = folder();
    for (name, code) in [("portable", 0), ("", 0), ("abacus", 2)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
        command.args(["index", "."]).current_dir(folder.path()).env("RAGLAN_EMBEDDER", "none").env("RAGLAN_CPU", name);
        let output = command.env_remove("RAGLAN_INDEX").output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {error}");
        assert!(
            code == 0 || error.contains("`abacus`") && error.contains("avx2, ") && error.contains("portable"),
            "{error}"
        );
    }
}

#[test]
fn a_folder_is_indexed_searched_and_brought_up_to_date() {
    let folder = folder();
    let path = folder.path();
    let report = json(path, &["index", "."]);
    assert_eq!((report["found"].as_u64(), report["new"].as_u64()), (Some(3), Some(3)));
    assert_eq!(json(path, &["index", "."])["unchanged"], 3);

    let found = json(path, &["search", "how long is the warranty"]);
    let best = &found["results"][0];
    assert_eq!(best["path"], "warranty.md");
    let text = std::fs::read_to_string(path.join("warranty.md")).unwrap();
    let span = best["start"].as_u64().unwrap() as usize..best["end"].as_u64().unwrap() as usize;
    assert_eq!(best["text"], text[span]);
    assert_eq!(json(path, &["search", "read_manifest"])["results"][0]["path"], "lib.rs");
    assert_eq!(json(path, &["search", "manifest", "--format", "markdown"])["results"], Value::Array(vec![]));
    assert_eq!(json(path, &["search", "warranty", "--path", "w*"])["results"].as_array().unwrap().len(), 1);
    assert_eq!(json(path, &["search", "warranty", "--path", "/sub/w*"])["results"], Value::Array(vec![]));

    std::fs::rename(path.join("returns.txt"), path.join("sent-back.txt")).unwrap();
    std::fs::write(path.join("lib.rs"), "pub fn write_ledger() {}\n").unwrap();
    std::fs::remove_file(path.join("warranty.md")).unwrap();
    let report = json(path, &["index", "."]);
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!((count("moved"), count("changed"), count("deleted"), count("unchanged")), (1, 1, 1, 0), "{report}");
    assert_eq!(json(path, &["search", "returned"])["results"][0]["path"], "sent-back.txt");
    assert_eq!(json(path, &["search", "warranty"])["results"], Value::Array(vec![]));
    assert_eq!(json(path, &["verify"])["clean"], true);
    assert_eq!(json(path, &["status"])["documents"], 2);
}

#[test]
fn options_without_effect_are_told_or_refused() {
    let folder = folder();
    let path = folder.path();
    json(path, &["index", "."]);
    let told = |args: &[&str]| String::from_utf8(raglan(path, args).stderr).unwrap();
    let unused = told(&["search", "goods", "--recipe", "bm25", "--fusion", "min-max"]);
    assert_eq!(
        unused.matches("`--fusion min-max` does nothing here: `bm25` has no stage `fuse`").count(),
        1,
        "{unused}"
    );
    assert!(told(&["verify", "--sample", "5"]).contains("--recall"));
}

#[test]
fn exit_codes_tell_found_from_not_found_from_failed() {
    let folder = folder();
    let path = folder.path();
    let code = |args: &[&str]| raglan(path, args).status.code().unwrap();
    assert_eq!(code(&["search", "anything"]), 2, "there is no index yet");
    assert_eq!(code(&["index", "."]), 0);
    assert_eq!(code(&["search", "goods"]), 0);
    assert_eq!(code(&["search", "xylophone"]), 1);
    assert_eq!(code(&["search", "goods", "-k", "many"]), 2);
    assert_eq!(code(&["search", "goods", "-k", "0"]), 2);
    assert_eq!(code(&["search", " "]), 2);
    assert_eq!(code(&["index", "nowhere"]), 2);
    assert_eq!(code(&["check", "hybrid"]), 0);
    assert_eq!(code(&["search", "goods", "--recipe", "dense"]), 2, "the index has no vectors");
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let folder = folder();
    let path = folder.path();
    let error = |args: &[&str]| String::from_utf8(raglan(path, args).stderr).unwrap();
    assert!(error(&["search", "x"]).contains("raglan index"), "{}", error(&["search", "x"]));
    raglan(path, &["index", "."]);
    let other = error(&["index", ".", "--chunk-tokens", "64"]);
    assert!(other.contains("--rebuild") && other.contains("max_tokens=64"), "{other}");
    std::fs::write(path.join("mine.toml"), "[stage.found]\nuse = \"bm26\"\n").unwrap();
    let recipe = error(&["check", "mine.toml"]);
    assert!(recipe.contains("mine.toml:2:") && recipe.contains("bm25"), "{recipe}");
    std::fs::write(path.join("raglan.toml"), "chunk_tokens = 3\n").unwrap();
    let setting = error(&["status"]);
    assert!(setting.contains("raglan.toml") && setting.contains("chunk-tokens"), "{setting}");
}

#[test]
fn options_that_do_not_fit_are_told_before_anything_is_read() {
    let folder = folder();
    let path = folder.path();
    let recipe = "[stage.a]\nuse = 'generate'\ninput = 'b'\ntop_p = 0.0\n[stage.b]\nuse = 'bm25'\nk = 3\n";
    std::fs::write(path.join("mine.toml"), recipe).unwrap();
    for (options, told) in [
        (&["--max-tokens", "0"][..], "`--max-tokens 0`: expected a whole number from 1"),
        (&["--top-p", "0"], "`--top-p 0`: expected a number above 0, up to 1"),
        (&["--temperature", "-0.5"], "`--temperature -0.5`: expected a number from 0 to 100"),
        (&["--max-tokens", "300", "--context-tokens", "300"], "`--context-tokens`, 300, counts prompt and answer"),
        (&["--recipe", "mine.toml"], "mine.toml:4:9: `top_p` must be from just above 0 to 1"),
    ] {
        let output = raglan(path, &[&["ask", "-f", ".", "How long?"], options].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && error.contains(told), "{error}");
        assert!(!path.join(".raglan").exists());
    }
}

#[test]
fn a_first_index_that_fails_on_a_damaged_model_binds_to_nothing() {
    let folder = folder();
    let path = folder.path();
    let model = tempfile::tempdir().unwrap();
    let config = r#"{"model_type": "bert", "vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "hidden_act": "gelu", "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12}"#;
    for (name, text) in [("config.json", config), ("tokenizer.json", "{"), ("model.safetensors", "damaged")] {
        std::fs::write(model.path().join(name), text).unwrap();
    }
    let output = raglan(path, &["index", ".", "--embedder", model.path().to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && error.contains("compare the file with"), "{error}");
    assert!(path.join(".raglan/manifest.json").exists());
    assert_eq!(json(path, &["index", ".", "--embedder", "none"])["new"], 3);
}

#[test]
fn an_index_that_is_named_must_be_there_for_the_doctor() {
    let folder = folder();
    let path = folder.path();
    let index = |args: &[&str]| {
        let output = raglan(path, &[args, &["--json", "--cache", "models"]].concat());
        let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
        let index = findings.as_array().unwrap().iter().find(|finding| finding["what"] == "index").unwrap().clone();
        (output.status.code(), index["ok"].clone(), index["found"].as_str().unwrap().to_owned())
    };
    let (code, ok, found) = index(&["doctor"]);
    assert!((code, ok) == (Some(0), Value::Null) && found.contains("raglan index FOLDER"), "{found}");
    for args in [["doctor", "-f", "."], ["doctor", "-f", "nowhere"]] {
        let (code, ok, found) = index(&args);
        assert_eq!((code, ok), (Some(1), false.into()), "{found}");
    }
    raglan(path, &["index", "."]);
    let (code, ok, found) = index(&["doctor", "-f", "."]);
    assert!((code, ok) == (Some(0), true.into()) && found.contains("clean"), "{found}");
}

#[test]
fn a_folder_without_weights_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir(path.join("mine")).unwrap();
    for name in [None, Some("config.json")] {
        name.into_iter().for_each(|name| std::fs::write(path.join("mine").join(name), "{}").unwrap());
        let output = raglan(path, &["models", "pull", "./mine"]);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("mine` holds no model: no file ends with .gguf, .safetensors, .onnx"), "{told}");
    }
    std::fs::write(path.join("mine/model.gguf"), "GGUF").unwrap();
    assert_eq!(json(path, &["models", "pull", "./mine"])[0]["name"], "./mine");
}

#[test]
fn explain_says_why_and_why_not() {
    let folder = folder();
    let path = folder.path();
    raglan(path, &["index", "."]);
    let why = json(path, &["explain", "warranty months", "warranty.md"]);
    assert_eq!(why["chunks"][0]["bm25"]["rank"], 1);
    assert_eq!(why["chunks"][0]["found"], true);
    assert_eq!(why["recipe"], "bm25");
    let why_not = json(path, &["explain", "warranty months", "returns.txt"]);
    assert_eq!(why_not["chunks"][0]["bm25"], Value::Null);
    assert_eq!(why_not["chunks"][0]["found"], false);

    // The score that is explained is the recipe's own.
    std::fs::write(path.join("own.toml"), "[stage.words]\nuse = 'bm25'\nk1 = 0.5\nb = 0.25\n").unwrap();
    let own = json(path, &["explain", "warranty months", "warranty.md", "--recipe", "own.toml"]);
    let chunk = &own["chunks"][0];
    assert_eq!((chunk["bm25"]["k1"].as_f64(), chunk["bm25"]["b"].as_f64()), (Some(0.5), Some(0.25)), "{own}");
    assert_eq!(chunk["bm25"]["score"], chunk["stages"][0]["place"]["score"], "{own}");
}

#[test]
fn quotes_are_checked_against_the_files() {
    let folder = folder();
    let path = folder.path();
    let text = std::fs::read_to_string(path.join("returns.txt")).unwrap();
    let source = |path: &str, start: usize, end: usize, text: &str| serde_json::json!({ "path": path, "locator": {}, "start": start, "end": end, "span_of": "file", "text": text, "score": 1.0 });
    let answer = serde_json::json!({ "sources": [
        source("returns.txt", 0, 9, &text[..9]),
        source("returns.txt", 0, 5, &text[6..11]),
        source("gone.txt", 0, 1, "x"),
        source("../outside.txt", 0, 1, "x"),
    ]});
    std::fs::write(path.join("answer.json"), answer.to_string()).unwrap();
    let checked = json(path, &["verify", "-f", ".", "--answer", "answer.json"]);
    let states: Vec<_> =
        checked["quotes"].as_array().unwrap().iter().map(|quote| quote["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["ok", "changed", "missing", "missing"]);
    assert_eq!(checked["quotes"][1]["now_at"], 6);
}

#[test]
fn a_claimed_source_must_be_there() {
    let folder = folder();
    let path = folder.path();
    let check = |source: Value, attribution: &str| {
        let sentence =
            serde_json::json!({ "text": "So it is.", "source": source, "support": 0.9, "attribution": attribution });
        let answer = serde_json::json!({ "sources": [], "sentences": [sentence] });
        std::fs::write(path.join("answer.json"), answer.to_string()).unwrap();
        let output = raglan(path, &["verify", "-f", ".", "--answer", "answer.json"]);
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, told) = check(0.into(), "cited");
    assert!(code == 1 && told.contains("no source for: So it is."), "{told}");
    let (code, told) = check(Value::Null, "unsupported");
    assert!(code == 0 && told.contains("no sources"), "{told}");
}

#[test]
fn spans_say_what_their_bytes_are_of() {
    let folder = folder();
    let path = folder.path();
    std::fs::write(path.join("page.html"), "<html><body><p>A walrus is on this page.</p></body></html>").unwrap();
    std::fs::write(path.join("old.txt"), b"Le caf\xe9 est ferm\xe9, dit le morse de la for\xeat.").unwrap();
    raglan(path, &["index", "."]);
    let of = |query: &str| json(path, &["search", query])["results"][0]["span_of"].clone();
    assert_eq!((of("warranty"), of("walrus"), of("morse")), ("file".into(), "text".into(), "text".into()));
    let listed = json(path, &["chunks", "page.html"])[0].clone();
    assert_eq!(listed["span_of"], "text");
    let found = json(path, &["search", "walrus"])["results"][0].clone();
    for key in ["chunk", "path", "locator", "start", "end", "text"] {
        assert_eq!(listed[key], found[key]);
    }
    let told = String::from_utf8(raglan(path, &["search", "walrus"]).stdout).unwrap();
    assert!(told.contains("text bytes"), "{told}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_of_one_line() {
    let folder = folder();
    let path = folder.path();
    raglan(path, &["index", "."]);
    for args in [&["chunks"][..], &["search", "warranty"], &["completions", "bash"], &["chunks", "--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
        let output = command.args(args).args(["-q"]).current_dir(path).stdout(full).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains("error: ") && !told.contains("panicked"), "{args:?}: {told}");
    }
}

#[test]
fn an_empty_index_is_not_one_without_matches() {
    let folder = tempfile::tempdir().unwrap();
    raglan(folder.path(), &["index", "."]);
    let output = raglan(folder.path(), &["search", "anything"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("holds no passages"));
}

#[test]
fn what_is_no_document_is_left_out() {
    let folder = folder();
    let path = folder.path();
    let elsewhere = path.join("index-of-notes");
    std::fs::create_dir(path.join("notes")).unwrap();
    std::fs::write(path.join("notes/a.txt"), "A note.\n").unwrap();
    raglan(path, &["index", "notes", "--index", elsewhere.to_str().unwrap()]);
    std::fs::write(path.join("broken.docx"), b"PK\x03\x04 and no more").unwrap();
    let report = json(path, &["index", "."]);
    let skipped = report["skipped"].as_array().unwrap();
    assert_eq!(report["documents"], 4, "{report}");
    let reason = |path: &str| skipped.iter().find(|s| s["path"] == path).unwrap()["reason"].as_str().unwrap();
    assert!(reason("index-of-notes").contains("index of raglan"));
    assert!(reason("broken.docx").contains("damaged or not a DOCX"));
}

#[test]
fn an_index_is_of_one_folder_wherever_that_is_moved() {
    let (here, there) = (folder(), tempfile::tempdir().unwrap());
    let path = here.path();
    std::fs::create_dir(path.join("other")).unwrap();
    std::fs::write(path.join("other/only.txt"), "Another folder's only text.\n").unwrap();
    raglan(path, &["index", "."]);
    let refused = raglan(path, &["index", "other", "--index", ".raglan"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("other`") && told.contains("--index") && told.contains("--rebuild"), "{told}");
    assert_eq!(json(path, &["status"])["documents"], 4);
    assert_eq!(json(path, &["index", "other", "--index", ".raglan", "--rebuild"])["documents"], 1);
    json(path, &["index", ".", "--rebuild"]);

    let moved = there.path().join("moved");
    std::fs::rename(path, &moved).unwrap();
    assert_eq!(json(&moved, &["index", "."])["unchanged"], 4);
    assert_eq!(json(&moved, &["status"])["folder"], moved.canonicalize().unwrap().to_str().unwrap());
    std::fs::create_dir(path).unwrap(); // For its owner to remove.
}

#[test]
fn an_index_goes_on_with_the_settings_it_was_made_with() {
    let folder = folder();
    let path = folder.path();
    let made = json(path, &["index", ".", "--exclude", "*.rs", "--chunk-tokens", "64"]);
    assert_eq!(made["documents"], 2);
    let again = json(path, &["index", "."]);
    assert_eq!((again["unchanged"].as_u64(), again["documents"].as_u64()), (Some(2), Some(2)));
    let settings = json(path, &["status", "--print-config"]);
    let exclude = settings.as_array().unwrap().iter().find(|setting| setting["key"] == "exclude").unwrap();
    assert_eq!(exclude["value"], "*.rs");
    assert!(exclude["from"].as_str().unwrap().contains(".raglan"));
    assert_eq!(json(path, &["status"])["passport"]["settings"]["chunk-tokens"], "64");
    assert_eq!(json(path, &["index", ".", "--exclude", ""])["documents"], 3);
    assert_eq!(json(path, &["index", "."])["documents"], 3);
}

#[test]
fn truth_values_have_several_spellings() {
    let folder = folder();
    std::fs::write(folder.path().join("raglan.toml"), "hidden = \"yes\"\nexclude = [\"*.rs\", \"*.md\"]\n").unwrap();
    std::fs::write(folder.path().join(".secret.txt"), "hidden\n").unwrap();
    let indexed = json(folder.path(), &["index", "."]);
    assert_eq!(indexed["documents"], 2, "{indexed}");
    let mut offline = Command::new(env!("CARGO_BIN_EXE_raglan"));
    assert!(offline.args(["--print-config"]).env("RAGLAN_OFFLINE", "1").status().unwrap().success());
}

#[test]
fn settings_say_where_they_are_from() {
    let folder = folder();
    std::fs::write(folder.path().join("raglan.toml"), "chunk-tokens = 99\n").unwrap();
    let settings = json(folder.path(), &["--print-config"]);
    let of = |key: &str| settings.as_array().unwrap().iter().find(|s| s["key"] == key).unwrap().clone();
    assert_eq!(of("embedder")["from"], "RAGLAN_EMBEDDER");
    assert_eq!(of("chunk-tokens")["value"], "99");
    assert!(of("chunk-tokens")["from"].as_str().unwrap().ends_with("raglan.toml"));
    assert_eq!(of("language")["from"], "default");
}
