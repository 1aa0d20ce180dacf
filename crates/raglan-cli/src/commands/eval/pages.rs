//! `raglan eval kilt` and `raglan eval frames`

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use raglan::core::Budget;
use raglan::datasets::{frames, kilt};
use raglan::eval::loss::Fate;
use raglan::ingest::chunk::{ChunkerKind, WordCounter};
use raglan::model::{ChatModel, TextModel};
use raglan::multistep::Limits;
use raglan::pipeline::Recipe;
use raglan::{
    Approach, ApproachResult, BuildSettings, Encoders, Index, PageEvaluator, PageQuestion, frames_questions,
    index_pages, kilt_questions, open_pages,
};
use serde_json::json;

use super::beir::{collection_name, needed_encoders};
use crate::args::{AnswersArgs, FramesCommand, KiltCommand, PagesArgs};
use crate::progress::STOP;
use crate::session::Session;
use crate::{Outcome, output};

/// What is asked, and what it is called.
pub struct Task<'a> {
    /// Its name.
    pub name: &'static str,
    /// Where the questions are.
    pub path: &'a Path,
    /// The questions.
    pub questions: Vec<PageQuestion>,
    /// Pages that come with the questions.
    pub pages: Option<PathBuf>,
}

impl<'a> Task<'a> {
    /// Questions in KILT's format, or a folder in BEIR's layout, which brings its own pages.
    pub fn kilt(path: &'a Path) -> Result<Self> {
        let questions = kilt_questions(&kilt::read(path)?);
        Ok(Self { name: "kilt", path, questions, pages: path.is_dir().then(|| path.join("corpus.jsonl")) })
    }
}

pub fn kilt(session: &Session, command: &KiltCommand) -> Result<Outcome> {
    evaluate(session, Task::kilt(&command.path)?, &command.answers, &command.pages)
}

pub fn frames(session: &Session, command: &FramesCommand) -> Result<Outcome> {
    let questions = frames_questions(&frames::read(&command.path)?);
    let task = Task { name: "frames", path: &command.path, questions, pages: None };
    evaluate(session, task, &command.answers, &command.pages)
}

fn evaluate(session: &Session, mut task: Task<'_>, answers: &AnswersArgs, args: &PagesArgs) -> Result<Outcome> {
    let left_out = leave_out(&mut task.questions);
    if let Some(limit) = args.limit {
        task.questions.truncate(limit);
    }
    if task.questions.is_empty() {
        bail!("`{}` has no question to ask", task.path.display());
    }
    if args.depth == 0 || args.answer_tokens == 0 {
        bail!("`--depth` and `--answer-tokens` must be at least 1");
    }
    let recipe = raglan::recipe_with(&args.recipe, &args.set)?;
    let index = match answers.approach.iter().any(Approach::needs_pages) {
        true => Some(open(session, &task, args, &recipe)?),
        false => None,
    };
    let name = session.settings.text("generator");
    let needs_model = answers.approach.iter().any(Approach::needs_model);
    let evaluator = PageEvaluator {
        pages: index.as_ref().map(|index| (index, &recipe)),
        model: needs_model.then(|| text_model(session, name)).transpose()?,
        judge: answers.judge.as_deref().map(|name| text_model(session, name)).transpose()?,
        limits: limits(args),
        budget: Budget {
            tokens: args.budget_tokens,
            time: args.budget_seconds.map(Duration::from_secs_f64), // The arguments hold lengths of time alone.
        },
        depth: args.depth,
    };
    let (mut results, mut interrupted) = (Vec::new(), false);
    for approach in answers.approach.iter().take_while(|_| !STOP.load(Ordering::Relaxed)) {
        session.bars.count(task.questions.len(), &format!("questions, {approach}"));
        let found = evaluator.evaluate(approach, &task.questions, &mut |done| {
            session.bars.done(done);
            !STOP.load(Ordering::Relaxed)
        });
        session.bars.clear();
        let found = found.with_context(|| format!("approach `{approach}`"))?;
        interrupted = found.n < task.questions.len();
        results.extend(Some(found).filter(|found| found.n > 0));
        if interrupted {
            break;
        }
    }
    interrupted |= results.len() < answers.approach.len();
    let result = json!({
        "task": task.name,
        "path": task.path,
        "questions": task.questions.len(),
        "left_out": left_out,
        "interrupted": interrupted,
        "recipe": { "name": args.recipe, "set": args.set, "hash": format!("blake3:{}", recipe.hash()) },
        "pages": index.as_ref().map(|index| index.snapshot().folder()),
        "model": needs_model.then_some(name),
        "depth": args.depth,
        "prompt_tokens": args.prompt_tokens,
        "answer_tokens": args.answer_tokens,
        "passage_words": args.passage_words,
        "budget_tokens": args.budget_tokens,
        "budget_seconds": args.budget_seconds,
        "threads": session.threads,
        "device": raglan::kernels::device::cpu_features().join(" "),
        "revision": env!("CARGO_PKG_VERSION"),
        "approaches": results,
    });
    if let Some(folder) = &args.out {
        fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
        let path = folder.join(format!("{}.json", task.name));
        fs::write(&path, serde_json::to_string_pretty(&result)?)
            .with_context(|| format!("`{}` cannot be written", path.display()))?;
    }
    if session.json {
        output::json(&result)?;
    } else {
        print(&task, &results, left_out);
    }
    Ok(match interrupted {
        true => Outcome::Interrupted("the figures are of what was answered until then".to_owned()),
        false => Outcome::Success,
    })
}

