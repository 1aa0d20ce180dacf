use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// A measure of one query's ranking, as `trec_eval` defines it.
///
/// A document is relevant when its grade is at least 1; one without a grade is not. `R` is the number of relevant
/// documents of the query, retrieved or not; `k` cuts the ranking, and `None` takes all of it. A query without relevant
/// documents scores 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Metric {
    /// `DCG@k / ideal DCG@k` with `DCG@k = Σ_{i ≤ k} gain_i / log2(i + 1)`: the gain is the grade itself, and nothing
    /// for a grade below 1. `ndcg_cut` and `ndcg` of `trec_eval`.
    Ndcg {
        /// How many documents count.
        k: Option<usize>,
    },
    /// The relevant documents among the first `k`, over `R`.
    Recall {
        /// How many documents count.
        k: usize,
    },
    /// The relevant documents among the first `k`, over `k` even when fewer were retrieved.
    Precision {
        /// How many documents count.
        k: usize,
    },
    /// Average precision: the precision at the rank of each relevant document among the first `k`, summed, over `R`.
    /// `map_cut` and `map` of `trec_eval`.
    Map {
        /// How many documents count.
        k: Option<usize>,
    },
    /// One over the rank of the first relevant document, 0 when it is beyond `k`.
    ReciprocalRank {
        /// How many documents count.
        k: Option<usize>,
    },
    /// The relevant documents among the first `R`, over `R`. `Rprec` of `trec_eval`.
    RPrecision,
    /// 1 when a relevant document is among the first `k`, else 0.
    Success {
        /// How many documents count.
        k: usize,
    },
    /// The relevant documents among the first `k`, over the most that there can be, `min(R, k)`: BEIR's `R_cap`.
    CappedRecall {
        /// How many documents count.
        k: usize,
    },
    /// The documents among the first `k` that were judged for no query at all, over `k`: BEIR's `Hole`. The more there
    /// are, the less the other figures say.
    Hole {
        /// How many documents count.
        k: usize,
    },
}

/// A query's ranking as metrics see it.
pub(crate) struct Judged<'a> {
    /// The grades of the documents, best first, with 0 where nothing was judged.
    pub(crate) grades: &'a [i32],
    /// The query's grades of at least 1, descending.
    pub(crate) ideal: &'a [i32],
    /// Which of the documents were judged for no query; empty unless [`Metric::Hole`] is wanted.
    pub(crate) holes: &'a [bool],
}

impl Metric {
    /// Whether less is better: of holes, documents that nobody has judged.
    pub fn is_better_low(self) -> bool {
        matches!(self, Self::Hole { .. })
    }

    /// How far a ranking must be known for a query with `n_relevant` relevant documents.
    pub(crate) fn depth(self, n_relevant: usize) -> usize {
        match self {
            Self::Ndcg { k } | Self::Map { k } | Self::ReciprocalRank { k } => k.unwrap_or(usize::MAX),
            Self::Recall { k }
            | Self::Precision { k }
            | Self::Success { k }
            | Self::CappedRecall { k }
            | Self::Hole { k } => k,
            Self::RPrecision => n_relevant,
        }
    }

    /// The value of one query, whose ranking is known to [`Metric::depth`] at least.
    pub(crate) fn of(self, ranking: &Judged<'_>) -> f64 {
        let Judged { grades, ideal, holes } = *ranking;
        if let Self::Hole { k } = self {
            return holes.iter().take(k).filter(|&&hole| hole).count() as f64 / k as f64;
        }
        if ideal.is_empty() {
            return 0.0;
        }
        let n_relevant = ideal.len() as f64;
        let hits = |k: usize| cut(grades, Some(k)).iter().filter(|&&grade| grade >= 1).count() as f64;
        match self {
            Self::Ndcg { k } => dcg(cut(grades, k)) / dcg(cut(ideal, k)),
            Self::Recall { k } => hits(k) / n_relevant,
            Self::Precision { k } => hits(k) / k as f64,
            Self::Map { k } => {
                let ranks = relevant_ranks(cut(grades, k));
                ranks.enumerate().map(|(i, rank)| (i + 1) as f64 / rank as f64).sum::<f64>() / n_relevant
            }
            Self::ReciprocalRank { k } => relevant_ranks(cut(grades, k)).next().map_or(0.0, |rank| 1.0 / rank as f64),
            Self::RPrecision => hits(ideal.len()) / n_relevant,
            Self::Success { k } => hits(k).min(1.0),
            Self::CappedRecall { k } => hits(k) / ideal.len().min(k) as f64,
            Self::Hole { .. } => unreachable!("holes were counted above"),
        }
    }
}

