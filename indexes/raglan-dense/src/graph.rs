//! A navigable graph in flat arrays, and the walk through it.
//!
//! `graph.bin` is a header of 64 bytes (magic, version u32, dim u32, n u64, degree u32, n_entries u32, seed u64,
//! n_copies u64), then the centroid of the bits, dim × `f32`; the entries, u32; the copies, pairs of u32; the rows' bits;
//! and the neighbours, n × degree × u32. Each part begins at a multiple of 64 bytes.
//!
//! There is one layer. A walk begins at the best of some √n rows that were drawn at random, which leads as near as the
//! upper layers of HNSW do (Munyampirwa, Lakshman and Coleman 2024). It goes by the rows' bytes, and of a neighbour's
//! bytes only where an upper bound from its bits says that it may be worth it.

use std::cmp::Ordering;
use std::path::Path;

use raglan_kernels::{Int8Query, OneBitEncoder, OneBitQuery, one_bit_words, prefetch};
use raglan_segment_file::{ALIGNMENT, SegmentFile, after, header, write_file};

use crate::bits::Bits;
use crate::codes::Int8Rows;
use crate::{Error, Result};

pub const GRAPH_FILE: &str = "graph.bin";
const MAGIC: &[u8; 8] = b"RAGLANGR";
const VERSION: u32 = 2;

/// A walk begins at so many of the entries.
const STARTS: usize = 8;

/// Vectors of fewer dimensions are scored by their bytes alone: those are in two cache lines, and bits tell too little.
const BITS_FROM_DIM: usize = 128;

/// How many deviations of an estimate's error its upper bound is above it. A neighbour that is missed by it is most
/// often met again from another.
const MARGIN: f32 = 1.5;

/// The forms of the rows that a walk goes by.
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    /// The dimension of the vectors.
    pub dim: usize,
    /// Bytes.
    pub int8: Int8Rows<'a>,
    /// Bits, `[n, one_bit_words(dim)]`.
    pub bits: &'a [u64],
}

impl Codes<'_> {
    /// The bytes of a row, and their scale.
    pub fn row(&self, row: u32) -> (&[i8], f32) {
        let row = row as usize;
        (&self.int8.codes[row * self.dim..][..self.dim], self.int8.scales[row])
    }
}

/// Who is whose neighbour.
#[derive(Clone, Copy)]
pub struct Links<'a> {
    /// How many neighbours there is room for.
    pub degree: usize,
    /// `[n, degree]`; a row's own number ends its neighbours.
    pub neighbours: &'a [u32],
    /// Where walks begin; not empty, and from the first every row can be reached.
    pub entries: &'a [u32],
    /// Rows that equal another, which stands for them in the graph, as pairs of that one and the copy, increasing.
    pub copies: &'a [[u32; 2]],
}

impl<'a> Links<'a> {
    /// The neighbours of a row.
    #[inline]
    pub fn of(&self, row: u32) -> &'a [u32] {
        let all = &self.neighbours[row as usize * self.degree..][..self.degree];
        &all[..all.iter().position(|&other| other == row).unwrap_or(all.len())]
    }

    /// A row and its copies, increasing.
    pub fn with_copies(&self, row: u32) -> impl Iterator<Item = u32> + 'a {
        let first = self.copies.partition_point(|&[of, _]| of < row);
        let copies = self.copies[first..].iter().take_while(move |&&[of, _]| of == row);
        std::iter::once(row).chain(copies.map(|&[_, copy]| copy))
    }
}

/// A query in the forms of the rows.
pub struct WalkQuery {
    /// In bytes.
    pub int8: Int8Query,
    /// In bits.
    pub bits: OneBitQuery,
}

/// A row on the way, with its score by bytes.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The inner product with the query.
    pub score: f32,
    /// The row.
    pub row: u32,
    expanded: bool,
}

impl Step {
    /// Higher scores first, equal scores by lower row.
    fn order(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.row.cmp(&other.row))
    }
}

/// What a walk needs, kept for the next.
pub struct Walk {
    visited: Bits,
    /// The best rows met, best first.
    beam: Vec<Step>,
    fresh: Vec<u32>,
    scores: Vec<f32>,
    touched: Vec<u32>,
}

