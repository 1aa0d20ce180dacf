//! Judges on a small model of random weights, and on the default language model.

#[path = "../../../raglan-generate/tests/generation/byte_model.rs"]
mod byte_model;
mod default_models;
#[cfg(feature = "emulation")]
mod on_device;
mod onnx;
#[path = "../../../raglan-embed/tests/encoders/onnx_model.rs"]
mod onnx_model;
#[path = "../../../raglan-embed/tests/encoders/small_model.rs"]
mod small_model;

use std::sync::Arc;
use std::time::Duration;

use raglan_core::ChunkId;
use raglan_kernels::log_softmax_at;
use raglan_kv::{BlockPrecision, CacheLimits, ChunkCache};
use raglan_model::{Attending, ForwardRows, ForwardSequence, LanguageModel, Products, Want};
use raglan_rerank::{
    Budget, Compare, Comparison, Error, InContext, Judge, ListReading, Listwise, QueryLikelihood, Task, Verdict, YesNo,
};

fn small() -> Arc<LanguageModel> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    byte_model::write_layers(&path, 3);
    Arc::new(LanguageModel::load(&path, 2, Products::Stored).unwrap())
}

fn judges(model: &Arc<LanguageModel>) -> Vec<Box<dyn Judge>> {
    let model = || model.clone();
    vec![
        Box::new(QueryLikelihood::new(model(), 20).unwrap()),
        Box::new(YesNo::new(model(), 20).unwrap()),
        Box::new(Compare::new(model(), Comparison::Pairwise, 3, 20).unwrap()),
        Box::new(Compare::new(model(), Comparison::Setwise(3), 9, 20).unwrap()),
        Box::new(Listwise::new(model(), ListReading::Generated, 4, 2, 20).unwrap()),
        Box::new(Listwise::new(model(), ListReading::FirstToken, 4, 2, 20).unwrap()),
        Box::new(InContext::new(model(), None, 20).unwrap()),
        Box::new(InContext::new(model(), Some(1..2), 20).unwrap().uncalibrated()),
    ]
}

const FEW: [&str; 2] = ["one passage", "another passage"];
const MANY: [&str; 7] =
    ["alpha", "", "a passage that is longer than what is read of it", "<|im_start|>beta", "beta", "\u{1f600}", "alpha"];

#[test]
fn every_passage_has_one_place_and_tasks_do_not_meet() {
    let model = small();
    let tasks = [
        Task { question: "which?", passages: &FEW, chunks: &[] },
        Task { question: "what now", passages: &MANY, chunks: &[] },
    ];
    let empty =
        [Task { question: "nothing", passages: &[], chunks: &[] }, Task { question: "", passages: &FEW, chunks: &[] }];
    for judge in judges(&model) {
        let together = judge.judge(&tasks, &Budget::default()).unwrap();
        for (task, judged) in tasks.iter().zip(&together) {
            let mut places: Vec<usize> = judged.verdict.ranked(task.passages.len()).iter().map(|(i, _)| *i).collect();
            places.sort_unstable();
            assert_eq!(places, (0..task.passages.len()).collect::<Vec<_>>(), "{}", judge.name());
            let alone = &judge.judge(std::slice::from_ref(task), &Budget::default()).unwrap()[0];
            assert_eq!(alone.verdict, judged.verdict, "{}", judge.name());
            assert!(judged.cost.calls > 0 && judged.cost.tokens_read > 0 && judged.cost.seconds > 0.0);
        }
        let judged = judge.judge(&empty, &Budget::default()).unwrap();
        assert_eq!(judged[0].verdict.ranked(0), []);
        assert_eq!(judged[1].verdict.ranked(2).len(), 2);
    }
}

