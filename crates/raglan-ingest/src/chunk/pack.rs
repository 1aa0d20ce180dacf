//! Units of text packed into chunks below a ceiling.

use std::collections::VecDeque;
use std::ops::Range;

use raglan_core::{ChunkSpan, ParsedDocument, Result};

use super::Ceiling;
use super::prefix::Prefixes;
use super::split::{BYTES_PER_TOKEN, Seam, boundary_before, trimmed};

/// A piece of text that stays whole if it can.
#[derive(Clone, Debug)]
struct Unit {
    /// Where it lies, trimmed.
    span: Range<usize>,
    /// Its length in tokens; more where that few tokens do not stand for so many bytes.
    weight: usize,
    role: Role,
    /// Where it is cut if it must be.
    seam: Seam,
    /// Whether it is a part of what was too long, so that nothing speaks against going on with it.
    is_part: bool,
    /// Whether the chunk before has it already.
    is_repeat: bool,
}

/// What a unit is to the chunk that it is put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Begins a section and belongs with what follows.
    Heading,
    /// Begins a section.
    Opening,
    /// Goes on.
    Body,
}

/// A chunk is closed for a new section once it is full to one part in so many: smaller sections share a chunk.
const SECTION_SHARE: usize = 3;

/// Texts longer than this are cut piece by piece, so that memory does not grow with their length.
const WINDOW: usize = 1 << 16;

struct Packer<'a> {
    text: &'a str,
    ceiling: &'a Ceiling,
    prefixes: &'a Prefixes,
    /// What comes next, in order.
    queue: VecDeque<Unit>,
    /// The units of the chunk that is being filled, in order.
    open: Vec<Unit>,
    open_weight: usize,
    /// Where each chunk lies, and its number of tokens as it is embedded.
    chunks: Vec<(Range<usize>, usize)>,
}

/// Packs pieces of a document's text, in order and disjoint, into chunks.
pub(super) fn pack(
    document: &ParsedDocument,
    ceiling: &Ceiling,
    pieces: impl IntoIterator<Item = (Range<usize>, Role, Seam)>,
) -> Result<Vec<ChunkSpan>> {
    let prefixes = Prefixes::new(document, ceiling)?;
    let mut packer = Packer {
        text: &document.text,
        ceiling,
        prefixes: &prefixes,
        queue: VecDeque::new(),
        open: Vec::new(),
        open_weight: 0,
        chunks: Vec::new(),
    };
    let mut pieces = pieces.into_iter();
    loop {
        if let Some(unit) = packer.queue.pop_front() {
            packer.take(unit)?;
        } else if let Some((span, role, seam)) = pieces.next() {
            if let Some(span) = trimmed(packer.text, span) {
                let weight = packer.weight(&span)?;
                packer.take(Unit { span, weight, role, seam, is_part: false, is_repeat: false })?;
            }
        } else if packer.open.is_empty() {
            break;
        } else {
            packer.close(None)?;
        }
    }
    let chunks = packer.chunks;
    // With an overlap a chunk may begin before the end of the one before, but starts never decrease.
    let starts: Vec<usize> = chunks.iter().map(|(span, _)| span.start).collect();
    let mut locators = document.locate(&starts);
    if ceiling.prefix_headings {
        for (locator, &start) in locators.iter_mut().zip(&starts) {
            prefixes.at(start).keep_in(locator);
        }
    }
    let located = |((span, n_tokens), locator)| ChunkSpan { span, locator, n_tokens };
    let chunks = chunks.into_iter().map(|(span, n_tokens)| (span, u32::try_from(n_tokens).unwrap_or(u32::MAX)));
    Ok(chunks.zip(locators).map(located).collect())
}

