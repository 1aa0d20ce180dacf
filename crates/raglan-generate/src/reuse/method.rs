//! Which tokens of reused passages are computed anew.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// How a prompt's passages are read when their keys and values may be there already.
///
/// As text: `full`, `prefix`, `naive`, `random=0.15`, `link=8`, `blend=0.15`, `cache-craft=1`, `parallel=0.9,0.9`,
/// `focus=0.1`; a number that is left out is the usual one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ReuseMethod {
    /// All is computed.
    Full,
    /// All is computed but for what an earlier prompt began with. The result is that of [`Full`](Self::Full).
    Prefix,
    /// Blocks are taken as they are, moved to their places.
    Naive,
    /// A share of the tokens, drawn at random, is computed anew: what a choice has to beat.
    Random {
        /// Of the passages' tokens.
        share: f32,
    },
    /// The first tokens of each passage but the first are computed anew (Hu et al. 2025, EPIC: `LegoLink`).
    Link {
        /// Of each passage.
        tokens: usize,
    },
    /// Two layers are computed whole; then the tokens go on whose values in the second differ most from the blocks'
    /// (Yao et al. 2025, `CacheBlend`).
    Blend {
        /// Of the passages' tokens.
        share: f32,
    },
    /// By what was seen of a block's attention when it was computed, and how its neighbours differ now
    /// (Agarwal et al. 2025, Cache-Craft).
    CacheCraft {
        /// The recomputed share of a passage is `alpha · CCI · (1 − β')`.
        alpha: f32,
    },
    /// Nothing is computed anew: passages are read side by side at the same positions, and attention to them is
    /// weighed (Yang et al. 2025, APE). Where a passage has no block, all stand one behind the other, as with
    /// [`Naive`](Self::Naive).
    Parallel {
        /// Divides the scores of the passages' keys.
        temperature: f32,
        /// With the temperature, the exponent of the passages' weight.
        scale: f32,
    },
    /// The tokens that the question attends to most, as far as the blocks tell, are computed anew.
    Focus {
        /// Of the passages' tokens.
        share: f32,
    },
}

impl ReuseMethod {
    /// What `raglan ask` does: the method that changes no answer.
    pub const DEFAULT: Self = Self::Prefix;

    /// Whether it looks at a model's layers while they are passed, or weighs attention apart, which only the processor
    /// does.
    pub fn needs_processor(&self) -> bool {
        match self {
            Self::Full | Self::Prefix | Self::Naive | Self::Random { .. } | Self::Link { .. } => false,
            Self::Blend { .. } | Self::CacheCraft { .. } | Self::Parallel { .. } | Self::Focus { .. } => true,
        }
    }

    /// Whether it changes no answer.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Full | Self::Prefix)
    }
}

impl fmt::Display for ReuseMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Prefix => f.write_str("prefix"),
            Self::Naive => f.write_str("naive"),
            Self::Random { share } => write!(f, "random={share}"),
            Self::Link { tokens } => write!(f, "link={tokens}"),
            Self::Blend { share } => write!(f, "blend={share}"),
            Self::CacheCraft { alpha } => write!(f, "cache-craft={alpha}"),
            Self::Parallel { temperature, scale } => write!(f, "parallel={temperature},{scale}"),
            Self::Focus { share } => write!(f, "focus={share}"),
        }
    }
}

impl FromStr for ReuseMethod {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |problem: &str| Err(Error::Option { option: "kv", problem: format!("`{text}` {problem}") });
        let (name, parameters) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let numbers = parameters.map(|rest| rest.split(',').map(str::parse::<f32>).collect::<Result<Vec<f32>, _>>());
        let Ok(numbers) = numbers.transpose() else { return refuse("has a parameter that is no number") };
        let numbers = numbers.unwrap_or_default();
        let number = |at: usize, usual: f32| numbers.get(at).copied().unwrap_or(usual);
        let (method, n_numbers, sound) = match name {
            "full" => (Self::Full, 0, true),
            "prefix" => (Self::Prefix, 0, true),
            "naive" => (Self::Naive, 0, true),
            "random" => (Self::Random { share: number(0, 0.15) }, 1, true),
            "link" => {
                let tokens = number(0, 8.0);
                (Self::Link { tokens: tokens as usize }, 1, tokens >= 0.0 && tokens.fract() == 0.0)
            }
            "blend" => (Self::Blend { share: number(0, 0.15) }, 1, true),
            "cache-craft" => {
                let alpha = number(0, 1.0);
                (Self::CacheCraft { alpha }, 1, alpha >= 0.0)
            }
            "parallel" => {
                let (temperature, scale) = (number(0, 0.9), number(1, 0.9));
                (Self::Parallel { temperature, scale }, 2, temperature > 0.0 && scale > 0.0)
            }
            "focus" => (Self::Focus { share: number(0, 0.1) }, 1, true),
            _ => {
                return refuse(
                    "is no way to reuse keys and values; there are full, prefix, naive, random, link, blend, \
                     cache-craft, parallel and focus",
                );
            }
        };
        let share_is_sound = match method {
            Self::Random { share } | Self::Blend { share } | Self::Focus { share } => (0.0..=1.0).contains(&share),
            _ => true,
        };
        if numbers.len() > n_numbers {
            return refuse("has too many parameters");
        }
        if !sound || !share_is_sound || numbers.iter().any(|number| number.is_nan()) {
            return refuse("has a parameter outside of its domain");
        }
        Ok(method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_read_as_they_are_written() {
        for text in [
            "full",
            "prefix",
            "naive",
            "random=0.15",
            "link=8",
            "blend=0.3",
            "cache-craft=0.5",
            "parallel=0.9,0.8",
            "focus=0.05",
        ] {
            assert_eq!(text.parse::<ReuseMethod>().unwrap().to_string(), text);
        }
        assert_eq!("focus".parse::<ReuseMethod>().unwrap(), ReuseMethod::Focus { share: 0.1 });
        assert_eq!("cache-craft=inf".parse::<ReuseMethod>().unwrap(), ReuseMethod::CacheCraft { alpha: f32::INFINITY });
        for text in
            ["", "fuller", "focus=1.5", "focus=x", "focus=0.1,0.2", "link=1.5", "parallel=0", "random=NaN", "naive=1"]
        {
            let error = text.parse::<ReuseMethod>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
    }
}
