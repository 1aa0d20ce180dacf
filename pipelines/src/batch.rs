//! What the ways to put stages together do with a batch, whoever runs the stages.

use std::time::{Duration, Instant};

use raglan_core::{Error, Result, SharedBudget};

/// Each item goes through `yes` when it passes the test, else through `no`; the results are in the items' order.
pub(crate) fn either<T, U>(
    batch: Vec<T>,
    test: impl Fn(&T) -> bool,
    yes: impl FnOnce(Vec<T>) -> Result<Vec<U>>,
    no: impl FnOnce(Vec<T>) -> Result<Vec<U>>,
) -> Result<Vec<U>> {
    let passes: Vec<bool> = batch.iter().map(test).collect();
    let (mut passing, mut others) = (Vec::new(), Vec::new());
    for (item, &passes) in batch.into_iter().zip(&passes) {
        if passes { passing.push(item) } else { others.push(item) }
    }
    let mut passing = run_some(passing, yes)?.into_iter();
    let mut others = run_some(others, no)?.into_iter();
    let next = |&passes: &bool| if passes { passing.next() } else { others.next() };
    Ok(passes.iter().map(next).map(|item| item.expect("`run_some` gives one an item")).collect())
}

/// Each item goes through `body` until it is done, or has been through it `times` times, or the budget is spent.
pub(crate) fn repeat<T>(
    batch: Vec<T>,
    times: usize,
    is_done: impl Fn(&T) -> bool,
    mut body: impl FnMut(Vec<T>) -> Result<Vec<T>>,
) -> Result<Vec<T>> {
    let mut done: Vec<Option<T>> = batch.iter().map(|_| None).collect();
    let mut places: Vec<usize> = (0..batch.len()).collect();
    let mut batch = batch;
    for _ in 0..times {
        let mut open = (Vec::new(), Vec::new());
        for (place, item) in places.into_iter().zip(batch) {
            if is_done(&item) {
                done[place] = Some(item);
            } else {
                open.0.push(place);
                open.1.push(item);
            }
        }
        (places, batch) = open;
        if batch.is_empty() || SharedBudget::current().is_spent() {
            break;
        }
        batch = run_some(batch, &mut body)?;
    }
    for (place, item) in places.into_iter().zip(batch) {
        done[place] = Some(item);
    }
    Ok(done.into_iter().map(|item| item.expect("an item is done or still open")).collect())
}

/// Each item goes through `first`, and through `second` when that failed or gave nothing good.
pub(crate) fn fall_back<T: Clone, U>(
    batch: Vec<T>,
    first: impl FnOnce(Vec<T>) -> Result<Vec<U>>,
    is_good: impl Fn(&U) -> bool,
    second: impl FnOnce(Vec<T>) -> Result<Vec<U>>,
) -> Result<Vec<U>> {
    let mut results = match run_some(batch.clone(), first) {
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Err(error) => {
            tracing::warn!(%error, "a stage failed; its fallback takes over");
            return run_some(batch, second);
        }
        Ok(results) => results,
    };
    let poor: Vec<usize> = (0..results.len()).filter(|&i| !is_good(&results[i])).collect();
    let mut batch: Vec<Option<T>> = batch.into_iter().map(Some).collect();
    let again = poor.iter().map(|&i| batch[i].take().expect("each place is there once")).collect();
    for (i, result) in poor.into_iter().zip(run_some(again, second)?) {
        results[i] = result;
    }
    Ok(results)
}

/// How often and how long something is tried again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// How often it is tried in all; at least once.
    pub attempts: usize,
    /// How long to wait before the second attempt; before each further one, twice as long as before.
    pub wait: Duration,
    /// How long all attempts may take; none begins later, and stages that look at the [`SharedBudget`] stop then.
    pub deadline: Option<Duration>,
}

/// Items go through `run` until they come out well, as `retry` allows.
///
/// Only an [`Error::Part`] is worth another attempt: what was asked in the wrong way will be wrong again.
pub(crate) fn retry<T: Clone, U>(
    retry: &Retry,
    batch: Vec<T>,
    is_good: impl Fn(&U) -> bool,
    mut run: impl FnMut(Vec<T>) -> Result<Vec<U>>,
) -> Result<Vec<U>> {
    let start = Instant::now();
    let budget = SharedBudget::new(None, retry.deadline);
    let mut results: Vec<Option<U>> = batch.iter().map(|_| None).collect();
    let mut open: Vec<(usize, T)> = batch.into_iter().enumerate().collect();
    let mut wait = retry.wait;
    for attempt in 1.. {
        let may_go_on = attempt < retry.attempts.max(1)
            && retry.deadline.is_none_or(|deadline| start.elapsed().saturating_add(wait) < deadline)
            && !SharedBudget::current().is_spent();
        let items = open.iter().map(|(_, item)| item.clone()).collect();
        match budget.within(|| run_some(items, &mut run)) {
            Ok(given) => {
                let mut still_open = Vec::new();
                for ((place, item), result) in open.into_iter().zip(given) {
                    if !is_good(&result) {
                        still_open.push((place, item));
                    }
                    results[place] = Some(result);
                }
                open = still_open;
            }
            Err(error @ Error::Part { .. }) if may_go_on => {
                tracing::warn!(%error, attempt, "a stage failed; it is tried again");
            }
            // What came out badly before is better than nothing.
            Err(_) if results.iter().all(Option::is_some) => {}
            Err(error) => return Err(error),
        }
        if open.is_empty() || !may_go_on {
            break;
        }
        std::thread::sleep(wait);
        wait = wait.saturating_mul(2);
    }
    Ok(results.into_iter().map(|result| result.expect("the first attempt that did not fail gave all")).collect())
}

/// Runs a batch that is not empty, and holds the stage to one result an item.
pub(crate) fn run_some<T, U>(batch: Vec<T>, run: impl FnOnce(Vec<T>) -> Result<Vec<U>>) -> Result<Vec<U>> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let expected = batch.len();
    let results = run(batch)?;
    if results.len() != expected {
        return Err(Error::Shape { what: "results of a stage", expected, found: results.len() });
    }
    Ok(results)
}
