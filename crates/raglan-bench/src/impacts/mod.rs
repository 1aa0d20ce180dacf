//! Learned sparse vectors of real chunks: encoded once, then indexed and searched in each way.

mod encode;
mod measure;
mod vectors;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Options of the area.
#[derive(Args)]
pub struct Impacts {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    /// Encodes passages and queries, and keeps the vectors in a folder
    Encode(encode::Encode),
    /// Builds an index of such vectors and searches it in each way
    Measure(measure::Measure),
}

/// Runs one step.
pub fn run(options: &Impacts) -> Result<()> {
    match &options.step {
        Step::Encode(options) => encode::run(options),
        Step::Measure(options) => measure::run(options),
    }
}
