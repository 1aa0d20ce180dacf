//! Typed stages, their composition, and the recipes that describe them.
#![forbid(unsafe_code)]

mod fusion;
mod generate;
mod ranked;
mod read;
mod retrieve;
mod select;
mod stage;

pub use fusion::{Fuse, Fused, Fusion, RankedLists, fuse};
pub use generate::{Generate, generate, generate_streaming};
pub use ranked::Ranked;
pub use read::{Read, read};
pub use retrieve::{DenseRetriever, Retrieve, retrieve};
pub use select::{Gate, MinScore, Select, gate, min_score, select};
pub use stage::{Both, BoxStage, Function, Map, Stage, Then, stage};
