//! A random rotation in `O(dim log dim)`.

use crate::device::CpuForm;
use crate::forms::forms;

/// Windows that are mixed, one after the other; two of each end, so that every component meets every other.
const ROUNDS: usize = 4;

/// A random orthogonal map: signs are flipped at random, then a window of 2ᵏ components is mixed by a Walsh–Hadamard
/// transform; windows at the beginning and at the end take turns, and overlap.
#[derive(Clone, Debug)]
pub struct RandomRotation {
    dim: usize,
    /// The greatest power of two that is not above `dim`.
    window: usize,
    /// ±1/√window, `[ROUNDS, window]`.
    signs: Vec<f32>,
}

impl RandomRotation {
    /// A rotation of vectors of `dim` components, which is not 0; the same for the same seed.
    ///
    /// # Panics
    ///
    /// When `dim` is 0.
    pub fn new(dim: usize, seed: u64) -> Self {
        assert!(dim > 0, "a vector has components");
        let window = 1 << dim.ilog2();
        let scale = 1.0 / (window as f64).sqrt() as f32;
        let mut state = seed;
        let mut signs = Vec::with_capacity(ROUNDS * window);
        for _ in 0..ROUNDS * window {
            // SplitMix64 (Steele, Lea and Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            signs.push(if bits >> 63 == 0 { scale } else { -scale });
        }
        Self { dim, window, signs }
    }

    /// Turns a vector.
    ///
    /// # Panics
    ///
    /// When the vector is of another dimension.
    pub fn apply(&self, vector: &mut [f32]) {
        assert_eq!(vector.len(), self.dim, "the vector is of the rotation's dimension");
        for (round, signs) in self.signs.chunks_exact(self.window).enumerate() {
            let start = if round % 2 == 0 { 0 } else { self.dim - self.window };
            mix(CpuForm::best(), &mut vector[start..start + self.window], signs);
        }
    }
}

forms! {
    /// Multiplies each component by its sign, then adds and subtracts them in pairs at every distance.
    fn mix(vector: &mut [f32], signs: &[f32]) {
        for (x, sign) in vector.iter_mut().zip(signs) {
            *x *= sign;
        }
        let mut half = vector.len() / 2;
        while half >= 8 {
            for pair in vector.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            half /= 2;
        }
        while half >= 1 {
            for pair in vector.chunks_exact_mut(2 * half) {
                for i in 0..half {
                    (pair[i], pair[i + half]) = (pair[i] + pair[i + half], pair[i] - pair[i + half]);
                }
            }
            half /= 2;
        }
    }
}
