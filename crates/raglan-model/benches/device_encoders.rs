//! How many sentences a second encoders embed on an NVIDIA device, at mixed lengths, with random weights of known shapes.
//!
//! Tokens go in and vectors come out; uploads and downloads are in the time, tokenizing is not. Sentences are sorted by
//! length. A few are first compared with the processor's. With a folder as its argument the lengths are left there, for a
//! peer to be timed on. `kernels/device-check.sh` builds and runs this.

use std::collections::HashMap;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use candle_core::{Device, Tensor};
use raglan_model::cuda::{CudaDevice, Length, Pooled};
use raglan_model::{DeviceEncoder, EncoderModel, EncoderModelConfig, Products, SafetensorsFile};

/// What an H200 multiplies in half precision, by its data sheet.
const PEAK_FLOPS: f64 = 989e12;
/// How many tokens a batch has.
const BATCH_TOKENS: usize = 1 << 16;
const LONGEST: usize = 512;
const RUNS: usize = 5;

struct Shape {
    name: &'static str,
    hidden: usize,
    n_layers: usize,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "MiniLM, 6 layers of 384", hidden: 384, n_layers: 6 },
    Shape { name: "bge-base, 12 layers of 768", hidden: 768, n_layers: 12 },
];
const N_HEADS: usize = 12;
const VOCAB: usize = 30_522;

/// Numbers that are quick to draw.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between −1/2 and 1/2.
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    }
}

/// A BERT of this shape with random weights, as files.
fn save(shape: &Shape, folder: &Path, random: &mut Random) -> Result<EncoderModelConfig, Box<dyn Error>> {
    let (hidden, inner) = (shape.hidden, 4 * shape.hidden);
    let config = serde_json::json!({
        "model_type": "bert", "vocab_size": VOCAB, "hidden_size": hidden, "num_hidden_layers": shape.n_layers,
        "num_attention_heads": N_HEADS, "intermediate_size": inner, "hidden_act": "gelu",
        "max_position_embeddings": LONGEST, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 0
    });
    std::fs::write(folder.join("config.json"), config.to_string())?;
    let mut tensors = HashMap::new();
    let mut put = |name: String, shape: &[usize], centre: f32, spread: f32| {
        let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| centre + spread * random.float()).collect();
        Tensor::from_vec(numbers, shape, &Device::Cpu).map(|tensor| tensors.insert(name, tensor))
    };
    put("embeddings.word_embeddings.weight".to_owned(), &[VOCAB, hidden], 0.0, 1.0)?;
    put("embeddings.position_embeddings.weight".to_owned(), &[LONGEST, hidden], 0.0, 1.0)?;
    put("embeddings.token_type_embeddings.weight".to_owned(), &[2, hidden], 0.0, 1.0)?;
    let mut norms = vec!["embeddings.LayerNorm".to_owned()];
    for layer in (0..shape.n_layers).map(|i| format!("encoder.layer.{i}")) {
        for (name, n_out, n_in) in [
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", inner, hidden),
            ("output.dense", hidden, inner),
        ] {
            // Sums keep the size of their inputs.
            put(format!("{layer}.{name}.weight"), &[n_out, n_in], 0.0, (12.0 / n_in as f32).sqrt())?;
            put(format!("{layer}.{name}.bias"), &[n_out], 0.0, 0.1)?;
        }
        norms.extend([format!("{layer}.attention.output.LayerNorm"), format!("{layer}.output.LayerNorm")]);
    }
    for norm in norms {
        put(format!("{norm}.weight"), &[hidden], 1.0, 0.2)?;
        put(format!("{norm}.bias"), &[hidden], 0.0, 0.2)?;
    }
    candle_core::safetensors::save(&tensors, folder.join("model.safetensors"))?;
    Ok(EncoderModelConfig::from_file(folder.join("config.json"))?)
}

/// Lengths as those of chunks and claims together: most are short, some as long as can be.
fn lengths(n: usize, longest: usize, random: &mut Random) -> Vec<usize> {
    let mut lengths: Vec<usize> = (0..n)
        .map(|_| (-90.0 * f64::from(random.float() + 0.5).max(1e-4).ln()).clamp(4.0, longest as f64) as usize)
        .collect();
    lengths.sort_unstable();
    lengths
}

