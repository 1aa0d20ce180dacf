//! A segment: centroids, the tokens' centroids, and what the tokens differ from them by.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use half::f16;
use raglan_core::{ChunkId, ChunkSet, TokenMatrix};
use raglan_kernels::{PackedMatrix, decode_residuals, encode_residuals, l2_normalize, max_sim, max_sim_f16};
use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::centroids::{Centroids, Tokens, n_centroids, train};
use crate::config::SCALE_BYTES;
use crate::files::{LEAST_UNIT, N_WEIGHTS, Resident, TOKENS_FILE, TokensFile, read_late, tokens_header, write_late};
use crate::{Error, LateConfig, Result, TokenStorage, pool_tokens};

/// How far from 1 the squared length of a token's vector may be; vectors in half precision come this close.
const UNIT_TOLERANCE: f64 = 1e-2;
/// Tokens whose residuals the buckets are learned from.
const BUCKET_SAMPLE: usize = 4096;
/// Rounds that buckets are improved in.
const BUCKET_ROUNDS: usize = 60;
/// Documents that are coded side by side before they are written.
const BATCH: usize = 256;

/// Writes a segment into `folder`, which exists: the token vectors of chunks with their ids, which increase.
///
/// Vectors are of length 1 and of one dimension. Equal vectors and configurations give equal bytes on any number of
/// threads; the work is done on the caller's. There are `2^⌊log2(16·√n)⌋` centroids for `n` tokens, at most one for 39 of
/// them, and at least one, so a collection may be as small as it likes.
///
/// # Errors
///
/// [`Error::Vectors`] when lengths do not fit, ids do not increase, or a vector is not of length 1; [`Error::Config`];
/// [`Error::Io`] when a file cannot be written.
pub fn write_late_segment(folder: &Path, ids: &[ChunkId], texts: &[TokenMatrix], config: &LateConfig) -> Result<()> {
    config.check()?;
    let dim = check_texts(ids, texts)?;
    let pooled: Vec<TokenMatrix>;
    let texts = match config.pool_factor {
        1 => texts,
        factor => {
            pooled = texts.par_iter().map(|text| pool_tokens(text, factor)).collect();
            &pooled
        }
    };
    let ends = texts.iter().scan(0, |end, text| {
        *end += text.n_tokens();
        Some(*end)
    });
    let tokens = Tokens { dim, ends: ends.collect(), documents: texts.iter().map(TokenMatrix::as_slice).collect() };
    let centroids = train(&tokens, n_centroids(tokens.len()), config.iterations, config.seed)?;
    let grouped = Centroids::new(&centroids, dim)?;
    let buckets = match config.storage {
        TokenStorage::F16 => Buckets { cutoffs: Vec::new(), weights: [0.0; N_WEIGHTS], units: vec![1.0; dim] },
        storage => Buckets::learn(&tokens, &grouped, &centroids, 1 << storage.to_number())?,
    };
    let scaled = in_units(&centroids, &buckets.units);
    let path = folder.join(TOKENS_FILE);
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(&path).map_err(Error::io(&path))?);
    out.write_all(&tokens_header()).map_err(Error::io(&path))?;
    let (mut checksums, mut codes) = (Vec::with_capacity(ids.len()), Vec::with_capacity(tokens.len()));
    for batch in texts.chunks(BATCH) {
        let rows: Vec<f32> = batch.iter().flat_map(TokenMatrix::as_slice).copied().collect();
        let nearest = grouped.nearest(&rows)?;
        let mut bytes = vec![0; nearest.len() * config.storage.token_bytes(dim)];
        store(config.storage, &rows, dim, &nearest, &scaled, &buckets, &mut bytes)?;
        out.write_all(&bytes).map_err(Error::io(&path))?;
        codes.extend(nearest.iter().map(|(centroid, _)| centroid));
        let mut rest = &bytes[..];
        for text in batch {
            let (document, after) = rest.split_at(text.n_tokens() * config.storage.token_bytes(dim));
            checksums.push(xxh3_64(document));
            rest = after;
        }
    }
    out.flush().map_err(Error::io(&path))?;
    let starts = std::iter::once(0).chain(tokens.ends.iter().map(|&end| end as u64)).collect();
    let Buckets { weights, units, .. } = buckets;
    let segment = Resident {
        dim,
        storage: config.storage,
        ids: ids.to_vec(),
        starts,
        checksums,
        weights,
        units,
        centroids,
        codes,
    };
    write_late(folder, &segment)
}

