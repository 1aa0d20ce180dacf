//! The numeric kernels that every index and model of raglan stands on.
//!
//! Retrieval spends its time in a few loops: inner products, normalisation, selection of the best. Each is one folder
//! here: a contract and its dispatch in `mod.rs`, a plain reference in `cpu.rs` (loops and `f64` sums, never tuned),
//! fast forms in files of their own that are chosen at run time, and one test body for all of them. Kernels know
//! slices, never documents.
//!
//! - [`inner_products`] scores many vectors against many queries; [`inner_products_at`] scores chosen rows.
//! - [`l2_normalize`] brings vectors to unit length.
//! - [`matrix_product`] multiplies rows by packed weights, [`bf16_product`] by weights in bf16, [`int8_product`] by
//!   weights in bytes; an [`Epilogue`] says what becomes of the sums.
//! - [`block_product`] multiplies with weights in the quantised blocks of GGUF files, [`dequantize_blocks`] reads them.
//! - [`top_k`] and [`TopK`] select the best scores, ties by lower index.
//! - [`bidirectional_attention`], [`causal_attention`], [`attention_mass`] and [`merge_attention`] attend.
//! - [`layer_norm`], [`rms_norm`], [`activate`] and [`gated`] are the row-wise steps of a transformer.
//! - [`RotaryEmbedding`] turns queries and keys to their positions, and moves cached keys.
//! - [`mean_pool`] makes one vector of a sequence's.
//! - [`softmax`], [`log_sum_exp`] and [`log_softmax_at`] turn logits into probabilities, [`log_relu_max`] into term weights.
//! - [`to_f16`], [`quantize_i8`] and [`binarize`] keep vectors as half floats, bytes or bits; [`inner_products_f16`],
//!   [`Int8Query`] and [`hamming`] score those.
//! - [`OneBitEncoder`] keeps vectors as bits from which an [`OneBitQuery`] or [`OneBitTable`] estimates inner products
//!   without bias.
//! - [`max_sim`] scores documents of many vectors, [`centroid_max_sim`] nearly so from their centroids; [`encode_residuals`]
//!   keeps such vectors small, and [`ResidualQuery`] scores documents of them as they are kept.
//! - [`device`] says what the machine offers; with the feature `cuda`, the module `cuda` has forms for NVIDIA devices.
//!
//! ```
//! use raglan_kernels::{inner_products, l2_normalize, top_k};
//!
//! let mut vectors = vec![3.0, 4.0, 0.0, 2.0, 1.0, 0.0];
//! l2_normalize(&mut vectors, 2)?; // (0.6, 0.8), (0, 1), (1, 0)
//! let mut scores = vec![0.0; 3];
//! inner_products(&[1.0, 0.0], &vectors, 2, &mut scores)?;
//! let best: Vec<u32> = top_k(&scores, 2)?.into_iter().map(|(_, index)| index).collect();
//! assert_eq!(best, [2, 0]);
//! # Ok::<(), raglan_kernels::Error>(())
//! ```

mod activation;
mod attention;
mod bf16_product;
mod block_product;
mod centroid_max_sim;
#[cfg(feature = "cuda")]
mod conversion;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
mod elementary;
#[cfg(feature = "cuda")]
mod embedding;
mod epilogue;
mod error;
mod forms;
mod half_product;
mod inner_product;
mod int8_product;
mod l2_normalize;
mod layer_norm;
mod matrix_product;
mod max_sim;
mod mean_pool;
#[cfg(target_arch = "aarch64")]
mod neon;
mod one_bit;
mod parallel;
mod prefetch;
mod quantized_score;
mod residual_codes;
mod residual_max_sim;
mod rms_norm;
mod rotary;
mod softmax;
mod splade_pool;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod top_k;

pub use activation::{Activation, activate, gated};
pub use attention::{
    AttentionMask, AttentionShape, KvRun, KvSlice, QueryRows, attention_mass, bidirectional_attention,
    bidirectional_attention_bf16, causal_attention, merge_attention, selected_attention,
};
pub use bf16_product::{Bf16Matrix, bf16_product};
pub use block_product::{BlockFormat, BlockMatrix, block_product, block_product_add, dequantize_blocks};
pub use centroid_max_sim::{CENTROID_LANES, centroid_max_sim};
pub use epilogue::{Epilogue, Output};
pub use error::{Error, Result};
pub use half_product::{from_f16, inner_products_f16, inner_products_f16_at, to_f16};
pub use inner_product::{inner_product, inner_products, inner_products_at};
pub use int8_product::{Int8Matrix, Int8Rows, int8_product, int8_product_rounded};
pub use l2_normalize::l2_normalize;
pub use layer_norm::{add_layer_norm, layer_norm};
pub use matrix_product::{PackedMatrix, matrix_product};
pub use max_sim::{max_sim, max_sim_f16};
pub use mean_pool::mean_pool;
pub use one_bit::{
    ONE_BIT_BLOCK, OneBitEncoder, OneBitQuery, OneBitTable, RandomRotation, one_bit_block_bytes, one_bit_blocks,
    one_bit_words,
};
pub use prefetch::prefetch;
pub use quantized_score::{Int8Query, binarize, hamming, quantize_i8};
pub use residual_codes::{ResidualBits, decode_residuals, encode_residuals};
pub use residual_max_sim::{CentroidProducts, ResidualQuery};
pub use rms_norm::{rms_norm, rms_norm_in_place};
pub use rotary::{RotaryEmbedding, RotaryPairs, RotaryScaling};
pub use softmax::{log_softmax_at, log_sum_exp, softmax};
pub use splade_pool::{log_relu_max, log1p_relu, running_max};
pub use top_k::{TopK, top_k};
