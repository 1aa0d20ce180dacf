//! KILT's metrics (Petroni et al., 2021): pages found, answers given, and answers given for the right pages.
//!
//! A question has one or more right outputs, each with an answer, a set of pages that bears it out, or both; pages count
//! by their ids. A query counts 0 when no prediction is made for it.

use std::collections::{BTreeMap, HashSet};

use raglan_datasets::kilt::Record;
use serde::{Deserialize, Serialize};

use crate::answers::{accuracy, best, exact_match, rouge_l, token_f1};

/// What KILT reports, for one question or as means over all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KiltScore {
    /// The best [`r_precision`] over the right sets of pages.
    pub r_precision: f64,
    /// [`PageHits::recall`] by `k`.
    pub recall: BTreeMap<usize, f64>,
    /// [`PageHits::precision`] by `k`.
    pub precision: BTreeMap<usize, f64>,
    /// [`PageHits::success`] by `k`.
    pub success: BTreeMap<usize, f64>,
    /// The predicted answer compared with the right ones, the best counting.
    pub downstream: Downstream,
    /// The same, counted only where R-precision is 1: KILT-AC, KILT-EM, KILT-F1 and KILT-RL.
    pub kilt: Downstream,
}

/// Answers compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Downstream {
    /// The same after stripping.
    pub accuracy: f64,
    /// The same after normalisation.
    pub em: f64,
    /// Words in common.
    pub f1: f64,
    /// ROUGE-L.
    pub rouge_l: f64,
}

/// Scores predictions against the right outputs with cuts at each of `ks`; the means, and each question's values in
/// `gold`'s order. The first output of a prediction counts.
pub fn evaluate(predictions: &[Record], gold: &[Record], ks: &[usize]) -> (KiltScore, Vec<KiltScore>) {
    let predicted: BTreeMap<&str, &Record> = predictions.iter().map(|record| (record.id.as_str(), record)).collect();
    let scores: Vec<KiltScore> =
        gold.iter().map(|gold| score(predicted.get(gold.id.as_str()).copied(), gold, ks)).collect();
    (mean(&scores), scores)
}

fn score(prediction: Option<&Record>, gold: &Record, ks: &[usize]) -> KiltScore {
    let output = prediction.and_then(|record| record.outputs.first());
    let pages: Vec<&str> =
        output.into_iter().flat_map(|output| &output.provenance).map(|page| page.wikipedia_id.as_str()).collect();
    let sets: Vec<Vec<&str>> = gold
        .outputs
        .iter()
        .map(|output| output.provenance.iter().map(|page| page.wikipedia_id.as_str()).collect())
        .collect();
    let r_precision = r_precision(&pages, &sets);
    let hits = PageHits::new(&pages, &sets);
    let by_k = |value: &dyn Fn(usize) -> f64| ks.iter().map(|&k| (k, value(k))).collect();
    let golds: Vec<&str> = gold.outputs.iter().filter_map(|output| output.answer.as_deref()).collect();
    // An empty answer scores 0, also where the right one is empty after normalisation.
    let answer = output.and_then(|output| output.answer.as_deref()).filter(|answer| !answer.trim().is_empty());
    let downstream = answer.map_or_else(Downstream::default, |answer| Downstream {
        accuracy: best(answer, &golds, accuracy),
        em: best(answer, &golds, exact_match),
        f1: best(answer, &golds, token_f1),
        rouge_l: best(answer, &golds, rouge_l),
    });
    KiltScore {
        r_precision,
        recall: by_k(&|k| hits.recall(k)),
        precision: by_k(&|k| hits.precision(k)),
        success: by_k(&|k| hits.success(k)),
        downstream,
        kilt: if r_precision == 1.0 { downstream } else { Downstream::default() },
    }
}

/// The largest of `|first R predicted pages ∩ set| / R` over the right sets, with `R` the size of the set. Pages that
/// come again are not counted again. 0 without a set.
pub fn r_precision(pages: &[&str], sets: &[Vec<&str>]) -> f64 {
    let pages = distinct(pages);
    let share = |set: &Vec<&str>| {
        let set: HashSet<&str> = set.iter().copied().collect();
        let found = pages.iter().take(set.len()).filter(|page| set.contains(*page)).count();
        if set.is_empty() { 0.0 } else { found as f64 / set.len() as f64 }
    };
    sets.iter().map(share).fold(0.0, f64::max)
}

/// Predicted pages with each right set drawn together into one item, which stands where the last of its pages does that
/// was found. It is right only when all of them were.
pub struct PageHits {
    /// Whether each item, best first, is a complete set.
    items: Vec<bool>,
    n_sets: usize,
}

impl PageHits {
    /// Draws the pages together.
    pub fn new(pages: &[&str], sets: &[Vec<&str>]) -> Self {
        let pages = distinct(pages);
        let mut different: Vec<HashSet<&str>> = Vec::new();
        for set in sets {
            let set: HashSet<&str> = set.iter().copied().collect();
            if !set.is_empty() && !different.contains(&set) {
                different.push(set);
            }
        }
        let rank = |page: &&str| pages.iter().position(|other| other == page);
        // The index of the page that stands for each set, and whether the set is complete.
        let stands: Vec<Option<(usize, bool)>> = different
            .iter()
            .map(|set| {
                let ranks: Vec<usize> = set.iter().filter_map(rank).collect();
                ranks.iter().max().map(|&at| (at, ranks.len() == set.len()))
            })
            .collect();
        let mut items = Vec::new();
        for (i, page) in pages.iter().enumerate() {
            let here = || stands.iter().flatten().filter(|(at, _)| *at == i);
            match different.iter().any(|set| set.contains(page)) {
                true => items.extend(here().map(|(_, complete)| complete)),
                false => items.push(false),
            }
        }
        Self { items, n_sets: different.len() }
    }

