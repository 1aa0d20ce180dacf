//! The encoder on a small model of random weights.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use raglan_core::{DenseVector, Encoder};
use raglan_embed::{EncoderConfig, Error, Pooling, SentenceEncoder, token_counter};
use raglan_model::Products;
use serde_json::json;

const HIDDEN: usize = 16;
const POSITIONS: usize = 64;

/// Writes a model whose tokens are letters.
fn write_model(dir: &Path) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let heads = ('a'..='z').map(String::from);
    let pieces =
        special.iter().map(|&token| token.to_owned()).chain(heads).chain(('a'..='z').map(|c| format!("##{c}")));
    let vocab: HashMap<String, usize> = pieces.enumerate().map(|(id, piece)| (piece, id)).collect();
    let config = json!({
        "model_type": "bert", "vocab_size": vocab.len(), "hidden_size": HIDDEN, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 24, "hidden_act": "gelu", "max_position_embeddings": POSITIONS,
    });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let mut tensors = HashMap::new();
    let mut seed = 7u64;
    let mut put = |name: &str, shape: &[usize], centre: f32| {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                centre + (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .collect();
        tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    put("embeddings.word_embeddings.weight", &[vocab.len(), HIDDEN], 0.0);
    put("embeddings.position_embeddings.weight", &[POSITIONS, HIDDEN], 0.0);
    put("embeddings.token_type_embeddings.weight", &[2, HIDDEN], 0.0);
    let maps = [
        ("attention.self.query", HIDDEN, HIDDEN),
        ("attention.self.key", HIDDEN, HIDDEN),
        ("attention.self.value", HIDDEN, HIDDEN),
        ("attention.output.dense", HIDDEN, HIDDEN),
        ("intermediate.dense", 24, HIDDEN),
        ("output.dense", HIDDEN, 24),
    ];
    for (name, outputs, inputs) in maps {
        put(&format!("encoder.layer.0.{name}.weight"), &[outputs, inputs], 0.0);
        put(&format!("encoder.layer.0.{name}.bias"), &[outputs], 0.0);
    }
    let norms = ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"];
    for norm in norms {
        put(&format!("{norm}.LayerNorm.weight"), &[HIDDEN], 1.0);
        put(&format!("{norm}.LayerNorm.bias"), &[HIDDEN], 0.0);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

fn load(configure: impl FnOnce(&mut EncoderConfig), threads: usize) -> SentenceEncoder {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let mut config = EncoderConfig::for_model(dir.path()).unwrap();
    configure(&mut config);
    SentenceEncoder::load(dir.path(), config, threads).unwrap()
}

/// Texts of 0 to 60 letters, enough for several batches.
fn texts() -> Vec<String> {
    (0..200usize).map(|i| (0..(i * 37) % 61).map(|j| (b'a' + ((i * j) % 26) as u8) as char).collect()).collect()
}

fn encode(encoder: &SentenceEncoder, texts: &[String]) -> Vec<DenseVector> {
    encoder.encode_passages(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn check_near(got: &DenseVector, want: &DenseVector) {
    assert_eq!(got.dim(), want.dim());
    for (got, want) in got.as_slice().iter().zip(want.as_slice()) {
        assert!((got - want).abs() <= 1e-6, "{got} for {want}");
    }
}

#[test]
fn a_vector_does_not_depend_on_the_batch() {
    let encoder = load(|_| (), 2);
    let texts = texts();
    let together = encode(&encoder, &texts);
    assert_eq!(together.len(), texts.len());
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    for (got, want) in encode(&encoder, &reversed).iter().zip(together.iter().rev()) {
        check_near(got, want);
    }
    for (text, want) in texts.iter().zip(&together).step_by(7) {
        check_near(&encode(&encoder, std::slice::from_ref(text))[0], want);
    }
    assert!(encode(&encoder, &[]).is_empty());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let want = encode(&load(|_| (), 1), &texts());
    for threads in [0, 2, 4] {
        assert_eq!(encode(&load(|_| (), threads), &texts()), want);
    }
}

#[test]
fn vectors_have_length_one_unless_that_is_not_wanted() {
    let length = |vector: &DenseVector| vector.as_slice().iter().map(|x| x * x).sum::<f32>().sqrt();
    let lengths = |normalize| {
        let encoder = load(|config| config.normalize = normalize, 1);
        encode(&encoder, &texts()[..9]).iter().map(length).collect::<Vec<_>>()
    };
    assert!(lengths(true).iter().all(|length| (length - 1.0).abs() <= 1e-6));
    assert!(lengths(false).iter().any(|length| (length - 1.0).abs() > 1e-2));
}

#[test]
fn poolings_and_prefixes_count() {
    let text = ["abc".to_owned()];
    let mean = encode(&load(|_| (), 1), &text);
    let cls = encode(&load(|config| config.pooling = Pooling::Cls, 1), &text);
    assert!(mean[0].cosine(&cls[0]) < 0.999);
    let prefixed = load(|config| config.query_prefix = "q: ".into(), 1);
    assert_eq!(encode(&prefixed, &text), mean);
    let queries = prefixed.encode_queries(&["abc"]).unwrap();
    check_near(&queries[0], &encode(&prefixed, &["q: abc".to_owned()])[0]);
}

#[test]
fn a_passage_that_is_too_long_is_an_error_and_a_query_is_cut() {
    let encoder = load(|config| config.max_tokens = 10, 1);
    assert!(encoder.encode_passages(&["abcdefgh"]).is_ok()); // 8 + 2 special tokens
    let error = encoder.encode_passages(&["a", "abcdefghi"]).unwrap_err();
    let raglan_core::Error::Part { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(source.downcast_ref(), Some(Error::TooLong { passage: 1, tokens: 11, limit: 10 })), "{source:?}");
    let queries = encoder.encode_queries(&["abcdefghijkl", "abcdefgh"]).unwrap();
    check_near(&queries[0], &queries[1]);
}

#[test]
fn files_of_sentence_transformers_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let plain = EncoderConfig::for_model(dir.path()).unwrap();
    assert_eq!((plain.pooling, plain.normalize, plain.max_tokens, plain.dim), (Pooling::Mean, true, POSITIONS, HIDDEN));
    let write = |name: &str, json: serde_json::Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    write("1_Pooling/config.json", json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}));
    write("sentence_bert_config.json", json!({"max_seq_length": 32}));
    write("modules.json", json!([{"type": "sentence_transformers.models.Transformer"}]));
    write("config_sentence_transformers.json", json!({"prompts": {"query": "q: ", "document": "d: "}}));
    let want = EncoderConfig {
        pooling: Pooling::Cls,
        normalize: false,
        max_tokens: 32,
        query_prefix: "q: ".into(),
        passage_prefix: "d: ".into(),
        dim: HIDDEN,
        products: Products::Stored,
    };
    assert_eq!(EncoderConfig::for_model(dir.path()).unwrap(), want);
    write("1_Pooling/config.json", json!({"pooling_mode_max_tokens": true}));
    assert!(matches!(EncoderConfig::for_model(dir.path()), Err(Error::Unsupported { .. })));
    std::fs::write(dir.path().join("modules.json"), "[").unwrap();
    assert!(matches!(EncoderConfig::for_model(dir.path()), Err(Error::Malformed { .. })));
}

#[test]
fn files_that_do_not_fit_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(EncoderConfig::for_model(dir.path()).is_err());
    write_model(dir.path());
    let config = EncoderConfig::for_model(dir.path()).unwrap();
    let load = |config: &EncoderConfig| SentenceEncoder::load(dir.path(), config.clone(), 1);
    for wrong in [
        EncoderConfig { dim: HIDDEN + 1, ..config.clone() },
        EncoderConfig { max_tokens: POSITIONS + 1, ..config.clone() },
        EncoderConfig { max_tokens: 2, ..config.clone() },
    ] {
        assert!(matches!(load(&wrong), Err(Error::Malformed { .. })));
    }
    let weights = dir.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    let error = load(&config).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(load(&config).is_err());
    assert!(token_counter(dir.path()).is_err());
}
