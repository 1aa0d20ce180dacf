//! The default models as judges.
//!
//! The tests run when the model is in the cache, say so when it is not, and fail then if `RAGLAN_REQUIRE_MODELS` is set.

use std::path::PathBuf;
use std::sync::Arc;

use raglan_model::registry::{ModelCache, Silent};
use raglan_model::{LanguageModel, Products};
use raglan_rerank::{Budget, CrossEncoder, Error, Judge, QueryLikelihood, Task};

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
    let tasks = questions.map(|question| Task { question, passages: &passages });
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
    let error = CrossEncoder::load(&files.dir, Products::Stored, 1).unwrap_err();
    assert!(matches!(error, Error::NoHead { .. }), "{error}");
}
