//! The reference: plain loops.

use super::CENTROID_LANES;

/// `Σ_i max_j table[codes[j]][i]`; 0 without codes.
pub fn score(table: &[[u8; CENTROID_LANES]], n_panels: usize, codes: &[u16]) -> u32 {
    let mut score = 0;
    for i in 0..n_panels * CENTROID_LANES {
        let of = |&code: &u16| table[usize::from(code) * n_panels + i / CENTROID_LANES][i % CENTROID_LANES];
        score += u32::from(codes.iter().map(of).max().unwrap_or(0));
    }
    score
}
