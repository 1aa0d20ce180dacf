//! A segment: the tokens of some chunks and the order of their suffixes, in one file.
//!
//! `ngrams.bin`: a header of 64 bytes (magic, version u32, 0 u32, n_tokens u64, n_chunks u64, zeros, and in the last 8
//! bytes XXH3 of 64 bits of all else), then sections, each from a multiple of 64 bytes. A separator stands behind the tokens of each
//! chunk; `n_tokens` counts the separators too.
//!
//! | section | numbers |
//! |---|---|
//! | ids of the chunks, increasing | n_chunks × u32 |
//! | where each chunk's tokens begin, and where the last's end | (n_chunks + 1) × u32 |
//! | tokens | n_tokens × u32 |
//! | where the suffixes begin, in increasing order, without those that begin with a separator | (n_tokens − n_chunks) × u32 |

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use raglan_core::{ChunkId, ChunkSet};
use raglan_segment_file::{ALIGNMENT, Sections, SegmentFile, header, write_file};
use xxhash_rust::xxh3::Xxh3;

use crate::suffix_array::suffix_array;
use crate::{Error, Result};

const FILE: &str = "ngrams.bin";
const MAGIC: &[u8; 8] = b"RAGLANNG";
const VERSION: u32 = 1;

/// What stands behind the tokens of a chunk: greater than any token, so that nothing runs on into the next chunk.
const SEPARATOR: u32 = u32::MAX;

/// Where in the header the number of chunks is, and where the checksum.
const N_CHUNKS: Range<usize> = 24..32;
const CHECKSUM: Range<usize> = 56..64;

/// Writes the segment of chunks with these tokens into a folder that has none yet.
///
/// # Errors
///
/// [`Error::Order`] when ids do not increase; [`Error::Tokens`] when there are not as many texts as ids, when a token is
/// 2³² − 1, or when there are more than 2³² − 2 tokens and chunks; [`Error::File`].
pub fn write_segment(folder: &Path, ids: &[ChunkId], texts: &[Vec<u32>]) -> Result<()> {
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::Order { chunk: pair[1].0, last: pair[0].0 });
    }
    if ids.len() != texts.len() {
        let problem = format!("there are {} chunks and {} texts", ids.len(), texts.len());
        return Err(Error::Tokens { problem });
    }
    let n_tokens = texts.iter().map(Vec::len).sum::<usize>() + texts.len();
    if n_tokens >= SEPARATOR as usize {
        return Err(Error::Tokens { problem: format!("{n_tokens} are more than a segment holds") });
    }
    let mut tokens = Vec::with_capacity(n_tokens);
    let mut starts = Vec::with_capacity(texts.len() + 1);
    for text in texts {
        if text.contains(&SEPARATOR) {
            return Err(Error::Tokens { problem: format!("{SEPARATOR} is no token") });
        }
        starts.push(tokens.len() as u32);
        tokens.extend_from_slice(text);
        tokens.push(SEPARATOR);
    }
    starts.push(tokens.len() as u32);
    let mut suffixes = suffix_array(&tokens);
    suffixes.truncate(n_tokens - texts.len()); // Those of separators are the greatest.

    let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
    let sections: [&[u32]; 4] = [&ids, &starts, &tokens, &suffixes];
    let sections = sections.map(bytemuck::cast_slice::<u32, u8>);
    let mut header = header(MAGIC, VERSION, 0, n_tokens);
    header[N_CHUNKS].copy_from_slice(&(ids.len() as u64).to_le_bytes());
    let mut checksum = Xxh3::new();
    checksum.update(&header[..CHECKSUM.start]);
    for section in sections {
        checksum.update(section);
        checksum.update(&[0; ALIGNMENT][..section.len().next_multiple_of(ALIGNMENT) - section.len()]);
    }
    header[CHECKSUM].copy_from_slice(&checksum.digest().to_le_bytes());
    let [ids, starts, tokens, suffixes] = sections;
    Ok(write_file(&folder.join(FILE), &[&header, ids, starts, tokens, suffixes])?)
}

