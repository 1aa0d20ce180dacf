use std::collections::BTreeMap;
use std::path::Path;
use std::{fmt, fs};

use raglan_core::Cost;
use raglan_datasets::{Qrels, Run};
use serde::{Deserialize, Serialize};

use crate::{Error, Metric, Result, evaluate_all};

/// What an evaluation found, and all that one must know to find it again: a JSON file.
///
/// Hashes are strings such as `blake3:…`; two results are of one collection when its hashes are equal.
///
/// ```
/// use raglan_datasets::{Qrels, Run};
/// use raglan_eval::{Metric, ResultFile, Stamp};
///
/// let mut qrels = Qrels::default();
/// qrels.insert("q1", "a", 1);
/// let mut run = Run::default();
/// run.set("q1", [("b", 2.0), ("a", 1.0)]);
///
/// let mut result = ResultFile {
///     recipe: Stamp { name: "bm25".into(), hash: "blake3:…".into() },
///     threads: 2,
///     ..ResultFile::default()
/// };
/// result.score(&run, &qrels, &[Metric::ReciprocalRank { k: Some(10) }]);
/// result.time([("q1", 0.8)]);
/// assert_eq!(result.metrics["mrr@10"], 0.5);
/// assert_eq!(result.latency_ms.p50, 0.8);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultFile {
    /// The recipe that searched.
    pub recipe: Stamp,
    /// What was asked for besides, by option, such as `limit`; nothing of what is usual.
    pub options: BTreeMap<String, String>,
    /// The collection that was searched.
    pub collection: CollectionStamp,
    /// The models that took part.
    pub models: Vec<Stamp>,
    /// The revision of raglan's code.
    pub revision: String,
    /// The machine or device, in words.
    pub device: String,
    /// How many threads searched.
    pub threads: usize,
    /// Seconds from texts in memory to an index that can be searched.
    pub index_seconds: f64,
    /// Seconds of all searches.
    pub search_seconds: f64,
    /// The most memory that was held, in bytes.
    pub peak_memory: u64,
    /// The means over all judged queries by metric, such as `ndcg@10`.
    pub metrics: BTreeMap<String, f64>,
    /// How many queries were judged.
    pub n_judged: usize,
    /// How many of those were answered.
    pub n_answered: usize,
    /// Milliseconds of a query.
    pub latency_ms: Latency,
    /// What language models and cross-encoders cost a query; none where there were none.
    pub model_cost: Option<ModelCost>,
    /// What came of each stage, in the order in which they ran.
    pub stages: Vec<StageResult>,
    /// The value of each judged query, by metric and query id; 0 where it was not answered.
    pub per_query: BTreeMap<String, BTreeMap<String, f64>>,
    /// Milliseconds of each query, by its id.
    pub per_query_latency_ms: BTreeMap<String, f64>,
}

/// A name, and the hash of what goes by it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// What people call it.
    pub name: String,
    /// The hash of its content.
    pub hash: String,
}

/// Which documents, queries and judgements a result is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionStamp {
    /// What people call it.
    pub name: String,
    /// The split that was asked, such as `test`.
    pub split: String,
    /// The hash of the documents.
    pub corpus_hash: String,
    /// The hash of the queries.
    pub queries_hash: String,
    /// The hash of the judgements.
    pub qrels_hash: String,
    /// How many documents there are.
    pub n_documents: usize,
    /// How many queries were asked.
    pub n_queries: usize,
}

/// Times of queries, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the queries took no longer.
    pub p50: f64,
    /// 95 of 100 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// The mean.
    pub mean: f64,
}

impl Latency {
    /// Sums up times, in any order; all 0 of none.
    pub fn of(milliseconds: impl IntoIterator<Item = f64>) -> Self {
        let mut ascending: Vec<f64> = milliseconds.into_iter().collect();
        ascending.sort_unstable_by(f64::total_cmp);
        let [p50, p95, p99] = [50.0, 95.0, 99.0].map(|percent| percentile(&ascending, percent));
        Self { p50, p95, p99, mean: ascending.iter().fold(0.0, |sum, time| sum + time) / ascending.len().max(1) as f64 }
    }
}

