//! From a context to the text that the model reads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use minijinja::value::Serde;
use minijinja::{Environment, UndefinedBehavior, context};
use raglan_core::{Context, LeftOut, LeftOutReason, Passage};
use raglan_model::{ChatMessage, ChatRole};
use serde::Serialize;

use crate::{CONTEXT_TOKENS, Error, GenerateOptions, LanguageModel, Result};

/// The user's turn when the options name no other template.
pub const DEFAULT_TEMPLATE: &str = "\
{% for passage in passages %}[{{ passage.number }}] {{ passage.heading }}
{{ passage.text }}

{% endfor %}{% if examples %}Questions that were answered before:
{{ examples }}

{% endif %}Answer this question from the passages above: {{ question }}";

/// Stands around the names of passages' parts while it is found out where the templates write them: a character that
/// no text should have.
const MARK: char = '\u{f8ef}';

/// How much work a template may do: a thousand times what a long prompt takes, and an end to endless loops.
const FUEL: u64 = 10_000_000;

/// What the model reads for a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The whole text, with the marks of the model's chat template.
    pub text: String,
    /// Its tokens, in the pieces that they were made from.
    pub pieces: Vec<PromptPiece>,
    /// Its length in the model's tokens.
    pub n_tokens: usize,
    /// Indices of the context's passages that are in it, in the order of their numbers; number 1 is the first.
    pub shown: Vec<usize>,
    /// Passages that did not fit.
    pub left_out: Vec<LeftOut>,
}

/// A piece of a prompt, which becomes tokens by itself: so a passage has the same ones wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPiece {
    /// The piece's tokens.
    pub ids: Vec<u32>,
    /// Index among the prompt's passages that are shown, if it is one's heading and text; other pieces are what the
    /// templates write between them.
    pub passage: Option<usize>,
}

/// Writes prompts: a checked template and the budget of tokens.
#[derive(Debug)]
pub(crate) struct PromptWriter {
    environment: Environment<'static>,
    system_prompt: String,
    max_tokens: usize,
    context_tokens: usize,
    context_len: usize,
}

/// What stands beside the passages.
struct Asked<'a> {
    question: &'a str,
    examples: &'a str,
}

/// A passage as templates see it.
#[derive(Serialize)]
struct Shown<'a> {
    number: usize,
    path: &'a str,
    title: Option<&'a str>,
    locator: String,
    /// The path, and the headings or else the title: what tells a reader where the text is from.
    heading: String,
    text: String,
}

impl PromptWriter {
    /// Checks the options' template by writing a prompt of made-up texts, all of which must be in it.
    pub(crate) fn new(options: &GenerateOptions, context_len: usize) -> Result<Self> {
        let context_tokens = match options.context_tokens {
            Some(given) if given > context_len => {
                let problem = format!(
                    "is {given}, and the model reads at most {context_len} tokens; `rope-scaling` extends that"
                );
                return Err(Error::Option { option: "context_tokens", problem });
            }
            given => given.unwrap_or(CONTEXT_TOKENS.min(context_len)),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(FUEL));
        let source = options.template.clone().unwrap_or_else(|| DEFAULT_TEMPLATE.to_owned());
        environment.add_template_owned("user", source).map_err(|e| template_error(&e))?;
        let writer = Self {
            environment,
            system_prompt: options.system_prompt.clone(),
            max_tokens: options.max_tokens,
            context_tokens,
            context_len,
        };
        let probe = |number: usize| Shown {
            number,
            path: "path",
            title: Some("title"),
            locator: "line 1".to_owned(),
            heading: "path › title".to_owned(),
            text: format!("PROBE-{number}"),
        };
        let text = writer.user_turn(&Asked { question: "PROBE-0", examples: "" }, &[probe(1), probe(2)])?;
        let needed = [("question", "PROBE-0"), ("first passage's text", "PROBE-1"), ("second one's", "PROBE-2")];
        match needed.iter().find(|(_, probe)| !text.contains(probe)) {
            Some((what, _)) => Err(Error::Template { problem: format!("it does not write the {what}") }),
            None => Ok(writer),
        }
    }

