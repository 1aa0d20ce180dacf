//! Few calls of an expensive judge over many candidates (after AXN and ADACUR; Yadav et al. 2022–2024).

use std::sync::Arc;

use raglan_core::{ChunkId, ChunkStore, ChunkVectors, DenseVector, Hit, Query, Ranking, Reranker};

use crate::{Budget, Error, Judge, Result, Task};

/// Judges candidates in rounds: what is known of scores so far is fitted by a linear function of the candidates' vectors,
/// and the next to be judged are those of which it expects most. In the end the judged come first, by their scores, and
/// then the others, by what is expected.
pub struct AdaptiveReranker<J> {
    judge: J,
    store: Arc<dyn ChunkStore>,
    vectors: Arc<dyn ChunkVectors>,
    budget: Budget,
    rounds: usize,
    per_round: usize,
}

/// What keeps the fit from following noise, relative to vectors of unit length.
const RIDGE: f64 = 1e-2;

impl<J: Judge> AdaptiveReranker<J> {
    /// A reranker that judges `per_round` candidates in each of `rounds` rounds, in the first of which they are the best of
    /// the first stage. The judge must give scores, and of the same scale in every round.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a number is 0.
    pub fn new(
        judge: J,
        store: Arc<dyn ChunkStore>,
        vectors: Arc<dyn ChunkVectors>,
        budget: Budget,
        rounds: usize,
        per_round: usize,
    ) -> Result<Self> {
        if rounds == 0 || per_round == 0 {
            let problem = format!("are {rounds} with {per_round} candidates each");
            return Err(Error::Parameter { name: "rounds", problem });
        }
        Ok(Self { judge, store, vectors, budget, rounds, per_round })
    }

    fn rerank_one(&self, query: &Query, ranking: &Ranking) -> raglan_core::Result<Ranking> {
        let ids = ranking.ids();
        let vectors = self.vectors.vectors(&ids)?;
        let vectors: Vec<&[f32]> = vectors.iter().map(DenseVector::as_slice).collect();
        let mut scores: Vec<Option<f32>> = vec![None; ids.len()];
        let mut expected: Vec<f64> = (0..ids.len()).map(|rank| -(rank as f64)).collect();
        for _ in 0..self.rounds {
            let mut open: Vec<usize> = (0..ids.len()).filter(|&i| scores[i].is_none()).collect();
            open.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
            open.truncate(self.per_round);
            if open.is_empty() {
                break;
            }
            let new = self.judged(query, &open.iter().map(|&i| ids[i]).collect::<Vec<_>>())?;
            let mut is_over = false;
            for (&i, score) in open.iter().zip(new) {
                is_over |= score.is_none();
                scores[i] = score.filter(|score| score.is_finite());
            }
            let known: Vec<(usize, f64)> =
                scores.iter().enumerate().filter_map(|(i, score)| Some((i, f64::from((*score)?)))).collect();
            if known.is_empty() || is_over {
                break;
            }
            expected = fit(&vectors, &known);
        }
        let mut judged: Vec<usize> = (0..ids.len()).filter(|&i| scores[i].is_some()).collect();
        judged.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).expect("they are numbers"));
        let mut open: Vec<usize> = (0..ids.len()).filter(|&i| scores[i].is_none()).collect();
        open.sort_by(|&a, &b| expected[b].total_cmp(&expected[a]));
        let n = ids.len() as f32;
        let order = judged.into_iter().chain(open).enumerate();
        Ranking::best(order.map(|(rank, i)| Hit::new(ids[i], (n - rank as f32) / n)).collect(), ids.len())
    }

    fn judged(&self, query: &Query, ids: &[ChunkId]) -> raglan_core::Result<Vec<Option<f32>>> {
        let texts: Vec<String> = self.store.chunks(ids)?.iter().map(|chunk| chunk.embedded_text(true)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let task = Task { question: &query.text, passages: &texts, chunks: ids };
        let judgements = self.judge.judge(&[task], &self.budget)?;
        match judgements.into_iter().next().map(|judgement| judgement.verdict) {
            Some(crate::Verdict::Scores(scores)) => Ok(scores),
            _ => Err(Error::Parameter { name: "judge", problem: "gives an order and no scores".to_owned() }.into()),
        }
    }
}

