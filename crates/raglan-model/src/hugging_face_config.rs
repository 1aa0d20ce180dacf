//! The shape of a decoder-only model, as the folder of a Hugging Face repository gives it.

use std::collections::BTreeSet;
use std::path::Path;

use raglan_kernels::{Activation, RotaryPairs, RotaryScaling};
use serde_json::Value;

use crate::Result;
use crate::decoder_config::{
    DecoderConfig, END_TOKENS, GEMMA3_LOCAL_BASE, GEMMA3_PATTERN, MAX_NUMBER, Rope, periodic_windows, positive,
};
use crate::json_file::JsonFile;

/// What a family's `config.json` may leave out, as the library that wrote it fills it in.
struct Family {
    architecture: &'static str,
    /// `None` where each query head has its own keys.
    n_kv_heads: Option<usize>,
    /// `None` for the hidden state's share of a head.
    head_dim: Option<usize>,
    activation: Activation,
    window: Option<u32>,
    context_len: usize,
    rope_base: f64,
    tied_embeddings: bool,
}

const LLAMA: Family = Family {
    architecture: "llama",
    n_kv_heads: None,
    head_dim: None,
    activation: Activation::Silu,
    window: None,
    context_len: 2048,
    rope_base: 10_000.0,
    tied_embeddings: false,
};
const MISTRAL: Family =
    Family { architecture: "mistral", n_kv_heads: Some(8), window: Some(4096), context_len: 131_072, ..LLAMA };
const QWEN2: Family = Family { architecture: "qwen2", n_kv_heads: Some(32), context_len: 32_768, ..LLAMA };
const QWEN3: Family = Family { architecture: "qwen3", head_dim: Some(128), ..QWEN2 };
const GEMMA3: Family = Family {
    architecture: "gemma3",
    n_kv_heads: Some(4),
    head_dim: Some(256),
    activation: Activation::GeluTanh,
    window: Some(4096),
    context_len: 131_072,
    rope_base: 1_000_000.0,
    tied_embeddings: true,
};

impl DecoderConfig {
    /// Reads the shape from the `config.json` of a folder; the tokens that end an answer also from
    /// `generation_config.json` and `tokenizer_config.json`, where these are there.
    ///
    /// Of a Gemma 3 that also sees images it is the shape of the part that reads text.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`](crate::Error::Unsupported) for another family of models or a part that cannot be run;
    /// [`Error::Malformed`](crate::Error::Malformed) when an entry is missing or absurd;
    /// [`Error::Io`](crate::Error::Io).
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let outer = JsonFile::open(&folder.join("config.json"))?;
        let model_type = outer.required("model_type", outer.text("model_type"))?;
        let family = match model_type {
            "llama" => LLAMA,
            "mistral" => MISTRAL,
            "qwen2" => QWEN2,
            "qwen3" => QWEN3,
            "gemma3" | "gemma3_text" => GEMMA3,
            other => {
                let known = "llama, mistral, qwen2, qwen3, gemma3";
                return Err(outer.unsupported(format!("model type `{other}` (can read {known})")));
            }
        };
        let file = outer.object("text_config")?.unwrap_or_else(|| outer.clone());
        for key in ["quantization_config", "attn_logit_softcapping", "final_logit_softcapping"] {
            if file.value(key).is_some() {
                return Err(file.unsupported(format!("a model with `{key}`")));
            }
        }
        if file.number("partial_rotary_factor")?.is_some_and(|part| part != 1.0) {
            return Err(file.unsupported("rotation of a part of a head"));
        }
        let length = |key: &str| file.length(key, MAX_NUMBER);
        let required = |key: &str| file.required(key, length(key));
        let (hidden_dim, n_layers) = (required("hidden_size")?, required("num_hidden_layers")?);
        let is_gemma = family.architecture == "gemma3";
        // The first Gemma 3 leaves out what is as in this family.
        let or_gemmas =
            |key: &str, gemmas: usize| if is_gemma { Ok(length(key)?.unwrap_or(gemmas)) } else { required(key) };
        let n_heads = or_gemmas("num_attention_heads", 8)?;
        let vocab_size = or_gemmas("vocab_size", 262_208)?;
        let n_kv_heads = length("num_key_value_heads")?.or(family.n_kv_heads).unwrap_or(n_heads);
        let head_dim = length("head_dim")?.or(family.head_dim).unwrap_or(hidden_dim / n_heads);
        if n_heads % n_kv_heads != 0 || head_dim == 0 || head_dim % 2 != 0 {
            return Err(file.malformed(format!("{n_heads} heads of {head_dim} cannot share {n_kv_heads} keys")));
        }
        let scaled_dim = match file.number("query_pre_attn_scalar")?.filter(|_| is_gemma) {
            Some(scalar) if scalar > 0.0 => scalar,
            Some(_) => return Err(file.malformed("`query_pre_attn_scalar` is not positive")),
            None => head_dim as f64,
        };
        let context_len = length("max_position_embeddings")?.unwrap_or(family.context_len);
        let (rope, local_rope) = ropes(&file, &family, context_len)?;
        Ok(Self {
            architecture: family.architecture.to_owned(),
            ffn_dim: required("intermediate_size")?,
            activation: activation(&file, family.activation)?,
            attention_scale: (1.0 / scaled_dim.sqrt()) as f32,
            embedding_scale: if is_gemma { (hidden_dim as f32).sqrt() } else { 1.0 },
            windows: windows(&file, &family, n_layers)?,
            rope_pairs: RotaryPairs::Halves,
            context_len: rope.reach(context_len),
            rms_eps: positive(file.number("rms_norm_eps")?.unwrap_or(1e-6), || {
                file.malformed("`rms_norm_eps` is not above 0")
            })?,
            tied_embeddings: file.bool("tie_word_embeddings")?.unwrap_or(family.tied_embeddings),
            end_tokens: end_tokens(folder, &[&outer, &file], vocab_size)?,
            bos: file.token_ids("bos_token_id")?.first().copied(),
            rope,
            local_rope,
            n_layers,
            hidden_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
        })
    }
}

