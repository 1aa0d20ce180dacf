//! Vectors as what they differ from a centroid by, in two or four bits a component (`ColBERTv2`, Santhanam et al. 2022).
//!
//! A component of the difference falls into one of 4 or 16 buckets, all components into the same ones; the code is the
//! number of cut-offs below it, and is read back as the bucket's weight. Codes lie in blocks of eight bytes: byte `l` of
//! block `b` holds components `8 · (s + b · n) + l` in bits from `s · bits` on, for each of the `n` slots of a byte, so
//! that eight lanes read eight bytes and shift them. A vector's last block is filled with code 0.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(test)]
mod tests;

use crate::device::CpuForm;
use crate::{Error, Result};

/// Bytes of a block, as many as lanes read together.
const BLOCK: usize = 8;

/// Bits of a component's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResidualBits {
    /// Four buckets.
    Two,
    /// Sixteen buckets.
    Four,
}

impl ResidualBits {
    /// 2 or 4.
    pub fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// How many buckets there are.
    pub fn n_buckets(self) -> usize {
        1 << self.count()
    }

    /// Bytes of the codes of a vector of `dim` components: `⌈dim · bits / 64⌉ · 8`.
    pub fn n_bytes(self, dim: usize) -> usize {
        dim.div_ceil(self.block_components()) * BLOCK
    }

    /// Components of a block.
    fn block_components(self) -> usize {
        BLOCK * 8 / self.count()
    }
}

/// Codes a vector's differences from its centroid: `code = #{cutoff : cutoff < vector[d] − centroid[d]}`.
///
/// `cutoffs` rise, one fewer than there are buckets. `codes` is [`ResidualBits::n_bytes`] long.
///
/// # Errors
///
/// [`Error::Shape`] when a length does not fit.
pub fn encode_residuals(
    bits: ResidualBits,
    cutoffs: &[f32],
    vector: &[f32],
    centroid: &[f32],
    codes: &mut [u8],
) -> Result<()> {
    if cutoffs.len() != bits.n_buckets() - 1 {
        return Err(Error::Shape { what: "cutoffs", expected: bits.n_buckets() - 1, found: cutoffs.len() });
    }
    if centroid.len() != vector.len() {
        return Err(Error::Shape { what: "centroid", expected: vector.len(), found: centroid.len() });
    }
    if codes.len() != bits.n_bytes(vector.len()) {
        return Err(Error::Shape { what: "codes", expected: bits.n_bytes(vector.len()), found: codes.len() });
    }
    portable::encode(CpuForm::best(), bits.count(), cutoffs, vector, centroid, codes);
    Ok(())
}

/// Reads a vector back: `out[d] = centroid[d] + weights[code of d]`.
///
/// # Errors
///
/// [`Error::Shape`] when there is not one weight for each bucket, or a length does not fit `centroid`.
pub fn decode_residuals(
    bits: ResidualBits,
    weights: &[f32],
    codes: &[u8],
    centroid: &[f32],
    out: &mut [f32],
) -> Result<()> {
    if weights.len() != bits.n_buckets() {
        return Err(Error::Shape { what: "weights", expected: bits.n_buckets(), found: weights.len() });
    }
    if codes.len() != bits.n_bytes(centroid.len()) {
        return Err(Error::Shape { what: "codes", expected: bits.n_bytes(centroid.len()), found: codes.len() });
    }
    if out.len() != centroid.len() {
        return Err(Error::Shape { what: "out", expected: centroid.len(), found: out.len() });
    }
    decode(CpuForm::best(), bits, weights, codes, centroid, out);
    Ok(())
}

/// Reads by one form. The lengths fit and `form` is available.
fn decode(form: CpuForm, bits: ResidualBits, weights: &[f32], codes: &[u8], centroid: &[f32], out: &mut [f32]) {
    let whole = centroid.len() / bits.block_components();
    let (codes, last) = codes.split_at(whole * BLOCK);
    let (centroid, centroid_end) = centroid.split_at(whole * bits.block_components());
    let (out, out_end) = out.split_at_mut(whole * bits.block_components());
    match form {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: these forms are chosen only where the processor has AVX2; there is a weight for each bucket, and a
        // centroid's component and a place in `out` for each code.
        CpuForm::Avx2 | CpuForm::Avx512 | CpuForm::Avx512Vnni | CpuForm::Avx512Bf16 | CpuForm::Amx => unsafe {
            avx2::decode(bits, weights, codes, centroid, out);
        },
        _ => portable::decode(bits.count(), weights, codes, centroid, out),
    }
    portable::decode(bits.count(), weights, last, centroid_end, out_end);
}
