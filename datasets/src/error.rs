use std::path::PathBuf;

use crate::zim::ZimProblem;

/// What can be wrong with a collection.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither the file nor another form of it is there.
    #[error("`{}` is missing, also as `.gz` and `.zst`{remedy}", path.display())]
    Missing {
        /// The plain file's path.
        path: PathBuf,
        /// What is there instead or belongs there, after a semicolon; may be empty.
        remedy: String,
    },
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what the format asks for.
    #[error("`{}` line {line}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// There is no text to put sentences into.
    #[error("`{}` has no paragraph of twenty words in a text file", path.display())]
    NoText {
        /// The file or folder.
        path: PathBuf,
    },
    /// A Parquet file is damaged, or its columns are not those that are needed.
    #[error("`{}`: {problem}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the row where there is one.
        problem: String,
    },
    /// A ZIM file is damaged, or of a kind that is not read.
    #[error("`{}`: {problem}", path.display())]
    Zim {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ZimProblem,
    },
    /// A collection that is not published.
    #[error("no collection `{name}` can be downloaded; there are {known}; `--path` takes a folder of one's own")]
    UnknownName {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A download that did not succeed.
    #[error("`{url}`: {problem}")]
    Download {
        /// The address.
        url: String,
        /// What went wrong.
        problem: String,
    },
    /// An id cannot stand in a TREC file, whose fields are separated by white space.
    #[error("`{}`: id `{id}` is empty or holds white space, which TREC files cannot express", path.display())]
    Id {
        /// The file that was to be written.
        path: PathBuf,
        /// The id.
        id: String,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
