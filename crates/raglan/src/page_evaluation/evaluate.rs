//! Approaches at work on questions.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use raglan_core::{Budget, ChunkId, ChunkSet, Cost, Meter, Query};
use raglan_datasets::kilt::{Output, Provenance, Record as KiltRecord};
use raglan_eval::kilt::KiltScore;
use raglan_eval::loss::{Fate, Way, fate, fates};
use raglan_eval::{answers, kilt};
use raglan_model::{Prompt, TextModel};
use raglan_multistep::{End, Limits, Parts, Sources, Step, Strategy, Trail, Unit};
use raglan_pipeline::Recipe;
use serde::Serialize;

use super::Approach;
use super::page_names::PageNames;
use super::questions::PageQuestion;
use super::recorded_retrieval::{EveryDocument, NoPages, RecordedRetrieval};
use crate::index::Index;
use crate::{Error, Result};

/// The prompt of the judge, by which its verdicts can be repeated.
const JUDGE: &str = "contains-the-answer/1";

/// Asks whether an answer is right, after the judge of FRAMES.
fn judge_prompt(question: &str, right: &str, answer: &str) -> String {
    format!(
        "Compare an answer with the right one. It is right when it means the same, also in other words or with more \
         words around it.\nQuestion: {question}\nRight answer: {right}\nAnswer: {answer}\nIs the answer right? Reply with \
         Yes or No."
    )
}

/// Where KILT cuts its lists of pages.
const CUTS: [usize; 4] = [1, 5, 10, 20];

/// Answers questions from the pages of an index, or without any.
pub struct PageEvaluator<'a> {
    /// The pages, and the recipe that finds them.
    pub pages: Option<(&'a Index, &'a Recipe)>,
    /// What answers.
    pub model: Option<Arc<dyn TextModel>>,
    /// What judges answers beside the comparison of words.
    pub judge: Option<Arc<dyn TextModel>>,
    /// How prompts are filled.
    pub limits: Limits,
    /// What a question may cost.
    pub budget: Budget,
    /// How many chunks each search ranks.
    pub depth: usize,
}

/// What an approach made of all questions.
#[derive(Clone, Debug, Serialize)]
pub struct ApproachResult {
    /// The approach.
    pub approach: String,
    /// How many questions were asked.
    pub n: usize,
    /// How many of them have right answers.
    pub n_with_answers: usize,
    /// How many of them have right pages.
    pub n_with_pages: usize,
    /// Share of the questions with answers to which the answer contains a right one, after normalisation.
    pub containment: f64,
    /// Mean exact match, of the questions with answers.
    pub em: f64,
    /// Mean token F1, of the questions with answers.
    pub f1: f64,
    /// What the judge says, if there is one.
    pub judged: Option<Judged>,
    /// KILT's figures: those of pages are means over the questions with pages, those of answers over the questions with
    /// answers, and those of both over the questions with both.
    pub kilt: KiltScore,
    /// Share of the right pages that were found after each step that searched, and stay so: the mean over the questions with
    /// pages. Questions that were through before count with their last value.
    pub page_recall: Vec<f64>,
    /// Share of the questions with pages all of which stood in the prompt.
    pub all_pages: f64,
    /// Share of refusals.
    pub refused: f64,
    /// Tokens that were read and written, the mean.
    pub tokens: f64,
    /// Calls of the model, the mean.
    pub calls: f64,
    /// Seconds of a question, the mean.
    pub seconds: f64,
    /// How many questions were lost where.
    pub fates: BTreeMap<Fate, usize>,
    /// Each question, in order.
    pub questions: Vec<QuestionResult>,
}

/// Verdicts of a judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The model.
    pub model: String,
    /// Name and version of the prompt.
    pub prompt: String,
    /// Share of the answers that it says are right.
    pub right: f64,
    /// Share of the answers of which it says what the comparison of words does.
    pub agreement: f64,
}

/// What an approach made of a question.
#[derive(Clone, Debug, Serialize)]
pub struct QuestionResult {
    /// The question's name.
    pub id: String,
    /// What was asked.
    pub question: String,
    /// The right answers.
    pub right: Vec<String>,
    /// The answer.
    pub answer: String,
    /// Whether that is a refusal.
    pub refused: bool,
    /// Whether it contains a right answer.
    pub contains: bool,
    /// The best token F1.
    pub f1: f64,
    /// The judge's verdict, if there is a judge.
    pub judged: Option<bool>,
    /// Where it was lost.
    pub fate: Fate,
    /// The sets of right pages.
    pub right_pages: Vec<Vec<String>>,
    /// The pages that were found, best first.
    pub pages: Vec<String>,
    /// Those that stood in the prompt of the answer.
    pub shown_pages: Vec<String>,
    /// Share of the right pages found after each step that searched.
    pub page_recall: Vec<f64>,
    /// What was done.
    pub steps: Vec<Step>,
    /// What it cost.
    pub cost: Cost,
    /// Why it ended; none where nothing was answered.
    pub end: Option<End>,
}

