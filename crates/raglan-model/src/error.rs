//! What can go wrong with a model's files and its forward.

use std::path::{Path, PathBuf};

use crate::ContextExtension;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to load or run a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A model file is not sound.
    #[error("`{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A model file may be sound, and holds what cannot be run.
    #[error("`{}` is not supported: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What cannot be run.
        what: String,
    },
    /// A text cannot be turned into tokens, or tokens into text.
    #[error("tokenizer: {problem}")]
    Tokenizer {
        /// What went wrong.
        problem: String,
    },
    /// A text is longer than the model can read.
    #[error(
        "a text of {tokens} tokens is longer than the model's context of {limit}; shorten it, or have the context \
         extended (the setting `rope-scaling`, such as yarn=2)"
    )]
    ContextOverflow {
        /// The text's length.
        tokens: usize,
        /// The model's context.
        limit: usize,
    },
    /// A model's context cannot be extended.
    #[error("`rope-scaling` = `{extension}`: {problem}")]
    Extension {
        /// How it was to be.
        extension: ContextExtension,
        /// Why it cannot.
        problem: String,
    },
    /// A token id that is not in the vocabulary.
    #[error("token {id} is not in the model's vocabulary")]
    UnknownToken {
        /// The id.
        id: u32,
    },
    /// There is nothing to read.
    #[error("a prompt must have at least one token")]
    EmptyPrompt,
    /// Rows of a forward that do not fit together.
    #[error("{problem}")]
    Rows {
        /// What does not fit.
        problem: &'static str,
    },
    /// A language model on a device is asked for what only one on the processor does.
    #[error(
        "a language model on a CUDA device does not serve {what}; for that, let it compute on the processor (the setting \
         `generator-device`)"
    )]
    NotOnDevice {
        /// What it is asked for.
        what: &'static str,
    },
    /// What an encoder computes on a device left the range of half precision.
    #[error(
        "the encoder's numbers leave the range of half precision, in which a CUDA device computes; let it compute on the \
         processor (the setting `device`)"
    )]
    BeyondHalves,
    /// Keys and values cannot be kept, or not so.
    #[error(transparent)]
    Kv(#[from] raglan_kv::Error),
    /// The model's scores are not numbers, as with damaged weights.
    #[error("{}the model's scores are not numbers; its weights are probably damaged", place(path.as_deref()))]
    NotFinite {
        /// The file of the weights, where it is known.
        path: Option<PathBuf>,
    },
    /// The chat template does not write a turn once and as it is.
    #[error("{}the model's chat template does not write the user's turn once and unchanged", place(path.as_deref()))]
    ChatFrame {
        /// The model's file or folder, if the template is from one.
        path: Option<PathBuf>,
    },
    /// A chat template is not sound, or refuses the conversation.
    #[error("{}chat template: {source:#}", place(path.as_deref()))]
    Template {
        /// The model's file or folder, if it is from one.
        path: Option<PathBuf>,
        /// What is wrong with it.
        source: minijinja::Error,
    },
    /// The work was given up because its caller asked for that.
    #[error("interrupted")]
    Interrupted,
    /// A tensor operation failed.
    #[error("tensor operation: {source}")]
    Tensor {
        /// What the library of tensors said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A product of vectors failed.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
}

/// Where something is wrong, as the beginning of a message.
fn place(path: Option<&Path>) -> String {
    path.map(|path| format!("`{}`: ", path.display())).unwrap_or_default()
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Interrupted => Self::Interrupted,
            error => Self::part("model", error),
        }
    }
}

impl Error {
    /// The same error, which names the file of a model's weights where they are to blame.
    #[must_use]
    pub fn of_weights(self, file: &Path) -> Self {
        match self {
            Self::NotFinite { path: None } => Self::NotFinite { path: Some(file.to_owned()) },
            error => error,
        }
    }

    /// Wraps what candle says.
    pub(crate) fn tensor(source: candle_core::Error) -> Self {
        Self::Tensor { source: Box::new(source) }
    }
}
