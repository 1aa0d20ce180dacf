//! Units of text packed into chunks below a ceiling.

use std::collections::VecDeque;
use std::ops::Range;

use raglan_core::{Chunk, ChunkSpan, Locator, Mark, MarkKind, ParsedDocument, Result};

use super::Ceiling;
use super::split::{Seam, at_seams, at_words, in_halves};

/// A piece of text that stays whole if it can.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// Where it lies, trimmed.
    pub(super) span: Range<usize>,
    /// Its length in tokens.
    pub(super) n_tokens: usize,
    /// Tokens of the heading prefix of a chunk that begins here.
    pub(super) n_prefix: usize,
    /// Whether it is a heading, which belongs with what follows.
    pub(super) is_heading: bool,
    /// Where it is cut if it must be.
    pub(super) seam: Option<Seam>,
    /// Whether the chunk before has it already.
    pub(super) is_repeat: bool,
}

impl Unit {
    pub(super) fn new(span: Range<usize>, n_tokens: usize, n_prefix: usize, seam: Seam) -> Self {
        Self { span, n_tokens, n_prefix, is_heading: false, seam: Some(seam), is_repeat: false }
    }
}

/// A chunk that begins a section is closed for it once it is this full: smaller sections share a chunk.
const SECTION_SHARE: usize = 3;

/// The heading prefix may take this share of the ceiling; longer ones lose their outermost headings.
const PREFIX_SHARE: usize = 4;

struct Packer<'a> {
    text: &'a str,
    ceiling: &'a Ceiling,
    queue: VecDeque<Unit>,
    open: Vec<Unit>,
    open_tokens: usize,
    /// Where each chunk lies, and its own number of tokens.
    chunks: Vec<(Range<usize>, usize)>,
}

/// Packs units, in order and disjoint, into chunks.
pub(super) fn pack(
    document: &ParsedDocument,
    ceiling: &Ceiling,
    mut units: impl Iterator<Item = Result<Unit>>,
) -> Result<Vec<ChunkSpan>> {
    let mut packer = Packer {
        text: &document.text,
        ceiling,
        queue: VecDeque::new(),
        open: Vec::new(),
        open_tokens: 0,
        chunks: Vec::new(),
    };
    loop {
        let unit = match packer.queue.pop_front() {
            Some(unit) => unit,
            None => match units.next() {
                Some(unit) => unit?,
                None if packer.open.is_empty() => break,
                None => {
                    packer.close(None)?;
                    continue;
                }
            },
        };
        packer.take(unit)?;
    }
    located(document, ceiling, packer.chunks)
}

impl Packer<'_> {
    fn take(&mut self, unit: Unit) -> Result<()> {
        let n_prefix = self.open.first().unwrap_or(&unit).n_prefix;
        let budget = self.ceiling.max_tokens - n_prefix;
        let fits = self.open_tokens + unit.n_tokens <= budget;
        let new_section = unit.is_heading
            && !self.open.iter().all(|open| open.is_heading)
            && self.open_tokens * SECTION_SHARE >= self.ceiling.max_tokens;
        if fits && !new_section {
            self.open_tokens += unit.n_tokens;
            self.open.push(unit);
        } else if self.open.is_empty() {
            self.split(unit, budget)?;
        } else if self.open.iter().all(|open| open.is_repeat) {
            // What is repeated must leave room for something new.
            let dropped = self.open.remove(0);
            self.open_tokens -= dropped.n_tokens;
            self.queue.push_front(unit);
        } else {
            self.close(Some(unit))?;
        }
        Ok(())
    }

    /// Queues the parts of a unit that is longer than a chunk.
    fn split(&mut self, unit: Unit, budget: usize) -> Result<()> {
        let parts = match unit.seam {
            Some(seam) => at_seams(self.text, unit.span.clone(), seam),
            None => Vec::new(),
        };
        // One sentence or line that is too long is cut between words; nothing smaller has a seam.
        let (parts, seam) = match unit.seam {
            Some(Seam::Line) if parts.len() < 2 => (parts, Some(Seam::Sentence)),
            Some(_) if parts.len() >= 2 => (parts, None),
            _ => (at_words(self.text, unit.span.clone(), budget, &*self.ceiling.counter)?, None),
        };
        let alone = parts.len() == 1 && parts[0] == unit.span && seam.is_none();
        let parts = if alone { in_halves(self.text, unit.span.clone()).into_iter().flatten().collect() } else { parts };
        for span in parts.into_iter().rev() {
            let n_tokens = self.ceiling.counter.count(&self.text[span.clone()])?;
            self.queue.push_front(Unit { span, n_tokens, seam, is_heading: false, ..unit });
        }
        Ok(())
    }

    /// Ends the open chunk; `next` is what did not fit into it.
    fn close(&mut self, next: Option<Unit>) -> Result<()> {
        let mut later: VecDeque<Unit> = VecDeque::new();
        if let Some(next) = next {
            // A heading goes with what follows it.
            while self.open.len() > 1 && self.open.last().is_some_and(|unit| unit.is_heading) {
                later.extend(self.open.pop());
            }
            later = later.into_iter().rev().collect();
            later.push_back(next);
        }
        while !self.open.iter().all(|unit| unit.is_repeat) {
            let n_prefix = self.open[0].n_prefix;
            let span = self.open[0].span.start..self.open[self.open.len() - 1].span.end;
            let n_tokens = self.ceiling.counter.count(&self.text[span.clone()])?;
            if n_tokens + n_prefix <= self.ceiling.max_tokens {
                self.chunks.push((span, n_tokens));
                break;
            }
            // The parts count for more together than alone: do without what is repeated, leave the last for later, or
            // cut the only one.
            if self.open[0].is_repeat {
                self.open.remove(0);
                continue;
            }
            let last = self.open.pop().expect("a chunk that is closed has a unit");
            if self.open.is_empty() {
                for span in in_halves(self.text, last.span.clone()).into_iter().flatten().rev() {
                    let n_tokens = self.ceiling.counter.count(&self.text[span.clone()])?;
                    later.push_front(Unit { span, n_tokens, seam: None, ..last });
                }
            } else {
                later.push_front(last);
            }
        }
        let continues = later.front().is_some_and(|unit| !unit.is_heading);
        if continues && self.ceiling.overlap_tokens > 0 && self.open.iter().any(|unit| !unit.is_repeat) {
            self.repeat_the_end(&mut later)?;
        }
        self.open.clear();
        self.open_tokens = 0;
        for unit in later.into_iter().rev() {
            self.queue.push_front(unit);
        }
        Ok(())
    }

    /// Puts the last sentences of the open chunk, or its last words, before what comes next.
    fn repeat_the_end(&self, later: &mut VecDeque<Unit>) -> Result<()> {
        let last = self.open.last().expect("the chunk has a unit");
        let seam = last.seam.unwrap_or(Seam::Sentence);
        let most = self.ceiling.overlap_tokens;
        let mut spans = Vec::new();
        let mut n_repeated = 0;
        for span in at_seams(self.text, last.span.clone(), seam).into_iter().rev() {
            let n_tokens = self.ceiling.counter.count(&self.text[span.clone()])?;
            if n_repeated + n_tokens > most {
                break;
            }
            n_repeated += n_tokens;
            spans.push((span, n_tokens));
        }
        if spans.is_empty() {
            let tokens = self.ceiling.counter.token_spans(&self.text[last.span.clone()])?;
            let from = tokens.len().saturating_sub(most);
            let at = last.span.start + tokens.get(from).map_or(last.span.end - last.span.start, |token| token.start);
            let after_space = self.text[at..last.span.end].find(char::is_whitespace);
            let start = after_space.map(|space| at + space);
            if let Some(span) = start.and_then(|start| super::split::trimmed(self.text, start..last.span.end)) {
                let n_tokens = self.ceiling.counter.count(&self.text[span.clone()])?;
                spans.push((span, n_tokens));
            }
        }
        for (span, n_tokens) in spans {
            if span.start > self.open[0].span.start {
                later.push_front(Unit { span, n_tokens, is_repeat: true, is_heading: false, seam: None, ..*last });
            }
        }
        Ok(())
    }
}

