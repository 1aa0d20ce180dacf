//! Encoders that turn texts into vectors.
//!
//! Texts that mean similar things shall lie close to each other, though they share no word. A [`SentenceEncoder`] runs
//! a small BERT over each text and pools what it says of the tokens into one vector of length 1, so that the inner
//! product of two vectors is the cosine of their angle. How a model wants that done, which pooling, how many tokens,
//! what before a question, is its [`EncoderConfig`], read from the files beside its weights.
//! What cuts documents into texts of the right length asks [`token_counter`].
//!
//! ```no_run
//! use std::path::Path;
//!
//! use raglan_core::Encoder;
//! use raglan_embed::{EncoderConfig, SentenceEncoder};
//!
//! let dir = Path::new("models/all-minilm-l6-v2");
//! let encoder = SentenceEncoder::load(dir, EncoderConfig::for_model(dir)?, 2)?;
//! let passages = encoder.encode_passages(&["A cache keeps what is used often.", "Cats sleep all day."])?;
//! let queries = encoder.encode_queries(&["Why is the second read faster?"])?;
//! assert!(queries[0].cosine(&passages[0]) > queries[0].cosine(&passages[1]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod encoder_config;
mod error;
mod pooling;
mod sentence_encoder;
mod token_counter;

pub use encoder_config::EncoderConfig;
pub use error::{Error, Result};
pub use pooling::Pooling;
pub use sentence_encoder::SentenceEncoder;
pub use token_counter::token_counter;
