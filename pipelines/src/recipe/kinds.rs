//! The table of kinds of stages.
//!
//! An entry says all that is known of a kind but for how it works, which is an arm of `run.rs`:
//!
//! ```text
//! /// What it does.
//! Variant(Struct) = "name": Takes => Gives, HOW_MANY, PartThatItNeeds,
//! bodies ["names of the recipes inside of it"],
//! needs { /// A parameter that must be said.
//!     key: Type, limits; }
//! takes { /// A parameter with its usual value.
//!     key: Type = usual, limits; }
//! ```
//!
//! Parser, canonical form, hash, JSON Schema and reference follow from it. Entries go by name, and so do the kinds
//! wherever they are listed.

use serde::{Deserialize, Serialize};

use super::kind::{Arity, Flow, Kind, default_without_needs, key_of, kinds, limits, plain_without_bodies, text_of};
use super::parameter::{FINITE, Lines, MOST, Parameter, ParameterReference, Table, names};
use super::{Measure, Port, RecipeError};
use crate::{Fusion, PassageOrder};

kinds! {
    /// Finds chunks by BM25.
    Bm25(Bm25Spec) = "bm25": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// The saturation of the term frequency.
        k1: f32 = 1.2, 0.0..=1e6;
        /// How much a chunk's length counts.
        b: f32 = 0.75, 0.0..=1.0;
    }

    /// Sends each question one of two ways: `then` when its measure is high enough, else `else`. Without `else`, such a
    /// question goes on as it came.
    Branch(BranchSpec) = "branch": Any => Any, ONE, Nothing,
    bodies ["then", "else"],
    needs {
        /// What is measured of the input.
        measure: Measure;
        /// The least measure of what goes the way `then`.
        at_least: f32, FINITE;
    }
    takes {}

    /// Lets the stages inside share a budget: models stop where it ends, loops and further attempts do not begin after it.
    Budget(BudgetSpec) = "budget": Any => Any, ONE, Nothing,
    bodies ["do"],
    needs {}
    takes {
        /// The most tokens a question that models may read and write; the questions of a batch share theirs. 0 is no limit.
        tokens: usize = 0, 0..=MOST;
        /// The most milliseconds a question; the questions of a batch share theirs. 0 is no limit.
        ms: usize = 0, 0..=MOST;
    }

    /// Keeps what the stages inside gave, by a hash of the question and the input, as long as the pipeline lives. Failed
    /// answers are not kept.
    Cached(CachedSpec) = "cached": Any => Any, ONE, Nothing,
    bodies ["do"],
    needs {}
    takes {
        /// How many results are kept; the one that was not used for the longest time goes first.
        entries: usize = 1000, 1..=MOST;
    }

    /// Finds chunks by the inner product of embeddings.
    Dense(DenseSpec) = "dense": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// How to look.
        mode: DenseMode = DenseMode::Auto;
    }

    /// Lets the stages inside find chunks for each query of a question, and fuses what they find.
    Each(EachSpec) = "each": Queries => Ranking, ONE, Nothing,
    bodies ["do"],
    needs {}
    takes {
        /// How scores of the queries' rankings become comparable.
        fusion: Fusion = Fusion::MIN_MAX;
        /// How much the first query, as a rule the question itself, counts beside each other one; 0, only where there is
        /// no other.
        first_weight: f32 = 1.0, 0.0..=1e6;
        /// How many hits of each query count.
        depth: usize = 100, 1..=MOST;
        /// How many hits to keep.
        k: usize = 10, 1..=MOST;
    }

    /// Puts examples of right and wrong answers to questions like the one that is asked beside the passages; see
    /// [`examples`](crate::examples).
    Examples(ExamplesSpec) = "examples": Context => Context, ONE, Examples,
    bodies [],
    needs {
        /// A file of examples, one JSON object with `question`, `correct` and `incorrect` a line.
        file: String;
    }
    takes {
        /// How many are shown.
        n: usize = 1, 1..=MOST;
    }

    /// Adds what stands around the passages; see [`expand`](crate::expand).
    Expand(ExpandSpec) = "expand": Context => Context, ONE, Store,
    bodies [],
    needs {}
    takes {
        /// How many chunks before and after a passage.
        neighbours: usize = 1, 0..=MOST;
        /// From what share of its chunks on a section is taken whole; 2 is never.
        merge: f32 = 2.0, 0.0..=2.0;
    }

    /// Gives what `try` gives, and for the questions on which that fails, or whose measure of it is too low, what `else`
    /// gives. Without `else`, such a question goes on as it came.
    Fallback(FallbackSpec) = "fallback": Any => Any, ONE, Nothing,
    bodies ["try", "else"],
    needs {}
    takes {
        /// What is measured of what `try` gives.
        measure: Measure = Measure::Results;
        /// The least measure that is good enough.
        at_least: f32 = 1.0, FINITE;
    }

    /// Keeps the sentences of passages that are nearest to the question; see [`focus`](crate::focus).
    Focus(FocusSpec) = "focus": Context => Context, ONE, Encoder,
    bodies [],
    needs {}
    takes {
        /// How many of the first passages are read.
        passages: usize = 80, 1..=MOST;
        /// How many of their sentences are kept.
        sentences: usize = 80, 1..=MOST;
    }

    /// Asks on from what was found, without a model: the question and the words of its first passages; see
    /// [`follow`](crate::follow).
    Follow(FollowSpec) = "follow": Context => Query, ONE, Nothing,
    bodies [],
    needs {}
    takes {
        /// How many passages the new question is made of.
        passages: usize = 2, 1..=MOST;
        /// How many words of each.
        words: usize = 30, 0..=MOST;
    }

    /// Makes one ranking out of several whose scores cannot be compared; see [`Fusion`].
    Fuse(FuseSpec) = "fuse": Ranking => Ranking, TWO_OR_MORE, Nothing,
    bodies [],
    needs {}
    takes {
        /// How scores become comparable.
        fusion: Fusion = Fusion::MIN_MAX;
        /// One an input; empty, the method's own.
        weights: Vec<f32> = Vec::new(), 0.0..=f32::MAX;
        /// How many hits of each input count.
        depth: usize = 100, 1..=MOST;
        /// How many hits to keep.
        k: usize = 10, 1..=MOST;
    }

    /// Keeps the chunks of the first input that at least one of the further inputs scores high enough; when there are
    /// none, its own scores count.
    Gate(GateSpec) = "gate": Ranking => Ranking, ONE_OR_MORE, Nothing,
    bodies [],
    needs {
        /// The least score for each input of evidence.
        min_scores: Vec<f32>, FINITE;
    }
    takes {}

    /// Finds chunks by the inner product of embeddings whose components the query's words weigh, by the word embeddings of
    /// the index's encoder, which must be of the BERT family (after LexSemBridge).
    GatedDense(GatedDenseSpec) = "gated-dense": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// How evenly components weigh: the higher, the more like `dense`.
        temperature: f32 = 1.0, 0.001..=1e6;
    }

    /// Writes answers.
    Generate(GenerateSpec) = "generate": Context => Answer, ONE, Generator,
    bodies [],
    needs {}
    takes {
        /// The most tokens of an answer.
        max_tokens: usize = 256, 1..=MOST;
        /// 0 is greedy decoding.
        temperature: f32 = 0.0, 0.0..=100.0;
        /// Sample from this many likeliest tokens; 0 is no limit.
        top_k: usize = 0, 0..=MOST;
        /// Sample from the likeliest tokens of this total probability; 1 is no limit.
        top_p: f32 = 1.0, f32::MIN_POSITIVE..=1.0;
        /// Sample from tokens at least this likely by the measure of the likeliest; 0 is no limit.
        min_p: f32 = 0.0, 0.0..=1.0;
        /// Divides the logits of tokens already there; 1 is no penalty.
        repetition_penalty: f32 = 1.0, 0.01..=100.0;
        /// Seed of the sampling.
        seed: u64 = 0, 0..=i64::MAX as u64;
        /// The most tokens of prompt and answer together, and more than `max_tokens`; 0, as many as the generator takes
        /// by default. The model's own context is a limit too.
        context_tokens: usize = 0, 0..=MOST;
        /// The system prompt; empty, the generator's own.
        system: String = String::new();
    }

    /// Finds chunks by a walk over the graph of entities and chunks, from the entities of the question and from the chunks that
    /// vectors find, or words in an index without vectors (HippoRAG). Without entities these are what is found.
    Graph(GraphSpec) = "graph": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// At how many chunks, the best, the walk begins besides.
        depth: usize = 1000, 1..=MOST;
        /// At how many entities it begins at most: those that the fewest chunks name.
        seeds: usize = 5, 0..=MOST;
        /// What the best of the chunks weighs as a beginning, where an entity that one chunk names weighs 1.
        chunk_weight: f32 = 0.05, 0.0..=1e6;
        /// How likely the walk goes on, and does not begin again.
        damping: f32 = 0.5, 0.0..=0.99;
    }

    /// Finds chunks by late interaction of token vectors.
    Late(LateSpec) = "late": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
    }

    /// Repeats the stages inside: a question leaves when its measure is high enough, which is looked at before each round.
    Loop(LoopSpec) = "loop": Any => Any, ONE, Nothing,
    bodies ["do"],
    needs {
        /// What is measured of what goes round.
        until: Measure;
        /// From what measure on a question is done.
        at_least: f32, FINITE;
        /// The most rounds.
        times: usize, 1..=1000;
    }
    takes {}

    /// Chooses hits that are good and unlike each other; see [`mmr`](crate::mmr).
    MarginalRelevance(MarginalRelevanceSpec) = "mmr": Ranking => Ranking, ONE, Vectors,
    bodies [],
    needs {}
    takes {
        /// How much relevance counts against novelty.
        lambda: f32 = 0.7, 0.0..=1.0;
        /// How many hits to choose.
        k: usize = 10, 1..=MOST;
    }

    /// Finds chunks by n-grams that stand in them: the question's own, and those that a language model says behind the question
    /// when it is held to the corpus (SEAL).
    Ngrams(NgramsSpec) = "ngrams": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// The most tokens of the question's own n-grams.
        own: usize = 3, 0..=256;
        /// How many n-grams the model follows at a time; 0 asks no model.
        beams: usize = 0, 0..=1000;
        /// The most tokens of the model's n-grams.
        length: usize = 10, 1..=256;
        /// What an n-gram's weight, by how much likelier it is behind the question, is raised to.
        exponent: f32 = 2.0, 0.01..=16.0;
        /// Occurrences that are added to an n-gram's own; with as few as a thousand tokens in the corpus, less serves better.
        smoothing: f32 = 5.0, 0.01..=1e6;
        /// How much less an n-gram counts that repeats the tokens of heavier ones.
        repetition: f32 = 0.8, 0.0..=1.0;
        /// N-grams with more occurrences find no chunks as long as there are others.
        max_hits: usize = 1500, 1..=MOST;
    }

    /// Finds chunks by the questions that were written for them; see the command `raglan questions`.
    Questions(QuestionsSpec) = "questions": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {
        /// The file of questions.
        file: String;
    }
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
    }

    /// Reads the texts of chunks.
    Read(ReadSpec) = "read": Ranking => Context, ONE, Store,
    bodies [],
    needs {}
    takes {}

    /// Puts passages in another order, for readers that do not look everywhere alike; see [`reorder`](crate::reorder).
    Reorder(ReorderSpec) = "reorder": Context => Context, ONE, Nothing,
    bodies [],
    needs {}
    takes {
        /// Which order.
        order: PassageOrder = PassageOrder::EndsFirst;
    }

    /// Lets a model that reads passages judge the first hits.
    #[derive(Eq, Hash)]
    Rerank(RerankSpec) = "rerank": Ranking => Ranking, ONE, Reranker,
    bodies [],
    needs {
        /// By what.
        by: Reranking;
    }
    takes {
        /// The model's name or folder; empty, the default language model. A cross-encoder must be named.
        model: String = String::new();
        /// How many of the first hits are judged. The others follow as they came.
        depth: usize = 20, 1..=MOST;
        /// How many hits to keep.
        k: usize = 100, 1..=MOST;
        /// Tokens of a passage that language models read.
        passage_tokens: usize = 160, 1..=MOST;
        /// Passages in a window of `listwise` and `first`.
        window: usize = 20, 2..=26;
        /// How far such a window moves; 0, ten passages, or all of a smaller window.
        step: usize = 0, 0..=26;
        /// Passages that `setwise` compares with one.
        children: usize = 4, 1..=25;
        /// How many of the best `pairwise` and `setwise` find.
        top: usize = 10, 1..=MOST;
        /// The first layer that counts for `in-context` and `answer-attention`.
        first_layer: usize = 0, 0..=MOST;
        /// How many layers count from there on; 0, all.
        n_layers: usize = 0, 0..=MOST;
        /// Whether `query-likelihood` and `in-context` read each chunk once for all questions and keep its keys and values
        /// beside the index. `query-likelihood` scores the same then; `in-context` reads the chunks of a question with one
        /// another otherwise, and scores other ones.
        keep: bool = false;
        /// The most tokens that a question may cost; 0, no limit.
        budget_tokens: usize = 0, 0..=MOST;
        /// The most milliseconds that a question may take; 0, no limit.
        budget_ms: usize = 0, 0..=MOST;
    }

    /// Scores chunks anew by what an index keeps of them.
    Rescore(RescoreSpec) = "rescore": Ranking => Ranking, ONE, Reranker,
    bodies [],
    needs {
        /// By what.
        by: Rescorer;
    }
    takes {
        /// How many hits to score.
        depth: usize = 100, 1..=MOST;
        /// How many of them to keep.
        k: usize = 100, 1..=MOST;
    }

    /// Tries the stages inside again when a part of them fails, or a question gets no answer.
    Retry(RetrySpec) = "retry": Any => Any, ONE, Nothing,
    bodies ["do"],
    needs {}
    takes {
        /// How often they are tried in all.
        attempts: usize = 3, 1..=100;
        /// Milliseconds before the second attempt; before each further one, twice as many as before.
        wait_ms: usize = 100, 0..=MOST;
        /// Milliseconds after which no attempt begins, and stages that look at the budget stop; 0 is no limit.
        deadline_ms: usize = 0, 0..=MOST;
    }

    /// Makes of a question itself and other texts to search with, which a model writes; see [`rewrite`](crate::rewrite).
    Rewrite(RewriteSpec) = "rewrite": Query => Queries, ONE, Rewriter,
    bodies [],
    needs {
        /// Which texts.
        by: Rewriting;
    }
    takes {
        /// The language model's name or folder; empty, the default.
        model: String = String::new();
        /// How many texts, at most; `keywords` give one.
        n: usize = 3, 1..=100;
        /// The most tokens of a `hypothetical-document`.
        max_tokens: usize = 96, 1..=MOST;
        /// How a `hypothetical-document` and `paraphrases` are drawn; 0 takes the likeliest words, and one text then.
        temperature: f32 = 0.7, 0.0..=100.0;
        /// Seed of the sampling.
        seed: u64 = 0, 0..=i64::MAX as u64;
        /// A file of meta-knowledge, for `meta-knowledge`.
        file: String = String::new();
        /// The most tokens that a question may cost; 0, no limit.
        budget_tokens: usize = 0, 0..=MOST;
        /// The most milliseconds that a question may take; 0, no limit.
        budget_ms: usize = 0, 0..=MOST;
    }

    /// Keeps the first hits.
    Select(SelectSpec) = "select": Ranking => Ranking, ONE, Nothing,
    bodies [],
    needs {}
    takes {
        /// How many hits to keep.
        k: usize = 10, 1..=MOST;
    }

    /// Finds chunks by the inner product of learned sparse vectors.
    Sparse(SparseSpec) = "sparse": Query => Ranking, ONE, Retriever,
    bodies [],
    needs {}
    takes {
        /// How many chunks to find.
        k: usize = 100, 1..=MOST;
        /// How queries get their vectors.
        queries: SparseQueries = SparseQueries::Encoded;
        /// How to look.
        mode: SparseMode = SparseMode::Exact;
    }

    /// Makes of a question itself and, when it has several, its sentences; see [`split`](crate::split).
    Split(SplitSpec) = "split": Query => Queries, ONE, Nothing,
    bodies [],
    needs {}
    takes {}

    /// Answers in steps: a language model is asked what to look for next, the stages inside find it, and what they find is
    /// read with all that was found before; see [`steps`](crate::steps).
    Steps(StepsSpec) = "steps": Query => Answer, ONE, StepwiseGenerator,
    bodies ["do"],
    needs {
        /// By which strategy.
        by: Stepping;
    }
    takes {
        /// The language model's name or folder; empty, the default.
        model: String = String::new();
        /// How many passages each search adds; of `search-plan`, documents.
        passages: usize = 4, 1..=MOST;
        /// The most steps: follow-up questions, thoughts, rounds of planning, attempts after the first, or sentences.
        max_steps: usize = 5, 1..=1000;
        /// How many queries a round of `search-plan` has.
        queries: usize = 3, 1..=1000;
        /// What shows `adaptive` that an answer is not to be trusted.
        trigger: RetrievalTrigger = RetrievalTrigger::AnyToken;
        /// From where on it does; and the probability of a token below which `flare` looks for its sentence, at most 1.
        threshold: f32 = 0.8, FINITE;
        /// How many answers `entropy` and `disagreement` draw.
        samples: usize = 5, 2..=100;
        /// How they are drawn.
        temperature: f32 = 0.7, 0.01..=100.0;
        /// Seed of the sampling.
        seed: u64 = 0, 0..=i64::MAX as u64;
        /// The least share of the answer's words, but for the question's, that the passages must have; an answer with
        /// less is refused. 0 refuses none.
        borne_out: f32 = 0.0, 0.0..=1.0;
        /// The most words of a passage that are read.
        passage_words: usize = 1024, 1..=MOST;
        /// The most tokens of the answer.
        answer_tokens: usize = 64, 1..=MOST;
        /// The most tokens of what else the model writes at once.
        step_tokens: usize = 64, 1..=MOST;
        /// The most tokens of a prompt and what is written behind it; 0, as many as the model reads.
        context_tokens: usize = 0, 0..=MOST;
        /// The most tokens that a question may cost; 0, no limit.
        budget_tokens: usize = 0, 0..=MOST;
        /// The most milliseconds before the answer is written; 0, no limit.
        budget_ms: usize = 0, 0..=MOST;
    }

    /// Chooses passages that together cover what was found; see [`submodular`](crate::submodular).
    Submodular(SubmodularSpec) = "submodular": Context => Context, ONE, Vectors,
    bodies [],
    needs {}
    takes {
        /// The most tokens of all passages together.
        budget: usize = 1024, 1..=MOST;
        /// How much of a passage's likeness to all others is worth having.
        saturation: f32 = 0.25, 0.0..=1.0;
        /// How much it counts that passages are of many documents, beside that they cover all.
        diversity: f32 = 1.0, 0.0..=1e6;
    }

    /// Seeks the list of passages that is best as a whole; see [`tree_search`](crate::tree_search).
    TreeSearch(TreeSearchSpec) = "tree-search": Context => Context, ONE, Scorer,
    bodies [],
    needs {}
    takes {
        /// What scores a list of passages.
        by: SetScoring = SetScoring::Cosine;
        /// The model's name or folder; empty, the default language model. A cross-encoder must be named.
        model: String = String::new();
        /// The most tokens of all passages together.
        budget: usize = 1024, 1..=MOST;
        /// How many of the first passages are candidates.
        candidates: usize = 60, 1..=MOST;
        /// How many lists are gone on from.
        iterations: usize = 10, 1..=MOST;
        /// How much lists that were seldom gone on from are preferred.
        exploration: f32 = 2.4, 0.0..=1e6;
        /// How much the tokens of a list count against it.
        cost: f32 = 0.1, 0.0..=1e6;
    }
}