    /// The prompt with as many of the passages as fit, the best first.
    ///
    /// Each length is that of a whole prompt as the model will read it. A passage that does not fit is left out, and
    /// a shorter one after it may still be taken.
    pub(crate) fn write(&self, model: &LanguageModel, context: &Context) -> Result<Prompt> {
        let room = self.context_tokens.saturating_sub(self.max_tokens);
        let mut encoded = Encoded::default();
        let mut render = |shown: &[usize]| {
            let written = self.written(model, context, shown)?;
            let pieces = encoded.pieces(model, &written, shown)?;
            let n_tokens = pieces.iter().map(|piece| piece.ids.len()).sum::<usize>();
            Ok::<_, Error>((written.concat(), pieces, n_tokens))
        };
        let all: Vec<usize> = (0..context.passages.len()).collect();
        let (text, pieces, n_tokens) = render(&all)?;
        if n_tokens <= room {
            return Ok(Prompt { text, pieces, n_tokens, shown: all, left_out: Vec::new() });
        }
        let mut best = None;
        let mut shortest = n_tokens;
        let (mut shown, mut left_out) = (Vec::new(), Vec::new());
        for i in all {
            shown.push(i);
            let (text, pieces, n_tokens) = render(&shown)?;
            if n_tokens <= room {
                best = Some((text, pieces, n_tokens));
            } else {
                shortest = shortest.min(n_tokens);
                shown.pop();
                left_out.push(LeftOut { chunk: context.passages[i].chunk.id, reason: LeftOutReason::Budget });
            }
        }
        match best {
            Some((text, pieces, n_tokens)) => Ok(Prompt { text, pieces, n_tokens, shown, left_out }),
            None => Err(Error::NoRoom {
                tokens: shortest,
                answer: self.max_tokens,
                limit: self.context_tokens,
                context_len: self.context_len,
            }),
        }
    }

    /// A prompt with the same passages in another order, by their indices in it; none when that is too long.
    pub(crate) fn in_order(
        &self,
        model: &LanguageModel,
        context: &Context,
        prompt: &Prompt,
        order: &[usize],
    ) -> Result<Option<Prompt>> {
        let shown: Vec<usize> = order.iter().map(|&passage| prompt.shown[passage]).collect();
        let written = self.written(model, context, &shown)?;
        let pieces = Encoded::default().pieces(model, &written, &shown)?;
        let n_tokens = pieces.iter().map(|piece| piece.ids.len()).sum::<usize>();
        let room = self.context_tokens.saturating_sub(self.max_tokens);
        let left_out = prompt.left_out.clone();
        Ok((n_tokens <= room).then(|| Prompt { text: written.concat(), pieces, n_tokens, shown, left_out }))
    }

    /// The prompt with some passages: what the templates write before the first, the first, what they write behind it,
    /// and so on. It is whole where the templates do not write each passage once, in order and as it is.
    fn written(&self, model: &LanguageModel, context: &Context, shown: &[usize]) -> Result<Vec<String>> {
        let question = model.tokenizer.defuse(&context.question);
        let examples = model.tokenizer.defuse(&context.examples);
        let asked = Asked { question: &question, examples: &examples };
        let passages: Vec<_> =
            shown.iter().zip(1..).map(|(&i, number)| as_shown(model, number, &context.passages[i])).collect();
        let whole = self.conversation(model, &asked, &passages)?;
        if passages.is_empty() || whole.contains(MARK) {
            return Ok(vec![whole]);
        }
        let mark = |number: usize, what: &str| format!("{MARK}{number}{what}{MARK}");
        let marked: Vec<_> = passages
            .iter()
            .map(|passage| Shown {
                heading: mark(passage.number, "h"),
                text: mark(passage.number, "t"),
                locator: passage.locator.clone(),
                ..*passage
            })
            .collect();
        let marked = self.conversation(model, &asked, &marked)?;
        let mut pieces = Vec::with_capacity(2 * passages.len() + 1);
        let mut rest = &*marked;
        for passage in &passages {
            let (heading, text) = (mark(passage.number, "h"), mark(passage.number, "t"));
            let Some((before, after)) = rest.split_once(&text) else { return Ok(vec![whole]) };
            // A space goes with the word behind it, as tokenizers have it.
            let (before, body) = match before.split_once(&heading) {
                Some((before, between)) => (before, format!("{}{between}{}", passage.heading, passage.text)),
                None => (before, passage.text.clone()),
            };
            let (before, space) = before.strip_suffix(' ').map_or((before, ""), |before| (before, " "));
            pieces.extend([before.to_owned(), format!("{space}{body}")]);
            rest = after;
        }
        pieces.push(rest.to_owned());
        Ok(if pieces.concat() == whole { pieces } else { vec![whole] })
    }

