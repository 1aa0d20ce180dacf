//! BERT: texts, as token ids, to a vector a token.
//!
//! Sequences are packed one behind the other, never padded: what one sequence gives cannot depend on the lengths of
//! the others, and no work is done for padding. The large products run on candle's matrix multiplication, what lies
//! between them in plain loops over rows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

use crate::{Error, Result};

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

/// A BERT model in single precision.
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
    pub fn load(path: impl AsRef<Path>, config: BertConfig) -> Result<Self> {
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
                qkv: weights.linear(&qkv, hidden, hidden)?,
                attended: weights.linear(&[name("attention.output.dense")], hidden, hidden)?,
                attended_norm: weights.layer_norm(&name("attention.output.LayerNorm"), &config)?,
                widen: weights.linear(&[name("intermediate.dense")], hidden, inner)?,
                narrow: weights.linear(&[name("output.dense")], inner, hidden)?,
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
    /// A sequence's vectors do not depend on the other sequences, except for rounding.
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
        self.norm.apply(&mut rows);
        if !rows.is_empty() {
            for layer in &self.layers {
                rows = layer.forward(rows, &ends, &self.config)?;
            }
        }
        Ok(HiddenStates { dim, rows, ends })
    }
}

impl Layer {
    fn forward(&self, input: Vec<f32>, ends: &[usize], config: &BertConfig) -> Result<Vec<f32>> {
        let dim = config.hidden_size;
        let n_rows = input.len() / dim;
        let input = Tensor::from_vec(input, (n_rows, dim), &Device::Cpu)?;
        let qkv = self.qkv.apply(&input)?;
        let mixed = Tensor::from_vec(attend(&qkv, ends, config)?, (n_rows, dim), &Device::Cpu)?;
        let mut rows = self.attended.apply(&mixed)?;
        add(&mut rows, &values(&input)?);
        self.attended_norm.apply(&mut rows);

        let rows = Tensor::from_vec(rows, (n_rows, dim), &Device::Cpu)?;
        let mut wide = self.widen.apply(&rows)?;
        config.hidden_act.apply(&mut wide);
        let wide = Tensor::from_vec(wide, (n_rows, config.intermediate_size), &Device::Cpu)?;
        let mut output = self.narrow.apply(&wide)?;
        add(&mut output, &values(&rows)?);
        self.output_norm.apply(&mut output);
        Ok(output)
    }
}

/// Self-attention within each sequence: `softmax(q kᵀ / √d) v` for each head.
///
/// `qkv` is `[n_rows, 3 · hidden]`, the result `[n_rows, hidden]`.
fn attend(qkv: &[f32], ends: &[usize], config: &BertConfig) -> Result<Vec<f32>> {
    let (dim, n_heads) = (config.hidden_size, config.num_attention_heads);
    let head_dim = dim / n_heads;
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut mixed = vec![0.0; qkv.len() / 3];
    let mut start = 0;
    for &end in ends {
        let len = end - start;
        if len == 0 {
            continue;
        }
        let rows = &qkv[start * 3 * dim..end * 3 * dim];
        // Rows by token, `[len, 3, heads, head_dim]`, become rows by head, `[heads, len, head_dim]`.
        let part = |which: usize, scale: f32| {
            let mut by_head = Vec::with_capacity(len * dim);
            for head in 0..n_heads {
                let at = which * dim + head * head_dim;
                for row in rows.chunks_exact(3 * dim) {
                    by_head.extend(row[at..at + head_dim].iter().map(|x| x * scale));
                }
            }
            Tensor::from_vec(by_head, (n_heads, len, head_dim), &Device::Cpu)
        };
        let (q, k, v) = (part(0, scale)?, part(1, 1.0)?, part(2, 1.0)?);
        let mut weights = values(&q.matmul(&k.transpose(1, 2)?)?)?;
        weights.chunks_exact_mut(len).for_each(softmax);
        let by_head = values(&Tensor::from_vec(weights, (n_heads, len, len), &Device::Cpu)?.matmul(&v)?)?;
        for (head, block) in by_head.chunks_exact(len * head_dim).enumerate() {
            let rows = mixed[start * dim..end * dim].chunks_exact_mut(dim);
            for (to, from) in rows.zip(block.chunks_exact(head_dim)) {
                to[head * head_dim..(head + 1) * head_dim].copy_from_slice(from);
            }
        }
        start = end;
    }
    Ok(mixed)
}

