//! Models by name, fetched, checked and loaded when they are needed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use raglan_augment::{PromptReps, PromptRepsDense, PromptRepsOptions, PromptRepsSparse};
use raglan_core::{Encoder, TokenCounter, TokenMatrix};
use raglan_embed::{
    EncoderConfig, LineWindows, LongInputs, Pooling, SentenceEncoder, SparseEncoder, SparseEncoderConfig, TokenBag,
    TokenEncoder, TokenEncoderConfig, TokenHead, WeightFormat, token_counter_of,
};
use raglan_generate::reuse::ReuseMethod;
use raglan_generate::{ChatGenerator, GenerateOptions, Sampling};
use raglan_graph::{Extractor, RuleExtractor};
use raglan_model::registry::{ModelCache, ModelFiles, Progress, Role};
use raglan_model::{
    AttentionPolicy, ChatModel, ContextExtension, DecoderConfig, GgufFile, LanguageModel, Products, Tokenizer,
};
use raglan_pipeline::{GenerateSpec, Recipe, StageSpec};
use raglan_rerank::CrossEncoder;
use raglan_store::{ModelStamp, Passport};

use crate::embedder::{Embedder, Encoders, GRAPH, LATE, Lazy, NGRAMS, SPARSE, SparseEmbedder};
use crate::entity_graph::GraphExtractor;
use crate::kept_kv::{JudgedKv, KvSettings, folder_name};
use crate::kv_evaluation::{calibrated, write_calibrated};
use crate::lazy_generator::LazyGenerator;
use crate::ngrams::NgramTokenizer;
use crate::sparse_options::SparseOptions;
use crate::triple_extraction::TripleExtractor;
use crate::{Error, Result};

/// The language model when nothing names one.
const DEFAULT_LANGUAGE_MODEL: &str = "smollm2-135m-instruct";

/// Begins the name of an encoder that is a language model asked for one word; the model's name follows.
const PROMPT_REPS: &str = "promptreps:";

/// The models of a machine: where they lie, and how their fetching is shown.
#[derive(Clone)]
pub struct Models {
    cache: Arc<ModelCache>,
    progress: Arc<dyn Progress>,
    threads: usize,
    settings: ModelSettings,
    interrupt: Option<Arc<AtomicBool>>,
}

/// How models work, where that is not as their files say. An index is to be searched with the settings that it was made
/// with, and its passport refuses others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelSettings {
    /// The language model of whatever names none, as [`Models::language_model`] takes it; SmolLM2 with 135 million
    /// parameters when there is none.
    pub language_model: Option<String>,
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
    /// Where encoders compute: dense, learned sparse, of token vectors, and cross-encoders. Vectors of either are near enough
    /// to search those of the other.
    pub device: ComputeDevice,
    /// Where language models compute; as encoders where it is not said.
    pub language_model_device: Option<ComputeDevice>,
    /// Bytes of a device that keys and values of chunks may take to be there when they are taken over again. Half of what
    /// is free behind a language model is the most, and is it where nothing is said.
    pub device_kv_bytes: Option<u64>,
    /// How the keys and values of chunks are kept beside their index that a language model's attention judges one by one.
    pub judged_kv: JudgedKv,
}

/// Where models compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ComputeDevice {
    /// On the processor.
    #[default]
    Cpu,
    /// On the first NVIDIA device, in a build with the feature `cuda`: encoders in half precision, language models by
    /// [`ModelSettings::products`].
    Cuda,
    /// As [`Self::Cuda`] in such a build where there is such a device, and else on the processor.
    Auto,
}

impl ComputeDevice {
    /// Whether that is a device on this machine. One that was asked for and is not there fails when it is opened.
    fn is_cuda(self) -> bool {
        match self {
            Self::Cpu => false,
            Self::Cuda => true,
            Self::Auto => is_device_there(),
        }
    }
}

