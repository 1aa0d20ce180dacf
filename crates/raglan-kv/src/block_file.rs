//! Blocks on disk: one file a block, whose layers are read when they are wanted.
//!
//! A file, little endian: a header of 104 bytes (magic, version u32, precision u32, layers u32, heads u32, components
//! u32, tokens u32, start u32, neighbours u32, hash of the tokens 16 bytes, of what was before them 16 bytes, of the
//! model 16 bytes, outside f32, inside f32, tokens seen u64), then what each of these saw of other chunks, f32; the neighbours,
//! each a hash of 16 bytes and f32; a checksum of each layer, u64; a checksum of all before, u64; and from the next
//! multiple of 64 on the layers. Checksums are XXH3 of 64 bits.
//!
//! Files are read, not mapped: another process may cut one short at any time, which a map would answer with a signal,
//! and reading a layer while the one before is computed costs nothing that could be seen.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_64;

use crate::block::{BlockHeader, Layers, Words};
use crate::{BlockKey, BlockPrecision, BlockStatistics, Error, KvBlock, KvShape, Result, TokensHash};

const MAGIC: &[u8; 8] = b"RAGLANKV";
const VERSION: u32 = 1;
pub(crate) const HEADER: usize = 104;
const ALIGNMENT: u64 = 64;
/// No block has more tokens or neighbours, and no model more layers: several times what there is.
const MOST: u32 = 1 << 20;

/// An open file of a block.
#[derive(Debug)]
pub struct BlockFile {
    path: PathBuf,
    file: Mutex<File>,
    /// Where the layers begin.
    layers: u64,
    checksums: Vec<u64>,
}

/// Writes a block into a file, which is not there yet; it appears whole or not at all.
pub fn write_block(path: &Path, block: &KvBlock) -> Result<()> {
    let BlockHeader { shape, precision, start, n_tokens } = *block.header();
    let statistics = block.statistics();
    let layers = (0..shape.n_layers).map(|layer| block.layer(layer)).collect::<Result<Vec<_>>>()?;
    let mut head =
        Vec::with_capacity(HEADER + 4 * statistics.seen.len() + 20 * statistics.neighbours.len() + 8 * layers.len());
    head.extend_from_slice(MAGIC);
    let neighbours = statistics.neighbours.len();
    let numbers = [shape.n_layers, shape.n_kv_heads, shape.head_dim, n_tokens, start as usize, neighbours];
    for number in [VERSION as usize, number_of(precision) as usize].into_iter().chain(numbers) {
        let number = u32::try_from(number).expect("no part of a model has so many");
        head.extend_from_slice(&number.to_le_bytes());
    }
    let BlockKey { tokens, behind, model } = block.key();
    for hash in [tokens, behind, model] {
        head.extend_from_slice(&hash.0);
    }
    head.extend_from_slice(&statistics.outside.to_le_bytes());
    head.extend_from_slice(&statistics.inside.to_le_bytes());
    head.extend_from_slice(&(statistics.seen.len() as u64).to_le_bytes());
    statistics.seen.iter().for_each(|seen| head.extend_from_slice(&seen.to_le_bytes()));
    for (neighbour, attention) in &statistics.neighbours {
        head.extend_from_slice(&neighbour.0);
        head.extend_from_slice(&attention.to_le_bytes());
    }
    for layer in &layers {
        head.extend_from_slice(&xxh3_64(layer).to_le_bytes());
    }
    head.extend_from_slice(&xxh3_64(&head).to_le_bytes());
    head.resize((head.len() as u64).next_multiple_of(ALIGNMENT) as usize, 0);
    let draft = path.with_extension(format!("draft-{}", std::process::id()));
    let written = (|| {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&draft)?);
        file.write_all(&head)?;
        for layer in &layers {
            file.write_all(layer)?;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fs::rename(&draft, path)
    })();
    written.map_err(|e| {
        // What was written so far is of no use; that it cannot be removed is the lesser problem.
        let _ = fs::remove_file(&draft);
        Error::io(path)(e)
    })
}

