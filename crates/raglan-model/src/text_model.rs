//! Asking a language model for texts: what it writes, and how likely given texts are to come next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use raglan_core::Meter;
use raglan_kv::KvCache;

use crate::{
    Attending, ChatMessage, ChatRole, DecodeStream, Error, ForwardRows, ForwardSequence, LanguageModel, Result,
    Sampler, Sampling, Want,
};

/// What a model reads: a conversation, and how the reply to it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Standing instructions; empty for none.
    pub system: String,
    /// Turns that show what is wanted: what the user says, and what is to be replied.
    pub examples: Vec<(String, String)>,
    /// What the user says.
    pub user: String,
    /// The beginning of the reply, which the model goes on from; may be empty.
    pub reply: String,
}

impl Prompt {
    /// One turn of the user, and how the reply to it begins.
    pub fn new(user: impl Into<String>, reply: impl Into<String>) -> Self {
        Self { user: user.into(), reply: reply.into(), ..Self::default() }
    }
}

impl From<String> for Prompt {
    fn from(user: String) -> Self {
        Self { user, ..Self::default() }
    }
}

/// What a model is to write.
#[derive(Clone, Debug, PartialEq)]
pub struct WritingRequest {
    /// What it reads.
    pub prompt: Prompt,
    /// How many texts are wanted.
    pub n: usize,
    /// The most tokens of a text.
    pub max_tokens: usize,
    /// Texts at which one ends behind its first words, and which are not part of it.
    pub stop: Vec<String>,
    /// How tokens are chosen; text `i` has the seed `seed + i`.
    pub sampling: Sampling,
}

impl WritingRequest {
    /// A request for the likeliest text of up to `max_tokens` tokens on one line.
    pub fn line(prompt: impl Into<Prompt>, max_tokens: usize) -> Self {
        let stop = vec!["\n".to_owned()];
        Self { prompt: prompt.into(), n: 1, max_tokens, stop, sampling: Sampling::default() }
    }
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
}

impl Written {
    /// The mean of the tokens' log-probabilities; 0 when there are none.
    pub fn mean_log_probability(&self) -> f32 {
        self.tokens.iter().map(|token| token.log_probability).sum::<f32>() / self.tokens.len().max(1) as f32
    }

    /// Cuts the text at the first of the stop texts behind its first words; says whether there is one.
    fn cut(&mut self, stop: &[String]) -> bool {
        let from = self.text.len() - self.text.trim_start().len();
        let end = stop.iter().filter_map(|stop| self.text[from..].find(stop.as_str())).min();
        end.inspect(|&end| self.text.truncate(from + end)).is_some()
    }

    /// How much of the text stands, whatever comes next: what is not the beginning of a stop text.
    fn certain(&self, stop: &[String]) -> usize {
        let begun = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).rev();
            lengths.into_iter().find(|&n| self.text.ends_with(&stop[..n])).unwrap_or(0)
        };
        self.text.len() - stop.iter().map(begun).max().unwrap_or(0)
    }
}

/// A token that a model wrote.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenToken {
    /// Its text; that of the vocabulary where it is a special token.
    pub text: String,
    /// The natural logarithm of the model's probability of it, before any sampling.
    pub log_probability: f32,
}

/// How likely texts are to come next.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighed {
    /// The natural logarithm of the probability of each token of each text, in order.
    pub log_probabilities: Vec<Vec<f64>>,
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

/// Writes texts as it is asked to.
pub trait TextWriter: Send + Sync {
    /// Up to [`n`](WritingRequest::n) texts for each request, in order.
    ///
    /// A text depends on its own request only. A request has fewer texts, or none, when the meter's budget is spent.
    /// Every token that a call reads is counted, also what was computed before.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when a request is longer than the model reads, [`Error::Interrupted`], and when the
    /// model fails. What it writes never is an error.
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> Result<Vec<Vec<Written>>>;

    /// The first text for a request; `on_text` is called with each piece of it, as soon as it is certain to be one.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    fn write_streaming(
        &self,
        request: &WritingRequest,
        meter: &mut Meter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<Written>> {
        let request = WritingRequest { n: 1, ..request.clone() };
        let written = self.write(&[request], meter)?.into_iter().flatten().next();
        written.iter().for_each(|written| on_text(&written.text));
        Ok(written)
    }
}