#[test]
fn what_is_over_budget_keeps_its_order() {
    let model = small();
    let task = [Task { question: "which?", passages: &MANY, chunks: &[] }];
    for judge in judges(&model) {
        let none = [Budget { tokens: Some(0), time: None }, Budget { tokens: None, time: Some(Duration::ZERO) }];
        for budget in none {
            let judged = &judge.judge(&task, &budget).unwrap()[0];
            assert_eq!(judged.cost.tokens_read, 0, "{}", judge.name());
            let order: Vec<usize> = judged.verdict.ranked(MANY.len()).iter().map(|(i, _)| *i).collect();
            assert_eq!(order, [0, 1, 2, 3, 4, 5, 6], "{}", judge.name());
        }
        let whole = &judge.judge(&task, &Budget::default()).unwrap()[0];
        let half = Budget { tokens: Some(whole.cost.tokens_read / 2), time: None };
        let judged = &judge.judge(&task, &half).unwrap()[0];
        assert!(judged.cost.tokens_read <= whole.cost.tokens_read / 2, "{}", judge.name());
    }
}

#[test]
fn the_likelihood_is_that_of_the_questions_tokens() {
    let model = small();
    let judge = QueryLikelihood::new(model.clone(), 20).unwrap();
    let task = Task { question: "why?", passages: &FEW, chunks: &[] };
    let Verdict::Scores(scores) = &judge.judge(&[task], &Budget::default()).unwrap()[0].verdict else {
        panic!("it scores")
    };
    for (passage, score) in FEW.iter().zip(scores) {
        let turn = format!("Passage:\n{passage}\n\nWrite the question that this passage answers.");
        let turn = raglan_model::ChatMessage::new(raglan_model::ChatRole::User, turn);
        let prompt = model.template.render(&[turn]).unwrap();
        let mut session = model.transformer.session();
        let mut logits = session.prefill(&model.tokenizer.encode_prompt(&prompt).unwrap().ids).unwrap();
        let question = model.tokenizer.encode("why?", false).unwrap().ids;
        let mut sum = 0.0;
        for &token in &question {
            let mut of_token = [0.0];
            log_softmax_at(&logits, &[token], &mut of_token).unwrap();
            sum += of_token[0];
            logits = session.step(token).unwrap();
        }
        let score = score.expect("it was judged");
        assert!((score - sum / question.len() as f32).abs() <= 1e-4, "{score} is not {sum} over 4");
    }
}

#[test]
fn chunks_are_read_once_whatever_is_asked_of_them() {
    let model = small();
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(ChunkCache::open(Some(folder.path().to_owned()), CacheLimits::default()).unwrap());
    let keeping = |blocks| InContext::new(model.clone(), None, 20).unwrap().keeping(blocks, "w", BlockPrecision::F32);
    let judged = |judge: &InContext, question, places: &[usize]| {
        let passages: Vec<&str> = places.iter().map(|&i| MANY[i]).collect();
        let chunks: Vec<ChunkId> = places.iter().map(|&i| ChunkId(i as u32)).collect();
        let task = Task { question, passages: &passages, chunks: &chunks };
        let judgement = judge.judge(&[task], &Budget::default()).unwrap().remove(0);
        let Verdict::Scores(scores) = judgement.verdict else { panic!("it scores") };
        (scores.into_iter().map(Option::unwrap).collect::<Vec<f32>>(), judgement.cost.tokens_read)
    };
    // Behind nothing but the beginning, a passage is the same alone and among others.
    let together = InContext::new(model.clone(), None, 20).unwrap();
    let judge = keeping(open());
    let ((alone, _), (kept, _)) = (judged(&together, "which?", &[2]), judged(&judge, "which?", &[2]));
    assert!((alone[0] - kept[0]).abs() <= 1e-4 * alone[0].abs(), "{alone:?} {kept:?}");
    // What was read costs nothing the next time, in another process, for another question, at another place.
    let (first, read) = judged(&judge, "what now", &[0, 4, 2]);
    let (again, read_again) = judged(&judge, "what now", &[0, 4, 2]);
    assert_eq!(first, again);
    assert!(read_again + (MANY[0].len() + MANY[4].len()) <= read, "{read_again} of {read}");
    let later = keeping(open());
    assert_eq!(judged(&later, "what now", &[0, 4, 2]), (again, read_again));
    assert_eq!(judged(&later, "what now", &[4, 2, 0]).1, read_again);
    // Other tokens under the same number are another text; a damaged file is none.
    let task = Task { question: "what now", passages: &["alpha!", "beta"], chunks: &[ChunkId(0), ChunkId(4)] };
    let cost = |task| later.judge(&[task], &Budget::default()).unwrap()[0].cost.tokens_read;
    assert_eq!(cost(task), cost(task) + "\n\nalpha!".len());
    let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        std::fs::write(&file, bytes).unwrap();
    }
    let (mended, read_anew) = judged(&keeping(open()), "what now", &[0, 4, 2]);
    assert_eq!((mended, read_anew > read_again), (first, true));
}

