//! What can go wrong with a sparse index.

use std::io;
use std::path::{Path, PathBuf};

/// The result of work on a sparse index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a sparse index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of a segment failed.
    #[error(transparent)]
    File(#[from] raglan_segment_file::Error),
    /// A segment whose terms were made by another analyzer.
    #[error("`{}` was written with the analyzer {found}, not with {expected}", path.display())]
    Analyzer {
        /// The file.
        path: PathBuf,
        /// The analyzer that was asked for.
        expected: String,
        /// The analyzer of the segment.
        found: String,
    },
    /// A segment whose impacts are of another scale.
    #[error("`{}` has impacts with the ceiling {found}, not {expected}", path.display())]
    Ceiling {
        /// The file.
        path: PathBuf,
        /// The ceiling that was asked for.
        expected: f32,
        /// The ceiling of the segment.
        found: f32,
    },
    /// Vectors that an impact index cannot hold or search for.
    #[error("cannot use the vectors: {problem}")]
    Vectors {
        /// What is wrong with them.
        problem: String,
    },
    /// A parameter outside of its domain.
    #[error("impact index: {problem}")]
    Config {
        /// Which, and what is wrong with it.
        problem: String,
    },
    /// Chunks that come out of order.
    #[error("chunk {chunk} comes after chunk {last}, but ids must increase")]
    Order {
        /// The chunk.
        chunk: u32,
        /// The one before it.
        last: u32,
    },
    /// A parameter out of its range.
    #[error("`{name}` is {value}, and must be {range}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f32,
        /// What it may be.
        range: &'static str,
    },
    /// The inverted index refused.
    #[error("`{}`", path.display())]
    Tantivy {
        /// The segment's folder.
        path: PathBuf,
        /// What tantivy said.
        source: Box<tantivy::TantivyError>,
    },
    /// A thread of the writer ended with a panic.
    #[error("a thread that was indexing panicked")]
    Panicked,
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File(raglan_segment_file::Error::Io { path: path.to_owned(), source })
    }

    pub(crate) fn tantivy<E: Into<tantivy::TantivyError>>(path: &Path) -> impl FnOnce(E) -> Self + '_ {
        move |source| Self::Tantivy { path: path.to_owned(), source: Box::new(source.into()) }
    }

    pub(crate) fn damaged(path: &Path, problem: impl Into<String>) -> Self {
        Self::File(raglan_segment_file::Error::damaged(path, problem))
    }
}

impl From<Error> for raglan_core::Error {
    fn from(error: Error) -> Self {
        Self::part("sparse", error)
    }
}
