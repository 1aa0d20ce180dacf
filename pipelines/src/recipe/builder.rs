//! Recipes written in Rust, whose ports the compiler checks.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::canonical::stage_table;
use super::kinds::{BranchSpec, BudgetSpec, CachedSpec, EachSpec, FallbackSpec, LoopSpec, RetrySpec, StepsSpec};
use super::parse::{INPUT, QUERY};
use super::{Recipe, RecipeError, StageSpec};

/// The ports of recipes as types.
pub mod ports {
    /// Questions.
    #[derive(Clone, Copy, Debug)]
    pub struct Query;
    /// Several queries for each question.
    #[derive(Clone, Copy, Debug)]
    pub struct Queries;
    /// Ranked chunks.
    #[derive(Clone, Copy, Debug)]
    pub struct Ranking;
    /// Questions with passages.
    #[derive(Clone, Copy, Debug)]
    pub struct Context;
    /// Answers.
    #[derive(Clone, Copy, Debug)]
    pub struct Answer;
}

/// A [`Recipe`] that is being written: each stage takes what others give, by value.
///
/// ```
/// use raglan_pipeline::{Bm25Spec, DenseSpec, FuseSpec, ReadSpec, Recipe, RecipeBuilder};
///
/// let mut recipe = RecipeBuilder::new();
/// let query = recipe.query();
/// let words = recipe.add("words", Bm25Spec { k: 50, ..Bm25Spec::new() }, query);
/// let meaning = recipe.add("meaning", DenseSpec::new(), query);
/// let fused = recipe.add("fused", FuseSpec::new(), [words, meaning]);
/// recipe.add("context", ReadSpec {}, fused);
/// let recipe = recipe.build()?;
///
/// // The text that it is in TOML rebuilds it.
/// let again = Recipe::check("same.toml".as_ref(), &recipe.to_string())?;
/// assert_eq!(again.hash(), recipe.hash());
/// # Ok::<(), raglan_pipeline::RecipeError>(())
/// ```
///
/// What does not fit does not compile:
///
/// ```compile_fail,E0277
/// use raglan_pipeline::{ReadSpec, RecipeBuilder};
///
/// let mut recipe = RecipeBuilder::new();
/// let query = recipe.query();
/// recipe.add("context", ReadSpec {}, query); // `read` takes a Ranking
/// ```
#[derive(Debug)]
pub struct RecipeBuilder {
    /// Tells its nodes from those of others.
    id: u64,
    stages: Vec<DraftStage>,
}

#[derive(Debug)]
struct DraftStage {
    name: String,
    spec: StageSpec,
    inputs: Vec<Source>,
    bodies: Vec<Body>,
}

/// A recipe inside of a stage, and which of its nodes is its result.
#[derive(Debug)]
struct Body {
    stages: RecipeBuilder,
    result: Source,
}

/// What stands behind a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    recipe: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Query,
    Input,
    Stage(usize),
}

/// What a stage of a [`RecipeBuilder`] gives; `P` is one of [`ports`].
#[derive(Debug)]
pub struct Node<P> {
    source: Source,
    port: PhantomData<fn() -> P>,
}

impl<P> Clone for Node<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Node<P> {}

/// Parameters of a kind whose ports are always the same.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no stage that can be added by itself",
    note = "a kind with recipes inside of it has a method of its own, such as `branch`, `repeat`, `fallback` or `around`"
)]
pub trait PlainSpec: Into<StageSpec> {
    /// What each of its inputs must be.
    type In;
    /// What it gives.
    type Out;
}

/// Parameters of a kind that gives what the recipe inside of it gives: [`BudgetSpec`], [`CachedSpec`] and [`RetrySpec`].
pub trait AroundSpec: Into<StageSpec> {}

impl AroundSpec for BudgetSpec {}
impl AroundSpec for CachedSpec {}
impl AroundSpec for RetrySpec {}

/// One node or several, all of port `P`.
#[diagnostic::on_unimplemented(
    message = "this stage takes a `{P}`, not a `{Self}`",
    label = "is not a `Node<{P}>`",
    note = "questions go Query → Ranking → Context → Answer: `bm25` and its like take the first step, `read` the second, `generate` the third"
)]
pub trait Nodes<P> {
    /// The nodes, in order.
    fn nodes(self) -> Vec<Node<P>>;
}

impl<P> Nodes<P> for Node<P> {
    fn nodes(self) -> Vec<Self> {
        vec![self]
    }
}

impl<P, const N: usize> Nodes<P> for [Node<P>; N] {
    fn nodes(self) -> Vec<Node<P>> {
        self.into()
    }
}

impl<P> Nodes<P> for Vec<Node<P>> {
    fn nodes(self) -> Self {
        self
    }
}

