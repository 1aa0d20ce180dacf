//! How a score comes about.

use serde::Serialize;

use crate::Result;
use crate::bm25::{Bm25Parameters, contribution};
use crate::query_terms::QueryTerm;
use crate::segment::{Part, frequency};

/// The parts of a chunk's BM25 score for a query.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bm25Explanation {
    /// The sum of the contributions; 0 when the chunk has none of the terms.
    pub score: f32,
    /// How many chunks the index has.
    pub n_chunks: u64,
    /// The mean length of a chunk, in terms.
    pub mean_length: f64,
    /// The saturation of the term frequency.
    pub k1: f32,
    /// How much a chunk's length counts.
    pub b: f32,
    /// The query's distinct terms, the heaviest first, which is the order in which contributions are added up.
    pub terms: Vec<TermExplanation>,
}

/// What one term adds to a score: `count · idf · tf / (tf + k1 · (1 − b + b · doc_len / mean_length))`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermExplanation {
    /// The term.
    pub term: String,
    /// How often it is in the query.
    pub count: u32,
    /// How many chunks have it.
    pub df: u64,
    /// `ln(1 + (n_chunks − df + ½) / (df + ½))`.
    pub idf: f32,
    /// How often it is in the chunk.
    pub tf: u32,
    /// How many terms the chunk has.
    pub doc_len: u32,
    /// What it adds.
    pub contribution: f32,
}

/// Explains the score of a document of a part.
pub fn explain(
    part: &Part,
    doc: u32,
    terms: Vec<QueryTerm>,
    n_chunks: u64,
    mean_length: f64,
    parameters: Bm25Parameters,
) -> Result<Bm25Explanation> {
    let mut score = 0.0;
    let mut explanations = Vec::new();
    for term in terms {
        let tf = part.postings(&term.text)?.map_or(0, |mut postings| frequency(&mut postings, doc));
        let added = if tf > 0 { contribution(term.weight(), tf, part.norms[doc as usize]) } else { 0.0 };
        score += added;
        explanations.push(TermExplanation {
            count: term.count,
            df: term.df,
            idf: term.idf,
            tf,
            doc_len: part.lengths[doc as usize],
            contribution: added,
            term: term.text,
        });
    }
    Ok(Bm25Explanation { score, n_chunks, mean_length, k1: parameters.k1(), b: parameters.b(), terms: explanations })
}
