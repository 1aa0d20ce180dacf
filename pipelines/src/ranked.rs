//! The batch type between retrieving and reading.

use raglan_core::{Hit, LeftOut, LeftOutReason, Query, Ranking};

/// A query with the chunks found for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// What is asked.
    pub query: Query,
    /// The chunks found, best first.
    pub ranking: Ranking,
    /// What was found and dropped again, and why.
    pub left_out: Vec<LeftOut>,
}

impl Ranked {
    /// A query with its ranking, nothing left out.
    pub fn new(query: Query, ranking: Ranking) -> Self {
        Self { query, ranking, left_out: Vec::new() }
    }

    /// Keeps the hits for which `keep` holds; the others are left out for `reason`.
    pub(crate) fn retain(&mut self, reason: LeftOutReason, keep: impl Fn(Hit) -> bool) {
        let (kept, dropped): (Vec<Hit>, Vec<Hit>) = self.ranking.hits().iter().copied().partition(|&hit| keep(hit));
        self.left_out.extend(dropped.iter().map(|hit| LeftOut { chunk: hit.chunk, reason }));
        let k = kept.len();
        self.ranking = Ranking::best(kept, k).expect("a part of a ranking is a ranking");
    }
}
