//! A part of a segment, open for searching.

use std::path::Path;

use raglan_core::{ChunkId, ChunkSet};

use super::ImpactConfig;
use super::best::Best;
use super::fixed_query::FixedQuery;
use super::forward::{self, TermNumber, Weights};
use super::part_file::{BLOCK, PartFile, RUN_GROUP, SMALL_TERMS};
use super::writer::QuantizedChunks;
use crate::Result;

/// Chunks with both of their indexes, and which of them are live.
pub struct Part {
    file: PartFile,
    /// By block, a bit for each doc: whether it is live.
    live: Vec<u64>,
    n_live: usize,
    /// By number, in how many live docs a term is, where some are deleted.
    live_df: Option<Vec<u32>>,
}

/// A term of a query in a part: its runs, and what they weigh.
pub struct TermRuns<'a> {
    part: &'a Part,
    pub number: u32,
    pub weight: u32,
    /// The blocks of the runs, increasing.
    pub blocks: &'a [u16],
    /// The greatest impact of each run.
    pub maxima: &'a [u8],
    /// The greatest impact of all.
    pub max: u8,
    first_run: usize,
}

impl Part {
    /// Opens the parts of the segment in `folder`.
    pub fn open_all(folder: &Path, deleted: &ChunkSet, config: &ImpactConfig) -> Result<Vec<Self>> {
        let mut parts = Vec::new();
        loop {
            let file = PartFile::open(folder, parts.len(), config)?;
            let last = file.last;
            parts.push(Self::new(file, deleted));
            if last {
                return Ok(parts);
            }
        }
    }

    fn new(file: PartFile, deleted: &ChunkSet) -> Self {
        let n_docs = file.n_docs;
        let mut live = vec![u64::MAX; n_docs.div_ceil(BLOCK)];
        if let Some(last) = live.last_mut() {
            *last >>= n_docs.wrapping_neg() % BLOCK;
        }
        let mut part = Self { file, live, n_live: n_docs, live_df: None };
        let deleted = part.docs_of(deleted);
        if !deleted.is_empty() {
            let mut df = part.section::<u32>(&part.file.df).to_vec();
            for &doc in &deleted {
                part.live[doc as usize / BLOCK] &= !(1 << (doc as usize % BLOCK));
                part.for_each_term(doc, |number, _| {
                    if let Some(df) = df.get_mut(number as usize) {
                        *df = df.saturating_sub(1);
                    }
                });
            }
            part.n_live -= deleted.len();
            part.live_df = Some(df);
        }
        part
    }

    #[inline]
    fn section<T: bytemuck::Pod>(&self, section: &std::ops::Range<usize>) -> &[T] {
        self.file.file.section(section)
    }

    /// How many chunks are not deleted.
    pub fn n_live(&self) -> usize {
        self.n_live
    }

    /// How many weights were above the ceiling.
    pub fn n_clamped(&self) -> u64 {
        self.file.n_clamped
    }

    /// How many postings there are, those of deleted chunks too.
    pub fn n_postings(&self) -> usize {
        self.file.n_postings
    }

    /// How many docs there are, deleted ones too.
    pub fn n_docs(&self) -> usize {
        self.file.n_docs
    }

    /// How many terms there are.
    pub fn n_terms(&self) -> usize {
        self.file.n_terms
    }

    /// By block, a bit for each doc: whether it is live.
    pub fn live(&self) -> &[u64] {
        &self.live
    }

    /// The chunk of a doc.
    #[inline]
    pub fn id(&self, doc: u32) -> u32 {
        self.section::<u32>(&self.file.ids)[doc as usize]
    }

    /// The chunks in order of their ids, as ids and docs; those of deleted chunks too.
    pub fn chunks(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.section::<u32>(&self.file.docs_by_id).iter().map(|&doc| (self.id(doc), doc))
    }

    /// Whether a doc is live.
    #[inline]
    pub fn is_live(&self, doc: u32) -> bool {
        self.live[doc as usize / BLOCK] >> (doc as usize % BLOCK) & 1 == 1
    }

