//! How a budget is best spent on one's own questions: DRAG's allocation model (Yue et al., 2024), measured and fitted.

use raglan_core::{Query, Ranking};
use raglan_multistep::{
    Allocation, AllocationModel, Demonstration, Measured, Parts, SelfAsk, SingleStep, Strategy, TokenCosts,
    best_allocation, without_answers,
};
use serde::Serialize;

use super::evaluate::{PageEvaluator, Shared};
use super::questions::PageQuestion;
use crate::{Error, Result};

/// The name of the questions in the fit.
const SET: &str = "questions";

/// What is allowed on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Allowance {
    /// Tokens of a question, over all calls.
    Tokens(f64),
    /// Seconds of a question, on this machine.
    Seconds(f64),
}

/// How a budget is best spent, and what says so.
#[derive(Clone, Debug, Serialize)]
pub struct Tuning {
    /// Every allocation that was measured, in order.
    pub measured: Vec<MeasuredAllocation>,
    /// The fit.
    pub model: AllocationModel,
    /// What passages, demonstrations and questions cost.
    pub costs: TokenCosts,
    /// Seconds a token, over all that was measured.
    pub seconds_a_token: f64,
    /// The tokens that are allowed.
    pub tokens_allowed: f64,
    /// What the fit says is best; none when the budget allows nothing.
    pub best: Option<Allocation>,
    /// What it expects of that, in standard deviations about the mean of what was measured.
    pub expected: Option<f64>,
    /// The best of what was measured within the budget.
    pub best_measured: Option<Allocation>,
}

/// An allocation and how well it did.
#[derive(Clone, Debug, Serialize)]
pub struct MeasuredAllocation {
    /// Passages, demonstrations, calls.
    pub allocation: Allocation,
    /// Mean token F1.
    pub f1: f64,
    /// Share of the answers that contain a right one.
    pub containment: f64,
    /// Tokens of a question, the mean.
    pub tokens: f64,
    /// Seconds of a question, the mean.
    pub seconds: f64,
}

/// All combinations of some passages, demonstrations and calls, with the three that the fit cannot do without.
pub fn allocation_grid(passages: &[usize], demonstrations: &[usize], calls: &[usize]) -> Vec<Allocation> {
    let mut grid = vec![Allocation::new(0, 0, 1), Allocation::new(1, 0, 1), Allocation::new(0, 1, 1)];
    for &k in passages {
        for &m in demonstrations {
            grid.extend(calls.iter().filter(|n| **n > 0).map(|&n| Allocation::new(k, m, n)));
        }
    }
    grid.sort_unstable();
    grid.dedup();
    grid
}

impl PageEvaluator<'_> {
    /// Measures each allocation on the questions, fits the model, and asks it what is best within an allowance.
    ///
    /// One call reads once; `n` calls ask up to `n − 1` follow-up questions before the answer. Demonstrations are made of
    /// `examples`, other questions with answers, and what they find; one that holds an answer of the question is left out.
    /// The metric is token F1, which tells more from few questions than whole answers do.
    ///
    /// # Errors
    ///
    /// As [`evaluate`](Self::evaluate); [`Error::Tune`] when there are fewer examples than demonstrations;
    /// [`raglan_multistep::Error::Fit`] when the measurements cannot be fitted.
    pub fn tune(
        &self,
        grid: &[Allocation],
        questions: &[PageQuestion],
        examples: &[PageQuestion],
        allowance: Allowance,
        on_question: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Tuning> {
        let most = grid.iter().map(|allocation| allocation.demonstrations).max().unwrap_or(0);
        let usable: Vec<&PageQuestion> = examples.iter().filter(|example| !example.answers.is_empty()).collect();
        if usable.len() < most {
            let problem = format!(
                "there are {} examples with answers, and {most} demonstrations to be made of them; give more questions \
                 with answers, or try fewer demonstrations (`--demonstrations`)",
                usable.len()
            );
            return Err(Error::Tune { problem });
        }
        let shared = self.shared(true, "tune")?;
        let parts = self.parts(&shared, "tune")?;
        let mut measured = Vec::with_capacity(grid.len());
        let mut done = 0;
        for &allocation in grid {
            let demonstrations = demonstrations(&usable, allocation, &shared)?;
            let mut results = Vec::with_capacity(questions.len());
            for question in questions {
                let answers: Vec<&str> = question.answers.iter().map(String::as_str).collect();
                let shown = without_answers(&demonstrations, &answers, allocation.demonstrations);
                let strategy = strategy(allocation, parts.clone(), shown);
                let one = std::slice::from_ref(question);
                let found = self.results(Some(&*strategy), one, &shared, &|_| Ok(None), &mut |_| true)?;
                done += 1;
                if found.is_empty() || !on_question(done) {
                    return Err(raglan_model::Error::Interrupted.into());
                }
                results.extend(found);
            }
            let found = self.sum_up("tune".to_owned(), questions, results);
            measured.push(MeasuredAllocation {
                allocation,
                f1: found.f1,
                containment: found.containment,
                tokens: found.tokens,
                seconds: found.seconds,
            });
        }
        fitted(measured, allowance)
    }
}

