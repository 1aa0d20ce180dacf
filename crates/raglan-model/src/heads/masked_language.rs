//! The masked-language head: which word of the vocabulary a token's vector speaks of.

use std::ops::Range;

use raglan_kernels::{Output, activate, log1p_relu, running_max};
use rayon::prelude::*;

use crate::encoder::{LayerNorm, Weights};
use crate::linear::Linear;
use crate::{Activation, EncoderFamily, EncoderModelConfig, Error, HiddenStates, Products, Result, SafetensorsFile};

/// Words that one task scores: with 768 dimensions their weights are 6 MB, read once for all tokens of a batch.
const TILE: usize = 2048;
/// Tokens whose logits of one tile are held at once, which makes 1 MB.
const TILE_ROWS: usize = 128;

/// The head that a masked language model was trained with: `logits = W · norm(act(D · h + d)) + b`, with the words'
/// embeddings for `W` where the file has no other.
///
/// A token has a logit for every word of the vocabulary, which is much more than anybody wants to keep; so they are
/// made in tiles over the vocabulary, and only what is asked of them is kept.
#[derive(Debug)]
pub struct MaskedLanguageHead {
    dense: Linear,
    activation: Activation,
    norm: LayerNorm,
    /// `[hidden, TILE]` each, but for the last one.
    tiles: Vec<Linear>,
    hidden_size: usize,
    vocab_size: usize,
}

/// What a file has of the head.
pub(super) struct HeadNumbers {
    /// `[hidden, hidden]` and its bias.
    pub dense: (Vec<f32>, Option<Vec<f32>>),
    pub activation: Activation,
    pub norm: LayerNorm,
    /// `[vocab, hidden]`
    pub words: Vec<f32>,
    pub words_bias: Vec<f32>,
}

impl HeadNumbers {
    pub fn read(file: &SafetensorsFile, config: &EncoderModelConfig) -> Result<Self> {
        let weights = Weights::of_head(file, config);
        let (dense, norm, decoder, biases): (_, _, _, &[&str]) = match config.family {
            EncoderFamily::Bert => (
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder.weight",
                &["cls.predictions.bias", "cls.predictions.decoder.bias"],
            ),
            EncoderFamily::Roberta => (
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.decoder.weight",
                &["lm_head.bias", "lm_head.decoder.bias"],
            ),
            EncoderFamily::DistilBert => {
                ("vocab_transform", "vocab_layer_norm", "vocab_projector.weight", &["vocab_projector.bias"])
            }
            EncoderFamily::ModernBert => ("head.dense", "head.norm", "decoder.weight", &["decoder.bias"]),
        };
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let shape = [vocab, hidden];
        let words = if weights.contains(decoder) {
            weights.tensor(decoder, &shape)?
        } else {
            let model = Weights::of_model(file, config);
            model.tensor(model.words(), &shape)?
        };
        let words_bias = match biases.iter().find(|name| weights.contains(name)) {
            Some(name) => weights.tensor(name, &[vocab])?,
            None => vec![0.0; vocab],
        };
        Ok(Self {
            dense: weights.numbers(&[dense.to_owned()], hidden, hidden)?,
            // RoBERTa's head has this one whatever the layers have.
            activation: if config.family == EncoderFamily::Roberta { Activation::Gelu } else { config.hidden_act },
            norm: weights.layer_norm(norm)?,
            words,
            words_bias,
        })
    }
}

/// The weights of a text's words, in the order of their ids: all are positive.
pub type TermWeights = Vec<(u32, f32)>;

impl MaskedLanguageHead {
    /// Reads the head of a masked language model's file, under the names of the model's family: `cls.predictions`
    /// (BERT), `lm_head` (RoBERTa), `vocab_transform` (DistilBERT), or `head` and `decoder` (`ModernBERT`).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Malformed`] when a tensor is not there, is of another shape than
    /// `config` says or holds something that is not a finite number.
    pub fn from_safetensors(file: &SafetensorsFile, config: &EncoderModelConfig, products: Products) -> Result<Self> {
        let numbers = HeadNumbers::read(file, config)?;
        let (hidden, (dense, bias)) = (config.hidden_size, numbers.dense);
        let tiles = numbers.words.par_chunks(TILE * hidden).zip(numbers.words_bias.par_chunks(TILE));
        let tiles = tiles.map(|(words, bias)| Linear::new(words, Some(bias.to_vec()), hidden, products));
        Ok(Self {
            dense: Linear::new(&dense, bias, hidden, products)?,
            activation: numbers.activation,
            norm: numbers.norm,
            tiles: tiles.collect::<Result<_>>()?,
            hidden_size: hidden,
            vocab_size: config.vocab_size,
        })
    }

