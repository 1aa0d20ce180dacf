//! Fusion: one ranking out of several whose scores cannot be compared.
//!
//! Each method turns the scores of each list into comparable values; a chunk's fused score is the weighted sum of its
//! values over the lists, taken in `f64`. The methods differ in the values and in what a list says of a chunk that
//! it does not hold.

mod auto;
mod distribution_based;
mod min_max;
mod reciprocal_rank;
mod z_score;

use std::fmt;
use std::str::FromStr;

use raglan_core::{ChunkId, Error, Hit, LeftOut, Ranking, Result};
use serde::{Deserialize, Serialize};

use crate::{Ranked, Stage};

/// How several rankings of the same chunks become one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fusion {
    /// `(s − min) / (max − min)`; a list whose scores are all equal gives 0.5; absent = 0. Weights default to 1/n.
    MinMax {
        /// The least score that each list's method can give, such as 0 for BM25 and −1 for a cosine (Bruch et al.,
        /// TM2C2); when empty, the least score that the list holds, down to its depth.
        #[serde(default)]
        minima: Vec<f32>,
    },
    /// `(s − μ) / σ` with σ over n; a list whose scores are all equal gives 0; absent = the least value of the list.
    /// Weights default to 1/n.
    ZScore,
    /// `(s − (μ − 3σ)) / 6σ` with σ over n − 1, not clamped; a list whose scores are all equal, or that has one hit,
    /// gives 0.5; absent = 0. Weights default to 1.
    DistributionBased,
    /// `1 / (k0 + rank)`, ranks from 1; absent = 0. Weights default to 1.
    ReciprocalRank {
        /// How little the first ranks stand out; 60 by custom (Cormack et al.).
        #[serde(default = "default_k0")]
        k0: f32,
    },
    /// The values of [`MinMax`](Self::MinMax) from the least score in each list; a list counts for more, the more its
    /// first hit stands out from the next of the first ten (see `auto.rs`), query by query. Nothing is learned. Given
    /// weights are multiplied by that; they default to 1/n.
    Auto,
}

fn default_k0() -> f32 {
    Fusion::DEFAULT_K0
}

/// What a list says of its chunks, in its own order, and of all others.
struct Values {
    present: Vec<f64>,
    absent: f64,
}

/// A chunk's fused score, list by list.
#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    /// The chunk.
    pub chunk: ChunkId,
    /// What each list adds to the score: weight times value.
    pub parts: Vec<f64>,
}

impl Fused {
    /// The fused score: the sum of the parts in the order of the lists.
    pub fn score(&self) -> f32 {
        self.parts.iter().sum::<f64>() as f32
    }
}

impl Fusion {
    /// The usual `k0` of reciprocal rank fusion.
    pub const DEFAULT_K0: f32 = 60.0;

    /// The least observed score as minimum.
    pub const MIN_MAX: Self = Self::MinMax { minima: Vec::new() };

    /// Reciprocal rank fusion with `k0` = 60.
    pub const RECIPROCAL_RANK: Self = Self::ReciprocalRank { k0: Self::DEFAULT_K0 };

    /// The methods' names, as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 5] = ["min-max", "z-score", "distribution-based", "reciprocal-rank", "auto"];

