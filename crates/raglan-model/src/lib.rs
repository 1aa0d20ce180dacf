//! Models: registry and download, tokenizers, weights, transformer forward.
#![forbid(unsafe_code)]

pub mod bert;
pub mod chat_template;
mod error;
pub mod gguf;
pub mod llama;
pub mod registry;
pub mod tokenizer;
pub mod word_piece;

pub use bert::*;
pub use chat_template::*;
pub use error::{Error, Result};
pub use gguf::*;
pub use llama::*;
pub use tokenizer::*;
pub use word_piece::*;
