//! A graph over many segments.

use std::path::PathBuf;

use raglan_core::{ChunkId, ChunkSet};
use raglan_kernels::inner_products_f16;

use crate::extraction::words;
use crate::segment::{SegmentDraft, united};
use crate::segment_file::StoredSegment;
use crate::{Error, Graph, Result, normalized};

/// Identifies an entity in an open index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityId(pub u32);

/// The entities and the chunks of immutable segments as one graph: its nodes are the entities, in order of their names, and
/// then the chunks, in order of their ids.
///
/// An edge is between a chunk and each entity that it names, of weight 1; between two related entities, of as much weight
/// as relations; and between synonyms, of their cosine.
pub struct GraphIndex {
    names: Vec<String>,
    /// How many chunks name each entity.
    n_mentions: Vec<u32>,
    chunks: Vec<u32>,
    graph: Graph,
    /// The most words of a name.
    longest: usize,
    /// With the entity of each of their vectors.
    segments: Vec<(StoredSegment, Vec<Option<u32>>)>,
}

impl GraphIndex {
    /// Opens the segments in these folders, without the deleted chunks and the entities that only they name.
    ///
    /// # Errors
    ///
    /// [`Error::File`] when a file cannot be used; [`Error::Invalid`] when two segments have the same chunk or vectors of
    /// different dimensions.
    pub fn open(segments: &[PathBuf], deleted: &ChunkSet) -> Result<Self> {
        let stored = segments.iter().map(|folder| StoredSegment::open(folder)).collect::<Result<Vec<_>>>()?;
        let (SegmentDraft { ids, names, mentions, relations, synonyms, .. }, numbers) = united(&stored, deleted)?;
        let n_entities = names.len() as u32;
        let mut edges = Vec::new();
        let mut n_mentions = vec![0; names.len()];
        for (chunk, entities) in (n_entities..).zip(&mentions) {
            for &entity in entities {
                n_mentions[entity as usize] += 1;
                edges.push((entity, chunk, 1.0));
            }
        }
        edges.extend(relations.into_iter().flatten().map(|[a, b, count]| (a, b, count as f32)));
        edges.extend(synonyms.into_iter().filter(|&(a, b, _)| a.max(b) < n_entities));
        let graph = Graph::new(names.len() + ids.len(), &edges)?;
        let longest = names.iter().map(|name| name.split(' ').count()).max().unwrap_or(0);
        Ok(Self { names, n_mentions, chunks: ids, graph, longest, segments: stored.into_iter().zip(numbers).collect() })
    }

    /// How many entities live chunks name.
    pub fn n_entities(&self) -> usize {
        self.names.len()
    }

    /// The live chunks, increasing.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = ChunkId> {
        self.chunks.iter().copied().map(ChunkId)
    }

    /// The place of a live chunk among them.
    pub(crate) fn place_of(&self, chunk: ChunkId) -> Option<usize> {
        self.chunks.binary_search(&chunk.0).ok()
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// An entity's name.
    ///
    /// # Panics
    ///
    /// When the entity is of another index.
    pub fn name(&self, entity: EntityId) -> &str {
        &self.names[entity.0 as usize]
    }

    /// How many chunks name an entity.
    ///
    /// # Panics
    ///
    /// When the entity is of another index.
    pub fn n_mentions(&self, entity: EntityId) -> usize {
        self.n_mentions[entity.0 as usize] as usize
    }

    /// The entity of this name, however it is written.
    pub fn entity(&self, name: &str) -> Option<EntityId> {
        self.numbered(&normalized(name))
    }

    fn numbered(&self, normalized: &str) -> Option<EntityId> {
        let found = self.names.binary_search_by(|name| name.as_str().cmp(normalized));
        found.ok().map(|number| EntityId(number as u32))
    }

    /// The entities that a text names, with capitals or without, in order, each once. Where names overlap, the one that
    /// begins first is taken, and of those the longest.
    pub fn entities_in(&self, text: &str) -> Vec<EntityId> {
        let words = words(text);
        let mut found = Vec::new();
        let mut start = 0;
        while start < words.len() {
            let longest = self.longest.min(words.len() - start);
            let entity =
                (1..=longest).rev().find_map(|n| Some((n, self.numbered(&words[start..start + n].join(" "))?)));
            start += entity.map_or(1, |(n, _)| n);
            if let Some((_, entity)) = entity
                && !found.contains(&entity)
            {
                found.push(entity);
            }
        }
        found
    }

    /// The length of the entities' vectors; 0 when they have none.
    pub fn dim(&self) -> usize {
        self.segments.first().map_or(0, |(segment, _)| segment.contents.dim)
    }

    /// The entity whose vector is nearest to a vector of unit length, with the cosine; of equally near ones the first by
    /// name. None when no entity has a vector.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the vector has another length than those of the entities.
    pub fn nearest(&self, vector: &[f32]) -> Result<Option<(EntityId, f32)>> {
        let dim = self.dim();
        if dim == 0 || self.names.is_empty() {
            return Ok(None);
        }
        if vector.len() != dim {
            let problem = format!("it has length {}, and those of entities {dim}", vector.len());
            return Err(Error::Invalid { what: "vector", problem });
        }
        let mut nearest: Option<(EntityId, f32)> = None;
        for (segment, numbers) in &self.segments {
            let mut cosines = vec![0.0; numbers.len()];
            inner_products_f16(vector, segment.vectors(), dim, &mut cosines).expect("the shapes fit");
            for (number, cosine) in numbers.iter().zip(cosines) {
                let Some(entity) = number.map(EntityId) else { continue };
                if nearest.is_none_or(|(other, best)| cosine > best || cosine == best && entity < other) {
                    nearest = Some((entity, cosine));
                }
            }
        }
        Ok(nearest)
    }
}
