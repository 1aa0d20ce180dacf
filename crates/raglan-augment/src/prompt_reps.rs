//! Vectors from a language model that was never trained to give any (PromptReps; Zhuang et al. 2024).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use raglan_core::{DenseVector, Encoder, SparseVector};
use raglan_kernels::l2_normalize;
use raglan_kv::KvCache;
use raglan_model::{
    Attending, ChatFrame, ChatMessage, ChatRole, ForwardRows, ForwardSequence, LanguageModel, Tokenizer, Want,
};

use crate::words::content_words;
use crate::{Error, Result};

/// About how many tokens pass through the model together.
const BATCH_TOKENS: usize = 2048;

/// Tokens of a sparse vector when none of the text's own words has one.
const FALLBACK_TERMS: usize = 10;

/// How texts become vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptRepsOptions {
    /// Tokens of a text that are read; the paper takes 512.
    pub max_tokens: usize,
    /// Terms of a sparse vector; the paper takes 128.
    pub max_terms: usize,
    /// How many further terms a passage's sparse vector gets: the likeliest whole words in lower case that the passage
    /// lacks. The paper takes none.
    pub expansion: usize,
}

impl Default for PromptRepsOptions {
    fn default() -> Self {
        Self { max_tokens: 512, max_terms: 128, expansion: 0 }
    }
}

/// Asks a language model for the one word that stands for a text, and takes what it has in mind before it writes it.
///
/// The dense vector is the last hidden state, behind the final norm, at the opening quote of that word, of length 1. The
/// sparse one has a weight for each token `t` of the text's own content words, each word cut into tokens by itself and in
/// lower case: `ln(1 + max(0, logit_t))`. A model whose logits are below 0 for all of these gets `ln(1 + logit_t − μ)`
/// for tokens above the mean `μ` of all logits instead: small models often put most of their logits below 0. A text
/// without content words has the ten likeliest tokens. Both take one forward of the text; the words before it are read
/// once for all texts.
pub struct PromptReps {
    model: Arc<LanguageModel>,
    options: PromptRepsOptions,
    passages: Frame,
    queries: Frame,
    /// Whether a token is a whole word in lower case, which an expansion may add.
    is_word: Vec<bool>,
    /// The tokens of words that were met.
    tokens_of: Mutex<BTreeMap<String, Vec<u32>>>,
}

/// What stands around a text, the part before it computed.
struct Frame {
    before: KvCache,
    after: Vec<u32>,
}

/// What a model has in mind of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Representation {
    /// Its last hidden state, of length 1.
    pub dense: DenseVector,
    /// The weights of the text's tokens by id.
    pub sparse: SparseVector,
}

impl PromptReps {
    /// Encoders on a language model that follows instructions.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when no token or no term is wanted; [`Error::NoRoom`] when the model does not read so many;
    /// what template, tokenizer and model give.
    pub fn new(model: Arc<LanguageModel>, options: PromptRepsOptions) -> Result<Self> {
        let PromptRepsOptions { max_tokens, max_terms, .. } = options;
        if max_tokens == 0 || max_terms == 0 {
            let name = if max_tokens == 0 { "max_tokens" } else { "max_terms" };
            return Err(Error::Parameter { name, problem: "must be at least 1".to_owned() });
        }
        let passages = Frame::read(&model, "Passage", "passage", max_tokens)?;
        let queries = Frame::read(&model, "Query", "query", max_tokens)?;
        let vocab_size = model.transformer.config().vocab_size;
        let is_word = (0..vocab_size as u32).map(|id| is_word(&model.tokenizer, id)).collect();
        Ok(Self { model, options, passages, queries, is_word, tokens_of: Mutex::default() })
    }

    /// What the model has in mind of passages.
    ///
    /// # Errors
    ///
    /// What the model gives; [`raglan_core::Error::NotFinite`] when its states are not numbers.
    pub fn passages(&self, passages: &[&str]) -> Result<Vec<Representation>> {
        self.represent(&self.passages, passages, self.options.expansion)
    }

