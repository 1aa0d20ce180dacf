//! `raglan verify`

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use console::style;
use raglan::QuoteState;
use raglan::dense::SearchMode;
use raglan::ingest::ReaderPool;
use serde_json::json;

use crate::args::VerifyCommand;
use crate::output::{bytes, count, one_line};
use crate::session::Session;
use crate::{Outcome, output};

/// How many hits of a stored vector are compared.
const RECALL_AT: usize = 10;

pub fn run(session: &Session, command: &VerifyCommand) -> Result<Outcome> {
    match &command.answer {
        Some(answer) => verify_answer(session, command, answer),
        None if command.recall => verify_recall(session, command),
        None => verify_index(session, &session.index_folder(&command.folder)?),
    }
}

fn verify_index(session: &Session, index: &Path) -> Result<Outcome> {
    let report = raglan::store::verify(index)?;
    if session.json {
        let problems = report.problems.iter().map(|p| json!({ "path": p.path, "problem": p.problem }));
        output::json(&json!({
            "index": index, "clean": report.is_clean(), "generation": report.generation,
            "files_checked": report.files_checked, "bytes": report.bytes,
            "chunks_checked": report.chunks_checked, "problems": problems.collect::<Vec<_>>(),
        }))?;
    } else {
        for problem in &report.problems {
            println!("{} {}: {}", style("damaged").red().bold(), problem.path.display(), problem.problem);
        }
        let (files, chunks) = (count(report.files_checked, "file"), count(report.chunks_checked, "chunk"));
        println!("generation {}: {files}, {}, {chunks} checked", report.generation, bytes(report.bytes));
        if report.is_clean() {
            println!("{}", style("clean").green());
        } else {
            println!("make the index anew with `raglan index --rebuild FOLDER`");
        }
    }
    Ok(if report.is_clean() { Outcome::Success } else { Outcome::Nothing })
}

/// What share of exact search's hits approximate search has to find.
const LEAST_RECALL: f64 = 0.95;

fn verify_recall(session: &Session, command: &VerifyCommand) -> Result<Outcome> {
    let index = session.open(&session.index_folder(&command.folder)?)?;
    let mut rows = Vec::new();
    for (name, mode) in [("graph", SearchMode::Graph), ("int8", SearchMode::Int8), ("one-bit", SearchMode::OneBit)] {
        let started = Instant::now();
        let found = index.dense_in(mode)?.self_recall(command.sample, RECALL_AT, 0)?;
        let (seconds, not_found) = (started.elapsed().as_secs_f64(), found.not_found.len());
        let is_good = found.recall >= LEAST_RECALL;
        rows.push((name, found.n_queries, found.recall, not_found, seconds, is_good));
    }
    let is_good = rows.iter().all(|row| row.5);
    if session.json {
        let row = |&(mode, queries, recall, not_found, seconds, _): &(&str, usize, f64, usize, f64, bool)| json!({ "mode": mode, "queries": queries, "recall@10": recall, "not_found": not_found, "seconds": seconds });
        output::json(&json!({ "least": LEAST_RECALL, "modes": rows.iter().map(row).collect::<Vec<_>>() }))?;
    } else {
        for (mode, queries, recall, not_found, _, is_good) in rows {
            let mark = if is_good { style("ok").green() } else { style("low").red().bold() };
            println!(
                "{mark:3} {mode:8} recall@{RECALL_AT} {recall:.4} over {queries} stored vectors; {not_found} do not find themselves"
            );
        }
    }
    Ok(if is_good { Outcome::Success } else { Outcome::Nothing })
}

fn verify_answer(session: &Session, command: &VerifyCommand, answer: &Path) -> Result<Outcome> {
    let root = match &command.folder.folder {
        Some(folder) => folder.clone(),
        None => {
            let index = session.open(&session.index_folder(&command.folder)?)?;
            index.root().context("the index does not say which folder it is of; name it with `-f FOLDER`")?.to_owned()
        }
    };
    let pool = ReaderPool::new(session.limits()?, session.isolation()?, session.threads);
    let checked = raglan::verify_answer(&root, answer, &pool)?;
    let (quotes, sound) = (&checked.quotes, checked.is_sound());
    if session.json {
        output::json(
            &json!({ "answer": answer, "sound": sound, "quotes": quotes, "without_source": checked.without_source }),
        )?;
    } else {
        for (i, quote) in quotes.iter().enumerate() {
            let state = match quote.state {
                QuoteState::Ok => style("ok").green(),
                QuoteState::Changed => style("changed").yellow(),
                QuoteState::Missing => style("missing").red(),
            };
            let now = quote.now_at.map(|at| format!("; the quote now begins at byte {at}")).unwrap_or_default();
            let problem = quote.problem.as_ref().map(|problem| format!("; {}", one_line(problem))).unwrap_or_default();
            println!(
                "[{}] {state} {}, {}{now}{problem}",
                i + 1,
                one_line(&quote.path),
                quote.span_of.told(quote.start..quote.end)
            );
        }
        for sentence in &checked.without_source {
            println!("{} for: {}", style("no source").red(), one_line(sentence));
        }
        if quotes.is_empty() && sound {
            println!("the answer has no sources, and claims none");
        }
    }
    Ok(if sound { Outcome::Success } else { Outcome::Nothing })
}
