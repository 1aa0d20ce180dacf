//! What a recipe's stages are: kinds, ports and parameters.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Fusion;

/// What flows between stages; all of it is one item a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Port {
    /// Questions, `Vec<Query>`.
    Query,
    /// Ranked chunks, `Vec<Ranked>`.
    Ranking,
    /// Questions with passages, `Vec<Context>`.
    Context,
    /// Answers, `Vec<Result<Answer>>`.
    Answer,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Query => "Query",
            Self::Ranking => "Ranking",
            Self::Context => "Context",
            Self::Answer => "Answer",
        })
    }
}

/// A kind of stage with its parameters.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StageSpec {
    /// `bm25`: Query → Ranking, by BM25.
    Bm25 {
        /// How many chunks to find; 100 unless said.
        k: usize,
        /// The saturation of the term frequency; 1.2 unless said.
        k1: f32,
        /// How much a chunk's length counts; 0.75 unless said.
        b: f32,
    },
    /// `dense`: Query → Ranking, by the inner product of embeddings.
    Dense {
        /// How many chunks to find; 100 unless said.
        k: usize,
        /// How to look; `auto` unless said.
        mode: DenseMode,
    },
    /// `sparse`: Query → Ranking, by the inner product of learned sparse vectors.
    Sparse {
        /// How many chunks to find; 100 unless said.
        k: usize,
        /// How queries get their vectors; `encoded` unless said.
        queries: SparseQueries,
        /// How to look; `exact` unless said.
        mode: SparseMode,
    },
    /// `late`: Query → Ranking, by late interaction of token vectors.
    Late {
        /// How many chunks to find; 100 unless said.
        k: usize,
    },
    /// `rescore`: Ranking → Ranking, its chunks scored anew.
    Rescore {
        /// By what; must be said.
        by: Rescorer,
        /// How many hits to score and to keep; 100 unless said.
        k: usize,
    },
    /// `rerank`: Ranking → Ranking, its first hits judged by a model that reads them.
    Rerank(RerankSpec),
    /// `fuse`: two Rankings or more → Ranking.
    Fuse {
        /// `method`, with `minima` for `min-max` and `k0` for `reciprocal-rank`; `min-max` unless said.
        fusion: Fusion,
        /// One an input; the method's own unless said ([`Fusion::default_weights`]).
        weights: Vec<f32>,
        /// How many hits of each input count; 100 unless said.
        depth: usize,
        /// How many hits to keep; 10 unless said.
        k: usize,
    },
    /// `select`: Ranking → Ranking, its first hits.
    Select {
        /// How many hits to keep; 10 unless said.
        k: usize,
    },
    /// `mmr`: Ranking → Ranking, hits that are good and unlike each other; see [`mmr`](crate::mmr).
    MarginalRelevance {
        /// How much relevance counts against novelty, from 0 to 1; 0.7 unless said.
        lambda: f32,
        /// How many hits to choose; 10 unless said.
        k: usize,
    },
    /// `expand`: Context → Context, with what stands around the passages; see [`expand`](crate::expand).
    Expand {
        /// How many chunks before and after a passage; 1 unless said.
        neighbours: usize,
        /// From what share of its chunks on a section is taken whole; 2, never, unless said.
        merge: f32,
    },
    /// `gate`: a Ranking, and Rankings that are evidence → Ranking.
    ///
    /// Keeps the chunks of the first input that at least one of the further inputs scores high enough; when there are
    /// none, its own scores count.
    Gate {
        /// The least score for each input of evidence; must be said.
        min_scores: Vec<f32>,
    },
    /// `read`: Ranking → Context.
    Read,
    /// `generate`: Context → Answer.
    Generate(GenerateSpec),
}

/// How a dense index is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenseMode {
    /// By the graph where a segment has one, else exactly.
    #[default]
    Auto,
    /// Every vector is compared.
    Exact,
    /// By the graph.
    Graph,
    /// By a byte a component; the best are compared again exactly.
    Int8,
    /// By a bit a component; the best are compared again exactly.
    OneBit,
}

/// How queries get their learned sparse vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SparseQueries {
    /// By the model, as passages do.
    #[default]
    Encoded,
    /// Without the model: each token weighs as much as it is rare.
    InferenceFree,
}

/// How an impact index is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SparseMode {
    /// The best chunks, whatever it takes.
    #[default]
    Exact,
    /// Nearly the best: the heaviest terms choose candidates, which are scored exactly.
    Approximate,
}

/// What scores chunks anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rescorer {
    /// Learned sparse vectors, with queries as the model encodes them.
    Sparse,
    /// Learned sparse vectors, with inference-free queries, as TILDEv2 does.
    SparseInferenceFree,
    /// Late interaction, by the token vectors as they are stored.
    Late,
}

/// What judges the passages of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reranking {
    /// An encoder that reads question and passage together.
    CrossEncoder,
    /// How likely a language model finds the question after the passage.
    QueryLikelihood,
    /// Whether a language model says yes when asked whether the passage answers the question.
    YesNo,
    /// A language model that tells which of two passages is better.
    Pairwise,
    /// A language model that tells which of a few passages is best.
    Setwise,
    /// A language model that writes all passages of a window in order.
    Listwise,
    /// The same prompt, by what the model would write first.
    First,
    /// Where a language model's attention goes from the question.
    InContext,
    /// The words that passage and question share.
    WordOverlap,
}

