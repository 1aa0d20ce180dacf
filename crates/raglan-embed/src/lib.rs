//! Encoders that turn texts into vectors.
//!
//! Texts that mean similar things shall lie close to each other, though they share no word. A [`SentenceEncoder`] runs
//! a small transformer over each text and pools what it says of the tokens into one vector of length 1, so that the
//! inner product of two vectors is the cosine of their angle. How a model wants that done, which pooling, how many
//! tokens, what before a question, is its [`EncoderConfig`], read from the files beside its weights.
//! A [`SparseEncoder`] gives weights to words instead, those of the text and others that mean the same, which an
//! inverted index can hold; a [`TokenEncoder`] keeps a vector for each token, for late interaction.
//! What an encoder does with texts that are longer than it reads is its [`LongInputs`]; chunks of one text can have
//! vectors that have seen the rest of it by [`SentenceEncoder::encode_chunks`].
//! Models run on raglan's own kernels; dense ones that these do not know run from ONNX files, on onnxruntime's library
//! where it is there (crate `raglan-onnx`).
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

#[cfg(any(test, feature = "cuda"))]
mod batches;
mod encoder_config;
mod error;
mod late_chunking;
mod line_windows;
mod long_inputs;
#[cfg(feature = "cuda")]
mod on_device;
mod pooling;
mod prompts;
mod sentence_encoder;
mod sparse_encoder;
mod text_reader;
mod token_bag;
mod token_counter;
mod token_encoder;
mod workers;

pub use encoder_config::{EncoderConfig, WeightFormat};
pub use error::{Error, Result};
pub use line_windows::{LineWindows, WindowAggregation};
pub use long_inputs::{ExtendedPositions, LongInputs};
#[cfg(feature = "cuda")]
pub use on_device::{OnDevice, check_on_device};
pub use pooling::Pooling;
pub use sentence_encoder::SentenceEncoder;
pub use sparse_encoder::{SparseActivation, SparseEncoder, SparseEncoderConfig};
pub use token_bag::TokenBag;
pub use token_counter::{token_counter, token_counter_of};
pub use token_encoder::{TokenEncoder, TokenEncoderConfig, TokenHead};
