//! Encoders on a device beside the processor's: on a small model of random weights. Devices are the emulation of one, and
//! the machine's first where `RAGLAN_CUDA` is set.

use std::path::Path;

use raglan_core::{DenseVector, Encoder, SparseVector, TokenMatrix};
use raglan_embed::{
    EncoderConfig, Error, ExtendedPositions, LongInputs, OnDevice, Pooling, SentenceEncoder, SparseActivation,
    SparseEncoder, SparseEncoderConfig, TokenEncoder, TokenEncoderConfig,
};
use raglan_model::cuda::CudaDevice;

use crate::small_model::{POSITIONS, write_model_of};

/// Calls `check` with the device to test, and the folder of a model that has kernels there.
fn on_device(check: impl Fn(&CudaDevice, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    write_model_of(dir.path(), 64, 2);
    if let Some(device) = &CudaDevice::to_test() {
        check(device, dir.path());
    }
}

const TEXTS: [&str; 5] = ["a,b", "", "the cat sat", ",", "a rather longer text, of more words"];

#[track_caller]
fn check_near(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let cosine = product(got, want) / (product(got, got) * product(want, want)).sqrt();
    assert!(cosine >= 0.9999, "{what}: {cosine}");
    let lengths = (product(got, got) / product(want, want)).sqrt();
    assert!((lengths - 1.0).abs() <= 0.01, "{what}: {lengths} times as long");
}

/// The queries' and the passages' vectors on the device are `same` as those of the processor, and those of a text alone are
/// its vectors among others to the bit.
#[track_caller]
fn check<E: OnDevice + Encoder>(
    dir: &Path,
    device: &CudaDevice,
    load: impl Fn() -> E,
    same: impl Fn(&E::Vector, &E::Vector, &str),
) where
    E::Vector: PartialEq + std::fmt::Debug,
{
    let (plain, on_device) = (load(), load().on_device(dir, device).unwrap());
    let got = on_device.encode_passages(&TEXTS).unwrap();
    for (i, (got, want)) in got.iter().zip(plain.encode_passages(&TEXTS).unwrap()).enumerate() {
        same(got, &want, &format!("passage `{}`", TEXTS[i]));
        assert_eq!(&on_device.encode_passages(&TEXTS[i..=i]).unwrap()[0], got, "`{}` alone", TEXTS[i]);
    }
    let queries = on_device.encode_queries(&TEXTS[2..4]).unwrap();
    for (got, want) in queries.iter().zip(plain.encode_queries(&TEXTS[2..4]).unwrap()) {
        same(got, &want, "query");
    }
    assert!(on_device.encode_passages(&[]).unwrap().is_empty());
}

#[test]
fn sentences_have_the_processors_vectors() {
    on_device(|device, dir| {
        for pooling in [Pooling::Mean, Pooling::Cls] {
            let config = EncoderConfig { pooling, ..EncoderConfig::for_model(dir).unwrap() };
            let load = || SentenceEncoder::load(dir, config.clone(), 1).unwrap();
            let same = |got: &DenseVector, want: &DenseVector, what: &str| {
                check_near(got.as_slice(), want.as_slice(), what);
            };
            check(dir, device, load, same);
        }
    });
}

fn tokens(dir: &Path, configure: impl Fn(&mut TokenEncoderConfig)) -> TokenEncoder {
    let mut config = TokenEncoderConfig::for_model(dir).unwrap();
    configure(&mut config);
    TokenEncoder::load(dir, config, 1).unwrap()
}

#[test]
fn tokens_have_the_processors_vectors() {
    on_device(|device, dir| {
        let same = |got: &TokenMatrix, want: &TokenMatrix, what: &str| {
            assert_eq!((got.n_tokens(), got.dim()), (want.n_tokens(), want.dim()), "{what}");
            got.rows().zip(want.rows()).for_each(|(got, want)| check_near(got, want, what));
        };
        // Projected, with punctuation left out, markers and filling; and hidden states without special tokens.
        let projected = |config: &mut TokenEncoderConfig| {
            config.skips_punctuation = true;
            (config.query_marker, config.query_filler) = (Some(7), Some(1));
        };
        check(dir, device, || tokens(dir, projected), same);
        let config = TokenEncoderConfig::for_sentence_model(dir).unwrap();
        check(dir, device, || TokenEncoder::load(dir, config.clone(), 1).unwrap(), same);
    });
}

#[test]
fn a_projection_in_a_folder_of_its_own_is_found() {
    on_device(|device, dir| {
        let want = tokens(dir, |_| ()).on_device(dir, device).unwrap().encode_passages(&TEXTS).unwrap();
        let apart = tempfile::tempdir().unwrap();
        for file in ["config.json", "tokenizer.json"] {
            std::fs::copy(dir.join(file), apart.path().join(file)).unwrap();
        }
        let path = dir.join("model.safetensors");
        let mut tensors = candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap();
        let map = tensors.remove("linear.weight").unwrap();
        candle_core::safetensors::save(&tensors, apart.path().join("model.safetensors")).unwrap();
        std::fs::create_dir(apart.path().join("1_Dense")).unwrap();
        let map = std::collections::HashMap::from([("linear.weight", map)]);
        candle_core::safetensors::save(&map, apart.path().join("1_Dense/model.safetensors")).unwrap();
        let encoder = tokens(apart.path(), |_| ()).on_device(apart.path(), device).unwrap();
        assert_eq!(encoder.encode_passages(&TEXTS).unwrap(), want);
    });
}

fn dense(vector: &SparseVector) -> Vec<f32> {
    let mut dense = vec![0.0; 60];
    vector.terms().iter().zip(vector.weights()).for_each(|(&term, &weight)| dense[term as usize] = weight);
    dense
}

#[test]
fn words_have_the_processors_weights() {
    on_device(|device, dir| {
        let same = |got: &SparseVector, want: &SparseVector, what: &str| check_near(&dense(got), &dense(want), what);
        for activation in [SparseActivation::Log1p, SparseActivation::Log1pTwice] {
            let config = SparseEncoderConfig { activation, ..SparseEncoderConfig::for_model(dir).unwrap() };
            check(dir, device, || SparseEncoder::load(dir, config.clone(), 1).unwrap(), same);
        }
        let config = SparseEncoderConfig { passage_terms: Some(4), ..SparseEncoderConfig::for_model(dir).unwrap() };
        let encoder = SparseEncoder::load(dir, config, 1).unwrap().on_device(dir, device).unwrap();
        assert_eq!(encoder.encode_passages(&TEXTS[2..3]).unwrap()[0].terms().len(), 4);
        assert!(encoder.encode_queries(&TEXTS[2..3]).unwrap()[0].terms().len() > 4);
    });
}

#[test]
fn what_a_device_does_not_serve_is_refused_before_there_is_a_text() {
    on_device(|device, dir| {
        let long_inputs = LongInputs::Extended { positions: ExtendedPositions::Grouped, limit: 2 * POSITIONS };
        let config = EncoderConfig { long_inputs, ..EncoderConfig::for_model(dir).unwrap() };
        let sentences = SentenceEncoder::load(dir, config, 1).unwrap().on_device(dir, device).map(|_| ());
        let config = SparseEncoderConfig { long_inputs, ..SparseEncoderConfig::for_model(dir).unwrap() };
        let words = SparseEncoder::load(dir, config, 1).unwrap().on_device(dir, device).map(|_| ());
        let tokens = tokens(dir, |config| config.long_inputs = long_inputs).on_device(dir, device).map(|_| ());
        for refused in [sentences, words, tokens] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            let message = error.to_string();
            assert!(["`long-inputs`", "`--device cpu`"].iter().all(|named| message.contains(named)), "{message}");
        }
        // Heads of 8 dimensions have no kernels.
        let narrow = tempfile::tempdir().unwrap();
        write_model_of(narrow.path(), 16, 2);
        let config = SparseEncoderConfig::for_model(narrow.path()).unwrap();
        let encoder = SparseEncoder::load(narrow.path(), config, 1).unwrap();
        assert!(matches!(encoder.on_device(narrow.path(), device), Err(Error::Model(_))));
    });
}
