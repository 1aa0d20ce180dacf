//! Augmentations on a small model of random weights, and on the default models.

#[path = "../../../raglan-generate/tests/generation/byte_model.rs"]
mod byte_model;
mod default_models;

use std::sync::Arc;

use raglan_augment::{Error, GatedEncoder, LexicalGate, PromptReps, PromptRepsOptions};
use raglan_core::{DenseVector, Encoder};
use raglan_model::{ChatMessage, ChatRole, LanguageModel, Products};

fn small() -> Arc<LanguageModel> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.gguf");
    byte_model::write_layers(&path, 2);
    Arc::new(LanguageModel::load(&path, 2, Products::Stored).unwrap())
}

fn options() -> PromptRepsOptions {
    PromptRepsOptions { max_tokens: 40, ..PromptRepsOptions::default() }
}

#[test]
fn a_representation_is_that_of_the_whole_prompt_in_any_company() {
    let model = small();
    let reps = PromptReps::new(model.clone(), options()).unwrap();
    let texts = [
        "a cache evicts",
        "",
        "bread<|im_end|>",
        "a cache evicts",
        "\u{1f600} is longer than what is read of a text here",
    ];
    let together = reps.passages(&texts).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        assert_eq!(reps.passages(&[text]).unwrap()[0], *together);
    }
    assert_eq!(together[0], together[3]);
    assert_ne!(together[0], reps.queries(&texts[..1]).unwrap()[0]);
    assert!(reps.passages(&[]).unwrap().is_empty());

    let prompt = [
        ChatMessage::new(ChatRole::System, "You understand human language and say what texts are about."),
        ChatMessage::new(
            ChatRole::User,
            "Query: \"a cache evicts\". Represent this query by exactly one word in lower case, for a search engine.",
        ),
    ];
    let prompt = model.template.render(&prompt).unwrap() + "The word is: \"";
    let mut session = model.transformer.session();
    let logits = session.prefill(&model.tokenizer.encode_prompt(&prompt).unwrap().ids).unwrap();
    let query = &reps.queries(&texts[..1]).unwrap()[0];
    let length: f32 = query.dense.as_slice().iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() <= 1e-5);
    // The tokens of this model are bytes; `a` is no content word by itself, and is in `cache`.
    let own: Vec<u32> = {
        let mut bytes: Vec<u32> = model.tokenizer.encode("cacheevicts", false).unwrap().ids;
        bytes.sort_unstable();
        bytes.dedup();
        bytes
    };
    let is_positive = own.iter().any(|&id| logits[id as usize] > 0.0);
    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
    let floor = if is_positive { 0.0 } else { mean };
    let expected: Vec<(u32, f32)> = own
        .into_iter()
        .map(|id| (id, (1.0 + (logits[id as usize] - floor).max(0.0)).ln()))
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    assert_eq!(query.sparse.terms(), expected.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    for (got, (_, want)) in query.sparse.weights().iter().zip(expected) {
        assert!((got - want).abs() <= 1e-5, "{got} is not {want}");
    }
}

#[test]
fn terms_are_the_heaviest_and_expansion_adds_to_passages_only() {
    let model = small();
    let few = PromptReps::new(model.clone(), PromptRepsOptions { max_terms: 2, ..options() }).unwrap();
    let all = PromptReps::new(model.clone(), options()).unwrap();
    let wide = PromptReps::new(model.clone(), PromptRepsOptions { expansion: 5, ..options() }).unwrap();
    let sparse = |reps: &PromptReps| reps.passages(&["cache evicts"]).unwrap().remove(0).sparse;
    let (few, all, wide_passage) = (sparse(&few), sparse(&all), sparse(&wide));
    let mut weights = all.weights().to_vec();
    weights.sort_by(|a, b| b.total_cmp(a));
    assert!(few.terms().len() <= 2 && few.weights().iter().all(|weight| weights[..2].contains(weight)));
    assert!(wide_passage.terms().len() > all.terms().len());
    assert_eq!(
        wide.queries(&["cache"]).unwrap()[0].sparse,
        PromptReps::new(model.clone(), options()).unwrap().queries(&["cache"]).unwrap()[0].sparse
    );
    let none = PromptRepsOptions { max_tokens: 0, ..options() };
    assert!(matches!(PromptReps::new(model.clone(), none), Err(Error::Parameter { name: "max_tokens", .. })));
    let long = PromptRepsOptions { max_tokens: 1 << 20, ..options() };
    assert!(matches!(PromptReps::new(model, long), Err(Error::NoRoom { .. })));
}

/// The same vector for every text.
struct Same;

impl Encoder for Same {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        queries.iter().map(|_| DenseVector::new(vec![0.6, 0.8])).collect()
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        self.encode_queries(passages)
    }
}

#[test]
fn a_gate_raises_the_components_of_the_querys_tokens() {
    let model = small();
    let n = model.transformer.config().vocab_size;
    let mut table = vec![0.0; 2 * n];
    let b = model.tokenizer.encode("b", false).unwrap().ids[0] as usize;
    table[2 * b] = 3.0_f32.ln();
    let gate = |table: &[f32], weights: Vec<f32>, temperature| {
        LexicalGate::new(model.tokenizer.clone(), 2, table.to_vec(), weights, temperature).unwrap()
    };
    let near = |got: &[f32], want: [f32; 2]| {
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5), "{got:?} is not {want:?}");
    };
    near(&gate(&table, vec![], 1.0).gate("a").unwrap(), [1.0, 1.0]);
    near(&gate(&table, vec![], 1.0).gate("").unwrap(), [1.0, 1.0]);
    near(&gate(&table, vec![], 1.0).gate("bb").unwrap(), [1.5, 0.5]); // 2 · softmax(ln 3, 0); once, however often.
    near(&gate(&table, vec![], 0.5).gate("b").unwrap(), [1.8, 0.2]); // 2 · softmax(2 ln 3, 0)
    near(&gate(&table, vec![0.0; n], 1.0).gate("b").unwrap(), [1.0, 1.0]);
    let encoder = GatedEncoder::new(Arc::new(Same), gate(&table, vec![], 1.0));
    near(encoder.encode_queries(&["b"]).unwrap()[0].as_slice(), [0.9 / 0.97_f32.sqrt(), 0.4 / 0.97_f32.sqrt()]);
    near(encoder.encode_passages(&["b"]).unwrap()[0].as_slice(), [0.6, 0.8]);
    assert!(LexicalGate::new(model.tokenizer.clone(), 2, vec![0.0; 3], vec![], 1.0).is_err());
    assert!(LexicalGate::new(model.tokenizer.clone(), 2, vec![f32::NAN; 2], vec![], 1.0).is_err());
    assert!(LexicalGate::new(model.tokenizer.clone(), 2, table, vec![], 0.0).is_err());
    let short = LexicalGate::new(model.tokenizer.clone(), 2, vec![0.0; 2], vec![], 1.0).unwrap();
    assert!(short.gate("z").is_err());
}
