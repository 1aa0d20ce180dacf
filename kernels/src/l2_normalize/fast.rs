//! The length from the inner-product kernel, where `f32` holds its square.

use super::cpu;
use crate::device::CpuForm;
use crate::forms::forms;
use crate::inner_product;

/// Squares of lengths that `f32` sums hold without underflow of a part that matters, or overflow.
const SAFE_SQUARES: std::ops::Range<f32> = 1e-12..1e30;

/// Divides one vector by its length, unless that is 0.
pub fn l2_normalize(row: &mut [f32]) {
    let square = inner_product(row, row).expect("a row is as long as itself");
    if SAFE_SQUARES.contains(&square) {
        multiply(CpuForm::best(), row, 1.0 / square.sqrt());
    } else {
        cpu::l2_normalize(row);
    }
}

forms! {
    /// Multiplies every component.
    fn multiply(row: &mut [f32], factor: f32) {
        for x in row {
            *x *= factor;
        }
    }
}
