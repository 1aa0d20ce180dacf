//! Settings and where each of them came from.
//!
//! A setting is taken from the first place that has it: the command line, the environment (`RAGLAN_*`),
//! the project file (`raglan.toml` in the current folder or above it), the user's file, what the index remembers (for
//! settings that decide what it holds), the default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use raglan::embed::LongInputs;
use raglan::pipeline::Recipe;

/// A setting: its key in files, `RAGLAN_<KEY>` in the environment, its default and what it means.
pub struct Setting {
    /// Key in a settings file; dashes between words.
    pub key: &'static str,
    /// What it may be.
    kind: Kind,
    /// Default, as it would be written on the command line.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
}

/// What a setting may be; an empty text is none, and always allowed where it is the default.
enum Kind {
    /// Any text.
    Text,
    /// Yes or no, in one of several spellings.
    YesNo,
    /// A whole number within bounds.
    Whole(u64, u64),
    /// A number within bounds.
    Number(f64, f64),
    /// A number of bytes, such as `100MiB`.
    Size,
    /// Globs, one a line; a list in files, a flag that is given several times.
    Globs,
    /// What this can read.
    Word(fn(&str) -> Result<(), String>),
}

const fn setting(key: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { key, kind, default, help }
}

fn word<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<(), String> {
    text.parse::<T>().map(drop).map_err(|error| error.to_string())
}

fn language(text: &str) -> Result<(), String> {
    if text == "none" { Ok(()) } else { word::<raglan::sparse::StemLanguage>(text) }
}

/// What encoders do with long texts in a folder, where what is not read could not be found.
fn long_inputs(text: &str) -> Result<(), String> {
    match text.parse()? {
        LongInputs::Cut => Err("`cut` would leave text out that could not be found".to_owned()),
        _ => Ok(()),
    }
}

/// Where language models compute when nothing else is said.
pub const AS_DEVICE: &str = "device";

/// Where language models compute.
fn generator_device(text: &str) -> Result<(), String> {
    let there = text == AS_DEVICE || text.parse::<raglan::ComputeDevice>().is_ok();
    if there { Ok(()) } else { Err(format!("`{text}` is neither device (as `device` says) nor cpu nor cuda nor auto")) }
}

/// A library of products.
fn backend(text: &str) -> Result<(), String> {
    if ["raglan", "candle"].contains(&text) { Ok(()) } else { Err(format!("`{text}` is neither raglan nor candle")) }
}

use Kind::{Globs, Number, Size, Text, Whole, Word, YesNo};

const MANY: u64 = u32::MAX as u64;
/// The least number above 0 that parameters of models can be.
const ABOVE_ZERO: f64 = f32::MIN_POSITIVE as f64;

