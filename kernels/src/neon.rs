//! Instructions of 64-bit ARM that have no intrinsic in stable Rust.

use std::arch::aarch64::*;
use std::arch::asm;

/// The values of four IEEE halves.
#[target_feature(enable = "neon")]
#[inline]
pub fn halves(bits: uint16x4_t) -> float32x4_t {
    let numbers: float32x4_t;
    // SAFETY: NEON's conversion from register to register.
    unsafe { asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) numbers, in(vreg) bits, options(pure, nomem, nostack)) };
    numbers
}

/// Adds to each of four sums the products of its four bytes in `a` with the four of `b` that are lane `LANE`.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub fn dot_lane<const LANE: usize>(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    const { assert!(LANE < 4, "there are four lanes") };
    // SAFETY: an instruction of DotProd from registers to a register.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
            inout(vreg) sums, in(vreg) a, in(vreg) b, const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
