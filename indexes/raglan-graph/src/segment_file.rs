//! The file of a segment: `graph.bin`.
//!
//! A header of 64 bytes: magic, version u32, dim u32, n_chunks u64, n_names u32, n_foreign u32, n_name_bytes u32,
//! n_mentions u32, n_relations u32, n_synonyms u32, 0 u64, XXH3 of 64 bits of all else. Then sections, each from a multiple of 64
//! bytes.
//!
//! | section | numbers |
//! |---|---|
//! | ids of the chunks, increasing | n_chunks × u32 |
//! | where each name begins, first those of entities here, then foreign ones; and where the last ends | (n_names + n_foreign + 1) × u32 |
//! | names, in UTF-8, each of both kinds increasing | n_name_bytes × u8 |
//! | by chunk: first mention | (n_chunks + 1) × u32 |
//! | by mention: the entity, increasing within a chunk | n_mentions × u32 |
//! | by chunk: first relation | (n_chunks + 1) × u32 |
//! | by relation: two of the chunk's entities, the lower first, and how often | 3 n_relations × u32 |
//! | by synonym: an entity here, and a greater one or a foreign one | 2 n_synonyms × u32 |
//! | their cosines | n_synonyms × f32 |
//! | vectors of the entities here, of unit length | n_names × dim × f16 |

use std::ops::Range;
use std::path::Path;

use raglan_segment_file::{ALIGNMENT, Sections, SegmentFile, header, write_file};
use xxhash_rust::xxh3::Xxh3;

use crate::segment::SegmentDraft;
use crate::{Error, Result};

const FILE: &str = "graph.bin";
const MAGIC: &[u8; 8] = b"RAGLANGR";
const VERSION: u32 = 1;

/// The sign's bit of an `f16`, and the bits of 2.
const SIGN: u16 = 0x8000;
const TWO: u16 = 0x4000;

/// Where in the header the counts are, and where the checksum.
const COUNTS: Range<usize> = 24..48;
const CHECKSUM: Range<usize> = 56..64;

