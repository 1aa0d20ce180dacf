//! Ways to put stages together that look at each item of a batch.

use std::time::Duration;

use raglan_core::{Result, SharedBudget};

use crate::Stage;
use crate::batch::{self, Retry};
use crate::cache::{Cache, Content};

/// Sends each item of a batch one of two ways: `Vec<T>` → `Vec<U>`, in the items' order.
///
/// Both ways give the same, or the program does not compile:
///
/// ```compile_fail,E0271
/// use raglan_core::{ChunkStore, Retriever};
/// use raglan_pipeline::{Ranked, Stage, read, retrieve, select};
///
/// fn search(bm25: &dyn Retriever, store: &dyn ChunkStore) {
///     retrieve(bm25, 10).branch(|found: &Ranked| found.ranking.is_empty(), select(3), read(store));
/// }
/// ```
pub fn branch<T, U, P, A, B>(test: P, yes: A, no: B) -> Branch<P, A, B>
where
    P: Fn(&T) -> bool + Send + Sync,
    A: Stage<Vec<T>, Out = Vec<U>>,
    B: Stage<Vec<T>, Out = Vec<U>>,
{
    Branch { test, yes, no }
}

/// Two ways for the items of a batch; see [`branch`].
#[derive(Clone, Debug)]
pub struct Branch<P, A, B> {
    test: P,
    yes: A,
    no: B,
}

impl<T, U, P, A, B> Stage<Vec<T>> for Branch<P, A, B>
where
    P: Fn(&T) -> bool + Send + Sync,
    A: Stage<Vec<T>, Out = Vec<U>>,
    B: Stage<Vec<T>, Out = Vec<U>>,
{
    type Out = Vec<U>;

    fn run(&self, batch: Vec<T>) -> Result<Vec<U>> {
        batch::either(batch, &self.test, |items| self.yes.run(items), |items| self.no.run(items))
    }

    fn name(&self) -> String {
        format!("({} | {})", self.yes.name(), self.no.name())
    }
}

/// Repeats a stage from `Vec<T>` to `Vec<T>`: an item leaves when it is done, which is asked before each round, after
/// `times` rounds, or when the [`SharedBudget`] is spent.
pub fn repeat<T, P, S>(body: S, times: usize, is_done: P) -> Repeat<S, P>
where
    P: Fn(&T) -> bool + Send + Sync,
    S: Stage<Vec<T>, Out = Vec<T>>,
{
    Repeat { body, times, is_done }
}

/// A bounded loop; see [`repeat`].
#[derive(Clone, Debug)]
pub struct Repeat<S, P> {
    body: S,
    times: usize,
    is_done: P,
}

impl<T, P, S> Stage<Vec<T>> for Repeat<S, P>
where
    P: Fn(&T) -> bool + Send + Sync,
    S: Stage<Vec<T>, Out = Vec<T>>,
{
    type Out = Vec<T>;

    fn run(&self, batch: Vec<T>) -> Result<Vec<T>> {
        batch::repeat(batch, self.times, &self.is_done, |items| self.body.run(items))
    }

    fn name(&self) -> String {
        format!("({}) ×{}", self.body.name(), self.times)
    }
}

/// A stage, and another for the items that it fails on or has no good result for; see [`Stage::or_else`].
#[derive(Clone, Debug)]
pub struct Fallback<A, B, P> {
    pub(crate) first: A,
    pub(crate) is_good: P,
    pub(crate) second: B,
}

impl<T, U, A, B, P> Stage<Vec<T>> for Fallback<A, B, P>
where
    T: Clone,
    A: Stage<Vec<T>, Out = Vec<U>>,
    B: Stage<Vec<T>, Out = Vec<U>>,
    P: Fn(&U) -> bool + Send + Sync,
{
    type Out = Vec<U>;

    fn run(&self, batch: Vec<T>) -> Result<Vec<U>> {
        batch::fall_back(batch, |items| self.first.run(items), &self.is_good, |items| self.second.run(items))
    }

    fn name(&self) -> String {
        format!("({} else {})", self.first.name(), self.second.name())
    }
}

/// A stage that keeps what it gave; see [`Stage::cached`].
pub struct Cached<S, U> {
    stage: S,
    cache: Cache<U>,
}

