//! Behaviour across crates.
#![forbid(unsafe_code)]

mod arrows;
mod common;
mod damage;
mod indexing;
