//! BERT: texts, as token ids, to a vector a token.
//!
//! Sequences are packed one behind the other, never padded: what one sequence gives cannot depend on the lengths of
//! the others, and no work is done for padding.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use raglan_kernels::{AttentionShape, Output, bidirectional_attention, layer_norm};
use serde::Deserialize;

use crate::linear::{Linear, Middle, add_feed_forward};
use crate::{Error, Products, Result};

/// The shape of a BERT model, as its `config.json` gives it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BertConfig {
    /// The family; only `bert` can be run.
    pub model_type: String,
    /// How many tokens the vocabulary has.
    pub vocab_size: usize,
    /// The length of a token's vector.
    pub hidden_size: usize,
    /// How many layers there are.
    pub num_hidden_layers: usize,
    /// How many heads a layer's attention has; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// The width of the feed-forward part.
    pub intermediate_size: usize,
    /// The feed-forward part's nonlinearity.
    pub hidden_act: Activation,
    /// The longest sequence that has positions.
    pub max_position_embeddings: usize,
    /// How many segment embeddings there are; every token here is of the first.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Keeps the layer norm's divisor from zero.
    #[serde(default = "bert_epsilon")]
    pub layer_norm_eps: f64,
    /// How positions enter; only `absolute` can be run.
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

/// A nonlinearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · Φ(x)`, with the normal distribution's Φ.
    Gelu,
    /// The same through `tanh`.
    #[serde(alias = "gelu_pytorch_tanh")]
    GeluNew,
    /// `max(x, 0)`.
    Relu,
}

fn two() -> usize {
    2
}

fn bert_epsilon() -> f64 {
    1e-12
}

fn absolute() -> String {
    "absolute".into()
}

impl BertConfig {
    /// Reads a model's `config.json`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not such a file or its numbers do not
    /// fit each other, [`Error::Unsupported`] when it describes another family.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let unsupported = |what: String| Error::Unsupported { path: path.to_owned(), what };
        let json: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| malformed(e.to_string()))?;
        let family = json.get("model_type").and_then(serde_json::Value::as_str).unwrap_or("none given");
        if family != "bert" {
            return Err(unsupported(format!("model type `{family}` (can run bert)")));
        }
        let config: Self = serde_json::from_value(json).map_err(|e| malformed(e.to_string()))?;
        if config.position_embedding_type != "absolute" {
            return Err(unsupported(format!("position embeddings `{}`", config.position_embedding_type)));
        }
        config.check().map_err(malformed)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        // No model of this family comes near it; products of two such numbers do not overflow.
        const LIMIT: usize = 1 << 24;
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (name, size) in sizes {
            if size == 0 || size > LIMIT {
                return Err(format!("{name} is {size}"));
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(format!("{} heads do not divide {} dimensions", self.num_attention_heads, self.hidden_size));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps >= 0.0) {
            return Err(format!("layer_norm_eps is {}", self.layer_norm_eps));
        }
        Ok(())
    }
}

/// A BERT model.
#[derive(Debug)]
pub struct BertModel {
    config: BertConfig,
    /// `[vocab_size, hidden_size]`
    words: Vec<f32>,
    /// `[max_position_embeddings, hidden_size]`, with the first segment's embedding added.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

/// A vector for each token of some sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenStates {
    dim: usize,
    /// `[n_tokens, dim]`, sequence behind sequence.
    rows: Vec<f32>,
    /// Where each sequence ends, in rows.
    ends: Vec<usize>,
}

impl HiddenStates {
    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The vectors of each sequence, in order: `[n_tokens, dim]` each.
    pub fn sequences(&self) -> impl Iterator<Item = &[f32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.rows[start * self.dim..end * self.dim])
    }
}

#[derive(Debug)]
struct Layer {
    /// Queries, keys and values in one product: `[hidden, 3 · hidden]`.
    qkv: Linear,
    attended: Linear,
    attended_norm: LayerNorm,
    widen: Linear,
    narrow: Linear,
    output_norm: LayerNorm,
}

