//! Recipes: pipelines written as TOML, checked before anything is opened.

mod canonical;
mod error;
mod parse;
mod resolve;
mod run;
mod spec;
#[cfg(test)]
mod tests;

use std::path::Path;

use raglan_core::ContentHash;

use crate::Fusion;

pub use error::{RecipeError, RecipeProblem};
pub use run::{Part, Pipeline, StageRun, Value};
pub use spec::{DenseMode, GenerateSpec, Port, RerankSpec, Reranking, Rescorer, SparseMode, SparseQueries, StageSpec};

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
/// is no input; stages that could stand in any order go by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    stages: Vec<RecipeStage>,
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
}

/// Where an input of a stage comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// The questions.
    Query,
    /// The stage at this place of [`Recipe::stages`].
    Stage(usize),
}

impl Recipe {
    /// The shipped recipes by name.
    ///
    /// `hybrid` and `bm25` are the defaults of searching, with and without embeddings, and `ask` and `ask-bm25` those of
    /// asking.
    pub const SHIPPED: [(&'static str, &'static str); 12] = [
        ("hybrid", include_str!("../../recipes/hybrid.toml")),
        ("bm25", include_str!("../../recipes/bm25.toml")),
        ("dense", include_str!("../../recipes/dense.toml")),
        ("dense-hnsw", include_str!("../../recipes/dense-hnsw.toml")),
        ("dense-int8", include_str!("../../recipes/dense-int8.toml")),
        ("dense-1bit", include_str!("../../recipes/dense-1bit.toml")),
        ("splade", include_str!("../../recipes/splade.toml")),
        ("splade-if", include_str!("../../recipes/splade-if.toml")),
        ("late", include_str!("../../recipes/late.toml")),
        ("best", include_str!("../../recipes/best.toml")),
        ("ask", include_str!("../../recipes/ask.toml")),
        ("ask-bm25", include_str!("../../recipes/ask-bm25.toml")),
    ];

    /// Parses a recipe, resolves its names and checks its ports; `path` is for messages only.
    ///
    /// # Errors
    ///
    /// The first mistake in the text.
    pub fn check(path: &Path, text: &str) -> Result<Self, RecipeError> {
        resolve::resolve(parse::parse(path, text)?)
    }

    /// The shipped recipe of this name.
    pub fn shipped(name: &str) -> Option<Self> {
        let (_, text) = Self::SHIPPED.iter().find(|(shipped, _)| *shipped == name)?;
        Some(Self::check(Path::new(name), text).expect("shipped recipes are correct"))
    }

    /// A recipe of these stages, in any order: the Rust form of the same graph, with the same checks and the same hash.
    ///
    /// Each stage is its name, what it is, and the names of its inputs.
    ///
    /// ```
    /// use raglan_pipeline::{Recipe, StageSpec};
    ///
    /// let recipe = Recipe::build([
    ///     ("found", StageSpec::Bm25 { k: 100, k1: 1.2, b: 0.75 }, vec!["query"]),
    ///     ("context", StageSpec::Read, vec!["found"]),
    /// ])?;
    /// let text = "stage.found = { use = 'bm25', k = 100 }\nstage.context = { use = 'read', input = 'found' }";
    /// assert_eq!(recipe.hash(), Recipe::check("same.toml".as_ref(), text)?.hash());
    /// # Ok::<(), raglan_pipeline::RecipeError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first mistake, placed in the text that the stages are in TOML.
    pub fn build<'a>(
        stages: impl IntoIterator<Item = (&'a str, StageSpec, Vec<&'a str>)>,
    ) -> Result<Self, RecipeError> {
        let tables: Vec<_> =
            stages.into_iter().map(|(name, spec, inputs)| canonical::table(name, &spec, &inputs)).collect();
        Self::check(Path::new("recipe"), &tables.join("\n"))
    }

    /// The stages; every input of a stage comes before it, and the last is the result.
    pub fn stages(&self) -> &[RecipeStage] {
        &self.stages
    }

    /// The same recipe, giving `k` chunks a question.
    ///
    /// Sets the `k` of the stage that decides how many there are, and lets the stages before it find at least as many.
    pub fn with_k(mut self, k: usize) -> Self {
        let k = k.max(1);
        let mut decided = false;
        for stage in self.stages.iter_mut().rev() {
            let set = |own: &mut usize| *own = if decided { k.max(*own) } else { k };
            match &mut stage.spec {
                StageSpec::Bm25 { k: own, .. }
                | StageSpec::Dense { k: own, .. }
                | StageSpec::Sparse { k: own, .. }
                | StageSpec::Late { k: own }
                | StageSpec::Rescore { k: own, .. }
                | StageSpec::MarginalRelevance { k: own, .. }
                | StageSpec::Rerank(RerankSpec { k: own, .. })
                | StageSpec::Select { k: own } => set(own),
                StageSpec::Fuse { k: own, depth, .. } => {
                    set(own);
                    *depth = k.max(*depth);
                }
                StageSpec::Gate { .. } | StageSpec::Read | StageSpec::Expand { .. } | StageSpec::Generate(_) => {
                    continue;
                }
            }
            decided = true;
        }
        self
    }

    /// The same recipe, its rankings fused by another method with that method's own weights.
    pub fn with_fusion(mut self, method: &Fusion) -> Self {
        for stage in &mut self.stages {
            if let StageSpec::Fuse { fusion, weights, .. } = &mut stage.spec {
                *weights = method.default_weights(stage.inputs.len());
                *fusion = method.clone();
            }
        }
        self
    }

    /// How answers are generated, to be changed; `None` when the recipe gives no answers.
    pub fn generation_mut(&mut self) -> Option<&mut GenerateSpec> {
        self.stages.iter_mut().find_map(|stage| match &mut stage.spec {
            StageSpec::Generate(spec) => Some(spec),
            _ => None,
        })
    }

    /// What the recipe gives.
    pub fn output(&self) -> Port {
        self.stages.last().expect("a recipe has a stage").spec.output()
    }

    /// The hash of the canonical form: equal for recipes that differ in layout, comments, order, or in whether they
    /// spell defaults.
    pub fn hash(&self) -> ContentHash {
        ContentHash(*blake3::hash(self.to_string().as_bytes()).as_bytes())
    }
}
