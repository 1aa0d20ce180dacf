//! `raglan tune`

use std::fs;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use raglan::core::Budget;
use raglan::multistep::Allocation;
use raglan::{Allowance, PageEvaluator, Tuning, allocation_grid};

use super::eval::pages::{Task, limits, open, text_model};
use crate::args::TuneCommand;
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// From how many measurements on the paper trusts a fit.
const ENOUGH: usize = 30;

pub fn run(session: &Session, command: &TuneCommand) -> Result<Outcome> {
    let args = &command.pages;
    let mut task = Task::kilt(&command.path)?;
    task.questions.retain(|question| !question.answers.is_empty());
    let allowance = match (args.budget_tokens, args.budget_seconds) {
        (Some(tokens), None) => Allowance::Tokens(tokens as f64),
        (None, Some(seconds)) => Allowance::Seconds(seconds),
        (None, None) => bail!("say what a question may cost: `--budget-tokens N` or `--budget-seconds S`"),
        (Some(_), Some(_)) => bail!("give one of the two: `--budget-tokens` or `--budget-seconds`"),
    };
    let most = command.demonstrations.iter().copied().max().unwrap_or(0).max(1);
    // Twice as many examples as are shown, as one that gives an answer away is left out.
    let n_examples = (2 * most).min(task.questions.len() / 2);
    let mut examples = std::mem::take(&mut task.questions);
    let mut questions = examples.split_off(n_examples);
    questions.truncate(args.limit.unwrap_or(usize::MAX));
    if questions.is_empty() {
        bail!("`{}` has too few questions with answers", command.path.display());
    }
    let recipe = raglan::recipe_with(&args.recipe, &args.set)?;
    let index = open(session, &task, args, &recipe)?;
    let evaluator = PageEvaluator {
        pages: Some((&index, &recipe)),
        model: Some(text_model(session, session.settings.text("generator"))?),
        judge: None,
        limits: limits(args),
        budget: Budget::default(),
        depth: args.depth,
    };
    let grid = allocation_grid(&command.passages, &command.demonstrations, &command.calls);
    session.bars.count(grid.len() * questions.len(), "answers");
    let tuned = evaluator.tune(&grid, &questions, &examples, allowance, &mut |done| {
        session.bars.done(done);
        !STOP.load(Ordering::Relaxed)
    });
    session.bars.clear();
    let tuned = tuned?;
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let path = folder.join("tuning.json");
        fs::write(&path, serde_json::to_string_pretty(&tuned)?)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    if session.json {
        output::json(&tuned)?;
    } else {
        print(&tuned, questions.len());
    }
    Ok(if tuned.best.is_some() { Outcome::Success } else { Outcome::Nothing })
}

fn print(tuned: &Tuning, n_questions: usize) {
    println!("{}, {}", output::count(n_questions, "question"), output::count(tuned.measured.len(), "allocation"));
    println!("  passages  demonstrations  calls      F1  contains  tokens  seconds");
    for found in &tuned.measured {
        let Allocation { passages, demonstrations, calls } = found.allocation;
        println!(
            "  {passages:8}  {demonstrations:14}  {calls:5}  {:.4}    {:.4}  {:6.0}  {:7.2}",
            found.f1, found.containment, found.tokens, found.seconds
        );
    }
    let few = if tuned.measured.len() < ENOUGH { ", of fewer measurements than it takes to trust it" } else { "" };
    println!("fit: R² {:.3}{few}", tuned.model.r_squared);
    println!(
        "costs: {:.0} tokens a passage, {:.0} a demonstration, {:.0} a question; {:.1} ms a token",
        tuned.costs.passage,
        tuned.costs.demonstration,
        tuned.costs.question,
        tuned.seconds_a_token * 1e3
    );
    let told = |allocation: Allocation| {
        let Allocation { passages, demonstrations, calls } = allocation;
        [(passages, "passage"), (demonstrations, "demonstration"), (calls, "call")]
            .map(|(n, noun)| output::count(n, noun))
            .join(", ")
    };
    match (tuned.best, tuned.best_measured) {
        (Some(best), Some(measured)) => {
            println!("within {:.0} tokens the fit chooses {}", tuned.tokens_allowed, told(best));
            println!("the best of what was measured is {}", told(measured));
        }
        (Some(best), None) => println!("within {:.0} tokens the fit chooses {}", tuned.tokens_allowed, told(best)),
        (None, _) => println!("{:.0} tokens allow none of the allocations", tuned.tokens_allowed),
    }
}