fn cut(grades: &[i32], k: Option<usize>) -> &[i32] {
    &grades[..k.unwrap_or(usize::MAX).min(grades.len())]
}

/// The ranks, from 1, of the relevant documents.
fn relevant_ranks(grades: &[i32]) -> impl Iterator<Item = usize> {
    grades.iter().enumerate().filter(|(_, grade)| **grade >= 1).map(|(i, _)| i + 1)
}

fn dcg(grades: &[i32]) -> f64 {
    relevant_ranks(grades).map(|rank| f64::from(grades[rank - 1]) / ((rank + 1) as f64).log2()).sum()
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, k) = match *self {
            Self::Ndcg { k } => ("ndcg", k),
            Self::Recall { k } => ("recall", Some(k)),
            Self::Precision { k } => ("p", Some(k)),
            Self::Map { k } => ("map", k),
            Self::ReciprocalRank { k } => ("mrr", k),
            Self::RPrecision => ("rprec", None),
            Self::Success { k } => ("success", Some(k)),
            Self::CappedRecall { k } => ("r_cap", Some(k)),
            Self::Hole { k } => ("hole", Some(k)),
        };
        match k {
            Some(k) => write!(f, "{name}@{k}"),
            None => f.write_str(name),
        }
    }
}

/// Reads what `Display` writes, in any case, `precision@K` for `p@K`, and `r-precision` for `rprec`.
impl FromStr for Metric {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || Error::UnknownMetric { name: text.to_owned() };
        let (name, k) = match text.split_once('@') {
            Some((name, k)) => (name, Some(k.parse().ok().filter(|&k| k >= 1).ok_or_else(unknown)?)),
            None => (text, None),
        };
        match (name.to_ascii_lowercase().as_str(), k) {
            ("ndcg", k) => Ok(Self::Ndcg { k }),
            ("recall", Some(k)) => Ok(Self::Recall { k }),
            ("p" | "precision", Some(k)) => Ok(Self::Precision { k }),
            ("map", k) => Ok(Self::Map { k }),
            ("mrr", k) => Ok(Self::ReciprocalRank { k }),
            ("rprec" | "r-precision", None) => Ok(Self::RPrecision),
            ("success", Some(k)) => Ok(Self::Success { k }),
            ("r_cap", Some(k)) => Ok(Self::CappedRecall { k }),
            ("hole", Some(k)) => Ok(Self::Hole { k }),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for name in [
            "ndcg@10",
            "ndcg",
            "recall@100",
            "p@5",
            "map",
            "map@100",
            "mrr",
            "mrr@10",
            "rprec",
            "success@5",
            "r_cap@100",
            "hole@10",
        ] {
            assert_eq!(name.parse::<Metric>().expect("a metric").to_string(), name);
        }
        assert_eq!("NDCG@10".parse::<Metric>().expect("a metric"), Metric::Ndcg { k: Some(10) });
        assert_eq!("precision@3".parse::<Metric>().expect("a metric"), Metric::Precision { k: 3 });
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "recall", "p", "ndcg@", "ndcg@0", "ndcg@-1", "ndcg@ten", "f1@10", "@10", "rprec@5", "hole"] {
            assert!(
                matches!(name.parse::<Metric>(), Err(Error::UnknownMetric { name: told }) if told == name),
                "{name}"
            );
        }
    }
}
