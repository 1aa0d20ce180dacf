//! How learned sparse vectors of chunks are made, and how an index remembers it.

use std::fmt;
use std::str::FromStr;

use raglan_embed::{SparseActivation, SparseEncoderConfig};

/// How a learned sparse encoder makes the vectors of chunks, beyond what the model's files say.
///
/// Its text is the pooling in the encoder's stamp, such as `max`, or `max, log1p-twice, weights from 0.1, 128 words`: an
/// index is opened with the options that made it, and vectors of others are refused. What is the default is not written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SparseOptions {
    /// What becomes of a logit; as the model's files say when there is none.
    pub activation: Option<SparseActivation>,
    /// Words of less weight are left out of chunks; 0 keeps all.
    pub min_weight: f32,
    /// How many words a chunk keeps at most, the heaviest; all when there is no number.
    pub words: Option<usize>,
}

impl SparseOptions {
    /// The encoder's configuration with these options.
    pub fn configure(&self, config: SparseEncoderConfig) -> SparseEncoderConfig {
        SparseEncoderConfig {
            activation: self.activation.unwrap_or(config.activation),
            passage_min_weight: self.min_weight,
            passage_terms: self.words,
            ..config
        }
    }

    /// The options that an encoder has.
    pub fn of(config: &SparseEncoderConfig) -> Self {
        Self { activation: Some(config.activation), min_weight: config.passage_min_weight, words: config.passage_terms }
    }
}

impl fmt::Display for SparseOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("max")?;
        if let Some(activation) = self.activation.filter(|&activation| activation != SparseActivation::default()) {
            write!(f, ", {activation}")?;
        }
        if self.min_weight > 0.0 {
            write!(f, ", weights from {}", self.min_weight)?;
        }
        match self.words {
            Some(words) => write!(f, ", {words} words"),
            None => Ok(()),
        }
    }
}

impl FromStr for SparseOptions {
    type Err = String;

    /// Reads what [`Display`](fmt::Display) writes; the activation is always there then.
    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || format!("`{text}` is not a pooling of learned sparse vectors that this version knows");
        let mut parts = text.split(", ");
        if parts.next() != Some("max") {
            return Err(unknown());
        }
        let mut options = Self { activation: Some(SparseActivation::default()), ..Self::default() };
        for part in parts {
            if let Some(weight) = part.strip_prefix("weights from ") {
                options.min_weight = weight.parse().map_err(|_| unknown())?;
            } else if let Some(words) = part.strip_suffix(" words") {
                options.words = Some(words.parse().map_err(|_| unknown())?);
            } else {
                options.activation = Some(part.parse().map_err(|_| unknown())?);
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_remembers_the_options() {
        let activation = Some(SparseActivation::Log1p);
        let usual = SparseOptions { activation, ..SparseOptions::default() };
        // Indexes made before there were options say this.
        assert_eq!(usual.to_string(), "max");
        let pruned = SparseOptions { min_weight: 0.1, words: Some(128), ..usual };
        assert_eq!(pruned.to_string(), "max, weights from 0.1, 128 words");
        let twice = SparseOptions { activation: Some(SparseActivation::Log1pTwice), ..pruned };
        assert_eq!(twice.to_string(), "max, log1p-twice, weights from 0.1, 128 words");
        for options in [usual, pruned, twice] {
            assert_eq!(options.to_string().parse(), Ok(options));
        }
        for bad in ["", "mean", "max, many words", "max, sum"] {
            assert!(bad.parse::<SparseOptions>().unwrap_err().contains("not a pooling"), "{bad}");
        }
    }
}
