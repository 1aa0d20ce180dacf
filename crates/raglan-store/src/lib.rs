//! The index folder: what is on disk, whole at every moment.
//!
//! An index is a folder of files that belong together, and everything that can go wrong with files does: the power
//! fails between two of them, a disk flips a bit, two processes write at once, someone searches with another model
//! than the one that made the vectors. This crate keeps the folder such that a reader sees one complete generation
//! or an error that names the file, and nothing else.
//!
//! - A [`Snapshot`] is one generation, read only: passport, ledger, chunks, and the checked folders of its segments'
//!   parts, which other crates read.
//! - A [`Writer`] holds the lock and makes the next generation, out of [`SegmentDraft`]s and a [`Ledger`], by a
//!   [`Commit`].
//! - A [`Passport`] says what models and parameters the index was made with, and refuses others.
//! - [`verify()`] checks everything; [`merge_plan`] says which segments to merge.
//!
//! ```
//! use raglan_core::{Chunk, ChunkSet, ChunkStore, ContentHash, Document, Format, Locator};
//! use raglan_store::{Commit, Passport, Snapshot, Writer};
//!
//! # let temporary = tempfile::tempdir()?;
//! # let folder = temporary.path().join("index");
//! let mut writer = Writer::open_or_create(&folder, Passport::default())?;
//! let (doc, id) = (writer.next_doc_id(), writer.next_chunk_id());
//! let text = "Nothing is ever changed in place.";
//! let mut segment = writer.new_segment()?;
//! segment.write_chunks(&[Chunk {
//!     id,
//!     doc,
//!     span: 0..text.len(),
//!     text: text.to_owned(),
//!     locator: Locator::default(),
//!     n_tokens: 6,
//! }])?;
//! std::fs::write(segment.part_dir("bm25")?.join("postings"), b"any other crate's bytes")?;
//! let mut ledger = writer.snapshot().ledger()?.clone();
//! ledger.insert_document(
//!     Document {
//!         id: doc,
//!         path: "notes.txt".to_owned(),
//!         hash: ContentHash([7; 32]),
//!         size: text.len() as u64,
//!         mtime_ns: 0,
//!         format: Format::PlainText,
//!         reader: "text/1".to_owned(),
//!         encoding: None,
//!         title: None,
//!         metadata: Default::default(),
//!     },
//!     1,
//! );
//! writer.commit(Commit { add: vec![segment], drop: vec![], delete: ChunkSet::new(), ledger })?;
//!
//! let snapshot = Snapshot::open(&folder)?;
//! assert_eq!(snapshot.chunks(&[id])?[0].text, text);
//! assert!(snapshot.segment_dir(snapshot.segments()[0].id, "bm25")?.join("postings").exists());
//! assert!(snapshot.verify().is_clean());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The folder
//!
//! ```text
//! manifest.json              names everything below with length and checksum; its first line checks itself
//! ledger-<generation>.parquet
//! tombstones-<generation>.bin
//! segments/<id>/chunks.parquet, chunks.blocks
//! segments/<id>/<part>/…     bm25, dense, …: opaque here
//! writer.lock                who is writing
//! ```
//!
//! A commit writes all new files, syncs them and their folders, writes the manifest under another name, syncs it,
//! renames it, and syncs the folder. Until the rename there is the old generation, from then on the new one. Nothing
//! that a manifest names is changed afterwards, and names are not used again, so a reader of the old generation reads
//! on; its files stay until the commit after, and [`Writer::gc`] then removes them. What a writer that was killed left
//! behind is named by no manifest, and the next writer removes it.
//!
//! # Choices
//!
//! - **Blocks with checksums instead of a checked and mapped chunk table.** A checksum over a whole table must read
//!   all of it before the first row can be trusted, and what is mapped can change, or be cut off under the reader and
//!   end the process, after it was checked. So `chunks.blocks` has a checksum of each 16 KiB of `chunks.parquet`, and
//!   a read checks the blocks it needs, in the buffer that is then decoded: ten chunks of a million cost ten pages,
//!   cold or warm, and there is no `unsafe` in this crate. Parts are opaque and are checked whole, when first asked
//!   for.
//! - **A segment's sub-indexes are committed by our manifest, not by their own.** Each part of a segment is complete
//!   and closed before the commit and never opened for writing again, so a part's own commit protocol has nothing to
//!   say: the only question is whether our manifest names it.
//! - **The lock is the operating system's**, on the open file: it dies with its process, and needs no time-outs.
//! - **A commit checks itself**: no chunk id twice or again, and the ledger's number of chunks for every document is
//!   the number that can be found. What this costs is a pass over two columns of integers.
//! - **Segments that have no live chunk are dropped by the commit** that deletes the last one.
#![forbid(unsafe_code)]

mod block_file;
mod chunk_table;
mod error;
mod files;
mod garbage;
mod ledger;
mod ledger_file;
mod lock;
mod manifest;
mod merge;
mod passport;
mod segment;
mod snapshot;
mod verify;
mod writer;

pub use chunk_table::{TextHash, text_hash};
pub use error::{Error, Result};
pub use files::FileEntry;
pub use garbage::{GcReport, remove_index};
pub use ledger::{Ledger, LedgerEntry, Skipped};
pub use lock::LockHolder;
pub use manifest::{FORMAT_VERSION, SegmentEntry, SegmentId};
pub use merge::merge_plan;
pub use passport::{Difference, ModelStamp, Passport};
pub use snapshot::Snapshot;
pub use verify::{Problem, VerifyReport, verify};
pub use writer::{Commit, SegmentDraft, Writer};
