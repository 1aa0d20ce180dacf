use std::sync::Arc;

use raglan_datasets::planted::{Filler, PlantedSet, planted};
use raglan_generate::{GenerateOptions, LanguageModel};
use raglan_model::Products;
use raglan_model::registry::ModelCache;

use super::*;

/// The small model in single precision, when it is in the cache; says so when it is not.
fn generator() -> Option<ChatGenerator> {
    let found = ModelCache::new(None, true).and_then(|cache| cache.path("smollm2-135m-instruct"));
    let folder = match found {
        Ok(folder) => folder,
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped, for want of the model: {e}");
            return None;
        }
    };
    let model = LanguageModel::load(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"), 2, Products::F32).unwrap();
    Some(ChatGenerator::new(Arc::new(model), GenerateOptions::default()).unwrap())
}

fn options(methods: &[&str]) -> KvEvaluationOptions {
    KvEvaluationOptions {
        methods: methods.iter().map(|method| method.parse().unwrap()).collect(),
        captures: vec![KvCapture::Alone, KvCapture::Prefix],
        n_prompts: 2,
        n_tokens: 6,
        passage_tokens: Some(24),
        precision: BlockPrecision::F32,
        replaced: 1.0, // Every neighbour was another one.
        seed: 3,
        tier: KvTier::Memory,
    }
}

fn questions() -> Vec<ContextQuestion> {
    planted(PlantedSet::TwoChunks, 4, 4, &Filler::BuiltIn, 3)
}

#[test]
fn what_computes_all_anew_is_the_full_prompt() {
    let Some(generator) = generator() else { return };
    let all = ["full", "prefix", "random=1", "blend=1", "focus=1", "cache-craft=inf"];
    let options = options(&all);
    let questions = questions();
    let evaluator = Evaluator {
        generator: &generator,
        model: &generator.model().transformer,
        questions: &questions,
        options: &options,
    };
    let context = context_of(&generator, &questions[0], options.passage_tokens).unwrap();
    let prompt = generator.prompt(&context).unwrap();
    let reference = evaluator.reference(&questions[0], &prompt).unwrap();
    let full = evaluator.read(&prompt, &reference, ReuseMethod::Full, &no_blocks(&prompt)).unwrap().1;
    for (method, capture) in runs(&options) {
        let blocks = capture.map(|capture| evaluator.captured(0, capture, &prompt, &reference.prefix).unwrap());
        let logits =
            evaluator.read(&prompt, &reference, method, &blocks.unwrap_or_else(|| no_blocks(&prompt))).unwrap().1;
        let difference = full.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let is_whole = method != ReuseMethod::Naive;
        assert_eq!(difference <= 1e-3, is_whole, "{method} {capture:?}: {difference}");
    }
}

#[test]
fn methods_are_scored_against_the_full_prompt() {
    let Some(generator) = generator() else { return };
    let mut done = Vec::new();
    let options = KvEvaluationOptions { tier: KvTier::Disk, ..options(&["full", "focus=0.2"]) };
    let evaluation = evaluate_kv(&generator, &questions(), &options, &mut |n| {
        done.push(n);
        true
    })
    .unwrap();
    assert_eq!((evaluation.n_prompts, done), (2, vec![0, 1, 2]));
    assert_eq!(evaluation.cold, Some(cfg!(target_os = "linux")));
    let labels: Vec<String> = evaluation.rows.iter().map(KvRow::label).collect();
    assert_eq!(labels, ["full", "naive (prefix)", "focus=0.2 (alone)", "focus=0.2 (prefix)"]);
    let [full, naive, _, focus] = &*evaluation.rows else { panic!("there are four rows") };
    assert_eq!((full.recompute_share, full.kl_mean, full.greedy_equal, full.top1), (1.0, 0.0, 1.0, 1.0));
    assert_eq!((full.f1_difference, full.block_bytes, full.versus_naive), (0.0, 0.0, None));
    assert_eq!((naive.recompute_share, naive.versus_random), (0.0, None));
    assert!(naive.kl_mean > 1e-6 && naive.block_bytes > 0.0, "{naive:?}");
    assert!((focus.recompute_share - 0.2).abs() <= 0.02, "{}", focus.recompute_share);
    let (naive_is, random_is) = (focus.versus_naive.unwrap(), focus.versus_random.unwrap());
    assert!((naive_is.other_kl - naive.kl_mean).abs() <= 1e-12 && random_is.other_kl > 0.0);
    assert!(focus.kl_mean < naive.kl_mean, "{} {}", focus.kl_mean, naive.kl_mean);
    let interrupted = evaluate_kv(&generator, &questions(), &options, &mut |n| n == 0);
    assert!(matches!(interrupted, Err(Error::Generate(raglan_generate::Error::Interrupted))));
}