/// Fails unless the texts can be indexed; gives their dimension, 1 when there is none.
fn check_texts(ids: &[ChunkId], texts: &[TokenMatrix]) -> Result<usize> {
    let refuse = |problem| Err(Error::Vectors { problem });
    if ids.len() != texts.len() {
        return refuse(format!("{} ids for {} texts", ids.len(), texts.len()));
    }
    if let Some(pair) = ids.windows(2).find(|pair| pair[0] >= pair[1]) {
        return refuse(format!("chunk {} comes before chunk {}", pair[0].0, pair[1].0));
    }
    let dim = texts.first().map_or(1, TokenMatrix::dim);
    if u32::try_from(dim).is_err() {
        return refuse(format!("the dimension is {dim}"));
    }
    for (id, text) in ids.iter().zip(texts) {
        if text.dim() != dim {
            return Err(Error::Dimension { what: "a text", expected: dim, found: text.dim() });
        }
        if u32::try_from(text.n_tokens()).is_err() {
            return refuse(format!("chunk {} has {} tokens", id.0, text.n_tokens()));
        }
        for row in text.rows() {
            let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            if (square - 1.0).abs() > UNIT_TOLERANCE {
                return refuse(format!("a vector of chunk {} has length {:.3}, not 1", id.0, square.sqrt()));
            }
        }
    }
    Ok(dim)
}

/// Where residuals are cut into buckets, and what each stands for.
struct Buckets {
    cutoffs: Vec<f32>,
    /// Those of the first buckets; zeros after.
    weights: [f32; N_WEIGHTS],
    /// The root mean square of each component's residuals, in which they are cut.
    units: Vec<f32>,
}

impl Buckets {
    /// Buckets of least squared error for some tokens' residuals, in units of each component and of each token's [`scale`], by Lloyd's rounds: each weight is the mean of its
    /// bucket, each cut-off the middle of two weights. `ColBERTv2` stays with the quantiles that the rounds begin with;
    /// buckets that are equally full are narrow where most residuals are, and far too wide where large ones are: in four
    /// bits, their error is four times as large.
    fn learn(tokens: &Tokens, grouped: &Centroids, centroids: &[f32], n: usize) -> Result<Self> {
        let dim = tokens.dim;
        let step = tokens.len().div_ceil(BUCKET_SAMPLE).max(1);
        let rows: Vec<f32> = (0..tokens.len()).step_by(step).flat_map(|token| tokens.row(token)).copied().collect();
        let nearest = grouped.nearest(&rows)?;
        let with_centroid = || {
            rows.chunks_exact(dim).zip(&nearest).map(|(row, &(c, _))| (row, &centroids[usize::from(c) * dim..][..dim]))
        };
        let mut squares = vec![0.0f64; dim];
        for (row, centroid) in with_centroid() {
            for (sum, (x, c)) in squares.iter_mut().zip(row.iter().zip(centroid)) {
                *sum += f64::from(x - c) * f64::from(x - c);
            }
        }
        // A component that never differs has some unit as well.
        let unit = |sum: f64| ((sum / nearest.len().max(1) as f64).sqrt() as f32).max(LEAST_UNIT);
        let units: Vec<f32> = squares.into_iter().map(unit).collect();
        let mut residuals = Vec::with_capacity(rows.len());
        for (row, centroid) in with_centroid() {
            let (row, centroid) = (in_units(row, &units), in_units(centroid, &units));
            let per_unit = 1.0 / scale(&row, &centroid).to_f32().max(f32::MIN_POSITIVE);
            residuals.extend(row.iter().zip(&centroid).map(|(x, c)| (x - c) * per_unit));
        }
        if residuals.is_empty() {
            return Ok(Self { cutoffs: vec![0.0; n - 1], weights: [0.0; N_WEIGHTS], units });
        }
        residuals.par_sort_unstable_by(f32::total_cmp);
        let quantile =
            |i: usize| residuals[((residuals.len() - 1) as f64 * (i as f64 + 0.5) / n as f64).round() as usize];
        let mut weights = [0.0; N_WEIGHTS];
        for (i, weight) in weights[..n].iter_mut().enumerate() {
            *weight = quantile(i);
        }
        let sums: Vec<f64> = std::iter::once(0.0)
            .chain(residuals.iter().scan(0.0, |sum, &x| {
                *sum += f64::from(x);
                Some(*sum)
            }))
            .collect();
        let middles =
            |weights: &[f32]| -> Vec<f32> { weights.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect() };
        for _ in 0..BUCKET_ROUNDS {
            let mut start = 0;
            // The bucket of a cut-off is the one below it.
            let ends = middles(&weights[..n]).into_iter().map(|cutoff| residuals.partition_point(|&x| x <= cutoff));
            for (weight, end) in weights.iter_mut().zip(ends.chain([residuals.len()])) {
                if end > start {
                    *weight = ((sums[end] - sums[start]) / (end - start) as f64) as f32;
                }
                start = end;
            }
        }
        Ok(Self { cutoffs: middles(&weights[..n]), weights, units })
    }
}

