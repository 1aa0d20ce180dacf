//! The chunk table of a segment: a Parquet file of texts and where they are from.
//!
//! Columns, by name: `chunk_id`, `doc_id`, `start`, `end` (bytes of the document's extracted text), `text`,
//! `locator` (JSON), `n_tokens`, and `text_hash` (the first 16 bytes of BLAKE3 of the text). Rows ascend by chunk id.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
    builder::FixedSizeBinaryBuilder,
};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection,
    RowSelectionPolicy, RowSelector,
};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::{PageIndexPolicy, RowGroupMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use raglan_core::{Chunk, ChunkId, DocId, Locator};

use crate::block_file::{self, BlockFile};
use crate::error::AtPath;
use crate::files::unreadable;
use crate::{Error, Result};

pub(crate) const CHUNKS_FILE: &str = "chunks.parquet";
pub(crate) const BLOCKS_FILE: &str = "chunks.blocks";

/// Text that is decompressed to read one chunk: small enough to be quick, large enough to compress well.
const TEXT_PAGE_BYTES: usize = 32 << 10;
/// Rows between two looks at whether a page is full.
const ROWS_PER_LOOK: usize = 16;
/// What bounds the pages of the other columns.
const ROWS_PER_PAGE: usize = 256;
const ROWS_PER_GROUP: usize = 1 << 15;
/// Rows and bytes of text that are handed to the Parquet writer at once; columns of strings are limited to 2 GiB.
const ROWS_PER_BATCH: usize = 4096;
const BYTES_PER_BATCH: usize = 64 << 20;
const ROWS_PER_READ: usize = 1024;
const LONGEST_TEXT: usize = 1 << 30;

const ID: usize = 0;
const DOC: usize = 1;
const TEXT: usize = 4;
const TEXT_HASH: usize = 7;
const HASH_BYTES: i32 = 16;

/// The first 16 bytes of the BLAKE3 hash of a chunk's text: equal hashes mean equal texts.
pub type TextHash = [u8; HASH_BYTES as usize];

/// The hash of a chunk's text as the chunk table stores it.
pub fn text_hash(text: &str) -> TextHash {
    *blake3::hash(text.as_bytes()).as_bytes().first_chunk().expect("BLAKE3 gives 32 bytes")
}

fn schema() -> Arc<Schema> {
    let column = |name, kind| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        column("chunk_id", DataType::UInt32),
        column("doc_id", DataType::UInt32),
        column("start", DataType::UInt64),
        column("end", DataType::UInt64),
        column("text", DataType::Utf8),
        column("locator", DataType::Utf8),
        column("n_tokens", DataType::UInt32),
        column("text_hash", DataType::FixedSizeBinary(HASH_BYTES)),
    ]))
}

/// Which chunks a segment has and whose they are, in order of chunk id.
#[derive(Debug, Default)]
pub(crate) struct ChunkColumns {
    pub(crate) ids: Vec<ChunkId>,
    pub(crate) docs: Vec<DocId>,
}

/// Writes a chunk table.
pub(crate) struct ChunkTableWriter {
    path: PathBuf,
    writer: ArrowWriter<BufWriter<File>>,
    columns: ChunkColumns,
}

impl ChunkTableWriter {
    pub(crate) fn create(segment_folder: &Path) -> Result<Self> {
        let path = segment_folder.join(CHUNKS_FILE);
        let file = BufWriter::new(File::create(&path).at("create", &path)?);
        let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd"));
        let mut properties = WriterProperties::builder()
            .set_compression(zstd)
            .set_dictionary_enabled(false) // A dictionary would be read with every random access.
            .set_statistics_enabled(EnabledStatistics::None) // They would repeat texts in the footer.
            .set_write_batch_size(ROWS_PER_LOOK)
            .set_data_page_size_limit(TEXT_PAGE_BYTES)
            .set_data_page_row_count_limit(ROWS_PER_PAGE)
            .set_max_row_group_row_count(Some(ROWS_PER_GROUP));
        for column in ["chunk_id", "doc_id", "start", "end"] {
            properties = properties.set_column_encoding(ColumnPath::from(column), Encoding::DELTA_BINARY_PACKED);
        }
        let writer = ArrowWriter::try_new(file, schema(), Some(properties.build()))
            .map_err(|error| not_written(&path, error))?;
        Ok(Self { path, writer, columns: ChunkColumns::default() })
    }

    /// Appends chunks, which must ascend by id.
    pub(crate) fn append(&mut self, mut chunks: &[Chunk]) -> Result<()> {
        while !chunks.is_empty() {
            let mut bytes = 0;
            let fits = |chunk: &&Chunk| {
                bytes += chunk.text.len();
                bytes <= BYTES_PER_BATCH
            };
            let n = chunks.iter().take(ROWS_PER_BATCH).take_while(fits).count().max(1);
            let (batch, rest) = chunks.split_at(n);
            self.append_batch(batch)?;
            chunks = rest;
        }
        Ok(())
    }

