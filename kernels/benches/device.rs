//! How fast the kernels are on an NVIDIA device, each beside what the device could do.
//!
//! Inputs are random and other ones in each run, outputs hold NaN before, and what is timed is first compared with the
//! processor's form at places chosen at random. Times are of the device's clock, the median of several runs after one
//! that is not counted; uploads are not in them. `kernels/device-check.sh` builds and runs this.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use raglan_kernels::cuda::{
    Bf16, BitVectors, Buffer, CausalPlan, CudaDevice, DecodePlan, DeviceBlockMatrix, DeviceMatrix, F16, Int8Vectors,
    KvPages, KvSource, Length, Narrow, PAGE_TOKENS, PackedSequences, PageTurns, PagedKeys, Placement, Plain, Pooled,
    QuantizedRows, Real, RotaryTurns, RowNorm, add_layer_norm, attention_mass, bidirectional_attention, block_product,
    causal_attention, decode_attention, matrix_product, norm_pool, place,
};
use raglan_kernels::{
    AttentionMask, AttentionShape, BlockFormat, Int8Query, KvRun, KvSlice, Output, QueryRows, Result, RotaryEmbedding,
    RotaryPairs, RotaryScaling, dequantize_blocks, hamming, l2_normalize, layer_norm, mean_pool, top_k,
};

/// What an H200 can do, by its data sheet: dense products of f16 or bf16 a second, and bytes of memory a second.
const PEAK_FLOPS: f64 = 989e12;
const PEAK_BYTES: f64 = 4.8e12;
const RUNS: usize = 7;

/// Numbers that are quick to draw; nothing depends on how good they are.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn many<T: Plain>(&mut self, n: usize, of: impl Fn(u64) -> T) -> Vec<T> {
        (0..n).map(|_| of(self.next())).collect()
    }

    /// Half floats between 1/2 and 1 or their negatives.
    fn halves(&mut self, n: usize) -> Vec<F16> {
        self.many(n, |bits| F16((bits as u16 & 0x83ff) | 0x3800))
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        self.halves(n).iter().map(|x| x.to_f32()).collect()
    }
}

struct Bench {
    device: CudaDevice,
    random: Random,
    failed: bool,
    /// What sizes are divided by: 1 but for the emulation.
    smaller: usize,
}

