//! What share of the machine's limit each kernel reaches, on one thread.
//!
//! First the limits are measured: multiply-adds of `f32` from registers, and reading memory that no cache holds. Then
//! each kernel runs on the shapes of the default models; its result is checked against a plain loop before it is timed.
//! Times are the median of several rounds. `cargo bench -p raglan-kernels [-- NAME…]` runs those whose name contains
//! one of the words.

use std::hint::black_box;
use std::time::Instant;

use raglan_kernels::device::CpuForm;
use raglan_kernels::{Epilogue, Int8Matrix, Int8Rows, PackedMatrix, int8_product, matrix_product};

/// Rounds of which the median counts, each of at least a hundredth of a second.
const ROUNDS: usize = 9;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the pool is made once");
    let limits = Limits::measure();
    println!("form {}: {:.0} GFLOP/s f32, {:.1} GB/s read\n", CpuForm::best().name(), limits.gflops, limits.gbytes);
    println!("| kernel | shape | ms | rate | share of limit |\n|---|---|---|---|---|");
    let bench = Bench { words, limits };
    for (n_rows, n_in, n_out) in
        [(512, 384, 1152), (512, 384, 1536), (512, 1536, 384), (512, 576, 1536), (16, 384, 1536), (1, 576, 49152)]
    {
        bench.matrix_product(n_rows, n_in, n_out);
        bench.int8_product(n_rows, n_in, n_out);
    }
}

struct Limits {
    gflops: f64,
    gbytes: f64,
}

struct Bench {
    words: Vec<String>,
    limits: Limits,
}

/// What a kernel is bound by.
enum Work {
    /// Floating-point operations, or as many as the plain form would do.
    Flops(f64),
    /// Bytes read.
    Bytes(f64),
}

impl Bench {
    fn row(&self, kernel: &str, shape: &str, work: &Work, run: impl FnMut()) {
        let seconds = median_seconds(run);
        let (rate, unit, limit) = match work {
            Work::Flops(flops) => (flops / seconds / 1e9, "GFLOP/s", self.limits.gflops),
            Work::Bytes(bytes) => (bytes / seconds / 1e9, "GB/s", self.limits.gbytes),
        };
        println!("| {kernel} | {shape} | {:.3} | {rate:.1} {unit} | {:.0} % |", seconds * 1e3, rate / limit * 100.0);
    }

    fn wants(&self, kernel: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| kernel.contains(word.as_str()))
    }

    fn matrix_product(&self, n_rows: usize, n_in: usize, n_out: usize) {
        if !self.wants("matrix_product") {
            return;
        }
        let (input, weights) = (numbers(n_rows * n_in), numbers(n_out * n_in));
        let packed = PackedMatrix::new(&weights, n_out, n_in).expect("the lengths fit");
        let mut out = vec![0.0; n_rows * n_out];
        matrix_product(&input, &packed, Epilogue::default(), &mut out).expect("the lengths fit");
        let last: f64 = dot(&input[(n_rows - 1) * n_in..], &weights[(n_out - 1) * n_in..]);
        assert!((f64::from(out[n_rows * n_out - 1]) - last).abs() <= 1e-3);
        let work = if n_rows > 1 {
            Work::Flops((2 * n_rows * n_in * n_out) as f64)
        } else {
            Work::Bytes(packed.n_bytes() as f64)
        };
        self.row("matrix_product f32", &format!("{n_rows}×{n_in}×{n_out}"), &work, || {
            matrix_product(&input, &packed, Epilogue::default(), black_box(&mut out)).expect("the lengths fit");
        });
    }

    fn int8_product(&self, n_rows: usize, n_in: usize, n_out: usize) {
        if !self.wants("int8_product") {
            return;
        }
        let (input, weights) = (numbers(n_rows * n_in), numbers(n_out * n_in));
        let packed = Int8Matrix::new(&weights, n_out, n_in).expect("the weights are sound");
        let mut out = vec![0.0; n_rows * n_out];
        let mut rows = Int8Rows::default();
        rows.round(&input, n_in).expect("the lengths fit");
        int8_product(&rows, &packed, Epilogue::default(), &mut out).expect("the lengths fit");
        let last: f64 = dot(&input[(n_rows - 1) * n_in..], &weights[(n_out - 1) * n_in..]);
        assert!((f64::from(out[n_rows * n_out - 1]) - last).abs() <= 0.02 * (n_in as f64).sqrt());
        let work = if n_rows > 1 {
            Work::Flops((2 * n_rows * n_in * n_out) as f64)
        } else {
            Work::Bytes(packed.n_bytes() as f64)
        };
        self.row("int8_product", &format!("{n_rows}×{n_in}×{n_out}"), &work, || {
            rows.round(&input, n_in).expect("the lengths fit");
            int8_product(&rows, &packed, Epilogue::default(), black_box(&mut out)).expect("the lengths fit");
        });
    }
}

impl Limits {
    fn measure() -> Self {
        let memory = numbers(64 << 20); // 256 MiB: more than any cache here.
        let bytes = (memory.len() * size_of::<f32>()) as f64;
        let seconds = median_seconds(|| {
            black_box(read(&memory));
        });
        Self { gflops: peak_gflops(), gbytes: bytes / seconds / 1e9 }
    }
}

/// Multiply-adds in a second, from registers alone.
fn peak_gflops() -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        const TURNS: usize = 100_000;
        if CpuForm::best() >= CpuForm::Avx512 {
            // SAFETY: the form runs here.
            let seconds = median_seconds(|| unsafe { fma_512(black_box(TURNS)) });
            return (TURNS * 20 * 16 * 2) as f64 / seconds / 1e9;
        }
        if CpuForm::best() >= CpuForm::Avx2 {
            // SAFETY: the form runs here.
            let seconds = median_seconds(|| unsafe { fma_256(black_box(TURNS)) });
            return (TURNS * 12 * 8 * 2) as f64 / seconds / 1e9;
        }
    }
    f64::NAN
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn fma_256(turns: usize) {
    use std::arch::x86_64::*;
    let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
    let mut sums = [_mm256_setzero_ps(); 12];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn fma_512(turns: usize) {
    use std::arch::x86_64::*;
    let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
    let mut sums = [_mm512_setzero_ps(); 20];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

/// Reads all of it as four streams at once, which keeps more of them under way than one does.
fn read(memory: &[f32]) -> f32 {
    let (front, back) = memory.split_at(memory.len() / 2);
    let streams = [front.split_at(front.len() / 2), back.split_at(back.len() / 2)];
    let mut sums = [0.0f32; 64];
    let [(a, b), (c, d)] = streams;
    for (((a, b), c), d) in a.chunks_exact(16).zip(b.chunks_exact(16)).zip(c.chunks_exact(16)).zip(d.chunks_exact(16)) {
        for (sums, block) in sums.chunks_exact_mut(16).zip([a, b, c, d]) {
            for (sum, x) in sums.iter_mut().zip(block) {
                *sum += x;
            }
        }
    }
    sums.iter().sum()
}

fn median_seconds(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    run();
    let repeats = (0.01 / begin.elapsed().as_secs_f64()).ceil().max(1.0) as usize;
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..repeats {
                run();
            }
            begin.elapsed().as_secs_f64() / repeats as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

/// Numbers between −1 and 1 that need no generator.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}
