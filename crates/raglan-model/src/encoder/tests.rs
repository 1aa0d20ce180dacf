use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert as candle;
use serde_json::json;

use super::*;

struct Saved {
    dir: tempfile::TempDir,
    tensors: HashMap<String, Tensor>,
}

/// A small model of random weights, as files.
fn saved() -> Saved {
    let (hidden, n_heads, vocab, inner, positions) = (16, 4, 50, 24, 20);
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "bert", "vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": 2,
        "num_attention_heads": n_heads, "intermediate_size": inner, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "max_position_embeddings": positions, "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "pad_token_id": 0, "position_embedding_type": "absolute", "use_cache": true
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = HashMap::new();
    let mut seed = 1u64;
    let mut put = |name: String, shape: &[usize], centre: f32| {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                centre + (seed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
            })
            .collect();
        tensors.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    put("embeddings.word_embeddings.weight".into(), &[vocab, hidden], 0.0);
    put("embeddings.position_embeddings.weight".into(), &[positions, hidden], 0.0);
    put("embeddings.token_type_embeddings.weight".into(), &[2, hidden], 0.0);
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for i in 0..2 {
        let layer = format!("encoder.layer.{i}");
        let maps = [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ];
        for (name, outputs, inputs) in maps {
            put(format!("{layer}.{name}.weight"), &[outputs, inputs], 0.0);
            put(format!("{layer}.{name}.bias"), &[outputs], 0.0);
        }
        norms.extend([format!("{layer}.attention.output.LayerNorm"), format!("{layer}.output.LayerNorm")]);
    }
    for norm in norms {
        put(format!("{norm}.weight"), &[hidden], 1.0);
        put(format!("{norm}.bias"), &[hidden], 0.0);
    }
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    Saved { dir, tensors }
}

impl Saved {
    fn path(&self) -> PathBuf {
        self.dir.path().join("model.safetensors")
    }

    fn config(&self) -> EncoderModelConfig {
        EncoderModelConfig::from_file(self.dir.path().join("config.json")).unwrap()
    }

    fn load(&self) -> Result<EncoderModel> {
        self.load_with(Products::Stored)
    }

    fn load_with(&self, products: Products) -> Result<EncoderModel> {
        EncoderModel::load(self.path(), self.config(), products)
    }

    #[track_caller]
    fn refuses(&self, part: &str) {
        match self.load() {
            Err(Error::Malformed { path, problem }) => {
                assert_eq!(path, self.path());
                assert!(problem.contains(part), "{problem}");
            }
            other => panic!("{other:?}"),
        }
    }
}

fn sequences(model: &EncoderModel, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
    model.hidden_states(sequences).unwrap().sequences().map(<[f32]>::to_vec).collect()
}

#[track_caller]
fn check_near(got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= tolerance, "{got} for {want}");
    }
}

#[test]
fn agrees_with_candle() {
    let saved = saved();
    let model = saved.load().unwrap();
    let config = std::fs::read(saved.dir.path().join("config.json")).unwrap();
    let config: candle::Config = serde_json::from_slice(&config).unwrap();
    let oracle =
        candle::BertModel::load(VarBuilder::from_tensors(saved.tensors.clone(), DType::F32, &Device::Cpu), &config);
    let oracle = oracle.unwrap();
    for ids in [vec![7u32], vec![1, 49, 0, 3, 3], (0..20).collect()] {
        let input = Tensor::new(&*ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let want = oracle.forward(&input, &input.zeros_like().unwrap(), None).unwrap();
        let want: Vec<f32> = want.flatten_all().unwrap().to_vec1().unwrap();
        check_near(&sequences(&model, &[&ids])[0], &want, 2e-5);
    }
}

#[test]
fn a_sequence_does_not_depend_on_the_others() {
    let model = saved().load().unwrap();
    let batch: [&[u32]; 5] = [&[1, 2, 3], &[], &[9], &[4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4], &[1, 2, 3]];
    let together = sequences(&model, &batch);
    assert_eq!(together.len(), 5);
    assert!(together[1].is_empty());
    for (ids, together) in batch.iter().zip(&together) {
        assert!(*together == sequences(&model, &[ids])[0]);
    }
    assert!(sequences(&model, &[]).is_empty());
    assert!(sequences(&model, &[&[]])[0].is_empty());
}

#[test]
fn ids_and_lengths_beyond_the_model_are_errors() {
    let model = saved().load().unwrap();
    assert!(matches!(model.hidden_states(&[&[1], &[50]]), Err(Error::UnknownToken { id: 50 })));
    assert!(matches!(model.hidden_states(&[&[u32::MAX]]), Err(Error::UnknownToken { .. })));
    assert!(matches!(model.hidden_states(&[&[1; 21]]), Err(Error::ContextOverflow { tokens: 21, limit: 20 })));
}

#[test]
fn names_with_the_family_before_them_and_half_precision_are_read() {
    let saved = saved();
    let want = sequences(&saved.load().unwrap(), &[&[1, 2, 3]]);
    let renamed: HashMap<String, Tensor> = saved
        .tensors
        .iter()
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (format!("bert.{name}"), tensor.to_dtype(DType::F16).unwrap())
        })
        .collect();
    candle_core::safetensors::save(&renamed, saved.path()).unwrap();
    let got = sequences(&saved.load().unwrap(), &[&[1, 2, 3]]);
    check_near(&got[0], &want[0], 2e-2); // Half precision keeps 11 bits.
}

