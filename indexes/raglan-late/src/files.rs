//! The files of a segment, little endian.
//!
//! `late.bin`, which memory holds: a header of 64 bytes (magic, version u32, dim u32, documents u64, tokens u64,
//! centroids u32, storage u32), then ids, documents × u32; lengths in tokens, documents × u32; checksums of the documents'
//! bytes in the other file, documents × u64; bucket weights, 16 × f32; the components' units, dim × f32; centroids, centroids × dim × f32; the tokens'
//! centroids, tokens × u16; and a checksum of all before, u64.
//!
//! `tokens.bin`, read a document at a time and checked each time: a header of 64 bytes (magic, version u32), then the
//! tokens: components in half precision, or the size of the residual in half precision and the codes of
//! [`encode_residuals`](raglan_kernels::encode_residuals). Checksums are XXH3 of 64 bits.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use raglan_core::ChunkId;
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result, TokenStorage};

pub const LATE_FILE: &str = "late.bin";
pub const TOKENS_FILE: &str = "tokens.bin";
const LATE_MAGIC: &[u8; 8] = b"RAGLANLT";
pub const TOKENS_MAGIC: &[u8; 8] = b"RAGLANTK";
const VERSION: u32 = 1;
pub const HEADER: usize = 64;
/// Room for the weights of all buckets.
pub const N_WEIGHTS: usize = 16;
/// No component is counted in less, so that every quotient is finite.
pub const LEAST_UNIT: f32 = 1e-9;

/// What memory holds of a segment.
pub struct Resident {
    pub dim: usize,
    pub storage: TokenStorage,
    /// Increasing.
    pub ids: Vec<ChunkId>,
    /// Tokens before each document, and of all.
    pub starts: Vec<u64>,
    pub checksums: Vec<u64>,
    pub weights: [f32; N_WEIGHTS],
    /// What each component of a residual is counted in.
    pub units: Vec<f32>,
    /// `[n_centroids, dim]`
    pub centroids: Vec<f32>,
    /// The centroid of each token.
    pub codes: Vec<u16>,
}

