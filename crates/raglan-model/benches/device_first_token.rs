//! How soon a language model on an NVIDIA device has the first token of an answer, when it reads a long prompt and when
//! it takes its passages over from blocks.
//!
//! The model has the shape of Llama 3.2 1B and random weights, for which speed does not differ. Times are from the call to
//! the logits, the median of several after one that is not counted: of blocks that stayed on the device, as those of a
//! question before do, and of blocks that go there from ordinary memory by way of pinned memory each time. What is timed is
//! compared first: passages in their own places must give the logits that the whole text gave, either way. Blocks that move
//! keep what they attended to, so that their logits are other ones and not compared.
//! `kernels/device-check.sh` builds and runs this.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use raglan_kv::{BlockKey, BlockPrecision, BlockStatistics, KvBlock, KvCache, TokensHash};
use raglan_model::cuda::CudaDevice;
use raglan_model::{Attending, DecoderModel, ForwardRows, ForwardSequence, Products, Want};
use rayon::prelude::*;
use serde_json::json;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// How many times as fast the first token is to come, at least, and if all goes well.
const FLOOR: f64 = 8.0;
const TARGET: f64 = 20.0;
/// Tokens that are read at a time: enough for the matrix units.
const TOGETHER: usize = 2048;

/// Llama 3.2 1B, and a part of it.
struct Shape {
    hidden: usize,
    ffn: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    vocab: usize,
    n_tokens: usize,
    block_tokens: usize,
    question_tokens: usize,
    n_runs: usize,
}

const HEAD_DIM: usize = 64;

impl Shape {
    fn smaller(by: usize) -> Self {
        let n_heads = (32 / by).max(2);
        Self {
            hidden: n_heads * HEAD_DIM,
            ffn: 8192 / by,
            n_layers: (16 / by).max(2),
            n_heads,
            n_kv_heads: (8 / by).max(1),
            vocab: 128_256 / by,
            n_tokens: 32_768 / by / by,
            block_tokens: (512 / by).max(40),
            question_tokens: (64 / by).max(5),
            n_runs: if by == 1 { 5 } else { 1 },
        }
    }

    /// Writes a model of this shape.
    fn write(&self, folder: &Path, random: &mut Random) -> Result<()> {
        let config = json!({
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": self.n_tokens + self.question_tokens,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": true,
            "attention_bias": false,
            "eos_token_id": 1,
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let (q_dim, kv_dim) = (self.n_heads * HEAD_DIM, self.n_kv_heads * HEAD_DIM);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, self.hidden]),
            ("model.norm.weight".to_owned(), vec![self.hidden]),
        ];
        for layer in 0..self.n_layers {
            for (part, shape) in [
                ("self_attn.q_proj", vec![q_dim, self.hidden]),
                ("self_attn.k_proj", vec![kv_dim, self.hidden]),
                ("self_attn.v_proj", vec![kv_dim, self.hidden]),
                ("self_attn.o_proj", vec![self.hidden, q_dim]),
                ("mlp.gate_proj", vec![self.ffn, self.hidden]),
                ("mlp.up_proj", vec![self.ffn, self.hidden]),
                ("mlp.down_proj", vec![self.hidden, self.ffn]),
                ("input_layernorm", vec![self.hidden]),
                ("post_attention_layernorm", vec![self.hidden]),
            ] {
                tensors.push((format!("model.layers.{layer}.{part}.weight"), shape));
            }
        }
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (name, shape) in &tensors {
            let end = at + 2 * shape.iter().product::<usize>();
            header.insert(name.clone(), json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] }));
            at = end;
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut file = File::create(folder.join("model.safetensors"))?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for (_, shape) in &tensors {
            // Norms multiply by one, embeddings are below one, and sums of products about as large as their inputs.
            let spread = match shape[..] {
                [_] => None,
                [n, _] if n == self.vocab => Some(1.0),
                _ => Some((3.0 / shape[1] as f32).sqrt()),
            };
            let seed = random.next();
            let mut bytes = vec![0; 2 * shape.iter().product::<usize>()];
            bytes.par_chunks_mut(1 << 20).enumerate().for_each(|(i, bytes)| {
                let mut random = Random(seed ^ (i as u64 + 1) << 32 | 1);
                for number in bytes.as_chunks_mut::<2>().0 {
                    let x = spread.map_or(1.0, |spread| random.below_one() * spread);
                    *number = ((x.to_bits() >> 16) as u16).to_le_bytes();
                }
            });
            file.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// Numbers that are quick to draw; nothing depends on how good they are.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between -1 and 1.
    fn below_one(&mut self) -> f32 {
        (self.next() >> 32) as i32 as f32 / i32::MAX as f32
    }
}

/// Reads tokens behind what is there, and gives the logits behind the last.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>> {
    let mut logits = Vec::new();
    for part in tokens.chunks(TOGETHER) {
        let slots: Vec<usize> = (cache.len()..cache.len() + part.len()).collect();
        let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
        let rows = ForwardRows { tokens: part, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let want = Want { logits: &[part.len() - 1], ..Want::default() };
        let sequence = ForwardSequence { rows, cache, want, attending: Attending::All };
        logits = model.forward(&mut [sequence])?.remove(0).logits;
    }
    Ok(logits)
}