/// Writes a segment's file.
pub fn write(draft: &SegmentDraft, folder: &Path) -> Result<()> {
    let names: Vec<&String> = draft.names.iter().chain(&draft.foreign).collect();
    let bytes: Vec<u8> = names.iter().flat_map(|name| name.bytes()).collect();
    let name_starts = starts_of(names.iter().map(|name| name.len()));
    let mention_starts = starts_of(draft.mentions.iter().map(Vec::len));
    let relation_starts = starts_of(draft.relations.iter().map(Vec::len));
    let mentions = draft.mentions.concat();
    let relations = draft.relations.concat();
    let pairs: Vec<[u32; 2]> = draft.synonyms.iter().map(|&(a, b, _)| [a, b]).collect();
    let cosines: Vec<f32> = draft.synonyms.iter().map(|synonym| synonym.2).collect();

    let lengths = [draft.names.len(), draft.foreign.len(), bytes.len(), mentions.len(), relations.len(), pairs.len()];
    let mut header = header(MAGIC, VERSION, draft.dim, draft.ids.len());
    for (at, length) in COUNTS.step_by(4).zip(lengths) {
        let Ok(length) = u32::try_from(length) else {
            return Err(Error::Invalid { what: "segment", problem: format!("it has {length} of something") });
        };
        header[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    let sections: [&[u8]; 10] = [
        bytemuck::cast_slice(&draft.ids),
        bytemuck::cast_slice(&name_starts),
        &bytes,
        bytemuck::cast_slice(&mention_starts),
        bytemuck::cast_slice(&mentions),
        bytemuck::cast_slice(&relation_starts),
        bytemuck::cast_slice(&relations),
        bytemuck::cast_slice(&pairs),
        bytemuck::cast_slice(&cosines),
        bytemuck::cast_slice(&draft.vectors),
    ];
    let mut checksum = Xxh3::new();
    checksum.update(&header[..CHECKSUM.start]);
    for section in sections {
        checksum.update(section);
        checksum.update(&[0; ALIGNMENT][..section.len().next_multiple_of(ALIGNMENT) - section.len()]);
    }
    header[CHECKSUM].copy_from_slice(&checksum.digest().to_le_bytes());
    let all: Vec<&[u8]> = std::iter::once(&header[..]).chain(sections).collect();
    Ok(write_file(&folder.join(FILE), &all)?)
}

/// Where lists of these lengths begin, and where the last ends; what is beyond 32 bits is refused by its count.
fn starts_of(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let ends = lengths.scan(0usize, |end, length| {
        *end += length;
        Some(*end as u32)
    });
    std::iter::once(0).chain(ends).collect()
}

/// A segment's file, read but for the vectors, which are mapped.
#[derive(Debug)]
pub struct StoredSegment {
    /// Everything but the vectors; what the doc comments of its fields say is so.
    pub contents: SegmentDraft,
    file: SegmentFile,
    vectors: Range<usize>,
}

impl StoredSegment {
    /// Reads the segment in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let file = SegmentFile::open(folder.join(FILE))?;
        file.check_format(MAGIC, VERSION)?;
        let damaged = |problem: &str| Error::damaged(file.path(), problem);
        let header = file.bytes().first_chunk::<ALIGNMENT>().ok_or_else(|| damaged("it is shorter than a header"))?;
        let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes")) as usize;
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let dim = number(12);
        let Some(n_chunks) = usize::try_from(long(16)).ok().filter(|&n| n < usize::MAX) else {
            return Err(damaged("its header counts more than there can be"));
        };
        let [n_names, n_foreign, n_bytes, n_mentions, n_relations, n_synonyms] =
            [0, 4, 8, 12, 16, 20].map(|at| number(COUNTS.start + at));
        let n_components = n_names.checked_mul(dim).ok_or_else(|| damaged("its vectors are too many"))?;
        let mut sections = Sections::new(&file, ALIGNMENT);
        let ids = sections.next::<u32>(n_chunks)?;
        let name_starts = sections.next::<u32>(n_names + n_foreign + 1)?;
        let name_bytes = sections.next::<u8>(n_bytes)?;
        let mention_starts = sections.next::<u32>(n_chunks + 1)?;
        let mentions = sections.next::<u32>(n_mentions)?;
        let relation_starts = sections.next::<u32>(n_chunks + 1)?;
        let relations = sections.next::<[u32; 3]>(n_relations)?;
        let pairs = sections.next::<[u32; 2]>(n_synonyms)?;
        let cosines = sections.next::<f32>(n_synonyms)?;
        let vectors = sections.next::<u16>(n_components)?;
        sections.finish()?;
        let mut found = Xxh3::new();
        found.update(&header[..CHECKSUM.start]);
        found.update(&file.bytes()[CHECKSUM.end..]);
        if found.digest() != long(CHECKSUM.start) {
            return Err(damaged("its checksum is wrong"));
        }

        let name_starts = lists(&file, &name_starts, n_bytes)?;
        let bytes = file.section::<u8>(&name_bytes);
        let name = |span: Range<usize>| std::str::from_utf8(&bytes[span]).map(str::to_owned);
        let names: Result<Vec<String>, _> = name_starts.into_iter().map(name).collect();
        let mut names = names.map_err(|_| damaged("a name is not in UTF-8"))?;
        let foreign = names.split_off(n_names);
        let mentions = lists(&file, &mention_starts, n_mentions)?
            .into_iter()
            .map(|list| file.section::<u32>(&mentions)[list].to_vec())
            .collect();
        let relations = lists(&file, &relation_starts, n_relations)?
            .into_iter()
            .map(|list| file.section::<[u32; 3]>(&relations)[list].to_vec())
            .collect();
        let pairs = file.section::<[u32; 2]>(&pairs).iter();
        let synonyms = pairs.zip(file.section::<f32>(&cosines)).map(|(&[a, b], &cosine)| (a, b, cosine)).collect();
        let ids = file.section::<u32>(&ids).to_vec();
        let contents = SegmentDraft { ids, names, foreign, mentions, relations, synonyms, dim, vectors: Vec::new() };
        let segment = Self { contents, file, vectors };
        segment.check()?;
        Ok(segment)
    }

    fn check(&self) -> Result<()> {
        let damaged = |problem: &str| Err(Error::damaged(self.file.path(), problem));
        let SegmentDraft { ids, names, foreign, mentions, relations, synonyms, .. } = &self.contents;
        let increases = |names: &[String]| names.windows(2).all(|pair| pair[0] < pair[1]);
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) || !increases(names) || !increases(foreign) {
            return damaged("ids or names do not increase");
        }
        for (mentions, relations) in mentions.iter().zip(relations) {
            let is_there = |entity: u32| mentions.binary_search(&entity).is_ok();
            let is_last_there = mentions.last().is_none_or(|&last| (last as usize) < names.len());
            if mentions.windows(2).any(|pair| pair[0] >= pair[1]) || !is_last_there {
                return damaged("a chunk's entities do not increase, or are not there");
            }
            let is_sound = |&[a, b, count]: &[u32; 3]| a < b && count > 0 && is_there(a) && is_there(b);
            if !relations.iter().all(is_sound) {
                return damaged("a relation is not of two entities of its chunk");
            }
        }
        let n = names.len() + foreign.len();
        let is_sound = |&(a, b, cosine): &(u32, u32, f32)| {
            a < b && (a as usize) < names.len() && (b as usize) < n && cosine > 0.0 && cosine < 2.0
        };
        if !synonyms.iter().all(is_sound) {
            return damaged("a synonym is not of two entities");
        }
        // Products of components of this size stay finite.
        if !self.vectors().iter().all(|half| half & !SIGN <= TWO) {
            return damaged("a component is not of a unit vector");
        }
        Ok(())
    }

    /// The vectors of the entities that are named here, `[names, dim]`, bits of `f16`.
    pub fn vectors(&self) -> &[u16] {
        self.file.section(&self.vectors)
    }

    /// The name of an entity here or a foreign one.
    pub fn name(&self, entity: u32) -> &String {
        let names = &self.contents.names;
        names.get(entity as usize).unwrap_or_else(|| &self.contents.foreign[entity as usize - names.len()])
    }
}

/// The lists of which a section says where they begin, and where the last of them ends, which is at `end`.
fn lists(file: &SegmentFile, starts: &Range<usize>, end: usize) -> Result<Vec<Range<usize>>> {
    let starts = file.section::<u32>(starts);
    if starts[0] != 0 || starts[starts.len() - 1] as usize != end || !starts.is_sorted() {
        return Err(Error::damaged(file.path(), "a list does not begin where the one before it ends"));
    }
    Ok(starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect())
}
