//! Settings and where each of them came from.
//!
//! A setting is taken from the first place that has it: the command line, the environment (`RAGLAN_*`),
//! the project file (`raglan.toml` in the current folder or above it), the user's file, the default.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A setting: its key in files, `RAGLAN_<KEY>` in the environment, its default and what it means.
pub struct Setting {
    /// Key in a settings file; dashes between words.
    pub key: &'static str,
    /// Default, as it would be written on the command line.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
}

const fn setting(key: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { key, default, help }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    setting("index", "", "folder of the index; empty: `.raglan` in the folder of documents"),
    setting("cache", "", "folder of downloaded models; empty: by the platform's convention"),
    setting("offline", "false", "never touch the network"),
    setting("threads", "0", "threads to use; 0: as many as there are processors"),
    setting("max-memory", "4GiB", "memory that indexing may use for texts and vectors under way"),
    setting("embedder", "all-minilm-l6-v2", "dense encoder: a model name or path, or `none` for BM25 only"),
    setting("generator", "smollm2-135m-instruct", "language model: a model name or the path of a GGUF file"),
    setting("chunker", "structure", "structure, tokens or sentences"),
    setting("chunk-tokens", "200", "most tokens of a chunk, by the encoder's own count"),
    setting("chunk-overlap", "0", "tokens that a chunk repeats from the one before"),
    setting("prefix-headings", "true", "embed a chunk below the line of its headings"),
    setting("language", "english", "language of stemming and stop words, or `none`"),
    setting("ignore-files", "true", "respect .gitignore and .ignore"),
    setting("hidden", "false", "read hidden files too"),
    setting("max-file-size", "100MiB", "larger files are skipped"),
    setting("max-text-size", "64MiB", "files with more extracted text are skipped"),
    setting("file-seconds", "30", "a file that takes longer to read is skipped"),
    setting("commit-seconds", "60", "indexing makes its work durable at least this often"),
    setting("recipe", "", "recipe of `search` and `ask`: a shipped name or a TOML file; empty: hybrid and ask"),
    setting("k", "", "how many results `search` shows; here and below, empty: as the recipe says"),
    setting("fusion", "", "min-max, z-score, distribution-based or reciprocal-rank"),
    setting("max-tokens", "", "most tokens of an answer"),
    setting("context-tokens", "", "most tokens of the passages shown to the language model"),
    setting("temperature", "", "0 is greedy decoding"),
    setting("top-k", "", "sample among this many tokens; 0: all"),
    setting("top-p", "", "sample among the likeliest tokens of this total probability"),
    setting("min-p", "", "sample among tokens at least this likely, relative to the likeliest"),
    setting("repetition-penalty", "", "1 is none"),
    setting("seed", "", "seed of sampling"),
];

/// Where a value came from.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// An environment variable.
    Environment(String),
    /// A settings file.
    File(PathBuf),
    /// Nowhere else.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Every setting with its value and where that came from.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<&'static str, (String, Origin)>,
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
        Ok(Self { values })
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
        text.parse().map_err(|error| anyhow::anyhow!("setting `{key}` = `{text}` (from {origin}): {error}"))
    }

    /// A setting as [`parse`](Self::parse) gives it, or `None` where the text is empty.
    pub fn parse_given<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>>
    where
        T::Err: fmt::Display,
    {
        if self.text(key).is_empty() { Ok(None) } else { self.parse(key).map(Some) }
    }

    /// A setting in bytes, such as `100MiB`.
    pub fn bytes(&self, key: &str) -> Result<u64> {
        let (text, origin) = &self.values[key];
        parse_bytes(text).with_context(|| format!("setting `{key}` = `{text}` (from {origin})"))
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
            other => bail!(
                "`{}`: setting `{key}` must be a string, a number or a truth value, not {}",
                path.display(),
                other.type_str()
            ),
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
    let number: f64 = digits.trim().parse().with_context(|| format!("`{digits}` is not a number"))?;
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