impl<W: TextWriter + ?Sized> TextWriter for Arc<W> {
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> Result<Vec<Vec<Written>>> {
        (**self).write(requests, meter)
    }

    fn write_streaming(
        &self,
        request: &WritingRequest,
        meter: &mut Meter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<Written>> {
        (**self).write_streaming(request, meter, on_text)
    }
}

/// A writer that can be measured: its prompts in tokens, and texts by how likely they are to come next.
pub trait TextModel: TextWriter {
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
    fn count_prompt(&self, prompt: &Prompt) -> Result<usize>;

    /// How likely the reply is to go on with each of these texts, none of which is empty. The meter counts; its budget is
    /// not looked at.
    ///
    /// # Errors
    ///
    /// As [`write`](TextWriter::write).
    fn weigh(&self, prompt: &Prompt, texts: &[&str], meter: &mut Meter) -> Result<Weighed>;

    /// Whether the vocabulary has this token, as a model has that was trained to ask for retrieval.
    fn has_token(&self, token: &str) -> bool;
}

/// A [`LanguageModel`] under its own chat template.
///
/// What a prompt has in common with the last one, from its beginning on, is not computed again; the results are the same
/// to the bit. Whoever wrote a prompt's words, they do not read as marks of the template.
#[derive(Debug)]
pub struct ChatModel {
    model: Arc<LanguageModel>,
    interrupt: Option<Arc<AtomicBool>>,
    last: Mutex<Option<(Vec<u32>, KvCache)>>,
}

/// About how many tokens of a prompt pass through a model together.
const SLICE: usize = 256;
/// How many texts are written together, which share the cost of reading the weights.
const AT_ONCE: usize = 8;

/// A text in the making.
struct Draft<'m> {
    request: usize,
    sampler: Sampler,
    cache: KvCache,
    logits: Vec<f32>,
    stream: DecodeStream<'m>,
    written: Written,
    /// Where in the text each token begins.
    starts: Vec<usize>,
    n_tokens: usize,
    stopped: bool,
    is_over: bool,
}

/// The next token of a text.
struct Step<'d, 'm> {
    draft: &'d mut Draft<'m>,
    token: [u32; 1],
    slot: [usize; 1],
    position: [u32; 1],
}

impl<'m> Draft<'m> {
    /// Chooses the next token and adds it to the text; gives it when it is to be read.
    fn step(&mut self, model: &LanguageModel, request: &WritingRequest, meter: &mut Meter) -> Result<Option<u32>> {
        self.is_over = true;
        if self.n_tokens == request.max_tokens || !meter.allows(1) {
            return Ok(None);
        }
        let mut scores = self.logits.clone();
        let token = self.sampler.next(&mut scores).map_err(|error| error.of_weights(model.transformer.path()))?;
        self.n_tokens += 1;
        meter.count(0, 0, 1);
        if model.transformer.config().end_tokens.contains(&token) {
            self.written.ended = true;
            return Ok(None);
        }
        let piece = self.stream.push(token)?;
        // A special token has no text of its own, and may be what the caller waits for.
        let text = if piece.is_empty() { model.tokenizer.token(token).unwrap_or_default() } else { piece.clone() };
        let log_probability = log_probability(&self.logits, token) as f32;
        self.starts.push(self.written.text.len());
        self.written.tokens.push(WrittenToken { text, log_probability });
        self.written.text.push_str(&piece);
        self.stopped = self.written.cut(&request.stop);
        self.is_over = self.stopped || self.n_tokens == request.max_tokens;
        Ok((!self.is_over).then_some(token))
    }

