//! Models that judge passages, loaded when a recipe first asks for them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raglan_core::{ChunkStore, Reranker};
use raglan_kv::{BlockPrecision, ChunkCache};
use raglan_model::registry::ModelFiles;
use raglan_model::{ChatModel, LanguageModel};
use raglan_pipeline::{RerankSpec, Reranking};
use raglan_rerank::{
    Budget, Compare, Comparison, InContext, Judge, ListReading, Listwise, PassageReranker, QueryLikelihood,
    WordOverlap, YesNo,
};

use crate::kept_kv::{JudgedKv, kept, kept_folder};
use crate::models::{Models, weights, with_remedy};
use crate::{Error, Result};

/// Makes the rerankers of recipes; what they load stays, so that the next question finds it.
pub(crate) struct Judges {
    models: Models,
    /// The index whose chunks are judged.
    index: PathBuf,
    language_models: Mutex<HashMap<String, Arc<LanguageModel>>>,
    judges: Mutex<HashMap<RerankSpec, Arc<dyn Judge>>>,
}

impl Judges {
    pub(crate) fn new(models: Models, index: PathBuf) -> Self {
        Self { models, index, language_models: Mutex::default(), judges: Mutex::default() }
    }

    /// The models that it makes them of.
    pub(crate) fn models(&self) -> &Models {
        &self.models
    }

    /// The reranker of a recipe's stage over the chunks of a store.
    pub(crate) fn reranker(&self, spec: &RerankSpec, store: Arc<dyn ChunkStore>) -> Result<Arc<dyn Reranker>> {
        let judge = self.judge(spec)?;
        let limit = |number: usize| (number > 0).then_some(number);
        let budget = Budget {
            tokens: limit(spec.budget_tokens),
            time: limit(spec.budget_ms).map(|ms| Duration::from_millis(ms as u64)),
        };
        Ok(Arc::new(PassageReranker::new(judge, store, spec.depth, budget)))
    }

    /// The judge that a stage asks for, loaded when it is first asked for.
    pub(crate) fn judge(&self, spec: &RerankSpec) -> Result<Arc<dyn Judge>> {
        // The locks are held while a model is loaded: a second question is to wait for it and not to load it too.
        let mut judges = self.judges.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(judge) = judges.get(spec) {
            return Ok(judge.clone());
        }
        let judge = self.load(spec)?;
        judges.insert(spec.clone(), judge.clone());
        Ok(judge)
    }

    fn load(&self, spec: &RerankSpec) -> Result<Arc<dyn Judge>> {
        let RerankSpec { passage_tokens, window, step, children, top, first_layer, n_layers, .. } = *spec;
        let model = || self.language_model(&spec.model);
        let list = |reading| Ok::<_, Error>(Listwise::new(model()?, reading, window, step, passage_tokens)?);
        Ok(match spec.by {
            Reranking::CrossEncoder => {
                let judge = self.models.cross_encoder(&self.models.ensure(&spec.model)?.dir);
                Arc::new(judge.map_err(|error| with_remedy(&spec.model, error))?)
            }
            Reranking::QueryLikelihood => {
                let judge = QueryLikelihood::new(model()?, passage_tokens)?;
                Arc::new(match spec.keep {
                    true => {
                        let (blocks, weights, precision) = self.blocks(&spec.model)?;
                        judge.keeping(blocks, &weights, precision)
                    }
                    false => judge,
                })
            }
            Reranking::YesNo => Arc::new(YesNo::new(model()?, passage_tokens)?),
            Reranking::Pairwise => Arc::new(Compare::new(model()?, Comparison::Pairwise, top, passage_tokens)?),
            Reranking::Setwise => Arc::new(Compare::new(model()?, Comparison::Setwise(children), top, passage_tokens)?),
            Reranking::Listwise => Arc::new(list(ListReading::Generated)?),
            Reranking::First => Arc::new(list(ListReading::FirstToken)?),
            Reranking::InContext => {
                let model = model()?;
                let n = if n_layers == 0 { usize::MAX } else { n_layers };
                let end = model.transformer.config().n_layers.min(first_layer.saturating_add(n));
                let judge = InContext::new(model, Some(first_layer..end), passage_tokens)?;
                Arc::new(match spec.keep {
                    true => {
                        let (blocks, weights, precision) = self.blocks(&spec.model)?;
                        judge.keeping(blocks, &weights, precision)
                    }
                    false => judge,
                })
            }
            Reranking::AnswerAttention => unreachable!("the generator judges, and no model of its own"),
            Reranking::WordOverlap => Arc::new(WordOverlap),
        })
    }

    /// What is kept of chunks that a language model judged, and the name of its weights.
    fn blocks(&self, model: &str) -> Result<(Arc<ChunkCache>, String, BlockPrecision)> {
        let JudgedKv { precision, limits } = self.models.settings().judged_kv;
        let name = self.language_model_name(model);
        let weights = weights(&self.models.ensure(name)?);
        let folder = kept_folder(&self.index, name, &weights)?;
        let blocks = ChunkCache::open((limits.disk_bytes > 0).then_some(folder), limits);
        Ok((Arc::new(blocks.map_err(kept)?), weights, precision))
    }

    /// The files of a model.
    pub(crate) fn files(&self, name: &str) -> Result<ModelFiles> {
        self.models.ensure(name)
    }

    /// A language model to ask for texts, by name; see [`language_model`](Self::language_model).
    pub(crate) fn chat_model(&self, name: &str) -> Result<ChatModel> {
        let model = ChatModel::new(self.language_model(name)?);
        Ok(match self.models.interrupt() {
            Some(flag) => model.interrupted_by(flag.clone()),
            None => model,
        })
    }

    fn language_model_name<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() { self.models.language_model_name() } else { name }
    }

    /// A language model by name, the generator's when that is empty, loaded when it is first asked for.
    pub(crate) fn language_model(&self, name: &str) -> Result<Arc<LanguageModel>> {
        let name = self.language_model_name(name);
        let mut models = self.language_models.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = models.get(name) {
            return Ok(model.clone());
        }
        let model = Arc::new(self.models.language_model(name)?()?);
        models.insert(name.to_owned(), model.clone());
        Ok(model)
    }
}
