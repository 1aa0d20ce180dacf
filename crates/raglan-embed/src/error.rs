//! What can go wrong with an encoder.

use std::path::PathBuf;

use crate::Pooling;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to load an encoder or to encode a text.
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
    /// A file is not sound.
    #[error("`{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file asks for what cannot be done.
    #[error("`{}` is not supported: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What cannot be done.
        what: String,
    },
    /// A passage has more tokens than the encoder reads; nothing of a passage is cut off silently.
    #[error("passage {passage} has {tokens} tokens with the special ones, and the encoder reads {limit}")]
    TooLong {
        /// The passage's place in the batch.
        passage: usize,
        /// How many tokens it has, with the special ones and the prefix.
        tokens: usize,
        /// How many the encoder reads.
        limit: usize,
    },
    /// There is no room for text behind what stands before it.
    #[error("{before} tokens stand before a text, which leaves no room for it in the {limit} that the encoder reads")]
    NoRoom {
        /// How many tokens stand there.
        before: usize,
        /// How many the encoder reads.
        limit: usize,
    },
    /// Chunks of a text are to be pooled, and the encoder's pooling is not the mean.
    #[error("chunks of one text are pooled by the mean of their tokens, and the model was trained for `{pooling}`")]
    NotMean {
        /// The model's.
        pooling: Pooling,
    },
    /// Chunks of a text are to be pooled, and the model gives only vectors that are pooled.
    #[error("the model gives one vector a text, and none of its tokens")]
    NoTokenVectors,
    /// A chunk of a text that none of its tokens begins in.
    #[error("chunk {chunk} of the text has no token")]
    NoTokens {
        /// The chunk's place among the others.
        chunk: usize,
    },
    /// A model in ONNX, or the library that runs it.
    #[error(transparent)]
    Onnx(#[from] raglan_onnx::Error),
    /// A worker cannot be started.
    #[error("no thread for the encoder: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The model's files are not sound, or its forward failed.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// A vector is not one.
    #[error(transparent)]
    Vector(raglan_core::Error),
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("encoder", error)
    }
}
