//! The default models as judges.
//!
//! The tests run when the model is in the cache, say so when it is not, and fail then if `RAGLAN_REQUIRE_MODELS` is set.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_model::registry::{ModelCache, Silent};
use raglan_model::{
    ClassificationHead, EncoderModel, EncoderModelConfig, LanguageModel, Products, SafetensorsFile, Tokenizer,
};
use raglan_rerank::{Budget, CrossEncoder, Error, Judge, QueryLikelihood, Task, Verdict};
use serde_json::{Value, json};

fn model() -> Option<PathBuf> {
    let cache = ModelCache::new(None, true).unwrap();
    match cache.ensure("smollm2-135m-instruct", &Silent) {
        Ok(files) => files.files.into_values().find(|path| path.extension().is_some_and(|end| end == "gguf")),
        Err(error) => {
            assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{error}");
            eprintln!("skipped, for want of the model: {error}");
            None
        }
    }
}

#[test]
fn a_question_is_likeliest_after_the_passage_that_answers_it() {
    let Some(path) = model() else { return };
    let model = Arc::new(LanguageModel::load(path, 2, Products::Stored).unwrap());
    let judge = QueryLikelihood::new(model, 100).unwrap();
    let passages = [
        "The Eiffel Tower was finished in 1889 and is 330 metres tall.",
        "Bread is baked from flour, water, yeast and salt.",
        "The octopus has three hearts, and its blood is blue.",
        "Basalt is a rock that forms when lava cools quickly.",
    ];
    let questions = [
        "How tall is the Eiffel Tower?",
        "What is bread made of?",
        "How many hearts does an octopus have?",
        "How does basalt form?",
    ];
    let tasks = questions.map(|question| Task { question, passages: &passages, chunks: &[] });
    for (i, judged) in judge.judge(&tasks, &Budget::default()).unwrap().iter().enumerate() {
        assert_eq!(judged.verdict.ranked(4)[0].0, i, "{}", questions[i]);
    }
}

#[test]
fn a_model_without_a_head_is_no_cross_encoder() {
    let cache = ModelCache::new(None, true).unwrap();
    let Ok(files) = cache.ensure("all-minilm-l6-v2", &Silent) else {
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none());
        return eprintln!("skipped, for want of the model");
    };
    let error = CrossEncoder::load(&files.dir, Products::Stored, 1, None).unwrap_err();
    assert!(matches!(error, Error::NoHead { .. }), "{error}");
}

/// The default encoder's folder with a head of one class, which weighs all of the pooler's outputs alike.
fn cross_encoder(from: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let end = bytes.len() - 8 - n;
    let weight: Vec<u8> = (0..384).flat_map(|_| 1f32.to_le_bytes()).collect();
    let middle = end + weight.len();
    header["classifier.weight"] = json!({"dtype": "F32", "shape": [1, 384], "data_offsets": [end, middle]});
    header["classifier.bias"] = json!({"dtype": "F32", "shape": [1], "data_offsets": [middle, middle + 4]});
    let header = header.to_string().into_bytes();
    let parts = [&(header.len() as u64).to_le_bytes(), &*header, &bytes[8 + n..], &weight, &[0; 4]];
    std::fs::write(folder.path().join("model.safetensors"), parts.concat()).unwrap();
    folder
}

#[test]
fn pairs_are_scored_each_by_itself() {
    let cache = ModelCache::new(None, true).unwrap();
    let Ok(files) = cache.ensure("all-minilm-l6-v2", &Silent) else {
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none());
        return eprintln!("skipped, for want of the model");
    };
    let folder = cross_encoder(&files.dir);
    let judge = CrossEncoder::load(folder.path(), Products::Stored, 2, None).unwrap();
    let long = "A very long passage. ".repeat(400);
    let passages = ["Bread is baked.", &long, "", "The octopus has three hearts.", "Bread is baked."];
    let task = Task { question: "What is baked?", passages: &passages, chunks: &[] };
    let judged = &judge.judge(&[task], &Budget::default()).unwrap()[0];
    let Verdict::Scores(scores) = &judged.verdict else { panic!("it scores") };
    assert_eq!((judged.cost.calls, scores[0]), (5, scores[4]));
    assert_ne!(scores[0], scores[3]);
    for (i, passage) in passages.iter().enumerate() {
        let alone = Task { question: task.question, passages: &[passage], chunks: &[] };
        assert_eq!(judge.judge(&[alone], &Budget::default()).unwrap()[0].verdict, Verdict::Scores(vec![scores[i]]));
    }
    // What the parts give of the first pair.
    let config = EncoderModelConfig::from_file(folder.path().join("config.json")).unwrap();
    let file = SafetensorsFile::open(folder.path()).unwrap();
    let head = ClassificationHead::from_safetensors(&file, &config, Products::Stored).unwrap();
    let model = EncoderModel::from_safetensors(&file, config, Products::Stored).unwrap();
    let tokenizer = Tokenizer::from_file(folder.path().join("tokenizer.json")).unwrap();
    let pair = tokenizer.encode_pair(task.question, passages[0], 512).unwrap();
    let hidden = model.hidden_states_of_pairs(&[&pair.ids], &[&pair.token_types]).unwrap();
    assert_eq!(Some(head.logits(&hidden).unwrap()[0]), scores[0]);
    let few = judge.judge(&[task], &Budget { tokens: Some(pair.ids.len()), time: None }).unwrap();
    let first = Verdict::Scores(vec![scores[0], None, None, None, None]);
    assert_eq!(few[0].verdict, first, "what the budget has room for is judged");
    let none = judge.judge(&[task], &Budget { tokens: Some(pair.ids.len() - 1), time: None }).unwrap();
    assert_eq!(none[0].verdict, Verdict::Scores(vec![None; 5]));
}
