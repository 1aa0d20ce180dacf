//! A part of a segment, open for searching.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::ChunkSet;
use tantivy::postings::BlockSegmentPostings;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Index, InvertedIndexReader, SegmentReader, Term};

use crate::part_directory::{Access, PartDirectory, file_name};
use crate::segment_files::{self, PartDocs};
use crate::writer::TEXT;
use crate::{AnalyzerConfig, Error, Result};

/// A tantivy segment with the chunks of its documents.
///
/// Documents are in order of their ids, so that a lower document has a lower id.
pub struct Part {
    folder: PathBuf,
    postings: Arc<InvertedIndexReader>,
    field: Field,
    pub ids: Vec<u32>,
    /// In terms.
    pub lengths: Vec<u32>,
    /// Documents of deleted chunks, increasing.
    pub deleted: Vec<u32>,
    /// `k1 · (1 − b + b · dl / avgdl)` of each document, once `avgdl` of the whole index is known.
    pub norms: Vec<f32>,
}

impl Part {
    /// Opens the parts of the segment in `folder`.
    pub fn open_all(folder: &Path, deleted: &ChunkSet, analyzer: &AnalyzerConfig) -> Result<Vec<Self>> {
        segment_files::read(folder, analyzer)?.into_iter().map(|docs| Self::open(folder, docs, deleted)).collect()
    }

    fn open(folder: &Path, docs: PartDocs, deleted: &ChunkSet) -> Result<Self> {
        let PartDocs { part, ids, lengths } = docs;
        let open = || {
            let index = Index::open(PartDirectory::open(folder, part, Access::Read)?)?;
            let field = index.schema().get_field(TEXT)?;
            let segments = index.searchable_segments()?;
            let readers = segments.iter().map(SegmentReader::open).collect::<tantivy::Result<Vec<_>>>()?;
            let n_docs: Vec<u32> = readers.iter().map(SegmentReader::max_doc).collect();
            let postings = readers.first().map(|reader| reader.inverted_index(field)).transpose()?;
            Ok((field, n_docs, postings))
        };
        let (field, n_docs, postings) = open().map_err(Error::tantivy::<tantivy::TantivyError>(folder))?;
        let Some(postings) = postings.filter(|_| n_docs == [ids.len() as u32]) else {
            let path = folder.join(file_name(part, "meta"));
            return Err(Error::damaged(&path, "it has not as many documents as there are chunks"));
        };
        let mut part =
            Self { folder: folder.to_owned(), postings, field, ids, lengths, deleted: Vec::new(), norms: Vec::new() };
        part.deleted = part.docs_of(deleted);
        Ok(part)
    }

    /// The documents of those chunks of a set that are here, increasing.
    pub fn docs_of(&self, chunks: &ChunkSet) -> Vec<u32> {
        let (Some(&first), Some(&last)) = (self.ids.first(), self.ids.last()) else { return Vec::new() };
        let mut docs = Vec::new();
        let mut doc = 0;
        for id in chunks.bitmap().range(first..=last) {
            // Ids are mostly consecutive, so the next is near; the gap is found by doubling.
            let mut step = 1;
            while doc + step < self.ids.len() && self.ids[doc + step] < id {
                step *= 2;
            }
            let end = (doc + step + 1).min(self.ids.len());
            doc += self.ids[doc..end].partition_point(|&other| other < id);
            if self.ids.get(doc) == Some(&id) {
                docs.push(doc as u32);
            }
        }
        docs
    }

    /// The postings of a term, if it is here.
    pub fn postings(&self, term: &str) -> Result<Option<BlockSegmentPostings>> {
        let term = Term::from_field_text(self.field, term);
        self.postings.read_block_postings(&term, IndexRecordOption::WithFreqs).map_err(Error::io(&self.folder))
    }

    /// How many live documents are in the postings.
    pub fn live_df(&self, postings: &mut BlockSegmentPostings) -> u64 {
        let df = postings.doc_freq();
        let n_deleted = self.deleted.iter().filter(|&&doc| frequency(postings, doc) > 0).count();
        u64::from(df) - n_deleted as u64
    }
}

/// How often a term is in a document; documents are asked for in increasing order.
#[inline]
pub fn frequency(postings: &mut BlockSegmentPostings, doc: u32) -> u32 {
    let at = postings.seek(doc);
    if postings.doc(at) == doc { postings.freq(at) } else { 0 }
}
