//! What strategies ask of a language model: text that goes on, and how likely given texts are to come next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use raglan_kv::KvCache;
use raglan_model::{Attending, ChatMessage, ChatRole, ForwardRows, ForwardSequence, LanguageModel, Want};

use crate::{Error, Result};

/// What the model reads: the user's turn, and how the reply to it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt<'a> {
    /// What the user says.
    pub user: &'a str,
    /// The beginning of the reply, which the model goes on from; may be empty.
    pub reply: &'a str,
}

/// How a model goes on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The text, without the stop text and what comes behind it.
    pub text: String,
    /// The tokens of that text, and how likely each was.
    pub tokens: Vec<WrittenToken>,
    /// Whether the model ended its reply by itself.
    pub ended: bool,
    /// Tokens of the prompt.
    pub n_read: usize,
    /// Tokens that were written, those of the stop text among them.
    pub n_written: usize,
}

/// A token that a model wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenToken {
    /// Its text; that of the vocabulary where it is a special token.
    pub text: String,
    /// The model's probability of it.
    pub probability: f32,
}

/// How likely texts are to come next.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// The natural logarithm of the probability of each token of each text, in order.
    pub log_probabilities: Vec<Vec<f64>>,
    /// Tokens that were read.
    pub n_read: usize,
}

impl Weighed {
    /// The text whose first token is the likeliest, the first of equals; texts that begin with equal likelihoods are
    /// compared at the next token.
    ///
    /// A sum over all tokens would prefer short texts.
    pub fn best(&self) -> usize {
        let mut best = 0;
        for (i, candidate) in self.log_probabilities.iter().enumerate().skip(1) {
            let held = &self.log_probabilities[best];
            let differing = candidate.iter().zip(held).find(|(new, old)| new != old);
            if differing.is_some_and(|(new, old)| new > old) {
                best = i;
            }
        }
        best
    }

    /// `log p(first text) − log p(second text)` by their first differing tokens; 0 when they do not differ.
    pub fn margin(&self) -> f64 {
        let [first, second, ..] = &self.log_probabilities[..] else { return 0.0 };
        first.iter().zip(second).map(|(a, b)| a - b).find(|difference| *difference != 0.0).unwrap_or(0.0)
    }
}

/// A language model that goes on from prompts.
pub trait TextModel: Send + Sync {
    /// Its name.
    fn name(&self) -> String;

    /// How many tokens of prompt and reply together it reads.
    fn context_len(&self) -> usize;

    /// How many tokens a text has by itself.
    ///
    /// # Errors
    ///
    /// When the vocabulary has no token for a part of the text.
    fn count(&self, text: &str) -> Result<usize>;

    /// How many tokens a prompt has.
    ///
    /// # Errors
    ///
    /// As [`count`](Self::count).
    fn count_prompt(&self, prompt: &Prompt<'_>) -> Result<usize>;

    /// The likeliest reply, token by token, until one of the stop texts, the reply's own end, or `max_tokens` tokens.
    ///
    /// # Errors
    ///
    /// When the model fails, and [`Error::Interrupted`].
    fn write(&self, prompt: &Prompt<'_>, max_tokens: usize, stops: &[&str]) -> Result<Written>;

    /// How likely the reply is to go on with each of these texts, none of which is empty.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn weigh(&self, prompt: &Prompt<'_>, texts: &[&str]) -> Result<Weighed>;

    /// Whether the vocabulary has this token, as a model has that was trained to ask for retrieval.
    fn has_token(&self, token: &str) -> bool;
}

/// A [`LanguageModel`] under its own chat template, decoding greedily.
///
/// What a prompt has in common with the last one, from its beginning on, is not computed again; the results are the same
/// to the bit.
#[derive(Debug)]
pub struct ChatModel {
    model: Arc<LanguageModel>,
    interrupt: Option<Arc<AtomicBool>>,
    last: Mutex<Option<(Vec<u32>, KvCache)>>,
}

/// About how many tokens pass through a model together.
const SLICE: usize = 256;

impl ChatModel {
    /// A model to ask.
    pub fn new(model: Arc<LanguageModel>) -> Self {
        Self { model, interrupt: None, last: Mutex::new(None) }
    }

    /// The same, which gives up when the flag is set.
    #[must_use]
    pub fn interrupted_by(self, flag: Arc<AtomicBool>) -> Self {
        Self { interrupt: Some(flag), ..self }
    }

    fn ids(&self, prompt: &Prompt<'_>) -> Result<Vec<u32>> {
        let LanguageModel { tokenizer, template, .. } = &*self.model;
        let turn = template.render(&[ChatMessage::new(ChatRole::User, tokenizer.defuse(prompt.user))])?;
        Ok(tokenizer.encode_prompt(&(turn + &tokenizer.defuse(prompt.reply)))?.ids)
    }

    /// The keys and values of a prompt, and the logits of what comes next.
    fn read(&self, ids: &[u32]) -> Result<(KvCache, Vec<f32>)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (n_common, mut cache) = match last {
            Some((before, mut cache)) => {
                let n = before.iter().zip(ids).take_while(|(a, b)| a == b).count().min(ids.len().saturating_sub(1));
                cache.truncate(n);
                (n, cache)
            }
            None => (0, self.model.transformer.cache()),
        };
        let mut logits = Vec::new();
        for slice in ids[n_common..].chunks(SLICE) {
            logits = self.append(&mut cache, slice, &[slice.len() - 1])?;
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((ids.to_vec(), cache.clone()));
        Ok((cache, logits))
    }

    /// Reads tokens behind those of the cache; gives the logits of some of their rows.
    fn append(&self, cache: &mut KvCache, tokens: &[u32], logits: &[usize]) -> Result<Vec<f32>> {
        if self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Err(Error::Interrupted);
        }
        let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want { logits, ..Want::default() };
        let sequence = ForwardSequence { rows, cache, want, attending: Attending::All };
        let forwarded = self.model.transformer.forward(&mut [sequence])?;
        Ok(forwarded.into_iter().flat_map(|sequence| sequence.logits).collect())
    }
}

impl TextModel for ChatModel {
    fn name(&self) -> String {
        self.model.name.clone()
    }

