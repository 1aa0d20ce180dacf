//! What can go wrong while passages are judged.

/// The result of judging.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a reranker.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// A model in ONNX, or the library that runs it.
    #[error(transparent)]
    Onnx(#[from] raglan_onnx::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
    /// A model that scores no pairs.
    #[error("`{model}` has no classification head, as a cross-encoder has; name a model that was trained to rerank")]
    NoHead {
        /// The model's folder.
        model: String,
    },
    /// A cross-encoder whose head gives no single score.
    #[error("`{model}` tells {n_classes} classes apart; a cross-encoder gives one score, or those of no and yes")]
    Classes {
        /// The model's folder.
        model: String,
        /// How many classes its head has.
        n_classes: usize,
    },
    /// The model's vocabulary has no tokens of their own for the labels that a prompt asks for.
    #[error("the vocabulary writes the label `{label}` in a way that one token cannot tell: use another method")]
    Labels {
        /// The first label that has none.
        label: String,
    },
    /// A prompt that fits no passage.
    #[error("a prompt needs {needed} tokens with the least of passages, and the model reads {limit}")]
    NoRoom {
        /// Tokens of the prompt.
        needed: usize,
        /// Tokens that the model reads.
        limit: usize,
    },
    /// A parameter outside of its domain.
    #[error("`{name}`: {problem}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("rerank", error)
    }
}
