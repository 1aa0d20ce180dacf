//! An index gets the vectors of encoders that it was made without.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use raglan_core::ChunkSet;
use raglan_store::{Commit, Passport, Writer};

use super::batch::{EMBED, write_segment};
use super::vectors::Vectors;
use super::{BuildSettings, IndexEvent, IndexProgress, IndexTimings};
use crate::{Error, Result};

/// Opens an index for writing, or makes a new one. When it lacks vectors that the settings ask for, they are made of the
/// chunks that it has, and everything is committed at once; the vectors that it has are kept.
///
/// Gives the writer and how many chunks got vectors, or `None` when the work is stopped before they are made; the index is
/// then as it was.
pub(super) fn open_or_extend(
    index: &Path,
    passport: Passport,
    settings: &BuildSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<Option<(Writer, usize)>> {
    let as_it_is = |passport| Ok(Some((Writer::open_or_create(index, passport)?, 0)));
    let Ok(before) = Passport::read(index) else { return as_it_is(passport) };
    let (missing, present) = settings.encoders.split(&before);
    if missing.is_empty() {
        return as_it_is(passport);
    }
    let mut writer = Writer::extend(index, passport)?;
    let snapshot = writer.snapshot().clone();
    let mut add = Vec::new();
    for segment in snapshot.segments() {
        let chunks = snapshot.live_chunks_of(&[segment.id])?;
        let mut vectors = Vectors::read(&snapshot, &[segment.id], &chunks, &present, settings)?;
        let draft = writer.new_segment()?;
        let mut further = Vectors::new(&draft, &missing, settings)?;
        for some in chunks.chunks(EMBED) {
            let texts = some.iter().map(|chunk| chunk.embedded_text(settings.prefix_headings)).collect();
            let encoded = further.encode(&missing, texts, stop);
            if stop.load(Ordering::Relaxed) || encoded.map_err(told_how_to_cut)?.is_none() {
                return Ok(None);
            }
            progress.event(IndexEvent::Embedded { chunks: some.len() });
        }
        vectors.join(further);
        let mut timings = IndexTimings::default();
        add.push(write_segment(&snapshot, &add, draft, settings, &chunks, vectors, &mut timings)?);
    }
    let drop = snapshot.segments().iter().map(|segment| segment.id).collect();
    let ledger = snapshot.ledger()?.clone();
    let snapshot = writer.commit(Commit { add, drop, delete: ChunkSet::new(), ledger })?;
    progress.event(IndexEvent::Committed { generation: snapshot.generation() });
    let n_chunks = snapshot.n_chunks();
    Ok(Some((writer, n_chunks)))
}

/// Chunks that were cut for another encoder, or for none, may be more than this one reads.
fn told_how_to_cut(error: Error) -> Error {
    match &error {
        Error::Core(raglan_core::Error::Part { source, .. })
            if matches!(source.downcast_ref(), Some(raglan_embed::Error::TooLong { .. })) =>
        {
            Error::CutOtherwise { source: Box::new(error) }
        }
        _ => error,
    }
}
