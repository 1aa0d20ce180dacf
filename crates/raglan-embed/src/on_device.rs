//! Encoders on NVIDIA devices.

use std::path::Path;

use raglan_core::DenseVector;
use raglan_model::{
    DeviceEncoder, DeviceMaskedLanguageHead, DeviceTokenProjection, EncoderModelConfig, SafetensorsFile, cuda,
};

use crate::batches::{batches, in_batches};
use crate::encoder_config::Engine;
use crate::sentence_encoder::SentenceModel;
use crate::sparse_encoder::SparseModel;
use crate::token_encoder::{TokenModel, projection_file};
use crate::{Error, LongInputs, Pooling, Result, SentenceEncoder, SparseEncoder, TokenEncoder, TokenHead};

/// How many texts have a weight for each word in memory at once: 64 MB with 30,000 words.
pub(crate) const SPARSE_TEXTS: usize = 512;

/// Encoders that can compute on a device.
pub trait OnDevice: Sized {
    /// Moves the model of the folder that this was loaded from to a device.
    ///
    /// Vectors are as near to those of the processor as [`DeviceEncoder`] says, and are the same to the bit whatever else
    /// is in the batch as long as products run on our own kernel.
    ///
    /// # Errors
    ///
    /// As for [`check_on_device`]; [`Error::Model`] when the device has not so much memory.
    fn on_device(self, dir: &Path, device: &cuda::CudaDevice) -> Result<Self>;
}

impl OnDevice for SentenceEncoder {
    fn on_device(mut self, dir: &Path, device: &cuda::CudaDevice) -> Result<Self> {
        let config = check_on_device(dir, self.config.long_inputs)?;
        let file = SafetensorsFile::open(dir)?;
        self.model = SentenceModel::Device(Box::new(DeviceEncoder::from_safetensors(device, &file, config)?));
        Ok(self)
    }
}

impl OnDevice for SparseEncoder {
    fn on_device(mut self, dir: &Path, device: &cuda::CudaDevice) -> Result<Self> {
        let config = check_on_device(dir, self.config.long_inputs)?;
        let file = SafetensorsFile::open(dir)?;
        let head = DeviceMaskedLanguageHead::from_safetensors(device, &file, &config)?;
        let model = DeviceEncoder::from_safetensors(device, &file, config)?;
        self.model = SparseModel::Device(Box::new((model, head)));
        Ok(self)
    }
}

impl OnDevice for TokenEncoder {
    fn on_device(mut self, dir: &Path, device: &cuda::CudaDevice) -> Result<Self> {
        let config = check_on_device(dir, self.config.long_inputs)?;
        let file = SafetensorsFile::open(dir)?;
        let head = match self.config.head {
            TokenHead::HiddenState => None,
            TokenHead::Projection => {
                let file = projection_file(dir, &file)?;
                Some(DeviceTokenProjection::from_safetensors(device, &file, &config)?)
            }
        };
        let model = DeviceEncoder::from_safetensors(device, &file, config)?;
        self.model = TokenModel::Device(Box::new((model, head)));
        Ok(self)
    }
}

/// Refuses what an encoder of the model in a folder does not do on a device, before its weights are read; gives the model's
/// shape.
///
/// # Errors
///
/// [`Error::Unsupported`] for models in ONNX, and for long texts that are read at other positions; [`Error::Model`] when
/// there are no kernels for such a model.
pub fn check_on_device(dir: &Path, long_inputs: LongInputs) -> Result<EncoderModelConfig> {
    let refused = |what: &str| Error::Unsupported { path: dir.to_owned(), what: format!("{what} on a CUDA device") };
    let Engine::Kernels(model) = Engine::of(dir)? else { return Err(refused("a model in ONNX")) };
    if let LongInputs::Extended { .. } = long_inputs {
        return Err(refused(
            "the reading of long texts at other positions (`long-inputs`, which `--device cpu` serves)",
        ));
    }
    DeviceEncoder::check(&dir.join("config.json"), &model)?;
    Ok(*model)
}

impl SentenceEncoder {
    /// One vector for each text in tokens, in order.
    pub(crate) fn encode_on_device(&self, model: &DeviceEncoder, texts: &[Vec<u32>]) -> Result<Vec<DenseVector>> {
        let dim = model.config().hidden_size;
        let pooled = match self.config.pooling {
            Pooling::Mean => cuda::Pooled::Mean,
            Pooling::Cls => cuda::Pooled::First,
            Pooling::LastToken => cuda::Pooled::Last,
            // The one that takes every token's vector apart.
            Pooling::Max => {
                return in_batches(texts, usize::MAX, |batch| {
                    let hidden = model.hidden_states(batch)?;
                    hidden.sequences().map(|tokens| self.finished(Pooling::Max.pool(tokens, dim))).collect()
                });
            }
        };
        let batches = batches(texts, usize::MAX).into_iter().map(|range| &texts[range]);
        let vectors = model.pooled_vectors(batches, pooled, cuda::Length::Kept)?;
        vectors.chunks_exact(dim).map(|vector| self.finished(vector.to_vec())).collect()
    }
}
