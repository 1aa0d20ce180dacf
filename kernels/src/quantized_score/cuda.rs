//! On a device: the best of many vectors kept as bytes or as bits, found while they are read once.

use crate::device::cuda::{Argument, Buffer, CudaDevice, Kernel, Launch, Module, check_len, count};
use crate::{Error, Result};

pub(crate) static MODULE: Module = Module {
    name: "quantized_score",
    source: concat!(include_str!("../device/cuda/common.cuh"), include_str!("kernel.cu")),
    kernels: &[
        Kernel { name: "best_by_bytes", most_registers: 80 },
        Kernel { name: "best_by_bits", most_registers: 80 },
        Kernel { name: "best_of_best", most_registers: 32 },
    ],
};

/// Candidates that a block has room for.
const CAPACITY: usize = 2048;
/// Vectors between two looks at how many candidates a block has.
const ROUND: usize = 1024;
/// The most that can be asked for: what is left of the candidates when a round has its room.
const MOST: usize = CAPACITY - ROUND;

/// Vectors kept as bytes, on a device.
#[derive(Debug)]
pub struct Int8Vectors {
    codes: Buffer<i8>,
    scales: Buffer<f32>,
    dim: usize,
    padded: usize,
}

impl Int8Vectors {
    /// Uploads what [`quantize_i8`](crate::quantize_i8) gives: codes, `[n, dim]`, and scales, `[n]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::ZeroDimension`] when `dim` is 0.
    pub fn new(device: &CudaDevice, codes: &[i8], scales: &[f32], dim: usize) -> Result<Self> {
        if dim == 0 {
            return Err(Error::ZeroDimension);
        }
        check_len("codes", codes.len(), scales.len() * dim)?;
        count("vectors", scales.len())?;
        let padded = dim.next_multiple_of(16);
        Ok(Self { codes: device.upload(&pad(codes, dim, padded))?, scales: device.upload(scales)?, dim, padded })
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// The best `k` vectors of each query by [`Int8Query::inner_products`](crate::Int8Query::inner_products), as
    /// [`top_k`](crate::top_k) orders them: `codes` is `[n_queries, dim]`, `scales` is `[n_queries]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when a length does not fit; [`Error::Unsupported`] when `k` is above 1024.
    pub fn best(&self, codes: &[i8], scales: &[f32], k: usize) -> Result<Vec<Vec<(f32, u32)>>> {
        check_len("queries", codes.len(), scales.len() * self.dim)?;
        let device = self.codes.device();
        let queries = device.upload(&pad(codes, self.dim, self.padded))?;
        let query_scales = device.upload(scales)?;
        let operands = [self.codes.argument(), self.scales.argument(), queries.argument(), query_scales.argument()];
        // SAFETY: vectors and queries are of whole loads of 16 bytes, as many as said, and each has a scale.
        unsafe { best(device, "best_by_bytes", &operands, self.len(), self.padded / 16, 16, scales.len(), k) }
    }
}

/// Vectors kept as bits, on a device.
#[derive(Debug)]
pub struct BitVectors {
    bits: Buffer<u64>,
    n_words: usize,
}

impl BitVectors {
    /// Uploads what [`binarize`](crate::binarize) gives: `[n, n_words]`.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the bits are not whole vectors; [`Error::ZeroDimension`] when `n_words` is 0.
    pub fn new(device: &CudaDevice, bits: &[u64], n_words: usize) -> Result<Self> {
        if n_words == 0 {
            return Err(Error::ZeroDimension);
        }
        check_len("bits", bits.len(), bits.len().next_multiple_of(n_words))?;
        count("vectors", bits.len() / n_words)?;
        Ok(Self { bits: device.upload(bits)?, n_words })
    }

    /// How many vectors there are.
    pub fn len(&self) -> usize {
        self.bits.len() / self.n_words
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bits.is_empty()
    }

