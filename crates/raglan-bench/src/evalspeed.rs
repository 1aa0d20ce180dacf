//! Scoring a run: from the files to the means of five metrics, every query's values included.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use raglan::datasets::{Qrels, Run};
use raglan::eval::{Metric, evaluate_all};
use serde_json::json;

use crate::report::{Report, peak_rss_mb, timed};

/// Options of the area.
#[derive(Args)]
pub struct Evalspeed {
    /// TREC run
    #[arg(long)]
    run: PathBuf,
    /// TREC judgements
    #[arg(long)]
    qrels: PathBuf,
    /// Queries of the run, as the lines name it
    #[arg(long)]
    queries: usize,
    /// Documents of a query, as the lines name it
    #[arg(long)]
    depth: usize,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

/// Reads and scores, then scores once more, as the peers do; the means go to standard error.
pub fn run(options: &Evalspeed) -> Result<()> {
    raglan::set_threads(options.threads)?;
    let report = Report::new("evalspeed", options.threads);
    let emit = |metric: &str, value: f64, unit: &str| {
        report.emit(metric, value, unit, json!({ "queries": options.queries, "depth": options.depth }));
    };
    let names = ["ndcg@10", "map", "recall@100", "mrr", "p@10"];
    let metrics = names.map(|name| name.parse::<Metric>().expect("the names are metrics'"));
    let (files, parse_s, _) = timed(|| anyhow::Ok((Run::read(&options.run)?, Qrels::read(&options.qrels)?)));
    let (run, qrels) = files?;
    let (first, first_s, _) = timed(|| evaluate_all(&run, &qrels, &metrics));
    let (again, again_s, _) = timed(|| evaluate_all(&run, &qrels, &metrics));
    anyhow::ensure!(first == again, "the second evaluation gave other values");
    emit("parse_s", parse_s, "s");
    emit("evaluate_first_s", first_s, "s");
    emit("evaluate_s", again_s, "s");
    emit("files_to_scores_s", parse_s + again_s, "s");
    emit("peak_rss", peak_rss_mb(), "MB");
    for (name, evaluation) in names.iter().zip(&again) {
        eprintln!("{name} {:.6}", evaluation.mean_of_answered);
    }
    Ok(())
}
