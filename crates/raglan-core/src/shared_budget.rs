//! What stages may cost together.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::Cost;

/// Tokens and time that the stages of a piece of work share; clones share them too.
///
/// Work that is done [within](Self::within) a budget finds it as the [current](Self::current) one, on the same thread. A
/// part whose work costs tokens tells them, and does without what the budget no longer allows.
///
/// ```
/// use raglan_core::{Cost, SharedBudget};
///
/// let reads = |tokens_read| Cost { calls: 1, tokens_read, ..Cost::default() };
/// let budget = SharedBudget::new(Some(100), None);
/// let left = budget.within(|| {
///     SharedBudget::current().spend(reads(30));
///     let inside = SharedBudget::unlimited(); // Inside of the budget, and so at its cost.
///     inside.within(|| SharedBudget::current().spend(reads(50)));
///     assert_eq!(inside.spent(), reads(50));
///     SharedBudget::current().tokens_left()
/// });
/// assert_eq!(left, Some(20));
/// assert_eq!(SharedBudget::current().tokens_left(), None); // Without a budget there is no limit.
/// ```
#[derive(Clone, Debug, Default)]
pub struct SharedBudget {
    /// The limits of this budget and of those that it was made in; none when there are no limits.
    limits: Vec<Arc<Limits>>,
}

#[derive(Debug)]
struct Limits {
    tokens: Option<usize>,
    spent: Mutex<Cost>,
    end: Option<Instant>,
}

impl Limits {
    fn spent(&self) -> Cost {
        *self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

thread_local! {
    static CURRENT: RefCell<SharedBudget> = const { RefCell::new(SharedBudget { limits: Vec::new() }) };
}

impl SharedBudget {
    /// So many tokens and so much time from now on, inside of the current budget; `None` is no limit of its own.
    pub fn new(tokens: Option<usize>, time: Option<Duration>) -> Self {
        let mut limits = Self::current().limits;
        let end = time.and_then(|time| Instant::now().checked_add(time));
        limits.push(Arc::new(Limits { tokens, spent: Mutex::default(), end }));
        Self { limits }
    }

    /// The current budget, with a count of its own.
    pub fn unlimited() -> Self {
        Self::new(None, None)
    }

    /// The budget of the work that this thread is at.
    pub fn current() -> Self {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Does some work within this budget, on this thread.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        /// Puts the budget from before in place again, also after a panic.
        struct Before(SharedBudget);
        impl Drop for Before {
            fn drop(&mut self) {
                CURRENT.set(std::mem::take(&mut self.0));
            }
        }
        let _before = Before(CURRENT.replace(self.clone()));
        work()
    }

    /// Takes off what a model's work cost.
    pub fn spend(&self, cost: Cost) {
        for limits in &self.limits {
            *limits.spent.lock().unwrap_or_else(PoisonError::into_inner) += cost;
        }
    }

    /// What was spent of this budget since it was made; nothing of the one that all work has which is in no other.
    pub fn spent(&self) -> Cost {
        self.limits.last().map(|limits| limits.spent()).unwrap_or_default()
    }

    /// How many tokens may still be spent; `None` without a limit.
    pub fn tokens_left(&self) -> Option<usize> {
        let left = |limits: &Arc<Limits>| Some(limits.tokens?.saturating_sub(limits.spent().tokens()));
        self.limits.iter().filter_map(left).min()
    }

    /// How much time is left; `None` without a limit.
    pub fn time_left(&self) -> Option<Duration> {
        let end = self.limits.iter().filter_map(|limits| limits.end).min()?;
        Some(end.saturating_duration_since(Instant::now()))
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        self.limits.iter().any(|limits| limits.tokens.is_some() || limits.end.is_some())
    }

    /// Whether nothing is left of tokens or time.
    pub fn is_spent(&self) -> bool {
        self.tokens_left() == Some(0) || self.time_left() == Some(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_budget_counts_and_all_pay() {
        let outer = SharedBudget::new(Some(10), None);
        let inner = outer.within(|| SharedBudget::new(Some(100), None));
        let reads = |tokens_read| Cost { calls: 1, tokens_read, ..Cost::default() };
        inner.spend(reads(4));
        assert_eq!((outer.tokens_left(), inner.tokens_left()), (Some(6), Some(6)));
        inner.spend(reads(usize::MAX));
        inner.spend(reads(1));
        assert_eq!(outer.tokens_left(), Some(0));
        assert_eq!((outer.spent().calls, SharedBudget::current().spent()), (3, Cost::default()));
        assert!(outer.is_spent() && inner.is_spent());
    }

    #[test]
    fn time_runs_out() {
        let budget = SharedBudget::new(None, Some(Duration::ZERO));
        assert!(budget.is_spent() && budget.is_limited());
        assert!(!SharedBudget::new(None, Some(Duration::from_secs(1000))).is_spent());
        assert!(!SharedBudget::unlimited().is_limited());
    }

    #[test]
    fn a_panic_does_not_leave_its_budget_behind() {
        let budget = SharedBudget::new(Some(1), None);
        let work = || budget.within(|| panic!("on purpose"));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_err();
        assert!(!SharedBudget::current().is_limited());
    }
}
