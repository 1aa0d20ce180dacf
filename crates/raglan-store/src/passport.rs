//! What an index was made with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::manifest::Manifest;
use crate::{Error, FORMAT_VERSION, Result};

/// What an index was made with: it must not be searched or extended with anything else.
///
/// The models, the chunker and the analyzer decide what vectors and terms mean, so a difference in one of them is
/// refused by [`check`](Self::check). Readers are different: each [`Document`](raglan_core::Document) names the
/// reader and version that made it, so documents of two versions of a reader may stand side by side, and an indexing
/// run reads again those whose reader has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passport {
    /// Version of the folder's format.
    pub format_version: u32,
    /// The dense encoder; `None` for an index without vectors.
    pub embedder: Option<ModelStamp>,
    /// Other models whose output is in the index, by part, such as `sparse`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelStamp>,
    /// The chunker with its version and parameters.
    pub chunker: String,
    /// Whether chunks are embedded and analysed below their headings.
    pub prefix_headings: bool,
    /// The text analyzer's configuration, as JSON.
    pub analyzer: String,
    /// Versions of the readers, by name, as of the last commit.
    pub readers: BTreeMap<String, String>,
    /// The folder of documents: a `..` for each level when the index lies inside of it, so that both can be moved
    /// together; else its absolute path. Not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Settings of the last update, by name, for the next one to go on with. Not compared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// Identifies a model by its bytes and by how its output is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelStamp {
    /// The name it was asked for by; not compared.
    pub name: String,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// SHA-256 of the tokenizer.
    pub tokenizer_sha256: String,
    /// How token states become one vector, such as `mean`.
    pub pooling: String,
    /// Whether vectors have unit length.
    pub normalized: bool,
    /// What is put before queries.
    pub query_prefix: String,
    /// What is put before passages.
    pub passage_prefix: String,
    /// Tokens of a passage that are read, specials included.
    pub max_tokens: usize,
    /// Length of a vector.
    pub dim: usize,
    /// Type of the stored components, such as `f32`.
    pub dtype: String,
    /// Further parameters of the encoder that are not its usual ones, by name, such as what it does with long texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

/// One thing that two passports disagree on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs, in words.
    pub what: String,
    /// What the index has.
    pub index_has: String,
    /// What is wanted.
    pub wanted: String,
}

impl Passport {
    /// Reads the passport of the index in `folder`, and nothing else of it.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnIndex`], [`Error::Damaged`] or [`Error::NewerFormat`].
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(Manifest::read(folder)?.passport)
    }

    /// This passport with the models of another that it lacks.
    pub fn extended_by(&self, other: &Self) -> Self {
        let mut extended = self.clone();
        extended.embedder = extended.embedder.or_else(|| other.embedder.clone());
        for (part, stamp) in &other.models {
            extended.models.entry(part.clone()).or_insert_with(|| stamp.clone());
        }
        extended
    }

    /// Everything in which an index made with `self` cannot serve someone who wants `wanted`.
    pub fn differences(&self, wanted: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let mut compare = |what: &str, index_has: String, wanted: String| {
            if index_has != wanted {
                found.push(Difference { what: what.to_owned(), index_has, wanted });
            }
        };
        compare("format version", self.format_version.to_string(), wanted.format_version.to_string());
        compare_models("embedder", self.embedder.as_ref(), wanted.embedder.as_ref(), &mut compare);
        for part in self.models.keys().chain(wanted.models.keys().filter(|part| !self.models.contains_key(*part))) {
            compare_models(part, self.models.get(part), wanted.models.get(part), &mut compare);
        }
        compare("chunker", quoted(&self.chunker), quoted(&wanted.chunker));
        compare("use of headings", headings(self.prefix_headings), headings(wanted.prefix_headings));
        compare("analyzer", quoted(&self.analyzer), quoted(&wanted.analyzer));
        found
    }

    /// Refuses an index, in the folder `path`, that cannot serve someone who wants `wanted`.
    ///
    /// # Errors
    ///
    /// [`Error::PassportMismatch`] naming the first difference.
    pub fn check(&self, wanted: &Self, path: &Path) -> Result<()> {
        match self.differences(wanted).into_iter().next() {
            None => Ok(()),
            Some(Difference { what, index_has, wanted }) => {
                Err(Error::PassportMismatch { path: path.to_owned(), what, index_has, wanted })
            }
        }
    }
}

impl Default for Passport {
    /// An index of this format without models, chunker or readers.
    fn default() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            embedder: None,
            models: BTreeMap::new(),
            chunker: String::new(),
            prefix_headings: false,
            analyzer: String::new(),
            readers: BTreeMap::new(),
            root: None,
            settings: BTreeMap::new(),
        }
    }
}