#[test]
fn a_question_is_as_likely_behind_a_passage_that_was_kept() {
    let model = small();
    let folder = tempfile::tempdir().unwrap();
    let open = || Arc::new(ChunkCache::open(Some(folder.path().to_owned()), CacheLimits::default()).unwrap());
    let plain = QueryLikelihood::new(model.clone(), 20).unwrap();
    let keeping = |blocks| QueryLikelihood::new(model.clone(), 20).unwrap().keeping(blocks, "w", BlockPrecision::F32);
    let judged = |judge: &QueryLikelihood, question, places: &[usize], budget: &Budget| {
        let passages: Vec<&str> = places.iter().map(|&i| MANY[i]).collect();
        let chunks: Vec<ChunkId> = places.iter().map(|&i| ChunkId(i as u32)).collect();
        let task = Task { question, passages: &passages, chunks: &chunks };
        let judgement = judge.judge(&[task], budget).unwrap().remove(0);
        let Verdict::Scores(scores) = judgement.verdict else { panic!("it scores") };
        (scores, judgement.cost.tokens_read)
    };
    let all = Budget::default();
    let (expected, read) = judged(&plain, "what now", &[0, 4, 2], &all);
    let judge = keeping(open());
    let (first, read_first) = judged(&judge, "what now", &[0, 4, 2], &all);
    let (again, read_again) = judged(&judge, "what now", &[0, 4, 2], &all);
    assert!(expected.iter().all(Option::is_some) && first == expected && again == expected);
    let n_passages: usize = [0, 4, 2].iter().map(|&i: &usize| model.encode_text(MANY[i], 20).unwrap().len()).sum();
    // The opening is read once, not with each passage.
    assert!(read_first < read && read_again + n_passages == read_first, "{read} {read_first} {read_again}");
    // Another question, other places, another process.
    let later = keeping(open());
    assert_eq!(judged(&later, "why?", &[2, 0], &all).0, judged(&plain, "why?", &[2, 0], &all).0);
    // A budget is of tokens that are computed.
    let within = |tokens| judged(&later, "what now", &[0, 4, 2], &Budget { tokens: Some(tokens), time: None });
    assert_eq!(within(read_again), (expected.clone(), read_again));
    let (scores, read) = within(read_again - 1);
    assert!(scores[..2] == expected[..2] && scores[2].is_none() && read < read_again, "{scores:?}");
    // Damaged files are read anew.
    for file in std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert_eq!(judged(&keeping(open()), "what now", &[0, 4, 2], &all), (expected, read_first));
}

