//! Contexts longer than those a model was trained on.

use std::fmt;
use std::str::FromStr;

use raglan_kernels::{RotaryEmbedding, RotaryScaling};

use crate::decoder_config::MAX_NUMBER;
use crate::{DecoderModel, Error, Result};

/// How a model's rotation is changed so that it reads texts longer than its context, `factor` times as long at most.
///
/// Nothing is trained, so short texts are read a little worse.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum ContextExtension {
    /// Not at all.
    #[default]
    None,
    /// Position interpolation (Chen et al. 2023).
    Linear {
        /// Wanted length over trained length.
        factor: f64,
    },
    /// A higher base, so that fast turns stay as they are (NTK-aware).
    Ntk {
        /// Wanted length over trained length.
        factor: f64,
    },
    /// Slow turns are interpolated, fast ones stay (Peng et al. 2023, `YaRN`).
    Yarn {
        /// Wanted length over trained length.
        factor: f64,
    },
}

/// The greatest factor: nobody claims more without training.
const MOST: f64 = 64.0;

impl ContextExtension {
    fn factor(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Linear { factor } | Self::Ntk { factor } | Self::Yarn { factor } => factor,
        }
    }

    fn scaling(self, context_len: usize) -> RotaryScaling {
        match self {
            Self::None => RotaryScaling::None,
            Self::Linear { factor } => RotaryScaling::Linear { factor },
            Self::Ntk { factor } => RotaryScaling::Ntk { factor },
            Self::Yarn { factor } => {
                RotaryScaling::Yarn { factor, original_len: context_len as u32, beta_fast: 32.0, beta_slow: 1.0 }
            }
        }
    }
}

impl fmt::Display for ContextExtension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Linear { factor } => write!(f, "linear={factor}"),
            Self::Ntk { factor } => write!(f, "ntk={factor}"),
            Self::Yarn { factor } => write!(f, "yarn={factor}"),
        }
    }
}

impl FromStr for ContextExtension {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self::None);
        }
        let (name, factor) =
            text.split_once('=').ok_or_else(|| format!("`{text}` is none of none, linear=S, ntk=S and yarn=S"))?;
        let factor: f64 = factor.parse().map_err(|_| format!("`{factor}` is not a number"))?;
        if !(1.0..=MOST).contains(&factor) {
            return Err(format!("a context becomes 1 to {MOST} times as long, not {factor} times"));
        }
        match name {
            "linear" => Ok(Self::Linear { factor }),
            "ntk" => Ok(Self::Ntk { factor }),
            "yarn" => Ok(Self::Yarn { factor }),
            _ => Err(format!("`{name}` is none of linear, ntk and yarn")),
        }
    }
}

impl DecoderModel {
    /// The same model with a longer context. Layers that see a window turn as before.
    ///
    /// # Errors
    ///
    /// [`Error::Extension`] when the model's own files change its rotation already.
    pub fn extended(mut self, extension: ContextExtension) -> Result<Self> {
        if extension == ContextExtension::None {
            return Ok(self);
        }
        let refused = |problem: String| Error::Extension { extension, problem };
        let (config, rotary) = self.rotation_mut();
        if config.rope.scaling != RotaryScaling::None {
            return Err(refused("the model's own files scale its rotation already".to_owned()));
        }
        let scaling = extension.scaling(config.context_len);
        *rotary = RotaryEmbedding::new(config.head_dim, config.rope.base, config.rope_pairs, &scaling)
            .map_err(|error| refused(error.to_string()))?;
        config.rope.scaling = scaling;
        config.context_len = ((config.context_len as f64 * extension.factor()) as usize).min(MAX_NUMBER);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_read_as_they_are_written() {
        for text in ["none", "linear=2", "ntk=1.5", "yarn=4"] {
            assert_eq!(text.parse::<ContextExtension>().unwrap().to_string(), text);
        }
        for text in ["yarn", "yarn=0.5", "yarn=NaN", "yarn=1000", "longer=2", "none=2"] {
            assert!(text.parse::<ContextExtension>().is_err(), "{text}");
        }
    }
}
