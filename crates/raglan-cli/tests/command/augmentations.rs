//! What language models do for searching and answering, on the default model and a small folder: PromptReps, written
//! questions, answers in steps.
//!
//! These tests run when the default language model is in the cache, say so when it is not, and fail then if
//! `RAGLAN_REQUIRE_MODELS` is set.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn raglan(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--offline", "--quiet"]).current_dir(folder).env("NO_COLOR", "1");
    for variable in ["RAGLAN_INDEX", "RAGLAN_EMBEDDER", "RAGLAN_SPARSE"] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

#[track_caller]
fn json(folder: &Path, args: &[&str]) -> Value {
    let output = raglan(folder, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A folder with three texts; nothing where the models are not there.
fn folder(models: &[&str]) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    for model in models {
        let path = raglan(folder.path(), &["models", "path", model]);
        if !path.status.success() {
            let told = String::from_utf8_lossy(&path.stderr);
            assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
            eprintln!("skipped, for want of the model: {told}");
            return None;
        }
    }
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("tower.txt", "The Eiffel Tower was finished in 1889 and is 330 metres tall.\n");
    write("octopus.txt", "The octopus has three hearts, and its blood is blue.\n");
    write("bread.txt", "Bread is baked from flour, water, yeast and salt.\n");
    Some(folder)
}

#[test]
fn an_index_of_what_a_language_model_would_say_is_searched() {
    let Some(folder) = folder(&["smollm2-135m-instruct"]) else { return };
    let path = folder.path();
    let model = "promptreps:smollm2-135m-instruct";
    let index = raglan(path, &["index", ".", "--embedder", model, "--sparse", model]);
    assert!(index.status.success(), "{}", String::from_utf8_lossy(&index.stderr));
    let status = json(path, &["status"]);
    assert_eq!(status["passport"]["embedder"]["name"], model, "{status}");
    // The embeddings of so small a model find little; its words find what they name.
    for recipe in ["dense", "splade", "splade-if"] {
        let found = raglan(path, &["search", "hearts of an octopus", "--recipe", recipe, "--json"]);
        if recipe == "splade-if" {
            let told = String::from_utf8_lossy(&found.stderr);
            assert!(!found.status.success() && told.contains("inference-free"), "{told}");
            continue;
        }
        let found: Value = serde_json::from_slice(&found.stdout).unwrap();
        let paths: Vec<&str> =
            found["results"].as_array().unwrap().iter().map(|hit| hit["path"].as_str().unwrap()).collect();
        match recipe {
            "dense" => assert_eq!(paths.len(), 3, "{paths:?}"),
            _ => assert_eq!(paths[0], "octopus.txt", "{paths:?}"),
        }
    }
}

#[test]
fn questions_that_were_written_for_passages_find_them() {
    let Some(folder) = folder(&["smollm2-135m-instruct", "all-minilm-l6-v2"]) else { return };
    let path = folder.path();
    assert!(raglan(path, &["index", "."]).status.success());
    let written = json(path, &["questions", "--out", "questions.jsonl", "-n", "2", "--round-trip", "1"]);
    assert!(written["questions"].as_u64().unwrap() > 0 && written["chunks"] == 3, "{written}");
    let lines = std::fs::read_to_string(path.join("questions.jsonl")).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    let question = first["text"].as_str().unwrap();
    let found = json(path, &["search", question, "--recipe", "ablations/questions"]);
    assert_eq!(found["results"][0]["chunk"], first["chunk"], "{question}: {found}");
}

#[test]
fn questions_without_vectors_to_look_for_them_are_told_what_helps() {
    let Some(folder) = folder(&["smollm2-135m-instruct"]) else { return };
    let path = folder.path();
    assert!(raglan(path, &["index", ".", "--embedder", "none"]).status.success());
    let ask = |round_trip: &str| {
        let args = ["questions", "--out", "questions.jsonl", "-n", "1", "--limit", "1", "--round-trip", round_trip];
        raglan(path, &args)
    };
    let refused = ask("1");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("`--round-trip 0`") && told.contains("`raglan index --embedder=MODEL`"), "{told}");
    assert!(!path.join("questions.jsonl").exists());
    // The first remedy is one.
    let kept = ask("0");
    assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
    assert!(path.join("questions.jsonl").is_file());
}