/// Every setting there is.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("index", Text, "", "folder of the index; empty: `.raglan` in the folder of documents"),
    setting("cache", Text, "", "folder of downloaded models; empty: by the platform's convention"),
    setting("offline", YesNo, "false", "never touch the network"),
    setting("threads", Whole(0, 1024), "0", "threads to use; 0: as many as there are processors; more than four for each are not started"),
    setting("max-memory", Size, "4GiB", "memory that indexing may use for texts and vectors under way"),
    setting("embedder", Text, "all-minilm-l6-v2", "dense encoder: a model name or path, or `none` for BM25 only"),
    setting("sparse", Text, "none", "learned sparse encoder: a model name or path, or `none`"),
    setting("sparse-words", Whole(0, MANY), "0", "most words of a chunk's learned sparse vector, the heaviest; 0: all"),
    setting("sparse-min-weight", Number(0.0, 100.0), "0", "words of less weight are left out of chunks' learned sparse vectors"),
    setting("sparse-activation", Word(word::<raglan::embed::SparseActivation>), "", "log1p (SPLADE) or log1p-twice (models trained to few words, such as OpenSearch's doc-v3); empty: as the model's files say"),
    setting("sparse-weights", Text, "", "JSON file of weights by token for queries without inference, as models publish it (idf.json); empty: the one beside the model, or else each token's idf in the index"),
    setting("late", Text, "none", "encoder of token vectors for late interaction: a model name or path, or `none`"),
    setting("ngrams", Text, "none", "language model by whose tokenizer n-grams are counted, for recipes that find chunks or quotations by them, or `none`"),
    setting("graph", Text, "none", "what finds the entities of a graph of entities and chunks: `rules`, by capitals and sentences, a language model beside these, which takes seconds for each chunk, or `none`"),
    setting("pooling", Word(word::<raglan::embed::Pooling>), "", "how the dense encoder pools: mean, cls, last_token or max; empty: as the model's files say"),
    setting("truncate-dim", Whole(0, MANY), "0", "keep this many of each dense vector's first coordinates (Matryoshka models); 0: all"),
    setting("long-inputs", Word(long_inputs), "refuse", "how encoders read chunks longer than their models do: refuse, windows (dense only; the mean of several), or N tokens at other positions: grouped:N, recurrent:N, interpolated:N, for rotated positions raised-base:N, self-extend:N"),
    setting("line-windows", Word(word::<raglan::embed::LineWindows>), "", "read each chunk in windows of lines, for code: LINES/STEP, the mean of their vectors, or LINES/STEP/max; empty: whole"),
    setting("onnxruntime", Text, "", "library that runs dense encoders in ONNX; empty: ORT_DYLIB_PATH, else the usual places"),
    setting("precision", Word(word::<raglan::model::Products>), "stored", "how exactly models multiply: stored (as their files hold the weights), f32, bf16 (half the memory; encoders, and language models from safetensors) or int8 (encoders only: faster, vectors a little off)"),
    setting("device", Word(word::<raglan::ComputeDevice>), "cpu", "where encoders and language models compute: cpu; cuda, the first NVIDIA device, which needs a build with `--features cuda`; auto, that one where it is there, else the processor"),
    setting("generator-device", Word(generator_device), AS_DEVICE, "where language models compute: device (as the setting `device` says), cpu, cuda or auto"),
    setting("backend", Word(backend), "raglan", "what models multiply with: raglan's own kernels, or candle, in f32, to compare"),
    setting("generator", Text, "smollm2-135m-instruct", "language model: a model name, or the path of a GGUF file or a folder of safetensors"),
    setting("rope-scaling", Word(word::<raglan::model::ContextExtension>), "none", "how language models read beyond their context, S times as far: none, linear=S, ntk=S or yarn=S"),
    setting("attention", Word(word::<raglan::model::AttentionPolicy>), "full", "which of a prompt's keys answers attend to: full, or, within BUDGET keys or a share of all, sinks=BUDGET, snapkv=BUDGET, quest=BUDGET, razor=BUDGET, retrieval=BUDGET"),
    setting("kv", Word(word::<raglan::generate::reuse::ReuseMethod>), "prefix", "how answers use keys and values that are kept beside the index: full (not at all), prefix (exactly), or, each of which changes answers a little, naive, link=N, blend=SHARE, cache-craft=ALPHA, parallel=T,S, focus=SHARE"),
    setting("kv-order", Word(word::<raglan::generate::reuse::PassageOrder>), "rank", "order in which prompts show passages: rank (the best first) or shared (those first that an earlier prompt began with, so that more of it is taken over exactly)"),
    setting("kv-precision", Word(word::<raglan::kv::BlockPrecision>), "f16", "how they are kept: f32, f16, bf16 or int8"),
    setting("kv-shadow", Number(0.0, 1.0), "0.05", "share of the questions on which a method that changes answers is tested against computing all, after the answer and the first time before it is used; 0: never"),
    setting("kv-drift", Number(0.0, 1e6), "0.5", "mean divergence of the last tests, in nats a token, above which prefix is used instead of the method"),
    setting("kv-disk", Size, "4GiB", "disk that they may take for each language model; with 0 nothing is written"),
    setting("kv-memory", Size, "1GiB", "memory that they may take"),
    setting("kv-device", Size, "4GiB", "memory of a device that they may take there, so that what is taken over again is not copied there again; at most half of what is free behind the language model"),
    setting("chunker", Word(word::<raglan::ingest::chunk::ChunkerKind>), "structure", "structure, tokens or sentences"),
    setting("chunk-tokens", Whole(1, MANY), "200", "most tokens of a chunk, by the encoder's own count"),
    setting("chunk-overlap", Whole(0, MANY), "0", "tokens that a chunk repeats from the one before"),
    setting("prefix-headings", YesNo, "true", "embed a chunk below the line of its headings"),
    setting("language", Word(language), "english", "language of stemming and stop words, or `none`"),
    setting("ignore-files", YesNo, "true", "respect .gitignore and .ignore"),
    setting("hidden", YesNo, "false", "read hidden files too"),
    setting("include", Globs, "", "read only files that match one of these globs, one a line"),
    setting("exclude", Globs, "", "leave out files that match one of these globs, one a line"),
    setting("max-file-size", Size, "100MiB", "larger files are skipped"),
    setting("max-text-size", Size, "64MiB", "files with more extracted text are skipped"),
    setting("file-seconds", Number(0.0, 1e6), "30", "a file that takes longer to read is skipped"),
    setting("commit-seconds", Whole(0, MANY), "60", "indexing makes its work durable at least this often"),
    setting("recipe", Text, "", "recipe of `search` and `ask`: a shipped name or a TOML file; empty: hybrid and ask"),
    setting("k", Whole(1, MANY), "", "how many results `search` shows; here and below, empty: as the recipe says"),
    setting("fusion", Word(word::<raglan::pipeline::Fusion>), "", "min-max, z-score, distribution-based, reciprocal-rank or auto"),
    setting("max-tokens", Whole(1, MANY), "", "most tokens of an answer"),
    setting("context-tokens", Whole(0, MANY), "", "most tokens of prompt and answer together; the model's own context is a limit too"),
    setting("temperature", Number(0.0, 100.0), "", "0 is greedy decoding"),
    setting("top-k", Whole(0, MANY), "", "sample among this many tokens; 0: all"),
    setting("top-p", Number(ABOVE_ZERO, 1.0), "", "sample among the likeliest tokens of this total probability"),
    setting("min-p", Number(0.0, 1.0), "", "sample among tokens at least this likely, relative to the likeliest"),
    setting("repetition-penalty", Number(0.01, 100.0), "", "1 is none"),
    setting("seed", Whole(0, u64::MAX), "", "seed of sampling"),
];

