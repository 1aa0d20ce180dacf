//! Texts in batches, and batches on threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Result;

/// How many tokens one forward reads at most, unless a single text has more.
pub(crate) const BATCH_TOKENS: usize = 1024;

/// The threads of an encoder.
#[derive(Debug)]
pub(crate) struct Workers {
    /// One thread each: batches run side by side, and within a batch nothing waits for a second thread.
    single: Vec<ThreadPool>,
    /// All threads, for work that is only one batch.
    together: ThreadPool,
}

impl Workers {
    pub fn new(threads: usize) -> Result<Self> {
        let pool = |name: &'static str, n| {
            ThreadPoolBuilder::new().num_threads(n).thread_name(move |i| format!("{name}-{i}")).build()
        };
        let single = (0..threads.max(1)).map(|_| pool("encoder", 1)).collect::<Result<_, _>>()?;
        Ok(Self { single, together: pool("query-encoder", threads.max(1))? })
    }

    pub fn n_threads(&self) -> usize {
        self.single.len()
    }

    /// What `read` makes of each text, in order; it is given the text's place too. Of several errors, the first text's.
    pub fn read<T: Send>(&self, texts: &[&str], read: impl Fn(usize, &str) -> Result<T> + Sync) -> Result<Vec<T>> {
        let texts = || texts.par_iter().enumerate().map(|(i, text)| read(i, text)).collect::<Vec<_>>();
        self.together.install(texts).into_iter().collect()
    }

    /// What `encode` makes of each text in tokens, in order. It is called with some of them at a time and gives one
    /// result each, which does not depend on the others.
    pub fn encode<T: Send>(
        &self,
        texts: &[Vec<u32>],
        encode: impl Fn(&[&[u32]]) -> Result<Vec<T>> + Sync,
    ) -> Result<Vec<T>> {
        let batches = batches(texts);
        let encode = |batch: &[usize]| encode(&batch.iter().map(|&text| &*texts[text]).collect::<Vec<_>>());
        let in_order = |mut done: Vec<(usize, T)>| {
            done.sort_unstable_by_key(|(text, _)| *text);
            done.into_iter().map(|(_, result)| result).collect()
        };
        if let [batch] = &*batches {
            // All threads work at the one batch; what it gives does not depend on how many there are.
            let results = self.together.install(|| encode(batch))?;
            return Ok(in_order(batch.iter().copied().zip(results).collect()));
        }
        let next = AtomicUsize::new(0);
        let done = Mutex::new(Vec::with_capacity(texts.len()));
        let work = || -> Result<()> {
            while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                let results = encode(batch)?;
                done.lock().expect("no thread panics while it appends").extend(batch.iter().copied().zip(results));
            }
            Ok(())
        };
        let n_workers = self.single.len().min(batches.len());
        std::thread::scope(|scope| {
            let run = |worker: &ThreadPool| {
                let result = worker.install(work);
                if result.is_err() {
                    next.store(batches.len(), Ordering::Relaxed); // The others stop after the batch they are at.
                }
                result
            };
            let others = self.single[..n_workers].iter().skip(1).map(|worker| scope.spawn(move || run(worker)));
            let others: Vec<_> = others.collect();
            let mut result = self.single[..n_workers].first().map_or(Ok(()), run);
            for other in others {
                result = result.and(other.join().expect("a worker does not panic"));
            }
            result
        })?;
        Ok(in_order(done.into_inner().expect("no thread panics while it appends")))
    }
}

/// Groups of texts, the longest first, so that no worker is left with a long one at the end; what the groups are does
/// not depend on how many workers there are.
fn batches(texts: &[Vec<u32>]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&text| std::cmp::Reverse(texts[text].len()));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for text in order {
        let n_tokens = texts[text].len();
        match batches.last_mut() {
            Some(batch) if n_tokens <= room => {
                batch.push(text);
                room -= n_tokens;
            }
            _ => {
                batches.push(vec![text]);
                room = BATCH_TOKENS.saturating_sub(n_tokens);
            }
        }
    }
    batches
}