#[test]
fn weights_that_do_not_fit_are_errors_that_name_file_and_tensor() {
    let name = "encoder.layer.1.output.dense.weight";
    let saved = saved();
    let save = |tensor: Option<Tensor>| {
        let mut tensors = saved.tensors.clone();
        match tensor {
            Some(tensor) => tensors.insert(name.into(), tensor),
            None => tensors.remove(name),
        };
        candle_core::safetensors::save(&tensors, saved.path()).unwrap();
    };
    save(None);
    saved.refuses(name);
    save(Some(Tensor::zeros((24, 16), DType::F32, &Device::Cpu).unwrap()));
    saved.refuses("expected shape [16, 24], found [24, 16]");
    save(Some(Tensor::zeros((16, 24), DType::U8, &Device::Cpu).unwrap()));
    saved.refuses(name);
    save(Some(Tensor::full(f32::NAN, (16, 24), &Device::Cpu).unwrap()));
    saved.refuses("not a finite number");
}

#[test]
fn damaged_files_are_errors_or_at_least_no_panic() {
    let saved = saved();
    let whole = std::fs::read(saved.path()).unwrap();
    for len in (0..whole.len()).step_by(197) {
        std::fs::write(saved.path(), &whole[..len]).unwrap();
        saved.refuses("");
    }
    // The header: its length and its JSON.
    for bit in (0..8 * 600).step_by(7) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(saved.path(), &flipped).unwrap();
        let _ = saved.load();
    }
    std::fs::remove_file(saved.path()).unwrap();
    assert!(matches!(saved.load(), Err(Error::Io { .. })));
}

#[test]
fn configs_that_cannot_be_run_are_errors() {
    let saved = saved();
    let path = saved.dir.path().join("config.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut config = whole.clone();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
        EncoderModelConfig::from_file(&path).unwrap_err()
    };
    let malformed = |error| matches!(error, Error::Malformed { .. });
    assert!(malformed(with("num_attention_heads", json!(0))));
    assert!(malformed(with("num_attention_heads", json!(3)))); // 16 / 3
    assert!(malformed(with("hidden_size", json!(u64::MAX))));
    assert!(malformed(with("hidden_size", json!(-1))));
    assert!(malformed(with("layer_norm_eps", json!(-1.0))));
    assert!(malformed(with("hidden_act", json!("swish"))));
    assert!(matches!(with("model_type", json!("t5")), Error::Unsupported { .. }));
    assert!(matches!(with("position_embedding_type", json!("relative_key")), Error::Unsupported { .. }));
}

#[test]
fn candle_and_our_kernels_agree_and_bytes_are_near() {
    let saved = saved();
    let ids: &[u32] = &[1, 49, 0, 3, 3, 17, 28];
    let want = &sequences(&saved.load().unwrap(), &[ids])[0];
    check_near(&sequences(&saved.load_with(Products::Candle).unwrap(), &[ids])[0], want, 2e-5);
    let got = &sequences(&saved.load_with(Products::Int8).unwrap(), &[ids])[0];
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
    assert!(cosine >= 0.998, "{cosine}");
}
