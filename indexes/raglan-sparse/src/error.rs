//! What can go wrong with a sparse index.

use std::io;
use std::path::{Path, PathBuf};

/// The result of work on a sparse index.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of a sparse index.
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
    /// A segment of another version of the format.
    #[error("`{}` has format version {found}; this build reads version {expected}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version this build reads.
        expected: u32,
        /// The version of the file.
        found: u32,
    },
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
        move |source| Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn tantivy<E: Into<tantivy::TantivyError>>(path: &Path) -> impl FnOnce(E) -> Self + '_ {
        move |source| Self::Tantivy { path: path.to_owned(), source: Box::new(source.into()) }
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
        Self::part("sparse", error)
    }
}
