//! Small encoders of every family, their heads, and a published SPLADE, on a device beside the processor's.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use raglan_model::cuda::{CudaDevice, Length, Pooled};
use raglan_model::registry::ModelCache;
use raglan_model::{
    DeviceEncoder, DeviceMaskedLanguageHead, DeviceTokenProjection, EncodedPair, EncoderFamily, EncoderModel,
    EncoderModelConfig, Error, MaskedLanguageHead, Products, SafetensorsFile, TermWeights, TokenProjection, Tokenizer,
};

use crate::encoders::{HIDDEN, Small, VOCAB, every_family, small_bert, texts};

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn encoder(device: &CudaDevice, small: &Small) -> DeviceEncoder {
    DeviceEncoder::from_safetensors(device, &small.file(), small.config()).unwrap()
}

/// The texts, one without tokens among them.
fn with_an_empty_one() -> Vec<Vec<u32>> {
    let mut texts = texts();
    texts.insert(2, Vec::new());
    texts
}

#[test]
fn every_family_gives_the_vectors_that_the_processor_gives() {
    if let Some(device) = &CudaDevice::to_test() {
        for small in every_family() {
            let family = small.config().family;
            let encoder = encoder(device, &small);
            let texts = with_an_empty_one();
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            let (got, want) = (encoder.hidden_states(&texts).unwrap(), small.model().hidden_states(&texts).unwrap());
            assert_eq!((got.dim(), got.ends()), (want.dim(), want.ends()));
            let cosines =
                got.rows().chunks(HIDDEN).zip(want.rows().chunks(HIDDEN)).map(|(got, want)| cosine(got, want));
            let least = cosines.fold(1.0, f32::min);
            println!("{family:?}: the least cosine of a token is {least}");
            assert!(least >= 0.9999, "{family:?}: {least}");
            let means = encoder.pooled_vectors([&texts], Pooled::Mean, Length::Unit).unwrap();
            for (mean, tokens) in means.chunks(HIDDEN).zip(want.sequences()) {
                if tokens.is_empty() {
                    assert_eq!(mean, [0.0; HIDDEN]);
                    continue;
                }
                let want: Vec<f32> = (0..HIDDEN).map(|d| tokens.iter().skip(d).step_by(HIDDEN).sum()).collect();
                assert!(cosine(mean, &want) >= 0.9999, "{family:?}");
            }
            let in_turn = encoder
                .pooled_vectors([&texts[..1], &[], &texts[1..3], &texts[3..]], Pooled::Mean, Length::Unit)
                .unwrap();
            assert_eq!(in_turn, means, "{family:?}: a text does not depend on its batch");
            assert!(encoder.pooled_vectors([&texts[..0]], Pooled::Mean, Length::Unit).unwrap().is_empty());
            for pooled in [Pooled::First, Pooled::Last] {
                let vectors = encoder.pooled_vectors([&texts], pooled, Length::Kept).unwrap();
                for (vector, tokens) in vectors.chunks(HIDDEN).zip(want.sequences()) {
                    let mut tokens = tokens.chunks(HIDDEN);
                    let want = if pooled == Pooled::First { tokens.next() } else { tokens.next_back() };
                    match want {
                        Some(want) => assert!(cosine(vector, want) >= 0.9999, "{family:?}, {pooled:?}"),
                        None => assert_eq!(vector, [0.0; HIDDEN]),
                    }
                }
            }
            let alone = encoder.hidden_states(&texts[3..4]).unwrap();
            assert_eq!(
                alone.rows(),
                got.sequences().nth(3).unwrap(),
                "{family:?}: a text does not depend on the others"
            );
            assert!(encoder.hidden_states(&[]).unwrap().rows().is_empty());
            let limit = encoder.config().max_tokens();
            let long = vec![5; limit + 1];
            assert!(matches!(encoder.hidden_states(&[&long]), Err(Error::ContextOverflow { .. })));
            assert!(matches!(encoder.hidden_states(&[&[VOCAB as u32]]), Err(Error::UnknownToken { .. })));
        }
    }
}

#[track_caller]
fn check_weights(got: &TermWeights, want: &TermWeights, vocab: usize, what: &str) {
    assert!(got.windows(2).all(|pair| pair[0].0 < pair[1].0) && got.iter().all(|(_, weight)| *weight > 0.0), "{what}");
    let [got, want] = [got, want].map(|weights| {
        let mut dense = vec![0.0; vocab];
        weights.iter().for_each(|&(term, weight)| dense[term as usize] = weight);
        dense
    });
    let cosine = cosine(&got, &want);
    println!("{what}: cosine {cosine}");
    assert!(cosine >= 0.9999, "{what}: {cosine}");
    let most = want.iter().copied().fold(0.0, f32::max);
    for (term, (got, want)) in got.iter().zip(&want).enumerate() {
        assert!((got - want).abs() <= 0.02 * most, "{what}, word {term}: {got} for {want}");
    }
}

