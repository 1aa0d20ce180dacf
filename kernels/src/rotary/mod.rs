//! Rotary position embeddings, and the moving of keys that are rotated already.
//!
//! A head's components stand in pairs; at position `p`, pair `i` turns by the angle `p · θ_i`. Only differences of
//! positions count in an inner product of a turned query and a turned key, and turns of one pair add up, so cached keys
//! move to another place by one more turn.

#[cfg(test)]
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fast;
mod frequencies;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Which components of a head are a pair, `dim` being the head's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotaryPairs {
    /// `2i` and `2i + 1`: the order of GGUF files of the `llama` architecture.
    Neighbours,
    /// `i` and `i + dim / 2`: the order of most others ("neox").
    Halves,
}

/// How the frequencies `θ_i = base^(-2i/dim)` are changed for texts longer than those of the training.
#[derive(Clone, Debug, PartialEq)]
pub enum RotaryScaling {
    /// Not at all.
    None,
    /// Position interpolation: `θ_i / factor`.
    Linear {
        /// Wanted length over trained length.
        factor: f64,
    },
    /// NTK-aware: the base becomes `base · factor^(dim / (dim - 2))`.
    Ntk {
        /// Wanted length over trained length.
        factor: f64,
    },
    /// `YaRN`: `(1 - g_i) θ_i / factor + g_i θ_i`, and both queries and keys are multiplied by `0.1 ln factor + 1`.
    ///
    /// `g_i` falls linearly in `i` from 1 at the pair that makes `beta_fast` turns in the trained length to 0 at the
    /// one that makes `beta_slow`, both rounded outwards: so do the implementations that models are published with,
    /// whereas the paper's ramp is linear in the number of turns.
    Yarn {
        /// Wanted length over trained length.
        factor: f64,
        /// The trained length in tokens.
        original_len: u32,
        /// At so many turns a pair keeps its frequency; usually 32.
        beta_fast: f64,
        /// At so many turns a pair is interpolated; usually 1.
        beta_slow: f64,
    },
    /// Llama 3.1: with `t_i = original_len · θ_i / 2π` turns, a pair keeps `θ_i` where `t_i > high`, has `θ_i / factor`
    /// where `t_i < low`, and between them a mixture that is linear in `t_i`.
    Llama3 {
        /// The divisor of the low frequencies; 8 in Llama 3.1.
        factor: f64,
        /// Turns in the trained length below which a frequency is low; usually 1.
        low: f64,
        /// Turns in the trained length above which a frequency is high; usually 4.
        high: f64,
        /// The trained length in tokens.
        original_len: u32,
    },
    /// One divisor a pair, as files of weights carry them: `θ_i / divisors[i]`.
    Divisors(Vec<f64>),
}

/// Positions below `BLOCK · N_BLOCKS` have their cosines and sines kept, a block at a time once one is asked for.
const BLOCK: usize = 64;
const N_BLOCKS: usize = 512;

/// Turns the heads of queries and keys to their positions.
///
/// Invariant: there are `head_dim / 2` positive, finite frequencies, and `blocks[b]` holds the turns of the positions
/// from `b · BLOCK`.
#[derive(Debug)]
pub struct RotaryEmbedding {
    head_dim: usize,
    pairs: RotaryPairs,
    frequencies: Vec<f64>,
    magnitude: f64,
    blocks: Vec<OnceLock<Box<[f32]>>>,
}

impl RotaryEmbedding {
    /// An embedding for heads of `head_dim` components, with frequencies `base^(-2i/head_dim)` before scaling.
    ///
    /// # Errors
    ///
    /// [`Error::ZeroDimension`] when `head_dim` is 0; [`Error::Shape`] when it is odd or there is not one divisor a
    /// pair; [`Error::NotPositive`] when a number that must be positive and finite is not.
    pub fn new(head_dim: usize, base: f64, pairs: RotaryPairs, scaling: &RotaryScaling) -> Result<Self> {
        if head_dim == 0 {
            return Err(Error::ZeroDimension);
        }
        if !head_dim.is_multiple_of(2) {
            return Err(Error::Shape { what: "head_dim", expected: head_dim + 1, found: head_dim });
        }
        let (frequencies, magnitude) = frequencies::scaled(head_dim, base, scaling)?;
        let blocks = (0..N_BLOCKS).map(|_| OnceLock::new()).collect();
        Ok(Self { head_dim, pairs, frequencies, magnitude, blocks })
    }

