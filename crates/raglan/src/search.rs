//! Recipes at work on an index.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use raglan_core::{Answer, Context, Format, Generator, Locator, Passage, Query, SpanOf};
use raglan_dense::SearchMode;
use raglan_graph::{GraphSearch, PageRank};
use raglan_pipeline::{
    Bm25Spec, DenseMode, DenseSpec, GatedDenseSpec, GraphSpec, Part, Pipeline, Port, Recipe, Reranking, RescoreSpec,
    SparseSpec, Stage, StageRun, StageSpec, Value, read,
};
use raglan_sparse::Bm25Parameters;
use serde::Serialize;

use crate::attention_reranker::AttentionReranker;
use crate::filter::Filter;
use crate::index::Index;
use crate::ngrams::NgramSearch;
use crate::snippet::{Snippet, snippet};
use crate::stepwise::StrategyGenerator;
use crate::{Error, Result};

/// About how many bytes of a chunk a search result shows.
const SNIPPET: usize = 280;

/// A passage that was found.
#[derive(Clone, Debug, Serialize)]
pub struct SearchResult {
    /// Place in the ranking, from 1.
    pub rank: usize,
    /// Score of the recipe's last ranking stage.
    pub score: f32,
    /// The chunk's id, which `raglan explain` takes.
    pub chunk: u32,
    /// The document's path relative to the folder.
    pub path: String,
    /// The document's title.
    pub title: Option<String>,
    /// The document's format.
    pub format: Format,
    /// Where in the document, in a reader's terms.
    pub locator: Locator,
    /// First byte of the passage in the document's extracted text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Whether that is the file, byte for byte.
    pub span_of: SpanOf,
    /// The passage.
    pub text: String,
    /// The part of it that shows why it was found.
    pub snippet: Snippet,
}

/// What a search found.
#[derive(Clone, Debug, Serialize)]
pub struct SearchOutcome {
    /// What was looked for.
    pub query: String,
    /// The canonical hash of the recipe.
    pub recipe: String,
    /// The passages, best first.
    pub results: Vec<SearchResult>,
    /// Seconds of each stage, in order.
    pub stages: Vec<StageTime>,
    /// Seconds of all stages and of reading the passages.
    pub seconds: f64,
}

/// What a recipe gave for a question.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// What was asked.
    pub question: String,
    /// What the last stage gave.
    #[serde(flatten)]
    pub output: RunOutput,
}

/// What the last stage of a recipe gave for a question.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutput {
    /// What is to be asked.
    Queries(Vec<String>),
    /// The passages of a ranking or a context, best first.
    Passages(Vec<SearchResult>),
    /// The answer.
    Answer(Box<Answer>),
    /// Why there is no answer.
    Error(String),
}

/// How long a stage took.
#[derive(Clone, Debug, Serialize)]
pub struct StageTime {
    /// The stage's name in the recipe.
    pub stage: String,
    /// Seconds.
    pub seconds: f64,
}

/// The shipped recipe of this name, or the one in this file.
///
/// # Errors
///
/// [`Error::NoRecipe`] when there is neither; [`Error::Recipe`] with file, line and column of a mistake.
pub fn recipe(name: &str) -> Result<Recipe> {
    recipe_with(name, &[] as &[&str])
}

/// The same with parameters set from outside; see [`Recipe::check_with`].
///
/// # Errors
///
/// As [`recipe`].
pub fn recipe_with(name: &str, settings: &[impl AsRef<str>]) -> Result<Recipe> {
    let path = Path::new(name);
    if let Some(text) = Recipe::shipped_text(name) {
        return Ok(Recipe::check_with(path, text, settings)?);
    }
    if !path.is_file() {
        let shipped = Recipe::SHIPPED.iter().map(|(name, _)| (*name).to_owned()).collect();
        return Err(Error::NoRecipe { name: name.to_owned(), shipped });
    }
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
    Ok(Recipe::check_with(path, &text, settings)?)
}

