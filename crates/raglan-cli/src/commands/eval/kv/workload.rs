//! `raglan eval kv --workload`

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use raglan::datasets::ContextQuestion;
use raglan::generate::LanguageModel;
use raglan::generate::reuse::{PassageOrder, ReuseMethod};
use raglan::kv::CacheLimits;
use raglan::{KvWorkload, KvWorkloadOptions, evaluate_kv_workload};
use serde_json::json;

use super::{line, methods};
use crate::args::KvCommand;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// What `all` stands for.
const METHODS: &str = "prefix,naive,link=8,cache-craft=0.5,parallel=0.9,0.9,focus=0.05,focus=0.1,focus=0.15";

pub fn run(
    session: &Session,
    command: &KvCommand,
    model: &Arc<LanguageModel>,
    (set, questions): (&str, &[ContextQuestion]),
) -> Result<Outcome> {
    if !(0.0..=1.0).contains(&command.reordered) || !(0.0..=100.0).contains(&command.zipf) || command.requests == 0 {
        bail!("`--reordered` is a share from 0 to 1, `--zipf` an exponent from 0 to 100, and `--requests` at least 1");
    }
    let orders: Vec<PassageOrder> = command.order.iter().map(|order| order.parse()).collect::<Result<_, _>>()?;
    let options = KvWorkloadOptions {
        methods: methods(if command.method == "all" { METHODS } else { &command.method })?,
        orders,
        restarts: command.restart,
        n_tokens: command.tokens,
        n_requests: command.requests,
        exponent: command.zipf,
        reordered: command.reordered,
        passage_tokens: command.passage_tokens,
        precision: command.blocks,
        limits: CacheLimits {
            memory_bytes: session.settings.bytes("kv-memory")?,
            disk_bytes: session.settings.bytes("kv-disk")?,
            ..CacheLimits::default()
        },
        seed: command.seed,
    };
    let questions = &questions[..questions.len().min(command.limit)];
    let is_first = |method: ReuseMethod, order| method == ReuseMethod::Prefix && order == PassageOrder::Rank;
    let runs = options.methods.iter().flat_map(|&method| options.orders.iter().map(move |&order| (method, order)));
    let n_runs = 1 + runs.filter(|&(method, order)| !is_first(method, order)).count();
    session.bars.count(n_runs * command.requests, "requests");
    let workload = evaluate_kv_workload(model, questions, &options, &mut |done| {
        session.bars.done(done);
        !STOP.load(Ordering::Relaxed)
    });
    session.bars.clear();
    let workload = workload?;
    let name = session.settings.text("generator");
    if session.json {
        output::json(&json!({
            "set": set, "model": name, "seed": command.seed, "zipf": command.zipf, "reordered": command.reordered,
            "restart": command.restart, "tokens": command.tokens,
            "blocks": options.precision.to_string(), "passage_tokens": command.passage_tokens, "workload": workload,
        }))?;
    } else {
        print(&workload, &format!("{set}, {name}"), command);
    }
    Ok(Outcome::Success)
}

fn print(workload: &KvWorkload, what: &str, command: &KvCommand) {
    println!(
        "{what}: {} for {} over {} (Zipf {}), {:.0} % of them with passages in another order{}",
        output::count(workload.n_requests, "request"),
        output::count(workload.n_questions, "question"),
        output::count(workload.n_passages, "passage"),
        command.zipf,
        100.0 * command.reordered,
        if command.restart { ", a process for each" } else { "" }
    );
    line(
        "method",
        &[
            "prompts", "computed", "of prfx", "later", "of prfx", "hits", "misses", "blocks", "MB", "TTFT ms", "F1",
            "equal",
        ],
    );
    for row in &workload.rows {
        let cells = [
            row.prompt_tokens.to_string(),
            row.computed_tokens.to_string(),
            format!("{:.3}", row.of_prefix),
            row.later_tokens.to_string(),
            format!("{:.3}", row.all_of_prefix),
            row.hits.to_string(),
            row.misses.to_string(),
            row.blocks.to_string(),
            format!("{:.1}", row.bytes as f64 / 1e6),
            format!("{:.0}", row.ttft_ms),
            format!("{:.3}", row.f1),
            format!("{:.2}", row.same_answers),
        ];
        line(&row.label(), &cells.each_ref().map(String::as_str));
    }
    println!(
        "\nTokens: of all prompts; computed before answers, and as a share of what prefix caching computed; computed"
    );
    println!("after answers to be kept, and both as such a share. `equal`: answers that are those of the first line.");
    println!("\nF1 less that of the first line, with the 95 % interval over questions:");
    for row in &workload.rows[1..] {
        let (low, high) = row.f1_interval;
        println!("  {:26} {:+.4}  {low:+.4} to {high:+.4}", row.label(), row.f1_difference);
    }
}
