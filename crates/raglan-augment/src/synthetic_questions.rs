//! Questions that passages answer, written before anybody asks (doc2query, Nogueira et al. 2019; Promptagator, Dai et al.
//! 2022), and those that are worth keeping.

use std::collections::HashSet;

use raglan_core::{Budget, ChunkId, Cost, Meter, Query, Retriever};
use raglan_model::{Prompt, Sampling, TextWriter, WritingRequest};
use serde::{Deserialize, Serialize};

use crate::words::{content_words, first_words, normalized};
use crate::{Error, Result};

/// Words of a passage that are shown to the model.
const PASSAGE_WORDS: usize = 160;

/// A question that a passage was written for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyntheticQuestion {
    /// The chunk that shall answer it.
    pub chunk: ChunkId,
    /// The question.
    pub text: String,
    /// The mean log-probability of its tokens, by which InPars (Bonifacio et al. 2022) keeps the best.
    pub log_probability: f32,
}

/// How questions are written. The defaults are Promptagator's: eight a passage, drawn at a temperature of 0.7; docT5query
/// draws from the ten likeliest tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct QuestionOptions {
    /// Questions drawn for a passage.
    pub n: usize,
    /// The most tokens of a question.
    pub max_tokens: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Passages with a question each that show what is wanted.
    pub examples: Vec<(String, String)>,
}

impl Default for QuestionOptions {
    fn default() -> Self {
        let own = |(passage, question): &(&str, &str)| ((*passage).to_owned(), (*question).to_owned());
        Self {
            n: 8,
            max_tokens: 32,
            sampling: Sampling { temperature: 0.7, top_k: 10, ..Sampling::default() },
            examples: EXAMPLES.iter().map(own).collect(),
        }
    }
}

/// Writes questions for passages.
#[derive(Clone, Debug)]
pub struct QuestionWriter<W> {
    writer: W,
    options: QuestionOptions,
}

/// Questions for passages, and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenQuestions {
    /// The questions, in the order of the passages.
    pub questions: Vec<SyntheticQuestion>,
    /// How many texts were no questions, said the same as another of the passage, or shared no content word with it.
    pub n_dropped: usize,
    /// What all of them cost.
    pub cost: Cost,
}

impl<W: TextWriter> QuestionWriter<W> {
    /// A writer of questions.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when no question or no token is wanted, or the temperature is negative or not a number.
    pub fn new(writer: W, options: QuestionOptions) -> Result<Self> {
        for (name, value) in [("n", options.n), ("max_tokens", options.max_tokens)] {
            if value == 0 {
                return Err(Error::Parameter { name, problem: "must be at least 1".to_owned() });
            }
        }
        let temperature = options.sampling.temperature;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(Error::Parameter { name: "temperature", problem: "must be 0 or above".to_owned() });
        }
        Ok(Self { writer, options })
    }

    /// Questions for passages, within a budget for all: each once a passage, and none that shares no content word with it.
    ///
    /// # Errors
    ///
    /// What the writer of texts gives.
    pub fn write(&self, passages: &[(ChunkId, &str)], budget: &Budget) -> Result<WrittenQuestions> {
        let mut meter = Meter::start(budget);
        let requests: Vec<WritingRequest> = passages.iter().map(|(_, passage)| self.request(passage)).collect();
        let written = self.writer.write(&requests, &mut meter)?;
        let (mut questions, mut n_dropped) = (Vec::new(), 0);
        for ((chunk, passage), texts) in passages.iter().zip(written) {
            let of_passage: HashSet<String> = content_words(passage).collect();
            let mut seen = HashSet::new();
            for written in texts {
                let text = written.text.trim_matches(|c: char| c.is_whitespace() || c == '"').to_owned();
                let shares = content_words(&text).any(|word| of_passage.contains(&word));
                if text.ends_with('?') && shares && seen.insert(normalized(&text)) {
                    let log_probability = written.mean_log_probability();
                    questions.push(SyntheticQuestion { chunk: *chunk, text, log_probability });
                } else {
                    n_dropped += 1;
                }
            }
        }
        Ok(WrittenQuestions { questions, n_dropped, cost: meter.cost() })
    }

    fn request(&self, passage: &str) -> WritingRequest {
        let ask = |passage: &str| format!("Passage: {passage}\n\nWrite a question that this passage answers.");
        let examples = self.options.examples.iter();
        let prompt = Prompt {
            examples: examples.map(|(passage, question)| (ask(passage), question.clone())).collect(),
            ..ask(first_words(passage, PASSAGE_WORDS)).into()
        };
        WritingRequest {
            n: self.options.n,
            sampling: self.options.sampling.clone(),
            ..WritingRequest::line(prompt, self.options.max_tokens)
        }
    }
}

/// Keeps the questions that lead a retriever back to their chunk: among the first `k` that it finds (Promptagator's
/// round trip, with `k` = 1 there).
///
/// # Errors
///
/// What the retriever gives.
pub fn round_trip(
    questions: Vec<SyntheticQuestion>,
    retriever: &dyn Retriever,
    k: usize,
) -> Result<Vec<SyntheticQuestion>> {
    let queries: Vec<Query> = questions.iter().map(|question| Query::new(question.text.as_str())).collect();
    let rankings = retriever.search(&queries, k)?;
    if rankings.len() != queries.len() {
        let (expected, found) = (queries.len(), rankings.len());
        return Err(raglan_core::Error::Shape { what: "rankings", expected, found }.into());
    }
    let found = questions.into_iter().zip(rankings);
    let kept = found.filter(|(question, ranking)| ranking.hits().iter().take(k).any(|hit| hit.chunk == question.chunk));
    Ok(kept.map(|(question, _)| question).collect())
}

