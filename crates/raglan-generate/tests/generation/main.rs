//! Prompts, answers, and what is kept between them.

mod answers;
mod byte_model;
mod reuse;
mod safety;
