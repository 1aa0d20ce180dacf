//! Lanes side by side, tokens one after the other.

use super::CENTROID_LANES;
use crate::forms::forms;

forms! {
    /// `Σ_i max_j table[codes[j]][i]`; nothing when a code is beyond the table, whose length is a multiple of `n_panels`.
    pub fn score(table: &[[u8; CENTROID_LANES]], n_panels: usize, codes: &[u16]) -> Option<u32> {
        let mut sum = 0;
        let mut panel = 0;
        while panel + 2 <= n_panels {
            sum += panels::<2>(table, n_panels, panel, codes)?;
            panel += 2;
        }
        if panel < n_panels {
            sum += panels::<1>(table, n_panels, panel, codes)?;
        }
        Some(sum)
    }
}

/// The score of `P` panels from `first` on.
#[inline(always)]
fn panels<const P: usize>(table: &[[u8; CENTROID_LANES]], n_panels: usize, first: usize, codes: &[u16]) -> Option<u32> {
    let mut maxima = [[0u8; CENTROID_LANES]; P];
    for &code in codes {
        let at = usize::from(code) * n_panels + first;
        let rows = table.get(at..at + P)?;
        for p in 0..P {
            for lane in 0..CENTROID_LANES {
                maxima[p][lane] = maxima[p][lane].max(rows[p][lane]);
            }
        }
    }
    let mut sum = 0;
    for panel in &maxima {
        for &lane in panel {
            sum += u32::from(lane);
        }
    }
    Some(sum)
}
