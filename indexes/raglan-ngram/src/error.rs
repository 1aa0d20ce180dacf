//! What can go wrong with an index of n-grams.

use std::path::Path;

/// The result of work on an index of n-grams.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of an index of n-grams.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a segment failed.
    #[error(transparent)]
    File(#[from] raglan_segment_file::Error),
    /// Chunks that come out of order.
    #[error("chunk {chunk} comes after chunk {last}, but ids must increase")]
    Order {
        /// The chunk.
        chunk: u32,
        /// The one before it.
        last: u32,
    },
    /// Texts that a segment cannot hold.
    #[error("cannot index the tokens: {problem}")]
    Tokens {
        /// What is wrong with them.
        problem: String,
    },
    /// A parameter out of its range.
    #[error("`{name}` is {value}, and must be {range}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
}

impl Error {
    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::File(raglan_segment_file::Error::damaged(path, problem))
    }
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("ngram", error)
    }
}
