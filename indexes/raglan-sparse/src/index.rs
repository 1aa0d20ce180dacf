//! An index over many segments.

use std::cell::RefCell;
use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet, Hit, Query, Ranking, Retriever};
use raglan_kernels::TopK;
use rayon::prelude::*;
use tantivy::postings::BlockSegmentPostings;

use crate::bm25::{Bm25Parameters, contribution, idf};
use crate::explain::{self, Bm25Explanation};
use crate::query_terms::{QueryTerm, distinct_terms};
use crate::segment::{Part, frequency};
use crate::{Analyzer, AnalyzerConfig, Result};

/// Looking a document up in a posting list costs as much as scoring about this many postings in a row.
const LOOK_UP: u64 = 32;

/// Documents with a score are noted one by one while they are at most one in this many.
const TOUCHED: usize = 8;

/// BM25 over the chunks of immutable segments, scored as one index: exactly, and with the statistics of all live chunks.
pub struct Bm25Index {
    analyzer: Analyzer,
    parts: Vec<Part>,
    n_chunks: u64,
    avgdl: f64,
    parameters: Bm25Parameters,
}

/// A query's terms, the heaviest first, and for each part the postings of those that are there.
///
/// That is the order in which contributions are added up, whatever the segments and whatever is left out.
struct Plan {
    terms: Vec<QueryTerm>,
    /// By part; the postings with the weights of their terms, in the order of the terms.
    postings: Vec<Vec<(f32, BlockSegmentPostings)>>,
}

impl Bm25Index {
    /// Opens the segments in these folders, without the deleted chunks.
    ///
    /// # Errors
    ///
    /// [`Error::Analyzer`](crate::Error::Analyzer) when a segment was written with other parameters;
    /// [`Error::File`](crate::Error::File) or [`Error::Tantivy`](crate::Error::Tantivy) when a file cannot be used.
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet, analyzer: &AnalyzerConfig) -> Result<Self> {
        let mut parts = Vec::new();
        for folder in segments {
            parts.extend(Part::open_all(folder, deleted, analyzer)?);
        }
        let (mut n_chunks, mut n_terms) = (0, 0);
        for part in &parts {
            let length = |doc: &u32| u64::from(part.lengths[*doc as usize]);
            n_chunks += (part.ids.len() - part.deleted.len()) as u64;
            n_terms += part.lengths.iter().map(|&length| u64::from(length)).sum::<u64>();
            n_terms -= part.deleted.iter().map(length).sum::<u64>();
        }
        // With no term at all nothing can match, and no norm matters.
        let avgdl = if n_terms == 0 { 1.0 } else { n_terms as f64 / n_chunks as f64 };
        let parameters = Bm25Parameters::default();
        let index = Self { analyzer: Analyzer::new(analyzer), parts, n_chunks, avgdl, parameters };
        Ok(index.with_parameters(parameters))
    }

    /// The same index, scored with other parameters; as exactly, for nothing in the segments depends on them.
    pub fn with_parameters(mut self, parameters: Bm25Parameters) -> Self {
        self.parameters = parameters;
        for part in &mut self.parts {
            part.norms = part.lengths.iter().map(|&length| parameters.length_norm(length, self.avgdl)).collect();
        }
        self
    }

    /// What turns texts into this index's terms.
    pub fn analyzer(&self) -> &Analyzer {
        &self.analyzer
    }

    /// How many live chunks there are.
    pub fn n_chunks(&self) -> u64 {
        self.n_chunks
    }

    /// The mean number of terms of a live chunk.
    pub fn mean_length(&self) -> f64 {
        self.avgdl
    }

    /// How the score of a chunk for a query comes about; none when there is no such chunk.
    ///
    /// # Errors
    ///
    /// [`Error::File`](crate::Error::File) when postings cannot be read.
    pub fn explain(&self, query: &str, chunk: ChunkId) -> Result<Option<Bm25Explanation>> {
        let found =
            self.parts.iter().enumerate().find_map(|(i, part)| Some((i, part.ids.binary_search(&chunk.0).ok()?)));
        let Some((i, doc)) = found else { return Ok(None) };
        let part = &self.parts[i];
        if part.deleted.binary_search(&(doc as u32)).is_ok() {
            return Ok(None);
        }
        let terms = self.plan(query)?.terms;
        explain::explain(part, doc as u32, terms, self.n_chunks, self.avgdl, self.parameters).map(Some)
    }

    fn plan(&self, query: &str) -> Result<Plan> {
        let mut terms = Vec::new();
        for (text, count) in distinct_terms(&self.analyzer, query) {
            let mut df = 0;
            let mut found = Vec::new();
            for (i, part) in self.parts.iter().enumerate() {
                let Some(postings) = part.postings(&text)? else { continue };
                if part.deleted.is_empty() {
                    df += u64::from(postings.doc_freq());
                } else {
                    df += part.live_df(&mut postings.clone());
                }
                found.push((i, postings));
            }
            terms.push((QueryTerm { text, count, df, idf: idf(self.n_chunks, df) }, found));
        }
        terms.sort_by(|(a, _), (b, _)| b.weight().total_cmp(&a.weight()));
        let mut plan = Plan { terms: Vec::new(), postings: self.parts.iter().map(|_| Vec::new()).collect() };
        for (term, found) in terms {
            for (i, postings) in found {
                plan.postings[i].push((term.weight(), postings));
            }
            plan.terms.push(term);
        }
        Ok(plan)
    }

    fn search_one(&self, query: &Query, k: usize) -> raglan_core::Result<Ranking> {
        if k == 0 {
            return Ok(Ranking::default());
        }
        let plan = self.plan(&query.text)?;
        let allowed = query.allowed.as_deref();
        let hits = self
            .parts
            .par_iter()
            .zip(plan.postings)
            .filter(|(_, postings)| !postings.is_empty())
            .map(|(part, postings)| search_part(part, postings, k, allowed))
            .flatten_iter()
            .collect();
        Ranking::best(hits, k)
    }
}