    fn context_len(&self) -> usize {
        self.model.transformer.config().context_len
    }

    fn count(&self, text: &str) -> Result<usize> {
        Ok(self.model.tokenizer.encode(&self.model.tokenizer.defuse(text), false)?.ids.len())
    }

    fn count_prompt(&self, prompt: &Prompt<'_>) -> Result<usize> {
        Ok(self.ids(prompt)?.len())
    }

    fn write(&self, prompt: &Prompt<'_>, max_tokens: usize, stops: &[&str]) -> Result<Written> {
        let LanguageModel { transformer, tokenizer, .. } = &*self.model;
        let ids = self.ids(prompt)?;
        let (mut cache, mut logits) = self.read(&ids)?;
        let mut written = Written { n_read: ids.len(), ..Written::default() };
        let mut starts = Vec::new();
        let mut stream = tokenizer.decode_stream();
        let mut stopped = false;
        while written.n_written < max_tokens && !stopped {
            let (token, log_probability) = likeliest(&logits);
            written.n_written += 1;
            if transformer.config().end_tokens.contains(&token) {
                written.ended = true;
                break;
            }
            let piece = stream.push(token)?;
            // A special token has no text of its own, and may be what the caller waits for.
            let text = if piece.is_empty() { tokenizer.token(token).unwrap_or_default() } else { piece.clone() };
            starts.push(written.text.len());
            written.tokens.push(WrittenToken { text, probability: log_probability.exp() as f32 });
            written.text.push_str(&piece);
            stopped = cut(&mut written.text, stops);
            if !stopped && written.n_written < max_tokens {
                logits = self.append(&mut cache, &[token], &[0])?;
            }
        }
        if !stopped {
            written.text.push_str(&stream.finish()?);
            stopped = cut(&mut written.text, stops);
        }
        if stopped {
            let n = starts.partition_point(|&start| start < written.text.len());
            written.tokens.truncate(n);
        }
        Ok(written)
    }

    fn weigh(&self, prompt: &Prompt<'_>, texts: &[&str]) -> Result<Weighed> {
        let ids = self.ids(prompt)?;
        let (cache, first) = self.read(&ids)?;
        let n_vocabulary = first.len();
        let mut weighed = Weighed { log_probabilities: Vec::with_capacity(texts.len()), n_read: ids.len() };
        for text in texts {
            let tokens = self.model.tokenizer.encode(text, false)?.ids;
            let mut rows = first.clone();
            if let Some((_, before)) = tokens.split_last()
                && !before.is_empty()
            {
                let all: Vec<usize> = (0..before.len()).collect();
                rows.extend(self.append(&mut cache.clone(), before, &all)?);
                weighed.n_read += before.len();
            }
            let of = tokens.iter().zip(rows.chunks_exact(n_vocabulary));
            weighed.log_probabilities.push(of.map(|(&token, logits)| log_probability(logits, token)).collect());
        }
        Ok(weighed)
    }

