//! Passages with what stands around them.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, Range};

use raglan_core::{Chunk, ChunkId, ChunkStore, Context, DocId, Passage, Result};

use crate::Stage;

/// Adds to each passage what stands around it in its document: `Vec<Context>` → `Vec<Context>`.
///
/// - `neighbours`: so many chunks before and after each passage.
/// - `merge`: when at least this share of a section's chunks are among the passages, and two or more, the whole section
///   is taken (auto-merging; a section is the chunks of a document below one heading path). Above 1, never.
///
/// What is added has the score of the best passage that brought it, and passages that belong together stand together,
/// in the order of their document, where the best of them stood. The store comes by reference, `Arc` or `Box`.
pub fn expand<S>(store: S, neighbours: usize, merge: f32) -> Expand<S>
where
    S: Deref<Target: ChunkStore> + Send + Sync,
{
    Expand { store, neighbours, merge }
}

/// The surroundings of passages as a stage; see [`expand`].
#[derive(Clone, Debug)]
pub struct Expand<S> {
    store: S,
    neighbours: usize,
    merge: f32,
}

impl<S> Expand<S>
where
    S: Deref<Target: ChunkStore> + Send + Sync,
{
    fn expanded(&self, context: Context, documents: &mut HashMap<DocId, Vec<Chunk>>) -> Result<Context> {
        for passage in &context.passages {
            if let Entry::Vacant(entry) = documents.entry(passage.chunk.doc) {
                let mut chunks = self.store.chunks_of(passage.chunk.doc)?;
                chunks.sort_by_key(|chunk| (chunk.span.start, chunk.id));
                entry.insert(chunks);
            }
        }
        let found: HashSet<ChunkId> = context.passages.iter().map(|passage| passage.chunk.id).collect();
        let mut groups: Vec<Group> = Vec::new();
        for passage in &context.passages {
            let chunks = &documents[&passage.chunk.doc];
            let at = chunks.iter().position(|chunk| chunk.id == passage.chunk.id);
            let mut group = Group { best: passage, places: at.map(|at| self.around(chunks, at, &found)) };
            // Those that it meets are better, and the first of them gives the place.
            let mut first = None;
            while let Some(i) = groups.iter().position(|other| other.meets(&group)) {
                let other = groups.remove(i);
                let best = if first.is_some_and(|first| first <= i) { group.best } else { other.best };
                group = Group { places: other.with(&group), best };
                first = Some(first.map_or(i, |first: usize| first.min(i)));
            }
            groups.insert(first.unwrap_or(groups.len()), group);
        }
        let mut passages = Vec::new();
        for Group { best, places } in groups {
            match places {
                Some(places) => {
                    let chunks = &documents[&best.chunk.doc][places];
                    passages.extend(chunks.iter().map(|chunk| Passage { chunk: chunk.clone(), ..best.clone() }));
                }
                None => passages.push(best.clone()),
            }
        }
        Ok(Context { passages, ..context })
    }

    /// The chunks of a document that come with the one at a place.
    fn around(&self, chunks: &[Chunk], at: usize, found: &HashSet<ChunkId>) -> Range<usize> {
        let near = at.saturating_sub(self.neighbours)..(at + self.neighbours + 1).min(chunks.len());
        let headings = &chunks[at].locator.headings;
        let is_same = |chunk: &&Chunk| chunk.locator.headings == *headings;
        let before = chunks[..at].iter().rev().take_while(is_same).count();
        let section = at - before..at + chunks[at..].iter().take_while(is_same).count();
        let n_found = chunks[section.clone()].iter().filter(|chunk| found.contains(&chunk.id)).count();
        if n_found >= 2 && n_found as f32 >= self.merge * section.len() as f32 {
            section.start.min(near.start)..section.end.max(near.end)
        } else {
            near
        }
    }
}

/// Passages that stand together.
struct Group<'a> {
    best: &'a Passage,
    /// Among the chunks of its document; none when the document no longer has the passage.
    places: Option<Range<usize>>,
}

