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

/// Calls `take` with the fields of each line that is not blank, split at ASCII white space; of more than seven fields,
/// with seven. Gives what `take` refused, with the line, from 1; and how many lines there were until then.
///
/// White space is looked for in 64 bytes at a time, as a run is megabytes of short fields.
pub(crate) fn each_with_fields<'a>(
    text: &'a str,
    mut take: impl FnMut(&[&'a str]) -> Result<(), String>,
) -> (Result<(), (usize, String)>, usize) {
    let bytes = text.as_bytes();
    let mut fields = [""; 7];
    let (mut n_fields, mut start, mut n_lines) = (0, 0, 0);
    for base in (0..bytes.len()).step_by(64) {
        let mut blanks = match bytes.get(base..base + 64) {
            Some(some) => up_to_blank(some.try_into().expect("64 bytes were taken")),
            None => {
                let mut some = [b'x'; 64];
                some[..bytes.len() - base].copy_from_slice(&bytes[base..]);
                up_to_blank(&some)
            }
        };
        while blanks != 0 {
            let at = base + blanks.trailing_zeros() as usize;
            blanks &= blanks - 1;
            if !bytes[at].is_ascii_whitespace() {
                continue; // Another control character.
            }
            if at > start && n_fields < fields.len() {
                fields[n_fields] = &text[start..at];
                n_fields += 1;
            }
            start = at + 1;
            if bytes[at] == b'\n' {
                n_lines += 1;
                if n_fields > 0 {
                    if let Err(problem) = take(&fields[..n_fields]) {
                        return (Err((n_lines, problem)), n_lines);
                    }
                    n_fields = 0;
                }
            }
        }
    }
    if start < bytes.len() && n_fields < fields.len() {
        fields[n_fields] = &text[start..];
        n_fields += 1;
    }
    if n_fields > 0 {
        n_lines += 1;
        if let Err(problem) = take(&fields[..n_fields]) {
            return (Err((n_lines, problem)), n_lines);
        }
    }
    (Ok(()), n_lines)
}

/// A bit for each byte that is at most a blank, the first byte's lowest.
fn up_to_blank(bytes: &[u8; 64]) -> u64 {
    const LOW: u64 = u64::from_ne_bytes([0x7f; 8]);
    let (words, _) = bytes.as_chunks::<8>();
    let mut bits = 0;
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The high bit of each byte up to 0x20: adding 0x5f carries into it from 0x21 on, and no further.
        let found = !(((word & LOW) + u64::from_ne_bytes([0x5f; 8])) | word) & !LOW;
        // Brings the eight bits, now lowest in their bytes, together in the highest byte, in order.
        bits |= ((found >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i);
    }
    bits
}

/// Reads a line that is an object of JSON; `form` shows one. A problem is told with its column, as the line is told by
/// [`each`].
pub(crate) fn json<'a, T: serde::Deserialize<'a>>(line: &'a str, form: &str) -> Result<T, String> {
    let read = match line.trim_start().starts_with('{') {
        true => serde_json::from_str(line).map_err(|error| json_problem(&error)),
        false => Err("it is no object of JSON".to_owned()),
    };
    read.map_err(|problem| format!("{problem}; a line is `{form}`"))
}

/// What is wrong with JSON, and in which column.
pub(crate) fn json_problem(error: &serde_json::Error) -> String {
    let told = error.to_string();
    match told.rsplit_once(" at line ") {
        Some((problem, _)) => format!("column {}: {problem}", error.column()),
        None => told,
    }
}

/// An id; some collections write it as a number.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "an id is a text or a whole number")]
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

/// Checks that ids can stand in a TREC file.
pub(crate) fn check_ids<'a>(path: &Path, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match ids.into_iter().find(|id| id.is_empty() || id.contains(|c: char| c.is_ascii_whitespace())) {
        Some(id) => Err(Error::Id { path: path.to_owned(), id: id.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the standard library's way, on lines of every alignment.
    #[test]
    fn fields_are_split_at_white_space() {
        let pieces = ["q1", " ", "\t", "\n", "é\u{1}x", "\r\n", "  ", "longer-than-a-word", "\u{c}", "\u{85}", "1.5"];
        let mut random = 7u64;
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..40 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text += pieces[(random >> 33) as usize % pieces.len()];
            }
            let mut found: Vec<Vec<&str>> = Vec::new();
            let (outcome, n_lines) = each_with_fields(&text, |fields| {
                found.push(fields.to_vec());
                Ok(())
            });
            outcome.expect("nothing was refused");
            let expected: Vec<Vec<&str>> = text
                .split('\n')
                .map(|line| line.split_ascii_whitespace().take(7).collect::<Vec<_>>())
                .filter(|fields| !fields.is_empty())
                .collect();
            assert_eq!(found, expected, "{text:?}");
            assert!(n_lines <= text.split('\n').count());
        }
        let refused =
            each_with_fields("a\n\nb c\nd", |fields| if fields.len() == 2 { Err("x".into()) } else { Ok(()) });
        assert_eq!(refused, (Err((3, "x".to_owned())), 3));
    }
}