/// Vectors by component in units of it.
fn in_units(rows: &[f32], units: &[f32]) -> Vec<f32> {
    rows.chunks_exact(units.len()).flat_map(|row| row.iter().zip(units).map(|(x, unit)| x / unit)).collect()
}

/// The bytes of some tokens. `centroids` are in the buckets' units.
fn store(
    storage: TokenStorage,
    rows: &[f32],
    dim: usize,
    nearest: &[(u16, f32)],
    centroids: &[f32],
    buckets: &Buckets,
    bytes: &mut [u8],
) -> Result<()> {
    let places = bytes.par_chunks_exact_mut(storage.token_bytes(dim)).zip(rows.par_chunks_exact(dim)).zip(nearest);
    places.try_for_each(|((bytes, row), &(centroid, _))| {
        let Some(bits) = storage.residual_bits() else {
            for (to, x) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(row) {
                *to = f16::from_f32(*x).to_le_bytes();
            }
            return Ok(());
        };
        let centroid = &centroids[usize::from(centroid) * dim..][..dim];
        let row = in_units(row, &buckets.units);
        let scale = scale(&row, centroid);
        let cutoffs: Vec<f32> = buckets.cutoffs.iter().map(|cutoff| cutoff * scale.to_f32()).collect();
        let (of_scale, codes) = bytes.split_at_mut(SCALE_BYTES);
        of_scale.copy_from_slice(&scale.to_le_bytes());
        Ok(encode_residuals(bits, &cutoffs, &row, centroid, codes)?)
    })
}

/// The root mean square of what a token differs from its centroid by: the unit that its residuals are cut in. Some tokens
/// are much nearer to their centroid than others; with one unit for all, the near ones would use only the middle buckets.
fn scale(row: &[f32], centroid: &[f32]) -> f16 {
    let squares = row.iter().zip(centroid).map(|(x, c)| f64::from(x - c) * f64::from(x - c));
    f16::from_f64((squares.sum::<f64>() / row.len() as f64).sqrt())
}

/// A segment that is open for searching.
pub struct Segment {
    resident: Resident,
    tokens: TokensFile,
    /// The centroids by component in units of it, to which residuals are added; none where there are no residuals.
    scaled: Vec<f32>,
    /// The rows of chunks that are not deleted.
    live: Vec<bool>,
}

/// Memory for the tokens of a document, kept from one to the next.
#[derive(Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    halves: Vec<u16>,
    rows: Vec<f32>,
}

