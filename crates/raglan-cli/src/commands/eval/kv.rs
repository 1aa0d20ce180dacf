//! `raglan eval kv`

mod calibration;
mod workload;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail};
use raglan::datasets::planted::{Filler, PlantedSet, planted};
use raglan::datasets::{ContextQuestion, context_questions};
use raglan::eval::{PlotAxis, TradeOff, TradeOffReport};
use raglan::generate::reuse::ReuseMethod;
use raglan::generate::{ChatGenerator, GenerateOptions};
use raglan::{KvComparison, KvEvaluation, KvEvaluationOptions, KvRow, KvTier, evaluate_kv};
use serde_json::json;

use crate::args::KvCommand;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// What `all` stands for.
const METHODS: &str = "full,prefix,naive,random=0.05,random=0.1,random=0.15,link=8,blend=0.05,blend=0.15,blend=0.3,\
                       cache-craft=0.5,cache-craft=1,parallel=0.9,0.9,focus=0.05,focus=0.1,focus=0.15";

/// Questions that are made besides those that are asked, as neighbours of passages.
const NEIGHBOURS: usize = 5;

pub fn run(session: &Session, command: &KvCommand) -> Result<Outcome> {
    let options = options(command)?;
    let (set, questions) = questions(command)?;
    if questions.is_empty() || command.limit == 0 {
        bail!("there is no question to ask in {set}");
    }
    if let Some(folder) = &command.out {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    }
    let name = session.settings.text("generator");
    let model = session.models.language_model(name)?()?;
    if command.workload {
        return workload::run(session, command, &Arc::new(model), (&set, &questions));
    }
    let context_len = model.transformer.config().context_len;
    let generate = GenerateOptions {
        max_tokens: command.tokens.max(1),
        context_tokens: Some(context_len),
        ..GenerateOptions::default()
    };
    let generator = ChatGenerator::new(Arc::new(model), generate)?;
    if let Some(method) = command.calibrate {
        return calibration::run(session, &generator, &options, method, (&set, &questions));
    }
    session.bars.count(questions.len().min(command.limit), "prompts");
    let evaluation = evaluate_kv(&generator, &questions, &options, &mut |done| {
        session.bars.done(done);
        !STOP.load(Ordering::Relaxed)
    });
    session.bars.clear();
    let evaluation = evaluation?;
    let n_wanted = questions.len().min(command.limit);
    let interrupted = evaluation.n_prompts < n_wanted;
    let result = json!({
        "set": set,
        "model": name,
        "seed": command.seed,
        "threads": session.threads,
        "device": raglan::kernels::device::cpu_features().join(" "),
        "revision": env!("CARGO_PKG_VERSION"),
        "blocks": options.precision.to_string(),
        "replaced": options.replaced,
        "passage_tokens": command.passage_tokens,
        "interrupted": interrupted,
        "evaluation": evaluation,
    });
    let lead = lead(&evaluation, &set, name);
    if session.json {
        output::json(&result)?;
    } else {
        print(&evaluation, &lead);
    }
    if let Some(folder) = &command.out {
        let page = report(&evaluation, &lead).html();
        for (file, text) in [("kv.json", serde_json::to_string_pretty(&result)?), ("kv.html", page)] {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("`{}` cannot be written", path.display()))?;
        }
    }
    Ok(match interrupted {
        true => Outcome::Interrupted(format!("the figures are of {} of {n_wanted} prompts", evaluation.n_prompts)),
        false => Outcome::Success,
    })
}

fn options(command: &KvCommand) -> Result<KvEvaluationOptions> {
    let is_permuted = command.set.as_deref() == Some("permutations");
    let replaced = command.replaced.unwrap_or(if is_permuted { 0.0 } else { 0.5 });
    if !(0.0..=1.0).contains(&replaced) {
        bail!("`--replaced` is {replaced}; a share lies between 0 and 1");
    }
    if command.passages == 0 || command.passage_tokens == Some(0) || command.tokens == 0 {
        bail!("`--passages`, `--passage-tokens` and `--tokens` must be at least 1");
    }
    let captures = command.capture.iter().map(|name| name.parse().map_err(|e: String| anyhow!(e)));
    Ok(KvEvaluationOptions {
        methods: methods(&command.method)?,
        captures: captures.collect::<Result<_>>()?,
        n_prompts: command.limit,
        n_tokens: command.tokens,
        passage_tokens: command.passage_tokens,
        precision: command.blocks,
        replaced,
        seed: command.seed,
        tier: if command.cold { KvTier::Disk } else { KvTier::Memory },
    })
}

/// Methods between commas; a part that is a number goes on with the one before it.
fn methods(text: &str) -> Result<Vec<ReuseMethod>> {
    let text = if text == "all" { METHODS } else { text };
    let mut names: Vec<String> = Vec::new();
    for part in text.split(',') {
        match names.last_mut() {
            Some(last) if part.parse::<f32>().is_ok() => *last += &format!(",{part}"),
            _ => names.push(part.to_owned()),
        }
    }
    names.iter().map(|name| Ok(name.parse()?)).collect()
}

/// The questions, and what they are called.
fn questions(command: &KvCommand) -> Result<(String, Vec<ContextQuestion>)> {
    if let Some(name) = &command.set {
        let set: PlantedSet = name.parse().map_err(|e: String| anyhow!(e))?;
        let filler = match &command.filler {
            Some(path) => Filler::read(path)?,
            None => Filler::BuiltIn,
        };
        let n = command.limit.saturating_add(NEIGHBOURS);
        return Ok((name.clone(), planted(set, n, command.passages, &filler, command.seed)));
    }
    let path = command.path.as_ref().expect("the arguments have a path or a set");
    let questions = context_questions::read(path, command.passages, command.seed)?;
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), questions))
}