/// The stages of a recipe before those that generate, if what is left still is one pipeline.
///
/// # Errors
///
/// [`Error::Recipe`] when several ends are left.
pub fn without_generation(recipe: &Recipe) -> Result<Recipe> {
    recipe.retain(|stage| stage.gives != Port::Answer).map_err(|error| {
        let is_steps = |spec: &StageSpec| matches!(spec, StageSpec::Steps(_));
        match recipe.all_stages().iter().any(|stage| is_steps(&stage.spec)) {
            true => Error::InSteps { recipe: recipe.name().to_owned() },
            false => error.into(),
        }
    })
}

impl Index {
    /// The recipe with this index's parts in place; `generator` serves its `generate` stages.
    ///
    /// # Errors
    ///
    /// [`Error::NoVectors`] when the recipe wants vectors and the index has none; damaged files; models that cannot be
    /// loaded.
    pub fn pipeline(&self, recipe: Recipe, generator: Option<Arc<dyn Generator>>) -> Result<Pipeline> {
        if let Some(judges) = &self.judges {
            judges.models().check_recipe(&recipe)?;
        }
        let name = recipe.name().to_owned();
        recipe.bind(|stage| {
            Ok(match stage.spec {
                StageSpec::Bm25(Bm25Spec { k1, b, .. }) => Part::Retriever(self.bm25(Bm25Parameters::new(k1, b)?)?),
                StageSpec::Dense(DenseSpec { mode, .. }) => Part::Retriever(self.dense_retriever(match mode {
                    DenseMode::Auto => SearchMode::Auto,
                    DenseMode::Exact => SearchMode::Exact,
                    DenseMode::Graph => SearchMode::Graph,
                    DenseMode::Int8 => SearchMode::Int8,
                    DenseMode::OneBit => SearchMode::OneBit,
                })?),
                StageSpec::GatedDense(GatedDenseSpec { temperature, .. }) => {
                    Part::Retriever(self.gated_retriever(&stage.name, temperature)?)
                }
                StageSpec::Questions(ref spec) => Part::Retriever(self.question_retriever(&spec.file)?),
                StageSpec::Rewrite(ref spec) => Part::Rewriter(self.rewriter(&stage.name, spec)?),
                StageSpec::Examples(ref spec) => Part::Examples(self.example_source(&spec.file)?),
                StageSpec::Focus(_) => Part::Encoder(self.sentence_encoder()?),
                StageSpec::TreeSearch(ref spec) => Part::Scorer(self.set_scorer(&stage.name, spec)?),
                StageSpec::Sparse(SparseSpec { queries, mode, .. }) => {
                    Part::Retriever(self.sparse_vectors(queries, mode)?)
                }
                StageSpec::Late(_) => Part::Retriever(self.late_retriever()?),
                StageSpec::Ngrams(ref spec) => {
                    Part::Retriever(self.ngram_retriever(NgramSearch::of(spec), &stage.name)?)
                }
                StageSpec::Graph(GraphSpec { depth, seeds, chunk_weight, damping, .. }) => {
                    let walk = PageRank { damping: f64::from(damping), ..PageRank::default() };
                    let search = GraphSearch { walk, max_seeds: seeds, chunk_weight: f64::from(chunk_weight) };
                    Part::Retriever(self.graph_retriever(depth, search)?)
                }
                StageSpec::Rescore(RescoreSpec { by, .. }) => Part::Reranker(self.rescorer(by)?),
                StageSpec::Rerank(ref spec) if spec.by == Reranking::AnswerAttention => {
                    let generator =
                        generator.clone().ok_or_else(|| Error::NoGenerator { stage: stage.name.clone() })?;
                    Part::Reranker(Arc::new(AttentionReranker {
                        generator,
                        store: self.snapshot().clone(),
                        depth: spec.depth,
                        first_layer: spec.first_layer,
                        n_layers: Some(spec.n_layers).filter(|&n| n > 0),
                    }))
                }
                StageSpec::Rerank(ref spec) => {
                    Part::Reranker(self.judges(&stage.name)?.reranker(spec, Arc::new(self.snapshot().clone()))?)
                }
                StageSpec::Steps(ref spec) => Part::StepwiseGenerator(Arc::new(StrategyGenerator {
                    model: Arc::new(self.judges(&stage.name)?.chat_model(&spec.model)?),
                    store: Arc::new(self.snapshot().clone()),
                    spec: spec.clone(),
                })),
                StageSpec::MarginalRelevance(_) | StageSpec::Submodular(_) => Part::Vectors(self.dense()?.clone()),
                StageSpec::Read(_) | StageSpec::Expand(_) => Part::Store(Arc::new(self.snapshot().clone())),
                _ => Part::Generator(generator.clone().ok_or_else(|| Error::RecipeEnd {
                    recipe: name.clone(),
                    found: "an Answer".into(),
                    wanted: "a Ranking",
                })?),
            })
        })
    }

