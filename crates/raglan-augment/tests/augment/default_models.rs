//! The default models at work.
//!
//! The tests run when the models are in the cache, say so when they are not, and fail then if `RAGLAN_REQUIRE_MODELS` is
//! set.

use std::path::PathBuf;
use std::sync::Arc;

use raglan_augment::{
    LexicalGate, ModelRewriter, PromptReps, PromptRepsOptions, QuestionOptions, QuestionWriter, Rewriting,
};
use raglan_core::{Budget, ChunkId, QueryRewriter};
use raglan_model::registry::{ModelCache, ModelFiles, Silent};
use raglan_model::{ChatModel, LanguageModel, Products};

fn files(model: &str) -> Option<ModelFiles> {
    match ModelCache::new(None, true).unwrap().ensure(model, &Silent) {
        Ok(files) => Some(files),
        Err(error) => {
            assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{error}");
            eprintln!("skipped, for want of the model: {error}");
            None
        }
    }
}

fn language_model() -> Option<Arc<LanguageModel>> {
    let paths = files("smollm2-135m-instruct")?.files.into_values();
    let path: PathBuf = paths.into_iter().find(|path| path.extension().is_some_and(|end| end == "gguf"))?;
    Some(Arc::new(LanguageModel::load(path, 2, Products::Stored).unwrap()))
}

const PASSAGES: [&str; 4] = [
    "The Eiffel Tower was finished in 1889 and is 330 metres tall.",
    "Bread is baked from flour, water, yeast and salt.",
    "The octopus has three hearts, and its blood is blue.",
    "Basalt is a rock that forms when lava cools quickly.",
];

#[test]
fn the_language_model_writes_what_it_is_asked_for() {
    let Some(model) = language_model() else { return };
    let writer = Arc::new(ChatModel::new(model));
    let kinds = [
        Rewriting::Keywords,
        Rewriting::HypotheticalDocument { n: 1, max_tokens: 32, temperature: 0.0 },
        Rewriting::Paraphrases { n: 2, temperature: 0.7 },
        Rewriting::Decomposition { n: 3 },
    ];
    for kind in kinds {
        let rewriter = ModelRewriter::new(writer.clone(), kind.clone(), 0, Budget::default()).unwrap();
        let texts = rewriter.rewrite(&["Which is older, the Eiffel Tower or Big Ben?"]).unwrap();
        println!("{kind:?}: {texts:#?}");
        assert!(!texts[0].is_empty(), "{kind:?}");
        assert!(rewriter.spent().tokens_written > 0);
    }
    let options = QuestionOptions { n: 2, ..QuestionOptions::default() };
    let writer = QuestionWriter::new(writer, options).unwrap();
    let written = writer.write(&[(ChunkId(2), PASSAGES[2])], &Budget::default()).unwrap();
    println!("{written:#?}");
    assert!(!written.questions.is_empty());
}

#[test]
fn a_query_is_nearest_to_the_passage_about_it() {
    let Some(model) = language_model() else { return };
    let reps = PromptReps::new(model, PromptRepsOptions::default()).unwrap();
    let passages = reps.passages(&PASSAGES).unwrap();
    let queries = ["How tall is the tower in Paris?", "flour and yeast", "hearts of an octopus", "lava rock"];
    let found = reps.queries(&queries).unwrap();
    let (mut by_dense, mut by_sparse) = (0, 0);
    for (i, query) in found.iter().enumerate() {
        let best = |scores: Vec<f64>| (0..4).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        let dense = passages.iter().map(|passage| passage.dense.cosine(&query.dense)).collect();
        let dot = |passage: &raglan_augment::Representation| {
            let weight = |term: &u32| {
                let at = passage.sparse.terms().binary_search(term).ok()?;
                Some(f64::from(passage.sparse.weights()[at]))
            };
            let terms = query.sparse.terms().iter().zip(query.sparse.weights());
            terms.map(|(term, own)| weight(term).unwrap_or(0.0) * f64::from(*own)).sum::<f64>()
        };
        println!("{:?} {:?}", query.sparse, dense);
        by_dense += usize::from(best(dense) == i);
        by_sparse += usize::from(best(passages.iter().map(dot).collect()) == i);
    }
    println!("of 4 queries the dense vectors find {by_dense}, the sparse ones {by_sparse}");
    assert!(by_sparse >= 3);
}

#[test]
fn the_gate_of_a_real_encoder_is_of_its_dimension() {
    let Some(files) = files("all-minilm-l6-v2") else { return };
    let gate = LexicalGate::of_encoder(&files.dir, vec![], 1.0).unwrap().gate("kv cache").unwrap();
    assert_eq!(gate.len(), 384);
    assert!((gate.iter().sum::<f32>() / 384.0 - 1.0).abs() <= 1e-4);
    assert!(gate.iter().any(|x| (x - 1.0).abs() > 0.01));
}