impl Walk {
    /// For graphs of `n` rows.
    pub fn new(n: usize) -> Self {
        let (beam, fresh, scores, touched) = Default::default();
        Self { visited: Bits::none(n), beam, fresh, scores, touched }
    }

    /// Up to `ef` rows that are nearest to the query, as far as the graph leads there; nearest first.
    ///
    /// None when more than `limit` rows had to be scored.
    pub fn search(
        &mut self,
        links: Links<'_>,
        codes: Codes<'_>,
        query: &WalkQuery,
        ef: usize,
        limit: usize,
    ) -> Result<Option<&[Step]>> {
        for row in self.touched.drain(..) {
            self.visited.remove(row);
        }
        self.beam.clear();
        self.start(links, codes, query, ef)?;
        let (mut at, mut n_scored) = (0, 0);
        while let Some(next) = self.beam[at..].iter().position(|step| !step.expanded) {
            at += next;
            self.beam[at].expanded = true;
            self.fresh.clear();
            for &row in links.of(self.beam[at].row) {
                if self.visited.insert(row) {
                    self.fresh.push(row);
                    self.touched.push(row);
                }
            }
            // Its neighbours are most likely wanted next.
            if let Some(step) = self.beam.get(at + 1) {
                prefetch(&links.neighbours[step.row as usize * links.degree..][..links.degree]);
            }
            let worst = if self.beam.len() < ef { f32::NEG_INFINITY } else { self.beam[ef - 1].score };
            if worst > f32::NEG_INFINITY && codes.dim >= BITS_FROM_DIM {
                self.scores.resize(self.fresh.len(), 0.0);
                query.bits.bounds_at(codes.bits, &self.fresh, MARGIN, &mut self.scores)?;
                let mut n_kept = 0;
                for i in 0..self.fresh.len() {
                    self.fresh[n_kept] = self.fresh[i];
                    n_kept += usize::from(self.scores[i] > worst);
                }
                self.fresh.truncate(n_kept);
            }
            n_scored += self.fresh.len();
            if n_scored > limit {
                return Ok(None);
            }
            at = at.min(self.score_fresh(codes, query, ef)?);
        }
        Ok(Some(&self.beam))
    }

    /// Puts the best entries onto the beam.
    fn start(&mut self, links: Links<'_>, codes: Codes<'_>, query: &WalkQuery, ef: usize) -> Result<()> {
        self.scores.resize(links.entries.len(), 0.0);
        query.bits.bounds_at(codes.bits, links.entries, 0.0, &mut self.scores)?;
        let mut best: Vec<Step> = Vec::with_capacity(STARTS + 1);
        for (&row, &score) in links.entries.iter().zip(&self.scores) {
            if best.len() < STARTS || score > best[STARTS - 1].score {
                let step = Step { score, row, expanded: false };
                let place = best.partition_point(|other| other.order(&step).is_lt());
                best.insert(place, step);
                best.truncate(STARTS);
            }
        }
        self.fresh.clear();
        for row in best.iter().map(|step| step.row).chain([links.entries[0]]) {
            if self.visited.insert(row) {
                self.fresh.push(row);
                self.touched.push(row);
            }
        }
        self.score_fresh(codes, query, ef)?;
        Ok(())
    }

    /// Scores the fresh rows by their bytes and keeps the best `ef`; returns the foremost place that changed.
    fn score_fresh(&mut self, codes: Codes<'_>, query: &WalkQuery, ef: usize) -> Result<usize> {
        self.scores.resize(self.fresh.len(), 0.0);
        query.int8.inner_products_at(codes.int8.codes, codes.int8.scales, &self.fresh, &mut self.scores)?;
        let mut foremost = usize::MAX;
        for (&row, &score) in self.fresh.iter().zip(&self.scores) {
            let step = Step { score, row, expanded: false };
            if self.beam.len() == ef {
                if self.beam[ef - 1].order(&step).is_lt() {
                    continue;
                }
                self.beam.pop();
            }
            let place = self.beam.partition_point(|other| other.order(&step).is_lt());
            self.beam.insert(place, step);
            foremost = foremost.min(place);
        }
        Ok(foremost)
    }
}

