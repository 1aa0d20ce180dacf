//! Parquet files, read and written by the names of their columns.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type, Int32Type, Int64Type};
use arrow_array::{Array, ArrayRef, Float32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::{Error, Result};

/// Rows written at once; columns of strings are limited to 2 GiB.
const ROWS_PER_BATCH: usize = 8192;

pub(crate) fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "parquet")
}

/// Calls `take` with the batches of a file, in order.
pub(crate) fn each(path: &Path, mut take: impl FnMut(&Batch<'_>) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { path: path.to_owned(), remedy: String::new() },
        _ => Error::Io { path: path.to_owned(), source },
    })?;
    let damaged = |problem: String| Error::Table { path: path.to_owned(), problem };
    // Without the writer's own Arrow schema every text is a plain string, not a view, a dictionary or a large string.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|error| damaged(error.to_string()))?;
    let mut first_row = 0;
    for batch in reader {
        let batch = Batch { path, batch: batch.map_err(|error| damaged(error.to_string()))?, first_row };
        take(&batch)?;
        first_row += batch.n_rows();
    }
    Ok(())
}

/// Some rows.
pub(crate) struct Batch<'a> {
    path: &'a Path,
    batch: RecordBatch,
    first_row: usize,
}

/// A column of texts; integers are read as their digits, as ids are written both ways.
pub(crate) struct Strings<'a> {
    batch: &'a Batch<'a>,
    name: &'a str,
    column: &'a dyn Array,
}

/// A column of numbers.
pub(crate) struct Numbers<'a>(Strings<'a>);

impl Batch<'_> {
    pub(crate) fn n_rows(&self) -> usize {
        self.batch.num_rows()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.batch.column_by_name(name).is_some()
    }

    /// An error in a row of this batch.
    pub(crate) fn problem(&self, row: usize, problem: &str) -> Error {
        let problem = format!("row {}: {problem}", self.first_row + row + 1);
        Error::Table { path: self.path.to_owned(), problem }
    }

    fn column<'a>(&'a self, name: &'a str, kinds: &[DataType], wanted: &str) -> Result<Strings<'a>> {
        let table = |problem| Error::Table { path: self.path.to_owned(), problem };
        let Some(column) = self.batch.column_by_name(name) else {
            let there: Vec<String> =
                self.batch.schema().fields().iter().map(|field| format!("`{}`", field.name())).collect();
            return Err(table(format!("there is no column `{name}`, but {}; rename one", there.join(", "))));
        };
        let kind = column.data_type();
        if !kinds.contains(kind) {
            return Err(table(format!("column `{name}` holds {kind}, not {wanted}")));
        }
        Ok(Strings { batch: self, name, column })
    }

    pub(crate) fn strings<'a>(&'a self, name: &'a str) -> Result<Strings<'a>> {
        self.column(name, &[DataType::Utf8, DataType::Int64, DataType::Int32], "texts or integers")
    }

    pub(crate) fn numbers<'a>(&'a self, name: &'a str) -> Result<Numbers<'a>> {
        let kinds = [DataType::Float64, DataType::Float32, DataType::Int64, DataType::Int32];
        Ok(Numbers(self.column(name, &kinds, "numbers")?))
    }
}

impl<'a> Strings<'a> {
    /// The text of a row, empty where there is none.
    pub(crate) fn or_empty(&self, row: usize) -> Cow<'a, str> {
        if self.column.is_null(row) {
            return Cow::Borrowed("");
        }
        match self.column.data_type() {
            DataType::Utf8 => Cow::Borrowed(self.column.as_string::<i32>().value(row)),
            DataType::Int64 => Cow::Owned(self.column.as_primitive::<Int64Type>().value(row).to_string()),
            DataType::Int32 => Cow::Owned(self.column.as_primitive::<Int32Type>().value(row).to_string()),
            kind => unreachable!("columns of {kind} were refused"),
        }
    }

    pub(crate) fn at(&self, row: usize) -> Result<Cow<'a, str>> {
        if self.column.is_null(row) {
            return Err(self.batch.problem(row, &format!("column `{}` is empty", self.name)));
        }
        Ok(self.or_empty(row))
    }
}

