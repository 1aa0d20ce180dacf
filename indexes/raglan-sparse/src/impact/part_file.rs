//! The file of a part: `impacts-<i>.bin`.
//!
//! A header of 64 bytes: magic, then little endian version u32, flags u32 (1: the last part of its segment), ceiling
//! f32, n_docs u32, n_terms u32, n_runs u32, n_postings u32, 0 u32, n_clamped u64. Then sections, each from a multiple
//! of 64 bytes. A *doc* is a chunk by its place in the order of the part, a *number* is a term by its place in the order
//! of frequency, and a *run* is the postings of one term in one block of [`BLOCK`] docs.
//!
//! | section | numbers |
//! |---|---|
//! | chunk of each doc | n_docs × u32 |
//! | docs in the order of their chunks | n_docs × u32 |
//! | terms, increasing | n_terms × u32 |
//! | the number of each of these | n_terms × u32 |
//! | by number: in how many docs it is | n_terms × u32 |
//! | by number: greatest impact | n_terms × u8 |
//! | by number: first run | (n_terms + 1) × u32 |
//! | by run: its block, increasing within a term | n_runs × u16 |
//! | by run: greatest impact | n_runs × u8 |
//! | by run: how many postings | n_runs × u8 |
//! | by group of [`RUN_GROUP`] runs: first posting | ⌈n_runs / RUN_GROUP⌉ × u32 |
//! | by posting: the doc within its block | n_postings × u8 |
//! | by posting: its impact | n_postings × u8 |
//! | by doc: the first of its terms | (n_docs + 1) × u32 |
//! | terms of the docs, by number, increasing | n_postings × u16, or u32 where n_terms > 65,536 |
//! | their impacts | n_postings × u8 |

use std::ops::Range;
use std::path::{Path, PathBuf};

use raglan_segment_file::{ALIGNMENT, Error as FileError, Sections, SegmentFile, write_file};

use super::ImpactConfig;
use crate::{Error, Result};

/// Docs of a block: as many as a word has bits.
pub const BLOCK: usize = 64;

/// Runs of which only the first says where its postings are.
pub const RUN_GROUP: usize = 32;

/// Terms whose numbers fit 16 bits.
pub const SMALL_TERMS: usize = 1 << 16;

const MAGIC: &[u8; 8] = b"RAGLANIM";
const VERSION: u32 = 1;
const LAST: u32 = 1;

/// What a part's file holds, in memory.
#[derive(Default)]
pub struct PartArrays {
    pub ids: Vec<u32>,
    pub docs_by_id: Vec<u32>,
    pub terms: Vec<u32>,
    pub numbers: Vec<u32>,
    pub df: Vec<u32>,
    pub maxima: Vec<u8>,
    pub run_starts: Vec<u32>,
    pub run_blocks: Vec<u16>,
    pub run_maxima: Vec<u8>,
    pub run_lengths: Vec<u8>,
    pub group_starts: Vec<u32>,
    pub posting_docs: Vec<u8>,
    pub posting_impacts: Vec<u8>,
    pub forward_starts: Vec<u32>,
    pub forward_terms: Vec<u32>,
    pub forward_impacts: Vec<u8>,
}

fn path_of(folder: &Path, part: usize) -> PathBuf {
    folder.join(format!("impacts-{part}.bin"))
}

