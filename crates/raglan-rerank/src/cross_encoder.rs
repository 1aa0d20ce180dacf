//! A question and a passage read together by an encoder (monoBERT; Nogueira and Cho 2019).

use std::path::{Path, PathBuf};

use raglan_core::Meter;
use raglan_model::{
    ClassificationHead, EncodedPair, EncoderModel, EncoderModelConfig, Products, SafetensorsFile, Tokenizer,
};
#[cfg(feature = "cuda")]
use raglan_model::{DeviceEncoder, cuda};
use raglan_onnx::{OnnxFiles, OnnxModel, OnnxText, OnnxUse};
use rayon::prelude::*;

use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// About how many tokens pass through the model together, on the processor.
const BATCH_TOKENS: usize = 1024;
/// The same on a device, which is to have enough to do; a question's passages are rarely more.
#[cfg(feature = "cuda")]
const DEVICE_BATCH_TOKENS: usize = 1 << 15;

/// Scores each passage by an encoder with a classification head of one class, or of no and yes, whose difference it is.
///
/// Models are the BERT family's (BERT, DistilBERT, RoBERTa, XLM-R and `ModernBERT`) on our own kernels, those of the
/// processor or of a device, and any in ONNX on onnxruntime.
#[derive(Debug)]
pub struct CrossEncoder {
    engine: Engine,
    tokenizer: Tokenizer,
    max_tokens: usize,
    pool: rayon::ThreadPool,
}

/// What runs the model.
#[derive(Debug)]
enum Engine {
    Kernels {
        model: Box<EncoderModel>,
        head: ClassificationHead,
    },
    /// The head, one vector a pair, stays with the processor.
    #[cfg(feature = "cuda")]
    Device {
        model: Box<DeviceEncoder>,
        head: ClassificationHead,
    },
    Onnx {
        model: OnnxModel,
        dir: PathBuf,
    },
}

impl CrossEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads. Where there is no safetensors, or `config.json` names a family that the kernels do not know, the model
    /// is `model.onnx` or `onnx/model.onnx`, which gives `logits`; `onnx_runtime` is the library that runs it, the first
    /// that [`find_onnx_runtime`](raglan_onnx::find_onnx_runtime) finds unless said.
    ///
    /// # Errors
    ///
    /// [`Error::Model`], which names the file, when one is missing, damaged or of another kind of model;
    /// [`Error::NoHead`]; [`Error::Classes`]; [`Error::Onnx`].
    pub fn load(dir: &Path, products: Products, threads: usize, onnx_runtime: Option<&Path>) -> Result<Self> {
        let (engine, max_tokens) = match kernels_config(dir)? {
            Err(files) => {
                let model = OnnxModel::load(&files, OnnxUse::Classes, onnx_runtime, threads)?;
                (Engine::Onnx { model, dir: dir.to_owned() }, files.max_tokens)
            }
            Ok(config) => {
                let (max_tokens, file) = (config.max_tokens(), SafetensorsFile::open(dir)?);
                let head = head(dir, &file, &config, products)?;
                let model = Box::new(EncoderModel::from_safetensors(&file, config, products)?);
                (Engine::Kernels { model, head }, max_tokens)
            }
        };
        Self::with_engine(dir, engine, max_tokens, threads)
    }

    /// The same on a device; `threads` turn texts into tokens there. Scores are as near to those of the processor as
    /// [`DeviceEncoder`] says, and do not depend on the other pairs as long as products run on our own kernel.
    ///
    /// # Errors
    ///
    /// As for [`load`](Self::load), and [`Error::Model`] for a model in ONNX, for one that there are no kernels for, and when
    /// the device has not so much memory.
    #[cfg(feature = "cuda")]
    pub fn load_on_device(dir: &Path, device: &cuda::CudaDevice, products: Products, threads: usize) -> Result<Self> {
        let Ok(config) = kernels_config(dir)? else {
            let what = "a model in ONNX on a CUDA device".to_owned();
            return Err(raglan_model::Error::Unsupported { path: dir.to_owned(), what }.into());
        };
        DeviceEncoder::check(&dir.join("config.json"), &config)?;
        let (max_tokens, file) = (config.max_tokens(), SafetensorsFile::open(dir)?);
        let head = head(dir, &file, &config, products)?;
        let model = Box::new(DeviceEncoder::from_safetensors(device, &file, config)?);
        Self::with_engine(dir, Engine::Device { model, head }, max_tokens, threads)
    }

    fn with_engine(dir: &Path, engine: Engine, max_tokens: usize, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("cross-encoder-{i}"))
            .build()
            .map_err(|error| Error::Parameter { name: "threads", problem: error.to_string() })?;
        Ok(Self { engine, max_tokens, tokenizer: Tokenizer::from_file(dir.join("tokenizer.json"))?, pool })
    }
}