/// What the questions of an evaluation share.
pub(super) struct Shared {
    names: PageNames,
    retrieval: Option<Arc<RecordedRetrieval>>,
    pub sources: Sources,
}

impl PageEvaluator<'_> {
    /// Answers each question; `on_question` is called after each, and ends it all when it says no. What was answered before
    /// that, or before the model was interrupted, is what the result is of.
    ///
    /// # Errors
    ///
    /// [`Error::Approach`] when the approach needs a model or pages and has none; damaged files; models that fail.
    pub fn evaluate(
        &self,
        approach: &Approach,
        questions: &[PageQuestion],
        on_question: &mut dyn FnMut(usize) -> bool,
    ) -> Result<ApproachResult> {
        let shared = self.shared(approach.needs_pages(), &approach.to_string())?;
        let strategy = match approach.needs_model() {
            true => {
                let mut parts = self.parts(&shared, &approach.to_string())?;
                if let Approach::Oracle(_) = approach {
                    let Sources { retriever, store, .. } = parts.sources.clone();
                    parts.sources.retriever = Arc::new(EveryDocument { retriever, store });
                }
                approach.strategy(parts)
            }
            false => None,
        };
        let allowed = |question: &PageQuestion| match approach {
            Approach::Oracle(_) => Ok(Some(right_chunks(question, &shared)?)),
            _ => Ok(None),
        };
        let results = self.results(strategy.as_deref(), questions, &shared, &allowed, on_question)?;
        Ok(self.sum_up(approach.to_string(), questions, results))
    }

    /// What the questions of an evaluation share.
    pub(super) fn shared(&self, needs_pages: bool, approach: &str) -> Result<Shared> {
        Ok(match self.pages {
            None if needs_pages => return Err(Error::Approach { approach: approach.to_owned(), what: "pages" }),
            None => Shared { names: PageNames::default(), retrieval: None, sources: NoPages::sources() },
            Some((index, recipe)) => {
                let retrieval = Arc::new(RecordedRetrieval::new(index, recipe, self.depth)?);
                let store = Arc::new(index.snapshot().clone());
                let sources = Sources { retriever: retrieval.clone(), store, unit: Unit::Passages };
                Shared { names: PageNames::of(index.snapshot())?, retrieval: Some(retrieval), sources }
            }
        })
    }

    /// What strategies work with.
    pub(super) fn parts(&self, shared: &Shared, approach: &str) -> Result<Parts> {
        let lacks = || Error::Approach { approach: approach.to_owned(), what: "a language model" };
        let model = self.model.clone().ok_or_else(lacks)?;
        Ok(Parts { model, sources: shared.sources.clone(), limits: self.limits })
    }

    /// What a strategy, or retrieval alone, makes of each question.
    pub(super) fn results(
        &self,
        strategy: Option<&dyn Strategy>,
        questions: &[PageQuestion],
        shared: &Shared,
        allowed: &dyn Fn(&PageQuestion) -> Result<Option<ChunkSet>>,
        on_question: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<QuestionResult>> {
        let mut results = Vec::with_capacity(questions.len());
        for (i, question) in questions.iter().enumerate() {
            let mut query = Query::new(&question.text);
            if let Some(allowed) = allowed(question)? {
                query = query.among(Arc::new(allowed));
            }
            let trail = match strategy.map(|strategy| strategy.answer(&query, &self.budget)) {
                // What was answered before is worth its time.
                Some(Err(raglan_multistep::Error::Model(raglan_model::Error::Interrupted))) => break,
                Some(trail) => Some(trail?),
                None => {
                    shared.sources.retriever.search(&[query], self.depth)?;
                    None
                }
            };
            results.push(self.result(question, trail, shared)?);
            if !on_question(i + 1) {
                break;
            }
        }
        Ok(results)
    }

    fn result(&self, question: &PageQuestion, trail: Option<Trail>, shared: &Shared) -> Result<QuestionResult> {
        let Shared { names, retrieval, sources } = shared;
        let record = retrieval.as_ref().map(|retrieval| retrieval.take()).unwrap_or_default();
        let paths = |ids: &[ChunkId]| -> Result<Vec<String>> {
            let chunks = sources.store.chunks(ids)?;
            let mut seen = HashSet::new();
            let docs = chunks.iter().map(|chunk| chunk.doc).filter(|doc| seen.insert(*doc));
            Ok(docs.filter_map(|doc| names.path(doc)).map(str::to_owned).collect())
        };
        let mut ids = record.anywhere;
        ids.sort_unstable();
        ids.dedup();
        let anywhere = paths(&ids)?;
        let ranked = paths(&record.first.map(|ranking| ranking.ids()).unwrap_or_default())?;
        // What was read, then what the question itself finds.
        let mut pages: Vec<String> = trail.iter().flat_map(Trail::documents).map(str::to_owned).collect();
        let read: HashSet<String> = pages.iter().cloned().collect();
        pages.extend(ranked.into_iter().filter(|page| !read.contains(page)));
        let shown_pages: Vec<String> = match &trail {
            Some(trail) => trail.shown_documents().into_iter().map(str::to_owned).collect(),
            None => pages.clone(),
        };
        let right_pages: Vec<Vec<String>> = question.page_sets.iter().map(|set| names.names(set)).collect();
        let sets: Vec<Vec<&str>> = right_pages.iter().map(|set| set.iter().map(String::as_str).collect()).collect();
        let answer = trail.as_ref().map(|trail| trail.answer.clone()).unwrap_or_default();
        let contains = answers::best(&answer, &question.answers, answers::contains) > 0.0;
        let judged = match &self.judge {
            Some(judge) if trail.is_some() && !question.answers.is_empty() => {
                Some(judge_answer(&**judge, question, &answer)?)
            }
            _ => None,
        };
        let is_right = (trail.is_some() && !question.answers.is_empty()).then_some(judged.unwrap_or(contains));
        let way = Way {
            first_stages: anywhere.iter().map(String::as_str).collect(),
            last_stage: match &trail {
                Some(trail) => trail.documents().into_iter().collect(),
                None => pages.iter().map(String::as_str).collect(),
            },
            prompt: shown_pages.iter().map(String::as_str).collect(),
        };
        let fate = fate(&sets, |page| names.has(page), &way, is_right);
        let page_recall = trail.as_ref().map(|trail| recall_by_step(trail, &sets)).unwrap_or_default();
        Ok(QuestionResult {
            id: question.id.clone(),
            question: question.text.clone(),
            right: question.answers.clone(),
            f1: answers::best(&answer, &question.answers, answers::token_f1),
            answer,
            refused: trail.as_ref().is_some_and(|trail| trail.refused),
            contains,
            judged,
            fate,
            right_pages,
            pages,
            shown_pages,
            page_recall,
            cost: trail.as_ref().map(|trail| trail.cost).unwrap_or_default(),
            end: trail.as_ref().map(|trail| trail.end),
            steps: trail.map(|trail| trail.steps).unwrap_or_default(),
        })
    }

    /// The means over all questions.
    pub(super) fn sum_up(
        &self,
        approach: String,
        questions: &[PageQuestion],
        results: Vec<QuestionResult>,
    ) -> ApproachResult {
        let n = results.len();
        let mean = |of: &dyn Fn(&QuestionResult) -> f64| results.iter().map(of).sum::<f64>() / n.max(1) as f64;
        let kilt_of = |counts: &dyn Fn(&QuestionResult) -> bool| {
            let pairs = || results.iter().zip(questions).filter(|(result, _)| counts(result));
            let predictions: Vec<KiltRecord> = pairs().map(|(result, _)| prediction(result)).collect();
            let right: Vec<KiltRecord> = pairs().map(|(result, question)| gold(result, question)).collect();
            kilt::evaluate(&predictions, &right, &CUTS).0
        };
        let kilt = KiltScore {
            downstream: kilt_of(&|result| !result.right.is_empty()).downstream,
            kilt: kilt_of(&|result| !result.right.is_empty() && !result.right_pages.is_empty()).kilt,
            ..kilt_of(&|result| !result.right_pages.is_empty())
        };
        let n_with_answers = results.iter().filter(|result| !result.right.is_empty()).count();
        let of_answers = |of: &dyn Fn(&QuestionResult) -> f64| {
            let with_answers = results.iter().filter(|result| !result.right.is_empty());
            with_answers.map(of).sum::<f64>() / n_with_answers.max(1) as f64
        };
        let with_pages: Vec<&QuestionResult> = results.iter().filter(|result| !result.right_pages.is_empty()).collect();
        let n_steps = with_pages.iter().map(|result| result.page_recall.len()).max().unwrap_or(0);
        let of_pages = |of: &dyn Fn(&QuestionResult) -> f64| {
            with_pages.iter().map(|result| of(result)).sum::<f64>() / with_pages.len().max(1) as f64
        };
        let recall_after = |step: usize| {
            of_pages(&|result| result.page_recall.get(step).or(result.page_recall.last()).copied().unwrap_or(0.0))
        };
        let has_all = |result: &QuestionResult| {
            let is_shown = |set: &Vec<String>| set.iter().all(|page| result.shown_pages.contains(page));
            f64::from(result.right_pages.iter().any(is_shown))
        };
        let share = |of: &dyn Fn(bool, bool) -> bool| {
            let judged: Vec<bool> =
                results.iter().filter_map(|result| Some(of(result.judged?, result.contains))).collect();
            judged.iter().filter(|is| **is).count() as f64 / judged.len().max(1) as f64
        };
        let judged = self.judge.as_ref().map(|judge| Judged {
            model: judge.name(),
            prompt: JUDGE.to_owned(),
            right: share(&|judged, _| judged),
            agreement: share(&|judged, contains| judged == contains),
        });
        ApproachResult {
            approach,
            n,
            n_with_answers,
            n_with_pages: with_pages.len(),
            containment: of_answers(&|result| f64::from(result.contains)),
            em: of_answers(&|result| answers::best(&result.answer, &result.right, answers::exact_match)),
            f1: of_answers(&|result| result.f1),
            judged,
            kilt,
            page_recall: (0..n_steps).map(recall_after).collect(),
            all_pages: of_pages(&has_all),
            refused: mean(&|result| f64::from(result.refused)),
            tokens: mean(&|result| result.cost.tokens() as f64),
            calls: mean(&|result| result.cost.calls as f64),
            seconds: mean(&|result| result.cost.seconds),
            fates: fates(results.iter().map(|result| result.fate)),
            questions: results,
        }
    }
}

