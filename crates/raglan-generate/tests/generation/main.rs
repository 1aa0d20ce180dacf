//! Prompts, answers, and what is kept between them.

mod answers;
mod attention;
mod byte_model;
#[cfg(feature = "emulation")]
mod device;
mod passages;
mod reuse;
mod safety;
