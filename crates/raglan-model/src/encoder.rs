//! Encoders: texts, as token ids, to a vector a token.
//!
//! One forward serves BERT and what came of it. Sequences are packed one behind the other, never padded: what one
//! sequence gives cannot depend on the lengths of the others, and no work is done for padding.

#[cfg(feature = "cuda")]
mod on_device;
mod positions;
mod pre_norm;
mod self_extend;
#[cfg(test)]
mod tests;
mod weights;

use std::path::Path;

use raglan_kernels::{AttentionShape, Output, layer_norm};

#[cfg(feature = "cuda")]
pub use self::on_device::{DeviceEncoder, DeviceHiddenStates};
#[cfg(feature = "cuda")]
pub(crate) use self::on_device::{Norm as DeviceNorm, finite};
pub use self::positions::Positions;
use self::pre_norm::PreNormLayers;
pub(crate) use self::weights::Weights;
use crate::linear::{Linear, Middle, add_feed_forward};
use crate::{EncoderFamily, EncoderModelConfig, Error, Products, Result, SafetensorsFile};

/// An encoder.
#[derive(Debug)]
pub struct EncoderModel {
    config: EncoderModelConfig,
    /// `[vocab_size, hidden_size]`
    words: Vec<f32>,
    /// `[max_tokens, hidden_size]`, or none where positions are rotations.
    positions: Vec<f32>,
    /// `[type_vocab_size, hidden_size]`, or none.
    segments: Vec<f32>,
    norm: LayerNorm,
    layers: Layers,
}

/// The layers, by where their norms stand.
#[derive(Debug)]
enum Layers {
    /// Behind each residual connection, as in BERT.
    PostNorm(Vec<Layer>),
    /// Before each map, as in `ModernBERT`.
    PreNorm(Box<PreNormLayers>),
}

impl EncoderModel {
    /// Reads the weights from a safetensors file, an index of shards, or a folder that holds either.
    ///
    /// # Errors
    ///
    /// As for [`from_safetensors`](Self::from_safetensors), and those of [`SafetensorsFile::open`].
    pub fn load(path: impl AsRef<Path>, config: EncoderModelConfig, products: Products) -> Result<Self> {
        Self::from_safetensors(&SafetensorsFile::open(path)?, config, products)
    }

    /// Reads the weights from an open file; they may be stored in half precision, and their names may begin with the
    /// family's (`bert.`, `roberta.`, `distilbert.`, `model.`).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Malformed`] when it lacks a tensor, or a tensor is of another
    /// shape than `config` says or holds something that is not a finite number.
    pub fn from_safetensors(file: &SafetensorsFile, config: EncoderModelConfig, products: Products) -> Result<Self> {
        config.check().map_err(|problem| Error::Malformed { path: file.path().to_owned(), problem })?;
        let weights = Weights::of_model(file, &config);
        let hidden = config.hidden_size;
        let modern = config.family == EncoderFamily::ModernBert;
        let words = weights.tensor(weights.words(), &[config.vocab_size, hidden])?;
        let (mut positions, mut segments) = (Vec::new(), Vec::new());
        if config.rotary.is_none() {
            let name = "embeddings.position_embeddings.weight";
            positions = weights.tensor(name, &[config.max_position_embeddings, hidden])?;
            positions.drain(..config.first_position * hidden);
        }
        if config.type_vocab_size > 0 {
            let name = "embeddings.token_type_embeddings.weight";
            segments = weights.tensor(name, &[config.type_vocab_size, hidden])?;
        }
        let norm = weights.layer_norm(if modern { "embeddings.norm" } else { "embeddings.LayerNorm" })?;
        let layers = match &config.rotary {
            Some(rotary) => Layers::PreNorm(Box::new(PreNormLayers::load(&weights, &config, rotary, products)?)),
            None => {
                let layers = (0..config.num_hidden_layers).map(|i| Layer::load(&weights, &config, i, products));
                Layers::PostNorm(layers.collect::<Result<_>>()?)
            }
        };
        Ok(Self { words, positions, segments, norm, layers, config })
    }

