use std::sync::Arc;

use raglan_datasets::planted::{Filler, PlantedSet, planted};
use raglan_generate::reuse::PassageOrder;
use raglan_generate::{GenerateOptions, LanguageModel};
use raglan_kv::CacheLimits;
use raglan_model::Products;
use raglan_model::registry::ModelCache;

use super::*;

/// The small model's file, when it is in the cache; says so when it is not.
fn path() -> Option<PathBuf> {
    let found = ModelCache::new(None, true).and_then(|cache| cache.path("smollm2-135m-instruct"));
    match found {
        Ok(folder) => Some(folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")),
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped, for want of the model: {e}");
            None
        }
    }
}

/// The small model in single precision.
fn generator() -> Option<ChatGenerator> {
    let model = LanguageModel::load(path()?, 2, Products::F32).unwrap();
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
    let stopped = evaluate_kv(&generator, &questions(), &options, &mut |n| n == 0).unwrap();
    assert_eq!((stopped.n_prompts, stopped.rows.len()), (1, evaluation.rows.len()));
    let interrupted = evaluate_kv(&generator, &questions(), &options, &mut |_| false);
    assert!(matches!(interrupted, Err(Error::Generate(raglan_generate::Error::Interrupted))));
}

#[test]
fn bytes_are_as_good_as_half_precision() {
    let Some(generator) = generator() else { return };
    let questions = questions();
    let options = options(&[]);
    let model = &generator.model().transformer;
    let evaluator = Evaluator { generator: &generator, model, questions: &questions, options: &options };
    for question in &questions {
        let context = context_of(&generator, question, options.passage_tokens).unwrap();
        let prompt = generator.prompt(&context).unwrap();
        let reference = evaluator.reference(question, &prompt).unwrap();
        let passages: Vec<&[u32]> =
            prompt.pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &*piece.ids).collect();
        let after = |precision| {
            let before = (&reference.prefix, &*prompt.pieces[0].ids);
            let blocks = raglan_model::capture(model, Default::default(), before, &passages, precision);
            let blocks: Captured = blocks.unwrap().into_iter().map(|block| vec![block]).collect();
            let (prefilled, first, _) = evaluator.read(&prompt, &reference, ReuseMethod::Naive, &blocks).unwrap();
            // The same text behind either.
            let mut cache = prefilled.cache;
            let rest = &reference.continuation.tokens;
            let rows: Vec<usize> = (0..rest.len()).collect();
            let logits = read_tokens(model, &mut cache, rest, &rows).unwrap();
            let mut all = vec![first];
            all.extend(logits.chunks_exact(logits.len() / rest.len()).map(<[f32]>::to_vec));
            all
        };
        let half = Distributions::of(&after(BlockPrecision::F16)).unwrap();
        let kl = mean(half.divergences(&after(BlockPrecision::Int8)).unwrap().into_iter());
        assert!(kl > 0.0 && kl < 1e-3, "{kl}");
        eprintln!("bytes against half precision: {kl:.2e} nats");
    }
}

