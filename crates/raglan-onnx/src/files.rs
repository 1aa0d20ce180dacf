//! The files of an ONNX model, as optimum and sentence-transformers export them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// Families whose positions begin behind that of padding, so that two rows of their tables are for no text.
const POSITIONS_BEHIND_PADDING: [&str; 6] =
    ["camembert", "longformer", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"];

/// A model in ONNX and what `config.json` says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnnxFiles {
    /// The model's file; files of its weights, where they are not in it, lie beside it.
    pub model: PathBuf,
    /// The length of a token's vector.
    pub hidden_size: usize,
    /// How many tokens it has positions for.
    pub max_tokens: usize,
    /// What fills a text up to the length of its batch.
    pub pad_token: i64,
}

impl OnnxFiles {
    /// The ONNX model of a folder, `model.onnx` or `onnx/model.onnx`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Malformed`] for `config.json`.
    pub fn of(dir: &Path) -> Result<Option<Self>> {
        let places = [dir.join("model.onnx"), dir.join("onnx/model.onnx")];
        let Some(model) = places.into_iter().find(|path| path.is_file()) else { return Ok(None) };
        let path = dir.join("config.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(Error::Io { path, source }),
        };
        let config: Value = match serde_json::from_slice(&bytes) {
            Ok(config) => config,
            Err(error) => return Err(Error::Malformed { path, problem: error.to_string() }),
        };
        let number = |keys: &[&str]| keys.iter().find_map(|&key| config.get(key)?.as_u64());
        let hidden_size = number(&["hidden_size", "d_model", "dim", "n_embd"]).unwrap_or(0) as usize;
        if hidden_size == 0 {
            return Err(Error::Malformed { path, problem: "it does not say `hidden_size`".to_owned() });
        }
        let family = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let unused = if POSITIONS_BEHIND_PADDING.contains(&family) { 2 } else { 0 };
        // What says nothing of positions has no table of them, and was trained on texts of the usual length.
        let positions = number(&["max_position_embeddings", "n_positions"]).unwrap_or(512 + unused) as usize;
        let pad_token = config.get("pad_token_id").and_then(Value::as_i64).unwrap_or(0);
        Ok(Some(Self { model, hidden_size, max_tokens: positions.saturating_sub(unused as usize), pad_token }))
    }
}
