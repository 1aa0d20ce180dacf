//! One loop, compiled for each instruction set.
//!
//! A kernel whose loops the compiler vectorises well needs no intrinsics: it needs the same loops compiled once for any
//! processor, once for NEON, once for AVX2 with FMA and once for AVX-512. The sums still run in the order that is written.

/// Defines a function whose first argument is the [`CpuForm`](crate::device::CpuForm) it is run in, which must be
/// available. The body sees `const FMA: bool`, to hand on to [`fma`] and to what is `#[inline(always)]`.
macro_rules! forms {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        $visibility fn $name(form: $crate::device::CpuForm, $($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::extra_unused_type_parameters, reason = "a body without products has no use for it")]
            fn body<const FMA: bool>($($argument: $type),*) $(-> $result)? $body

            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            use $crate::device::CpuForm;

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                body::<true>($($argument),*)
            }

            match form {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: these forms are chosen only where the processor has AVX-512F, BW, DQ and VL.
                CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe { avx512($($argument),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the form is chosen only where the processor has AVX2 and FMA.
                CpuForm::Avx2 => unsafe { avx2($($argument),*) },
                // Every 64-bit ARM has NEON, whose products add in one rounding.
                #[cfg(target_arch = "aarch64")]
                CpuForm::Neon | CpuForm::NeonDotprod => body::<true>($($argument),*),
                _ => body::<false>($($argument),*),
            }
        }
    )*};
}
pub(crate) use forms;

/// How many sums run side by side: two registers of AVX2, one of AVX-512.
pub const LANES: usize = 16;

/// `a · b + c`, in one rounding where the processor does that in one instruction.
#[inline(always)]
pub fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Folds `row` into [`LANES`] accumulators, then those into one by halves.
#[inline(always)]
pub fn fold_lanes(row: &[f32], start: f32, step: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (blocks, tail) = row.as_chunks::<LANES>();
    for block in blocks {
        for lane in 0..LANES {
            lanes[lane] = step(lanes[lane], block[lane]);
        }
    }
    for (lane, &x) in tail.iter().enumerate() {
        lanes[lane] = step(lanes[lane], x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}