/// The chunks of all right pages that are in the index.
fn right_chunks(question: &PageQuestion, shared: &Shared) -> Result<ChunkSet> {
    let mut chunks = ChunkSet::new();
    for page in question.page_sets.iter().flatten() {
        if let Some(doc) = shared.names.find(page) {
            for chunk in shared.sources.store.chunks_of(doc)? {
                chunks.insert(chunk.id);
            }
        }
    }
    Ok(chunks)
}

fn judge_answer(judge: &dyn TextModel, question: &PageQuestion, answer: &str) -> Result<bool> {
    if answer.trim().is_empty() {
        return Ok(false);
    }
    let mut meter = Meter::start(&Budget::default());
    for right in &question.answers {
        let user = judge_prompt(&question.text, right, answer);
        if judge.weigh(&Prompt::new(&user, ""), &["Yes", "No"], &mut meter)?.margin() > 0.0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The share of a set's pages that were found after each step that searched; of several sets the one that came farthest.
fn recall_by_step(trail: &Trail, sets: &[Vec<&str>]) -> Vec<f64> {
    let mut found: HashSet<&str> = HashSet::new();
    let mut recall = Vec::new();
    for step in trail.steps.iter().filter(|step| !step.queries.is_empty()) {
        found.extend(step.documents.iter().map(String::as_str));
        let share =
            |set: &Vec<&str>| set.iter().filter(|page| found.contains(*page)).count() as f64 / set.len().max(1) as f64;
        recall.push(sets.iter().map(share).fold(0.0, f64::max));
    }
    recall
}

fn provenance(page: &str) -> Provenance {
    Provenance { wikipedia_id: page.to_owned(), ..Provenance::default() }
}

fn prediction(result: &QuestionResult) -> KiltRecord {
    let answer = Some(result.answer.clone()).filter(|answer| !answer.is_empty() && !result.refused);
    let output = Output { answer, provenance: result.pages.iter().map(|page| provenance(page)).collect() };
    KiltRecord { id: result.id.clone(), input: result.question.clone(), outputs: vec![output] }
}

/// The right answers and pages, the latter by the names that results have them.
fn gold(result: &QuestionResult, question: &PageQuestion) -> KiltRecord {
    let answers = question.answers.iter().map(|answer| Output { answer: Some(answer.clone()), provenance: Vec::new() });
    let sets = result
        .right_pages
        .iter()
        .map(|set| Output { answer: None, provenance: set.iter().map(|page| provenance(page)).collect() });
    KiltRecord { id: result.id.clone(), input: question.text.clone(), outputs: answers.chain(sets).collect() }
}