impl BertModel {
    /// Reads the weights from a safetensors file; they may be stored in half precision, and their names may begin
    /// with `bert.`.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Malformed`] when it is truncated, lacks a tensor, or a tensor
    /// is of another shape than `config` says or holds something that is not a finite number.
    pub fn load(path: impl AsRef<Path>, config: BertConfig, products: Products) -> Result<Self> {
        let path = path.as_ref();
        config.check().map_err(|problem| Error::Malformed { path: path.to_owned(), problem })?;
        let weights = Weights::read(path)?;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let words = weights.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let mut positions =
            weights.tensor("embeddings.position_embeddings.weight", &[config.max_position_embeddings, hidden])?;
        let segments = weights.tensor("embeddings.token_type_embeddings.weight", &[config.type_vocab_size, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            add(row, &segments[..hidden]);
        }
        let norm = weights.layer_norm("embeddings.LayerNorm", &config)?;
        let mut layers = Vec::new();
        for i in 0..config.num_hidden_layers {
            let name = |part: &str| format!("encoder.layer.{i}.{part}");
            let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
            layers.push(Layer {
                qkv: weights.linear(&qkv, hidden, hidden, products)?,
                attended: weights.linear(&[name("attention.output.dense")], hidden, hidden, products)?,
                attended_norm: weights.layer_norm(&name("attention.output.LayerNorm"), &config)?,
                widen: weights.linear(&[name("intermediate.dense")], hidden, inner, products)?,
                narrow: weights.linear(&[name("output.dense")], inner, hidden, products)?,
                output_norm: weights.layer_norm(&name("output.LayerNorm"), &config)?,
            });
        }
        Ok(Self { config, words, positions, norm, layers })
    }

    /// The model's shape.
    pub fn config(&self) -> &BertConfig {
        &self.config
    }

    /// The last layer's vector for each token of each sequence. Special tokens are the caller's to add.
    ///
    /// A sequence's vectors do not depend on the other sequences, to the bit.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when a sequence has more tokens than there are positions, [`Error::UnknownToken`]
    /// for an id beyond the vocabulary.
    pub fn hidden_states(&self, sequences: &[&[u32]]) -> Result<HiddenStates> {
        let dim = self.config.hidden_size;
        let mut rows = Vec::with_capacity(sequences.iter().map(|ids| ids.len()).sum::<usize>() * dim);
        let mut ends = Vec::with_capacity(sequences.len());
        for ids in sequences {
            let limit = self.config.max_position_embeddings;
            if ids.len() > limit {
                return Err(Error::ContextOverflow { tokens: ids.len(), limit });
            }
            for (&id, position) in ids.iter().zip(self.positions.chunks_exact(dim)) {
                let start = id as usize * dim;
                let word = self.words.get(start..start + dim).ok_or(Error::UnknownToken { id })?;
                rows.extend(word.iter().zip(position).map(|(w, p)| w + p));
            }
            ends.push(rows.len() / dim);
        }
        self.norm.apply(&mut rows)?;
        let mut scratch = Scratch::default();
        for layer in &self.layers {
            layer.forward(&mut rows, &ends, &self.config, &mut scratch)?;
        }
        Ok(HiddenStates { dim, rows, ends })
    }
}

/// Rows that pass through the feed-forward part together: what they hold there stays in the second-level cache.
const FEED_FORWARD_ROWS: usize = 128;

impl Layer {
    /// Replaces the rows by what the layer makes of them.
    fn forward(&self, rows: &mut [f32], ends: &[usize], config: &BertConfig, scratch: &mut Scratch) -> Result<()> {
        let dim = config.hidden_size;
        let n_rows = rows.len() / dim;
        let qkv = Scratch::of(&mut scratch.wide, n_rows * 3 * dim);
        self.qkv.apply(rows, Output::Replace, qkv)?;
        let mixed = Scratch::of(&mut scratch.narrow, n_rows * dim);
        let head_dim = dim / config.num_attention_heads;
        let shape = AttentionShape {
            n_heads: config.num_attention_heads,
            n_kv_heads: config.num_attention_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
        };
        bidirectional_attention(&shape, qkv, ends, mixed)?;
        self.attended.apply(mixed, Output::Add, rows)?;
        self.attended_norm.apply(rows)?;
        for rows in rows.chunks_mut(FEED_FORWARD_ROWS * dim) {
            add_feed_forward(rows, &self.widen, config.hidden_act.into(), &self.narrow, &mut scratch.middle)?;
            self.output_norm.apply(rows)?;
        }
        Ok(())
    }
}

/// Room that the layers share.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    narrow: Vec<f32>,
    middle: Middle,
}

impl Scratch {
    /// The first `len` places, made if they are not there.
    fn of(room: &mut Vec<f32>, len: usize) -> &mut [f32] {
        if room.len() < len {
            room.resize(len, 0.0);
        }
        &mut room[..len]
    }
}

/// `(x - mean) / √(variance + ε) · scale + shift`, for each row `x`.
#[derive(Debug)]
struct LayerNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    fn apply(&self, rows: &mut [f32]) -> Result<()> {
        Ok(layer_norm(rows, &self.scale, &self.shift, self.epsilon)?)
    }
}

impl From<Activation> for raglan_kernels::Activation {
    fn from(activation: Activation) -> Self {
        match activation {
            Activation::Gelu => Self::Gelu,
            Activation::GeluNew => Self::GeluTanh,
            Activation::Relu => Self::Relu,
        }
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.flatten_all()?.to_vec1()?)
}

/// The tensors of a file.
struct Weights {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// What the names begin with.
    prefix: &'static str,
}

impl Weights {
    fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)
            .map_err(|e| Error::Malformed { path: path.to_owned(), problem: e.to_string() })?;
        let prefix = if tensors.contains_key("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        Ok(Self { path: path.to_owned(), tensors, prefix })
    }

    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let malformed = |problem: String| Error::Malformed { path: self.path.clone(), problem };
        let name = format!("{}{name}", self.prefix);
        let tensor = self.tensors.get(&name).ok_or_else(|| malformed(format!("there is no tensor `{name}`")))?;
        if tensor.dims() != shape {
            return Err(malformed(format!("tensor `{name}`: expected shape {shape:?}, found {:?}", tensor.dims())));
        }
        if !matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            return Err(malformed(format!("tensor `{name}` is of type {}", tensor.dtype().as_str())));
        }
        let values = values(&tensor.to_dtype(DType::F32)?)?;
        if !values.iter().all(|x| x.is_finite()) {
            return Err(malformed(format!("tensor `{name}` holds something that is not a finite number")));
        }
        Ok(values)
    }

    /// Linear maps of one input side by side, as one.
    fn linear(&self, names: &[String], inputs: usize, outputs: usize, products: Products) -> Result<Linear> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        Linear::new(&weights, Some(bias), inputs, products)
    }

    fn layer_norm(&self, name: &str, config: &BertConfig) -> Result<LayerNorm> {
        // Files from the time of the first TensorFlow checkpoints use the other two names.
        let old = self.tensors.contains_key(&format!("{}{name}.gamma", self.prefix));
        let (scale, shift) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        Ok(LayerNorm {
            scale: self.tensor(&format!("{name}.{scale}"), &[config.hidden_size])?,
            shift: self.tensor(&format!("{name}.{shift}"), &[config.hidden_size])?,
            epsilon: config.layer_norm_eps as f32,
        })
    }
}

#[cfg(test)]
mod tests;
