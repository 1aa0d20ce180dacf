//! Writing a segment.

use std::path::Path;

use raglan_core::{ChunkId, SparseVector};
use rayon::prelude::*;

use super::ImpactConfig;
use super::document_order::{Rows, document_order};
use super::part_file::{self, PartArrays};
use crate::{Error, Result};

/// Chunks of a part at most, so that the number of a block fits 16 bits.
const PART_CHUNKS: usize = part_file::BLOCK << 16;

/// Postings of a part at most, so that a place among them fits 32 bits.
const PART_POSTINGS: usize = u32::MAX as usize;

/// Chunks with their terms and impacts, ready to be indexed.
#[derive(Default)]
pub struct QuantizedChunks {
    /// Increasing.
    pub ids: Vec<ChunkId>,
    /// How many terms each chunk has.
    pub lengths: Vec<u32>,
    /// The terms of the chunks, one chunk after the other.
    pub terms: Vec<u32>,
    /// As long as `terms`, and not 0.
    pub impacts: Vec<u8>,
    /// How many weights were above the ceiling.
    pub n_clamped: u64,
}

/// Writes a segment into `folder`, which exists: one vector for each chunk, whose ids increase.
///
/// A weight `w` becomes the impact `round(255 · w / ceiling)`, at most 255; impacts of 0 are dropped. The same vectors
/// give the same bytes, whatever the number of threads; what an open segment gives back as a vector gives the same
/// impacts again.
///
/// # Errors
///
/// [`Error::Vectors`] when lengths do not fit, ids do not increase, or a weight is negative; [`Error::Config`] for a
/// bad parameter; [`Error::File`] when a file cannot be written.
pub fn write_impact_segment(
    folder: &Path,
    ids: &[ChunkId],
    vectors: &[SparseVector],
    config: &ImpactConfig,
) -> Result<()> {
    config.check()?;
    if ids.len() != vectors.len() {
        return Err(Error::Vectors { problem: format!("{} vectors for {} chunks", vectors.len(), ids.len()) });
    }
    let mut chunks = QuantizedChunks { ids: ids.to_vec(), ..QuantizedChunks::default() };
    let n_terms = vectors.iter().map(|vector| vector.terms().len()).sum();
    chunks.terms.reserve_exact(n_terms);
    chunks.impacts.reserve_exact(n_terms);
    let per_weight = (1.0 / config.step()) as f32;
    for (id, vector) in ids.iter().zip(vectors) {
        let before = chunks.terms.len();
        for (&term, &weight) in vector.terms().iter().zip(vector.weights()) {
            if weight < 0.0 {
                return Err(Error::Vectors { problem: format!("chunk {} has a negative weight", id.0) });
            }
            chunks.n_clamped += u64::from(weight > config.ceiling);
            let impact = (weight * per_weight).round() as u8; // Saturates.
            if impact > 0 {
                chunks.terms.push(term);
                chunks.impacts.push(impact);
            }
        }
        chunks.lengths.push((chunks.terms.len() - before) as u32);
    }
    write_chunks(folder, &chunks, config)
}

/// Writes a segment of chunks whose impacts are known.
pub fn write_chunks(folder: &Path, chunks: &QuantizedChunks, config: &ImpactConfig) -> Result<()> {
    if let Some(pair) = chunks.ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::Vectors { problem: format!("chunk {} comes before chunk {}", pair[0].0, pair[1].0) });
    }
    let (mut first, mut posting, mut n_parts) = (0, 0, 0);
    while first < chunks.ids.len() || n_parts == 0 {
        let (mut end, mut starts) = (first, vec![0]);
        let mut n_postings = 0;
        while end < chunks.ids.len() && end - first < PART_CHUNKS {
            let length = chunks.lengths[end] as usize;
            if n_postings + length > PART_POSTINGS {
                break;
            }
            n_postings += length;
            starts.push(n_postings as u32);
            end += 1;
        }
        let rows = Rows {
            starts: &starts,
            terms: &chunks.terms[posting..posting + n_postings],
            impacts: &chunks.impacts[posting..posting + n_postings],
        };
        let n_clamped = if first == 0 { chunks.n_clamped } else { 0 };
        let last = end == chunks.ids.len();
        invert(&chunks.ids[first..end], &rows).write(folder, n_parts, last, n_clamped, config)?;
        (first, posting, n_parts) = (end, posting + n_postings, n_parts + 1);
    }
    Ok(())
}

