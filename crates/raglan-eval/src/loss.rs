//! Where the pages were lost that a question would have needed.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

/// What became of a question, in the order of the way from the index to the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// A page that it needs is not in the index.
    NotIndexed,
    /// A page is in the index, and no search found it.
    NotRetrieved,
    /// A search found it, and a later stage dropped it.
    LostInReranking,
    /// It came through all stages, and was not in the prompt.
    CutByBudget,
    /// All pages were in the prompt, and the answer is wrong.
    Unused,
    /// All pages were there, and there is no answer to be right or wrong.
    Found,
    /// The answer is right.
    Answered,
}

impl Fate {
    /// All fates, in order.
    pub const ALL: [Self; 7] = [
        Self::NotIndexed,
        Self::NotRetrieved,
        Self::LostInReranking,
        Self::CutByBudget,
        Self::Unused,
        Self::Found,
        Self::Answered,
    ];

    /// The fate in words.
    pub fn told(self) -> &'static str {
        match self {
            Self::NotIndexed => "not indexed",
            Self::NotRetrieved => "not retrieved",
            Self::LostInReranking => "lost in reranking",
            Self::CutByBudget => "cut by the budget",
            Self::Unused => "in the prompt, but unused",
            Self::Found => "found",
            Self::Answered => "answered",
        }
    }
}

/// How far pages came on the way to an answer.
#[derive(Clone, Debug, Default)]
pub struct Way<'a> {
    /// The pages that each stage gave, over all searches that were made for the question; first stages have nothing before
    /// them, the last one's pages were to be read.
    pub first_stages: HashSet<&'a str>,
    /// What the last stage gave.
    pub last_stage: HashSet<&'a str>,
    /// What stood in the prompt of the answer.
    pub prompt: HashSet<&'a str>,
}

/// Where a question was lost.
///
/// `sets` are the sets of pages each of which would do; the one counts that came farthest, and of a set the page that was
/// lost first. `is_right` is none where there is no right answer to compare with. A question without sets can only be
/// answered or not: it is [`Fate::Answered`] or [`Fate::Unused`].
pub fn fate(sets: &[Vec<&str>], is_indexed: impl Fn(&str) -> bool, way: &Way<'_>, is_right: Option<bool>) -> Fate {
    if is_right == Some(true) {
        return Fate::Answered;
    }
    let end = if is_right.is_none() { Fate::Found } else { Fate::Unused };
    let of_page = |page: &&str| {
        if way.prompt.contains(page) {
            end
        } else if way.last_stage.contains(page) {
            Fate::CutByBudget
        } else if way.first_stages.contains(page) {
            Fate::LostInReranking
        } else if is_indexed(page) {
            Fate::NotRetrieved
        } else {
            Fate::NotIndexed
        }
    };
    sets.iter().filter_map(|set| set.iter().map(of_page).min()).max().unwrap_or(end)
}

/// How many questions had each fate; fates that none had are 0.
pub fn fates(all: impl IntoIterator<Item = Fate>) -> BTreeMap<Fate, usize> {
    let mut counts: BTreeMap<Fate, usize> = Fate::ALL.into_iter().map(|fate| (fate, 0)).collect();
    for fate in all {
        *counts.entry(fate).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_lost_where_its_first_page_is() {
        let way = Way {
            first_stages: ["prompt", "cut", "dropped"].into(),
            last_stage: ["prompt", "cut"].into(),
            prompt: ["prompt"].into(),
        };
        let check = |sets: &[Vec<&str>], is_right: Option<bool>, expected: Fate| {
            assert_eq!(fate(sets, |page| page != "unknown", &way, is_right), expected, "{sets:?}");
        };
        check(&[vec!["prompt"]], Some(false), Fate::Unused);
        check(&[vec!["prompt"]], None, Fate::Found);
        check(&[vec!["prompt", "cut"]], Some(false), Fate::CutByBudget);
        check(&[vec!["cut", "dropped"]], None, Fate::LostInReranking);
        check(&[vec!["dropped", "elsewhere"]], Some(false), Fate::NotRetrieved);
        check(&[vec!["elsewhere", "unknown"]], Some(false), Fate::NotIndexed);
        check(&[vec!["unknown"]], Some(true), Fate::Answered);
        // Of several sets the one that came farthest.
        check(&[vec!["unknown"], vec!["cut"], vec![]], Some(false), Fate::CutByBudget);
        check(&[], Some(false), Fate::Unused);
        check(&[], None, Fate::Found);
    }

    #[test]
    fn all_fates_are_counted() {
        let counts = fates([Fate::Unused, Fate::Answered, Fate::Unused]);
        assert_eq!(counts.len(), Fate::ALL.len());
        assert_eq!((counts[&Fate::Unused], counts[&Fate::Answered], counts[&Fate::Found]), (2, 1, 0));
    }
}
