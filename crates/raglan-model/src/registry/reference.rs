//! How a model is named: a built-in name, a file of the hub, or a path.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::{Error, Result};

/// What names a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name of the [`Registry`](super::Registry).
    Builtin(String),
    /// `hf:owner/repo[@revision]/file`: one file of a repository of the Hugging Face hub.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// Branch, tag or commit; `main` when the reference names none.
        revision: String,
        /// Path in the repository.
        file: String,
    },
    /// `file:path`: a file, or a folder of files.
    File(PathBuf),
}

impl FromStr for Reference {
    type Err = Error;

    /// Reads a reference. A built-in name is not looked up here.
    fn from_str(reference: &str) -> Result<Self> {
        let bad = |problem| Error::BadReference { reference: reference.to_owned(), problem };
        if let Some(path) = reference.strip_prefix("file:") {
            return if path.is_empty() { Err(bad("the path is empty")) } else { Ok(Self::File(path.into())) };
        }
        if let Some(rest) = reference.strip_prefix("hf:") {
            let mut parts = rest.splitn(3, '/');
            let (Some(owner), Some(repo), Some(file)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(bad("`hf:` wants an owner, a repository and a file"));
            };
            let (repo, revision) = repo.split_once('@').unwrap_or((repo, "main"));
            if !is_plain(owner) || !is_plain(repo) {
                return Err(bad("owner and repository are letters, digits, `.`, `-` and `_`"));
            }
            if !is_plain(revision) {
                return Err(bad("the revision is letters, digits, `.`, `-` and `_`"));
            }
            if !is_safe_path(file) {
                return Err(bad("the file is a path inside of the repository"));
            }
            return Ok(Self::Hub { repo: format!("{owner}/{repo}"), revision: revision.into(), file: file.into() });
        }
        if reference.is_empty() {
            return Err(bad("it is empty"));
        }
        if !is_plain(reference) {
            return Err(bad("a built-in name is letters, digits, `.`, `-` and `_`"));
        }
        Ok(Self::Builtin(reference.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin(name) => f.write_str(name),
            Self::Hub { repo, revision, file } if revision == "main" => write!(f, "hf:{repo}/{file}"),
            Self::Hub { repo, revision, file } => write!(f, "hf:{repo}@{revision}/{file}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Whether `name` can stand as one component of a path on every system, and of an URL without escaping.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// Whether `path` is a sequence of plain names, so that it stays below the folder it is joined to.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.split('/').all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_and_written_back() {
        let hub = |repo: &str, revision: &str, file: &str| Reference::Hub {
            repo: repo.into(),
            revision: revision.into(),
            file: file.into(),
        };
        for (text, want) in [
            ("all-minilm-l6-v2", Reference::Builtin("all-minilm-l6-v2".into())),
            ("hf:o/r/model.gguf", hub("o/r", "main", "model.gguf")),
            ("hf:o/r@v1.0/onnx/model.onnx", hub("o/r", "v1.0", "onnx/model.onnx")),
            ("file:/a/b c.gguf", Reference::File("/a/b c.gguf".into())),
        ] {
            let got: Reference = text.parse().unwrap();
            assert_eq!(got, want);
            assert_eq!(got.to_string(), text);
        }
    }

    #[test]
    fn a_reference_cannot_leave_its_folder() {
        for text in [
            "",
            "file:",
            "hf:",
            "hf:o",
            "hf:o/r",
            "hf:o/r/",
            "hf:/r/f",
            "hf:o/r@/f",
            "hf:o/../f",
            "hf:o/r/../f",
            "hf:o/r//f",
            "hf:o/r/a\\..\\b",
            "hf:o/r@../f",
            "hf:o/r/.hidden",
            "a/b",
            "https://x/y",
            "a b",
            "..",
        ] {
            assert!(matches!(text.parse::<Reference>(), Err(Error::BadReference { .. })), "{text}");
        }
    }
}