impl<J: Judge> Reranker for AdaptiveReranker<J> {
    fn rerank(&self, queries: &[Query], rankings: &[Ranking]) -> raglan_core::Result<Vec<Ranking>> {
        queries.iter().zip(rankings).map(|(query, ranking)| self.rerank_one(query, ranking)).collect()
    }
}

/// What a linear function through the known scores expects of every vector: ridge regression around their mean, in its
/// dual form, whose system has one equation for each known score.
fn fit(vectors: &[&[f32]], known: &[(usize, f64)]) -> Vec<f64> {
    let mean = known.iter().map(|(_, score)| score).sum::<f64>() / known.len() as f64;
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let n = known.len();
    let mut gram = vec![0.0; n * n];
    for (row, (i, _)) in known.iter().enumerate() {
        for (column, (j, _)) in known.iter().enumerate() {
            gram[row * n + column] = dot(vectors[*i], vectors[*j]) + if row == column { RIDGE } else { 0.0 };
        }
    }
    let mut weights: Vec<f64> = known.iter().map(|(_, score)| score - mean).collect();
    solve(&mut gram, &mut weights);
    let expect = |vector: &&[f32]| {
        mean + known.iter().zip(&weights).map(|((i, _), weight)| weight * dot(vectors[*i], vector)).sum::<f64>()
    };
    vectors.iter().map(expect).collect()
}

/// Solves a symmetric, positive definite system by Cholesky's decomposition; `right` becomes the solution.
fn solve(matrix: &mut [f64], right: &mut [f64]) {
    let n = right.len();
    for row in 0..n {
        for column in 0..=row {
            let products = (0..column).map(|k| matrix[row * n + k] * matrix[column * n + k]).sum::<f64>();
            let rest = matrix[row * n + column] - products;
            // Rounding may leave a pivot of nearly equal vectors at less than the ridge promises.
            matrix[row * n + column] =
                if row == column { rest.max(RIDGE * 1e-3).sqrt() } else { rest / matrix[column * n + column] };
        }
    }
    for row in 0..n {
        let known = (0..row).map(|k| matrix[row * n + k] * right[k]).sum::<f64>();
        right[row] = (right[row] - known) / matrix[row * n + row];
    }
    for row in (0..n).rev() {
        let known = (row + 1..n).map(|k| matrix[k * n + row] * right[k]).sum::<f64>();
        right[row] = (right[row] - known) / matrix[row * n + row];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_score_is_found_from_a_few() {
        let vectors: Vec<Vec<f32>> = (0..40)
            .map(|i| {
                let angle = i as f32 * 0.15;
                vec![angle.cos(), angle.sin()]
            })
            .collect();
        let vectors: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let score = |i: usize| f64::from(3.0 * vectors[i][0] - vectors[i][1]);
        let known: Vec<(usize, f64)> = [0, 9, 17, 25, 31].map(|i| (i, score(i))).to_vec();
        let expected = fit(&vectors, &known);
        let best = (0..40).max_by(|&a, &b| expected[a].total_cmp(&expected[b])).unwrap();
        let truly = (0..40).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
        assert!(best.abs_diff(truly) <= 1, "{best} is not {truly}");
    }

    #[test]
    fn equal_vectors_are_no_trouble() {
        let expected = fit(&[&[1.0, 0.0], &[1.0, 0.0], &[0.0, 1.0]], &[(0, 1.0), (1, 1.0)]);
        assert!(expected.iter().all(|score| (score - 1.0).abs() <= 1e-6));
    }
}
