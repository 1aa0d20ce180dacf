//! Models against the oracle, their parts, and files that do not serve.

mod blocks;
mod decoder;
mod encoders;
mod hostile_files;
mod long_context;
mod small_model;
mod smollm2;
mod splade;
mod word_piece;
