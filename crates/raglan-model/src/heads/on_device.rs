//! Heads of encoders on NVIDIA devices.

use raglan_kernels::cuda::{
    CudaDevice, DeviceMatrix, Length, Pooled, RowNorm, matrix_product, norm_pool, positive_terms, splade_head,
};
use raglan_kernels::{Output, l2_normalize};

use super::masked_language::{HeadNumbers, TermWeights};
use super::projection::numbers;
use crate::encoder::{DeviceNorm, finite};
use crate::{Activation, DeviceHiddenStates, EncoderModelConfig, Error, HiddenStates, Result, SafetensorsFile};

/// [`TokenProjection`](crate::TokenProjection) on a device: weights in half precision, sums in `f32`.
#[derive(Debug)]
pub struct DeviceTokenProjection {
    device: CudaDevice,
    map: DeviceMatrix,
}

impl DeviceTokenProjection {
    /// Reads the projection of a file to a device.
    ///
    /// # Errors
    ///
    /// As for [`TokenProjection::from_safetensors`](crate::TokenProjection::from_safetensors); [`Error::Kernel`] when the
    /// device has not so much memory.
    pub fn from_safetensors(device: &CudaDevice, file: &SafetensorsFile, config: &EncoderModelConfig) -> Result<Self> {
        let (map, dim) = numbers(file, config)?;
        let map = DeviceMatrix::new(device, &map, config.hidden_size, dim, None)?;
        Ok(Self { device: device.clone(), map })
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.map.n_out()
    }

    /// A vector of length 1 for each token of each sequence; nothing longer leaves the device.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] when the hidden states are of another model; [`Error::BeyondHalves`] when numbers leave the range of
    /// half precision; [`Error::Kernel`] when the device fails.
    pub fn project(&self, hidden: &DeviceHiddenStates) -> Result<HiddenStates> {
        check(hidden, self.map.n_in())?;
        let mut rows = self.device.filled::<f32>(0, hidden.sequences.n_tokens() * self.dim())?;
        matrix_product(&hidden.rows, &self.map, Output::Replace, &mut rows)?;
        let mut rows = finite(rows.download()?)?;
        l2_normalize(&mut rows, self.dim())?;
        Ok(HiddenStates::new(self.dim(), rows, hidden.ends.clone()))
    }
}

/// [`MaskedLanguageHead`](crate::MaskedLanguageHead) on a device: weights in half precision, logits in `f32`, of which a tile of the
/// vocabulary is there at a time.
#[derive(Debug)]
pub struct DeviceMaskedLanguageHead {
    device: CudaDevice,
    dense: DeviceMatrix,
    activation: Activation,
    norm: DeviceNorm,
    /// To the words of the vocabulary.
    decoder: DeviceMatrix,
}

impl DeviceMaskedLanguageHead {
    /// Reads the head of a masked language model's file to a device.
    ///
    /// # Errors
    ///
    /// As for [`MaskedLanguageHead::from_safetensors`](crate::MaskedLanguageHead::from_safetensors); [`Error::Kernel`] when
    /// the device has not so much memory.
    pub fn from_safetensors(device: &CudaDevice, file: &SafetensorsFile, config: &EncoderModelConfig) -> Result<Self> {
        let numbers = HeadNumbers::read(file, config)?;
        let (hidden, (dense, bias)) = (config.hidden_size, numbers.dense);
        Ok(Self {
            device: device.clone(),
            dense: DeviceMatrix::new(device, &dense, hidden, hidden, bias.as_deref())?,
            activation: numbers.activation,
            norm: DeviceNorm::new(device, &numbers.norm)?,
            decoder: DeviceMatrix::new(device, &numbers.words, hidden, config.vocab_size, Some(&numbers.words_bias))?,
        })
    }

    /// SPLADE's weights of each sequence, as
    /// [`MaskedLanguageHead::term_weights`](crate::MaskedLanguageHead::term_weights) gives them. There is a number for every
    /// sequence and word of the vocabulary on the device meanwhile, so that a call is of some hundred sequences at most; only
    /// words that weigh leave it.
    ///
    /// # Errors
    ///
    /// As of [`DeviceTokenProjection::project`].
    pub fn term_weights(&self, hidden: &DeviceHiddenStates) -> Result<Vec<TermWeights>> {
        check(hidden, self.dense.n_in())?;
        let mut rows = self.device.filled(0, hidden.rows.len())?;
        matrix_product(&hidden.rows, &self.dense, Output::Activate(self.activation.into()), &mut rows)?;
        self.norm.apply(&mut rows)?;
        // What is no number is no word's weight, and would pass unnoticed.
        let means = norm_pool(&rows, &hidden.sequences, hidden.dim(), RowNorm::None, Pooled::Mean, Length::Kept)?;
        finite(means.download()?)?;
        let weights = splade_head(&rows, &self.decoder, &hidden.sequences)?;
        Ok(positive_terms(&weights, self.decoder.n_out())?)
    }
}

fn check(hidden: &DeviceHiddenStates, hidden_size: usize) -> Result<()> {
    match hidden.dim() == hidden_size {
        true => Ok(()),
        false => Err(Error::Rows { problem: "the hidden states are not of the head's model" }),
    }
}
