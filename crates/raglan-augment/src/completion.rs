//! Asking a language model for a short text.

use std::sync::Arc;

use raglan_core::Meter;
use raglan_kernels::log_softmax_at;
use raglan_kv::KvCache;
use raglan_model::{
    Attending, ChatMessage, ChatRole, ForwardRows, ForwardSequence, LanguageModel, Sampler, Sampling, Want,
};

use crate::{Error, Result};

/// Writes short texts as it is asked to.
pub trait Completer: Send + Sync {
    /// Up to [`n`](CompletionRequest::n) texts for each request, in order.
    ///
    /// A text depends on its own request only. A request has fewer texts, or none, when the meter's budget is spent.
    ///
    /// # Errors
    ///
    /// When the model fails, or a request is longer than it reads. What it writes never is an error.
    fn complete(&self, requests: &[CompletionRequest], meter: &mut Meter) -> Result<Vec<Vec<Completion>>>;
}

impl<C: Completer + ?Sized> Completer for Arc<C> {
    fn complete(&self, requests: &[CompletionRequest], meter: &mut Meter) -> Result<Vec<Vec<Completion>>> {
        (**self).complete(requests, meter)
    }
}

/// What a model is to write.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// Standing instructions; empty for none.
    pub system: String,
    /// Turns that show what is wanted: what is asked, and what is to be answered.
    pub examples: Vec<(String, String)>,
    /// What is asked.
    pub ask: String,
    /// How the answer begins; it is not part of what is given back.
    pub opening: String,
    /// How many answers are wanted.
    pub n: usize,
    /// The most tokens of an answer.
    pub max_tokens: usize,
    /// Texts at which an answer ends, and which are not part of it.
    pub stop: Vec<String>,
    /// How tokens are chosen; answer `i` has the seed `seed + i`.
    pub sampling: Sampling,
}

impl CompletionRequest {
    /// A request for one answer of up to `max_tokens` tokens on one line, the likeliest.
    pub fn line(ask: impl Into<String>, max_tokens: usize) -> Self {
        Self {
            system: String::new(),
            examples: Vec::new(),
            ask: ask.into(),
            opening: String::new(),
            n: 1,
            max_tokens,
            stop: vec!["\n".to_owned()],
            sampling: Sampling::default(),
        }
    }
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text, without white space around it.
    pub text: String,
    /// The mean log-probability of its tokens as the model gave them, before any sampling; 0 when there are none.
    pub log_probability: f32,
}

/// How many texts are written together, which share the cost of reading the weights.
const AT_ONCE: usize = 8;

/// A [`Completer`] on a language model. Requests with the same beginning read it once.
#[derive(Debug)]
pub struct ChatCompleter {
    model: Arc<LanguageModel>,
}

/// A text in the making.
struct Draft {
    request: usize,
    sampler: Sampler,
    cache: KvCache,
    logits: Vec<f32>,
    ids: Vec<u32>,
    log_probability: f32,
    is_over: bool,
}

/// The next token of a text.
struct Step<'d> {
    draft: &'d mut Draft,
    token: [u32; 1],
    slot: [usize; 1],
    position: [u32; 1],
}

impl ChatCompleter {
    /// A completer on this model.
    pub fn new(model: Arc<LanguageModel>) -> Self {
        Self { model }
    }

    /// The language model.
    pub fn model(&self) -> &Arc<LanguageModel> {
        &self.model
    }

    /// The tokens of a request. Whoever wrote its words, they do not read as marks of the chat template.
    fn prompt(&self, request: &CompletionRequest) -> Result<Vec<u32>> {
        let tokenizer = &self.model.tokenizer;
        let turn = |role, text: &str| ChatMessage::new(role, tokenizer.defuse(text));
        let mut messages = Vec::with_capacity(2 + 2 * request.examples.len());
        if !request.system.is_empty() {
            messages.push(turn(ChatRole::System, &request.system));
        }
        for (ask, answer) in &request.examples {
            messages.push(turn(ChatRole::User, ask));
            messages.push(turn(ChatRole::Assistant, answer));
        }
        messages.push(turn(ChatRole::User, &request.ask));
        let conversation = self.model.template.render(&messages)?;
        let ids = tokenizer.encode_prompt(&format!("{conversation}{}", tokenizer.defuse(&request.opening)))?.ids;
        let (needed, limit) = (ids.len() + request.max_tokens, self.model.transformer.config().context_len);
        if needed > limit {
            return Err(Error::NoRoom { needed, limit });
        }
        Ok(ids)
    }

