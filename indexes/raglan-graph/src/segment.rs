//! What is written of some chunks: their entities, relations and synonyms.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use raglan_core::{ChunkId, ChunkSet};
use raglan_kernels::{l2_normalize, to_f16};
use rustc_hash::FxHashMap;

use crate::segment_file::StoredSegment;
use crate::synonyms::{Named, find_synonyms};
use crate::{Error, Extraction, Result, SynonymConfig};

/// A segment that is not written yet.
#[derive(Debug, Default)]
pub struct SegmentDraft {
    /// The chunks, increasing.
    pub(crate) ids: Vec<u32>,
    /// The entities that the chunks name, increasing.
    pub(crate) names: Vec<String>,
    /// Entities of other segments that are synonyms of those here, increasing. They are numbered behind them.
    pub(crate) foreign: Vec<String>,
    /// By chunk: its entities, increasing.
    pub(crate) mentions: Vec<Vec<u32>>,
    /// By chunk: two of its entities, the lower first, and how often they are related, increasing.
    pub(crate) relations: Vec<Vec<[u32; 3]>>,
    /// Two entities, the first of which is named here, the lower first, and their cosine; increasing.
    pub(crate) synonyms: Vec<(u32, u32, f32)>,
    /// 0 when entities have no vectors.
    pub(crate) dim: usize,
    /// `[names, dim]`, bits of `f16`.
    pub(crate) vectors: Vec<u16>,
}

impl SegmentDraft {
    /// What was extracted from chunks, in the order of their ids.
    ///
    /// # Errors
    ///
    /// [`Error::Order`] when ids do not increase; [`Error::Invalid`] when there is not one extraction a chunk.
    pub fn new(ids: &[ChunkId], extractions: Vec<Extraction>) -> Result<Self> {
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Err(Error::Order { chunk: pair[1].0, last: pair[0].0 });
        }
        if ids.len() != extractions.len() {
            let problem = format!("there are {} for {} chunks", extractions.len(), ids.len());
            return Err(Error::Invalid { what: "extractions", problem });
        }
        let mut names: Vec<String> = extractions.iter().flat_map(|said| said.entities().iter().cloned()).collect();
        names.sort_unstable();
        names.dedup();
        let (mut mentions, mut relations) = (Vec::new(), Vec::new());
        for said in &extractions {
            let number = |name: &String| names.binary_search(name).expect("all names are collected") as u32;
            let numbers: Vec<u32> = said.entities().iter().map(number).collect();
            let mut counts: BTreeMap<[u32; 2], u32> = BTreeMap::new();
            for &[a, b] in said.relations() {
                let (a, b) = (numbers[a as usize], numbers[b as usize]);
                *counts.entry([a.min(b), a.max(b)]).or_default() += 1;
            }
            relations.push(counts.into_iter().map(|([a, b], count)| [a, b, count]).collect());
            let mut numbers = numbers;
            numbers.sort_unstable();
            mentions.push(numbers);
        }
        Ok(Self { ids: ids.iter().map(|id| id.0).collect(), names, mentions, relations, ..Self::default() })
    }

    /// The entities, in the order in which they get vectors.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The same segment with a vector for each entity, `[names, dim]`, of any length, and with synonyms: entities, here or in
    /// the segments of the folders `others`, whose vectors are near.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the vectors are not as many numbers or not all finite, or those of the others have another
    /// dimension; [`Error::Parameter`]; [`Error::File`].
    pub fn with_vectors(
        self,
        dim: usize,
        mut vectors: Vec<f32>,
        others: &[PathBuf],
        config: &SynonymConfig,
    ) -> Result<Self> {
        config.check()?;
        if dim == 0 || vectors.len() != self.names.len() * dim || !vectors.iter().all(|x| x.is_finite()) {
            let problem = format!("{} numbers, not all finite or not {} of {dim}", vectors.len(), self.names.len());
            return Err(Error::Invalid { what: "vectors of entities", problem });
        }
        l2_normalize(&mut vectors, dim).expect("the length is a multiple of the dimension");
        let mut halves = vec![0; vectors.len()];
        to_f16(&vectors, &mut halves).expect("both are as long");
        let others = others.iter().map(|folder| StoredSegment::open(folder)).collect::<Result<Vec<_>>>()?;
        check_dims(dim, &others)?;
        let elsewhere: Vec<Named<'_>> =
            others.iter().map(|other| Named { names: &other.contents.names, vectors: other.vectors() }).collect();
        let found = find_synonyms(Named { names: &self.names, vectors: &halves }, &elsewhere, dim, config);
        let named = found.into_iter().map(|(a, b, cosine)| (self.names[a as usize].clone(), b.to_owned(), cosine));
        let named: Vec<(String, String, f32)> = named.collect();
        Ok(Self { dim, vectors: halves, ..self }.with_synonyms(named))
    }

    /// The same segment with these synonyms, of which those that name no entity of it are left out; the last of equal pairs
    /// counts.
    fn with_synonyms(mut self, synonyms: Vec<(String, String, f32)>) -> Self {
        let is_own = |name: &String| self.names.binary_search(name).is_ok();
        let synonyms: Vec<_> = synonyms.into_iter().filter(|(a, b, _)| a != b && (is_own(a) || is_own(b))).collect();
        let mut foreign: Vec<String> =
            synonyms.iter().flat_map(|(a, b, _)| [a, b]).filter(|name| !is_own(name)).cloned().collect();
        foreign.sort_unstable();
        foreign.dedup();
        let number = |name: &String| match self.names.binary_search(name) {
            Ok(number) => number as u32,
            Err(_) => (self.names.len() + foreign.binary_search(name).expect("all others are collected")) as u32,
        };
        let mut pairs = BTreeMap::new();
        for (a, b, cosine) in &synonyms {
            let (a, b) = (number(a), number(b));
            pairs.insert((a.min(b), a.max(b)), *cosine);
        }
        self.synonyms = pairs.into_iter().map(|((a, b), cosine)| (a, b, cosine)).collect();
        self.foreign = foreign;
        self
    }

    /// Writes the segment into a folder that has none yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there is more of something than 32 bits count; [`Error::File`].
    pub fn write(&self, folder: &Path) -> Result<()> {
        crate::segment_file::write(self, folder)
    }
}