/// The settings that an index remembers: those that decide which files it holds and how they are cut.
const OF_THE_INDEX: &[&str] = &[
    "embedder",
    "sparse",
    "sparse-words",
    "sparse-min-weight",
    "sparse-activation",
    "late",
    "ngrams",
    "graph",
    "pooling",
    "truncate-dim",
    "long-inputs",
    "line-windows",
    "precision",
    "chunker",
    "chunk-tokens",
    "chunk-overlap",
    "prefix-headings",
    "language",
    "ignore-files",
    "hidden",
    "include",
    "exclude",
    "max-file-size",
    "max-text-size",
    "file-seconds",
];

impl Setting {
    /// The text as the settings keep it, or which texts would fit.
    fn read(&self, text: &str) -> Result<String, String> {
        if text.is_empty() && self.default.is_empty() {
            return Ok(String::new());
        }
        let fits = match self.kind {
            Text | Globs => true,
            YesNo => {
                let yes = match text.to_ascii_lowercase().as_str() {
                    "true" | "yes" | "on" | "1" => "true",
                    "false" | "no" | "off" | "0" => "false",
                    _ => return Err("expected true or false (also yes or no, on or off, 1 or 0)".to_owned()),
                };
                return Ok(yes.to_owned());
            }
            Whole(least, most) => text.parse().is_ok_and(|n: u64| (least..=most).contains(&n)),
            Number(least, most) => text.parse().is_ok_and(|x: f64| (least..=most).contains(&x)),
            Size => return parse_bytes(text).map(|_| text.to_owned()).map_err(|error| format!("{error:#}")),
            Word(read) => return read(text).map(|()| text.to_owned()),
        };
        if fits { Ok(text.to_owned()) } else { Err(format!("expected {}", self.kind)) }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Text | Word(_) => f.write_str("a text"),
            YesNo => f.write_str("true or false"),
            Whole(least, MANY | u64::MAX) => write!(f, "a whole number from {least}"),
            Whole(least, most) => write!(f, "a whole number from {least} to {most}"),
            Number(least, most) if *least == ABOVE_ZERO => write!(f, "a number above 0, up to {most}"),
            Number(least, most) => write!(f, "a number from {least} to {most}"),
            Size => f.write_str("a size such as 100MiB"),
            Globs => f.write_str("globs"),
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// An environment variable.
    Environment(String),
    /// A settings file.
    File(PathBuf),
    /// The index, which remembers what it was last brought up to date with.
    Index(PathBuf),
    /// Nowhere else.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Index(path) => write!(f, "the index `{}`", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Every setting with its value and where that came from.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// What the index remembers, where this command does not change it.
    precision_of_index: Option<String>,
}

impl Settings {
    /// Resolves all settings, given those on the command line.
    pub fn resolve(flags: &[(&'static str, Option<String>)]) -> Result<Self> {
        let project = project_file(&std::env::current_dir().context("the current folder cannot be read")?);
        let user = directories::ProjectDirs::from("", "", "raglan").map(|dirs| dirs.config_dir().join("raglan.toml"));
        let user = user.filter(|path| path.is_file());
        Self::from_places(flags, |name| std::env::var(name).ok(), project.as_deref(), user.as_deref())
    }

    fn from_places(
        flags: &[(&'static str, Option<String>)],
        environment: impl Fn(&str) -> Option<String>,
        project: Option<&Path>,
        user: Option<&Path>,
    ) -> Result<Self> {
        let mut values: BTreeMap<_, _> =
            SETTINGS.iter().map(|s| (s.key, (s.default.to_owned(), Origin::Default))).collect();
        for path in [user, project].into_iter().flatten() {
            for (key, value) in read_file(path)? {
                values.insert(key, (value, Origin::File(path.to_owned())));
            }
        }
        for setting in SETTINGS {
            let name = variable(setting.key);
            if let Some(value) = environment(&name).filter(|value| !value.is_empty()) {
                values.insert(setting.key, (value, Origin::Environment(name)));
            }
        }
        for (key, value) in flags {
            if let Some(value) = value {
                values.insert(key, (value.clone(), Origin::Flag));
            }
        }
        for setting in SETTINGS {
            let (text, origin) = values.get_mut(setting.key).expect("every setting has a default");
            let read = setting.read(text);
            *text = read.map_err(|why| anyhow::anyhow!("{}: {why}", told(setting.key, text, origin)))?;
        }
        for key in ["embedder", "sparse", "late", "generator", "recipe"] {
            let (text, origin) = values.get_mut(key).expect("every setting has a default");
            if let Some(path) = own_file(text, origin) {
                *text = path;
            }
        }
        Ok(Self { values, precision_of_index: None })
    }

    /// Takes what an index remembers wherever nothing else was said.
    pub fn inherit(&mut self, index: &Path, remembered: &BTreeMap<String, String>) {
        for key in OF_THE_INDEX {
            let place = self.values.get_mut(key).expect("every setting has a default");
            if let (Origin::Default, Some(value)) = (&place.1, remembered.get(*key)) {
                *place = (value.clone(), Origin::Index(index.to_owned()));
            }
        }
    }

    /// Lets an index go on remembering its own precision: a question may be asked in another.
    pub fn keep_precision(&mut self, remembered: &BTreeMap<String, String>) {
        self.precision_of_index = remembered.get("precision").cloned();
    }

    /// What an index is to remember of these settings.
    pub fn to_remember(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> =
            OF_THE_INDEX.iter().map(|&key| (key.to_owned(), self.text(key).to_owned())).collect();
        all.extend(self.precision_of_index.clone().map(|precision| ("precision".to_owned(), precision)));
        all
    }

    /// The entries of a setting that is a list.
    pub fn lines(&self, key: &str) -> Vec<String> {
        self.text(key).lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }

    /// The text of a setting.
    pub fn text(&self, key: &str) -> &str {
        &self.values.get(key).unwrap_or_else(|| panic!("`{key}` is in the list of settings")).0
    }

    /// A setting as a number, a truth value or whatever its text can be read as.
    pub fn parse<T: std::str::FromStr>(&self, key: &str) -> Result<T>
    where
        T::Err: fmt::Display,
    {
        let (text, origin) = &self.values[key];
        text.parse().map_err(|error| anyhow::anyhow!("{}: {error}", told(key, text, origin)))
    }

    /// A setting as [`parse`](Self::parse) gives it, or `None` where the text is empty.
    pub fn parse_given<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        if self.text(key).is_empty() { Ok(None) } else { self.parse(key).map(Some) }
    }

    /// Whether somebody said what the setting is.
    pub fn is_given(&self, key: &str) -> bool {
        !matches!(self.values[key].1, Origin::Default | Origin::Index(_))
    }

    /// A setting in bytes, such as `100MiB`.
    pub fn bytes(&self, key: &str) -> Result<u64> {
        let (text, origin) = &self.values[key];
        parse_bytes(text).with_context(|| told(key, text, origin))
    }

    /// A setting with where it came from, as messages name it.
    pub fn told(&self, key: &str) -> String {
        let (text, origin) = &self.values[key];
        told(key, text, origin)
    }

    /// A path, or `None` where the text is empty.
    pub fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }

    /// Key, value, origin and meaning of each setting, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &str, &Origin)> {
        SETTINGS.iter().map(|setting| {
            let (value, origin) = &self.values[setting.key];
            (setting, value.as_str(), origin)
        })
    }
}

/// The absolute path of what a setting names, if that is a file or a model's folder: as the file of settings sees it, or
/// else from the current folder.
fn own_file(text: &str, origin: &Origin) -> Option<String> {
    if text.is_empty() || Recipe::shipped(text).is_some() {
        return None;
    }
    let base = match origin {
        Origin::File(settings) => settings.parent().unwrap_or(Path::new("")),
        _ => Path::new(""),
    };
    let path = base.join(text);
    let is_there = path.is_file() || path.join("config.json").is_file();
    let path = std::path::absolute(path).ok().filter(|_| is_there)?;
    Some(path.to_str()?.to_owned())
}

fn told(key: &str, text: &str, origin: &Origin) -> String {
    match origin {
        Origin::Flag => format!("option `--{key} {text}`"),
        _ => format!("setting `{key}` = `{text}` (from {origin})"),
    }
}

fn variable(key: &str) -> String {
    format!("RAGLAN_{}", key.replace('-', "_").to_uppercase())
}

/// The nearest `raglan.toml`, from the folder upwards.
fn project_file(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|folder| folder.join("raglan.toml")).find(|path| path.is_file())
}

fn read_file(path: &Path) -> Result<Vec<(&'static str, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("`{}` is not valid TOML", path.display()))?;
    let mut values = Vec::new();
    for (key, value) in table {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let nearest = SETTINGS.iter().map(|s| s.key).max_by_key(|known| common_letters(known, &key));
            bail!(
                "`{}`: unknown setting `{key}`; the nearest is `{}` (`raglan --print-config` lists all)",
                path.display(),
                nearest.unwrap_or_default()
            );
        };
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(x) => x.to_string(),
            toml::Value::Boolean(yes) => yes.to_string(),
            toml::Value::Array(globs) if matches!(setting.kind, Globs) => {
                let globs = globs.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>();
                globs
                    .with_context(|| format!("`{}`: setting `{key}` must be a list of strings", path.display()))?
                    .join("\n")
            }
            other => {
                bail!("`{}`: setting `{key}` must be {}, not {}", path.display(), setting.kind, other.type_str())
            }
        };
        values.push((setting.key, value));
    }
    Ok(values)
}