#[test]
fn a_question_is_answered_in_steps_by_a_recipe() {
    let Some(folder) = folder(&["smollm2-135m-instruct", "all-minilm-l6-v2"]) else { return };
    let path = folder.path();
    let settings = ["answer.max_steps=1", "answer.step_tokens=16", "answer.answer_tokens=16"];
    let settings: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let ask = ["ask", "-f", ".", "--recipe", "self-ask", "When was the Eiffel Tower finished?"];
    let answer = json(path, &[&ask[..], &settings].concat());
    assert!(!answer["answer"].as_str().unwrap().is_empty(), "{answer}");
    assert!(answer["steps"].as_array().unwrap().len() >= 2, "{answer}");
    assert_eq!(answer["steps"][0]["queries"][0], "When was the Eiffel Tower finished?");
    let sources = answer["sources"].as_array().unwrap();
    assert!(sources.iter().any(|source| source["path"] == "tower.txt"), "{answer}");
    let gathered = answer["gathered"].as_array().unwrap();
    assert_eq!(gathered.len(), sources.len() + answer["left_out"].as_array().unwrap().len(), "{answer}");
    // People read the same answer, once, before how it was found.
    let told = raglan(path, &[&ask[..], &settings].concat());
    let told = String::from_utf8(told.stdout).unwrap();
    let (first, rest) = told.split_once("\n\nSteps\n").unwrap();
    assert!(first.trim_end() == answer["answer"] && rest.contains("tower.txt"), "{told}");
    // A search has no use for a recipe that only answers, and says its name.
    let refused = raglan(path, &["search", "tower", "--recipe", "self-ask"]);
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("`self-ask`"), "{told}");
    // Nor is there one prompt to show.
    let refused = raglan(path, &[&ask[..], &["--show-prompt"]].concat());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && told.contains("`self-ask` searches and answers in one stage"), "{told}");
    // Settings of answers hold, or are said to do nothing.
    let given = ["--max-tokens", "1", "--temperature", "0.7", "--json"];
    let short = raglan(path, &[&ask[..], &settings[..2], &given].concat());
    let told = String::from_utf8_lossy(&short.stderr);
    assert!(told.contains("`--temperature 0.7` does nothing here: `self-ask` answers in steps"), "{told}");
    let short: Value = serde_json::from_slice(&short.stdout).unwrap();
    assert_eq!(short["tokens"]["answer"], 1, "{short}");
    let steps = short["steps"].as_array().unwrap();
    let read: u64 = steps.iter().map(|step| step["cost"]["tokens_read"].as_u64().unwrap()).sum();
    let written: u64 = steps.iter().map(|step| step["cost"]["tokens_written"].as_u64().unwrap()).sum();
    assert_eq!(read + written, short["tokens"]["prompt"].as_u64().unwrap() + 1, "{short}");
    // What an answer has to say without any source is nothing to go by.
    let nothing =
        ["run", "self-ask", "-f", ".", "--set", "answer.budget_tokens=1", "When was the Eiffel Tower finished?"];
    let nothing = raglan(path, &nothing);
    let told = String::from_utf8_lossy(&nothing.stdout);
    assert!(nothing.status.code() == Some(1) && told.contains("no answer: "), "{nothing:?}");
}

#[test]
fn what_steps_gather_is_scored_beside_what_one_step_finds() {
    let Some(folder) = folder(&["smollm2-135m-instruct", "all-minilm-l6-v2"]) else { return };
    let path = folder.path();
    let set = path.join("set");
    std::fs::create_dir_all(set.join("qrels")).unwrap();
    let texts = ["tower.txt", "octopus.txt", "bread.txt"].map(|name| std::fs::read_to_string(path.join(name)).unwrap());
    let document =
        |(id, text): (&str, &String)| serde_json::json!({ "_id": id, "title": "", "text": text }).to_string();
    let corpus: Vec<String> = ["tower", "octopus", "bread"].into_iter().zip(&texts).map(document).collect();
    std::fs::write(set.join("corpus.jsonl"), corpus.join("\n")).unwrap();
    let queries = [("q1", "When was the Eiffel Tower finished?"), ("q2", "How many hearts has an octopus?")];
    let queries = queries.map(|(id, text)| serde_json::json!({ "_id": id, "text": text }).to_string());
    std::fs::write(set.join("queries.jsonl"), queries.join("\n")).unwrap();
    std::fs::write(set.join("qrels/test.tsv"), "query-id\tcorpus-id\tscore\nq1\ttower\t1\nq2\toctopus\t1\n").unwrap();
    let run = |recipe: &str, passages: &str, max_steps: &str| {
        let args = ["eval", "beir", "--path", "set", "--index", "set-index", "--out", "out", "--recipe", recipe];
        let mut args = args.to_vec();
        let set = [passages, max_steps, "step_tokens=16", "answer_tokens=8"].map(|of| format!("answer.{of}"));
        if recipe == "self-ask" {
            set.iter().for_each(|setting| args.extend(["--set", setting]));
        }
        let result = json(path, &args);
        let run = std::fs::read_to_string(path.join("out/run.trec")).unwrap();
        let documents: Vec<(String, String)> = run
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>())
            .map(|fields| (fields[0].clone(), fields[2].clone()))
            .collect();
        (result, documents)
    };
    let (one, found) = run("hybrid", "", "");
    let (result, gathered) = run("self-ask", "passages=1", "max_steps=1");
    assert_eq!(result["metrics"]["ndcg@10"], 1.0, "{result}");
    assert_eq!(one["metrics"].as_object().unwrap().len(), result["metrics"].as_object().unwrap().len());
    // The question is searched for first: what that finds in one step is the first that is gathered.
    for query in ["q1", "q2"] {
        let of = |list: &[(String, String)]| -> Vec<String> {
            list.iter().filter(|(id, _)| id == query).map(|(_, document)| document.clone()).collect()
        };
        let (found, gathered) = (of(&found), of(&gathered));
        assert_eq!(found[0], gathered[0]);
        assert!(gathered.len() <= 2 && gathered.iter().all(|document| found.contains(document)), "{gathered:?}");
    }
    assert_eq!(result["stages"][0]["name"], "answer", "{result}");
    assert!(result["model_cost"]["calls"].as_f64().unwrap() >= 2.0, "{result}");
    let models = |result: &Value| -> Vec<String> {
        result["models"].as_array().unwrap().iter().map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(models(&result), ["all-minilm-l6-v2", "smollm2-135m-instruct"]);
    assert_eq!(models(&one), ["all-minilm-l6-v2"]);
    // There are three passages: where one search finds all, no question of the model's own finds more.
    let (_, gathered) = run("self-ask", "passages=3", "max_steps=1");
    assert_eq!(gathered, found);
}
