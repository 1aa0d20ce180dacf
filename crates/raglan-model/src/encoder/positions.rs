//! Where the tokens of a sequence stand, for sequences that are longer than the model was trained on.

use crate::{EncoderModelConfig, Error, Result};

/// Where the tokens of a sequence stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Positions {
    /// One behind the other, from 0.
    #[default]
    Consecutive,
    /// Each at its own place in the model's table of positions, counted from the first that is for text. Between two
    /// rows it is `(1 - f) · row(⌊p⌋) + f · row(⌊p⌋ + 1)`, where `f` is what `p` is beyond `⌊p⌋`.
    Table(Vec<f32>),
    /// One behind the other, in rotations whose base is raised to `base · factor^(d / (d - 2))` for heads of `d`
    /// dimensions (NTK-aware scaling), so that the slowest of them turns `factor` times more slowly. Layers that see a
    /// window of the text alone keep their base: no distance in them is longer than they were trained on.
    RaisedBase {
        /// At least 1: a sequence may be so many times longer than there are positions.
        factor: f64,
    },
    /// One behind the other, in rotations (`SelfExtend`: Jin et al. 2024): keys that are nearer than `window` have their
    /// true distance, others one that is counted in groups of `group` tokens. Layers that see a window of the text alone
    /// stay as they are.
    SelfExtend {
        /// At least 1, at most the number of positions.
        window: usize,
        /// At least 1.
        group: usize,
    },
}

impl Positions {
    /// Whether a model can place a sequence of so many tokens so.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when it has too few positions; [`Error::Rows`] when the positions are not for such a
    /// model, or not one a token, or beyond the table.
    pub(super) fn check(&self, n_tokens: usize, config: &EncoderModelConfig) -> Result<()> {
        let limit = config.max_tokens();
        let limit = match self {
            Self::Consecutive => limit,
            Self::Table(positions) => {
                if config.rotary.is_some() {
                    return Err(Error::Rows { problem: "the model has no table of positions" });
                }
                if positions.len() != n_tokens {
                    return Err(Error::Rows { problem: "there must be one position a token" });
                }
                if !positions.iter().all(|position| (0.0..=(limit - 1) as f32).contains(position)) {
                    return Err(Error::Rows { problem: "a position is beyond the model's table" });
                }
                return Ok(());
            }
            Self::RaisedBase { factor } => {
                if config.rotary.is_none() {
                    return Err(Error::Rows { problem: "the model's positions are not rotations" });
                }
                if !(factor.is_finite() && *factor >= 1.0) {
                    return Err(Error::Rows { problem: "the base of rotations can only be raised" });
                }
                (limit as f64 * factor).round() as usize // A factor of n / limit is for n tokens, whatever its last bit.
            }
            Self::SelfExtend { window, group } => {
                if config.rotary.is_none() {
                    return Err(Error::Rows { problem: "the model's positions are not rotations" });
                }
                if *group == 0 || !(1..=limit).contains(window) {
                    return Err(Error::Rows {
                        problem: "near keys are at least one, and no more than there are positions",
                    });
                }
                // The farthest distance, ⌊(n - 1) / group⌋ + window - ⌊window / group⌋, is one that the model knows.
                (limit - window + window / group).saturating_mul(*group).max(*window)
            }
        };
        if n_tokens <= limit { Ok(()) } else { Err(Error::ContextOverflow { tokens: n_tokens, limit }) }
    }

    /// Adds to a token's vector what the table, `[max_tokens, dim]`, has for its position.
    pub(super) fn add(&self, token: usize, table: &[f32], vector: &mut [f32]) {
        let dim = vector.len();
        let position = match self {
            Self::Table(positions) => positions[token],
            Self::Consecutive | Self::RaisedBase { .. } | Self::SelfExtend { .. } => {
                return super::add(vector, &table[token * dim..][..dim]);
            }
        };
        let (row, rest) = (position as usize, position.fract());
        let below = &table[row * dim..][..dim];
        if rest == 0.0 {
            return super::add(vector, below);
        }
        let above = &table[(row + 1) * dim..][..dim];
        for ((x, below), above) in vector.iter_mut().zip(below).zip(above) {
            *x += (1.0 - rest) * below + rest * above;
        }
    }
}
