//! Columns side by side, rows one after the other.

use crate::forms::forms;

forms! {
    /// The mean of each sequence; `ends` rise to the number of rows, and `out` is as long as they require.
    pub fn mean_pool(rows: &[f32], ends: &[usize], dim: usize, out: &mut [f32]) {
        let mut start = 0;
        for (&end, out) in ends.iter().zip(out.chunks_exact_mut(dim)) {
            out.fill(0.0);
            for row in rows[start * dim..end * dim].chunks_exact(dim) {
                for (sum, x) in out.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            let scale = 1.0 / (end - start).max(1) as f32;
            for sum in out {
                *sum *= scale;
            }
            start = end;
        }
    }
}
