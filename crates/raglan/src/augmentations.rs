//! What helps searching in recipes: other texts for a question, synthetic questions, gates, examples, scorers of lists.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raglan_augment::{
    ContrastiveExamples, GatedEncoder, LexicalGate, MetaKnowledge, MetaKnowledgeRewriter, MetaKnowledgeWriter,
    ModelRewriter, QuestionIndex, QuestionOptions, QuestionWriter, Rewriting as Texts, SyntheticQuestion,
    read_questions, round_trip,
};
use raglan_core::{
    Budget, ChunkId, ChunkStore, Cost, DenseVector, Encoder, ExampleSource, PassageSetScorer, QueryRewriter, Retriever,
};
use raglan_dense::SearchMode;
use raglan_pipeline::{
    EncodedSets, RerankSpec, Reranking, RewriteSpec, Rewriting, SetScoring, TreeSearchSpec, VectorRetriever,
};
use raglan_rerank::JudgedSets;

use crate::index::Index;
use crate::judges::Judges;
use crate::{Error, Result};

/// How many passages are given to a language model at a time.
const AT_ONCE: usize = 8;

/// How questions are written for the chunks of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionSettings {
    /// The language model's name or folder; empty, the default.
    pub model: String,
    /// How they are written.
    pub options: QuestionOptions,
    /// Keeps the questions that lead back to their chunk: among the first so many that the index's vectors find. 0 keeps
    /// all.
    pub round_trip: usize,
    /// At most so many chunks, in the order of the index.
    pub limit: usize,
}

/// Questions for the chunks of an index.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionReport {
    /// Those that are kept.
    pub questions: Vec<SyntheticQuestion>,
    /// How many chunks were read.
    pub n_chunks: usize,
    /// How many texts were no questions about their chunk.
    pub n_dropped: usize,
    /// How many questions led elsewhere.
    pub n_astray: usize,
    /// What writing them cost.
    pub cost: Cost,
    /// Whether it ended before all chunks were read.
    pub interrupted: bool,
}

