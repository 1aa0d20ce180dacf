//! Recipes at work.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use raglan_core::{
    Answer, ChunkStore, ChunkVectors, Context, Cost, DenseVector, Encoder, Error, ExampleSource, Generator,
    PassageSetScorer, Query, QueryRewriter, Reranker, Result, Retriever, SharedBudget, StepwiseGenerator,
};

use super::item::Item;
use super::{
    Bm25Spec, BranchSpec, BudgetSpec, CachedSpec, DenseSpec, EachSpec, ExamplesSpec, ExpandSpec, FallbackSpec,
    FocusSpec, FollowSpec, FuseSpec, GateSpec, GatedDenseSpec, GraphSpec, Input, LateSpec, LoopSpec,
    MarginalRelevanceSpec, NgramsSpec, PartKind, Port, QuestionsSpec, Recipe, RecipeStage, ReorderSpec, RerankSpec,
    RescoreSpec, RetrySpec, SelectSpec, SparseSpec, StageSpec, SubmodularSpec, TreeSearchSpec,
};
use crate::batch::{self, Retry};
use crate::cache::Cache;
use crate::each;
use crate::generate::answers;
use crate::{
    Ranked, Stage, Steps, TreeSearchOptions, examples, expand, focus, follow, fuse, gate, min_score, mmr, read,
    reorder, rerank, retrieve, rewrite, select, split, steps, submodular, tree_search,
};

/// What a stage of a recipe needs from outside.
#[derive(Clone)]
pub enum Part {
    /// For a stage from Query to Ranking.
    Retriever(Arc<dyn Retriever>),
    /// For a stage that scores the chunks of a Ranking.
    Reranker(Arc<dyn Reranker>),
    /// For `mmr` and `submodular`.
    Vectors(Arc<dyn ChunkVectors>),
    /// For `read` and `expand`.
    Store(Arc<dyn ChunkStore>),
    /// For `generate`.
    Generator(Arc<dyn Generator>),
    /// For `rewrite`.
    Rewriter(Arc<dyn QueryRewriter>),
    /// For `examples`.
    Examples(Arc<dyn ExampleSource>),
    /// For `focus`.
    Encoder(Arc<dyn Encoder<Vector = DenseVector>>),
    /// For `tree-search`.
    Scorer(Arc<dyn PassageSetScorer>),
    /// For `steps`.
    StepwiseGenerator(Arc<dyn StepwiseGenerator>),
}

impl Part {
    /// What it is.
    pub fn kind(&self) -> PartKind {
        match self {
            Self::Retriever(_) => PartKind::Retriever,
            Self::Reranker(_) => PartKind::Reranker,
            Self::Vectors(_) => PartKind::Vectors,
            Self::Store(_) => PartKind::Store,
            Self::Generator(_) => PartKind::Generator,
            Self::Rewriter(_) => PartKind::Rewriter,
            Self::Examples(_) => PartKind::Examples,
            Self::Encoder(_) => PartKind::Encoder,
            Self::Scorer(_) => PartKind::Scorer,
            Self::StepwiseGenerator(_) => PartKind::StepwiseGenerator,
        }
    }
}

/// A recipe with its parts in place.
pub struct Pipeline {
    recipe: Recipe,
    stages: Vec<BoundStage>,
}

/// What belongs to a stage of a pipeline beside its place in the recipe.
struct BoundStage {
    part: Option<Part>,
    /// What a `cached` stage keeps.
    cache: Option<Cache<Item>>,
    /// What a `steps` stage answers by, which has the stages inside of it.
    steps: Option<Steps<Arc<dyn StepwiseGenerator>>>,
    bodies: Vec<Vec<BoundStage>>,
}

/// A recipe from questions to rankings, bound, as a stage of its own.
struct Search {
    recipe: Recipe,
    stages: Vec<BoundStage>,
}

impl Stage<Vec<Query>> for Search {
    type Out = Vec<Ranked>;

    fn run(&self, queries: Vec<Query>) -> Result<Vec<Ranked>> {
        let items = Item::all(&queries, Value::Queries(queries.clone()));
        // What is asked inside is not what was asked outside, so that there is no stream to send pieces to.
        let found = run_body(&self.recipe, &self.stages, items, &mut |_, _| {})?;
        Ok(found.into_iter().filter_map(|item| item.value.ranking()).collect())
    }