impl Group<'_> {
    /// Whether both are of one document, and nothing stands between them.
    fn meets(&self, other: &Self) -> bool {
        self.best.chunk.doc == other.best.chunk.doc
            && self
                .places
                .as_ref()
                .zip(other.places.as_ref())
                .is_some_and(|(a, b)| a.start <= b.end && b.start <= a.end)
    }

    /// The places of both.
    fn with(&self, other: &Self) -> Option<Range<usize>> {
        let (a, b) = self.places.as_ref().zip(other.places.as_ref())?;
        Some(a.start.min(b.start)..a.end.max(b.end))
    }
}

impl<S> Stage<Vec<Context>> for Expand<S>
where
    S: Deref<Target: ChunkStore> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        let mut documents = HashMap::new();
        batch.into_iter().map(|context| self.expanded(context, &mut documents)).collect()
    }

    fn name(&self) -> String {
        format!("expand({}, {})", self.neighbours, self.merge)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use raglan_core::{ContentHash, Document, Format, Locator};

    use super::*;

    /// One document: chunks 0 to 3 below `A`, 4 to 6 below `B`.
    struct TwoSections;

    fn chunk(id: u32) -> Chunk {
        let headings = vec![if id < 4 { "A" } else { "B" }.to_owned()];
        let start = id as usize * 10;
        let locator = Locator { headings, ..Locator::default() };
        Chunk { id: ChunkId(id), doc: DocId(0), span: start..start + 4, text: "text".into(), locator, n_tokens: 1 }
    }

    fn document() -> Document {
        Document {
            id: DocId(0),
            path: "a.txt".to_owned(),
            hash: ContentHash([0; 32]),
            size: 0,
            mtime_ns: 0,
            format: Format::PlainText,
            reader: "text/1".to_owned(),
            encoding: None,
            title: None,
            metadata: Default::default(),
        }
    }

    impl ChunkStore for TwoSections {
        fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Chunk>> {
            Ok(ids.iter().map(|id| chunk(id.0)).collect())
        }

        fn chunks_of(&self, _: DocId) -> Result<Vec<Chunk>> {
            Ok((0..7).map(chunk).collect())
        }

        fn document(&self, _: DocId) -> Result<Arc<Document>> {
            Ok(Arc::new(document()))
        }
    }

    #[track_caller]
    fn check(neighbours: usize, merge: f32, found: &[u32], expected: &[u32]) {
        let document = Arc::new(document());
        let passage = |(i, &id): (usize, &u32)| Passage {
            chunk: chunk(id),
            document: document.clone(),
            score: 1.0 - i as f32 / 10.0,
        };
        let passages = found.iter().enumerate().map(passage).collect();
        let context = Context::new("q", passages);
        let expanded = expand(&TwoSections, neighbours, merge).run(vec![context]).unwrap();
        let ids: Vec<u32> = expanded[0].passages.iter().map(|passage| passage.chunk.id.0).collect();
        assert_eq!(ids, expected);
        assert!(expanded[0].passages.windows(2).all(|pair| pair[0].score >= pair[1].score));
    }

    #[test]
    fn neighbours_stand_around_a_passage_and_come_once() {
        check(0, 2.0, &[5, 0], &[5, 0]);
        check(0, 2.0, &[5, 4], &[4, 5]);
        check(1, 2.0, &[6, 0, 4], &[3, 4, 5, 6, 0, 1]);
        check(1, 2.0, &[5, 0], &[4, 5, 6, 0, 1]);
        check(1, 2.0, &[1, 2], &[0, 1, 2, 3]);
        check(9, 2.0, &[3], &[0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_section_is_taken_whole_when_enough_of_it_is_found() {
        check(0, 0.5, &[1, 5, 3], &[0, 1, 2, 3, 5]);
        check(0, 0.6, &[1, 5, 3], &[1, 5, 3]);
        check(0, 0.1, &[1], &[1]); // One is no sign.
    }
}