    /// The doc of a chunk that is live.
    pub fn doc_of(&self, chunk: ChunkId) -> Option<u32> {
        let docs = self.section::<u32>(&self.file.docs_by_id);
        let doc = docs[docs.binary_search_by_key(&chunk.0, |&doc| self.id(doc)).ok()?];
        self.is_live(doc).then_some(doc)
    }

    /// The docs of those chunks of a set that are here, deleted or not, in the order of their ids.
    pub fn docs_of(&self, chunks: &ChunkSet) -> Vec<u32> {
        let docs = self.section::<u32>(&self.file.docs_by_id);
        let (Some(&first), Some(&last)) = (docs.first(), docs.last()) else { return Vec::new() };
        let range = self.id(first)..=self.id(last);
        let bitmap = chunks.bitmap();
        let mut found = Vec::new();
        // Stepping through all docs costs less than looking up this many.
        const LOOK_UP: u64 = 16;
        if bitmap.range_cardinality(range.clone()) * LOOK_UP < docs.len() as u64 {
            let doc_of = |id: u32| docs.binary_search_by_key(&id, |&doc| self.id(doc)).ok().map(|at| docs[at]);
            found.extend(bitmap.range(range).filter_map(doc_of));
            return found;
        }
        let mut wanted = bitmap.range(range).peekable();
        for (id, doc) in self.chunks() {
            while wanted.next_if(|&wanted| wanted < id).is_some() {}
            if wanted.next_if_eq(&id).is_some() {
                found.push(doc);
            }
        }
        found
    }

    /// By block, a bit for each of these docs that is live.
    pub fn mask_of(&self, docs: &[u32]) -> Vec<u64> {
        let mut mask = vec![0; self.live.len()];
        for &doc in docs {
            mask[doc as usize / BLOCK] |= 1 << (doc as usize % BLOCK);
        }
        for (mask, live) in mask.iter_mut().zip(&self.live) {
            *mask &= live;
        }
        mask
    }

    fn number_of(&self, term: u32) -> Option<u32> {
        let at = self.section::<u32>(&self.file.terms).binary_search(&term).ok()?;
        Some(self.section::<u32>(&self.file.numbers)[at])
    }

    /// In how many live docs a term is.
    pub fn document_frequency(&self, term: u32) -> u32 {
        let df = self.live_df.as_deref().unwrap_or_else(|| self.section(&self.file.df));
        self.number_of(term).map_or(0, |number| df[number as usize])
    }

    /// The terms, increasing.
    pub fn terms(&self) -> &[u32] {
        self.section(&self.file.terms)
    }

