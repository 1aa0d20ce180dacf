//! Typed stages, their composition, and the recipes that describe them.
//!
//! A question passes through states, and each state is a type: `Vec<Query>`, then `Vec<`[`Ranked`]`>`, then
//! `Vec<Context>`, then `Vec<Result<Answer>>`. A [`Stage`] goes from one to the next; adaptors ([`retrieve`], [`fuse`],
//! [`read`], [`generate`]) make stages of the roles in `raglan-core`; a [`Recipe`] is the same graph as TOML, checked
//! before anything is opened, and [bound](Recipe::bind) to its parts to become a [`Pipeline`].
//!
//! ```
//! use raglan_core::{ChunkId, Hit, Query, Ranking, Result, Retriever};
//! use raglan_pipeline::{Fusion, Stage, fuse, retrieve, select};
//!
//! /// Finds the same chunks whatever is asked.
//! struct Always(Vec<(u32, f32)>);
//!
//! impl Retriever for Always {
//!     fn search(&self, queries: &[Query], k: usize) -> Result<Vec<Ranking>> {
//!         let hits = || self.0.iter().map(|&(id, score)| Hit::new(ChunkId(id), score)).collect();
//!         queries.iter().map(|_| Ranking::best(hits(), k)).collect()
//!     }
//! }
//!
//! let words = Always(vec![(1, 12.0), (2, 8.0), (3, 4.0)]);
//! let meaning = Always(vec![(3, 0.9), (1, 0.5), (4, 0.1)]);
//! let search = retrieve(&words, 100).both(retrieve(&meaning, 100)).then(fuse(Fusion::MIN_MAX, 10)).then(select(2));
//!
//! let found = search.run(vec!["where is the cache?".into()])?;
//! assert_eq!(found[0].ranking.ids(), [ChunkId(1), ChunkId(3)]);
//! assert_eq!(search.name(), "(retrieve(100) + retrieve(100)) → fuse(min-max, 10) → select(2)");
//! # Ok::<(), raglan_core::Error>(())
//! ```
#![forbid(unsafe_code)]

mod batch;
mod cache;
mod combine;
mod each;
mod examples;
mod expand;
mod focus;
mod follow;
mod fusion;
mod generate;
mod marginal_relevance;
#[cfg(test)]
mod passages_for_tests;
mod ranked;
mod read;
mod recipe;
mod reorder;
mod rerank;
mod retrieve;
mod rewrite;
mod select;
mod stage;
mod steps;
mod submodular;
mod tree_search;

pub use batch::Retry;
pub use cache::{Content, ContentHasher};
pub use combine::{Branch, Cached, Fallback, Repeat, Retried, Traced, Within, branch, repeat};
pub use each::{Each, Split, each, split};
pub use examples::{Examples, examples};
pub use expand::{Expand, expand};
pub use focus::{Focus, focus};
pub use follow::{Follow, follow};
pub use fusion::{Fuse, Fused, Fusion, RankedLists, fuse};
pub use generate::{Generate, generate, generate_streaming};
pub use marginal_relevance::{MarginalRelevance, mmr};
pub use ranked::Ranked;
pub use read::{Read, read};
pub use recipe::{
    Arity, AroundSpec, Bm25Spec, BranchSpec, BudgetSpec, CachedSpec, DenseMode, DenseSpec, EachSpec, ExamplesSpec,
    ExpandSpec, FallbackSpec, FocusSpec, FollowSpec, FuseSpec, GateSpec, GatedDenseSpec, GenerateSpec, GraphSpec,
    Input, KindReference, LateSpec, LoopSpec, MarginalRelevanceSpec, Measure, NgramsSpec, Node, Nodes,
    ParameterReference, Part, PartKind, Pipeline, PlainSpec, Port, QuestionsSpec, ReadSpec, Recipe, RecipeBuilder,
    RecipeError, RecipeProblem, RecipeStage, ReorderSpec, RerankSpec, Reranking, RescoreSpec, Rescorer,
    RetrievalTrigger, RetrySpec, RewriteSpec, Rewriting, SelectSpec, SetScoring, SparseMode, SparseQueries, SparseSpec,
    SplitSpec, StageRun, StageSpec, Stepping, StepsSpec, SubmodularSpec, TreeSearchSpec, Value, ports,
};
pub use reorder::{PassageOrder, Reorder, reorder};
pub use rerank::{Rerank, rerank};
pub use retrieve::{Retrieve, VectorRetriever, retrieve};
pub use rewrite::{Rewrite, rewrite};
pub use select::{Gate, MinScore, Select, gate, min_score, select};
pub use stage::{Both, BoxStage, Function, Map, Stage, Then, stage};
pub use steps::{Steps, steps};
pub use submodular::{Submodular, submodular};
pub use tree_search::{EncodedSets, TreeSearch, TreeSearchOptions, tree_search};
