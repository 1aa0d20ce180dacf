//! Many small segments become few large ones.

use std::sync::atomic::{AtomicBool, Ordering};

use raglan_core::ChunkSet;
use raglan_dense::DenseIndex;
use raglan_store::{Commit, Writer, merge_plan};

use super::batch::write_segment;
use super::{IndexEvent, IndexProgress, IndexSettings, IndexTimings};
use crate::{Error, Result};

/// Merges as the store's plan says, one commit a merge, until nothing is left to merge.
///
/// Texts and vectors are copied, deleted chunks left behind; nothing is embedded again.
pub(super) fn merge_segments(
    writer: &mut Writer,
    settings: &IndexSettings,
    progress: &dyn IndexProgress,
    stop: &AtomicBool,
) -> Result<()> {
    loop {
        let snapshot = writer.snapshot().clone();
        let Some(group) = merge_plan(snapshot.segments()).into_iter().next() else {
            return Ok(());
        };
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        progress.event(IndexEvent::Merging { segments: group.len() });
        let chunks = snapshot.live_chunks_of(&group)?;
        let mut folders = Vec::new();
        if settings.embedder.is_some() {
            for &segment in &group {
                folders.push(snapshot.segment_dir(segment, "dense")?);
            }
        }
        let mut vectors = Vec::new();
        if let Some(embedder) = &settings.embedder {
            let index = DenseIndex::open(&folders, embedder.stamp().dim, snapshot.deleted(), &settings.dense)?;
            for chunk in &chunks {
                let vector = index.vector(chunk.id).ok_or(Error::NoVector { chunk: chunk.id.0 })?;
                vectors.extend_from_slice(&vector);
            }
        }
        let mut add = Vec::new();
        if !chunks.is_empty() {
            add.push(write_segment(writer, settings, &chunks, &vectors, &mut IndexTimings::default())?);
        }
        let ledger = snapshot.ledger()?.clone();
        writer.commit(Commit { add, drop: group, delete: ChunkSet::new(), ledger })?;
    }
}
