//! What every command needs: settings, models, and the index that is meant.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use raglan::embed::LongInputs;
use raglan::generate::CONTEXT_TOKENS;
use raglan::generate::reuse::ReuseMethod;
use raglan::ingest::chunk::{ChunkerKind, WordCounter};
use raglan::ingest::{Isolation, Limits, WalkOptions};
use raglan::kv::CacheLimits;
use raglan::model::Products;
use raglan::pipeline::{Recipe, StageSpec};
use raglan::sparse::AnalyzerConfig;
use raglan::{
    BuildSettings, Embedder, Encoders, Filter, Index, IndexSettings, Indexer, JudgedKv, KvSettings, ModelSettings,
    Models, SparseOptions,
};

use crate::args::{FilterArgs, Flags, FolderArgs, Global};
use crate::progress::{Bars, STOP};
use crate::settings::{AS_DEVICE, Settings};

/// What a raglan process that reads files for another one is started with.
pub const READ_WORKER: &str = "read-worker";

/// The settings in force and what was made of them.
pub struct Session {
    pub settings: Settings,
    pub json: bool,
    pub bars: Arc<Bars>,
    pub models: Models,
    pub threads: usize,
}

impl Session {
    /// Resolves the settings and sets up the threads.
    pub fn new(global: Global, flags: Flags) -> Result<Self> {
        let mut all = global.settings();
        all.extend(flags);
        let settings = Settings::resolve(&all)?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = match settings.parse("threads")? {
            0 => processors,
            wanted => processors.saturating_mul(4).min(wanted), // More would only wait for each other.
        };
        raglan::set_threads(threads)?;
        let bars = Arc::new(Bars::new(global.quiet));
        let mut models = Models::new(settings.path("cache"), settings.parse("offline")?, threads, bars.clone())?
            .interrupted_by(STOP.clone());
        models.set_settings(model_settings(&settings)?);
        Ok(Self { settings, json: global.json, bars, models, threads })
    }

    /// Goes on with what an index remembers, wherever nothing else was said; only the command that makes indexes changes
    /// what it remembers.
    pub fn inherit(&mut self, index: &Path, is_made: bool) {
        // An index that cannot be read has nothing to say here; the command that opens it says why.
        if let Ok(passport) = raglan::store::Passport::read(index) {
            self.settings.inherit(index, &passport.settings);
            if !is_made {
                self.settings.keep_precision(&passport.settings);
            }
            if let Ok(settings) = model_settings(&self.settings) {
                self.models.set_settings(settings);
            }
        }
    }

    /// The index folder of a folder of documents.
    pub fn index_of(&self, documents: &Path) -> Result<PathBuf> {
        match self.settings.path("index") {
            Some(index) => Ok(index),
            None => Ok(raglan::index_of(documents)?),
        }
    }

    /// Where keys and values of the language model are kept and how they are used; nowhere when all is to be computed.
    pub fn kv(&self, index: &Path) -> Result<Option<KvSettings>> {
        Ok(Some(self.kv_settings(index)?).filter(|kv| kv.method != ReuseMethod::Full))
    }

    /// The same, also when all is to be computed.
    pub fn kv_settings(&self, index: &Path) -> Result<KvSettings> {
        let limits = cache_limits(&self.settings)?;
        let (method, precision) = (self.settings.parse("kv")?, self.settings.parse("kv-precision")?);
        let order = self.settings.parse("kv-order")?;
        // Parameters that were not said are those that were chosen for the model.
        let calibrated = !self.settings.text("kv").contains('=');
        let (shadow, drift) = (self.settings.parse("kv-shadow")?, self.settings.parse("kv-drift")?);
        Ok(KvSettings { method, calibrated, order, precision, limits, shadow, drift, ..KvSettings::new(index) })
    }

    /// The index folder that a command means: the setting, the folder's, or the nearest from here upwards.
    pub fn index_folder(&self, folder: &FolderArgs) -> Result<PathBuf> {
        if let Some(index) = self.settings.path("index") {
            return Ok(index);
        }
        if let Some(documents) = &folder.folder {
            return Ok(raglan::index_of(documents)?);
        }
        let here = std::env::current_dir().context("the current folder cannot be read")?;
        for folder in here.ancestors() {
            if let Ok(index) = raglan::index_of(folder)
                && index.join("manifest.json").is_file()
            {
                return Ok(index);
            }
        }
        bail!("no index here or above; name the folder with `-f FOLDER`, or make an index with `raglan index FOLDER`")
    }