    /// The angle in radians by which each pair turns from one position to the next, after scaling.
    pub fn frequencies(&self) -> &[f64] {
        &self.frequencies
    }

    /// What [`RotaryEmbedding::rotate`] multiplies by besides; 1 but for `YaRN`.
    pub fn magnitude(&self) -> f64 {
        self.magnitude
    }

    /// Turns the first `n_heads` heads of each token to the token's position.
    ///
    /// Token `t` starts at `rows[t · stride]`, and its heads lie one after the other; what follows them up to the next
    /// token is left alone, so that a part of a wider row can be turned. `positions` has one entry a token. Angles are
    /// computed in `f64`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when `stride` is less than the heads' length, or `rows` ends before the last token's heads or
    /// goes on beyond `stride` floats a token.
    pub fn rotate(&self, rows: &mut [f32], stride: usize, n_heads: usize, positions: &[u32]) -> Result<()> {
        let width = n_heads * self.head_dim;
        if stride < width {
            return Err(Error::Shape { what: "stride", expected: width, found: stride });
        }
        let n = positions.len();
        let least = n.saturating_sub(1) * stride + if n == 0 { 0 } else { width };
        if rows.len() < least || rows.len() > n * stride {
            return Err(Error::Shape { what: "rows", expected: n * stride, found: rows.len() });
        }
        if width == 0 {
            return Ok(());
        }
        let form = CpuForm::best();
        let mut own = Vec::new();
        for (row, &position) in rows.chunks_mut(stride).zip(positions) {
            let turn = self.turn_at(position, &mut own);
            fast::turn(form, &mut row[..width], self.pairs, turn);
        }
        Ok(())
    }

    /// Moves keys that were turned by [`RotaryEmbedding::rotate`] on by `delta` positions.
    ///
    /// `keys` is `[n, n_heads · head_dim]`. The magnitude is in them already and is not applied again; a `delta` of 0
    /// leaves every bit. Each turn rounds, so a chunk that moves often is turned from the stored keys each time.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the length of `keys` is no multiple of `n_heads · head_dim`.
    pub fn shift(&self, keys: &mut [f32], n_heads: usize, delta: i64) -> Result<()> {
        let width = n_heads * self.head_dim;
        if keys.len().checked_rem(width).unwrap_or(keys.len()) != 0 {
            let expected = keys.len().checked_next_multiple_of(width.max(1)).unwrap_or(0);
            return Err(Error::Shape { what: "keys", expected, found: keys.len() });
        }
        if delta != 0 && !keys.is_empty() {
            let mut turn = vec![0.0; self.head_dim];
            self.fill(&mut turn, delta as f64, 1.0);
            fast::turn(CpuForm::best(), keys, self.pairs, &turn);
        }
        Ok(())
    }

    /// The cosines, then the sines of a position's angles, times the magnitude; in `own` where they are not kept.
    fn turn_at<'a>(&'a self, position: u32, own: &'a mut Vec<f32>) -> &'a [f32] {
        let position = position as usize;
        if let Some(block) = self.blocks.get(position / BLOCK) {
            let block = block.get_or_init(|| {
                let mut turns = vec![0.0; BLOCK * self.head_dim];
                for (i, turn) in turns.chunks_exact_mut(self.head_dim).enumerate() {
                    self.fill(turn, (position / BLOCK * BLOCK + i) as f64, self.magnitude);
                }
                turns.into_boxed_slice()
            });
            &block[position % BLOCK * self.head_dim..][..self.head_dim]
        } else {
            own.resize(self.head_dim, 0.0);
            self.fill(own, position as f64, self.magnitude);
            own
        }
    }

    fn fill(&self, turn: &mut [f32], position: f64, magnitude: f64) {
        let (cosines, sines) = turn.split_at_mut(self.head_dim / 2);
        for ((cosine, sine), frequency) in cosines.iter_mut().zip(sines).zip(&self.frequencies) {
            let (s, c) = (position * frequency).sin_cos();
            (*cosine, *sine) = ((c * magnitude) as f32, (s * magnitude) as f32);
        }
    }
}

impl Clone for RotaryEmbedding {
    /// A clone keeps no turns until it is asked for them.
    fn clone(&self) -> Self {
        let blocks = (0..N_BLOCKS).map(|_| OnceLock::new()).collect();
        let frequencies = self.frequencies.clone();
        Self { head_dim: self.head_dim, pairs: self.pairs, frequencies, magnitude: self.magnitude, blocks }
    }
}
