//! What can go wrong with keys and values.

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
    /// Keys cannot be moved.
    #[error(transparent)]
    Kernel(#[from] raglan_kernels::Error),
}