    /// Opens an index for questions.
    pub fn open(&self, index: &Path) -> Result<Index> {
        Ok(Index::open(index, |passport| Ok(self.models.encoders_of(passport, index)))?
            .with_models(self.models.clone()))
    }

    /// The encoder of the settings, if there is to be one.
    pub fn embedder(&self) -> Result<Option<Arc<Embedder>>> {
        match self.settings.text("embedder") {
            "none" => Ok(None),
            name => Ok(Some(self.models.embedder(name)?)),
        }
    }

    /// The encoders of the settings.
    pub fn encoders(&self) -> Result<Encoders> {
        let name = |key| Some(self.settings.text(key)).filter(|name| *name != "none");
        Ok(Encoders {
            dense: self.embedder()?,
            sparse: name("sparse").map(|name| self.models.sparse_embedder(name)).transpose()?,
            late: name("late").map(|name| self.models.late_embedder(name)).transpose()?,
            ngrams: name("ngrams").map(|name| self.models.ngram_tokenizer(name)).transpose()?,
            graph: name("graph").map(|name| self.models.graph_extractor(name)).transpose()?,
        })
    }

    /// Refuses a device of encoders that is not there, before anything is written.
    pub fn check_encoder_device(&self) -> Result<()> {
        let has_any = ["embedder", "sparse", "late"].into_iter().any(|key| self.settings.text(key) != "none");
        if has_any { self.models.check_encoder_device().with_context(|| self.settings.told("device")) } else { Ok(()) }
    }

    /// The same for the device of language models, and for what they are asked for there.
    pub fn check_language_model_device(&self) -> Result<()> {
        let key = if self.settings.text("generator-device") == AS_DEVICE { "device" } else { "generator-device" };
        let checked = self.models.check_language_model_device(Some(self.settings.parse("kv")?));
        checked.with_context(|| self.settings.told(key))
    }

    /// How text becomes terms by the settings.
    pub fn analyzer(&self) -> Result<AnalyzerConfig> {
        let settings = &self.settings;
        let mut analyzer = AnalyzerConfig::default();
        match settings.text("language") {
            "none" => {
                analyzer.language = raglan::sparse::StemLanguage::None;
                analyzer.stop_words = false;
            }
            _ => analyzer.language = settings.parse("language")?,
        }
        Ok(analyzer)
    }

    /// How many bytes a file and its text may have, and how long it may take.
    pub fn limits(&self) -> Result<Limits> {
        let seconds: f64 = self.settings.parse("file-seconds")?;
        let time = std::time::Duration::try_from_secs_f64(seconds).context("setting `file-seconds`")?;
        Ok(Limits {
            file_bytes: self.settings.bytes("max-file-size")?,
            text_bytes: self.settings.bytes("max-text-size")?,
            time,
            ..Limits::default()
        })
    }

    /// Files of risky formats are read by this program in a process of their own.
    pub fn isolation(&self) -> Result<Isolation> {
        let program = std::env::current_exe().context("this program's own path is unknown")?;
        Ok(Isolation::Worker { program, args: vec![READ_WORKER.into()] })
    }