/// A segment, open for searching.
///
/// Every section is as long as it must be, chunks begin where the one before ends and end in their only separator, and
/// suffixes begin within the tokens, at no separator.
pub struct Segment {
    file: SegmentFile,
    ids: Range<usize>,
    starts: Range<usize>,
    tokens: Range<usize>,
    suffixes: Range<usize>,
    /// The suffixes without those of deleted chunks, where there are any.
    live: Option<Vec<u32>>,
    deleted: Vec<u32>,
    n_live: usize,
}

impl Segment {
    /// Opens the segment in a folder, without the deleted chunks.
    pub fn open(folder: &Path, deleted: &ChunkSet) -> Result<Self> {
        let file = SegmentFile::open(folder.join(FILE))?;
        file.check_format(MAGIC, VERSION)?;
        let damaged = |problem: &str| Error::damaged(file.path(), problem);
        let too_short = || damaged("it is shorter than a header");
        let header = file.bytes().first_chunk::<ALIGNMENT>().ok_or_else(too_short)?;
        let number = |at: Range<usize>| u64::from_le_bytes(header[at].try_into().expect("eight bytes"));
        let (n_tokens, n_chunks, checksum) = (number(16..24), number(N_CHUNKS), number(CHECKSUM));
        if n_tokens >= u64::from(SEPARATOR) || n_chunks > n_tokens {
            return Err(damaged("its header counts more than a segment holds"));
        }
        let (n_tokens, n_chunks) = (n_tokens as usize, n_chunks as usize);
        let mut sections = Sections::new(&file, ALIGNMENT);
        let ids = sections.next::<u32>(n_chunks)?;
        let starts = sections.next::<u32>(n_chunks + 1)?;
        let tokens = sections.next::<u32>(n_tokens)?;
        let suffixes = sections.next::<u32>(n_tokens - n_chunks)?;
        sections.finish()?;
        let mut found = Xxh3::new();
        found.update(&header[..CHECKSUM.start]);
        found.update(&file.bytes()[CHECKSUM.end..]);
        if found.digest() != checksum {
            return Err(damaged("its checksum is wrong"));
        }
        let mut segment =
            Self { file, ids, starts, tokens, suffixes, live: None, deleted: Vec::new(), n_live: n_tokens - n_chunks };
        segment.check()?;
        segment.delete(deleted);
        Ok(segment)
    }

    fn check(&self) -> Result<()> {
        let damaged = |problem: &str| Err(Error::damaged(self.file.path(), problem));
        let (tokens, starts) = (self.all_tokens(), self.starts());
        if self.ids().windows(2).any(|pair| pair[0] >= pair[1]) {
            return damaged("ids do not increase");
        }
        if starts[0] != 0 || starts[starts.len() - 1] as usize != tokens.len() {
            return damaged("its chunks do not hold its tokens");
        }
        let mut n_separators = 0;
        for pair in starts.windows(2) {
            if pair[0] >= pair[1] || pair[1] as usize > tokens.len() || tokens[pair[1] as usize - 1] != SEPARATOR {
                return damaged("a chunk does not end in a separator");
            }
            n_separators += 1;
        }
        if tokens.iter().filter(|&&token| token == SEPARATOR).count() != n_separators {
            return damaged("there is a separator within a chunk");
        }
        let stored = self.file.section::<u32>(&self.suffixes);
        if stored.iter().any(|&at| tokens.get(at as usize).is_none_or(|&token| token == SEPARATOR)) {
            return damaged("a suffix begins where no token is");
        }
        Ok(())
    }

    fn delete(&mut self, deleted: &ChunkSet) {
        let ids = self.ids();
        let is_deleted = |i: &u32| deleted.contains(ChunkId(ids[*i as usize]));
        let gone: Vec<u32> = (0..ids.len() as u32).filter(is_deleted).collect();
        if gone.is_empty() {
            return;
        }
        let mut is_live = vec![true; self.all_tokens().len()];
        for &i in &gone {
            is_live[self.span(i as usize)].fill(false);
        }
        let live: Vec<u32> = self.suffixes().iter().copied().filter(|&at| is_live[at as usize]).collect();
        self.n_live = live.len();
        self.live = Some(live);
        self.deleted = gone;
    }

