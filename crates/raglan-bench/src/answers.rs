//! Answers from passages: how fast they are written with each kind of guesses, and several at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use raglan::core::{Chunk, ChunkId, ContentHash, Context, DocId, Document, Format, Generator, Locator, Passage};
use raglan::generate::{ChatGenerator, Drafts, GenerateOptions, LanguageModel};
use raglan::model::Products;
use serde_json::json;

use crate::llm::{Row, cut, read_lines};
use crate::report::Report;

/// Options of the area.
#[derive(Args)]
pub struct Answers {
    /// GGUF file, or folder of safetensors
    #[arg(long)]
    generator: PathBuf,
    /// JSONL, gzipped: `question`, `answers`, `ctxs`
    #[arg(long)]
    rag: PathBuf,
    /// Questions that are answered
    #[arg(long, default_value_t = 12)]
    questions: usize,
    /// Passages of each question
    #[arg(long, default_value_t = 3)]
    passages: usize,
    /// Words of each passage, at most
    #[arg(long, default_value_t = 100)]
    passage_words: usize,
    /// Said before each question
    #[arg(long, default_value = "Quote the sentences of the passages that help with this question:")]
    ask: String,
    /// Threads that compute
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Rounds of all kinds, one after the other
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

/// Answers the questions plainly, with guesses and together, and checks that the answers are the same.
pub fn run(options: &Answers) -> Result<()> {
    let report = Report::new("answers", options.threads);
    let rows: Vec<Row> = read_lines(&options.rag, options.questions)?;
    let contexts: Vec<Context> = rows.iter().map(|row| context(row, options)).collect();
    let model = Arc::new(LanguageModel::load(&options.generator, options.threads, Products::Stored)?);
    let kinds = [("off", Drafts::Off), ("lookup", Drafts::PromptLookup), ("recycling", Drafts::TokenRecycling)];
    let mut plain: Option<Vec<String>> = None;
    for _ in 0..options.rounds {
        for (name, drafts) in kinds {
            let generator = ChatGenerator::new(
                model.clone(),
                GenerateOptions { drafts, max_tokens: 96, ..GenerateOptions::default() },
            )?;
            let (mut texts, mut n_tokens, mut seconds) = (Vec::new(), 0, 0.0);
            for context in &contexts {
                let answer = generator.answer(context, &mut |_| {})?;
                n_tokens += answer.tokens.answer;
                seconds += answer.timings.decode_s;
                texts.push(answer.text);
            }
            let params = json!({"n": n_tokens, "own_drafts": name});
            report.emit("answer_decode_tokens_per_s", n_tokens as f64 / seconds, "tokens/s", params);
            ensure!(*plain.get_or_insert_with(|| texts.clone()) == texts, "guesses changed an answer");
        }
        for at_once in [1, 2, 4, 8] {
            let generator = ChatGenerator::new(
                model.clone(),
                GenerateOptions { at_once, max_tokens: 96, ..GenerateOptions::default() },
            )?;
            let begin = Instant::now();
            let answers = generator.generate(&contexts, &mut |_, _| {})?;
            let answers = answers.into_iter().collect::<raglan::core::Result<Vec<_>>>()?;
            let n_tokens: usize = answers.iter().map(|answer| answer.tokens.answer).sum();
            let rate = n_tokens as f64 / begin.elapsed().as_secs_f64();
            report.emit("answers_tokens_per_s", rate, "tokens/s", json!({"n": n_tokens, "own_at_once": at_once}));
            let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
            ensure!(plain.as_ref().is_none_or(|plain| *plain == texts), "company changed an answer");
        }
    }
    Ok(())
}

fn context(row: &Row, options: &Answers) -> Context {
    let passage = |(i, passage): (usize, _)| Passage {
        chunk: Chunk {
            id: ChunkId(i as u32),
            doc: DocId(i as u32),
            span: 0..0,
            text: cut(passage, options.passage_words),
            locator: Locator::default(),
            n_tokens: 0,
        },
        document: Arc::new(Document {
            id: DocId(i as u32),
            path: format!("{i}.txt"),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: String::new(),
            encoding: None,
            title: None,
            metadata: BTreeMap::new(),
        }),
        score: 1.0,
    };
    let passages = row.ctxs.iter().take(options.passages).enumerate().map(passage).collect();
    Context::new(format!("{} {}", options.ask, row.question), passages)
}
