//! What can go wrong while a question is answered in steps.

use std::path::PathBuf;

/// The result of a step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a strategy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The language model failed.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// Searching, reading or encoding failed.
    #[error(transparent)]
    Part(#[from] raglan_core::Error),
    /// A prompt that the model cannot read even without passages.
    #[error("the prompt needs {needed} tokens without any passage, and the model reads {limit}")]
    NoRoom {
        /// Tokens of the prompt and of the reply.
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
    /// Measurements that an allocation model cannot be fitted to.
    #[error("the allocation model cannot be fitted: {problem}")]
    Fit {
        /// What is wrong with them.
        problem: String,
    },
    /// A file of thoughts that is not sound.
    #[error("`{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of thoughts could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Part(error) => error,
            Error::Model(error) => error.into(),
            error => Self::part("multistep", error),
        }
    }
}