impl FromStr for ComputeDevice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "auto" => Ok(Self::Auto),
            _ => Err(format!("`{text}` is neither cpu nor cuda nor auto")),
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
            interrupt: None,
        })
    }

    /// The same, whose language models in recipes give up when the flag is set.
    #[must_use]
    pub fn interrupted_by(self, flag: Arc<AtomicBool>) -> Self {
        Self { interrupt: Some(flag), ..self }
    }

    /// The flag at which language models in recipes give up.
    pub(crate) fn interrupt(&self) -> Option<&Arc<AtomicBool>> {
        self.interrupt.as_ref()
    }

    /// How models that are loaded work.
    pub fn settings(&self) -> &ModelSettings {
        &self.settings
    }

    /// Chooses how models that are loaded from now on work.
    pub fn set_settings(&mut self, settings: ModelSettings) {
        self.settings = settings;
    }

    /// The language model of whatever names none.
    pub fn language_model_name(&self) -> &str {
        self.settings.language_model.as_deref().unwrap_or(DEFAULT_LANGUAGE_MODEL)
    }

    /// How many threads a model works on.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Where the models lie.
    pub fn cache(&self) -> &ModelCache {
        &self.cache
    }

    /// Sees that the cross-encoders that a recipe names can be had, and the device for them; nothing is fetched or opened.
    ///
    /// # Errors
    ///
    /// [`Error::NoCrossEncoder`] of the first that cannot; [`Error::NoCuda`] and [`Error::Device`].
    pub fn check_recipe(&self, recipe: &Recipe) -> Result<()> {
        use raglan_model::registry::Error as Registry;

        for stage in recipe.all_stages() {
            let Some(name) = stage.spec.cross_encoder() else { continue };
            self.check_encoder_device()?;
            match self.cache.path(&reference(name)) {
                // What has a name or an address can be fetched.
                Ok(_) | Err(Registry::Absent { .. } | Registry::Offline { .. }) => {}
                Err(source) => return Err(Error::NoCrossEncoder { stage: stage.name.clone(), source: source.into() }),
            }
        }
        Ok(())
    }

    /// The models that judge, rewrite or take steps in the stages of a recipe, each once, with the hash of all its files.
    ///
    /// # Errors
    ///
    /// When the files of one cannot be had.
    pub fn of_recipe(&self, recipe: &Recipe) -> Result<BTreeMap<String, String>> {
        let stages = recipe.all_stages();
        let names = stages.iter().filter_map(|stage| stage.spec.model());
        names
            .map(|name| if name.is_empty() { self.language_model_name() } else { name })
            .map(|name| Ok((name.to_owned(), joined_sha256(&self.ensure(name)?, |_| true))))
            .collect()
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
        self.check_role(name, Role::DenseEncoder)?;
        if let Some(model) = name.strip_prefix(PROMPT_REPS) {
            return Ok(Arc::new(self.prompt_reps(name, model, |reps| Arc::new(PromptRepsDense(reps)))?));
        }
        let files = self.ensure(name)?;
        let config = EncoderConfig::for_model(&files.dir).map_err(|error| with_remedy(name, error))?;
        let ModelSettings { products, long_inputs, pooling, truncate_dim, line_windows, onnx_runtime, .. } =
            self.settings.clone();
        let pooling = pooling.unwrap_or(config.pooling);
        let config =
            EncoderConfig { products, long_inputs, pooling, truncate_dim, line_windows, onnx_runtime, ..config };
        let weights = config.fits(&files.dir)?; // What does not fit is a setting; its remedy is not another file.
        self.check_device(&files.dir)?;
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
        let (device, kernels) = (self.settings.device, self.kernels());
        Ok(Arc::new(Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = SentenceEncoder::load(&dir, config.clone(), threads);
            let encoder = encoder.map_err(|error| with_remedy(&owned, error))?;
            Ok(Arc::new(on_device(encoder, device, &dir, &kernels)?))
        })))
    }

    /// The encoders that made the vectors of the index in a folder. Each is looked for when it is first needed, and
    /// refused then when it is not the one that the passport names.
    pub fn encoders_of(&self, passport: &Passport, index: &Path) -> Encoders {
        let dense = passport.embedder.as_ref().map(|stamp| {
            let name = stamp.name.clone();
            let stamped = |passport: &mut Passport, embedder: &Arc<Embedder>| {
                passport.embedder = Some(embedder.stamp().clone());
            };
            late_bound(stamp, self.checked(passport, index, move |models| models.embedder(&name), stamped))
        });
        let late = passport.models.get(LATE).map(|stamp| {
            let name = stamp.name.clone();
            let stamped = |passport: &mut Passport, embedder: &Arc<Embedder<TokenMatrix>>| {
                passport.models.insert(LATE.to_owned(), embedder.stamp().clone());
            };
            late_bound(stamp, self.checked(passport, index, move |models| models.late_embedder(&name), stamped))
        });
        let sparse = passport.models.get(SPARSE).map(|stamp| {
            let of_index = stamp.clone();
            let stamped = |passport: &mut Passport, sparse: &Arc<SparseEmbedder>| {
                passport.models.insert(SPARSE.to_owned(), sparse.embedder.stamp().clone());
            };
            let sparse = self.checked(passport, index, move |models| models.sparse_embedder_of(&of_index), stamped);
            let (counter, encoder, bag) = (sparse.clone(), sparse.clone(), sparse);
            let embedder = Embedder::new(
                stamp.clone(),
                move || Ok(counter.get()?.embedder.counter()),
                move || encoder.get()?.embedder.encoder().cloned(),
            );
            Arc::new(SparseEmbedder::new(embedder, move || bag.get()?.bag().cloned()))
        });
        let ngrams = passport.models.get(NGRAMS).map(|stamp| {
            let name = stamp.name.clone();
            let stamped = |passport: &mut Passport, ngrams: &Arc<NgramTokenizer>| {
                passport.models.insert(NGRAMS.to_owned(), ngrams.stamp().clone());
            };
            let ngrams = self.checked(passport, index, move |models| models.ngram_tokenizer(&name), stamped);
            Arc::new(NgramTokenizer::new(stamp.clone(), move || ngrams.get()?.tokenizer().cloned()))
        });
        // Searching looks at what was extracted, and asks nobody anew.
        let graph = passport
            .models
            .get(GRAPH)
            .map(|stamp| Arc::new(GraphExtractor { stamp: stamp.clone(), extractor: self.extractor(&stamp.name) }));
        Encoders { dense, sparse, late, ngrams, graph }
    }

    /// What `make` makes when it is first asked for, if it is what the index was made with by its stamp.
    fn checked<T: Send + Sync + 'static>(
        &self,
        passport: &Passport,
        index: &Path,
        make: impl Fn(&Self) -> Result<T> + Send + Sync + 'static,
        stamp: impl Fn(&mut Passport, &T) + Send + Sync + 'static,
    ) -> Arc<Lazy<T>> {
        let (models, passport, index) = (self.clone(), passport.clone(), index.to_owned());
        Arc::new(Lazy::new(Box::new(move || {
            let made = make(&models)?;
            let mut wanted = passport.clone();
            stamp(&mut wanted, &made);
            passport.check(&wanted, &index)?;
            Ok(made)
        })))
    }

    /// Refuses a model of the registry that is of another role; what is not in it may be anything.
    fn check_role(&self, name: &str, wanted: Role) -> Result<()> {
        match self.cache.registry().entry(name) {
            Ok(entry) if entry.role != wanted => Err(Error::Role { name: name.to_owned(), is: entry.role, wanted }),
            _ => Ok(()),
        }
    }

    /// Refuses an encoder that does not compute where it is to, before anything else has.
    fn check_device(&self, dir: &Path) -> Result<()> {
        match self.settings.device.is_cuda() {
            false => Ok(()),
            true => check_on_device(dir, self.settings.long_inputs),
        }
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
        if let Some(model) = name.strip_prefix(PROMPT_REPS) {
            let embedder = self.prompt_reps(name, model, |reps| Arc::new(PromptRepsSparse(reps)))?;
            let name = name.to_owned();
            let no_bag = move || Err(Error::NoInferenceFree { model: name.clone() });
            return Ok(Arc::new(SparseEmbedder::new(embedder, no_bag)));
        }
        self.check_role(name, Role::SparseEncoder)?;
        let files = self.ensure(name)?;
        let config = SparseEncoderConfig::for_model(&files.dir).map_err(|error| with_remedy(name, error))?;
        let config =
            SparseEncoderConfig { products: self.settings.products, long_inputs: self.settings.long_inputs, ..config };
        let config = options.configure(config);
        self.check_device(&files.dir)?;
        let pooling = SparseOptions::of(&config).to_string();
        let stamp = self.stamp(name, &files, &pooling, config.max_tokens, 0);
        let (dir, threads, bag_dir) = (files.dir.clone(), self.threads, files.dir);
        let (owned, bag_name) = (name.to_owned(), name.to_owned());
        let (device, kernels) = (self.settings.device, self.kernels());
        let embedder = Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = SparseEncoder::load(&dir, config.clone(), threads);
            let encoder = encoder.map_err(|error| with_remedy(&owned, error))?;
            Ok(Arc::new(on_device(encoder, device, &dir, &kernels)?))
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

    /// An encoder of what a language model has in mind of texts, by the name that it is asked for and the model's.
    fn prompt_reps<V: 'static>(
        &self,
        name: &str,
        model: &str,
        encoder: impl Fn(Arc<PromptReps>) -> Arc<dyn Encoder<Vector = V>> + Send + Sync + 'static,
    ) -> Result<Embedder<V>> {
        let files = self.ensure(model)?;
        let path = language_model(&files)?;
        let options = PromptRepsOptions::default();
        let is_weights = |file: &str| file.ends_with(".gguf") || file.ends_with(".safetensors");
        let dim = self.hidden_dim(model, &path)?;
        let stamp = ModelStamp {
            weights_sha256: joined_sha256(&files, is_weights),
            normalized: true,
            max_tokens: options.max_tokens,
            parameters: BTreeMap::new(),
            ..self.stamp(name, &files, "the word to come", options.max_tokens, dim)
        };
        let owned = model.to_owned();
        let counter = move || {
            let tokenizer = if path.is_dir() {
                Tokenizer::from_file(path.join("tokenizer.json"))
            } else {
                GgufFile::open(&path).and_then(|file| Tokenizer::from_gguf(&file))
            };
            Ok(token_counter_of(tokenizer.map_err(|error| with_remedy(&owned, error))?))
        };
        let (models, model) = (self.clone(), model.to_owned());
        Ok(Embedder::new(stamp, counter, move || {
            let model = models.language_model(&model)?()?;
            Ok(encoder(Arc::new(PromptReps::new(Arc::new(model), options)?)))
        }))
    }

    /// The dimension of a language model's hidden states, without its weights.
    fn hidden_dim(&self, name: &str, path: &Path) -> Result<usize> {
        let config = if path.is_dir() {
            DecoderConfig::from_folder(path)
        } else {
            GgufFile::open(path).and_then(|file| DecoderConfig::from_gguf(&file))
        };
        Ok(config.map_err(|error| with_remedy(name, error))?.hidden_dim)
    }

    /// An encoder of token vectors by name, or by the folder of its files: a late-interaction model, or a sentence model
    /// whose hidden states serve as token vectors.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn late_embedder(&self, name: &str) -> Result<Arc<Embedder<TokenMatrix>>> {
        self.check_role(name, Role::DenseEncoder)?;
        let files = self.ensure(name)?;
        let config = TokenEncoderConfig::for_files(&files.dir).map_err(|error| with_remedy(name, error))?;
        let config =
            TokenEncoderConfig { products: self.settings.products, long_inputs: self.settings.long_inputs, ..config };
        self.check_device(&files.dir)?;
        let pooling = match config.head {
            TokenHead::Projection => "tokens, projected",
            TokenHead::HiddenState => "tokens",
        };
        let stamp = self.stamp(name, &files, pooling, config.passage_tokens, 0);
        let (dir, threads, owned) = (files.dir, self.threads, name.to_owned());
        let (device, kernels) = (self.settings.device, self.kernels());
        Ok(Arc::new(Embedder::new(stamp, counter(name, &dir), move || {
            let encoder = TokenEncoder::load(&dir, config.clone(), threads);
            let encoder = encoder.map_err(|error| with_remedy(&owned, error))?;
            Ok(Arc::new(on_device(encoder, device, &dir, &kernels)?))
        })))
    }

    /// The tokenizer of a language model by name, or by the path of its file or folder, for n-grams.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn ngram_tokenizer(&self, name: &str) -> Result<Arc<NgramTokenizer>> {
        let files = self.ensure(name)?;
        let path = language_model(&files)?;
        let file =
            if path.is_dir() { "tokenizer.json" } else { path.file_name().and_then(OsStr::to_str).unwrap_or("") };
        let tokenizer_sha256 = files.sha256.get(file).cloned().unwrap_or_default();
        let stamp = unused_stamp(name, "tokens", String::new(), tokenizer_sha256);
        let name = name.to_owned();
        Ok(Arc::new(NgramTokenizer::new(stamp, move || {
            let tokenizer = if path.is_dir() {
                Tokenizer::from_file(path.join("tokenizer.json"))
            } else {
                GgufFile::open(&path).and_then(|file| Tokenizer::from_gguf(&file))
            };
            Ok(Arc::new(tokenizer.map_err(|error| with_remedy(&name, error))?))
        })))
    }

    /// What finds the entities of a graph: [`RULES`](Self::RULES), or a language model by name, or by the path of its file
    /// or folder, beside them. A model takes seconds for each chunk.
    ///
    /// # Errors
    ///
    /// When the model's files cannot be had; what is wrong inside of them shows when they are loaded.
    pub fn graph_extractor(&self, name: &str) -> Result<Arc<GraphExtractor>> {
        let hash = match name {
            Self::RULES => String::new(),
            name => joined_sha256(&self.ensure(name)?, |_| true),
        };
        let extractor = self.extractor(name);
        let stamp = unused_stamp(name, &extractor.fingerprint(), hash, String::new());
        Ok(Arc::new(GraphExtractor { stamp, extractor }))
    }

    /// The same, whose model is looked for when it is first asked.
    fn extractor(&self, name: &str) -> Arc<dyn Extractor> {
        if name == Self::RULES {
            return Arc::new(RuleExtractor);
        }
        let (models, name) = (self.clone(), name.to_owned());
        let load = move || Ok(Arc::new(ChatModel::new(Arc::new(models.language_model(&name)?()?))) as Arc<_>);
        Arc::new(TripleExtractor::new(load))
    }

    /// The name of the extractor of entities that needs no model.
    pub const RULES: &str = "rules";

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
    /// The weights are loaded beside whatever comes next, if the recipe has a `generate` stage; `interrupt` is looked at between two tokens. With `kv`, prompts
    /// are read with keys and values that are kept beside an index.
    ///
    /// # Errors
    ///
    /// When the model's file cannot be had, or it is to compute on a device and the settings ask for what it does not
    /// serve there; what is wrong inside of the file shows at the first answer.
    pub fn generator(
        &self,
        name: &str,
        recipe: &Recipe,
        interrupt: Arc<AtomicBool>,
        kv: Option<KvSettings>,
    ) -> Result<Arc<LazyGenerator>> {
        let files = self.ensure(name)?;
        self.check_language_model_device(kv.as_ref().map(|kv| kv.method))?;
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
        let spec = recipe.all_stages().into_iter().find_map(|stage| match &stage.spec {
            StageSpec::Generate(spec) => Some(spec.clone()),
            _ => None,
        });
        let is_needed = spec.is_some();
        let options =
            GenerateOptions { attention: self.settings.attention, ..generate_options(&spec.unwrap_or_default()) };
        let load = move || -> Result<ChatGenerator> {
            let generator = ChatGenerator::new(Arc::new(load_model()?), options)?.interrupted_by(interrupt);
            Ok(match keeper {
                Some(keeper) => generator.keeping(keeper),
                None => generator,
            })
        };
        // A recipe that answers in steps, or does not answer, may have no use for it.
        Ok(Arc::new(if is_needed { LazyGenerator::begun(load) } else { LazyGenerator::later(load) }))
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

    /// The cross-encoder of a folder, where it is to compute.
    pub(crate) fn cross_encoder(&self, dir: &Path) -> Result<CrossEncoder> {
        let ModelSettings { products, device, ref onnx_runtime, .. } = self.settings;
        match device.is_cuda() {
            false => Ok(CrossEncoder::load(dir, products, self.threads, onnx_runtime.as_deref())?),
            true => cross_encoder_on_device(dir, products, self.threads, &self.kernels()),
        }
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

    /// Refuses what a language model is asked for and does not serve where it is to compute, or a device that is not there;
    /// `kv` is how it uses what is kept.
    ///
    /// # Errors
    ///
    /// [`Error::NoCuda`], [`Error::Device`], or that of what is not served.
    pub fn check_language_model_device(&self, kv: Option<ReuseMethod>) -> Result<()> {
        if !self.language_model_device().is_cuda() {
            return Ok(());
        }
        let refused = [
            (self.settings.attention != AttentionPolicy::Full, "`attention` other than `full`"),
            (
                kv.is_some_and(|method| method.needs_processor()),
                "the methods `blend`, `cache-craft`, `parallel` and `focus` of `kv`",
            ),
        ];
        match refused.into_iter().find(|(is_asked, _)| *is_asked) {
            Some((_, what)) if cfg!(feature = "cuda") => Err(raglan_model::Error::NotOnDevice { what }.into()),
            _ => check_device(),
        }
    }

    /// Refuses a device that encoders are to compute on and that is not there.
    ///
    /// # Errors
    ///
    /// [`Error::NoCuda`] and [`Error::Device`].
    pub fn check_encoder_device(&self) -> Result<()> {
        if self.settings.device.is_cuda() { check_device() } else { Ok(()) }
    }

    fn language_model_device(&self) -> ComputeDevice {
        self.settings.language_model_device.unwrap_or(self.settings.device)
    }

    /// Where compiled kernels are kept.
    fn kernels(&self) -> PathBuf {
        self.cache.dir().join("cuda-kernels")
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
        let (device, kernels) = (self.language_model_device(), self.kernels());
        let device = (device, self.settings.device_kv_bytes);
        Ok(move || {
            let model =
                load(&path, (threads, products), device, &kernels).map_err(|error| with_remedy(&name, error))?;
            let extended = model.transformer.extended(extension).map_err(raglan_generate::Error::from)?;
            Ok(LanguageModel { transformer: extended, ..model })
        })
    }
}

/// The stamp of what makes no vectors of its own: most of an encoder's is nothing.
fn unused_stamp(name: &str, kind: &str, weights_sha256: String, tokenizer_sha256: String) -> ModelStamp {
    ModelStamp {
        name: name.to_owned(),
        weights_sha256,
        tokenizer_sha256,
        pooling: kind.to_owned(),
        normalized: false,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        max_tokens: 0,
        dim: 0,
        parameters: BTreeMap::new(),
        dtype: String::new(),
    }
}

/// An encoder under the stamp that an index has of it.
fn late_bound<V: 'static>(stamp: &ModelStamp, made: Arc<Lazy<Arc<Embedder<V>>>>) -> Arc<Embedder<V>> {
    let (counter, encoder) = (made.clone(), made);
    let counter = move || Ok(counter.get()?.counter());
    Arc::new(Embedder::new(stamp.clone(), counter, move || encoder.get()?.encoder().cloned()))
}

