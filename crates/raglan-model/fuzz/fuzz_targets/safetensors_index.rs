//! Any bytes as an index of shards, of which one is there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raglan_model::SafetensorsFile;

const SHARD: &str = r#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;

fuzz_target!(|bytes: &[u8]| {
    let folder = std::env::temp_dir().join(format!("raglan-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder can be written to");
    let shard = [&(SHARD.len() as u64).to_le_bytes(), SHARD.as_bytes(), &1_f32.to_le_bytes()].concat();
    std::fs::write(folder.join("a.safetensors"), shard).expect("the temporary folder can be written to");
    std::fs::write(folder.join("model.safetensors.index.json"), bytes).expect("the temporary folder can be written to");
    if let Ok(file) = SafetensorsFile::open(&folder) {
        assert!(file.tensors().len() <= 1);
        for (name, tensor) in file.tensors() {
            assert_eq!(file.tensor_f32(name, &tensor.shape).expect("the shard is sound"), [1.0]);
        }
    }
});
