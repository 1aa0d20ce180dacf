//! What a reranker is asked, and what it says.

use raglan_core::{Budget, ChunkId, Cost, Meter};

use crate::Result;

/// Tells which passages serve a question.
pub trait Judge: Send + Sync {
    /// A short name with the parameters that matter, such as `first(20/10)`.
    fn name(&self) -> String;

    /// Judges the passages of each task, in order of the tasks, within a budget for each.
    ///
    /// A judgement depends on its own task only.
    ///
    /// # Errors
    ///
    /// When the model fails. What it writes never is an error: a passage of which it says nothing is not judged.
    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>>;
}

impl<J: Judge + ?Sized> Judge for std::sync::Arc<J> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        (**self).judge(tasks, budget)
    }
}

/// A question and the passages that a first stage found for it, the best first.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The question.
    pub question: &'a str,
    /// The passages.
    pub passages: &'a [&'a str],
    /// The chunks that they are the texts of; none where they are other texts.
    pub chunks: &'a [ChunkId],
}

/// What a judge says of a task's passages.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Of which passage it thinks what.
    pub verdict: Verdict,
    /// What it cost.
    pub cost: Cost,
}

/// Scores or an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// A score for each passage, higher for better; none for those that were not judged.
    Scores(Vec<Option<f32>>),
    /// The places of the passages, best first. What is not named keeps its order behind those that are.
    Order(Vec<usize>),
}

impl Verdict {
    /// Every passage once, best first, each with a score: those of which a score is known by score, equal ones as they
    /// came, then the others as they came. A score that is not a number is none.
    ///
    /// The scores do not increase, whether the verdict has any or not.
    pub fn ranked(&self, n_passages: usize) -> Vec<(usize, f32)> {
        match self {
            Self::Scores(scores) => {
                let score = |i: usize| scores.get(i).copied().flatten().filter(|score| score.is_finite());
                let mut ranked: Vec<(usize, f32)> = (0..n_passages).filter_map(|i| Some((i, score(i)?))).collect();
                ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
                let mut least = ranked.last().map_or(0.0, |(_, score)| *score);
                for i in (0..n_passages).filter(|&i| score(i).is_none()) {
                    least = below(least);
                    ranked.push((i, least));
                }
                ranked
            }
            Self::Order(order) => {
                let mut is_named = vec![false; n_passages];
                let mut named: Vec<usize> = Vec::with_capacity(n_passages);
                for &i in order {
                    if is_named.get(i) == Some(&false) {
                        is_named[i] = true;
                        named.push(i);
                    }
                }
                named.extend((0..n_passages).filter(|&i| !is_named[i]));
                let scored = named.into_iter().enumerate();
                scored.map(|(rank, i)| (i, (n_passages - rank) as f32 / n_passages as f32)).collect()
            }
        }
    }
}

impl Judgement {
    /// A verdict with what the meter has counted.
    pub(crate) fn new(verdict: Verdict, meter: &Meter) -> Self {
        Self { verdict, cost: meter.cost() }
    }
}

/// A number that is less by far more than rounding.
fn below(score: f32) -> f32 {
    score - score.abs().max(1.0) * 1e-3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_passage_is_lost_or_comes_twice() {
        let order = Verdict::Order(vec![3, 3, 9, 0]);
        assert_eq!(order.ranked(4), [(3, 1.0), (0, 0.75), (1, 0.5), (2, 0.25)]);
        let scores = Verdict::Scores(vec![None, Some(f32::NAN), Some(-2.0), Some(1.0), Some(1.0)]);
        let ranked = scores.ranked(6);
        assert_eq!(ranked.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [3, 4, 2, 0, 1, 5]);
        assert!(ranked.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        assert!(ranked[2].1 > ranked[3].1 && ranked[4].1 > ranked[5].1);
        assert_eq!(Verdict::Order(Vec::new()).ranked(0), []);
    }
}
