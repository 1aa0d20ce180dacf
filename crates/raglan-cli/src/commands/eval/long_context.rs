//! `raglan eval longcontext`

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail};
use raglan::datasets::ruler::{RulerTask, ruler};
use raglan::datasets::{LongContextItem, long_context};
use raglan::eval::{PlotAxis, TradeOff, TradeOffReport};
use raglan::model::AttentionPolicy;
use raglan::{LongContextEvaluator, LongContextRow, PerplexityEvaluator, long_context_rows};
use serde_json::json;

use crate::args::LongContextCommand;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// The shortest text of which an end is foretold.
const SHORTEST: usize = 64;
/// Shares of the keys that `all` policies have.
const SHARES: [f32; 2] = [0.25, 0.05];

pub fn run(session: &Session, command: &LongContextCommand) -> Result<Outcome> {
    let policies = policies(&command.policy)?;
    let tasks = tasks(&command.tasks)?;
    if command.limit == 0 || command.tokens == Some(0) {
        bail!("`--limit` and `--tokens` must be at least 1");
    }
    if let Some(folder) = &command.out {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
    }
    if command.perplexity {
        return perplexity(session, command, &policies);
    }
    let from_file = command.path.as_deref().map(long_context::read).transpose()?;
    let name = session.settings.text("generator");
    let model = session.models.language_model(name)?()?;
    let limit = model.transformer.config().context_len;
    if let Some(length) = command.lengths.iter().find(|length| **length > limit) {
        bail!("`--lengths` {length} is longer than the model's context of {limit}; `--rope-scaling` reads beyond it");
    }
    let evaluator = LongContextEvaluator::new(&model, policies)?;
    let mut asked: Vec<(usize, LongContextItem)> = Vec::new();
    for &length in &command.lengths {
        let mut items = match &from_file {
            Some(items) => items.iter().take(command.limit).cloned().collect(),
            None => made(&evaluator, &tasks, length, command)?,
        };
        for item in &mut items {
            item.answer_tokens = item.answer_tokens.min(command.tokens.unwrap_or(usize::MAX));
        }
        asked.extend(items.into_iter().map(|item| (length, item)));
    }
    if asked.is_empty() {
        bail!("there is no question to ask");
    }
    session.bars.count(asked.len(), "questions");
    let mut scores = Vec::new();
    let mut n_done = 0;
    for (length, item) in &asked {
        session.bars.done(n_done);
        match evaluator.evaluate(item, *length, &|| !STOP.load(Ordering::Relaxed)) {
            // What is done is worth as much as if no more had been asked for.
            Err(raglan::Error::Generate(raglan::generate::Error::Interrupted)) if n_done > 0 => break,
            found => scores.extend(found.with_context(|| format!("{} at {length} tokens", item.id))?),
        }
        n_done += 1;
    }
    session.bars.clear();
    let interrupted = n_done < asked.len();
    let rows = long_context_rows(&scores);
    let config = model.transformer.config();
    let result = json!({
        "model": name,
        "path": command.path,
        "context_tokens": config.context_len,
        "rope_scaling": session.settings.text("rope-scaling"),
        "seed": command.seed,
        "threads": session.threads,
        "device": raglan::kernels::device::cpu_features().join(" "),
        "revision": env!("CARGO_PKG_VERSION"),
        "interrupted": interrupted,
        "rows": rows,
        "scores": scores,
    });
    let lead = format!(
        "{name}, a context of {} tokens, rope scaling {}, {} to {} questions a row",
        config.context_len,
        session.settings.text("rope-scaling"),
        rows.iter().map(|row| row.n).min().unwrap_or(0),
        rows.iter().map(|row| row.n).max().unwrap_or(0),
    );
    if session.json {
        output::json(&result)?;
    } else {
        print(&rows, &lead);
    }
    if let Some(folder) = &command.out {
        let page = report(&rows, &lead).html();
        for (file, text) in [("longcontext.json", serde_json::to_string_pretty(&result)?), ("longcontext.html", page)] {
            let path = folder.join(file);
            fs::write(&path, text).with_context(|| format!("`{}` cannot be written", path.display()))?;
        }
    }
    Ok(match interrupted {
        true => Outcome::Interrupted(format!("the figures are of {n_done} of {} questions", asked.len())),
        false => Outcome::Success,
    })
}

