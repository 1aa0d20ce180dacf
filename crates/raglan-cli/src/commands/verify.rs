//! `raglan verify`

use std::path::Path;

use anyhow::{Context, Result};
use console::style;
use raglan::QuoteState;
use raglan::ingest::ReaderPool;
use serde_json::json;

use crate::args::VerifyCommand;
use crate::output::{bytes, count, one_line};
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &VerifyCommand) -> Result<Outcome> {
    match &command.answer {
        Some(answer) => verify_answer(session, command, answer),
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
