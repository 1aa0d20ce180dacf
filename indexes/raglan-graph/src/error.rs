//! What can go wrong with a graph index.

use std::path::Path;

/// The result of work on a graph index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a graph index.
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
    /// What a segment cannot hold or be searched with.
    #[error("{what}: {problem}")]
    Invalid {
        /// What was given.
        what: &'static str,
        /// What is wrong with it.
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
        Self::part("graph", error)
    }
}