    fn name(&self) -> String {
        "search".to_owned()
    }
}

/// A batch of what flows between stages.
#[derive(Clone, Debug)]
pub enum Value {
    /// Questions.
    Queries(Vec<Query>),
    /// Several queries for each question.
    QueryLists(Vec<Vec<Query>>),
    /// Ranked chunks.
    Rankings(Vec<Ranked>),
    /// Questions with passages.
    Contexts(Vec<Context>),
    /// Answers, or why a question has none.
    Answers(Vec<Result<Answer>>),
}

/// What a stage gave, and what that took.
#[derive(Debug)]
pub struct StageRun {
    /// What it gave, one item a question.
    pub output: Value,
    /// How long it took.
    pub time: Duration,
    /// What models cost in it that tell the [`SharedBudget`], those of the stages inside among them.
    pub cost: Cost,
}

impl Value {
    /// What it is.
    pub fn port(&self) -> Port {
        match self {
            Self::Queries(_) => Port::Query,
            Self::QueryLists(_) => Port::Queries,
            Self::Rankings(_) => Port::Ranking,
            Self::Contexts(_) => Port::Context,
            Self::Answers(_) => Port::Answer,
        }
    }
}

impl Value {
    /// How many hits, passages or answers there are in all.
    fn n_results(&self) -> usize {
        match self {
            Self::Queries(queries) => queries.len(),
            Self::QueryLists(lists) => lists.iter().map(Vec::len).sum(),
            Self::Rankings(rankings) => rankings.iter().map(|ranked| ranked.ranking.len()).sum(),
            Self::Contexts(contexts) => contexts.iter().map(|context| context.passages.len()).sum(),
            Self::Answers(answers) => answers.iter().filter(|answer| answer.is_ok()).count(),
        }
    }
}

impl Recipe {
    /// Puts the parts in place that the recipe's stages need: retrievers, the store, the generator.
    ///
    /// `part` is called for those stages only, in the order of [`stages`](Self::stages).
    ///
    /// # Errors
    ///
    /// What `part` returns; [`Error::Invalid`] when a part does not fit its stage.
    pub fn bind<E: From<Error>>(self, mut part: impl FnMut(&RecipeStage) -> Result<Part, E>) -> Result<Pipeline, E> {
        Ok(Pipeline { stages: bind(&self, &mut part)?, recipe: self })
    }
}

fn bind<E: From<Error>>(
    recipe: &Recipe,
    part: &mut impl FnMut(&RecipeStage) -> Result<Part, E>,
) -> Result<Vec<BoundStage>, E> {
    let mut stages = Vec::with_capacity(recipe.stages.len());
    for stage in &recipe.stages {
        let wanted = stage.spec.part();
        let own = if wanted == PartKind::Nothing { None } else { Some(part(stage)?) };
        if let Some(found) = own.as_ref().map(Part::kind).filter(|found| *found != wanted) {
            let problem = format!("stage `{}` needs {wanted}, not {found}", stage.name);
            return Err(Error::Invalid { what: "recipe", problem }.into());
        }
        let mut bodies = stage.bodies.iter().map(|body| bind(body, part)).collect::<Result<Vec<_>, E>>()?;
        let cache = match stage.spec {
            StageSpec::Cached(CachedSpec { entries }) => Some(Cache::new(entries)),
            _ => None,
        };
        let steps = match &own {
            Some(Part::StepwiseGenerator(generator)) => {
                let search = Search { recipe: stage.bodies[0].clone(), stages: bodies.swap_remove(0) };
                Some(steps(generator.clone(), search))
            }
            _ => None,
        };
        stages.push(BoundStage { part: own, cache, steps, bodies });
    }
    Ok(stages)
}

/// What the stages of a recipe take from outside of it.
#[derive(Clone, Copy)]
struct Taken<'a> {
    /// The questions.
    queries: &'a [Query],
    /// What the stage takes that the recipe is inside of.
    input: Option<&'a Value>,
}

