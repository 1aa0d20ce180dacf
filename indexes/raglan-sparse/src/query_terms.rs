//! The terms of a query with their weights.

use std::collections::BTreeMap;

use crate::Analyzer;

/// A term of a query.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryTerm {
    pub text: String,
    /// How often it is in the query.
    pub count: u32,
    /// How many live chunks have it.
    pub df: u64,
    pub idf: f32,
}

impl QueryTerm {
    /// What the term frequency's part is multiplied with.
    pub fn weight(&self) -> f32 {
        self.count as f32 * self.idf
    }
}

/// The distinct terms of a query in alphabetical order.
pub fn distinct_terms(analyzer: &Analyzer, query: &str) -> Vec<(String, u32)> {
    let mut counts = BTreeMap::new();
    for token in analyzer.tokens(query) {
        *counts.entry(token.text).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}