    fn append_batch(&mut self, chunks: &[Chunk]) -> Result<()> {
        let mut hashes = FixedSizeBinaryBuilder::with_capacity(chunks.len(), HASH_BYTES);
        let mut locators = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let problem = if self.columns.ids.last().is_some_and(|&last| last >= chunk.id) {
                "is out of order"
            } else if chunk.span.len() != chunk.text.len() || chunk.span.start > chunk.span.end {
                "has a span that is not as long as its text"
            } else if chunk.text.len() > LONGEST_TEXT {
                "is longer than 1 GiB"
            } else {
                self.columns.ids.push(chunk.id);
                self.columns.docs.push(chunk.doc);
                hashes.append_value(text_hash(&chunk.text)).expect("the hash has the column's width");
                locators.push(serde_json::to_string(&chunk.locator).expect("a locator has only string keys"));
                continue;
            };
            return Err(Error::inconsistent(format!("chunk {} {problem}", chunk.id.0)));
        }
        let columns: Vec<ArrayRef> = vec![
            Arc::new(chunks.iter().map(|chunk| Some(chunk.id.0)).collect::<UInt32Array>()),
            Arc::new(chunks.iter().map(|chunk| Some(chunk.doc.0)).collect::<UInt32Array>()),
            Arc::new(chunks.iter().map(|chunk| Some(chunk.span.start as u64)).collect::<UInt64Array>()),
            Arc::new(chunks.iter().map(|chunk| Some(chunk.span.end as u64)).collect::<UInt64Array>()),
            Arc::new(StringArray::from_iter_values(chunks.iter().map(|chunk| &chunk.text))),
            Arc::new(StringArray::from_iter_values(locators)),
            Arc::new(chunks.iter().map(|chunk| Some(chunk.n_tokens)).collect::<UInt32Array>()),
            Arc::new(hashes.finish()),
        ];
        let batch = RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema");
        self.writer.write(&batch).map_err(|error| not_written(&self.path, error))
    }

    /// Completes the table and writes its blocks' checksums beside it.
    pub(crate) fn finish(self) -> Result<ChunkColumns> {
        let Self { path, writer, columns } = self;
        let file = writer.into_inner().map_err(|error| not_written(&path, error))?;
        file.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", &path)?;
        let blocks = path.with_file_name(BLOCKS_FILE);
        std::fs::write(&blocks, block_file::checksums_of(&path)?).at("write", &blocks)?;
        Ok(columns)
    }
}

fn not_written(path: &Path, error: parquet::errors::ParquetError) -> Error {
    Error::Io { action: "write", path: path.to_owned(), source: std::io::Error::other(error) }
}

/// A chunk table that is read a few rows at a time, or whole.
#[derive(Debug)]
pub(crate) struct ChunkTable {
    path: PathBuf,
    file: BlockFile,
    metadata: ArrowReaderMetadata,
    n_rows: usize,
}

impl ChunkTable {
    /// Opens a table; its footer is checked and read, its rows are not.
    pub(crate) fn open(path: PathBuf, file: File, len: u64, checksums: Vec<u8>, n_chunks: u32) -> Result<Self> {
        let found = file.metadata().map_err(|error| unreadable(&path, error))?.len();
        if found != len {
            return Err(Error::damaged(&path, format!("it has {found} bytes, the manifest says {len}")));
        }
        let file = BlockFile::new(file, len, checksums, &path.with_file_name(BLOCKS_FILE))?;
        let options = ArrowReaderOptions::new()
            .with_offset_index_policy(PageIndexPolicy::Required)
            .with_column_index_policy(PageIndexPolicy::Skip);
        let metadata = ArrowReaderMetadata::load(&file, options).map_err(|error| Error::damaged(&path, error))?;
        if metadata.schema().fields() != schema().fields() {
            return Err(Error::damaged(&path, "its columns are not those of a chunk table"));
        }
        let n_rows: i64 = metadata.metadata().row_groups().iter().map(RowGroupMetaData::num_rows).sum();
        if n_rows != i64::from(n_chunks) {
            return Err(Error::damaged(&path, format!("it has {n_rows} rows, the manifest says {n_chunks}")));
        }
        Ok(Self { path, file, metadata, n_rows: n_chunks as usize })
    }

    /// The columns of ids, read alone.
    pub(crate) fn columns(&self) -> Result<ChunkColumns> {
        let mut columns = ChunkColumns::default();
        for batch in self.reader(&[ID, DOC], None)? {
            let batch = batch.map_err(|error| Error::damaged(&self.path, error))?;
            columns.ids.extend(self.column::<UInt32Array>(&batch, ID)?.values().iter().copied().map(ChunkId));
            columns.docs.extend(self.column::<UInt32Array>(&batch, DOC)?.values().iter().copied().map(DocId));
        }
        self.check_n_rows(columns.ids.len(), self.n_rows)?;
        if !columns.ids.windows(2).all(|pair| pair[0] < pair[1]) {
            return Err(Error::damaged(&self.path, "its chunks are out of order"));
        }
        Ok(columns)
    }

