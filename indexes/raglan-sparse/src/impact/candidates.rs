//! The docs that a query's heaviest terms choose, for all of its terms to score.
//!
//! The dials are SEISMIC's (Bruch et al. 2024): `query_cut` heaviest terms say where to look, and what does not reach
//! `heap_factor` of the k-th best score is passed over. Where SEISMIC estimates by summaries of clusters of each term's
//! chunks, the postings of those terms are added up here, which gives each chunk's share of its score exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::max_score::Collector;

/// Docs whose sums by a few terms are near to the best of such sums.
pub struct Candidates {
    k: usize,
    heap_factor: f64,
    /// The `k` greatest sums.
    greatest: BinaryHeap<Reverse<u32>>,
    floor: u32,
    /// With their sums, in the order of the docs.
    docs: Vec<(u32, u32)>,
}

impl Candidates {
    /// Of nothing yet; `k` is at least 1.
    pub fn new(k: usize, heap_factor: f32) -> Self {
        let heap_factor = f64::from(heap_factor);
        Self { k, heap_factor, greatest: BinaryHeap::new(), floor: 1, docs: Vec::new() }
    }

    /// The docs whose sums are at least `heap_factor` of the k-th greatest.
    pub fn into_docs(self) -> impl Iterator<Item = u32> {
        self.docs.into_iter().filter(move |&(sum, _)| sum >= self.floor).map(|(_, doc)| doc)
    }
}

impl Collector for Candidates {
    #[inline]
    fn floor(&self) -> u32 {
        self.floor
    }

    #[inline]
    fn push(&mut self, sum: u32, doc: u32) {
        self.docs.push((sum, doc));
        if self.greatest.len() < self.k {
            self.greatest.push(Reverse(sum));
            if self.greatest.len() < self.k {
                return;
            }
        } else {
            let mut least = self.greatest.peek_mut().expect("k is at least 1");
            if sum <= least.0 {
                return;
            }
            *least = Reverse(sum);
        }
        let least = self.greatest.peek().expect("k is at least 1").0;
        self.floor = ((f64::from(least) * self.heap_factor) as u32).max(1);
    }
}
