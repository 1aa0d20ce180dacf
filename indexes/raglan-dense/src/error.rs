//! What can go wrong with a dense index.

use std::io;
use std::path::Path;

/// The result of work on a dense index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a dense index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a segment failed.
    #[error(transparent)]
    File(#[from] raglan_segment_file::Error),
    /// Vectors of another length than those of the index.
    #[error("{what} of dimension {found} in an index of dimension {expected}")]
    Dimension {
        /// Whose vectors they are.
        what: &'static str,
        /// The dimension of the index.
        expected: usize,
        /// The dimension that came.
        found: usize,
    },
    /// Vectors that an index cannot hold.
    #[error("cannot index the vectors: {problem}")]
    Vectors {
        /// What is wrong with them.
        problem: String,
    },
    /// A parameter outside of its domain.
    #[error("dense index: {problem}")]
    Config {
        /// Which, and what is wrong with it.
        problem: String,
    },
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File(raglan_segment_file::Error::Io { path: path.to_owned(), source })
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::File(raglan_segment_file::Error::damaged(path, problem))
    }
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("dense", error)
    }
}
