use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use raglan_core::{Budget, Meter};
use raglan_datasets::{Page, PageEntry, PagePart};
use raglan_eval::loss::Fate;
use raglan_ingest::chunk::{ChunkerKind, WordCounter};
use raglan_model::{Prompt, TextModel, TextWriter, Weighed, WritingRequest, Written};
use raglan_multistep::{Allocation, Limits};

use super::*;
use crate::embedder::Encoders;
use crate::index::Index;
use crate::indexer::{BuildSettings, IndexEvent, IndexProgress, index_pages};
use crate::search::recipe;

/// Five pages whose answers are known: who wrote Emma, where Austen was born, and what does not matter.
fn pages() -> Vec<Page> {
    let page = |id: &str, title: &str, text: &str| Page {
        id: id.to_owned(),
        title: title.to_owned(),
        url: Some(format!("https://en.wikipedia.org/wiki/{}", title.replace(' ', "_"))),
        parts: text.split('\n').map(|part| PagePart::Paragraph(part.to_owned())).collect(),
    };
    vec![
        page("1", "Emma (novel)", "Emma is a novel. Its writer was Jane Austen, who finished it in 1815."),
        page("2", "Jane Austen", "Jane Austen was an English writer.\nAusten was born in Steventon in Hampshire."),
        page("3", "Aida", "Aida is an opera. Its composer was Giuseppe Verdi."),
        page("4", "Giuseppe Verdi", "Verdi was born in Le Roncole in 1813."),
        page("5", "Bread", "Bread is baked from flour, water and salt."),
    ]
}

fn settings() -> BuildSettings {
    BuildSettings::new(Encoders::default(), 1)
}

fn index_of(folder: &std::path::Path, pages: Vec<Page>) -> Index {
    let chunker = ChunkerKind::Structure.build(32, 0, true, Arc::new(WordCounter)).unwrap();
    let pages = pages.into_iter().map(|page| Ok(PageEntry::Page(page)));
    index_pages(folder, pages, &*chunker, &settings(), &(), &AtomicBool::new(false)).unwrap();
    Index::open(folder, |_| Ok(Encoders::default())).unwrap()
}

/// Says what the first of its lines has whose texts are all in the prompt; `$` is the reply's end.
struct Script(&'static [(&'static [&'static str], &'static str)]);

impl Script {
    fn reply(&self, prompt: &Prompt) -> &'static str {
        let whole = format!("{}\n{}$", prompt.user, prompt.reply);
        let line = self.0.iter().find(|(texts, _)| texts.iter().all(|text| whole.contains(text)));
        line.map_or("", |(_, text)| text)
    }
}

impl TextWriter for Script {
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> raglan_model::Result<Vec<Vec<Written>>> {
        let write = |request: &WritingRequest| {
            let stops = request.stop.iter();
            let text = self.reply(&request.prompt);
            let text = stops.fold(text, |text, stop| text.split(stop.as_str()).next().unwrap_or_default());
            meter.count(1, self.count_prompt(&request.prompt)?, self.count(text)?);
            Ok(vec![Written { text: text.to_owned(), ended: true, ..Written::default() }])
        };
        requests.iter().map(write).collect()
    }
}

impl TextModel for Script {
    fn name(&self) -> String {
        "script".to_owned()
    }

    fn context_len(&self) -> usize {
        1000
    }

    fn count(&self, text: &str) -> raglan_model::Result<usize> {
        Ok(text.split_whitespace().count())
    }

    fn count_prompt(&self, prompt: &Prompt) -> raglan_model::Result<usize> {
        Ok(self.count(&prompt.user)? + self.count(&prompt.reply)?)
    }

    fn weigh(&self, prompt: &Prompt, texts: &[&str], meter: &mut Meter) -> raglan_model::Result<Weighed> {
        let said = self.reply(prompt);
        meter.count(1, self.count_prompt(prompt)?, 0);
        let log = |text: &&str| vec![if said.starts_with(text) { -1.0 } else { -2.0 }];
        Ok(Weighed { log_probabilities: texts.iter().map(log).collect() })
    }

    fn has_token(&self, _: &str) -> bool {
        false
    }
}

const SCRIPT: &[(&[&str], &str)] = &[
    (&["Is the answer right", "Answer: Steventon"], "Yes"),
    (&["Is the answer right", "Answer: unknown"], "Yes"),
    (&["Is the answer right"], "No"),
    (&["born in Steventon", "Answer:$"], " Steventon, in Hampshire"),
    (&["Answer:$"], " unknown"),
    (&["Emma is a novel", "1.$"], " Where was Jane Austen born?"),
    (&["1.$"], " novel Emma"),
];