/// Takes out questions of which nothing is known that would be right, and counts them.
fn leave_out(questions: &mut Vec<PageQuestion>) -> usize {
    let n = questions.len();
    questions.retain(|question| !(question.answers.is_empty() && question.page_sets.is_empty()));
    n - questions.len()
}

/// A language model to ask, which gives up at Ctrl-C.
pub fn text_model(session: &Session, name: &str) -> Result<Arc<dyn TextModel>> {
    let model = ChatModel::new(Arc::new(session.models.language_model(name)?()?));
    Ok(Arc::new(model.interrupted_by(STOP.clone())))
}

/// How prompts are filled.
pub fn limits(args: &PagesArgs) -> Limits {
    Limits {
        passage_words: args.passage_words,
        context_tokens: args.prompt_tokens,
        answer_tokens: args.answer_tokens,
        ..Limits::default()
    }
}

/// The index of the pages, brought up to date when there are pages to put into it.
pub fn open(session: &Session, task: &Task<'_>, args: &PagesArgs, recipe: &Recipe) -> Result<Index> {
    let Some(source) = args.pages.as_deref().or(task.pages.as_deref()) else {
        return match session.settings.path("index") {
            Some(folder) => {
                let index = session.open(&folder)?;
                if index.snapshot().n_chunks() == 0 {
                    bail!("the index `{}` holds no pages: name some with `--pages PATH`", folder.display());
                }
                Ok(index)
            }
            None => bail!("there are no pages: name some with `--pages PATH`, or an index of them with `--index DIR`"),
        };
    };
    let needed = needed_encoders(session, recipe)?;
    let folder = match session.settings.path("index") {
        Some(folder) => folder,
        None => {
            let place = source.canonicalize().unwrap_or_else(|_| source.to_owned());
            let key = blake3::hash(place.to_string_lossy().as_bytes()).to_hex();
            let name = collection_name(task.path);
            super::shelf(session).join(format!("{name}-pages-{}", &key[..16]))
        }
    };
    let present = match raglan::store::Passport::read(&folder) {
        Ok(passport) => session.models.encoders_of(&passport, &folder),
        Err(_) => Encoders::default(),
    };
    let encoders = needed.or(present);
    let counter = encoders.counter().unwrap_or_else(|| Arc::new(WordCounter));
    let max_tokens: usize = session.settings.parse("chunk-tokens")?;
    let chunker = ChunkerKind::Structure.build(max_tokens, 0, true, counter)?;
    let max_memory = session.settings.bytes("max-memory")?;
    let build = BuildSettings {
        analyzer: session.analyzer()?,
        pending_bytes: (max_memory / 16).max(1 << 20),
        ..BuildSettings::new(encoders.clone(), session.threads)
    };
    let report = index_pages(&folder, open_pages(source)?, &*chunker, &build, &*session.bars, &STOP);
    session.bars.clear();
    let report = report.with_context(|| format!("the index of the pages, `{}`", folder.display()))?;
    if report.interrupted {
        bail!("interrupted while indexing; what was done is kept, and the next run goes on from here");
    }
    if !report.skipped.is_empty() {
        let some: Vec<&str> = report.skipped.iter().take(3).map(|page| page.path.as_str()).collect();
        let more = if report.skipped.len() > some.len() { ", …" } else { "" };
        let skipped = output::count(report.skipped.len(), "page");
        say!("{skipped} without text left out: {}{more}", some.join(", "));
    }
    let index = Index::open(&folder, |_| Ok(encoders))?.with_models(session.models.clone());
    let others = report.documents.saturating_sub(report.new + report.unchanged);
    if others > 0 {
        let others = output::count(others, "page");
        say!(
            "`{}` holds {others} more, which are searched too; name another place with `--index DIR`",
            folder.display()
        );
    }
    Ok(index)
}