impl Pipeline {
    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Runs every stage, and keeps what each gave: one [`StageRun`] for each of [`Recipe::stages`]; the last holds the
    /// result.
    ///
    /// `on_text` is called with the index of the question and each piece of its answer as it is made.
    pub fn trace(&self, queries: Vec<Query>, on_text: &mut dyn FnMut(usize, &str)) -> Result<Vec<StageRun>> {
        run_stages(&self.recipe, &self.stages, Taken { queries: &queries, input: None }, on_text)
    }

    /// Runs every stage and returns what the last gave.
    pub fn run(&self, queries: Vec<Query>) -> Result<Value> {
        let runs = self.trace(queries, &mut |_, _| {})?;
        Ok(runs.into_iter().next_back().expect("a recipe has a stage").output)
    }
}

/// Runs every stage of a recipe, and keeps what each gave.
fn run_stages(
    recipe: &Recipe,
    bound: &[BoundStage],
    taken: Taken<'_>,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<StageRun>> {
    let mut runs: Vec<StageRun> = Vec::with_capacity(bound.len());
    for (stage, bound) in recipe.stages.iter().zip(bound) {
        let start = Instant::now();
        let (name, kind, questions) = (stage.name.as_str(), stage.spec.kind(), taken.queries.len());
        let span = tracing::info_span!("stage", name, kind, questions, results = tracing::field::Empty);
        let inputs = Inputs { stage, taken, runs: &runs };
        let budget = SharedBudget::unlimited();
        let output = span.in_scope(|| budget.within(|| run_stage(stage, bound, &inputs, on_text)))?;
        span.record("results", output.n_results());
        runs.push(StageRun { output, time: start.elapsed(), cost: budget.spent() });
    }
    Ok(runs)
}

/// What a stage takes.
struct Inputs<'a> {
    stage: &'a RecipeStage,
    taken: Taken<'a>,
    runs: &'a [StageRun],
}

impl Inputs<'_> {
    fn value(&self, place: usize) -> Option<&Value> {
        match self.stage.inputs[place] {
            Input::Query => None,
            Input::Body => self.taken.input,
            Input::Stage(i) => Some(&self.runs[i].output),
        }
    }

    fn queries(&self) -> Vec<Query> {
        match self.value(0) {
            None => self.taken.queries.to_vec(),
            Some(Value::Queries(queries)) => queries.clone(),
            Some(_) => unreachable!("the recipe's ports fit"),
        }
    }

    fn rankings(&self, place: usize) -> Vec<Ranked> {
        match self.value(place) {
            Some(Value::Rankings(rankings)) => rankings.clone(),
            _ => unreachable!("the recipe's ports fit"),
        }
    }

    /// What a stage takes that has others inside, question by question.
    fn items(&self) -> Vec<Item> {
        let queries = self.taken.queries;
        let value = match self.value(0) {
            None => Value::Queries(queries.to_vec()),
            Some(value) => value.clone(),
        };
        Item::all(queries, value)
    }

    fn contexts(&self) -> &[Context] {
        match self.value(0) {
            Some(Value::Contexts(contexts)) => contexts,
            _ => unreachable!("the recipe's ports fit"),
        }
    }
}

