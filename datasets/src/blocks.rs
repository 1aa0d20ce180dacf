//! Large text files, plain or compressed, read in blocks of whole lines that threads parse side by side.

use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::iter::{ParallelBridge, ParallelIterator};

use crate::{Error, Result, lines};

/// Bytes that one thread reads and parses at a time: they fit into a second-level cache twice.
const BLOCK: usize = 512 << 10;

/// What a thread made of a block.
pub(crate) struct Parsed<T> {
    /// The result, or the line within the block, from 1, and what is wrong with it.
    pub(crate) outcome: Result<T, (usize, String)>,
    /// How many lines the block has.
    pub(crate) n_lines: usize,
}

/// Parses the file at `path`, or its compressed form, block by block on all threads; gives the path that was opened and
/// what became of the blocks, in the file's order.
///
/// A block ends with a line feed, except at the end of the file. The first block has no byte order mark.
pub(crate) fn parse<T: Send>(path: &Path, take: impl Fn(&str) -> Parsed<T> + Sync) -> Result<(PathBuf, Vec<T>)> {
    let (path, reader) = lines::open(path)?;
    let blocks = Blocks { reader, rest: Vec::new(), n_blocks: 0, ended: false };
    let mut parsed: Vec<(usize, std::io::Result<Parsed<T>>)> = blocks
        .par_bridge()
        .map(|(i, bytes)| {
            let parsed = bytes.map(|bytes| {
                let bytes = bytes.strip_prefix(if i == 0 { "\u{feff}".as_bytes() } else { b"" }).unwrap_or(&bytes);
                match std::str::from_utf8(bytes) {
                    Ok(text) => take(text),
                    Err(error) => {
                        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count();
                        Parsed { outcome: Err((line, error.to_string())), n_lines: 0 }
                    }
                }
            });
            (i, parsed)
        })
        .collect();
    parsed.sort_unstable_by_key(|(i, _)| *i);
    let mut lines_before = 0;
    let mut taken = Vec::with_capacity(parsed.len());
    for (_, block) in parsed {
        let block = block.map_err(|source| Error::Io { path: path.clone(), source })?;
        taken.push(block.outcome.map_err(|(line, problem)| Error::Malformed {
            path: path.clone(),
            line: lines_before + line,
            problem,
        })?);
        lines_before += block.n_lines;
    }
    Ok((path, taken))
}

/// The blocks of a file with their numbers, from 0.
struct Blocks<R> {
    reader: R,
    /// The begin of a line whose end has not been read.
    rest: Vec<u8>,
    n_blocks: usize,
    ended: bool,
}

impl<R: Read> Iterator for Blocks<R> {
    type Item = (usize, std::io::Result<Vec<u8>>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut block = Vec::with_capacity(self.rest.len() + BLOCK + 64);
        block.append(&mut self.rest);
        loop {
            let before = block.len();
            match self.reader.by_ref().take(BLOCK as u64).read_to_end(&mut block) {
                Ok(n) => self.ended = n < BLOCK,
                Err(error) => {
                    self.ended = true;
                    return Some((self.n_blocks, Err(error)));
                }
            }
            if self.ended {
                break;
            }
            if let Some(line_feed) = block[before..].iter().rposition(|&byte| byte == b'\n') {
                self.rest.extend_from_slice(&block[before + line_feed + 1..]);
                block.truncate(before + line_feed + 1);
                break;
            }
        }
        self.n_blocks += 1;
        Some((self.n_blocks - 1, Ok(block)))
    }
}
