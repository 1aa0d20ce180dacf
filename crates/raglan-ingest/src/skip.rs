//! Why a file was not read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a file that was found is not among the documents.
///
/// [`Display`](fmt::Display) gives the reason in words; serde writes it as `{"kind": {…}}`, so that it can be stored
/// and counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipReason {
    /// A FIFO, socket or device.
    NotAFile {
        /// What it is, such as `FIFO`.
        what: String,
    },
    /// A symbolic link that leads out of the folder, nowhere, or to something that is read anyway.
    Link {
        /// Where it leads.
        problem: LinkProblem,
    },
    /// An index of raglan, which holds documents that were read already.
    Index,
    /// The operating system refuses to give it: permissions, a failing disk, a file that has vanished.
    Unreadable {
        /// The system's words.
        problem: String,
    },
    /// The file, or something that it unpacks to, is above a limit.
    TooLarge {
        /// What is large, such as `file` or `extracted text`.
        what: String,
        /// The limit, in bytes unless `what` says otherwise.
        limit: u64,
    },
    /// A format that no reader knows.
    UnknownFormat {
        /// What it seems to be, such as `image/png`.
        what: String,
    },
    /// A document without text, such as a scanned PDF.
    NoText {
        /// What it has instead.
        what: String,
    },
    /// The content is encrypted.
    Encrypted,
    /// The file is not what its format asks for.
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// Reading took longer than allowed.
    TimedOut {
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// Reading needed more memory than allowed.
    OutOfMemory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The reader failed in a way that it should not have: a fault of ours or of a library.
    Crashed {
        /// What is known of it.
        problem: String,
    },
}

/// Why a symbolic link is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkProblem {
    /// Its target is not below the folder.
    Outside,
    /// Its target does not exist, or the link leads to itself.
    Broken,
    /// Its target is read under its own name.
    Duplicate,
}

impl SkipReason {
    /// The reason's kind, such as `too_large`: what skipped files are counted by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotAFile { .. } => "not_a_file",
            Self::Link { .. } => "link",
            Self::Index => "index",
            Self::Unreadable { .. } => "unreadable",
            Self::TooLarge { .. } => "too_large",
            Self::UnknownFormat { .. } => "unknown_format",
            Self::NoText { .. } => "no_text",
            Self::Encrypted => "encrypted",
            Self::Malformed { .. } => "malformed",
            Self::TimedOut { .. } => "timed_out",
            Self::OutOfMemory { .. } => "out_of_memory",
            Self::Crashed { .. } => "crashed",
        }
    }

    pub(crate) fn malformed(problem: impl fmt::Display) -> Self {
        Self::Malformed { problem: problem.to_string() }
    }

    pub(crate) fn too_large(what: &str, limit: u64) -> Self {
        Self::TooLarge { what: what.to_owned(), limit }
    }
}

impl std::error::Error for SkipReason {}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAFile { what } => write!(f, "not a file but a {what}"),
            Self::Link { problem: LinkProblem::Outside } => f.write_str("link out of the folder"),
            Self::Link { problem: LinkProblem::Broken } => f.write_str("broken link"),
            Self::Link { problem: LinkProblem::Duplicate } => f.write_str("link to what is read anyway"),
            Self::Index => f.write_str("an index of raglan, not documents"),
            Self::Unreadable { problem } => write!(f, "unreadable: {problem}"),
            Self::TooLarge { what, limit } => write!(f, "{what} above the limit of {limit}"),
            Self::UnknownFormat { what } => write!(f, "no reader for {what}"),
            Self::NoText { what } => write!(f, "no text: {what}"),
            Self::Encrypted => f.write_str("encrypted"),
            Self::Malformed { problem } => write!(f, "malformed: {problem}"),
            Self::TimedOut { limit_ms } => write!(f, "reading took longer than {} s", *limit_ms as f64 / 1e3),
            Self::OutOfMemory { limit } => write!(f, "reading needed more than {} MiB of memory", limit >> 20),
            Self::Crashed { problem } => write!(f, "the reader crashed: {problem}"),
        }
    }
}