#[test]
fn words_weigh_what_they_weigh_on_the_processor() {
    if let Some(device) = &CudaDevice::to_test() {
        for small in every_family() {
            let family = small.config().family;
            let head = DeviceMaskedLanguageHead::from_safetensors(device, &small.file(), &small.config()).unwrap();
            let encoder = encoder(device, &small);
            let texts = [&[5, 9, 11, 7, 2][..], &[], &[2499]];
            let got = head.term_weights(&encoder.hidden_states_on_device(&texts).unwrap()).unwrap();
            let want = small.masked_language_head().term_weights(&small.model().hidden_states(&texts).unwrap());
            for (text, (got, want)) in got.iter().zip(&want.unwrap()).enumerate() {
                match texts[text] {
                    [] => assert!(got.is_empty() && want.is_empty()),
                    _ => check_weights(got, want, VOCAB, &format!("{family:?}, text {text}")),
                }
            }
            assert!(head.term_weights(&encoder.hidden_states_on_device(&[]).unwrap()).unwrap().is_empty());
        }
    }
}

#[test]
fn a_published_splade_weighs_words_as_on_the_processor() {
    let folder = match ModelCache::new(None, true).unwrap().path("splade-tiny") {
        Ok(folder) => folder,
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => return eprintln!("skipped, for want of the model: {e}"),
    };
    let file = SafetensorsFile::open(&folder).unwrap();
    let config = EncoderModelConfig::from_file(folder.join("config.json")).unwrap();
    let ids = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap().encode("The capital of France.", true);
    let ids = ids.unwrap().ids;
    let head = MaskedLanguageHead::from_safetensors(&file, &config, Products::F32).unwrap();
    let model = EncoderModel::from_safetensors(&file, config.clone(), Products::F32).unwrap();
    let want = head.term_weights(&model.hidden_states(&[&ids]).unwrap()).unwrap();
    if let Some(device) = &CudaDevice::to_test() {
        let head = DeviceMaskedLanguageHead::from_safetensors(device, &file, &config).unwrap();
        let encoder = DeviceEncoder::from_safetensors(device, &file, config.clone()).unwrap();
        let got = head.term_weights(&encoder.hidden_states_on_device(&[&ids]).unwrap()).unwrap();
        check_weights(&got[0], &want[0], config.vocab_size, "splade-tiny");
    }
}

#[test]
fn tokens_are_projected_as_on_the_processor() {
    if let Some(device) = &CudaDevice::to_test() {
        let small = small_bert();
        let (file, config) = (small.file(), small.config());
        let head = DeviceTokenProjection::from_safetensors(device, &file, &config).unwrap();
        let plain = TokenProjection::from_safetensors(&file, &config, Products::F32).unwrap();
        let texts = with_an_empty_one();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let got = head.project(&encoder(device, &small).hidden_states_on_device(&texts).unwrap()).unwrap();
        let want = plain.project(&small.model().hidden_states(&texts).unwrap()).unwrap();
        assert_eq!((got.dim(), got.ends(), head.dim()), (want.dim(), want.ends(), plain.dim()));
        for (got, want) in got.rows().chunks(got.dim()).zip(want.rows().chunks(got.dim())) {
            assert!((got.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() <= 1e-5);
            assert!(cosine(got, want) >= 0.9999, "{}", cosine(got, want));
        }
    }
}

#[test]
fn threads_that_share_a_device_do_not_disturb_one_another() {
    if let Some(device) = &CudaDevice::to_test() {
        let small = small_bert();
        let (encoder, texts) = (&encoder(device, &small), &texts());
        let read = |i: usize| encoder.hidden_states(&[&texts[i % texts.len()]]).unwrap();
        let want: Vec<_> = (0..texts.len()).map(read).collect();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let want = &want;
                scope.spawn(move || {
                    for i in thread..thread + 2 * texts.len() {
                        assert_eq!(read(i), want[i % texts.len()], "text {i}");
                    }
                });
            }
        });
    }
}

