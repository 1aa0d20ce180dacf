//! Puts passages that were found in a better order, by models that read them with the question.
//!
//! A [`Judge`] says which passages of a [`Task`] serve its question: by scores or by an order, within a [`Budget`], and at
//! what [`Cost`]. [`CrossEncoder`] reads pairs with an encoder; the others ask a language model: [`QueryLikelihood`],
//! [`YesNo`], [`Compare`] (pairwise and setwise), [`Listwise`] (by what it writes, or by its first token), and
//! [`InContext`], which looks where the question's attention goes. [`Cascade`] lets a good judge read only what a cheap one
//! finds promising, [`AdaptiveReranker`] spends few calls of a judge on many candidates. [`PassageReranker`] makes a
//! [`Reranker`](raglan_core::Reranker) of a judge.
//!
//! ```
//! use raglan_rerank::{Budget, Judge, Task, WordOverlap};
//!
//! let passages = ["Cats sleep in the tower.", "The tower was finished in 1889."];
//! let task = Task { question: "When was the tower finished?", passages: &passages, chunks: &[] };
//! let judgement = &WordOverlap.judge(&[task], &Budget::default())?[0];
//! let best_first = judgement.verdict.ranked(passages.len());
//! assert_eq!(best_first[0].0, 1);
//! # Ok::<(), raglan_rerank::Error>(())
//! ```
#![forbid(unsafe_code)]

mod adaptive;
mod cascade;
mod compare;
mod cross_encoder;
mod error;
mod in_context;
mod judge;
mod kept;
mod listwise;
mod overlap;
mod passage_sets;
mod prompt;
mod query_likelihood;
mod reranker;
mod yes_no;

pub use adaptive::AdaptiveReranker;
pub use cascade::Cascade;
pub use compare::{Compare, Comparison};
pub use cross_encoder::CrossEncoder;
pub use error::{Error, Result};
pub use in_context::{InContext, attention_scores};
pub use judge::{Judge, Judgement, Task, Verdict};
pub use listwise::{ListReading, Listwise};
pub use overlap::WordOverlap;
pub use passage_sets::JudgedSets;
pub use query_likelihood::QueryLikelihood;
pub use raglan_core::{Budget, Cost};
pub use reranker::PassageReranker;
pub use yes_no::YesNo;
