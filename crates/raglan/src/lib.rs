//! raglan answers questions from a folder of documents, on this machine, with sources that can be checked.
//!
//! A folder is indexed once and kept up to date by an [`Indexer`]; an [`Index`] is one generation of it, open for
//! questions; a [`Recipe`](pipeline::Recipe) says which stages lead from a question to a ranking or an answer. This
//! crate puts the parts together, and gives each part's own crate under its short name.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use raglan::{Filter, Library};
//!
//! fn main() -> Result<(), raglan::Error> {
//!     let library = Library::open(Path::new("manuals"))?; // Reads what is new, embeds it, commits.
//!     for found in library.search("warranty period", 5, &Filter::default())?.results {
//!         println!("{} {}: {}", found.rank, found.path, found.snippet.text);
//!     }
//!     let answer = library.ask("How long is the warranty?")?;
//!     println!("{}", answer.text);
//!     for source in &answer.sources {
//!         println!("{}, {}: {}", source.path, source.locator, source.span_of.told(source.start..source.end));
//!     }
//!     Ok(())
//! }
//! ```
#![forbid(unsafe_code)]

mod attention_reranker;
mod augmentations;
mod chunking;
mod collection_run;
mod embedder;
mod entity_graph;
mod error;
mod explain;
mod filter;
mod index;
mod indexer;
mod judges;
mod kept_kv;
mod kv_evaluation;
mod lazy_generator;
mod library;
mod location;
mod long_context_evaluation;
mod long_text_perplexity;
mod models;
mod ngrams;
mod open_pages;
mod page_evaluation;
mod search;
mod snippet;
mod sparse_options;
mod status;
mod stepwise;
mod stored_vectors;
mod threads;
mod time;
mod triple_extraction;
mod verify_answer;

pub use augmentations::{QuestionReport, QuestionSettings};
pub use chunking::{ChunkingRow, eval_chunking};
pub use collection_run::{CollectionRun, StageResults};
pub use embedder::{DenseEncoder, Embedder, Encoders, SparseEmbedder};
pub use entity_graph::{EntityGraph, GraphExtractor};
pub use error::{Error, Result};
pub use explain::{ExplainedBm25, ExplainedChunk, ExplainedStage, Explanation, RankAndScore};
pub use filter::{Filter, MetadataCondition};
pub use index::{Index, gc};
pub use indexer::{
    BuildSettings, IndexEvent, IndexProgress, IndexReport, IndexSettings, IndexTimings, Indexer, SkippedFile, Start,
    index_collection, index_pages,
};
pub use kept_kv::{JudgedKv, KV_DRIFT, KV_SHADOW, KeptKv, KvDrift, KvSettings, WarmReport, drop_kept_kv};
pub use kv_evaluation::{
    KvCalibrated, KvCalibration, KvCapture, KvComparison, KvEvaluation, KvEvaluationOptions, KvPromptScore, KvRow,
    KvTier, KvTimes, KvWorkload, KvWorkloadOptions, KvWorkloadRow, calibrate_kv, evaluate_kv, evaluate_kv_workload,
};
pub use lazy_generator::LazyGenerator;
pub use library::Library;
pub use location::{INDEX_FOLDER, index_of};
pub use long_context_evaluation::{LongContextEvaluator, LongContextRow, LongContextScore, long_context_rows};
pub use long_text_perplexity::{PerplexityEvaluator, PerplexityRow};
pub use models::{ComputeDevice, ModelSettings, Models};
pub use ngrams::{FoundQuotation, NgramRetriever, NgramSearch, NgramTokenizer};
pub use open_pages::open_pages;
pub use page_evaluation::{
    Allowance, Approach, ApproachError, ApproachResult, Judged, MeasuredAllocation, NamedPage, PageEvaluator,
    PageQuestion, QuestionResult, Tuning, allocation_grid, frames_questions, kilt_questions,
};
pub use search::{
    RunOutput, RunResult, SearchOutcome, SearchResult, StageTime, recipe, recipe_with, without_generation,
};
pub use snippet::{Snippet, snippet};
pub use sparse_options::SparseOptions;
pub use status::Status;
pub use stored_vectors::{SparseQuery, SparseVectors, TokenVectors};
pub use threads::set_threads;
pub use time::parse_time;
pub use triple_extraction::TripleExtractor;
pub use verify_answer::{CheckedAnswer, CheckedQuote, QuoteState, verify_answer};

pub use raglan_augment as augment;
pub use raglan_core as core;
pub use raglan_datasets as datasets;
pub use raglan_dense as dense;
pub use raglan_embed as embed;
pub use raglan_eval as eval;
pub use raglan_generate as generate;
pub use raglan_graph as graph;
pub use raglan_ingest as ingest;
pub use raglan_kernels as kernels;
pub use raglan_kv as kv;
pub use raglan_late as late;
pub use raglan_model as model;
pub use raglan_multistep as multistep;
pub use raglan_ngram as ngram;
pub use raglan_onnx as onnx;
pub use raglan_pipeline as pipeline;
pub use raglan_rerank as rerank;
pub use raglan_sparse as sparse;
pub use raglan_store as store;
