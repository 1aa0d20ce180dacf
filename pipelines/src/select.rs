//! Stages that shorten rankings.

use std::collections::HashSet;

use raglan_core::{ChunkId, Error, LeftOutReason, Result};

use crate::{Ranked, Stage};

/// Keeps the first `k` hits of each ranking.
pub fn select(k: usize) -> Select {
    Select { k }
}

/// Keeps the head of rankings; see [`select`].
#[derive(Clone, Copy, Debug)]
pub struct Select {
    k: usize,
}

impl Stage<Vec<Ranked>> for Select {
    type Out = Vec<Ranked>;

    fn run(&self, batch: Vec<Ranked>) -> Result<Vec<Ranked>> {
        Ok(batch.into_iter().map(|item| Ranked { ranking: item.ranking.truncated(self.k), ..item }).collect())
    }

    fn name(&self) -> String {
        format!("select({})", self.k)
    }
}

/// Keeps the hits with at least this score; the others are left out as irrelevant.
///
/// The score must mean the same for every query, as a cosine does; normalised fused scores do not, see [`gate`].
pub fn min_score(score: f32) -> MinScore {
    MinScore { score }
}

/// Keeps hits by their scores; see [`min_score`].
#[derive(Clone, Copy, Debug)]
pub struct MinScore {
    score: f32,
}

impl Stage<Vec<Ranked>> for MinScore {
    type Out = Vec<Ranked>;

    fn run(&self, mut batch: Vec<Ranked>) -> Result<Vec<Ranked>> {
        for item in &mut batch {
            item.retain(LeftOutReason::Irrelevant, |hit| hit.score >= self.score);
        }
        Ok(batch)
    }

    fn name(&self) -> String {
        format!("min_score({})", self.score)
    }
}

/// Keeps a chunk of the first list when at least one list of evidence scores it high enough.
///
/// A fused score says how a chunk stands among the others of its query, not whether it is relevant; the retrievers'
/// own scores do. `min_scores` holds one threshold for each list of evidence. What is dropped is left out as irrelevant.
///
/// The stage takes `(Vec<Ranked>, Vec<Vec<Ranked>>)`: the rankings, and the lists of evidence.
pub fn gate(min_scores: impl Into<Vec<f32>>) -> Gate {
    Gate { min_scores: min_scores.into() }
}

/// Keeps chunks by the evidence for them; see [`gate`].
#[derive(Clone, Debug)]
pub struct Gate {
    min_scores: Vec<f32>,
}

impl Stage<(Vec<Ranked>, Vec<Vec<Ranked>>)> for Gate {
    type Out = Vec<Ranked>;

    fn run(&self, (mut batch, evidence): (Vec<Ranked>, Vec<Vec<Ranked>>)) -> Result<Vec<Ranked>> {
        if evidence.len() != self.min_scores.len() {
            return Err(Error::Shape {
                what: "lists of evidence",
                expected: self.min_scores.len(),
                found: evidence.len(),
            });
        }
        if let Some(list) = evidence.iter().find(|list| list.len() != batch.len()) {
            return Err(Error::Shape { what: "rankings of evidence", expected: batch.len(), found: list.len() });
        }
        for (i, item) in batch.iter_mut().enumerate() {
            let supported: HashSet<ChunkId> = evidence
                .iter()
                .zip(&self.min_scores)
                .flat_map(|(list, &min)| list[i].ranking.hits().iter().filter(move |hit| hit.score >= min))
                .map(|hit| hit.chunk)
                .collect();
            item.retain(LeftOutReason::Irrelevant, |hit| supported.contains(&hit.chunk));
        }
        Ok(batch)
    }

    fn name(&self) -> String {
        format!("gate({:?})", self.min_scores)
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::{Hit, LeftOut, Ranking};

    use super::*;

    fn ranked(hits: &[(u32, f32)]) -> Ranked {
        let hits: Vec<_> = hits.iter().map(|&(id, score)| Hit::new(ChunkId(id), score)).collect();
        let k = hits.len();
        Ranked::new("q".into(), Ranking::best(hits, k).unwrap())
    }

    fn irrelevant(id: u32) -> LeftOut {
        LeftOut { chunk: ChunkId(id), reason: LeftOutReason::Irrelevant }
    }

    #[test]
    fn low_scores_are_left_out_and_said_so() {
        let kept = min_score(0.5).run(vec![ranked(&[(1, 0.9), (2, 0.5), (3, 0.4)]), ranked(&[])]).unwrap();
        assert_eq!(kept[0].ranking.ids(), [ChunkId(1), ChunkId(2)]);
        assert_eq!(kept[0].left_out, [irrelevant(3)]);
        assert!(kept[1].ranking.is_empty() && kept[1].left_out.is_empty());
    }

    #[test]
    fn one_list_of_evidence_is_enough() {
        let fused = vec![ranked(&[(1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7)])];
        let bm25 = vec![ranked(&[(1, 9.0), (3, 1.0)])];
        let dense = vec![ranked(&[(2, 0.4), (3, 0.1), (4, 0.3)])];
        let kept = gate([5.0, 0.3]).run((fused, vec![bm25, dense])).unwrap();
        assert_eq!(kept[0].ranking.ids(), [1, 2, 4].map(ChunkId));
        assert_eq!(kept[0].left_out, [irrelevant(3)]);
    }

    #[test]
    fn evidence_of_another_shape_is_refused() {
        let fused = vec![ranked(&[(1, 1.0)])];
        assert!(gate([0.5]).run((fused.clone(), vec![])).is_err());
        assert!(gate([0.5]).run((fused, vec![vec![]])).is_err());
    }
}
