//! Blocks of a prompt's passages, captured apart from it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use raglan_core::{Chunk, ChunkId, ContentHash, Context, DocId, Document, Format, Locator, Passage};
use raglan_datasets::{ContextPassage, ContextQuestion, Draws};
use raglan_generate::reuse::{ReuseMethod, prefill};
use raglan_generate::{ChatGenerator, Prompt};
use raglan_kv::{BlockKey, KvBlock, KvCache, TokensHash};
use raglan_model::{capture, model_hash};

use super::{KvEvaluationOptions, cut, no_blocks, of_model};
use crate::Result;

/// By passage that is shown, its blocks: none or one.
pub(super) type Captured = Vec<Vec<KvBlock>>;

/// What stood before a passage when its keys and values were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCapture {
    /// Nothing.
    Alone,
    /// What every prompt begins with.
    Prefix,
    /// Other passages behind what every prompt begins with: a share of those of the prompt, in another order, and
    /// passages of other prompts.
    Context,
}

impl KvCapture {
    const ALL: [Self; 3] = [Self::Alone, Self::Prefix, Self::Context];
}

impl fmt::Display for KvCapture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alone => "alone",
            Self::Prefix => "prefix",
            Self::Context => "context",
        })
    }
}

impl FromStr for KvCapture {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Self::ALL.into_iter().find(|capture| capture.to_string() == text).ok_or_else(|| {
            format!("no capture `{text}`; there are {}", Self::ALL.map(|capture| capture.to_string()).join(", "))
        })
    }
}

/// The context that a question is asked with.
pub(super) fn context_of(
    generator: &ChatGenerator,
    question: &ContextQuestion,
    passage_tokens: Option<usize>,
) -> Result<Context> {
    context(generator, &question.question, question.passages.iter(), passage_tokens)
}

fn context<'p>(
    generator: &ChatGenerator,
    question: &str,
    passages: impl Iterator<Item = &'p ContextPassage>,
    passage_tokens: Option<usize>,
) -> Result<Context> {
    let passage = |(i, passage): (u32, &ContextPassage)| {
        let text = cut(generator, passage, passage_tokens)?;
        let path = if passage.title.is_empty() { "passage".to_owned() } else { passage.title.clone() };
        let document = Document {
            id: DocId(i),
            path,
            hash: ContentHash([0; 32]),
            size: text.len() as u64,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: String::new(),
            encoding: None,
            title: None,
            metadata: BTreeMap::new(),
        };
        let chunk = Chunk {
            id: ChunkId(i),
            doc: DocId(i),
            span: 0..text.len(),
            text,
            locator: Locator::default(),
            n_tokens: 0,
        };
        Ok(Passage { chunk, document: Arc::new(document), score: 0.0 })
    };
    let passages = (0..).zip(passages).map(passage).collect::<Result<_>>()?;
    Ok(Context::new(question, passages))
}

/// Captures the blocks of the passages that a prompt shows.
pub(super) fn capture_passages(
    generator: &ChatGenerator,
    (questions, number): (&[ContextQuestion], usize),
    options: &KvEvaluationOptions,
    behind: KvCapture,
    (prompt, prefix): (&Prompt, &KvCache),
    draws: Draws,
) -> Result<Captured> {
    let model = &generator.model().transformer;
    let hash = model_hash(model, &generator.model().name);
    let passages: Vec<&[u32]> =
        prompt.pieces.iter().filter(|piece| piece.passage.is_some()).map(|piece| &*piece.ids).collect();
    let empty = model.cache();
    let before: (&KvCache, &[u32]) = match behind {
        KvCapture::Alone => (&empty, &[]),
        KvCapture::Prefix => (prefix, &prompt.pieces[0].ids),
        KvCapture::Context => return in_context(generator, (questions, number), options, (prompt, prefix), draws),
    };
    let blocks = capture(model, hash, before, &passages, options.precision)?;
    Ok(blocks.into_iter().map(|block| vec![block]).collect())
}

/// Reads the passages in groups, each among passages of other prompts, until all have been read.
fn in_context(
    generator: &ChatGenerator,
    (questions, number): (&[ContextQuestion], usize),
    options: &KvEvaluationOptions,
    (prompt, prefix): (&Prompt, &KvCache),
    mut draws: Draws,
) -> Result<Captured> {
    let model = &generator.model().transformer;
    let hash = model_hash(model, &generator.model().name);
    let question = &questions[number];
    let shown = &prompt.shown;
    let others: Vec<&ContextPassage> = questions
        .iter()
        .enumerate()
        .filter(|(other, _)| *other != number)
        .flat_map(|(_, question)| &question.passages)
        .filter(|passage| !question.passages.iter().any(|own| own.text == passage.text))
        .collect();
    let kept = ((1.0 - options.replaced) * shown.len() as f32).ceil().max(1.0) as usize;
    let mut order: Vec<usize> = (0..shown.len()).collect();
    draws.shuffle(&mut order);
    if order.len() > 1 && order.is_sorted() {
        order.rotate_left(1); // Another order is what is asked for.
    }
    let mut blocks: Captured = vec![Vec::new(); shown.len()];
    for group in order.chunks(kept) {
        // Which of the prompt's passages each is, if it is one.
        let mut members: Vec<(Option<usize>, &ContextPassage)> =
            group.iter().map(|&i| (Some(i), &question.passages[shown[i]])).collect();
        let n_replaced = if others.is_empty() { 0 } else { shown.len() - group.len() };
        for _ in 0..n_replaced {
            let at = draws.below(members.len() + 1);
            members.insert(at, (None, others[draws.below(others.len())]));
        }
        let passages = members.iter().map(|(_, passage)| *passage);
        let context = context(generator, &question.question, passages, options.passage_tokens)?;
        let written = generator.prompt(&context)?;
        let read = prefill(model, prefix, &written.pieces, &no_blocks(&written), ReuseMethod::Full, true)?;
        let Some(statistics) = read.statistics else { continue };
        let shown_now = read.passages.iter().zip(statistics).zip(&written.shown);
        for ((slots, statistics), &member) in shown_now {
            let (Some(i), Some(statistics)) = (members[member].0, statistics) else { continue };
            let block = KvBlock::from_cache(&read.cache, slots.clone(), model.kv_shape(), options.precision, model)
                .map_err(of_model)?;
            let tokens = TokensHash::of(&read.tokens[slots.clone()]);
            let behind = TokensHash::of(&read.tokens[..slots.start]);
            blocks[i].push(block.described(BlockKey { tokens, behind, model: hash }, statistics));
        }
    }
    Ok(blocks)
}