fn limit(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

impl Index {
    /// Models for a stage of this name.
    pub(crate) fn judges(&self, stage: &str) -> Result<&Judges> {
        self.judges.as_ref().ok_or_else(|| Error::NoModels { stage: stage.to_owned() })
    }

    fn dense_encoder(&self) -> Result<Arc<dyn Encoder<Vector = DenseVector>>> {
        Ok(self.embedder()?.encoder()?.clone())
    }

    /// The rewriter of a recipe's stage.
    pub(crate) fn rewriter(&self, stage: &str, spec: &RewriteSpec) -> Result<Arc<dyn QueryRewriter>> {
        let model = self.judges(stage)?.chat_model(&spec.model)?;
        let budget = Budget {
            tokens: limit(spec.budget_tokens),
            time: limit(spec.budget_ms).map(|ms| Duration::from_millis(ms as u64)),
        };
        let RewriteSpec { n, max_tokens, temperature, .. } = *spec;
        let texts = match spec.by {
            Rewriting::Keywords => Texts::Keywords,
            Rewriting::HypotheticalDocument => Texts::HypotheticalDocument { n, max_tokens, temperature },
            Rewriting::Paraphrases => Texts::Paraphrases { n, temperature },
            Rewriting::Decomposition => Texts::Decomposition { n },
            Rewriting::MetaKnowledge => {
                let knowledge = MetaKnowledge::read(Path::new(&spec.file))?;
                return Ok(Arc::new(MetaKnowledgeRewriter::new(model, &knowledge, n, budget)));
            }
        };
        Ok(Arc::new(ModelRewriter::new(model, texts, spec.seed, budget)?))
    }

    /// Retrieval by vectors whose queries pass a gate of their words.
    pub(crate) fn gated_retriever(&self, stage: &str, temperature: f32) -> Result<Arc<dyn Retriever>> {
        let files = self.judges(stage)?.files(&self.embedder()?.stamp().name)?;
        let gate = LexicalGate::of_encoder(&files.dir, Vec::new(), temperature)?;
        let encoder = Arc::new(GatedEncoder::new(self.dense_encoder()?, gate));
        Ok(Arc::new(VectorRetriever::new(encoder, self.dense()?.clone())))
    }

    /// Retrieval by the questions of a file.
    pub(crate) fn question_retriever(&self, file: &str) -> Result<Arc<dyn Retriever>> {
        let live = self.snapshot().live_chunks()?;
        let mut questions = read_questions(Path::new(file))?;
        questions.retain(|question| live.contains(question.chunk));
        Ok(Arc::new(QuestionIndex::new(self.dense_encoder()?, &questions)?))
    }

    /// The examples of a file.
    pub(crate) fn example_source(&self, file: &str) -> Result<Arc<dyn ExampleSource>> {
        Ok(Arc::new(ContrastiveExamples::load(Path::new(file), self.dense_encoder()?)?))
    }

    /// The encoder of passages' sentences.
    pub(crate) fn sentence_encoder(&self) -> Result<Arc<dyn Encoder<Vector = DenseVector>>> {
        self.dense_encoder()
    }

    /// What scores lists of passages for a recipe's stage.
    pub(crate) fn set_scorer(&self, stage: &str, spec: &TreeSearchSpec) -> Result<Arc<dyn PassageSetScorer>> {
        let by = match spec.by {
            SetScoring::Cosine => return Ok(Arc::new(EncodedSets::new(self.dense_encoder()?))),
            SetScoring::CrossEncoder => Reranking::CrossEncoder,
            SetScoring::QueryLikelihood => Reranking::QueryLikelihood,
            SetScoring::YesNo => Reranking::YesNo,
        };
        let rerank = RerankSpec { model: spec.model.clone(), passage_tokens: spec.budget, ..RerankSpec::new(by) };
        Ok(Arc::new(JudgedSets::new(self.judges(stage)?.judge(&rerank)?)))
    }

    /// Writes questions for the chunks of the index, a few chunks at a time; `on_done` is called with how many were read,
    /// and when it breaks, what was done is kept.
    ///
    /// # Errors
    ///
    /// When the index was opened without models or one fails; [`Error::NoVectors`] for a round trip in an index without
    /// vectors.
    pub fn write_questions(
        &self,
        settings: &QuestionSettings,
        on_done: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<QuestionReport> {
        let model = self.judges("questions")?.chat_model(&settings.model)?;
        let writer = QuestionWriter::new(model, settings.options.clone())?;
        let retriever = match settings.round_trip {
            0 => None,
            _ => Some(self.dense_retriever(SearchMode::default())?),
        };
        let ids: Vec<ChunkId> = self.snapshot().live_chunks()?.iter().take(settings.limit).collect();
        let mut report = QuestionReport {
            questions: Vec::new(),
            n_chunks: 0,
            n_dropped: 0,
            n_astray: 0,
            cost: Cost::default(),
            interrupted: false,
        };
        for some in ids.chunks(AT_ONCE) {
            let chunks = self.snapshot().chunks(some)?;
            let passages: Vec<_> = chunks.iter().map(|chunk| (chunk.id, chunk.embedded_text(true))).collect();
            let passages: Vec<_> = passages.iter().map(|(id, text)| (*id, text.as_str())).collect();
            let written = writer.write(&passages, &Budget::default())?;
            report.cost += written.cost;
            report.n_dropped += written.n_dropped;
            let n_written = written.questions.len();
            let kept = match &retriever {
                Some(retriever) => round_trip(written.questions, &**retriever, settings.round_trip)?,
                None => written.questions,
            };
            report.n_astray += n_written - kept.len();
            report.questions.extend(kept);
            report.n_chunks += some.len();
            if on_done(report.n_chunks).is_break() {
                report.interrupted = report.n_chunks < ids.len();
                break;
            }
        }
        Ok(report)
    }

    /// Writes meta-knowledge of the first `limit` chunks: their topics, of a closed list, with `n` questions a chunk.
    ///
    /// # Errors
    ///
    /// When the index was opened without models or one fails; topics that cannot be told apart.
    pub fn write_meta_knowledge(
        &self,
        model: &str,
        topics: Vec<String>,
        n: usize,
        limit: usize,
    ) -> Result<(MetaKnowledge, Cost)> {
        let model = self.judges("meta-knowledge")?.chat_model(model)?;
        let writer = MetaKnowledgeWriter::new(model, topics, n)?;
        let ids: Vec<ChunkId> = self.snapshot().live_chunks()?.iter().take(limit).collect();
        let chunks = self.snapshot().chunks(&ids)?;
        let passages: Vec<_> = chunks.iter().map(|chunk| (chunk.id, chunk.embedded_text(true))).collect();
        let passages: Vec<_> = passages.iter().map(|(id, text)| (*id, text.as_str())).collect();
        Ok(writer.write(&passages, &Budget::default())?)
    }
}
