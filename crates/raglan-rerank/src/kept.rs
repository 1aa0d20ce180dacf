//! Keys and values of passages that were read before.

use std::sync::Arc;

use raglan_core::{ChunkId, Meter};
use raglan_kv::{BlockPrecision, ChunkCache, KvBlock, KvCache, TokensHash};
use raglan_model::{LanguageModel, capture, model_hash};

use crate::Result;

/// Where a judge keeps what it read of chunks, each behind the same opening and without the others, so that it serves any
/// question.
#[derive(Debug)]
pub(crate) struct Kept {
    blocks: Arc<ChunkCache>,
    model: TokensHash,
    precision: BlockPrecision,
}

impl Kept {
    /// `weights` names the model's weights, such as the hash of their file.
    pub fn new(model: &LanguageModel, blocks: Arc<ChunkCache>, weights: &str, precision: BlockPrecision) -> Self {
        Self { blocks, model: model_hash(&model.transformer, weights), precision }
    }

    /// What is kept of passages that were read behind an opening.
    pub fn find(&self, opening: &[u32], passages: &[Vec<u32>], chunks: &[ChunkId]) -> Vec<Option<KvBlock>> {
        let behind = TokensHash::of(opening);
        let block = |(passage, &chunk): (&Vec<u32>, &ChunkId)| {
            let variants = self.blocks.variants(chunk, TokensHash::of(passage), self.model);
            variants.into_iter().find(|block| block.key().behind == behind && block.precision() == self.precision)
        };
        passages.iter().zip(chunks).map(block).collect()
    }

    /// The blocks that were found of passages, and of those that are missing, which are read now behind a cache that has
    /// read the opening, and kept.
    pub fn complete(
        &self,
        model: &LanguageModel,
        (cache, opening): (&KvCache, &[u32]),
        passages: &[Vec<u32>],
        chunks: &[ChunkId],
        mut found: Vec<Option<KvBlock>>,
        meter: &mut Meter,
    ) -> Result<Vec<KvBlock>> {
        let missing: Vec<usize> = (0..passages.len()).filter(|&i| found[i].is_none()).collect();
        if missing.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        let texts: Vec<&[u32]> = missing.iter().map(|&i| &*passages[i]).collect();
        let read = capture(&model.transformer, self.model, (cache, opening), &texts, self.precision)?;
        meter.count(1, texts.iter().map(|text| text.len()).sum::<usize>(), 0);
        for (i, block) in missing.into_iter().zip(read) {
            self.blocks.missed(chunks[i]);
            self.blocks.insert(chunks[i], block.clone());
            found[i] = Some(block);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Puts a chunk's block behind what a cache has read. It is false where the block's file is gone or damaged: it is then
    /// as if it had never been there.
    pub fn append(&self, model: &LanguageModel, cache: &mut KvCache, block: &KvBlock, chunk: ChunkId) -> Result<bool> {
        match cache.append(block, cache.next_position(), &model.transformer) {
            Ok(_) => {
                self.blocks.used(chunk, block.key(), block.n_tokens());
                Ok(true)
            }
            Err(raglan_kv::Error::Damaged { path, .. }) if self.blocks.forget_file(&path) => Ok(false),
            Err(error) => Err(raglan_model::Error::from(error).into()),
        }
    }

    /// Writes down what was kept and used.
    pub fn flush(&self) -> Result<()> {
        Ok(self.blocks.flush().map_err(raglan_model::Error::from)?)
    }
}