/// A kind of stage as reference and schema tell of it.
#[derive(Clone, Debug, PartialEq)]
pub struct KindReference {
    /// What `use` calls it.
    pub name: &'static str,
    /// What it does.
    pub doc: String,
    /// What each of its inputs must be; `None` when that may be anything.
    pub input: Option<Port>,
    /// What it gives; `None` when that is what its bodies give.
    pub output: Option<Port>,
    /// How many inputs it takes.
    pub arity: Arity,
    /// The names of the recipes inside of it.
    pub bodies: &'static [&'static str],
    /// Its parameters, but for `use`, `input` and the bodies.
    pub parameters: Vec<ParameterReference>,
}

/// What a kind of stage needs from outside; see [`Part`](super::Part).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// All is in the recipe.
    Nothing,
    /// A [`Retriever`](raglan_core::Retriever).
    Retriever,
    /// A [`Reranker`](raglan_core::Reranker).
    Reranker,
    /// [`ChunkVectors`](raglan_core::ChunkVectors).
    Vectors,
    /// A [`ChunkStore`](raglan_core::ChunkStore).
    Store,
    /// A [`Generator`](raglan_core::Generator).
    Generator,
    /// A [`QueryRewriter`](raglan_core::QueryRewriter).
    Rewriter,
    /// An [`ExampleSource`](raglan_core::ExampleSource).
    Examples,
    /// An [`Encoder`](raglan_core::Encoder) of dense vectors.
    Encoder,
    /// A [`PassageSetScorer`](raglan_core::PassageSetScorer).
    Scorer,
    /// A [`StepwiseGenerator`](raglan_core::StepwiseGenerator).
    StepwiseGenerator,
}

