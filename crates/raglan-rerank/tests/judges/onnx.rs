//! A cross-encoder in ONNX, on onnxruntime.
//!
//! Tests that need the library run where it is there, say so where it is not, and fail then if `RAGLAN_REQUIRE_ONNX` is
//! set.

use std::path::Path;

use candle_core::{Device, Tensor, safetensors};
use raglan_model::Products;
use raglan_onnx::find_onnx_runtime;
use raglan_rerank::{Budget, CrossEncoder, Error, Judge, Task, Verdict};

use crate::onnx_model::{self, Gives, INT64};
use crate::small_model::write_model;

/// A small model with a head of one class, or of an even number,, as safetensors.
fn write_cross_encoder(dir: &Path, n_classes: usize) {
    write_model(dir);
    let path = dir.join("model.safetensors");
    let mut tensors = safetensors::load(&path, &Device::Cpu).unwrap();
    let head = tensors["classifier.weight"].narrow(0, 0, n_classes.min(2)).unwrap();
    let bias = tensors["classifier.bias"].narrow(0, 0, n_classes.min(2)).unwrap();
    let repeated = |head: &Tensor| Tensor::cat(&vec![head; n_classes.div_ceil(2)], 0).unwrap();
    tensors.insert("classifier.weight".to_owned(), repeated(&head));
    tensors.insert("classifier.bias".to_owned(), repeated(&bias));
    safetensors::save(&tensors, &path).unwrap();
}

/// Writes the model of a folder in ONNX too.
fn write_onnx(dir: &Path, gives: Gives) {
    onnx_model::write_onnx(dir, &dir.join("model.onnx"), gives, INT64);
}

fn has_runtime() -> bool {
    let found = find_onnx_runtime(None).is_some();
    assert!(found || std::env::var_os("RAGLAN_REQUIRE_ONNX").is_none(), "there is no library of onnxruntime");
    if !found {
        eprintln!("skipped, for want of onnxruntime");
    }
    found
}

fn scores(dir: &Path) -> Result<Vec<Option<f32>>, Error> {
    let passages = ["b c d", "a", "", "the, cat and, the dog", "b c d"];
    let task = Task { question: "what is a cat", passages: &passages, chunks: &[] };
    let judge = CrossEncoder::load(dir, Products::F32, 2, None)?;
    match judge.judge(&[task], &Budget::default())?.remove(0).verdict {
        Verdict::Scores(scores) => Ok(scores),
        Verdict::Order(_) => panic!("a cross-encoder scores"),
    }
}

#[test]
fn onnxruntime_scores_as_the_kernels_do() {
    if !has_runtime() {
        return;
    }
    for n_classes in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        write_cross_encoder(folder.path(), n_classes);
        let own = scores(folder.path()).unwrap();
        write_onnx(folder.path(), Gives::Classes);
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        let onnx = scores(folder.path()).unwrap();
        assert_ne!(own[0], own[1]);
        for (own, onnx) in own.iter().zip(&onnx) {
            let (own, onnx) = (own.unwrap(), onnx.unwrap());
            assert!((own - onnx).abs() <= 1e-4, "{own} is not {onnx}");
        }
    }
}

#[test]
fn a_model_that_gives_no_single_score_is_refused() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_cross_encoder(folder.path(), 4);
    let weights = folder.path().join("model.safetensors");
    let aside = folder.path().join("aside.safetensors");
    write_onnx(folder.path(), Gives::Classes);
    std::fs::rename(&weights, &aside).unwrap();
    assert!(matches!(scores(folder.path()), Err(Error::Classes { n_classes: 4, .. })));
    for gives in [Gives::Tokens, Gives::Sentence] {
        std::fs::rename(&aside, &weights).unwrap();
        write_onnx(folder.path(), gives);
        std::fs::rename(&weights, &aside).unwrap();
        assert!(matches!(scores(folder.path()), Err(Error::Onnx(raglan_onnx::Error::Unsupported { .. }))));
    }
}
