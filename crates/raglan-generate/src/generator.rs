//! Answers from a local language model.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use raglan_core::{
    Answer, AnswerSentence, Attribution, Chunk, ChunkId, Context, Generator, KvUsage, Passage, PassageAttention,
    Source, Timings, TokenUsage,
};
use raglan_kv::KvCache;
use raglan_model::DecodeStream;

use crate::prompt::PromptWriter;
use crate::repetition::ends_in_a_loop;
use crate::reuse::{Kept, KvKeeper, ReadPrompt, Remembered, read_while};
use crate::stop::StopFilter;
use crate::token_recycling::TokenRecycling;
use crate::{ContinuousBatch, Error, GenerateOptions, LanguageModel, Prompt, Result, SequenceStart, attribute};

/// Answers questions from passages with a local language model.
#[derive(Debug)]
pub struct ChatGenerator {
    model: Arc<LanguageModel>,
    options: GenerateOptions,
    writer: PromptWriter,
    interrupt: Option<Arc<AtomicBool>>,
    keeper: Option<KvKeeper>,
    /// What was learned for guesses, while no answers are being written.
    learned: Mutex<Option<TokenRecycling>>,
}

/// A prompt that is being read.
pub(crate) struct Reading {
    pub prompt: Prompt,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// What has read them, but for the last, if anything has.
    pub cache: Option<KvCache>,
    pub kv: Option<KvUsage>,
}

/// An answer in the making.
struct Writing<'a> {
    prompt: Prompt,
    kv: Option<KvUsage>,
    text: String,
    tokens: Vec<u32>,
    first_token_s: f64,
    end_s: f64,
    stream: DecodeStream<'a>,
    stop: StopFilter<'a>,
}

impl ChatGenerator {
    /// A generator with checked options.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when an option is outside of its domain, [`Error::Template`] when the prompt template is not
    /// sound.
    pub fn new(model: Arc<LanguageModel>, options: GenerateOptions) -> Result<Self> {
        options.check()?;
        let writer = PromptWriter::new(&options, model.transformer.config().context_len)?;
        Ok(Self { model, options, writer, interrupt: None, keeper: None, learned: Mutex::default() })
    }

    /// The same generator, which gives up with [`Error::Interrupted`] soon after the flag is set.
    pub fn interrupted_by(self, flag: Arc<AtomicBool>) -> Self {
        Self { interrupt: Some(flag), ..self }
    }

