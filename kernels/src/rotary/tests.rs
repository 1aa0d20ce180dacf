//! One body for every form, and the identities of turns.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{BLOCK, N_BLOCKS, RotaryEmbedding, RotaryPairs, RotaryScaling, cpu, fast};
use crate::Error;
use crate::device::CpuForm;

const PAIRS: [RotaryPairs; 2] = [RotaryPairs::Neighbours, RotaryPairs::Halves];
const YARN: RotaryScaling = RotaryScaling::Yarn { factor: 4.0, original_len: 4096, beta_fast: 32.0, beta_slow: 1.0 };

fn random(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

fn plain(head_dim: usize, pairs: RotaryPairs) -> RotaryEmbedding {
    RotaryEmbedding::new(head_dim, 1e4, pairs, &RotaryScaling::None).unwrap()
}

#[track_caller]
fn near(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= tolerance, "{got} is not {want}");
    }
}

#[test]
fn every_form_equals_the_reference() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for head_dim in [2, 4, 6, 18, 64, 96] {
        for pairs in PAIRS {
            let rotary = plain(head_dim, pairs);
            let heads = random(&mut rng, 3 * head_dim);
            let mut turn = vec![0.0; head_dim];
            rotary.fill(&mut turn, 777.0, 1.0);
            for form in CpuForm::available() {
                let mut got = heads.clone();
                fast::turn(form, &mut got, pairs, &turn);
                for (got, head) in got.chunks(head_dim).zip(heads.chunks(head_dim)) {
                    near(got, &cpu::rotate(head, pairs, rotary.frequencies(), 1.0, 777.0), 3e-7);
                }
            }
        }
    }
}

#[test]
fn a_token_turns_to_its_own_position_and_the_rest_of_its_row_stays() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (head_dim, n_heads, stride) = (8, 2, 21);
    let beyond = (BLOCK * N_BLOCKS) as u32;
    let positions = [0, 5, 5, beyond - 1, beyond, 100_000_000, u32::MAX];
    for pairs in PAIRS {
        let rotary = RotaryEmbedding::new(head_dim, 1e5, pairs, &YARN).unwrap();
        let rows = random(&mut rng, positions.len() * stride);
        let mut got = rows.clone();
        rotary.rotate(&mut got, stride, n_heads, &positions).unwrap();
        let rotary = rotary.clone();
        for ((got, row), &position) in got.chunks(stride).zip(rows.chunks(stride)).zip(&positions) {
            assert_eq!(got[16..], row[16..]);
            for h in 0..n_heads {
                let head = &row[h * head_dim..][..head_dim];
                let want = cpu::rotate(head, pairs, rotary.frequencies(), rotary.magnitude(), f64::from(position));
                near(&got[h * head_dim..][..head_dim], &want, 4e-7);
            }
            let mut alone = row[..16].to_vec();
            rotary.rotate(&mut alone, stride, n_heads, &[position]).unwrap();
            assert_eq!(alone, got[..16]);
        }
    }
}

#[test]
fn keys_that_move_are_as_keys_turned_at_once() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (head_dim, n_heads) = (64, 3);
    let stride = head_dim * n_heads;
    let keys = random(&mut rng, 5 * stride);
    for scaling in [RotaryScaling::None, YARN] {
        for pairs in PAIRS {
            let rotary = RotaryEmbedding::new(head_dim, 1e4, pairs, &scaling).unwrap();
            for (from, to) in [(0u32, 1000u32), (1000, 0), (17, 30_000), (40_000, 39_999)] {
                let positions = |start: u32| (start..start + 5).collect::<Vec<_>>();
                let mut moved = keys.clone();
                rotary.rotate(&mut moved, stride, n_heads, &positions(from)).unwrap();
                let before = moved.clone();
                rotary.shift(&mut moved, n_heads, 0).unwrap();
                assert!(moved.iter().zip(&before).all(|(x, y)| x.to_bits() == y.to_bits()));
                rotary.shift(&mut moved, n_heads, i64::from(to) - i64::from(from)).unwrap();
                let mut at_once = keys.clone();
                rotary.rotate(&mut at_once, stride, n_heads, &positions(to)).unwrap();
                let largest = at_once.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
                for (got, want) in moved.iter().zip(&at_once) {
                    assert!((got - want).abs() <= 1e-5 * largest, "{got} is not {want}");
                }
            }
        }
    }
}

#[test]
fn only_the_difference_of_positions_counts() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    for pairs in PAIRS {
        let rotary = plain(32, pairs);
        let (query, key) = (random(&mut rng, 32), random(&mut rng, 32));
        let product = |p: u32, r: u32| {
            let (mut query, mut key) = (query.clone(), key.clone());
            rotary.rotate(&mut query, 32, 1, &[p]).unwrap();
            rotary.rotate(&mut key, 32, 1, &[r]).unwrap();
            crate::inner_product(&query, &key).unwrap()
        };
        assert!((product(9, 2) - product(1009, 1002)).abs() <= 1e-5);
        assert!((product(9, 2) - product(9, 3)).abs() >= 1e-2);
    }
}