    /// How many words have a logit.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The logits of a few tokens, `[n, vocab_size]`, from their hidden states, `[n, hidden_size]`.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] when the length of `rows` is no multiple of `hidden_size`.
    pub fn logits(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let rows = self.transformed(rows)?;
        let n_rows = rows.len() / self.hidden_size;
        let mut logits = vec![0.0; n_rows * self.vocab_size];
        for (i, tile) in self.tiles.iter().enumerate() {
            let words = self.words(i);
            let mut part = vec![0.0; n_rows * words.len()];
            tile.apply(&rows, Output::Replace, &mut part)?;
            for (logits, part) in logits.chunks_exact_mut(self.vocab_size).zip(part.chunks_exact(words.len())) {
                logits[words.clone()].copy_from_slice(part);
            }
        }
        Ok(logits)
    }

    /// SPLADE's weights of each sequence, `w_v = max_t ln(1 + max(0, logit_{t,v}))` over all its tokens `t`
    /// (Formal et al. 2021, "SPLADE v2", formula 6); words of weight 0 are left out.
    ///
    /// A sequence's weights do not depend on the other sequences, to the bit. An empty one has none.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] when the hidden states are of another model.
    pub fn term_weights(&self, hidden: &HiddenStates) -> Result<Vec<TermWeights>> {
        if hidden.dim() != self.hidden_size {
            return Err(Error::Rows { problem: "the hidden states are not of the head's model" });
        }
        let rows = self.transformed(hidden.rows())?;
        let parts = (0..self.tiles.len()).into_par_iter().map(|tile| self.tile_weights(tile, &rows, hidden.ends()));
        let parts: Vec<Vec<TermWeights>> = parts.collect::<Result<_>>()?;
        let mut of_sequences = vec![Vec::new(); hidden.ends().len()];
        for part in parts {
            of_sequences.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
        }
        Ok(of_sequences)
    }

    /// The weights of a tile's words in each sequence, of which `rows` has all tokens.
    fn tile_weights(&self, tile: usize, rows: &[f32], ends: &[usize]) -> Result<Vec<TermWeights>> {
        let words = self.words(tile);
        let mut logits = vec![0.0; TILE_ROWS.min(rows.len() / self.hidden_size) * words.len()];
        let mut weights = vec![Vec::new(); ends.len()];
        let mut max = vec![0.0; words.len()];
        let (mut sequence, mut at) = (0, 0);
        for rows in rows.chunks(TILE_ROWS * self.hidden_size) {
            let n_rows = rows.len() / self.hidden_size;
            let logits = &mut logits[..n_rows * words.len()];
            self.tiles[tile].apply(rows, Output::Replace, logits)?;
            let mut row = 0;
            while row < n_rows {
                let n = n_rows.min(ends[sequence] - at) - row;
                running_max(&logits[row * words.len()..(row + n) * words.len()], words.len(), &mut max)?;
                row += n;
                if at + row == ends[sequence] {
                    log1p_relu(&mut max);
                    let positive = max.iter().zip(words.clone()).filter(|(weight, _)| **weight > 0.0);
                    weights[sequence].extend(positive.map(|(&weight, word)| (word as u32, weight)));
                    max.fill(0.0);
                    sequence += 1;
                }
            }
            at += n_rows;
        }
        Ok(weights)
    }

    /// The words of a tile.
    fn words(&self, tile: usize) -> Range<usize> {
        tile * TILE..((tile + 1) * TILE).min(self.vocab_size)
    }

    /// What the decoder reads.
    fn transformed(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let mut transformed = vec![0.0; rows.len()];
        self.dense.apply(rows, Output::Replace, &mut transformed)?;
        activate(&mut transformed, self.activation.into());
        self.norm.apply(&mut transformed)?;
        Ok(transformed)
    }
}
