//! Batches of texts for a device.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

use crate::Result;

/// How many tokens one forward reads at most, unless a single text has more: enough that no layer waits for work, and
/// about 1 GiB of room for models of 768 components, for each of two batches.
const BATCH_TOKENS: usize = 1 << 16;

/// What `encode` makes of each text in tokens, in order. It is called with so many of them at a time as one forward reads,
/// and at most `most`, and gives one result each. Two calls are under way together, so that the device computes one batch
/// while the processor finishes the other.
pub(crate) fn in_batches<T: Send>(
    texts: &[Vec<u32>],
    most: usize,
    encode: impl Fn(&[&[u32]]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    let batches = batches(texts, most);
    let next = AtomicUsize::new(0);
    let work = || {
        let mut encoded = Vec::new();
        while let Some(range) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let batch: Vec<&[u32]> = texts[range.clone()].iter().map(Vec::as_slice).collect();
            let of_batch = encode(&batch);
            if of_batch.is_err() {
                next.store(batches.len(), Ordering::Relaxed); // What is not begun is not wanted any more.
            }
            encoded.push((range.start, of_batch));
        }
        encoded
    };
    let mut encoded = match batches.len() {
        0 | 1 => work(),
        _ => thread::scope(|scope| {
            let other = scope.spawn(work);
            let mut encoded = work();
            encoded.extend(other.join().unwrap_or_else(|cause| panic::resume_unwind(cause)));
            encoded
        }),
    };
    encoded.sort_unstable_by_key(|(start, _)| *start);
    let mut all = Vec::with_capacity(texts.len());
    for (_, of_batch) in encoded {
        all.extend(of_batch?);
    }
    Ok(all)
}

/// Texts that are read together, in order.
pub(crate) fn batches(texts: &[Vec<u32>], most: usize) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut n_tokens) = (Vec::new(), 0, 0);
    for (i, text) in texts.iter().enumerate() {
        if (n_tokens + text.len() > BATCH_TOKENS || i - start == most) && i > start {
            batches.push(start..i);
            (start, n_tokens) = (i, 0);
        }
        n_tokens += text.len();
    }
    if start < texts.len() {
        batches.push(start..texts.len());
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn batches_are_encoded_in_any_order_and_given_in_theirs() {
        let texts: Vec<Vec<u32>> = (0..100).map(|i| vec![i; 1 + i as usize % 3]).collect();
        let first = |batch: &[&[u32]]| Ok(batch.iter().map(|text| text[0]).collect());
        for most in [1, 3, 99, 1000] {
            assert_eq!(in_batches(&texts, most, first).unwrap(), (0..100).collect::<Vec<_>>());
        }
        assert!(in_batches(&[], 1, first).unwrap().is_empty());
        let failed = in_batches(&texts, 1, |batch| match batch[0][0] {
            20 => Err(Error::NoTokenVectors),
            _ => first(batch),
        });
        assert!(matches!(failed, Err(Error::NoTokenVectors)));
    }

    #[test]
    fn batches_hold_every_text_once_in_order_and_not_too_many_tokens() {
        let texts: Vec<Vec<u32>> = [10, BATCH_TOKENS - 10, 1, 2 * BATCH_TOKENS, 5].map(|n| vec![0; n]).into();
        assert_eq!(batches(&texts, usize::MAX), [0..2, 2..3, 3..4, 4..5]);
        assert!(batches(&[], 1).is_empty());
        assert_eq!(batches(&texts[..1], usize::MAX).last(), Some(&(0..1)));
        assert_eq!(batches(&vec![vec![0; 3]; 7], 3), [0..3, 3..6, 6..7]);
    }
}
