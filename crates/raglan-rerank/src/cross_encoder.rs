//! A question and a passage read together by an encoder (monoBERT; Nogueira and Cho 2019).

use std::path::{Path, PathBuf};

use raglan_core::Meter;
use raglan_model::{
    ClassificationHead, EncodedPair, EncoderModel, EncoderModelConfig, Products, SafetensorsFile, Tokenizer,
};
use raglan_onnx::{OnnxFiles, OnnxModel, OnnxText, OnnxUse};
use rayon::prelude::*;

use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// About how many tokens pass through the model together.
const BATCH_TOKENS: usize = 1024;

/// Scores each passage by an encoder with a classification head of one class, or of no and yes, whose difference it is.
///
/// Models are the BERT family's (BERT, DistilBERT, RoBERTa, XLM-R and `ModernBERT`) on our own kernels, and any in ONNX
/// on onnxruntime.
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
    Kernels { model: Box<EncoderModel>, head: ClassificationHead },
    Onnx { model: OnnxModel, dir: PathBuf },
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
        let has_weights =
            ["model.safetensors", "model.safetensors.index.json"].iter().any(|name| dir.join(name).exists());
        let config = EncoderModelConfig::from_file(dir.join("config.json"));
        let onnx = if has_weights && config.is_ok() { None } else { OnnxFiles::of(dir)? };
        let (engine, max_tokens) = match onnx {
            Some(files) => {
                let model = OnnxModel::load(&files, OnnxUse::Classes, onnx_runtime, threads)?;
                (Engine::Onnx { model, dir: dir.to_owned() }, files.max_tokens)
            }
            None => {
                let config = config?;
                let max_tokens = config.max_tokens();
                (Engine::on_kernels(dir, config, products)?, max_tokens)
            }
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("cross-encoder-{i}"))
            .build()
            .map_err(|error| Error::Parameter { name: "threads", problem: error.to_string() })?;
        Ok(Self { engine, max_tokens, tokenizer: Tokenizer::from_file(dir.join("tokenizer.json"))?, pool })
    }
}

impl Engine {
    fn on_kernels(dir: &Path, config: EncoderModelConfig, products: Products) -> Result<Self> {
        let file = SafetensorsFile::open(dir)?;
        // Of every family, the classes' map is called `classifier`, or lies in it.
        if !file.tensors().keys().any(|name| name.starts_with("classifier.")) {
            return Err(Error::NoHead { model: dir.display().to_string() });
        }
        let head = ClassificationHead::from_safetensors(&file, &config, products)?;
        if !(1..=2).contains(&head.n_classes()) {
            return Err(Error::Classes { model: dir.display().to_string(), n_classes: head.n_classes() });
        }
        let model = Box::new(EncoderModel::from_safetensors(&file, config, products)?);
        Ok(Self::Kernels { model, head })
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
                let (mut end, mut n_tokens) = (first, 0);
                while end < pairs.len() && (end == first || n_tokens + pairs[end].ids.len() <= BATCH_TOKENS) {
                    n_tokens += pairs[end].ids.len();
                    end += 1;
                }
                if !meter.allows(n_tokens) {
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
