//! The words that a passage shares with the question.

use std::collections::{HashMap, HashSet};

use crate::{Budget, Judge, Judgement, Result, Task, Verdict};
use raglan_core::Meter;

/// Scores each passage by BM25 over the task's own passages, whose words are runs of letters and digits in lower case: no
/// model, and enough to tell which windows of a text a better judge should read.
#[derive(Clone, Copy, Debug, Default)]
pub struct WordOverlap;

const K1: f32 = 1.2;
const B: f32 = 0.75;

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

impl Judge for WordOverlap {
    fn name(&self) -> String {
        "word-overlap".to_owned()
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let meter = Meter::start(budget);
            let asked: HashSet<String> = words(task.question).into_iter().collect();
            let passages: Vec<Vec<String>> = task.passages.iter().map(|passage| words(passage)).collect();
            let n = passages.len() as f32;
            let mean_len = passages.iter().map(Vec::len).sum::<usize>().max(1) as f32 / n.max(1.0);
            let counts: Vec<HashMap<&str, u32>> = passages
                .iter()
                .map(|words| {
                    let mut counts = HashMap::new();
                    for word in words.iter().filter(|word| asked.contains(*word)) {
                        *counts.entry(word.as_str()).or_insert(0) += 1;
                    }
                    counts
                })
                .collect();
            let mut df: HashMap<&str, u32> = HashMap::new();
            counts.iter().flat_map(HashMap::keys).for_each(|word| *df.entry(word).or_insert(0) += 1);
            let score = |(counts, words): (&HashMap<&str, u32>, &Vec<String>)| {
                let norm = K1 * (1.0 - B + B * words.len() as f32 / mean_len);
                let mut contributions: Vec<f32> = counts
                    .iter()
                    .map(|(word, &tf)| {
                        let df = df[word] as f32;
                        (1.0 + (n - df + 0.5) / (df + 0.5)).ln() * tf as f32 / (tf as f32 + norm)
                    })
                    .collect();
                contributions.sort_by(f32::total_cmp); // The order of a hash map must not show.
                Some(contributions.iter().sum())
            };
            let scores = counts.iter().zip(&passages).map(score).collect();
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_words_count_most() {
        let passages = ["the cat sat", "the dog and the fox", "the fox, the Fox!", ""];
        let task = Task { question: "Where is the fox?", passages: &passages, chunks: &[] };
        let judgement = &WordOverlap.judge(&[task], &Budget::default()).unwrap()[0];
        let order: Vec<usize> = judgement.verdict.ranked(4).iter().map(|(i, _)| *i).collect();
        assert_eq!(order, [2, 1, 0, 3]);
        assert_eq!(judgement.cost.calls, 0);
    }
}
