//! What the peer scripts call: the same work as the peers do, timed, as JSON lines on standard output.
//!
//! Each line is `{area, system, metric, value, unit, n, threads, params}`; a ratio is formed of lines whose metric,
//! unit, threads and params are equal. Every figure of quality is computed before anything is timed a second time.
#![forbid(unsafe_code)]

mod ann;
mod answers;
mod bm25;
mod e2e;
mod embed;
mod evalspeed;
mod growth;
mod impacts;
mod late;
mod latency;
mod llm;
mod report;
mod scale;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "raglan-bench", version, about = "Times raglan's parts as the peer scripts time others")]
struct Cli {
    #[command(subcommand)]
    area: Area,
}

#[derive(Subcommand)]
enum Area {
    /// Nearest neighbours among unit vectors
    Ann(ann::Ann),
    /// Keyword search over collections
    Bm25(bm25::Bm25),
    /// Sentences to vectors
    Embed(embed::Embed),
    /// Index a folder, answer, index again
    E2e(e2e::E2e),
    /// A run and judgements, from files to scores
    Evalspeed(evalspeed::Evalspeed),
    /// How n-grams and entities grow with a corpus
    Growth(growth::Growth),
    /// Late interaction, exact and compressed
    Late(late::Late),
    /// Queries on a large index, with vectors of hashed words
    Latency(latency::Latency),
    /// Answers from passages, with guesses and several at once
    Answers(answers::Answers),
    /// Learned sparse vectors: encoding, index size, exact and approximate search
    Impacts(impacts::Impacts),
    /// How a dense index grows with its vectors
    Scale(scale::Scale),
    /// Prompts read and tokens written by small language models
    Llm(llm::Llm),
    /// Reads files for another process
    #[command(hide = true)]
    ReadWorker,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().area {
        Area::Ann(options) => ann::run(&options),
        Area::Bm25(options) => bm25::run(&options),
        Area::Embed(options) => embed::run(&options),
        Area::E2e(options) => e2e::run(&options),
        Area::Evalspeed(options) => evalspeed::run(&options),
        Area::Growth(options) => growth::run(&options),
        Area::Late(options) => late::run(&options),
        Area::Latency(options) => latency::run(&options),
        Area::Answers(options) => answers::run(&options),
        Area::Impacts(options) => impacts::run(&options),
        Area::Scale(options) => scale::run(&options),
        Area::Llm(options) => llm::run(&options),
        Area::ReadWorker => raglan::ingest::worker_main(),
    }
}
