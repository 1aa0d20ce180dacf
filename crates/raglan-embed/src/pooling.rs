//! From a vector a token to a vector a text.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean, special tokens included.
    #[default]
    Mean,
    /// The vector of the first token, which is a special one.
    Cls,
    /// The vector of the last token, which is a special one: the only one that has seen the whole text in models whose
    /// tokens see those before them.
    LastToken,
    /// The greatest of each component, special tokens included.
    Max,
}

impl Pooling {
    /// The vector of a text, from the vectors of its tokens: `[n_tokens, dim]`, at least one.
    pub fn pool(self, tokens: &[f32], dim: usize) -> Vec<f32> {
        match self {
            Self::Cls => tokens[..dim].to_vec(),
            Self::LastToken => tokens[tokens.len() - dim..].to_vec(),
            Self::Max => {
                let mut greatest = tokens[..dim].to_vec();
                for token in tokens[dim..].chunks_exact(dim) {
                    for (greatest, &x) in greatest.iter_mut().zip(token) {
                        // What is not a number stays, so that the vector is refused.
                        if x > *greatest || x.is_nan() {
                            *greatest = x;
                        }
                    }
                }
                greatest
            }
            Self::Mean => {
                let mut sum = vec![0.0; dim];
                for token in tokens.chunks_exact(dim) {
                    for (sum, x) in sum.iter_mut().zip(token) {
                        *sum += x;
                    }
                }
                let n_tokens = (tokens.len() / dim) as f32;
                sum.iter_mut().for_each(|x| *x /= n_tokens);
                sum
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::Cls => "cls",
            Self::LastToken => "last_token",
            Self::Max => "max",
        })
    }
}

impl FromStr for Pooling {
    type Err = String;

    /// What [`Display`](fmt::Display) writes.
    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Self::Mean, Self::Cls, Self::LastToken, Self::Max];
        let known = all.into_iter().find(|pooling| pooling.to_string() == name);
        known.ok_or_else(|| format!("`{name}` is none of mean, cls, last_token, max"))
    }
}

/// Brings a vector to length 1; a zero vector stays as it is.
pub(crate) fn normalize(vector: &mut [f32]) {
    let norm = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let inverse = (1.0 / norm.max(1e-12)) as f32; // The bound is that of PyTorch's `normalize`.
    vector.iter_mut().for_each(|x| *x *= inverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_as_named() {
        let tokens = [1.0, 2.0, 3.0, 4.0, 8.0, 0.0];
        assert_eq!(Pooling::Mean.pool(&tokens, 2), [4.0, 2.0]); // (1 + 3 + 8) / 3, (2 + 4 + 0) / 3
        assert_eq!(Pooling::Cls.pool(&tokens, 2), [1.0, 2.0]);
        assert_eq!(Pooling::LastToken.pool(&tokens, 2), [8.0, 0.0]);
        assert_eq!(Pooling::Max.pool(&tokens, 2), [8.0, 4.0]);
        for tokens in [[1.0, f32::NAN, 2.0], [f32::NAN, 1.0, 2.0], [1.0, 2.0, f32::NAN]] {
            assert!(Pooling::Max.pool(&tokens, 1)[0].is_nan());
        }
        for pooling in [Pooling::Mean, Pooling::Cls, Pooling::LastToken, Pooling::Max] {
            assert_eq!(pooling.pool(&[3.0, -4.0], 2), [3.0, -4.0], "one token, {pooling}");
            assert_eq!(pooling.to_string().parse(), Ok(pooling));
        }
    }

    #[test]
    fn a_zero_vector_stays_finite() {
        let mut vector = [0.0, 0.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.0, 0.0]);
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]); // 3 / 5, 4 / 5
    }
}