    /// The method's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MinMax { .. } => "min-max",
            Self::ZScore => "z-score",
            Self::DistributionBased => "distribution-based",
            Self::ReciprocalRank { .. } => "reciprocal-rank",
            Self::Auto => "auto",
        }
    }

    /// The weight of each of `n` lists when none are given.
    pub fn default_weights(&self, n: usize) -> Vec<f32> {
        let weight = match self {
            Self::MinMax { .. } | Self::ZScore | Self::Auto => 1.0 / n as f32,
            Self::DistributionBased | Self::ReciprocalRank { .. } => 1.0,
        };
        vec![weight; n]
    }

    /// The best `k` chunks of all lists by fused score; equal scores go by lower id.
    ///
    /// Only the first `depth` hits of each list are looked at. `weights` are used as they are, one a list; when empty,
    /// they are [`default_weights`](Self::default_weights).
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when weights or minima are not one a list; [`Error::Invalid`] when one of them, or `k0`, is
    /// outside of its domain.
    pub fn fuse(&self, lists: &[&Ranking], weights: &[f32], depth: usize, k: usize) -> Result<Ranking> {
        let fused = self.contributions(lists, weights, depth)?;
        Ranking::best(fused.iter().map(|chunk| Hit::new(chunk.chunk, chunk.score())).collect(), k)
    }

    /// Every chunk of the lists, in order of id, with what each list adds to its fused score.
    ///
    /// # Errors
    ///
    /// As [`fuse`](Self::fuse).
    pub fn contributions(&self, lists: &[&Ranking], weights: &[f32], depth: usize) -> Result<Vec<Fused>> {
        self.validate(lists.len(), weights)?;
        let default_weights;
        let weights = if weights.is_empty() {
            default_weights = self.default_weights(lists.len());
            &default_weights
        } else {
            weights
        };
        let heads: Vec<&[Hit]> = lists.iter().map(|list| &list.hits()[..depth.min(list.len())]).collect();
        let mut chunks: Vec<ChunkId> = heads.iter().flat_map(|head| head.iter().map(|hit| hit.chunk)).collect();
        chunks.sort_unstable();
        chunks.dedup();
        let mut fused: Vec<_> =
            chunks.iter().map(|&chunk| Fused { chunk, parts: Vec::with_capacity(lists.len()) }).collect();
        let mut weights: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
        let values = heads.iter().enumerate().map(|(i, head)| self.values(i, head)).collect::<Result<Vec<_>>>()?;
        if matches!(self, Self::Auto) {
            auto::reweigh(&mut weights, &values);
        }
        for (i, ((head, values), weight)) in heads.iter().zip(&values).zip(weights).enumerate() {
            for chunk in &mut fused {
                chunk.parts.push(weight * values.absent);
            }
            for (hit, value) in head.iter().zip(&values.present) {
                let place = chunks.binary_search(&hit.chunk).expect("every hit's chunk was collected");
                fused[place].parts[i] = weight * value;
            }
        }
        Ok(fused)
    }

    /// Checks the parameters against the number of lists.
    ///
    /// # Errors
    ///
    /// As [`fuse`](Self::fuse).
    pub fn validate(&self, n_lists: usize, weights: &[f32]) -> Result<()> {
        if !weights.is_empty() && weights.len() != n_lists {
            return Err(Error::Shape { what: "fusion weights", expected: n_lists, found: weights.len() });
        }
        if let Some(weight) = weights.iter().find(|&&weight| !(weight.is_finite() && weight >= 0.0)) {
            return Err(invalid("weight", format!("{weight} is not a finite number of at least 0")));
        }
        if !weights.is_empty() && weights.iter().all(|&weight| weight == 0.0) {
            return Err(invalid("weight", "none is above 0".to_owned()));
        }
        match self {
            Self::MinMax { minima } if !minima.is_empty() && minima.len() != n_lists => {
                Err(Error::Shape { what: "fusion minima", expected: n_lists, found: minima.len() })
            }
            Self::MinMax { minima } if minima.iter().any(|min| !min.is_finite()) => {
                Err(Error::NotFinite { what: "fusion minimum" })
            }
            Self::ReciprocalRank { k0 } if !(k0.is_finite() && *k0 >= 0.0) => {
                Err(invalid("k0", format!("{k0} is not a finite number of at least 0")))
            }
            _ => Ok(()),
        }
    }

    /// The values of the `i`-th list.
    fn values(&self, i: usize, hits: &[Hit]) -> Result<Values> {
        let scores = || hits.iter().map(|hit| f64::from(hit.score)).collect::<Vec<_>>();
        Ok(match self {
            Self::MinMax { minima } => min_max::values(&scores(), minima.get(i).map(|&min| f64::from(min)))?,
            Self::Auto => min_max::values(&scores(), None)?,
            Self::ZScore => z_score::values(&scores()),
            Self::DistributionBased => distribution_based::values(&scores()),
            Self::ReciprocalRank { k0 } => reciprocal_rank::values(hits.len(), f64::from(*k0)),
        })
    }
}

