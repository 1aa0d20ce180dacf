//! The headings that a chunk is embedded below.

use raglan_core::{Chunk, Locator, Mark, MarkKind, ParsedDocument, Result};

use super::Ceiling;
use super::split::BYTES_PER_TOKEN;

/// The headings may take one part in so many of the ceiling; longer ones lose their outermost.
const PREFIX_SHARE: usize = 4;

/// The headings of every place of a document.
pub(super) struct Prefixes {
    /// Where the headings change, ascending, and what they are from there on.
    changes: Vec<(usize, Prefix)>,
    /// What holds before the first change.
    none: Prefix,
}

/// The headings of a place, as far as they are embedded.
#[derive(Default)]
pub(super) struct Prefix {
    /// How many of the outermost headings are left out.
    n_dropped: usize,
    /// The line of the others with its line break; empty when there is none.
    line: String,
    n_tokens: usize,
}

impl Prefixes {
    /// The headings of a document; none anywhere when they are not embedded.
    pub(super) fn new(document: &ParsedDocument, ceiling: &Ceiling) -> Result<Self> {
        let mut changes = Vec::new();
        if ceiling.prefix_headings {
            let changing =
                |mark: &&Mark| !matches!(mark.kind, MarkKind::Page(_) | MarkKind::Slide(_) | MarkKind::Row(_));
            let mut offsets: Vec<usize> = document.marks.iter().filter(changing).map(|mark| mark.at).collect();
            offsets.dedup();
            for (at, locator) in offsets.iter().copied().zip(document.locate(&offsets)) {
                changes.push((at, Prefix::new(locator, ceiling)?));
            }
        }
        Ok(Self { changes, none: Prefix::default() })
    }

    /// The headings at an offset.
    pub(super) fn at(&self, offset: usize) -> &Prefix {
        let after = self.changes.partition_point(|&(at, _)| at <= offset);
        after.checked_sub(1).map_or(&self.none, |i| &self.changes[i].1)
    }
}

impl Prefix {
    fn new(mut locator: Locator, ceiling: &Ceiling) -> Result<Self> {
        let room = ceiling.max_tokens / PREFIX_SHARE;
        let n_headings = locator.headings.len();
        while !locator.headings.is_empty() {
            let n_bytes: usize = locator.headings.iter().map(String::len).sum();
            if n_bytes / BYTES_PER_TOKEN <= room {
                let line = Chunk::prefixed(&locator, "");
                let n_tokens = ceiling.counter.count(&line)?;
                if n_tokens <= room {
                    return Ok(Self { n_dropped: n_headings - locator.headings.len(), line, n_tokens });
                }
            }
            locator.headings.remove(0);
        }
        Ok(Self { n_dropped: n_headings, ..Self::default() })
    }

    /// Its length in tokens.
    pub(super) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// The tokens of a text below the headings.
    pub(super) fn count_with(&self, text: &str, ceiling: &Ceiling) -> Result<usize> {
        if self.line.is_empty() {
            ceiling.counter.count(text)
        } else {
            ceiling.counter.count(&[&self.line, text].concat())
        }
    }

    /// Drops from a locator of this place the headings that are left out.
    pub(super) fn keep_in(&self, locator: &mut Locator) {
        locator.headings.drain(..self.n_dropped.min(locator.headings.len()));
    }
}