/// `x W + b`, for each row `x`.
#[derive(Debug)]
struct Linear {
    /// `[inputs, outputs]`
    weight: Tensor,
    bias: Vec<f32>,
}

impl Linear {
    fn apply(&self, rows: &Tensor) -> Result<Vec<f32>> {
        let mut out = values(&rows.matmul(&self.weight)?)?;
        for row in out.chunks_exact_mut(self.bias.len()) {
            add(row, &self.bias);
        }
        Ok(out)
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
    fn apply(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.scale.len()) {
            let n = row.len() as f32;
            let mean = sum(row, |x| x) / n;
            let variance = sum(row, |x| (x - mean) * (x - mean)) / n;
            let inverse = 1.0 / (variance + self.epsilon).sqrt();
            for ((x, scale), shift) in row.iter_mut().zip(&self.scale).zip(&self.shift) {
                *x = (*x - mean) * inverse * scale + shift;
            }
        }
    }
}

impl Activation {
    fn apply(self, row: &mut [f32]) {
        match self {
            Self::Gelu => row.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2))),
            Self::GeluNew => {
                let c = (2.0 / std::f32::consts::PI).sqrt();
                row.iter_mut().for_each(|x| *x *= 0.5 * (1.0 + (c * (*x + 0.044_715 * *x * *x * *x)).tanh()));
            }
            Self::Relu => row.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
    }
}

/// The error function to single precision: the minimax ratio of two polynomials on [-4, 4], beyond which it is ±1.
///
/// Plain arithmetic, so that the compiler makes vector code of a loop over it.
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let z = x * x;
    let over = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    let under = [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    let horner = |coefficients: &[f32]| coefficients.iter().fold(0.0, |sum, c| sum * z + c);
    x * horner(&over) / horner(&under)
}

/// `eˣ` to single precision for `x ≤ 0`: `2ⁿ · 2ᶠ` with a polynomial for the fraction.
///
/// Plain arithmetic, so that the compiler makes vector code of a loop over it.
fn exp_negative(x: f32) -> f32 {
    let x = x.max(-87.0); // Below it the result is no normal number; as an attention weight it is nothing.
    let n = (x * std::f32::consts::LOG2_E - 0.5).trunc();
    // ln 2 in two parts, the first exact when multiplied by a small integer.
    let f = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let taylor = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];
    let fraction = taylor.iter().fold(0.0, |sum, c| sum * f + c);
    fraction * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|x| *x = exp_negative(*x - max));
    let inverse = 1.0 / sum(row, |x| x);
    row.iter_mut().for_each(|x| *x *= inverse);
}

/// The sum of `f` over a row, in eight partial sums, which the compiler keeps in one register.
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut partial = [0.0f32; 8];
    let blocks = row.chunks_exact(8);
    let rest: f32 = blocks.remainder().iter().map(|&x| f(x)).sum();
    for block in blocks {
        for (sum, &x) in partial.iter_mut().zip(block) {
            *sum += f(x);
        }
    }
    partial.iter().sum::<f32>() + rest
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
    fn linear(&self, names: &[String], inputs: usize, outputs: usize) -> Result<Linear> {
        let (mut weights, mut bias) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            bias.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        let weight = Tensor::from_vec(weights, (bias.len(), inputs), &Device::Cpu)?.t()?.contiguous()?;
        Ok(Linear { weight, bias })
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