/// How each kind of stage works.
fn run_stage(
    stage: &RecipeStage,
    bound: &BoundStage,
    inputs: &Inputs<'_>,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Value> {
    Ok(match (&stage.spec, &bound.part) {
        (
            StageSpec::Bm25(Bm25Spec { k, .. })
            | StageSpec::Dense(DenseSpec { k, .. })
            | StageSpec::GatedDense(GatedDenseSpec { k, .. })
            | StageSpec::Sparse(SparseSpec { k, .. })
            | StageSpec::Late(LateSpec { k })
            | StageSpec::Ngrams(NgramsSpec { k, .. })
            | StageSpec::Graph(GraphSpec { k, .. })
            | StageSpec::Questions(QuestionsSpec { k, .. }),
            Some(Part::Retriever(retriever)),
        ) => Value::Rankings(retrieve(&**retriever, *k).run(inputs.queries())?),
        (StageSpec::Rescore(RescoreSpec { depth, k, .. }), Some(Part::Reranker(reranker))) => {
            Value::Rankings(rerank(&**reranker, *depth, *k).run(inputs.rankings(0))?)
        }
        // How deep it looks, the part knows.
        (StageSpec::Rerank(RerankSpec { k, .. }), Some(Part::Reranker(reranker))) => {
            Value::Rankings(rerank(&**reranker, usize::MAX, *k).run(inputs.rankings(0))?)
        }
        (StageSpec::MarginalRelevance(MarginalRelevanceSpec { lambda, k }), Some(Part::Vectors(vectors))) => {
            Value::Rankings(mmr(&**vectors, *lambda, *k).run(inputs.rankings(0))?)
        }
        (StageSpec::Fuse(FuseSpec { fusion, weights, depth, k }), None) => {
            let lists: Vec<_> = (0..stage.inputs.len()).map(|place| inputs.rankings(place)).collect();
            let fuse = fuse(fusion.clone(), *k).weights(weights.clone()).depth(*depth);
            Value::Rankings(fuse.run(lists)?)
        }
        (StageSpec::Follow(FollowSpec { passages, words }), None) => {
            let asked = (inputs.taken.queries.to_vec(), inputs.contexts().to_vec());
            Value::Queries(follow(*passages, *words).run(asked)?)
        }
        (StageSpec::Split(_), None) => Value::QueryLists(split().run(inputs.queries())?),
        (StageSpec::Select(SelectSpec { k }), None) => Value::Rankings(select(*k).run(inputs.rankings(0))?),
        (StageSpec::Gate(GateSpec { min_scores }), None) => Value::Rankings(match stage.inputs.len() {
            1 => min_score(min_scores[0]).run(inputs.rankings(0))?,
            n => {
                let evidence = (1..n).map(|place| inputs.rankings(place)).collect();
                gate(min_scores.clone()).run((inputs.rankings(0), evidence))?
            }
        }),
        (StageSpec::Read(_), Some(Part::Store(store))) => Value::Contexts(read(&**store).run(inputs.rankings(0))?),
        (StageSpec::Expand(ExpandSpec { neighbours, merge }), Some(Part::Store(store))) => {
            Value::Contexts(expand(&**store, *neighbours, *merge).run(inputs.contexts().to_vec())?)
        }
        (StageSpec::Rewrite(_), Some(Part::Rewriter(rewriter))) => {
            Value::QueryLists(rewrite(&**rewriter).run(inputs.queries())?)
        }
        (StageSpec::Examples(ExamplesSpec { n, .. }), Some(Part::Examples(source))) => {
            Value::Contexts(examples(&**source, *n).run(inputs.contexts().to_vec())?)
        }
        (StageSpec::Focus(FocusSpec { passages, sentences }), Some(Part::Encoder(encoder))) => {
            Value::Contexts(focus(&**encoder, *passages, *sentences).run(inputs.contexts().to_vec())?)
        }
        (StageSpec::Reorder(ReorderSpec { order }), None) => {
            Value::Contexts(reorder(*order).run(inputs.contexts().to_vec())?)
        }
        (StageSpec::Submodular(spec), Some(Part::Vectors(vectors))) => {
            let SubmodularSpec { budget, saturation, diversity } = *spec;
            let submodular = submodular(&**vectors, budget, saturation, diversity);
            Value::Contexts(submodular.run(inputs.contexts().to_vec())?)
        }
        (StageSpec::TreeSearch(spec), Some(Part::Scorer(scorer))) => {
            let &TreeSearchSpec { budget, candidates, iterations, exploration, cost, .. } = spec;
            let options = TreeSearchOptions { budget, candidates, iterations, exploration, cost };
            Value::Contexts(tree_search(&**scorer, options).run(inputs.contexts().to_vec())?)
        }
        (StageSpec::Generate(_), Some(Part::Generator(generator))) => {
            let contexts = inputs.contexts();
            Value::Answers(answers(&**generator, contexts, on_text)?)
        }
        (StageSpec::Steps(_), Some(Part::StepwiseGenerator(_))) => {
            let steps = bound.steps.as_ref().expect("`bind` gave the stage its search");
            Value::Answers(steps.run_streaming(&inputs.queries(), on_text)?)
        }
        (_, None) if !bound.bodies.is_empty() => {
            let items = run_around(stage, bound, inputs.items(), on_text)?;
            Item::values(items, stage.gives)
        }
        _ => unreachable!("`bind` gave every stage the part it needs"),
    })
}

