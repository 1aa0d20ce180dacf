//! A segment that is open.

use std::path::Path;
use std::sync::Arc;

use half::f16;
use raglan_core::{ChunkId, ChunkSet, TokenMatrix};
use raglan_kernels::{CentroidProducts, PackedMatrix, ResidualQuery, max_sim, max_sim_f16};
use raglan_segment_file::CheckedParts;

use crate::codebook::Codebook;
use crate::files::{Resident, open_tokens, read_late};
use crate::{Error, Result, TokenStorage};

/// A segment that is open for searching.
pub struct Segment {
    resident: Resident,
    tokens: CheckedParts,
    /// The rows of chunks that are not deleted.
    live: Vec<bool>,
}

/// Memory for the tokens of a document, kept from one to the next.
#[derive(Default)]
pub struct Scratch {
    halves: Vec<u16>,
    rows: Vec<f32>,
}

impl Segment {
    /// Opens the segment in `folder`.
    pub fn open(folder: &Path, deleted: &ChunkSet) -> Result<Self> {
        let mut resident = read_late(folder)?;
        let tokens = open_tokens(folder, &mut resident)?;
        let live = resident.ids.iter().map(|id| !deleted.contains(*id)).collect();
        Ok(Self { resident, tokens, live })
    }

    /// What the tokens are coded by.
    pub fn codebook(&self) -> &Arc<Codebook> {
        &self.resident.codebook
    }

    /// Takes an equal codebook, which other segments hold too.
    pub fn share(&mut self, codebook: &Arc<Codebook>) {
        assert_eq!(codebook.key, self.codebook().key, "the codebooks are equal");
        self.resident.codebook = Arc::clone(codebook);
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.resident.codebook.dim
    }

    /// The ids of the rows, increasing; deleted ones too.
    pub fn ids(&self) -> &[ChunkId] {
        &self.resident.ids
    }

    /// Whether the row's chunk is not deleted.
    pub fn is_live(&self, row: u32) -> bool {
        self.live[row as usize]
    }

    /// The rows that are not deleted.
    pub fn live_rows(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.ids().len() as u32).filter(|&row| self.is_live(row))
    }

    /// The centroids of a row's tokens.
    pub fn codes(&self, row: u32) -> &[u16] {
        let row = row as usize;
        &self.resident.codes[self.resident.starts[row] as usize..self.resident.starts[row + 1] as usize]
    }

    /// The rows that have a token of this centroid.
    pub fn posting(&self, centroid: usize) -> &[u32] {
        self.resident.posting(centroid)
    }

    /// How many tokens there are.
    pub fn n_tokens(&self) -> usize {
        self.resident.codes.len()
    }

    /// The score of a row for a query, from its stored tokens.
    pub fn score(&self, query: &PackedMatrix, row: u32, scratch: &mut Scratch) -> Result<f32> {
        self.read(row, scratch)?;
        let (n_tokens, mut score) = (self.codes(row).len(), [0.0]);
        if self.codebook().storage == TokenStorage::F16 {
            max_sim_f16(query, &scratch.halves, &[n_tokens], &mut score)?;
        } else {
            max_sim(query, &scratch.rows, &[n_tokens], &mut score)?;
        }
        if score[0].is_finite() { Ok(score[0]) } else { Err(self.not_finite()) }
    }

    /// Nearly the score of a row, from the codes of those tokens that may matter.
    pub fn score_codes(&self, query: &ResidualQuery, products: CentroidProducts<'_>, row: u32) -> Result<f32> {
        let score = query.score(products, self.codes(row), self.bytes(row)?)?;
        if score.is_finite() { Ok(score) } else { Err(self.not_finite()) }
    }

    /// The tokens of a row.
    pub fn tokens(&self, row: u32, scratch: &mut Scratch) -> Result<TokenMatrix> {
        self.read(row, scratch)?;
        let rows = match self.codebook().storage {
            TokenStorage::F16 => scratch.halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect(),
            _ => scratch.rows.clone(),
        };
        TokenMatrix::new(self.dim(), rows).map_err(|_| self.not_finite())
    }

    /// That what was read is no vectors.
    pub fn not_finite(&self) -> Error {
        Error::damaged(self.tokens.file().path(), "a document's tokens are not finite")
    }

    /// The bytes of a row's tokens.
    pub fn bytes(&self, row: u32) -> Result<&[u8]> {
        Ok(self.tokens.part(row as usize)?)
    }

    /// Reads a row's tokens, as halves or as `f32` rows.
    fn read(&self, row: u32, scratch: &mut Scratch) -> Result<()> {
        let (bytes, codebook, codes) = (self.bytes(row)?, self.codebook(), self.codes(row));
        if codebook.storage == TokenStorage::F16 {
            scratch.halves.clear();
            scratch.halves.extend(bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)));
            return Ok(());
        }
        let token_bytes = codebook.storage.token_bytes(codebook.dim);
        scratch.rows.resize(codes.len() * codebook.dim, 0.0);
        let tokens = scratch.rows.chunks_exact_mut(codebook.dim).zip(bytes.chunks_exact(token_bytes));
        for ((row, bytes), &centroid) in tokens.zip(codes) {
            codebook.decode(centroid, bytes, row)?;
        }
        Ok(())
    }
}