    fn finish(mut self, request: &WritingRequest) -> Result<Written> {
        if !self.stopped {
            self.written.text.push_str(&self.stream.finish()?);
            self.stopped = self.written.cut(&request.stop);
        }
        if self.stopped {
            let n = self.starts.partition_point(|&start| start < self.written.text.len());
            self.written.tokens.truncate(n);
        }
        Ok(self.written)
    }
}

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

    fn ids(&self, prompt: &Prompt) -> Result<Vec<u32>> {
        let LanguageModel { tokenizer, template, .. } = &*self.model;
        let turn = |role, text: &str| ChatMessage::new(role, tokenizer.defuse(text));
        let mut messages = Vec::with_capacity(2 + 2 * prompt.examples.len());
        if !prompt.system.is_empty() {
            messages.push(turn(ChatRole::System, &prompt.system));
        }
        for (user, reply) in &prompt.examples {
            messages.push(turn(ChatRole::User, user));
            messages.push(turn(ChatRole::Assistant, reply));
        }
        messages.push(turn(ChatRole::User, &prompt.user));
        let conversation = template.render(&messages)?;
        Ok(tokenizer.encode_prompt(&(conversation + &tokenizer.defuse(&prompt.reply)))?.ids)
    }

    /// The keys and values of a prompt, and the logits of what comes next.
    fn read(&self, ids: &[u32]) -> Result<(KvCache, Vec<f32>)> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (n_common, mut cache) = match last {
            Some((before, mut cache)) => {
                // The last token is read for its logits.
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

    fn heed_interrupt(&self) -> Result<()> {
        match &self.interrupt {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Interrupted),
            _ => Ok(()),
        }
    }

    /// Reads tokens behind those of the cache; gives the logits of some of their rows.
    fn append(&self, cache: &mut KvCache, tokens: &[u32], logits: &[usize]) -> Result<Vec<f32>> {
        self.heed_interrupt()?;
        let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want { logits, ..Want::default() };
        let sequence = ForwardSequence { rows, cache, want, attending: Attending::All };
        let forwarded = self.model.transformer.forward(&mut [sequence])?;
        Ok(forwarded.into_iter().flat_map(|sequence| sequence.logits).collect())
    }

    /// A text that begins behind a prompt.
    fn draft(&self, request: usize, sampling: Sampling, cache: KvCache, logits: Vec<f32>) -> Draft<'_> {
        Draft {
            request,
            sampler: Sampler::new(sampling),
            cache,
            logits,
            stream: self.model.tokenizer.decode_stream(),
            written: Written::default(),
            starts: Vec::new(),
            n_tokens: 0,
            stopped: false,
            is_over: false,
        }
    }

    /// Reads the prompt of a request; nothing where the budget does not allow that.
    fn begin(&self, request: &WritingRequest, meter: &mut Meter) -> Result<Option<(KvCache, Vec<f32>)>> {
        let ids = self.ids(&request.prompt)?;
        let (tokens, limit) = (ids.len().saturating_add(request.max_tokens), self.context_len());
        if tokens > limit {
            return Err(Error::ContextOverflow { tokens, limit });
        }
        if !meter.allows(ids.len()) {
            return Ok(None);
        }
        let read = self.read(&ids)?;
        meter.count(1, ids.len(), 0);
        Ok(Some(read))
    }

    /// Writes all drafts to their ends, together; `on_text` is given each as it is after each token.
    fn go_on(
        &self,
        requests: &[WritingRequest],
        drafts: &mut [Draft<'_>],
        meter: &mut Meter,
        on_text: &mut dyn FnMut(&Written),
    ) -> Result<()> {
        loop {
            self.heed_interrupt()?;
            let mut steps = Vec::with_capacity(drafts.len());
            for draft in drafts.iter_mut().filter(|draft| !draft.is_over) {
                let token = draft.step(&self.model, &requests[draft.request], meter)?;
                on_text(&draft.written);
                if let Some(token) = token {
                    let slot = draft.cache.len();
                    steps.push(Step { draft, token: [token], slot: [slot], position: [slot as u32] });
                }
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
            let forwarded = self.model.transformer.forward(&mut sequences.collect::<Vec<_>>())?;
            for (step, forwarded) in steps.iter_mut().zip(forwarded) {
                step.draft.logits = forwarded.logits;
            }
        }
    }
}

impl TextWriter for ChatModel {
    fn write(&self, requests: &[WritingRequest], meter: &mut Meter) -> Result<Vec<Vec<Written>>> {
        let mut written: Vec<Vec<Written>> = requests.iter().map(|_| Vec::new()).collect();
        let mut finish = |drafts: &mut Vec<Draft<'_>>, meter: &mut Meter| {
            self.go_on(requests, drafts, meter, &mut |_| {})?;
            for draft in drafts.drain(..) {
                let request = draft.request;
                written[request].push(draft.finish(&requests[request])?);
            }
            Ok::<(), Error>(())
        };
        let mut drafts = Vec::new();
        for (i, request) in requests.iter().enumerate().filter(|(_, request)| request.n > 0) {
            let Some((cache, logits)) = self.begin(request, meter)? else { continue };
            for j in 0..request.n {
                if drafts.len() == AT_ONCE {
                    finish(&mut drafts, meter)?;
                }
                let seed = request.sampling.seed.wrapping_add(j as u64);
                let sampling = Sampling { seed, ..request.sampling.clone() };
                drafts.push(self.draft(i, sampling, cache.clone(), logits.clone()));
            }
        }
        finish(&mut drafts, meter)?;
        Ok(written)
    }

    fn write_streaming(
        &self,
        request: &WritingRequest,
        meter: &mut Meter,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Option<Written>> {
        let Some((cache, logits)) = self.begin(request, meter)? else { return Ok(None) };
        let mut drafts = [self.draft(0, request.sampling.clone(), cache, logits)];
        let mut told = 0;
        let mut tell = |text: &str, end: usize| {
            if end > told {
                on_text(&text[told..end]);
                told = end;
            }
        };
        let requests = std::slice::from_ref(request);
        self.go_on(requests, &mut drafts, meter, &mut |written| tell(&written.text, written.certain(&request.stop)))?;
        let [draft] = drafts;
        let written = draft.finish(request)?;
        tell(&written.text, written.text.len());
        Ok(Some(written))
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

    fn count_prompt(&self, prompt: &Prompt) -> Result<usize> {
        Ok(self.ids(prompt)?.len())
    }

    fn weigh(&self, prompt: &Prompt, texts: &[&str], meter: &mut Meter) -> Result<Weighed> {
        let ids = self.ids(prompt)?;
        let (cache, first) = self.read(&ids)?;
        meter.count(1, ids.len(), 0);
        let n_vocabulary = first.len();
        let mut weighed = Weighed { log_probabilities: Vec::with_capacity(texts.len()) };
        for text in texts {
            let tokens = self.model.tokenizer.encode(text, false)?.ids;
            let mut rows = first.clone();
            if let Some((_, before)) = tokens.split_last()
                && !before.is_empty()
            {
                let all: Vec<usize> = (0..before.len()).collect();
                rows.extend(self.append(&mut cache.clone(), before, &all)?);
                meter.count(0, before.len(), 0);
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

/// `logits[token] − ln Σ exp(logits)`, in `f64`.
fn log_probability(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    f64::from(logits[token as usize] - most) - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_compared_where_they_first_differ() {
        let weighed =
            |lists: &[&[f64]]| Weighed { log_probabilities: lists.iter().map(|list| list.to_vec()).collect() };
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-2.0]]).best(), 0);
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-1.0, -2.0]]).best(), 1);
        assert_eq!(weighed(&[&[-1.0], &[-1.0]]).best(), 0);
        assert_eq!(weighed(&[&[-1.0, -9.0], &[-1.0, -2.0]]).margin(), -7.0);
        assert_eq!(weighed(&[&[-1.0, -9.0]]).margin(), 0.0);
    }

    #[test]
    fn probabilities_are_a_softmax() {
        let logits = [0.0, 2.0f32.ln(), 2.0f32.ln()];
        assert!((log_probability(&logits, 1).exp() - 0.4).abs() <= 1e-6); // 2 / (1 + 2 + 2)
    }

    #[track_caller]
    fn check(text: &str, stop: &[&str], expected: (&str, bool)) {
        let mut written = Written { text: text.to_owned(), ..Written::default() };
        let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
        let is_cut = written.cut(&stop);
        assert_eq!((written.text.as_str(), is_cut), expected);
    }

    #[test]
    fn what_may_begin_a_stop_text_is_not_certain() {
        let certain = |text: &str, stop: &[&str]| {
            let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
            Written { text: text.to_owned(), ..Written::default() }.certain(&stop)
        };
        assert_eq!(certain("one\n", &["\n\n"]), 3);
        assert_eq!(certain("one ¿", &["¿¿!", "e ¿?"]), 2);
        assert_eq!(certain("one", &["\n"]), 3);
        assert_eq!(certain("one", &[]), 3);
        assert_eq!(certain("aab", &["aabaac"]), 0);
    }

    #[test]
    fn a_text_ends_at_a_stop_text_behind_its_first_words() {
        check("\n\n one\ntwo\n", &["\n"], ("\n\n one", true));
        check("one; two. three", &[".", ";"], ("one", true));
        check("one", &["\n"], ("one", false));
        check("\n ", &["\n"], ("\n ", false));
        check("", &["\n"], ("", false));
    }
}
