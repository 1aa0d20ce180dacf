//! Recipes: pipelines written as TOML, checked before anything is opened.

mod builder;
mod canonical;
mod draw;
mod error;
mod item;
mod kind;
mod kinds;
mod parameter;
mod parse;
mod port;
mod resolve;
mod run;
mod schema;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;

use raglan_core::ContentHash;

use crate::Fusion;
use source::Sources;

pub use builder::{AroundSpec, Node, Nodes, PlainSpec, RecipeBuilder, ports};
pub use error::{RecipeError, RecipeProblem};
pub use item::Measure;
pub use kind::Arity;
pub use kinds::{
    Bm25Spec, BranchSpec, BudgetSpec, CachedSpec, DenseMode, DenseSpec, EachSpec, ExamplesSpec, ExpandSpec,
    FallbackSpec, FocusSpec, FollowSpec, FuseSpec, GateSpec, GatedDenseSpec, GenerateSpec, GraphSpec, KindReference,
    LateSpec, LoopSpec, MarginalRelevanceSpec, NgramsSpec, PartKind, QuestionsSpec, ReadSpec, ReorderSpec, RerankSpec,
    Reranking, RescoreSpec, Rescorer, RetrievalTrigger, RetrySpec, RewriteSpec, Rewriting, SelectSpec, SetScoring,
    SparseMode, SparseQueries, SparseSpec, SplitSpec, StageSpec, Stepping, StepsSpec, SubmodularSpec, TreeSearchSpec,
};
pub use parameter::ParameterReference;
pub use port::Port;
pub use run::{Part, Pipeline, StageRun, Value};

/// A pipeline as a graph of stages whose ports fit.
///
/// As text, each stage is a table `[stage.NAME]` with its kind in `use`, its inputs by name in `input` and its
/// parameters; see [`StageSpec`] for kinds, parameters and defaults. The name `query` stands for the questions, and is
/// what retrievers take unless they say otherwise. The stage that no other uses is the result.
///
/// ```
/// use std::path::Path;
/// use raglan_pipeline::{Port, Recipe};
///
/// let text = r#"
/// [stage.keywords]
/// use = "bm25"
/// k = 50
///
/// [stage.answer]
/// use = "generate"
/// input = "keywords"
/// "#;
/// let error = Recipe::check(Path::new("ask.toml"), text).unwrap_err();
/// assert_eq!(error.to_string(), "\
/// ask.toml:8:9: `answer` takes a Context, but `keywords` gives a Ranking; put a `read` stage between them
///   |
/// 8 | input = \"keywords\"
///   |         ^^^^^^^^^^");
///
/// let search = Recipe::check(Path::new("search.toml"), &text[..text.find("[stage.answer]").unwrap()])?;
/// assert_eq!(search.output(), Port::Ranking);
/// # Ok::<(), raglan_pipeline::RecipeError>(())
/// ```
///
/// Invariant: every input of a stage comes before it and is of the port it takes; the last stage is the only one that
/// is no input; stages that could stand in any order go by name. Only inside of a stage may a recipe be without stages;
/// then it gives what it takes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What it is called in messages; of no account where recipes are compared.
    name: String,
    takes: Port,
    stages: Vec<RecipeStage>,
}

impl PartialEq for Recipe {
    fn eq(&self, other: &Self) -> bool {
        (self.takes, &self.stages) == (other.takes, &other.stages)
    }
}

/// A stage of a [`Recipe`].
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeStage {
    /// The stage's name in the recipe.
    pub name: String,
    /// What it is.
    pub spec: StageSpec,
    /// What it takes, in order.
    pub inputs: Vec<Input>,
    /// The recipes inside of it, in the order of [`StageSpec::bodies`].
    pub bodies: Vec<Recipe>,
    /// What each of its inputs is.
    pub takes: Port,
    /// What it gives.
    pub gives: Port,
}

/// Where an input of a stage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The questions.
    Query,
    /// What the stage takes that the recipe is inside of.
    Body,
    /// The stage at this place of [`Recipe::stages`].
    Stage(usize),
}

impl Recipe {
    /// The shipped recipes by name.
    ///
    /// `hybrid` and `bm25` are the defaults of searching, with and without embeddings, and `ask` and `ask-bm25` those of
    /// asking.
    pub const SHIPPED: [(&'static str, &'static str); 20] = [
        ("hybrid", include_str!("../../recipes/hybrid.toml")),
        ("bm25", include_str!("../../recipes/bm25.toml")),
        ("dense", include_str!("../../recipes/dense.toml")),
        ("dense-hnsw", include_str!("../../recipes/dense-hnsw.toml")),
        ("dense-int8", include_str!("../../recipes/dense-int8.toml")),
        ("dense-1bit", include_str!("../../recipes/dense-1bit.toml")),
        ("splade", include_str!("../../recipes/splade.toml")),
        ("splade-if", include_str!("../../recipes/splade-if.toml")),
        ("late", include_str!("../../recipes/late.toml")),
        ("ngrams", include_str!("../../recipes/ngrams.toml")),
        ("graph", include_str!("../../recipes/graph.toml")),
        ("best", include_str!("../../recipes/best.toml")),
        ("best-judged", include_str!("../../recipes/best-judged.toml")),
        ("fastest", include_str!("../../recipes/fastest.toml")),
        ("multi-hop", include_str!("../../recipes/multi-hop.toml")),
        ("code", include_str!("../../recipes/code.toml")),
        ("long-context", include_str!("../../recipes/long-context.toml")),
        ("ask", include_str!("../../recipes/ask.toml")),
        ("ask-bm25", include_str!("../../recipes/ask-bm25.toml")),
        ("self-ask", include_str!("../../recipes/self-ask.toml")),
    ];