/// A parameter outside of its domain.
fn invalid(parameter: &str, problem: String) -> Error {
    Error::Invalid { what: "fusion", problem: format!("{parameter} {problem}") }
}

impl fmt::Display for Fusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fusion {
    type Err = Error;

    /// The method with this name and its usual parameters; `dbsf` and `rrf` are short for
    /// distribution-based and reciprocal rank.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "min-max" => Ok(Self::MIN_MAX),
            "z-score" => Ok(Self::ZScore),
            "distribution-based" | "dbsf" => Ok(Self::DistributionBased),
            "reciprocal-rank" | "rrf" => Ok(Self::RECIPROCAL_RANK),
            "auto" => Ok(Self::Auto),
            _ => Err(Error::Invalid {
                what: "fusion",
                problem: format!("no method `{name}`; there are {}", Self::NAMES.join(", ")),
            }),
        }
    }
}

/// Fuses the rankings of several retrievers for the same queries into the best `k` of each.
///
/// Takes what [`both`](crate::Stage::both) gives, nested or not, or a `Vec` of lists. Looks at whole lists with the
/// method's own weights until [`Fuse::depth`] and [`Fuse::weights`] say otherwise.
pub fn fuse(fusion: Fusion, k: usize) -> Fuse {
    Fuse { fusion, weights: Vec::new(), depth: usize::MAX, k }
}

/// Fusion as a stage; see [`fuse`].
#[derive(Clone, Debug)]
pub struct Fuse {
    fusion: Fusion,
    weights: Vec<f32>,
    depth: usize,
    k: usize,
}

impl Fuse {
    /// One weight for each list, used as it is.
    pub fn weights(self, weights: impl Into<Vec<f32>>) -> Self {
        Self { weights: weights.into(), ..self }
    }

    /// How many hits of each list count.
    pub fn depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }
}

impl<L: RankedLists> Stage<L> for Fuse {
    type Out = Vec<Ranked>;

    fn run(&self, lists: L) -> Result<Vec<Ranked>> {
        let mut batches = Vec::new();
        lists.collect_into(&mut batches);
        let n_queries = batches.first().map_or(0, Vec::len);
        if let Some(batch) = batches.iter().find(|batch| batch.len() != n_queries) {
            return Err(Error::Shape { what: "rankings to fuse", expected: n_queries, found: batch.len() });
        }
        (0..n_queries)
            .map(|i| {
                let rankings: Vec<&Ranking> = batches.iter().map(|batch| &batch[i].ranking).collect();
                let ranking = self.fusion.fuse(&rankings, &self.weights, self.depth, self.k)?;
                // What one list dropped may have come back by another, or have been dropped by both.
                let mut left_out: Vec<LeftOut> = Vec::new();
                for item in batches.iter().flat_map(|batch| &batch[i].left_out) {
                    if !left_out.contains(item) && ranking.position(item.chunk).is_none() {
                        left_out.push(*item);
                    }
                }
                Ok(Ranked { query: batches[0][i].query.clone(), ranking, left_out })
            })
            .collect()
    }

    fn name(&self) -> String {
        format!("fuse({}, {})", self.fusion, self.k)
    }
}

/// Lists of rankings of the same queries: a list, a `Vec` of lists, or a pair of either.
#[diagnostic::on_unimplemented(
    message = "this stage does not take `{Self}`",
    label = "takes lists of rankings, not `{Self}`",
    note = "put several retrievers together with `both` before `fuse`"
)]
pub trait RankedLists {
    /// Appends the lists to `batches`, in order.
    fn collect_into(self, batches: &mut Vec<Vec<Ranked>>);
}

impl RankedLists for Vec<Ranked> {
    fn collect_into(self, batches: &mut Vec<Self>) {
        batches.push(self);
    }
}

impl RankedLists for Vec<Vec<Ranked>> {
    fn collect_into(self, batches: &mut Self) {
        batches.extend(self);
    }
}

impl<A: RankedLists, B: RankedLists> RankedLists for (A, B) {
    fn collect_into(self, batches: &mut Vec<Vec<Ranked>>) {
        self.0.collect_into(batches);
        self.1.collect_into(batches);
    }
}

#[cfg(test)]
mod tests;
