//! Encoders on NVIDIA devices: the same forward, in half precision with sums in single.

mod pre_norm;

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use raglan_kernels::Output;
use raglan_kernels::cuda::{
    Buffer, CudaDevice, DeviceMatrix, Downloader, Embedding, F16, HEAD_DIMS, Length, PackedSequences, Pooled, Real,
    RowNorm, add_layer_norm, bidirectional_attention, convert, embed, layer_norm, layer_norm_into, matrix_product,
    norm_pool,
};

use self::pre_norm::PreNormLayers;
use super::{HiddenStates, LayerNames, LayerNorm, Positions, Weights, attention_shape, check_token_types};
use crate::{EncodedPair, EncoderFamily, EncoderModelConfig, Error, Result, SafetensorsFile};

/// An encoder on a device.
///
/// Weights and vectors between layers are half floats, sums are `f32`, and so are `ModernBERT`'s rows, to which every layer
/// adds. Vectors of texts have a cosine of .9999 or more to those of [`EncoderModel`](crate::EncoderModel). What a sequence
/// gives does not depend on the other sequences of the call, to the bit where products run on our own kernel: NVIDIA's library
/// chooses another for other numbers of rows, unless the environment says `RAGLAN_CUDA_LIBRARY=none`.
#[derive(Debug)]
pub struct DeviceEncoder {
    device: CudaDevice,
    config: EncoderModelConfig,
    words: Embedding,
    /// None where positions are rotations.
    positions: Option<Embedding>,
    segments: Option<Embedding>,
    norm: Norm,
    layers: Layers,
    /// What calls that are done brought their vectors by, for those to come.
    downloads: Mutex<Vec<[Downloader<f32>; 2]>>,
}

/// The layers, by where their norms stand.
#[derive(Debug)]
enum Layers {
    PostNorm(Vec<Layer>),
    PreNorm(Box<PreNormLayers>),
}

#[derive(Debug)]
struct Layer {
    qkv: DeviceMatrix,
    attended: DeviceMatrix,
    attended_norm: Norm,
    widen: DeviceMatrix,
    narrow: DeviceMatrix,
    output_norm: Norm,
}

#[derive(Debug)]
pub(crate) struct Norm {
    scale: Buffer<f32>,
    shift: Buffer<f32>,
    epsilon: f32,
}

impl Norm {
    pub fn new(device: &CudaDevice, norm: &LayerNorm) -> Result<Self> {
        Ok(Self { scale: device.upload(&norm.scale)?, shift: device.upload(&norm.shift)?, epsilon: norm.epsilon })
    }

    pub fn apply<T: Real>(&self, rows: &mut Buffer<T>) -> Result<()> {
        Ok(layer_norm(rows, &self.scale, &self.shift, self.epsilon)?)
    }

    fn apply_into<T: Real>(&self, rows: &Buffer<T>, normed: &mut Buffer<F16>) -> Result<()> {
        Ok(layer_norm_into(rows, &self.scale, &self.shift, self.epsilon, normed)?)
    }

    /// Of the sums of two.
    fn apply_to_sums(&self, rows: &mut Buffer<F16>, residual: &Buffer<F16>) -> Result<()> {
        Ok(add_layer_norm(rows, residual, &self.scale, &self.shift, self.epsilon)?)
    }
}

/// A vector for each token of some sequences, on a device.
#[derive(Debug)]
pub struct DeviceHiddenStates {
    dim: usize,
    /// `[n_tokens, dim]`, sequence behind sequence.
    pub(crate) rows: Buffer<F16>,
    pub(crate) sequences: PackedSequences,
    /// Where each sequence ends, in rows.
    pub(crate) ends: Vec<usize>,
}

impl DeviceHiddenStates {
    /// The length of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The same where the processor has them.
    ///
    /// # Errors
    ///
    /// [`Error::BeyondHalves`] when some are no finite numbers; [`Error::Kernel`] when the device fails.
    pub fn download(self) -> Result<HiddenStates> {
        let rows = self.rows.download()?.into_iter().map(Real::to_f32).collect();
        Ok(HiddenStates::new(self.dim, finite(rows)?, self.ends))
    }
}