    /// The same generator, which reads prompts with keys and values that are kept beside an index.
    ///
    /// Answers may differ a little from those of a whole computation, but for [`ReuseMethod::Prefix`](crate::reuse::ReuseMethod::Prefix).
    pub fn keeping(self, keeper: KvKeeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Where keys and values are kept, if they are.
    pub fn keeper(&self) -> Option<&KvKeeper> {
        self.keeper.as_ref()
    }

    /// Computes keys and values that were missing in the answers so far, writes them beside the index, and tests the
    /// method where that is due: [`KvKeeper::remember`]. To be called when no one waits.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when they cannot be computed or written.
    pub fn remember(&self) -> Result<Remembered> {
        let go_on = || if self.is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let remember = |keeper: &KvKeeper| keeper.remember(&self.model.transformer, &go_on);
        self.keeper.as_ref().map_or_else(|| Ok(Remembered::default()), remember)
    }

    /// Computes the keys and values of passages before a question needs them, as far as the store has room without
    /// dropping others; gives how many were computed, and how many there was no room for. Nothing is done without a
    /// keeper, and passages that are too long for a prompt are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Model`] when they cannot be computed.
    pub fn warm(&self, passages: &[Passage]) -> Result<(usize, usize)> {
        let Some(keeper) = &self.keeper else { return Ok((0, 0)) };
        let mut prefix = Vec::new();
        let mut bodies: Vec<(ChunkId, Vec<u32>)> = Vec::with_capacity(passages.len());
        for passage in passages {
            let passages = vec![passage.clone()];
            let context = Context::new("?", passages);
            let prompt = match self.prompt(&context) {
                Err(Error::NoRoom { .. }) => continue,
                prompt => prompt?,
            };
            if let [first, body, ..] = &prompt.pieces[..] {
                prefix.clone_from(&first.ids);
                bodies.push((passage.chunk.id, body.ids.clone()));
            }
        }
        let bodies: Vec<(ChunkId, &[u32])> = bodies.iter().map(|(chunk, ids)| (*chunk, &**ids)).collect();
        let room = keeper.chunks().room().map_err(raglan_model::Error::from)?;
        let Kept { blocks, left_out, .. } = keeper.keep(&self.model.transformer, &prefix, &bodies, room)?;
        Ok((blocks, left_out))
    }

    /// The model that answers.
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// What the model would read for a context.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] when not even one passage fits.
    pub fn prompt(&self, context: &Context) -> Result<Prompt> {
        self.writer.write(&self.model, context)
    }

    /// The answer for one context; `on_text` is given each piece of it as it is made.
    ///
    /// A context without passages gets the refusal, and the model is not asked. An answer does not depend on those
    /// made before.
    ///
    /// # Errors
    ///
    /// As [`prompt`](Self::prompt); [`Error::Model`], [`Error::Interrupted`].
    pub fn answer(&self, context: &Context, on_text: &mut dyn FnMut(&str)) -> Result<Answer> {
        let answers = self.answers(std::slice::from_ref(context), &mut |_, piece| on_text(piece))?;
        answers.into_iter().next().expect("there is an answer for each context")
    }

    /// The answers for several contexts, which are written beside one another, [`GenerateOptions::at_once`] at a time;
    /// `on_text` is given each piece and the index of its context. Each is what [`answer`](Self::answer) gives, sooner.
    ///
    /// An answer that cannot be given is an error of its own, as of `answer`.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`]; [`Error::Model`] when the model fails as a whole.
    pub fn answers(&self, contexts: &[Context], on_text: &mut dyn FnMut(usize, &str)) -> Result<Vec<Result<Answer>>> {
        let begin = Instant::now();
        let transformer = &self.model.transformer;
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let learned = learned.unwrap_or_else(|| TokenRecycling::new(transformer.config().vocab_size));
        let mut batch = ContinuousBatch::with_recycling(transformer, self.options.at_once, learned);
        let mut answers: Vec<Option<Result<Answer>>> = contexts.iter().map(|_| None).collect();
        // By the numbers that they have in the batch.
        let mut writing: Vec<(usize, Writing<'_>)> = Vec::new();
        let mut unread = contexts.iter().enumerate();
        let mut outcome = Ok(());
        loop {
            while batch.len() < self.options.at_once
                && let Some((i, context)) = unread.next()
            {
                if context.passages.is_empty() {
                    on_text(i, &self.options.refusal);
                    answers[i] = Some(Ok(refusal(context, &self.options.refusal)));
                    continue;
                }
                match self.start(context) {
                    Ok((start, begun)) => {
                        batch.push(start);
                        writing.push((i, begun));
                    }
                    Err(Error::Interrupted) => outcome = Err(Error::Interrupted),
                    Err(e) => answers[i] = Some(Err(e)),
                }
            }
            if outcome.is_err() || batch.is_empty() {
                break;
            }
            if self.is_interrupted() {
                outcome = Err(Error::Interrupted);
                break;
            }
            outcome = batch.step(&mut |number, token| {
                let (i, writing) = &mut writing[number];
                let written = token.and_then(|token| {
                    self.write(writing, token, begin.elapsed().as_secs_f64(), &mut |piece| on_text(*i, piece))
                });
                if let Err(e) = written {
                    answers[*i] = Some(Err(e));
                    return ControlFlow::Break(());
                }
                written.unwrap_or(ControlFlow::Break(()))
            });
        }
        // What was learned is kept, also of answers that were not finished.
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(batch.into_recycling());
        outcome?;
        for (i, writing) in writing {
            answers[i].get_or_insert_with(|| Ok(finished(&contexts[i], writing)));
        }
        Ok(answers.into_iter().map(|answer| answer.expect("each context was answered or failed")).collect())
    }

    /// The prompt of a context, and what has read it: all but its last token where keys and values are kept or `whole`
    /// is wanted.
    pub(crate) fn read(&self, context: &Context, whole: bool) -> Result<Reading> {
        let mut prompt = self.prompt(context)?;
        let transformer = &self.model.transformer;
        let chunks =
            |prompt: &Prompt| -> Vec<ChunkId> { prompt.shown.iter().map(|&i| context.passages[i].chunk.id).collect() };
        let order = self.keeper.as_ref().and_then(|keeper| keeper.order(transformer, &prompt.pieces, &chunks(&prompt)));
        if let Some(order) = order
            && let Some(ordered) = self.writer.in_order(&self.model, context, &prompt, &order)?
        {
            prompt = ordered;
        }
        let go_on = || if self.is_interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let Some(keeper) = &self.keeper else {
            let tokens = prompt.ids();
            let read =
                || read_while(transformer, transformer.cache(), &tokens[..tokens.len().saturating_sub(1)], &go_on);
            let cache = whole.then(read).transpose()?;
            return Ok(Reading { prompt, tokens, cache, kv: None });
        };
        let ReadPrompt { tokens, cache, usage } = keeper.read(transformer, &prompt, &chunks(&prompt), &go_on)?;
        Ok(Reading { prompt, tokens, cache: Some(cache), kv: Some(usage) })
    }

    /// A prompt's passages with a question that asks nothing, if that is not too long.
    pub(crate) fn prompt_of_nothing(&self, context: &Context, prompt: &Prompt) -> Result<Option<Prompt>> {
        let nothing = Context { question: "N/A".to_owned(), ..context.clone() };
        let order: Vec<usize> = (0..prompt.shown.len()).collect();
        self.writer.in_order(&self.model, &nothing, prompt, &order)
    }

    /// Reads the prompt of a context as far as that is done before the answers of all are written.
    fn start(&self, context: &Context) -> Result<(SequenceStart, Writing<'_>)> {
        let Reading { prompt, tokens, cache, kv } = self.read(context, false)?;
        let start = SequenceStart {
            prompt: tokens,
            read: cache,
            sampling: self.options.sampling.clone(),
            drafts: self.options.drafts,
            attention: self.options.attention,
            max_tokens: self.options.max_tokens,
        };
        let writing = Writing {
            prompt,
            kv,
            text: String::new(),
            tokens: Vec::new(),
            first_token_s: 0.0,
            end_s: 0.0,
            stream: self.model.tokenizer.decode_stream(),
            stop: StopFilter::new(&self.options.stop),
        };
        Ok((start, writing))
    }

    /// Takes a token into an answer, after so many seconds, and says whether that goes on.
    fn write<'a>(
        &'a self,
        writing: &mut Writing<'a>,
        token: u32,
        seconds: f64,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<ControlFlow<()>> {
        let Writing { text, tokens, stream, stop, .. } = writing;
        let mut emit = |piece: &str| {
            // White space before the first word is no part of an answer.
            let piece = if text.is_empty() { piece.trim_start() } else { piece };
            if !piece.is_empty() {
                text.push_str(piece);
                on_text(piece);
            }
        };
        if writing.end_s == 0.0 {
            writing.first_token_s = seconds;
        }
        writing.end_s = seconds;
        let is_end = self.model.transformer.config().end_tokens.contains(&token);
        if !is_end {
            tokens.push(token);
            let passed = stop.push(&stream.push(token)?);
            emit(&passed.text);
            if passed.stopped {
                return Ok(ControlFlow::Break(()));
            }
            if tokens.len() < self.options.max_tokens && !ends_in_a_loop(tokens) {
                return Ok(ControlFlow::Continue(()));
            }
        }
        let rest = std::mem::replace(stream, self.model.tokenizer.decode_stream()).finish()?;
        let passed = stop.push(&rest);
        emit(&passed.text);
        if !passed.stopped {
            emit(&stop.finish());
        }
        Ok(ControlFlow::Break(()))
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }
}

impl Generator for ChatGenerator {
    fn generate(
        &self,
        contexts: &[Context],
        on_text: &mut dyn FnMut(usize, &str),
    ) -> raglan_core::Result<Vec<raglan_core::Result<Answer>>> {
        Ok(self.answers(contexts, on_text)?.into_iter().map(|answer| Ok(answer?)).collect())
    }

    fn attention(
        &self,
        context: &Context,
        first_layer: usize,
        n_layers: Option<usize>,
    ) -> raglan_core::Result<Option<PassageAttention>> {
        let all = self.model.transformer.config().n_layers;
        let end = n_layers.map_or(all, |n| all.min(first_layer.saturating_add(n)));
        Ok(self.passage_attention(context, first_layer..end)?)
    }
}

fn finished(context: &Context, writing: Writing<'_>) -> Answer {
    let Writing { prompt, kv, text, tokens, first_token_s, end_s, .. } = writing;
    let shown: Vec<&Passage> = prompt.shown.iter().map(|&i| &context.passages[i]).collect();
    let texts: Vec<String> =
        shown.iter().map(|passage| Chunk::prefixed(&passage.chunk.locator, &passage.chunk.text)).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Answer {
        question: context.question.clone(),
        sentences: attribute(&context.question, &text, &texts),
        text,
        steps: Vec::new(),
        gathered: Vec::new(),
        sources: shown.into_iter().map(Source::of).collect(),
        left_out: prompt.left_out.iter().chain(&context.left_out).copied().collect(),
        timings: Timings { retrieve_s: 0.0, prefill_s: first_token_s, decode_s: end_s - first_token_s, first_token_s },
        tokens: TokenUsage { prompt: prompt.n_tokens, answer: tokens.len(), passages: texts.len() },
        kv,
    }
}

fn refusal(context: &Context, text: &str) -> Answer {
    let sentence =
        AnswerSentence { text: text.to_owned(), source: None, support: 0.0, attribution: Attribution::Unsupported };
    Answer {
        question: context.question.clone(),
        text: text.to_owned(),
        sentences: vec![sentence],
        steps: Vec::new(),
        gathered: Vec::new(),
        sources: Vec::new(),
        left_out: context.left_out.clone(),
        timings: Timings::default(),
        tokens: TokenUsage::default(),
        kv: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use raglan_core::{ChunkId, ContentHash, DocId, Document, Format, Locator};
    use raglan_model::Products;

    use super::*;
    use crate::{Drafts, byte_model};

    #[test]
    fn what_was_learned_outlives_an_interruption() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.gguf");
        byte_model::write(&path);
        let model = Arc::new(LanguageModel::load(&path, 1, Products::F32).unwrap());
        let flag = Arc::new(AtomicBool::new(false));
        let options = GenerateOptions { drafts: Drafts::TokenRecycling, ..GenerateOptions::default() };
        let generator = ChatGenerator::new(model, options).unwrap().interrupted_by(flag.clone());
        let document = Document {
            id: DocId(0),
            path: "a.md".to_owned(),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::Markdown,
            reader: "markdown/1".to_owned(),
            encoding: None,
            title: None,
            metadata: BTreeMap::new(),
        };
        let chunk = Chunk {
            id: ChunkId(0),
            doc: DocId(0),
            span: 0..5,
            text: "alpha".to_owned(),
            locator: Locator::default(),
            n_tokens: 0,
        };
        let passages = vec![Passage { chunk, document: Arc::new(document), score: 0.5 }];
        let context = Context::new("Why?", passages);
        let interrupted = generator.answer(&context, &mut |_| flag.store(true, Ordering::Relaxed));
        assert!(matches!(interrupted, Err(Error::Interrupted)));
        let learned = generator.learned.lock().unwrap();
        let recycling = learned.as_ref().unwrap();
        assert!((0..256).any(|token| recycling.followers(token)[0] != TokenRecycling::UNKNOWN));
    }
}
