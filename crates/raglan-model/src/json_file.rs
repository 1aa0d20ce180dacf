//! JSON files of settings, read as hostile input.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// A JSON object, and the file that it is from. An entry of `null` is as good as none.
#[derive(Clone, Debug)]
pub(crate) struct JsonFile {
    path: PathBuf,
    /// The object's entries.
    pub entries: Map<String, Value>,
}

impl JsonFile {
    /// Reads a file that holds an object.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is no JSON object.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(entries)) => Ok(Self { path: path.to_owned(), entries }),
            Ok(_) => Err(malformed("this is no JSON object".to_owned())),
            Err(e) => Err(malformed(e.to_string())),
        }
    }

    /// Reads a file that need not be there.
    pub fn open_if_there(path: &Path) -> Result<Option<Self>> {
        if path.exists() { Self::open(path).map(Some) } else { Ok(None) }
    }

    /// An entry, if it is there.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.entries.get(key).filter(|value| !value.is_null())
    }

    /// An entry that is an object.
    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Object(entries)) => Ok(Some(Self { path: self.path.clone(), entries: entries.clone() })),
            Some(_) => Err(self.malformed(format!("`{key}` is not an object"))),
        }
    }

    /// An entry that is a text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key).map(Value::as_str) {
            None => Ok(None),
            Some(Some(text)) => Ok(Some(text)),
            Some(None) => Err(self.malformed(format!("`{key}` is not a text"))),
        }
    }

    /// An entry that is a finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key).map(Value::as_f64) {
            None => Ok(None),
            Some(Some(x)) if x.is_finite() => Ok(Some(x)),
            Some(_) => Err(self.malformed(format!("`{key}` is not a finite number"))),
        }
    }

    /// An entry that is a length: a whole number from 1 to `most`.
    pub fn length(&self, key: &str, most: usize) -> Result<Option<usize>> {
        match self.value(key).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(n)) if (1..=most as u64).contains(&n) => Ok(Some(n as usize)),
            Some(_) => Err(self.malformed(format!("`{key}` is not a number from 1 to {most}"))),
        }
    }

    /// An entry that is true or false.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key).map(Value::as_bool) {
            None => Ok(None),
            Some(Some(yes)) => Ok(Some(yes)),
            Some(None) => Err(self.malformed(format!("`{key}` is neither true nor false"))),
        }
    }

    /// An entry that is a token id, or a list of them.
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| {
            let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.malformed(format!("`{key}` is not of token ids")))
        };
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    /// An entry that must be there.
    pub fn required<T>(&self, key: &str, value: Result<Option<T>>) -> Result<T> {
        value?.ok_or_else(|| self.malformed(format!("`{key}` is missing")))
    }

    pub fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), problem: problem.into() }
    }

    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported { path: self.path.clone(), what: what.into() }
    }
}
