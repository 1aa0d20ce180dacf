//! What can go wrong while a model helps searching.

use std::path::PathBuf;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of an augmentation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
    /// A role that was asked failed.
    #[error(transparent)]
    Role(#[from] raglan_core::Error),
    /// A request that is too long for the model.
    #[error("a prompt of {needed} tokens with its answer is longer than the {limit} that the model reads")]
    NoRoom {
        /// Tokens of prompt and answer.
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
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file is not sound.
    #[error("`{}` line {line}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Role(error) => error,
            Error::Model(error) => error.into(),
            error => Self::part("augment", error),
        }
    }
}
