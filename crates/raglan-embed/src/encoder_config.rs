//! How a model is to be used as an encoder.

use std::path::Path;

use raglan_model::registry::Registry;
use raglan_model::{EncoderModelConfig, Products};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::prompts::Prompts;
use crate::{Error, LineWindows, LongInputs, Pooling, Result};

/// How a model is to be used as an encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// How the vectors of a text's tokens become one.
    pub pooling: Pooling,
    /// Whether vectors are brought to length 1.
    pub normalize: bool,
    /// How many tokens the encoder reads of one text at once, special tokens and prefix included.
    pub max_tokens: usize,
    /// What is done with texts that have more.
    pub long_inputs: LongInputs,
    /// Windows of lines that passages are read in, as is of use for long code; none when they are read whole.
    pub line_windows: Option<LineWindows>,
    /// What stands before a query.
    pub query_prefix: String,
    /// What stands before a passage.
    pub passage_prefix: String,
    /// How long the model's vectors are.
    pub dim: usize,
    /// Keeps so many of each vector's first coordinates, and brings it to length 1 again if it had that; all when there
    /// is no number. Only models trained for it (Matryoshka: Kusupati et al. 2022) lose little by that.
    pub truncate_dim: Option<usize>,
    /// How the model multiplies by its weights.
    pub products: Products,
}

impl EncoderConfig {
    /// The length of the encoder's vectors: [`truncate_dim`](Self::truncate_dim), or else [`dim`](Self::dim).
    pub fn vector_dim(&self) -> usize {
        self.truncate_dim.unwrap_or(self.dim)
    }

    /// What the files beside a model's weights say.
    ///
    /// `config.json` must be there. The files of sentence-transformers, `modules.json`, `1_Pooling/config.json`,
    /// `sentence_bert_config.json` and `config_sentence_transformers.json`, are read where they are there. Where they
    /// are not: the mean, length 1, and as many tokens as the registry says of a model of the folder's name, otherwise
    /// as many as the model has positions for. Where they state no prompt that is not empty, the prefixes are those that
    /// E5 and BGE 1.5 were trained with if the folder has the name of one of them, otherwise none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Malformed`] and [`Error::Unsupported`], with the file, and what `config.json` gives.
    pub fn for_model(dir: &Path) -> Result<Self> {
        let model = EncoderModelConfig::from_file(dir.join("config.json"))?;
        let max_tokens = max_tokens(dir, &model)?;
        let normalize = match read::<Vec<Module>>(&dir.join("modules.json"))? {
            Some(modules) => modules.iter().any(|module| module.kind.ends_with(".Normalize")),
            None => true,
        };
        let prompts = read::<Prompted>(&dir.join("config_sentence_transformers.json"))?.unwrap_or_default().prompts;
        let prompt = |names: &[&str]| names.iter().find_map(|&name| prompts.get(name)?.as_str()).unwrap_or_default();
        let (mut query_prefix, mut passage_prefix) = (prompt(&["query"]), prompt(&["document", "passage", "corpus"]));
        // sentence-transformers writes empty prompts for models of which it knows none.
        if query_prefix.is_empty()
            && passage_prefix.is_empty()
            && let Some(known) = dir.file_name().and_then(|name| Prompts::of_model(name.to_str()?))
        {
            (query_prefix, passage_prefix) = (known.query, known.passage);
        }
        let path = dir.join("1_Pooling/config.json");
        let pooling = match read::<Value>(&path)? {
            Some(modes) => {
                let leaves_prompt_out = modes.get("include_prompt").and_then(Value::as_bool) == Some(false);
                if leaves_prompt_out && !(query_prefix.is_empty() && passage_prefix.is_empty()) {
                    return Err(Error::Unsupported { path, what: "pooling without the prompt's tokens".into() });
                }
                pooling(&modes).map_err(|what| Error::Unsupported { path, what })?
            }
            None => Pooling::Mean,
        };
        Ok(Self {
            pooling,
            normalize,
            max_tokens,
            long_inputs: LongInputs::default(),
            line_windows: None,
            query_prefix: query_prefix.to_owned(),
            passage_prefix: passage_prefix.to_owned(),
            dim: model.hidden_size,
            truncate_dim: None,
            products: Products::default(),
        })
    }
}

/// How many tokens the model in a folder reads of one text: what `sentence_bert_config.json` says, or else the registry
/// of a model of the folder's name, and never more than there are positions.
pub(crate) fn max_tokens(dir: &Path, model: &EncoderModelConfig) -> Result<usize> {
    let mut max_tokens = model.max_tokens();
    let registry = Registry::builtin();
    if let Some(entry) = dir.file_name().and_then(|name| registry.entry(name.to_str()?).ok()) {
        max_tokens = max_tokens.min(entry.max_tokens);
    }
    let path = dir.join("sentence_bert_config.json");
    if let Some(limits) = read::<Limits>(&path)? {
        max_tokens = model.max_tokens().min(limits.max_seq_length.unwrap_or(usize::MAX));
    }
    if max_tokens < 3 {
        let problem = format!("max_seq_length {max_tokens} leaves no room for text");
        return Err(Error::Malformed { path, problem });
    }
    Ok(max_tokens)
}

#[derive(Deserialize)]
struct Limits {
    max_seq_length: Option<usize>,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Default, Deserialize)]
struct Prompted {
    #[serde(default)]
    prompts: serde_json::Map<String, Value>,
}

fn pooling(modes: &Value) -> Result<Pooling, String> {
    let on = |mode: &str| modes.get(mode).and_then(Value::as_bool).unwrap_or(false);
    let all = ["cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"];
    let asked: Vec<&str> = all.into_iter().filter(|mode| on(&format!("pooling_mode_{mode}"))).collect();
    match *asked {
        ["mean_tokens"] => Ok(Pooling::Mean),
        ["cls_token"] => Ok(Pooling::Cls),
        ["lasttoken"] => Ok(Pooling::LastToken),
        ["max_tokens"] => Ok(Pooling::Max),
        _ => {
            let can = "can pool by one of mean_tokens, cls_token, lasttoken and max_tokens";
            Err(format!("pooling by {} ({can})", asked.join(" and ")))
        }
    }
}

/// A JSON file, if it is there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| Error::Malformed { path: path.to_owned(), problem: e.to_string() })
}