#[test]
fn pairs_have_the_logits_that_the_processor_gives() {
    if let Some(device) = &CudaDevice::to_test() {
        for small in every_family() {
            let family = small.config().family;
            let pairs: Vec<EncodedPair> = texts()
                .into_iter()
                .map(|ids| EncodedPair { token_types: (0..ids.len()).map(|i| u32::from(i > 1)).collect(), ids })
                .collect();
            let ids: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.ids).collect();
            let types: Vec<&[u32]> = pairs.iter().map(|pair| &*pair.token_types).collect();
            let head = small.classification_head();
            let want = head.logits(&small.model().hidden_states_of_pairs(&ids, &types).unwrap()).unwrap();
            let encoder = encoder(device, &small);
            let pooled = if head.reads_mean() { Pooled::Mean } else { Pooled::First };
            let vectors = encoder.pooled_vectors_of_pairs([&pairs], pooled, Length::Kept).unwrap();
            let got = head.logits_of_vectors(&vectors).unwrap();
            assert_eq!(got.len(), want.len());
            for (got, want) in got.chunks(head.n_classes()).zip(want.chunks(head.n_classes())) {
                assert!(cosine(got, want) >= 0.9999, "{family:?}: {got:?} are not {want:?}");
            }
            if family == EncoderFamily::Bert {
                let as_one = encoder.pooled_vectors([&ids], pooled, Length::Kept).unwrap();
                assert_ne!(vectors, as_one, "types are told apart");
            }
            let none = [EncodedPair { ids: vec![1, 2], token_types: vec![0] }];
            let refused = encoder.pooled_vectors_of_pairs([&none], pooled, Length::Kept);
            assert!(matches!(refused, Err(Error::Rows { .. })));
            assert!(matches!(head.logits_of_vectors(&[0.0; HIDDEN + 1]), Err(Error::Rows { .. })));
        }
    }
}

/// Multiplies the tensors whose names end so.
fn scale(small: &Small, ending: &str, by: f64) {
    let mut tensors = candle_core::safetensors::load(small.path(), &Device::Cpu).unwrap();
    let scaled = tensors.iter_mut().filter(|(name, _)| name.ends_with(ending));
    assert_ne!(scaled.map(|(_, tensor)| *tensor = (&*tensor * by).unwrap()).count(), 0, "{ending}");
    candle_core::safetensors::save(&tensors, small.path()).unwrap();
}

#[test]
fn numbers_beyond_half_precision_are_an_error_but_in_rows_that_layers_add_to() {
    if let Some(device) = &CudaDevice::to_test() {
        let texts: [&[u32]; 2] = [&[1, 2, 3], &[4]];
        let small = small_bert();
        scale(&small, "0.intermediate.dense.weight", 1e6);
        let encoder = encoder(device, &small);
        let beyond = |error: Option<Error>| assert!(matches!(error, Some(Error::BeyondHalves)), "{error:?}");
        beyond(encoder.hidden_states(&texts).err());
        beyond(encoder.pooled_vectors([texts], Pooled::Mean, Length::Unit).err());
        let hidden = encoder.hidden_states_on_device(&texts).unwrap();
        let (file, config) = (small.file(), small.config());
        beyond(DeviceTokenProjection::from_safetensors(device, &file, &config).unwrap().project(&hidden).err());
        beyond(DeviceMaskedLanguageHead::from_safetensors(device, &file, &config).unwrap().term_weights(&hidden).err());

        let small =
            every_family().into_iter().find(|small| small.config().family == EncoderFamily::ModernBert).unwrap();
        scale(&small, "0.mlp.Wo.weight", 2e5);
        let (got, want) = (self::encoder(device, &small).hidden_states(&texts), small.model().hidden_states(&texts));
        let (got, want) = (got.unwrap(), want.unwrap());
        for (got, want) in got.rows().chunks(HIDDEN).zip(want.rows().chunks(HIDDEN)) {
            assert!(cosine(got, want) >= 0.9999, "{}", cosine(got, want));
        }
    }
}

#[test]
fn heads_of_another_model_or_without_weights_or_kernels_are_refused() {
    if let Some(device) = &CudaDevice::to_test() {
        let small = small_bert();
        let (file, config) = (small.file(), small.config());
        let of_half = EncoderModelConfig { hidden_size: HIDDEN / 2, ..config.clone() };
        assert!(matches!(
            DeviceTokenProjection::from_safetensors(device, &file, &of_half),
            Err(Error::Malformed { .. })
        ));
        assert!(matches!(
            DeviceMaskedLanguageHead::from_safetensors(device, &file, &of_half),
            Err(Error::Malformed { .. })
        ));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let map = Tensor::ones((6, HIDDEN / 2), DType::F32, &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([("linear.weight", map)]), &path).unwrap();
        let other =
            DeviceTokenProjection::from_safetensors(device, &SafetensorsFile::open(&path).unwrap(), &of_half).unwrap();
        let hidden = encoder(device, &small).hidden_states_on_device(&[&[1, 2]]).unwrap();
        assert!(matches!(other.project(&hidden), Err(Error::Rows { .. })));
        // Heads of 16 dimensions.
        let narrow = EncoderModelConfig { num_attention_heads: 4, ..config };
        assert!(matches!(DeviceEncoder::from_safetensors(device, &file, narrow), Err(Error::Unsupported { .. })));
    }
}