    /// The rows with these indices, which must ascend.
    pub(crate) fn rows(&self, rows: &[usize]) -> Result<Vec<Chunk>> {
        let mut groups = Vec::new();
        let mut selectors = Vec::new();
        let mut rows_left = rows;
        let mut group_start = 0;
        for (idx, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let group_end = group_start + group.num_rows() as usize;
            let (here, later) = rows_left.split_at(rows_left.partition_point(|&row| row < group_end));
            if !here.is_empty() {
                groups.push(idx);
                let mut at = group_start;
                for &row in here {
                    selectors.push(RowSelector::skip(row - at));
                    selectors.push(RowSelector::select(1));
                    at = row + 1;
                }
                selectors.push(RowSelector::skip(group_end - at));
            }
            rows_left = later;
            group_start = group_end;
        }
        self.read_chunks(Some((groups, RowSelection::from(selectors))), rows.len())
    }

    /// All rows.
    pub(crate) fn all(&self) -> Result<Vec<Chunk>> {
        self.read_chunks(None, self.n_rows)
    }

    /// The hashes of the texts, in order of chunk id.
    pub(crate) fn text_hashes(&self) -> Result<Vec<TextHash>> {
        let mut hashes = Vec::with_capacity(self.n_rows);
        for batch in self.reader(&[TEXT_HASH], None)? {
            let batch = batch.map_err(|error| Error::damaged(&self.path, error))?;
            let column = self.column::<FixedSizeBinaryArray>(&batch, TEXT_HASH)?;
            hashes.extend((0..column.len()).map(|row| {
                *column.value(row).first_chunk::<{ HASH_BYTES as usize }>().expect("the schema says the width")
            }));
        }
        self.check_n_rows(hashes.len(), self.n_rows)?;
        Ok(hashes)
    }

    fn read_chunks(&self, rows: Option<(Vec<usize>, RowSelection)>, n_rows: usize) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::with_capacity(n_rows);
        for batch in self.reader(&[ID, DOC, 2, 3, TEXT, 5, 6], rows)? {
            let batch = batch.map_err(|error| Error::damaged(&self.path, error))?;
            let ids = self.column::<UInt32Array>(&batch, ID)?.values();
            let docs = self.column::<UInt32Array>(&batch, DOC)?.values();
            let starts = self.column::<UInt64Array>(&batch, 2)?.values();
            let ends = self.column::<UInt64Array>(&batch, 3)?.values();
            let texts = self.column::<StringArray>(&batch, TEXT)?;
            let locators = self.column::<StringArray>(&batch, 5)?;
            let n_tokens = self.column::<UInt32Array>(&batch, 6)?.values();
            for row in 0..batch.num_rows() {
                let locator: Locator = serde_json::from_str(locators.value(row))
                    .map_err(|error| Error::damaged(&self.path, format!("a locator: {error}")))?;
                chunks.push(Chunk {
                    id: ChunkId(ids[row]),
                    doc: DocId(docs[row]),
                    span: self.offset(starts[row])?..self.offset(ends[row])?,
                    text: texts.value(row).to_owned(),
                    locator,
                    n_tokens: n_tokens[row],
                });
            }
        }
        self.check_n_rows(chunks.len(), n_rows)?;
        Ok(chunks)
    }

    fn reader(&self, columns: &[usize], rows: Option<(Vec<usize>, RowSelection)>) -> Result<ParquetRecordBatchReader> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), columns.iter().copied());
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_projection(mask)
            .with_batch_size(ROWS_PER_READ);
        if let Some((groups, selection)) = rows {
            // Selectors skip whole pages, which is the point of reading by row.
            builder = builder
                .with_row_groups(groups)
                .with_row_selection(selection)
                .with_row_selection_policy(RowSelectionPolicy::Selectors);
        }
        builder.build().map_err(|error| Error::damaged(&self.path, error))
    }

    fn column<'a, A: Array + 'static>(&self, batch: &'a RecordBatch, column: usize) -> Result<&'a A> {
        let schema = self.metadata.schema();
        batch
            .column_by_name(schema.field(column).name())
            .and_then(|array| array.as_any().downcast_ref())
            .ok_or_else(|| Error::damaged(&self.path, format!("column {column} has another type")))
    }

    fn offset(&self, offset: u64) -> Result<usize> {
        usize::try_from(offset).map_err(|_| Error::damaged(&self.path, "an offset is too large for this machine"))
    }

    fn check_n_rows(&self, found: usize, expected: usize) -> Result<()> {
        if found == expected {
            Ok(())
        } else {
            Err(Error::damaged(&self.path, format!("{found} rows were read where {expected} were asked for")))
        }
    }
}
