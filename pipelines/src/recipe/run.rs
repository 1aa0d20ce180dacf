//! Recipes at work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raglan_core::{Answer, ChunkStore, ChunkVectors, Context, Error, Generator, Query, Reranker, Result, Retriever};

use super::{Input, Port, Recipe, RecipeStage, RerankSpec, StageSpec};
use crate::{Ranked, Stage, expand, fuse, gate, min_score, mmr, read, rerank, retrieve, select};

/// What a stage of a recipe needs from outside.
#[derive(Clone)]
pub enum Part {
    /// For a stage from Query to Ranking.
    Retriever(Arc<dyn Retriever>),
    /// For a stage that scores the chunks of a Ranking.
    Reranker(Arc<dyn Reranker>),
    /// For `mmr`.
    Vectors(Arc<dyn ChunkVectors>),
    /// For `read` and `expand`.
    Store(Arc<dyn ChunkStore>),
    /// For `generate`.
    Generator(Arc<dyn Generator>),
}

/// A recipe with its parts in place.
pub struct Pipeline {
    recipe: Recipe,
    parts: Vec<Option<Part>>,
}

/// A batch of what flows between stages.
#[derive(Debug)]
pub enum Value {
    /// Questions.
    Queries(Vec<Query>),
    /// Ranked chunks.
    Rankings(Vec<Ranked>),
    /// Questions with passages.
    Contexts(Vec<Context>),
    /// Answers, or why a question has none.
    Answers(Vec<Result<Answer>>),
}

/// What a stage gave, and how long it took.
#[derive(Debug)]
pub struct StageRun {
    /// What it gave, one item a question.
    pub output: Value,
    /// How long it took.
    pub time: Duration,
}

impl Value {
    /// What it is.
    pub fn port(&self) -> Port {
        match self {
            Self::Queries(_) => Port::Query,
            Self::Rankings(_) => Port::Ranking,
            Self::Contexts(_) => Port::Context,
            Self::Answers(_) => Port::Answer,
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
        let mut parts = Vec::with_capacity(self.stages.len());
        for stage in &self.stages {
            let wanted = match stage.spec {
                StageSpec::Bm25 { .. }
                | StageSpec::Dense { .. }
                | StageSpec::Sparse { .. }
                | StageSpec::Late { .. } => "a retriever",
                StageSpec::Rescore { .. } | StageSpec::Rerank(_) => "a reranker",
                StageSpec::MarginalRelevance { .. } => "vectors",
                StageSpec::Read | StageSpec::Expand { .. } => "a store",
                StageSpec::Generate(_) => "a generator",
                StageSpec::Fuse { .. } | StageSpec::Gate { .. } | StageSpec::Select { .. } => {
                    parts.push(None);
                    continue;
                }
            };
            let part = part(stage)?;
            let found = match part {
                Part::Retriever(_) => "a retriever",
                Part::Reranker(_) => "a reranker",
                Part::Vectors(_) => "vectors",
                Part::Store(_) => "a store",
                Part::Generator(_) => "a generator",
            };
            if found != wanted {
                let problem = format!("stage `{}` needs {wanted}, not {found}", stage.name);
                return Err(Error::Invalid { what: "recipe", problem }.into());
            }
            parts.push(Some(part));
        }
        Ok(Pipeline { recipe: self, parts })
    }
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
        let mut runs: Vec<StageRun> = Vec::with_capacity(self.parts.len());
        for (stage, part) in self.recipe.stages.iter().zip(&self.parts) {
            let start = Instant::now();
            let rankings = |place: usize| match stage.inputs[place] {
                Input::Stage(i) => match &runs[i].output {
                    Value::Rankings(rankings) => rankings.clone(),
                    _ => unreachable!("the recipe's ports fit"),
                },
                Input::Query => unreachable!("the recipe's ports fit"),
            };
            let output = match (&stage.spec, part) {
                (
                    StageSpec::Bm25 { k, .. }
                    | StageSpec::Dense { k, .. }
                    | StageSpec::Sparse { k, .. }
                    | StageSpec::Late { k },
                    Some(Part::Retriever(retriever)),
                ) => Value::Rankings(retrieve(&**retriever, *k).run(queries.clone())?),
                (
                    StageSpec::Rescore { k, .. } | StageSpec::Rerank(RerankSpec { k, .. }),
                    Some(Part::Reranker(reranker)),
                ) => Value::Rankings(rerank(&**reranker, *k).run(rankings(0))?),
                (StageSpec::MarginalRelevance { lambda, k }, Some(Part::Vectors(vectors))) => {
                    Value::Rankings(mmr(&**vectors, *lambda, *k).run(rankings(0))?)
                }
                (StageSpec::Fuse { fusion, weights, depth, k }, None) => {
                    let lists: Vec<_> = (0..stage.inputs.len()).map(rankings).collect();
                    let stage = fuse(fusion.clone(), *k).weights(weights.clone()).depth(*depth);
                    Value::Rankings(stage.run(lists)?)
                }
                (StageSpec::Select { k }, None) => Value::Rankings(select(*k).run(rankings(0))?),
                (StageSpec::Gate { min_scores }, None) => Value::Rankings(match stage.inputs.len() {
                    1 => min_score(min_scores[0]).run(rankings(0))?,
                    n => gate(min_scores.clone()).run((rankings(0), (1..n).map(rankings).collect()))?,
                }),
                (StageSpec::Read, Some(Part::Store(store))) => Value::Contexts(read(&**store).run(rankings(0))?),
                (StageSpec::Expand { neighbours, merge }, Some(Part::Store(store))) => {
                    let Input::Stage(i) = stage.inputs[0] else { unreachable!("the recipe's ports fit") };
                    let Value::Contexts(contexts) = &runs[i].output else { unreachable!("the recipe's ports fit") };
                    Value::Contexts(expand(&**store, *neighbours, *merge).run(contexts.clone())?)
                }
                (StageSpec::Generate(_), Some(Part::Generator(generator))) => {
                    let Input::Stage(i) = stage.inputs[0] else { unreachable!("the recipe's ports fit") };
                    let Value::Contexts(contexts) = &runs[i].output else { unreachable!("the recipe's ports fit") };
                    let answers = generator.generate(contexts, on_text)?;
                    if answers.len() != contexts.len() {
                        return Err(Error::Shape { what: "answers", expected: contexts.len(), found: answers.len() });
                    }
                    Value::Answers(answers)
                }
                _ => unreachable!("`bind` gave every stage the part it needs"),
            };
            runs.push(StageRun { output, time: start.elapsed() });
        }
        Ok(runs)
    }

    /// Runs every stage and returns what the last gave.
    pub fn run(&self, queries: Vec<Query>) -> Result<Value> {
        let runs = self.trace(queries, &mut |_, _| {})?;
        Ok(runs.into_iter().next_back().expect("a recipe has a stage").output)
    }
}