#[test]
fn a_budget_is_of_tokens_that_are_computed() {
    let blocks = Arc::new(ChunkCache::open(None, CacheLimits::default()).unwrap());
    let judge = InContext::new(small(), None, 20).unwrap().keeping(blocks, "w", BlockPrecision::F32);
    let chunks = [0, 1].map(ChunkId);
    let task = || Task { question: "what now", passages: &MANY[..2], chunks: &chunks };
    // What was judged within so many tokens, and what that cost.
    let within = |tokens| {
        let budget = Budget { tokens, time: None };
        let judgement = judge.judge(&[task()], &budget).unwrap().remove(0);
        let Verdict::Scores(scores) = judgement.verdict else { panic!("it scores") };
        (scores.iter().flatten().count(), judgement.cost.tokens_read)
    };
    assert_eq!(within(Some(1)), (0, 0));
    let (_, first) = within(None);
    let (_, again) = within(None);
    assert!(again < first, "{again} of {first}");
    assert_eq!(within(Some(again)), (2, again));
    assert_eq!(within(Some(again - 1)), (0, 0));
}

#[test]
fn attention_is_what_one_forward_over_the_whole_prompt_pays() {
    let model = small();
    // Passages of one token: nothing is dropped as an outlier.
    let passages = ["a", "b", "c"];
    let task = Task { question: "why?", passages: &passages, chunks: &[] };
    let layers = 1..3;
    let judge = InContext::new(model.clone(), Some(layers.clone()), 20).unwrap().uncalibrated();
    let Verdict::Scores(scores) = &judge.judge(&[task], &Budget::default()).unwrap()[0].verdict else {
        panic!("it scores")
    };
    let tail = "\n\nPlease answer the following question from the paragraphs above.\n\nQuestion: why?";
    let turn = format!("Here are some paragraphs:\n\na\n\nb\n\nc{tail}");
    let turn = raglan_model::ChatMessage::new(raglan_model::ChatRole::User, turn);
    let prompt = model.template.render(&[turn]).unwrap();
    let ids = model.tokenizer.encode_prompt(&prompt).unwrap().ids;
    let first = prompt.find("a\n\nb\n\nc").unwrap() - "<|im_start|>".len() + 1;
    let ranges = [0, 3, 6].map(|after| first + after..first + after + 1);
    assert_eq!(model.tokenizer.decode(&ids[ranges[2].clone()]).unwrap(), "c");
    let rows: Vec<usize> = (first + 7..ids.len()).collect();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let slots: Vec<usize> = (0..ids.len()).collect();
    let mut cache = model.transformer.cache();
    let forwarded = model.transformer.forward(&mut [ForwardSequence {
        rows: ForwardRows { tokens: &ids, positions: &positions, slots: &slots, ..ForwardRows::default() },
        cache: &mut cache,
        want: Want { attention: Some((&rows, &ranges)), ..Want::default() },
        attending: Attending::default(),
    }]);
    let attention = &forwarded.unwrap()[0].attention;
    let of_layer = attention.len() / 3;
    for (i, score) in scores.iter().enumerate() {
        let counted = &attention[layers.start * of_layer..layers.end * of_layer];
        let expected = counted.iter().skip(i).step_by(3).sum::<f32>() / rows.len() as f32;
        let score = score.expect("it was judged");
        assert!((score - expected).abs() <= 1e-4 * expected.abs(), "{score} is not {expected}");
    }
}

#[test]
fn parameters_out_of_range_are_refused() {
    let model = small();
    let refused = |error: Option<Error>| assert!(matches!(error, Some(Error::Parameter { .. })), "{error:?}");
    refused(Listwise::new(model.clone(), ListReading::FirstToken, 1, 1, 9).err());
    refused(Listwise::new(model.clone(), ListReading::FirstToken, 27, 1, 9).err());
    refused(Listwise::new(model.clone(), ListReading::FirstToken, 5, 6, 9).err());
    refused(Compare::new(model.clone(), Comparison::Setwise(0), 5, 9).err());
    refused(Compare::new(model.clone(), Comparison::Setwise(26), 5, 9).err());
    refused(InContext::new(model.clone(), Some(2..4), 9).err());
    refused(InContext::new(model, Some(2..2), 9).err());
}
