//! Ranking in many languages and on a published collection.

mod languages;
mod scifact;
