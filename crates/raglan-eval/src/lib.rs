//! Metrics of retrieval, answers and chunking, and what can be concluded from them.
//!
//! A figure is worth something when another program gives the same one for the same files. Retrieval is scored with
//! the conventions of `trec_eval`, to the last digits that its sums leave; chunking with the definitions of Chroma's
//! `chunking_evaluation`, on bytes.
//!
//! - [`Metric`] names what is computed: `ndcg@10`, `recall@100`, `map`, `mrr@10`, `p@5`.
//! - [`evaluate`] scores a run against judgements and gives an [`Evaluation`]: every query's value and the means.
//! - [`compare`] pairs two systems by query: the difference with its interval, and how probable it is by chance.
//! - [`ResultFile`] keeps what an evaluation found with all that made it.
//! - [`Report`] puts results side by side, as Markdown and as a page with plots.
//! - [`TradeOffReport`] plots what methods give against what they cost.
//! - [`answers`] and [`kilt`] compare answers and their sources with the right ones.
//! - [`loss::fate`] says where a question was lost: before the index, before the prompt, or in the answer.
//! - [`chunking::score`] and [`chunking::precision_omega`] compare retrieved chunks with reference passages.
//!
//! ```
//! use raglan_datasets::{Qrels, Run};
//! use raglan_eval::{Metric, evaluate};
//!
//! let mut qrels = Qrels::default();
//! qrels.insert("q1", "a", 2);
//! qrels.insert("q1", "b", 1);
//! let mut run = Run::default();
//! for (document, score) in [("a", 0.9), ("c", 0.8), ("b", 0.7)] {
//!     run.insert("q1", document, score);
//! }
//!
//! let metric: Metric = "ndcg@10".parse()?;
//! let ndcg = evaluate(&run, &qrels, metric).mean;
//! assert!((ndcg - 2.5 / 2.63093).abs() < 1e-5); // (2/1 + 1/2) / (2/1 + 1/log2(3))
//! # Ok::<(), raglan_eval::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod answers;
pub mod chunking;
mod comparison;
mod error;
mod evaluate;
pub mod kilt;
pub mod loss;
mod metric;
mod report;
mod result_file;
pub mod significance;

pub use comparison::{ChangedQuery, Comparison, compare};
pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate, evaluate_all};
pub use metric::Metric;
pub use report::{PlotAxis, Report, TradeOff, TradeOffReport};
pub use result_file::{CollectionStamp, Latency, ModelCost, ResultFile, StageResult, Stamp, percentile};
