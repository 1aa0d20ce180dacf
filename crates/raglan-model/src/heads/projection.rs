//! The projection of late interaction: a short vector of length 1 for each token.

use raglan_kernels::{Output, l2_normalize};

use crate::encoder::Weights;
use crate::linear::Linear;
use crate::{EncoderModelConfig, Error, HiddenStates, Products, Result, SafetensorsFile};

/// `ColBERT`'s head (Khattab and Zaharia 2020): a linear map without bias, most often to 128 dimensions, and length 1.
#[derive(Debug)]
pub struct TokenProjection {
    map: Linear,
    hidden_size: usize,
    dim: usize,
}

impl TokenProjection {
    /// Reads `linear.weight` of a file: the model's own, or that of a `1_Dense` folder beside it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Malformed`] when the tensor is not there, does not map from the
    /// model's hidden states to fewer dimensions or as many, or holds something that is not a finite number.
    pub fn from_safetensors(file: &SafetensorsFile, config: &EncoderModelConfig, products: Products) -> Result<Self> {
        let (map, dim) = numbers(file, config)?;
        let hidden_size = config.hidden_size;
        Ok(Self { map: Linear::new(&map, None, hidden_size, products)?, hidden_size, dim })
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// A vector of length 1 for each token of each sequence.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] when the hidden states are of another model.
    pub fn project(&self, hidden: &HiddenStates) -> Result<HiddenStates> {
        if hidden.dim() != self.hidden_size {
            return Err(Error::Rows { problem: "the hidden states are not of the head's model" });
        }
        let mut rows = vec![0.0; hidden.rows().len() / self.hidden_size * self.dim];
        self.map.apply(hidden.rows(), Output::Replace, &mut rows)?;
        l2_normalize(&mut rows, self.dim)?;
        Ok(HiddenStates::new(self.dim, rows, hidden.ends().to_vec()))
    }
}

/// The map, `[dim, hidden_size]`, and `dim`.
pub(super) fn numbers(file: &SafetensorsFile, config: &EncoderModelConfig) -> Result<(Vec<f32>, usize)> {
    let weights = Weights::of_head(file, config);
    let dim = match weights.shape("linear.weight") {
        Some(&[n, _]) if (1..=config.hidden_size).contains(&n) => n,
        found => return Err(weights.malformed(format!("no projection: `linear.weight` has shape {found:?}"))),
    };
    Ok((weights.tensor("linear.weight", &[dim, config.hidden_size])?, dim))
}