fn common_letters(a: &str, b: &str) -> usize {
    let pairs = |text: &str| text.as_bytes().windows(2).map(<[u8]>::to_vec).collect::<std::collections::BTreeSet<_>>();
    pairs(a).intersection(&pairs(b)).count()
}

/// Reads a number of bytes with an optional unit: `B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let number: f64 = digits.trim().parse().with_context(|| format!("`{text}` is no number of bytes"))?;
    let factor = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        unit => bail!("`{unit}` is no unit of size; use B, kB, KiB, MB, MiB, GB or GiB"),
    };
    let bytes = number * factor;
    if !(0.0..=1e18).contains(&bytes) {
        bail!("`{text}` is out of range");
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_environment_beats_project_beats_user() {
        let folder = tempfile::tempdir().unwrap();
        let (project, user) = (folder.path().join("p.toml"), folder.path().join("u.toml"));
        std::fs::write(&project, "k = 3\nseed = 3\n").unwrap();
        std::fs::write(&user, "k = 4\nseed = 4\nlanguage = 'french'\n").unwrap();
        let environment = |name: &str| (name == "RAGLAN_K").then(|| "2".to_owned());
        let settings = |flag: Option<&str>| {
            let flags = [("k", flag.map(str::to_owned))];
            Settings::from_places(&flags, environment, Some(&project), Some(&user)).unwrap()
        };
        assert_eq!(settings(Some("1")).text("k"), "1");
        assert_eq!(settings(None).text("k"), "2");
        assert_eq!(settings(None).text("seed"), "3");
        assert_eq!(settings(None).text("language"), "french");
        assert_eq!(settings(None).text("chunker"), "structure");
    }

    #[test]
    fn a_value_that_does_not_fit_is_told_with_those_that_do() {
        let with = |key, value: &str| Settings::from_places(&[(key, Some(value.to_owned()))], |_| None, None, None);
        for yes in ["1", "yes", "TRUE", "on"] {
            assert_eq!(with("offline", yes).unwrap().text("offline"), "true");
        }
        assert!(!with("offline", "0").unwrap().parse::<bool>("offline").unwrap());
        for (key, value, fitting) in [
            ("offline", "perhaps", "true or false"),
            ("threads", "lots", "from 0 to 1024"),
            ("threads", "100000", "from 0 to 1024"),
            ("k", "0", "from 1"),
            ("k", "-1", "from 1"),
            ("top-p", "NaN", "`--top-p NaN`: expected a number above 0, up to 1"),
            ("top-p", "0", "a number above 0, up to 1"),
            ("top-p", "1e-300", "a number above 0, up to 1"),
            ("min-p", "-0.1", "from 0 to 1"),
            ("max-tokens", "0", "`--max-tokens 0`: expected a whole number from 1"),
            ("temperature", "-1", "`--temperature -1`: expected a number from 0 to 100"),
            ("repetition-penalty", "0", "from 0.01 to 100"),
            ("max-memory", "", "no number of bytes"),
            ("chunker", "knife", "structure"),
            ("sparse-words", "-1", "a whole number from 0"),
            ("sparse-min-weight", "NaN", "a number from 0 to 100"),
            ("sparse-activation", "relu", "log1p-twice"),
            ("pooling", "median", "mean, cls, last_token, max"),
            ("truncate-dim", "-1", "from 0"),
            ("long-inputs", "cut", "would leave text out"),
            ("long-inputs", "grouped", "grouped:N"),
            ("line-windows", "8/9", "LINES/STEP"),
        ] {
            let error = with(key, value).unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(fitting), "{error}");
        }
    }

    #[test]
    fn what_an_index_remembers_counts_where_nothing_else_was_said() {
        let flags = [("exclude", Some("*.tmp".to_owned()))];
        let mut settings = Settings::from_places(&flags, |_| None, None, None).unwrap();
        let remembered = [
            ("exclude", "*.log"),
            ("include", "*.md\n*.txt"),
            ("threads", "3"),
            ("embedder", "none"),
            ("sparse-words", "64"),
        ];
        let remembered = remembered.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        settings.inherit(Path::new("i"), &remembered);
        assert_eq!(settings.lines("exclude"), ["*.tmp"]);
        assert_eq!(settings.lines("include"), ["*.md", "*.txt"]);
        assert_eq!(settings.text("embedder"), "none");
        assert_eq!(settings.text("sparse-words"), "64");
        assert_eq!(settings.text("threads"), "0", "it is not the index's");
        assert_eq!(settings.to_remember()["exclude"], "*.tmp");
        let flags = [("precision", Some("f32".to_owned()))];
        let mut asked = Settings::from_places(&flags, |_| None, None, None).unwrap();
        assert_eq!(asked.to_remember()["precision"], "f32");
        asked.keep_precision(&[("precision".to_owned(), "stored".to_owned())].into());
        assert_eq!((asked.text("precision"), &*asked.to_remember()["precision"]), ("f32", "stored"));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raglan.toml");
        std::fs::write(&path, "chunk_tokens = 3\n").unwrap();
        let error = Settings::from_places(&[], |_| None, Some(&path), None).unwrap_err().to_string();
        assert!(error.contains("chunk-tokens") && error.contains("chunk_tokens"), "{error}");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes("10").unwrap(), 10);
        assert_eq!(parse_bytes("1.5 KiB").unwrap(), 1536);
        assert_eq!(parse_bytes("2GB").unwrap(), 2_000_000_000);
        assert!(parse_bytes("3 parsecs").is_err() && parse_bytes("-1").is_err() && parse_bytes("x").is_err());
    }
}