/// How the kinds work that have stages inside of them.
fn run_around(
    stage: &RecipeStage,
    bound: &BoundStage,
    items: Vec<Item>,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Item>> {
    let on_text = RefCell::new(on_text);
    let body = |i: usize| {
        let (recipe, bound, on_text) = (&stage.bodies[i], &bound.bodies[i], &on_text);
        move |items: Vec<Item>| run_body(recipe, bound, items, &mut **on_text.borrow_mut())
    };
    let some = |limit: usize| (limit > 0).then_some(limit);
    match &stage.spec {
        StageSpec::Branch(BranchSpec { measure, at_least }) => {
            batch::either(items, |item| measure.of(item) >= *at_least, body(0), body(1))
        }
        StageSpec::Loop(LoopSpec { until, at_least, times }) => {
            batch::repeat(items, *times, |item| until.of(item) >= *at_least, body(0))
        }
        StageSpec::Fallback(FallbackSpec { measure, at_least }) => {
            let is_good = |item: &Item| item.value.is_ok() && measure.of(item) >= *at_least;
            batch::fall_back(items, body(0), is_good, body(1))
        }
        StageSpec::Each(EachSpec { fusion, first_weight, depth, k }) => {
            let places: Vec<usize> = items.iter().map(|item| item.place).collect();
            let originals: Vec<Query> = items.iter().map(|item| item.query.clone()).collect();
            let questions = items.into_iter().filter_map(|item| item.value.queries()).collect();
            let search = |queries: Vec<Query>| {
                // As in `Search`, there is no stream.
                let inputs = Value::Queries(queries.clone());
                let found = run_body(&stage.bodies[0], &bound.bodies[0], Item::all(&queries, inputs), &mut |_, _| {})?;
                Ok(found.into_iter().filter_map(|item| item.value.ranking()).collect())
            };
            let ranked = each::fused(originals.clone(), questions, fusion, *first_weight, *depth, *k, search)?;
            let items = Item::all(&originals, Value::Rankings(ranked)).into_iter().zip(places);
            Ok(items.map(|(item, place)| Item { place, ..item }).collect())
        }
        StageSpec::Cached(_) => {
            let cache = bound.cache.as_ref().expect("`bind` gave the stage its cache");
            let places: Vec<usize> = items.iter().map(|item| item.place).collect();
            let kept = cache.through(items, |item| item.value.is_ok(), body(0))?;
            Ok(kept.into_iter().zip(places).map(|(item, place)| Item { place, ..item }).collect())
        }
        StageSpec::Retry(RetrySpec { attempts, wait_ms, deadline_ms }) => {
            let milliseconds = |ms: usize| Duration::from_millis(ms as u64);
            let deadline = some(*deadline_ms).map(milliseconds);
            let retry = Retry { attempts: *attempts, wait: milliseconds(*wait_ms), deadline };
            batch::retry(&retry, items, |item| !item.value.has_failed(), body(0))
        }
        StageSpec::Budget(BudgetSpec { tokens, ms }) => {
            let all = |each: &usize| some(*each).map(|each| each.saturating_mul(items.len()));
            let time = all(ms).map(|ms| Duration::from_millis(ms as u64));
            SharedBudget::new(all(tokens), time).within(|| body(0)(items))
        }
        _ => unreachable!("no other kind has bodies"),
    }
}

/// Runs the recipe inside of a stage on some of the stage's items.
fn run_body(
    recipe: &Recipe,
    bound: &[BoundStage],
    items: Vec<Item>,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Item>> {
    if recipe.stages.is_empty() {
        return Ok(items);
    }
    let places: Vec<usize> = items.iter().map(|item| item.place).collect();
    let queries: Vec<Query> = items.iter().map(|item| item.query.clone()).collect();
    let input = Item::values(items, recipe.takes);
    let mut on_text = |i: usize, text: &str| on_text(places[i], text);
    let mut runs = run_stages(recipe, bound, Taken { queries: &queries, input: Some(&input) }, &mut on_text)?;
    let output = runs.pop().expect("the recipe has a stage").output;
    let items = Item::all(&queries, output).into_iter().zip(&places);
    Ok(items.map(|(item, &place)| Item { place, ..item }).collect())
}