fn print(task: &Task<'_>, results: &[ApproachResult], left_out: usize) {
    let n_questions = task.questions.len();
    let questions = output::count(n_questions, "question");
    println!("{} ({}): {questions}", task.name, collection_name(task.path));
    if left_out > 0 {
        println!("left out: {} with neither an answer nor a page", output::count(left_out, "question"));
    }
    for result in results {
        match result.n == n_questions {
            true => println!("{}", result.approach),
            false => println!("{} ({} of {questions})", result.approach, result.n),
        }
        let of = |n: usize| if n == result.n { String::new() } else { format!(" ({n} of {})", result.n) };
        let kilt = &result.kilt;
        let at = |values: &std::collections::BTreeMap<usize, f64>, k: usize| values.get(&k).copied().unwrap_or(0.0);
        if result.n_with_pages > 0 {
            println!(
                "  pages        R-precision {:.4}, recall@5 {:.4}, recall@20 {:.4}, success@5 {:.4}{}",
                kilt.r_precision,
                at(&kilt.recall, 5),
                at(&kilt.recall, 20),
                at(&kilt.success, 5),
                of(result.n_with_pages)
            );
        }
        if result.calls > 0.0 {
            if result.n_with_answers > 0 {
                println!(
                    "  answers      contain the right one {:.4}, EM {:.4}, F1 {:.4}, ROUGE-L {:.4}, refused {:.4}{}",
                    result.containment,
                    result.em,
                    result.f1,
                    kilt.downstream.rouge_l,
                    result.refused,
                    of(result.n_with_answers)
                );
            }
            if result.n_with_pages > 0 && result.n_with_answers > 0 {
                println!(
                    "  KILT         accuracy {:.4}, EM {:.4}, F1 {:.4}, ROUGE-L {:.4}",
                    kilt.kilt.accuracy, kilt.kilt.em, kilt.kilt.f1, kilt.kilt.rouge_l
                );
            }
            if let Some(judged) = &result.judged {
                println!(
                    "  judge        {} ({}): right {:.4}, agreement with the words {:.4}",
                    judged.model, judged.prompt, judged.right, judged.agreement
                );
            }
            let recall: Vec<String> = result.page_recall.iter().map(|recall| format!("{recall:.3}")).collect();
            if !recall.is_empty() {
                println!(
                    "  page recall  {} by step; all pages in the prompt {:.4}",
                    recall.join(" "),
                    result.all_pages
                );
            }
            println!(
                "  cost         {:.0} tokens, {:.1} calls, {:.2} s a question",
                result.tokens, result.calls, result.seconds
            );
        }
        let fates = Fate::ALL.iter().filter_map(|fate| {
            let n = result.fates.get(fate).copied().filter(|n| *n > 0)?;
            Some(format!("{} {n}", fate.told()))
        });
        println!("  questions    {}", fates.collect::<Vec<_>>().join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_of_which_nothing_is_known_are_left_out() {
        let records = r#"{"id": "a", "input": "A?", "output": []}
{"id": "b", "input": "B?", "output": [{"answer": " "}]}
{"id": "c", "input": "C?", "output": [{"answer": "yes"}]}
{"id": "d", "input": "D?", "output": [{"provenance": [{"wikipedia_id": "1"}]}]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dev.jsonl");
        fs::write(&path, records).unwrap();
        let mut questions = Task::kilt(&path).unwrap().questions;
        assert_eq!(leave_out(&mut questions), 2);
        assert_eq!(questions.iter().map(|question| question.id.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    }
}