impl Retriever for Bm25Index {
    /// The best chunks that have at least one of the query's terms; none for a query without terms.
    fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
        queries.par_iter().map(|query| self.search_one(query, k)).collect()
    }
}

/// The best `k` of one part.
fn search_part(
    part: &Part,
    mut postings: Vec<(f32, BlockSegmentPostings)>,
    k: usize,
    allowed: Option<&ChunkSet>,
) -> Vec<Hit> {
    let allowed = allowed.map(|allowed| {
        let mut docs = part.docs_of(allowed);
        docs.retain(|doc| part.deleted.binary_search(doc).is_err());
        docs
    });
    let n_postings: u64 = postings.iter().map(|(_, postings)| u64::from(postings.doc_freq())).sum();
    let best = match allowed {
        Some(docs) if docs.len() as u64 * postings.len() as u64 * LOOK_UP < n_postings => {
            score_few(part, &mut postings, k, &docs)
        }
        Some(docs) => score_allowed(part, &mut postings, k, &docs),
        None => score_all(part, &mut postings, k),
    };
    best.into_best_first().into_iter().map(|(score, doc)| Hit::new(ChunkId(part.ids[doc as usize]), score)).collect()
}

/// Scores a few documents by looking each up in each posting list.
fn score_few(part: &Part, postings: &mut [(f32, BlockSegmentPostings)], k: usize, docs: &[u32]) -> TopK {
    let mut best = TopK::new(k);
    for &doc in docs {
        let mut score = 0.0;
        for (weight, postings) in postings.iter_mut() {
            let tf = frequency(postings, doc);
            if tf > 0 {
                score += contribution(*weight, tf, part.norms[doc as usize]);
            }
        }
        if score > 0.0 {
            best.push(score, doc).expect("contributions are positive numbers");
        }
    }
    best
}

