use std::collections::BTreeMap;
use std::hash::BuildHasher;

use raglan_datasets::{Qrels, Run};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustc_hash::{FxBuildHasher, FxHashMap, FxHashSet};
use serde::Serialize;

use crate::Metric;
use crate::metric::Judged;

/// A metric's values on a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// The value of each judged query; 0 where the run has no answer.
    pub per_query: BTreeMap<String, f64>,
    /// How many of the judged queries the run has documents for.
    pub n_answered: usize,
    /// The mean over all judged queries: what `trec_eval -c` prints, and what published figures are. 0 when no query is
    /// judged.
    pub mean: f64,
    /// The mean over the queries that are judged and answered: what `trec_eval` prints without `-c`. It rewards not
    /// answering hard queries. 0 when there are none.
    pub mean_of_answered: f64,
}

/// Scores a run against judgements.
///
/// The order is that of [`raglan_datasets::DocumentRanking`]: scores as 32-bit floats, ties by document id, descending. Queries without
/// judgements are left out; judged queries without relevant documents score 0 and count in the means.
pub fn evaluate(run: &Run, qrels: &Qrels, metric: Metric) -> Evaluation {
    evaluate_all(run, qrels, &[metric]).pop().expect("there is one evaluation a metric")
}

/// Scores a run with several metrics, each query once and all queries side by side; the evaluations are in the order of
/// `metrics`.
pub fn evaluate_all(run: &Run, qrels: &Qrels, metrics: &[Metric]) -> Vec<Evaluation> {
    let judged: Vec<(&str, &BTreeMap<String, i32>)> = qrels.iter().collect();
    let wants_holes = metrics.iter().any(|metric| matches!(metric, Metric::Hole { .. }));
    let ever_judged: FxHashSet<&str> = match wants_holes {
        true => judged.iter().flat_map(|(_, grades)| grades.keys().map(String::as_str)).collect(),
        false => FxHashSet::default(),
    };
    let score = |&(query, judged): &(&str, &BTreeMap<String, i32>)| -> Vec<f64> {
        let ranking = run.ranking(query);
        let mut ideal: Vec<i32> = judged.values().copied().filter(|&grade| grade >= 1).collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        let depth = metrics.iter().map(|metric| metric.depth(ideal.len())).max().unwrap_or(0);
        let by_id: FxHashMap<&str, i32> = judged.iter().map(|(id, &grade)| (id.as_str(), grade)).collect();
        let documents = ranking.iter().take(depth).map(|(id, _)| id);
        // Few of the documents are judged: a bit for each hash says of most that they are not.
        let n_words = judged.len().next_power_of_two();
        let place = |id: &str| {
            let hash = FxBuildHasher.hash_one(id);
            (hash as usize >> 6 & (n_words - 1), 1u64 << (hash & 63))
        };
        let mut may_be_judged = vec![0u64; n_words];
        by_id.keys().map(|id| place(id)).for_each(|(word, bit)| may_be_judged[word] |= bit);
        let grade = |id: &str| {
            let (word, bit) = place(id);
            if may_be_judged[word] & bit == 0 { 0 } else { by_id.get(id).copied().unwrap_or(0) }
        };
        let grades: Vec<i32> = documents.clone().map(grade).collect();
        let holes: Vec<bool> = match wants_holes {
            true => documents.map(|id| !ever_judged.contains(id)).collect(),
            false => Vec::new(),
        };
        let ranking = Judged { grades: &grades, ideal: &ideal, holes: &holes };
        // A sum of nothing is negative zero, which would be printed with its sign.
        metrics.iter().map(|metric| metric.of(&ranking) + 0.0).collect()
    };
    let values: Vec<Vec<f64>> = judged.par_iter().map(score).collect();
    let n_answered = judged.iter().filter(|(query, _)| run.contains_query(query)).count();
    let evaluation = |i: usize| {
        // In the order of the ids, whatever the threads did.
        let sum = values.iter().fold(0.0, |sum, values| sum + values[i]);
        Evaluation {
            per_query: judged.iter().zip(&values).map(|((query, _), values)| (query.to_string(), values[i])).collect(),
            n_answered,
            mean: sum / judged.len().max(1) as f64,
            mean_of_answered: sum / n_answered.max(1) as f64,
        }
    };
    (0..metrics.len()).map(evaluation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One query: `grades` are judged, `scores` retrieved.
    #[track_caller]
    fn check(grades: &[(&str, i32)], scores: &[(&str, f32)], expected: &[(&str, f64)]) {
        let mut qrels = Qrels::default();
        grades.iter().for_each(|(document, grade)| qrels.insert("q", document, *grade));
        let mut run = Run::default();
        scores.iter().for_each(|(document, score)| run.insert("q", document, *score));
        for &(name, want) in expected {
            let got = evaluate(&run, &qrels, name.parse().expect("a metric")).per_query["q"];
            assert!((got - want).abs() <= 1e-5, "{name} is {got}, not {want}");
        }
    }

    #[test]
    fn graded_documents() {
        check(
            &[("a", 2), ("b", 1), ("c", 0)],
            &[("a", 0.9), ("c", 0.8), ("b", 0.7)],
            &[
                ("ndcg@10", 0.95023), // (2/log2(2) + 1/log2(4)) / (2/log2(2) + 1/log2(3)) = 2.5 / 2.63093
                ("ndcg@1", 1.0),      // 2 / 2
                ("ndcg@2", 0.76019),  // 2 / 2.63093
                ("map", 0.83333),     // (1/1 + 2/3) / 2
                ("map@2", 0.5),       // (1/1) / 2
                ("mrr", 1.0),
                ("p@10", 0.2), // 2 / 10, though only 3 were retrieved
                ("recall@10", 1.0),
                ("recall@2", 0.5), // 1 / 2
            ],
        );
    }

    #[test]
    fn equal_scores_go_by_descending_id() {
        // y comes first, so x is second: 1/log2(3).
        check(&[("x", 1)], &[("x", 0.5), ("y", 0.5)], &[("mrr", 0.5), ("ndcg@10", 0.63093), ("mrr@1", 0.0)]);
        // Bytes, not numbers: "9" before "10".
        check(&[("9", 1)], &[("9", 0.5), ("10", 0.5)], &[("mrr", 1.0)]);
        check(&[("x", 1)], &[("x", 0.0), ("y", -0.0)], &[("mrr", 0.5)]);
    }

    #[test]
    fn negative_grades_gain_nothing() {
        // (0 + 3/log2(3) + 1/log2(4)) / (3/log2(2) + 1/log2(3)) = 2.39279 / 3.63093
        check(
            &[("a", -1), ("b", 1), ("c", 3)],
            &[("a", 3.0), ("c", 2.0), ("b", 1.0)],
            &[("ndcg@10", 0.65900), ("map", 0.58333), ("mrr", 0.5)],
        );
    }

    #[test]
    fn a_query_without_relevant_documents_scores_zero() {
        check(
            &[("a", 0)],
            &[("a", 1.0)],
            &[("ndcg@10", 0.0), ("map", 0.0), ("mrr", 0.0), ("recall@5", 0.0), ("p@5", 0.0)],
        );
    }

    #[test]
    fn measures_of_the_first_few() {
        // Relevant: a, b, c; retrieved: a x b y.
        check(
            &[("a", 2), ("b", 1), ("c", 1), ("x", 0)],
            &[("a", 4.0), ("x", 3.0), ("b", 2.0), ("y", 1.0)],
            &[
                ("rprec", 2.0 / 3.0), // a and b among the first 3
                ("success@1", 1.0),
                ("r_cap@2", 0.5),        // 1 / min(3, 2)
                ("r_cap@10", 2.0 / 3.0), // 2 / min(3, 10)
                ("hole@3", 0.0),         // x was judged
                ("hole@4", 0.25),        // y was not
                ("hole@10", 0.1),        // over 10 though 4 were retrieved
            ],
        );
        check(&[("a", 1)], &[("x", 2.0), ("a", 1.0)], &[("success@1", 0.0), ("success@2", 1.0), ("rprec", 0.0)]);
    }

    #[test]
    fn a_document_judged_for_another_query_is_no_hole() {
        let mut qrels = Qrels::default();
        qrels.insert("q", "a", 1);
        qrels.insert("other", "b", 0);
        let mut run = Run::default();
        run.set("q", [("a", 3.0), ("b", 2.0), ("c", 1.0)]);
        let evaluation = evaluate(&run, &qrels, Metric::Hole { k: 3 });
        assert_eq!(evaluation.per_query["q"], 1.0 / 3.0);
    }

    /// The document that is the query itself vanishes before anything is computed.
    #[test]
    fn own_ids_are_removed() {
        let mut qrels = Qrels::default();
        qrels.insert("q7", "a", 1);
        let mut run = Run::default();
        run.set("q7", [("q7", 9.0), ("a", 1.0)]);
        assert_eq!(evaluate(&run, &qrels, Metric::ReciprocalRank { k: None }).mean, 0.5);
        run.remove_own_ids();
        assert_eq!(evaluate(&run, &qrels, Metric::ReciprocalRank { k: None }).mean, 1.0);
    }

    #[test]
    fn the_mean_is_over_judged_queries() {
        let mut qrels = Qrels::default();
        for query in ["answered", "absent", "hopeless"] {
            qrels.insert(query, "a", i32::from(query != "hopeless"));
        }
        let mut run = Run::default();
        for query in ["answered", "hopeless", "never judged"] {
            run.insert(query, "a", 1.0);
        }
        let evaluation = evaluate(&run, &qrels, Metric::ReciprocalRank { k: None });
        let values: Vec<(&str, f64)> =
            evaluation.per_query.iter().map(|(query, value)| (query.as_str(), *value)).collect();
        assert_eq!(values, [("absent", 0.0), ("answered", 1.0), ("hopeless", 0.0)]);
        assert_eq!(evaluation.n_answered, 2);
        assert_eq!(evaluation.mean, 1.0 / 3.0); // (1 + 0 + 0) / 3
        assert_eq!(evaluation.mean_of_answered, 0.5); // (1 + 0) / 2
    }

    #[test]
    fn nothing_judged_is_zero() {
        let mut run = Run::default();
        run.insert("q", "a", 1.0);
        assert_eq!(evaluate(&run, &Qrels::default(), Metric::Map { k: None }), Evaluation::default());
    }
}
