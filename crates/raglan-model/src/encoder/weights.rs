//! An encoder's weights by name.

use crate::encoder::LayerNorm;
use crate::linear::Linear;
use crate::{EncoderFamily, EncoderModelConfig, Error, Products, Result, SafetensorsFile};

/// The tensors of a file, as an encoder or one of its heads asks for them.
pub(crate) struct Weights<'f> {
    file: &'f SafetensorsFile,
    config: &'f EncoderModelConfig,
    /// What the names begin with.
    prefix: &'static str,
}

impl<'f> Weights<'f> {
    /// The tensors of the model without heads, whose names begin with the family's when there are heads.
    pub fn of_model(file: &'f SafetensorsFile, config: &'f EncoderModelConfig) -> Self {
        let prefix = match config.family {
            EncoderFamily::Bert => "bert.",
            EncoderFamily::Roberta => "roberta.",
            EncoderFamily::DistilBert => "distilbert.",
            EncoderFamily::ModernBert => "model.",
        };
        let bare = Self::of_head(file, config);
        let prefixed = Self { prefix, ..bare };
        if prefixed.contains(prefixed.words()) { prefixed } else { bare }
    }

    /// The tensors of a head.
    pub fn of_head(file: &'f SafetensorsFile, config: &'f EncoderModelConfig) -> Self {
        Self { file, config, prefix: "" }
    }

    /// The name of the words' embeddings.
    pub fn words(&self) -> &'static str {
        match self.config.family {
            EncoderFamily::ModernBert => "embeddings.tok_embeddings.weight",
            _ => "embeddings.word_embeddings.weight",
        }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// The shape of a tensor, if it is there.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file.tensors().get(&format!("{}{name}", self.prefix)).map(|tensor| &*tensor.shape)
    }

    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        self.file.tensor_f32(&format!("{}{name}", self.prefix), shape)
    }

    /// Linear maps of one input side by side, as one.
    pub fn linear(&self, names: &[String], inputs: usize, outputs: usize, products: Products) -> Result<Linear> {
        let (weights, bias) = self.numbers(names, inputs, outputs)?;
        Linear::new(&weights, bias, inputs, products)
    }

    /// The weights of linear maps side by side, `[names.len() · outputs, inputs]`, and their bias.
    pub fn numbers(&self, names: &[String], inputs: usize, outputs: usize) -> Result<(Vec<f32>, Option<Vec<f32>>)> {
        let weights = names.iter().map(|name| self.tensor(&format!("{name}.weight"), &[outputs, inputs]));
        let weights = weights.collect::<Result<Vec<_>>>()?.concat();
        let biases = names.iter().map(|name| self.bias(&format!("{name}.bias"), outputs));
        let biases: Option<Vec<_>> = biases.collect::<Result<Vec<_>>>()?.into_iter().collect();
        Ok((weights, biases.map(|biases| biases.concat())))
    }

    pub fn layer_norm(&self, name: &str) -> Result<LayerNorm> {
        // Files from the time of the first TensorFlow checkpoints use the other two names.
        let old = self.contains(&format!("{name}.gamma"));
        let (scale, shift) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let dim = self.config.hidden_size;
        Ok(LayerNorm {
            scale: self.tensor(&format!("{name}.{scale}"), &[dim])?,
            shift: self.bias(&format!("{name}.{shift}"), dim)?.unwrap_or_else(|| vec![0.0; dim]),
            epsilon: self.config.layer_norm_eps as f32,
        })
    }

    /// A bias, which `ModernBERT`'s maps and norms usually have not.
    fn bias(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
        let absent = self.config.family == EncoderFamily::ModernBert && !self.contains(name);
        if absent { Ok(None) } else { self.tensor(name, &[n]).map(Some) }
    }

    pub fn malformed(&self, problem: String) -> Error {
        Error::Malformed { path: self.file.path().to_owned(), problem }
    }
}
