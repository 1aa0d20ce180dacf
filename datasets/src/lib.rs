//! Readers of evaluation collections: BEIR folders, TREC topics, judgements and runs, KILT, FRAMES, chunk references.
//!
//! Numbers of different systems compare only when all of them saw the same documents, the same queries and the same
//! judgements. These readers take the layouts in which the field shares those, refuse what is malformed with the file
//! and the line, and open `name`, `name.gz` or `name.zst`, whichever is there.
//!
//! - [`beir::read`] gives a [`Collection`]: documents, queries and judgements.
//! - [`Qrels`] are judgements: for each query, the grades of the documents someone looked at.
//! - [`Run`] is what a system retrieved: for each query, a [`DocumentRanking`] in `trec_eval`'s order.
//! - [`trec_topics::read`], [`kilt::read`] and [`frames::read`] give questions, with answers and sources where there are
//!   any.
//! - [`context_questions::read`] gives questions with the passages to answer them from, and [`planted::planted`] makes such
//!   ones.
//! - [`long_context::read`] gives questions about long texts, and [`ruler::ruler`] makes such ones.
//! - [`pages::Pages`] gives the pages and redirects of an encyclopedia's dump, one at a time, and [`zim::ZimPages`] those of
//!   a ZIM file, with pages in HTML.
//! - [`chunking::read`] gives documents and questions with the byte ranges of the passages that answer them.
//!
//! ```
//! use raglan_datasets::{Qrels, Run};
//!
//! let mut qrels = Qrels::default();
//! qrels.insert("q1", "d7", 2);
//! assert!(qrels.contains_query("q1"));
//!
//! let mut run = Run::default();
//! run.insert("q1", "d3", 0.5);
//! run.insert("q1", "d7", 0.9);
//! assert!(run.ranking("q1").iter().eq([("d7", 0.9), ("d3", 0.5)]));
//! ```
#![forbid(unsafe_code)]

pub mod beir;
mod blocks;
pub mod chunking;
mod columns;
pub mod context_questions;
pub mod download;
mod draws;
mod error;
pub mod frames;
pub mod kilt;
mod lines;
pub mod long_context;
pub mod pages;
pub mod planted;
mod qrels;
pub mod ruler;
mod run;
pub mod trec_topics;
mod wikitext;
pub mod zim;

pub use beir::{Collection, Document, Query};
pub use context_questions::{ContextPassage, ContextQuestion};
pub use draws::Draws;
pub use error::{Error, Result};
pub use long_context::LongContextItem;
pub use pages::{Page, PageEntry, PageName, PagePart, Pages, Redirect};
pub use qrels::Qrels;
pub use run::{DocumentRanking, Run};
pub use zim::{ZimPage, ZimPages};
