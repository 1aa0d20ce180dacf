//! `raglan eval run`

use std::collections::BTreeMap;

use anyhow::Result;
use raglan::datasets::{Qrels, Run};
use raglan::eval::{Evaluation, Metric, evaluate_all};
use serde::Serialize;

use crate::args::EvalRunCommand;
use crate::session::Session;
use crate::{Outcome, output};

/// What `--json` prints; the values by metric.
#[derive(Serialize)]
struct Scores<'a> {
    n_judged: usize,
    n_answered: usize,
    /// Means over the judged queries.
    metrics: BTreeMap<&'a str, f64>,
    /// Means over the answered queries.
    metrics_of_answered: BTreeMap<&'a str, f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_query: Option<BTreeMap<&'a str, &'a BTreeMap<String, f64>>>,
}

pub fn run(session: &Session, command: &EvalRunCommand) -> Result<Outcome> {
    let names: Vec<&str> = command.metrics.iter().map(|name| name.trim()).collect();
    let metrics: Vec<Metric> = names.iter().map(|name| Ok(name.parse()?)).collect::<Result<_>>()?;
    let qrels = Qrels::read(&command.qrels)?;
    let mut run = Run::read(&command.run)?;
    if command.remove_own_ids {
        run.remove_own_ids();
    }
    let evaluations = evaluate_all(&run, &qrels, &metrics);
    let n_judged = qrels.n_queries();
    let n_answered = evaluations.first().map_or(0, |evaluation| evaluation.n_answered);
    let outcome = if n_answered == 0 { Outcome::Nothing } else { Outcome::Success };
    let named = || names.iter().copied().zip(&evaluations);
    if session.json {
        output::json(&Scores {
            n_judged,
            n_answered,
            metrics: named().map(|(name, evaluation)| (name, evaluation.mean)).collect(),
            metrics_of_answered: named().map(|(name, evaluation)| (name, evaluation.mean_of_answered)).collect(),
            per_query: command
                .per_query
                .then(|| named().map(|(name, evaluation)| (name, &evaluation.per_query)).collect()),
        })?;
        return Ok(outcome);
    }
    let row = |of: &dyn Fn(&Evaluation) -> f64| -> String {
        evaluations.iter().map(|evaluation| format!(" {:>12.4}", of(evaluation))).collect()
    };
    println!("{:24}{}", "", names.iter().map(|name| format!(" {name:>12}")).collect::<String>());
    if command.per_query {
        for (query, _) in qrels.iter() {
            println!("{:24}{}", output::one_line(query), row(&|evaluation| evaluation.per_query[query]));
        }
    }
    println!("{:24}{}", format!("all {n_judged} judged"), row(&|evaluation| evaluation.mean));
    if n_answered < n_judged {
        println!("{:24}{}", format!("the {n_answered} answered"), row(&|evaluation| evaluation.mean_of_answered));
    }
    if n_answered == 0 {
        say!("the run has no query of the judgements; do both files write the ids in the same way?");
    }
    Ok(outcome)
}
