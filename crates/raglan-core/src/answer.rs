//! Answers whose sources can be checked.

use serde::{Deserialize, Serialize};

use crate::{ChunkId, Cost, Hit, LeftOut, Locator, Passage, Ranking, Result, SpanOf};

/// An answer, sentence by sentence, with the passages that support it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// What was asked.
    pub question: String,
    /// The answer as generated.
    #[serde(rename = "answer")]
    pub text: String,
    /// The answer's sentences in order.
    pub sentences: Vec<AnswerSentence>,
    /// What was done on the way to it, where it was answered in steps.
    pub steps: Vec<AnswerStep>,
    /// The chunks that the steps found, each once, in the order in which they came: step by step, and in each the best
    /// first.
    pub gathered: Vec<ChunkId>,
    /// The passages the answer was made from, in the order of their numbers in the prompt.
    pub sources: Vec<Source>,
    /// Ranked chunks that were not shown to the model.
    pub left_out: Vec<LeftOut>,
    /// Where the time went.
    pub timings: Timings,
    /// How many tokens were read and written.
    pub tokens: TokenUsage,
    /// What kept keys and values were good for, where some could have been.
    pub kv: Option<KvUsage>,
}

impl Answer {
    /// What the steps found, as a ranking that can be compared with others: in the order in which it came, the `i`-th chunk
    /// with the score `1/i`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) when a chunk is there twice.
    pub fn gathered_ranking(&self) -> Result<Ranking> {
        let hits = self.gathered.iter().zip(1_u32..).map(|(&chunk, place)| Hit::new(chunk, 1.0 / place as f32));
        Ranking::best(hits.collect(), usize::MAX)
    }
}

/// A sentence of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerSentence {
    /// The sentence.
    pub text: String,
    /// Index into the answer's sources of the passage that supports it.
    pub source: Option<usize>,
    /// Share of the sentence's content words, weighted by rarity, that the passage contains; 0 to 1.
    pub support: f32,
    /// How the source was found.
    pub attribution: Attribution,
}

/// What was done on the way to an answer: what the model wrote, what was looked for with it, and what that found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AnswerStep {
    /// What the model wrote; empty where it was not asked.
    pub text: String,
    /// What was looked for.
    pub queries: Vec<String>,
    /// The documents that were found and were not there before, by path, in order.
    pub documents: Vec<String>,
    /// What the step cost.
    pub cost: Cost,
}

/// How a sentence got its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// The model named it, and the passage bears it out.
    Cited,
    /// The passage was found by its overlap with the sentence.
    Matched,
    /// No passage supports the sentence.
    Unsupported,
}

/// A passage that an answer was made from: a byte span of a file, or of the text extracted from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// The document's path relative to the indexed folder.
    pub path: String,
    /// Where in the document, in a reader's terms.
    pub locator: Locator,
    /// First byte of the quote in the document's extracted text.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Whether that is the file, byte for byte.
    pub span_of: SpanOf,
    /// The quote: the extracted text from `start` to `end`.
    pub text: String,
    /// The score that brought the passage into the context.
    pub score: f32,
}

impl Source {
    /// The whole passage.
    pub fn of(passage: &Passage) -> Self {
        Self {
            path: passage.document.path.clone(),
            locator: passage.chunk.locator.clone(),
            start: passage.chunk.span.start,
            end: passage.chunk.span.end,
            span_of: passage.document.span_of(),
            text: passage.chunk.text.clone(),
            score: passage.score,
        }
    }
}

/// Where an answer's time went, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Timings {
    /// From the question to the ranked passages.
    pub retrieve_s: f64,
    /// From the passages to the first token.
    pub prefill_s: f64,
    /// From the first token to the last.
    pub decode_s: f64,
    /// From the question to the first token.
    pub first_token_s: f64,
}

/// What kept keys and values were good for in one answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct KvUsage {
    /// How they were used.
    pub method: String,
    /// Passages whose keys and values were there.
    pub hits: usize,
    /// Passages that had to be computed.
    pub misses: usize,
    /// Tokens of the prompt whose keys and values were there.
    pub reused_tokens: usize,
    /// Tokens of the prompt that were computed, some of the reused ones among them.
    pub computed_tokens: usize,
    /// Share of the passages' reused tokens that were computed anew; a token in a layer counts as one part of the layers.
    pub recomputed_share: f32,
    /// The method that was asked for, where it was not used.
    pub instead_of: Option<KvFallback>,
}

/// A method of using kept keys and values that was asked for and not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KvFallback {
    /// The method.
    pub method: String,
    /// Why it was not used.
    pub reason: KvFallbackReason,
}

/// Why a method of using kept keys and values was not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvFallbackReason {
    /// It was not known yet what it does to answers from this index; it is tested after the answer.
    Untested,
    /// It changed answers too much.
    Drift {
        /// The mean divergence of its last tests from computing all, in nats.
        mean_kl: f64,
        /// The most that is allowed.
        bound: f64,
        /// How many tests that is the mean of.
        tests: usize,
    },
}

/// How many tokens the language model read and wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TokenUsage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens of the answer.
    pub answer: usize,
    /// Passages shown to the model.
    pub passages: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_gathered_is_ranked_as_it_came() {
        let answer = |gathered: &[u32]| Answer {
            question: String::new(),
            text: String::new(),
            sentences: vec![],
            steps: vec![],
            gathered: gathered.iter().copied().map(ChunkId).collect(),
            sources: vec![],
            left_out: vec![],
            timings: Timings::default(),
            tokens: TokenUsage::default(),
            kv: None,
        };
        let ranking = answer(&[7, 2, 9]).gathered_ranking().unwrap();
        let hits = [(7, 1.0), (2, 1.0 / 2.0), (9, 1.0 / 3.0)].map(|(chunk, score)| Hit::new(ChunkId(chunk), score));
        assert_eq!(ranking.hits(), hits);
        assert!(answer(&[]).gathered_ranking().unwrap().is_empty());
        assert!(answer(&[7, 2, 7]).gathered_ranking().is_err());
        // Each place has a score of its own, as far as anyone gathers.
        let many: Vec<u32> = (0..100_000).rev().collect();
        let ranking = answer(&many).gathered_ranking().unwrap();
        assert!(ranking.hits().windows(2).all(|pair| pair[0].score > pair[1].score));
    }
}
