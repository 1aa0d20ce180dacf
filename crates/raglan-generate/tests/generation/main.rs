//! Prompts, answers, and what is kept between them.

mod answers;
mod attention;
mod byte_model;
mod passages;
mod reuse;
mod safety;
