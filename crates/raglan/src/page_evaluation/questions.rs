//! Questions with their answers and pages, from the collections that have such.

use std::collections::BTreeSet;

use raglan_datasets::{frames, kilt};

/// A question, the answers that count as right, and the pages that bear them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuestion {
    /// Its name.
    pub id: String,
    /// What is asked.
    pub text: String,
    /// The right answers, none of them blank; none where only pages are asked for.
    pub answers: Vec<String>,
    /// Sets of pages, each of which would do.
    pub page_sets: Vec<Vec<NamedPage>>,
}

/// A page by the names that a collection gives it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPage {
    /// Its id, or its address.
    pub id: String,
    /// Its title, empty when it is not given.
    pub title: String,
}

/// KILT's questions; sets of pages that are the same count once.
pub fn kilt_questions(records: &[kilt::Record]) -> Vec<PageQuestion> {
    let question = |record: &kilt::Record| {
        let mut question =
            PageQuestion { id: record.id.clone(), text: record.input.clone(), ..PageQuestion::default() };
        let mut seen: BTreeSet<Vec<NamedPage>> = BTreeSet::new();
        for output in &record.outputs {
            question.answers.extend(output.answer.clone().filter(|answer| !answer.trim().is_empty()));
            let mut set: Vec<NamedPage> = Vec::new();
            for page in &output.provenance {
                let page = NamedPage { id: page.wikipedia_id.clone(), title: page.title.clone() };
                if !set.contains(&page) {
                    set.push(page);
                }
            }
            let mut sorted = set.clone();
            sorted.sort_unstable();
            if !set.is_empty() && seen.insert(sorted) {
                question.page_sets.push(set);
            }
        }
        question
    };
    records.iter().map(question).collect()
}

/// The questions of FRAMES, each with one answer and one set of pages, by their addresses.
pub fn frames_questions(questions: &[frames::Question]) -> Vec<PageQuestion> {
    let question = |question: &frames::Question| {
        let page = |link: &String| NamedPage { id: link.clone(), title: String::new() };
        let mut set: Vec<NamedPage> = question.wiki_links.iter().map(page).collect();
        set.dedup();
        PageQuestion {
            id: question.id.clone(),
            text: question.text.clone(),
            answers: Some(question.answer.clone()).into_iter().filter(|answer| !answer.trim().is_empty()).collect(),
            page_sets: if set.is_empty() { Vec::new() } else { vec![set] },
        }
    };
    questions.iter().map(question).collect()
}