/// Keeps the share of questions that `scores` has highest, equal ones as they came, in their order: by a cross-encoder's
/// scores with `share` = 0.3 that is doc2query−− (Gospodinov et al. 2023), by their own log-probabilities InPars.
///
/// # Errors
///
/// [`Error::Parameter`] when `share` is not from 0 to 1; [`raglan_core::Error`] when scores are not as many, or one is not
/// a number.
pub fn keep_best(questions: Vec<SyntheticQuestion>, scores: &[f32], share: f32) -> Result<Vec<SyntheticQuestion>> {
    if !(0.0..=1.0).contains(&share) {
        return Err(Error::Parameter { name: "share", problem: format!("is {share}, and must be from 0 to 1") });
    }
    if scores.len() != questions.len() {
        let (expected, found) = (questions.len(), scores.len());
        return Err(raglan_core::Error::Shape { what: "scores of questions", expected, found }.into());
    }
    if scores.iter().any(|score| score.is_nan()) {
        return Err(raglan_core::Error::NotFinite { what: "score of a question" }.into());
    }
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order.truncate((questions.len() as f64 * f64::from(share)).round() as usize);
    let kept: HashSet<usize> = order.into_iter().collect();
    let kept = questions.into_iter().enumerate().filter(|(i, _)| kept.contains(i));
    Ok(kept.map(|(_, question)| question).collect())
}

const EXAMPLES: [(&str, &str); 3] = [
    (
        "In autumn trees stop making chlorophyll, and the yellow and red pigments of their leaves come to show.",
        "Why do leaves change colour in autumn?",
    ),
    (
        "The Great Northern Railway opened its line to the port in 1878. It carried coal for forty years.",
        "When did the Great Northern Railway reach the port?",
    ),
    (
        "A trial with 240 adults found that two cups of coffee a day did not raise blood pressure after eight weeks.",
        "Does coffee raise blood pressure?",
    ),
];

#[cfg(test)]
mod tests {
    use raglan_core::{Hit, Ranking};

    use super::*;
    use crate::scripted::Scripted;

    fn question(chunk: u32, text: &str) -> SyntheticQuestion {
        SyntheticQuestion { chunk: ChunkId(chunk), text: text.to_owned(), log_probability: -1.0 }
    }

    #[test]
    fn questions_are_of_their_passage_and_come_once() {
        let written = ["\"How does a cache evict?\"", "how does a cache evict ?", "Who are you?", "A cache.", ""];
        let writer = QuestionWriter::new(Scripted::new(&written), QuestionOptions::default()).unwrap();
        let passages = [(ChunkId(4), "A cache evicts."), (ChunkId(7), "Bread is baked.")];
        let written = writer.write(&passages, &Budget::default()).unwrap();
        assert_eq!(written.questions, [question(4, "How does a cache evict?")]);
        assert_eq!((written.n_dropped, written.cost.calls), (9, 2));
        let asked = writer.writer.asked.lock().unwrap();
        assert!(asked[1].starts_with("Passage: Bread is baked.\n"));
    }

    /// Finds chunk 1 for bread and chunk 2 behind it, and the other way round for all else.
    struct Bread;

    impl Retriever for Bread {
        fn search(&self, queries: &[Query], k: usize) -> raglan_core::Result<Vec<Ranking>> {
            let hits = |query: &Query| {
                let of_bread = if query.text.contains("bread") { 2.0 } else { 0.5 };
                vec![Hit::new(ChunkId(1), of_bread), Hit::new(ChunkId(2), 1.0)]
            };
            queries.iter().map(|query| Ranking::best(hits(query), k)).collect()
        }
    }

    #[test]
    fn a_question_that_leads_elsewhere_is_dropped() {
        let questions = vec![question(1, "what is bread?"), question(2, "what is bread?"), question(2, "what is it?")];
        let kept = round_trip(questions.clone(), &Bread, 1).unwrap();
        assert_eq!(kept, [questions[0].clone(), questions[2].clone()]);
        assert_eq!(round_trip(questions.clone(), &Bread, 2).unwrap(), questions);
        assert_eq!(round_trip(vec![], &Bread, 1).unwrap(), []);
    }

    #[test]
    fn the_best_share_is_kept_in_order() {
        let questions: Vec<_> = (0..5).map(|i| question(i, "?")).collect();
        let kept = keep_best(questions.clone(), &[0.1, 0.9, 0.5, 0.5, 0.2], 0.4).unwrap();
        assert_eq!(kept.iter().map(|question| question.chunk.0).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(keep_best(questions.clone(), &[0.0; 5], 1.0).unwrap().len(), 5);
        assert!(keep_best(questions.clone(), &[0.0; 4], 1.0).is_err());
        assert!(keep_best(questions.clone(), &[f32::NAN; 5], 1.0).is_err());
        assert!(keep_best(questions, &[0.0; 5], f32::NAN).is_err());
    }
}
