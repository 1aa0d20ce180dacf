//! `ModernBERT`'s layers on a device.

use raglan_kernels::cuda::{
    Buffer, CudaDevice, DeviceMatrix, PackedSequences, RotaryTurns, bidirectional_attention, convert, matrix_product,
    rotate,
};
use raglan_kernels::{Output, RotaryEmbedding, RotaryScaling};

use super::super::pre_norm::{FINAL_NORM, PreNormNames, rotation};
use super::{Norm, Weights, attention_shape, matrix};
use crate::encoder_config::RotaryLayers;
use crate::{EncoderModelConfig, Result};

/// The layers and the norm behind the last one.
#[derive(Debug)]
pub(super) struct PreNormLayers {
    layers: Vec<PreNormLayer>,
    local: RotaryEmbedding,
    global: RotaryEmbedding,
    local_radius: usize,
    norm: Norm,
}

#[derive(Debug)]
struct PreNormLayer {
    /// None in the first layer, whose input the embeddings' norm has just made.
    attention_norm: Option<Norm>,
    qkv: DeviceMatrix,
    attended: DeviceMatrix,
    gated_norm: Norm,
    /// What goes through the nonlinearity, then what it is multiplied by.
    widen: DeviceMatrix,
    narrow: DeviceMatrix,
    is_local: bool,
}

impl PreNormLayers {
    pub fn load(
        device: &CudaDevice,
        weights: &Weights,
        config: &EncoderModelConfig,
        rotary: &RotaryLayers,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let matrix = |name: String, n_in, n_out| matrix(device, weights, &[name], n_in, n_out);
        let norm = |name: &str| Norm::new(device, &weights.layer_norm(name)?);
        let mut layers = Vec::new();
        for (i, &is_local) in rotary.local.iter().enumerate() {
            let names = PreNormNames::new(weights, i);
            layers.push(PreNormLayer {
                attention_norm: names.attention_norm.map(|name| norm(&name)).transpose()?,
                qkv: matrix(names.qkv, hidden, 3 * hidden)?,
                attended: matrix(names.attended, hidden, hidden)?,
                gated_norm: norm(&names.gated_norm)?,
                widen: matrix(names.widen, hidden, 2 * inner)?,
                narrow: matrix(names.narrow, inner, hidden)?,
                is_local,
            });
        }
        let rotation = |theta| rotation(config, theta, &RotaryScaling::None);
        Ok(Self {
            layers,
            local: rotation(rotary.local_theta)?,
            global: rotation(rotary.global_theta)?,
            local_radius: rotary.local_radius,
            norm: norm(FINAL_NORM)?,
        })
    }

    /// The norm behind the last layer, which [`forward`](Self::forward) leaves to the caller.
    pub fn norm(&self) -> &Norm {
        &self.norm
    }

    /// Replaces the rows, whose tokens stand at `places` in their sequences, by what the layers make of them.
    pub fn forward(
        &self,
        rows: &mut Buffer<f32>,
        sequences: &PackedSequences,
        places: &[u32],
        config: &EncoderModelConfig,
    ) -> Result<()> {
        let device = &rows.device().clone();
        let (n, dim) = (sequences.n_tokens(), config.hidden_size);
        let shape = attention_shape(config);
        // As far as these sequences go: files may say that a model has any number of positions.
        let n_positions = places.iter().max().map_or(0, |&last| last as usize + 1);
        let turns = |rotation| RotaryTurns::to_positions(device, rotation, n_positions);
        let (local, global) = (turns(&self.local)?, turns(&self.global)?);
        let places = device.upload(places)?;
        let mut normed = device.filled(0, n * dim)?;
        let mut qkv = device.filled(0, n * 3 * dim)?;
        let mut mixed = device.filled(0, n * dim)?;
        let mut middle = device.filled(0, n * config.intermediate_size)?;
        for layer in &self.layers {
            let (turns, radius) = if layer.is_local { (&local, Some(self.local_radius)) } else { (&global, None) };
            match &layer.attention_norm {
                Some(norm) => norm.apply_into(rows, &mut normed)?,
                None => normed = convert(rows)?,
            }
            matrix_product(&normed, &layer.qkv, Output::Replace, &mut qkv)?;
            // Queries' heads, then keys': one launch.
            rotate(&mut qkv, 3 * dim, 0, 2 * shape.n_heads, &places, turns)?;
            bidirectional_attention(&shape, &qkv, sequences, radius, &mut mixed)?;
            matrix_product(&mixed, &layer.attended, Output::Add, rows)?;
            layer.gated_norm.apply_into(rows, &mut normed)?;
            matrix_product(&normed, &layer.widen, Output::Gated(config.hidden_act.into()), &mut middle)?;
            matrix_product(&middle, &layer.narrow, Output::Add, rows)?;
        }
        Ok(())
    }
}
