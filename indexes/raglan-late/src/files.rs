//! The files of a segment, little endian.
//!
//! `late.bin`, which memory holds: a header of 64 bytes (magic, version u32, dim u32, documents u64, tokens u64,
//! centroids u32, storage u32, postings u64, the tokens' distance from centroids f32), then ids, documents × u32; lengths
//! in tokens, documents × u32; checksums of the documents' bytes in the other file, documents × u64; bucket weights,
//! 16 × f32; the components' units, dim × f32; centroids, centroids × dim × f32; the tokens' centroids, tokens × u16;
//! lengths of the centroids' postings, centroids × u32; postings, each the rows of documents that have a token of the
//! centroid, increasing, × u32; and a checksum of all before, u64.
//!
//! `tokens.bin`, mapped, each document checked when it is first read: a header of 64 bytes (magic, version u32), then the
//! tokens: components in half precision, or the size of the residual and a factor in half precision and the codes of
//! [`encode_residuals`](raglan_kernels::encode_residuals). Checksums are XXH3 of 64 bits.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use raglan_core::ChunkId;
use raglan_segment_file::{CheckedParts, Error as FileError, SegmentFile};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::codebook::Codebook;
use crate::{Error, Result, TokenStorage};

const LATE_FILE: &str = "late.bin";
const TOKENS_FILE: &str = "tokens.bin";
const LATE_MAGIC: &[u8; 8] = b"RAGLANLT";
const TOKENS_MAGIC: &[u8; 8] = b"RAGLANTK";
const VERSION: u32 = 2;
const HEADER: usize = 64;
/// Room for the weights of all buckets.
pub const N_WEIGHTS: usize = 16;
/// No component is counted in less, so that every quotient is finite.
pub const LEAST_UNIT: f32 = 1e-9;

/// What memory holds of a segment.
pub struct Resident {
    pub codebook: Arc<Codebook>,
    /// Increasing.
    pub ids: Vec<ChunkId>,
    /// Tokens before each document, and of all.
    pub starts: Vec<u64>,
    /// Of the documents' bytes, until `tokens.bin` is open.
    pub checksums: Vec<u64>,
    /// The centroid of each token.
    pub codes: Vec<u16>,
    /// Postings before those of each centroid, and all.
    pub posting_starts: Vec<u64>,
    /// The rows that have a token of a centroid, increasing.
    pub postings: Vec<u32>,
}

impl Resident {
    /// The rows that have a token of this centroid.
    pub fn posting(&self, centroid: usize) -> &[u32] {
        &self.postings[self.posting_starts[centroid] as usize..self.posting_starts[centroid + 1] as usize]
    }
}

/// The header of `tokens.bin`.
fn tokens_header() -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(TOKENS_MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// Writes `tokens.bin`, document after document, and then `late.bin`; whoever commits the folder makes them durable.
pub struct SegmentFiles<'a> {
    folder: &'a Path,
    path: PathBuf,
    out: BufWriter<File>,
    codes: Vec<u16>,
    lengths: Vec<u32>,
    checksums: Vec<u64>,
}

