//! Sets of chunks: filters and tombstones.

use roaring::RoaringBitmap;

use crate::ChunkId;

/// A set of chunks, compressed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChunkSet(RoaringBitmap);

impl ChunkSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a chunk; says whether it was new.
    pub fn insert(&mut self, id: ChunkId) -> bool {
        self.0.insert(id.0)
    }

    /// Whether the chunk is in the set.
    pub fn contains(&self, id: ChunkId) -> bool {
        self.0.contains(id.0)
    }

    /// How many chunks are in the set.
    pub fn len(&self) -> usize {
        usize::try_from(self.0.len()).expect("at most 2^32 chunks")
    }

    /// Whether the set has no chunk.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The chunks in order of id.
    pub fn iter(&self) -> impl Iterator<Item = ChunkId> + '_ {
        self.0.iter().map(ChunkId)
    }

    /// The set as the bitmap that it is.
    pub fn bitmap(&self) -> &RoaringBitmap {
        &self.0
    }
}

impl From<RoaringBitmap> for ChunkSet {
    fn from(bitmap: RoaringBitmap) -> Self {
        Self(bitmap)
    }
}

impl FromIterator<ChunkId> for ChunkSet {
    fn from_iter<I: IntoIterator<Item = ChunkId>>(ids: I) -> Self {
        Self(ids.into_iter().map(|id| id.0).collect())
    }
}
