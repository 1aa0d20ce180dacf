//! A small model with random weights whose tokens are bytes.

use std::path::Path;

/// Appends to a GGUF file in the making.
struct Gguf(Vec<u8>);

impl Gguf {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn entry(&mut self, key: &str, tag: u32, value: &[u8]) {
        self.text(key).0.extend(tag.to_le_bytes());
        self.0.extend(value);
    }

    fn text_entry(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &[]);
        self.text(value);
    }

    fn list_entry(&mut self, key: &str, tag: u32, len: usize) {
        self.entry(key, 9, &tag.to_le_bytes());
        self.0.extend((len as u64).to_le_bytes());
    }
}

/// The vocabulary of all bytes, as GPT-2 spells them, and two control tokens.
fn vocabulary() -> Vec<String> {
    let mut odd = 256..;
    let spelled = (0..=255_u32).map(|byte| {
        let plain = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        char::from_u32(if plain { byte } else { odd.next().unwrap() }).unwrap().to_string()
    });
    spelled.chain(["<|im_start|>".to_owned(), "<|im_end|>".to_owned()]).collect()
}

/// Writes a model of one layer with seeded random weights.
#[allow(dead_code, reason = "not every test wants just one layer")]
pub(crate) fn write(path: &Path) {
    write_layers(path, 1);
}

/// Writes the model of [`write`] with a last norm so great that its scores are not numbers.
#[allow(dead_code, reason = "not every test has damaged models")]
pub(crate) fn write_overflowing(path: &Path) {
    write(path);
    let mut bytes = std::fs::read(path).unwrap();
    let end = bytes.len() - 4 * (2 * 32 + 7 * 32 * 32); // Before the layer: two norms and seven matrices.
    for weight in bytes[end - 4 * 32..end].chunks_exact_mut(4) {
        weight.copy_from_slice(&f32::MAX.to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

/// Writes a model of some layers with seeded random weights.
#[allow(dead_code, reason = "not every test has layers or heads of its own")]
pub(crate) fn write_layers(path: &Path, n_layers: u32) {
    write_heads(path, n_layers, 2);
}

/// Writes a model of some layers, whose 32 numbers are so many heads, with seeded random weights.
pub(crate) fn write_heads(path: &Path, n_layers: u32, n_heads: u32) {
    const HIDDEN: u64 = 32;
    let vocabulary = vocabulary();
    let of_layer: [(&str, &[u64]); 9] = [
        ("attn_norm.weight", &[HIDDEN]),
        ("ffn_norm.weight", &[HIDDEN]),
        ("attn_q.weight", &[HIDDEN, HIDDEN]),
        ("attn_k.weight", &[HIDDEN, HIDDEN]),
        ("attn_v.weight", &[HIDDEN, HIDDEN]),
        ("attn_output.weight", &[HIDDEN, HIDDEN]),
        ("ffn_gate.weight", &[HIDDEN, HIDDEN]),
        ("ffn_up.weight", &[HIDDEN, HIDDEN]),
        ("ffn_down.weight", &[HIDDEN, HIDDEN]),
    ];
    let mut tensors: Vec<(String, &[u64])> =
        vec![("token_embd.weight".to_owned(), &[HIDDEN, 258]), ("output_norm.weight".to_owned(), &[HIDDEN])];
    for layer in 0..n_layers {
        tensors.extend(of_layer.map(|(name, dims)| (format!("blk.{layer}.{name}"), dims)));
    }
    let mut file = Gguf(b"GGUF".to_vec());
    file.0.extend(3_u32.to_le_bytes());
    file.0.extend((tensors.len() as u64).to_le_bytes());
    file.0.extend(14_u64.to_le_bytes());
    file.text_entry("general.architecture", "llama");
    for (key, value) in [
        ("block_count", n_layers),
        ("context_length", 4096),
        ("embedding_length", HIDDEN as u32),
        ("feed_forward_length", HIDDEN as u32),
        ("attention.head_count", n_heads),
    ] {
        file.entry(&format!("llama.{key}"), 4, &value.to_le_bytes());
    }
    file.entry("llama.attention.layer_norm_rms_epsilon", 6, &1e-5_f32.to_le_bytes());
    file.text_entry("tokenizer.ggml.model", "gpt2");
    file.text_entry("tokenizer.ggml.pre", "gpt-2");
    file.list_entry("tokenizer.ggml.tokens", 8, vocabulary.len());
    for token in &vocabulary {
        file.text(token);
    }
    file.list_entry("tokenizer.ggml.token_type", 5, vocabulary.len());
    (0..vocabulary.len()).for_each(|id| file.0.extend(if id < 256 { 1_i32 } else { 3 }.to_le_bytes()));
    file.list_entry("tokenizer.ggml.merges", 8, 0);
    file.entry("tokenizer.ggml.eos_token_id", 4, &257_u32.to_le_bytes());
    file.text_entry("general.name", "bytes");
    let mut offset = 0;
    for (name, dims) in tensors {
        file.text(&name).0.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| file.0.extend(dim.to_le_bytes()));
        file.0.extend(0_u32.to_le_bytes());
        file.0.extend(u64::to_le_bytes(offset));
        offset += dims.iter().product::<u64>() * 4;
    }
    file.0.resize(file.0.len().next_multiple_of(32), 0);
    let mut state = 9_u64;
    for _ in 0..offset / 4 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.0.extend(((state >> 40) as f32 / (1 << 23) as f32 - 1.0).to_le_bytes());
    }
    std::fs::write(path, file.0).unwrap();
}