/// What the layers leave to the last norm.
enum Unnormed {
    Narrow(Buffer<F16>),
    Wide(Buffer<f32>),
}

/// Numbers that a device made, unless some left its range.
pub(crate) fn finite(numbers: Vec<f32>) -> Result<Vec<f32>> {
    match numbers.iter().all(|x| x.is_finite()) {
        true => Ok(numbers),
        false => Err(Error::BeyondHalves),
    }
}

impl DeviceEncoder {
    /// Refuses a model, whose `config.json` is at `path`, that there are no kernels for.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] when its heads are of another size than theirs.
    pub fn check(path: &Path, config: &EncoderModelConfig) -> Result<()> {
        let head_dim = config.head_dim();
        if HEAD_DIMS.contains(&head_dim) {
            return Ok(());
        }
        let what = format!("heads of {head_dim} numbers on a CUDA device (can be {HEAD_DIMS:?})");
        Err(Error::Unsupported { path: path.to_owned(), what })
    }

    /// Reads the weights of an open file to a device.
    ///
    /// # Errors
    ///
    /// As for [`EncoderModel::from_safetensors`](crate::EncoderModel::from_safetensors), and [`check`](Self::check);
    /// [`Error::Kernel`] when the device has not so much memory.
    pub fn from_safetensors(device: &CudaDevice, file: &SafetensorsFile, config: EncoderModelConfig) -> Result<Self> {
        config.check().map_err(|problem| Error::Malformed { path: file.path().to_owned(), problem })?;
        Self::check(file.path(), &config)?;
        let weights = Weights::of_model(file, &config);
        let hidden = config.hidden_size;
        let table = |name: &str, n_rows: usize, skipped: usize| -> Result<Embedding> {
            Ok(Embedding::new(device, &weights.tensor(name, &[n_rows, hidden])?[skipped * hidden..], hidden)?)
        };
        let words = table(weights.words(), config.vocab_size, 0)?;
        let name = "embeddings.position_embeddings.weight";
        let has_table = config.rotary.is_none();
        let positions = has_table.then(|| table(name, config.max_position_embeddings, config.first_position));
        let positions = positions.transpose()?;
        let name = "embeddings.token_type_embeddings.weight";
        let segments = (config.type_vocab_size > 0).then(|| table(name, config.type_vocab_size, 0)).transpose()?;
        let modern = config.family == EncoderFamily::ModernBert;
        let norm = weights.layer_norm(if modern { "embeddings.norm" } else { "embeddings.LayerNorm" })?;
        let norm = Norm::new(device, &norm)?;
        let layers = match &config.rotary {
            Some(rotary) => Layers::PreNorm(Box::new(PreNormLayers::load(device, &weights, &config, rotary)?)),
            None => {
                let layers = (0..config.num_hidden_layers).map(|i| Layer::load(device, &weights, &config, i));
                Layers::PostNorm(layers.collect::<Result<_>>()?)
            }
        };
        let downloads = Mutex::default();
        Ok(Self { device: device.clone(), words, positions, segments, norm, layers, downloads, config })
    }

    /// The model's shape.
    pub fn config(&self) -> &EncoderModelConfig {
        &self.config
    }

    /// The last layer's vector for each token of each sequence, as
    /// [`EncoderModel::hidden_states`](crate::EncoderModel::hidden_states) gives it.
    ///
    /// # Errors
    ///
    /// [`Error::ContextOverflow`] when a sequence has more tokens than there are positions, [`Error::UnknownToken`]
    /// for an id beyond the vocabulary; [`Error::BeyondHalves`] when numbers leave the range of half precision;
    /// [`Error::Kernel`] when the device fails.
    pub fn hidden_states(&self, sequences: &[&[u32]]) -> Result<HiddenStates> {
        self.hidden_states_on_device(sequences)?.download()
    }

    /// The same, left on the device for a head there.
    ///
    /// # Errors
    ///
    /// As for [`hidden_states`](Self::hidden_states).
    pub fn hidden_states_on_device(&self, sequences: &[&[u32]]) -> Result<DeviceHiddenStates> {
        let (rows, sequences, ends) = self.forward(sequences, &[])?;
        let rows = match rows {
            Unnormed::Narrow(mut rows) => {
                self.last_norm().apply(&mut rows)?;
                rows
            }
            Unnormed::Wide(rows) => {
                let mut normed = self.device.filled(0, rows.len())?;
                self.last_norm().apply_into(&rows, &mut normed)?;
                normed
            }
        };
        Ok(DeviceHiddenStates { dim: self.config.hidden_size, rows, sequences, ends })
    }