impl Numbers<'_> {
    pub(crate) fn at(&self, row: usize) -> Result<f64> {
        let Strings { batch, name, column } = self.0;
        if column.is_null(row) {
            return Err(batch.problem(row, &format!("column `{name}` is empty")));
        }
        Ok(match column.data_type() {
            DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
            DataType::Float32 => f64::from(column.as_primitive::<Float32Type>().value(row)),
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row) as f64,
            DataType::Int32 => f64::from(column.as_primitive::<Int32Type>().value(row)),
            kind => unreachable!("columns of {kind} were refused"),
        })
    }
}

/// A value of a column.
pub(crate) enum Cell<'a> {
    Text(&'a str),
    Integer(i64),
    Float(f32),
}

/// Writes rows as a table with columns of these names. All cells of a column are of one kind.
pub(crate) fn write<'a, const N: usize>(
    path: &Path,
    names: [&str; N],
    kinds: [DataType; N],
    rows: impl Iterator<Item = [Cell<'a>; N]>,
) -> Result<()> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let failed = |error: parquet::errors::ParquetError| io(std::io::Error::other(error));
    let fields: Vec<Field> = names.iter().zip(kinds).map(|(&name, kind)| Field::new(name, kind, false)).collect();
    let schema = Arc::new(Schema::new(fields));
    let zstd = Compression::ZSTD(ZstdLevel::try_new(3).expect("3 is a level of zstd"));
    let properties = WriterProperties::builder().set_compression(zstd).build();
    let file = File::create(path).map_err(io)?;
    let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).map_err(failed)?;
    let mut rows = rows.peekable();
    while rows.peek().is_some() {
        let some: Vec<[Cell<'a>; N]> = rows.by_ref().take(ROWS_PER_BATCH).collect();
        let arrays = (0..N).map(|column| array(&some, column)).collect();
        let batch = RecordBatch::try_new(schema.clone(), arrays).expect("the cells are of the columns' kinds");
        writer.write(&batch).map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    Ok(())
}

/// A column of rows, of which there is at least one.
fn array<const N: usize>(rows: &[[Cell<'_>; N]], column: usize) -> ArrayRef {
    let cells = rows.iter().map(|row| &row[column]);
    match rows[0][column] {
        Cell::Text(_) => Arc::new(StringArray::from_iter(cells.map(|cell| match cell {
            Cell::Text(text) => Some(text),
            _ => None,
        }))),
        Cell::Integer(_) => Arc::new(Int64Array::from_iter(cells.map(|cell| match *cell {
            Cell::Integer(integer) => Some(integer),
            _ => None,
        }))),
        Cell::Float(_) => Arc::new(Float32Array::from_iter(cells.map(|cell| match *cell {
            Cell::Float(float) => Some(float),
            _ => None,
        }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::basic::GzipLevel;

    #[test]
    fn files_are_read_as_others_compress_them() {
        let folder = tempfile::tempdir().unwrap();
        let codecs = [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
        ];
        for codec in codecs {
            let path = folder.path().join("a.parquet");
            let schema = Arc::new(Schema::new(vec![Field::new("query-id", DataType::Utf8, false)]));
            let properties = WriterProperties::builder().set_compression(codec).build();
            let file = File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, schema.clone(), Some(properties)).unwrap();
            let column: ArrayRef = Arc::new(StringArray::from(vec!["q1"; 1000]));
            writer.write(&RecordBatch::try_new(schema, vec![column]).unwrap()).unwrap();
            writer.close().unwrap();
            let mut n = 0;
            each(&path, |batch| {
                let queries = batch.strings("query-id")?;
                assert_eq!(queries.at(n)?, "q1", "{codec:?}");
                n += batch.n_rows();
                Ok(())
            })
            .unwrap();
            assert_eq!(n, 1000, "{codec:?}");
        }
    }
}
