//! What share of the machine's limit each kernel reaches, on one thread.
//!
//! First the limits are measured ([`Limits`]). Then each kernel runs on the shapes of the default models; its result is
//! checked against a plain loop before it is timed. The error is the greatest difference on sampled rows, relative to
//! the greatest number there: for weights in bytes and blocks it is that of rounding, which the kernels are meant to do.
//!
//! Times are those for which the threads had a processor, so that other programs disturb them less, and the median of
//! several rounds, each right after another: what fits in a cache is read from there, so that
//! rates in GB/s, whose limit is that of memory, may exceed it. An operation in place has its input copied back each
//! time, where that matters, and the copy is in its time.
//!
//! `cargo bench -p raglan-kernels --bench roofline [-- --json] [WORD…]` runs the cases whose operation contains one of
//! the words; `--json` prints an object a line in place of the table. `RAGLAN_CPU` chooses the form.

mod attention;
mod limits;
mod plain;
mod products;
mod rows;
mod scores;

use std::time::Instant;

use limits::{Limit, Limits};

/// Rounds of which the median counts.
const ROUNDS: usize = 9;

/// How long a round is at least, in seconds: the system counts processor time in some thousandths.
const ROUND: f64 = 0.05;

fn main() {
    let (options, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("the pool is made once");
    let bench = Bench { words, json: options.iter().any(|option| option == "--json"), limits: Limits::measure() };
    bench.header();
    products::all(&bench);
    attention::all(&bench);
    rows::all(&bench);
    scores::all(&bench);
}

/// Which cases run, and how they are printed.
struct Bench {
    words: Vec<String>,
    json: bool,
    limits: Limits,
}

/// What a call does.
enum Work {
    /// Multiplications and additions of `f32`, or as many as the plain form would do.
    Flops(f64),
    /// The same with weights of bf16, which tiles multiply where there are any.
    Bf16Flops(f64),
    /// Multiplications and additions of bytes.
    ByteOps(f64),
    /// Bytes looked up in tables of sixteen.
    Shuffles(f64),
    /// Bytes read and written.
    Bytes(f64),
}

/// A case that is wanted.
struct Case<'a> {
    bench: &'a Bench,
    operation: &'a str,
    shape: String,
}

impl Bench {
    fn header(&self) {
        if self.json {
            println!("{}", self.limits.json());
            return;
        }
        println!("{}", self.limits);
        println!("| operation | shape | ms | rate | share of limit | max error |");
        println!("|---|---|---:|---:|---:|---:|");
    }

    /// The case, if one of the words asks for it.
    fn case<'a>(&'a self, operation: &'a str, shape: impl Into<String>) -> Option<Case<'a>> {
        let wanted = self.words.is_empty() || self.words.iter().any(|word| operation.contains(word.as_str()));
        wanted.then(|| Case { bench: self, operation, shape: shape.into() })
    }
}

impl Case<'_> {
    /// The first of these limits that the machine has.
    fn first_of<const N: usize>(&self, limits: [Limit; N]) -> Limit {
        limits.into_iter().find(|&limit| self.bench.limits.of(limit).is_some()).unwrap_or(limits[N - 1])
    }

    /// Checks the result, then times `run` and prints the row.
    ///
    /// `pairs` are what the kernel gave and what a plain loop gives; `tolerance` bounds their difference, relative to
    /// the greatest of the latter.
    fn run(&self, work: Work, tolerance: f64, pairs: impl IntoIterator<Item = (f32, f64)>, run: impl FnMut()) {
        let (mut error, mut greatest, mut sound) = (0.0f64, 0.0f64, true);
        for (got, want) in pairs {
            let difference = (f64::from(got) - want).abs();
            sound &= difference.is_finite();
            error = error.max(difference);
            greatest = greatest.max(want.abs());
        }
        assert!(sound && greatest > 0.0, "{} {}: the result is no number", self.operation, self.shape);
        let error = error / greatest;
        assert!(error <= tolerance, "{} {}: the result is {error:.1e} off", self.operation, self.shape);
        let seconds = median_seconds(run);
        let (amount, unit, limit) = match work {
            Work::Flops(flops) => (flops, "GFLOP/s", Limit::F32),
            Work::Bf16Flops(flops) => (flops, "GFLOP/s", self.first_of([Limit::AmxBf16, Limit::Bf16, Limit::F32])),
            Work::ByteOps(ops) => (ops, "GOP/s", self.first_of([Limit::AmxInt8, Limit::Int8])),
            Work::Shuffles(bytes) => (bytes, "GB/s", Limit::Shuffles),
            Work::Bytes(bytes) => (bytes, "GB/s", Limit::Memory),
        };
        let (rate, ms) = (amount / seconds / 1e9, seconds * 1e3);
        let share = self.bench.limits.of(limit).map(|limit| rate / limit);
        let Self { operation, shape, .. } = self;
        if self.bench.json {
            let share = share.map_or("null".to_owned(), |share| format!("{share:.4}"));
            println!(
                "{{\"operation\":\"{operation}\",\"shape\":\"{shape}\",\"ms\":{ms:.5},\"rate\":{rate:.3},\
                 \"unit\":\"{unit}\",\"limit\":\"{}\",\"share\":{share},\"max_error\":{error:.2e}}}",
                limit.name()
            );
        } else {
            let share =
                share.map_or("absent".to_owned(), |share| format!("{:.0} % of {}", share * 100.0, limit.name()));
            println!("| {operation} | {shape} | {ms:.3} | {rate:.1} {unit} | {share} | {error:.0e} |");
        }
    }
}

/// The time of one call, when calls follow one another.
fn median_seconds(mut run: impl FnMut()) -> f64 {
    run();
    let begin = Instant::now();
    run();
    let repeats = (ROUND / begin.elapsed().as_secs_f64()).ceil().max(1.0) as usize;
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (begin, processor) = (Instant::now(), processor_seconds());
            for _ in 0..repeats {
                run();
            }
            let elapsed = begin.elapsed().as_secs_f64();
            let taken = processor.zip(processor_seconds()).map(|(begin, end)| end - begin);
            taken.filter(|&taken| taken > 0.0).unwrap_or(elapsed) / repeats as f64
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[ROUNDS / 2]
}

/// The time that this process's threads have had a processor to themselves, where the system tells it.
fn processor_seconds() -> Option<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let stat = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += stat.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanoseconds / 1e9)
}

/// Numbers between −1 and 1 that need no generator.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| (hash(i) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// 32 bits that look random.
fn hash(i: usize) -> u32 {
    let mixed = (i as u32 ^ 0x9e37_79b9).wrapping_mul(0x85eb_ca6b);
    let mixed = (mixed ^ (mixed >> 13)).wrapping_mul(0xc2b2_ae35);
    mixed ^ (mixed >> 16)
}

/// At most `at_most` of `n`, evenly, with the first and the last.
fn sample(n: usize, at_most: usize) -> impl Iterator<Item = usize> + Clone {
    let count = n.min(at_most);
    (0..count).map(move |i| if count > 1 { i * (n - 1) / (count - 1) } else { n - 1 })
}