    /// A vector for each sequence, `[n_sequences, hidden_size]`, of this length, for batches of sequences that are each read
    /// by one forward. The last norm, the pooling and the length are made in one pass, only the vectors leave the device,
    /// and while it computes one batch, the next is prepared. A sequence without tokens gives zeros.
    ///
    /// # Errors
    ///
    /// As for [`hidden_states`](Self::hidden_states).
    pub fn pooled_vectors<B: AsRef<[S]>, S: AsRef<[u32]>>(
        &self,
        batches: impl IntoIterator<Item = B>,
        pooled: Pooled,
        length: Length,
    ) -> Result<Vec<f32>> {
        self.brought(batches, |batch| {
            let sequences: Vec<&[u32]> = batch.as_ref().iter().map(AsRef::as_ref).collect();
            self.pooled(&sequences, &[], pooled, length)
        })
    }

    /// The same of pairs of texts, as a classification head reads them.
    ///
    /// # Errors
    ///
    /// As for [`hidden_states`](Self::hidden_states); [`Error::Rows`] when there is not one type a token, or a type has no
    /// embedding.
    pub fn pooled_vectors_of_pairs<B: AsRef<[EncodedPair]>>(
        &self,
        batches: impl IntoIterator<Item = B>,
        pooled: Pooled,
        length: Length,
    ) -> Result<Vec<f32>> {
        self.brought(batches, |batch| {
            let ids: Vec<&[u32]> = batch.as_ref().iter().map(|pair| &*pair.ids).collect();
            let types: Vec<&[u32]> = batch.as_ref().iter().map(|pair| &*pair.token_types).collect();
            check_token_types(&self.config, &ids, &types)?;
            self.pooled(&ids, &types, pooled, length)
        })
    }

    /// What is computed of each batch, one behind the other.
    fn brought<B>(
        &self,
        batches: impl IntoIterator<Item = B>,
        compute: impl Fn(B) -> Result<Buffer<f32>>,
    ) -> Result<Vec<f32>> {
        let kept = || self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        let kept_one = kept().pop();
        let mut downloads = kept_one.unwrap_or_else(|| [&self.device, &self.device].map(Downloader::new));
        let mut all = Vec::new();
        for batch in batches {
            downloads[0].begin(&compute(batch)?)?;
            // Of the batch before; nothing the first time.
            downloads.swap(0, 1);
            all.extend(finite(downloads[0].finish()?)?);
        }
        all.extend(finite(downloads[1].finish()?)?);
        kept().push(downloads);
        Ok(all)
    }

    fn pooled(&self, ids: &[&[u32]], types: &[&[u32]], pooled: Pooled, length: Length) -> Result<Buffer<f32>> {
        let (rows, sequences, _) = self.forward(ids, types)?;
        let dim = self.config.hidden_size;
        let Norm { scale, shift, epsilon } = self.last_norm();
        let norm = RowNorm::Layer { scale, shift, epsilon: *epsilon };
        Ok(match rows {
            Unnormed::Narrow(rows) => norm_pool(&rows, &sequences, dim, norm, pooled, length)?,
            Unnormed::Wide(rows) => norm_pool(&rows, &sequences, dim, norm, pooled, length)?,
        })
    }

    /// The norm behind the last layer, or behind the embeddings where there are no layers.
    fn last_norm(&self) -> &Norm {
        match &self.layers {
            Layers::PostNorm(layers) => layers.last().map_or(&self.norm, |layer| &layer.output_norm),
            Layers::PreNorm(layers) => layers.norm(),
        }
    }