    fn starts(&self) -> &[u32] {
        self.file.section(&self.starts)
    }

    fn all_tokens(&self) -> &[u32] {
        self.file.section(&self.tokens)
    }

    fn span(&self, i: usize) -> Range<usize> {
        let starts = self.starts();
        starts[i] as usize..starts[i + 1] as usize
    }

    /// Where the suffixes of live chunks begin, in increasing order.
    fn suffixes(&self) -> &[u32] {
        self.live.as_deref().unwrap_or_else(|| self.file.section(&self.suffixes))
    }

    /// The chunks, deleted ones too.
    fn ids(&self) -> &[u32] {
        self.file.section(&self.ids)
    }

    /// How many tokens live chunks have: one a suffix.
    pub fn n_tokens(&self) -> usize {
        self.n_live
    }

    /// The live chunks, increasing.
    pub fn live_ids(&self) -> Cow<'_, [u32]> {
        if self.deleted.is_empty() {
            return Cow::Borrowed(self.ids());
        }
        let is_live = |(i, _): &(usize, &u32)| self.deleted.binary_search(&(*i as u32)).is_err();
        Cow::Owned(self.ids().iter().enumerate().filter(is_live).map(|(_, &id)| id).collect())
    }

    /// The tokens of a live chunk.
    pub fn tokens(&self, chunk: ChunkId) -> Option<&[u32]> {
        let i = self.ids().binary_search(&chunk.0).ok()?;
        if self.deleted.binary_search(&(i as u32)).is_ok() {
            return None;
        }
        let span = self.span(i);
        Some(&self.all_tokens()[span.start..span.end - 1])
    }

    /// The token that stands `depth` tokens behind the beginning of a suffix; the separator behind the last.
    ///
    /// The suffix has `depth` tokens at least, whatever the file says: where it has not, that is the separator too.
    #[inline]
    fn token(&self, suffix: u32, depth: usize) -> u32 {
        self.all_tokens().get(suffix as usize + depth).copied().unwrap_or(SEPARATOR)
    }

    /// Of these rows, whose suffixes agree in `depth` tokens, those that go on with `token`; `0..0` when there are none.
    pub fn narrowed(&self, rows: &Range<u32>, depth: usize, token: u32) -> Range<u32> {
        let some = &self.suffixes()[rows.start as usize..rows.end as usize];
        let start = some.partition_point(|&suffix| self.token(suffix, depth) < token);
        let len = some[start..].partition_point(|&suffix| self.token(suffix, depth) == token);
        if token == SEPARATOR || len == 0 {
            return 0..0;
        }
        let start = rows.start + start as u32;
        start..start + len as u32
    }

    /// The distinct tokens with which the suffixes of these rows, which agree in `depth` tokens, go on, each with its rows.
    ///
    /// The end of each token's rows is found by doubling steps, so that frequent tokens cost no more than rare ones.
    pub fn next_tokens(&self, rows: &Range<u32>, depth: usize) -> Vec<(u32, Range<u32>)> {
        let suffixes = self.suffixes();
        let mut found = Vec::new();
        let mut start = rows.start;
        while start < rows.end {
            let token = self.token(suffixes[start as usize], depth);
            if token == SEPARATOR {
                break;
            }
            let left = rows.end - start;
            let mut step = 1;
            while step < left && self.token(suffixes[(start + step) as usize], depth) == token {
                step = step.saturating_mul(2);
            }
            let (low, high) = (step / 2, step.min(left));
            let some = &suffixes[(start + low) as usize..(start + high) as usize];
            let end = start + low + some.partition_point(|&suffix| self.token(suffix, depth) == token) as u32;
            found.push((token, start..end.max(start + 1)));
            start = end.max(start + 1);
        }
        found
    }

    /// The chunk, and the place in it, where the suffix of a row begins.
    pub fn place(&self, row: u32) -> (ChunkId, u32) {
        let at = self.suffixes()[row as usize];
        let starts = self.starts();
        let i = starts.partition_point(|&start| start <= at) - 1;
        (ChunkId(self.ids()[i]), at - starts[i])
    }
}
