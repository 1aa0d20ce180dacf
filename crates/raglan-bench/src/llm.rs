//! Small language models: reading prompts, writing tokens, time to the first token of an answer from passages, and how
//! good short answers are.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use flate2::read::GzDecoder;
use raglan::model::{DecoderModel, GgufFile, Products, Session, Tokenizer};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::json;

use crate::report::{Report, peak_rss_mb, percentile, timed};

/// What the peers ask for, word by word.
const SYSTEM_TEXT: &str = "Answer the question with a few words from the passages. Reply with the answer only.";
/// Tokens of an answer, at most.
const ANSWER: usize = 32;
/// Lengths of prompts after which decoding is timed.
const DECODED_AFTER: [usize; 2] = [512, 2048];

/// Options of the area.
#[derive(Args)]
pub struct Llm {
    /// GGUF file of SmolLM2; left out, it is not measured
    #[arg(long)]
    smollm2: Option<PathBuf>,
    /// GGUF file of Gemma 3; left out, it is not measured
    #[arg(long)]
    gemma3: Option<PathBuf>,
    /// JSONL, gzipped: `input`, long texts
    #[arg(long)]
    long: PathBuf,
    /// JSONL, gzipped: `question`, `answers`, `ctxs`
    #[arg(long)]
    rag: PathBuf,
    /// Lengths of prompts
    #[arg(long, value_delimiter = ',', default_value = "512,2048")]
    lengths: Vec<usize>,
    /// Tokens that are decoded after a prompt
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Questions that are answered
    #[arg(long, default_value_t = 30)]
    questions: usize,
    /// Questions of which the time with cached passages is taken too
    #[arg(long, default_value_t = 10)]
    ttft: usize,
    /// Words of each passage, at most; 0: all
    #[arg(long, default_value_t = 0)]
    passage_words: usize,
    /// Threads that compute
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How exactly the model multiplies: stored, f32, bf16 or int8
    #[arg(long, default_value = "stored")]
    precision: Products,
}

