//! What can go wrong with the folder as a whole; what goes wrong with one file is a [`SkipReason`](crate::SkipReason).

use std::io;
use std::path::PathBuf;

/// The result of this crate's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that concerns the whole run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder cannot be walked.
    #[error("`{}`: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// An include or exclude pattern does not parse.
    #[error("pattern `{pattern}`: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The worker program cannot be started.
    #[error("cannot start the reader process `{}`: {source}", program.display())]
    Worker {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("ingest", error)
    }
}
