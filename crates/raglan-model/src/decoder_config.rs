//! The shape of a decoder-only model, as its GGUF file or its `config.json` gives it.

use std::collections::BTreeSet;

use raglan_kernels::{Activation, RotaryPairs, RotaryScaling};

use crate::gguf::{GgufFile, GgufValue};
use crate::{Error, Result};

/// No length of a model is greater: several times what the largest published ones need.
pub(crate) const MAX_NUMBER: usize = 1 << 24;
/// Layers of Gemma 3 from one that sees all to the next; the others see a window.
pub(crate) const GEMMA3_PATTERN: usize = 6;
/// Base of the rotation in the layers of Gemma 3 that see a window; GGUF files leave it out.
pub(crate) const GEMMA3_LOCAL_BASE: f64 = 10_000.0;
/// The largest Gemma 3 is known by its layers. Its scale of attention goes by the hidden state's share of a head, not
/// by the head's length, and GGUF files do not say so.
pub(crate) const GEMMA3_27B_LAYERS: usize = 62;

/// The shape of a model and the constants of its forward.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The family by the name that GGUF files give it, such as `llama`, `qwen2` or `gemma3`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layers: usize,
    /// Length of a token's hidden state.
    pub hidden_dim: usize,
    /// Length of the feed-forward's inner state.
    pub ffn_dim: usize,
    /// The feed-forward's gate.
    pub activation: Activation,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Length of a head's query, key and value.
    pub head_dim: usize,
    /// What a product of query and key is multiplied by.
    pub attention_scale: f32,
    /// What a token's embedding is multiplied by.
    pub embedding_scale: f32,
    /// How many positions back each layer sees, itself included; all where there is none.
    pub windows: Vec<Option<u32>>,
    /// Which components of a head turn together.
    pub rope_pairs: RotaryPairs,
    /// The rotation.
    pub rope: Rope,
    /// The rotation of layers that see a window, where it is another one.
    pub local_rope: Option<Rope>,
    /// Added to the mean square in RMS normalisation.
    pub rms_eps: f32,
    /// The most tokens the model was trained to read at once.
    pub context_len: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Whether logits are products with the embeddings.
    pub tied_embeddings: bool,
    /// Tokens that end an answer.
    pub end_tokens: BTreeSet<u32>,
    /// The token that begins every text, for models that want one.
    pub bos: Option<u32>,
}

/// How queries and keys turn with their position.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub base: f64,
    /// How the frequencies are changed for longer texts.
    pub scaling: RotaryScaling,
}

impl Rope {
    /// A rotation whose frequencies are as trained.
    pub(crate) fn plain(base: f64) -> Self {
        Self { base, scaling: RotaryScaling::None }
    }

    /// The length up to which the scaling makes a model of `context_len` read.
    pub(crate) fn reach(&self, context_len: usize) -> usize {
        match self.scaling {
            RotaryScaling::Yarn { factor, original_len, .. } => {
                context_len.max((f64::from(original_len) * factor).min(MAX_NUMBER as f64) as usize)
            }
            _ => context_len,
        }
    }
}

impl DecoderConfig {
    /// Whether this is a model of the Gemma family: norms before and after each part of a layer.
    pub(crate) fn is_gemma(&self) -> bool {
        self.architecture == "gemma3"
    }

    /// Whether queries and keys are normalised head by head.
    pub(crate) fn normalizes_heads(&self) -> bool {
        matches!(&*self.architecture, "qwen3" | "gemma3")
    }

