//! What a model's work may cost, and what it did cost.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::SharedBudget;

/// What the work for one question may cost. It is looked at before each call of a model, so that one call may go beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Tokens that models may read and write.
    pub tokens: Option<usize>,
    /// How long it may take.
    pub time: Option<Duration>,
}

impl Budget {
    /// The narrower of this budget and an equal part, for each of `n` questions, of what the
    /// [current shared one](SharedBudget::current) leaves.
    #[must_use]
    pub fn within_shared(self, n: usize) -> Self {
        let (shared, n) = (SharedBudget::current(), n.max(1));
        Self {
            tokens: self.tokens.into_iter().chain(shared.tokens_left().map(|tokens| tokens / n)).min(),
            time: self.time.into_iter().chain(shared.time_left().map(|time| time / n as u32)).min(),
        }
    }
}

/// What the work for one question did cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Calls of models; texts that pass together are as many.
    pub calls: usize,
    /// Tokens that models read.
    pub tokens_read: usize,
    /// Tokens that models wrote.
    pub tokens_written: usize,
    /// Seconds.
    pub seconds: f64,
}

impl Cost {
    /// Tokens that were read and written.
    pub fn tokens(&self) -> usize {
        self.tokens_read.saturating_add(self.tokens_written)
    }
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        // No sum begins at 0 again.
        self.calls = self.calls.saturating_add(other.calls);
        self.tokens_read = self.tokens_read.saturating_add(other.tokens_read);
        self.tokens_written = self.tokens_written.saturating_add(other.tokens_written);
        self.seconds += other.seconds;
    }
}

/// Counts the cost of the work for one question against its budget.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    started: Instant,
    cost: Cost,
}

impl Meter {
    /// Starts the clock.
    pub fn start(budget: &Budget) -> Self {
        Self { budget: *budget, started: Instant::now(), cost: Cost::default() }
    }

    /// Whether a call may still be made that reads about so many tokens.
    pub fn allows(&self, n_tokens: usize) -> bool {
        self.budget.tokens.is_none_or(|tokens| self.cost.tokens().saturating_add(n_tokens) <= tokens)
            && self.budget.time.is_none_or(|time| self.started.elapsed() < time)
    }

    /// Takes down calls and their tokens.
    pub fn count(&mut self, calls: usize, tokens_read: usize, tokens_written: usize) {
        self.cost += Cost { calls, tokens_read, tokens_written, seconds: 0.0 };
    }

    /// Takes down what another part has cost; its time passed on this clock too.
    pub fn add(&mut self, cost: Cost) {
        self.cost += Cost { seconds: 0.0, ..cost };
    }

    /// What of the budget is left.
    pub fn left(&self) -> Budget {
        Budget {
            tokens: self.budget.tokens.map(|tokens| tokens.saturating_sub(self.cost.tokens())),
            time: self.budget.time.map(|time| time.saturating_sub(self.started.elapsed())),
        }
    }

    /// The cost until now.
    pub fn cost(&self) -> Cost {
        Cost { seconds: self.started.elapsed().as_secs_f64(), ..self.cost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_stops_at_its_budget() {
        let mut meter = Meter::start(&Budget { tokens: Some(10), time: None });
        assert!(meter.allows(10) && !meter.allows(11));
        meter.count(1, 6, 2);
        assert!(meter.allows(2) && !meter.allows(3));
        assert_eq!(meter.left().tokens, Some(2));
        assert_eq!((meter.cost().calls, meter.cost().tokens()), (1, 8));
        let late = Meter::start(&Budget { tokens: None, time: Some(Duration::ZERO) });
        assert!(!late.allows(0));
    }
}