/// Puts blocks one behind the other into an empty cache and reads a question behind them.
fn take_over(model: &DecoderModel, blocks: &[KvBlock], question: &[u32]) -> Result<Vec<f32>> {
    let mut cache = model.cache();
    let left = blocks.iter().map(|block| {
        let position = cache.next_position();
        Ok((block.clone(), cache.leave_for(block, position)?))
    });
    let left: Vec<(KvBlock, Range<usize>)> = left.collect::<Result<_>>()?;
    model.load_blocks(&mut cache, &left)?;
    read(model, &mut cache, question)
}

/// The median time in seconds, after a run that is not counted.
fn time(n_runs: usize, mut work: impl FnMut() -> Result<Vec<f32>>) -> Result<f64> {
    work()?;
    let mut times = Vec::new();
    for _ in 0..n_runs {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

fn run() -> Result<bool> {
    let (device, is_emulated) = CudaDevice::to_time()?;
    let shape = Shape::smaller(if is_emulated { 16 } else { 1 });
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64 | 1);
    println!("{:?}, seed {seed}", device.limits());
    let mut random = Random(seed);
    let folder = tempfile::tempdir()?;
    shape.write(folder.path(), &mut random)?;
    let threads = std::thread::available_parallelism()?.get();
    let model = DecoderModel::load_on_device(folder.path(), &device, threads, Products::Stored)?;
    let mut tokens = |n: usize| -> Vec<u32> { (0..n).map(|_| (random.next() % shape.vocab as u64) as u32).collect() };
    let (text, question) = (tokens(shape.n_tokens), tokens(shape.question_tokens));

    let mut whole = model.cache();
    read(&model, &mut whole, &text)?;
    let starts = (0..shape.n_tokens).step_by(shape.block_tokens);
    let blocks = starts.map(|start| {
        let slots = start..(start + shape.block_tokens).min(shape.n_tokens);
        let key = BlockKey { tokens: TokensHash::of(&text[slots.clone()]), ..BlockKey::default() };
        let block = KvBlock::from_cache(&whole, slots, model.kv_shape(), BlockPrecision::F16, &model)?;
        Ok(block.described(key, BlockStatistics::default()))
    });
    let mut blocks = blocks.collect::<raglan_kv::Result<Vec<_>>>()?;
    let want = read(&model, &mut whole, &question)?;
    drop(whole);
    let mut right = true;
    // Those that go up, and then those that are there.
    for _ in 0..2 {
        let got = take_over(&model, &blocks, &question)?;
        let greatest = want.iter().fold(0.0_f32, |greatest, x| greatest.max(x.abs()));
        let furthest = want.iter().zip(&got).map(|(want, got)| (want - got).abs()).fold(0.0, f32::max);
        let finite = want.iter().chain(&got).all(|x| x.is_finite());
        if got.len() != shape.vocab || !finite || furthest > 1e-3 * greatest {
            right = false;
            println!(
                "WRONG: logits behind blocks in their own places are up to {furthest} off those of the whole text"
            );
        }
    }

    // In another order, so that every key is turned.
    blocks.reverse();
    let n_bytes: usize = blocks.iter().map(KvBlock::n_bytes).sum();
    let reading = time(shape.n_runs.min(3), || {
        let mut cache = model.cache();
        read(&model, &mut cache, &text)?;
        read(&model, &mut cache, &question)
    })?;
    let from_device = time(shape.n_runs, || take_over(&model, &blocks, &question))?;
    let n_there = model.kv_arena().n_block_bytes();
    model.kv_arena().set_block_budget(0);
    let from_memory = time(shape.n_runs, || take_over(&model, &blocks, &question))?;
    println!(
        "first token behind {} tokens, {} of a question: read {:.1} ms; {} blocks of {:.1} MB, of which {:.1} stayed on the \
         device (floor {FLOOR} times as soon, target {TARGET})",
        shape.n_tokens,
        shape.question_tokens,
        reading * 1e3,
        blocks.len(),
        n_bytes as f64 / 1e6,
        n_there as f64 / 1e6,
    );
    for (from, taking) in [("the device", from_device), ("memory", from_memory)] {
        let times = reading / taking;
        let verdict = match times {
            times if times >= TARGET => "reaches the target",
            times if times >= FLOOR => "reaches the floor",
            _ => "MISSES the floor",
        };
        println!("from {from}: {:.1} ms, {times:.1} times as soon: {verdict}", taking * 1e3);
    }

    let mut session = model.session();
    session.prefill(&text[..shape.n_tokens.min(256)])?;
    let step = time(shape.n_runs.max(3), || Ok(session.step(1)?))?;
    println!("a token behind a short text takes {:.2} ms; {:?}", step * 1e3, model.device_steps());
    Ok(right)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("nothing more is timed: {error}");
            ExitCode::FAILURE
        }
    }
}
