//! What can go wrong with keys and values.

use std::path::PathBuf;

use crate::KvShape;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to keep keys and values, or to find them as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no room for more keys and values.
    #[error(
        "keys and values need {needed} bytes more, and {left} of the {budget} set aside for them are left: raise that \
         budget, shorten the texts, or run fewer at once"
    )]
    ArenaSpent {
        /// Bytes that were asked for.
        needed: usize,
        /// Bytes that are left.
        left: usize,
        /// Bytes that there are in all.
        budget: usize,
    },
    /// Slots or positions that do not fit what is there.
    #[error("{problem}")]
    Slots {
        /// What does not fit.
        problem: &'static str,
    },
    /// A block is of a model of another shape.
    #[error("a block has {found}, and the cache {expected}")]
    Shape {
        /// The cache's.
        expected: KvShape,
        /// The block's.
        found: KvShape,
    },
    /// A file cannot be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of keys and values is not sound.
    #[error("`{}`: {problem}; it can be deleted, and is made anew when it is needed", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Keys cannot be moved.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
}

impl Error {
    /// Names the file that could not be read or written.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
