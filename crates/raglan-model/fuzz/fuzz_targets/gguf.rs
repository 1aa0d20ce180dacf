//! Any bytes as a GGUF file: its header, then every tensor of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raglan_model::GgufFile;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("raglan-fuzz-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written to");
    if let Ok(file) = GgufFile::open(&path) {
        for (name, tensor) in file.tensors() {
            assert!(tensor.start + tensor.n_bytes as u64 <= bytes.len() as u64);
            if let Ok(numbers) = file.dequantize(name, &tensor.shape) {
                assert_eq!(numbers.len(), tensor.shape.iter().product::<usize>());
            }
        }
    }
});