impl<S, U: Clone> Cached<S, U> {
    pub(crate) fn new(stage: S, entries: usize) -> Self {
        Self { stage, cache: Cache::new(entries) }
    }
}

impl<T, U, S> Stage<Vec<T>> for Cached<S, U>
where
    T: Content,
    U: Clone + Send,
    S: Stage<Vec<T>, Out = Vec<U>>,
{
    type Out = Vec<U>;

    fn run(&self, batch: Vec<T>) -> Result<Vec<U>> {
        self.cache.through(batch, |_| true, |items| self.stage.run(items))
    }

    fn name(&self) -> String {
        format!("cached({})", self.stage.name())
    }
}

/// A stage that is tried again; see [`Stage::retried`].
#[derive(Clone, Debug)]
pub struct Retried<S> {
    pub(crate) stage: S,
    pub(crate) retry: Retry,
}

impl<T: Clone, U, S: Stage<Vec<T>, Out = Vec<U>>> Stage<Vec<T>> for Retried<S> {
    type Out = Vec<U>;

    fn run(&self, batch: Vec<T>) -> Result<Vec<U>> {
        batch::retry(&self.retry, batch, |_| true, |items| self.stage.run(items))
    }

    fn name(&self) -> String {
        format!("retried({})", self.stage.name())
    }
}

/// A stage with a budget of its own; see [`Stage::within`].
#[derive(Clone, Debug)]
pub struct Within<S> {
    pub(crate) stage: S,
    pub(crate) tokens: Option<usize>,
    pub(crate) time: Option<Duration>,
}

impl<In, S: Stage<In>> Stage<In> for Within<S> {
    type Out = S::Out;

    fn run(&self, input: In) -> Result<S::Out> {
        SharedBudget::new(self.tokens, self.time).within(|| self.stage.run(input))
    }

    fn name(&self) -> String {
        format!("within({})", self.stage.name())
    }
}

/// A stage whose runs are spans; see [`Stage::traced`].
#[derive(Clone, Debug)]
pub struct Traced<S> {
    pub(crate) stage: S,
    pub(crate) name: String,
}

impl<In, S: Stage<In>> Stage<In> for Traced<S> {
    type Out = S::Out;

