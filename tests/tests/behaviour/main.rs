//! Behaviour across crates.
#![forbid(unsafe_code)]

mod arrows;
mod associations;
mod common;
mod damage;
mod indexing;
