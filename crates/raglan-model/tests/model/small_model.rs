//! Small decoders of every family with seeded random weights, written to GGUF files and to folders of safetensors, and
//! candle's logits for them.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma3, llama, mistral, quantized_llama, quantized_qwen2, quantized_qwen3, qwen2, qwen3,
};
use serde_json::json;

pub const HIDDEN: usize = 96;
pub const HEADS: usize = 6;
pub const FFN: usize = 160;
pub const VOCAB: usize = 67;
pub const CONTEXT: u32 = 700;
/// How many positions the layers with a window see.
pub const WINDOW: u32 = 13;
const LAYERS: usize = 3;
/// Every such layer sees all, of Gemma.
const PATTERN: usize = 3;

pub fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i + 3 * i) % VOCAB as u32).collect()
}

/// The greatest difference between logits, whose standard deviation in these models is about 7.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| if (a - b).abs() <= most { most } else { (a - b).abs() })
}

/// A model by the names that safetensors have.
pub struct SmallModel {
    /// `llama`, `mistral`, `qwen2`, `qwen3` or `gemma3`.
    pub family: &'static str,
    /// What `config.json` says.
    pub config: serde_json::Value,
    pub tensors: HashMap<String, Tensor>,
    /// What a GGUF file has besides, without the architecture's name.
    pub metadata: Vec<(&'static str, Value)>,
}

impl SmallModel {
    pub fn new(family: &'static str) -> Self {
        // Not the hidden state's share of a head, where the family allows that.
        Self::with_head_dim(family, if family == "gemma3" { 32 } else { HIDDEN / HEADS })
    }

    /// A model whose heads have this many components, which candle's own does not read everywhere.
    pub fn with_head_dim(family: &'static str, head_dim: usize) -> Self {
        let is_gemma = family == "gemma3";
        // Candle's Gemma cannot read several tokens with more.
        let kv_heads = if is_gemma { 1 } else { 2 };
        let tied = is_gemma || family == "qwen3";
        let mut config = json!({
            "model_type": family,
            "hidden_size": HIDDEN,
            "intermediate_size": FFN,
            "vocab_size": VOCAB,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": tied,
            "attention_bias": false,
            "eos_token_id": [1, 2],
        });
        let more = match family {
            "mistral" => json!({ "sliding_window": WINDOW }),
            "qwen2" | "qwen3" => {
                json!({ "sliding_window": CONTEXT, "use_sliding_window": false, "max_window_layers": 2 })
            }
            "gemma3" => json!({
                "model_type": "gemma3_text",
                "hidden_activation": "gelu_pytorch_tanh",
                "rope_theta": 1_000_000.0,
                "rope_local_base_freq": 10_000.0,
                "query_pre_attn_scalar": head_dim,
                "sliding_window": WINDOW,
                "sliding_window_pattern": PATTERN,
                "attn_logit_softcapping": null,
                "final_logit_softcapping": null,
            }),
            _ => json!({}),
        };
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }

