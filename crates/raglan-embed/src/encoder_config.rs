//! How a model is to be used as an encoder.

use std::path::{Path, PathBuf};

use raglan_model::registry::Registry;
use raglan_model::{EncoderModelConfig, Products};
use raglan_onnx::OnnxFiles;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::prompts::Prompts;
use crate::sentence_encoder::check_max_tokens;
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
    /// How the model multiplies by its weights; a model in ONNX does as its file says.
    pub products: Products,
    /// The library that runs a model in ONNX; the first that [`find_onnx_runtime`](raglan_onnx::find_onnx_runtime) finds when
    /// none is named. A process that has loaded one keeps it.
    pub onnx_runtime: Option<PathBuf>,
}

/// Which of a folder's files hold the weights that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// `model.safetensors`, or its shards.
    Safetensors,
    /// `model.onnx` or `onnx/model.onnx`, and what lies beside it under the same name with `_data` behind.
    Onnx,
}

/// What runs the model of a folder, and what it says of its shape.
#[derive(Clone, Debug)]
pub(crate) enum Engine {
    /// raglan's own kernels, from safetensors.
    Kernels(Box<EncoderModelConfig>),
    /// onnxruntime.
    Onnx(OnnxFiles),
}

impl Engine {
    /// Our own where the folder has weights for them and they know the model's family, else ONNX where it has that.
    ///
    /// # Errors
    ///
    /// What `config.json` gives.
    pub fn of(dir: &Path) -> Result<Self> {
        let has_weights =
            ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists());
        let own = EncoderModelConfig::from_file(dir.join("config.json"));
        match own {
            Ok(own) if has_weights => Ok(Self::Kernels(Box::new(own))),
            own => match OnnxFiles::of(dir)? {
                Some(files) => Ok(Self::Onnx(files)),
                None => Ok(Self::Kernels(Box::new(own?))),
            },
        }
    }

    /// The length of a token's vector.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Kernels(model) => model.hidden_size,
            Self::Onnx(files) => files.hidden_size,
        }
    }

    /// How many tokens there are positions for.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Kernels(model) => model.max_tokens(),
            Self::Onnx(files) => files.max_tokens,
        }
    }
}

impl EncoderConfig {
    /// The length of the encoder's vectors: [`truncate_dim`](Self::truncate_dim), or else [`dim`](Self::dim).
    pub fn vector_dim(&self) -> usize {
        self.truncate_dim.unwrap_or(self.dim)
    }

    /// What runs the model in a folder, which can be used so.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and [`Error::Unsupported`] when it cannot, and what `config.json` gives.
    pub(crate) fn check(&self, dir: &Path) -> Result<Engine> {
        let path = dir.join("config.json");
        let engine = Engine::of(dir)?;
        let malformed = |problem: String| Err(Error::Malformed { path: path.clone(), problem });
        if engine.hidden_size() != self.dim {
            return malformed(format!(
                "hidden_size is {}, and the encoder is to give {}",
                engine.hidden_size(),
                self.dim
            ));
        }
        if !(1..=self.dim).contains(&self.vector_dim()) {
            return malformed(format!("of {} coordinates the encoder is to keep {}", self.dim, self.vector_dim()));
        }
        if let Some(windows) = self.line_windows.filter(|windows| !windows.is_sound()) {
            return malformed(format!("windows of {} lines cannot be {} apart", windows.lines, windows.step));
        }
        check_max_tokens(&path, engine.max_tokens(), self.max_tokens)?;
        match &engine {
            Engine::Kernels(model) => self.long_inputs.check(&path, model, self.max_tokens)?,
            Engine::Onnx(files) => {
                let unsupported =
                    |what: &str| Err(Error::Unsupported { path: files.model.clone(), what: what.to_owned() });
                if matches!(self.long_inputs, LongInputs::Extended { .. }) {
                    return unsupported("extending the positions of a model in ONNX");
                }
                if !matches!(self.products, Products::Stored | Products::F32) {
                    return unsupported("another way to multiply than that of the file, of a model in ONNX");
                }
            }
        }
        Ok(engine)
    }

    /// Refuses what the model in a folder cannot be used for, before its weights are read; says which those are.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and [`Error::Unsupported`], with the file, when the encoder of this folder cannot be used so.
    pub fn fits(&self, dir: &Path) -> Result<WeightFormat> {
        Ok(match self.check(dir)? {
            Engine::Kernels(_) => WeightFormat::Safetensors,
            Engine::Onnx(_) => WeightFormat::Onnx,
        })
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
        let engine = Engine::of(dir)?;
        let max_tokens = max_tokens(dir, engine.max_tokens())?;
        let path = dir.join("modules.json");
        let normalize = match read::<Vec<Module>>(&path)? {
            Some(modules) => {
                let has = |kind: &str| modules.iter().any(|module| module.kind.ends_with(kind));
                if has(".Dense") {
                    return Err(Error::Unsupported { path, what: "a dense layer behind the pooling".into() });
                }
                has(".Normalize")
            }
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
        let path = dir.join(POOLING);
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
            dim: engine.hidden_size(),
            truncate_dim: None,
            products: Products::default(),
            onnx_runtime: None,
        })
    }
}

/// Where sentence-transformers writes how a model pools.
const POOLING: &str = "1_Pooling/config.json";

/// How many tokens the model in a folder, with so many positions, reads of one text: what `sentence_bert_config.json` says, or else the registry
/// of a model of the folder's name, and never more than there are positions.
pub(crate) fn max_tokens(dir: &Path, positions: usize) -> Result<usize> {
    let mut max_tokens = positions;
    let registry = Registry::builtin();
    if let Some(entry) = dir.file_name().and_then(|name| registry.entry(name.to_str()?).ok()) {
        max_tokens = max_tokens.min(entry.max_tokens);
    }
    let path = dir.join("sentence_bert_config.json");
    if let Some(limits) = read::<Limits>(&path)? {
        max_tokens = positions.min(limits.max_seq_length.unwrap_or(usize::MAX));
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