/// Writes one segment of the live chunks of several; their entities keep their vectors and synonyms.
///
/// # Errors
///
/// [`Error::Invalid`] when two segments have vectors of different dimensions or the same chunk; [`Error::File`].
pub fn merge_segments(folder: &Path, segments: &[PathBuf], deleted: &ChunkSet) -> Result<()> {
    let stored = segments.iter().map(|folder| StoredSegment::open(folder)).collect::<Result<Vec<_>>>()?;
    let (mut united, numbers) = united(&stored, deleted)?;
    united.dim = stored.first().map_or(0, |segment| segment.contents.dim);
    let dim = united.dim;
    united.vectors = vec![0; united.names.len() * dim];
    for (segment, numbers) in stored.iter().zip(&numbers).rev() {
        for (row, number) in numbers.iter().enumerate() {
            if let Some(number) = number {
                let at = *number as usize * dim;
                united.vectors[at..at + dim].copy_from_slice(&segment.vectors()[row * dim..(row + 1) * dim]);
            }
        }
    }
    united.write(folder)
}

/// The live chunks of segments as those of one, without vectors; and by segment, the number in it of each entity, if a
/// live chunk names it.
pub(crate) fn united(stored: &[StoredSegment], deleted: &ChunkSet) -> Result<(SegmentDraft, Vec<Vec<Option<u32>>>)> {
    if let Some((first, rest)) = stored.split_first() {
        check_dims(first.contents.dim, rest)?;
    }
    let mut chunks: Vec<(u32, usize, usize)> = Vec::new();
    for (i, segment) in stored.iter().enumerate() {
        let live = segment.contents.ids.iter().enumerate().filter(|(_, id)| !deleted.contains(ChunkId(**id)));
        chunks.extend(live.map(|(row, &id)| (id, i, row)));
    }
    chunks.sort_unstable();
    if let Some(pair) = chunks.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::Invalid { what: "segments", problem: format!("two have chunk {}", pair[0].0) });
    }
    let mut is_named: Vec<Vec<bool>> = stored.iter().map(|s| vec![false; s.contents.names.len()]).collect();
    for &(_, segment, row) in &chunks {
        for &entity in &stored[segment].contents.mentions[row] {
            is_named[segment][entity as usize] = true;
        }
    }
    let mut names: Vec<&String> = Vec::new();
    for (segment, is_named) in stored.iter().zip(&is_named) {
        names.extend(segment.contents.names.iter().zip(is_named).filter(|(_, named)| **named).map(|(name, _)| name));
    }
    names.sort_unstable();
    names.dedup();
    let by_name: FxHashMap<&str, u32> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i as u32)).collect();
    let number = |name: &String| by_name.get(name.as_str()).copied();
    let numbers: Vec<Vec<Option<u32>>> =
        stored.iter().map(|segment| segment.contents.names.iter().map(number).collect()).collect();

    let mut draft = SegmentDraft { names: names.into_iter().cloned().collect(), ..SegmentDraft::default() };
    for (id, segment, row) in chunks {
        let (contents, numbers) = (&stored[segment].contents, &numbers[segment]);
        // Names are in the same order here and there, and so are their numbers.
        let number = |entity: u32| numbers[entity as usize].expect("a live chunk names it");
        draft.ids.push(id);
        draft.mentions.push(contents.mentions[row].iter().map(|&entity| number(entity)).collect());
        draft
            .relations
            .push(contents.relations[row].iter().map(|&[a, b, count]| [number(a), number(b), count]).collect());
    }
    let mut synonyms = Vec::new();
    for segment in stored {
        for &(a, b, cosine) in &segment.contents.synonyms {
            synonyms.push((segment.name(a).clone(), segment.name(b).clone(), cosine));
        }
    }
    Ok((draft.with_synonyms(synonyms), numbers))
}

fn check_dims(dim: usize, segments: &[StoredSegment]) -> Result<()> {
    match segments.iter().find(|segment| segment.contents.dim != dim) {
        None => Ok(()),
        Some(other) => {
            let problem = format!("they have dimension {dim} here and {} there", other.contents.dim);
            Err(Error::Invalid { what: "vectors of entities", problem })
        }
    }
}