/// What a model's weights are told from others by.
pub(crate) fn weights(files: &ModelFiles) -> String {
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

/// The first device; compiled kernels are kept in a folder.
#[cfg(feature = "cuda")]
fn first_device(kernels: &Path) -> Result<raglan_kernels::cuda::CudaDevice> {
    raglan_kernels::cuda::CudaDevice::open(0, Some(kernels))
        .map_err(|error| Error::Device { problem: error.to_string() })
}

/// Whether kernels run on the first device, which stays open then, so that models find it soon.
#[cfg(feature = "cuda")]
fn check_device() -> Result<()> {
    use raglan_kernels::cuda::CudaDevice;

    static THERE: std::sync::OnceLock<std::result::Result<CudaDevice, String>> = std::sync::OnceLock::new();
    let there = THERE.get_or_init(|| CudaDevice::open(0, None).map_err(|error| error.to_string()));
    there.as_ref().map(|_| ()).map_err(|problem| Error::Device { problem: problem.clone() })
}

#[cfg(feature = "cuda")]
fn is_device_there() -> bool {
    check_device().is_ok()
}

#[cfg(not(feature = "cuda"))]
fn check_device() -> Result<()> {
    Err(Error::NoCuda)
}

#[cfg(not(feature = "cuda"))]
fn is_device_there() -> bool {
    false
}

#[cfg(feature = "cuda")]
fn check_on_device(dir: &Path, long_inputs: LongInputs) -> Result<()> {
    raglan_embed::check_on_device(dir, long_inputs)?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn check_on_device(_: &Path, _: LongInputs) -> Result<()> {
    Err(Error::NoCuda)
}

/// The encoder where it is to compute.
#[cfg(feature = "cuda")]
fn on_device<E: raglan_embed::OnDevice>(encoder: E, device: ComputeDevice, dir: &Path, kernels: &Path) -> Result<E> {
    match device.is_cuda() {
        false => Ok(encoder),
        true => Ok(encoder.on_device(dir, &first_device(kernels)?)?),
    }
}

/// A language model where it is to compute, by threads and products, with what chunks may take there.
#[cfg(feature = "cuda")]
fn load(path: &Path, by: (usize, Products), on: (ComputeDevice, Option<u64>), kernels: &Path) -> Result<LanguageModel> {
    if !on.0.is_cuda() {
        return Ok(LanguageModel::load(path, by.0, by.1)?);
    }
    let model = LanguageModel::load_on_device(path, &first_device(kernels)?, by.0, by.1)?;
    if let Some(n_bytes) = on.1 {
        let arena = model.transformer.kv_arena();
        arena.set_block_budget(arena.block_budget().min(usize::try_from(n_bytes).unwrap_or(usize::MAX)));
    }
    Ok(model)
}

#[cfg(not(feature = "cuda"))]
fn load(path: &Path, by: (usize, Products), on: (ComputeDevice, Option<u64>), _: &Path) -> Result<LanguageModel> {
    match on.0.is_cuda() {
        false => Ok(LanguageModel::load(path, by.0, by.1)?),
        true => Err(Error::NoCuda),
    }
}

#[cfg(feature = "cuda")]
fn cross_encoder_on_device(dir: &Path, products: Products, threads: usize, kernels: &Path) -> Result<CrossEncoder> {
    Ok(CrossEncoder::load_on_device(dir, &first_device(kernels)?, products, threads)?)
}

#[cfg(not(feature = "cuda"))]
fn cross_encoder_on_device(_: &Path, _: Products, _: usize, _: &Path) -> Result<CrossEncoder> {
    Err(Error::NoCuda)
}

#[cfg(not(feature = "cuda"))]
fn on_device<E>(encoder: E, device: ComputeDevice, _: &Path, _: &Path) -> Result<E> {
    match device.is_cuda() {
        false => Ok(encoder),
        true => Err(Error::NoCuda),
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
        | Error::Augment(raglan_augment::Error::Model(model))
        | Error::Model(model) => Some(model),
        _ => None,
    };
    let is_of_files =
        matches!(error, Error::Embed(raglan_embed::Error::Io { .. } | raglan_embed::Error::Malformed { .. }))
            || matches!(
                model,
                Some(Model::Io { .. } | Model::Malformed { .. } | Model::Tokenizer { .. } | Model::Template { .. })
            );
    if !is_of_files {
        return error;
    }
    let is_missing = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    let lacks = match (&error, model) {
        (Error::Embed(raglan_embed::Error::Io { source, .. }), _) | (_, Some(Model::Io { source, .. })) => {
            is_missing(source)
        }
        _ => false,
    };
    let remedy = if reference(name).starts_with("file:") && lacks {
        "copy the model with all of its files".to_owned()
    } else if reference(name).starts_with("file:") {
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
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let missing = raglan_model::Error::Io { path: "m/config.json".into(), source: missing };
        assert!(with_remedy("./m", missing).to_string().ends_with("copy the model with all of its files"));
        let other = with_remedy("some-model", raglan_generate::Error::Interrupted);
        assert_eq!(other.to_string(), "interrupted");
        assert!(with_remedy("m", raglan_embed::Error::Model(malformed())).to_string().contains("pull m"));
    }
}
