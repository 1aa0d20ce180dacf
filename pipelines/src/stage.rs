//! The stage, and how stages are put together.

use std::sync::Arc;
use std::time::Duration;

use raglan_core::Result;

use crate::batch::Retry;
use crate::cache::Content;
use crate::combine::{Branch, Cached, Fallback, Retried, Traced, Within, branch};

/// A step of work: takes an `In`, gives an [`Out`](Self::Out).
///
/// A role of `raglan-core` is not a stage; an adaptor such as [`retrieve`](crate::retrieve) makes it one. That two
/// stages follow each other means that the second takes what the first gives, or the program does not compile.
#[diagnostic::on_unimplemented(
    message = "this stage does not take `{In}`",
    label = "takes something else than `{In}`",
    note = "the states of a query are `Vec<Query>` → `Vec<Ranked>` → `Vec<Context>` → `Vec<Result<Answer>>`",
    note = "`retrieve` takes the first, `fuse` several lists of the second, `read` turns the second into the third, `generate` takes the third"
)]
pub trait Stage<In>: Send + Sync {
    /// What it gives.
    type Out;

    /// Does the work on a whole batch.
    fn run(&self, input: In) -> Result<Self::Out>;

    /// What to call it in traces and explanations, such as `retrieve(100) → read`.
    fn name(&self) -> String;

    /// This stage and then `next`.
    fn then<S: Stage<Self::Out>>(self, next: S) -> Then<Self, S>
    where
        Self: Sized,
    {
        Then { first: self, second: next }
    }

    /// This stage and `other`, each on the same input; gives the pair of what they give.
    fn both<S: Stage<In>>(self, other: S) -> Both<Self, S>
    where
        Self: Sized,
        In: Clone,
    {
        Both { left: self, right: other }
    }

    /// This stage, and then a function that cannot fail.
    fn map<T, F>(self, function: F) -> Map<Self, F>
    where
        Self: Sized,
        F: Fn(Self::Out) -> T + Send + Sync,
    {
        Map { stage: self, function }
    }

    /// This stage, and then one of two by a test of each item; see [`branch`].
    fn branch<T, U, P, A, B>(self, test: P, yes: A, no: B) -> Then<Self, Branch<P, A, B>>
    where
        Self: Stage<In, Out = Vec<T>> + Sized,
        P: Fn(&T) -> bool + Send + Sync,
        A: Stage<Vec<T>, Out = Vec<U>>,
        B: Stage<Vec<T>, Out = Vec<U>>,
    {
        self.then(branch(test, yes, no))
    }

    /// This stage, and `other` for the items that this one fails on, or for which what it gives is not good.
    ///
    /// When this stage fails as a whole, all items go to the other, but for [`Error::Interrupted`](raglan_core::Error).
    fn or_else<T, U, S, P>(self, is_good: P, other: S) -> Fallback<Self, S, P>
    where
        Self: Stage<Vec<T>, Out = Vec<U>> + Stage<In> + Sized,
        T: Clone,
        S: Stage<Vec<T>, Out = Vec<U>>,
        P: Fn(&U) -> bool + Send + Sync,
    {
        Fallback { first: self, is_good, second: other }
    }

    /// This stage, keeping its last `entries` results by the hash of the content that they came of.
    ///
    /// What is kept lives as long as the stage, and whatever the stage stands on must not change meanwhile.
    fn cached<T, U>(self, entries: usize) -> Cached<Self, U>
    where
        Self: Stage<Vec<T>, Out = Vec<U>> + Stage<In> + Sized,
        T: Content,
        U: Clone,
    {
        Cached::new(self, entries)
    }

    /// This stage, tried again when a part of it fails.
    fn retried(self, retry: Retry) -> Retried<Self>
    where
        Self: Sized,
    {
        Retried { stage: self, retry }
    }

    /// This stage within a [`SharedBudget`](raglan_core::SharedBudget) that all its parts share; `None` is no limit.
    fn within(self, tokens: Option<usize>, time: Option<Duration>) -> Within<Self>
    where
        Self: Sized,
    {
        Within { stage: self, tokens, time }
    }

    /// This stage with a `tracing` span around each run, called `name` there and in explanations.
    fn traced(self, name: impl Into<String>) -> Traced<Self>
    where
        Self: Sized,
    {
        Traced { stage: self, name: name.into() }
    }

    /// This stage behind a pointer, so that stages of one signature have one type.
    fn boxed<'a>(self) -> BoxStage<'a, In, Self::Out>
    where
        Self: Sized + 'a,
    {
        Box::new(self)
    }
}