thread_local! {
    /// A score for each document of a part; all 0 between searches.
    static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// The best among some documents, by scoring all, one posting list after the other.
fn score_allowed(part: &Part, postings: &mut [(f32, BlockSegmentPostings)], k: usize, docs: &[u32]) -> TopK {
    with_scores(part, |scores| {
        for (weight, postings) in postings {
            add_contributions(*weight, postings, &part.norms, scores);
        }
        let best = best_of(scores, docs, k);
        scores.fill(0.0);
        best
    })
}

/// The best of all documents, one posting list after the other, until what is left of the lists can lift no other
/// document among the best: only those that may be are looked up then (after MaxScore, Turtle and Flood 1995).
fn score_all(part: &Part, postings: &mut [(f32, BlockSegmentPostings)], k: usize) -> TopK {
    with_scores(part, |scores| {
        let mut touched = Some(Vec::new());
        for at in 0..postings.len() {
            let (weight, list) = &mut postings[at];
            let Some(docs) = &mut touched else {
                add_contributions(*weight, list, &part.norms, scores);
                continue;
            };
            add_first_contributions(*weight, list, &part.norms, scores, docs);
            if docs.len() > scores.len() / TOUCHED {
                touched = None;
            } else if let Some(contenders) = contenders(part, scores, docs, &postings[at + 1..], k) {
                let best = score_contenders(part, scores, contenders, &mut postings[at + 1..], k);
                docs.iter().for_each(|&doc| scores[doc as usize] = 0.0);
                return best;
            }
        }
        if let Some(docs) = touched {
            let live: Vec<u32> = docs.iter().copied().filter(|doc| part.deleted.binary_search(doc).is_err()).collect();
            let best = best_of(scores, &live, k);
            docs.iter().for_each(|&doc| scores[doc as usize] = 0.0);
            return best;
        }
        for &doc in &part.deleted {
            scores[doc as usize] = 0.0;
        }
        let mut best = TopK::new(k);
        best.extend_positive(scores, 0).expect("contributions are positive numbers");
        scores.fill(0.0);
        best
    })
}

/// The documents, in order, that may be among the best when the rest of the lists is added; none where others may be too,
/// or where looking them up would take longer than adding.
fn contenders(
    part: &Part,
    scores: &[f32],
    touched: &[u32],
    rest: &[(f32, BlockSegmentPostings)],
    k: usize,
) -> Option<Vec<u32>> {
    let n_left: u64 = rest.iter().map(|(_, list)| u64::from(list.doc_freq())).sum();
    if touched.len() < k || n_left < touched.len() as u64 {
        return None;
    }
    let mut contenders = touched.to_vec();
    contenders.retain(|doc| part.deleted.binary_search(doc).is_err());
    let least = kth_best(scores, &contenders, k)?;
    let most = most_added(rest);
    if reaches(0.0, most, rest.len(), least) {
        return None;
    }
    contenders.retain(|&doc| reaches(scores[doc as usize], most, rest.len(), least));
    if contenders.len() as u64 * rest.len() as u64 * LOOK_UP >= n_left {
        return None;
    }
    contenders.sort_unstable();
    Some(contenders)
}

/// The best of the contenders, which are in order, with what the rest of the lists adds to their scores.
fn score_contenders(
    part: &Part,
    scores: &mut [f32],
    mut contenders: Vec<u32>,
    mut rest: &mut [(f32, BlockSegmentPostings)],
    k: usize,
) -> TopK {
    while let Some(((weight, list), others)) = rest.split_first_mut() {
        for &doc in &contenders {
            let tf = frequency(list, doc);
            if tf > 0 {
                scores[doc as usize] += contribution(*weight, tf, part.norms[doc as usize]);
            }
        }
        rest = others;
        if let Some(least) = kth_best(scores, &contenders, k) {
            let most = most_added(rest);
            contenders.retain(|&doc| reaches(scores[doc as usize], most, rest.len(), least));
        }
    }
    best_of(scores, &contenders, k)
}

/// The most that the lists add to a score: a contribution is not above its weight.
fn most_added(lists: &[(f32, BlockSegmentPostings)]) -> f32 {
    lists.iter().map(|(weight, _)| weight).sum()
}

/// Whether a score to which `n` contributions of at most `most` in all are added, each rounded, may reach `least`.
fn reaches(score: f32, most: f32, n: usize, least: f32) -> bool {
    (score + most) * (1.0 + (n + 1) as f32 * f32::EPSILON) >= least
}

/// The least of the `k` best scores of these documents, if they are so many.
fn kth_best(scores: &[f32], docs: &[u32], k: usize) -> Option<f32> {
    let mut of_docs: Vec<f32> = docs.iter().map(|&doc| scores[doc as usize]).collect();
    if of_docs.len() < k {
        return None;
    }
    Some(*of_docs.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1)
}

/// The best of these documents that have a score.
fn best_of(scores: &[f32], docs: &[u32], k: usize) -> TopK {
    let mut best = TopK::new(k);
    for &doc in docs {
        let score = scores[doc as usize];
        if score > 0.0 {
            best.push(score, doc).expect("contributions are positive numbers");
        }
    }
    best
}

/// Works with a score of 0 for each document, which are to be 0 again afterwards.
fn with_scores(part: &Part, work: impl FnOnce(&mut [f32]) -> TopK) -> TopK {
    SCORES.with_borrow_mut(|scores| {
        let n = part.ids.len();
        if scores.len() < n {
            scores.resize(n, 0.0);
        }
        work(&mut scores[..n])
    })
}

/// Adds what a list contributes, and notes the documents that had no score before.
fn add_first_contributions(
    weight: f32,
    postings: &mut BlockSegmentPostings,
    norms: &[f32],
    scores: &mut [f32],
    touched: &mut Vec<u32>,
) {
    loop {
        let docs = postings.docs();
        if docs.is_empty() {
            return;
        }
        for (&doc, &tf) in docs.iter().zip(postings.freqs()) {
            let score = &mut scores[doc as usize];
            if *score == 0.0 {
                touched.push(doc);
            }
            *score += contribution(weight, tf, norms[doc as usize]);
        }
        postings.advance();
    }
}

fn add_contributions(weight: f32, postings: &mut BlockSegmentPostings, norms: &[f32], scores: &mut [f32]) {
    loop {
        let docs = postings.docs();
        if docs.is_empty() {
            return;
        }
        for (&doc, &tf) in docs.iter().zip(postings.freqs()) {
            scores[doc as usize] += contribution(weight, tf, norms[doc as usize]);
        }
        postings.advance();
    }
}
