use std::collections::BTreeMap;

use serde::Serialize;

use crate::significance::{bootstrap_interval, randomisation_p};

/// Two systems, A and B, by one metric on the same queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// How many queries both were asked.
    pub n_queries: usize,
    /// How many queries only one was asked, which are left out.
    pub n_left_out: usize,
    /// The mean of A.
    pub mean_a: f64,
    /// The mean of B.
    pub mean_b: f64,
    /// The mean of B less that of A.
    pub difference: f64,
    /// The interval of the difference that holds 95 of 100 resampled ones: [`bootstrap_interval`].
    pub interval: (f64, f64),
    /// How probable so large a difference is by chance: [`randomisation_p`].
    pub p: f64,
    /// Queries for which B has the larger value.
    pub wins: usize,
    /// Queries for which both have the same.
    pub ties: usize,
    /// Queries for which A has the larger value.
    pub losses: usize,
    /// The queries whose value is not the same, those that changed most first, equal changes by query id.
    pub changed: Vec<ChangedQuery>,
}

/// A query that the two systems answer with different success.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChangedQuery {
    /// The query's id.
    pub query: String,
    /// The value of A.
    pub a: f64,
    /// The value of B.
    pub b: f64,
}

impl ChangedQuery {
    /// What B has more than A.
    pub fn difference(&self) -> f64 {
        self.b - self.a
    }
}

/// Compares the values of queries, of those that both sides have: one that was asked and not answered has the value 0, one
/// that has none was never asked.
pub fn compare(a: &BTreeMap<String, f64>, b: &BTreeMap<String, f64>) -> Comparison {
    let both: BTreeMap<&str, (f64, f64)> =
        a.iter().filter_map(|(query, &of_a)| Some((query.as_str(), (of_a, *b.get(query)?)))).collect();
    let n = both.len().max(1) as f64;
    let differences: Vec<f64> = both.values().map(|(a, b)| b - a).collect();
    let mut changed: Vec<ChangedQuery> = both
        .iter()
        .filter(|(_, (a, b))| a != b)
        .map(|(query, &(a, b))| ChangedQuery { query: query.to_string(), a, b })
        .collect();
    changed.sort_by(|x, y| y.difference().abs().total_cmp(&x.difference().abs()).then_with(|| x.query.cmp(&y.query)));
    let wins = changed.iter().filter(|query| query.b > query.a).count();
    Comparison {
        n_queries: both.len(),
        n_left_out: a.len() + b.len() - 2 * both.len(),
        mean_a: both.values().fold(0.0, |sum, (a, _)| sum + a) / n,
        mean_b: both.values().fold(0.0, |sum, (_, b)| sum + b) / n,
        difference: differences.iter().fold(0.0, |sum, difference| sum + difference) / n,
        interval: bootstrap_interval(&differences),
        p: randomisation_p(&differences),
        wins,
        ties: both.len() - changed.len(),
        losses: changed.len() - wins,
        changed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
        values.iter().map(|&(query, value)| (query.to_owned(), value)).collect()
    }

    #[test]
    fn queries_are_paired_by_id() {
        let a = values(&[("q1", 0.5), ("q2", 1.0), ("q3", 0.25)]);
        let b = values(&[("q1", 1.0), ("q2", 0.75), ("q3", 0.25), ("q4", 1.0)]);
        let a = BTreeMap::from_iter(a.into_iter().chain(values(&[("q4", 0.0), ("never asked of b", 1.0)])));
        let comparison = compare(&a, &b);
        assert_eq!((comparison.n_queries, comparison.mean_a, comparison.mean_b), (4, 1.75 / 4.0, 3.0 / 4.0));
        assert_eq!((comparison.wins, comparison.ties, comparison.losses), (2, 1, 1));
        assert!((comparison.difference - 1.25 / 4.0).abs() <= 1e-15);
        let changed: Vec<&str> = comparison.changed.iter().map(|query| &*query.query).collect();
        assert_eq!(changed, ["q4", "q1", "q2"]);
        // Of ±1 ± .5 ± .25, those of size 1.25 or more: ±(1 + .5 + .25), ±(1 + .5 - .25).
        assert_eq!((comparison.p, comparison.n_left_out), (4.0 / 8.0, 1));
        assert_eq!((compare(&b, &a).n_queries, compare(&b, &a).n_left_out), (4, 1));
    }

    #[test]
    fn nothing_compares_with_nothing() {
        let comparison = compare(&BTreeMap::new(), &BTreeMap::new());
        assert_eq!((comparison.n_queries, comparison.difference, comparison.p), (0, 0.0, 1.0));
    }
}
