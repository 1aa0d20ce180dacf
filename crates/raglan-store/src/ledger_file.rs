//! The ledger as a Parquet file: one row a source file, in order of path.
//!
//! Columns: `path`, `size`, `mtime_ns`, `reader`; for documents `doc_id`, `n_chunks`, `hash`, `format`, `encoding`,
//! `title`, `metadata` (JSON); for skipped files `skip_reason`. What a row does not have is null.

use std::path::Path;
use std::sync::Arc;

use arrow_array::builder::FixedSizeBinaryBuilder;
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use raglan_core::{ContentHash, DocId, Document, Format};

use crate::ledger::{Ledger, LedgerEntry, Skipped};
use crate::{Error, Result};

const ROWS_PER_BATCH: usize = 4096;
const HASH_BYTES: i32 = 32;

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("size", DataType::UInt64, false),
        Field::new("mtime_ns", DataType::Int64, false),
        Field::new("reader", DataType::Utf8, false),
        Field::new("doc_id", DataType::UInt32, true),
        Field::new("n_chunks", DataType::UInt32, true),
        Field::new("hash", DataType::FixedSizeBinary(HASH_BYTES), true),
        Field::new("format", DataType::Utf8, true),
        Field::new("encoding", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("metadata", DataType::Utf8, true),
        Field::new("skip_reason", DataType::Utf8, true),
    ]))
}

/// A row: a document or a skipped file.
#[derive(Clone, Copy)]
enum Row<'a> {
    Document(&'a LedgerEntry),
    Skipped(&'a Skipped),
}

impl<'a> Row<'a> {
    fn path(self) -> &'a str {
        match self {
            Self::Document(entry) => &entry.document.path,
            Self::Skipped(skipped) => &skipped.path,
        }
    }

    fn entry(self) -> Option<&'a LedgerEntry> {
        match self {
            Self::Document(entry) => Some(entry),
            Self::Skipped(_) => None,
        }
    }

    fn document(self) -> Option<&'a Document> {
        self.entry().map(|entry| &*entry.document)
    }
}

/// The ledger's bytes: the same for equal ledgers.
pub(crate) fn encode(ledger: &Ledger) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd")))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .build();
    let mut rows: Vec<Row<'_>> =
        ledger.entries().map(Row::Document).chain(ledger.skipped().map(Row::Skipped)).collect();
    rows.sort_unstable_by_key(|row| row.path());
    let mut writer = ArrowWriter::try_new(Vec::new(), schema(), Some(properties)).expect("the schema fits Parquet");
    for rows in rows.chunks(ROWS_PER_BATCH) {
        writer.write(&batch(rows)).expect("memory takes all that is written");
    }
    writer.into_inner().expect("memory takes all that is written")
}

fn batch(rows: &[Row<'_>]) -> RecordBatch {
    let text = |value: &dyn for<'a> Fn(Row<'a>) -> Option<&'a str>| -> ArrayRef {
        Arc::new(rows.iter().map(|&row| value(row)).collect::<StringArray>())
    };
    let mut hashes = FixedSizeBinaryBuilder::with_capacity(rows.len(), HASH_BYTES);
    for row in rows {
        match row.document() {
            Some(document) => hashes.append_value(document.hash.0).expect("the hash has the column's width"),
            None => hashes.append_null(),
        }
    }
    let by_document = |value: fn(&Document) -> String| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.document().map(value)).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|row| Some(row.path())),
        Arc::new(
            rows.iter()
                .map(|row| match row {
                    Row::Document(entry) => Some(entry.document.size),
                    Row::Skipped(skipped) => Some(skipped.size),
                })
                .collect::<UInt64Array>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| match row {
                    Row::Document(entry) => Some(entry.document.mtime_ns),
                    Row::Skipped(skipped) => Some(skipped.mtime_ns),
                })
                .collect::<Int64Array>(),
        ),
        text(&|row| match row {
            Row::Document(entry) => Some(&entry.document.reader),
            Row::Skipped(skipped) => Some(&skipped.reader_version),
        }),
        Arc::new(rows.iter().map(|row| row.document().map(|document| document.id.0)).collect::<UInt32Array>()),
        Arc::new(rows.iter().map(|row| row.entry().map(|entry| entry.n_chunks)).collect::<UInt32Array>()),
        Arc::new(hashes.finish()),
        by_document(|document| document.format.to_string()),
        text(&|row| row.document().and_then(|document| document.encoding.as_deref())),
        text(&|row| row.document().and_then(|document| document.title.as_deref())),
        by_document(|document| serde_json::to_string(&document.metadata).expect("metadata has only string keys")),
        text(&|row| match row {
            Row::Document(_) => None,
            Row::Skipped(skipped) => Some(&skipped.reason),
        }),
    ];
    RecordBatch::try_new(schema(), columns).expect("the columns are those of the schema")
}

