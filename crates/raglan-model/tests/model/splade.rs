//! A published SPLADE itself: its weights are those of the whole matrix of logits, as candle computes it.
//!
//! The test runs when the model is in the cache, says so when it is not, and fails then if `RAGLAN_REQUIRE_MODELS` is
//! set.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert;
use raglan_model::registry::ModelCache;
use raglan_model::{EncoderModel, EncoderModelConfig, MaskedLanguageHead, Products, SafetensorsFile, Tokenizer};

#[test]
fn splades_weights_are_those_of_the_whole_matrix() {
    let folder = match ModelCache::new(None, true).unwrap().path("splade-tiny") {
        Ok(folder) => folder,
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped, for want of the model: {e}");
            return;
        }
    };
    let file = SafetensorsFile::open(&folder).unwrap();
    let config = EncoderModelConfig::from_file(folder.join("config.json")).unwrap();
    let head = MaskedLanguageHead::from_safetensors(&file, &config, Products::Stored).unwrap();
    let model = EncoderModel::from_safetensors(&file, config, Products::Stored).unwrap();
    let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    // The oracle wants other names, and a decoder that is not tied.
    let tensors = candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let mut tensors: HashMap<String, Tensor> = tensors
        .into_iter()
        .map(|(name, tensor)| (name.replace(".gamma", ".weight").replace(".beta", ".bias"), tensor))
        .collect();
    tensors.insert("cls.predictions.decoder.weight".into(), tensors["bert.embeddings.word_embeddings.weight"].clone());
    tensors.insert("cls.predictions.decoder.bias".into(), tensors["cls.predictions.bias"].clone());
    let oracle = std::fs::read(folder.join("config.json")).unwrap();
    let oracle: bert::Config = serde_json::from_slice(&oracle).unwrap();
    let tensors = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let oracle = bert::BertForMaskedLM::load(tensors, &oracle).unwrap();
    for text in ["The capital of France is Paris.", "How does a cache make the second read faster?", "x"] {
        let ids = tokenizer.encode(text, true).unwrap().ids;
        let mut got = head.term_weights(&model.hidden_states(&[&ids]).unwrap()).unwrap().remove(0);
        let input = Tensor::new(&*ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = oracle.forward(&input, &input.zeros_like().unwrap(), None).unwrap();
        let most = logits.max(1).unwrap().relu().unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let want: Vec<f32> = most.into_iter().map(f32::ln_1p).collect();
        let square = |weights: &mut dyn Iterator<Item = f32>| weights.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
        let norms = square(&mut got.iter().map(|(_, weight)| *weight)) * square(&mut want.iter().copied());
        let dot: f64 = got.iter().map(|&(term, weight)| f64::from(weight) * f64::from(want[term as usize])).sum();
        let cosine = dot / norms.sqrt();
        assert!(cosine >= 0.999_99, "{cosine} for `{text}`");
        got.sort_by(|a, b| b.1.total_cmp(&a.1));
        let top: Vec<String> =
            got.iter().take(8).map(|&(id, weight)| format!("{} {weight:.2}", tokenizer.token(id).unwrap())).collect();
        println!("`{text}`: {} words, cosine {cosine:.8}: {}", got.len(), top.join(", "));
    }
}
