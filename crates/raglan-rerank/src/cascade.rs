//! The best windows of each passage only (intra-document cascading, IDCM; Hofstätter et al. 2021).

use std::ops::Range;

use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};
use raglan_core::Meter;

/// Cuts each passage into windows of words, lets a cheap judge choose the most promising, and a good one score those: a
/// passage's score is `Σ_j w_j · s_(j)` over its windows' scores in falling order, with weights that fall as `1/j` and
/// add up to 1 over the windows that there are.
pub struct Cascade<C, J> {
    cheap: C,
    judge: J,
    window: usize,
    step: usize,
    n_windows: usize,
}

impl<C: Judge, J: Judge> Cascade<C, J> {
    /// A cascade of windows of `window` words, of which a new one begins after every `step`; `n_windows` of a passage are
    /// read by the good judge.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a number is 0, or words would be in no window.
    pub fn new(cheap: C, judge: J, window: usize, step: usize, n_windows: usize) -> Result<Self> {
        if window == 0 || step == 0 || step > window || n_windows == 0 {
            let problem = format!("are of {window} words after every {step}, {n_windows} at a time");
            return Err(Error::Parameter { name: "windows", problem });
        }
        Ok(Self { cheap, judge, window, step, n_windows })
    }
}

/// The windows of a text, as ranges of bytes; at least one.
fn windows(text: &str, window: usize, step: usize) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for word in text.split_whitespace() {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        words.push(start..start + word.len());
    }
    let mut found = Vec::new();
    let mut first = 0;
    loop {
        let last = words.len().min(first + window);
        match words.get(first..last) {
            Some([only]) => found.push(only.clone()),
            Some([start, .., end]) => found.push(start.start..end.end),
            _ => found.push(0..text.len()),
        }
        if last >= words.len() {
            return found;
        }
        first += step;
    }
}

/// `Σ_j w_j · s_(j)` with `w_j ∝ 1/j`.
fn weighted(scores: &mut [f32]) -> Option<f32> {
    scores.sort_by(|a, b| b.total_cmp(a));
    let weights = || (1..=scores.len()).map(|j| 1.0 / j as f32);
    let total: f32 = weights().sum();
    (!scores.is_empty())
        .then(|| scores.iter().zip(weights()).map(|(score, weight)| score * weight).sum::<f32>() / total)
}

/// A judge's scores of windows; of an order, the places from the end.
fn scores_of(verdict: Verdict, n: usize) -> Vec<Option<f32>> {
    match verdict {
        Verdict::Scores(scores) => scores,
        order @ Verdict::Order(_) => {
            let mut scores = vec![None; n];
            order.ranked(n).into_iter().for_each(|(i, score)| scores[i] = Some(score));
            scores
        }
    }
}

impl<C: Judge, J: Judge> Judge for Cascade<C, J> {
    fn name(&self) -> String {
        let Self { cheap, judge, window, step, n_windows } = self;
        format!("cascade({} → {}, {n_windows} of {window}/{step})", cheap.name(), judge.name())
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let (mut texts, mut owners) = (Vec::new(), Vec::new());
            for (i, passage) in task.passages.iter().enumerate() {
                for window in windows(passage, self.window, self.step) {
                    texts.push(&passage[window]);
                    owners.push(i);
                }
            }
            let mut ask = |judge: &dyn Judge, texts: &[&str]| {
                let asked = Task { question: task.question, passages: texts, chunks: &[] };
                let judgements = judge.judge(&[asked], &meter.left())?;
                let judgement = judgements.into_iter().next().expect("one judgement a task");
                meter.add(judgement.cost);
                Ok::<_, Error>(scores_of(judgement.verdict, texts.len()))
            };
            let cheap = ask(&self.cheap, &texts)?;
            let mut chosen: Vec<usize> = Vec::new();
            for i in 0..task.passages.len() {
                let mut own: Vec<usize> = (0..texts.len()).filter(|&window| owners[window] == i).collect();
                let score = |window: usize| cheap[window].unwrap_or(f32::NEG_INFINITY);
                own.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                own.truncate(self.n_windows);
                chosen.extend(own);
            }
            let best: Vec<&str> = chosen.iter().map(|&window| texts[window]).collect();
            let good = ask(&self.judge, &best)?;
            let mut of_passage: Vec<Vec<f32>> = vec![Vec::new(); task.passages.len()];
            for (&window, score) in chosen.iter().zip(good) {
                of_passage[owners[window]].extend(score);
            }
            let scores = of_passage.iter_mut().map(|scores| weighted(scores)).collect();
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WordOverlap;

    #[test]
    fn windows_cover_all_words() {
        let text = " one two  three four five ";
        let of = |window, step| windows(text, window, step).into_iter().map(|range| &text[range]).collect::<Vec<_>>();
        assert_eq!(of(2, 2), ["one two", "three four", "five"]);
        assert_eq!(of(4, 2), ["one two  three four", "three four five"]);
        assert_eq!(of(9, 9), ["one two  three four five"]);
        assert_eq!(windows("", 3, 3), vec![0..0; 1]);
        assert_eq!(windows("  ", 3, 3), vec![0..2; 1]);
    }

    #[test]
    fn a_long_passage_is_as_good_as_its_best_windows() {
        let long = format!("{} the fox jumps {}", "filler words ".repeat(60), "more of them ".repeat(60));
        let passages = ["a fox somewhere", &long, "nothing"];
        let cascade = Cascade::new(WordOverlap, WordOverlap, 8, 4, 1).unwrap();
        let task = Task { question: "what does the fox do when it jumps", passages: &passages, chunks: &[] };
        let judgement = &cascade.judge(&[task], &Budget::default()).unwrap()[0];
        assert_eq!(judgement.verdict.ranked(3)[0].0, 1);
    }

    #[test]
    fn better_windows_weigh_more() {
        assert_eq!(weighted(&mut []), None);
        let mixed = weighted(&mut [0.0, 3.0]).unwrap();
        assert!((mixed - 2.0).abs() <= 1e-6);
    }
}