    fn run(&self, input: In) -> Result<S::Out> {
        tracing::info_span!("stage", name = self.name).in_scope(|| self.stage.run(input))
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use raglan_core::{Cost, Error, Query};

    use super::*;
    use crate::stage;

    fn add(n: i32) -> impl Stage<Vec<i32>, Out = Vec<i32>> {
        stage(format!("add {n}"), move |batch: Vec<i32>| Ok(batch.into_iter().map(|x| x + n).collect()))
    }

    fn broken() -> Error {
        Error::part("test", std::io::Error::other("the line is dead"))
    }

    #[test]
    fn each_item_goes_its_way_and_the_order_stays() {
        let graph = add(0).branch(|x: &i32| x % 2 == 0, add(100), add(1));
        assert_eq!(graph.run(vec![1, 2, 3, 4, 5]).unwrap(), [2, 102, 4, 104, 6]);
        assert_eq!(graph.run(vec![]).unwrap(), Vec::<i32>::new());
        assert_eq!(graph.name(), "add 0 → (add 100 | add 1)");
    }

    #[test]
    fn a_way_that_loses_an_item_is_refused() {
        let loses = stage("loses", |batch: Vec<i32>| Ok(batch.into_iter().skip(1).collect::<Vec<_>>()));
        assert!(matches!(
            branch(|_: &i32| true, loses, add(0)).run(vec![1]),
            Err(Error::Shape { expected: 1, found: 0, .. })
        ));
    }

    #[test]
    fn a_loop_ends_for_each_item_by_itself() {
        let graph = repeat(add(3), 4, |x: &i32| *x >= 10);
        // 10 is done before the first round; 1 → 4 → 7 → 10; −9 is not done after four rounds.
        assert_eq!(graph.run(vec![10, 1, -9]).unwrap(), [10, 10, 3]);
        assert_eq!(repeat(add(3), 0, |_: &i32| false).run(vec![1]).unwrap(), [1]);
    }

    #[test]
    fn a_loop_does_not_begin_a_round_without_budget() {
        let spends = stage("spends", |batch: Vec<i32>| {
            SharedBudget::current().spend(Cost { tokens_read: 5, ..Cost::default() });
            Ok(batch.into_iter().map(|x| x + 1).collect::<Vec<_>>())
        });
        let graph = repeat(spends, 100, |_: &i32| false).within(Some(12), None);
        assert_eq!(graph.run(vec![0]).unwrap(), [3]); // 5, 10, 15 tokens
        assert_eq!(graph.run(vec![0]).unwrap(), [3]); // Each run has the whole budget.
    }

    #[test]
    fn the_fallback_serves_what_failed_and_what_is_not_good() {
        let graph = add(1).or_else(|x: &i32| *x > 2, add(1000));
        assert_eq!(graph.run(vec![1, 2, 3]).unwrap(), [1001, 3, 4]);
        let fails = stage("fails", |_: Vec<i32>| Err::<Vec<i32>, _>(broken()));
        assert_eq!(fails.or_else(|_: &i32| true, add(5)).run(vec![1, 2]).unwrap(), [6, 7]);
        let stops = stage("stops", |_: Vec<i32>| Err::<Vec<i32>, _>(Error::Interrupted));
        assert!(matches!(stops.or_else(|_: &i32| true, add(5)).run(vec![1]), Err(Error::Interrupted)));
    }

    #[test]
    fn a_cached_stage_works_once_for_equal_content() {
        let seen = AtomicUsize::new(0);
        let lengths = stage("lengths", |batch: Vec<Query>| {
            seen.fetch_add(batch.len(), Ordering::Relaxed);
            Ok(batch.into_iter().map(|query| query.text.len()).collect::<Vec<_>>())
        });
        let graph = lengths.cached(2);
        let run = |texts: &[&str]| graph.run(texts.iter().map(|&text| text.into()).collect()).unwrap();
        assert_eq!(run(&["a", "bb", "a"]), [1, 2, 1]);
        assert_eq!(seen.load(Ordering::Relaxed), 2);
        assert_eq!(run(&["bb"]), [2]); // Kept, and from now on younger than "a".
        assert_eq!(run(&["ccc", "bb"]), [3, 2]);
        assert_eq!(seen.load(Ordering::Relaxed), 3);
        assert_eq!(run(&["a"]), [1]); // It had to go.
        assert_eq!(seen.load(Ordering::Relaxed), 4);
        let among = Query::new("a").among(std::sync::Arc::new([raglan_core::ChunkId(1)].into_iter().collect()));
        graph.run(vec![among]).unwrap(); // The same words over other chunks are another question.
        assert_eq!(seen.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn attempts_end_with_success_their_number_or_an_error_that_stays() {
        let check = |fails_first: usize, attempts: usize, error: Error| {
            let runs = AtomicUsize::new(0);
            let stage = stage("flaky", |batch: Vec<i32>| match runs.fetch_add(1, Ordering::Relaxed) {
                run if run < fails_first => Err(error.clone()),
                _ => Ok(batch),
            });
            let retry = Retry { attempts, wait: Duration::ZERO, deadline: None };
            let is_ok = stage.retried(retry).run(vec![1]).is_ok();
            (is_ok, runs.load(Ordering::Relaxed))
        };
        assert_eq!(check(2, 3, broken()), (true, 3));
        assert_eq!(check(3, 3, broken()), (false, 3));
        assert_eq!(check(1, 0, broken()), (false, 1));
        assert_eq!(check(1, 3, Error::NotFinite { what: "score" }), (false, 1));
    }

    #[test]
    fn no_attempt_begins_after_the_deadline() {
        let runs = AtomicUsize::new(0);
        let fails = stage("fails", |_: Vec<i32>| {
            runs.fetch_add(1, Ordering::Relaxed);
            Err::<Vec<i32>, _>(broken())
        });
        let (wait, deadline) = (Duration::from_millis(20), Some(Duration::from_millis(50)));
        assert!(fails.retried(Retry { attempts: 100, wait, deadline }).run(vec![1]).is_err());
        // After 20 ms, and not after 40 more; on a busy machine already the second may come too late.
        assert!(runs.load(Ordering::Relaxed) <= 2);
    }
}