/// Reads a block's header; its layers stay in the file.
pub fn open_block(path: &Path) -> Result<KvBlock> {
    let damaged = |problem| Error::Damaged { path: path.to_owned(), problem };
    let mut file = File::open(path).map_err(Error::io(path))?;
    let len = file.metadata().map_err(Error::io(path))?.len();
    let short = || damaged("it is shorter than its header says");
    let mut head = vec![0; HEADER];
    file.read_exact(&mut head).map_err(|_| short())?;
    let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes are four"));
    let f32_at = |bytes: &[u8], at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let hash_at = |bytes: &[u8], at: usize| TokensHash(bytes[at..at + 16].try_into().expect("sixteen bytes"));
    if &head[..8] != MAGIC {
        return Err(damaged("it does not begin as such a file does"));
    }
    if u32_at(8) != VERSION {
        return Err(damaged("it is of another version"));
    }
    let precision = precision_of(u32_at(12)).ok_or_else(|| damaged("its numbers are of no known kind"))?;
    let counts: [u32; 6] = std::array::from_fn(|i| u32_at(16 + 4 * i));
    if counts.iter().any(|&count| count > MOST) {
        return Err(damaged("a count is too large"));
    }
    let [n_layers, n_kv_heads, head_dim, n_tokens, start, neighbours] = counts.map(|count| count as usize);
    let n_seen = u64::from_le_bytes(head[96..104].try_into().expect("eight bytes")) as usize;
    if n_seen > MOST as usize {
        return Err(damaged("a count is too large"));
    }
    let rest = 4 * n_seen + 20 * neighbours + 8 * n_layers;
    let begin = ((HEADER + rest + 8) as u64).next_multiple_of(ALIGNMENT);
    let shape = KvShape { n_layers, n_kv_heads, head_dim };
    let layer_bytes = n_kv_heads
        .checked_mul(head_dim)
        .and_then(|dim| precision.layer_bytes(n_tokens, dim))
        .ok_or_else(|| damaged("a count is too large"))? as u64;
    if layer_bytes.checked_mul(n_layers as u64).and_then(|layers| layers.checked_add(begin)) != Some(len) {
        return Err(short());
    }
    // The file is as long as that, so this is no allocation that a header alone could ask for.
    head.resize(HEADER + rest + 8, 0);
    file.read_exact(&mut head[HEADER..]).map_err(|_| short())?;
    let (content, checksum) = head.split_at(HEADER + rest);
    if checksum != xxh3_64(content).to_le_bytes() {
        return Err(damaged("its header is not what was written"));
    }
    let key = BlockKey { tokens: hash_at(content, 40), behind: hash_at(content, 56), model: hash_at(content, 72) };
    let (seen_at, neighbours_at) = (HEADER, HEADER + 4 * n_seen);
    let checksums_at = neighbours_at + 20 * neighbours;
    let statistics = BlockStatistics {
        seen: (0..n_seen).map(|i| f32_at(content, seen_at + 4 * i)).collect(),
        neighbours: (0..neighbours)
            .map(|i| (hash_at(content, neighbours_at + 20 * i), f32_at(content, neighbours_at + 20 * i + 16)))
            .collect(),
        outside: f32_at(content, 88),
        inside: f32_at(content, 92),
    };
    let checksums = content[checksums_at..]
        .chunks_exact(8)
        .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
        .collect();
    let file = BlockFile { path: path.to_owned(), file: Mutex::new(file), layers: begin, checksums };
    let header = BlockHeader { shape, precision, start: start as u32, n_tokens };
    Ok(KvBlock::new(header, key, statistics, Layers::File(Arc::new(file))))
}

impl BlockFile {
    /// The bytes of a layer, checked.
    pub fn read_layer(&self, layer: usize, n_words: usize) -> Result<Vec<Words>> {
        let mut words: Vec<Words> = vec![0; n_words];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let start = self.layers + (layer * bytes.len()) as u64;
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(bytes)).map_err(Error::io(&self.path))?;
        drop(file);
        if xxh3_64(bytes) != self.checksums[layer] {
            return Err(Error::Damaged { path: self.path.clone(), problem: "a layer is not what was written" });
        }
        Ok(words)
    }
}

fn number_of(precision: BlockPrecision) -> u32 {
    match precision {
        BlockPrecision::F32 => 0,
        BlockPrecision::F16 => 1,
        BlockPrecision::Bf16 => 2,
        BlockPrecision::Int8 => 3,
    }
}

fn precision_of(number: u32) -> Option<BlockPrecision> {
    [BlockPrecision::F32, BlockPrecision::F16, BlockPrecision::Bf16, BlockPrecision::Int8].get(number as usize).copied()
}
