//! What the machine can do at best, on one thread.

use std::fmt;
use std::hint::black_box;

use raglan_kernels::device::CpuForm;

use crate::{median_seconds, numbers};

/// What a kernel can be bound by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Multiply-adds of `f32` from registers: two operations each.
    F32,
    /// Multiply-adds of bytes from registers, added four to a sum of 32 bits.
    Int8,
    /// Multiply-adds of bf16 from registers, added two to a sum of `f32`.
    Bf16,
    /// Multiply-adds of bf16 in AMX tiles.
    AmxBf16,
    /// Multiply-adds of bytes in AMX tiles.
    AmxInt8,
    /// Bytes looked up in tables of sixteen, in registers.
    Shuffles,
    /// Reading what no cache holds.
    Memory,
}

impl Limit {
    const ALL: [Self; 7] =
        [Self::F32, Self::Int8, Self::Bf16, Self::AmxBf16, Self::AmxInt8, Self::Shuffles, Self::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Int8 => "int8",
            Self::Bf16 => "bf16",
            Self::AmxBf16 => "amx bf16",
            Self::AmxInt8 => "amx int8",
            Self::Shuffles => "shuffles",
            Self::Memory => "memory",
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::F32 | Self::Bf16 | Self::AmxBf16 => "GFLOP/s",
            Self::Int8 | Self::AmxInt8 => "GOP/s",
            Self::Shuffles | Self::Memory => "GB/s",
        }
    }

    /// In billions a second; `None` where the processor lacks the instructions.
    fn measure(self) -> Option<f64> {
        match self {
            Self::F32 => instructions::f32(),
            Self::Int8 => instructions::int8(),
            Self::Bf16 => instructions::bf16(),
            Self::AmxBf16 => instructions::tiles_of_bf16(),
            Self::AmxInt8 => instructions::tiles_of_bytes(),
            Self::Shuffles => instructions::shuffles(),
            Self::Memory => {
                let memory = numbers(64 << 20); // 256 MiB: more than any cache here.
                let seconds = median_seconds(|| {
                    black_box(read(&memory));
                });
                Some(size_of_val(&memory[..]) as f64 / seconds / 1e9)
            }
        }
    }
}

/// Each limit, as far as the machine has it.
pub struct Limits(Vec<(Limit, Option<f64>)>);

impl Limits {
    pub fn measure() -> Self {
        Self(Limit::ALL.into_iter().map(|limit| (limit, limit.measure())).collect())
    }

    pub fn of(&self, limit: Limit) -> Option<f64> {
        self.0.iter().find(|(name, _)| *name == limit).and_then(|(_, rate)| *rate)
    }

    /// An object on one line.
    pub fn json(&self) -> String {
        let rates: Vec<String> = self
            .0
            .iter()
            .map(|(limit, rate)| {
                let rate = rate.map_or("null".to_owned(), |rate| format!("{rate:.1}"));
                format!("\"{} {}\":{rate}", limit.name(), limit.unit())
            })
            .collect();
        format!("{{\"form\":\"{}\",\"limits\":{{{}}}}}", CpuForm::best().name(), rates.join(","))
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "form {}\n\n| limit | rate |\n|---|---:|", CpuForm::best().name())?;
        for (limit, rate) in &self.0 {
            match rate {
                Some(rate) => writeln!(f, "| {} | {rate:.1} {} |", limit.name(), limit.unit())?,
                None => writeln!(f, "| {} | absent |", limit.name())?,
            }
        }
        Ok(())
    }
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

/// Turns of a loop that is timed.
const TURNS: usize = 100_000;

/// The rate of a loop of [`TURNS`] turns with so many multiplications each.
fn rate(multiplications: usize, run: impl FnMut()) -> Option<f64> {
    Some((TURNS * multiplications * 2) as f64 / median_seconds(run) / 1e9)
}

#[cfg(target_arch = "x86_64")]
mod instructions {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use raglan_kernels::device::{CpuForm, TileProducts, multiply_tiles};

    use super::{TURNS, rate};

    pub fn tiles_of_bf16() -> Option<f64> {
        tiles(TileProducts::Bf16, 16 * 16 * 32)
    }

    pub fn tiles_of_bytes() -> Option<f64> {
        tiles(TileProducts::Bytes, 16 * 16 * 64)
    }

    fn tiles(products: TileProducts, multiplications: usize) -> Option<f64> {
        let measure = || rate(4 * multiplications, || _ = multiply_tiles(products, TURNS));
        multiply_tiles(products, 1).then(measure).flatten()
    }

    pub fn f32() -> Option<f64> {
        match CpuForm::best() {
            // SAFETY: the form runs here.
            form if form >= CpuForm::Avx512 => rate(20 * 16, || unsafe { fma_512(black_box(TURNS)) }),
            // SAFETY: the form runs here.
            form if form >= CpuForm::Avx2 => rate(12 * 8, || unsafe { fma_256(black_box(TURNS)) }),
            _ => None,
        }
    }

