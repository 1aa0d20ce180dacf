//! Encoders: on small models of random weights, on the default one, and on those in ONNX.

mod all_minilm;
#[cfg(feature = "emulation")]
mod on_device;
mod onnx;
mod onnx_model;
mod onnx_runtime;
mod sentence_encoder;
mod small_model;
mod sparse_and_token_encoders;
