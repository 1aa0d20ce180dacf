//! Whether a difference of means over the same queries is more than chance.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::iter::{IntoParallelIterator, ParallelIterator};

/// How often a test draws anew.
pub const N_SAMPLES: usize = 10_000;

/// Up to this many differences all choices of signs are tried: 2^13 = 8,192 is less than [`N_SAMPLES`].
const MOST_EXACT: usize = 13;

const SEED: u64 = 0x7261_676c_616e; // "raglan"

/// The two-sided paired randomisation test (Fisher): how probable it is, if the two systems were the same, that chance
/// gives a mean difference at least as large as this one.
///
/// The sign of each query's difference is drawn anew 10,000 times; `p = (1 + as large) / (1 + 10,000)`. Up to 13
/// differences other than 0, all choices of signs are counted instead and `p` is exact. The result depends on the
/// differences and their order alone. 1 where nothing differs.
pub fn randomisation_p(differences: &[f64]) -> f64 {
    let differences: Vec<f64> = differences.iter().copied().filter(|&difference| difference != 0.0).collect();
    if differences.is_empty() {
        return 1.0;
    }
    // Sums in another order may differ in their last bits.
    let rounding = 1e-12 * differences.iter().map(|difference| difference.abs()).sum::<f64>();
    let observed = differences.iter().sum::<f64>().abs() - rounding;
    if differences.len() <= MOST_EXACT {
        let n_choices = 1u64 << differences.len();
        let as_large = (0..n_choices).filter(|&signs| signed_sum(&differences, signs).abs() >= observed).count();
        return as_large as f64 / n_choices as f64;
    }
    let as_large = (0..N_SAMPLES)
        .into_par_iter()
        .filter(|&sample| {
            let mut random = stream(sample);
            let sum: f64 = differences.chunks(64).map(|some| signed_sum(some, random.next_u64())).sum();
            sum.abs() >= observed
        })
        .count();
    (1 + as_large) as f64 / (1 + N_SAMPLES) as f64
}

/// The bootstrap interval of the mean that holds 95 of 100 resampled means: queries are drawn with replacement 10,000
/// times. The result depends on the values and their order alone. `(0, 0)` of nothing.
pub fn bootstrap_interval(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let n = values.len();
    let mut means: Vec<f64> = (0..N_SAMPLES)
        .into_par_iter()
        .map(|sample| {
            let mut random = stream(sample);
            // The high half of a product takes 32 bits to `0..n`; n / 2^32 is how uneven that is.
            let mut draw = || values[((u64::from(random.next_u32()) * n as u64) >> 32) as usize];
            (0..n).map(|_| draw()).sum::<f64>() / n as f64
        })
        .collect();
    means.sort_unstable_by(f64::total_cmp);
    (means[N_SAMPLES / 40 - 1], means[N_SAMPLES - N_SAMPLES / 40])
}

/// Random numbers of their own for each sample, whichever thread draws them.
fn stream(sample: usize) -> ChaCha8Rng {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    random.set_stream(sample as u64);
    random
}

/// The sum of up to 64 values, those whose bit is set with the other sign.
fn signed_sum(values: &[f64], signs: u64) -> f64 {
    values.iter().enumerate().map(|(i, value)| f64::from_bits(value.to_bits() ^ ((signs >> i & 1) << 63))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_queries_are_counted_exactly() {
        // Of 8 choices of signs only +++ and --- sum to 6 or more in size.
        assert_eq!(randomisation_p(&[1.0, 2.0, 3.0]), 2.0 / 8.0);
        // |1 - 2 + 3| = 2: all but ±(1 + 2 - 3) = 0, which are 2 of 8.
        assert_eq!(randomisation_p(&[1.0, -2.0, 0.0, 3.0]), 6.0 / 8.0);
        assert_eq!(randomisation_p(&[0.1; 5]), 2.0 / 32.0);
        assert_eq!(randomisation_p(&[0.0, 0.0]), 1.0);
        assert_eq!(randomisation_p(&[]), 1.0);
    }

    #[test]
    fn many_queries_are_sampled() {
        // 14 equal differences: 2 / 2^14 = .00012 exactly.
        assert!(randomisation_p(&[0.5; 14]) <= 6.0 / 10_001.0);
        let even: Vec<f64> = (0..200).map(|i| if i % 2 == 0 { 0.3 } else { -0.3 }).collect();
        assert_eq!(randomisation_p(&even), 1.0); // Any sum is at least 0 in size.
        // A mean of .1 with standard deviation 1 over 400 queries is 2 standard errors: p of a normal law is .0455.
        let shifted: Vec<f64> = (0..400).map(|i| 0.1 + if i % 2 == 0 { 0.995 } else { -0.995 }).collect();
        let p = randomisation_p(&shifted);
        assert!((p - 0.0455).abs() <= 0.01, "{p}");
    }

    #[test]
    fn threads_change_nothing() {
        let values: Vec<f64> = (0..97).map(|i| f64::from(i * 37 % 101) / 101.0 - 0.45).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        let alone = pool.install(|| (randomisation_p(&values), bootstrap_interval(&values)));
        assert_eq!((randomisation_p(&values), bootstrap_interval(&values)), alone);
    }

    #[test]
    fn the_interval_is_about_two_standard_errors_to_each_side() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let (low, high) = bootstrap_interval(&values);
        let half = 1.96 * 0.5 / 20.0; // 1.96 standard deviations of .5 over the root of 400
        assert!((0.5 - low - half).abs() <= 0.005 && (high - 0.5 - half).abs() <= 0.005, "{low} {high}");
        assert_eq!(bootstrap_interval(&[0.25]), (0.25, 0.25));
        assert_eq!(bootstrap_interval(&[]), (0.0, 0.0));
    }
}