impl PartArrays {
    /// Writes the file of part `part` into `folder`.
    pub fn write(&self, folder: &Path, part: usize, last: bool, n_clamped: u64, config: &ImpactConfig) -> Result<()> {
        let mut header = [0; ALIGNMENT];
        header[..8].copy_from_slice(MAGIC);
        let lengths = [self.ids.len(), self.terms.len(), self.run_blocks.len(), self.posting_docs.len()];
        let words = [VERSION, if last { LAST } else { 0 }, config.ceiling.to_bits()];
        let words = words.into_iter().chain(lengths.map(|length| length as u32));
        for (at, word) in words.enumerate() {
            header[8 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
        }
        header[40..48].copy_from_slice(&n_clamped.to_le_bytes());
        let small: Vec<u16>;
        let forward_terms = if self.terms.len() <= SMALL_TERMS {
            small = self.forward_terms.iter().map(|&number| number as u16).collect();
            bytemuck::cast_slice(&small)
        } else {
            bytemuck::cast_slice(&self.forward_terms)
        };
        Ok(write_file(
            &path_of(folder, part),
            &[
                &header,
                bytemuck::cast_slice(&self.ids),
                bytemuck::cast_slice(&self.docs_by_id),
                bytemuck::cast_slice(&self.terms),
                bytemuck::cast_slice(&self.numbers),
                bytemuck::cast_slice(&self.df),
                &self.maxima,
                bytemuck::cast_slice(&self.run_starts),
                bytemuck::cast_slice(&self.run_blocks),
                &self.run_maxima,
                &self.run_lengths,
                bytemuck::cast_slice(&self.group_starts),
                &self.posting_docs,
                &self.posting_impacts,
                bytemuck::cast_slice(&self.forward_starts),
                forward_terms,
                &self.forward_impacts,
            ],
        )?)
    }
}

/// A part's file, mapped, and where its sections lie.
///
/// Every section is as long as it must be; ids are increasing along `docs_by_id`, which names every doc once; the starts
/// do not decrease and end where their runs or terms do. Other numbers may be anything.
pub struct PartFile {
    pub file: SegmentFile,
    /// Whether it is the last of its segment.
    pub last: bool,
    pub n_clamped: u64,
    pub n_docs: usize,
    pub n_terms: usize,
    pub n_runs: usize,
    pub n_postings: usize,
    pub ids: Range<usize>,
    pub docs_by_id: Range<usize>,
    pub terms: Range<usize>,
    pub numbers: Range<usize>,
    pub df: Range<usize>,
    pub maxima: Range<usize>,
    pub run_starts: Range<usize>,
    pub run_blocks: Range<usize>,
    pub run_maxima: Range<usize>,
    pub run_lengths: Range<usize>,
    pub group_starts: Range<usize>,
    pub posting_docs: Range<usize>,
    pub posting_impacts: Range<usize>,
    pub forward_starts: Range<usize>,
    pub forward_terms: Range<usize>,
    pub forward_impacts: Range<usize>,
}

impl PartFile {
    /// Opens part `part` of the segment in `folder`.
    pub fn open(folder: &Path, part: usize, config: &ImpactConfig) -> Result<Self> {
        let file = SegmentFile::open(path_of(folder, part))?;
        let damaged = |problem: &str| Error::damaged(file.path(), problem);
        let Some(header) = file.bytes().first_chunk::<ALIGNMENT>() else {
            return Err(damaged("it is shorter than a header"));
        };
        if header[..8] != MAGIC[..] {
            return Err(damaged("it does not begin as such a file does"));
        }
        let words: [u32; 14] = bytemuck::pod_read_unaligned(&header[8..]);
        let [version, flags, ceiling, n_docs, n_terms, n_runs, n_postings, zero, ..] = words;
        if version != VERSION {
            return Err(FileError::Version { path: file.path().to_owned(), expected: VERSION, found: version }.into());
        }
        if flags > LAST || zero != 0 {
            return Err(damaged("its header has unknown marks"));
        }
        if ceiling != config.ceiling.to_bits() {
            let found = f32::from_bits(ceiling);
            return Err(Error::Ceiling { path: file.path().to_owned(), expected: config.ceiling, found });
        }
        let [n_docs, n_terms, n_runs, n_postings] = [n_docs, n_terms, n_runs, n_postings].map(|n| n as usize);
        if n_docs > BLOCK << 16 {
            return Err(damaged("it has more chunks than a part can"));
        }
        let mut sections = Sections::new(&file, ALIGNMENT);
        let opened = Self {
            last: flags == LAST,
            n_clamped: bytemuck::pod_read_unaligned(&header[40..48]),
            n_docs,
            n_terms,
            n_runs,
            n_postings,
            ids: sections.next::<u32>(n_docs)?,
            docs_by_id: sections.next::<u32>(n_docs)?,
            terms: sections.next::<u32>(n_terms)?,
            numbers: sections.next::<u32>(n_terms)?,
            df: sections.next::<u32>(n_terms)?,
            maxima: sections.next::<u8>(n_terms)?,
            run_starts: sections.next::<u32>(n_terms + 1)?,
            run_blocks: sections.next::<u16>(n_runs)?,
            run_maxima: sections.next::<u8>(n_runs)?,
            run_lengths: sections.next::<u8>(n_runs)?,
            group_starts: sections.next::<u32>(n_runs.div_ceil(RUN_GROUP))?,
            posting_docs: sections.next::<u8>(n_postings)?,
            posting_impacts: sections.next::<u8>(n_postings)?,
            forward_starts: sections.next::<u32>(n_docs + 1)?,
            forward_terms: if n_terms <= SMALL_TERMS {
                sections.next::<u16>(n_postings)?
            } else {
                sections.next::<u32>(n_postings)?
            },
            forward_impacts: sections.next::<u8>(n_postings)?,
            file: {
                sections.finish()?;
                file
            },
        };
        opened.check()?;
        Ok(opened)
    }

    fn check(&self) -> Result<()> {
        let damaged = |problem: &str| Err(Error::damaged(self.file.path(), problem));
        let numbers = |section| self.file.section::<u32>(section);
        for (starts, end) in [(&self.run_starts, self.n_runs), (&self.forward_starts, self.n_postings)] {
            let starts = numbers(starts);
            let ends = [starts[0] as usize, starts[starts.len() - 1] as usize];
            if ends != [0, end] || starts.windows(2).any(|pair| pair[0] > pair[1]) {
                return damaged("a list does not begin where the one before it ends");
            }
        }
        if numbers(&self.terms).windows(2).any(|pair| pair[0] >= pair[1]) {
            return damaged("terms do not increase");
        }
        if numbers(&self.numbers).iter().any(|&number| number as usize >= self.n_terms) {
            return damaged("a term has a number that is too great");
        }
        let ids = numbers(&self.ids);
        let mut last = None;
        for &doc in numbers(&self.docs_by_id) {
            let id = ids.get(doc as usize).copied();
            if id <= last {
                return damaged("ids do not increase");
            }
            last = id;
        }
        Ok(())
    }
}
