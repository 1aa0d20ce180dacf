//! Splitting work into tasks that do not depend on the number of threads.

use std::ops::Range;

use rayon::prelude::*;

/// Multiplications and additions that a thread should have to do to be worth waking.
const WORTHWHILE: usize = 1 << 21;

/// Does tasks `0..n_tasks`, of `n_operations` in all, in the caller's thread pool.
pub fn for_each_task(n_tasks: usize, n_operations: usize, task: impl Fn(usize) + Sync + Send) {
    if n_tasks < 2 || n_operations < WORTHWHILE || rayon::current_num_threads() == 1 {
        (0..n_tasks).for_each(task);
    } else {
        (0..n_tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

/// Cuts a range into as few parts of at most `most` as there can be, of nearly one length.
pub fn even_parts(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let n_parts = range.len().div_ceil(most);
    let (start, n) = (range.start, range.len());
    (0..n_parts).map(move |part| start + part * n / n_parts..start + (part + 1) * n / n_parts)
}

/// A matrix that tasks write disjoint tiles of.
#[derive(Clone, Copy)]
pub struct Tiles<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: `slice` is the only way in, and its callers promise that no two slices overlap.
unsafe impl<T: Send> Send for Tiles<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Tiles<T> {}

impl<T> Tiles<T> {
    pub fn new(values: &mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len() }
    }

    /// A part of the matrix.
    ///
    /// # Safety
    ///
    /// The matrix is still borrowed, and nothing else refers to this part while the slice lives.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.len && len <= self.len - at, "a tile lies within its matrix");
        // SAFETY: it lies within the matrix, and the caller promises the rest.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}