    /// Reads the shape from a GGUF file.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for another family of models; [`Error::Malformed`] when an entry is missing or absurd.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let architecture = file.required("general.architecture", file.text("general.architecture"))?.to_owned();
        let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
        if !matches!(architecture.as_str(), "llama" | "qwen2" | "qwen3" | "gemma3") {
            let known = "llama, qwen2, qwen3, gemma3";
            return Err(unsupported(format!("architecture `{architecture}` (can read {known})")));
        }
        let optional = |name: &str| {
            let key = format!("{architecture}.{name}");
            Ok::<_, Error>(file.u32(&key)?.map(|n| n as usize))
        };
        let number = |name: &str| {
            let value = optional(name)?.filter(|&n| n > 0 && n <= MAX_NUMBER);
            value.ok_or_else(|| file.malformed(format!("metadata lacks a sound `{architecture}.{name}`")))
        };
        if optional("expert_count")?.is_some_and(|n| n > 0) {
            return Err(unsupported("a mixture of experts".to_owned()));
        }
        let (hidden_dim, n_heads) = (number("embedding_length")?, number("attention.head_count")?);
        let n_kv_heads = optional("attention.head_count_kv")?.unwrap_or(n_heads);
        let head_dim = optional("attention.key_length")?.unwrap_or(hidden_dim / n_heads);
        let rope_dim = optional("rope.dimension_count")?.unwrap_or(head_dim);
        let value_dim = optional("attention.value_length")?.unwrap_or(head_dim);
        if n_kv_heads == 0 || n_heads % n_kv_heads != 0 || head_dim == 0 || head_dim % 2 != 0 {
            return Err(file.malformed(format!("{n_heads} heads of {head_dim} cannot share {n_kv_heads} keys")));
        }
        if rope_dim != head_dim || value_dim != head_dim {
            return Err(unsupported("rotation or values of a part of a head".to_owned()));
        }
        let Some(embedding) = file.tensors().get("token_embd.weight").filter(|tensor| tensor.shape.len() == 2) else {
            return Err(file.malformed("there is no sound tensor `token_embd.weight`"));
        };
        let vocab_size = embedding.shape[0];
        let rms_eps = format!("{architecture}.attention.layer_norm_rms_epsilon");
        let is_gemma = architecture == "gemma3";
        let n_layers = number("block_count")?;
        let window = optional("attention.sliding_window")?.filter(|&window| window > 0).map(|window| window as u32);
        let scaled_dim = if is_gemma && n_layers == GEMMA3_27B_LAYERS { hidden_dim / n_heads } else { head_dim };
        let (rope, local_rope) =
            (rope(file, &architecture, head_dim)?, is_gemma.then(|| local_rope(file)).transpose()?);
        Ok(Self {
            ffn_dim: number("feed_forward_length")?,
            activation: if is_gemma { Activation::GeluTanh } else { Activation::Silu },
            attention_scale: 1.0 / (scaled_dim as f32).sqrt(),
            embedding_scale: if is_gemma { (hidden_dim as f32).sqrt() } else { 1.0 },
            windows: windows(file, &architecture, n_layers, window)?,
            rope_pairs: if architecture == "llama" { RotaryPairs::Neighbours } else { RotaryPairs::Halves },
            context_len: rope.reach(number("context_length")?),
            tied_embeddings: !file.tensors().contains_key("output.weight"),
            rms_eps: positive(file.required(&rms_eps, file.f64(&rms_eps))?, || {
                file.malformed(format!("`{rms_eps}` is not above 0"))
            })?,
            end_tokens: end_tokens(file, vocab_size)?,
            bos: file.u32("tokenizer.ggml.bos_token_id")?,
            rope,
            local_rope,
            architecture,
            n_layers,
            hidden_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
        })
    }
}

/// A number that must be above 0, also in single precision.
pub(crate) fn positive(number: f64, refused: impl FnOnce() -> Error) -> Result<f32> {
    let number = number as f32;
    if number > 0.0 && number.is_finite() { Ok(number) } else { Err(refused()) }
}

/// The window of each layer.
fn windows(file: &GgufFile, architecture: &str, n_layers: usize, window: Option<u32>) -> Result<Vec<Option<u32>>> {
    let key = format!("{architecture}.attention.sliding_window_pattern");
    let seen = |in_window: bool| window.filter(|_| in_window);
    match file.metadata().get(&key) {
        Some(GgufValue::Bools(pattern)) if pattern.len() == n_layers => {
            Ok(pattern.iter().map(|&in_window| seen(in_window)).collect())
        }
        Some(GgufValue::Integers(pattern)) if pattern.len() == n_layers => {
            Ok(pattern.iter().map(|&in_window| seen(in_window != 0)).collect())
        }
        _ => {
            let default = if architecture == "gemma3" { GEMMA3_PATTERN } else { 0 };
            Ok(periodic_windows(n_layers, window, file.u32(&key)?.map_or(default, |pattern| pattern as usize)))
        }
    }
}