fn activation(file: &JsonFile, default: Activation) -> Result<Activation> {
    let key = if file.value("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    Ok(match file.text(key)? {
        None => default,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu") => Activation::Gelu,
        Some("gelu_pytorch_tanh" | "gelu_new") => Activation::GeluTanh,
        Some("relu") => Activation::Relu,
        Some(other) => return Err(file.unsupported(format!("activation `{other}`"))),
    })
}

/// The window of each layer.
fn windows(file: &JsonFile, family: &Family, n_layers: usize) -> Result<Vec<Option<u32>>> {
    let length = |key: &str| file.length(key, MAX_NUMBER);
    // No entry is the family's window, and `null` is none.
    let mut window = if file.entries.contains_key("sliding_window") {
        file.length("sliding_window", u32::MAX as usize)?.map(|window| window as u32)
    } else {
        family.window
    };
    let is_qwen = family.architecture.starts_with("qwen");
    if family.architecture == "llama" || is_qwen && file.bool("use_sliding_window")? != Some(true) {
        window = None;
    }
    if let Some(types) = file.value("layer_types") {
        let types = types.as_array().filter(|types| types.len() == n_layers);
        let Some(types) = types else { return Err(file.malformed("`layer_types` is not a list of as many as layers")) };
        let window_of = |kind: &Value| match kind.as_str() {
            Some("full_attention") => Ok(None),
            Some("sliding_attention") => Ok(window),
            _ => Err(file.unsupported(format!("a layer of type {kind}"))),
        };
        return types.iter().map(window_of).collect();
    }
    if is_qwen {
        let first = file.number("max_window_layers")?.unwrap_or(28.0);
        return Ok((0..n_layers).map(|layer| window.filter(|_| layer as f64 >= first)).collect());
    }
    let pattern = match length("sliding_window_pattern")?.or(length("_sliding_window_pattern")?) {
        Some(pattern) => pattern,
        None if family.architecture == "gemma3" => GEMMA3_PATTERN,
        None => 0,
    };
    Ok(periodic_windows(n_layers, window, pattern))
}

/// The rotation, and that of the layers that see a window.
fn ropes(file: &JsonFile, family: &Family, context_len: usize) -> Result<(Rope, Option<Rope>)> {
    let is_gemma = family.architecture == "gemma3";
    let base = file.number("rope_theta")?.unwrap_or(family.rope_base);
    let local_base = file.number("rope_local_base_freq")?.unwrap_or(GEMMA3_LOCAL_BASE);
    // The newer form has all in one place, for each type of layer where they differ.
    let Some(parameters) = file.object("rope_parameters")? else {
        let global = rope(file.object("rope_scaling")?.as_ref(), base, context_len)?;
        return Ok((global, is_gemma.then(|| Rope::plain(local_base))));
    };
    let local = parameters.object("sliding_attention")?;
    let global = parameters.object("full_attention")?.unwrap_or(parameters);
    let global = rope(Some(&global), base, context_len)?;
    let local = local.map(|local| rope(Some(&local), local_base, context_len)).transpose()?;
    Ok((global, local.or_else(|| is_gemma.then(|| Rope::plain(local_base)))))
}

