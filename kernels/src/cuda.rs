//! The kernels' forms for NVIDIA devices.
//!
//! They do what the functions of the same names do for slices, with [`Buffer`]s, in the order in which they are called
//! on a device's stream. Rows are `f32` or [`F16`], weights [`F16`], [`Bf16`] or in blocks, cached keys and values [`F16`].
//! What they compute agrees with the processor's forms within the rounding of those types, not to the bit.
//!
//! - [`CudaDevice`] is a stream on a device, [`Buffer`] its memory, [`Uploader`], [`StagedUploads`] and
//!   [`Downloader`] copy beside its work.
//! - [`CudaDevice::rehearse`], [`CudaDevice::capture`] and [`CudaDevice::replay`] run work that comes again and again as one
//!   [`Graph`].
//! - [`PackedSequences`] says where sequences end; [`norm_pool`] makes vectors of them.
//! - [`KvPages`] keeps keys and values, [`PagePool`] says which pages are free; [`place`] puts new and cached tokens into
//!   them and turns keys on the way, [`copy_slots`] moves them within.
//! - [`bidirectional_attention`] attends within packed sequences; [`causal_attention`] from any rows over pages, by a
//!   [`CausalPlan`], with [`attention_mass`]; [`decode_attention`] from a few rows of each of many sequences, by a
//!   [`DecodePlan`].
//! - [`layer_norm`], [`layer_norm_into`], [`add_layer_norm`], [`rms_norm`], [`rms_norm_in_place`], [`add_rms_norm`],
//!   [`activate`], [`add_bias`], [`gated`], [`gated_apart`] and [`rotate`] are the row-wise steps of a transformer.
//! - [`matrix_product`] multiplies rows with a [`DeviceMatrix`], by NVIDIA's library where it is there;
//!   [`split_product`] with a [`SplitMatrix`], in single precision. [`convert`] and [`split`] change numbers' width.
//! - [`block_product`] multiplies [`QuantizedRows`] with a [`DeviceBlockMatrix`], in the blocks of GGUF files.
//! - [`embed`] looks tokens up, [`splade_head`] gives a SPLADE model's weights, [`positive_terms`] those that are not zero.
//! - [`Int8Vectors`] and [`BitVectors`] are searched.
//! - [`compile_kernels`] compiles all of them without a device.

pub use crate::activation::cuda::{activate, add_bias, gated, gated_apart};
pub use crate::attention::cuda::{
    CausalPlan, DecodePlan, EMPTY_SLOT, PageTurns, PagedKeys, attention_mass, bidirectional_attention,
    causal_attention, decode_attention,
};
pub use crate::block_product::cuda::{DeviceBlockMatrix, QuantizedRows, block_product};
pub use crate::conversion::cuda::{convert, split};
pub use crate::device::cuda::{
    Architecture, Bf16, Buffer, CudaDevice, DeviceLimits, Downloader, F16, Graph, HEAD_DIMS, KernelUse, KvPages, Mark,
    Narrow, PAGE_TOKENS, PackedSequences, PagePool, Plain, Real, Reserve, StagedUploads, Uploaded, Uploader,
    compile_kernels,
};
pub use crate::embedding::cuda::{Embedding, embed};
pub use crate::layer_norm::cuda::{add_layer_norm, layer_norm, layer_norm_into};
pub use crate::matrix_product::cuda::{DeviceMatrix, matrix_product};
pub use crate::matrix_product::split::{SplitMatrix, split_product};
pub use crate::mean_pool::cuda::{Length, Pooled, RowNorm, norm_pool};
pub use crate::quantized_score::cuda::{BitVectors, Int8Vectors};
pub use crate::rms_norm::cuda::{add_rms_norm, rms_norm, rms_norm_in_place};
pub use crate::rotary::cuda::{KvSource, Placement, RotaryTurns, copy_slots, place, place_some, rotate};
pub use crate::splade_pool::cuda::{positive_terms, splade_head};
