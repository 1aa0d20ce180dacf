//! `raglan ask`

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};

use anyhow::{Context, Result, bail};
use console::style;
use raglan::core::{Answer, Attribution, Generator, KvFallback, KvFallbackReason};
use raglan::generate::ChatGenerator;
use raglan::kv::BlockPrecision;
use raglan::pipeline::Recipe;
use raglan::{Filter, Index, IndexReport, Start};
use rustyline::error::ReadlineError;

use crate::args::AskCommand;
use crate::commands::index::update;
use crate::output::{indented, one_line, printable};
use crate::progress::STOP;
use crate::session::{Session, filter};
use crate::{Outcome, output};

/// What is said where an answer has no words.
pub const NO_TEXT: &str = "no answer: the model had nothing to say, or the recipe's budget was spent before it could";

pub fn run(session: &Session, command: &AskCommand) -> Result<Outcome> {
    session.check_recipe("ask", &command.set)?;
    session.check_language_model_device()?;
    let index_folder = match (&command.folder.folder, session.settings.path("index")) {
        (Some(documents), _) => {
            let index = session.index_of(documents)?;
            if !command.no_update {
                let report = match update(session, documents, &index, Start::Continue) {
                    // Whoever writes to it brings it up to date.
                    Err(error) if is_locked(&error) && raglan::store::Passport::read(&index).is_ok() => {
                        say!("answered from the index as it is: {error:#}");
                        IndexReport::default()
                    }
                    report => report?,
                };
                if report.interrupted {
                    bail!("interrupted while indexing; what was done is kept, and the next run goes on from here");
                }
                if !report.skipped.is_empty() && report.new + report.changed > 0 {
                    let skipped = output::count(report.skipped.len(), "file");
                    say!("{skipped} skipped; `raglan status` says which and why");
                }
            }
            index
        }
        (None, Some(index)) => index,
        (None, None) => session.index_folder(&command.folder)?,
    };
    let index = session.open(&index_folder)?;
    let (_, recipe) = session.recipe(&index, "ask", "ask-bm25", &command.set)?;
    let filter = filter(&command.filter)?;
    let question = command.question.join(" ");
    if question.trim().is_empty() && !command.question.is_empty() {
        bail!("the question is empty; without one, `raglan ask` reads questions from standard input");
    }
    let kv = session.kv(&index_folder)?;
    if let Some(kv) = kv.as_ref().filter(|kv| kv.method.is_exact())
        && matches!(kv.precision, BlockPrecision::Int8 | BlockPrecision::Bf16)
    {
        say!(
            "`--kv {}` changes no answer, so nothing is kept from one command to the next in {}: leave `--kv-precision` out, \
             or take another method",
            kv.method,
            kv.precision
        );
    }
    let generator = session.models.generator(session.settings.text("generator"), &recipe, STOP.clone(), kv)?;
    session.bars.clear();
    if command.show_prompt {
        return show_prompt(session, &index, &recipe, &generator, &question, &filter);
    }
    if question.trim().is_empty() {
        return converse(session, &index, &recipe, &generator, &filter);
    }
    let answer = ask(session, &index, &recipe, &generator, &question, &filter)?;
    Ok(if answer.sources.is_empty() { Outcome::Nothing } else { Outcome::Success })
}

fn is_locked(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(raglan::Error::Store(raglan::store::Error::Locked { .. })))
}

fn show_prompt(
    session: &Session,
    index: &Index,
    recipe: &Recipe,
    generator: &Arc<raglan::LazyGenerator>,
    question: &str,
    filter: &Filter,
) -> Result<Outcome> {
    if question.trim().is_empty() {
        bail!("`--show-prompt` needs a question");
    }
    let context = index.context(recipe, generator.clone(), question, filter)?;
    let generator = generator.loaded()?;
    tell_missing_template(session, generator);
    let prompt = generator.prompt(&context)?;
    if session.json {
        output::json(&serde_json::json!({
            "prompt": prompt.text, "tokens": prompt.n_tokens, "shown": prompt.shown, "left_out": prompt.left_out,
        }))?;
    } else {
        println!("{}", printable(&prompt.text));
        say!(
            "{}, {} shown, {} left out",
            output::count(prompt.n_tokens, "token"),
            output::count(prompt.shown.len(), "passage"),
            prompt.left_out.len()
        );
    }
    Ok(Outcome::Success)
}