/// The smallest of ascending values that at least `percent` of 100 do not exceed; 0 of none.
pub fn percentile(ascending: &[f64], percent: f64) -> f64 {
    let rank = (percent / 100.0 * ascending.len() as f64).ceil() as usize;
    ascending.get(rank.max(1) - 1).copied().unwrap_or(0.0)
}

/// What a stage made of the ranking that it was given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageResult {
    /// The stage's name in the recipe.
    pub name: String,
    /// The share of the relevant documents that was there before, as a mean over queries; none for a retriever.
    pub recall_before: Option<f64>,
    /// The share that is there after it.
    pub recall_after: f64,
    /// Milliseconds of the stage.
    pub latency_ms: Latency,
    /// What models cost a query in it; none where there were none.
    pub model_cost: Option<ModelCost>,
}

/// What models that judge, rewrite or write cost a query, as means over all queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelCost {
    /// Calls; texts that pass together are as many.
    pub calls: f64,
    /// Tokens that were read.
    pub tokens_read: f64,
    /// Tokens that were written.
    pub tokens_written: f64,
    /// Milliseconds.
    pub ms: f64,
}

impl ModelCost {
    /// The means of what queries cost; none when none had a call.
    pub fn of(costs: &[Cost]) -> Option<Self> {
        let mut sum = Cost::default();
        costs.iter().for_each(|cost| sum += *cost);
        let mean = |total: f64| total / costs.len() as f64;
        (sum.calls > 0).then(|| Self {
            calls: mean(sum.calls as f64),
            tokens_read: mean(sum.tokens_read as f64),
            tokens_written: mean(sum.tokens_written as f64),
            ms: mean(sum.seconds * 1e3),
        })
    }
}

impl fmt::Display for ModelCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { calls, tokens_read, tokens_written, ms } = self;
        write!(f, "{calls:.1} calls, {tokens_read:.0} tokens read, {tokens_written:.0} written, {ms:.1} ms")
    }
}

impl ResultFile {
    /// Fills in metrics, values of each query, and how many were judged and answered.
    pub fn score(&mut self, run: &Run, qrels: &Qrels, metrics: &[Metric]) {
        self.n_judged = qrels.n_queries();
        for (metric, evaluation) in metrics.iter().zip(evaluate_all(run, qrels, metrics)) {
            self.n_answered = evaluation.n_answered;
            self.metrics.insert(metric.to_string(), evaluation.mean);
            self.per_query.insert(metric.to_string(), evaluation.per_query);
        }
    }

    /// Fills in the times from each query's id and milliseconds.
    pub fn time<Q: Into<String>>(&mut self, queries: impl IntoIterator<Item = (Q, f64)>) {
        self.per_query_latency_ms = queries.into_iter().map(|(query, time)| (query.into(), time)).collect();
        self.latency_ms = Latency::of(self.per_query_latency_ms.values().copied());
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is no result.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        serde_json::from_slice(&bytes).map_err(|source| Error::NoResult { path: path.to_owned(), source })
    }

    /// Writes a file; it reads back equal.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("numbers and strings are JSON");
        text.push(b'\n');
        fs::write(path, text).map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_means_over_all_queries() {
        let asked = Cost { calls: 1, tokens_read: 300, tokens_written: 5, seconds: 0.2 };
        let mean = ModelCost::of(&[asked, Cost::default()]).unwrap();
        assert_eq!(mean, ModelCost { calls: 0.5, tokens_read: 150.0, tokens_written: 2.5, ms: 100.0 });
        assert_eq!(mean.to_string(), "0.5 calls, 150 tokens read, 2 written, 100.0 ms");
        assert_eq!((ModelCost::of(&[]), ModelCost::of(&[Cost::default()])), (None, None));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let ascending = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(percentile(&ascending, 50.0), 2.0); // 2 of 4 do not exceed it.
        assert_eq!((percentile(&ascending, 99.0), percentile(&ascending, 0.0)), (4.0, 1.0));
        assert_eq!(percentile(&[], 50.0), 0.0);
    }
}
