//! Queries that need no model: each token of the query weighs as much as it is rare.

use raglan_core::SparseVector;

use super::ImpactIndex;
use super::part::Part;

/// The share of the terms whose weights are not clipped.
const PERCENTILE: f64 = 0.999;

/// `ln(1 + (N − n + ½) / (n + ½))`: how rare a term is that `n` of `N` chunks have. Robertson and Spärck Jones's weight,
/// which Lucene keeps above 0.
fn idf(n_chunks: u64, df: u64) -> f64 {
    (1.0 + (n_chunks.saturating_sub(df) as f64 + 0.5) / (df as f64 + 0.5)).ln()
}

impl ImpactIndex {
    /// The query of some tokens, whose ids are the index's terms: each distinct one weighs its idf,
    /// `ln(1 + (N − n + ½) / (n + ½))` for `n` of the `N` live chunks.
    ///
    /// Weights are clipped at the 99.9th percentile of the idf of all terms of the index, so that a word that is nowhere
    /// does not outweigh all others. Special tokens are the caller's to leave out.
    pub fn inference_free_query(&self, tokens: &[u32]) -> SparseVector {
        let ceiling = self.idf_ceiling();
        let mut tokens = tokens.to_vec();
        tokens.sort_unstable();
        tokens.dedup();
        let idf = |term| idf(self.n_chunks(), self.document_frequency(term)).min(ceiling) as f32;
        SparseVector::new(tokens.into_iter().map(|term| (term, idf(term))).collect())
            .expect("weights are logarithms of numbers, and no token is there twice")
    }

    /// The idf that 99.9 % of the terms in live chunks do not exceed; of no term, that of an unseen one.
    pub(super) fn compute_idf_ceiling(&self) -> f64 {
        let mut terms: Vec<u32> = self.parts().iter().flat_map(Part::terms).copied().collect();
        terms.sort_unstable();
        terms.dedup();
        let dfs = terms.into_iter().map(|term| self.document_frequency(term));
        let mut dfs: Vec<u64> = dfs.filter(|&df| df > 0).collect();
        // The rarest term has the greatest idf.
        dfs.sort_unstable_by(|a, b| b.cmp(a));
        let rank = (PERCENTILE * dfs.len() as f64).ceil() as usize;
        idf(self.n_chunks(), dfs.get(rank.max(1) - 1).copied().unwrap_or(0))
    }
}