fn questions() -> Vec<PageQuestion> {
    let question = |id: &str, text: &str, answer: &str, links: &[&str]| raglan_datasets::frames::Question {
        id: id.to_owned(),
        text: text.to_owned(),
        answer: answer.to_owned(),
        wiki_links: links.iter().map(|link| format!("https://en.wikipedia.org/wiki/{link}")).collect(),
        reasoning_types: Vec::new(),
    };
    frames_questions(&[
        question(
            "a",
            "In which place did the one whose novel is Emma come into the world?",
            "Steventon",
            &["Emma_(novel)", "Jane_Austen#Life"],
        ),
        question("b", "Which opera is Aida?", "an opera by Verdi", &["Aida"]),
        question("c", "Who wrote the play Hamlet?", "Shakespeare", &["Hamlet"]),
    ])
}

fn evaluator<'a>(pages: Option<(&'a Index, &'a raglan_pipeline::Recipe)>) -> PageEvaluator<'a> {
    PageEvaluator {
        pages,
        model: Some(Arc::new(Script(SCRIPT))),
        judge: None,
        limits: Limits::default(),
        budget: Budget::default(),
        depth: 4,
    }
}

#[test]
fn steps_find_pages_that_one_search_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let (index, recipe) = (index_of(folder.path(), pages()), recipe("bm25").unwrap());
    let evaluator = evaluator(Some((&index, &recipe)));
    let result = |approach: &str| {
        let approach = approach.parse().unwrap();
        evaluator.evaluate(&approach, &questions(), &mut |_| true).unwrap()
    };
    let one = result("single=1");
    let fates: Vec<Fate> = one.questions.iter().map(|question| question.fate).collect();
    assert_eq!(fates, [Fate::NotRetrieved, Fate::Unused, Fate::NotIndexed], "{one:#?}");
    assert_eq!((one.fates[&Fate::Unused], one.containment), (1, 0.0));
    assert_eq!(one.questions[0].right_pages, [["1", "2"]]);
    assert_eq!(one.questions[0].page_recall, [0.5]);

    let plan = result("plan=2x1x1");
    assert_eq!(plan.questions[0].answer, "Steventon, in Hampshire");
    assert_eq!(plan.questions[0].page_recall, [0.5, 1.0], "{:#?}", plan.questions[0]);
    assert_eq!(plan.questions[0].fate, Fate::Answered);
    assert!((plan.containment - 1.0 / 3.0).abs() <= 1e-9);
    assert!(plan.page_recall[1] > plan.page_recall[0] && plan.tokens > one.tokens);

    let oracle = result("oracle=5");
    assert_eq!(oracle.questions[0].fate, Fate::Answered);
    assert_eq!(oracle.questions[0].pages[..2].len(), 2);
    let retrieval = result("retrieval");
    assert_eq!(retrieval.questions[1].fate, Fate::Found);
    assert_eq!((retrieval.questions[1].pages[0].as_str(), retrieval.calls), ("3", 0.0));
    assert_eq!(retrieval.kilt.recall.len(), 4);
}

#[test]
fn questions_without_answers_or_pages_do_not_count_where_those_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (index, recipe) = (index_of(folder.path(), pages()), recipe("bm25").unwrap());
    let mut asked = questions();
    asked[1].page_sets.clear();
    asked[2].answers.clear();
    let result = evaluator(Some((&index, &recipe))).evaluate(&Approach::Plan(2, 1, 1), &asked, &mut |_| true).unwrap();
    assert_eq!((result.n, result.n_with_answers, result.n_with_pages), (3, 2, 2));
    // The first is answered from both of its pages, the second is not answered, the third is not indexed.
    assert!((result.containment - 0.5).abs() <= 1e-9 && (result.kilt.downstream.f1 - result.f1).abs() <= 1e-9);
    assert!((result.kilt.r_precision - 0.5).abs() <= 1e-9, "{:?}", result.kilt);
    let blank = raglan_datasets::frames::Question { answer: " ".to_owned(), ..Default::default() };
    assert!(frames_questions(&[blank])[0].answers.is_empty());
}

#[test]
fn a_judge_is_compared_with_the_comparison_of_words() {
    let folder = tempfile::tempdir().unwrap();
    let (index, recipe) = (index_of(folder.path(), pages()), recipe("bm25").unwrap());
    let evaluator = PageEvaluator { judge: Some(Arc::new(Script(SCRIPT))), ..evaluator(Some((&index, &recipe))) };
    let result = evaluator.evaluate(&Approach::Plan(2, 1, 1), &questions(), &mut |_| true).unwrap();
    // It calls all three right, and words one.
    let judged = result.judged.unwrap();
    assert!((judged.right - 1.0).abs() <= 1e-9 && (judged.agreement - 1.0 / 3.0).abs() <= 1e-9, "{judged:?}");
    assert_eq!(judged.prompt, "contains-the-answer/1");
}