/// The shape of a model that our own kernels run, or else the files of one in ONNX.
fn kernels_config(dir: &Path) -> Result<std::result::Result<EncoderModelConfig, OnnxFiles>> {
    let has_weights = ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists());
    let config = EncoderModelConfig::from_file(dir.join("config.json"));
    let onnx = if has_weights && config.is_ok() { None } else { OnnxFiles::of(dir)? };
    match onnx {
        Some(files) => Ok(Err(files)),
        None => Ok(Ok(config?)),
    }
}

/// The head that scores, if the file has one.
fn head(
    dir: &Path,
    file: &SafetensorsFile,
    config: &EncoderModelConfig,
    products: Products,
) -> Result<ClassificationHead> {
    // Of every family, the classes' map is called `classifier`, or lies in it.
    if !file.tensors().keys().any(|name| name.starts_with("classifier.")) {
        return Err(Error::NoHead { model: dir.display().to_string() });
    }
    let head = ClassificationHead::from_safetensors(file, config, products)?;
    match head.n_classes() {
        1 | 2 => Ok(head),
        n_classes => Err(Error::Classes { model: dir.display().to_string(), n_classes }),
    }
}

impl Engine {
    fn batch_tokens(&self) -> usize {
        match self {
            #[cfg(feature = "cuda")]
            Self::Device { .. } => DEVICE_BATCH_TOKENS,
            Self::Kernels { .. } | Self::Onnx { .. } => BATCH_TOKENS,
        }
    }

    /// The scores of pairs that pass together.
    fn scores(&self, pairs: &[EncodedPair]) -> Result<Vec<f32>> {
        match self {
            Self::Kernels { model, head } => {
                let ids: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.ids).collect();
                let types: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.token_types).collect();
                let logits = head.logits(&model.hidden_states_of_pairs(&ids, &types)?)?;
                Ok(logits.chunks_exact(head.n_classes()).filter_map(score).collect())
            }
            #[cfg(feature = "cuda")]
            Self::Device { model, head } => {
                let pooled = if head.reads_mean() { cuda::Pooled::Mean } else { cuda::Pooled::First };
                let texts = model.pooled_vectors_of_pairs([pairs], pooled, cuda::Length::Kept)?;
                let logits = head.logits_of_vectors(&texts)?;
                Ok(logits.chunks_exact(head.n_classes()).filter_map(score).collect())
            }
            Self::Onnx { model, dir } => {
                let texts = pairs.iter().map(|pair| OnnxText { ids: &pair.ids, types: &pair.token_types });
                let texts: Vec<OnnxText<'_>> = texts.collect();
                model.encode(&texts, |classes| {
                    let refused = || Error::Classes { model: dir.display().to_string(), n_classes: classes.len() };
                    score(classes).ok_or_else(refused)
                })
            }
        }
    }
}

/// The score that one class stands for, or that yes has above no; none of any other number of classes.
fn score(classes: &[f32]) -> Option<f32> {
    match classes {
        [score] => Some(*score),
        [no, yes] => Some(yes - no),
        _ => None,
    }
}

impl Judge for CrossEncoder {
    fn name(&self) -> String {
        "cross-encoder".to_owned()
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let mut meter = Meter::start(budget);
            let encode = |passage: &&str| Ok(self.tokenizer.encode_pair(task.question, passage, self.max_tokens)?);
            let pairs: Vec<Result<EncodedPair>> = self.pool.install(|| task.passages.par_iter().map(encode).collect());
            let pairs = pairs.into_iter().collect::<Result<Vec<_>>>()?;
            let mut scores = vec![None; pairs.len()];
            let mut first = 0;
            while first < pairs.len() {
                // As many as pass together and as the budget has room for.
                let (mut end, mut n_tokens) = (first, 0);
                while let Some(pair) = pairs.get(end) {
                    let with_it = n_tokens + pair.ids.len();
                    if (end > first && with_it > self.engine.batch_tokens()) || !meter.allows(with_it) {
                        break;
                    }
                    (end, n_tokens) = (end + 1, with_it);
                }
                if end == first {
                    break;
                }
                let found = self.pool.install(|| self.engine.scores(&pairs[first..end]))?;
                meter.count(end - first, n_tokens, 0);
                scores[first..end].iter_mut().zip(found).for_each(|(score, new)| *score = Some(new));
                first = end;
            }
            Ok(Judgement::new(Verdict::Scores(scores), &meter))
        };
        tasks.iter().map(judge).collect()
    }
}
