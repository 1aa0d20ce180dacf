//! Passages' keys and values, computed once for whatever prompt they come to stand in.

use raglan_kv::{BlockKey, BlockPrecision, BlockStatistics, KvBlock, KvCache, TokensHash};

use crate::{Attending, DecoderModel, ForwardRows, ForwardSequence, Result, Want};

/// Tokens that pass through the model together when several passages are read beside one another.
const TOGETHER: usize = 1024;

/// What the keys and values of a model depend on besides tokens.
///
/// `weights` names the weights, such as the hash of their file; the products, the rotation and a device are added.
pub fn model_hash(model: &DecoderModel, weights: &str) -> TokensHash {
    let config = model.config();
    TokensHash::of_text(&format!(
        "{weights}\n{:?}\n{:?}\n{:?}\n{:?}\n{:?}{}",
        model.products(),
        model.kv_shape(),
        config.rope,
        config.local_rope,
        config.windows,
        if model.is_on_device() { "\ncuda" } else { "" },
    ))
}

/// Reads passages, each by itself behind the same beginning, which a cache has read, and gives their blocks.
///
/// Behind an empty cache they are read as if each were a whole text.
///
/// # Errors
///
/// When a passage is longer than the model's context, or caches cannot grow.
pub fn capture(
    model: &DecoderModel,
    model_hash: TokensHash,
    (prefix, prefix_ids): (&KvCache, &[u32]),
    passages: &[&[u32]],
    precision: BlockPrecision,
) -> Result<Vec<KvBlock>> {
    let behind = TokensHash::of(prefix_ids);
    let mut blocks = Vec::with_capacity(passages.len());
    let mut rest = passages;
    while !rest.is_empty() {
        let mut n_tokens = 0;
        let n = rest.iter().take_while(|ids| {
            let first = n_tokens == 0;
            n_tokens += ids.len();
            first || n_tokens <= TOGETHER
        });
        let (together, others) = rest.split_at(n.count());
        rest = others;
        let first = prefix.len();
        let slots: Vec<Vec<usize>> = together.iter().map(|ids| (first..first + ids.len()).collect()).collect();
        let next = prefix.next_position();
        let positions: Vec<Vec<u32>> = together.iter().map(|ids| (next..).take(ids.len()).collect()).collect();
        let mut caches: Vec<KvCache> = together.iter().map(|_| prefix.clone()).collect();
        let read =
            together.iter().zip(&slots).zip(&positions).zip(&mut caches).filter(|(((ids, ..), ..), _)| !ids.is_empty());
        let mut sequences: Vec<ForwardSequence<'_>> = read
            .map(|(((tokens, slots), positions), cache)| ForwardSequence {
                rows: ForwardRows { tokens, positions, slots, ..ForwardRows::default() },
                cache,
                want: Want::default(),
                attending: Attending::All,
            })
            .collect();
        model.forward(&mut sequences)?;
        for (ids, cache) in together.iter().zip(&caches) {
            let block = KvBlock::from_cache(cache, first..first + ids.len(), model.kv_shape(), precision, model)?;
            let key = BlockKey { tokens: TokensHash::of(ids), behind, model: model_hash };
            blocks.push(block.described(key, BlockStatistics::default()));
        }
    }
    Ok(blocks)
}
