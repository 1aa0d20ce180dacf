//! Answers from passages, sentence by sentence with the passage that supports each.
//!
//! A small language model on a laptop reads a few passages and a question. What it writes has to be checkable:
//! [`ChatGenerator`] numbers the passages, fits them into the model's context without ever cutting one, decodes,
//! and then [`attribute`]s each sentence to a passage by what the words say, whether or not the model cited it.
//! Several questions are answered at once in a [`ContinuousBatch`].
//! [`LanguageModel`] is a GGUF file or a folder of safetensors with its tokenizer and chat template; [`GenerateOptions`] says how to decode.
//!
//! ```
//! use raglan_core::Attribution;
//! use raglan_generate::attribute;
//!
//! let passages = ["The tower was finished in 1889.", "Entry costs 29 euros."];
//! let question = "When was the tower finished?";
//! let sentences = attribute(question, "The tower was finished in 1889. It is painted yellow [2].", &passages);
//! assert_eq!(sentences[0].source, Some(0));
//! assert_eq!(sentences[1].attribution, Attribution::Unsupported);
//! assert_eq!(sentences[1].text, "It is painted yellow.");
//! ```
#![forbid(unsafe_code)]

mod attribution;
#[cfg(test)]
#[path = "../tests/generation/byte_model.rs"]
mod byte_model;
mod continuous_batch;
mod draft;
mod error;
mod generator;
mod options;
mod passage_attention;
mod prompt;
mod repetition;
pub mod reuse;
mod sentences;
mod stop;
mod token_recycling;

pub use attribution::attribute;
pub use continuous_batch::{ContinuousBatch, SequenceStart};
pub use draft::Drafts;
pub use error::{Error, Result};
pub use generator::ChatGenerator;
pub use options::{CONTEXT_TOKENS, GenerateOptions, REFUSAL, SYSTEM_PROMPT};
pub use prompt::{DEFAULT_TEMPLATE, Prompt, PromptPiece};
pub use raglan_model::{LanguageModel, Sampler, Sampling};
pub use sentences::{Sentence, sentences};
