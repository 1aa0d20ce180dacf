//! Writing a segment: texts come batch by batch and wait on the disk until all are there.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use raglan_core::{ChunkId, TokenMatrix};
use raglan_kernels::{from_f16, to_f16};
use rand::SeedableRng;
use rand::seq::index;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::centroids::{n_centroids, n_sampled};
use crate::codebook::{Codebook, Coder, TRIED};
use crate::files::{SegmentFiles, read_late, read_shape};
use crate::{Error, LateConfig, Result, pool_tokens};

/// How far from 1 the squared length of a token's vector may be; vectors in half precision come this close.
const UNIT_TOLERANCE: f64 = 1e-2;
/// Where token vectors wait.
const SPILL_FILE: &str = "tokens.spill";
/// Tokens that are read back and coded side by side, and one document more.
const BATCH_TOKENS: usize = 1 << 14;

/// Writes the token vectors of chunks as a segment, in memory that does not grow with their vectors.
///
/// Vectors wait in a file in the segment's folder, in half precision. When all are there, centroids are learned from a
/// sample of them, and then all are coded, some thousands at a time. Memory holds, beside the texts of one call, at most
/// 512 MiB of sample (64 tokens a centroid, if that is less), twice as much of centroids as `late.bin`, some megabytes of
/// work, and for each token two bytes for its centroid and at most four for its posting; disk, for a while, two bytes a
/// component.
///
/// Equal vectors, configurations and codebooks give equal bytes on any number of threads, however texts are cut into
/// calls; the work is done on the caller's threads.
pub struct LateSegmentWriter {
    folder: PathBuf,
    config: LateConfig,
    path: PathBuf,
    spill: BufWriter<File>,
    dim: Option<usize>,
    /// Tokens before the end of each text.
    ends: Vec<u64>,
}

impl LateSegmentWriter {
    /// Begins a segment in `folder`, which exists.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]; [`Error::File`] when a file cannot be made.
    pub fn create(folder: &Path, config: &LateConfig) -> Result<Self> {
        config.check()?;
        let path = folder.join(SPILL_FILE);
        let spill = BufWriter::with_capacity(1 << 20, File::create_new(&path).map_err(Error::io(&path))?);
        Ok(Self { folder: folder.to_owned(), config: config.clone(), path, spill, dim: None, ends: Vec::new() })
    }

    /// Appends the token vectors of texts, which are of length 1 and of one dimension.
    ///
    /// # Errors
    ///
    /// [`Error::Dimension`] or [`Error::Vectors`] when they are not; nothing is appended then. [`Error::File`], after which
    /// the writer is of no use.
    pub fn add(&mut self, texts: &[TokenMatrix]) -> Result<()> {
        check_texts(self.dim, self.ends.len(), texts)?;
        self.dim = self.dim.or(texts.first().map(TokenMatrix::dim));
        let pooled: Vec<TokenMatrix>;
        let texts = match self.config.pool_factor {
            1 => texts,
            factor => {
                pooled = texts.par_iter().map(|text| pool_tokens(text, factor)).collect();
                &pooled
            }
        };
        self.spill(texts)
    }

    /// Appends texts as they are.
    pub(crate) fn spill(&mut self, texts: &[TokenMatrix]) -> Result<()> {
        let mut halves = Vec::new();
        for text in texts {
            self.dim = self.dim.or(Some(text.dim()));
            halves.resize(text.as_slice().len(), 0);
            to_f16(text.as_slice(), &mut halves)?;
            for half in &halves {
                self.spill.write_all(&half.to_le_bytes()).map_err(Error::io(&self.path))?;
            }
            self.ends.push(self.n_tokens() as u64 + text.n_tokens() as u64);
        }
        Ok(())
    }

