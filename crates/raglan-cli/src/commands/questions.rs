//! `raglan questions`

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use anyhow::{Result, bail};
use raglan::QuestionSettings;
use raglan::augment::{QuestionOptions, write_questions};
use raglan::model::Sampling;
use serde_json::json;

use crate::args::QuestionsCommand;
use crate::output::count;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

pub fn run(session: &Session, command: &QuestionsCommand) -> Result<Outcome> {
    let folder = session.index_folder(&command.folder)?;
    let index = session.open(&folder)?;
    let limit = command.limit.unwrap_or(usize::MAX);
    let model = session.settings.text("generator").to_owned();
    if !command.topics.is_empty() {
        let n = command.number.unwrap_or(3);
        let (knowledge, cost) = index.write_meta_knowledge(&model, command.topics.clone(), n, limit)?;
        knowledge.write(&command.out)?;
        let (n_questions, n_topics) = (knowledge.questions.len(), knowledge.summaries.len());
        if session.json {
            output::json(&json!({ "questions": n_questions, "topics": n_topics, "cost": cost }))?;
        } else {
            println!("{} in {}; {:.0} s", count(n_questions, "question"), count(n_topics, "topic"), cost.seconds);
        }
        return Ok(Outcome::Success);
    }
    let usual = QuestionOptions::default();
    let options = QuestionOptions {
        n: command.number.unwrap_or(usual.n),
        sampling: Sampling { temperature: command.temperature, seed: command.seed, ..usual.sampling },
        ..usual
    };
    let settings = QuestionSettings { model, options, round_trip: command.round_trip, limit };
    session.bars.count(index.snapshot().n_chunks().min(limit), "questions");
    let report = index.write_questions(&settings, &mut |n_done| {
        session.bars.done(n_done);
        if STOP.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    session.bars.clear();
    let report = match report {
        Err(raglan::Error::NoVectors { index, what, setting }) => bail!(
            "`{}` has no {what}, by which questions are looked for; keep all questions with `--round-trip 0`, or have \
             them made by `raglan index --{setting}=MODEL`",
            index.display()
        ),
        report => report?,
    };
    write_questions(&command.out, &report.questions)?;
    if session.json {
        output::json(&json!({
            "questions": report.questions.len(), "chunks": report.n_chunks, "dropped": report.n_dropped,
            "astray": report.n_astray, "cost": report.cost, "interrupted": report.interrupted,
        }))?;
    } else {
        println!(
            "{} for {}; dropped were {} that were none of their passage and {} that lead elsewhere; {:.0} s",
            count(report.questions.len(), "question"),
            count(report.n_chunks, "passage"),
            report.n_dropped,
            report.n_astray,
            report.cost.seconds
        );
    }
    if report.interrupted {
        bail!("interrupted; the questions so far are in `{}`", command.out.display());
    }
    Ok(Outcome::Success)
}
