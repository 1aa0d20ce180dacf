//! A small model of random weights.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;

pub const HIDDEN: usize = 16;
pub const POSITIONS: usize = 64;

/// Writes a BERT whose tokens are letters and the comma, with a masked-language head, a projection to 6 dimensions, and a head of
/// two classes.
pub fn write_model(dir: &Path) {
    write_model_of(dir, HIDDEN, 2);
}

/// The same of another width, in so many heads.
pub fn write_model_of(dir: &Path, hidden: usize, n_heads: usize) {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"];
    let heads = ('a'..='z').map(String::from);
    let pieces = special
        .iter()
        .map(|&token| token.to_owned())
        .chain([",".to_owned()])
        .chain(heads)
        .chain(('a'..='z').map(|c| format!("##{c}")));
    let vocab: HashMap<String, usize> = pieces.enumerate().map(|(id, piece)| (piece, id)).collect();
    let config = json!({
        "model_type": "bert", "vocab_size": vocab.len(), "hidden_size": hidden, "num_hidden_layers": 1,
        "num_attention_heads": n_heads, "intermediate_size": 24, "hidden_act": "gelu", "max_position_embeddings": POSITIONS,
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
    let spread = (HIDDEN as f32 / hidden as f32).sqrt(); // Sums are as large whatever the width.
    let mut put = |name: &str, shape: &[usize], centre: f32| {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                centre + ((seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * spread
            })
            .collect();
        tensors.insert(name.to_owned(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    put("embeddings.word_embeddings.weight", &[vocab.len(), hidden], 0.0);
    put("embeddings.position_embeddings.weight", &[POSITIONS, hidden], 0.0);
    put("embeddings.token_type_embeddings.weight", &[2, hidden], 0.0);
    let maps = [
        ("attention.self.query", hidden, hidden),
        ("attention.self.key", hidden, hidden),
        ("attention.self.value", hidden, hidden),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", 24, hidden),
        ("output.dense", hidden, 24),
    ];
    for (name, outputs, inputs) in maps {
        put(&format!("encoder.layer.0.{name}.weight"), &[outputs, inputs], 0.0);
        put(&format!("encoder.layer.0.{name}.bias"), &[outputs], 0.0);
    }
    put("cls.predictions.transform.dense.weight", &[hidden, hidden], 0.0);
    put("cls.predictions.transform.dense.bias", &[hidden], 0.0);
    put("cls.predictions.bias", &[vocab.len()], 0.0);
    put("linear.weight", &[6, hidden], 0.0);
    let norms =
        ["embeddings", "cls.predictions.transform", "encoder.layer.0.attention.output", "encoder.layer.0.output"];
    for norm in norms {
        put(&format!("{norm}.LayerNorm.weight"), &[hidden], 1.0);
        put(&format!("{norm}.LayerNorm.bias"), &[hidden], 0.0);
    }
    for (name, outputs) in [("pooler.dense", hidden), ("classifier", 2)] {
        put(&format!("{name}.weight"), &[outputs, hidden], 0.0);
        put(&format!("{name}.bias"), &[outputs], 0.0);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}
