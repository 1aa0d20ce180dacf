//! What passages pay of their attention to one another while the model reads them.

use std::ops::Range;

use raglan_kv::{BlockStatistics, TokensHash};
use raglan_model::LayerPass;

use crate::Result;

/// What passages pay of their attention to those before them, gathered layer by layer while a prompt is computed whole.
#[derive(Debug)]
pub struct AttentionWatch {
    /// Slots of the passages, in order.
    passages: Vec<Range<usize>>,
    /// Those that are looked at.
    watched: Vec<usize>,
    /// For each of these what its tokens paid to those before it.
    seen: Vec<Vec<f32>>,
    /// The same for each passage before it, summed over tokens.
    paid: Vec<Vec<f32>>,
    /// What it paid to itself.
    inside: Vec<f32>,
    n_layers: usize,
}

impl AttentionWatch {
    /// Looks at some of the passages in these slots, all of whose rows are in the pass.
    pub fn new(passages: &[Range<usize>], watched: Vec<usize>) -> Self {
        Self {
            seen: watched.iter().map(|&i| vec![0.0; passages[i].len()]).collect(),
            paid: watched.iter().map(|&n_before| vec![0.0; n_before]).collect(),
            inside: vec![0.0; watched.len()],
            passages: passages.to_vec(),
            watched,
            n_layers: 0,
        }
    }

    /// Looks at the layer that was passed last.
    ///
    /// # Errors
    ///
    /// Only when the model is damaged.
    pub fn layer(&mut self, pass: &LayerPass<'_, '_>, n_heads: usize) -> Result<()> {
        self.n_layers += 1;
        let mean = 1.0 / n_heads as f32;
        for (i, &passage) in self.watched.iter().enumerate() {
            let slots = &self.passages[passage];
            let first = pass.slots().partition_point(|&slot| slot < slots.start);
            let rows = first..first + slots.len();
            for (paid, before) in self.paid[i].iter_mut().zip(&self.passages) {
                let shares = pass.attention_share(rows.clone(), std::slice::from_ref(before))?;
                for (seen, shares) in self.seen[i].iter_mut().zip(shares.chunks_exact(n_heads)) {
                    let share = shares.iter().sum::<f32>() * mean;
                    *seen += share;
                    *paid += share;
                }
            }
            let own = pass.attention_share(rows, std::slice::from_ref(slots))?;
            self.inside[i] += own.iter().sum::<f32>() * mean;
        }
        Ok(())
    }

    /// What was seen of each passage that was looked at; `hashes` are those of all passages' tokens.
    pub fn finish(self, hashes: &[TokensHash]) -> Vec<Option<BlockStatistics>> {
        let n_layers = self.n_layers.max(1) as f32;
        let mut all = vec![None; self.passages.len()];
        let parts = self.seen.into_iter().zip(self.paid).zip(self.inside).zip(&self.watched);
        for (((seen, paid), inside), &passage) in parts {
            let slots = &self.passages[passage];
            all[passage] = Some({
                let pairs = |other: usize| (slots.len() * other).max(1) as f32;
                let outside = paid.iter().zip(&self.passages).map(|(paid, before)| paid / pairs(before.len()));
                BlockStatistics {
                    outside: outside.sum::<f32>() / n_layers,
                    inside: inside / pairs(slots.len()) / n_layers,
                    neighbours: hashes.iter().copied().zip(paid).collect(),
                    seen,
                }
            });
        }
        all
    }
}
