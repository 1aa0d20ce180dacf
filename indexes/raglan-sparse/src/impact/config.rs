//! The parameters of an impact index.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How weights become impacts, and how an index is searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImpactConfig {
    /// The weight whose impact is 255; greater weights count as this one, and [`ImpactIndex::n_clamped`] says how many
    /// there were.
    ///
    /// [`ImpactIndex::n_clamped`]: crate::ImpactIndex::n_clamped
    pub ceiling: f32,
    /// How the best chunks are found.
    pub search: ImpactSearch,
}

impl Default for ImpactConfig {
    fn default() -> Self {
        // SPLADE's weights are ln(1 + x), and e⁴ − 1 = 53.6 is more than its logits reach.
        Self { ceiling: 4.0, search: ImpactSearch::Exact }
    }
}

impl ImpactConfig {
    pub(super) fn check(&self) -> Result<()> {
        let refuse = |problem| Err(Error::Config { problem });
        if !(self.ceiling.is_normal() && self.ceiling > 0.0) {
            return refuse(format!("`ceiling` is {}, not a positive number", self.ceiling));
        }
        if let ImpactSearch::Approximate { query_cut, heap_factor } = self.search
            && (query_cut == 0 || !(heap_factor > 0.0 && heap_factor <= 1.0))
        {
            let problem =
                format!("`query_cut` {query_cut} must be positive, `heap_factor` {heap_factor} between 0 and 1");
            return refuse(problem);
        }
        Ok(())
    }

    /// What one step of an impact is worth as a weight.
    pub(super) fn step(&self) -> f64 {
        f64::from(self.ceiling) / 255.0
    }
}

/// How an impact index looks for the best chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImpactSearch {
    /// The best chunks, in the fastest of the exact ways: all postings, term after term; or MaxScore under a filter that
    /// leaves few blocks. For 20,000 chunks of documentation the first took three quarters of MaxScore's time for queries
    /// of 29 terms, more for those of 10, and a sixth of block-max pruning's for either.
    #[default]
    Exact,
    /// The best chunks by MaxScore.
    MaxScore,
    /// The best chunks by block-max pruning.
    BlockMax,
    /// Nearly the best chunks, whose scores are exact: candidates by the heaviest terms, scored by all.
    Approximate {
        /// How many of a query's terms choose the candidates: those that can add most.
        query_cut: usize,
        /// A chunk is a candidate when its score by those terms is at least this share of the k-th best such score; less
        /// is slower and finds more.
        heap_factor: f32,
    },
}