    pub fn int8() -> Option<f64> {
        match CpuForm::best() {
            // SAFETY: the form runs here.
            form if form >= CpuForm::Avx512Vnni => rate(20 * 64, || unsafe { vnni(black_box(TURNS)) }),
            // SAFETY: the form runs here.
            form if form >= CpuForm::Avx2 => rate(12 * 32, || unsafe { bytes_256(black_box(TURNS)) }),
            _ => None,
        }
    }

    pub fn bf16() -> Option<f64> {
        // SAFETY: the form runs here.
        let measure = || rate(20 * 32, || unsafe { pairs_of_bf16(black_box(TURNS)) });
        CpuForm::available().contains(&CpuForm::Avx512Bf16).then(measure).flatten()
    }

    pub fn shuffles() -> Option<f64> {
        // Of bytes, where `rate` counts two operations each. SAFETY: the form runs here.
        let measure = || rate(12 * 32, || unsafe { shuffles_256(black_box(TURNS)) }).map(|rate| rate / 2.0);
        (CpuForm::best() >= CpuForm::Avx2).then(measure).flatten()
    }

    #[target_feature(enable = "avx2")]
    fn shuffles_256(turns: usize) {
        let table = _mm256_set1_epi8(black_box(3));
        let mut indices = [_mm256_set1_epi8(black_box(5)); 12];
        for _ in 0..turns {
            for index in &mut indices {
                *index = _mm256_shuffle_epi8(table, *index);
            }
        }
        black_box(indices);
    }

    #[target_feature(enable = "avx2,fma")]
    fn fma_256(turns: usize) {
        let (a, b) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(0.25)));
        let mut sums = [_mm256_setzero_ps(); 12];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f")]
    fn fma_512(turns: usize) {
        let (a, b) = (_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.25)));
        let mut sums = [_mm512_setzero_ps(); 20];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn pairs_of_bf16(turns: usize) {
        let (a, b) = (black_box(_mm512_setzero_ps()), black_box(_mm512_setzero_ps()));
        let (a, b) = (_mm512_cvtne2ps_pbh(a, b), _mm512_cvtne2ps_pbh(b, a));
        let mut sums = [_mm512_setzero_ps(); 20];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }

    /// Without VNNI, bytes are multiplied and added in two steps and summed in a third.
    #[target_feature(enable = "avx2")]
    fn bytes_256(turns: usize) {
        let ones = _mm256_set1_epi16(black_box(1));
        let b = _mm256_set1_epi8(black_box(2));
        let mut sums = [_mm256_setzero_si256(); 12];
        for _ in 0..turns {
            for sum in &mut sums {
                // The operand depends on the sum, or the product would be computed once for all turns.
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(*sum, b), ones));
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn vnni(turns: usize) {
        let (a, b) = (_mm512_set1_epi8(black_box(3)), _mm512_set1_epi8(black_box(2)));
        let mut sums = [_mm512_setzero_si512(); 20];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }
}

#[cfg(target_arch = "aarch64")]
mod instructions {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::{TURNS, rate};

    pub fn shuffles() -> Option<f64> {
        None
    }

    pub fn bf16() -> Option<f64> {
        None
    }

    pub fn tiles_of_bf16() -> Option<f64> {
        None
    }

    pub fn tiles_of_bytes() -> Option<f64> {
        None
    }

    pub fn f32() -> Option<f64> {
        // SAFETY: every 64-bit ARM has NEON.
        rate(20 * 4, || unsafe { fma(black_box(TURNS)) })
    }

    /// Products of bytes widened to 16 bits, which every one of these processors has.
    pub fn int8() -> Option<f64> {
        // SAFETY: every 64-bit ARM has NEON.
        rate(12 * 16, || unsafe { bytes(black_box(TURNS)) })
    }

    #[target_feature(enable = "neon")]
    fn fma(turns: usize) {
        let (a, b) = (vdupq_n_f32(black_box(0.5)), vdupq_n_f32(black_box(0.25)));
        let mut sums = [vdupq_n_f32(0.0); 20];
        for _ in 0..turns {
            for sum in &mut sums {
                *sum = vfmaq_f32(b, *sum, a);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "neon")]
    fn bytes(turns: usize) {
        let b = vdupq_n_s8(black_box(2));
        let mut sums = [vdupq_n_s32(0); 12];
        for _ in 0..turns {
            for sum in &mut sums {
                let a = vreinterpretq_s8_s32(*sum);
                let low = vmull_s8(vget_low_s8(a), vget_low_s8(b));
                *sum = vpadalq_s16(vpadalq_s16(*sum, low), vmull_high_s8(a, b));
            }
        }
        black_box(sums);
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod instructions {
    pub fn shuffles() -> Option<f64> {
        None
    }

    pub fn bf16() -> Option<f64> {
        None
    }

    pub fn tiles_of_bf16() -> Option<f64> {
        None
    }

    pub fn tiles_of_bytes() -> Option<f64> {
        None
    }

    pub fn f32() -> Option<f64> {
        None
    }

    pub fn int8() -> Option<f64> {
        None
    }
}