    /// Everything but the last norm; with the sequences, and where each ends. Without types, all tokens are of the first.
    fn forward(&self, sequences: &[&[u32]], types: &[&[u32]]) -> Result<(Unnormed, PackedSequences, Vec<usize>)> {
        let (mut ids, mut places, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            Positions::Consecutive.check(sequence.len(), &self.config)?;
            if let Some(&id) = sequence.iter().find(|&&id| id as usize >= self.config.vocab_size) {
                return Err(Error::UnknownToken { id });
            }
            ids.extend_from_slice(sequence);
            places.extend(0..sequence.len() as u32);
            ends.push(ids.len());
        }
        let kinds = match types {
            _ if self.config.type_vocab_size > 1 && !types.is_empty() => types.concat(),
            _ => vec![0; ids.len()],
        };
        let segments = self.segments.as_ref().map(|segments| (segments, &kinds[..]));
        let positions = self.positions.as_ref().map(|positions| (positions, &places[..]));
        let mut rows = embed((&self.words, &ids), positions, segments)?;
        let sequences = PackedSequences::new(&self.device, &ends)?;
        let rows = match &self.layers {
            Layers::PostNorm(layers) => {
                self.post_norm_layers(layers, &mut rows, &sequences)?;
                Unnormed::Narrow(rows)
            }
            Layers::PreNorm(layers) => {
                let mut rows: Buffer<f32> = convert(&rows)?;
                self.norm.apply(&mut rows)?;
                layers.forward(&mut rows, &sequences, &places, &self.config)?;
                Unnormed::Wide(rows)
            }
        };
        Ok((rows, sequences, ends))
    }

    fn post_norm_layers(&self, layers: &[Layer], rows: &mut Buffer<F16>, sequences: &PackedSequences) -> Result<()> {
        let (n, dim) = (sequences.n_tokens(), self.config.hidden_size);
        let shape = attention_shape(&self.config);
        let mut qkv = self.device.filled(0, n * 3 * dim)?;
        let mut mixed = self.device.filled(0, n * dim)?;
        let mut narrow = self.device.filled(0, n * dim)?;
        let mut wide = self.device.filled(0, n * self.config.intermediate_size)?;
        let mut norm_before = &self.norm;
        for (i, layer) in layers.iter().enumerate() {
            // Each layer's last norm comes with the addition before it; only the last one's is left to the caller.
            match i {
                0 => norm_before.apply(rows)?,
                _ => norm_before.apply_to_sums(rows, &narrow)?,
            }
            matrix_product(rows, &layer.qkv, Output::Replace, &mut qkv)?;
            bidirectional_attention(&shape, &qkv, sequences, None, &mut mixed)?;
            matrix_product(&mixed, &layer.attended, Output::Replace, &mut narrow)?;
            layer.attended_norm.apply_to_sums(rows, &narrow)?;
            matrix_product(rows, &layer.widen, Output::Activate(self.config.hidden_act.into()), &mut wide)?;
            if i + 1 == layers.len() {
                matrix_product(&wide, &layer.narrow, Output::Add, rows)?;
            } else {
                matrix_product(&wide, &layer.narrow, Output::Replace, &mut narrow)?;
            }
            norm_before = &layer.output_norm;
        }
        Ok(())
    }
}

/// Linear maps of one input side by side, on a device.
fn matrix(device: &CudaDevice, weights: &Weights, names: &[String], n_in: usize, n_out: usize) -> Result<DeviceMatrix> {
    let (numbers, bias) = weights.numbers(names, n_in, n_out)?;
    Ok(DeviceMatrix::new(device, &numbers, n_in, names.len() * n_out, bias.as_deref())?)
}

impl Layer {
    fn load(device: &CudaDevice, weights: &Weights, config: &EncoderModelConfig, i: usize) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let names = LayerNames::new(config, i);
        let matrix = |names: &[String], n_in, n_out| matrix(device, weights, names, n_in, n_out);
        let norm = |name: &str| Norm::new(device, &weights.layer_norm(name)?);
        Ok(Self {
            qkv: matrix(&names.qkv, hidden, hidden)?,
            attended: matrix(&[names.attended], hidden, hidden)?,
            attended_norm: norm(&names.attended_norm)?,
            widen: matrix(&[names.widen], hidden, inner)?,
            narrow: matrix(&[names.narrow], inner, hidden)?,
            output_norm: norm(&names.output_norm)?,
        })
    }
}