    /// Shipped recipes that show what one stage does: a judge, an augmentation or a strategy of several steps beside what
    /// it stands on. Where a file is named, it is to be written first.
    pub const ABLATIONS: &'static [(&'static str, &'static str)] = &[
        ("ablations/adaptive", include_str!("../../recipes/ablations/adaptive.toml")),
        ("ablations/decomposition", include_str!("../../recipes/ablations/decomposition.toml")),
        ("ablations/examples", include_str!("../../recipes/ablations/examples.toml")),
        ("ablations/flare", include_str!("../../recipes/ablations/flare.toml")),
        ("ablations/focus", include_str!("../../recipes/ablations/focus.toml")),
        ("ablations/gated-dense", include_str!("../../recipes/ablations/gated-dense.toml")),
        ("ablations/hypothetical-document", include_str!("../../recipes/ablations/hypothetical-document.toml")),
        ("ablations/ircot", include_str!("../../recipes/ablations/ircot.toml")),
        ("ablations/keywords", include_str!("../../recipes/ablations/keywords.toml")),
        ("ablations/meta-knowledge", include_str!("../../recipes/ablations/meta-knowledge.toml")),
        ("ablations/mmr", include_str!("../../recipes/ablations/mmr.toml")),
        ("ablations/paraphrases", include_str!("../../recipes/ablations/paraphrases.toml")),
        ("ablations/questions", include_str!("../../recipes/ablations/questions.toml")),
        ("ablations/reorder", include_str!("../../recipes/ablations/reorder.toml")),
        ("ablations/rerank-answer-attention", include_str!("../../recipes/ablations/rerank-answer-attention.toml")),
        ("ablations/rerank-cross-encoder", include_str!("../../recipes/ablations/rerank-cross-encoder.toml")),
        ("ablations/rerank-first", include_str!("../../recipes/ablations/rerank-first.toml")),
        ("ablations/rerank-in-context", include_str!("../../recipes/ablations/rerank-in-context.toml")),
        ("ablations/rerank-listwise", include_str!("../../recipes/ablations/rerank-listwise.toml")),
        ("ablations/rerank-pairwise", include_str!("../../recipes/ablations/rerank-pairwise.toml")),
        ("ablations/rerank-query-likelihood", include_str!("../../recipes/ablations/rerank-query-likelihood.toml")),
        ("ablations/rerank-setwise", include_str!("../../recipes/ablations/rerank-setwise.toml")),
        ("ablations/rerank-word-overlap", include_str!("../../recipes/ablations/rerank-word-overlap.toml")),
        ("ablations/rerank-yes-no", include_str!("../../recipes/ablations/rerank-yes-no.toml")),
        ("ablations/search-plan", include_str!("../../recipes/ablations/search-plan.toml")),
        ("ablations/submodular", include_str!("../../recipes/ablations/submodular.toml")),
        ("ablations/tree-search", include_str!("../../recipes/ablations/tree-search.toml")),
    ];

    /// Parses a recipe, resolves its names and checks its ports.
    ///
    /// `path` is for messages, and where files that the recipe includes are looked for.
    ///
    /// # Errors
    ///
    /// The first mistake in the text.
    pub fn check(path: &Path, text: &str) -> Result<Self, RecipeError> {
        Self::check_with(path, text, &[] as &[&str])
    }

    /// The same with parameters set from outside, each as `STAGE.KEY=VALUE`; a word needs no quotes.
    ///
    /// ```
    /// use raglan_pipeline::Recipe;
    ///
    /// let text = "stage.words = { use = 'bm25' }";
    /// let recipe = Recipe::check_with("search.toml".as_ref(), text, &["words.k=50"])?;
    /// assert_eq!(recipe, Recipe::check("same.toml".as_ref(), "stage.words = { use = 'bm25', k = 50 }")?);
    /// # Ok::<(), raglan_pipeline::RecipeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first mistake in the text, in what it includes or in a setting.
    pub fn check_with(path: &Path, text: &str, settings: &[impl AsRef<str>]) -> Result<Self, RecipeError> {
        let mut sources = Sources::default();
        let draft = parse::parse(&mut sources, path, text, settings)?;
        Ok(Self { name: path.display().to_string(), ..resolve::resolve(&sources, draft, None)? })
    }

    /// The shipped recipe of this name, which may be one of [`SHIPPED`](Self::SHIPPED) or of
    /// [`ABLATIONS`](Self::ABLATIONS).
    pub fn shipped(name: &str) -> Option<Self> {
        Some(Self::check(Path::new(name), Self::shipped_text(name)?).expect("shipped recipes are correct"))
    }

    /// The text of the shipped recipe of this name.
    pub fn shipped_text(name: &str) -> Option<&'static str> {
        let mut all = Self::SHIPPED.iter().chain(Self::ABLATIONS);
        all.find(|(shipped, _)| *shipped == name).map(|(_, text)| *text)
    }

    /// What it is called: the name of a shipped recipe, or the path under which it was read.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The stages; every input of a stage comes before it, and the last is the result.
    pub fn stages(&self) -> &[RecipeStage] {
        &self.stages
    }

    /// The stages and those inside of them, each before what is inside of it.
    pub fn all_stages(&self) -> Vec<&RecipeStage> {
        let mut all = Vec::new();
        for stage in &self.stages {
            all.push(stage);
            all.extend(stage.bodies.iter().flat_map(Self::all_stages));
        }
        all
    }

    /// The stages and those inside of them, to be changed.
    fn for_each_stage_mut(&mut self, change: &mut impl FnMut(&mut RecipeStage)) {
        for stage in &mut self.stages {
            change(stage);
            stage.bodies.iter_mut().for_each(|body| body.for_each_stage_mut(change));
        }
    }

    /// The recipe without some of its stages, which no other that stays may use.
    ///
    /// # Errors
    ///
    /// When what stays is not one pipeline.
    pub fn retain(&self, keep: impl Fn(&RecipeStage) -> bool) -> Result<Self, RecipeError> {
        let mut tables = Vec::new();
        for stage in self.stages.iter().filter(|stage| keep(stage)) {
            self.stage_tables("stage", stage, &mut tables);
        }
        Self::check(Path::new(&self.name), &tables.join("\n"))
    }

    /// The same recipe, giving `k` chunks a question.
    ///
    /// Sets the `k` of the stage that decides how many there are, and lets the stages before it find at least as many.
    pub fn with_k(mut self, k: usize) -> Self {
        self.limit(k.max(1), true, false);
        self
    }

    /// The same recipe, giving up to `k` chunks a question of those that its stages find as they are written.
    pub fn giving(mut self, k: usize) -> Self {
        self.limit(k.max(1), false, false);
        self
    }

    /// Sets the `k` of the last stages that have one, and with `widen` lets the others find at least as many; says whether
    /// there were such stages. `decided`: stages that come after this recipe have limited the number.
    fn limit(&mut self, k: usize, widen: bool, mut decided: bool) -> bool {
        for stage in self.stages.iter_mut().rev() {
            for body in &mut stage.bodies {
                decided |= body.limit(k, widen, decided);
            }
            let Some(own) = stage.spec.parameter_mut::<usize>("k") else { continue };
            match (decided, widen) {
                (false, _) => *own = k,
                (true, true) => *own = k.max(*own),
                (true, false) => continue,
            }
            if widen
                && let StageSpec::Fuse(FuseSpec { depth, .. }) | StageSpec::Rescore(RescoreSpec { depth, .. }) =
                    &mut stage.spec
            {
                *depth = k.max(*depth);
            }
            decided = true;
        }
        decided
    }

    /// The same recipe, its rankings fused by another method with that method's own weights.
    pub fn with_fusion(mut self, method: &Fusion) -> Self {
        self.for_each_stage_mut(&mut |stage| {
            if let StageSpec::Fuse(FuseSpec { fusion, weights, .. }) = &mut stage.spec {
                *weights = method.default_weights(stage.inputs.len());
                *fusion = method.clone();
            }
        });
        self
    }

    /// How answers are generated, to be changed; `None` when the recipe gives no answers.
    pub fn generation_mut(&mut self) -> Option<&mut GenerateSpec> {
        self.stages.iter_mut().find_map(|stage| match &mut stage.spec {
            StageSpec::Generate(spec) => Some(spec),
            _ => stage.bodies.iter_mut().find_map(Self::generation_mut),
        })
    }

    /// How answers are found in steps, to be changed; `None` when the recipe has no such stage.
    pub fn steps_mut(&mut self) -> Option<&mut StepsSpec> {
        self.stages.iter_mut().find_map(|stage| match &mut stage.spec {
            StageSpec::Steps(spec) => Some(spec),
            _ => stage.bodies.iter_mut().find_map(Self::steps_mut),
        })
    }

    /// What the recipe gives.
    pub fn output(&self) -> Port {
        self.stages.last().map_or(self.takes, |stage| stage.gives)
    }

    /// The hash of the canonical form: equal for recipes that differ in layout, comments, order, or in whether they
    /// spell defaults.
    pub fn hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(self.to_string().as_bytes()).as_bytes())
    }
}
