//! Models against the oracle, their parts, and files that do not serve.

mod blocks;
#[path = "../../../raglan-generate/tests/generation/byte_model.rs"]
mod byte_model;
mod decoder;
#[cfg(feature = "emulation")]
mod device;
mod encoders;
#[cfg(feature = "emulation")]
mod encoders_on_device;
mod hostile_files;
mod long_context;
mod small_model;
mod smollm2;
mod splade;
mod text_model;
mod word_piece;
