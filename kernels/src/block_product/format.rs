//! The block layouts of GGUF files.

use crate::{Error, Result};

/// How a GGUF file stores the numbers of a tensor.
///
/// The quantised formats keep blocks of 32 or 256 numbers of few bits with a scale; the formulas give a number from
/// its unsigned `q`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, IEEE.
    F16,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// 32 of 4 bits: `d · (q − 8)`.
    Q4_0,
    /// 32 of 4 bits: `d · q + m`.
    Q4_1,
    /// 32 of 5 bits: `d · (q − 16)`.
    Q5_0,
    /// 32 of 5 bits: `d · q + m`.
    Q5_1,
    /// 32 signed bytes: `d · q`.
    Q8_0,
    /// 256 of 4 bits, scale and minimum of 6 bits for each 32: `d · sc · q − dmin · m`.
    Q4K,
    /// 256 of 5 bits, scale and minimum of 6 bits for each 32: `d · sc · q − dmin · m`.
    Q5K,
    /// 256 of 6 bits, a scale of 8 bits for each 16: `d · sc · (q − 32)`.
    Q6K,
}

impl BlockFormat {
    /// The format that a GGUF file's tensor type names, if it is one of these.
    pub fn from_ggml_type(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// How many numbers a block holds.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// How many bytes a block takes.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// How many bytes `n_elements` numbers take; `None` if they do not fill whole blocks, or the count overflows.
    pub fn n_bytes(self, n_elements: usize) -> Option<usize> {
        n_elements
            .is_multiple_of(self.block_len())
            .then(|| (n_elements / self.block_len()).checked_mul(self.block_bytes()))
            .flatten()
    }
}

/// Writes the numbers that `bytes` stand for to `out`, in order.
///
/// The arithmetic is that of the format's formula in `f32`: each value is exact up to the roundings that the formula
/// itself implies.
///
/// # Errors
///
/// [`Error::Shape`] when `out` is not whole blocks, or `bytes` does not hold as many numbers as `out`.
pub fn dequantize_blocks(format: BlockFormat, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    check_bytes(format, bytes, out.len())?;
    match format {
        BlockFormat::F32 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        BlockFormat::F16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16_to_f32(u16::from_le_bytes(*bytes));
            }
        }
        BlockFormat::Bf16 => {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        _ => {
            let blocks = bytes.chunks_exact(format.block_bytes());
            for (out, block) in out.chunks_exact_mut(format.block_len()).zip(blocks) {
                for (sub, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let SubBlock { values, scales, min } = SubBlock::read(format, block, sub);
                    for (i, (out, q)) in out.iter_mut().zip(values).enumerate() {
                        *out = scales[i / 16] * f32::from(q);
                    }
                    if let Some(min) = min {
                        out.iter_mut().for_each(|out| *out += min);
                    }
                }
            }
        }
    }
    Ok(())
}

/// That `bytes` holds `n_elements` numbers.
pub(super) fn check_bytes(format: BlockFormat, bytes: &[u8], n_elements: usize) -> Result<()> {
    match format.n_bytes(n_elements) {
        Some(expected) if expected == bytes.len() => Ok(()),
        Some(expected) => Err(Error::Shape { what: "block bytes", expected, found: bytes.len() }),
        None => {
            let expected = n_elements.checked_next_multiple_of(format.block_len()).unwrap_or(usize::MAX);
            Err(Error::Shape { what: "numbers in blocks", expected, found: n_elements })
        }
    }
}

/// 32 numbers of a quantised format: `scales[i / 16] · values[i] + min`.
pub(super) struct SubBlock {
    /// Signed where there is no minimum.
    pub(super) values: [i8; 32],
    /// The two differ only in [`BlockFormat::Q6K`].
    pub(super) scales: [f32; 2],
    pub(super) min: Option<f32>,
}

impl SubBlock {
    /// The `sub`-th 32 numbers of a block, which has the length that the quantised `format` gives it.
    #[inline(always)]
    pub(super) fn read(format: BlockFormat, block: &[u8], sub: usize) -> Self {
        let block = &block[..format.block_bytes()];
        let half = |at: usize| f16_to_f32(u16::from_le_bytes([block[at], block[at + 1]]));
        let nibble = |at: usize, i: usize| (block[at + i % 16] >> (i / 16 * 4)) & 15;
        let high_bit = |at: usize, i: usize| ((block[at + i / 8] >> (i % 8)) & 1) << 4;
        fn simple(d: f32, min: Option<f32>, q: impl Fn(usize) -> i8) -> SubBlock {
            SubBlock { values: std::array::from_fn(q), scales: [d; 2], min }
        }
        match format {
            BlockFormat::F32 | BlockFormat::F16 | BlockFormat::Bf16 => unreachable!("the format is quantised"),
            BlockFormat::Q4_0 => simple(half(0), None, |i| nibble(2, i) as i8 - 8),
            BlockFormat::Q4_1 => simple(half(0), Some(half(2)), |i| nibble(4, i) as i8),
            BlockFormat::Q5_0 => simple(half(0), None, |i| (nibble(6, i) | high_bit(2, i)) as i8 - 16),
            BlockFormat::Q5_1 => simple(half(0), Some(half(2)), |i| (nibble(8, i) | high_bit(4, i)) as i8),
            BlockFormat::Q8_0 => simple(half(0), None, |i| block[2 + i] as i8),
            BlockFormat::Q4K | BlockFormat::Q5K => {
                let (scale, min) = six_bit_scales(&block[4..16], sub);
                let (d, min) = (half(0) * f32::from(scale), -(half(2) * f32::from(min)));
                let (first, shift) = (sub / 2 * 32, sub % 2 * 4);
                if format == BlockFormat::Q4K {
                    simple(d, Some(min), |i| ((block[16 + first + i] >> shift) & 15) as i8)
                } else {
                    simple(d, Some(min), |i| {
                        let high = ((block[16 + i] >> sub) & 1) << 4;
                        (((block[48 + first + i] >> shift) & 15) | high) as i8
                    })
                }
            }
            BlockFormat::Q6K => {
                let (n, c) = (sub / 4, sub % 4);
                let (low, high) = (64 * n + 32 * (c % 2), 128 + 32 * n);
                let d = half(208);
                let scale = |at: usize| d * f32::from(block[192 + 8 * n + 2 * c + at] as i8);
                Self {
                    values: std::array::from_fn(|i| {
                        let low = (block[low + i] >> (c / 2 * 4)) & 15;
                        let high = (block[high + i] >> (2 * c)) & 3;
                        (low | (high << 4)) as i8 - 32
                    }),
                    scales: [scale(0), scale(1)],
                    min: None,
                }
            }
        }
    }
}

/// The scale and the minimum of a block's `sub`-th 32 numbers, from the twelve bytes that hold eight of each.
#[inline(always)]
pub(super) fn six_bit_scales(b: &[u8], sub: usize) -> (u8, u8) {
    if sub < 4 {
        (b[sub] & 63, b[sub + 4] & 63)
    } else {
        ((b[sub + 4] & 15) | ((b[sub - 4] >> 6) << 4), (b[sub + 4] >> 4) | ((b[sub] >> 6) << 4))
    }
}

/// The value of an IEEE half.
#[inline]
pub(super) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let magnitude = match magnitude {
        0x7c00.. => 0x7f80_0000 | (magnitude << 13),
        0x0400.. => (magnitude << 13) + (112 << 23), // the exponents' biases differ by 127 − 15
        _ => (magnitude as f32 * f32::from_bits(103 << 23)).to_bits(), // steps of 2^-24
    };
    f32::from_bits(sign | magnitude)
}