#[test]
fn a_factor_of_one_changes_nothing() {
    let plain = plain(64, RotaryPairs::Halves);
    let (low, high, original_len) = (1.0, 4.0, 8192);
    for scaling in [
        RotaryScaling::Linear { factor: 1.0 },
        RotaryScaling::Ntk { factor: 1.0 },
        RotaryScaling::Yarn { factor: 1.0, original_len, beta_fast: 32.0, beta_slow: 1.0 },
        RotaryScaling::Llama3 { factor: 1.0, low, high, original_len },
        RotaryScaling::Divisors(vec![1.0; 32]),
    ] {
        let scaled = RotaryEmbedding::new(64, 1e4, RotaryPairs::Halves, &scaling).unwrap();
        assert_eq!(scaled.frequencies(), plain.frequencies(), "{scaling:?}");
        assert_eq!(scaled.magnitude(), 1.0);
    }
}

#[test]
fn scalings_follow_their_formulas() {
    let frequencies = |scaling| RotaryEmbedding::new(64, 1e4, RotaryPairs::Halves, &scaling).unwrap().frequencies;
    let plain = frequencies(RotaryScaling::None);
    assert_eq!(plain[0], 1.0);
    assert!((plain[16] - 0.01).abs() <= 1e-15); // 10000^(-32/64)
    assert_eq!(frequencies(RotaryScaling::Linear { factor: 4.0 })[16], plain[16] / 4.0);
    let ntk = frequencies(RotaryScaling::Ntk { factor: 4.0 });
    assert_eq!(ntk[0], 1.0);
    assert!((ntk[31] - plain[31] / 4.0).abs() <= 1e-12); // the slowest pair is interpolated by the whole factor

    // 4096 / 2π = 651.9 turns at frequency 1: pair 64 · ln(651.9/32) / (2 ln 10⁴) = 10.5 → 10, and
    // 64 · ln(651.9) / (2 ln 10⁴) = 22.5 → 23.
    let yarn = frequencies(YARN);
    assert_eq!(yarn[..=10], plain[..=10]);
    for i in 10..=23 {
        let kept = (23 - i) as f64 / 13.0;
        assert!((yarn[i] - plain[i] * (kept + (1.0 - kept) / 4.0)).abs() <= 1e-15);
    }
    assert!((23..32).all(|i| (yarn[i] - plain[i] / 4.0).abs() <= 1e-15));
    let magnitude = RotaryEmbedding::new(64, 1e4, RotaryPairs::Halves, &YARN).unwrap().magnitude();
    assert!((magnitude - 1.138_629).abs() <= 1e-6); // 0.1 · ln 4 + 1

    let llama = frequencies(RotaryScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_len: 8192 });
    for (scaled, plain) in llama.iter().zip(&plain) {
        let wavelength = std::f64::consts::TAU / plain;
        let smooth = (8192.0 / wavelength - 1.0) / 3.0;
        let want = match wavelength {
            long if long > 8192.0 => plain / 8.0,
            short if short < 2048.0 => *plain,
            _ => (1.0 - smooth) * plain / 8.0 + smooth * plain,
        };
        assert!((scaled - want).abs() <= 1e-15);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let new = |head_dim, base, scaling: RotaryScaling| {
        RotaryEmbedding::new(head_dim, base, RotaryPairs::Halves, &scaling).map(|_| ())
    };
    assert_eq!(new(0, 1e4, RotaryScaling::None), Err(Error::ZeroDimension));
    assert!(matches!(new(7, 1e4, RotaryScaling::None), Err(Error::Shape { what: "head_dim", .. })));
    assert_eq!(new(8, f64::NAN, RotaryScaling::None), Err(Error::NotPositive { what: "base" }));
    assert_eq!(new(8, 1e4, RotaryScaling::Linear { factor: 0.0 }), Err(Error::NotPositive { what: "factor" }));
    assert!(matches!(new(8, 1e4, RotaryScaling::Divisors(vec![1.0])), Err(Error::Shape { what: "divisors", .. })));
    assert_eq!(new(2, 1e4, RotaryScaling::Ntk { factor: 2.0 }), Ok(()));

    let rotary = plain(4, RotaryPairs::Halves);
    assert!(matches!(rotary.rotate(&mut [0.0; 8], 4, 2, &[0]), Err(Error::Shape { what: "stride", .. })));
    assert!(matches!(rotary.rotate(&mut [0.0; 7], 4, 1, &[0, 1]), Err(Error::Shape { what: "rows", .. })));
    assert!(matches!(rotary.rotate(&mut [0.0; 9], 4, 1, &[0, 1]), Err(Error::Shape { what: "rows", .. })));
    assert_eq!(rotary.rotate(&mut [0.0; 9], 5, 1, &[0, 1]), Ok(()));
    assert_eq!(rotary.rotate(&mut [], 4, 1, &[]), Ok(()));
    assert!(matches!(rotary.shift(&mut [0.0; 9], 2, 1), Err(Error::Shape { what: "keys", .. })));
    assert!(rotary.shift(&mut [0.0; 4], 0, 1).is_err());
    assert_eq!(rotary.shift(&mut [], 0, 1), Ok(()));
}