impl<'a> SegmentFiles<'a> {
    pub fn create(folder: &'a Path) -> Result<Self> {
        let path = folder.join(TOKENS_FILE);
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(&path).map_err(Error::io(&path))?);
        out.write_all(&tokens_header()).map_err(Error::io(&path))?;
        Ok(Self { folder, path, out, codes: Vec::new(), lengths: Vec::new(), checksums: Vec::new() })
    }

    /// Appends a document: its tokens' centroids, and their bytes.
    pub fn push(&mut self, codes: &[u16], bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io(&self.path))?;
        self.codes.extend_from_slice(codes);
        self.lengths.push(u32::try_from(codes.len()).expect("checked when texts came"));
        self.checksums.push(xxh3_64(bytes));
        Ok(())
    }

    /// Writes what else there is, of documents with these ids.
    pub fn finish(mut self, ids: &[ChunkId], codebook: &Codebook) -> Result<()> {
        self.out.flush().map_err(Error::io(&self.path))?;
        let (posting_lengths, postings) = self.postings(codebook.n_centroids());
        let path = self.folder.join(LATE_FILE);
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(LATE_MAGIC);
        header[8..12].copy_from_slice(&VERSION.to_le_bytes());
        header[12..16].copy_from_slice(&u32::try_from(codebook.dim).expect("checked before").to_le_bytes());
        header[16..24].copy_from_slice(&(ids.len() as u64).to_le_bytes());
        header[24..32].copy_from_slice(&(self.codes.len() as u64).to_le_bytes());
        header[32..36].copy_from_slice(&u32::try_from(codebook.n_centroids()).expect("at most 65,536").to_le_bytes());
        header[36..40].copy_from_slice(&codebook.storage.to_number().to_le_bytes());
        header[40..48].copy_from_slice(&(postings.len() as u64).to_le_bytes());
        header[48..52].copy_from_slice(&codebook.distance.to_le_bytes());
        let write = || {
            let out = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
            let mut out = Summed { out, sum: Xxh3::new() };
            out.write(&header)?;
            ids.iter().try_for_each(|id| out.write(&id.0.to_le_bytes()))?;
            self.lengths.iter().try_for_each(|length| out.write(&length.to_le_bytes()))?;
            self.checksums.iter().try_for_each(|checksum| out.write(&checksum.to_le_bytes()))?;
            for numbers in [&codebook.weights[..], &codebook.units, &codebook.centroids] {
                numbers.iter().try_for_each(|x| out.write(&x.to_le_bytes()))?;
            }
            self.codes.iter().try_for_each(|code| out.write(&code.to_le_bytes()))?;
            posting_lengths.iter().chain(&postings).try_for_each(|number| out.write(&number.to_le_bytes()))?;
            let checksum = out.sum.digest();
            out.write(&checksum.to_le_bytes())?;
            out.out.flush()
        };
        write().map_err(Error::io(&path))
    }

    /// How many documents have each centroid, and which.
    fn postings(&self, n_centroids: usize) -> (Vec<u32>, Vec<u32>) {
        let mut lengths = vec![0u32; n_centroids];
        let mut last = vec![u32::MAX; n_centroids];
        self.for_each_posting(&mut last, |centroid, _| lengths[centroid] += 1);
        let mut ends: Vec<usize> =
            lengths.iter().scan(0, |end, &length| Some(std::mem::replace(end, *end + length as usize))).collect();
        let mut postings = vec![0; lengths.iter().map(|&length| length as usize).sum()];
        last.fill(u32::MAX);
        self.for_each_posting(&mut last, |centroid, row| {
            postings[ends[centroid]] = row;
            ends[centroid] += 1;
        });
        (lengths, postings)
    }

    /// Calls `take` with each centroid that a document has, document after document. `last` holds no row yet.
    fn for_each_posting(&self, last: &mut [u32], mut take: impl FnMut(usize, u32)) {
        let mut codes = &self.codes[..];
        for (row, &length) in (0u32..).zip(&self.lengths) {
            let (own, rest) = codes.split_at(length as usize);
            codes = rest;
            for &centroid in own {
                if std::mem::replace(&mut last[usize::from(centroid)], row) != row {
                    take(usize::from(centroid), row);
                }
            }
        }
    }
}

/// A file, and the checksum of what was written to it.
struct Summed {
    out: BufWriter<File>,
    sum: Xxh3,
}

impl Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }
}

/// How many tokens a segment has, and how they are stored.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub dim: usize,
    pub storage: TokenStorage,
    pub n_tokens: u64,
    pub n_centroids: u64,
}

/// Reads the beginning of `late.bin`.
pub fn read_shape(folder: &Path) -> Result<Shape> {
    let path = folder.join(LATE_FILE);
    let mut header = Vec::with_capacity(HEADER);
    let file = File::open(&path).map_err(Error::io(&path))?;
    file.take(HEADER as u64).read_to_end(&mut header).map_err(Error::io(&path))?;
    check_header(&path, &header, LATE_MAGIC)?;
    shape(&path, &header)
}