/// What was measured on what.
fn lead(evaluation: &KvEvaluation, set: &str, model: &str) -> String {
    let tier = match evaluation.cold {
        None => "blocks in memory",
        Some(true) => "blocks in files, none of them in the system's memory",
        Some(false) => "blocks in files, which the system could not be made to drop from its memory",
    };
    let prompts = output::count(evaluation.n_prompts, "prompt");
    format!("{set}: {prompts} of {:.0} tokens on average, {model}, {tier}", evaluation.mean_tokens)
}

const HEADS: [&str; 16] = [
    "method",
    "recomp.",
    "TTFT ms",
    "times",
    "assemble",
    "choose",
    "compute",
    "KL mean",
    "KL p95",
    "top-1",
    "equal",
    "EM",
    "F1",
    "F1 - full",
    "answer",
    "MB",
];

fn cells(row: &KvRow) -> Vec<String> {
    let times = row.times;
    vec![
        format!("{:.3}", row.recompute_share),
        format!("{:.0}", row.ttft_ms),
        format!("{:.2}", row.speedup),
        format!("{:.1}", times.assemble_ms),
        format!("{:.0}", times.choose_ms),
        format!("{:.0}", times.compute_ms),
        format!("{:.4}", row.kl_mean),
        format!("{:.4}", row.kl_p95),
        format!("{:.3}", row.top1),
        format!("{:.2}", row.greedy_equal),
        format!("{:.3}", row.exact_match),
        format!("{:.3}", row.f1),
        format!("{:+.3}", row.f1_difference),
        format!("{:.3}", row.answer_nats),
        format!("{:.1}", row.block_bytes / 1e6),
    ]
}

/// A line of a table.
fn line(name: &str, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>8}")).collect();
    println!("{name:28} {}", cells.join(" "));
}

fn print_rows(rows: &[KvRow]) {
    line(HEADS[0], &HEADS[1..]);
    for row in rows {
        line(&row.label(), &cells(row).iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn print(evaluation: &KvEvaluation, lead: &str) {
    println!("{lead}");
    print_rows(&evaluation.rows);
    println!("\nF1 less that of the full prompt, with the 95 % interval:");
    for row in &evaluation.rows[1..] {
        let (low, high) = row.f1_interval;
        println!("  {:26} {:+.4}  {low:+.4} to {high:+.4}", row.label(), row.f1_difference);
    }
    let compared = |title: &str, of: fn(&KvRow) -> Option<KvComparison>| {
        if evaluation.rows.iter().any(|row| of(row).is_some()) {
            println!("\n{title}: ratio, difference in nats with the 95 % interval, p");
        }
        for (row, KvComparison { ratio, difference, interval: (low, high), p, .. }) in
            evaluation.rows.iter().filter_map(|row| Some((row, of(row)?)))
        {
            println!("  {:26} {ratio:.2}  {difference:+.4}  {low:+.4} to {high:+.4}  {p:.4}", row.label());
        }
    };
    compared("KL against naive (prefix)", |row| row.versus_naive);
    compared("KL against random tokens at the same share", |row| row.versus_random);
}

fn report(evaluation: &KvEvaluation, lead: &str) -> TradeOffReport {
    let axis = |title: &str, is_logarithmic| PlotAxis { title: title.to_owned(), is_logarithmic };
    let (time, share) = (axis("TTFT in ms, median", true), axis("share of the passages' tokens computed", false));
    let (kl, f1) = (axis("KL to the full prompt in nats", true), axis("F1", false));
    let plot = |title: &str, caption: &str, x: &PlotAxis, y: &PlotAxis, point: fn(&KvRow) -> [f64; 2]| TradeOff {
        title: title.to_owned(),
        caption: caption.to_owned(),
        x: x.clone(),
        y: y.clone(),
        points: evaluation.rows.iter().map(|row| Some(point(row))).collect(),
    };
    let down = "Down and to the left is better; what is exact lies at the lower end.";
    let up = "Up and to the left is better.";
    TradeOffReport {
        title: "Reuse of keys and values".to_owned(),
        lead: format!("{lead}."),
        heads: HEADS.map(str::to_owned).into(),
        rows: evaluation.rows.iter().map(|row| (row.label(), cells(row))).collect(),
        plots: vec![
            plot("Divergence against time", down, &time, &kl, |row| [row.ttft_ms, row.kl_mean]),
            plot("F1 against time", up, &time, &f1, |row| [row.ttft_ms, row.f1]),
            plot("Divergence against what is computed", down, &share, &kl, |row| [row.recompute_share, row.kl_mean]),
            plot("F1 against what is computed", up, &share, &f1, |row| [row.recompute_share, row.f1]),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_listed_between_commas() {
        let listed = methods("naive,parallel=0.9,0.8,focus").unwrap();
        assert_eq!(listed[1], ReuseMethod::Parallel { temperature: 0.9, scale: 0.8 });
        assert_eq!((listed.len(), listed[2]), (3, ReuseMethod::Focus { share: 0.1 }));
        assert!(methods("all").unwrap().len() > 10);
        assert!(methods("naive,fuller").unwrap_err().to_string().contains("`fuller`"));
    }
}
