//! From a folder to documents that can be cut, embedded and cited.
//!
//! A folder holds files of many formats, some damaged, some hostile, and every one of them must end as text with its
//! structure or as a reason why not. Three steps do that:
//!
//! - [`walk`] finds the files of a folder, and says which it could not.
//! - [`ReaderPool::read`] turns a [`FoundFile`] into a [`ParsedDocument`](raglan_core::ParsedDocument) or a
//!   [`SkipReason`], within [`Limits`], in a process of its own where the format is risky.
//! - the chunkers in [`chunk`] cut documents into passages.
//!
//! ```
//! use raglan_ingest::{Isolation, Limits, ReaderPool, WalkOptions, walk};
//!
//! let folder = tempfile::tempdir()?;
//! std::fs::write(folder.path().join("note.md"), "# Caches\n\nA cache holds what was used last.\n")?;
//! std::fs::write(folder.path().join("noise"), [0, 159, 146, 150])?;
//!
//! let found = walk(folder.path(), &WalkOptions::default())?;
//! let pool = ReaderPool::new(Limits::default(), Isolation::InProcess, 1);
//! let read: Vec<_> = found.files.iter().map(|file| pool.read(file).outcome).collect();
//!
//! assert_eq!(read[0].as_ref().unwrap_err().to_string(), "no reader for binary content");
//! let note = read[1].as_ref().unwrap();
//! assert_eq!(note.title.as_deref(), Some("Caches"));
//! assert_eq!(&note.text[note.blocks[1].span.clone()], "A cache holds what was used last.");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod chunk;
mod encoding;
mod error;
mod file_name;
mod limits;
mod path_patterns;
mod pool;
mod read;
mod skip;
mod sniff;
mod structure;
mod walk;
#[cfg(unix)]
mod worker;

pub use encoding::source_span;
pub use error::{Error, Result};
pub use file_name::{name_of, path_of};
pub use limits::Limits;
pub use path_patterns::PathPatterns;
pub use pool::{Isolation, Read, ReaderPool};
pub use read::{read_bytes, reader_versions};
pub use skip::{LinkProblem, SkipReason};
pub use structure::check;
pub use walk::{FoundFile, INDEX_FOLDER, SkippedFile, Walk, WalkOptions, walk};
#[cfg(unix)]
pub use worker::worker_main;
