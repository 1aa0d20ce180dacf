//! `ModernBERT`'s layers: a norm before each map, rotated heads, gated middles, local attention.

use raglan_kernels::{Output, RotaryEmbedding, RotaryPairs, RotaryScaling};
use rayon::prelude::*;

use super::self_extend::self_extend_attention;
use super::{FEED_FORWARD_ROWS, LayerNorm, Positions, Scratch, Weights, attention_shape};
use crate::encoder_config::RotaryLayers;
use crate::linear::Linear;
use crate::{EncoderModelConfig, Products, Result};

/// The layers and the norm behind the last one.
#[derive(Debug)]
pub(super) struct PreNormLayers {
    layers: Vec<PreNormLayer>,
    local: RotaryEmbedding,
    global: RotaryEmbedding,
    global_theta: f64,
    local_radius: usize,
    norm: LayerNorm,
}

#[derive(Debug)]
struct PreNormLayer {
    /// None in the first layer, whose input the embeddings' norm has just made.
    attention_norm: Option<LayerNorm>,
    /// Queries, keys and values in one product: `[hidden, 3 · hidden]`.
    qkv: Linear,
    attended: Linear,
    gated_norm: LayerNorm,
    /// What goes through the nonlinearity, then what it is multiplied by: `[hidden, 2 · inner]`.
    widen: Linear,
    narrow: Linear,
    is_local: bool,
}

/// What the norm behind the last layer is called.
pub(super) const FINAL_NORM: &str = "final_norm";

/// What a layer's weights are called.
pub(super) struct PreNormNames {
    /// None where the file has no such norm.
    pub attention_norm: Option<String>,
    pub qkv: String,
    pub attended: String,
    pub gated_norm: String,
    pub widen: String,
    pub narrow: String,
}

impl PreNormNames {
    pub fn new(weights: &Weights, i: usize) -> Self {
        let name = |part: &str| format!("layers.{i}.{part}");
        let attention_norm = name("attn_norm");
        let has_norm = i > 0 || weights.contains(&format!("{attention_norm}.weight"));
        Self {
            attention_norm: has_norm.then_some(attention_norm),
            qkv: name("attn.Wqkv"),
            attended: name("attn.Wo"),
            gated_norm: name("mlp_norm"),
            widen: name("mlp.Wi"),
            narrow: name("mlp.Wo"),
        }
    }
}