/// Sentences that are read together.
fn batches(sentences: &[Vec<u32>]) -> Vec<Vec<&[u32]>> {
    let mut batches = vec![Vec::new()];
    let mut n_tokens = 0;
    for sentence in sentences {
        if n_tokens + sentence.len() > BATCH_TOKENS {
            batches.push(Vec::new());
            n_tokens = 0;
        }
        n_tokens += sentence.len();
        batches.last_mut().expect("there is a first").push(&sentence[..]);
    }
    batches
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn run() -> Result<bool, Box<dyn Error>> {
    let (device, smaller) = CudaDevice::to_time()?;
    let mut random = Random(std::process::id() as u64 * 0x9e37_79b9 + 1);
    let (n, longest) = if smaller { (5, 12) } else { (32_768, LONGEST) };
    let lengths = lengths(n, longest, &mut random);
    let n_tokens: usize = lengths.iter().sum();
    if let Some(folder) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        let lines: Vec<String> = lengths.iter().map(usize::to_string).collect();
        std::fs::write(Path::new(&folder).join("lengths.txt"), lines.join("\n"))?;
    }
    let sentences: Vec<Vec<u32>> =
        lengths.iter().map(|&n| (0..n).map(|_| (random.next() % VOCAB as u64) as u32).collect()).collect();
    let mut right = true;
    for shape in SHAPES.iter().take(if smaller { 1 } else { SHAPES.len() }) {
        let shape = if smaller { &Shape { n_layers: 1, ..*shape } } else { shape };
        let folder = tempfile::tempdir()?;
        let config = save(shape, folder.path(), &mut random)?;
        let file = SafetensorsFile::open(folder.path().join("model.safetensors"))?;
        let encoder = DeviceEncoder::from_safetensors(&device, &file, config.clone())?;
        let plain = EncoderModel::from_safetensors(&file, config, Products::F32)?;
        let some: Vec<&[u32]> = sentences.iter().step_by((n / 4).max(1)).map(Vec::as_slice).collect();
        let means = encoder.pooled_vectors([&some], Pooled::Mean, Length::Unit)?;
        let states = plain.hidden_states(&some)?;
        let mut least = 1.0_f32;
        for (mean, tokens) in means.chunks(shape.hidden).zip(states.sequences()) {
            let sums: Vec<f32> = (0..shape.hidden).map(|d| tokens.iter().skip(d).step_by(shape.hidden).sum()).collect();
            least = least.min(cosine(mean, &sums));
        }
        right &= least >= 0.9999;
        let batches = batches(&sentences);
        let mut times = Vec::new();
        for _ in 0..if smaller { 1 } else { RUNS + 1 } {
            let start = Instant::now();
            encoder.pooled_vectors(&batches, Pooled::Mean, Length::Unit)?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let Some(&seconds) = times.get(times.len() / 2) else {
            println!("{}: the least cosine to the processor's {least:.5}", shape.name);
            continue;
        };
        let (hidden, n_layers) = (shape.hidden as f64, shape.n_layers as f64);
        let products = 2.0 * 12.0 * hidden * hidden * n_layers * n_tokens as f64;
        let pairs: f64 = lengths.iter().map(|&n| (n * n) as f64).sum();
        let flops = products + 4.0 * hidden * n_layers * pairs;
        println!(
            "{}: {:.0} sentences/s of {} tokens on average, {:.1} TFLOP/s, {:.1} % of {} TFLOP/s; the least cosine to the \
             processor's {least:.5}",
            shape.name,
            n as f64 / seconds,
            n_tokens / n,
            flops / seconds / 1e12,
            100.0 * flops / seconds / PEAK_FLOPS,
            PEAK_FLOPS / 1e12,
        );
    }
    Ok(right)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("vectors are not the processor's");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("nothing more is timed: {error}");
            ExitCode::FAILURE
        }
    }
}
