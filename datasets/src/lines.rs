//! Text files, plain or compressed, read line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::{Error, Result};

/// Whether `path`, `path.gz` or `path.zst` is there.
pub(crate) fn exists(path: &Path) -> bool {
    forms(path).any(|path| path.exists())
}

/// The path itself, and with the endings of compressed files.
fn forms(path: &Path) -> impl Iterator<Item = PathBuf> {
    ["", ".gz", ".zst"].into_iter().map(move |end| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    })
}

/// Opens `path`, or `path.gz` or `path.zst` if there is no such file; gives the path that was opened.
///
/// Decompression goes by the name's end, also when `path` itself ends in `.gz` or `.zst`.
pub(crate) fn open(path: &Path) -> Result<(PathBuf, Box<dyn BufRead + Send>)> {
    for found in forms(path) {
        let file = match File::open(&found) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::Io { path: found, source }),
        };
        let reader: Box<dyn BufRead + Send> = match found.extension().and_then(|end| end.to_str()) {
            Some("gz") => Box::new(BufReader::new(MultiGzDecoder::new(BufReader::new(file)))),
            Some("zst") => match zstd::Decoder::new(file) {
                Ok(decoder) => Box::new(BufReader::new(decoder)),
                Err(source) => return Err(Error::Io { path: found, source }),
            },
            _ => Box::new(BufReader::new(file)),
        };
        return Ok((found, reader));
    }
    Err(Error::Missing { path: path.to_owned(), remedy: String::new() })
}

/// Calls `take` with the number, from 1, and the text of each line that is not blank.
///
/// A problem that `take` returns becomes [`Error::Malformed`]. A byte order mark at the start is dropped.
pub(crate) fn each(path: &Path, mut take: impl FnMut(usize, &str) -> Result<(), String>) -> Result<()> {
    let (path, mut reader) = open(path)?;
    let mut bytes = Vec::new();
    let mut line = 0;
    loop {
        bytes.clear();
        if reader.read_until(b'\n', &mut bytes).map_err(|source| Error::Io { path: path.clone(), source })? == 0 {
            return Ok(());
        }
        line += 1;
        let malformed = |problem| Error::Malformed { path: path.clone(), line, problem };
        let text = std::str::from_utf8(&bytes).map_err(|error| malformed(error.to_string()))?;
        let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            take(line, text).map_err(malformed)?;
        }
    }
}

/// Reads the whole file as text, byte for byte.
pub(crate) fn whole(path: &Path) -> Result<String> {
    let (path, mut reader) = open(path)?;
    let mut text = String::new();
    reader.read_to_string(&mut text).map_err(|source| Error::Io { path, source })?;
    Ok(text)
}

/// Writes a file through `fill`.
pub(crate) fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let written = || -> std::io::Result<()> {
        let mut writer = BufWriter::new(File::create(path)?);
        fill(&mut writer)?;
        writer.flush()
    };
    written().map_err(|source| Error::Io { path: path.to_owned(), source })
}

/// Reads a line of JSON; a problem is told with its column, as the line is told by [`each`].
pub(crate) fn json<'a, T: serde::Deserialize<'a>>(line: &'a str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|error| {
        let told = error.to_string();
        match told.rsplit_once(" at line ") {
            Some((problem, _)) => format!("column {}: {problem}", error.column()),
            None => told,
        }
    })
}

/// An id; some collections write it as a number.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Id {
    Text(String),
    Number(i64),
}

impl Id {
    pub(crate) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// Splits a line of a TREC file into its `N` fields; `form` names them.
pub(crate) fn fields<'a, const N: usize>(line: &'a str, form: &str) -> Result<[&'a str; N], String> {
    let found: Vec<&str> = line.split_ascii_whitespace().collect();
    let n = found.len();
    found.try_into().map_err(|_| format!("expected {N} fields, found {n}; a line is `{form}`"))
}

/// Checks that ids can stand in a TREC file.
pub(crate) fn check_ids<'a>(path: &Path, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match ids.into_iter().find(|id| id.is_empty() || id.contains(|c: char| c.is_ascii_whitespace())) {
        Some(id) => Err(Error::Id { path: path.to_owned(), id: id.to_owned() }),
        None => Ok(()),
    }
}