    fn has_token(&self, token: &str) -> bool {
        self.model.tokenizer.token_id(token).is_some()
    }
}

/// Cuts a text at the first of the stop texts that is in it; says whether there is one.
pub(crate) fn cut(text: &mut String, stops: &[&str]) -> bool {
    let end = stops.iter().filter_map(|stop| text.find(stop)).min();
    end.inspect(|&end| text.truncate(end)).is_some()
}

/// The token with the highest score, the lowest id among equals, and the logarithm of its probability.
fn likeliest(logits: &[f32]) -> (u32, f64) {
    let best = logits.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    let token = best.map_or(0, |(id, _)| id as u32);
    (token, log_probability(logits, token))
}

fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

#[cfg(test)]
mod tests {
    use raglan_core::Budget;
    use raglan_model::Products;
    use raglan_model::registry::ModelCache;

    use super::*;
    use crate::scripted::{page, sources};
    use crate::{Limits, Parts, SelfAsk, SingleStep, Strategy, Unit};

    #[test]
    fn texts_are_compared_where_they_first_differ() {
        let weighed = |lists: &[&[f64]]| Weighed {
            log_probabilities: lists.iter().map(|list| list.to_vec()).collect(),
            n_read: 0,
        };
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-2.0]]).best(), 0);
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-1.0, -2.0]]).best(), 1);
        assert_eq!(weighed(&[&[-1.0], &[-1.0]]).best(), 0);
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-1.0, -2.0]]).margin(), -7.0);
        assert_eq!(weighed(&[&[-1.0]]).margin(), 0.0);
    }

    #[test]
    fn probabilities_are_a_softmax() {
        let (token, log_p) = likeliest(&[0.0, 2.0f32.ln(), 2.0f32.ln()]);
        assert_eq!(token, 1); // The lower of equals.
        assert!((log_p.exp() - 0.4).abs() <= 1e-6); // 2 / (1 + 2 + 2)
    }

    /// The default model, when it is in the cache; `RAGLAN_REQUIRE_MODELS` makes its absence a failure.
    fn smollm2() -> Option<Arc<LanguageModel>> {
        let found = ModelCache::new(None, true).and_then(|cache| cache.path("smollm2-135m-instruct"));
        match found {
            Ok(folder) => {
                let path = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
                Some(Arc::new(LanguageModel::load(path, 2, Products::Stored).unwrap()))
            }
            Err(error) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{error}"),
            Err(error) => {
                eprintln!("skipped, for want of the model: {error}");
                None
            }
        }
    }

    #[test]
    fn the_default_model_keeps_to_the_grammar_and_answers() {
        let Some(language_model) = smollm2() else { return };
        let model = ChatModel::new(language_model.clone());
        let prompt = Prompt { user: "Reply with the answer alone: what is the capital of France?", reply: "Answer:" };
        let written = model.write(&prompt, 12, &["\n"]).unwrap();
        assert!(written.text.contains("Paris"), "{written:?}");
        assert!(written.tokens.iter().all(|token| (0.0..=1.0).contains(&token.probability)), "{written:?}");
        // What was read before changes nothing, to the bit.
        assert_eq!(model.write(&prompt, 12, &["\n"]).unwrap(), written);
        let weighed = model.weigh(&prompt, &[" Paris", " Bread"]).unwrap();
        assert_eq!((weighed.best(), weighed.margin() > 3.0), (0, true), "{weighed:?}");
        assert_eq!(ChatModel::new(language_model.clone()).weigh(&prompt, &[" Paris", " Bread"]).unwrap(), weighed);
        assert!(model.has_token("<|im_end|>") && !model.has_token("<RET>"));

        let list = [
            page("light", "The lighthouse at Skerry was lit on 4 October 1906. It was built by Ada Moss."),
            page("moss", "Ada Moss was an engineer. She was born in Leith."),
            page("puffins", "Puffins nest on the northern cliffs from April to August."),
        ];
        let limits = Limits { answer_tokens: 24, step_tokens: 24, ..Limits::default() };
        let parts = Parts { model: Arc::new(model), sources: sources(&list, Unit::Passages), limits };
        let strategy = SelfAsk { max_steps: 1, min_steps: 1, ..SelfAsk::new(parts.clone(), 1) };
        let question = "When was the lighthouse at Skerry lit?".into();
        let trail = strategy.answer(&question, &Budget::default()).unwrap();
        assert!(trail.steps[1].text.starts_with("Follow up: "), "{trail:#?}");
        assert!(trail.answer.contains("1906"), "{trail:#?}");
        let single = SingleStep::new(parts, 1).answer(&question, &Budget::default()).unwrap();
        assert!(single.answer.contains("1906"), "{single:#?}");

        let flag = Arc::new(AtomicBool::new(true));
        let stopped = ChatModel::new(language_model).interrupted_by(flag).write(&prompt, 1, &[]);
        assert!(matches!(stopped, Err(Error::Interrupted)));
    }
}