/// Any stage from `In` to `Out`.
pub type BoxStage<'a, In, Out> = Box<dyn Stage<In, Out = Out> + 'a>;

macro_rules! impl_for_pointer {
    ($pointer:ty) => {
        impl<In, S: Stage<In> + ?Sized> Stage<In> for $pointer {
            type Out = S::Out;

            fn run(&self, input: In) -> Result<S::Out> {
                (**self).run(input)
            }

            fn name(&self) -> String {
                (**self).name()
            }
        }
    };
}

impl_for_pointer!(&S);
impl_for_pointer!(Box<S>);
impl_for_pointer!(Arc<S>);

/// One stage after another; see [`Stage::then`].
#[derive(Clone, Debug)]
pub struct Then<A, B> {
    first: A,
    second: B,
}

impl<In, A: Stage<In>, B: Stage<A::Out>> Stage<In> for Then<A, B> {
    type Out = B::Out;

    fn run(&self, input: In) -> Result<B::Out> {
        self.second.run(self.first.run(input)?)
    }

    fn name(&self) -> String {
        format!("{} → {}", self.first.name(), self.second.name())
    }
}

/// Two stages on one input; see [`Stage::both`].
#[derive(Clone, Debug)]
pub struct Both<A, B> {
    left: A,
    right: B,
}

impl<In: Clone, A: Stage<In>, B: Stage<In>> Stage<In> for Both<A, B> {
    type Out = (A::Out, B::Out);

    fn run(&self, input: In) -> Result<(A::Out, B::Out)> {
        Ok((self.left.run(input.clone())?, self.right.run(input)?))
    }

    fn name(&self) -> String {
        format!("({} + {})", self.left.name(), self.right.name())
    }
}

/// A stage and a function of what it gives; see [`Stage::map`].
#[derive(Clone, Debug)]
pub struct Map<S, F> {
    stage: S,
    function: F,
}

impl<In, T, S, F> Stage<In> for Map<S, F>
where
    S: Stage<In>,
    F: Fn(S::Out) -> T + Send + Sync,
{
    type Out = T;

    fn run(&self, input: In) -> Result<T> {
        self.stage.run(input).map(&self.function)
    }

    fn name(&self) -> String {
        format!("{} → map", self.stage.name())
    }
}

/// A function as a stage, called `name` in traces.
///
/// ```
/// use raglan_core::{Query, Result};
/// use raglan_pipeline::{Stage, stage};
///
/// let lower = stage("lower", |queries: Vec<Query>| -> Result<Vec<Query>> {
///     Ok(queries.into_iter().map(|query| Query { text: query.text.to_lowercase(), ..query }).collect())
/// });
/// assert_eq!(lower.run(vec!["KV Cache".into()])?, ["kv cache".into()]);
/// # Ok::<(), raglan_core::Error>(())
/// ```
pub fn stage<In, Out, F>(name: impl Into<String>, function: F) -> Function<F>
where
    F: Fn(In) -> Result<Out> + Send + Sync,
{
    Function { name: name.into(), function }
}

/// A function as a stage; see [`stage`].
#[derive(Clone, Debug)]
pub struct Function<F> {
    name: String,
    function: F,
}

impl<In, Out, F> Stage<In> for Function<F>
where
    F: Fn(In) -> Result<Out> + Send + Sync,
{
    type Out = Out;

    fn run(&self, input: In) -> Result<Out> {
        (self.function)(input)
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::Error;

    use super::*;

    fn add(n: i32) -> impl Stage<i32, Out = i32> {
        stage(format!("add {n}"), move |x: i32| Ok(x + n))
    }

    #[test]
    fn stages_run_in_order_and_branches_see_the_same_input() {
        let graph = add(1).both(add(10)).map(|(a, b)| a * b).then(add(2));
        assert_eq!(graph.run(1).unwrap(), 24); // (1 + 1) · (1 + 10) + 2
        assert_eq!(graph.name(), "(add 1 + add 10) → map → add 2");
    }

    #[test]
    fn an_error_ends_the_run() {
        let fails = stage("fails", |_: i32| Err::<i32, _>(Error::Interrupted));
        let never = stage("never", |_: i32| -> Result<i32> { panic!("a stage ran after an error") });
        assert!(matches!(fails.then(never).run(1), Err(Error::Interrupted)));
    }

    #[test]
    fn boxed_stages_of_one_signature_share_a_list() {
        let stages: Vec<BoxStage<i32, i32>> = vec![add(1).boxed(), add(1).then(add(2)).boxed()];
        let results: Vec<_> = stages.iter().map(|stage| stage.run(0).unwrap()).collect();
        assert_eq!(results, [1, 3]);
    }
}
