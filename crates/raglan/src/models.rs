//! Models by name, fetched, checked and loaded when they are needed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use raglan_core::{Answer, Context, Generator, TokenCounter, TokenMatrix};
use raglan_embed::{
    EncoderConfig, LineWindows, LongInputs, Pooling, SentenceEncoder, SparseEncoder, SparseEncoderConfig, TokenBag,
    TokenEncoder, TokenEncoderConfig, TokenHead, WeightFormat,
};
use raglan_generate::reuse::ReuseMethod;
use raglan_generate::{ChatGenerator, GenerateOptions, Sampling};
use raglan_model::registry::{ModelCache, ModelFiles, Progress};
use raglan_model::{AttentionPolicy, ContextExtension, LanguageModel, Products};
use raglan_pipeline::{GenerateSpec, Recipe, StageSpec};
use raglan_store::{ModelStamp, Passport};

use crate::embedder::{Embedder, Encoders, LATE, SPARSE, SparseEmbedder};
use crate::kept_kv::{KvSettings, folder_name};
use crate::kv_evaluation::{calibrated, write_calibrated};
use crate::sparse_options::SparseOptions;
use crate::{Error, Result};

/// The models of a machine: where they lie, and how their fetching is shown.
#[derive(Clone)]
pub struct Models {
    cache: Arc<ModelCache>,
    progress: Arc<dyn Progress>,
    threads: usize,
    settings: ModelSettings,
}

/// How models work, where that is not as their files say. An index is to be searched with the settings that it was made
/// with, and its passport refuses others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSettings {
    /// How models multiply; language models have no [`Products::Int8`] and take [`Products::Stored`] then.
    pub products: Products,
    /// What encoders do with texts that are longer than they read at once.
    pub long_inputs: LongInputs,
    /// How dense encoders pool; as their files say when there is none.
    pub pooling: Option<Pooling>,
    /// How many of its first coordinates a dense vector keeps; all when there is no number.
    pub truncate_dim: Option<usize>,
    /// Windows of lines that dense encoders read passages in.
    pub line_windows: Option<LineWindows>,
    /// The library that runs models in ONNX; the first that is found when none is named.
    pub onnx_runtime: Option<PathBuf>,
    /// How learned sparse encoders make the vectors of chunks; the encoder of an index is always as the index remembers
    /// it.
    pub sparse: SparseOptions,
    /// The file of weights by token that inference-free queries take, as [`TokenBag::with_weights`] reads it; with none,
    /// `idf.json` beside the model, and with none there, the tokens' idf in the index.
    pub token_weights: Option<PathBuf>,
    /// How language models read texts that are longer than their context.
    pub context_extension: ContextExtension,
    /// Which of a prompt's keys answers attend to.
    pub attention: AttentionPolicy,
    /// Where dense encoders compute. Vectors of either are near enough to search those of the other.
    pub device: ComputeDevice,
}

/// Where models compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ComputeDevice {
    /// On the processor.
    #[default]
    Cpu,
    /// On the first NVIDIA device, in bf16; in a build with the feature `cuda`.
    Cuda,
}

impl FromStr for ComputeDevice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(format!("`{text}` is neither cpu nor cuda")),
        }
    }
}

impl Models {
    /// Models in a folder, by the platform's convention when there is none; `offline` fetches nothing.
    ///
    /// # Errors
    ///
    /// When the platform has no such convention.
    pub fn new(folder: Option<PathBuf>, offline: bool, threads: usize, progress: Arc<dyn Progress>) -> Result<Self> {
        Ok(Self {
            cache: Arc::new(ModelCache::new(folder, offline)?),
            progress,
            threads,
            settings: ModelSettings::default(),
        })
    }

    /// How models that are loaded work.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// Chooses how models that are loaded from now on work.
    pub fn set_settings(&mut self, settings: ModelSettings) {
        self.settings = settings;
    }

    /// How many threads a model works on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where the models lie.
    pub fn cache(&self) -> &ModelCache {
        &self.cache
    }

    /// Fetches a model unless it is here.
    ///
    /// # Errors
    ///
    /// Each with its remedy.
    pub fn ensure(&self, name: &str) -> Result<ModelFiles> {
        Ok(self.cache.ensure(&reference(name), &*self.progress)?)
    }

    /// Fetches a model unless it is here, hashed and found whole.
    ///
    /// # Errors
    ///
    /// Each with its remedy.
    pub fn pull(&self, name: &str) -> Result<ModelFiles> {
        Ok(self.cache.pull(&reference(name), &*self.progress)?)
    }