    /// The vector of each token of the vocabulary before any layer, `[vocab_size, hidden_size]`, and nothing else of a
    /// model's file.
    ///
    /// # Errors
    ///
    /// As for [`from_safetensors`](Self::from_safetensors).
    pub fn word_embeddings(file: &SafetensorsFile, config: &EncoderModelConfig) -> Result<Vec<f32>> {
        let weights = Weights::of_model(file, config);
        weights.tensor(weights.words(), &[config.vocab_size, config.hidden_size])
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderModelConfig {
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
        self.forward(sequences, &[], |_, _| 0)
    }

    /// The same for sequences whose tokens stand elsewhere than one behind the other: `positions` has one entry a
    /// sequence.
    ///
    /// # Errors
    ///
    /// As for [`hidden_states`](Self::hidden_states); [`Error::Rows`] when there is not one entry a sequence, or it is
    /// not for such a model, not one position a token, or beyond the model's table.
    pub fn hidden_states_at(&self, sequences: &[&[u32]], positions: &[Positions]) -> Result<HiddenStates> {
        if sequences.len() != positions.len() {
            return Err(Error::Rows { problem: "there must be positions for each sequence" });
        }
        self.forward(sequences, positions, |_, _| 0)
    }

    /// The same for sequences of more than one text: `token_types[s][t]` says to which of the texts of sequence `s`
    /// its token `t` belongs. Families without segments, and those with one, see no difference.
    ///
    /// # Errors
    ///
    /// As for [`hidden_states`](Self::hidden_states); [`Error::Rows`] when there is not one type a token, or a type
    /// has no embedding.
    pub fn hidden_states_of_pairs(&self, sequences: &[&[u32]], token_types: &[&[u32]]) -> Result<HiddenStates> {
        check_token_types(&self.config, sequences, token_types)?;
        if self.config.type_vocab_size <= 1 {
            return self.hidden_states(sequences);
        }
        self.forward(sequences, &[], |sequence, token| token_types[sequence][token] as usize)
    }

    /// `token_type` gives each token's, which there is if there are any. Sequences beyond the end of `positions` have
    /// their tokens one behind the other.
    fn forward(
        &self,
        sequences: &[&[u32]],
        positions: &[Positions],
        token_type: impl Fn(usize, usize) -> usize,
    ) -> Result<HiddenStates> {
        let dim = self.config.hidden_size;
        let mut rows = Vec::with_capacity(sequences.iter().map(|ids| ids.len()).sum::<usize>() * dim);
        let mut ends = Vec::with_capacity(sequences.len());
        for (sequence, ids) in sequences.iter().enumerate() {
            let positions = positions.get(sequence).unwrap_or(&Positions::Consecutive);
            positions.check(ids.len(), &self.config)?;
            for (token, &id) in ids.iter().enumerate() {
                let word = self.words.get(id as usize * dim..).and_then(|words| words.get(..dim));
                rows.extend(word.ok_or(Error::UnknownToken { id })?);
                let start = rows.len() - dim;
                if !self.segments.is_empty() {
                    add(&mut rows[start..], &self.segments[token_type(sequence, token) * dim..][..dim]);
                }
                if !self.positions.is_empty() {
                    positions.add(token, &self.positions, &mut rows[start..]);
                }
            }
            ends.push(rows.len() / dim);
        }
        self.norm.apply(&mut rows)?;
        let mut scratch = Scratch::default();
        match &self.layers {
            Layers::PostNorm(layers) => {
                for layer in layers {
                    layer.forward(&mut rows, &ends, &self.config, &mut scratch)?;
                }
            }
            Layers::PreNorm(layers) => layers.forward(&mut rows, &ends, positions, &self.config, &mut scratch)?,
        }
        Ok(HiddenStates { dim, rows, ends })
    }
}

/// Whether there is a type for each token, with an embedding where a model tells types apart.
fn check_token_types(config: &EncoderModelConfig, sequences: &[&[u32]], token_types: &[&[u32]]) -> Result<()> {
    let lengths_fit = sequences.len() == token_types.len()
        && sequences.iter().zip(token_types).all(|(ids, types)| ids.len() == types.len());
    if !lengths_fit {
        return Err(Error::Rows { problem: "there must be one token type a token" });
    }
    let limit = config.type_vocab_size;
    if limit > 1 && token_types.iter().flat_map(|types| *types).any(|&kind| kind as usize >= limit) {
        return Err(Error::Rows { problem: "a token type has no embedding" });
    }
    Ok(())
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
    /// Vectors of these sequences; the last end is the number of rows, if there is one.
    pub(crate) fn new(dim: usize, rows: Vec<f32>, ends: Vec<usize>) -> Self {
        Self { dim, rows, ends }
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// All vectors, sequence behind sequence: `[n_tokens, dim]`.
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// One past the last row of each sequence.
    pub fn ends(&self) -> &[usize] {
        &self.ends
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

/// Rows of whole sequences that pass through attention together, if a sequence is not longer: the same of them.
const ATTENTION_ROWS: usize = 256;
/// Rows that pass through the feed-forward part together: what they hold there stays in the second-level cache.
const FEED_FORWARD_ROWS: usize = 128;

/// What a layer's weights are called.
struct LayerNames {
    qkv: [String; 3],
    attended: String,
    attended_norm: String,
    widen: String,
    narrow: String,
    output_norm: String,
}

impl LayerNames {
    fn new(config: &EncoderModelConfig, i: usize) -> Self {
        let distil = config.family == EncoderFamily::DistilBert;
        let name = |usual: &str, distils: &str| match distil {
            true => format!("transformer.layer.{i}.{distils}"),
            false => format!("encoder.layer.{i}.{usual}"),
        };
        Self {
            qkv: [
                name("attention.self.query", "attention.q_lin"),
                name("attention.self.key", "attention.k_lin"),
                name("attention.self.value", "attention.v_lin"),
            ],
            attended: name("attention.output.dense", "attention.out_lin"),
            attended_norm: name("attention.output.LayerNorm", "sa_layer_norm"),
            widen: name("intermediate.dense", "ffn.lin1"),
            narrow: name("output.dense", "ffn.lin2"),
            output_norm: name("output.LayerNorm", "output_layer_norm"),
        }
    }
}

impl Layer {
    fn load(weights: &Weights, config: &EncoderModelConfig, i: usize, products: Products) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let names = LayerNames::new(config, i);
        Ok(Self {
            qkv: weights.linear(&names.qkv, hidden, hidden, products)?,
            attended: weights.linear(&[names.attended], hidden, hidden, products)?,
            attended_norm: weights.layer_norm(&names.attended_norm)?,
            widen: weights.linear(&[names.widen], hidden, inner, products)?,
            narrow: weights.linear(&[names.narrow], inner, hidden, products)?,
            output_norm: weights.layer_norm(&names.output_norm)?,
        })
    }

    /// Replaces the rows by what the layer makes of them.
    fn forward(
        &self,
        rows: &mut [f32],
        ends: &[usize],
        config: &EncoderModelConfig,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let dim = config.hidden_size;
        let (mut start, mut sequences) = (0, ends);
        while !sequences.is_empty() {
            let fit = sequences.partition_point(|end| end - start <= ATTENTION_ROWS).max(1);
            let (together, rest) = sequences.split_at(fit);
            let end = together[fit - 1];
            let rows = &mut rows[start * dim..end * dim];
            let qkv = Scratch::of(&mut scratch.wide, 3 * rows.len());
            self.qkv.apply(rows, Output::Replace, qkv)?;
            let mixed = Scratch::of(&mut scratch.narrow, rows.len());
            scratch.ends.clear();
            scratch.ends.extend(together.iter().map(|end| end - start));
            self.qkv.attention()(&attention_shape(config), qkv, &scratch.ends, None, mixed)?;
            self.attended.apply(mixed, Output::Add, rows)?;
            (start, sequences) = (end, rest);
        }
        self.attended_norm.apply(rows)?;
        for rows in rows.chunks_mut(FEED_FORWARD_ROWS * dim) {
            add_feed_forward(rows, &self.widen, config.hidden_act.into(), &self.narrow, &mut scratch.middle)?;
            self.output_norm.apply(rows)?;
        }
        Ok(())
    }
}

fn attention_shape(config: &EncoderModelConfig) -> AttentionShape {
    let (n_heads, head_dim) = (config.num_attention_heads, config.head_dim());
    AttentionShape { n_heads, n_kv_heads: n_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt() }
}

/// Room that the layers share.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    narrow: Vec<f32>,
    ends: Vec<usize>,
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
pub(crate) struct LayerNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    pub fn apply(&self, rows: &mut [f32]) -> Result<()> {
        Ok(layer_norm(rows, &self.scale, &self.shift, self.epsilon)?)
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}
