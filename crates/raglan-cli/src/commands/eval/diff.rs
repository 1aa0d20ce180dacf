//! `raglan eval diff`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use raglan::datasets::{Qrels, Run};
use raglan::eval::{Metric, ResultFile, compare, evaluate};
use serde_json::json;

use crate::args::EvalDiffCommand;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &EvalDiffCommand) -> Result<Outcome> {
    let EvalDiffCommand { a, b, qrels, metric, n } = command;
    let metric: Metric = metric.parse()?;
    let [of_a, of_b] = match qrels {
        Some(qrels) => {
            let qrels = Qrels::read(qrels)?;
            let values = |run: &Path| anyhow::Ok(evaluate(&Run::read(run)?, &qrels, metric).per_query);
            [values(a)?, values(b)?]
        }
        None => {
            let (of_a, of_b) = (ResultFile::read(a)?, ResultFile::read(b)?);
            if of_a.collection.qrels_hash != of_b.collection.qrels_hash {
                bail!(
                    "`{}` is about {} and `{}` about {}, with other judgements; compare results of one collection",
                    a.display(),
                    of_a.collection.name,
                    b.display(),
                    of_b.collection.name
                );
            }
            [values_of(&of_a, metric, a)?.clone(), values_of(&of_b, metric, b)?.clone()]
        }
    };
    let mut comparison = compare(&of_a, &of_b);
    if comparison.n_queries == 0 {
        bail!("`{}` and `{}` have no query in common", a.display(), b.display());
    }
    if session.json {
        comparison.changed.truncate(*n);
        let mut told = serde_json::to_value(&comparison)?;
        told["metric"] = json!(metric.to_string());
        (told["a"], told["b"]) = (json!(a), json!(b));
        output::json(&told)?;
        return Ok(Outcome::Success);
    }
    let (low, high) = comparison.interval;
    let left_out = match comparison.n_left_out {
        0 => String::new(),
        n => format!("; {} left out that only one was asked", output::count(n, "query")),
    };
    println!("{metric} of {}{left_out}", output::count(comparison.n_queries, "judged query"));
    println!("  A           {:>8.4}  {}", comparison.mean_a, a.display());
    println!("  B           {:>8.4}  {}", comparison.mean_b, b.display());
    println!("  B - A       {:>+8.4}  95 % interval {low:+.4} to {high:+.4}", comparison.difference);
    let verdict = if comparison.p < 0.05 { "significant at .05" } else { "not significant at .05" };
    println!("  p           {:>8.4}  paired randomisation test; {verdict}", comparison.p);
    let (better, worse) = match metric.is_better_low() {
        true => (comparison.losses, comparison.wins),
        false => (comparison.wins, comparison.losses),
    };
    println!("  B better {better}, same {}, worse {worse}", comparison.ties);
    if !comparison.changed.is_empty() && *n > 0 {
        println!("\n{:24} {:>8} {:>8} {:>8}", "most changed", "A", "B", "B - A");
        for query in comparison.changed.iter().take(*n) {
            let name = output::one_line(&query.query);
            println!("{name:24} {:>8.4} {:>8.4} {:>+8.4}", query.a, query.b, query.difference());
        }
    }
    Ok(Outcome::Success)
}

/// The values of a metric by query in the result that was read at `path`.
pub fn values_of<'a>(result: &'a ResultFile, metric: Metric, path: &Path) -> Result<&'a BTreeMap<String, f64>> {
    let Some(values) = result.per_query.get(&metric.to_string()) else {
        let there = result.per_query.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        bail!("`{}` has no values of {metric}; choose of these with `--metric`: {there}", path.display());
    };
    Ok(values)
}
