//! What can go wrong with a dense index.

use std::io;
use std::path::{Path, PathBuf};

/// The result of work on a dense index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a dense index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("`{}`", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what a segment's file must be.
    #[error("`{}` is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of another version of the format.
    #[error("`{}` has format version {found}; this build reads version {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version this build reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
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
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.into() }
    }
}

impl From<raglan_segment_file::Error> for Error {
    fn from(error: raglan_segment_file::Error) -> Self {
        match error {
            raglan_segment_file::Error::Io { path, source } => Self::Io { path, source },
            raglan_segment_file::Error::Damaged { path, problem } => Self::Damaged { path, problem },
            raglan_segment_file::Error::Version { path, expected, found } => Self::Version { path, expected, found },
        }
    }
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("dense", error)
    }
}