fn compare_models(
    part: &str,
    index_has: Option<&ModelStamp>,
    wanted: Option<&ModelStamp>,
    compare: &mut impl FnMut(&str, String, String),
) {
    let (Some(has), Some(wants)) = (index_has, wanted) else {
        let name = |model: Option<&ModelStamp>| model.map_or("none".to_owned(), |model| quoted(&model.name));
        return compare(part, name(index_has), name(wanted));
    };
    // A model is its bytes: two names of one file are the same model, one name with two files is not.
    let named = |model: &ModelStamp, hash: &str| format!("`{}` with hash {hash}", model.name);
    let (mut has_weights, mut wants_weights) = (has.weights_sha256.clone(), wants.weights_sha256.clone());
    if has_weights != wants_weights {
        (has_weights, wants_weights) = (named(has, &has_weights), named(wants, &wants_weights));
    }
    compare(&format!("{part} model"), has_weights, wants_weights);
    compare(&format!("{part} tokenizer"), has.tokenizer_sha256.clone(), wants.tokenizer_sha256.clone());
    compare(&format!("{part} pooling"), quoted(&has.pooling), quoted(&wants.pooling));
    compare(&format!("{part} normalisation"), has.normalized.to_string(), wants.normalized.to_string());
    compare(&format!("{part} query prefix"), quoted(&has.query_prefix), quoted(&wants.query_prefix));
    compare(&format!("{part} passage prefix"), quoted(&has.passage_prefix), quoted(&wants.passage_prefix));
    compare(&format!("{part} token limit"), has.max_tokens.to_string(), wants.max_tokens.to_string());
    compare(&format!("{part} dimension"), has.dim.to_string(), wants.dim.to_string());
    compare(&format!("{part} precision"), quoted(&has.dtype), quoted(&wants.dtype));
    let names: BTreeSet<&String> = has.parameters.keys().chain(wants.parameters.keys()).collect();
    for name in names {
        let value = |model: &ModelStamp| model.parameters.get(name).map_or("the usual".to_owned(), |text| quoted(text));
        compare(&format!("{part} {name}"), value(has), value(wants));
    }
}

fn quoted(text: &str) -> String {
    format!("`{text}`")
}

fn headings(prefixed: bool) -> String {
    if prefixed { "headings before the text".to_owned() } else { "the text alone".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(name: &str, weights: &str) -> ModelStamp {
        ModelStamp {
            name: name.into(),
            weights_sha256: weights.into(),
            tokenizer_sha256: "t".into(),
            pooling: "mean".into(),
            normalized: true,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: 256,
            dim: 384,
            dtype: "f32".into(),
            parameters: BTreeMap::new(),
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Passport), differs_in: &[&str]) {
        let index = Passport { embedder: Some(stamp("minilm", "aa")), chunker: "structure/1".into(), ..<_>::default() };
        let mut wanted = index.clone();
        change(&mut wanted);
        let found: Vec<String> = index.differences(&wanted).into_iter().map(|difference| difference.what).collect();
        assert_eq!(found, differs_in);
        assert_eq!(index.check(&wanted, Path::new("index")).is_ok(), differs_in.is_empty());
    }

    #[test]
    fn what_changes_the_meaning_of_vectors_or_terms_is_refused() {
        check(|_| {}, &[]);
        check(|wanted| wanted.embedder = Some(stamp("minilm", "bb")), &["embedder model"]);
        check(|wanted| wanted.embedder = None, &["embedder"]);
        let with = |name: &str| {
            let parameters = [(name.to_owned(), "x".to_owned())].into();
            Some(ModelStamp { parameters, ..stamp("minilm", "aa") })
        };
        check(|wanted| wanted.embedder = with("long inputs"), &["embedder long inputs"]);
        check(|wanted| wanted.chunker = "fixed/1".into(), &["chunker"]);
        check(|wanted| wanted.analyzer = "{}".into(), &["analyzer"]);
        check(|wanted| wanted.models = [("sparse".into(), stamp("splade", "cc"))].into(), &["sparse"]);
    }

    #[test]
    fn another_name_or_another_reader_is_accepted() {
        check(|wanted| wanted.embedder = Some(stamp("./model", "aa")), &[]);
        check(|wanted| wanted.readers = [("pdf".into(), "2".into())].into(), &[]);
    }

    #[test]
    fn an_encoder_without_further_parameters_is_written_as_ever() {
        assert!(!serde_json::to_string(&stamp("minilm", "aa")).unwrap().contains("parameters"));
    }

    #[test]
    fn the_error_names_both_sides_and_the_remedy() {
        let index = Passport { embedder: Some(stamp("minilm", "aa")), ..<_>::default() };
        let wanted = Passport { embedder: Some(stamp("bge", "bb")), ..<_>::default() };
        let error = index.check(&wanted, Path::new("idx")).unwrap_err().to_string();
        for part in ["`idx`", "`minilm` with hash aa", "`bge` with hash bb", "raglan index --rebuild"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
