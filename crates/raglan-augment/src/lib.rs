//! Language models that help searching, before a question is asked and after.
//!
//! On a [`TextWriter`](raglan_model::TextWriter), which writes short texts as it is asked to, stand [`ModelRewriter`], which gives other texts to search with for a question ([`Rewriting`]: keywords, hypothetical
//! documents, paraphrases, simpler questions); [`QuestionWriter`], which writes questions for passages before they are
//! asked, to be thinned out by [`round_trip`] and [`keep_best`] and found by a [`QuestionIndex`]; and
//! [`MetaKnowledgeWriter`], which writes down what a collection's topics are about. [`PromptReps`] makes vectors of what a
//! model would say, [`LexicalGate`] lets a query's words weigh its vector, [`ContrastiveExamples`] are shown with a
//! question.
//!
//! ```
//! use raglan_augment::{ModelRewriter, Rewriting};
//! use raglan_core::{Budget, Meter, QueryRewriter};
//! use raglan_model::{Result, TextWriter, WritingRequest, Written};
//!
//! /// Knows two words.
//! struct TwoWords;
//!
//! impl TextWriter for TwoWords {
//!     fn write(&self, requests: &[WritingRequest], _: &mut Meter) -> Result<Vec<Vec<Written>>> {
//!         let words = || Written { text: "eviction, latency".to_owned(), ..Written::default() };
//!         Ok(requests.iter().map(|_| vec![words()]).collect())
//!     }
//! }
//!
//! let rewriter = ModelRewriter::new(TwoWords, Rewriting::Keywords, 0, Budget::default())?;
//! assert_eq!(rewriter.rewrite(&["slow cache"])?, [["slow cache eviction latency"]]);
//! # Ok::<(), raglan_core::Error>(())
//! ```
#![forbid(unsafe_code)]

mod contrastive_examples;
mod error;
mod lexical_gate;
mod meta_knowledge;
mod prompt_reps;
mod question_index;
mod rewriting;
#[cfg(test)]
mod scripted;
mod synthetic_questions;
#[cfg(test)]
mod word_vectors;
mod words;

pub use contrastive_examples::{ContrastiveExample, ContrastiveExamples};
pub use error::{Error, Result};
pub use lexical_gate::{GatedEncoder, LexicalGate};
pub use meta_knowledge::{MetaKnowledge, MetaKnowledgeRewriter, MetaKnowledgeWriter, TopicQuestion};
pub use prompt_reps::{PromptReps, PromptRepsDense, PromptRepsOptions, PromptRepsSparse, Representation};
pub use question_index::{QuestionIndex, read_questions, write_questions};
pub use rewriting::{ModelRewriter, Rewriting};
pub use synthetic_questions::{
    QuestionOptions, QuestionWriter, SyntheticQuestion, WrittenQuestions, keep_best, round_trip,
};
