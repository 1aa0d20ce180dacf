//! The files of a segment beside those of tantivy.
//!
//! `bm25.json` says which format, which analyzer and which parts; `bm25.docs` has the chunks of each part in order, as
//! ids and then lengths in terms, little-endian u32.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use raglan_segment_file::Error as FileError;
use serde::{Deserialize, Serialize};

use crate::{AnalyzerConfig, Error, Result};

pub const VERSION: u32 = 1;
const HEADER: &str = "bm25.json";
const DOCS: &str = "bm25.docs";

/// The memory that a part's terms may take before the next part is begun.
pub const PART_BYTES: usize = 384 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    analyzer: AnalyzerConfig,
    /// The number and the size of each part.
    parts: Vec<(usize, u32)>,
}

/// The chunks of a part, in the order of its documents.
#[derive(Default)]
pub struct PartDocs {
    pub part: usize,
    /// Increasing.
    pub ids: Vec<u32>,
    /// In terms.
    pub lengths: Vec<u32>,
}

/// Writes both files; whoever commits the folder makes them durable.
pub fn write(folder: &Path, analyzer: &AnalyzerConfig, parts: &[PartDocs]) -> Result<()> {
    let mut docs = Vec::new();
    for number in parts.iter().flat_map(|part| part.ids.iter().chain(&part.lengths)) {
        docs.extend_from_slice(&number.to_le_bytes());
    }
    let sizes = parts.iter().map(|part| (part.part, part.ids.len() as u32)).collect();
    let header = Header { version: VERSION, analyzer: analyzer.clone(), parts: sizes };
    write_file(&folder.join(DOCS), &docs)?;
    write_file(&folder.join(HEADER), &serde_json::to_vec(&header).expect("plain fields"))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    File::create_new(path).and_then(|mut file| file.write_all(bytes)).map_err(Error::io(path))
}

/// Reads both files; fails when the segment was written with another analyzer.
pub fn read(folder: &Path, analyzer: &AnalyzerConfig) -> Result<Vec<PartDocs>> {
    let path = folder.join(HEADER);
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::damaged(&path, e.to_string()))?;
    match value["version"].as_u64() {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            let found = u32::try_from(version).unwrap_or(u32::MAX);
            return Err(FileError::Version { path, expected: VERSION, found }.into());
        }
        None => return Err(Error::damaged(&path, "it has no version")),
    }
    let header: Header = serde_json::from_value(value).map_err(|e| Error::damaged(&path, e.to_string()))?;
    if header.analyzer != *analyzer {
        return Err(Error::Analyzer { path, expected: analyzer.fingerprint(), found: header.analyzer.fingerprint() });
    }
    read_docs(folder.join(DOCS), &header.parts)
}

fn read_docs(path: PathBuf, sizes: &[(usize, u32)]) -> Result<Vec<PartDocs>> {
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let (words, rest) = bytes.as_chunks::<4>();
    let expected: u64 = sizes.iter().map(|&(_, n)| 2 * u64::from(n)).sum();
    if words.len() as u64 != expected || !rest.is_empty() {
        return Err(Error::damaged(&path, "its length is not what the parts need"));
    }
    let mut numbers = words.iter().map(|word| u32::from_le_bytes(*word));
    let mut parts = Vec::new();
    for &(part, n) in sizes {
        let ids: Vec<u32> = numbers.by_ref().take(n as usize).collect();
        let lengths = numbers.by_ref().take(n as usize).collect();
        if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(Error::damaged(&path, "ids do not increase"));
        }
        parts.push(PartDocs { part, ids, lengths });
    }
    Ok(parts)
}
