//! Behaviour across crates.
#![forbid(unsafe_code)]

mod arrows;