/// What a header says, which is as long as one.
fn shape(path: &Path, header: &[u8]) -> Result<Shape> {
    let storage = TokenStorage::from_number(u32_at(header, 36));
    let storage = storage.ok_or_else(|| Error::damaged(path, "its storage is unknown"))?;
    let (dim, n_centroids) = (u32_at(header, 12) as usize, u64::from(u32_at(header, 32)));
    Ok(Shape { dim, storage, n_tokens: u64_at(header, 24), n_centroids })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Reads `late.bin`.
pub fn read_late(folder: &Path) -> Result<Resident> {
    let path = folder.join(LATE_FILE);
    let bytes = fs::read(&path).map_err(Error::io(&path))?;
    let damaged = |problem: &str| Error::damaged(&path, problem);
    check_header(&path, &bytes, LATE_MAGIC)?;
    let Shape { dim, storage, n_tokens, n_centroids: k } = shape(&path, &bytes)?;
    let (n, n_postings) = (u64_at(&bytes, 16), u64_at(&bytes, 40));
    let distance = f32::from_bits(u32_at(&bytes, 48));
    // In 128 bits nothing overflows.
    let expected = HEADER as u128
        + u128::from(n) * 16
        + (N_WEIGHTS as u128 + (u128::from(k) + 1) * dim as u128) * 4
        + u128::from(n_tokens) * 2
        + (u128::from(k) + u128::from(n_postings)) * 4
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
    let starts = starts_of(take(n * 4));
    let checksums = take(n * 8).as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
    let mut weights = [0.0; N_WEIGHTS];
    weights.iter_mut().zip(f32s(take(N_WEIGHTS * 4))).for_each(|(to, weight)| *to = weight);
    let units: Vec<f32> = f32s(take(dim * 4)).collect();
    let centroids: Vec<f32> = f32s(take(k * dim * 4)).collect();
    let codes: Vec<u16> =
        take(n_tokens * 2).as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
    let posting_starts = starts_of(take(k * 4));
    let postings: Vec<u32> = u32s(rest).collect();
    if ids.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(damaged("ids do not increase"));
    }
    if starts[n] != n_tokens as u64 {
        return Err(damaged("documents do not have the tokens that there are"));
    }
    if codes.iter().any(|&code| usize::from(code) >= k) {
        return Err(damaged("a token has a centroid that is not there"));
    }
    if posting_starts[k] != n_postings {
        return Err(damaged("centroids do not have the postings that there are"));
    }
    let mut lists = posting_starts.windows(2).map(|pair| &postings[pair[0] as usize..pair[1] as usize]);
    if lists
        .any(|list| list.windows(2).any(|pair| pair[0] >= pair[1]) || list.last().is_some_and(|&row| row as usize >= n))
    {
        return Err(damaged("a centroid's documents do not increase, or are not there"));
    }
    // Products of components of this size stay finite.
    if weights.iter().chain(&centroids).chain([&distance]).any(|x| x.is_nan() || x.abs() > 1e6) {
        return Err(damaged("a centroid or a weight is not of a unit vector"));
    }
    if !units.iter().all(|unit| (LEAST_UNIT..=1e6).contains(unit)) {
        return Err(damaged("a component has no unit"));
    }
    let codebook = Arc::new(Codebook::new(storage, weights, units, centroids, distance));
    Ok(Resident { codebook, ids, starts, checksums, codes, posting_starts, postings })
}

/// Where parts of these lengths begin, and where the last ends.
fn starts_of(lengths: &[u8]) -> Vec<u64> {
    let ends = u32s(lengths).scan(0u64, |sum, length| {
        *sum += u64::from(length);
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
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
        return Err(FileError::Version { path: path.to_owned(), expected: VERSION, found }.into());
    }
    Ok(())
}

/// Opens `tokens.bin` of a folder, whose documents have these tokens.
pub fn open_tokens(folder: &Path, resident: &mut Resident) -> Result<CheckedParts> {
    let file = SegmentFile::open(folder.join(TOKENS_FILE))?;
    file.check_format(TOKENS_MAGIC, VERSION)?;
    let token_bytes = resident.codebook.storage.token_bytes(resident.codebook.dim) as u64;
    // A length that is not there is none that a file has.
    let lengths = resident.starts.windows(2).map(|pair| (pair[1] - pair[0]).saturating_mul(token_bytes));
    Ok(CheckedParts::new(file, HEADER, lengths, std::mem::take(&mut resident.checksums))?)
}
