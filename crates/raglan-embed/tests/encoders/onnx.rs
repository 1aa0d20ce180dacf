//! Models in ONNX give the vectors that our own kernels give of the same weights.
//!
//! These tests run where the library of onnxruntime is found (`ORT_DYLIB_PATH` names it, `pip install onnxruntime`
//! brings it), say so where it is not, and fail then if `RAGLAN_REQUIRE_ONNX` is set.

use std::path::{Path, PathBuf};

use crate::onnx_model::{Gives, INT32, INT64, write_onnx};
use crate::small_model::{HIDDEN, write_model};
use raglan_core::{DenseVector, Encoder};
use raglan_embed::{EncoderConfig, Error, ExtendedPositions, LongInputs, Pooling, SentenceEncoder};
use raglan_model::Products;
use raglan_model::registry::ModelCache;
use raglan_onnx::find_onnx_runtime;
use serde_json::json;

/// Whether the library is there.
fn has_runtime() -> bool {
    match find_onnx_runtime(None) {
        Some(path) if path.is_file() => true,
        found => {
            assert!(std::env::var_os("RAGLAN_REQUIRE_ONNX").is_none(), "no library of onnxruntime: {found:?}");
            eprintln!("skipped, for want of the library of onnxruntime, which ORT_DYLIB_PATH names");
            false
        }
    }
}

/// A folder with a model in ONNX alone, at `place`, from one of safetensors.
fn onnx_folder(from: &Path, place: &str, gives: Gives, kind: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    }
    let path = folder.path().join(place);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_onnx(from, &path, gives, kind);
    folder
}

fn load(folder: &Path, configure: impl FnOnce(&mut EncoderConfig)) -> Result<SentenceEncoder, Error> {
    let mut config = EncoderConfig::for_model(folder)?;
    configure(&mut config);
    SentenceEncoder::load(folder, config, 2)
}

#[track_caller]
fn check_same(got: &[DenseVector], want: &[DenseVector]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let cosine = got.cosine(want);
        assert!(cosine >= 0.999_99, "cosine {cosine}");
    }
}

const TEXTS: [&str; 6] = ["abc", "", "a", "hello, world", "zyxwvutsrqponmlkjihgfedcba", "b"];