    /// The runs of those terms of a query that are here.
    pub fn runs_of(&self, query: &FixedQuery) -> Vec<TermRuns<'_>> {
        let starts = self.section::<u32>(&self.file.run_starts);
        let mut runs = Vec::with_capacity(query.terms.len());
        for (&term, &weight) in query.terms.iter().zip(&query.weights) {
            let Some(number) = self.number_of(term) else { continue };
            let range = starts[number as usize] as usize..starts[number as usize + 1] as usize;
            runs.push(TermRuns {
                part: self,
                number,
                weight,
                blocks: &self.section(&self.file.run_blocks)[range.clone()],
                maxima: &self.section(&self.file.run_maxima)[range.clone()],
                max: self.section(&self.file.maxima)[number as usize],
                first_run: range.start,
            });
        }
        runs
    }

    /// Where the terms of a doc lie.
    fn forward_range(&self, doc: u32) -> std::ops::Range<usize> {
        let starts = self.section::<u32>(&self.file.forward_starts);
        starts[doc as usize] as usize..starts[doc as usize + 1] as usize
    }

    fn for_each_term(&self, doc: u32, mut act: impl FnMut(u32, u8)) {
        let range = self.forward_range(doc);
        let impacts = &self.section::<u8>(&self.file.forward_impacts)[range.clone()];
        if self.file.n_terms <= SMALL_TERMS {
            let numbers = &self.section::<u16>(&self.file.forward_terms)[range];
            numbers.iter().zip(impacts).for_each(|(&number, &impact)| act(u32::from(number), impact));
        } else {
            let numbers = &self.section::<u32>(&self.file.forward_terms)[range];
            numbers.iter().zip(impacts).for_each(|(&number, &impact)| act(number, impact));
        }
    }

    /// Adds a doc's chunk to a list of them; `terms_by_number` is [`Part::terms_by_number`].
    pub fn copy_chunk(&self, doc: u32, terms_by_number: &[u32], chunks: &mut QuantizedChunks) {
        let mut entries = Vec::new();
        self.for_each_term(doc, |number, impact| {
            if let Some(&term) = terms_by_number.get(number as usize).filter(|_| impact > 0) {
                entries.push((term, impact));
            }
        });
        entries.sort_unstable();
        entries.dedup_by_key(|entry| entry.0);
        chunks.ids.push(ChunkId(self.id(doc)));
        chunks.lengths.push(entries.len() as u32);
        chunks.terms.extend(entries.iter().map(|entry| entry.0));
        chunks.impacts.extend(entries.iter().map(|entry| entry.1));
    }

    /// The terms in the order of their numbers.
    pub fn terms_by_number(&self) -> Vec<u32> {
        let mut terms = vec![0; self.n_terms()];
        for (&term, &number) in self.terms().iter().zip(self.section::<u32>(&self.file.numbers)) {
            terms[number as usize] = term;
        }
        terms
    }

    /// A doc's sum for the query whose weights these are.
    #[inline]
    pub fn sum(&self, doc: u32, weights: &Weights) -> u32 {
        if self.file.n_terms <= SMALL_TERMS {
            self.sum_as::<u16>(doc, weights)
        } else {
            self.sum_as::<u32>(doc, weights)
        }
    }

    #[inline]
    fn sum_as<T: TermNumber + bytemuck::Pod>(&self, doc: u32, weights: &Weights) -> u32 {
        let range = self.forward_range(doc);
        let numbers = &self.section::<T>(&self.file.forward_terms)[range.clone()];
        forward::sum(numbers, &self.section(&self.file.forward_impacts)[range], weights)
    }

    /// Scores the docs of a block that `mask` has.
    #[inline]
    pub fn score_block(&self, block: usize, mut mask: u64, weights: &Weights, best: &mut Best) {
        while mask != 0 {
            let doc = (block * BLOCK) as u32 + mask.trailing_zeros();
            mask &= mask - 1;
            best.push(self.sum(doc, weights), self.id(doc));
        }
    }
}

impl TermRuns<'_> {
    /// What a chunk's sum can have from this term at most.
    pub fn bound(&self) -> u32 {
        self.weight * u32::from(self.max)
    }

    /// Where the postings of run `run` of the term begin.
    pub fn first_posting(&self, run: usize) -> usize {
        let file = &self.part.file;
        let run = self.first_run + run;
        let group = run / RUN_GROUP;
        let Some(&start) = self.part.section::<u32>(&file.group_starts).get(group) else { return file.n_postings };
        let lengths = &self.part.section::<u8>(&file.run_lengths)[group * RUN_GROUP..run];
        start as usize + lengths.iter().map(|&length| usize::from(length)).sum::<usize>()
    }

    /// Adds what the postings of run `run`, which begin at `posting`, are worth to the docs of its block; says where
    /// the next run's begin.
    #[inline(always)]
    pub fn add(&self, run: usize, posting: usize, sums: &mut [u32; BLOCK]) -> usize {
        let file = &self.part.file;
        let end = posting + usize::from(self.part.section::<u8>(&file.run_lengths)[self.first_run + run]);
        let docs = self.part.section::<u8>(&file.posting_docs).get(posting..end).unwrap_or(&[]);
        let impacts = self.part.section::<u8>(&file.posting_impacts).get(posting..end).unwrap_or(&[]);
        for (&doc, &impact) in docs.iter().zip(impacts) {
            let sum = &mut sums[doc as usize % BLOCK];
            *sum = sum.wrapping_add(self.weight * u32::from(impact));
        }
        end
    }

    /// How many postings run `run` has.
    #[inline]
    pub fn run_length(&self, run: usize) -> usize {
        usize::from(self.part.section::<u8>(&self.part.file.run_lengths)[self.first_run + run])
    }
}