/// Numbers the terms, orders the chunks and builds both indexes.
fn invert(ids: &[ChunkId], rows: &Rows<'_>) -> PartArrays {
    let mut part = PartArrays::default();
    let order = document_order(rows);
    part.ids = order.iter().map(|&row| ids[row as usize].0).collect();
    part.docs_by_id = vec![0; ids.len()];
    for (doc, &row) in order.iter().enumerate() {
        part.docs_by_id[row as usize] = doc as u32;
    }

    part.terms = distinct(rows.terms);
    let n_terms = part.terms.len();
    let mut df = vec![0_u32; n_terms];
    let places = Places::new(&part.terms);
    for &term in rows.terms {
        df[places.of(term)] += 1;
    }
    let mut common_first: Vec<u32> = (0..n_terms as u32).collect();
    common_first.sort_by_key(|&place| std::cmp::Reverse(df[place as usize]));
    part.numbers = vec![0; n_terms];
    for (number, &place) in common_first.iter().enumerate() {
        part.numbers[place as usize] = number as u32;
    }
    part.df = common_first.iter().map(|&place| df[place as usize]).collect();

    // The forward index: each chunk's terms by number.
    part.forward_starts.push(0);
    let mut entries = Vec::new();
    for &row in &order {
        let range = rows.starts[row as usize] as usize..rows.starts[row as usize + 1] as usize;
        entries.clear();
        let numbers = rows.terms[range.clone()].iter().map(|&term| part.numbers[places.of(term)]);
        entries.extend(numbers.zip(rows.impacts[range].iter().copied()));
        entries.sort_unstable();
        part.forward_terms.extend(entries.iter().map(|entry| entry.0));
        part.forward_impacts.extend(entries.iter().map(|entry| entry.1));
        part.forward_starts.push(part.forward_terms.len() as u32);
    }
    invert_forward(&mut part);
    part
}

/// The postings of each term from the forward index, run after run.
fn invert_forward(part: &mut PartArrays) {
    let n_terms = part.terms.len();
    let n_postings = part.forward_terms.len();
    let block_of = |doc: usize| (doc / part_file::BLOCK) as u32;
    let docs =
        || part.forward_starts.windows(2).enumerate().map(|(doc, range)| (doc, range[0] as usize, range[1] as usize));

    let mut last_block = vec![u32::MAX; n_terms];
    let mut n_runs = vec![0_u32; n_terms];
    for (doc, start, end) in docs() {
        for &number in &part.forward_terms[start..end] {
            if last_block[number as usize] != block_of(doc) {
                last_block[number as usize] = block_of(doc);
                n_runs[number as usize] += 1;
            }
        }
    }
    part.run_starts = sums(&n_runs);
    let total = *part.run_starts.last().expect("it begins with 0") as usize;
    part.run_blocks = vec![0; total];
    part.run_maxima = vec![0; total];
    part.run_lengths = vec![0; total];
    part.posting_docs = vec![0; n_postings];
    part.posting_impacts = vec![0; n_postings];
    part.maxima = vec![0; n_terms];

    // Where the next posting and the next run of a term go.
    let mut posting = sums(&part.df);
    let mut run: Vec<u32> = part.run_starts[..n_terms].to_vec();
    last_block.fill(u32::MAX);
    for (doc, start, end) in docs() {
        for (&number, &impact) in part.forward_terms[start..end].iter().zip(&part.forward_impacts[start..end]) {
            let number = number as usize;
            if last_block[number] != block_of(doc) {
                last_block[number] = block_of(doc);
                part.run_blocks[run[number] as usize] = block_of(doc) as u16;
                run[number] += 1;
            }
            let run = run[number] as usize - 1;
            part.run_maxima[run] = part.run_maxima[run].max(impact);
            part.run_lengths[run] += 1;
            part.maxima[number] = part.maxima[number].max(impact);
            part.posting_docs[posting[number] as usize] = (doc % part_file::BLOCK) as u8;
            part.posting_impacts[posting[number] as usize] = impact;
            posting[number] += 1;
        }
    }
    let mut posting = 0;
    for lengths in part.run_lengths.chunks(part_file::RUN_GROUP) {
        part.group_starts.push(posting);
        posting += lengths.iter().map(|&length| u32::from(length)).sum::<u32>();
    }
}

/// The sums of all numbers before each, and of all of them.
fn sums(numbers: &[u32]) -> Vec<u32> {
    let mut sums = vec![0];
    let mut sum = 0;
    for &number in numbers {
        sum += number;
        sums.push(sum);
    }
    sums
}

/// The different terms, increasing.
fn distinct(terms: &[u32]) -> Vec<u32> {
    const TABLE: u32 = 1 << 24;
    if terms.iter().all(|&term| term < TABLE) {
        let mut seen = vec![false; TABLE as usize];
        for &term in terms {
            seen[term as usize] = true;
        }
        return (0..TABLE).filter(|&term| seen[term as usize]).collect();
    }
    let mut terms = terms.to_vec();
    terms.par_sort_unstable();
    terms.dedup();
    terms
}

/// Where terms lie in a list of them.
enum Places<'a> {
    /// By term, for terms that are not much greater than their number.
    Table(Vec<u32>),
    Sorted(&'a [u32]),
}

impl<'a> Places<'a> {
    fn new(terms: &'a [u32]) -> Self {
        let Some(&last) = terms.last() else { return Self::Sorted(terms) };
        if last as usize / 16 > terms.len() + (1 << 16) {
            return Self::Sorted(terms);
        }
        let mut table = vec![0; last as usize + 1];
        for (place, &term) in terms.iter().enumerate() {
            table[term as usize] = place as u32;
        }
        Self::Table(table)
    }

    fn of(&self, term: u32) -> usize {
        match self {
            Self::Table(table) => table[term as usize] as usize,
            Self::Sorted(terms) => terms.binary_search(&term).expect("every term is among them"),
        }
    }
}