impl Segment {
    /// Opens the segment in `folder`.
    pub fn open(folder: &Path, deleted: &ChunkSet) -> Result<Self> {
        let resident = read_late(folder)?;
        let n_bytes = resident.storage.token_bytes(resident.dim) as u128 * resident.codes.len() as u128;
        let tokens = TokensFile::open(folder, u64::try_from(n_bytes).unwrap_or(u64::MAX))?;
        let live = resident.ids.iter().map(|id| !deleted.contains(*id)).collect();
        let scaled = match resident.storage {
            TokenStorage::F16 => Vec::new(),
            _ => in_units(&resident.centroids, &resident.units),
        };
        Ok(Self { resident, tokens, scaled, live })
    }

    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.resident.dim
    }

    /// The ids of the rows, increasing; deleted ones too.
    pub fn ids(&self) -> &[ChunkId] {
        &self.resident.ids
    }

    /// Whether the row's chunk is not deleted.
    pub fn is_live(&self, row: u32) -> bool {
        self.live[row as usize]
    }

    /// `[n_centroids, dim]`
    pub fn centroids(&self) -> &[f32] {
        &self.resident.centroids
    }

    /// The centroids of a row's tokens.
    pub fn codes(&self, row: u32) -> &[u16] {
        let row = row as usize;
        &self.resident.codes[self.resident.starts[row] as usize..self.resident.starts[row + 1] as usize]
    }

    /// How many tokens there are.
    pub fn n_tokens(&self) -> usize {
        self.resident.codes.len()
    }

    /// The score of a row for a query, from its stored tokens.
    pub fn score(&self, query: &PackedMatrix, row: u32, scratch: &mut Scratch) -> Result<f32> {
        self.read(row, scratch)?;
        let (n_tokens, mut score) = (self.codes(row).len(), [0.0]);
        if self.resident.storage == TokenStorage::F16 {
            max_sim_f16(query, &scratch.halves, &[n_tokens], &mut score)?;
        } else {
            max_sim(query, &scratch.rows, &[n_tokens], &mut score)?;
        }
        if score[0].is_finite() { Ok(score[0]) } else { Err(self.not_finite()) }
    }

    /// The tokens of a row.
    pub fn tokens(&self, row: u32, scratch: &mut Scratch) -> Result<TokenMatrix> {
        self.read(row, scratch)?;
        let rows = match self.resident.storage {
            TokenStorage::F16 => scratch.halves.iter().map(|&bits| f16::from_bits(bits).to_f32()).collect(),
            _ => scratch.rows.clone(),
        };
        TokenMatrix::new(self.dim(), rows).map_err(|_| self.not_finite())
    }

    fn not_finite(&self) -> Error {
        Error::damaged(self.tokens.path(), "a document's tokens are not finite")
    }

    /// Reads a row's tokens, as halves or as `f32` rows.
    fn read(&self, row: u32, scratch: &mut Scratch) -> Result<()> {
        let Resident { dim, storage, starts, checksums, weights, units, .. } = &self.resident;
        let (dim, token_bytes, codes) = (*dim, storage.token_bytes(*dim), self.codes(row));
        scratch.bytes.resize(codes.len() * token_bytes, 0);
        let at = starts[row as usize] * token_bytes as u64;
        self.tokens.read(at, checksums[row as usize], &mut scratch.bytes)?;
        let Some(bits) = storage.residual_bits() else {
            scratch.halves.clear();
            scratch.halves.extend(scratch.bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes)));
            return Ok(());
        };
        scratch.rows.resize(codes.len() * dim, 0.0);
        let tokens = scratch.rows.chunks_exact_mut(dim).zip(scratch.bytes.chunks_exact(token_bytes)).zip(codes);
        for ((row, bytes), &centroid) in tokens {
            let centroid = &self.scaled[usize::from(centroid) * dim..][..dim];
            let (of_scale, codes) = bytes.split_at(SCALE_BYTES);
            let scale = f16::from_le_bytes([of_scale[0], of_scale[1]]).to_f32();
            let weights = weights.map(|weight| weight * scale);
            decode_residuals(bits, &weights[..bits.n_buckets()], codes, centroid, row)?;
            row.iter_mut().zip(units).for_each(|(x, unit)| *x *= unit);
        }
        Ok(l2_normalize(&mut scratch.rows, dim)?)
    }
}
