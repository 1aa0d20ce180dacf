//! Language models on NVIDIA devices, by the command, where there is none.
//!
//! What needs the default language model runs when it is in the cache, says so when it is not, and fails then if
//! `RAGLAN_REQUIRE_MODELS` is set.

use std::path::Path;
use std::process::{Command, Output};

fn raglan(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raglan"));
    command.args(args).args(["--offline", "--quiet"]).current_dir(folder).env("NO_COLOR", "1");
    command.env_remove("RAGLAN_INDEX").env("RAGLAN_EMBEDDER", "none").output().unwrap()
}

#[test]
fn a_language_model_does_not_go_on_in_silence_without_a_device() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ask = |args: &[&str]| {
        let ask = ["ask", "--recipe", "ask-bm25", "--max-tokens", "4", "-f", ".", "How long is the warranty?"];
        raglan(path, &[&ask[..], args].concat())
    };
    let refused = |args: &[&str], told: &[&str]| {
        let output = ask(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {error}");
        assert!(told.iter().all(|part| error.contains(part)), "{args:?}: {error}");
    };
    refused(&["--generator-device", "tpu"], &["--generator-device", "nor cpu nor cuda nor auto"]);
    refused(&["--generator-device", ""], &["--generator-device", "nor cpu nor cuda nor auto"]);
    refused(&["--device", ""], &["--device", "neither cpu nor cuda nor auto"]);
    let model = raglan(path, &["models", "path", "smollm2-135m-instruct"]);
    if !model.status.success() {
        let told = String::from_utf8_lossy(&model.stderr);
        assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
        eprintln!("skipped, for want of the model: {told}");
        return;
    }
    std::fs::write(path.join("warranty.txt"), "The warranty lasts twenty-four months from delivery.\n").unwrap();
    if !cfg!(feature = "cuda") {
        refused(&["--device", "cuda"], &["without kernels for NVIDIA devices", "`--features cuda`", "--device"]);
        refused(&["--generator-device", "cuda"], &["without kernels for NVIDIA devices", "--generator-device"]);
        assert!(!path.join(".raglan").exists(), "nothing is indexed before the device is there");
        refused(&["--generator-device", "cuda", "--attention", "quest=64"], &["without kernels for NVIDIA devices"]);
    } else {
        // What is not served is refused whether there is a device or not.
        let not_there = "the setting `generator-device`";
        refused(&["--device", "cuda", "--attention", "quest=64"], &["`attention`", not_there]);
        refused(&["--device", "cuda", "--kv", "focus=0.1"], &["`focus` of `kv`", not_there]);
        let output = ask(&["--generator-device", "cuda"]);
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => eprintln!("there is a device, which answered"),
            code => assert!(code == Some(2) && error.contains("no CUDA device") && error.contains("auto"), "{error}"),
        }
    }
    for there in [&["--device", "cuda", "--generator-device", "cpu"][..], &["--device", "auto"]] {
        let output = ask(there);
        assert!(output.status.success(), "{there:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn an_encoder_does_not_go_on_in_silence_without_a_device() {
    for (encoder, model) in
        [("--embedder", "all-minilm-l6-v2"), ("--sparse", "splade-tiny"), ("--late", "all-minilm-l6-v2")]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::fs::write(path.join("warranty.txt"), "The warranty lasts twenty-four months from delivery.\n").unwrap();
        let found = raglan(path, &["models", "path", model]);
        if !found.status.success() {
            let told = String::from_utf8_lossy(&found.stderr);
            assert!(std::env::var_os("RAGLAN_REQUIRE_MODELS").is_none(), "{told}");
            eprintln!("skipped, for want of the model: {told}");
            continue;
        }
        let refused = |args: &[&str], told: &str| {
            let index = ["index", ".", "--device", "cuda", encoder, model];
            let output = raglan(path, &[&index[..], args].concat());
            let error = String::from_utf8_lossy(&output.stderr);
            let told = [told, "--device"].iter().all(|part| error.contains(part));
            assert!(output.status.code() == Some(2) && told, "{encoder}: {error}");
            assert!(!path.join(".raglan").exists(), "nothing is written before the device is there");
        };
        if !cfg!(feature = "cuda") {
            refused(&[], "without kernels for NVIDIA devices");
            continue;
        }
        refused(&["--long-inputs", "grouped:1024"], "CUDA device");
        let output = raglan(path, &["index", ".", "--device", "cuda", encoder, model]);
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.code() {
            Some(0) => eprintln!("there is a device, which encoded"),
            code => {
                assert!(code == Some(2) && error.contains("no CUDA device"), "{encoder}: {error}");
                assert!(!path.join(".raglan").exists(), "nothing is written before the device is there");
            }
        }
    }
}

#[test]
fn the_doctor_looks_for_the_device_of_the_settings() {
    let folder = tempfile::tempdir().unwrap();
    let gpu = |args: &[&str]| {
        let output = raglan(folder.path(), &[&["doctor", "--json"], args].concat());
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let found = findings.into_iter().find(|finding| finding["what"] == "gpu").unwrap();
        (output.status.code(), found["ok"].as_bool(), found["found"].as_str().unwrap().to_owned())
    };
    let (code, found, _) = gpu(&[]);
    if found == Some(true) {
        return eprintln!("skipped: there is a device");
    }
    assert_eq!((code, found), (Some(0), None));
    for args in [["--device", "cuda"], ["--generator-device", "cuda"]] {
        let (code, found, told) = gpu(&args);
        assert!((code, found) == (Some(1), Some(false)) && told.contains("take `cpu`"), "{told}");
    }
}