    /// Reads what of a prompt is not in the cache, and gives the logits behind it.
    fn read(&self, prompt: &[u32], cache: &mut KvCache) -> Result<Vec<f32>> {
        let n_read = cache.len();
        let slots: Vec<usize> = (n_read..prompt.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let rows =
            ForwardRows { tokens: &prompt[n_read..], positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want { logits: &[slots.len() - 1], ..Want::default() };
        let sequence = ForwardSequence { rows, cache, want, attending: Attending::All };
        let forwarded = self.model.transformer.forward(&mut [sequence])?;
        Ok(forwarded.into_iter().flat_map(|sequence| sequence.logits).collect())
    }

    /// Writes all drafts to their ends.
    fn write(&self, requests: &[CompletionRequest], drafts: &mut [Draft], meter: &mut Meter) -> Result<()> {
        let transformer = &self.model.transformer;
        loop {
            let mut steps: Vec<Step<'_>> = Vec::with_capacity(drafts.len());
            for draft in drafts.iter_mut().filter(|draft| !draft.is_over) {
                let request = &requests[draft.request];
                if draft.ids.len() >= request.max_tokens || !meter.allows(1) {
                    draft.is_over = true;
                    continue;
                }
                let plain = draft.logits.clone();
                let token = draft.sampler.next(&mut draft.logits)?;
                meter.count(0, 0, 1);
                if transformer.config().end_tokens.contains(&token) {
                    draft.is_over = true;
                    continue;
                }
                let mut of_token = [0.0];
                log_softmax_at(&plain, &[token], &mut of_token)?;
                draft.log_probability += of_token[0];
                draft.ids.push(token);
                let text = self.model.tokenizer.decode(&draft.ids)?;
                if draft.ids.len() == request.max_tokens || request.stop.iter().any(|stop| goes_on_to(&text, stop)) {
                    draft.is_over = true;
                    continue;
                }
                let slot = draft.cache.len();
                steps.push(Step { draft, token: [token], slot: [slot], position: [slot as u32] });
            }
            if steps.is_empty() {
                return Ok(());
            }
            let sequences = steps.iter_mut().map(|Step { draft, token, slot, position }| ForwardSequence {
                rows: ForwardRows { tokens: token, positions: position, slots: slot, ..ForwardRows::default() },
                cache: &mut draft.cache,
                want: Want { logits: &[0], ..Want::default() },
                attending: Attending::All,
            });
            let forwarded = transformer.forward(&mut sequences.collect::<Vec<_>>())?;
            for (step, forwarded) in steps.iter_mut().zip(forwarded) {
                step.draft.logits = forwarded.logits;
            }
        }
    }

    fn completion(&self, request: &CompletionRequest, draft: &Draft) -> Result<Completion> {
        let text = self.model.tokenizer.decode(&draft.ids)?;
        let text = text.trim_start();
        let end = request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min().unwrap_or(text.len());
        let log_probability = draft.log_probability / draft.ids.len().max(1) as f32;
        Ok(Completion { text: text[..end].trim().to_owned(), log_probability })
    }
}

/// Whether a text has come to `stop` behind its first words.
fn goes_on_to(text: &str, stop: &str) -> bool {
    text.trim_start().contains(stop)
}

impl Completer for ChatCompleter {
    fn complete(&self, requests: &[CompletionRequest], meter: &mut Meter) -> Result<Vec<Vec<Completion>>> {
        let mut completions: Vec<Vec<Completion>> = requests.iter().map(|_| Vec::new()).collect();
        let mut finish = |drafts: &mut Vec<Draft>, meter: &mut Meter| {
            self.write(requests, drafts, meter)?;
            for draft in drafts.drain(..) {
                completions[draft.request].push(self.completion(&requests[draft.request], &draft)?);
            }
            Ok::<(), Error>(())
        };
        let mut drafts: Vec<Draft> = Vec::new();
        // The last prompt, whose beginning the next one may share.
        let mut read: Option<(Vec<u32>, KvCache)> = None;
        for (i, request) in requests.iter().enumerate().filter(|(_, request)| request.n > 0) {
            let prompt = self.prompt(request)?;
            let mut cache = self.model.transformer.cache();
            if let Some((last, of_last)) = &read {
                let shared = last.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
                cache = of_last.clone();
                cache.truncate(shared.min(prompt.len() - 1)); // The last token is read for its logits.
            }
            let n_new = prompt.len() - cache.len();
            if !meter.allows(n_new) {
                continue;
            }
            let logits = self.read(&prompt, &mut cache)?;
            meter.count(1, n_new, 0);
            for j in 0..request.n {
                if drafts.len() == AT_ONCE {
                    finish(&mut drafts, meter)?;
                }
                let seed = request.sampling.seed.wrapping_add(j as u64);
                drafts.push(Draft {
                    request: i,
                    sampler: Sampler::new(Sampling { seed, ..request.sampling.clone() }),
                    cache: cache.clone(),
                    logits: logits.clone(),
                    ids: Vec::new(),
                    log_probability: 0.0,
                    is_over: false,
                });
            }
            read = Some((prompt, cache));
        }
        finish(&mut drafts, meter)?;
        Ok(completions)
    }
}
