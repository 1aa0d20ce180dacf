//! What can go wrong with an index folder.

use std::io;
use std::path::{Path, PathBuf};

use crate::{LockHolder, SegmentId};

/// The result of work on an index folder.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The folder holds no index.
    #[error("`{}` is not an index: it has no `manifest.json`; make one with `raglan index FOLDER`", path.display())]
    NotAnIndex {
        /// The folder.
        path: PathBuf,
    },
    /// The folder holds something else, so no index is made in it.
    #[error("`{}` is neither an index nor empty: it has `{found}`", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// Another writer is at work.
    #[error("`{}` is being written by {holder}; wait for it to end", path.display())]
    Locked {
        /// The index folder.
        path: PathBuf,
        /// Who holds the lock.
        holder: LockHolder,
    },
    /// The index was made with other models or parameters than those wanted.
    #[error(
        "`{}` was made with another {what}: it has {index_has}, wanted {wanted}; leave the settings that ask for \
         this away, or make the index anew by adding them to `raglan index --rebuild FOLDER`",
        path.display()
    )]
    PassportMismatch {
        /// The index folder.
        path: PathBuf,
        /// What differs.
        what: String,
        /// What the index was made with.
        index_has: String,
        /// What was asked for.
        wanted: String,
    },
    /// A file is not what the manifest says it is.
    #[error(
        "`{}` is damaged: {problem}; `raglan verify` looks at the whole index, `raglan index --rebuild FOLDER` makes it anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The index was written by a newer raglan.
    #[error("`{}` has format version {found}, this raglan reads up to {supported}: use a newer raglan", path.display())]
    NewerFormat {
        /// The manifest.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version that can be read.
        supported: u32,
    },
    /// A file of this generation was removed because newer ones have taken its place.
    #[error(
        "`{}` is gone: generation {generation} was superseded by {current}; open the index again",
        path.display()
    )]
    Superseded {
        /// The file.
        path: PathBuf,
        /// The generation that was being read.
        generation: u64,
        /// The generation the folder is at.
        current: u64,
    },
    /// There is no such segment in this generation.
    #[error("no segment {id} in this generation")]
    NoSegment {
        /// The id.
        id: SegmentId,
    },
    /// A segment has no part of that name.
    #[error("segment {segment} has no part `{part}`")]
    NoPart {
        /// The segment.
        segment: SegmentId,
        /// The part.
        part: String,
    },
    /// What was to be committed contradicts itself or the index.
    #[error("cannot be committed: {problem}")]
    Inconsistent {
        /// The contradiction.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("store", error)
    }
}

impl Error {
    /// A file that is not what the manifest says.
    pub(crate) fn damaged(path: &Path, problem: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), problem: problem.to_string() }
    }

    /// A commit that contradicts itself.
    pub(crate) fn inconsistent(problem: impl Into<String>) -> Self {
        Self::Inconsistent { problem: problem.into() }
    }
}

/// Names the file in an operating-system error.
pub(crate) trait AtPath<T> {
    /// Says what was being done to which path.
    fn at(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> AtPath<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source })
    }
}
