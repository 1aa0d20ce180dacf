//! Encoders in ONNX, which onnxruntime runs.
//!
//! The library of onnxruntime is loaded when a model first needs it ([`find_onnx_runtime`]); without it, all but such
//! models works. [`OnnxFiles`] are a model's files as exporters lay them out, [`OnnxModel`] takes batches of token ids
//! and gives vectors, or scores of classes.
#![forbid(unsafe_code)]

mod error;
mod files;
mod model;
mod runtime;

pub use error::{Error, Result};
pub use files::OnnxFiles;
pub use model::{OnnxModel, OnnxOutput, OnnxText, OnnxUse};
pub use runtime::{ONNX_RUNTIME_REMEDY, find_onnx_runtime};