/// `raglan eval longcontext --perplexity`
fn perplexity(session: &Session, command: &LongContextCommand, policies: &[AttentionPolicy]) -> Result<Outcome> {
    let path = command.path.as_deref().expect("the flag requires it");
    let text = text_of(path)?;
    let name = session.settings.text("generator");
    let model = session.models.language_model(name)?()?;
    let evaluator = PerplexityEvaluator::new(&model, &text)?;
    for &length in &command.lengths {
        if length < SHORTEST {
            bail!("`--lengths` must be at least {SHORTEST} for `--perplexity`, not {length}");
        }
        if length > evaluator.n_tokens() {
            bail!("`{}` has {} tokens, fewer than `--lengths` {length}", path.display(), evaluator.n_tokens());
        }
    }
    let longest = command.lengths.iter().copied().max().expect("there is a length");
    let asked: Vec<(usize, AttentionPolicy)> =
        command.lengths.iter().flat_map(|&length| policies.iter().map(move |&policy| (length, policy))).collect();
    session.bars.count(asked.len(), "readings");
    let mut rows = Vec::new();
    for &(length, policy) in &asked {
        session.bars.done(rows.len());
        match evaluator.evaluate(policy, length, longest, command.limit, &|| !STOP.load(Ordering::Relaxed)) {
            Err(raglan::Error::Generate(raglan::generate::Error::Interrupted)) if !rows.is_empty() => break,
            found => rows.push(found.with_context(|| format!("{policy} at {length} tokens"))?),
        }
    }
    session.bars.clear();
    let interrupted = rows.len() < asked.len();
    let result = json!({
        "model": name,
        "path": path,
        "context_tokens": model.transformer.config().context_len,
        "rope_scaling": session.settings.text("rope-scaling"),
        "threads": session.threads,
        "device": raglan::kernels::device::cpu_features().join(" "),
        "revision": env!("CARGO_PKG_VERSION"),
        "interrupted": interrupted,
        "rows": rows,
    });
    if session.json {
        output::json(&result)?;
    } else {
        println!("{name}, a context of {} tokens", model.transformer.config().context_len);
        println!(
            "{:20} {:>9} {:>5} {:>11} {:>9} {:>9}",
            "policy", "tokens", "n", "perplexity", "keys read", "tokens/s"
        );
        for row in &rows {
            let cell = |x: Option<f64>, digits: usize| x.map_or("-".to_owned(), |x| format!("{x:.digits$}"));
            let [perplexity, share] = [cell(row.perplexity, 2), cell(row.key_share, 3)];
            let rate = cell(row.tokens_per_s, 0);
            println!("{:20} {:>9} {:>5} {perplexity:>11} {share:>9} {rate:>9}", row.policy, row.length, row.n);
        }
        if rows.iter().any(|row| row.perplexity.is_none()) {
            println!("- only `sinks` reads more than the model's context");
        }
    }
    if let Some(folder) = &command.out {
        let path = folder.join("longcontext.json");
        let text = serde_json::to_string_pretty(&result)?;
        fs::write(&path, text).with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    Ok(match interrupted {
        true => Outcome::Interrupted(format!("{} of {} readings are done", rows.len(), asked.len())),
        false => Outcome::Success,
    })
}

/// A file's text, or the texts of its questions, each once, behind one another.
fn text_of(path: &Path) -> Result<String> {
    if path.extension().is_some_and(|extension| extension == "txt" || extension == "md") {
        return fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()));
    }
    let mut texts: Vec<String> = long_context::read(path)?.into_iter().map(|item| item.text).collect();
    texts.dedup();
    Ok(texts.join("\n\n"))
}

