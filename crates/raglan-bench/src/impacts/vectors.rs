//! Files of sparse vectors, as the peer reads them too: how many there are, then each as its length, its terms and its
//! weights; numbers are u32 and f32, little endian.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use raglan::core::SparseVector;

/// Vectors of passages.
pub const PASSAGES: &str = "passages.bin";
/// Vectors of queries, from the model.
pub const QUERIES: &str = "queries.bin";
/// The distinct tokens of queries, each with weight 1.
pub const QUERY_TOKENS: &str = "query-tokens.bin";

/// Writes a file of vectors.
pub fn write(path: &Path, vectors: &[SparseVector]) -> Result<()> {
    let mut out = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    out.write_all(&u32::try_from(vectors.len())?.to_le_bytes())?;
    for vector in vectors {
        out.write_all(&u32::try_from(vector.terms().len())?.to_le_bytes())?;
        for term in vector.terms() {
            out.write_all(&term.to_le_bytes())?;
        }
        for weight in vector.weights() {
            out.write_all(&weight.to_le_bytes())?;
        }
    }
    Ok(out.flush()?)
}

/// Reads a file of vectors.
pub fn read(path: &Path) -> Result<Vec<SparseVector>> {
    let mut bytes = BufReader::with_capacity(1 << 20, File::open(path).with_context(|| path.display().to_string())?);
    let mut word = || -> Result<[u8; 4]> {
        let mut word = [0; 4];
        bytes.read_exact(&mut word)?;
        Ok(word)
    };
    let n = u32::from_le_bytes(word()?);
    let mut vectors = Vec::new();
    for _ in 0..n {
        let length = u32::from_le_bytes(word()?);
        let mut entries = Vec::new();
        for _ in 0..length {
            entries.push((u32::from_le_bytes(word()?), 0.0));
        }
        for (_, weight) in &mut entries {
            *weight = f32::from_le_bytes(word()?);
        }
        vectors.push(SparseVector::new(entries)?);
    }
    Ok(vectors)
}