    /// An indexer of a folder by the settings.
    pub fn indexer(&self, documents: &Path, index: &Path) -> Result<Indexer> {
        let settings = &self.settings;
        let encoders = self.encoders()?;
        let max_tokens: usize = settings.parse("chunk-tokens")?;
        let overlap: usize = settings.parse("chunk-overlap")?;
        let prefix_headings: bool = settings.parse("prefix-headings")?;
        let reads_all = self.models.settings().long_inputs == LongInputs::ParallelWindows;
        for stamp in encoders.stamps().filter(|_| !reads_all) {
            // The encoder adds two special tokens.
            let most = stamp.max_tokens.saturating_sub(2);
            if max_tokens > most {
                bail!("{}: `{}` reads at most {most} tokens", settings.told("chunk-tokens"), stamp.name);
            }
        }
        let counter = encoders.counter().unwrap_or_else(|| Arc::new(WordCounter) as _);
        let kind: ChunkerKind = settings.parse("chunker")?;
        let chunker = kind.build(max_tokens, overlap, prefix_headings, counter)?;
        let analyzer = self.analyzer()?;
        let max_memory = settings.bytes("max-memory")?;
        Ok(Indexer::new(
            documents,
            index,
            IndexSettings {
                walk: WalkOptions {
                    respect_ignore_files: settings.parse("ignore-files")?,
                    hidden: settings.parse("hidden")?,
                    include: settings.lines("include"),
                    exclude: settings.lines("exclude"),
                    ..WalkOptions::default()
                },
                limits: self.limits()?,
                isolation: self.isolation()?,
                chunker: chunker.into(),
                build: BuildSettings {
                    prefix_headings,
                    analyzer,
                    pending_bytes: (max_memory / 16).max(1 << 20),
                    commit_every: std::time::Duration::from_secs(settings.parse("commit-seconds")?),
                    ..BuildSettings::new(encoders, self.threads)
                },
                remembered: settings.to_remember(),
            },
        ))
    }

    /// The recipe of the settings, or the default for an index with or without vectors; and its name.
    ///
    /// `set` are parameters of its stages.
    pub fn recipe(
        &self,
        index: &Index,
        with_vectors: &str,
        words_only: &str,
        set: &[String],
    ) -> Result<(String, Recipe)> {
        let name = match self.settings.text("recipe") {
            "" if index.has_dense() => with_vectors,
            "" => words_only,
            name => name,
        };
        let recipe = self.adjusted(raglan::recipe_with(name, set)?)?;
        self.tell_unused(&recipe);
        Ok((name.to_owned(), recipe))
    }

    /// Refuses a recipe, or settings of one, that are not sound, before there is an index to choose the recipe by.
    pub fn check_recipe(&self, default: &str, set: &[String]) -> Result<()> {
        match self.settings.text("recipe") {
            // Which recipe that will be, and so what may be set, is not known yet.
            "" => self.adjusted(raglan::recipe(default)?).map(drop),
            name => self.adjusted(raglan::recipe_with(name, set)?).map(drop),
        }
    }

    /// Says which settings a recipe does not look at: a method of fusion where nothing is fused, and those of answers where
    /// it answers in steps.
    pub fn tell_unused(&self, recipe: &Recipe) {
        const OF_GENERATE: [&str; 10] = [
            "temperature",
            "top-k",
            "top-p",
            "min-p",
            "repetition-penalty",
            "seed",
            "attention",
            "rope-scaling",
            "kv",
            "kv-order",
        ];
        let stages = recipe.all_stages();
        let fuses = stages.iter().any(|stage| matches!(stage.spec, StageSpec::Fuse(_)));
        if !fuses && self.settings.is_given("fusion") {
            say!("{} does nothing here: `{}` has no stage `fuse`", self.settings.told("fusion"), recipe.name());
        }
        let has_steps = stages.iter().any(|stage| matches!(stage.spec, StageSpec::Steps(_)));
        if !has_steps || stages.iter().any(|stage| matches!(stage.spec, StageSpec::Generate(_))) {
            return;
        }
        for key in OF_GENERATE.into_iter().filter(|key| self.settings.is_given(key)) {
            say!("{} does nothing here: `{}` answers in steps", self.settings.told(key), recipe.name());
        }
    }