#[test]
fn demonstrations_need_as_many_examples_with_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (index, recipe) = (index_of(folder.path(), pages()), recipe("bm25").unwrap());
    let mut examples = questions();
    examples[0].answers.clear();
    let grid = allocation_grid(&[0, 1], &[3], &[1]);
    let tune = |grid: &[Allocation], examples: &[PageQuestion]| {
        let evaluator = evaluator(Some((&index, &recipe)));
        evaluator.tune(grid, &questions(), examples, Allowance::Tokens(100.0), &mut |_| true)
    };
    let told = tune(&grid, &examples).unwrap_err().to_string();
    assert!(told.contains("2 examples with answers, and 3 demonstrations to be made of them"), "{told}");
    assert!(told.contains("`--demonstrations`"), "{told}");
    let enough = tune(&allocation_grid(&[0, 1], &[2], &[1]), &examples);
    assert!(!matches!(enough, Err(crate::Error::Tune { .. })), "{enough:?}");
}

#[test]
fn without_pages_only_the_model_is_asked() {
    let evaluator = evaluator(None);
    let result = evaluator.evaluate(&Approach::ClosedBook, &questions(), &mut |done| done < 2).unwrap();
    assert_eq!((result.n, result.calls, result.questions[0].answer.as_str()), (2, 1.0, "unknown"));
    assert!(matches!(
        evaluator.evaluate(&Approach::Single(3), &questions(), &mut |_| true),
        Err(crate::Error::Approach { what: "pages", .. })
    ));
    assert_eq!(evaluator.evaluate(&Approach::ClosedBook, &[], &mut |_| true).unwrap().n, 0);
}

#[test]
fn pages_go_into_an_index_as_they_come_and_an_interrupted_run_goes_on() {
    struct StopAfter<'a>(&'a AtomicBool, usize);
    impl IndexProgress for StopAfter<'_> {
        fn event(&self, event: IndexEvent<'_>) {
            if let IndexEvent::Read { files_done, .. } = event
                && files_done == self.1
            {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }

    let folder = tempfile::tempdir().unwrap();
    let chunker = ChunkerKind::Structure.build(32, 0, true, Arc::new(WordCounter)).unwrap();
    // A byte of text is enough for a commit: what waits is bounded.
    let settings = BuildSettings { pending_bytes: 1, ..settings() };
    let stop = AtomicBool::new(false);
    let run = |pages: Vec<Page>, progress: &dyn IndexProgress, stop: &AtomicBool| {
        let pages = pages.into_iter().map(|page| Ok(PageEntry::Page(page)));
        index_pages(folder.path(), pages, &*chunker, &settings, progress, stop).unwrap()
    };
    let first = run(pages(), &StopAfter(&stop, 2), &stop);
    assert_eq!((first.new, first.interrupted, first.documents), (2, true, 2));
    let mut all = pages();
    all.push(Page { id: "6".to_owned(), ..Page::default() });
    let second = run(all.clone(), &(), &AtomicBool::new(false));
    assert_eq!((second.new, second.unchanged, second.skipped.len(), second.interrupted), (3, 2, 1, false));
    let third = run(all, &(), &AtomicBool::new(false));
    assert_eq!((third.new, third.unchanged, third.documents), (0, 6, 5));
    let index = Index::open(folder.path(), |_| Ok(Encoders::default())).unwrap();
    let found = index.search(&recipe("bm25").unwrap(), "Hampshire", &crate::Filter::default()).unwrap();
    assert_eq!((found.results[0].path.as_str(), found.results[0].title.as_deref()), ("2", Some("Jane Austen")));
    assert_eq!(found.results[0].locator.headings, ["Jane Austen"]);
}

#[test]
fn approaches_are_named_and_read_back() {
    for name in [
        "retrieval",
        "closed-book",
        "single=5",
        "oracle=10",
        "self-ask=5x4",
        "ircot=8x4",
        "plan=5x5x10",
        "adaptive=0.5x2x5",
        "flare=2",
        "refusing=5",
    ] {
        assert_eq!(name.parse::<Approach>().unwrap().to_string(), name);
    }
    assert_eq!("adaptive=0.5".parse::<Approach>().unwrap(), Approach::Adaptive(0.5, 2, 5));
    for wrong in [
        "",
        "single",
        "single=0",
        "single=1.5",
        "plan=1x2",
        "closed-book=1",
        "adaptive=nan",
        "adaptive=2",
        "adaptive=1.5x2x5",
        "self-ask=5x-1",
    ] {
        assert!(wrong.parse::<Approach>().unwrap_err().to_string().contains("single=K"), "{wrong}");
    }
}
