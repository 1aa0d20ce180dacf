//! Encoders in ONNX, which onnxruntime runs.

mod files;
mod model;
mod runtime;

pub(crate) use files::OnnxFiles;
pub(crate) use model::{OnnxModel, OnnxOutput};
pub use runtime::{ONNX_RUNTIME_REMEDY, find_onnx_runtime};