    /// A dense encoder by name, or by the folder of its files.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn embedder(&self, name: &str) -> Result<Arc<Embedder>> {
        let files = self.ensure(name)?;
        let config = EncoderConfig::for_model(&files.dir).map_err(|error| with_remedy(name, error))?;
        let ModelSettings { products, long_inputs, pooling, truncate_dim, line_windows, onnx_runtime, .. } =
            self.settings.clone();
        let pooling = pooling.unwrap_or(config.pooling);
        let config =
            EncoderConfig { products, long_inputs, pooling, truncate_dim, line_windows, onnx_runtime, ..config };
        let weights = config.fits(&files.dir)?; // What does not fit is a setting; its remedy is not another file.
        let mut parameters = self.parameters();
        parameters.extend(line_windows.map(|windows| ("line windows".to_owned(), windows.to_string())));
        let mut stamp = ModelStamp {
            parameters,
            normalized: config.normalize,
            query_prefix: config.query_prefix.clone(),
            passage_prefix: config.passage_prefix.clone(),
            ..self.stamp(name, &files, &config.pooling.to_string(), config.max_tokens, config.vector_dim())
        };
        if weights == WeightFormat::Onnx {
            stamp.weights_sha256 = onnx_sha256(&files);
        }
        let (dir, threads, owned) = (files.dir, self.threads, name.to_owned());
        let (device, kernels) = (self.settings.device, self.cache.dir().join("cuda-kernels"));
        Ok(Arc::new(Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = SentenceEncoder::load(&dir, config.clone(), threads);
            let encoder = encoder.map_err(|error| with_remedy(&owned, error))?;
            Ok(Arc::new(on_device(encoder, device, &dir, &kernels)?))
        })))
    }

    /// The encoders that made the vectors of an index.
    ///
    /// # Errors
    ///
    /// As [`embedder`](Self::embedder).
    pub fn encoders_of(&self, passport: &Passport) -> Result<Encoders> {
        Ok(Encoders {
            dense: passport.embedder.as_ref().map(|stamp| self.embedder(&stamp.name)).transpose()?,
            sparse: passport.models.get(SPARSE).map(|stamp| self.sparse_embedder_of(stamp)).transpose()?,
            late: passport.models.get(LATE).map(|stamp| self.late_embedder(&stamp.name)).transpose()?,
        })
    }

    /// A learned sparse encoder by name, or by the folder of its files.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn sparse_embedder(&self, name: &str) -> Result<Arc<SparseEmbedder>> {
        self.sparse_embedder_with(name, &self.settings.sparse)
    }

    /// The encoder that a passport has, with the options that it was used with.
    fn sparse_embedder_of(&self, stamp: &ModelStamp) -> Result<Arc<SparseEmbedder>> {
        // Of a pooling that is not known, the passport's check says that it differs.
        self.sparse_embedder_with(&stamp.name, &stamp.pooling.parse().unwrap_or_default())
    }

    fn sparse_embedder_with(&self, name: &str, options: &SparseOptions) -> Result<Arc<SparseEmbedder>> {
        let files = self.ensure(name)?;
        let config = SparseEncoderConfig::for_model(&files.dir).map_err(|error| with_remedy(name, error))?;
        let config =
            SparseEncoderConfig { products: self.settings.products, long_inputs: self.settings.long_inputs, ..config };
        let config = options.configure(config);
        let pooling = SparseOptions::of(&config).to_string();
        let stamp = self.stamp(name, &files, &pooling, config.max_tokens, 0);
        let (dir, threads, bag_dir) = (files.dir.clone(), self.threads, files.dir);
        let (owned, bag_name) = (name.to_owned(), name.to_owned());
        let embedder = Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = SparseEncoder::load(&dir, config.clone(), threads);
            Ok(Arc::new(encoder.map_err(|error| with_remedy(&owned, error))?))
        });
        let weights = self.settings.token_weights.clone();
        let load_bag = move || {
            let bag = TokenBag::load(&bag_dir).map_err(|error| with_remedy(&bag_name, error))?;
            Ok(Arc::new(match &weights {
                Some(file) => bag.with_weights(file)?,
                None => bag,
            }))
        };
        Ok(Arc::new(SparseEmbedder::new(embedder, load_bag)))
    }

    /// An encoder of token vectors by name, or by the folder of its files: a late-interaction model, or a sentence model
    /// whose hidden states serve as token vectors.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn late_embedder(&self, name: &str) -> Result<Arc<Embedder<TokenMatrix>>> {
        let files = self.ensure(name)?;
        let config = TokenEncoderConfig::for_files(&files.dir).map_err(|error| with_remedy(name, error))?;
        let config =
            TokenEncoderConfig { products: self.settings.products, long_inputs: self.settings.long_inputs, ..config };
        let pooling = match config.head {
            TokenHead::Projection => "tokens, projected",
            TokenHead::HiddenState => "tokens",
        };
        let stamp = self.stamp(name, &files, pooling, config.passage_tokens, 0);
        let (dir, threads, owned) = (files.dir, self.threads, name.to_owned());
        Ok(Arc::new(Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = TokenEncoder::load(&dir, config.clone(), threads);
            Ok(Arc::new(encoder.map_err(|error| with_remedy(&owned, error))?))
        })))
    }

    /// What an index writes down of the settings of any encoder, where they are not the usual. Texts that are refused or
    /// cut give the same vectors where they are neither.
    fn parameters(&self) -> BTreeMap<String, String> {
        match self.settings.long_inputs {
            LongInputs::Refuse | LongInputs::Cut => BTreeMap::new(),
            long_inputs => [("long inputs".to_owned(), long_inputs.to_string())].into(),
        }
    }

    /// A model by its files, without prefixes.
    fn stamp(&self, name: &str, files: &ModelFiles, pooling: &str, max_tokens: usize, dim: usize) -> ModelStamp {
        ModelStamp {
            name: name.to_owned(),
            weights_sha256: safetensors_sha256(files),
            tokenizer_sha256: files.sha256.get("tokenizer.json").cloned().unwrap_or_default(),
            pooling: pooling.to_owned(),
            normalized: false,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: self.settings.long_inputs.limit(max_tokens),
            dim,
            parameters: self.parameters(),
            dtype: match self.settings.products {
                Products::Int8 => "int8",
                Products::Bf16 => "bf16",
                Products::Stored | Products::F32 | Products::Candle => "f32",
            }
            .into(),
        }
    }

    /// The generator that a recipe asks for, on a language model by name, or by the path of its GGUF file or of the
    /// folder of its `config.json`, safetensors and tokenizer.
    ///
    /// The weights are loaded beside whatever comes next; `interrupt` is looked at between two tokens. With `kv`, prompts
    /// are read with keys and values that are kept beside an index.
    ///
    /// # Errors
    ///
    /// When the model's file cannot be had; what is wrong inside of it shows at the first answer.
    pub fn generator(
        &self,
        name: &str,
        recipe: &Recipe,
        interrupt: Arc<AtomicBool>,
        kv: Option<KvSettings>,
    ) -> Result<Arc<LazyGenerator>> {
        let files = self.ensure(name)?;
        let load_model = self.loading(name, &files)?;
        let weights = weights(&files);
        let keeper = |mut kv: KvSettings| {
            if kv.calibrated
                && let Some(chosen) = calibrated(self.cache.dir(), &folder_name(name, &weights), kv.method)?
            {
                kv.method = chosen;
            }
            kv.keeper(name, &weights)
        };
        let keeper = kv.map(keeper).transpose()?;
        let spec = recipe.stages().iter().find_map(|stage| match &stage.spec {
            StageSpec::Generate(spec) => Some(spec.clone()),
            _ => None,
        });
        let options =
            GenerateOptions { attention: self.settings.attention, ..generate_options(&spec.unwrap_or_default()) };
        let load = move || -> Result<ChatGenerator> {
            let generator = ChatGenerator::new(Arc::new(load_model()?), options)?.interrupted_by(interrupt);
            Ok(match keeper {
                Some(keeper) => generator.keeping(keeper),
                None => generator,
            })
        };
        Ok(Arc::new(LazyGenerator::new(load)))
    }

    /// Writes down the parameters that were chosen for a method and a language model, where [`KvSettings::calibrated`]
    /// finds them; gives the file.
    ///
    /// # Errors
    ///
    /// When the model's file cannot be had, or the folder of models cannot be written.
    pub fn calibrate(&self, name: &str, method: ReuseMethod) -> Result<PathBuf> {
        write_calibrated(self.cache.dir(), &folder_name(name, &weights(&self.ensure(name)?)), method)
    }

    /// What loads a language model by name, or by the path of its GGUF file or of the folder of its `config.json`,
    /// safetensors and tokenizer.
    ///
    /// # Errors
    ///
    /// When the model's file cannot be had; what is wrong inside of it shows when it is loaded.
    pub fn language_model(
        &self,
        name: &str,
    ) -> Result<impl FnOnce() -> Result<LanguageModel> + Send + 'static + use<>> {
        self.loading(name, &self.ensure(name)?)
    }

    fn loading(
        &self,
        name: &str,
        files: &ModelFiles,
    ) -> Result<impl FnOnce() -> Result<LanguageModel> + Send + 'static + use<>> {
        let path = language_model(files)?;
        let threads = self.threads;
        let products = match self.settings.products {
            Products::Bf16 if path.is_dir() => Products::Bf16,
            // For encoders; quantised blocks are as small as they are.
            Products::Int8 | Products::Bf16 => Products::Stored,
            products => products,
        };
        let name = name.to_owned();
        let extension = self.settings.context_extension;
        Ok(move || {
            let model = LanguageModel::load(&path, threads, products).map_err(|error| with_remedy(&name, error))?;
            let extended = model.transformer.extended(extension).map_err(raglan_generate::Error::from)?;
            Ok(LanguageModel { transformer: extended, ..model })
        })
    }
}