/// The best allocation by what was measured.
fn fitted(measured: Vec<MeasuredAllocation>, allowance: Allowance) -> Result<Tuning> {
    let list: Vec<Measured> = measured
        .iter()
        .map(|found| Measured { set: SET.to_owned(), allocation: found.allocation, value: found.f1 })
        .collect();
    let model = AllocationModel::fit(&list)?;
    let tokens_of = |k, m| {
        let wanted = Allocation::new(k, m, 1);
        measured.iter().find(|found| found.allocation == wanted).map_or(0.0, |found| found.tokens)
    };
    // The fit has seen to it that these three were measured.
    let question = tokens_of(0, 0);
    let costs = TokenCosts {
        question,
        passage: (tokens_of(1, 0) - question).max(0.0),
        demonstration: (tokens_of(0, 1) - question).max(0.0),
    };
    let total = |of: fn(&MeasuredAllocation) -> f64| measured.iter().map(of).sum::<f64>();
    let seconds_a_token = total(|found| found.seconds) / total(|found| found.tokens).max(1.0);
    let tokens_allowed = match allowance {
        Allowance::Tokens(tokens) => tokens,
        Allowance::Seconds(seconds) => seconds / seconds_a_token.max(f64::MIN_POSITIVE),
    };
    let grid: Vec<Allocation> = measured.iter().map(|found| found.allocation).collect();
    let best = best_allocation(&model, model.informativeness[SET], &grid, &costs, tokens_allowed);
    let affordable = measured.iter().filter(|found| found.tokens <= tokens_allowed);
    let best_measured = affordable.reduce(|best, next| {
        let order = next.f1.total_cmp(&best.f1).then(best.tokens.total_cmp(&next.tokens));
        if order.is_gt() { next } else { best }
    });
    Ok(Tuning {
        best: best.map(|(allocation, _)| allocation),
        expected: best.map(|(_, expected)| expected),
        best_measured: best_measured.map(|found| found.allocation),
        measured,
        model,
        costs,
        seconds_a_token,
        tokens_allowed,
    })
}

fn strategy(allocation: Allocation, parts: Parts, demonstrations: Vec<Demonstration>) -> Box<dyn Strategy> {
    let Allocation { passages: k, calls, .. } = allocation;
    match calls {
        0 | 1 => Box::new(SingleStep { demonstrations, ..SingleStep::new(parts, k) }),
        n => Box::new(SelfAsk { demonstrations, max_steps: n - 1, ..SelfAsk::new(parts, k) }),
    }
}

/// Examples with the passages that they find.
fn demonstrations(examples: &[&PageQuestion], allocation: Allocation, shared: &Shared) -> Result<Vec<Demonstration>> {
    let Allocation { passages: k, demonstrations: m, .. } = allocation;
    let mut made = Vec::new();
    for example in examples.iter().take(if m == 0 { 0 } else { examples.len() }) {
        let rankings = shared.sources.retriever.search(&[Query::new(&example.text)], k)?;
        let ids = rankings.first().map(Ranking::ids).unwrap_or_default();
        let mut passages: Vec<String> =
            shared.sources.store.chunks(&ids)?.into_iter().map(|chunk| chunk.text).collect();
        passages.reverse(); // The best last, as in the prompt itself.
        made.push(Demonstration {
            passages,
            question: example.text.clone(),
            answer: example.answers[0].clone(),
            ..Demonstration::default()
        });
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(k: usize, m: usize, n: usize, f1: f64, tokens: f64) -> MeasuredAllocation {
        let allocation = Allocation::new(k, m, n);
        MeasuredAllocation { allocation, f1, containment: f1, tokens, seconds: tokens / 100.0 }
    }

    #[test]
    fn a_budget_in_seconds_is_one_in_tokens() {
        let list = || {
            vec![
                measured(0, 0, 1, 0.1, 50.0),
                measured(1, 0, 1, 0.5, 150.0),
                measured(0, 1, 1, 0.2, 80.0),
                measured(5, 0, 1, 0.7, 550.0),
            ]
        };
        let tuned = fitted(list(), Allowance::Tokens(200.0)).unwrap();
        assert_eq!(tuned.costs, TokenCosts { passage: 100.0, demonstration: 30.0, question: 50.0 });
        assert_eq!((tuned.best, tuned.best_measured), (Some(Allocation::new(1, 0, 1)), tuned.best));
        let tuned = fitted(list(), Allowance::Seconds(6.0)).unwrap();
        assert!((tuned.tokens_allowed - 600.0).abs() <= 1e-6, "{}", tuned.tokens_allowed);
        assert_eq!(tuned.best, Some(Allocation::new(5, 0, 1)));
        let poor = fitted(list(), Allowance::Tokens(10.0)).unwrap();
        assert_eq!((poor.best, poor.expected, poor.best_measured), (None, None, None));
    }

    #[test]
    fn a_grid_has_what_the_fit_needs() {
        let grid = allocation_grid(&[0, 5], &[0], &[1, 2, 0]);
        let expected = [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (5, 0, 1), (5, 0, 2)];
        assert_eq!(grid, expected.map(|(k, m, n)| Allocation::new(k, m, n)));
    }
}
