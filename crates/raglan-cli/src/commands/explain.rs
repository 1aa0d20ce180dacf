//! `raglan explain`

use anyhow::Result;
use console::style;
use raglan::{ExplainedChunk, Explanation};
use serde::Serialize;

use crate::args::ExplainCommand;
use crate::commands::search::refuse_empty;
use crate::output::one_line;
use crate::session::Session;
use crate::{Outcome, output};

/// An explanation as `--json` prints it.
#[derive(Serialize)]
struct Explained<'a> {
    recipe: &'a str,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

pub fn run(session: &Session, command: &ExplainCommand) -> Result<Outcome> {
    let index = session.open(&session.index_folder(&command.folder)?)?;
    refuse_empty(&index)?;
    let (name, recipe) = session.recipe(&index, "hybrid", "bm25", &command.set)?;
    let explanation = index.explain(&recipe, &command.query, &command.target)?;
    session.bars.clear();
    if session.json {
        output::json(&Explained { recipe: &name, explanation: &explanation })?;
    } else {
        print(&name, &explanation);
    }
    let found = explanation.chunks.iter().any(|chunk| chunk.found);
    Ok(if found { Outcome::Success } else { Outcome::Nothing })
}

fn print(recipe: &str, explanation: &Explanation) {
    println!("recipe: {}", one_line(recipe));
    println!("terms of the query: {}\n", explanation.terms.join(" "));
    for chunk in &explanation.chunks {
        print_chunk(chunk);
    }
}

fn print_chunk(chunk: &ExplainedChunk) {
    let verdict = if chunk.found { style(&chunk.verdict).green() } else { style(&chunk.verdict).yellow() };
    println!("{} [chunk {}] {}", style(one_line(&chunk.path)).bold().cyan(), chunk.chunk, one_line(&chunk.locator));
    println!("  {}", style(one_line(&chunk.beginning)).dim());
    println!("  {verdict}");
    match &chunk.bm25 {
        None => println!("  bm25    no term in common"),
        Some(bm25) => {
            println!("  bm25    rank {}, score {:.3}", bm25.rank, bm25.explanation.score);
            for term in bm25.explanation.terms.iter().filter(|term| term.tf > 0) {
                println!(
                    "          {:20} +{:.3}  in {} chunks (idf {:.3}), {} times in this one of {} terms",
                    term.term, term.contribution, term.df, term.idf, term.tf, term.doc_len
                );
            }
            let missing: Vec<_> =
                bm25.explanation.terms.iter().filter(|term| term.tf == 0).map(|term| term.term.as_str()).collect();
            if !missing.is_empty() {
                println!("          without: {}", missing.join(" "));
            }
        }
    }
    if let Some(dense) = &chunk.dense {
        println!("  dense   rank {}, cosine {:.3}", dense.rank, dense.score);
    }
    for stage in &chunk.stages {
        let place = match (&stage.place, stage.left_out) {
            (Some(place), _) => format!("rank {} of {}, score {:.3}", place.rank, stage.ranked, place.score),
            (None, Some(reason)) => {
                format!("left out: {}", serde_json::to_value(reason).map_or(String::new(), |v| v.to_string()))
            }
            (None, None) => format!("not among its {}", stage.ranked),
        };
        println!("  stage   {} ({}): {place}", stage.stage, stage.kind);
    }
    println!();
}