impl Bench {
    /// The median time of a run in seconds.
    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
        work()?;
        let mut times = Vec::new();
        for _ in 0..if self.smaller == 1 { RUNS } else { 1 } {
            times.push(f64::from(self.device.time(&mut work)?) / 1e3);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn report(&self, what: &str, seconds: f64, flops: Option<f64>, bytes: Option<f64>, floor: f64) {
        let (rate, unit, share) = match (flops, bytes) {
            (Some(flops), _) => (flops / seconds / 1e12, "TFLOP/s", flops / seconds / PEAK_FLOPS),
            (_, Some(bytes)) => (bytes / seconds / 1e12, "TB/s", bytes / seconds / PEAK_BYTES),
            _ => return,
        };
        let verdict = if share >= floor { "reaches" } else { "MISSES" };
        println!(
            "{what:<64} {:>10.1} us {rate:>8.2} {unit:<8} {:>5.1} % of peak, {verdict} the floor of {:.0} %",
            seconds * 1e6,
            share * 100.0,
            floor * 100.0
        );
    }

    fn compare(&mut self, what: &str, got: &[f32], want: &[f32], tolerance: f32) {
        let near = |(got, want): (&f32, &f32)| (got - want).abs() <= tolerance * (1.0 + want.abs());
        let wrong = got.iter().zip(want).position(|pair| !near(pair));
        if wrong.is_some() || got.len() != want.len() {
            self.failed = true;
            println!("WRONG: {what}: the first at {wrong:?} of {} numbers, {} wanted", got.len(), want.len());
        }
    }

    fn check(&mut self, what: &str, right: bool) {
        if !right {
            self.failed = true;
            println!("WRONG: {what}");
        }
    }

    fn poisoned<T: Plain>(&self, n: usize) -> Result<Buffer<T>> {
        self.device.filled(0xff, n)
    }

    fn packed_attention(&mut self) -> Result<()> {
        for (dim, n_heads, length, count, floor) in [
            (64, 12_usize, 512, 128_usize, 0.30),
            (32, 12, 512, 128, 0.15),
            (64, 12, 128, 512, 0.10),
            (128, 16, 2048, 16, 0.30),
        ] {
            let (n_heads, count) = (n_heads.div_ceil(self.smaller), count.div_ceil(self.smaller));
            let length = length / self.smaller.min(8);
            let shape =
                AttentionShape { n_heads, n_kv_heads: n_heads, head_dim: dim, scale: 1.0 / (dim as f32).sqrt() };
            let ends: Vec<usize> = (1..=count).map(|i| i * length).collect();
            let width = n_heads * dim;
            let qkv = self.random.halves(count * length * 3 * width);
            let rows = self.device.upload(&qkv)?;
            let sequences = PackedSequences::new(&self.device, &ends)?;
            let mut out = self.poisoned::<F16>(count * length * width)?;
            bidirectional_attention(&shape, &rows, &sequences, None, &mut out)?;
            let what = format!("G1 packed attention, heads of {dim}, {count} x {length} tokens");
            let of = self.random.below(count);
            let sample: Vec<f32> =
                qkv[of * length * 3 * width..][..length * 3 * width].iter().map(|x| x.to_f32()).collect();
            let mut want = vec![0.0; length * width];
            raglan_kernels::bidirectional_attention(&shape, &sample, &[length], None, &mut want)?;
            let all = out.download()?;
            let got: Vec<f32> = all[of * length * width..][..length * width].iter().map(|x| x.to_f32()).collect();
            self.compare(&what, &got, &want, 0.02);
            let seconds = self.time(|| bidirectional_attention(&shape, &rows, &sequences, None, &mut out))?;
            let flops = 4.0 * (count * n_heads * dim) as f64 * (length * length) as f64;
            self.report(&what, seconds, Some(flops), None, floor);
        }
        Ok(())
    }

    /// An arena whose first pages hold random tokens, and those tokens, `[n_tokens, n_kv_heads · dim]` each.
    fn arena(&mut self, n_layers: usize, n_pages: usize, filled: usize) -> Result<(KvPages, Vec<F16>, Vec<F16>)> {
        let (n_kv_heads, dim) = (8, 64);
        let width = n_kv_heads * dim;
        let mut pages = KvPages::new(&self.device, n_layers, n_pages, n_kv_heads, dim)?;
        let n = filled * PAGE_TOKENS;
        let (keys, values) = (self.random.halves(n * width), self.random.halves(n * width));
        let (on_keys, on_values) = (self.device.upload(&keys)?, self.device.upload(&values)?);
        let embedding = RotaryEmbedding::new(dim, 1e4, RotaryPairs::Halves, &RotaryScaling::None)?;
        let turns = RotaryTurns::by(&self.device, &embedding, &[])?;
        let source = KvSource {
            keys: &on_keys,
            values: &on_values,
            key_start: 0,
            value_start: 0,
            token_stride: width,
            layer_stride: 0,
        };
        for first in (0..n_pages).step_by(filled) {
            let slots: Vec<u32> =
                (first * PAGE_TOKENS..(first + filled).min(n_pages) * PAGE_TOKENS).map(|s| s as u32).collect();
            let placement = Placement::new(&self.device, &slots, &vec![None; slots.len()], n_pages)?;
            place(&source, &placement, &turns, &mut pages, 0..n_layers)?;
        }
        Ok((pages, keys, values))
    }

    fn any_rows(&mut self) -> Result<()> {
        let (n_keys, n_heads) = (32_768 / self.smaller, 32);
        let shape = AttentionShape { n_heads, n_kv_heads: 8, head_dim: 64, scale: 0.125 };
        let mask = AttentionMask::default();
        let n_pages = n_keys / PAGE_TOKENS;
        let (arena, keys, values) = self.arena(1, n_pages, n_pages)?;
        let pages: Vec<u32> = (0..n_pages as u32).collect();
        let places: Vec<u32> = (0..n_keys as u32).collect();
        let paged = PagedKeys { pages: &pages, positions: &places, segments: None, log_weights: None, turns: None };
        let embedding = RotaryEmbedding::new(64, 1e4, RotaryPairs::Halves, &RotaryScaling::None)?;
        // Chunks of eight pages, every other one of which was computed elsewhere.
        let chunk = (n_pages / 2).clamp(1, 8);
        let by: Vec<i64> = (0..n_pages).map(|page| (page / chunk % 2) as i64 * 777).collect();
        let mut dense = 0.0;
        for (share, turned) in [(100, false), (15, false), (15, true)] {
            let turns = turned.then_some(PageTurns { embedding: &embedding, by: &by });
            let paged = PagedKeys { turns, ..paged };
            let positions: Vec<u32> = places.iter().copied().filter(|_| self.random.below(100) < share).collect();
            let n = positions.len();
            let plan = CausalPlan::new(&arena, &shape, &positions, None, &paged, &mask)?;
            let rows = self.random.halves(n * n_heads * 64);
            let queries = self.device.upload(&rows)?;
            let mut out = self.poisoned::<F16>(n * n_heads * 64)?;
            let mut lse = self.poisoned::<f32>(n * n_heads)?;
            causal_attention(&plan, &queries, &arena, 0, &mut out, Some(&mut lse))?;
            let on_read = if turned { ", keys turned on read" } else { "" };
            let what = format!("G2 {share} % of the rows of {n_keys} tokens, 32 heads on 8{on_read}");
            let (got, got_lse) = (out.download()?, lse.download()?);
            let widened = |numbers: &[F16]| numbers.iter().map(|x| x.to_f32()).collect::<Vec<_>>();
            let (mut wide_keys, wide_values) = (widened(&keys), widened(&values));
            if turned {
                for (page, &by) in wide_keys.chunks_mut(PAGE_TOKENS * 8 * 64).zip(&by) {
                    embedding.shift(page, 8, by)?;
                }
            }
            let run = KvRun {
                keys: KvSlice::F32(&wide_keys),
                values: KvSlice::F32(&wide_values),
                positions: &places,
                segments: None,
                log_weights: None,
            };
            for _ in 0..4 {
                let row = self.random.below(n);
                let at = row * n_heads * 64..(row + 1) * n_heads * 64;
                let wide: Vec<f32> = rows[at.clone()].iter().map(|x| x.to_f32()).collect();
                let one = QueryRows { rows: &wide, positions: &positions[row..=row], segments: None };
                let (mut want, mut want_lse) = (vec![0.0; n_heads * 64], vec![0.0; n_heads]);
                raglan_kernels::causal_attention(&shape, &one, &[run], &mask, &mut want, Some(&mut want_lse))?;
                let got: Vec<f32> = got[at].iter().map(|x| x.to_f32()).collect();
                self.compare(&what, &got, &want, if turned { 1e-2 } else { 4e-3 });
                self.compare(&format!("{what}, lse"), &got_lse[row * n_heads..][..n_heads], &want_lse, 2e-3);
            }
            let seconds = self.time(|| causal_attention(&plan, &queries, &arena, 0, &mut out, None))?;
            let pairs: f64 = positions.iter().map(|&position| f64::from(position) + 1.0).sum();
            let flops = 4.0 * pairs * (n_heads * 64) as f64;
            if share == 100 {
                dense = flops / seconds;
            }
            // The floor of few rows is 60 % of what all rows reach here.
            self.report(&what, seconds, Some(flops), None, if share == 100 { 0.25 } else { 0.6 * dense / PEAK_FLOPS });
            let mut mass = self.poisoned::<f32>(n_heads * n_keys)?;
            attention_mass(&plan, &queries, &arena, 0, &lse, &mut mass)?;
            // Every row gives each head a mass of 1.
            let masses = mass.download()?;
            let sums: Vec<f32> = masses.chunks(n_keys).map(|of_head| of_head.iter().sum::<f32>() / n as f32).collect();
            self.compare(&format!("{what}, mass"), &sums, &vec![1.0; n_heads], 2e-3);
            let seconds = self.time(|| attention_mass(&plan, &queries, &arena, 0, &lse, &mut mass))?;
            self.report(&format!("{what}: mass"), seconds, Some(flops / 2.0), None, 0.10);
        }
        Ok(())
    }

    fn decoding(&mut self) -> Result<()> {
        for (n_sequences, length) in [(32_usize, 32_768 / self.smaller), (1, 32_768 / self.smaller)] {
            let n_sequences = n_sequences.div_ceil(self.smaller.min(8));
            let (n_heads, group_pages) = (32, length / PAGE_TOKENS);
            let shape = AttentionShape { n_heads, n_kv_heads: 8, head_dim: 64, scale: 0.125 };
            let n_pages = n_sequences * group_pages;
            let (arena, keys, values) = self.arena(1, n_pages, group_pages)?;
            let pages: Vec<u32> = (0..n_pages as u32).collect();
            let places: Vec<u32> = (0..length as u32).collect();
            let paged: Vec<PagedKeys> = pages
                .chunks(group_pages)
                .map(|pages| PagedKeys { pages, positions: &places, segments: None, log_weights: None, turns: None })
                .collect();
            let positions = vec![length as u32; n_sequences];
            let mask = AttentionMask::default();
            let mut plan = DecodePlan::new(&arena, &shape, 1, &positions, &paged, &mask)?;
            let rows = self.random.halves(n_sequences * n_heads * 64);
            let queries = self.device.upload(&rows)?;
            let mut out = self.poisoned::<F16>(rows.len())?;
            decode_attention(&mut plan, &queries, &arena, 0, &mut out, None)?;
            let what = format!("G3 decoding, {n_sequences} x {length} cached tokens, 32 heads on 8");
            let row = self.random.below(n_sequences);
            let at = row * n_heads * 64..(row + 1) * n_heads * 64;
            let wide: Vec<f32> = rows[at.clone()].iter().map(|x| x.to_f32()).collect();
            let one = QueryRows { rows: &wide, positions: &positions[..1], segments: None };
            let to_bits = |numbers: &[F16]| numbers.iter().map(|x| x.0).collect::<Vec<_>>();
            let (key_bits, value_bits) = (to_bits(&keys), to_bits(&values));
            let run = KvRun {
                keys: KvSlice::F16(&key_bits),
                values: KvSlice::F16(&value_bits),
                positions: &places,
                segments: None,
                log_weights: None,
            };
            let mut want = vec![0.0; n_heads * 64];
            raglan_kernels::causal_attention(&shape, &one, &[run], &mask, &mut want, None)?;
            let got: Vec<f32> = out.download()?[at].iter().map(|x| x.to_f32()).collect();
            self.compare(&what, &got, &want, 4e-3);
            let seconds = self.time(|| decode_attention(&mut plan, &queries, &arena, 0, &mut out, None))?;
            let bytes = (n_sequences * length * 8 * 64 * 2 * 2) as f64;
            self.report(&what, seconds, None, Some(bytes), if n_sequences > 1 { 0.70 } else { 0.30 });
        }
        Ok(())
    }

    fn moving_keys(&mut self) -> Result<()> {
        let (n_layers, n, n_kv_heads, dim) = (16, 16_384 / self.smaller, 8, 64);
        let width = n_kv_heads * dim;
        let (keys, values) = (self.random.halves(n_layers * n * width), self.random.halves(n_layers * n * width));
        let (on_keys, on_values) = (self.device.upload(&keys)?, self.device.upload(&values)?);
        let n_pages = n / PAGE_TOKENS;
        let mut arena = KvPages::new(&self.device, n_layers, n_pages, n_kv_heads, dim)?;
        let embedding = RotaryEmbedding::new(dim, 1e4, RotaryPairs::Neighbours, &RotaryScaling::None)?;
        let turns = RotaryTurns::by(&self.device, &embedding, &[777])?;
        let slots: Vec<u32> = (0..n as u32).collect();
        let placement = Placement::new(&self.device, &slots, &vec![Some(0); n], n_pages)?;
        let source = KvSource {
            keys: &on_keys,
            values: &on_values,
            key_start: 0,
            value_start: 0,
            token_stride: width,
            layer_stride: n * width,
        };
        place(&source, &placement, &turns, &mut arena, 0..n_layers)?;
        let (layer, page) = (self.random.below(n_layers), self.random.below(n_pages));
        let [got_keys, got_values] = arena.download(layer, page)?.map(|numbers| {
            // Heads of a page lie apart; here they lie as tokens have them.
            let of = |i: usize| (i / dim % n_kv_heads * PAGE_TOKENS + i / width) * dim + i % dim;
            (0..numbers.len()).map(|i| numbers[of(i)].to_f32()).collect::<Vec<_>>()
        });
        let of_page = (layer * n + page * PAGE_TOKENS) * width..(layer * n + (page + 1) * PAGE_TOKENS) * width;
        let mut want: Vec<f32> = keys[of_page.clone()].iter().map(|x| x.to_f32()).collect();
        embedding.shift(&mut want, n_kv_heads, 777)?;
        self.compare("G4, keys", &got_keys, &want, 1e-3);
        let want: Vec<f32> = values[of_page].iter().map(|x| x.to_f32()).collect();
        self.compare("G4, values", &got_values, &want, 0.0);
        let seconds = self.time(|| place(&source, &placement, &turns, &mut arena, 0..n_layers))?;
        let bytes = (n_layers * n * width * 2 * 2 * 2) as f64;
        self.report(&format!("G4 turn and copy, {n_layers} layers of {n} tokens"), seconds, None, Some(bytes), 0.60);
        Ok(())
    }

    fn pooling_and_norms(&mut self) -> Result<()> {
        let (dim, length, count) = (768, 256 / self.smaller.min(16), 2048 / self.smaller);
        let n = dim * length * count;
        let rows = self.random.halves(n);
        let (scale, shift) = (self.random.floats(dim), self.random.floats(dim));
        let mut on_rows = self.device.upload(&rows)?;
        let (on_scale, on_shift) = (self.device.upload(&scale)?, self.device.upload(&shift)?);
        let ends: Vec<usize> = (1..=count).map(|i| i * length).collect();
        let sequences = PackedSequences::new(&self.device, &ends)?;
        let norm = RowNorm::Layer { scale: &on_scale, shift: &on_shift, epsilon: 1e-5 };
        let got = norm_pool(&on_rows, &sequences, dim, norm, Pooled::Mean, Length::Unit)?.download()?;
        let of = self.random.below(count);
        let mut sample: Vec<f32> = rows[of * length * dim..][..length * dim].iter().map(|x| x.to_f32()).collect();
        layer_norm(&mut sample, &scale, &shift, 1e-5)?;
        let mut want = vec![0.0; dim];
        mean_pool(&sample, &[length], dim, &mut want)?;
        l2_normalize(&mut want, dim)?;
        self.compare("G5", &got[of * dim..][..dim], &want, 1e-5);
        let seconds =
            self.time(|| norm_pool(&on_rows, &sequences, dim, norm, Pooled::Mean, Length::Unit).map(|_| ()))?;
        let what = format!("G5 norm, mean and unit length, {count} x {length} rows of {dim}");
        self.report(&what, seconds, None, Some((n * 2) as f64), 0.60);
        let residual = self.device.upload(&rows)?;
        let seconds = self.time(|| add_layer_norm(&mut on_rows, &residual, &on_scale, &on_shift, 1e-5))?;
        let what = format!("addition and layer norm, {} rows of {dim}", count * length);
        self.report(&what, seconds, None, Some((n * 6) as f64), 0.60);
        Ok(())
    }

    fn best_vectors(&mut self) -> Result<()> {
        let (n, dim) = (4_000_000 / self.smaller, 384);
        let codes = self.random.many(n * dim, |bits| (bits as i8).max(-127));
        let scales: Vec<f32> = self.random.floats(n).iter().map(|x| x.abs()).collect();
        let query = self.random.many(dim, |bits| (bits as i8).max(-127));
        let vectors = Int8Vectors::new(&self.device, &codes, &scales, dim)?;
        let got = vectors.best(&query, &[0.5], 100)?;
        let mut scores = vec![0.0; n];
        Int8Query::inner_products(&[Int8Query::from_codes(&query, 0.5)?], &codes, &scales, &mut scores)?;
        self.check("G6, bytes", got[0] == top_k(&scores, 100)?);
        let seconds = self.time(|| vectors.best(&query, &[0.5], 100).map(|_| ()))?;
        let what = format!("G6 the best 100 of {n} vectors of {dim} bytes, one query");
        self.report(&what, seconds, None, Some((n * dim) as f64), 0.60);
        let (n, n_words) = (24_000_000 / self.smaller, 16);
        let bits = self.random.many(n * n_words, |bits| bits);
        let query = self.random.many(n_words, |bits| bits);
        let vectors = BitVectors::new(&self.device, &bits, n_words)?;
        let got = vectors.nearest(&query, 100)?;
        let mut want = vec![0; n];
        hamming(&query, &bits, &mut want)?;
        let mut want: Vec<(u32, u32)> = want.into_iter().zip(0..).collect();
        want.select_nth_unstable(100);
        want.truncate(100);
        want.sort_unstable();
        self.check("G6, bits", got[0] == want);
        let seconds = self.time(|| vectors.nearest(&query, 100).map(|_| ()))?;
        let what = format!("G6 the nearest 100 of {n} vectors of {} bits, one query", n_words * 64);
        self.report(&what, seconds, None, Some((n * n_words * 8) as f64), 0.60);
        Ok(())
    }

    fn products(&mut self) -> Result<()> {
        for shape in [[65_536, 768, 3072], [65_536, 3072, 768], [65_536, 384, 1536], [8192, 4096, 4096]] {
            self.product::<F16, F16>(shape, "f16")?;
        }
        self.product::<Bf16, f32>([8192, 4096, 4096], "bf16")
    }

    fn product<N: Narrow, T: Real>(&mut self, [n, n_in, n_out]: [usize; 3], name: &str) -> Result<()> {
        let (n, n_out) = (n / self.smaller, n_out / self.smaller);
        let rows: Vec<N> = self.random.floats(n * n_in).into_iter().map(N::from_f32).collect();
        let weights: Vec<f32> = self.random.floats(n_out * n_in).into_iter().map(|w| N::from_f32(w).to_f32()).collect();
        let matrix = DeviceMatrix::<N>::new(&self.device, &weights, n_in, n_out, None)?;
        let input = self.device.upload(&rows)?;
        let mut out = self.poisoned::<T>(n * n_out)?;
        matrix_product(&input, &matrix, Output::Replace, &mut out)?;
        let row = self.random.below(n);
        let want: Vec<f32> = weights
            .chunks(n_in)
            .map(|w| rows[row * n_in..][..n_in].iter().zip(w).map(|(x, w)| x.to_f32() * w).sum())
            .collect();
        let got: Vec<f32> = out.download()?[row * n_out..][..n_out].iter().map(|x| x.to_f32()).collect();
        let what = format!("product of {n} rows, {n_in} to {n_out}, {name}");
        self.compare(&what, &got, &want, 0.02);
        let seconds = self.time(|| matrix_product(&input, &matrix, Output::Replace, &mut out))?;
        self.report(&what, seconds, Some(2.0 * (n * n_in) as f64 * n_out as f64), None, 0.50);
        Ok(())
    }

    fn quantised_products(&mut self) -> Result<()> {
        let (n_in, n_out) = (4096 / self.smaller.min(8), 131_072 / self.smaller);
        for format in [BlockFormat::Q4_0, BlockFormat::Q8_0, BlockFormat::Q4K, BlockFormat::Q5K, BlockFormat::Q6K] {
            let n_blocks = n_in * n_out / format.block_len();
            let mut bytes = self.random.many(n_blocks * format.block_bytes(), |bits| (bits >> 32) as u8);
            let halves: &[usize] = match format {
                BlockFormat::Q6K => &[208],
                BlockFormat::Q4K | BlockFormat::Q5K => &[0, 2],
                _ => &[0],
            };
            for block in bytes.chunks_exact_mut(format.block_bytes()) {
                halves.iter().for_each(|&at| block[at..at + 2].copy_from_slice(&0x2000_u16.to_le_bytes())); // 2^-7
            }
            let matrix = DeviceBlockMatrix::new(&self.device, format, &bytes, n_in, n_out)?;
            let row = self.random.floats(n_in);
            let input = self.device.upload(&row)?;
            let mut out = self.poisoned::<f32>(n_out)?;
            block_product(&QuantizedRows::new(&input)?, &matrix, &mut out)?;
            let of = self.random.below(n_out);
            let row_bytes = n_in / format.block_len() * format.block_bytes();
            let mut weights = vec![0.0; n_in];
            dequantize_blocks(format, &bytes[of * row_bytes..][..row_bytes], &mut weights)?;
            let want: f32 = row.iter().zip(&weights).map(|(x, w)| x * w).sum();
            let length: f32 = weights.iter().map(|w| w * w).sum::<f32>().sqrt();
            // Inputs are rounded to bytes: a hundredth of what random signs add up to.
            self.compare(&format!("{format:?}"), &[out.download()?[of] / length], &[want / length], 0.02);
            let seconds = self.time(|| block_product(&QuantizedRows::new(&input)?, &matrix, &mut out))?;
            let what = format!("one row with {n_out} x {n_in} weights in {format:?}");
            self.report(&what, seconds, None, Some(bytes.len() as f64), 0.70);
        }
        Ok(())
    }
}

fn run() -> Result<bool> {
    let (device, is_emulated) = CudaDevice::to_time()?;
    let smaller = if is_emulated { 256 } else { 1 };
    println!("{:?}", device.limits());
    println!("products by {}", if device.has_library() { "libcublasLt" } else { "our own kernel" });
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 | 1);
    println!("seed {seed}; shares are of an H200's {} TFLOP/s and {} TB/s", PEAK_FLOPS / 1e12, PEAK_BYTES / 1e12);
    let mut bench = Bench { device, random: Random(seed), failed: false, smaller };
    bench.packed_attention()?;
    bench.any_rows()?;
    bench.decoding()?;
    bench.moving_keys()?;
    bench.pooling_and_norms()?;
    bench.products()?;
    bench.quantised_products()?;
    bench.best_vectors()?;
    Ok(!bench.failed)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("some results are wrong");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("nothing more is timed: {error}");
            ExitCode::FAILURE
        }
    }
}