    /// How many texts there are.
    pub fn n_texts(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the disk that the vectors take.
    pub fn n_bytes(&self) -> u64 {
        self.n_tokens() as u64 * 2 * self.dim.unwrap_or(1) as u64
    }

    /// Forgets all but the first texts.
    ///
    /// # Errors
    ///
    /// [`Error::File`], after which the writer is of no use.
    pub fn truncate(&mut self, n_texts: usize) -> Result<()> {
        if n_texts < self.ends.len() {
            self.ends.truncate(n_texts);
            self.spill.flush().map_err(Error::io(&self.path))?;
            let file = self.spill.get_mut();
            let mut shorten = || {
                file.set_len(self.ends.last().copied().unwrap_or(0) * 2 * self.dim.unwrap_or(1) as u64)?;
                std::io::Seek::seek(file, std::io::SeekFrom::End(0)).map(drop)
            };
            shorten().map_err(Error::io(&self.path))?;
        }
        Ok(())
    }

    /// Codes the texts and writes the segment; `ids`, which increase, are those of the texts.
    ///
    /// `others` are folders of segments of the same index. The codebook of the one with the most tokens is used again if
    /// it serves these tokens as well, so that the segments can later be merged by copying bytes: it must be of their
    /// dimension and storage, not outgrown, take at most half as many bytes as the tokens, and leave them at most 1.2
    /// times as far from their centroids as those that it was learned from. Otherwise the segment gets a codebook of its
    /// own, of `2^⌊log2(16·√n)⌋` centroids for `n` tokens, at most one for 39 of them, and at least one, so that a
    /// collection may be as small as it likes.
    ///
    /// # Errors
    ///
    /// [`Error::Vectors`] when there are more or fewer ids than texts, or ids do not increase; [`Error::File`], also
    /// when another segment cannot be used.
    pub fn finish(mut self, ids: &[ChunkId], others: &[PathBuf]) -> Result<()> {
        check_ids(ids, self.n_texts())?;
        self.spill.flush().map_err(Error::io(&self.path))?;
        let codebook = self.codebook(others)?;
        let (dim, coder) = (codebook.dim, Coder::new(&codebook)?);
        let mut files = SegmentFiles::create(&self.folder)?;
        let mut reader = SpillReader::open(&self.path, dim)?;
        let (mut first, mut start) = (0, 0);
        let mut rows = Vec::new();
        while first < self.ends.len() {
            let until = self.ends.partition_point(|&end| end <= start + BATCH_TOKENS as u64).max(first + 1);
            let batch = &self.ends[first..until];
            let halves = reader.read((batch[batch.len() - 1] - start) as usize)?;
            rows.resize(halves.len(), 0.0);
            from_f16(halves, &mut rows)?;
            let (codes, bytes) = coder.code(&rows)?;
            let token_bytes = codebook.storage.token_bytes(dim);
            let mut at = 0;
            for end in batch {
                let next = (end - start) as usize;
                files.push(&codes[at..next], &bytes[at * token_bytes..next * token_bytes])?;
                at = next;
            }
            (first, start) = (until, batch[batch.len() - 1]);
        }
        files.finish(ids, &codebook)?;
        drop((reader, self.spill));
        fs::remove_file(&self.path).map_err(Error::io(&self.path))
    }

    fn n_tokens(&self) -> usize {
        self.ends.last().copied().unwrap_or(0) as usize
    }

    /// That of another segment, or one of these tokens.
    fn codebook(&self, others: &[PathBuf]) -> Result<Codebook> {
        let (n_tokens, dim) = (self.n_tokens(), self.dim.unwrap_or(1));
        let mut largest = None;
        for folder in others {
            let shape = read_shape(folder)?;
            let suits = shape.dim == dim && shape.storage == self.config.storage;
            let centroid_bytes = u128::from(shape.n_centroids) * 4 * dim as u128;
            let is_small = 2 * centroid_bytes <= n_tokens as u128 * shape.storage.token_bytes(dim) as u128;
            if suits && is_small && largest.is_none_or(|(n, _)| shape.n_tokens > n) {
                largest = Some((shape.n_tokens, folder));
            }
        }
        if let Some((_, folder)) = largest {
            let resident = read_late(folder)?;
            let some = self.sample(TRIED, dim)?;
            let mut rows = vec![0.0; some.len()];
            from_f16(&some, &mut rows)?;
            if resident.codebook.serves(n_tokens, &rows)? {
                return Ok(std::sync::Arc::into_inner(resident.codebook).expect("nobody else has it"));
            }
        }
        let sample = self.sample(n_sampled(n_centroids(n_tokens), dim), dim)?;
        Codebook::learn(&sample, dim, n_tokens, &self.config)
    }

    /// At most `most` tokens in random order.
    fn sample(&self, most: usize, dim: usize) -> Result<Vec<u16>> {
        let n_tokens = self.n_tokens();
        let mut rng = ChaCha8Rng::seed_from_u64(self.config.seed);
        let chosen = index::sample(&mut rng, n_tokens, most.min(n_tokens));
        let mut places: Vec<(usize, usize)> = chosen.iter().enumerate().map(|(place, token)| (token, place)).collect();
        places.sort_unstable();
        let mut sample = vec![0; places.len() * dim];
        let mut reader = SpillReader::open(&self.path, dim)?;
        let (mut start, mut next) = (0, 0);
        while next < places.len() {
            let block = reader.read(BATCH_TOKENS.min(n_tokens - start))?;
            let end = start + block.len() / dim;
            while let Some(&(token, place)) = places.get(next).filter(|(token, _)| *token < end) {
                sample[place * dim..][..dim].copy_from_slice(&block[(token - start) * dim..][..dim]);
                next += 1;
            }
            start = end;
        }
        Ok(sample)
    }
}

/// Writes the token vectors of chunks into `folder`, which exists, as a segment with a codebook of its own: what
/// [`LateSegmentWriter`] does with texts that are all there.
///
/// # Errors
///
/// As those of [`LateSegmentWriter`].
pub fn write_late_segment(folder: &Path, ids: &[ChunkId], texts: &[TokenMatrix], config: &LateConfig) -> Result<()> {
    check_ids(ids, texts.len())?;
    check_texts(None, 0, texts)?;
    let mut writer = LateSegmentWriter::create(folder, config)?;
    writer.add(texts)?;
    writer.finish(ids, &[])
}

/// Vectors that wait, read in order.
struct SpillReader<'a> {
    path: &'a Path,
    file: BufReader<File>,
    dim: usize,
    bytes: Vec<u8>,
    halves: Vec<u16>,
}