fn rope(parameters: Option<&JsonFile>, base: f64, context_len: usize) -> Result<Rope> {
    let Some(parameters) = parameters else { return Ok(Rope::plain(base)) };
    let base = parameters.number("rope_theta")?.unwrap_or(base);
    let kind = parameters.text("rope_type")?.or(parameters.text("type")?).unwrap_or("default");
    let required = |key: &str| parameters.required(key, parameters.number(key));
    let original_len = || parameters.length("original_max_position_embeddings", MAX_NUMBER);
    let scaling = match kind {
        "default" | "none" => RotaryScaling::None,
        "linear" => RotaryScaling::Linear { factor: required("factor")? },
        // The base follows the text's length, from `original` on. Kept keys cannot follow it: it is set for the
        // longest text at once, which changes nothing where that is not beyond `original`.
        "dynamic" => {
            let beyond = context_len as f64 / original_len()?.unwrap_or(context_len) as f64;
            let factor = required("factor")?;
            let factor = factor * beyond - (factor - 1.0);
            if factor > 1.0 { RotaryScaling::Ntk { factor } } else { RotaryScaling::None }
        }
        "ntk" => RotaryScaling::Ntk { factor: required("factor")? },
        "yarn" => {
            let original_len = original_len()?.unwrap_or(context_len);
            let factor = match parameters.number("factor")? {
                Some(factor) => factor,
                None => context_len as f64 / original_len as f64,
            };
            let usual = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            let other_magnitude =
                parameters.number("attention_factor")?.is_some_and(|magnitude| (magnitude - usual).abs() > 1e-6);
            let other_ramp = parameters.bool("truncate")? == Some(false);
            if other_magnitude || other_ramp || parameters.value("mscale_all_dim").is_some() {
                return Err(parameters.unsupported("YaRN with a magnitude or a ramp of its own"));
            }
            RotaryScaling::Yarn {
                factor,
                original_len: original_len as u32,
                beta_fast: parameters.number("beta_fast")?.unwrap_or(32.0),
                beta_slow: parameters.number("beta_slow")?.unwrap_or(1.0),
            }
        }
        "llama3" => RotaryScaling::Llama3 {
            factor: required("factor")?,
            low: required("low_freq_factor")?,
            high: required("high_freq_factor")?,
            original_len: parameters.required("original_max_position_embeddings", original_len())? as u32,
        },
        other => return Err(parameters.unsupported(format!("rotary scaling `{other}`"))),
    };
    Ok(Rope { base, scaling })
}