/// The header of `tokens.bin`.
pub fn tokens_header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(TOKENS_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Writes `late.bin`; whoever commits the folder makes it durable.
pub fn write_late(folder: &Path, segment: &Resident) -> Result<()> {
    let mut bytes = vec![0; HEADER];
    bytes[..8].copy_from_slice(LATE_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&u32::try_from(segment.dim).expect("checked before").to_le_bytes());
    bytes[16..24].copy_from_slice(&(segment.ids.len() as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&(segment.codes.len() as u64).to_le_bytes());
    let n_centroids = segment.centroids.len() / segment.dim;
    bytes[32..36].copy_from_slice(&u32::try_from(n_centroids).expect("at most 65,536").to_le_bytes());
    bytes[36..40].copy_from_slice(&segment.storage.to_number().to_le_bytes());
    bytes.extend(segment.ids.iter().flat_map(|id| id.0.to_le_bytes()));
    let lengths = segment.starts.windows(2).map(|pair| u32::try_from(pair[1] - pair[0]).expect("checked before"));
    bytes.extend(lengths.flat_map(u32::to_le_bytes));
    bytes.extend(segment.checksums.iter().flat_map(|checksum| checksum.to_le_bytes()));
    bytes.extend(segment.weights.iter().chain(&segment.units).chain(&segment.centroids).flat_map(|x| x.to_le_bytes()));
    bytes.extend(segment.codes.iter().flat_map(|code| code.to_le_bytes()));
    let checksum = xxh3_64(&bytes);
    bytes.extend(checksum.to_le_bytes());
    let path = folder.join(LATE_FILE);
    File::create_new(&path).and_then(|mut file| file.write_all(&bytes)).map_err(Error::io(&path))
}

/// Reads `late.bin`.
pub fn read_late(folder: &Path) -> Result<Resident> {
    let path = folder.join(LATE_FILE);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let damaged = |problem: &str| Error::damaged(&path, problem);
    check_header(&path, &bytes, LATE_MAGIC)?;
    let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let dim = u32_at(12) as usize;
    let (n, n_tokens, k) = (u64_at(16), u64_at(24), u64::from(u32_at(32)));
    let storage = TokenStorage::from_number(u32_at(36)).ok_or_else(|| damaged("its storage is unknown"))?;
    // In 128 bits nothing overflows.
    let expected = HEADER as u128
        + u128::from(n) * 16
        + (N_WEIGHTS as u128 + (u128::from(k) + 1) * dim as u128) * 4
        + u128::from(n_tokens) * 2
        + 8;
    if dim == 0 || !(1..=1 << 16).contains(&k) || expected != bytes.len() as u128 {
        return Err(damaged("its length is not what its header says"));
    }
    let (body, checksum) = bytes.split_at(bytes.len() - 8);
    if xxh3_64(body).to_le_bytes() != checksum {
        return Err(damaged("its checksum is wrong"));
    }
    let (n, n_tokens, k) = (n as usize, n_tokens as usize, k as usize);
    let mut rest = &body[HEADER..];
    let mut take = |len: usize| {
        let (part, after) = rest.split_at(len);
        rest = after;
        part
    };
    let ids: Vec<ChunkId> = u32s(take(n * 4)).map(ChunkId).collect();
    let mut starts = Vec::with_capacity(n + 1);
    starts.push(0u64);
    starts.extend(u32s(take(n * 4)).scan(0u64, |sum, length| {
        *sum += u64::from(length);
        Some(*sum)
    }));
    let checksums = take(n * 8).as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let mut weights = [0.0; N_WEIGHTS];
    weights.iter_mut().zip(f32s(take(N_WEIGHTS * 4))).for_each(|(to, weight)| *to = weight);
    let units: Vec<f32> = f32s(take(dim * 4)).collect();
    let centroids: Vec<f32> = f32s(take(k * dim * 4)).collect();
    let codes: Vec<u16> =
        take(n_tokens * 2).as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
    if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(damaged("ids do not increase"));
    }
    if starts[n] != n_tokens as u64 {
        return Err(damaged("documents do not have the tokens that there are"));
    }
    if codes.iter().any(|&code| usize::from(code) >= k) {
        return Err(damaged("a token has a centroid that is not there"));
    }
    // Products of components of this size stay finite.
    if weights.iter().chain(&centroids).any(|x| x.is_nan() || x.abs() > 1e6) {
        return Err(damaged("a centroid or a weight is not of a unit vector"));
    }
    if !units.iter().all(|unit| (LEAST_UNIT..=1e6).contains(unit)) {
        return Err(damaged("a component has no unit"));
    }
    Ok(Resident { dim, storage, ids, starts, checksums, weights, units, centroids, codes })
}

fn u32s(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
}

fn f32s(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Fails unless a file begins with a whole header of this kind and version.
fn check_header(path: &Path, bytes: &[u8], magic: &[u8; 8]) -> Result<()> {
    if bytes.len() < HEADER || bytes[..8] != magic[..] {
        return Err(Error::damaged(path, "it does not begin as such a file does"));
    }
    let found = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    if found != VERSION {
        return Err(Error::Version { path: path.to_owned(), expected: VERSION, found });
    }
    Ok(())
}

/// `tokens.bin`, open.
pub struct TokensFile {
    path: PathBuf,
    file: File,
}

impl TokensFile {
    /// Opens the file of a folder, in which tokens take `n_bytes`.
    pub fn open(folder: &Path, n_bytes: u64) -> Result<Self> {
        let path = folder.join(TOKENS_FILE);
        let file = File::open(&path).map_err(Error::io(&path))?;
        let found = file.metadata().map_err(Error::io(&path))?.len();
        let mut header = [0; HEADER];
        let n_header = HEADER.min(usize::try_from(found).unwrap_or(HEADER));
        read_exact_at(&file, &mut header[..n_header], 0).map_err(Error::io(&path))?;
        check_header(&path, &header[..n_header], TOKENS_MAGIC)?;
        if n_bytes.checked_add(HEADER as u64) != Some(found) {
            return Err(Error::damaged(&path, "its length is not what the tokens need"));
        }
        Ok(Self { path, file })
    }

    /// Fills the buffer with the bytes of a document, which begin at byte `at` of the tokens, and checks them.
    pub fn read(&self, at: u64, checksum: u64, buffer: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, buffer, HEADER as u64 + at).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(&self.path, "it has become shorter"),
            _ => Error::Io { path: self.path.clone(), source },
        })?;
        if xxh3_64(buffer) != checksum {
            return Err(Error::damaged(&self.path, "the checksum of a document's tokens is wrong"));
        }
        Ok(())
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Fills the buffer from an offset, without moving the place that other readers of the handle share.
#[cfg(unix)]
fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills the buffer from an offset, without moving the place that other readers of the handle share.
#[cfg(windows)]
fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buffer = &mut buffer[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}
