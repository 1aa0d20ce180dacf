//! Files read and cut into chunks on several threads, handed over in order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use raglan_core::{ChunkSpan, Chunker, ContentHash, ParsedDocument};
use raglan_ingest::{FoundFile, ReaderPool, SkipReason};

use crate::Result;

/// How many files may be read ahead of the one that is due, for each thread.
const READ_AHEAD: usize = 16;

/// A file with its chunks, or the reason why it has none.
pub(super) struct Ready<'a> {
    pub(super) file: &'a FoundFile,
    pub(super) outcome: Result<Content, SkipReason>,
}

/// What a file holds.
pub(super) struct Content {
    pub(super) hash: ContentHash,
    pub(super) parsed: ParsedDocument,
    pub(super) spans: Vec<ChunkSpan>,
}

/// Time spent on all threads, in nanoseconds.
#[derive(Default)]
pub(super) struct Clocks {
    read: AtomicU64,
    chunk: AtomicU64,
}

impl Clocks {
    /// Seconds of reading and of chunking.
    pub(super) fn seconds(&self) -> (f64, f64) {
        let seconds = |clock: &AtomicU64| clock.load(Ordering::Relaxed) as f64 / 1e9;
        (seconds(&self.read), seconds(&self.chunk))
    }
}

/// Calls `take` with each file in the order of `files`, while `threads` threads read ahead.
///
/// Ends early, without an error, when `stop` becomes true.
pub(super) fn read_in_order<'a>(
    pool: &ReaderPool,
    files: &'a [FoundFile],
    chunker: &dyn Chunker,
    threads: usize,
    stop: &AtomicBool,
    clocks: &Clocks,
    mut take: impl FnMut(Ready<'a>) -> Result<()>,
) -> Result<()> {
    let threads = threads.clamp(1, files.len().max(1));
    let next = AtomicUsize::new(0);
    let ended = AtomicBool::new(false);
    // A permit is taken before a file is started and given back once it was handed over: what waits is bounded.
    let (give_permit, permits) = bounded(threads * READ_AHEAD);
    for _ in 0..threads * READ_AHEAD {
        give_permit.send(()).expect("the channel holds as many permits as are sent");
    }
    let (send, received) = bounded(threads * READ_AHEAD);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (send, permits, next, ended) = (send.clone(), permits.clone(), &next, &ended);
            scope.spawn(move || {
                while permits.recv().is_ok() {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= files.len() || stop.load(Ordering::Relaxed) || ended.load(Ordering::Relaxed) {
                        break;
                    }
                    if send.send((i, read_one(pool, &files[i], chunker, clocks))).is_err() {
                        break;
                    }
                }
            });
        }
        drop((send, permits));
        let mut early = BTreeMap::new();
        let mut due = 0;
        let outcome = (|| {
            while due < files.len() && !stop.load(Ordering::Relaxed) {
                match received.recv_timeout(Duration::from_millis(100)) {
                    Ok((i, ready)) => early.insert(i, ready),
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                while !stop.load(Ordering::Relaxed)
                    && let Some(ready) = early.remove(&due)
                {
                    due += 1;
                    take(ready)?;
                    // Fails only once all readers have ended.
                    let _ = give_permit.try_send(());
                }
            }
            Ok(())
        })();
        ended.store(true, Ordering::Relaxed);
        drop((give_permit, received));
        outcome
    })
}

fn read_one<'a>(pool: &ReaderPool, file: &'a FoundFile, chunker: &dyn Chunker, clocks: &Clocks) -> Ready<'a> {
    let started = Instant::now();
    let read = pool.read(file);
    let chunking = Instant::now();
    clocks.read.fetch_add((chunking - started).as_nanos() as u64, Ordering::Relaxed);
    let outcome = read.outcome.and_then(|parsed| match chunker.chunk(&parsed) {
        Ok(spans) if spans.is_empty() => Err(SkipReason::NoText { what: "empty file".into() }),
        Ok(spans) => Ok(Content { hash: read.hash.expect("a file that was read has a hash"), parsed, spans }),
        Err(error) => Err(SkipReason::Malformed { problem: format!("it cannot be cut into chunks: {error}") }),
    });
    clocks.chunk.fetch_add(chunking.elapsed().as_nanos() as u64, Ordering::Relaxed);
    Ready { file, outcome }
}