        let mut random = Random(1);
        let mut tensors = HashMap::new();
        // Gemma's norms multiply by 1 + w.
        let one = if is_gemma { 0.0 } else { 1.0 };
        let mut add = |name: String, shape: &[usize], around: f32, spread: f32| {
            tensors.insert(name, random.tensor(shape, around, spread));
        };
        // Embeddings of Gemma are multiplied by the root of 96.
        add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], 0.0, if is_gemma { 0.2 } else { 1.0 });
        add("model.norm.weight".into(), &[HIDDEN], one, 0.2);
        if !tied {
            add("lm_head.weight".into(), &[VOCAB, HIDDEN], 0.0, 1.0);
        }
        for layer in 0..LAYERS {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            for (part, n_out, n_in) in [
                ("self_attn.q_proj", HEADS * head_dim, HIDDEN),
                ("self_attn.k_proj", kv_heads * head_dim, HIDDEN),
                ("self_attn.v_proj", kv_heads * head_dim, HIDDEN),
                ("self_attn.o_proj", HIDDEN, HEADS * head_dim),
                ("mlp.gate_proj", FFN, HIDDEN),
                ("mlp.up_proj", FFN, HIDDEN),
                ("mlp.down_proj", HIDDEN, FFN),
            ] {
                add(name(&format!("{part}.weight")), &[n_out, n_in], 0.0, 0.3);
                if family == "qwen2" && ["q", "k", "v"].iter().any(|map| part.ends_with(&format!("{map}_proj"))) {
                    add(name(&format!("{part}.bias")), &[n_out], 0.0, 0.5);
                }
            }
            let mut norms = vec![("input_layernorm", HIDDEN), ("post_attention_layernorm", HIDDEN)];
            if is_gemma {
                norms.extend([("pre_feedforward_layernorm", HIDDEN), ("post_feedforward_layernorm", HIDDEN)]);
            }
            if is_gemma || family == "qwen3" {
                norms.extend([("self_attn.q_norm", head_dim), ("self_attn.k_norm", head_dim)]);
            }
            for (part, dim) in norms {
                add(name(&format!("{part}.weight")), &[dim], one, 0.2);
            }
        }
        Self { family, config, tensors, metadata: Vec::new() }
    }

    /// The model as a GGUF file holds it, in single precision.
    pub fn rounded(&self, dtype: GgmlDType) -> Self {
        let round = |tensor: &Tensor| match tensor.dims().len() {
            2 => QTensor::quantize(tensor, dtype).unwrap().dequantize(&Device::Cpu).unwrap(),
            _ => tensor.clone(),
        };
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.clone(), round(tensor))).collect();
        Self { family: self.family, config: self.config.clone(), tensors, metadata: self.metadata.clone() }
    }

    /// Writes `config.json` and `model.safetensors`.
    pub fn write_folder(&self, folder: &Path, dtype: DType) {
        std::fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        let tensors: HashMap<_, _> =
            self.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap())).collect();
        candle_core::safetensors::save(&tensors, folder.join("model.safetensors")).unwrap();
    }

    /// Writes `config.json`, two shards and their index.
    pub fn write_shards(&self, folder: &Path, dtype: DType) {
        self.write_folder(folder, dtype);
        let whole = folder.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&whole, &Device::Cpu).unwrap();
        std::fs::remove_file(whole).unwrap();
        let shard = |name: &str| {
            if name.contains("layers.1.") {
                "model-00002-of-00002.safetensors"
            } else {
                "model-00001-of-00002.safetensors"
            }
        };
        let weight_map: HashMap<&String, &str> = tensors.keys().map(|name| (name, shard(name))).collect();
        for file in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
            let own: HashMap<_, _> = tensors.iter().filter(|(name, _)| shard(name) == file).collect();
            let own = own.into_iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
            candle_core::safetensors::save(&own, folder.join(file)).unwrap();
        }
        std::fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": weight_map }).to_string())
            .unwrap();
    }

    /// Writes a GGUF file of the model, whose matrices are stored in `dtype`. Mistral is a `llama` there.
    pub fn write_gguf(&self, path: &Path, dtype: GgmlDType) {
        let architecture = if self.family == "mistral" { "llama" } else { self.family };
        self.write_gguf_as(path, architecture, dtype);
    }

    /// Writes a GGUF file under another architecture's name.
    pub fn write_gguf_as(&self, path: &Path, architecture: &str, dtype: GgmlDType) {
        let number = |key: &str| self.config[key].as_u64().unwrap() as usize;
        let (head_dim, kv_heads) = (number("head_dim"), number("num_key_value_heads"));
        let mut tensors = Vec::new();
        for (name, tensor) in &self.tensors {
            let name = gguf_name(name, self.family == "gemma3");
            let mut tensor = tensor.clone();
            let is_matrix = tensor.dims().len() == 2;
            if architecture == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
                tensor = neighbours(&tensor, head_dim);
            }
            if self.family == "gemma3" && !is_matrix {
                tensor = (tensor + 1.0).unwrap();
            }
            let dtype = if is_matrix { dtype } else { GgmlDType::F32 };
            tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let base = self.config["rope_theta"].as_f64().unwrap() as f32;
        let mut metadata = vec![
            ("block_count", Value::U32(LAYERS as u32)),
            ("context_length", Value::U32(CONTEXT)),
            ("embedding_length", Value::U32(HIDDEN as u32)),
            ("feed_forward_length", Value::U32(FFN as u32)),
            ("attention.head_count", Value::U32(HEADS as u32)),
            ("attention.head_count_kv", Value::U32(kv_heads as u32)),
            ("attention.key_length", Value::U32(head_dim as u32)),
            ("attention.value_length", Value::U32(head_dim as u32)),
            ("rope.dimension_count", Value::U32(head_dim as u32)),
            ("rope.freq_base", Value::F32(base)),
            ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ];
        metadata.extend(self.metadata.iter().cloned());
        if self.family == "gemma3" {
            metadata.push(("attention.sliding_window_pattern", Value::U32(PATTERN as u32)));
        }
        if matches!(self.family, "gemma3" | "mistral") {
            metadata.push(("attention.sliding_window", Value::U32(WINDOW)));
        }
        let metadata: Vec<(String, Value)> =
            metadata.into_iter().map(|(name, value)| (format!("{architecture}.{name}"), value)).collect();
        let mut metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
        let name = Value::String(architecture.to_owned());
        metadata.push(("general.architecture", &name));
        metadata.push(("general.dtype", &Value::U32(0))); // Candle's Qwen 3 rotates in half precision otherwise.
        let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    /// Candle's logits after a prompt, from the safetensors.
    pub fn oracle(&self, tokens: &[u32]) -> Vec<f32> {
        let weights = VarBuilder::from_tensors(self.tensors.clone(), DType::F32, &Device::Cpu);
        let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let mut json = self.config.clone();
        if matches!(self.family, "mistral" | "gemma3") {
            json["sliding_window"] = json!(WINDOW - 1); // Candle sees one more position than the window has.
        }
        fn read<T: serde::de::DeserializeOwned>(json: &serde_json::Value) -> T {
            serde_json::from_value(json.clone()).unwrap()
        }
        let logits = match self.family {
            "llama" => {
                let config = read::<llama::LlamaConfig>(&json).into_config(false);
                let mut cache = llama::Cache::new(true, DType::F32, &config, &Device::Cpu).unwrap();
                llama::Llama::load(weights, &config).unwrap().forward(&input, 0, &mut cache)
            }
            "mistral" => mistral::Model::new(&read(&json), weights).unwrap().forward(&input, 0),
            "qwen2" => qwen2::ModelForCausalLM::new(&read(&json), weights).unwrap().forward(&input, 0),
            "qwen3" => qwen3::ModelForCausalLM::new(&read(&json), weights).unwrap().forward(&input, 0),
            _ => gemma3::Model::new(false, &read(&json), weights).unwrap().forward(&input, 0),
        };
        logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// Candle's logits after a prompt, from a GGUF file of a family that it reads right: its quantized Gemma 3 has SiLU
/// where Gemma has GELU.
pub fn gguf_oracle(path: &Path, architecture: &str, tokens: &[u32]) -> Vec<f32> {
    let mut file = File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let device = Device::Cpu;
    let logits = match architecture {
        "llama" => quantized_llama::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0),
        "qwen2" => quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0),
        "qwen3" => quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0),
        other => unreachable!("candle's quantized {other} is none"),
    };
    logits.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Knuth's MMIX generator; its upper bits are good enough for weights.
struct Random(u64);

impl Random {
    fn tensor(&mut self, shape: &[usize], around: f32, spread: f32) -> Tensor {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                around + spread * ((self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// Rows of queries or keys in the order of GGUF's `llama` files, where the components that turn together are
/// neighbours.
fn neighbours(rows: &Tensor, head_dim: usize) -> Tensor {
    let (n_rows, dim) = rows.dims2().unwrap();
    let halves = rows.reshape((n_rows / head_dim, 2, head_dim / 2, dim)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((n_rows, dim)).unwrap()
}

fn gguf_name(name: &str, is_gemma: bool) -> String {
    let ffn_norm = if is_gemma { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
    let mut name = name.replace("model.layers.", "blk.").replace(ffn_norm, "ffn_norm");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "post_attention_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    name
}
