//! `raglan search`

use anyhow::{Result, bail};
use console::style;
use raglan::{Index, SearchOutcome, SearchResult};

use crate::args::SearchCommand;
use crate::output::{highlighted, indented, one_line, printable};
use crate::session::{Session, filter};
use crate::{Outcome, output};

pub fn run(session: &Session, command: &SearchCommand) -> Result<Outcome> {
    if command.query.iter().all(|word| word.trim().is_empty()) {
        bail!("the query is empty");
    }
    let index = session.open(&session.index_folder(&command.folder)?)?;
    refuse_empty(&index)?;
    let (_, recipe) = session.recipe(&index, "hybrid", "bm25", &command.set)?;
    let query = command.query.join(" ");
    let outcome = index.search(&recipe, &query, &filter(&command.filter)?)?;
    session.bars.clear();
    if session.json {
        output::json(&outcome)?;
    } else {
        print(&outcome);
    }
    Ok(if outcome.results.is_empty() { Outcome::Nothing } else { Outcome::Success })
}

/// An index that holds nothing is not one that was searched in vain.
pub fn refuse_empty(index: &Index) -> Result<()> {
    if index.snapshot().n_chunks() == 0 {
        bail!(
            "the index `{}` holds no passages: none of the files had text (`raglan status` says what became of them), or \
             the first `raglan index` has not committed yet",
            index.snapshot().folder().display()
        );
    }
    Ok(())
}

/// Passages for people to read.
pub fn print_results(results: &[SearchResult]) {
    let width = usize::from(console::Term::stdout().size().1).clamp(40, 110);
    for result in results {
        let place = result.locator.to_string();
        let place = if place.is_empty() { String::new() } else { format!(", {}", one_line(&place)) };
        let span = result.span_of.told(result.start..result.end);
        println!(
            "{} {}{place}, {span}  {}",
            style(format!("{:2}.", result.rank)).dim(),
            style(one_line(&result.path)).bold().cyan(),
            style(format!("{:.3}  [chunk {}]", result.score, result.chunk)).dim()
        );
        let snippet = &result.snippet;
        let text = if snippet.text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
            printable(&snippet.text)
        } else {
            highlighted(&snippet.text, &snippet.highlights)
        };
        let (before, after) = (if snippet.cut_before { "… " } else { "" }, if snippet.cut_after { " …" } else { "" });
        println!("{}\n", indented(&format!("{before}{text}{after}"), width));
    }
    if results.is_empty() {
        println!("nothing found");
    }
}

fn print(outcome: &SearchOutcome) {
    print_results(&outcome.results);
    let times: Vec<_> = outcome.stages.iter().map(|s| format!("{} {:.1} ms", s.stage, s.seconds * 1e3)).collect();
    let found = output::count(outcome.results.len(), "passage");
    say!("{found} in {:.1} ms ({})", outcome.seconds * 1e3, times.join(", "));
}