/// Gives the chunks their locators, with headings short enough that the ceiling holds.
fn located(document: &ParsedDocument, ceiling: &Ceiling, chunks: Vec<(Range<usize>, usize)>) -> Result<Vec<ChunkSpan>> {
    // With an overlap a start may lie before the end of the chunk before, but starts never decrease.
    let starts: Vec<usize> = chunks.iter().map(|(span, _)| span.start).collect();
    let locators = document.locate(&starts);
    let mut located = Vec::with_capacity(chunks.len());
    for ((span, n_text), mut locator) in chunks.into_iter().zip(locators) {
        let mut n_tokens = n_text;
        if ceiling.prefix_headings {
            let room = (ceiling.max_tokens - n_text).min(ceiling.max_tokens / PREFIX_SHARE);
            n_tokens += shorten(&mut locator.headings, room, ceiling)?;
        }
        located.push(ChunkSpan { span, locator, n_tokens: n_tokens as u32 });
    }
    Ok(located)
}

/// Drops outer headings until the rest takes at most `room` tokens; returns how many it takes.
fn shorten(headings: &mut Vec<String>, room: usize, ceiling: &Ceiling) -> Result<usize> {
    while !headings.is_empty() {
        let locator = Locator { headings: headings.clone(), ..Locator::default() };
        let n_tokens = ceiling.counter.count(&Chunk::prefixed(&locator, ""))?;
        if n_tokens <= room {
            return Ok(n_tokens);
        }
        headings.remove(0);
    }
    Ok(0)
}

/// How many tokens of headings a chunk gets that begins at some place.
pub(super) struct Prefixes {
    /// Where the headings change, and their tokens from there on.
    changes: Vec<(usize, usize)>,
}

impl Prefixes {
    pub(super) fn new(document: &ParsedDocument, ceiling: &Ceiling) -> Result<Self> {
        let mut changes = Vec::new();
        if ceiling.prefix_headings {
            let changing =
                |mark: &&Mark| !matches!(mark.kind, MarkKind::Page(_) | MarkKind::Slide(_) | MarkKind::Row(_));
            let mut offsets: Vec<usize> = document.marks.iter().filter(changing).map(|mark| mark.at).collect();
            offsets.dedup();
            for (at, mut locator) in offsets.iter().copied().zip(document.locate(&offsets)) {
                changes.push((at, shorten(&mut locator.headings, ceiling.max_tokens / PREFIX_SHARE, ceiling)?));
            }
        }
        Ok(Self { changes })
    }

    /// The tokens of the headings at an offset.
    pub(super) fn at(&self, offset: usize) -> usize {
        let after = self.changes.partition_point(|&(at, _)| at <= offset);
        after.checked_sub(1).map_or(0, |i| self.changes[i].1)
    }
}
