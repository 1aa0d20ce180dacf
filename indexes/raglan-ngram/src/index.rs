//! An index over many segments.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet};

use crate::Result;
use crate::segment::Segment;

/// The n-grams of the chunks of immutable segments, counted as one index.
pub struct NgramIndex {
    segments: Vec<Segment>,
}

/// Where an n-gram stands: a range of each segment's sorted suffixes, `0..0` where it does not.
///
/// It is of the index that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrences {
    n: usize,
    rows: Vec<Range<u32>>,
}

impl Occurrences {
    /// How many tokens the n-gram has.
    pub fn n(&self) -> usize {
        self.n
    }

    /// How often it stands in live chunks; the empty n-gram stands before each token.
    pub fn count(&self) -> u64 {
        self.rows.iter().map(|rows| u64::from(rows.end - rows.start)).sum()
    }
}

/// Where in the corpus an n-gram stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The chunk.
    pub chunk: ChunkId,
    /// The first of its tokens, counted from the chunk's.
    pub start: u32,
}

impl NgramIndex {
    /// Opens the segments in these folders, without the deleted chunks.
    ///
    /// All of each file is read once. Where chunks are deleted, the suffixes of their segment are copied into memory.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) when a file cannot be used.
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet) -> Result<Self> {
        let segments = segments.iter().map(|folder| Segment::open(folder, deleted)).collect::<Result<_>>()?;
        Ok(Self { segments })
    }

    /// How many tokens live chunks have.
    pub fn n_tokens(&self) -> u64 {
        self.segments.iter().map(|segment| segment.n_tokens() as u64).sum()
    }

    /// The live chunks, increasing.
    pub fn chunks(&self) -> Vec<ChunkId> {
        let ids = |segment: &Segment| segment.live_ids().iter().copied().map(ChunkId).collect::<Vec<_>>();
        let mut chunks: Vec<ChunkId> = self.segments.iter().flat_map(ids).collect();
        chunks.sort_unstable();
        chunks
    }

    /// The tokens of a live chunk.
    pub fn tokens(&self, chunk: ChunkId) -> Option<&[u32]> {
        self.segments.iter().find_map(|segment| segment.tokens(chunk))
    }

    /// The empty n-gram, with which every other begins.
    pub fn empty(&self) -> Occurrences {
        Occurrences { n: 0, rows: self.segments.iter().map(|segment| 0..segment.n_tokens() as u32).collect() }
    }

    /// An n-gram.
    pub fn find(&self, ngram: &[u32]) -> Occurrences {
        ngram.iter().fold(self.empty(), |found, &token| self.extended(&found, token))
    }

    /// An n-gram and one token behind it.
    pub fn extended(&self, ngram: &Occurrences, token: u32) -> Occurrences {
        let narrowed = |(segment, rows): (&Segment, &Range<u32>)| segment.narrowed(rows, ngram.n, token);
        Occurrences { n: ngram.n + 1, rows: self.segments.iter().zip(&ngram.rows).map(narrowed).collect() }
    }

    /// The tokens that stand behind an n-gram, increasing, each with the n-gram that it makes.
    pub fn next_tokens(&self, ngram: &Occurrences) -> Vec<(u32, Occurrences)> {
        let mut next: BTreeMap<u32, Vec<Range<u32>>> = BTreeMap::new();
        for (i, (segment, rows)) in self.segments.iter().zip(&ngram.rows).enumerate() {
            for (token, rows) in segment.next_tokens(rows, ngram.n) {
                next.entry(token).or_insert_with(|| vec![0..0; self.segments.len()])[i] = rows;
            }
        }
        next.into_iter().map(|(token, rows)| (token, Occurrences { n: ngram.n + 1, rows })).collect()
    }

    /// Where an n-gram stands, in no order.
    pub fn places(&self, ngram: &Occurrences) -> impl Iterator<Item = Place> {
        self.segments.iter().zip(ngram.rows.clone()).flat_map(|(segment, rows)| {
            rows.map(|row| {
                let (chunk, start) = segment.place(row);
                Place { chunk, start }
            })
        })
    }
}