#[test]
fn every_form_of_export_gives_the_vectors_of_our_kernels() {
    if !has_runtime() {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    write_model(own.path());
    for (place, gives, kind) in [
        ("model.onnx", Gives::Tokens, INT64),
        ("onnx/model.onnx", Gives::Tokens, INT32),
        ("onnx/model.onnx", Gives::Sentence, INT64),
    ] {
        let folder = onnx_folder(own.path(), place, gives, kind);
        let want = load(own.path(), |_| ()).unwrap().encode_passages(&TEXTS).unwrap();
        let encoder = load(folder.path(), |_| ()).unwrap();
        check_same(&encoder.encode_passages(&TEXTS).unwrap(), &want);
        check_same(&encoder.encode_queries(&TEXTS).unwrap(), &want);
        for (text, want) in TEXTS.iter().zip(&want) {
            check_same(&encoder.encode_passages(&[text]).unwrap(), std::slice::from_ref(want));
        }
        assert!(encoder.encode_passages(&[]).unwrap().is_empty());
    }
}

#[test]
fn parameters_of_encoders_hold_for_onnx_too() {
    if !has_runtime() {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    write_model(own.path());
    let folder = onnx_folder(own.path(), "model.onnx", Gives::Tokens, INT64);
    let both = |configure: &dyn Fn(&mut EncoderConfig)| {
        (load(folder.path(), configure).unwrap(), load(own.path(), configure).unwrap())
    };
    let configures: [&dyn Fn(&mut EncoderConfig); 4] = [
        &|config| config.pooling = Pooling::Cls,
        &|config| config.truncate_dim = Some(HIDDEN / 2),
        &|config| (config.max_tokens, config.long_inputs) = (8, LongInputs::ParallelWindows),
        &|config| (config.query_prefix, config.passage_prefix) = ("q, ".into(), "p, ".into()),
    ];
    for configure in configures {
        let (onnx, own) = both(configure);
        check_same(&onnx.encode_passages(&TEXTS).unwrap(), &own.encode_passages(&TEXTS).unwrap());
        check_same(&onnx.encode_queries(&TEXTS).unwrap(), &own.encode_queries(&TEXTS).unwrap());
    }
    let (onnx, own) = both(&|config| config.max_tokens = 8);
    let chunks = [0..3, 3..9, 9..12];
    check_same(
        &onnx.encode_chunks("abc, def, gh", &chunks).unwrap(),
        &own.encode_chunks("abc, def, gh", &chunks).unwrap(),
    );
}

#[test]
fn what_a_model_in_onnx_cannot_do_is_told() {
    if !has_runtime() {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    write_model(own.path());
    let tokens = onnx_folder(own.path(), "model.onnx", Gives::Tokens, INT64);
    let sentence = onnx_folder(own.path(), "model.onnx", Gives::Sentence, INT64);
    let unsupported = |folder: &Path, configure: &dyn Fn(&mut EncoderConfig)| {
        let error = load(folder, configure).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { path, .. } if path.ends_with("model.onnx")), "{error}");
    };
    unsupported(sentence.path(), &|config| config.pooling = Pooling::Cls);
    unsupported(tokens.path(), &|config| config.products = Products::Int8);
    let extended = LongInputs::Extended { positions: ExtendedPositions::Grouped, limit: 64 };
    unsupported(tokens.path(), &|config| config.long_inputs = extended);
    let classes = onnx_folder(own.path(), "model.onnx", Gives::Classes, INT64);
    let error = load(classes.path(), |_| ()).unwrap_err();
    assert!(matches!(error, Error::Onnx(raglan_onnx::Error::Unsupported { .. })), "{error}");
    let encoder = load(sentence.path(), |_| ()).unwrap();
    assert!(matches!(encoder.encode_chunks("abc", std::slice::from_ref(&(0..3))), Err(Error::NoTokenVectors)));
}

#[test]
fn files_that_are_not_sound_are_errors() {
    if !has_runtime() {
        return;
    }
    let own = tempfile::tempdir().unwrap();
    write_model(own.path());
    let folder = onnx_folder(own.path(), "model.onnx", Gives::Tokens, INT64);
    let path = folder.path().join("model.onnx");
    let whole = std::fs::read(&path).unwrap();
    for damaged in [&whole[..0], &whole[..whole.len() / 2], b"no model".as_slice()] {
        std::fs::write(&path, damaged).unwrap();
        let error = load(folder.path(), |_| ()).unwrap_err();
        assert!(error.to_string().contains("model.onnx"), "{error}");
    }
    std::fs::write(&path, &whole).unwrap();
    // Another width than the model has shows when it is run.
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("config.json")).unwrap()).unwrap();
    config["hidden_size"] = json!(HIDDEN * 2);
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let error = load(folder.path(), |_| ()).unwrap().encode_passages(&["abc"]).unwrap_err();
    assert!(error.to_string().contains("of shape"), "{error}");
}

#[test]
fn families_that_only_onnx_knows_are_read_from_it() {
    let own = tempfile::tempdir().unwrap();
    write_model(own.path());
    let folder = onnx_folder(own.path(), "onnx/model.onnx", Gives::Tokens, INT64);
    let config = json!({"model_type": "mpnet", "hidden_size": HIDDEN, "max_position_embeddings": 66});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(own.path().join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let config = EncoderConfig::for_model(folder.path()).unwrap();
    assert_eq!((config.dim, config.max_tokens), (HIDDEN, 64)); // Two positions are before those of text.
    if has_runtime() {
        let encoder = SentenceEncoder::load(folder.path(), config, 1).unwrap();
        let want = load(own.path(), |_| ()).unwrap().encode_passages(&TEXTS).unwrap();
        check_same(&encoder.encode_passages(&TEXTS).unwrap(), &want);
    }
}

#[test]
fn minilm_in_onnx_has_the_vectors_of_the_default_encoder() {
    if !has_runtime() {
        return;
    }
    let folder: PathBuf = match ModelCache::new(None, true).unwrap().path("all-minilm-l6-v2") {
        Ok(folder) => folder,
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => return eprintln!("skipped, for want of the model: {e}"),
    };
    let onnx = onnx_folder(&folder, "onnx/model.onnx", Gives::Tokens, INT64);
    let long = "The second read of a file is faster, for the cache has kept it. ".repeat(12);
    let texts = ["A cache keeps what is used often.", "Katzen schlafen den ganzen Tag.", "", "x", &long];
    let limit = |config: &mut EncoderConfig| config.max_tokens = 256;
    let got = load(onnx.path(), limit).unwrap().encode_passages(&texts).unwrap();
    check_same(&got, &load(&folder, limit).unwrap().encode_passages(&texts).unwrap());
}
