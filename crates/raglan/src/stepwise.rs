//! Recipes' stages that answer in steps, on strategies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raglan_core::{
    Answer, AnswerStep, Budget, Chunk, ChunkStore, Error as CoreError, LeftOut, LeftOutReason, Passage, Query,
    Retriever, SharedBudget, Source, StepwiseGenerator, Timings, TokenUsage,
};
use raglan_generate::attribute;
use raglan_model::TextModel;
use raglan_multistep::{
    Adaptive, EvidenceCheck, Flare, Interleaved, Limits, Parts, Refusing, Samples, SearchPlan, SelfAsk, Sources,
    StepKind, Strategy, Trail, Trigger, Unit,
};
use raglan_pipeline::{RetrievalTrigger, Stepping, StepsSpec};

/// The strategy of a recipe's stage, on a language model and the chunks of a store.
pub(crate) struct StrategyGenerator {
    pub model: Arc<dyn TextModel>,
    pub store: Arc<dyn ChunkStore>,
    pub spec: StepsSpec,
}

impl StrategyGenerator {
    fn strategy(&self, retriever: &Arc<dyn Retriever>) -> Arc<dyn Strategy> {
        let StepsSpec { passages: k, max_steps, queries, threshold, samples, temperature, seed, .. } = self.spec;
        let limits = Limits {
            passage_words: self.spec.passage_words,
            context_tokens: limit(self.spec.context_tokens).unwrap_or(usize::MAX),
            answer_tokens: self.spec.answer_tokens,
            step_tokens: self.spec.step_tokens,
        };
        let unit = match self.spec.by {
            Stepping::SearchPlan => Unit::Documents,
            _ => Unit::Passages,
        };
        let sources = Sources { retriever: retriever.clone(), store: self.store.clone(), unit };
        let parts = Parts { model: self.model.clone(), sources, limits };
        let strategy: Arc<dyn Strategy> = match self.spec.by {
            Stepping::SelfAsk => Arc::new(SelfAsk { max_steps, ..SelfAsk::new(parts, k) }),
            Stepping::Ircot => Arc::new(Interleaved { max_steps, ..Interleaved::new(parts, k) }),
            Stepping::SearchPlan => Arc::new(SearchPlan { steps: max_steps, queries, k, ..SearchPlan::new(parts) }),
            Stepping::Adaptive => {
                let samples = Samples { n: samples, temperature, seed };
                let trigger = match self.spec.trigger {
                    RetrievalTrigger::FirstToken => Trigger::FirstToken { least: threshold },
                    RetrievalTrigger::AnyToken => Trigger::AnyToken { least: threshold },
                    RetrievalTrigger::MeanLoss => Trigger::MeanLoss { most: threshold },
                    RetrievalTrigger::Asked => Trigger::Asked { token: "<RET>".to_owned() },
                    RetrievalTrigger::Unsure => Trigger::Unsure { least: threshold },
                    RetrievalTrigger::Entropy => Trigger::Entropy { samples, most: threshold },
                    RetrievalTrigger::Disagreement => Trigger::Disagreement { samples, least: threshold },
                };
                Arc::new(Adaptive { max_rounds: max_steps, k, ..Adaptive::new(parts, trigger) })
            }
            Stepping::Flare => Arc::new(Flare { k, theta: threshold, max_sentences: max_steps, ..Flare::new(parts) }),
        };
        match self.spec.borne_out {
            0.0 => strategy,
            least => Arc::new(Refusing { check: EvidenceCheck::Words { least }, ..Refusing::new(strategy) }),
        }
    }

    /// What a question may cost: the stage's own budget, and what the stages around it leave.
    fn budget(&self) -> Budget {
        let time = limit(self.spec.budget_ms).map(|ms| Duration::from_millis(ms as u64));
        Budget { tokens: limit(self.spec.budget_tokens), time }.within_shared(1)
    }
}

impl StepwiseGenerator for StrategyGenerator {
    fn answer(
        &self,
        questions: &[Query],
        retriever: &Arc<dyn Retriever>,
        on_text: &mut dyn FnMut(usize, &str),
    ) -> raglan_core::Result<Vec<raglan_core::Result<Answer>>> {
        let strategy = self.strategy(retriever);
        let mut answer = |(i, question): (usize, &Query)| {
            if SharedBudget::current().is_spent() {
                return Ok(Err(CoreError::BudgetSpent));
            }
            let (begin, mut first_text_s) = (Instant::now(), None);
            let trail = strategy.answer_streaming(question, &self.budget(), &mut |text| {
                first_text_s.get_or_insert_with(|| begin.elapsed().as_secs_f64());
                on_text(i, text);
            });
            match trail {
                Ok(trail) => {
                    SharedBudget::current().spend(trail.cost);
                    let all_s = begin.elapsed().as_secs_f64();
                    Ok(Ok(answer_of(question, trail, first_text_s.unwrap_or(all_s), all_s)))
                }
                Err(error) => match CoreError::from(error) {
                    CoreError::Interrupted => Err(CoreError::Interrupted),
                    error => Ok(Err(error)),
                },
            }
        };
        questions.iter().enumerate().map(&mut answer).collect()
    }
}

fn limit(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

/// A trail as an answer with its sources, which are the passages that stood in the last prompt, and none where it was
/// refused; with the seconds to the answer's first text and to its end.
fn answer_of(question: &Query, trail: Trail, first_text_s: f64, all_s: f64) -> Answer {
    let shown: Vec<&Passage> = trail.shown.iter().map(|&i| &trail.evidence[i]).collect();
    let texts: Vec<String> =
        shown.iter().map(|passage| Chunk::prefixed(&passage.chunk.locator, &passage.chunk.text)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let sentences = if trail.refused { Vec::new() } else { attribute(&question.text, &trail.answer, &texts) };
    let sources = if trail.refused { Vec::new() } else { shown.iter().map(|passage| Source::of(passage)).collect() };
    let left_out = (0..trail.evidence.len()).filter(|i| !trail.shown.contains(i));
    let left_out = left_out.map(|i| LeftOut { chunk: trail.evidence[i].chunk.id, reason: LeftOutReason::Budget });
    let last = trail.steps.iter().rfind(|step| step.kind != StepKind::Check).map(|step| step.cost).unwrap_or_default();
    Answer {
        question: question.text.clone(),
        sentences,
        gathered: trail.evidence.iter().map(|passage| passage.chunk.id).collect(),
        sources,
        left_out: left_out.collect(),
        timings: Timings {
            retrieve_s: 0.0,
            prefill_s: first_text_s,
            decode_s: all_s - first_text_s,
            first_token_s: first_text_s,
        },
        tokens: TokenUsage {
            prompt: trail.cost.tokens() - last.tokens_written,
            answer: last.tokens_written,
            passages: shown.len(),
        },
        kv: None,
        steps: trail
            .steps
            .into_iter()
            .map(|step| AnswerStep {
                text: step.text,
                queries: step.queries,
                documents: step.documents,
                cost: step.cost,
            })
            .collect(),
        text: trail.answer,
    }
}
