//! The shape of a Llama-family model, as its GGUF file gives it.

use std::collections::BTreeSet;

use crate::gguf::GgufFile;
use crate::{Error, Result};

/// The shape of a model and the constants of its forward.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaConfig {
    /// The file's name for the family, such as `llama` or `qwen2`.
    pub architecture: String,
    /// Transformer layers.
    pub n_layers: usize,
    /// Length of a token's hidden state.
    pub hidden_dim: usize,
    /// Length of the feed-forward's inner state.
    pub ffn_dim: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Length of a head's query, key and value.
    pub head_dim: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_base: f64,
    /// Added to the mean square in RMS normalisation.
    pub rms_eps: f32,
    /// The most tokens the model was trained to read at once.
    pub context_len: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// Tokens that end an answer.
    pub end_tokens: BTreeSet<u32>,
    /// The token that begins every text, for models that want one.
    pub bos: Option<u32>,
}

impl LlamaConfig {
    /// Reads the shape from a file's metadata.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for another family of models; [`Error::Malformed`] when an entry is missing or absurd.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let architecture = file.required("general.architecture", file.text("general.architecture"))?.to_owned();
        let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
        if !matches!(architecture.as_str(), "llama" | "qwen2" | "qwen3") {
            return Err(unsupported(format!("architecture `{architecture}` (can read llama, qwen2, qwen3)")));
        }
        let optional = |name: &str| {
            let key = format!("{architecture}.{name}");
            Ok::<_, Error>(file.u32(&key)?.map(|n| n as usize))
        };
        let number = |name: &str| {
            let value = optional(name)?.filter(|&n| n > 0 && n <= 1 << 24);
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
        let rms_eps = format!("{architecture}.attention.layer_norm_rms_epsilon");
        let rope_base = format!("{architecture}.rope.freq_base");
        let Some(embedding) = file.tensors().get("token_embd.weight").filter(|tensor| tensor.shape.len() == 2) else {
            return Err(file.malformed("there is no sound tensor `token_embd.weight`"));
        };
        let vocab_size = embedding.shape[0];
        Ok(Self {
            n_layers: number("block_count")?,
            ffn_dim: number("feed_forward_length")?,
            context_len: number("context_length")?,
            rms_eps: file.required(&rms_eps, file.f64(&rms_eps))? as f32,
            rope_base: file.f64(&rope_base)?.unwrap_or(10_000.0),
            end_tokens: end_tokens(file)?,
            bos: file.u32("tokenizer.ggml.bos_token_id")?,
            architecture,
            hidden_dim,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
        })
    }
}

/// Every token that ends a turn: those the file names, and control tokens known by their text, because many files
/// name only one of two.
fn end_tokens(file: &GgufFile) -> Result<BTreeSet<u32>> {
    const KNOWN: [&str; 7] =
        ["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|end|>", "</s>", "<end_of_turn>"];
    const CONTROL: i64 = 3; // The token type of special tokens.
    let mut ends = BTreeSet::new();
    for key in ["eos", "eot", "eom"] {
        ends.extend(file.u32(&format!("tokenizer.ggml.{key}_token_id"))?);
    }
    let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
    let tokens = file.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    let control = tokens.iter().zip(types).enumerate().filter(|(_, (_, kind))| **kind == CONTROL);
    ends.extend(control.filter(|(_, (text, _))| KNOWN.contains(&text.as_str())).map(|(id, _)| id as u32));
    Ok(ends)
}
