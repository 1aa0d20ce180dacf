//! What a method does to answers is seen before any is given by it, and a method that does too much is not used.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use raglan_core::{Answer, KvFallbackReason};
use raglan_generate::reuse::{Distributions, KvKeeper, ReuseMethod, SafetySwitch, prefill, prefill_while};
use raglan_generate::{ChatGenerator, Error, LanguageModel};
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache, Drift, DriftRecord};
use raglan_model::{Products, capture, model_hash};

use crate::reuse::{blocks, context, generator, load, logits, pieces, prefix, whole};

fn watched(model: &Arc<LanguageModel>, method: &str, folder: &Path, (share, bound): (f64, f64)) -> ChatGenerator {
    let chunks = ChunkCache::open(Some(folder.to_owned()), CacheLimits::default()).unwrap();
    let keeper = KvKeeper::new(method.parse().unwrap(), BlockPrecision::F32, Arc::new(chunks), "w");
    let switch = SafetySwitch::new(DriftRecord::new(folder), share, bound).unwrap();
    generator(model).keeping(keeper.watched_by(switch))
}

fn ask(generator: &ChatGenerator, question: &str, order: &[usize]) -> Answer {
    generator.answer(&context(question, order), &mut |_| {}).unwrap()
}

fn drift(folder: &Path) -> Drift {
    let mut all = DriftRecord::new(folder).all().unwrap();
    assert!(all.len() <= 1);
    all.pop_first().map(|(_, drift)| drift).unwrap_or_default()
}

#[test]
fn a_method_is_tested_before_any_answer_is_given_by_it() {
    let model = load(4, Products::Stored);
    let plain = generator(&model);
    for method in ["naive", "focus=0.1", "blend=0.1", "link=4", "cache-craft=0.5", "parallel=0.9,0.9", "random=0.1"] {
        let folder = tempfile::tempdir().unwrap();
        let first = watched(&model, method, folder.path(), (0.5, 1e3));
        // One passage tells nothing of most methods, and is answered exactly as long as nothing is known.
        if !method.starts_with("parallel") {
            let answer = ask(&first, "When?", &[3]);
            assert_eq!(answer.text, ask(&plain, "When?", &[3]).text);
            assert!(first.remember().unwrap().tests.is_empty() && drift(folder.path()).n_samples == 0, "{method}");
        }
        let answer = ask(&first, "When does it close?", &[0, 1, 2]);
        assert_eq!(answer.text, ask(&plain, "When does it close?", &[0, 1, 2]).text, "{method}");
        let kv = answer.kv.unwrap();
        let fallback = kv.instead_of.unwrap();
        assert_eq!((&*kv.method, &*fallback.method, fallback.reason), ("prefix", method, KvFallbackReason::Untested));
        let remembered = first.remember().unwrap();
        let [sample] = remembered.tests[..] else { panic!("{method}: {remembered:?}") };
        assert!(sample.kl > 0.0 && sample.kl.is_finite() && sample.n_places > 0, "{method}: {sample:?}");
        assert!(remembered.test_tokens > 0);
        let before = drift(folder.path());
        assert_eq!((before.n_samples, before.recent[0]), (1, sample));
        // From then on the method answers, and every second answer is tested, in this process or another.
        for (i, question) in ["Who is she?", "Who?", "Where is it?", "Where?"].into_iter().enumerate() {
            let other = watched(&model, method, folder.path(), (0.5, 1e3));
            let kv = ask(&other, question, &[2, 0, 1]).kv.unwrap();
            assert_eq!((&*kv.method, kv.instead_of, kv.hits), (method, None, 3));
            let is_even = (before.n_questions + i as u64).is_multiple_of(2);
            assert_eq!(other.remember().unwrap().tests.len(), usize::from(is_even), "{method} {i}");
        }
        assert_eq!((drift(folder.path()).n_questions, drift(folder.path()).n_samples), (before.n_questions + 4, 3));
    }
}