    /// What the model has in mind of queries.
    ///
    /// # Errors
    ///
    /// As for [`passages`](Self::passages).
    pub fn queries(&self, queries: &[&str]) -> Result<Vec<Representation>> {
        self.represent(&self.queries, queries, 0)
    }

    fn represent(&self, frame: &Frame, texts: &[&str], expansion: usize) -> Result<Vec<Representation>> {
        let prompts = texts.iter().map(|text| {
            let mut ids = self.model.encode_text(text, self.options.max_tokens)?;
            ids.extend(&frame.after);
            Ok(ids)
        });
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let mut representations = Vec::with_capacity(texts.len());
        let mut first = 0;
        while first < prompts.len() {
            let mut end = first + 1;
            let mut n_tokens = prompts[first].len();
            while end < prompts.len() && n_tokens + prompts[end].len() <= BATCH_TOKENS {
                n_tokens += prompts[end].len();
                end += 1;
            }
            for (text, (hidden, logits)) in texts[first..end].iter().zip(self.read(frame, &prompts[first..end])?) {
                let dense = DenseVector::new(hidden)?;
                representations.push(Representation { dense, sparse: self.sparse(text, &logits, expansion)? });
            }
            first = end;
        }
        Ok(representations)
    }

    /// The last hidden state and the logits behind each prompt, which follows what stands before texts.
    fn read(&self, frame: &Frame, prompts: &[Vec<u32>]) -> Result<Vec<(Vec<f32>, Vec<f32>)>> {
        let transformer = &self.model.transformer;
        let n_before = frame.before.len();
        let mut caches: Vec<KvCache> = prompts.iter().map(|_| frame.before.clone()).collect();
        let slots: Vec<Vec<usize>> = prompts.iter().map(|ids| (n_before..n_before + ids.len()).collect()).collect();
        let positions = slots.iter().map(|slots| slots.iter().map(|&slot| slot as u32).collect());
        let positions: Vec<Vec<u32>> = positions.collect();
        let last: Vec<[usize; 1]> = prompts.iter().map(|ids| [ids.len() - 1]).collect();
        let mut sequences: Vec<ForwardSequence<'_>> = Vec::with_capacity(prompts.len());
        for (i, (ids, cache)) in prompts.iter().zip(&mut caches).enumerate() {
            let rows =
                ForwardRows { tokens: ids, positions: &positions[i], slots: &slots[i], ..ForwardRows::default() };
            let want = Want { logits: &last[i], hidden: &last[i], ..Want::default() };
            sequences.push(ForwardSequence { rows, cache, want, attending: Attending::All });
        }
        let forwarded = transformer.forward(&mut sequences)?;
        let of_text = forwarded.into_iter().map(|forwarded| {
            let mut hidden = forwarded.hidden;
            transformer.normalize(&mut hidden)?;
            let dim = hidden.len();
            l2_normalize(&mut hidden, dim)?;
            Ok((hidden, forwarded.logits))
        });
        of_text.collect()
    }

    fn sparse(&self, text: &str, logits: &[f32], expansion: usize) -> Result<SparseVector> {
        let own = self.own_tokens(text)?;
        let mut terms: Vec<u32> = own.iter().copied().collect();
        if terms.is_empty() {
            terms = raglan_kernels::top_k(logits, FALLBACK_TERMS)?.into_iter().map(|(_, id)| id).collect();
        }
        if expansion > 0 {
            let further: Vec<(f32, u32)> = (0_u32..)
                .zip(logits)
                .filter(|(id, _)| self.is_word[*id as usize] && !own.contains(id))
                .map(|(id, &logit)| (logit, id))
                .collect();
            let best = raglan_kernels::top_k(&further.iter().map(|(logit, _)| *logit).collect::<Vec<_>>(), expansion)?;
            terms.extend(best.into_iter().map(|(_, i)| further[i as usize].1));
        }
        let is_positive = terms.iter().any(|&id| logits[id as usize] > 0.0);
        let mean = logits.iter().map(|&logit| f64::from(logit)).sum::<f64>() / logits.len().max(1) as f64;
        let floor = if is_positive { 0.0 } else { mean as f32 };
        let mut entries: Vec<(u32, f32)> =
            terms.into_iter().map(|id| (id, (logits[id as usize] - floor).max(0.0).ln_1p())).collect();
        entries.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        entries.truncate(self.options.max_terms);
        Ok(SparseVector::new(entries)?)
    }