/// Every token that ends a turn: those the files name, and special tokens known by their text, because many files
/// name only one of two.
fn end_tokens(folder: &Path, configs: &[&JsonFile], vocab_size: usize) -> Result<BTreeSet<u32>> {
    let mut ends = BTreeSet::new();
    let generation = JsonFile::open_if_there(&folder.join("generation_config.json"))?;
    for config in configs.iter().copied().chain(&generation) {
        let named = config.token_ids("eos_token_id")?;
        if let Some(id) = named.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(config.malformed(format!("`eos_token_id` is {id}, and the vocabulary has {vocab_size} tokens")));
        }
        ends.extend(named);
    }
    let tokenizer = JsonFile::open_if_there(&folder.join("tokenizer_config.json"))?;
    let added = tokenizer.map(|tokenizer| tokenizer.object("added_tokens_decoder")).transpose()?.flatten();
    for (id, token) in added.iter().flat_map(|added| &added.entries) {
        let is_end = token["content"].as_str().is_some_and(|text| END_TOKENS.contains(&text));
        if is_end && token["special"] == Value::Bool(true) {
            ends.extend(id.parse::<u32>().ok());
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Error;

    /// The shape that a folder with a `config.json` of some sizes and these entries gives.
    fn read(entries: Value) -> Result<DecoderConfig> {
        let mut config = json!({
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "vocab_size": 100,
            "max_position_embeddings": 4096,
        });
        for (key, value) in entries.as_object().unwrap() {
            config[key] = value.clone();
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        DecoderConfig::from_folder(folder.path())
    }

    #[track_caller]
    fn check_scaling(parameters: Value, expected: &RotaryScaling) {
        let config = read(json!({ "model_type": "llama", "rope_theta": 5e5, "rope_scaling": parameters })).unwrap();
        assert_eq!((&config.rope.scaling, config.rope.base), (expected, 5e5));
        // The newer form.
        let mut parameters = parameters;
        parameters["rope_theta"] = json!(5e5);
        let config = read(json!({ "model_type": "llama", "rope_parameters": parameters })).unwrap();
        assert_eq!((&config.rope.scaling, config.rope.base), (expected, 5e5));
    }

    #[test]
    fn rotary_scalings_are_read_in_both_forms() {
        check_scaling(json!({ "rope_type": "default" }), &RotaryScaling::None);
        check_scaling(json!({ "type": "linear", "factor": 8.0 }), &RotaryScaling::Linear { factor: 8.0 });
        check_scaling(json!({ "type": "dynamic", "factor": 2.0 }), &RotaryScaling::None);
        // Twice as long as trained: 3 · 2 − (3 − 1).
        let beyond = json!({ "type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 2048 });
        check_scaling(beyond, &RotaryScaling::Ntk { factor: 4.0 });
        check_scaling(
            json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024, "beta_fast": 16 }),
            &RotaryScaling::Yarn { factor: 4.0, original_len: 1024, beta_fast: 16.0, beta_slow: 1.0 },
        );
        check_scaling(
            json!({
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512,
            }),
            &RotaryScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_len: 512 },
        );
        for (parameters, supported) in [
            (json!({ "rope_type": "longrope", "factor": 2.0 }), false),
            (json!({ "rope_type": "yarn", "factor": 4.0, "attention_factor": 3.0 }), false),
            (json!({ "rope_type": "linear" }), true),
            (json!({ "rope_type": "linear", "factor": "2" }), true),
        ] {
            let error = read(json!({ "model_type": "llama", "rope_scaling": parameters })).unwrap_err();
            assert_eq!(matches!(error, Error::Malformed { .. }), supported, "{error}");
        }
    }

    #[test]
    fn yarn_lengthens_the_context() {
        let scaling = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096 });
        let config = read(json!({ "model_type": "qwen2", "rope_scaling": scaling })).unwrap();
        assert_eq!(config.context_len, 16_384);
    }

    #[test]
    fn windows_are_those_of_the_family() {
        let windows = |entries| read(entries).unwrap().windows;
        let all = |window| vec![window; 12];
        assert_eq!(windows(json!({ "model_type": "llama", "sliding_window": 5 })), all(None));
        assert_eq!(windows(json!({ "model_type": "mistral" })), all(Some(4096)));
        assert_eq!(windows(json!({ "model_type": "mistral", "sliding_window": null })), all(None));
        assert_eq!(windows(json!({ "model_type": "qwen2", "sliding_window": 5 })), all(None));
        let late = windows(json!({
            "model_type": "qwen2", "sliding_window": 5, "use_sliding_window": true, "max_window_layers": 10,
        }));
        assert_eq!(late, [vec![None; 10], vec![Some(5); 2]].concat());
        let gemma = windows(json!({ "model_type": "gemma3_text", "sliding_window": 512 }));
        let five_and_one = [vec![Some(512); 5], vec![None]].concat();
        assert_eq!(gemma, five_and_one.repeat(2));
        let types: Vec<&str> =
            (0..12).map(|i| if i % 2 == 0 { "full_attention" } else { "sliding_attention" }).collect();
        let alternating = windows(json!({ "model_type": "gemma3_text", "sliding_window": 7, "layer_types": types }));
        assert_eq!(alternating, [None, Some(7)].repeat(6));
        let other = read(json!({ "model_type": "qwen3", "layer_types": vec!["linear_attention"; 12] }));
        assert!(matches!(other, Err(Error::Unsupported { .. })));
    }

    #[test]
    fn a_gemma_that_sees_images_has_its_text_part_read() {
        let text = json!({
            "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": { "rope_type": "linear", "factor": 8.0 },
        });
        let config = read(json!({ "model_type": "gemma3", "text_config": text, "eos_token_id": [1, 106] })).unwrap();
        assert_eq!((config.n_heads, config.n_kv_heads, config.head_dim, config.vocab_size), (8, 4, 256, 262_208));
        assert_eq!(config.rope, Rope { base: 1e6, scaling: RotaryScaling::Linear { factor: 8.0 } });
        assert_eq!(config.local_rope, Some(Rope::plain(10_000.0)));
        assert_eq!(config.end_tokens, BTreeSet::from([1, 106]));
        assert!((config.attention_scale - 1.0 / 16.0).abs() <= 1e-9 && config.tied_embeddings);
    }

    #[test]
    fn end_tokens_are_gathered_from_three_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, json: Value| std::fs::write(folder.path().join(name), json.to_string()).unwrap();
        write("generation_config.json", json!({ "eos_token_id": [4, 5] }));
        let token = |content: &str, special: bool| json!({ "content": content, "special": special });
        let added = json!({
            "6": token("<|im_end|>", true), "7": token("<|other|>", true), "8": token("</s>", false), "x": 3,
        });
        write("tokenizer_config.json", json!({ "added_tokens_decoder": added }));
        let mut config = json!({ "model_type": "llama", "eos_token_id": 3 });
        for key in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
            config[key] = json!(if key == "num_attention_heads" { 8 } else { 64 });
        }
        write("config.json", config);
        assert_eq!(DecoderConfig::from_folder(folder.path()).unwrap().end_tokens, BTreeSet::from([3, 4, 5, 6]));
    }
}