impl std::fmt::Display for PartKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Retriever => "a retriever",
            Self::Reranker => "a reranker",
            Self::Vectors => "vectors",
            Self::Store => "a store",
            Self::Generator => "a generator",
            Self::Rewriter => "a query rewriter",
            Self::Examples => "a source of examples",
            Self::Encoder => "an encoder",
            Self::Scorer => "a scorer of lists of passages",
            Self::StepwiseGenerator => "a stepwise generator",
        })
    }
}

/// A mistake that shows only when several parameters, or the inputs, are seen together.
pub(super) enum Discord {
    /// A parameter that these others need.
    Missing(&'static str),
    /// A parameter with a value that does not fit the others.
    Misfit(&'static str, String),
}

impl StageSpec {
    /// A measure among the parameters: its key, itself, and the port of what is measured.
    pub(super) fn measured(&self, takes: Port, gives: Port) -> Option<(&'static str, Measure, Port)> {
        match self {
            Self::Branch(spec) => Some(("measure", spec.measure, takes)),
            Self::Loop(spec) => Some(("until", spec.until, takes)),
            Self::Fallback(spec) => Some(("measure", spec.measure, gives)),
            _ => None,
        }
    }

    /// The name or folder of the cross-encoder that scores, if one does.
    pub fn cross_encoder(&self) -> Option<&str> {
        match self {
            Self::Rerank(RerankSpec { by: Reranking::CrossEncoder, model, .. })
            | Self::TreeSearch(TreeSearchSpec { by: SetScoring::CrossEncoder, model, .. }) => Some(model),
            _ => None,
        }
    }

    /// The name or folder of the model that judges, rewrites or takes steps in the stage, if one does; empty, the default
    /// language model.
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Rerank(RerankSpec { by: Reranking::WordOverlap, .. })
            | Self::TreeSearch(TreeSearchSpec { by: SetScoring::Cosine, .. }) => None,
            Self::Rerank(RerankSpec { model, .. })
            | Self::Rewrite(RewriteSpec { model, .. })
            | Self::Steps(StepsSpec { model, .. })
            | Self::TreeSearch(TreeSearchSpec { model, .. }) => Some(model),
            _ => None,
        }
    }