/// Writes a graph's file.
pub fn write_graph(folder: &Path, links: Links<'_>, bits: &[u64], centroid: &[f32], seed: u64) -> Result<()> {
    let n = links.neighbours.len() / links.degree;
    let mut header = header(MAGIC, VERSION, centroid.len(), n);
    header[24..28].copy_from_slice(&(links.degree as u32).to_le_bytes());
    header[28..32].copy_from_slice(&(links.entries.len() as u32).to_le_bytes());
    header[32..40].copy_from_slice(&seed.to_le_bytes());
    header[40..48].copy_from_slice(&(links.copies.len() as u64).to_le_bytes());
    let parts = [
        &header,
        bytemuck::cast_slice(centroid),
        bytemuck::cast_slice(links.entries),
        bytemuck::cast_slice(links.copies),
        bytemuck::cast_slice(bits),
        bytemuck::cast_slice(links.neighbours),
    ];
    Ok(write_file(&folder.join(GRAPH_FILE), &parts)?)
}

/// A graph's file, open.
pub struct GraphFile {
    file: SegmentFile,
    encoder: OneBitEncoder,
    n: usize,
    degree: usize,
    entries: Vec<u32>,
    copies: Vec<[u32; 2]>,
    bits_offset: usize,
    neighbours_offset: usize,
}

impl GraphFile {
    /// Opens and checks the graph of `n` rows.
    pub fn open(folder: &Path, n: usize, dim: usize) -> Result<Self> {
        const MAX_DEGREE: usize = 4096;
        let file = SegmentFile::open(folder.join(GRAPH_FILE))?;
        file.check_header(MAGIC, VERSION, dim, n)?;
        let damaged = |problem: &str| Error::damaged(file.path(), problem);
        let wrong_length = || damaged("its length is not what its header says");
        let degree = file.numbers::<u32>(24, 1)?[0] as usize;
        let n_entries = file.numbers::<u32>(28, 1)?[0] as usize;
        let seed = file.numbers::<u64>(32, 1)?[0];
        if degree == 0 || degree > MAX_DEGREE || n_entries == 0 || n_entries > n {
            return Err(damaged("its degree or its entries are out of range"));
        }
        let entries_offset = after(ALIGNMENT, dim, 4).ok_or_else(wrong_length)?;
        let n_copies = usize::try_from(file.numbers::<u64>(40, 1)?[0]).map_err(|_| wrong_length())?;
        let copies_offset = after(entries_offset, n_entries, 4).ok_or_else(wrong_length)?;
        let bits_offset = after(copies_offset, n_copies, 8).ok_or_else(wrong_length)?;
        let n_words = n.checked_mul(one_bit_words(dim)).ok_or_else(wrong_length)?;
        let neighbours_offset = after(bits_offset, n_words, 8).ok_or_else(wrong_length)?;
        let n_neighbours = n.checked_mul(degree).ok_or_else(wrong_length)?;
        if after(neighbours_offset, n_neighbours, 4) != Some(file.bytes().len()) {
            return Err(wrong_length());
        }
        let entries = file.numbers::<u32>(entries_offset, n_entries)?.to_vec();
        let neighbours = file.numbers::<u32>(neighbours_offset, n_neighbours)?;
        let copies = file.numbers::<[u32; 2]>(copies_offset, n_copies)?.to_vec();
        if entries.iter().chain(neighbours).chain(copies.as_flattened()).any(|&row| row as usize >= n) {
            return Err(damaged("it leads to rows that are not there"));
        }
        let encoder = OneBitEncoder::new(file.numbers(ALIGNMENT, dim)?, seed)
            .map_err(|e| damaged(&format!("its centroid: {e}")))?;
        Ok(Self { encoder, n, degree, entries, copies, bits_offset, neighbours_offset, file })
    }

    /// What queries are prepared with.
    pub fn encoder(&self) -> &OneBitEncoder {
        &self.encoder
    }

    /// The links.
    pub fn links(&self) -> Links<'_> {
        let neighbours = self.file.numbers(self.neighbours_offset, self.n * self.degree);
        Links {
            degree: self.degree,
            neighbours: neighbours.expect("the length is checked at opening"),
            entries: &self.entries,
            copies: &self.copies,
        }
    }

    /// The rows' bits.
    pub fn bits(&self) -> &[u64] {
        let n_words = self.n * one_bit_words(self.encoder.dim());
        self.file.numbers(self.bits_offset, n_words).expect("the length is checked at opening")
    }
}
