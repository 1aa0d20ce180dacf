//! A recipe at work on the queries of an evaluation collection.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use raglan_core::{Answer, ChunkId, Cost, Error as CoreError, Query, Ranking};
use raglan_datasets::{Qrels, Run, beir};
use raglan_pipeline::{Input, Port, Recipe, StageSpec, Value};

use crate::Result;
use crate::index::Index;
use crate::search::without_generation;

/// What a recipe found for queries, and what that took.
#[derive(Clone, Debug, Default)]
pub struct CollectionRun {
    /// Documents by the score of their best chunk.
    pub run: Run,
    /// Seconds of each query by itself, in the order of the queries.
    pub seconds: Vec<f64>,
    /// What models that judge, rewrite or write cost for each query.
    pub costs: Vec<Cost>,
    /// Each stage that gives a ranking or an answer in steps, in order.
    pub stages: Vec<StageResults>,
}

/// What a stage of a recipe gave for all queries.
#[derive(Clone, Debug, Default)]
pub struct StageResults {
    /// Its name in the recipe.
    pub stage: String,
    /// Whether it takes questions, not rankings.
    pub is_first: bool,
    /// Documents by the score of their best chunk.
    pub run: Run,
    /// Seconds of each query.
    pub seconds: Vec<f64>,
    /// What models cost in it for each query.
    pub costs: Vec<Cost>,
}

impl Index {
    /// Runs the retrieval stages of a recipe on each query by itself, as a user would ask them.
    ///
    /// A recipe that answers in steps is run as it is: what its steps [gathered](Answer::gathered_ranking) is its ranking.
    /// Of a question whose budget was spent before its first step that is nothing.
    ///
    /// A document that has the query's own id is left out, as BEIR does: some collections ask with their documents. Each
    /// list has the `k` best documents of those that the recipe's stages find as they are written, the last of them
    /// [giving](Recipe::giving) as many; with `judged`, a query looks only among the
    /// documents that are judged for it, as collections for rerankers want. `on_query` is called after each query; when
    /// it says no, the rest is not asked.
    ///
    /// # Errors
    ///
    /// When the recipe needs a part that the index lacks; damaged files; a model that fails.
    pub fn run_collection(
        &self,
        recipe: &Recipe,
        queries: &[&beir::Query],
        k: usize,
        judged: Option<&Qrels>,
        on_query: &mut dyn FnMut(usize) -> bool,
    ) -> Result<CollectionRun> {
        let documents = self.document_names()?;
        let names: HashSet<&str> = documents.values().map(String::as_str).collect();
        // One more where queries are documents too, for the query's own.
        let own = usize::from(queries.iter().any(|query| names.contains(query.id.as_str())));
        let recipe = match is_in_steps(recipe) {
            true => recipe.clone(),
            false => without_generation(recipe)?.giving(k.saturating_add(own)),
        };
        let pipeline = self.pipeline(recipe, None)?;
        let asked = |query: &beir::Query| match judged {
            None => Query::new(&query.text),
            Some(qrels) => {
                let grades = qrels.iter().find(|(id, _)| *id == query.id).map(|(_, grades)| grades);
                let is_judged = |name: &String| grades.is_some_and(|grades| grades.contains_key(name));
                let chunks = documents.iter().filter(|(_, name)| is_judged(name)).map(|(chunk, _)| *chunk);
                Query::new(&query.text).among(Arc::new(chunks.collect()))
            }
        };
        let mut result = CollectionRun::default();
        if let Some(first) = queries.first() {
            pipeline.run(vec![asked(first)])?; // Loads models and maps files, which is no query's time.
        }
        for (i, query) in queries.iter().enumerate() {
            let question = asked(query);
            let started = Instant::now();
            let runs = pipeline.trace(vec![question], &mut |_, _| {})?;
            result.seconds.push(started.elapsed().as_secs_f64());
            let mut cost = Cost::default();
            runs.iter().for_each(|run| cost += run.cost);
            result.costs.push(cost);
            let mut n_rankings = 0;
            for (stage, run) in pipeline.recipe().stages().iter().zip(runs) {
                let ranking = match run.output {
                    Value::Rankings(mut ranked) => ranked.swap_remove(0).ranking,
                    Value::Answers(mut answers) => gathered(answers.swap_remove(0))?,
                    _ => continue,
                };
                if result.stages.len() == n_rankings {
                    result.stages.push(StageResults {
                        stage: stage.name.clone(),
                        is_first: stage.inputs.contains(&Input::Query),
                        ..StageResults::default()
                    });
                }
                let results = &mut result.stages[n_rankings];
                results.seconds.push(run.time.as_secs_f64());
                results.costs.push(run.cost);
                insert(&mut results.run, &query.id, &ranking, &documents, k);
                n_rankings += 1;
            }
            if !on_query(i + 1) {
                break;
            }
        }
        result.run = result.stages.last().map(|stage| stage.run.clone()).unwrap_or_default();
        Ok(result)
    }

    /// The document's name of each chunk.
    fn document_names(&self) -> Result<HashMap<ChunkId, String>> {
        let ledger = self.snapshot().ledger()?;
        let names: BTreeMap<_, &String> = ledger.documents().map(|document| (document.id, &document.path)).collect();
        let chunks = self.snapshot().chunk_docs()?;
        Ok(chunks.into_iter().filter_map(|(chunk, doc)| Some((chunk, (*names.get(&doc)?).clone()))).collect())
    }
}

/// Whether a recipe ends in answers that are made in steps.
fn is_in_steps(recipe: &Recipe) -> bool {
    let is_steps = |spec: &StageSpec| matches!(spec, StageSpec::Steps(_));
    recipe.output() == Port::Answer && recipe.all_stages().iter().any(|stage| is_steps(&stage.spec))
}

/// What the steps to an answer gathered.
fn gathered(answer: raglan_core::Result<Answer>) -> raglan_core::Result<Ranking> {
    match answer {
        Err(CoreError::BudgetSpent) => Ok(Ranking::default()),
        answer => answer?.gathered_ranking(),
    }
}

/// Adds a query's documents to a run, each with the score of its best chunk.
fn insert(run: &mut Run, query: &str, ranking: &Ranking, documents: &HashMap<ChunkId, String>, k: usize) {
    let mut seen = HashSet::new();
    let named = ranking.hits().iter().filter_map(|hit| Some((documents.get(&hit.chunk)?, hit.score)));
    let others = named.filter(|(name, _)| *name != query && seen.insert(*name));
    run.set(query, others.take(k).collect::<Vec<_>>());
}