/// A window for all layers but every `pattern`-th, which sees all; for all where `pattern` is 0.
pub(crate) fn periodic_windows(n_layers: usize, window: Option<u32>, pattern: usize) -> Vec<Option<u32>> {
    (1..=n_layers).map(|layer| window.filter(|_| pattern == 0 || layer % pattern != 0)).collect()
}

/// The rotation that a file asks for; that of layers that see all where there are others.
fn rope(file: &GgufFile, architecture: &str, head_dim: usize) -> Result<Rope> {
    let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
    let number = |name: &str| file.f64(&format!("{architecture}.rope.{name}"));
    let base = number("freq_base")?.unwrap_or(10_000.0);
    // Llama 3.1 slows its low frequencies; the file holds the divisors.
    if file.tensors().contains_key("rope_freqs.weight") {
        let divisors = file.dequantize("rope_freqs.weight", &[head_dim / 2])?;
        let divisors = divisors.into_iter().map(f64::from).collect();
        return Ok(Rope { base, scaling: RotaryScaling::Divisors(divisors) });
    }
    // Old files have only the factor, under a name of its own.
    let factor = number("scaling.factor")?.or(number("scale_linear")?).filter(|&factor| factor != 0.0);
    let kind = file.text(&format!("{architecture}.rope.scaling.type"))?;
    let scaling = match (kind, factor) {
        (Some("none"), _) | (None | Some("linear" | "yarn"), None) => RotaryScaling::None,
        (None | Some("linear"), Some(factor)) => RotaryScaling::Linear { factor },
        (Some("yarn"), Some(factor)) => {
            let original_len = format!("{architecture}.rope.scaling.original_context_length");
            if number("scaling.attn_factor")?.is_some_and(|factor| factor != 1.0) {
                return Err(unsupported("YaRN with an attention factor of its own".to_owned()));
            }
            RotaryScaling::Yarn {
                factor,
                original_len: file.required(&original_len, file.u32(&original_len))?,
                beta_fast: number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }
        }
        (Some(other), _) => return Err(unsupported(format!("rotary scaling `{other}`"))),
    };
    Ok(Rope { base, scaling })
}

/// The rotation of Gemma's layers that see a window: never scaled.
fn local_rope(file: &GgufFile) -> Result<Rope> {
    for key in ["gemma3.rope.local_freq_base", "gemma3.rope.freq_base_swa"] {
        if let Some(base) = file.f64(key)? {
            return Ok(Rope::plain(base));
        }
    }
    Ok(Rope::plain(GEMMA3_LOCAL_BASE))
}

/// Texts of control tokens that end a turn.
pub(crate) const END_TOKENS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "</s>", "<end_of_turn>"];

/// Every token that ends a turn: those the file names, and control tokens known by their text, because many files
/// name only one of two.
fn end_tokens(file: &GgufFile, vocab_size: usize) -> Result<BTreeSet<u32>> {
    const CONTROL: i64 = 3; // The token type of special tokens.
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let mut ends = BTreeSet::new();
    for key in ["eos", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{key}_token_id");
        let end = file.u32(&key)?;
        if let Some(id) = end.filter(|&id| id as usize >= vocab_size) {
            return Err(file.malformed(format!("`{key}` is {id}, and the vocabulary has {vocab_size} tokens")));
        }
        ends.extend(end);
    }
    let control = tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind == CONTROL);
    ends.extend(control.filter(|(_, (text, _))| END_TOKENS.contains(&text.as_str())).map(|(id, _)| id as u32));
    Ok(ends)
}