impl Packer<'_> {
    /// What a text weighs by itself. A text that cannot fit for its bytes is not counted.
    fn weight(&self, span: &Range<usize>) -> Result<usize> {
        let least = span.len().div_ceil(BYTES_PER_TOKEN);
        if least > self.ceiling.max_tokens {
            return Ok(least);
        }
        Ok(self.ceiling.counter.count(&self.text[span.clone()])?.max(least))
    }

    /// What may stand below the headings of a chunk that begins at an offset.
    fn budget(&self, start: usize) -> usize {
        self.ceiling.max_tokens - self.prefixes.at(start).n_tokens()
    }

    fn take(&mut self, unit: Unit) -> Result<()> {
        let max = self.ceiling.max_tokens;
        let has_body = self.open.iter().any(|open| open.role != Role::Heading && !open.is_repeat);
        let is_filled = has_body && self.open_weight * SECTION_SHARE >= max;
        let start = self.open.first().unwrap_or(&unit).span.start;
        let budget = self.budget(start);
        let fits = self.open_weight + unit.weight <= budget && unit.span.end - start <= max * BYTES_PER_TOKEN;
        let is_too_long = unit.weight > self.budget(unit.span.start);
        if is_too_long {
            if is_filled && !unit.is_part {
                return self.close(Some(unit));
            }
            // The first part shares the open chunk: a heading, an introduction, or what is repeated.
            if self.split(&unit)? {
                return Ok(());
            }
        }
        let is_new_section = unit.role != Role::Body && is_filled;
        if self.open.is_empty() || fits && !is_new_section {
            self.open_weight += unit.weight;
            self.open.push(unit);
        } else if self.open.iter().all(|open| open.is_repeat) {
            // What is repeated must leave room for something new.
            let dropped = self.open.remove(0);
            self.open_weight -= dropped.weight;
            self.queue.push_front(unit);
        } else if has_body || self.open_weight * 2 > budget || !self.split(&unit)? {
            self.close(Some(unit))?;
        }
        Ok(())
    }

    /// Queues the parts of a unit; says whether it has any.
    fn split(&mut self, unit: &Unit) -> Result<bool> {
        let Range { start, end } = unit.span;
        let until = if end - start > WINDOW { boundary_before(self.text, start + WINDOW) } else { end };
        let window = trimmed(self.text, start..until).expect("a unit begins with something other than white space");
        let tokens = self.ceiling.counter.token_spans(&self.text[window.clone()])?;
        let mut seam = unit.seam;
        let mut parts = seam.parts(self.text, window.clone(), &tokens);
        // White space that goes on beyond the window is seam enough.
        while parts.len() < 2 && window.end == until {
            let Some(finer) = seam.finer() else { return Ok(false) };
            seam = finer;
            parts = seam.parts(self.text, window.clone(), &tokens);
        }
        if until < end {
            // Where the last of several parts ends is seen in the next window.
            let rest = if parts.len() > 1 { parts.pop().map_or(until, |last| last.start) } else { until };
            let rest = trimmed(self.text, rest..end).expect("a unit ends with something other than white space");
            let weight = self.weight(&rest)?;
            self.queue.push_front(Unit { span: rest, weight, role: Role::Body, is_part: true, ..*unit });
        }
        let mut next = tokens.len();
        for (i, span) in parts.into_iter().enumerate().rev() {
            let first = tokens[..next].partition_point(|token| start + token.start < span.start);
            let within = tokens[first..next].partition_point(|token| start + token.start < span.end);
            next = first;
            let weight = within.max(span.len().div_ceil(BYTES_PER_TOKEN));
            let role = if i == 0 { unit.role } else { Role::Body };
            self.queue.push_front(Unit { span, weight, role, seam, is_part: true, is_repeat: unit.is_repeat });
        }
        Ok(true)
    }

    /// Ends the open chunk; `next` is what did not fit into it.
    fn close(&mut self, next: Option<Unit>) -> Result<()> {
        let is_last = next.is_none();
        let mut later: VecDeque<Unit> = next.into_iter().collect();
        while !self.open.is_empty() {
            // A heading goes with what follows it.
            while self.open.len() > 1 && !(is_last && later.is_empty()) {
                match self.open.pop_if(|unit| unit.role == Role::Heading) {
                    Some(heading) => later.push_front(heading),
                    None => break,
                }
            }
            let span = self.open[0].span.start..self.open[self.open.len() - 1].span.end;
            let n_tokens = self.prefixes.at(span.start).count_with(&self.text[span.clone()], self.ceiling)?;
            let max = self.ceiling.max_tokens;
            if n_tokens <= max && span.len() <= max * BYTES_PER_TOKEN {
                self.chunks.push((span, n_tokens));
                break;
            }
            // The parts count for more together than alone: do without what is repeated, leave the last for later, or
            // cut the only one.
            if self.open[0].is_repeat {
                self.open.remove(0);
                continue;
            }
            let last = self.open.pop().expect("the chunk has a unit");
            if self.open.is_empty() {
                for unit in later.drain(..).rev() {
                    self.queue.push_front(unit);
                }
                self.open_weight = 0;
                if !self.split(&last)? {
                    // One character is all there is to keep.
                    self.chunks.push((span, n_tokens));
                }
                return Ok(());
            }
            later.push_front(last);
        }
        let continues = later.front().is_some_and(|unit| unit.role == Role::Body);
        if continues && self.ceiling.overlap_tokens > 0 {
            self.repeat_the_end(&mut later)?;
        }
        self.open.clear();
        self.open_weight = 0;
        for unit in later.into_iter().rev() {
            self.queue.push_front(unit);
        }
        Ok(())
    }

    /// Puts the last units of the open chunk, or the last sentences or words of its last, before what comes next.
    fn repeat_the_end(&self, later: &mut VecDeque<Unit>) -> Result<()> {
        let Some(first) = self.open.first() else { return Ok(()) };
        let mut left = self.ceiling.overlap_tokens;
        let mut repeat = |span: Range<usize>, weight: usize, seam: Seam| {
            let fits = weight <= left && span.start > first.span.start;
            if fits {
                left -= weight;
                later.push_front(Unit { span, weight, role: Role::Body, seam, is_part: true, is_repeat: true });
            }
            fits
        };
        let mut repeated_any = false;
        for unit in self.open.iter().rev() {
            if unit.role == Role::Heading {
                return Ok(());
            }
            if repeat(unit.span.clone(), unit.weight, unit.seam) {
                repeated_any = true;
                continue;
            }
            // Part of the unit: its last sentences or lines, or words if it has no others and nothing is repeated yet.
            let tokens = self.ceiling.counter.token_spans(&self.text[unit.span.clone()])?;
            let mut seam = Some(unit.seam);
            while let Some(this) = seam {
                if repeated_any && !matches!(this, Seam::Line | Seam::Sentence) {
                    break;
                }
                for span in this.parts(self.text, unit.span.clone(), &tokens).into_iter().rev() {
                    let weight = self.weight(&span)?;
                    if this == Seam::Token || !repeat(span, weight, this) {
                        break;
                    }
                    repeated_any = true;
                }
                seam = if repeated_any { None } else { this.finer() };
            }
            return Ok(());
        }
        Ok(())
    }
}