    /// The recipe with the parameters that the settings give.
    pub fn adjusted(&self, mut recipe: Recipe) -> Result<Recipe> {
        let settings = &self.settings;
        if let Some(k) = settings.parse_given("k")? {
            recipe = recipe.with_k(k);
        }
        if let Some(method) = settings.parse_given("fusion")? {
            recipe = recipe.with_fusion(&method);
        }
        if let Some(steps) = recipe.steps_mut() {
            steps.answer_tokens = settings.parse_given("max-tokens")?.unwrap_or(steps.answer_tokens);
            steps.context_tokens = settings.parse_given("context-tokens")?.unwrap_or(steps.context_tokens);
            let most = steps.answer_tokens.max(steps.step_tokens);
            if (1..=most).contains(&steps.context_tokens) {
                bail!(
                    "`--context-tokens`, {}, counts prompt and answer, and must be more than what a step or the answer may \
                     have, {most}",
                    steps.context_tokens
                );
            }
        }
        if let Some(generate) = recipe.generation_mut() {
            fn take<T: std::str::FromStr<Err: std::fmt::Display>>(
                settings: &Settings,
                key: &str,
                place: &mut T,
            ) -> Result<()> {
                if let Some(value) = settings.parse_given(key)? {
                    *place = value;
                }
                Ok(())
            }
            take(settings, "max-tokens", &mut generate.max_tokens)?;
            take(settings, "context-tokens", &mut generate.context_tokens)?;
            take(settings, "temperature", &mut generate.temperature)?;
            take(settings, "top-k", &mut generate.top_k)?;
            take(settings, "top-p", &mut generate.top_p)?;
            take(settings, "min-p", &mut generate.min_p)?;
            take(settings, "repetition-penalty", &mut generate.repetition_penalty)?;
            take(settings, "seed", &mut generate.seed)?;
            let both = match generate.context_tokens {
                0 => CONTEXT_TOKENS,
                given => given,
            };
            if both <= generate.max_tokens {
                bail!(
                    "`--context-tokens`, {both}, counts prompt and answer, and must be more than `--max-tokens`, {}",
                    generate.max_tokens
                );
            }
        }
        Ok(recipe)
    }
}

/// The filter of a command's options.
pub fn filter(args: &FilterArgs) -> Result<Filter> {
    let time = |text: &Option<String>| text.as_deref().map(raglan::parse_time).transpose();
    Ok(Filter {
        paths: args.path.clone(),
        formats: args.format.clone(),
        modified_from: time(&args.after).context("option `--after`")?,
        modified_before: time(&args.before).context("option `--before`")?,
        metadata: args.meta.clone(),
    })
}

/// How models work.
fn model_settings(settings: &Settings) -> Result<ModelSettings> {
    Ok(ModelSettings {
        language_model: Some(settings.text("generator").to_owned()),
        products: products(settings)?,
        long_inputs: settings.parse("long-inputs")?,
        pooling: settings.parse_given("pooling")?,
        truncate_dim: Some(settings.parse("truncate-dim")?).filter(|dim| *dim > 0),
        line_windows: settings.parse_given("line-windows")?,
        onnx_runtime: settings.path("onnxruntime"),
        sparse: sparse_options(settings)?,
        token_weights: settings.path("sparse-weights"),
        context_extension: settings.parse("rope-scaling")?,
        attention: settings.parse("attention")?,
        device: settings.parse("device")?,
        language_model_device: match settings.text("generator-device") {
            AS_DEVICE => None,
            _ => Some(settings.parse("generator-device")?),
        },
        device_kv_bytes: Some(settings.bytes("kv-device")?),
        judged_kv: judged_kv(settings)?,
    })
}

/// How keys and values of judged chunks are kept: not at all where nothing is to be.
fn judged_kv(settings: &Settings) -> Result<JudgedKv> {
    let mut limits = cache_limits(settings)?;
    if settings.parse::<ReuseMethod>("kv")? == ReuseMethod::Full {
        (limits.memory_bytes, limits.disk_bytes) = (0, 0);
    }
    Ok(JudgedKv { precision: settings.parse("kv-precision")?, limits })
}

fn cache_limits(settings: &Settings) -> Result<CacheLimits> {
    Ok(CacheLimits {
        memory_bytes: settings.bytes("kv-memory")?,
        disk_bytes: settings.bytes("kv-disk")?,
        ..CacheLimits::default()
    })
}

/// How learned sparse vectors of chunks are made.
fn sparse_options(settings: &Settings) -> Result<SparseOptions> {
    let words: usize = settings.parse("sparse-words")?;
    Ok(SparseOptions {
        activation: settings.parse_given("sparse-activation")?,
        min_weight: settings.parse("sparse-min-weight")?,
        words: Some(words).filter(|&words| words > 0),
    })
}

/// How models multiply.
fn products(settings: &Settings) -> Result<Products> {
    let precision: Products = settings.parse("precision")?;
    match (settings.text("backend"), precision) {
        ("candle", Products::Stored | Products::F32) => Ok(Products::Candle),
        ("candle", _) => bail!(
            "setting `precision` = `{}`: the candle backend multiplies in f32; leave `precision` or `backend` out",
            precision.name()
        ),
        _ => Ok(precision),
    }
}