    /// The items, best first: whether each is a complete set.
    pub fn items(&self) -> &[bool] {
        &self.items
    }

    /// Complete sets among the first `k` items, over the number of different sets.
    pub fn recall(&self, k: usize) -> f64 {
        self.complete(k) / self.n_sets.max(1) as f64
    }

    /// Complete sets among the first `k` items, over `k`.
    pub fn precision(&self, k: usize) -> f64 {
        self.complete(k) / k.max(1) as f64
    }

    /// 1 when a complete set is among the first `k` items, else 0.
    pub fn success(&self, k: usize) -> f64 {
        self.complete(k).min(1.0)
    }

    fn complete(&self, k: usize) -> f64 {
        self.items.iter().take(k).filter(|&&complete| complete).count() as f64
    }
}

/// The pages without those that came before.
fn distinct<'a>(pages: &[&'a str]) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    pages.iter().copied().filter(|page| seen.insert(*page)).collect()
}

fn mean(scores: &[KiltScore]) -> KiltScore {
    let n = scores.len().max(1) as f64;
    let of = |value: &dyn Fn(&KiltScore) -> f64| scores.iter().fold(0.0, |sum, score| sum + value(score)) / n;
    let by_k = |values: fn(&KiltScore) -> &BTreeMap<usize, f64>| -> BTreeMap<usize, f64> {
        let ks = scores.first().into_iter().flat_map(|score| values(score).keys());
        ks.map(|&k| (k, of(&|score| values(score)[&k]))).collect()
    };
    let downstream = |part: fn(&KiltScore) -> &Downstream| Downstream {
        accuracy: of(&|score| part(score).accuracy),
        em: of(&|score| part(score).em),
        f1: of(&|score| part(score).f1),
        rouge_l: of(&|score| part(score).rouge_l),
    };
    KiltScore {
        r_precision: of(&|score| score.r_precision),
        recall: by_k(|score| &score.recall),
        precision: by_k(|score| &score.precision),
        success: by_k(|score| &score.success),
        downstream: downstream(|score| &score.downstream),
        kilt: downstream(|score| &score.kilt),
    }
}

#[cfg(test)]
mod tests {
    use raglan_datasets::kilt::{Output, Provenance};

    use super::*;

    #[test]
    fn a_set_stands_where_its_last_page_does() {
        let (pages, sets) = (["D", "A", "C", "B"], [vec!["A", "B"], vec!["C"]]);
        let hits = PageHits::new(&pages, &sets);
        assert_eq!(hits.items(), [false, true, true]); // D, C, {A, B}
        assert_eq!((hits.recall(5), hits.precision(1), hits.recall(2)), (1.0, 0.0, 0.5));
        assert_eq!((hits.success(1), hits.success(2)), (0.0, 1.0));
        // {D, A} ∩ {A, B} is 1 of 2, {D} ∩ {C} is 0 of 1.
        assert_eq!(r_precision(&pages, &sets), 0.5);
    }

    #[test]
    fn half_a_set_takes_one_place() {
        let hits = PageHits::new(&["A", "X", "B", "Y"], &[vec!["A", "B", "C"], vec!["Y"]]);
        assert_eq!(hits.items(), [false, false, true]); // X, A and B, Y
    }

    #[test]
    fn pages_and_sets_that_come_again_count_once() {
        let hits = PageHits::new(&["A", "A", "B"], &[vec!["B", "B"], vec!["B"]]);
        assert_eq!(hits.items(), [false, true]);
        assert_eq!(hits.recall(2), 1.0);
        assert_eq!(r_precision(&["A", "A", "B"], &[vec!["A", "B"]]), 1.0);
        assert_eq!((r_precision(&[], &[vec!["A"]]), r_precision(&["A"], &[])), (0.0, 0.0));
    }

    fn record(id: &str, answer: &str, pages: &[&str]) -> Record {
        let page = |id: &&str| Provenance { wikipedia_id: id.to_string(), ..Provenance::default() };
        let output = Output { answer: Some(answer.to_owned()), provenance: pages.iter().map(page).collect() };
        Record { id: id.to_owned(), input: String::new(), outputs: vec![output] }
    }

    #[test]
    fn an_answer_from_the_wrong_page_is_no_kilt_answer() {
        let gold = [record("1", "Paris", &["A"]), record("2", "Rome", &["B"]), record("3", "Bonn", &["C"])];
        let predicted = [record("2", "rome!", &["X", "B"]), record("1", "the paris", &["A", "X"])];
        let (mean, scores) = evaluate(&predicted, &gold, &[1, 5]);
        let values = scores.iter().map(|score| (score.r_precision, score.downstream.em, score.kilt.em));
        assert!(values.eq([(1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)]));
        assert_eq!((mean.r_precision, mean.kilt.em, mean.downstream.f1), (1.0 / 3.0, 1.0 / 3.0, 2.0 / 3.0));
        assert_eq!(mean.recall, BTreeMap::from([(1, 1.0 / 3.0), (5, 2.0 / 3.0)]));
        assert_eq!(evaluate(&[], &[], &[1]).0, KiltScore::default());
    }
}
