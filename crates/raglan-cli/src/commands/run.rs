//! `raglan run`

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use console::style;
use raglan::core::Generator;
use raglan::pipeline::PartKind;
use raglan::{RunOutput, RunResult};

use crate::args::RunCommand;
use crate::commands::ask::NO_TEXT;
use crate::commands::search::{print_results, refuse_empty};
use crate::output::{one_line, printable};
use crate::progress::STOP;
use crate::session::{Session, filter};
use crate::{Outcome, output};

pub fn run(session: &Session, command: &RunCommand) -> Result<Outcome> {
    let recipe = session.adjusted(raglan::recipe_with(&command.recipe, &command.set)?)?;
    session.tell_unused(&recipe);
    let questions = questions(command)?;
    let index_folder = session.index_folder(&command.folder)?;
    let index = session.open(&index_folder)?;
    refuse_empty(&index)?;
    let needs_generator = recipe.all_stages().iter().any(|stage| stage.spec.part() == PartKind::Generator);
    let generator: Option<Arc<dyn Generator>> = if needs_generator {
        let kv = session.kv(&index_folder)?;
        Some(session.models.generator(session.settings.text("generator"), &recipe, STOP.clone(), kv)?)
    } else {
        None
    };
    let results = index.run(&recipe, generator, &questions, &filter(&command.filter)?)?;
    session.bars.clear();
    for result in &results {
        if session.json {
            output::json_line(result)?;
        } else {
            print(result);
        }
    }
    let is_something = |result: &RunResult| match &result.output {
        RunOutput::Queries(queries) => !queries.is_empty(),
        RunOutput::Passages(passages) => !passages.is_empty(),
        RunOutput::Answer(answer) => !answer.sources.is_empty(),
        RunOutput::Error(_) => false,
    };
    Ok(if results.iter().any(is_something) { Outcome::Success } else { Outcome::Nothing })
}

/// The questions of the command line, of the file, or of standard input.
fn questions(command: &RunCommand) -> Result<Vec<String>> {
    let mut questions = command.question.clone();
    if questions.is_empty() {
        let text = match command.questions.as_deref() {
            None => read_input()?,
            Some(path) if path == Path::new("-") => read_input()?,
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?,
        };
        questions = text.lines().map(str::to_owned).collect();
    }
    questions.retain(|question| !question.trim().is_empty());
    if questions.is_empty() {
        bail!("there is no question");
    }
    Ok(questions)
}

fn read_input() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("standard input")?;
    Ok(text)
}

fn print(result: &RunResult) {
    println!("{}", style(one_line(&result.question)).bold());
    match &result.output {
        RunOutput::Queries(queries) => queries.iter().for_each(|query| println!("  {}", one_line(query))),
        RunOutput::Passages(passages) => print_results(passages),
        RunOutput::Answer(answer) if answer.text.is_empty() => println!("{NO_TEXT}"),
        RunOutput::Answer(answer) => println!("{}", printable(&answer.text)),
        RunOutput::Error(error) => println!("no answer: {error}"),
    }
    println!();
}
