use std::collections::BTreeMap;

use raglan_datasets::{Qrels, Run};
use serde::Serialize;

use crate::Metric;

/// A metric's values on a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Evaluation {
    /// The value of each query that is both judged and answered.
    pub per_query: BTreeMap<String, f64>,
    /// How many queries are judged, answered or not.
    pub n_judged: usize,
    /// The mean over all judged queries, where one without an answer counts 0: what `trec_eval -c` prints, and what
    /// published figures are. 0 when no query is judged.
    pub mean: f64,
    /// The mean over the queries that are judged and answered: what `trec_eval` prints without `-c`. It rewards not
    /// answering hard queries. 0 when there are none.
    pub mean_of_answered: f64,
}

/// Scores a run against judgements.
///
/// The order is that of [`Run::ranking`]: scores as 32-bit floats, ties by document id, descending. Queries without
/// judgements are left out; judged queries without relevant documents score 0 and count in the means.
pub fn evaluate(run: &Run, qrels: &Qrels, metric: Metric) -> Evaluation {
    evaluate_all(run, qrels, &[metric]).pop().expect("there is one evaluation a metric")
}

/// Scores a run with several metrics, sorting each ranking once; the evaluations are in the order of `metrics`.
pub fn evaluate_all(run: &Run, qrels: &Qrels, metrics: &[Metric]) -> Vec<Evaluation> {
    let mut evaluations = vec![Evaluation { n_judged: qrels.n_queries(), ..Evaluation::default() }; metrics.len()];
    for (query, judged) in qrels.iter().filter(|(query, _)| run.contains_query(query)) {
        let ranking = run.ranking(query);
        let grades: Vec<i32> = ranking.iter().map(|(id, _)| judged.get(*id).copied().unwrap_or(0)).collect();
        let mut ideal: Vec<i32> = judged.values().copied().filter(|&grade| grade >= 1).collect();
        ideal.sort_unstable_by(|a, b| b.cmp(a));
        for (evaluation, metric) in evaluations.iter_mut().zip(metrics) {
            evaluation.per_query.insert(query.to_owned(), metric.of(&grades, &ideal));
        }
    }
    for evaluation in &mut evaluations {
        let sum: f64 = evaluation.per_query.values().sum();
        evaluation.mean = sum / evaluation.n_judged.max(1) as f64;
        evaluation.mean_of_answered = sum / evaluation.per_query.len().max(1) as f64;
    }
    evaluations
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
        assert_eq!(values, [("answered", 1.0), ("hopeless", 0.0)]);
        assert_eq!(evaluation.n_judged, 3);
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