/// Reads a ledger from bytes whose checksum is already known to be right; `path` is for errors.
pub(crate) fn decode(bytes: Vec<u8>, path: &Path) -> Result<Ledger> {
    let damaged = |problem: String| Error::damaged(path, problem);
    let builder = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).map_err(|e| damaged(e.to_string()))?;
    if builder.schema().fields() != schema().fields() {
        return Err(damaged("its columns are not those of a ledger".to_owned()));
    }
    let mut ledger = Ledger::new();
    let mut n_rows = 0;
    for batch in builder.with_batch_size(ROWS_PER_BATCH).build().map_err(|e| damaged(e.to_string()))? {
        let batch = batch.map_err(|error| damaged(error.to_string()))?;
        n_rows += batch.num_rows();
        decode_batch(&batch, &mut ledger).map_err(damaged)?;
    }
    if ledger.len() != n_rows {
        return Err(damaged("a path or a document id is there twice".to_owned()));
    }
    Ok(ledger)
}

fn decode_batch(batch: &RecordBatch, ledger: &mut Ledger) -> Result<(), String> {
    let paths: &StringArray = column(batch, 0)?;
    let sizes: &UInt64Array = column(batch, 1)?;
    let mtimes: &Int64Array = column(batch, 2)?;
    let readers: &StringArray = column(batch, 3)?;
    let ids: &UInt32Array = column(batch, 4)?;
    let n_chunks: &UInt32Array = column(batch, 5)?;
    let hashes: &FixedSizeBinaryArray = column(batch, 6)?;
    let formats: &StringArray = column(batch, 7)?;
    let encodings: &StringArray = column(batch, 8)?;
    let titles: &StringArray = column(batch, 9)?;
    let metadata: &StringArray = column(batch, 10)?;
    let reasons: &StringArray = column(batch, 11)?;
    let text = |column: &StringArray, row| (!column.is_null(row)).then(|| column.value(row).to_owned());
    for row in 0..batch.num_rows() {
        let path = paths.value(row).to_owned();
        let (size, mtime_ns, reader) = (sizes.value(row), mtimes.value(row), readers.value(row).to_owned());
        if let Some(reason) = text(reasons, row) {
            ledger.insert_skipped(Skipped { path, size, mtime_ns, reason, reader_version: reader });
            continue;
        }
        if [ids as &dyn Array, n_chunks, hashes, formats, metadata].iter().any(|column| column.is_null(row)) {
            return Err(format!("the row of `{path}` is not whole"));
        }
        let format: Format = formats.value(row).parse().map_err(|error| format!("`{path}`: {error}"))?;
        let hash = hashes.value(row).first_chunk().expect("the schema says the width");
        let document = Document {
            id: DocId(ids.value(row)),
            hash: ContentHash(*hash),
            size,
            mtime_ns,
            format,
            reader,
            encoding: text(encodings, row),
            title: text(titles, row),
            metadata: serde_json::from_str(metadata.value(row)).map_err(|error| format!("`{path}`: {error}"))?,
            path,
        };
        ledger.insert_document(document, n_chunks.value(row));
    }
    Ok(())
}

fn column<A: Array + 'static>(batch: &RecordBatch, idx: usize) -> Result<&A, String> {
    batch.column(idx).as_any().downcast_ref().ok_or_else(|| format!("column {idx} has another type"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{document, skipped};

    #[test]
    fn a_ledger_reads_back_and_equal_ledgers_have_equal_bytes() {
        let mut documents: Vec<Document> =
            (0..5000).map(|id| document(id, &format!("folder/{}.md", id * 7919 % 5000), &id.to_string())).collect();
        documents[3].title = Some("Ünïcode".into());
        documents[4].encoding = None;
        documents[5].metadata = [("author".into(), "someone".into()), ("date".into(), "2026".into())].into();
        let mut ledger = Ledger::new();
        for document in &documents {
            ledger.insert_document(document.clone(), document.id.0 % 9);
        }
        ledger.insert_skipped(skipped("folder/0x.pdf"));
        let bytes = encode(&ledger);
        let read = decode(bytes.clone(), Path::new("ledger")).unwrap();
        assert_eq!(read, ledger);

        let mut reversed = Ledger::new();
        reversed.insert_skipped(skipped("folder/0x.pdf"));
        for document in documents.into_iter().rev() {
            let n_chunks = document.id.0 % 9;
            reversed.insert_document(document, n_chunks);
        }
        assert!(encode(&reversed) == bytes);
    }

    #[test]
    fn an_empty_ledger_reads_back_and_foreign_bytes_do_not() {
        assert!(decode(encode(&Ledger::new()), Path::new("ledger")).unwrap().is_empty());
        for foreign in [&b""[..], b"PAR1", b"PAR1PAR1", b"not parquet at all, but long enough"] {
            assert!(matches!(decode(foreign.to_vec(), Path::new("ledger")), Err(Error::Damaged { .. })));
        }
    }
}
