//! What can go wrong when the parts work together.

use std::path::PathBuf;

/// The result of the façade's work.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of indexing, searching or answering.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no folder to index.
    #[error("`{}` is not a folder", path.display())]
    NoFolder {
        /// What was given.
        path: PathBuf,
    },
    /// The folder cannot be written, and the platform has no place for application data.
    #[error("`{}` cannot be written; name a place for its index with `--index`", path.display())]
    NoPlaceForIndex {
        /// The folder of documents.
        path: PathBuf,
    },
    /// The index is of another folder than the one to be indexed.
    #[error(
        "`{}` is the index of `{}`, not of `{}`; name another place with `--index DIR`, or, if the folder was moved \
         or the old index is to be replaced, add `--rebuild` to `raglan index`",
        index.display(), indexed.display(), wanted.display()
    )]
    OtherFolder {
        /// The index folder.
        index: PathBuf,
        /// The folder that it is of.
        indexed: PathBuf,
        /// The folder that was to be indexed.
        wanted: PathBuf,
    },
    /// A way to answer lacks what it works with.
    #[error("`{approach}` needs {what}")]
    Approach {
        /// The way.
        approach: String,
        /// What is missing.
        what: &'static str,
    },
    /// Questions that nothing can be tuned on.
    #[error("{problem}")]
    Tune {
        /// What is wrong with them.
        problem: String,
    },
    /// A build without kernels for NVIDIA devices is to compute on one.
    #[error(
        "this raglan was built without kernels for NVIDIA devices; build it with `--features cuda`, or leave `device` and \
         `generator-device` at cpu"
    )]
    NoCuda,
    /// No device can be opened to compute on.
    #[error(
        "{problem}; `device` and `generator-device` can be cpu, or auto, which takes the processor where there is no device"
    )]
    Device {
        /// What there is instead.
        problem: String,
    },
    /// Identifiers ran out.
    #[error("the index has no ids left for {what}; build it anew with `raglan index --rebuild`")]
    Full {
        /// What there are too many of.
        what: &'static str,
    },
    /// A chunk of an index with vectors has none.
    #[error("chunk {chunk} has no vector; build the index anew with `raglan index --rebuild`")]
    NoVector {
        /// The chunk.
        chunk: u32,
    },
    /// A recipe asks for vectors of an index that has none.
    #[error("`{}` has no {what}; use another recipe, such as `--recipe bm25`, or have them made by `raglan index --{setting}=MODEL`", index.display())]
    NoVectors {
        /// The index folder.
        index: PathBuf,
        /// The kind of vectors.
        what: &'static str,
        /// The setting that names their encoder.
        setting: &'static str,
    },
    /// A recipe does not do what is asked of it.
    #[error("recipe `{recipe}` gives {found}, where {wanted} is needed")]
    RecipeEnd {
        /// The recipe's name.
        recipe: String,
        /// What its last stage gives.
        found: String,
        /// What was needed.
        wanted: &'static str,
    },
    /// A recipe that is neither shipped nor a file.
    #[error("no recipe `{name}`: it is not a file, and the shipped recipes are {}", shipped.join(", "))]
    NoRecipe {
        /// What was asked for.
        name: String,
        /// The names of the shipped recipes.
        shipped: Vec<String>,
    },
    /// The path or chunk is not in the index.
    #[error("`{name}` is neither a chunk nor a document of the index")]
    NotIndexed {
        /// What was asked for.
        name: String,
    },
    /// A text that is no time.
    #[error("`{text}` is no time; write 2024-01-31, 2024-01-31T12:00 or 2024-01-31T12:00:00Z")]
    Time {
        /// The text.
        text: String,
    },
    /// A model could not be loaded, and why was told before.
    #[error("the language model could not be loaded")]
    Loading,
    /// A model's files are there and cannot be used.
    #[error("{source}; {remedy}")]
    ModelFiles {
        /// What is wrong with them.
        source: Box<Error>,
        /// What helps.
        remedy: String,
    },
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("`{}`: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Chunks that are there are longer than an encoder reads that is new to the index.
    #[error("the index's chunks were cut without this encoder: {source}; add `--rebuild` to cut the documents anew")]
    CutOtherwise {
        /// Which is too long.
        source: Box<Error>,
    },
    /// The index is of another collection than the one that is searched.
    #[error("`{}` is the index of another collection: its document `{document}` is not in this one, or has another text",
        index.display())]
    OtherCollection {
        /// The index folder.
        index: PathBuf,
        /// The document.
        document: String,
    },
    /// Passages are wanted of a recipe that has no stage for them alone.
    #[error(
        "recipe `{recipe}` searches and answers in one stage, step by step; take one that gives passages by itself, such \
         as `hybrid`"
    )]
    InSteps {
        /// The recipe.
        recipe: String,
    },
    /// A role's failure.
    #[error(transparent)]
    Core(#[from] raglan_core::Error),
    /// Token vectors.
    #[error(transparent)]
    Late(#[from] raglan_late::Error),
    /// N-grams.
    #[error(transparent)]
    Ngram(#[from] raglan_ngram::Error),
    /// The graph of entities.
    #[error(transparent)]
    Graph(#[from] raglan_graph::Error),
    /// The index folder.
    #[error(transparent)]
    Store(#[from] raglan_store::Error),
    /// Walking and reading.
    #[error(transparent)]
    Ingest(#[from] raglan_ingest::Error),
    /// BM25.
    #[error(transparent)]
    Sparse(#[from] raglan_sparse::Error),
    /// Vectors.
    #[error(transparent)]
    Dense(#[from] raglan_dense::Error),
    /// Encoders.
    #[error(transparent)]
    Embed(#[from] raglan_embed::Error),
    /// Models and their files.
    #[error(transparent)]
    Registry(#[from] raglan_model::registry::Error),
    /// A language model.
    #[error(transparent)]
    Model(#[from] raglan_model::Error),
    /// Models that judge passages.
    #[error(transparent)]
    Rerank(#[from] raglan_rerank::Error),
    /// A sparse encoder whose queries need its model.
    #[error("`{model}` has no inference-free queries; let the recipe's stage have `queries = \"encoded\"`")]
    NoInferenceFree {
        /// The encoder's name.
        model: String,
    },
    /// Models that help searching.
    #[error(transparent)]
    Augment(#[from] raglan_augment::Error),
    /// Answering in steps failed.
    #[error(transparent)]
    Multistep(#[from] raglan_multistep::Error),
    /// A recipe asks for a model that judges, of an index that was opened without any.
    #[error("stage `{stage}` needs a model, and the index was opened without; see `Index::with_models`")]
    NoModels {
        /// The stage's name.
        stage: String,
    },
    /// A stage's cross-encoder is not there, and has to be the user's own.
    #[error(
        "stage `{stage}`: {source}; no cross-encoder comes with raglan: give the folder of one, with safetensors or ONNX, \
         as the stage's `model`, such as `--set {stage}.model=FOLDER`"
    )]
    NoCrossEncoder {
        /// The stage's name.
        stage: String,
        /// Why the one that is named cannot be had.
        source: Box<raglan_model::registry::Error>,
    },
    /// A model of the registry is to do what it was not made for.
    #[error("`{name}` is a {is}, and a {wanted} is wanted; see `raglan models list`")]
    Role {
        /// The model's name.
        name: String,
        /// What it is.
        is: raglan_model::registry::Role,
        /// What is wanted.
        wanted: raglan_model::registry::Role,
    },
    /// A recipe asks for the attention of the model that answers, and the index was opened without one.
    #[error("stage `{stage}` needs the model that answers: use the recipe with `raglan ask`")]
    NoGenerator {
        /// The stage's name.
        stage: String,
    },
    /// Answers.
    #[error(transparent)]
    Generate(#[from] raglan_generate::Error),
    /// Evaluation collections.
    #[error(transparent)]
    Datasets(#[from] raglan_datasets::Error),
    /// Recipes.
    #[error(transparent)]
    Recipe(#[from] raglan_pipeline::RecipeError),
}
