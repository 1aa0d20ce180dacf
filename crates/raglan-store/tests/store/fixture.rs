//! Small indexes: files whose lines are their chunks.

use std::collections::BTreeMap;
use std::path::Path;

use raglan_core::{Chunk, ChunkId, ChunkSet, ContentHash, DocId, Document, Format, Locator};
use raglan_store::{Commit, Error, Ledger, Passport, Result, SegmentId, Skipped, Snapshot, Writer};

pub fn passport() -> Passport {
    Passport { chunker: "lines/1".into(), readers: [("text".to_owned(), "1".to_owned())].into(), ..Passport::default() }
}

pub fn content_hash(content: &str) -> ContentHash {
    let mut hash = [0u8; 32];
    for (i, byte) in content.bytes().enumerate() {
        hash[i % 32] = hash[i % 32].wrapping_mul(31).wrapping_add(byte);
    }
    ContentHash(hash)
}

pub fn document(id: DocId, path: &str, content: &str) -> Document {
    Document {
        id,
        path: path.into(),
        hash: content_hash(content),
        size: content.len() as u64,
        mtime_ns: 1_700_000_000_000_000_000 + i64::from(id.0),
        format: Format::PlainText,
        reader: "text/1".into(),
        encoding: Some("utf-8".into()),
        title: Some(format!("Title of {path}")),
        metadata: [("author".to_owned(), "nobody".to_owned())].into(),
    }
}

/// One chunk a line.
pub fn chunks(first: ChunkId, doc: DocId, content: &str) -> Vec<Chunk> {
    let (mut start, mut found) = (0, Vec::new());
    for (line, text) in content.lines().enumerate() {
        found.push(Chunk {
            id: ChunkId(first.0 + line as u32),
            doc,
            span: start..start + text.len(),
            text: text.into(),
            locator: Locator {
                line: Some(line as u32 + 1),
                headings: vec!["Lines".into(), format!("Ünïcode › {}", doc.0)],
                ..Locator::default()
            },
            n_tokens: text.split(' ').count() as u32,
        });
        start += text.len() + 1;
    }
    found
}

/// Indexes files, in place of what was at their paths, as one commit with one segment.
pub fn index(writer: &mut Writer, files: &[(&str, &str)]) -> Result<Snapshot> {
    let mut ledger = writer.snapshot().ledger()?.clone();
    let (mut next_doc, mut next_chunk) = (writer.next_doc_id(), writer.next_chunk_id());
    let (mut delete, mut added) = (ChunkSet::new(), Vec::new());
    for (path, content) in files {
        if let Some(entry) = ledger.remove(path) {
            for chunk in writer.snapshot().chunks_of(entry.document.id)? {
                delete.insert(chunk.id);
            }
        }
        let chunks = chunks(next_chunk, next_doc, content);
        ledger.insert_document(document(next_doc, path, content), chunks.len() as u32);
        next_chunk.0 += chunks.len() as u32;
        next_doc.0 += 1;
        added.extend(chunks);
    }
    let add = if added.is_empty() { vec![] } else { vec![segment(writer, &added)?] };
    writer.commit(Commit { add, drop: vec![], delete, ledger })
}

/// A segment with two parts whose bytes follow from its chunks.
pub fn segment(writer: &mut Writer, chunks: &[Chunk]) -> Result<raglan_store::SegmentDraft> {
    let mut draft = writer.new_segment()?;
    // Two calls, so that appending is used everywhere.
    let (first, rest) = chunks.split_at(chunks.len() / 2);
    draft.write_chunks(first)?;
    draft.write_chunks(rest)?;
    let text: String = chunks.iter().map(|chunk| chunk.text.as_str()).collect();
    std::fs::write(draft.part_dir("bm25")?.join("postings"), &text).unwrap();
    let nested = draft.part_dir("dense")?.join("graph");
    std::fs::create_dir_all(&nested).unwrap();
    std::fs::write(nested.join("layer 0"), text.to_uppercase()).unwrap();
    std::fs::write(draft.part_dir("dense")?.join("vectors"), text.to_lowercase()).unwrap();
    Ok(draft)
}

/// Merges segments into one.
pub fn merge(writer: &mut Writer, segments: &[SegmentId]) -> Result<Snapshot> {
    let snapshot = writer.snapshot().clone();
    let chunks = snapshot.live_chunks_of(segments)?;
    let add = if chunks.is_empty() { vec![] } else { vec![segment(writer, &chunks)?] };
    let ledger = snapshot.ledger()?.clone();
    writer.commit(Commit { add, drop: segments.to_vec(), delete: ChunkSet::new(), ledger })
}

/// Removes a file.
pub fn remove(writer: &mut Writer, path: &str) -> Result<Snapshot> {
    let mut ledger = writer.snapshot().ledger()?.clone();
    let entry = ledger.remove(path).expect("the file is indexed");
    let delete = writer.snapshot().chunks_of(entry.document.id)?.into_iter().map(|chunk| chunk.id).collect();
    writer.commit(Commit { add: vec![], drop: vec![], delete, ledger })
}

pub fn skipped(path: &str) -> Skipped {
    Skipped { path: path.into(), size: 5, mtime_ns: 7, reason: "no text".into(), reader_version: "pdf/1".into() }
}

/// Everything that can be read from an index.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub ledger: Ledger,
    pub deleted: ChunkSet,
    pub chunks: Vec<Chunk>,
    pub by_document: BTreeMap<String, Vec<Chunk>>,
    pub parts: BTreeMap<String, Vec<u8>>,
}

/// Reads everything, in every way there is.
pub fn read_everything(folder: &Path) -> Result<Contents> {
    contents(&Snapshot::open(folder)?)
}

pub fn contents(snapshot: &Snapshot) -> Result<Contents> {
    let mut contents = Contents {
        ledger: snapshot.ledger()?.clone(),
        deleted: snapshot.deleted().clone(),
        chunks: Vec::new(),
        by_document: BTreeMap::new(),
        parts: BTreeMap::new(),
    };
    for segment in snapshot.segments() {
        contents.chunks.extend(snapshot.segment_chunks(segment.id)?);
        for part in ["bm25", "dense"] {
            let folder = snapshot.segment_dir(segment.id, part)?;
            for file in segment.part(part) {
                let name = file.path.strip_prefix(&format!("{}/{part}/", segment.folder())).unwrap();
                let path = folder.join(name);
                let bytes = std::fs::read(&path).map_err(|source| Error::Io { action: "read", path, source })?;
                contents.parts.insert(file.path.clone(), bytes);
            }
        }
    }
    for document in snapshot.ledger()?.documents() {
        contents.by_document.insert(document.path.clone(), snapshot.chunks_of(document.id)?);
    }
    Ok(contents)
}

/// The files of an index with their texts, line by line, as its chunks have them.
pub fn texts(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let ledger = snapshot.ledger().unwrap();
    ledger
        .documents()
        .map(|document| {
            let chunks = snapshot.chunks_of(document.id).unwrap();
            (document.path.clone(), chunks.into_iter().map(|chunk| chunk.text + "\n").collect())
        })
        .collect()
}

#[track_caller]
pub fn assert_clean(snapshot: &Snapshot) {
    let report = snapshot.verify();
    assert!(report.is_clean(), "{report:#?}");
}
