//! Sentence encoders on NVIDIA devices.

use std::path::Path;

use raglan_core::DenseVector;
use raglan_model::{DeviceEncoder, SafetensorsFile, cuda};

use crate::encoder_config::Engine;
use crate::sentence_encoder::SentenceModel;
use crate::{Error, LongInputs, Pooling, Result, SentenceEncoder};

/// How many tokens one forward reads at most, unless a single text has more: enough that no layer waits for work, and
/// less than 1 GiB of room for models of 768 components.
const BATCH_TOKENS: usize = 1 << 16;

impl SentenceEncoder {
    /// Moves the model of the folder that this was loaded from to a device.
    ///
    /// Vectors have a cosine of .9995 or more to those of the processor, and are the same to the bit whatever else is in
    /// the batch as long as products run on our own kernel.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] for models in ONNX, and for long texts that are read at other positions;
    /// [`Error::Model`] when the device has not so much memory or no kernels for such a model.
    pub fn on_device(mut self, dir: &Path, device: &cuda::CudaDevice) -> Result<Self> {
        let refused =
            |what: &str| Error::Unsupported { path: dir.to_owned(), what: format!("{what} on a CUDA device") };
        let Engine::Kernels(model) = self.config.check(dir)? else { return Err(refused("a model in ONNX")) };
        if !matches!(self.config.long_inputs, LongInputs::Refuse | LongInputs::Cut | LongInputs::ParallelWindows) {
            return Err(refused("the reading of long texts at other positions"));
        }
        let file = SafetensorsFile::open(dir)?;
        self.model = SentenceModel::Device(Box::new(DeviceEncoder::from_safetensors(device, &file, *model)?));
        Ok(self)
    }

    /// One vector for each text in tokens, in order.
    pub(crate) fn encode_on_device(&self, model: &DeviceEncoder, texts: &[Vec<u32>]) -> Result<Vec<DenseVector>> {
        let mut vectors = Vec::with_capacity(texts.len());
        for range in batches(texts) {
            let batch: Vec<&[u32]> = texts[range].iter().map(Vec::as_slice).collect();
            let dim = model.config().hidden_size;
            if self.config.pooling == Pooling::Mean {
                let means = model.mean_vectors(&batch, cuda::Length::Kept)?;
                for mean in means.chunks_exact(dim) {
                    vectors.push(self.finished(mean.to_vec())?);
                }
            } else {
                let hidden = model.hidden_states(&batch)?;
                for tokens in hidden.sequences() {
                    vectors.push(self.finished(self.config.pooling.pool(tokens, dim))?);
                }
            }
        }
        Ok(vectors)
    }
}

/// Texts that are read together, in order.
pub(crate) fn batches(texts: &[Vec<u32>]) -> Vec<std::ops::Range<usize>> {
    let (mut batches, mut start, mut n_tokens) = (Vec::new(), 0, 0);
    for (i, text) in texts.iter().enumerate() {
        if n_tokens + text.len() > BATCH_TOKENS && i > start {
            batches.push(start..i);
            (start, n_tokens) = (i, 0);
        }
        n_tokens += text.len();
    }
    if start < texts.len() {
        batches.push(start..texts.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_every_text_once_in_order_and_not_too_many_tokens() {
        let texts: Vec<Vec<u32>> = [10, BATCH_TOKENS - 10, 1, 2 * BATCH_TOKENS, 5].map(|n| vec![0; n]).into();
        assert_eq!(batches(&texts), [0..2, 2..3, 3..4, 4..5]);
        assert!(batches(&[]).is_empty());
        assert_eq!(batches(&texts[..1]).last(), Some(&(0..1)));
    }
}
