//! IEEE half precision to single, which has every number of it.

use crate::device::CpuForm;
use crate::half_product::f16_to_f32;

/// `out[i] = stored[i]`; the slices are of one length and `form` is available.
pub fn widen(form: CpuForm, stored: &[u16], out: &mut [f32]) {
    assert_eq!(stored.len(), out.len(), "there is a place for each number");
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2 and F16C.
        CpuForm::Avx2 | CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            f16c(stored, out);
        },
        _ => out.iter_mut().zip(stored).for_each(|(out, &bits)| *out = f16_to_f32(bits)),
    }
}

/// Eight at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn f16c(stored: &[u16], out: &mut [f32]) {
    use std::arch::x86_64::*;

    let (blocks, tail) = stored.as_chunks::<8>();
    let (out_blocks, out_tail) = out.as_chunks_mut::<8>();
    for (out, block) in out_blocks.iter_mut().zip(blocks) {
        // SAFETY: both are eight numbers.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(block.as_ptr().cast()))) };
    }
    for (out, &bits) in out_tail.iter_mut().zip(tail) {
        *out = f16_to_f32(bits);
    }
}