/// What a model's weights are told from others by.
fn weights(files: &ModelFiles) -> String {
    let hashes: Vec<String> = files.sha256.iter().map(|(file, hash)| format!("{file} {hash}")).collect();
    hashes.join("\n")
}

/// A model's name as the cache knows it: a path becomes a reference to files of this machine.
fn reference(name: &str) -> Cow<'_, str> {
    let own = Path::new(name);
    let is_elsewhere = name.starts_with("hf:") || name.starts_with("file:") || name.contains("://");
    let is_path = name.contains('/') || own.is_file() || own.join("config.json").is_file();
    if is_path && !is_elsewhere { format!("file:{name}").into() } else { name.into() }
}

/// The encoder where it is to compute; compiled kernels are kept in a folder.
#[cfg(feature = "cuda")]
fn on_device(encoder: SentenceEncoder, device: ComputeDevice, dir: &Path, kernels: &Path) -> Result<SentenceEncoder> {
    match device {
        ComputeDevice::Cpu => Ok(encoder),
        ComputeDevice::Cuda => {
            let device = raglan_kernels::cuda::CudaDevice::open(0, Some(kernels)).map_err(raglan_model::Error::from)?;
            Ok(encoder.on_device(dir, &device)?)
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_device(encoder: SentenceEncoder, device: ComputeDevice, _: &Path, _: &Path) -> Result<SentenceEncoder> {
    match device {
        ComputeDevice::Cpu => Ok(encoder),
        ComputeDevice::Cuda => Err(Error::NoCuda),
    }
}

/// The error of loading a model; where its files are not sound, with what helps.
pub(crate) fn with_remedy(name: &str, error: impl Into<Error>) -> Error {
    use raglan_model::Error as Model;

    let error = error.into();
    let model = match &error {
        Error::Embed(raglan_embed::Error::Model(model))
        | Error::Generate(raglan_generate::Error::Model(model))
        | Error::Rerank(raglan_rerank::Error::Model(model))
        | Error::Model(model) => Some(model),
        _ => None,
    };
    let is_of_files =
        matches!(error, Error::Embed(raglan_embed::Error::Io { .. } | raglan_embed::Error::Malformed { .. }))
            || matches!(
                model,
                Some(Model::Io { .. } | Model::Malformed { .. } | Model::Tokenizer { .. } | Model::Template(_))
            );
    if !is_of_files {
        return error;
    }
    let remedy = if reference(name).starts_with("file:") {
        "compare the file with the one it was copied from, or fetch it again".to_owned()
    } else {
        format!("run `raglan models pull {name}` to check the model and fetch again what is damaged")
    };
    Error::ModelFiles { source: Box::new(error), remedy }
}

/// Loads the token counter of a model in a folder.
fn counter(name: &str, dir: &Path) -> impl Fn() -> Result<Arc<dyn TokenCounter>> + Send + Sync + 'static {
    let (name, dir) = (name.to_owned(), dir.to_owned());
    move || raglan_embed::token_counter(&dir).map_err(|error| with_remedy(&name, error))
}

/// The hashes of a model in ONNX, whose weights may lie beside the graph.
fn onnx_sha256(files: &ModelFiles) -> String {
    let graph = if files.sha256.contains_key("model.onnx") { "model.onnx" } else { "onnx/model.onnx" };
    joined_sha256(files, |name| name.strip_prefix(graph).is_some_and(|rest| rest.is_empty() || rest == "_data"))
}

/// SHA-256 of the weights, or of each shard of them.
fn safetensors_sha256(files: &ModelFiles) -> String {
    let whole = "model.safetensors";
    let is_whole = files.sha256.contains_key(whole);
    joined_sha256(files, |name| name == whole || !is_whole && name.ends_with(".safetensors"))
}

fn joined_sha256(files: &ModelFiles, is_part: impl Fn(&str) -> bool) -> String {
    let parts = files.sha256.iter().filter(|(name, _)| is_part(name));
    parts.map(|(_, sha256)| sha256.as_str()).collect::<Vec<_>>().join("+")
}

/// A model's GGUF file, or its folder when it has safetensors.
fn language_model(files: &ModelFiles) -> Result<PathBuf> {
    let is_of = |path: &&PathBuf, wanted: &str| path.extension().is_some_and(|extension| extension == wanted);
    if let Some(gguf) = files.files.values().find(|path| is_of(path, "gguf")) {
        return Ok(gguf.clone());
    }
    if files.files.contains_key("config.json") && files.files.values().any(|path| is_of(&path, "safetensors")) {
        return Ok(files.dir.clone());
    }
    Err(Error::Malformed {
        path: files.dir.clone(),
        problem: "generating needs a GGUF file, or a folder with config.json, safetensors and tokenizer.json".into(),
    })
}

/// A recipe's parameters in the generator's own terms.
fn generate_options(spec: &GenerateSpec) -> GenerateOptions {
    let default = GenerateOptions::default();
    GenerateOptions {
        max_tokens: spec.max_tokens,
        context_tokens: (spec.context_tokens != 0).then_some(spec.context_tokens),
        system_prompt: if spec.system.is_empty() { default.system_prompt.clone() } else { spec.system.clone() },
        sampling: Sampling {
            repetition_penalty: spec.repetition_penalty,
            temperature: spec.temperature,
            top_k: spec.top_k,
            top_p: spec.top_p,
            min_p: spec.min_p,
            seed: spec.seed,
        },
        ..default
    }
}

/// A generator whose weights are being loaded while the passages are sought.
pub struct LazyGenerator {
    loaded: OnceLock<ChatGenerator>,
    loading: std::sync::Mutex<Option<JoinHandle<Result<ChatGenerator>>>>,
}

impl LazyGenerator {
    fn new(load: impl FnOnce() -> Result<ChatGenerator> + Send + 'static) -> Self {
        let loading = std::sync::Mutex::new(Some(std::thread::spawn(load)));
        Self { loaded: OnceLock::new(), loading }
    }

    /// The generator, once it is loaded.
    ///
    /// # Errors
    ///
    /// Whatever loading gave; after an error, that loading failed.
    pub fn loaded(&self) -> Result<&ChatGenerator> {
        let mut loading = self.loading.lock().expect("no thread panics while it holds the handle");
        if let Some(handle) = loading.take() {
            let generator = handle.join().map_err(|_| Error::Loading)??;
            let _ = self.loaded.set(generator);
        }
        self.loaded.get().ok_or(Error::Loading)
    }
}

impl Generator for LazyGenerator {
    fn generate(
        &self,
        contexts: &[Context],
        on_text: &mut dyn FnMut(usize, &str),
    ) -> raglan_core::Result<Vec<raglan_core::Result<Answer>>> {
        let generator = self.loaded().map_err(|error| raglan_core::Error::part("language model", error))?;
        generator.generate(contexts, on_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_come_with_what_helps() {
        let malformed = || raglan_model::Error::Malformed { path: "m.gguf".into(), problem: "too short".into() };
        let told = |name: &str| with_remedy(name, raglan_generate::Error::Model(malformed())).to_string();
        assert!(told("some-model").ends_with(
            "too short; run `raglan models pull some-model` to check the model and fetch again what is damaged"
        ));
        for own in ["./m.gguf", "file:m.gguf"] {
            assert!(
                told(own).ends_with("too short; compare the file with the one it was copied from, or fetch it again")
            );
        }
        let other = with_remedy("some-model", raglan_generate::Error::Interrupted);
        assert_eq!(other.to_string(), "interrupted");
        assert!(with_remedy("m", raglan_embed::Error::Model(malformed())).to_string().contains("pull m"));
    }
}
