//! A question and a passage read together by an encoder (monoBERT; Nogueira and Cho 2019).

use std::path::Path;

use raglan_model::{
    ClassificationHead, EncodedPair, EncoderModel, EncoderModelConfig, Products, SafetensorsFile, Tokenizer,
};
use rayon::prelude::*;

use crate::judge::Meter;
use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// About how many tokens pass through the model together.
const BATCH_TOKENS: usize = 1024;

/// Scores each passage by an encoder with a classification head of one class, or of no and yes, whose difference it is.
///
/// Models are the BERT family's: BERT, DistilBERT, RoBERTa, XLM-R and `ModernBERT`.
#[derive(Debug)]
pub struct CrossEncoder {
    model: EncoderModel,
    head: ClassificationHead,
    tokenizer: Tokenizer,
    max_tokens: usize,
    pool: rayon::ThreadPool,
}

impl CrossEncoder {
    /// Loads `config.json`, `model.safetensors` (or its shards) and `tokenizer.json` of a folder, to work on `threads`
    /// threads.
    ///
    /// # Errors
    ///
    /// [`Error::Model`], which names the file, when one is missing, damaged or of another kind of model;
    /// [`Error::NoHead`]; [`Error::Classes`].
    pub fn load(dir: &Path, products: Products, threads: usize) -> Result<Self> {
        let config = EncoderModelConfig::from_file(dir.join("config.json"))?;
        let file = SafetensorsFile::open(dir)?;
        // Of every family, the classes' map is called `classifier`, or lies in it.
        if !file.tensors().keys().any(|name| name.starts_with("classifier.")) {
            return Err(Error::NoHead { model: dir.display().to_string() });
        }
        let head = ClassificationHead::from_safetensors(&file, &config, products)?;
        if !(1..=2).contains(&head.n_classes()) {
            return Err(Error::Classes { model: dir.display().to_string(), n_classes: head.n_classes() });
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("cross-encoder-{i}"))
            .build()
            .map_err(|error| Error::Parameter { name: "threads", problem: error.to_string() })?;
        Ok(Self {
            max_tokens: config.max_tokens(),
            model: EncoderModel::from_safetensors(&file, config, products)?,
            head,
            tokenizer: Tokenizer::from_file(dir.join("tokenizer.json"))?,
            pool,
        })
    }

    /// The scores of pairs that pass together.
    fn scores(&self, pairs: &[EncodedPair]) -> Result<Vec<f32>> {
        let ids: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.ids).collect();
        let types: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.token_types).collect();
        let logits = self.head.logits(&self.model.hidden_states_of_pairs(&ids, &types)?)?;
        Ok(logits
            .chunks_exact(self.head.n_classes())
            .map(|classes| match classes {
                [no, yes] => yes - no,
                classes => classes[0],
            })
            .collect())
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
                let found = self.pool.install(|| self.scores(&pairs[first..end]))?;
                meter.count(end - first, n_tokens, 0);
                scores[first..end].iter_mut().zip(found).for_each(|(score, new)| *score = Some(new));
                first = end;
            }
            Ok(meter.stop(Verdict::Scores(scores)))
        };
        tasks.iter().map(judge).collect()
    }
}
