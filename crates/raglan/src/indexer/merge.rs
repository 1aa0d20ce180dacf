//! Many small segments become few large ones.

use std::sync::atomic::{AtomicBool, Ordering};

use raglan_core::ChunkSet;
use raglan_store::{Commit, Writer, merge_plan};

use super::batch::write_segment;
use super::vectors::Vectors;
use super::{BuildSettings, IndexEvent, IndexProgress, IndexTimings};
use crate::Result;

/// Merges as the store's plan says, one commit a merge, until nothing is left to merge.
///
/// Texts and vectors are copied, deleted chunks left behind; nothing is embedded again.
pub(super) fn merge_segments(
    writer: &mut Writer,
    settings: &BuildSettings,
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
        let vectors = Vectors::read(&snapshot, &group, &chunks, &settings.encoders, settings)?;
        let mut add = Vec::new();
        if !chunks.is_empty() {
            let draft = writer.new_segment()?;
            let mut timings = IndexTimings::default();
            add.push(write_segment(&snapshot, &[], draft, settings, &chunks, vectors, &mut timings)?);
        }
        let ledger = snapshot.ledger()?.clone();
        writer.commit(Commit { add, drop: group, delete: ChunkSet::new(), ledger })?;
    }
}