    /// The tokens of the text's content words, each word by itself.
    fn own_tokens(&self, text: &str) -> Result<HashSet<u32>> {
        let mut own = HashSet::new();
        let mut tokens_of = self.tokens_of.lock().expect("no thread panics while it adds");
        for word in content_words(text) {
            if let Some(ids) = tokens_of.get(&word) {
                own.extend(ids);
                continue;
            }
            let ids = self.model.tokenizer.encode(&word, false)?.ids;
            own.extend(&ids);
            tokens_of.insert(word, ids);
        }
        Ok(own)
    }
}

impl Frame {
    /// Reads what stands before a text, so that room is left for `max_tokens` of it.
    fn read(model: &LanguageModel, label: &str, name: &str, max_tokens: usize) -> Result<Self> {
        let mark = ChatFrame::MARK;
        let messages = [
            ChatMessage::new(ChatRole::System, "You understand human language and say what texts are about."),
            ChatMessage::new(
                ChatRole::User,
                format!(
                    "{label}: \"{mark}\". Represent this {name} by exactly one word in lower case, for a search engine."
                ),
            ),
        ];
        let frame = ChatFrame::new(model, &messages, "The word is: \"")?;
        let (needed, limit) = (frame.len() + max_tokens, model.transformer.config().context_len);
        if needed > limit {
            return Err(Error::NoRoom { needed, limit });
        }
        let mut before = model.transformer.cache();
        let slots: Vec<usize> = (0..frame.before.len()).collect();
        let positions: Vec<u32> = (0..frame.before.len() as u32).collect();
        let rows =
            ForwardRows { tokens: &frame.before, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want::default();
        model.transformer.forward(&mut [ForwardSequence {
            rows,
            cache: &mut before,
            want,
            attending: Attending::All,
        }])?;
        Ok(Self { before, after: frame.after })
    }
}

/// Whether a token stands for a word, or the beginning of one, in lower case.
fn is_word(tokenizer: &Tokenizer, id: u32) -> bool {
    let Ok(text) = tokenizer.decode(&[id]) else { return false };
    let starts_low = text.chars().next().is_some_and(|c| c.is_lowercase() || c.is_numeric());
    starts_low && text.chars().all(char::is_alphanumeric)
}

/// The dense vectors of [`PromptReps`].
#[derive(Clone)]
pub struct PromptRepsDense(pub Arc<PromptReps>);

/// The sparse vectors of [`PromptReps`], over the language model's own vocabulary.
#[derive(Clone)]
pub struct PromptRepsSparse(pub Arc<PromptReps>);

impl Encoder for PromptRepsDense {
    type Vector = DenseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        Ok(self.0.queries(queries)?.into_iter().map(|of_text| of_text.dense).collect())
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<DenseVector>> {
        Ok(self.0.passages(passages)?.into_iter().map(|of_text| of_text.dense).collect())
    }
}

impl Encoder for PromptRepsSparse {
    type Vector = SparseVector;

    fn encode_queries(&self, queries: &[&str]) -> raglan_core::Result<Vec<SparseVector>> {
        Ok(self.0.queries(queries)?.into_iter().map(|of_text| of_text.sparse).collect())
    }

    fn encode_passages(&self, passages: &[&str]) -> raglan_core::Result<Vec<SparseVector>> {
        Ok(self.0.passages(passages)?.into_iter().map(|of_text| of_text.sparse).collect())
    }
}
