//! What is told where the library of onnxruntime is not there, or is not one: in a process that has loaded none.

use std::path::Path;
use std::process::Command;

use crate::onnx_model::{Gives, INT64, write_onnx};
use crate::small_model::write_model;
use raglan_embed::{EncoderConfig, Error, SentenceEncoder};

/// Set in the process that loads.
const ALONE: &str = "RAGLAN_TEST_ONNX_ALONE";

#[test]
fn a_library_that_does_not_serve_is_an_error_with_what_helps() {
    if std::env::var_os(ALONE).is_none() {
        let name = "onnx_runtime::a_library_that_does_not_serve_is_an_error_with_what_helps";
        let mut command = Command::new(std::env::current_exe().unwrap());
        let output = command.args(["--exact", name, "--nocapture"]).env(ALONE, "1").output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
        assert!(told.contains("1 passed"), "{told}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path());
    for gives in [Gives::Tokens, Gives::Sentence] {
        write_onnx(folder.path(), &folder.path().join("model.onnx"), gives, INT64);
    }
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "no library").unwrap();
    let absent = folder.path().join("absent.so");
    let mut libraries = vec![text.as_path(), absent.as_path(), folder.path()];
    // A library of something else, where it lies on Debian.
    libraries.extend([Path::new("/lib/x86_64-linux-gnu/libm.so.6")].into_iter().filter(|path| path.is_file()));
    for library in libraries {
        let config = EncoderConfig {
            onnx_runtime: Some(library.to_owned()),
            ..EncoderConfig::for_model(folder.path()).unwrap()
        };
        let error = SentenceEncoder::load(folder.path(), config, 1).unwrap_err();
        assert!(matches!(error, Error::Onnx(raglan_onnx::Error::NoRuntime { .. })), "{error}");
        let told = error.to_string();
        for part in [&*library.display().to_string(), "pip install onnxruntime", "ORT_DYLIB_PATH"] {
            assert!(told.contains(part), "{told}");
        }
    }
}
