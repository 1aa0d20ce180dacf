//! One table of cosines and sines for all heads of a token.

use super::RotaryPairs;
use crate::forms::{fma, forms};

forms! {
    /// Turns every head of `heads` alike; `turn` is one head's cosines, then its sines.
    pub fn turn(heads: &mut [f32], pairs: RotaryPairs, turn: &[f32]) {
        let (cosines, sines) = turn.split_at(turn.len() / 2);
        for head in heads.chunks_exact_mut(turn.len()) {
            match pairs {
                RotaryPairs::Neighbours => {
                    let (couples, _) = head.as_chunks_mut::<2>();
                    for ((couple, &cosine), &sine) in couples.iter_mut().zip(cosines).zip(sines) {
                        *couple = turned::<FMA>(couple[0], couple[1], cosine, sine);
                    }
                }
                RotaryPairs::Halves => {
                    let (low, high) = head.split_at_mut(cosines.len());
                    for (((x, y), &cosine), &sine) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                        [*x, *y] = turned::<FMA>(*x, *y, cosine, sine);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turned<const FMA: bool>(x: f32, y: f32, cosine: f32, sine: f32) -> [f32; 2] {
    [fma::<FMA>(x, cosine, -(y * sine)), fma::<FMA>(x, sine, y * cosine)]
}