    /// What the stages inside take, when the stage takes `takes`.
    pub(super) fn body_takes(&self, takes: Port) -> Port {
        if let Self::Each(_) = self { Port::Query } else { takes }
    }

    /// What the stages inside must give, when the stage takes `takes` and gives `gives`.
    pub(super) fn body_gives(&self, takes: Port, gives: Port) -> Port {
        match self {
            Self::Loop(_) => takes,
            Self::Steps(_) => Port::Ranking,
            _ => gives,
        }
    }

    /// Checks the parameters against each other and the number of inputs, and fills in what depends on them.
    pub(super) fn settle(&mut self, n_inputs: usize) -> Result<(), Discord> {
        let lengths = |key, found: usize, expected: usize| {
            let numbers = if expected == 1 { "number" } else { "numbers" };
            let problem = || format!("needs {expected} {numbers}, one for each input it judges, not {found}");
            if found == expected { Ok(()) } else { Err(Discord::Misfit(key, problem())) }
        };
        match self {
            Self::Fuse(FuseSpec { fusion, weights, .. }) => {
                if weights.is_empty() {
                    *weights = fusion.default_weights(n_inputs);
                }
                lengths("weights", weights.len(), n_inputs)?;
                if weights.iter().all(|&weight| weight == 0.0) {
                    return Err(Discord::Misfit("weights", "must have one above 0".to_owned()));
                }
                match fusion {
                    Fusion::MinMax { minima } if !minima.is_empty() => lengths("minima", minima.len(), n_inputs),
                    _ => Ok(()),
                }
            }
            Self::Each(EachSpec { fusion: Fusion::MinMax { minima }, .. }) if !minima.is_empty() => {
                Err(Discord::Misfit("minima", "must be empty: queries have no places of their own".to_owned()))
            }
            Self::Gate(GateSpec { min_scores }) => {
                lengths("min_scores", min_scores.len(), n_inputs.saturating_sub(1).max(1))
            }
            Self::Rerank(spec) => {
                if spec.by == Reranking::CrossEncoder && spec.model.is_empty() {
                    return Err(Discord::Missing("model"));
                }
                if let Some((key, judges)) = spec.unused() {
                    let judges: Vec<_> = judges.iter().map(|judge| format!("`{judge}`")).collect();
                    let problem = format!("is for {}; `{}` does not use it", judges.join(" and "), spec.by);
                    return Err(Discord::Misfit(key, problem));
                }
                if spec.step == 0 {
                    spec.step = spec.window.min(10);
                }
                if spec.step > spec.window {
                    return Err(Discord::Misfit("step", format!("must be at most `window`, {}", spec.window)));
                }
                Ok(())
            }
            Self::Rewrite(spec) if spec.by == Rewriting::MetaKnowledge && spec.file.is_empty() => {
                Err(Discord::Missing("file"))
            }
            Self::Steps(StepsSpec { by: Stepping::Flare, threshold, .. }) if !(0.0..=1.0).contains(threshold) => {
                Err(Discord::Misfit("threshold", "must be a probability, from 0 to 1, for `flare`".to_owned()))
            }
            Self::Steps(spec) if (1..=spec.answer_tokens.max(spec.step_tokens)).contains(&spec.context_tokens) => {
                let problem = "must be more than `answer_tokens` and `step_tokens`, or 0".to_owned();
                Err(Discord::Misfit("context_tokens", problem))
            }
            Self::TreeSearch(spec) if spec.by == SetScoring::CrossEncoder && spec.model.is_empty() => {
                Err(Discord::Missing("model"))
            }
            Self::Generate(spec) if (1..=spec.max_tokens).contains(&spec.context_tokens) => {
                let problem = format!("must be more than `max_tokens`, {}, or 0", spec.max_tokens);
                Err(Discord::Misfit("context_tokens", problem))
            }
            _ => Ok(()),
        }
    }
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

impl RerankSpec {
    /// A parameter that is not as usual though the judge does not use it, and the judges that do. Recipes spell usual ones
    /// whatever judges.
    fn unused(&self) -> Option<(&'static str, &'static [Reranking])> {
        use Reranking::{AnswerAttention, First, InContext, Listwise, Pairwise, QueryLikelihood, Setwise};
        let usual = Self::new(self.by);
        let parameters: [(_, _, &'static [Reranking]); 6] = [
            ("keep", self.keep != usual.keep, &[QueryLikelihood, InContext]),
            ("first_layer", self.first_layer != usual.first_layer, &[InContext, AnswerAttention]),
            ("n_layers", self.n_layers != usual.n_layers, &[InContext, AnswerAttention]),
            ("window", self.window != usual.window, &[Listwise, First]),
            ("children", self.children != usual.children, &[Setwise]),
            ("top", self.top != usual.top, &[Pairwise, Setwise]),
        ];
        let unused = parameters.into_iter().find(|(_, is_changed, judges)| *is_changed && !judges.contains(&self.by));
        unused.map(|(key, _, judges)| (key, judges))
    }
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
    /// The same in the prompt that the answer is written from, which is not read again then.
    AnswerAttention,
    /// The words that passage and question share.
    WordOverlap,
}

/// Which texts are searched with for a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rewriting {
    /// The question with keywords behind it.
    Keywords,
    /// Passages as they might answer it (HyDE).
    HypotheticalDocument,
    /// The same in other words.
    Paraphrases,
    /// The simpler questions that it asks at once.
    Decomposition,
    /// Questions in the light of what the collection is about.
    MetaKnowledge,
}

/// How a question is answered in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stepping {
    /// By follow-up questions, in a grammar that the model is held to (IterDRAG, Self-Ask).
    SelfAsk,
    /// By a chain of thought, each sentence of which is searched for (IRCoT).
    Ircot,
    /// By queries that the model plans over what it has read (FRAMES).
    SearchPlan,
    /// From memory first, and from passages only while the answer is not to be trusted.
    Adaptive,
    /// By sentences, those with an unlikely token written anew over what they find (FLARE).
    Flare,
}