#[test]
fn questions_that_come_again_find_what_was_computed() {
    let Some(path) = path() else { return };
    let options = KvWorkloadOptions {
        methods: vec![ReuseMethod::Full, ReuseMethod::Naive],
        orders: vec![PassageOrder::Rank],
        restarts: false,
        n_tokens: 2,
        n_requests: 6,
        exponent: 1.0,
        reordered: 1.0, // So that beginnings are seldom the same.
        passage_tokens: Some(24),
        precision: BlockPrecision::F16,
        limits: CacheLimits::default(),
        seed: 1,
    };
    let model = Arc::new(LanguageModel::load(path, 2, Products::Stored).unwrap());
    let mut done = Vec::new();
    let workload = evaluate_kv_workload(&model, &questions()[..2], &options, &mut |n| {
        done.push(n);
        true
    })
    .unwrap();
    assert_eq!(done, (0..=18).collect::<Vec<_>>());
    let [prefix, full, naive] = &*workload.rows else { panic!("there are three methods") };
    assert_eq!([prefix, full, naive].map(|row| &*row.method), ["prefix", "full", "naive"]);
    assert_eq!((full.computed_tokens, full.prompt_tokens), (prefix.prompt_tokens, naive.prompt_tokens));
    assert!(prefix.computed_tokens < full.computed_tokens && naive.computed_tokens < prefix.computed_tokens);
    // Each passage was computed twice at most: when it was first met, and to be kept.
    assert_eq!((naive.misses, naive.blocks), (workload.n_passages, workload.n_passages));
    assert!(naive.later_tokens > 0 && naive.later_tokens < naive.computed_tokens);
    assert!(naive.hits > naive.misses && prefix.blocks > 0 && prefix.later_tokens == 0);
    assert_eq!((full.same_answers, full.f1_difference), (1.0, 0.0));
    let stopped = evaluate_kv_workload(&model, &questions()[..2], &options, &mut |n| n < 3);
    assert!(matches!(stopped, Err(Error::Generate(raglan_generate::Error::Interrupted))));
    // A process for each request finds what others wrote, and passages in an order that was read before are all there.
    let orders = vec![PassageOrder::Rank, PassageOrder::Shared];
    let options = KvWorkloadOptions { methods: vec![ReuseMethod::Prefix], orders, restarts: true, ..options };
    let workload = evaluate_kv_workload(&model, &questions()[..2], &options, &mut |_| true).unwrap();
    let [rank, shared] = &*workload.rows else { panic!("there are two orders") };
    assert_eq!((rank.label(), shared.label()), ("prefix".to_owned(), "prefix (shared)".to_owned()));
    // All but the template and the question, where a question's passages came before.
    assert!(shared.hits >= rank.hits && shared.computed_tokens < rank.computed_tokens, "{workload:?}");
    assert!(shared.misses <= 4 * workload.n_questions, "{workload:?}");
}

#[test]
fn parameters_are_chosen_by_one_half_and_measured_by_the_other() {
    let Some(path) = path() else { return };
    let model = LanguageModel::load(path, 2, Products::Stored).unwrap();
    let generator = ChatGenerator::new(Arc::new(model), GenerateOptions::default()).unwrap();
    let questions = questions();
    for method in [KvCalibrated::CacheCraft, KvCalibrated::Parallel] {
        let mut told = Vec::new();
        let options = KvEvaluationOptions { n_tokens: 2, passage_tokens: Some(10), ..options(&[]) };
        let calibration = calibrate_kv(&generator, &questions, &options, method, &mut |done, n| {
            told.push((done, n));
            true
        })
        .unwrap();
        let n_rounds = if method == KvCalibrated::Parallel { 2 } else { 1 };
        assert_eq!(told.last(), Some(&(n_rounds + 1, n_rounds + 1))); // One prompt to choose by, one to measure.
        let chosen = calibration.chosen.to_string();
        assert!(chosen.starts_with(&format!("{method}=")), "{chosen}");
        let of = |rows: &[KvRow], method: &str| rows.iter().find(|row| row.method == method).cloned();
        let (tried, measured) = (of(&calibration.tried, &chosen).unwrap(), of(&calibration.held_out, &chosen).unwrap());
        assert_ne!(tried.prompts[0].question, measured.prompts[0].question);
        for row in &calibration.tried[2..] {
            match method {
                KvCalibrated::Parallel => assert!(tried.kl_mean <= row.kl_mean),
                KvCalibrated::CacheCraft => {
                    let is_enough = row.f1 >= calibration.tried[0].f1 - 0.01 && row.kl_mean <= crate::KV_DRIFT;
                    assert!(!is_enough || tried.recompute_share <= row.recompute_share);
                }
            }
        }
    }
    let options = KvEvaluationOptions { n_prompts: 1, ..options(&[]) };
    assert!(calibrate_kv(&generator, &questions, &options, KvCalibrated::Parallel, &mut |_, _| true).is_err());
}