/// Questions from a prompt, until an empty line or the end of input.
fn converse(
    session: &Session,
    index: &Index,
    recipe: &Recipe,
    generator: &Arc<raglan::LazyGenerator>,
    filter: &Filter,
) -> Result<Outcome> {
    let mut editor = rustyline::DefaultEditor::new().context("the terminal cannot be read")?;
    let history = directories::ProjectDirs::from("", "", "raglan").map(|dirs| dirs.data_local_dir().join("history"));
    if let Some(history) = &history {
        let _ = editor.load_history(history); // There is none the first time.
    }
    loop {
        let question = match editor.readline("? ") {
            Ok(question) if question.trim().is_empty() => break,
            Ok(question) => question,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => break,
            Err(error) => return Err(error.into()),
        };
        editor.add_history_entry(&question)?;
        STOP.store(false, Ordering::Relaxed);
        if let Err(error) = ask(session, index, recipe, generator, &question, filter) {
            say!("{} {error:#}", style("error:").for_stderr().red().bold());
        }
        println!();
    }
    if let Some(history) = &history {
        if let Some(folder) = history.parent() {
            std::fs::create_dir_all(folder)?;
        }
        editor.save_history(history)?;
    }
    Ok(Outcome::Success)
}

fn ask(
    session: &Session,
    index: &Index,
    recipe: &Recipe,
    generator: &Arc<raglan::LazyGenerator>,
    question: &str,
    filter: &Filter,
) -> Result<Answer> {
    let role: Arc<dyn Generator> = generator.clone();
    let mut stream = |text: &str| {
        if !session.json {
            print!("{}", printable(text));
            let _ = std::io::stdout().flush(); // A reader that has gone is noticed at the next line.
        }
    };
    let answer = index.ask(recipe, role, question, filter, &mut stream)?;
    if session.json {
        output::json(&answer)?;
    } else {
        println!("{}", if answer.text.is_empty() { NO_TEXT } else { "" });
        print_sources(&answer);
    }
    tell_fallback(&answer);
    if answer.tokens.prompt > 0
        && let Some(generator) = generator.if_loaded()
    {
        tell_missing_template(session, generator);
        remember(generator);
    }
    Ok(answer)
}

/// Keeps the keys and values that were missing and tests the method, once the answer is there; an answer that cannot be
/// sped up the next time is an answer nevertheless.
fn remember(generator: &ChatGenerator) {
    match generator.remember() {
        Ok(remembered) => {
            for test in remembered.tests {
                say!(
                    "tested after the answer: {:.3} nats a token from computing all, the same token at {} of {} places",
                    test.kl,
                    test.n_agree,
                    test.n_places
                );
            }
        }
        Err(error) => say!("keys and values were not kept: {error:#}"),
    }
}

/// Says why the method that was asked for was not used, and what can be done.
fn tell_fallback(answer: &Answer) {
    let Some(KvFallback { method, reason }) = answer.kv.as_ref().and_then(|kv| kv.instead_of.as_ref()) else { return };
    match reason {
        KvFallbackReason::Untested => {
            say!("`{method}` has not been tested on this index: this answer was computed exactly, and tests it now");
        }
        KvFallbackReason::Drift { mean_kl, bound, tests } => say!(
            "{} `{method}` changes answers too much here: {mean_kl:.3} nats a token from computing all on average over \
             the last {}, and {bound} are allowed; answered by prefix instead. Take another `--kv`, raise `--kv-drift`, \
             or have it tested anew after `raglan gc --kv`",
            style("warning:").for_stderr().yellow().bold(),
            output::count(*tests, "test")
        ),
    }
}