/// Measures each model that is given.
pub fn run(options: &Llm) -> Result<()> {
    ensure!(options.smollm2.is_some() || options.gemma3.is_some(), "give --smollm2 or --gemma3");
    let long: Vec<Long> = read_lines(&options.long, 4)?;
    let long = long.into_iter().map(|row| row.input).collect::<Vec<_>>().join("\n");
    let long: String = long.chars().take(80_000).collect();
    let rows: Vec<Row> = read_lines(&options.rag, options.questions)?;
    for (kind, path) in [(Kind::SmolLm2, &options.smollm2), (Kind::Gemma3, &options.gemma3)] {
        if let Some(path) = path {
            measure(kind, path, &long, &rows, options)?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    SmolLm2,
    Gemma3,
}

#[derive(Deserialize)]
struct Long {
    input: String,
}

/// A question with its right answers and passages.
#[derive(Deserialize)]
pub struct Row {
    pub question: String,
    answers: Vec<String>,
    pub ctxs: Vec<Passage>,
}

#[derive(Deserialize)]
pub struct Passage {
    #[serde(default)]
    title: String,
    text: String,
}

fn measure(kind: Kind, path: &Path, long: &str, rows: &[Row], options: &Llm) -> Result<()> {
    let name = match kind {
        Kind::SmolLm2 => "smollm2",
        Kind::Gemma3 => "gemma3",
    };
    let report = Report::new("llm", options.threads);
    let begin = Instant::now();
    let file = GgufFile::open(path)?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let model = DecoderModel::from_gguf(&file, options.threads, options.precision)?;
    let load_s = begin.elapsed().as_secs_f64();
    report.emit("load_s", load_s, "s", json!({"model": name, "own_precision": options.precision.name()}));
    let tokens = |text: &str| -> Result<Vec<u32>> { Ok(tokenizer.encode(text, false)?.ids) };

    let text = tokens(long)?;
    let mut session = model.session();
    session.prefill(&text[..64])?;
    for &length in &options.lengths {
        if length > text.len() {
            continue;
        }
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        let mut token = 0;
        for _ in 0..if length <= 512 { 3 } else { 1 } {
            session.truncate(0);
            let (read, wall_s, cpu_s) = timed(|| session.prefill(&text[..length]));
            token = best(&read?);
            walls.push(wall_s);
            cpus.push(cpu_s);
        }
        let params = json!({"model": name, "length": length, "n": walls.len()});
        let wall_s = percentile(&mut walls, 50.0);
        report.emit("prefill_tokens_per_s", length as f64 / wall_s, "tokens/s", params.clone());
        let cpu_ms = percentile(&mut cpus, 50.0) / length as f64 * 1e3;
        report.emit("prefill_cpu_ms_per_token", cpu_ms, "ms", params);
        if DECODED_AFTER.contains(&length) {
            let begin = Instant::now();
            for _ in 0..options.decode {
                token = best(&session.step(token)?);
            }
            let rate = options.decode as f64 / begin.elapsed().as_secs_f64();
            let params = json!({"model": name, "after": length, "n": options.decode});
            report.emit("decode_tokens_per_s", rate, "tokens/s", params);
        }
    }

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let [mut full, mut prefix, mut shuffled] = [const { Vec::new() }; 3];
    let (mut f1, mut contained, mut n_tokens) = (0.0, 0.0, 0);
    for (i, row) in rows.iter().enumerate() {
        let mut passages: Vec<String> = row.ctxs.iter().map(|passage| cut(passage, options.passage_words)).collect();
        let (head, tail) = prompt(kind, &passages, &row.question);
        let (head, tail) = (tokens(&head)?, tokens(&tail)?);
        let whole = [&*head, &*tail].concat();
        n_tokens += whole.len();
        session.truncate(0);
        let begin = Instant::now();
        let first = best(&session.prefill(&whole)?);
        full.push(begin.elapsed().as_secs_f64());
        let reply = answer(kind, &mut session, first, &model, &tokenizer)?;
        let reply = reply.trim().lines().next().unwrap_or_default();
        f1 += row.answers.iter().map(|gold| text_f1(reply, gold)).fold(0.0, f64::max);
        let lower = reply.to_lowercase();
        contained += f64::from(row.answers.iter().any(|gold| lower.contains(&gold.to_lowercase())));
        if i >= options.ttft {
            continue;
        }
        session.truncate(head.len());
        let begin = Instant::now();
        session.prefill(&tail)?;
        prefix.push(begin.elapsed().as_secs_f64());
        passages.shuffle(&mut rng);
        let (other, tail) = prompt(kind, &passages, &row.question);
        let other = [tokens(&other)?, tokens(&tail)?].concat();
        let same = head.iter().zip(&other).take_while(|(a, b)| a == b).count().min(other.len() - 1);
        session.truncate(same);
        let begin = Instant::now();
        session.prefill(&other[same..])?;
        shuffled.push(begin.elapsed().as_secs_f64());
    }
    for (case, mut seconds) in [("full", full), ("prefix", prefix), ("shuffled", shuffled)] {
        let params = json!({"model": name, "case": case, "words": options.passage_words, "n": seconds.len()});
        report.emit("ttft_p50", percentile(&mut seconds, 50.0) * 1e3, "ms", params);
    }
    let n = rows.len();
    let params = json!({"model": name, "words": options.passage_words, "n": n});
    report.emit("rag_prompt_tokens_mean", n_tokens as f64 / n.max(1) as f64, "tokens", params);
    let params = json!({"model": name, "max_tokens": ANSWER, "words": options.passage_words, "n": n});
    report.emit("answer_f1", f1 / n.max(1) as f64, "score", params.clone());
    report.emit("answer_contains", contained / n.max(1) as f64, "score", params);
    report.emit("peak_rss", peak_rss_mb(), "MB", json!({"model": name}));
    Ok(())
}

fn answer(
    kind: Kind,
    session: &mut Session<'_>,
    first: u32,
    model: &DecoderModel,
    tokenizer: &Tokenizer,
) -> Result<String> {
    let (mut token, mut written) = (first, Vec::new());
    while !model.config().end_tokens.contains(&token) && written.len() < ANSWER {
        written.push(token);
        if kind == Kind::Gemma3 && tokenizer.decode(&written)?.trim_start().contains('\n') {
            break;
        }
        token = best(&session.step(token)?);
    }
    Ok(tokenizer.decode(&written)?)
}

/// The likeliest token.
fn best(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
    best.map_or(0, |(id, _)| id as u32)
}

/// A prompt up to the question, and from it on.
fn prompt(kind: Kind, passages: &[String], question: &str) -> (String, String) {
    let listed: Vec<String> = passages.iter().enumerate().map(|(i, p)| format!("Passage {}: {p}", i + 1)).collect();
    let listed = listed.join("\n\n");
    match kind {
        Kind::SmolLm2 => (
            format!("<|im_start|>system\n{SYSTEM_TEXT}<|im_end|>\n<|im_start|>user\n{listed}\n\n"),
            format!("Question: {question}<|im_end|>\n<|im_start|>assistant\n"),
        ),
        Kind::Gemma3 => (format!("{SYSTEM_TEXT}\n\n{listed}\n\n"), format!("Question: {question}\nAnswer:")),
    }
}

/// A passage's first words, all if `n_words` is 0.
pub fn cut(passage: &Passage, n_words: usize) -> String {
    let text = format!("{} {}", passage.title, passage.text);
    let words = text.split_whitespace().take(if n_words == 0 { usize::MAX } else { n_words });
    words.collect::<Vec<_>>().join(" ")
}

/// SQuAD's F1 of the words of an answer and of the right one.
fn text_f1(answer: &str, gold: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let text: String =
            text.to_lowercase().chars().map(|c| if c.is_alphanumeric() || c == '_' { c } else { ' ' }).collect();
        text.split_whitespace().filter(|word| !["a", "an", "the"].contains(word)).map(str::to_owned).collect()
    };
    let (answer, gold) = (words(answer), words(gold));
    let mut left = gold.clone();
    let mut common = 0.0;
    for word in &answer {
        if let Some(place) = left.iter().position(|other| other == word) {
            left.swap_remove(place);
            common += 1.0;
        }
    }
    if common == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (common / answer.len() as f64, common / gold.len() as f64);
    2.0 * precision * recall / (precision + recall)
}

/// The first lines of a gzipped JSONL file.
pub fn read_lines<T: for<'de> Deserialize<'de>>(path: &Path, n: usize) -> Result<Vec<T>> {
    let name = || path.display().to_string();
    let file = std::fs::File::open(path).with_context(name)?;
    let lines = BufReader::new(GzDecoder::new(file).take(1 << 30)).lines().take(n);
    lines.map(|line| serde_json::from_str(&line?).with_context(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_counts_words_without_articles() {
        assert_eq!(text_f1("The Exeter College.", "Exeter College"), 1.0);
        assert_eq!(text_f1("Exeter", "Exeter College"), 2.0 / 3.0); // precision 1, recall 1/2
        assert_eq!(text_f1("Oxford", "Exeter College"), 0.0);
    }
}
