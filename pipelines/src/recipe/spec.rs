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
    /// Answers, `Vec<Answer>`.
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
    },
    /// `dense`: Query → Ranking, by the inner product of embeddings.
    Dense {
        /// How many chunks to find; 100 unless said.
        k: usize,
        /// How to look; `auto` unless said.
        mode: DenseMode,
    },
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
    /// Every vector is compared by its bytes, and the best once more.
    Int8,
    /// Every vector is compared by its bits, and the best once more.
    OneBit,
}

impl DenseMode {
    /// The modes' names.
    pub const NAMES: [&'static str; 5] = ["auto", "exact", "graph", "int8", "one-bit"];
}

impl fmt::Display for DenseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Exact => "exact",
            Self::Graph => "graph",
            Self::Int8 => "int8",
            Self::OneBit => "one-bit",
        })
    }
}

impl FromStr for DenseMode {
    type Err = raglan_core::Error;

    fn from_str(name: &str) -> raglan_core::Result<Self> {
        match name {
            "auto" => Ok(Self::Auto),
            "exact" => Ok(Self::Exact),
            "graph" => Ok(Self::Graph),
            "int8" => Ok(Self::Int8),
            "one-bit" => Ok(Self::OneBit),
            _ => Err(raglan_core::Error::Invalid {
                what: "dense mode",
                problem: format!("no mode `{name}`; there are {}", Self::NAMES.join(", ")),
            }),
        }
    }
}

/// How an answer is generated.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateSpec {
    /// The most tokens of an answer; 256 unless said.
    pub max_tokens: usize,
    /// 0 is greedy decoding; 0 unless said.
    pub temperature: f32,
    /// Sample from this many likeliest tokens; 0, no limit, unless said.
    pub top_k: usize,
    /// Sample from the likeliest tokens of this total probability; 1, no limit, unless said.
    pub top_p: f32,
    /// Sample from tokens at least this likely by the measure of the likeliest; 0, no limit, unless said.
    pub min_p: f32,
    /// Divides the logits of tokens already there; 1, no penalty, unless said.
    pub repetition_penalty: f32,
    /// Seed of the sampling; 0 unless said.
    pub seed: u64,
    /// The most tokens of passages in the prompt; 0, what the model's window leaves room for, unless said.
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
    pub const KINDS: [&'static str; 7] = ["bm25", "dense", "fuse", "gate", "generate", "read", "select"];

    /// The kind's name.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bm25 { .. } => "bm25",
            Self::Dense { .. } => "dense",
            Self::Fuse { .. } => "fuse",
            Self::Gate { .. } => "gate",
            Self::Generate(_) => "generate",
            Self::Read => "read",
            Self::Select { .. } => "select",
        }
    }

    /// What each of its inputs must be.
    pub fn input(&self) -> Port {
        match self {
            Self::Bm25 { .. } | Self::Dense { .. } => Port::Query,
            Self::Fuse { .. } | Self::Gate { .. } | Self::Read | Self::Select { .. } => Port::Ranking,
            Self::Generate(_) => Port::Context,
        }
    }

    /// What it gives.
    pub fn output(&self) -> Port {
        match self {
            Self::Bm25 { .. } | Self::Dense { .. } | Self::Fuse { .. } | Self::Gate { .. } | Self::Select { .. } => {
                Port::Ranking
            }
            Self::Read => Port::Context,
            Self::Generate(_) => Port::Answer,
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