#[test]
fn a_method_above_its_bound_is_not_used() {
    let model = load(4, Products::Stored);
    let folder = tempfile::tempdir().unwrap();
    let first = watched(&model, "naive", folder.path(), (1.0, 0.0));
    ask(&first, "When?", &[0, 1, 2]);
    let kl = first.remember().unwrap().tests[0].kl;
    for _ in 0..2 {
        let answer = ask(&first, "Who is she?", &[2, 1, 0]);
        assert_eq!(answer.text, ask(&generator(&model), "Who is she?", &[2, 1, 0]).text);
        let kv = answer.kv.unwrap();
        let reason = KvFallbackReason::Drift { mean_kl: kl, bound: 0.0, tests: 1 };
        assert_eq!((&*kv.method, kv.instead_of.unwrap().reason), ("prefix", reason));
        assert_eq!(first.remember().unwrap(), Default::default());
    }
    // A wider bound, no tests at all, another method, or a record that was cleared: the method is used, or tested.
    let used = |method: &str, settings| {
        ask(&watched(&model, method, folder.path(), settings), "Who?", &[2, 1, 0]).kv.unwrap().instead_of
    };
    assert_eq!((used("naive", (1.0, 2.0 * kl)), used("naive", (0.0, 0.0))), (None, None));
    assert_eq!(used("link=1", (1.0, 0.0)).unwrap().reason, KvFallbackReason::Untested);
    assert_eq!(used("prefix", (1.0, 0.0)), None);
    DriftRecord::new(folder.path()).clear().unwrap();
    assert_eq!(used("naive", (1.0, 0.0)).unwrap().reason, KvFallbackReason::Untested);
}

#[test]
fn a_test_measures_what_the_formula_says() {
    let model = load(4, Products::F32);
    let folder = tempfile::tempdir().unwrap();
    let (order, transformer) = ([0, 1, 2, 3], &model.transformer);
    let tested = |method: &str| {
        let watched = watched(&model, method, &folder.path().join(method), (1.0, 1e3));
        ask(&watched, "When does it close?", &order);
        watched.remember().unwrap().tests[0]
    };
    let pieces = pieces(&model, &order);
    let read = prefill(
        transformer,
        &prefix(transformer, &pieces),
        &pieces,
        &blocks(transformer, &pieces),
        ReuseMethod::Naive,
        false,
    );
    let by_method = logits(transformer, read.unwrap());
    let expected = Distributions::of(&[whole(transformer, &pieces)]).unwrap().divergences(&[by_method]).unwrap()[0];
    let got = tested("naive").first_kl;
    assert!(expected > 0.0 && (got - expected).abs() <= 1e-6 * expected.max(1.0), "{got} instead of {expected}");
    // What computes all anew is the whole.
    for method in ["focus=1", "blend=1", "random=1", "link=1000"] {
        let sample = tested(method);
        assert_eq!((sample.kl, sample.first_kl, sample.is_equal()), (0.0, 0.0, true), "{method}");
    }
}

#[test]
fn reading_with_blocks_ends_within_a_layer_of_being_told() {
    let model = load(4, Products::Stored);
    let transformer = &model.transformer;
    let pieces = pieces(&model, &[0, 1, 2]);
    let prefix = prefix(transformer, &pieces);
    let passages: Vec<&[u32]> = pieces.iter().filter(|p| p.passage.is_some()).map(|p| &*p.ids).collect();
    let hash = model_hash(transformer, "w");
    let blocks = capture(transformer, hash, (&prefix, &pieces[0].ids), &passages, BlockPrecision::F16).unwrap();
    let blocks: Vec<_> = blocks.into_iter().map(|block| vec![block]).collect();
    for method in ["naive", "focus=0.5", "blend=0.5", "link=4", "cache-craft=1", "parallel=0.9,0.9"] {
        let asked = Cell::new(0);
        let read = |most: usize| {
            asked.set(0);
            let go_on = || {
                asked.set(asked.get() + 1);
                if asked.get() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let method = method.parse().unwrap();
            prefill_while(transformer, &prefix, &pieces, &blocks, method, false, &go_on).map(drop)
        };
        read(usize::MAX).unwrap();
        let n_asked = asked.get();
        assert!(n_asked >= 4, "{method}: asked {n_asked} times");
        for most in 0..n_asked {
            assert!(matches!(read(most), Err(Error::Interrupted)), "{method}");
            assert_eq!(asked.get(), most + 1); // No layer more.
        }
    }
}