impl<'a> SpillReader<'a> {
    fn open(path: &'a Path, dim: usize) -> Result<Self> {
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io(path))?);
        Ok(Self { path, file, dim, bytes: Vec::new(), halves: Vec::new() })
    }

    /// The next tokens.
    fn read(&mut self, n_tokens: usize) -> Result<&[u16]> {
        self.bytes.resize(n_tokens * self.dim * 2, 0);
        self.file.read_exact(&mut self.bytes).map_err(Error::io(self.path))?;
        self.halves.clear();
        self.halves.extend(self.bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)));
        Ok(&self.halves)
    }
}

fn check_ids(ids: &[ChunkId], n_texts: usize) -> Result<()> {
    let refuse = |problem| Err(Error::Vectors { problem });
    if ids.len() != n_texts {
        return refuse(format!("{} ids for {n_texts} texts", ids.len()));
    }
    match ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => refuse(format!("chunk {} comes before chunk {}", pair[0].0, pair[1].0)),
        None => Ok(()),
    }
}

/// Fails unless the texts, the first of which is number `first`, can be indexed among others of this dimension.
fn check_texts(dim: Option<usize>, first: usize, texts: &[TokenMatrix]) -> Result<()> {
    let refuse = |problem| Err(Error::Vectors { problem });
    let Some(expected) = dim.or(texts.first().map(TokenMatrix::dim)) else { return Ok(()) };
    if u32::try_from(expected).is_err() {
        return refuse(format!("the dimension is {expected}"));
    }
    for (i, text) in texts.iter().enumerate() {
        let i = first + i;
        if text.dim() != expected {
            return Err(Error::Dimension { what: "a text", expected, found: text.dim() });
        }
        if u32::try_from(text.n_tokens()).is_err() {
            return refuse(format!("text {i} has {} tokens", text.n_tokens()));
        }
        for row in text.rows() {
            let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            if (square - 1.0).abs() > UNIT_TOLERANCE {
                return refuse(format!("a vector of text {i} has length {:.3}, not 1", square.sqrt()));
            }
        }
    }
    Ok(())
}
