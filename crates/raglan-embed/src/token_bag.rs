//! The distinct tokens of a text, for queries that need no model.

use std::collections::BTreeMap;
use std::path::Path;

use raglan_core::SparseVector;

use crate::text_reader::TextReader;
use crate::{Error, Result};

/// The table of weights that is published with models whose queries need no inference.
const PUBLISHED: &str = "idf.json";

/// Gives the distinct tokens of texts by a model's tokenizer: all that an inference-free query is made of.
#[derive(Debug)]
pub struct TokenBag {
    reader: TextReader,
    /// By token, from a published table; 0 for a token that it lacks.
    weights: Option<Vec<f32>>,
}

impl TokenBag {
    /// Reads `tokenizer.json` of a folder, and `idf.json` where it is there, as [`with_weights`](Self::with_weights) does.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when the tokenizer is missing or damaged; [`Error::Unsupported`] for one that does not put one
    /// token before and one after each text; what `with_weights` gives.
    pub fn load(dir: &Path) -> Result<Self> {
        let bag = Self { reader: TextReader::load(dir)?, weights: None };
        let published = dir.join(PUBLISHED);
        if published.is_file() { bag.with_weights(&published) } else { Ok(bag) }
    }

    /// Takes the weights of tokens from a file: one JSON object of numbers by token as the vocabulary spells it, such as
    /// `{"[PAD]": 0.6, "cache": 7.1, "##ing": 1.05}`, which is how OpenSearch's doc-v1 to doc-v3 models ship it.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Malformed`], with the file, when it cannot be read, is not such an object, or names
    /// a token that the vocabulary lacks: it is then the table of another model.
    pub fn with_weights(self, path: &Path) -> Result<Self> {
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let json = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let table: BTreeMap<String, f32> = serde_json::from_slice(&json).map_err(|error| {
            malformed(format!("{error}; expected one JSON object of weights by token, such as {{\"cache\": 7.1}}"))
        })?;
        let mut weights = Vec::new();
        for (token, weight) in table {
            let Some(id) = self.reader.tokenizer.token_id(&token) else {
                return Err(malformed(format!(
                    "`{token}` is not a token of the model; name the table that was published with this model"
                )));
            };
            if !weight.is_finite() {
                return Err(malformed(format!("the weight of `{token}` is {weight}, not a finite number")));
            }
            let id = id as usize;
            if weights.len() <= id {
                weights.resize(id + 1, 0.0);
            }
            weights[id] = weight.max(0.0); // As the models' own code does.
        }
        Ok(Self { weights: Some(weights), ..self })
    }

    /// The distinct tokens of a text, increasing, without special ones.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.reader.tokenizer.encode(text, false)?.ids;
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// The query of a text by the table of weights: each distinct token weighs what the table says. None when there is no
    /// table, and weights are to be had from a corpus.
    ///
    /// # Errors
    ///
    /// When the tokenizer fails.
    pub fn weighted(&self, text: &str) -> Result<Option<SparseVector>> {
        let Some(weights) = &self.weights else { return Ok(None) };
        let weight = |id: u32| weights.get(id as usize).copied().unwrap_or(0.0);
        let entries = self.tokens(text)?.into_iter().map(|id| (id, weight(id))).filter(|entry| entry.1 > 0.0);
        SparseVector::new(entries.collect()).map(Some).map_err(Error::Vector)
    }
}