/// How passages are judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RerankSpec {
    /// By what; must be said.
    pub by: Reranking,
    /// The model's name or folder; empty, the default language model, unless said. A cross-encoder must be named.
    pub model: String,
    /// How many of the first hits are judged; 20 unless said. The others follow as they came.
    pub depth: usize,
    /// How many hits to keep; 100 unless said.
    pub k: usize,
    /// Tokens of a passage that language models read; 160 unless said.
    pub passage_tokens: usize,
    /// Passages in a window of `listwise` and `first`; 20 unless said.
    pub window: usize,
    /// How far such a window moves; 10 unless said.
    pub step: usize,
    /// Passages that `setwise` compares with one; 4 unless said.
    pub children: usize,
    /// How many of the best `pairwise` and `setwise` find; 10 unless said.
    pub top: usize,
    /// The first layer that counts for `in-context`; 0 unless said.
    pub first_layer: usize,
    /// How many layers count from there on; 0, all, unless said.
    pub n_layers: usize,
    /// The most tokens that a question may cost; 0, no limit, unless said.
    pub budget_tokens: usize,
    /// The most milliseconds that a question may take; 0, no limit, unless said.
    pub budget_ms: usize,
}

/// Names for the values of an enumeration, as recipes spell them.
macro_rules! names {
    ($type:ty, $what:literal, { $($value:ident => $name:literal),+ $(,)? }) => {
        impl $type {
            /// The names, as recipes spell them.
            pub const NAMES: [&'static str; [$($name),+].len()] = [$($name),+];
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$value => $name),+ })
            }
        }

        impl FromStr for $type {
            type Err = raglan_core::Error;

            fn from_str(name: &str) -> raglan_core::Result<Self> {
                match name {
                    $($name => Ok(Self::$value),)+
                    _ => Err(raglan_core::Error::Invalid {
                        what: $what,
                        problem: format!("no `{name}`; there are {}", Self::NAMES.join(", ")),
                    }),
                }
            }
        }
    };
}

names!(DenseMode, "dense mode", {
    Auto => "auto", Exact => "exact", Graph => "graph", Int8 => "int8", OneBit => "one-bit",
});
names!(SparseQueries, "kind of sparse queries", { Encoded => "encoded", InferenceFree => "inference-free" });
names!(SparseMode, "sparse mode", { Exact => "exact", Approximate => "approximate" });
names!(Rescorer, "rescorer", {
    Sparse => "sparse", SparseInferenceFree => "sparse-inference-free", Late => "late",
});

names!(Reranking, "way to rerank", {
    CrossEncoder => "cross-encoder", QueryLikelihood => "query-likelihood", YesNo => "yes-no", Pairwise => "pairwise",
    Setwise => "setwise", Listwise => "listwise", First => "first", InContext => "in-context",
    WordOverlap => "word-overlap",
});

/// How an answer is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSpec {
    /// The most tokens of an answer; 256 unless said.
    pub max_tokens: usize,
    /// 0 is greedy decoding; 0 unless said.
    pub temperature: f32,
    /// Sample from this many likeliest tokens; 0, no limit, unless said.
    pub top_k: usize,
    /// Sample from the likeliest tokens of this total probability, above 0; 1, no limit, unless said.
    pub top_p: f32,
    /// Sample from tokens at least this likely by the measure of the likeliest; 0, no limit, unless said.
    pub min_p: f32,
    /// Divides the logits of tokens already there; 1, no penalty, unless said.
    pub repetition_penalty: f32,
    /// Seed of the sampling; 0 unless said.
    pub seed: u64,
    /// The most tokens of prompt and answer together, and more than `max_tokens`; 0, as many as the generator takes by
    /// default, unless said. The model's own context is a limit too.
    pub context_tokens: usize,
    /// The system prompt; empty, the generator's own, unless said.
    pub system: String,
}

impl Default for GenerateSpec {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            context_tokens: 0,
            system: String::new(),
        }
    }
}

/// How many inputs a kind of stage takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arity {
    pub(super) least: usize,
    pub(super) most: usize,
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (1, 1) => f.write_str("one input"),
            (least, usize::MAX) => write!(f, "at least {least} inputs"),
            (least, most) => write!(f, "{least} to {most} inputs"),
        }
    }
}

impl StageSpec {
    /// The kinds' names, as `use` takes them.
    pub const KINDS: [&'static str; 13] = [
        "bm25", "dense", "expand", "fuse", "gate", "generate", "late", "mmr", "read", "rerank", "rescore", "select",
        "sparse",
    ];

    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bm25 { .. } => "bm25",
            Self::Dense { .. } => "dense",
            Self::Expand { .. } => "expand",
            Self::Fuse { .. } => "fuse",
            Self::Gate { .. } => "gate",
            Self::Generate(_) => "generate",
            Self::Late { .. } => "late",
            Self::MarginalRelevance { .. } => "mmr",
            Self::Read => "read",
            Self::Rescore { .. } => "rescore",
            Self::Rerank(_) => "rerank",
            Self::Select { .. } => "select",
            Self::Sparse { .. } => "sparse",
        }
    }

    /// What each of its inputs must be.
    pub fn input(&self) -> Port {
        match self {
            Self::Bm25 { .. } | Self::Dense { .. } | Self::Sparse { .. } | Self::Late { .. } => Port::Query,
            Self::Fuse { .. }
            | Self::Gate { .. }
            | Self::MarginalRelevance { .. }
            | Self::Read
            | Self::Rescore { .. }
            | Self::Rerank(_)
            | Self::Select { .. } => Port::Ranking,
            Self::Expand { .. } | Self::Generate(_) => Port::Context,
        }
    }

    /// What it gives.
    pub fn output(&self) -> Port {
        match self {
            Self::Read | Self::Expand { .. } => Port::Context,
            Self::Generate(_) => Port::Answer,
            _ => Port::Ranking,
        }
    }

    pub(super) fn arity(&self) -> Arity {
        match self {
            Self::Fuse { .. } => Arity { least: 2, most: usize::MAX },
            Self::Gate { .. } => Arity { least: 1, most: usize::MAX },
            _ => Arity { least: 1, most: 1 },
        }
    }
}
