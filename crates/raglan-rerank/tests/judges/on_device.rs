//! Cross-encoders on a device beside the processor's: on a small model of random weights. Devices are the emulation of one,
//! and the machine's first where `RAGLAN_CUDA` is set.

use raglan_model::cuda::CudaDevice;
use raglan_model::{Error as ModelError, Products};
use raglan_rerank::{Budget, CrossEncoder, Error, Judge, Task, Verdict};

use crate::small_model::write_model_of;

const PASSAGES: [&str; 4] = ["the cat sat", "a,b", "", "a rather longer text, of more words"];

#[test]
fn a_cross_encoder_scores_as_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    write_model_of(dir.path(), 64, 2);
    let Some(device) = &CudaDevice::to_test() else { return };
    let plain = CrossEncoder::load(dir.path(), Products::F32, 1, None).unwrap();
    let judge = CrossEncoder::load_on_device(dir.path(), device, Products::F32, 1).unwrap();
    let scores = |judge: &CrossEncoder, passages: &[&str]| {
        let task = Task { question: "what sat", passages, chunks: &[] };
        let judged = judge.judge(&[task], &Budget::default()).unwrap().remove(0);
        let Verdict::Scores(scores) = judged.verdict else { panic!("it scores") };
        scores.into_iter().map(Option::unwrap).collect::<Vec<f32>>()
    };
    let (got, want) = (scores(&judge, &PASSAGES), scores(&plain, &PASSAGES));
    let spread = want.iter().fold(f32::MIN, |a, &b| a.max(b)) - want.iter().fold(f32::MAX, |a, &b| a.min(b));
    assert!(spread > 0.1, "{want:?}");
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= 0.01 * spread, "{got} is not {want}");
    }
    for (i, passage) in PASSAGES.iter().enumerate() {
        assert_eq!(scores(&judge, &[passage]), got[i..=i], "`{passage}` alone");
    }
    assert!(scores(&judge, &[]).is_empty());
}

#[test]
fn what_no_kernel_serves_is_refused_by_name() {
    let Some(device) = &CudaDevice::to_test() else { return };
    let dir = tempfile::tempdir().unwrap();
    write_model_of(dir.path(), 20, 2);
    let refused = CrossEncoder::load_on_device(dir.path(), device, Products::F32, 1).unwrap_err();
    assert!(refused.to_string().contains("heads of 10 numbers"), "{refused}");
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("model.onnx"), []).unwrap();
    let refused = CrossEncoder::load_on_device(dir.path(), device, Products::F32, 1).unwrap_err();
    assert!(matches!(refused, Error::Model(ModelError::Unsupported { .. })), "{refused}");
}