fn policies(text: &str) -> Result<Vec<AttentionPolicy>> {
    if text != "all" {
        return text.split(',').map(|name| name.parse().map_err(|e: String| anyhow!(e))).collect();
    }
    let with = |share: &f32| AttentionPolicy::NAMES.map(|name| format!("{name}={share}"));
    let names = SHARES.iter().flat_map(with);
    let limited = names.map(|name| name.parse().expect("the shares are budgets"));
    Ok(std::iter::once(AttentionPolicy::Full).chain(limited).collect())
}

fn tasks(text: &str) -> Result<Vec<RulerTask>> {
    if text == "all" {
        return Ok(RulerTask::ALL.to_vec());
    }
    text.split(',').map(|name| name.parse().map_err(|e: String| anyhow!(e))).collect()
}

/// Questions that fit into a length.
fn made(
    evaluator: &LongContextEvaluator<'_>,
    tasks: &[RulerTask],
    length: usize,
    command: &LongContextCommand,
) -> Result<Vec<LongContextItem>> {
    let mut items = Vec::new();
    for &task in tasks {
        let room = evaluator.room(length, task.answer_tokens());
        if room == 0 {
            bail!("a prompt for `{task}` needs more than {length} tokens");
        }
        // What is made is spelled in letters that every vocabulary has.
        let count = |text: &str| evaluator.count(text).unwrap_or(text.len());
        items.extend(ruler(task, command.limit, room, command.seed, &count));
    }
    Ok(items)
}

const HEADS: [&str; 9] = ["policy", "tokens", "n", "score", "F1", "keys read", "MB kept", "prefill/s", "decode/s"];

fn cells(row: &LongContextRow) -> Vec<String> {
    vec![
        row.length.to_string(),
        row.n.to_string(),
        format!("{:.3}", row.score),
        format!("{:.3}", row.f1),
        format!("{:.3}", row.key_share),
        format!("{:.1}", row.kept_bytes / 1e6),
        format!("{:.0}", row.prefill_tokens_per_s),
        format!("{:.1}", row.decode_tokens_per_s),
    ]
}

fn label(row: &LongContextRow) -> String {
    format!("{} {}", row.task, row.policy)
}

fn print(rows: &[LongContextRow], lead: &str) {
    println!("{lead}");
    let line = |name: &str, cells: &[&str]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:>9}")).collect();
        println!("{name:34} {}", cells.join(" "));
    };
    line(HEADS[0], &HEADS[1..]);
    for row in rows {
        line(&label(row), &cells(row).iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn report(rows: &[LongContextRow], lead: &str) -> TradeOffReport {
    let axis = |title: &str| PlotAxis { title: title.to_owned(), is_logarithmic: false };
    let plot = |title: &str, caption: &str, x: &str, point: fn(&LongContextRow) -> f64| TradeOff {
        title: title.to_owned(),
        caption: caption.to_owned(),
        x: axis(x),
        y: axis("score"),
        points: rows.iter().map(|row| Some([point(row), row.score])).collect(),
    };
    let up_right = "Up and to the right is better.";
    let up_left = "Up and to the left is better.";
    TradeOffReport {
        title: "Attention to a part of the keys".to_owned(),
        lead: format!("{lead}."),
        heads: HEADS.map(str::to_owned).into(),
        rows: rows.iter().map(|row| (label(row), cells(row))).collect(),
        plots: vec![
            plot("Score against speed", up_right, "tokens a second", |row| row.decode_tokens_per_s),
            plot("Score against keys", up_left, "share of the keys that are read", |row| row.key_share),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_and_tasks_are_listed_between_commas() {
        assert_eq!(policies("full,quest=64").unwrap().len(), 2);
        assert_eq!(policies("all").unwrap().len(), 11);
        assert!(policies("full,best").unwrap_err().to_string().contains("`best`"));
        assert_eq!(tasks("vt,cwe").unwrap(), [RulerTask::VariableTracking, RulerTask::CommonWords]);
        assert_eq!(tasks("all").unwrap().len(), RulerTask::ALL.len());
        assert!(tasks("niah").is_err());
    }
}