impl Default for RecipeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl RecipeBuilder {
    /// Without stages.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), stages: Vec::new() }
    }

    /// The questions.
    pub fn query(&self) -> Node<ports::Query> {
        self.node(Place::Query)
    }

    /// Adds a stage.
    pub fn add<S: PlainSpec>(&mut self, name: &str, spec: S, inputs: impl Nodes<S::In>) -> Node<S::Out> {
        let inputs = inputs.nodes().iter().map(|node| node.source).collect();
        self.push(name, spec.into(), inputs, Vec::new())
    }

    /// Adds a stage that sends each question one of two ways; the second may be to give back its input as it is.
    pub fn branch<P, Q>(
        &mut self,
        name: &str,
        spec: BranchSpec,
        input: Node<P>,
        then: impl FnOnce(&mut Self, Node<P>) -> Node<Q>,
        otherwise: impl FnOnce(&mut Self, Node<P>) -> Node<Q>,
    ) -> Node<Q> {
        self.push(name, spec.into(), vec![input.source], vec![body(then), body(otherwise)])
    }

    /// Adds a stage that repeats what is inside, which gives what it takes:
    ///
    /// ```compile_fail,E0308
    /// use raglan_pipeline::{Bm25Spec, LoopSpec, Measure, ReadSpec, RecipeBuilder};
    ///
    /// let mut recipe = RecipeBuilder::new();
    /// let found = recipe.add("found", Bm25Spec::new(), recipe.query());
    /// let rounds = LoopSpec::new(Measure::Score, 1.0, 3);
    /// recipe.repeat("rounds", rounds, found, |round, found| round.add("context", ReadSpec {}, found));
    /// ```
    pub fn repeat<P>(
        &mut self,
        name: &str,
        spec: LoopSpec,
        input: Node<P>,
        round: impl FnOnce(&mut Self, Node<P>) -> Node<P>,
    ) -> Node<P> {
        self.push(name, spec.into(), vec![input.source], vec![body(round)])
    }

    /// Adds a stage that tries one way, and another where that fails; the other may be to give back its input as it is.
    pub fn fallback<P, Q>(
        &mut self,
        name: &str,
        spec: FallbackSpec,
        input: Node<P>,
        first: impl FnOnce(&mut Self, Node<P>) -> Node<Q>,
        otherwise: impl FnOnce(&mut Self, Node<P>) -> Node<Q>,
    ) -> Node<Q> {
        self.push(name, spec.into(), vec![input.source], vec![body(first), body(otherwise)])
    }

    /// Adds a stage that asks each of several queries, and fuses what they find.
    pub fn each(
        &mut self,
        name: &str,
        spec: EachSpec,
        input: Node<ports::Queries>,
        search: impl FnOnce(&mut Self, Node<ports::Query>) -> Node<ports::Ranking>,
    ) -> Node<ports::Ranking> {
        self.push(name, spec.into(), vec![input.source], vec![body(search)])
    }

    /// Adds a stage that answers in steps, each of which may search.
    pub fn steps(
        &mut self,
        name: &str,
        spec: StepsSpec,
        input: Node<ports::Query>,
        search: impl FnOnce(&mut Self, Node<ports::Query>) -> Node<ports::Ranking>,
    ) -> Node<ports::Answer> {
        self.push(name, spec.into(), vec![input.source], vec![body(search)])
    }

    /// Adds a stage that works like what is inside, within a budget, with a cache or with several attempts.
    pub fn around<P, Q>(
        &mut self,
        name: &str,
        spec: impl AroundSpec,
        input: Node<P>,
        inside: impl FnOnce(&mut Self, Node<P>) -> Node<Q>,
    ) -> Node<Q> {
        self.push(name, spec.into(), vec![input.source], vec![body(inside)])
    }

    /// The recipe.
    ///
    /// # Errors
    ///
    /// What the compiler cannot see: names that are there twice, parameters outside of their domains, a wrong number of
    /// inputs, nodes of another builder, several results. The place is that in the text that the recipe is in TOML.
    pub fn build(&self) -> Result<Recipe, RecipeError> {
        let mut text = String::new();
        self.write("stage", &mut text);
        Recipe::check(Path::new("recipe"), &text)
    }

    fn node<P>(&self, place: Place) -> Node<P> {
        Node { source: Source { recipe: self.id, place }, port: PhantomData }
    }

    fn push<P>(&mut self, name: &str, spec: StageSpec, inputs: Vec<Source>, bodies: Vec<Body>) -> Node<P> {
        self.stages.push(DraftStage { name: name.to_owned(), spec, inputs, bodies });
        self.node(Place::Stage(self.stages.len() - 1))
    }

    /// Appends the tables of the stages, whose names come after `prefix`.
    fn write(&self, prefix: &str, text: &mut String) {
        for stage in &self.stages {
            let inputs: Vec<&str> = stage.inputs.iter().map(|&input| self.name(input)).collect();
            let (path, table) = stage_table(prefix, &stage.name, &stage.spec, &inputs);
            text.push_str(&table);
            text.push('\n');
            for (body, key) in stage.bodies.iter().zip(stage.spec.bodies()) {
                body.write(&format!("{path}.{key}"), text);
            }
        }
    }

    /// What the text calls a source; a name that no stage has, when it is none of this recipe.
    fn name(&self, source: Source) -> &str {
        match source.place {
            _ if source.recipe != self.id => "a stage of another recipe",
            Place::Query => QUERY,
            Place::Input => INPUT,
            Place::Stage(place) => &self.stages[place].name,
        }
    }
}

fn body<P, Q>(write: impl FnOnce(&mut RecipeBuilder, Node<P>) -> Node<Q>) -> Body {
    let mut stages = RecipeBuilder::new();
    let input = stages.node(Place::Input);
    let result = write(&mut stages, input).source;
    Body { stages, result }
}

impl Body {
    fn write(&self, prefix: &str, text: &mut String) {
        self.stages.write(prefix, text);
        let unused = |place: &usize| {
            let source = Source { recipe: self.stages.id, place: Place::Stage(*place) };
            !self.stages.stages.iter().any(|stage| stage.inputs.contains(&source))
        };
        // The text has no word for the result but that no stage uses it. Where that would be another one than the node
        // that was given back, a stage that cannot be says so.
        let last = (0..self.stages.stages.len()).find(unused).map_or(Place::Input, Place::Stage);
        if self.result != (Source { recipe: self.stages.id, place: last }) {
            let (_, table) = stage_table(
                prefix,
                "result",
                &super::SelectSpec::new().into(),
                &["the node that was given back, which others use"],
            );
            text.push_str(&table);
        }
    }
}
