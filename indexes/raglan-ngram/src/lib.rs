//! N-grams: which runs of tokens stand in the corpus, how often, and where?
//!
//! [`write_segment`] sorts the suffixes of a batch of chunks, [`NgramIndex`] searches many such segments as one. An n-gram
//! is followed from token to token by its [`Occurrences`], so that a language model can be held to what the corpus says:
//! [`NgramIndex::generate`] is the constrained beam search of SEAL (Bevilacqua et al. 2022), and [`NgramIndex::rank`] its
//! scores of chunks. Without a model, [`question_ngrams`] gives the question's own n-grams. [`NgramIndex::quotations`]
//! finds what a text says word for word as the corpus does.
//!
//! ```
//! use raglan_core::{ChunkId, ChunkSet};
//! use raglan_ngram::{NgramIndex, SealScoring, question_ngrams, write_segment};
//!
//! let folder = tempfile::tempdir()?;
//! write_segment(folder.path(), &[ChunkId(4), ChunkId(9)], &[vec![1, 2, 3, 4], vec![2, 3, 5, 6, 7]])?;
//! let index = NgramIndex::open(&[folder.path().to_path_buf()], &ChunkSet::new())?;
//!
//! let pair = index.find(&[2, 3]);
//! assert_eq!(pair.count(), 2);
//! let next: Vec<u32> = index.next_tokens(&pair).into_iter().map(|(token, _)| token).collect();
//! assert_eq!(next, [4, 5]);
//!
//! let keys = question_ngrams(&[3, 5], 3, &|_| true);
//! let scoring = SealScoring { smoothing: 0.5, ..SealScoring::default() }; // 5 is for corpora that are not this small.
//! let ranking = index.rank(&keys, &[], &scoring, 10, None)?;
//! assert_eq!(ranking.ids()[0], ChunkId(9));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod beam_search;
mod error;
mod index;
mod quotation;
mod seal;
mod segment;
mod suffix_array;
#[cfg(test)]
mod tests;

pub use beam_search::{BeamSearch, Generated, NextTokens};
pub use error::{Error, Result};
pub use index::{NgramIndex, Occurrences, Place};
pub use quotation::Quotation;
pub use seal::{Key, SealScoring, question_ngrams};
pub use segment::write_segment;
