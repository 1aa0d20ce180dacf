//! Sparse vectors and vectors a token, by a small model of random weights.

use std::path::Path;

use crate::small_model::{POSITIONS, write_model};
use raglan_core::{Encoder, SparseVector, TokenMatrix};
use raglan_embed::{
    Error, SparseActivation, SparseEncoder, SparseEncoderConfig, TokenBag, TokenEncoder, TokenEncoderConfig, TokenHead,
};
use serde_json::json;

/// Texts of 0 to 60 letters, enough for several batches.
fn texts() -> Vec<String> {
    (0..120usize).map(|i| (0..(i * 37) % 61).map(|j| (b'a' + ((i * j) % 26) as u8) as char).collect()).collect()
}

fn passages<E: Encoder>(encoder: &E, texts: &[String]) -> Vec<E::Vector> {
    encoder.encode_passages(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

/// A text's vector has the same bits alone, in any order and on any number of threads.
#[track_caller]
fn check_bits<E: Encoder>(load: impl Fn(usize) -> E)
where
    E::Vector: PartialEq + Clone,
{
    let texts = texts();
    let together = passages(&load(1), &texts);
    assert_eq!(together.len(), texts.len());
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    for threads in [1, 2, 4] {
        let encoder = load(threads);
        let mut got = passages(&encoder, &reversed);
        got.reverse();
        assert!(got == together, "{threads} threads");
        for (text, want) in texts.iter().zip(&together).step_by(17) {
            assert!(passages(&encoder, std::slice::from_ref(text))[0] == *want, "{threads} threads");
        }
    }
    assert!(passages(&load(2), &[]).is_empty());
}

fn sparse(configure: impl Fn(&mut SparseEncoderConfig), threads: usize) -> SparseEncoder {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let mut config = SparseEncoderConfig::for_model(dir.path()).unwrap();
    configure(&mut config);
    SparseEncoder::load(dir.path(), config, threads).unwrap()
}

fn entries(vector: &SparseVector) -> Vec<(u32, f32)> {
    vector.terms().iter().copied().zip(vector.weights().iter().copied()).collect()
}

#[test]
fn a_texts_vectors_do_not_depend_on_the_batch_or_the_threads() {
    check_bits(|threads| sparse(|_| (), threads));
    check_bits(|threads| tokens(|_| (), threads));
}

#[test]
fn pruning_keeps_the_heaviest_words() {
    let text = ["abcabc".to_owned()];
    let whole = entries(&passages(&sparse(|_| (), 1), &text)[0]);
    assert!(whole.len() > 5 && whole.iter().all(|(_, weight)| *weight > 0.0));
    let mut heaviest = whole.clone();
    heaviest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let kept = |configure: &dyn Fn(&mut SparseEncoderConfig)| entries(&passages(&sparse(configure, 1), &text)[0]);
    let sorted = |mut entries: Vec<(u32, f32)>| {
        entries.sort_by_key(|&(term, _)| term);
        entries
    };
    assert_eq!(kept(&|config| config.passage_terms = Some(4)), sorted(heaviest[..4].to_vec()));
    assert_eq!(kept(&|config| config.passage_min_weight = heaviest[2].1), sorted(heaviest[..3].to_vec()));
    assert_eq!(kept(&|config| config.query_terms = Some(0)), whole);
    let queries = sparse(|config| config.query_terms = Some(2), 1).encode_queries(&["abcabc"]).unwrap();
    assert_eq!(entries(&queries[0]), sorted(heaviest[..2].to_vec()));
}

#[test]
fn the_logarithm_may_be_taken_twice() {
    let text = ["abcabc".to_owned()];
    let once = entries(&passages(&sparse(|_| (), 1), &text)[0]);
    let configure = |config: &mut SparseEncoderConfig| {
        config.activation = SparseActivation::Log1pTwice;
        config.passage_min_weight = 0.25;
    };
    let twice = entries(&passages(&sparse(configure, 1), &text)[0]);
    // ln(1 + w) of the weights w = ln(1 + x); pruned as they then are.
    let want: Vec<(u32, f32)> = once.iter().map(|&(term, weight)| (term, weight.ln_1p())).collect();
    assert!(want.iter().any(|entry| entry.1 < 0.25) && want.iter().any(|entry| entry.1 >= 0.25), "{want:?}");
    assert_eq!(twice, want.into_iter().filter(|entry| entry.1 >= 0.25).collect::<Vec<_>>());

    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    assert_eq!(SparseEncoderConfig::for_model(dir.path()).unwrap().activation, SparseActivation::Log1p);
    std::fs::create_dir(dir.path().join("1_SpladePooling")).unwrap();
    std::fs::write(dir.path().join("1_SpladePooling/config.json"), r#"{"activation_function": "log1p_relu"}"#).unwrap();
    assert_eq!(SparseEncoderConfig::for_model(dir.path()).unwrap().activation, SparseActivation::Log1pTwice);
    for activation in [SparseActivation::Log1p, SparseActivation::Log1pTwice] {
        assert_eq!(activation.to_string().parse(), Ok(activation));
    }
    assert!("log".parse::<SparseActivation>().is_err());
}

#[test]
fn published_weights_of_tokens_make_queries() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let bag = TokenBag::load(dir.path()).unwrap();
    assert_eq!(bag.weighted("ab").unwrap(), None);
    let id = |token: &str| bag.tokens(token).unwrap()[0];
    let path = dir.path().join("weights.json");
    let with = |json: &str| {
        std::fs::write(&path, json).unwrap();
        TokenBag::load(dir.path()).unwrap().with_weights(&path)
    };
    let weighted = with(r#"{"a": 2.5, "b": -1.0, "c": 0.5, "[UNK]": 0.1}"#).unwrap();
    // Negative weights count as none, as do those of tokens that the table lacks.
    let query = weighted.weighted("a b d a").unwrap().unwrap();
    assert_eq!(entries(&query), [(id("a"), 2.5)]);
    assert_eq!(weighted.weighted("").unwrap(), Some(SparseVector::default()));
    for bad in ["", "[1, 2]", r#"{"a": "much"}"#, r#"{"a": 1e60}"#, r#"{"surely not": 1.0}"#] {
        let error = with(bad).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{bad}: {error}");
        assert!(error.to_string().contains("weights.json"), "{error}");
    }
    assert!(matches!(TokenBag::load(dir.path()).unwrap().with_weights(&dir.path().join("no")), Err(Error::Io { .. })));
    // A table beside the model is read without being named.
    std::fs::write(dir.path().join("idf.json"), r#"{"a": 1.5}"#).unwrap();
    let query = TokenBag::load(dir.path()).unwrap().weighted("a").unwrap().unwrap();
    assert_eq!(entries(&query), [(id("a"), 1.5)]);
}

#[test]
fn splade_poolings_that_are_not_done_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    std::fs::create_dir(dir.path().join("1_SpladePooling")).unwrap();
    let with = |config: serde_json::Value| {
        std::fs::write(dir.path().join("1_SpladePooling/config.json"), config.to_string()).unwrap();
        SparseEncoderConfig::for_model(dir.path())
    };
    assert!(with(json!({"pooling_strategy": "max", "activation_function": "relu"})).is_ok());
    assert!(matches!(with(json!({"pooling_strategy": "sum"})), Err(Error::Unsupported { .. })));
    assert!(matches!(with(json!({"activation_function": "gelu"})), Err(Error::Unsupported { .. })));
    assert!(matches!(with(json!([7])), Err(Error::Malformed { .. })));
}

fn tokens(configure: impl Fn(&mut TokenEncoderConfig), threads: usize) -> TokenEncoder {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    tokens_of(dir.path(), configure, threads)
}

fn tokens_of(dir: &Path, configure: impl Fn(&mut TokenEncoderConfig), threads: usize) -> TokenEncoder {
    let mut config = TokenEncoderConfig::for_model(dir).unwrap();
    configure(&mut config);
    TokenEncoder::load(dir, config, threads).unwrap()
}

#[test]
fn there_is_a_vector_of_length_one_for_each_token() {
    let encoder = tokens(|_| (), 1);
    for vectors in passages(&encoder, &["abcd".to_owned(), "a,b".to_owned(), String::new()]) {
        assert_eq!(vectors.dim(), 6);
        for row in vectors.rows() {
            let length = row.iter().map(|x| x * x).sum::<f32>();
            assert!((length - 1.0).abs() <= 1e-5, "{length}");
        }
    }
    let all = passages(&encoder, &["a,b".to_owned()]);
    assert_eq!(all[0].n_tokens(), 5); // [CLS] a , b [SEP]
    let without = passages(&tokens(|config| config.skips_punctuation = true, 1), &["a,b".to_owned()]);
    assert_eq!(without[0].n_tokens(), 4);
    assert_eq!(without[0].as_slice(), [&all[0].as_slice()[..12], &all[0].as_slice()[18..]].concat());
    let filled = tokens(|config| config.query_filler = Some(1), 1).encode_queries(&["ab"]).unwrap();
    assert_eq!(filled[0].n_tokens(), 32);
}

#[test]
fn a_sentence_models_hidden_states_are_vectors_of_its_own_tokens() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let load = |configure: &dyn Fn(&mut TokenEncoderConfig)| {
        let mut config = TokenEncoderConfig::for_sentence_model(dir.path()).unwrap();
        configure(&mut config);
        TokenEncoder::load(dir.path(), config, 1).unwrap()
    };
    let own = load(&|_| ());
    assert_eq!(own.config().head, TokenHead::HiddenState);
    let lengths = |matrix: &TokenMatrix| matrix.rows().map(|row| row.iter().map(|x| x * x).sum::<f32>()).collect();
    let texts = ["a,b", ",", ""].map(str::to_owned);
    let vectors = passages(&own, &texts);
    assert_eq!(vectors.iter().map(TokenMatrix::n_tokens).collect::<Vec<_>>(), [2, 0, 0]);
    let lengths: Vec<f32> = lengths(&vectors[0]);
    assert!(lengths.iter().all(|length| (length - 1.0).abs() <= 1e-5), "{lengths:?}");
    assert_eq!(own.encode_queries(&["a,b"]).unwrap()[0].n_tokens(), 3); // A query keeps its punctuation.
    let all = load(&|config| (config.skips_special_tokens, config.skips_punctuation) = (false, false));
    let (all, dim) = (passages(&all, &texts), vectors[0].dim());
    assert_eq!(all[0].n_tokens(), 5); // [CLS] a , b [SEP]
    let rows = all[0].as_slice();
    assert_eq!(vectors[0].as_slice(), [&rows[dim..2 * dim], &rows[3 * dim..4 * dim]].concat());
    check_bits(|threads| {
        let config = TokenEncoderConfig::for_sentence_model(dir.path()).unwrap();
        TokenEncoder::load(dir.path(), config, threads).unwrap()
    });
}

#[test]
fn colberts_files_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let write = |name: &str, json: serde_json::Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    write(
        "config_sentence_transformers.json",
        json!({"query_length": 16, "document_length": 1000, "query_prefix": "[UNK] ", "document_prefix": "[PAD]",
               "skiplist_words": [","], "do_query_expansion": true, "attend_to_expansion_tokens": false}),
    );
    let config = TokenEncoderConfig::for_model(dir.path()).unwrap();
    assert_eq!((config.query_tokens, config.passage_tokens), (16, POSITIONS));
    assert_eq!((config.query_marker, config.passage_marker, config.query_filler), (Some(1), Some(0), None));
    assert!(config.skips_punctuation);
    let marked = tokens_of(dir.path(), |_| (), 1).encode_passages(&["ab"]).unwrap();
    assert_eq!(marked[0].as_slice().len(), 5 * 6); // [CLS] [PAD] a b [SEP]
    let colbert = |marker: &str| {
        write(
            "artifact.metadata",
            json!({"query_maxlen": 8, "doc_maxlen": 20, "query_token_id": marker, "doc_token_id": "[PAD]",
                   "mask_punctuation": true}),
        );
        TokenEncoderConfig::for_model(dir.path())
    };
    assert_eq!(colbert("[UNK]").unwrap().query_tokens, 8);
    assert!(matches!(colbert("[unused0]"), Err(Error::Malformed { .. })));
}