    /// The conversation as the model reads it.
    fn conversation(&self, model: &LanguageModel, asked: &Asked<'_>, passages: &[Shown<'_>]) -> Result<String> {
        let messages = [
            ChatMessage::new(ChatRole::System, self.system_prompt.clone()),
            ChatMessage::new(ChatRole::User, self.user_turn(asked, passages)?),
        ];
        let messages = if self.system_prompt.is_empty() { &messages[1..] } else { &messages[..] };
        Ok(model.template.render(messages)?)
    }

    fn user_turn(&self, asked: &Asked<'_>, passages: &[Shown<'_>]) -> Result<String> {
        let template = self.environment.get_template("user").map_err(|e| template_error(&e))?;
        let &Asked { question, examples } = asked;
        template.render(context! { question, examples, passages => Serde(passages) }).map_err(|e| template_error(&e))
    }
}

/// Tokens of passages, so that each is encoded once however often a prompt is tried.
#[derive(Default)]
struct Encoded {
    /// By the passage's index in the context.
    passages: HashMap<usize, Vec<u32>>,
}

impl Encoded {
    /// The tokens of what was written, piece by piece.
    fn pieces(&mut self, model: &LanguageModel, written: &[String], shown: &[usize]) -> Result<Vec<PromptPiece>> {
        let first = model.tokenizer.encode_prompt(&written[0])?.ids;
        let mut pieces = vec![PromptPiece { ids: first, passage: None }];
        for (i, text) in written.iter().enumerate().skip(1) {
            let encode = || Ok::<_, Error>(model.tokenizer.encode(text, false)?.ids);
            // Every second piece is a passage.
            let passage = (i % 2 == 1).then_some(i / 2);
            let ids = match passage {
                Some(number) => match self.passages.entry(shown[number]) {
                    Entry::Occupied(known) => known.get().clone(),
                    Entry::Vacant(new) => new.insert(encode()?).clone(),
                },
                None => encode()?,
            };
            pieces.push(PromptPiece { ids, passage });
        }
        Ok(pieces)
    }
}

impl Prompt {
    /// All tokens.
    pub fn ids(&self) -> Vec<u32> {
        self.pieces.iter().flat_map(|piece| &piece.ids).copied().collect()
    }
}

/// A passage under its number. Texts that the model would read as marks of its chat template are defused.
fn as_shown<'a>(model: &LanguageModel, number: usize, passage: &'a Passage) -> Shown<'a> {
    let (chunk, document) = (&passage.chunk, &passage.document);
    let title = document.title.iter().filter(|_| chunk.locator.headings.is_empty());
    let mut heading = document.path.clone();
    for part in chunk.locator.headings.iter().chain(title) {
        heading.push_str(" › ");
        heading.push_str(part);
    }
    Shown {
        number,
        path: &document.path,
        title: document.title.as_deref(),
        locator: chunk.locator.to_string(),
        heading: model.tokenizer.defuse(&heading).into_owned(),
        text: model.tokenizer.defuse(&chunk.text).into_owned(),
    }
}

fn template_error(e: &minijinja::Error) -> Error {
    Error::Template { problem: format!("{e:#}") }
}