/// What shows that an answer is not to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetrievalTrigger {
    /// Its first token is less likely than the threshold.
    FirstToken,
    /// One of its tokens is less likely than the threshold.
    AnyToken,
    /// The mean of `−ln p` over its tokens is more than the threshold.
    MeanLoss,
    /// It is the word RETRIEVE, or the token `<RET>` of a model that has it. There is no threshold.
    Asked,
    /// Asked whether it is sure, the model's log-odds of yes against no are less than the threshold.
    Unsure,
    /// The mean of `−ln p` over the tokens of answers that are drawn is more than the threshold.
    Entropy,
    /// The share of the commonest of answers that are drawn is less than the threshold.
    Disagreement,
}

/// What scores lists of passages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetScoring {
    /// The index's dense encoder.
    Cosine,
    /// An encoder that reads question and passages together.
    CrossEncoder,
    /// How likely a language model finds the question after the passages.
    QueryLikelihood,
    /// Whether a language model says yes when asked whether the passages answer the question.
    YesNo,
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
    AnswerAttention => "answer-attention",
    WordOverlap => "word-overlap",
});
names!(Rewriting, "way to rewrite", {
    Keywords => "keywords", HypotheticalDocument => "hypothetical-document", Paraphrases => "paraphrases",
    Decomposition => "decomposition", MetaKnowledge => "meta-knowledge",
});
names!(Stepping, "strategy", {
    SelfAsk => "self-ask", Ircot => "ircot", SearchPlan => "search-plan", Adaptive => "adaptive", Flare => "flare",
});
names!(RetrievalTrigger, "trigger", {
    FirstToken => "first-token", AnyToken => "any-token", MeanLoss => "mean-loss", Asked => "asked", Unsure => "unsure",
    Entropy => "entropy", Disagreement => "disagreement",
});
names!(SetScoring, "scorer", {
    Cosine => "cosine", CrossEncoder => "cross-encoder", QueryLikelihood => "query-likelihood", YesNo => "yes-no",
});
names!(PassageOrder, "order", { EndsFirst => "ends-first", BestLast => "best-last", Document => "document" });