    /// The `k` vectors that differ from each query, `[n_queries, n_words]`, in fewest bits, equal ones by lower index:
    /// how many bits, and the index.
    ///
    /// # Errors
    ///
    /// [`Error::Shape`] when the queries are not whole; [`Error::Unsupported`] when `k` is above 1024.
    pub fn nearest(&self, queries: &[u64], k: usize) -> Result<Vec<Vec<(u32, u32)>>> {
        check_len("queries", queries.len(), queries.len().next_multiple_of(self.n_words))?;
        let device = self.bits.device();
        let n_queries = queries.len() / self.n_words;
        let queries = device.upload(queries)?;
        let operands = [self.bits.argument(), queries.argument()];
        // SAFETY: vectors and queries are of whole loads of 8 bytes, as many as said.
        let best = unsafe { best(device, "best_by_bits", &operands, self.len(), self.n_words, 8, n_queries, k) }?;
        Ok(best.into_iter().map(|best| best.into_iter().map(|(score, i)| (-score as u32, i)).collect()).collect())
    }
}

/// Rows that are longer, by zeros.
fn pad(codes: &[i8], dim: usize, padded: usize) -> Vec<i8> {
    let mut rows = vec![0; codes.len() / dim * padded];
    for (row, codes) in rows.chunks_exact_mut(padded).zip(codes.chunks_exact(dim)) {
        row[..dim].copy_from_slice(codes);
    }
    rows
}

/// The vectors of each block, in whole rounds, and how many blocks: about four on each multiprocessor for all queries.
fn share(n: usize, n_queries: usize, n_multiprocessors: usize) -> (usize, usize) {
    let wanted = (4 * n_multiprocessors).div_ceil(n_queries.max(1));
    let each = n.div_ceil(wanted).next_multiple_of(ROUND).max(ROUND);
    (each, n.div_ceil(each))
}

/// Runs a scan and the merge of what its blocks found.
///
/// # Safety
///
/// `operands` are the first arguments of the kernel, of `n` vectors and `n_queries` queries of `n_loads` loads each.
#[expect(clippy::too_many_arguments, reason = "those of the scan")]
unsafe fn best(
    device: &CudaDevice,
    kernel: &'static str,
    operands: &[Argument],
    n: usize,
    n_loads: usize,
    load_bytes: usize,
    n_queries: usize,
    k: usize,
) -> Result<Vec<Vec<(f32, u32)>>> {
    if k > MOST {
        return Err(Error::Unsupported { what: "number of best vectors", found: k });
    }
    let k = k.min(n);
    if k == 0 || n_queries == 0 {
        return Ok(vec![Vec::new(); n_queries]);
    }
    let (each, n_blocks) = share(n, n_queries, device.limits().n_multiprocessors as usize);
    let parts = device.allocate::<u64>(n_queries * n_blocks * k)?;
    let launch = Launch {
        grid: [count("blocks", n_blocks)?, count("queries", n_queries)?, 1],
        block: 256,
        shared_bytes: CAPACITY * size_of::<u64>() + n_loads * load_bytes,
    };
    let numbers = [n, n_loads, each, k].map(|number| Argument::U32(number as u32));
    let arguments: Vec<Argument> = operands.iter().copied().chain(numbers).chain([parts.argument()]).collect();
    // SAFETY: the arguments are the kernel's, as the caller promises; each block has room for `k` candidates.
    unsafe { device.launch(&MODULE, kernel, launch, &arguments) }?;
    let out = device.allocate::<u64>(n_queries * k)?;
    let launch = Launch { grid: [n_queries as u32, 1, 1], block: 256, shared_bytes: CAPACITY * size_of::<u64>() };
    let n_parts = count("candidates", n_blocks * k)?;
    let arguments = [parts.argument(), Argument::U32(n_parts), Argument::U32(k as u32), out.argument()];
    // SAFETY: the arguments are the kernel's; there is a block a query, which has `n_parts` candidates.
    unsafe { device.launch(&MODULE, "best_of_best", launch, &arguments) }?;
    Ok(out.download()?.chunks(k).map(|keys| keys.iter().map(|&key| of_candidate(key)).collect()).collect())
}

/// The score and the index of a candidate.
fn of_candidate(key: u64) -> (f32, u32) {
    let turned = (key >> 32) as u32;
    let bits = if turned >> 31 == 1 { turned & !(1 << 31) } else { !turned };
    (f32::from_bits(bits), !(key as u32))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{Int8Query, hamming, top_k};

    fn check_bytes(device: &CudaDevice, n: usize, dim: usize, k: usize, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Few values and scales, so that many scores are equal.
        let codes: Vec<i8> = (0..n * dim).map(|_| rng.random_range(-2..3)).collect();
        let scales: Vec<f32> = (0..n).map(|_| [0.5, 1.0][rng.random_range(0..2)]).collect();
        let queries: Vec<i8> = (0..2 * dim).map(|_| rng.random_range(-127..=127)).collect();
        let query_scales = [0.01, 0.02];
        let got = Int8Vectors::new(device, &codes, &scales, dim).unwrap().best(&queries, &query_scales, k).unwrap();
        for (q, got) in got.iter().enumerate() {
            let query = Int8Query::from_codes(&queries[q * dim..(q + 1) * dim], query_scales[q]).unwrap();
            let mut scores = vec![0.0; n];
            Int8Query::inner_products(&[query], &codes, &scales, &mut scores).unwrap();
            assert_eq!(*got, top_k(&scores, k).unwrap(), "{n} vectors of {dim}, {k} wanted, query {q}");
        }
    }

    fn check_bits(device: &CudaDevice, n: usize, n_words: usize, k: usize, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let bits: Vec<u64> = (0..n * n_words).map(|_| rng.random()).collect();
        let query: Vec<u64> = (0..n_words).map(|_| rng.random()).collect();
        let got = BitVectors::new(device, &bits, n_words).unwrap().nearest(&query, k).unwrap();
        let mut want = vec![0; n];
        hamming(&query, &bits, &mut want).unwrap();
        let mut want: Vec<(u32, u32)> = want.into_iter().zip(0..).collect();
        want.sort_unstable();
        want.truncate(k);
        assert_eq!(got, [want], "{n} vectors of {n_words} words, {k} wanted");
    }

    #[test]
    fn a_device_finds_the_best_that_the_processor_finds() {
        if let Some(device) = &CudaDevice::to_test() {
            check_bytes(device, 1, 1, 5, 1);
            check_bytes(device, 3000, 40, 7, 2);
            check_bytes(device, 2500, 16, 1024, 3);
            check_bytes(device, 0, 16, 3, 4);
            check_bits(device, 2600, 3, 10, 5);
            check_bits(device, 1025, 1, 1024, 6);
            check_bits(device, 5, 9, 0, 7);
        }
    }

    #[test]
    fn more_than_a_block_has_room_for_is_refused() {
        if let Some(device) = &CudaDevice::to_test() {
            let vectors = BitVectors::new(device, &[0], 1).unwrap();
            assert!(matches!(vectors.nearest(&[0], 1025), Err(Error::Unsupported { found: 1025, .. })));
            assert!(matches!(BitVectors::new(device, &[0], 2), Err(Error::Shape { .. })));
            assert!(matches!(Int8Vectors::new(device, &[0], &[1.0], 0), Err(Error::ZeroDimension)));
        }
    }

    #[test]
    fn blocks_share_all_vectors_in_whole_rounds() {
        for (n, n_queries) in [(1, 1), (1024, 1), (1_000_000, 1), (1_000_000, 64), (100_000_000, 3)] {
            let (each, n_blocks) = share(n, n_queries, 132);
            assert!(each.is_multiple_of(ROUND) && each * n_blocks >= n && each * (n_blocks - 1) < n);
            assert!(n_blocks * n_queries <= 4 * 132 + n_queries);
        }
    }
}
