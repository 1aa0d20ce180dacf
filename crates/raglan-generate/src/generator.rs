//! Answers from a local language model.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use raglan_core::{
    Answer, AnswerSentence, Attribution, Chunk, Context, Generator, Passage, Source, Timings, TokenUsage,
};

use crate::draft::Decoder;
use crate::prompt::PromptWriter;
use crate::repetition::ends_in_a_loop;
use crate::stop::StopFilter;
use crate::{Error, GenerateOptions, LanguageModel, Prompt, Result, Sampler, attribute};

/// Answers questions from passages with a local language model.
#[derive(Debug)]
pub struct ChatGenerator {
    model: Arc<LanguageModel>,
    options: GenerateOptions,
    writer: PromptWriter,
    interrupt: Option<Arc<AtomicBool>>,
}

/// What decoding gave.
struct Decoded {
    text: String,
    tokens: Vec<u32>,
    first_token_s: f64,
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
        Ok(Self { model, options, writer, interrupt: None })
    }

    /// The same generator, which gives up with [`Error::Interrupted`] soon after the flag is set.
    pub fn interrupted_by(self, flag: Arc<AtomicBool>) -> Self {
        Self { interrupt: Some(flag), ..self }
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
    /// As [`prompt`](Self::prompt); [`Error::Model`], [`Error::NotFinite`], [`Error::Interrupted`].
    pub fn answer(&self, context: &Context, on_text: &mut dyn FnMut(&str)) -> Result<Answer> {
        if context.passages.is_empty() {
            on_text(&self.options.refusal);
            return Ok(refusal(context, &self.options.refusal));
        }
        let begin = Instant::now();
        let prompt = self.prompt(context)?;
        let Decoded { text, tokens, first_token_s } = self.decode(&prompt, begin, on_text)?;
        let decode_s = begin.elapsed().as_secs_f64() - first_token_s;
        let shown: Vec<&Passage> = prompt.shown.iter().map(|&i| &context.passages[i]).collect();
        let texts: Vec<String> =
            shown.iter().map(|passage| Chunk::prefixed(&passage.chunk.locator, &passage.chunk.text)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        Ok(Answer {
            question: context.question.clone(),
            sentences: attribute(&context.question, &text, &texts),
            text,
            sources: shown.into_iter().map(source).collect(),
            left_out: prompt.left_out.iter().chain(&context.left_out).copied().collect(),
            timings: Timings { retrieve_s: 0.0, prefill_s: first_token_s, decode_s, first_token_s },
            tokens: TokenUsage { prompt: prompt.n_tokens, answer: tokens.len(), passages: texts.len() },
        })
    }

    fn decode(&self, prompt: &Prompt, begin: Instant, on_text: &mut dyn FnMut(&str)) -> Result<Decoded> {
        let LanguageModel { transformer, tokenizer, .. } = &*self.model;
        let mut session = transformer.session();
        let ids = tokenizer.encode(&prompt.text, true)?.ids;
        let mut logits = session.prefill_with(&ids, &mut |_| self.go_on())?;
        let mut decoder = Decoder::new(&mut session, transformer.config().vocab_size, &ids, self.options.drafts);
        let mut sampler = Sampler::new(self.options.sampling.clone());
        let mut stream = tokenizer.decode_stream();
        let mut stop = StopFilter::new(&self.options.stop);
        let mut answer = Decoded { text: String::new(), tokens: Vec::new(), first_token_s: 0.0 };
        let mut emit = |piece: &str, text: &mut String| {
            // White space before the first word is no part of an answer.
            let piece = if text.is_empty() { piece.trim_start() } else { piece };
            if !piece.is_empty() {
                text.push_str(piece);
                on_text(piece);
            }
        };
        loop {
            let token = sampler.next(&mut logits)?;
            if answer.tokens.is_empty() {
                answer.first_token_s = begin.elapsed().as_secs_f64();
            }
            if transformer.config().end_tokens.contains(&token) {
                break;
            }
            answer.tokens.push(token);
            let passed = stop.push(&stream.push(token)?);
            emit(&passed.text, &mut answer.text);
            if passed.stopped {
                return Ok(answer);
            }
            if answer.tokens.len() == self.options.max_tokens || ends_in_a_loop(&answer.tokens) {
                break;
            }
            if self.go_on().is_break() {
                return Err(Error::Interrupted);
            }
            logits = decoder.next(token, self.options.max_tokens - answer.tokens.len())?;
        }
        let passed = stop.push(&stream.finish()?);
        emit(&passed.text, &mut answer.text);
        if !passed.stopped {
            emit(&stop.finish(), &mut answer.text);
        }
        Ok(answer)
    }

    fn go_on(&self) -> ControlFlow<()> {
        match &self.interrupt {
            Some(flag) if flag.load(Ordering::Relaxed) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Generator for ChatGenerator {
    fn generate(&self, contexts: &[Context], on_text: &mut dyn FnMut(usize, &str)) -> raglan_core::Result<Vec<Answer>> {
        let answer = |(i, context)| Ok(self.answer(context, &mut |piece| on_text(i, piece))?);
        contexts.iter().enumerate().map(answer).collect()
    }
}

fn refusal(context: &Context, text: &str) -> Answer {
    let sentence =
        AnswerSentence { text: text.to_owned(), source: None, support: 0.0, attribution: Attribution::Unsupported };
    Answer {
        question: context.question.clone(),
        text: text.to_owned(),
        sentences: vec![sentence],
        sources: Vec::new(),
        left_out: context.left_out.clone(),
        timings: Timings::default(),
        tokens: TokenUsage::default(),
    }
}

fn source(passage: &Passage) -> Source {
    Source {
        path: passage.document.path.clone(),
        locator: passage.chunk.locator.clone(),
        start: passage.chunk.span.start,
        end: passage.chunk.span.end,
        span_of: passage.document.span_of(),
        text: passage.chunk.text.clone(),
        score: passage.score,
    }
}