    /// A question with the filter's chunks, for a pipeline to run on.
    ///
    /// # Errors
    ///
    /// A malformed filter, or a damaged chunk table.
    pub fn query(&self, text: &str, filter: &Filter) -> Result<Query> {
        let query = Query::new(text);
        Ok(match filter.allowed(self.snapshot())? {
            None => query,
            Some(allowed) => query.among(Arc::new(allowed)),
        })
    }

    /// Finds passages by a recipe that ends in a ranking or a context.
    ///
    /// # Errors
    ///
    /// [`Error::RecipeEnd`] when the recipe goes on to an answer; else as [`pipeline`](Self::pipeline).
    pub fn search(&self, recipe: &Recipe, query: &str, filter: &Filter) -> Result<SearchOutcome> {
        let started = Instant::now();
        if !matches!(recipe.output(), Port::Ranking | Port::Context) {
            let found = recipe.output().to_string();
            return Err(Error::RecipeEnd { recipe: recipe.name().to_owned(), found, wanted: "a Ranking" });
        }
        let hash = recipe.hash().to_string();
        let pipeline = self.pipeline(recipe.clone(), None)?;
        let mut runs = pipeline.trace(vec![self.query(query, filter)?], &mut |_, _| {})?;
        let stages = stage_times(&pipeline, &runs);
        let contexts = match runs.pop().map(|run| run.output) {
            Some(Value::Contexts(contexts)) => contexts,
            Some(Value::Rankings(ranked)) => read(self.snapshot()).run(ranked)?,
            _ => unreachable!("the recipe gives a ranking or a context"),
        };
        let passages = contexts.into_iter().flat_map(|context| context.passages).collect();
        let results = self.results(query, passages);
        Ok(SearchOutcome {
            query: query.to_owned(),
            recipe: hash,
            results,
            stages,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Passages as results of a search, best first.
    fn results(&self, query: &str, passages: Vec<Passage>) -> Vec<SearchResult> {
        let result = |(i, passage): (usize, Passage)| SearchResult {
            rank: i + 1,
            score: passage.score,
            chunk: passage.chunk.id.0,
            path: passage.document.path.clone(),
            title: passage.document.title.clone(),
            format: passage.document.format,
            locator: passage.chunk.locator,
            start: passage.chunk.span.start,
            end: passage.chunk.span.end,
            span_of: passage.document.span_of(),
            snippet: snippet(self.analyzer(), query, &passage.chunk.text, SNIPPET),
            text: passage.chunk.text,
        };
        passages.into_iter().enumerate().map(result).collect()
    }

    /// Runs a recipe on questions, all at once, and gives for each what the last stage gives.
    ///
    /// # Errors
    ///
    /// As [`pipeline`](Self::pipeline); a question that gets no answer does not keep the others from theirs.
    pub fn run(
        &self,
        recipe: &Recipe,
        generator: Option<Arc<dyn Generator>>,
        questions: &[String],
        filter: &Filter,
    ) -> Result<Vec<RunResult>> {
        let pipeline = self.pipeline(recipe.clone(), generator)?;
        let queries = questions.iter().map(|question| self.query(question, filter)).collect::<Result<_>>()?;
        let passages = |contexts: Vec<Context>| {
            let with_question = questions.iter().zip(contexts);
            let found = with_question.map(|(question, context)| self.results(question, context.passages));
            found.map(RunOutput::Passages).collect::<Vec<_>>()
        };
        let outputs: Vec<RunOutput> = match pipeline.run(queries)? {
            Value::Queries(queries) => queries.into_iter().map(|query| RunOutput::Queries(vec![query.text])).collect(),
            Value::QueryLists(lists) => {
                let texts = |list: Vec<Query>| list.into_iter().map(|query| query.text).collect();
                lists.into_iter().map(|list| RunOutput::Queries(texts(list))).collect()
            }
            Value::Rankings(ranked) => passages(read(self.snapshot()).run(ranked)?),
            Value::Contexts(contexts) => passages(contexts),
            Value::Answers(answers) => {
                let output = |answer: raglan_core::Result<Answer>| match answer {
                    Ok(answer) => RunOutput::Answer(Box::new(answer)),
                    Err(error) => RunOutput::Error(error.to_string()),
                };
                answers.into_iter().map(output).collect()
            }
        };
        let result = |(question, output): (&String, RunOutput)| RunResult { question: question.clone(), output };
        Ok(questions.iter().zip(outputs).map(result).collect())
    }

    /// Answers a question by a recipe that ends in an answer; `on_text` is called with each piece as it is made.
    ///
    /// # Errors
    ///
    /// [`Error::RecipeEnd`] when the recipe ends before an answer; else as [`pipeline`](Self::pipeline).
    pub fn ask(
        &self,
        recipe: &Recipe,
        generator: Arc<dyn Generator>,
        question: &str,
        filter: &Filter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Answer> {
        if recipe.output() != Port::Answer {
            let found = recipe.output().to_string();
            return Err(Error::RecipeEnd { recipe: recipe.name().to_owned(), found, wanted: "an Answer" });
        }
        let started = Instant::now();
        let pipeline = self.pipeline(recipe.clone(), Some(generator))?;
        let query = self.query(question, filter)?;
        let opened = started.elapsed().as_secs_f64();
        let mut runs = pipeline.trace(vec![query], &mut |_, text| on_text(text))?;
        let generating = runs.pop().expect("a recipe has a stage");
        let Value::Answers(answers) = generating.output else { unreachable!("the recipe ends in an answer") };
        let mut answer = answers.into_iter().next().expect("one answer a question")?;
        answer.timings.retrieve_s = opened + runs.iter().map(|run| run.time.as_secs_f64()).sum::<f64>();
        let loading = generating.time.as_secs_f64() - answer.timings.prefill_s - answer.timings.decode_s;
        answer.timings.first_token_s = answer.timings.retrieve_s + loading.max(0.0) + answer.timings.prefill_s;
        Ok(answer)
    }

    /// The context that a recipe for answers would have the generator answer from.
    ///
    /// # Errors
    ///
    /// [`Error::RecipeEnd`] when the recipe has no context; else as [`pipeline`](Self::pipeline).
    pub fn context(
        &self,
        recipe: &Recipe,
        generator: Arc<dyn Generator>,
        question: &str,
        filter: &Filter,
    ) -> Result<Context> {
        let retrieval = without_generation(recipe)?;
        let pipeline = self.pipeline(retrieval, Some(generator))?;
        match pipeline.run(vec![self.query(question, filter)?])? {
            Value::Contexts(contexts) => Ok(contexts.into_iter().next().expect("one context a question")),
            other => Err(Error::RecipeEnd {
                recipe: recipe.name().to_owned(),
                found: other.port().to_string(),
                wanted: "a Context",
            }),
        }
    }
}

fn stage_times(pipeline: &Pipeline, runs: &[StageRun]) -> Vec<StageTime> {
    let stages = pipeline.recipe().stages().iter().zip(runs);
    stages.map(|(stage, run)| StageTime { stage: stage.name.clone(), seconds: run.time.as_secs_f64() }).collect()
}
