//! What asking a model may cost, and does.

use std::time::{Duration, Instant};

use serde::Serialize;

/// What a task may cost that models are asked for. It is looked at before each call, so that one call may go beyond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// Tokens that the model may read and write.
    pub tokens: Option<usize>,
    /// How long it may take.
    pub time: Option<Duration>,
}

/// What a task did cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Calls of the model; texts that pass together are as many.
    pub calls: usize,
    /// Tokens that the model read.
    pub tokens_read: usize,
    /// Tokens that the model wrote.
    pub tokens_written: usize,
    /// Seconds.
    pub seconds: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.tokens_read += other.tokens_read;
        self.tokens_written += other.tokens_written;
        self.seconds += other.seconds;
    }
}

/// Counts a task's cost against its budget.
#[derive(Debug)]
pub struct Meter {
    budget: Budget,
    started: Instant,
    cost: Cost,
}

impl Meter {
    /// Begins to count.
    pub fn start(budget: &Budget) -> Self {
        Self { budget: *budget, started: Instant::now(), cost: Cost::default() }
    }

    /// Whether a call may still be made that reads about so many tokens.
    pub fn allows(&self, n_tokens: usize) -> bool {
        let spent = self.cost.tokens_read + self.cost.tokens_written;
        self.budget.tokens.is_none_or(|tokens| spent + n_tokens <= tokens)
            && self.budget.time.is_none_or(|time| self.started.elapsed() < time)
    }

    /// Counts calls and tokens.
    pub fn count(&mut self, calls: usize, tokens_read: usize, tokens_written: usize) {
        self.cost += Cost { calls, tokens_read, tokens_written, seconds: 0.0 };
    }

    /// Counts what another meter has counted, but for its time.
    pub fn add(&mut self, cost: Cost) {
        self.cost += Cost { seconds: 0.0, ..cost };
    }

    /// What of the budget is left.
    pub fn left(&self) -> Budget {
        let spent = self.cost.tokens_read + self.cost.tokens_written;
        Budget {
            tokens: self.budget.tokens.map(|tokens| tokens.saturating_sub(spent)),
            time: self.budget.time.map(|time| time.saturating_sub(self.started.elapsed())),
        }
    }

    /// What it has cost so far.
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
        let late = Meter::start(&Budget { tokens: None, time: Some(Duration::ZERO) });
        assert!(!late.allows(0));
    }
}
