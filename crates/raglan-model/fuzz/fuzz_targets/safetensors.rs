//! Any bytes as a safetensors file: its header, then every tensor of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raglan_model::SafetensorsFile;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("raglan-fuzz-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes).expect("the temporary folder can be written to");
    if let Ok(file) = SafetensorsFile::open(&path) {
        for (name, tensor) in file.tensors() {
            assert!(tensor.start + tensor.n_bytes <= bytes.len() as u64);
            if let Ok(numbers) = file.tensor_f32(name, &tensor.shape) {
                assert_eq!(numbers.len(), tensor.shape.iter().product::<usize>());
            }
            let _ = file.tensor_bf16(name, &tensor.shape);
        }
    }
});
