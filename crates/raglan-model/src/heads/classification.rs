//! The classification head: scores of a whole text or of a pair, as a cross-encoder gives them.

use raglan_kernels::{Output, activate, mean_pool};

use crate::encoder::{LayerNorm, Weights};
use crate::linear::Linear;
use crate::{EncoderFamily, EncoderModelConfig, Error, HiddenStates, Products, Result, SafetensorsFile};

/// A linear map of a text's vector, a nonlinearity, and the classes' linear map: one logit a class and text.
///
/// The text's vector is that of its first token; in `ModernBERT` it may be the mean of all.
#[derive(Debug)]
pub struct ClassificationHead {
    dense: Linear,
    nonlinearity: Nonlinearity,
    /// Behind the nonlinearity, in `ModernBERT`.
    norm: Option<LayerNorm>,
    classes: Linear,
    reads_mean: bool,
    hidden_size: usize,
    n_classes: usize,
}

#[derive(Clone, Copy, Debug)]
enum Nonlinearity {
    Tanh,
    Of(raglan_kernels::Activation),
}

/// More than any ranking or classification has.
const MAX_CLASSES: usize = 1 << 16;

impl ClassificationHead {
    /// Reads the head of a sequence classification model's file, under the names of the model's family:
    /// `bert.pooler.dense` and `classifier` (BERT), `classifier.dense` and `classifier.out_proj` (RoBERTa),
    /// `pre_classifier` and `classifier` (DistilBERT), or `head` and `classifier` (`ModernBERT`).
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read; [`Error::Malformed`] when a tensor is not there, is of another shape than
    /// `config` says or holds something that is not a finite number.
    pub fn from_safetensors(file: &SafetensorsFile, config: &EncoderModelConfig, products: Products) -> Result<Self> {
        let head = Weights::of_head(file, config);
        let model = Weights::of_model(file, config);
        let activation = raglan_kernels::Activation::from(config.hidden_act);
        let (from, dense, nonlinearity, classes) = match config.family {
            EncoderFamily::Bert => (&model, "pooler.dense", Nonlinearity::Tanh, "classifier"),
            EncoderFamily::Roberta => (&head, "classifier.dense", Nonlinearity::Tanh, "classifier.out_proj"),
            EncoderFamily::DistilBert => {
                (&head, "pre_classifier", Nonlinearity::Of(raglan_kernels::Activation::Relu), "classifier")
            }
            EncoderFamily::ModernBert => (&head, "head.dense", Nonlinearity::Of(activation), "classifier"),
        };
        let hidden_size = config.hidden_size;
        let n_classes = match head.shape(&format!("{classes}.weight")) {
            Some(&[n, _]) if (1..=MAX_CLASSES).contains(&n) => n,
            found => return Err(head.malformed(format!("no classes: `{classes}.weight` has shape {found:?}"))),
        };
        let modern = config.family == EncoderFamily::ModernBert;
        Ok(Self {
            dense: from.linear(&[dense.to_owned()], hidden_size, hidden_size, products)?,
            nonlinearity,
            norm: modern.then(|| head.layer_norm("head.norm")).transpose()?,
            classes: head.linear(&[classes.to_owned()], hidden_size, n_classes, products)?,
            reads_mean: modern && config.classifier_reads_mean,
            hidden_size,
            n_classes,
        })
    }

    /// How many classes there are; a cross-encoder has one.
    pub fn n_classes(&self) -> usize {
        self.n_classes
    }

    /// The classes' logits for each sequence, `[n_sequences, n_classes]`: neither softmax nor sigmoid is applied.
    ///
    /// A sequence's logits do not depend on the other sequences, to the bit.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] when the hidden states are of another model, or a sequence is empty.
    pub fn logits(&self, hidden: &HiddenStates) -> Result<Vec<f32>> {
        let dim = self.hidden_size;
        if hidden.dim() != dim {
            return Err(Error::Rows { problem: "the hidden states are not of the head's model" });
        }
        if hidden.sequences().any(<[f32]>::is_empty) {
            return Err(Error::Rows { problem: "a sequence to classify has no tokens" });
        }
        let mut texts = vec![0.0; hidden.ends().len() * dim];
        if self.reads_mean {
            mean_pool(hidden.rows(), hidden.ends(), dim, &mut texts)?;
        } else {
            for (text, tokens) in texts.chunks_exact_mut(dim).zip(hidden.sequences()) {
                text.copy_from_slice(&tokens[..dim]);
            }
        }
        self.logits_of_vectors(&texts)
    }

    /// Whether a text's vector is the mean of those of its tokens, and not that of the first.
    pub fn reads_mean(&self) -> bool {
        self.reads_mean
    }

    /// The classes' logits of texts' vectors, `[n_texts, hidden_size]`, for each as [`logits`](Self::logits) gives them.
    ///
    /// # Errors
    ///
    /// [`Error::Rows`] when they are no whole vectors of the head's model.
    pub fn logits_of_vectors(&self, texts: &[f32]) -> Result<Vec<f32>> {
        if !texts.len().is_multiple_of(self.hidden_size) {
            return Err(Error::Rows { problem: "the vectors are not of the head's model" });
        }
        let mut middle = vec![0.0; texts.len()];
        self.dense.apply(texts, Output::Replace, &mut middle)?;
        match self.nonlinearity {
            Nonlinearity::Tanh => middle.iter_mut().for_each(|x| *x = x.tanh()),
            Nonlinearity::Of(activation) => activate(&mut middle, activation),
        }
        if let Some(norm) = &self.norm {
            norm.apply(&mut middle)?;
        }
        let mut logits = vec![0.0; texts.len() / self.hidden_size * self.n_classes];
        self.classes.apply(&middle, Output::Replace, &mut logits)?;
        Ok(logits)
    }
}