/// Says, once, that a model was never taught to answer.
fn tell_missing_template(session: &Session, generator: &ChatGenerator) {
    static TOLD: Once = Once::new();
    if !generator.model().template.is_own() {
        TOLD.call_once(|| {
            let name = session.settings.text("generator");
            say!(
                "`{name}` has no chat template, so it is probably not instruction-tuned and goes on with the prompt \
                 instead of answering; for good answers take the instruction-tuned model of its family"
            );
        });
    }
}

fn print_sources(answer: &Answer) {
    let width = usize::from(console::Term::stdout().size().1).clamp(40, 110);
    let mut sentences = Vec::new();
    for sentence in &answer.sentences {
        let by = match (sentence.attribution, sentence.source) {
            (Attribution::Cited, Some(i)) => format!("[{}] cited, {:.0} % supported", i + 1, sentence.support * 100.0),
            (Attribution::Matched, Some(i)) => format!("[{}] {:.0} % supported", i + 1, sentence.support * 100.0),
            _ => "unsupported by the passages".to_owned(),
        };
        sentences.push(format!("{} {}", printable(&sentence.text), style(format!("({by})")).dim()));
    }
    if !answer.steps.is_empty() {
        println!("\n{}", style("Steps").bold());
    }
    for (i, step) in answer.steps.iter().enumerate() {
        let text = if step.text.is_empty() { "the question is searched for" } else { &step.text };
        let queries =
            step.queries.iter().filter(|query| !step.text.contains(query.as_str()) && **query != answer.question);
        let queries: String = queries.map(|query| format!("\n? {}", one_line(query))).collect();
        println!("{}", indented(&format!("{}. {}{queries}", i + 1, printable(text)), width));
        if !step.documents.is_empty() {
            println!("{}", style(indented(&one_line(&step.documents.join(", ")), width)).dim());
        }
    }
    if !sentences.is_empty() && !answer.sources.is_empty() {
        println!("\n{}", style("Sentence by sentence").bold());
        for sentence in sentences {
            println!("{}", indented(&sentence, width));
        }
    }
    if !answer.sources.is_empty() {
        println!("\n{}", style("Sources").bold());
    }
    for (i, source) in answer.sources.iter().enumerate() {
        let used = answer.sentences.iter().any(|sentence| sentence.source == Some(i));
        let place = source.locator.to_string();
        let place = if place.is_empty() { String::new() } else { format!(", {}", one_line(&place)) };
        println!(
            "[{}] {}{place}, {}{}",
            i + 1,
            style(one_line(&source.path)).bold().cyan(),
            source.span_of.told(source.start..source.end),
            if used { "" } else { " (not used)" }
        );
        if used {
            println!("{}", style(indented(&printable(&source.text), width)).dim());
        }
    }
    let (t, n) = (&answer.timings, &answer.tokens);
    if !answer.left_out.is_empty() {
        say!("{} left out", output::count(answer.left_out.len(), "passage"));
    }
    // What comes whole, once it stands, has no speed.
    let speed =
        if t.decode_s < 1e-3 { String::new() } else { format!(" at {:.1} per second", n.answer as f64 / t.decode_s) };
    say!(
        "first token after {:.2} s (retrieval {:.2}, prompt of {} {:.2}), {}{speed}",
        t.first_token_s,
        t.retrieve_s,
        output::count(n.prompt, "token"),
        t.prefill_s,
        output::count(n.answer, "token"),
    );
    if let Some(kv) = &answer.kv {
        say!(
            "keys and values by {}: {} taken over, {} computed ({:.0} % of the passages' anew); passages {} there, {} not",
            kv.method,
            output::count(kv.reused_tokens, "token"),
            kv.computed_tokens,
            kv.recomputed_share * 100.0,
            kv.hits,
            kv.misses
        );
    }
}