/// How the tokens of some rows see each other.
#[derive(Clone, Copy)]
enum Turns<'a> {
    /// By rotations of their places.
    Places(&'a RotaryEmbedding),
    /// The same for near keys, and by rotations of groups for others: the rows of one sequence.
    SelfExtend { rotary: &'a RotaryEmbedding, window: usize, group: usize },
}

/// Tokens that are rotated in one task.
const ROTATED_ROWS: usize = 64;

impl PreNormLayers {
    pub fn load(
        weights: &Weights,
        config: &EncoderModelConfig,
        rotary: &RotaryLayers,
        products: Products,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut layers = Vec::new();
        for (i, &is_local) in rotary.local.iter().enumerate() {
            let names = PreNormNames::new(weights, i);
            layers.push(PreNormLayer {
                attention_norm: names.attention_norm.map(|name| weights.layer_norm(&name)).transpose()?,
                qkv: weights.linear(&[names.qkv], hidden, 3 * hidden, products)?,
                attended: weights.linear(&[names.attended], hidden, hidden, products)?,
                gated_norm: weights.layer_norm(&names.gated_norm)?,
                widen: weights.linear(&[names.widen], hidden, 2 * inner, products)?,
                narrow: weights.linear(&[names.narrow], inner, hidden, products)?,
                is_local,
            });
        }
        let rotation = |theta| rotation(config, theta, &RotaryScaling::None);
        Ok(Self {
            layers,
            local: rotation(rotary.local_theta)?,
            global: rotation(rotary.global_theta)?,
            global_theta: rotary.global_theta,
            local_radius: rotary.local_radius,
            norm: weights.layer_norm(FINAL_NORM)?,
        })
    }

    /// Replaces the rows by what the layers make of them. Sequences beyond the end of `positions` have the base of
    /// their rotations as it is.
    pub fn forward(
        &self,
        rows: &mut [f32],
        ends: &[usize],
        positions: &[Positions],
        config: &EncoderModelConfig,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let raised = self.raised(positions, config)?;
        let of_sequence = |sequence: usize| match positions.get(sequence) {
            Some(&Positions::SelfExtend { window, group }) => Turns::SelfExtend { rotary: &self.global, window, group },
            _ => Turns::Places(raised.get(sequence).and_then(Option::as_ref).unwrap_or(&self.global)),
        };
        let is_usual = |positions: &Positions| matches!(positions, Positions::Consecutive | Positions::Table(_));
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let places: Vec<u32> = starts.zip(ends).flat_map(|(start, end)| 0..(end - start) as u32).collect();
        let everywhere = |rotary| vec![(places.len(), Turns::Places(rotary))];
        let local = everywhere(&self.local);
        let global = match positions.iter().all(is_usual) {
            true => everywhere(&self.global),
            false => ends.iter().enumerate().map(|(sequence, &end)| (end, of_sequence(sequence))).collect(),
        };
        for layer in &self.layers {
            let (turns, radius) = if layer.is_local { (&local, Some(self.local_radius)) } else { (&global, None) };
            layer.attend(rows, ends, &places, turns, radius, config, scratch)?;
            layer.feed_forward(rows, config, scratch)?;
        }
        self.norm.apply(rows)
    }

    /// The rotation of each sequence whose base is raised, if there is such a sequence.
    fn raised(&self, positions: &[Positions], config: &EncoderModelConfig) -> Result<Vec<Option<RotaryEmbedding>>> {
        let factor = |positions: &Positions| match *positions {
            Positions::RaisedBase { factor } if factor > 1.0 => Some(factor),
            _ => None,
        };
        if positions.iter().all(|positions| factor(positions).is_none()) {
            return Ok(Vec::new());
        }
        let raised = positions.iter().map(|positions| {
            let scaling = factor(positions).map(|factor| RotaryScaling::Ntk { factor });
            scaling.map(|scaling| rotation(config, self.global_theta, &scaling)).transpose()
        });
        raised.collect()
    }
}

pub(super) fn rotation(config: &EncoderModelConfig, theta: f64, scaling: &RotaryScaling) -> Result<RotaryEmbedding> {
    Ok(RotaryEmbedding::new(config.head_dim(), theta, RotaryPairs::Halves, scaling)?)
}

impl PreNormLayer {
    /// Each of `turns` is of the rows up to its own end, from where the one before it ends.
    #[expect(clippy::too_many_arguments, reason = "what a layer's attention goes by")]
    fn attend(
        &self,
        rows: &mut [f32],
        ends: &[usize],
        places: &[u32],
        turns: &[(usize, Turns)],
        radius: Option<usize>,
        config: &EncoderModelConfig,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let dim = config.hidden_size;
        let qkv = Scratch::of(&mut scratch.wide, rows.len() * 3);
        let normed = Scratch::of(&mut scratch.narrow, rows.len());
        normed.copy_from_slice(rows);
        if let Some(norm) = &self.attention_norm {
            norm.apply(normed)?;
        }
        self.qkv.apply(normed, Output::Replace, qkv)?;
        let mut start = 0;
        for &(end, turns) in turns {
            if let Turns::Places(rotary) = turns {
                let (qkv, places) = (&mut qkv[start * 3 * dim..end * 3 * dim], &places[start..end]);
                let rotated = qkv.par_chunks_mut(ROTATED_ROWS * 3 * dim).zip(places.par_chunks(ROTATED_ROWS));
                rotated.try_for_each(|(qkv, places)| {
                    rotary.rotate(qkv, 3 * dim, config.num_attention_heads, places)?;
                    rotary.rotate(&mut qkv[dim..], 3 * dim, config.num_attention_heads, places)
                })?;
            }
            start = end;
        }
        let (shape, attend, mixed) = (attention_shape(config), self.qkv.attention(), normed);
        if turns.iter().all(|(_, turns)| matches!(turns, Turns::Places(_))) {
            attend(&shape, qkv, ends, radius, mixed)?;
        } else {
            let mut start = 0;
            for &(end, turns) in turns {
                let (qkv, mixed) = (&qkv[start * 3 * dim..end * 3 * dim], &mut mixed[start * dim..end * dim]);
                match turns {
                    Turns::Places(_) => attend(&shape, qkv, &[end - start], radius, mixed)?,
                    Turns::SelfExtend { rotary, window, group } => {
                        self_extend_attention(&shape, rotary, qkv, window, group, mixed)?;
                    }
                }
                start = end;
            }
        }
        self.attended.apply(mixed, Output::Add, rows)
    }

    fn feed_forward(&self, rows: &mut [f32], config: &EncoderModelConfig, scratch: &mut Scratch) -> Result<()> {
        let (dim, inner) = (config.hidden_size, config.intermediate_size);
        for rows in rows.chunks_mut(FEED_FORWARD_ROWS * dim) {
            let n_rows = rows.len() / dim;
            let middle = Scratch::of(&mut scratch.wide, n_rows * inner);
            let normed = Scratch::of(&mut scratch.narrow, rows.len());
            normed.copy_from_slice(rows);
            self.gated_norm.apply(normed)?;
            self.widen.apply(normed, Output::Gated(config.hidden_act.into()), middle)?;
            self.narrow.apply(middle, Output::Add, rows)?;
        }
        Ok(())
    }
}
