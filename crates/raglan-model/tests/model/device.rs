//! Decoders on a device beside the processor's. The device is the emulation of one, or the machine's first where
//! `RAGLAN_CUDA` is set.

use std::path::Path;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use raglan_kernels::{AttentionMask, RotaryEmbedding, RotaryPairs, RotaryScaling};
use raglan_kv::{
    BlockKey, BlockPrecision, BlockStatistics, Error as KvError, KV_PAGE, KvArena, KvBlock, KvCache, KvPrecision,
    KvShape, LayerRotary, ParallelContext, Result as KvResult, TokensHash, open_block, write_block,
};
use raglan_model::cuda::{CudaDevice, KvPages};
use raglan_model::{
    Attending, AttentionPolicy, ContextExtension, DecoderModel, Error, ForwardRows, ForwardSequence, Forwarded,
    KeySelection, Products, QueryRecord, Result, StepRecording, View, Want,
};

use crate::small_model::{CONTEXT, SmallModel, VOCAB, distance, prompt};
use crate::smollm2::model_file;

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3"];

/// A small model on the processor and on a device.
fn both(device: &CudaDevice, family: &'static str, dtype: GgmlDType, products: Products) -> [DecoderModel; 2] {
    both_with_heads(device, (family, 32), dtype, products)
}

/// One with heads of this size.
fn both_with_heads(
    device: &CudaDevice,
    (family, head_dim): (&'static str, usize),
    dtype: GgmlDType,
    products: Products,
) -> [DecoderModel; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::with_head_dim(family, head_dim).write_gguf(&path, dtype);
    let on_device = DecoderModel::load_on_device(&path, device, 2, products).unwrap();
    [DecoderModel::load(&path, 2, products).unwrap(), on_device]
}

fn forward(model: &DecoderModel, rows: ForwardRows<'_>, cache: &mut KvCache, want: Want<'_>) -> Result<Forwarded> {
    Ok(model.forward(&mut [ForwardSequence { rows, cache, want, attending: Attending::All }])?.remove(0))
}

/// Reads tokens behind what the cache has; gives the logits after each.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
    let all: Vec<usize> = (0..tokens.len()).collect();
    let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
    forward(model, rows, cache, Want { logits: &all, ..Want::default() }).unwrap().logits
}

fn fresh(model: &DecoderModel, tokens: &[u32]) -> Vec<f32> {
    read(model, &mut model.cache(), tokens)
}

#[track_caller]
fn check_near(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let distance = distance(got, want);
    assert!(distance <= tolerance, "{what}: {distance}");
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

/// The likeliest tokens behind a prompt, one after the other.
fn greedy(model: &DecoderModel, tokens: &[u32], slice: usize, n: usize) -> Vec<u32> {
    let mut session = model.session();
    let mut logits = Vec::new();
    for slice in tokens.chunks(slice) {
        logits = session.prefill(slice).unwrap();
    }
    let mut written = vec![argmax(&logits)];
    while written.len() < n {
        written.push(argmax(&session.step(written[written.len() - 1]).unwrap()));
    }
    written
}

/// What logits may be off, whose standard deviation in these models is about 7: in single precision, where queries, keys,
/// values and the shares of attention are in half.
const NEAR: f32 = 0.1;

#[test]
fn logits_are_those_of_the_processor() {
    let tokens = prompt(30);
    if let Some(device) = &CudaDevice::to_test() {
        for family in FAMILIES {
            let [plain, on_device] = both(device, family, GgmlDType::F32, Products::F32);
            assert!(on_device.is_on_device() && !plain.is_on_device());
            check_near(family, &fresh(&on_device, &tokens), &fresh(&plain, &tokens), NEAR);
            check_near(family, &fresh(&on_device, &tokens[..1]), &fresh(&plain, &tokens[..1]), NEAR);
        }
        // The smaller Gemma 3 have the longest heads.
        let [plain, on_device] = both_with_heads(device, ("gemma3", 256), GgmlDType::F32, Products::F32);
        for n in [1, 12] {
            check_near("long heads", &fresh(&on_device, &tokens[..n]), &fresh(&plain, &tokens[..n]), NEAR);
        }
    }
}

#[test]
fn stored_weights_and_bf16_are_near_single_precision() {
    let tokens = prompt(12);
    let cosine = |a: &[f32], b: &[f32]| {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    if let Some(device) = &CudaDevice::to_test() {
        for (family, dtype, products, least) in [
            // Inputs are bytes when a token comes alone.
            ("llama", GgmlDType::Q8_0, Products::Stored, 0.999),
            ("qwen2", GgmlDType::Q5_0, Products::Stored, 0.999),
            ("gemma3", GgmlDType::Q4_1, Products::Stored, 0.999),
            ("mistral", GgmlDType::BF16, Products::Stored, 0.9995),
            ("llama", GgmlDType::F32, Products::Bf16, 0.9995),
            ("qwen3", GgmlDType::F16, Products::Stored, 0.99995),
            // Products are in single precision.
            ("qwen3", GgmlDType::F32, Products::Stored, 0.99999),
        ] {
            let [_, on_device] = both(device, family, dtype, products);
            let [plain, _] = both(device, family, dtype, Products::F32);
            // In one piece, where blocks are widened, and token by token, where they are not.
            let (want, whole) = (fresh(&plain, &tokens), fresh(&on_device, &tokens));
            let mut cache = on_device.cache();
            let stepped: Vec<f32> = tokens.iter().flat_map(|&token| read(&on_device, &mut cache, &[token])).collect();
            for got in [whole, stepped] {
                let cosine = cosine(&got, &want);
                println!("{family}, {dtype:?}, {products:?}: {cosine}");
                assert!(cosine >= least, "{family}, {dtype:?}, {products:?}: {cosine}");
            }
        }
    }
}

#[test]
fn safetensors_go_to_a_device_too() {
    let tokens = prompt(9);
    let folder = tempfile::tempdir().unwrap();
    if let Some(device) = &CudaDevice::to_test() {
        for (family, dtype) in [("qwen2", DType::F32), ("gemma3", DType::BF16)] {
            SmallModel::with_head_dim(family, 32).write_folder(folder.path(), dtype);
            let plain = DecoderModel::load(folder.path(), 2, Products::F32).unwrap();
            let on_device = DecoderModel::load_on_device(folder.path(), device, 2, Products::F32).unwrap();
            check_near(family, &fresh(&on_device, &tokens), &fresh(&plain, &tokens), NEAR);
        }
    }
}

#[test]
fn a_prefill_in_pieces_and_single_steps_are_those_in_one_piece() {
    // Over a border of pages.
    let tokens = prompt(KV_PAGE as u32 + 12);
    if let Some(device) = &CudaDevice::to_test() {
        for family in ["llama", "gemma3"] {
            let [_, model] = both(device, family, GgmlDType::F32, Products::F32);
            let whole = model.session().prefill(&tokens).unwrap();
            let mut session = model.session();
            for piece in [&tokens[..30], &tokens[30..31], &tokens[31..70]] {
                session.prefill(piece).unwrap();
            }
            let stepped = tokens[70..].iter().map(|&token| session.step(token).unwrap()).last().unwrap();
            check_near(family, &stepped, &whole, NEAR);
            session.truncate(50);
            check_near(family, &session.prefill(&tokens[50..]).unwrap(), &whole, NEAR);
        }
    }
}

#[test]
fn greedy_texts_in_single_precision_are_those_of_the_processor() {
    if let Some(device) = &CudaDevice::to_test() {
        for (family, len) in [("llama", 3), ("qwen3", 17), ("gemma3", 9)] {
            let written =
                both(device, family, GgmlDType::F32, Products::F32).map(|model| greedy(&model, &prompt(len), 256, 12));
            assert_eq!(written[0], written[1], "{family}, behind {len} tokens");
        }
    }
}

/// The same model on a device, twice: with recorded steps, and without.
fn recording(device: &CudaDevice, family: &'static str, dtype: GgmlDType, products: Products) -> [DecoderModel; 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::with_head_dim(family, 32).write_gguf(&path, dtype);
    let load = || DecoderModel::load_on_device(&path, device, 2, products).unwrap();
    [load(), load().without_recorded_steps()]
}

/// How many shapes of steps are recorded, and how many steps were replayed.
#[track_caller]
fn recorded(model: &DecoderModel) -> (usize, u64) {
    let steps = model.device_steps().unwrap();
    assert_eq!(steps.recording, StepRecording::On);
    (steps.n_recorded, steps.n_replayed)
}

#[test]
fn recorded_steps_give_the_bits_of_those_taken_launch_by_launch() {
    if let Some(device) = &CudaDevice::to_test() {
        for (family, dtype, products) in [
            ("llama", GgmlDType::F32, Products::F32),
            ("qwen2", GgmlDType::Q8_0, Products::Stored),
            ("gemma3", GgmlDType::F32, Products::Bf16),
        ] {
            let models = recording(device, family, dtype, products);
            // Steps over a border of pages.
            let [with, without] = models.each_ref().map(|model| {
                let mut session = model.session();
                let mut logits = vec![session.prefill(&prompt(KV_PAGE as u32 - 4)).unwrap()];
                logits.extend((0..9).map(|i| session.step(i * 5 % VOCAB as u32).unwrap()));
                // Cut, and on another way.
                session.truncate(40);
                logits.extend((0..3).map(|i| session.step(i * 3 + 1).unwrap()));
                logits
            });
            assert!(with == without, "{family}");
            assert_eq!(recorded(&models[0]), (1, 10), "{family}: all but the first step and the one that is recorded");
            let steps = models[1].device_steps().unwrap();
            assert_eq!((steps.recording, steps.n_recorded, steps.n_replayed), (StepRecording::Off, 0, 0));
            assert!(format!("{:?}", models[0]).contains("recording: On"));
        }
        let [plain, _] = both(device, "llama", GgmlDType::F32, Products::F32);
        assert_eq!(plain.device_steps(), None);
    }
}

#[test]
fn a_text_that_outgrows_its_room_is_recorded_anew() {
    // Four pages are room for 256 tokens.
    let before = prompt(4 * KV_PAGE as u32 - 4);
    if let Some(device) = &CudaDevice::to_test() {
        for family in ["llama", "gemma3"] {
            let models = recording(device, family, GgmlDType::BF16, Products::Stored);
            let [with, without] = models.each_ref().map(|model| greedy(model, &before, 256, 10));
            assert_eq!(with, without, "{family}");
            // Four steps in the first room, five in the next.
            assert_eq!(recorded(&models[0]), (2, 2 + 3), "{family}");
            let [with, without] = models.each_ref().map(|model| greedy(model, &prompt(9), 256, 4));
            assert_eq!(with, without, "{family}, a shorter text");
            assert_eq!(recorded(&models[0]), (2, 2 + 3 + 3), "{family}");
        }
    }
}

#[test]
fn recorded_steps_serve_several_texts_guesses_and_views() {
    if let Some(device) = &CudaDevice::to_test() {
        let models = recording(device, "gemma3", GgmlDType::F32, Products::F32);
        let [with, without] = models.each_ref().map(|model| {
            let mut caches: Vec<KvCache> = [70, 12, 20]
                .map(|len| {
                    let mut cache = model.cache();
                    read(model, &mut cache, &prompt(len));
                    cache
                })
                .into();
            // A beginning that two share until one of them writes.
            caches.push(caches[0].clone());
            let mut logits = Vec::new();
            for round in 0..4 {
                // Texts change their places, and so their rows.
                caches.rotate_left(1);
                let tokens: Vec<[u32; 1]> = (0..4).map(|i| [round * 4 + i]).collect();
                let places: Vec<([usize; 1], [u32; 1])> =
                    caches.iter().map(|cache| ([cache.len()], [cache.next_position()])).collect();
                let sequences = caches.iter_mut().zip(&tokens).zip(&places);
                let sequences = sequences.map(|((cache, tokens), (slots, positions))| ForwardSequence {
                    rows: ForwardRows { tokens, positions, slots, ..ForwardRows::default() },
                    cache,
                    want: Want { logits: &[0], hidden: &[0], ..Want::default() },
                    attending: Attending::All,
                });
                logits.extend(model.forward(&mut sequences.collect::<Vec<_>>()).unwrap());
            }
            for round in 0..4 {
                // Guesses: all logits of three rows, then those of one.
                let at = caches[0].len();
                let slots = [at, at + 1, at + 2];
                let positions = slots.map(|slot| slot as u32);
                let all = [0, 1, 2];
                let wanted = if round % 2 == 0 { &all[..] } else { &all[1..2] };
                let rows =
                    ForwardRows { tokens: &[7, round, 9], positions: &positions, slots: &slots, ..<_>::default() };
                let want = Want { logits: wanted, ..Want::default() };
                logits.push(forward(model, rows, &mut caches[0], want).unwrap());
                // A tree of two branches behind one row.
                let at = caches[1].len();
                let seen = [vec![0..at, at..at + 1], vec![0..at + 1, at + 1..at + 2], vec![0..at + 1, at + 2..at + 3]];
                let views: Vec<View<'_>> =
                    seen.iter().enumerate().map(|(i, slots)| View { rows: i..i + 1, slots }).collect();
                let (slots, positions) = ([at, at + 1, at + 2], [at as u32, at as u32 + 1, at as u32 + 1]);
                let rows = ForwardRows {
                    tokens: &[1, 2, round],
                    positions: &positions,
                    slots: &slots,
                    views: &views,
                    ..ForwardRows::default()
                };
                logits.push(forward(model, rows, &mut caches[1], Want { logits: &all, ..Want::default() }).unwrap());
                caches[1].keep(at + 1, &[at + 2]).unwrap();
            }
            logits
        });
        assert!(with.iter().zip(&without).all(|(with, without)| with == without));
        // Three shapes: four texts, three rows with all logits, three with one. Of the second six came, of the third two.
        assert_eq!(recorded(&models[0]), (3, 2 + 4));
    }
}

#[test]
fn the_default_model_writes_on_a_device_what_it_writes_on_the_processor() {
    let Some(path) = model_file() else { return };
    let tokens = raglan_model::Tokenizer::from_gguf(&raglan_model::GgufFile::open(&path).unwrap()).unwrap();
    let tokens = tokens.encode("The capital of France is", true).unwrap().ids;
    let plain = DecoderModel::load(&path, 2, Products::Stored).unwrap();
    // In slices that blocks serve as they are: the emulation's matrix units are slow.
    let want = greedy(&plain, &tokens, 8, 6);
    if let Some(device) = &CudaDevice::to_test() {
        let on_device = DecoderModel::load_on_device(&path, device, 2, Products::Stored).unwrap();
        assert_eq!(greedy(&on_device, &tokens, 8, 6), want);
    }
}

#[test]
fn texts_that_pass_together_get_what_they_get_alone() {
    let texts: [Vec<u32>; 4] = [prompt(70), vec![5], prompt(20), vec![7, 8]];
    if let Some(device) = &CudaDevice::to_test() {
        let [_, model] = both(device, "mistral", GgmlDType::F32, Products::F32);
        // Those of few tokens stand behind others that were read before.
        let read_before = prompt(40);
        let mut caches: Vec<KvCache> = texts.iter().map(|_| model.cache()).collect();
        for i in [1, 3] {
            read(&model, &mut caches[i], &read_before);
        }
        let alone: Vec<Vec<f32>> =
            texts.iter().zip(&caches).map(|(text, cache)| read(&model, &mut cache.clone(), text)).collect();
        let places: Vec<(Vec<usize>, Vec<u32>, Vec<usize>)> = texts
            .iter()
            .zip(&caches)
            .map(|(text, cache)| {
                let slots = cache.len()..cache.len() + text.len();
                (slots.clone().collect(), slots.map(|slot| slot as u32).collect(), (0..text.len()).collect())
            })
            .collect();
        let sequences = texts.iter().zip(&mut caches).zip(&places);
        let sequences = sequences.map(|((tokens, cache), (slots, positions, all))| ForwardSequence {
            rows: ForwardRows { tokens, positions, slots, ..ForwardRows::default() },
            cache,
            want: Want { logits: all, hidden: &all[..1], ..Want::default() },
            attending: Attending::All,
        });
        let together = model.forward(&mut sequences.collect::<Vec<_>>()).unwrap();
        for (together, alone) in together.iter().zip(&alone) {
            check_near("together", &together.logits, alone, NEAR);
            // The logits again, of the hidden state by the processor's norm.
            let mut hidden = together.hidden.clone();
            model.normalize(&mut hidden).unwrap();
            assert!(hidden.iter().all(|x| x.is_finite()));
        }
    }
}

#[test]
fn hidden_states_segments_masks_and_positions_are_those_of_the_processor() {
    let n = 45;
    let tokens = prompt(n);
    let order: Vec<usize> = (0..n as usize).map(|i| i * 7 % n as usize).collect();
    let shuffled: Vec<u32> = order.iter().map(|&at| tokens[at]).collect();
    let positions: Vec<u32> = order.iter().map(|&at| 3 * at as u32).collect();
    let segments: Vec<u32> = order.iter().map(|&at| at as u32 / 10).collect();
    let slots: Vec<usize> = (0..n as usize).collect();
    let mask = AttentionMask { window: Some(60), sinks: 4 };
    let all: Vec<usize> = (0..n as usize).collect();
    if let Some(device) = &CudaDevice::to_test() {
        for family in ["llama", "gemma3"] {
            let models = both(device, family, GgmlDType::F32, Products::F32);
            for (segments, mask) in
                [(None, AttentionMask::default()), (Some(&segments[..]), AttentionMask::default()), (None, mask)]
            {
                let rows =
                    ForwardRows { tokens: &shuffled, positions: &positions, slots: &slots, segments, mask, views: &[] };
                let want = Want { logits: &all, hidden: &[0, 44], ..Want::default() };
                let [plain, on_device] =
                    models.each_ref().map(|model| forward(model, rows, &mut model.cache(), want).unwrap());
                check_near(family, &on_device.logits, &plain.logits, NEAR);
                check_near(family, &on_device.hidden, &plain.hidden, NEAR);
            }
        }
    }
}

#[test]
fn views_see_their_slots_alone() {
    if let Some(device) = &CudaDevice::to_test() {
        for family in ["llama", "gemma3"] {
            let [_, model] = both(device, family, GgmlDType::F32, Products::F32);
            let before = prompt(KV_PAGE as u32 - 2);
            let at = before.len();
            let mut cache = model.cache();
            read(&model, &mut cache, &before);
            // A root, and two branches behind it that begin at the same place; the second is long.
            let branches: [Vec<u32>; 2] = [vec![9, 4], prompt(12)];
            let tokens: Vec<u32> = [&[7], &branches[0][..], &branches[1]].concat();
            let depths = (0..1).chain(1..3).chain(1..13);
            let positions: Vec<u32> = depths.map(|depth| at as u32 + depth).collect();
            let slots: Vec<usize> = (at..at + tokens.len()).collect();
            let seen = [vec![0..at, at..at + 1], vec![0..at + 1, at + 1..at + 3], vec![0..at + 1, at + 3..at + 15]];
            let rows = [0..1, 1..3, 3..15];
            let views: Vec<View<'_>> = rows.into_iter().zip(&seen).map(|(rows, slots)| View { rows, slots }).collect();
            let all: Vec<usize> = (0..tokens.len()).collect();
            let rows = ForwardRows {
                tokens: &tokens,
                positions: &positions,
                slots: &slots,
                views: &views,
                ..ForwardRows::default()
            };
            let mut drafted = cache.clone();
            let got = forward(&model, rows, &mut drafted, Want { logits: &all, ..Want::default() }).unwrap().logits;
            let mut first = 1;
            for branch in &branches {
                let text = [&[7], &branch[..]].concat();
                let alone = read(&model, &mut cache.clone(), &text);
                check_near(family, &got[..VOCAB], &alone[..VOCAB], NEAR);
                let own = &got[first * VOCAB..(first + branch.len()) * VOCAB];
                check_near(family, own, &alone[VOCAB..], NEAR);
                first += branch.len();
            }
            // The second branch is kept: its keys and values move, over a border of pages.
            let kept: Vec<usize> = (at + 3..at + 15).collect();
            drafted.keep(at + 1, &kept).unwrap();
            let text: Vec<u32> = [&before[..], &[7], &branches[1], &[2]].concat();
            let want = fresh(&model, &text);
            check_near(family, &read(&model, &mut drafted, &[2]), &want[(text.len() - 1) * VOCAB..], NEAR);
        }
    }
}

#[test]
fn clones_share_pages_on_a_device_until_one_of_the_two_goes_another_way() {
    if let Some(device) = &CudaDevice::to_test() {
        let [_, model] = both(device, "llama", GgmlDType::F32, Products::F32);
        let page = model.kv_arena().page_bytes();
        let tokens = prompt(KV_PAGE as u32 + 7);
        for at in [1, KV_PAGE, KV_PAGE + 7] {
            let mut one = model.cache();
            read(&model, &mut one, &tokens[..at]);
            let mut two = one.clone();
            assert_eq!(model.kv_arena().n_bytes_taken(), at.div_ceil(KV_PAGE) * page);
            let left = read(&model, &mut two, &[1, 2, 3]);
            let right = read(&model, &mut one, &[4, 5, 6]);
            drop((one, two));
            for (branch, got) in [([1, 2, 3], left), ([4, 5, 6], right)] {
                let mut fresh = model.cache();
                read(&model, &mut fresh, &tokens[..at]);
                assert!(read(&model, &mut fresh, &branch) == got, "{at} tokens shared");
            }
            assert_eq!(model.kv_arena().n_bytes_taken(), 0);
        }
    }
}

#[test]
fn blocks_are_taken_from_a_device_and_taken_over_at_other_places() {
    let (before, passage, other) = (prompt(20), prompt(KV_PAGE as u32 + 9), prompt(70));
    let slots = before.len()..before.len() + passage.len();
    if let Some(device) = &CudaDevice::to_test() {
        for (family, precision, tolerance) in [
            ("llama", BlockPrecision::F16, NEAR),
            ("qwen3", BlockPrecision::F32, NEAR),
            ("gemma3", BlockPrecision::Bf16, 0.5), // bf16 has three bits fewer than half floats.
            ("gemma3", BlockPrecision::Int8, 0.5),
        ] {
            let models = both(device, family, GgmlDType::F32, Products::F32);
            let [want, got] = models.each_ref().map(|model| {
                let mut cache = model.cache();
                read(model, &mut cache, &[&before[..], &passage].concat());
                let taken = |cache: &KvCache, slots| {
                    KvBlock::from_cache(cache, slots, model.kv_shape(), precision, model).unwrap()
                };
                let block = taken(&cache, slots.clone());
                // Where it was, half floats are the same to the bit, and so is what is read behind them.
                let mut again = model.cache();
                read(model, &mut again, &before);
                again.append(&block, before.len() as u32, model).unwrap();
                if precision == BlockPrecision::F16 && model.is_on_device() {
                    let bytes = |block: &KvBlock| block.layer(2).unwrap().to_vec();
                    assert_eq!(bytes(&taken(&again, slots.clone())), bytes(&block));
                    assert!(read(model, &mut again.clone(), &[7]) == read(model, &mut cache, &[7]));
                }
                let in_place = read(model, &mut again, &[7]);
                // Behind another text, twice, with something between the two.
                let mut moved = model.cache();
                read(model, &mut moved, &other);
                moved.append(&block, other.len() as u32, model).unwrap();
                read(model, &mut moved, &[9, 8]);
                moved.append(&block, moved.next_position(), model).unwrap();
                [in_place, read(model, &mut moved, &[7, 3])].concat()
            });
            check_near(&format!("{family}, {precision}"), &got, &want, tolerance);
        }
    }
}

/// Two ways of turning, by layers.
struct Turning([RotaryEmbedding; 2]);

impl LayerRotary for Turning {
    fn rotary(&self, layer: usize) -> &RotaryEmbedding {
        &self.0[usize::from(layer % 6 == 5)]
    }
}

const BLOCKS: KvShape = KvShape { n_layers: 18, n_kv_heads: 4, head_dim: 128 };

fn turning() -> Turning {
    let turn = |base| RotaryEmbedding::new(BLOCKS.head_dim, base, RotaryPairs::Halves, &RotaryScaling::None).unwrap();
    Turning([1e4, 1e6].map(turn))
}

/// Blocks in all precisions, each second one in a file. The long one takes several pieces, each of many layers.
fn blocks_of_all_sizes(folder: &Path, turning: &Turning) -> Vec<KvBlock> {
    let on_processor = KvArena::new(BLOCKS, KvPrecision::F16);
    let lengths = [9_usize, 64, 1, 210, 65, 3, 70];
    let block = |(i, &n_tokens): (usize, &usize)| {
        let mut cache = on_processor.cache();
        cache.leave(n_tokens, 31 * i as u32).unwrap();
        for (layer, slot) in (0..BLOCKS.n_layers).flat_map(|layer| (0..n_tokens).map(move |slot| (layer, slot))) {
            let number = |j: usize| ((i * 7919 + layer * 104_729 + slot * 1299 + j * 31) % 2003) as f32 / 1001.0 - 1.0;
            let numbers: Vec<f32> = (0..2 * BLOCKS.dim()).map(number).collect();
            cache.write(layer, slot, &numbers[..BLOCKS.dim()], &numbers[BLOCKS.dim()..]);
        }
        let precision = [BlockPrecision::F16, BlockPrecision::Int8, BlockPrecision::F32][i % 3];
        let block = KvBlock::from_cache(&cache, 0..n_tokens, BLOCKS, precision, turning).unwrap();
        let key = BlockKey { tokens: TokensHash::of(&[i as u32]), ..BlockKey::default() };
        let block = block.described(key, BlockStatistics::default());
        if i % 2 == 0 {
            return block;
        }
        let path = folder.join(i.to_string());
        write_block(&path, &block).unwrap();
        let block = open_block(&path).unwrap();
        assert!(!block.is_resident());
        block
    };
    lengths.iter().enumerate().map(block).collect()
}

/// A sequence of blocks, of which the first begins at `start`; the first of them all stays there if that is 0.
fn sequence_of(arena: &KvArena, blocks: &[KvBlock], start: u32) -> KvResult<KvCache> {
    let mut cache = arena.cache();
    cache.leave(usize::from(start > 0), start.saturating_sub(1))?;
    let left = blocks.iter().map(|block| {
        let position = cache.next_position();
        Ok((block.clone(), cache.leave_for(block, position)?))
    });
    let left: Vec<_> = left.collect::<KvResult<_>>()?;
    cache.load(&left, &turning())?;
    Ok(cache)
}

/// What the slots hold behind the first `from`.
fn numbers_of(cache: &KvCache, from: usize) -> Vec<f32> {
    let block = KvBlock::from_cache(cache, from..cache.len(), BLOCKS, BlockPrecision::F32, &turning()).unwrap();
    let layers = (0..BLOCKS.n_layers).map(|layer| {
        let bytes = block.layer(layer).unwrap();
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<_>>()
    });
    layers.flatten().collect()
}

/// Numbers are below two, and rounded to half floats once or twice.
#[track_caller]
fn check_halves(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 2.0 / 1024.0, "number {i}: {got} is not {want}");
    }
}

fn pages_for_blocks(device: &CudaDevice) -> KvArena {
    let device = &device.another_stream().unwrap();
    KvArena::on_device(KvPages::new(device, BLOCKS.n_layers, 16, BLOCKS.n_kv_heads, BLOCKS.head_dim).unwrap())
}

#[test]
fn blocks_of_all_sizes_go_to_a_device_one_behind_the_other() {
    if let Some(device) = &CudaDevice::to_test() {
        let folder = tempfile::tempdir().unwrap();
        let blocks = blocks_of_all_sizes(folder.path(), &turning());
        let want = numbers_of(&sequence_of(&KvArena::new(BLOCKS, KvPrecision::F16), &blocks, 0).unwrap(), 0);
        let arena = pages_for_blocks(device);
        // The second time in pages and buffers that are full of other numbers.
        for _ in 0..2 {
            let mut cache = sequence_of(&arena, &blocks, 0).unwrap();
            check_halves(&numbers_of(&cache, 0), &want);
            let misplaced = |slots| (blocks[2].clone(), slots);
            for wrong in [vec![misplaced(0..2)], vec![misplaced(999..1000)], vec![misplaced(5..6), misplaced(5..6)]] {
                assert!(matches!(cache.load(&wrong, &turning()), Err(KvError::Slots { .. })));
            }
            cache.load(&[], &turning()).unwrap();
            drop((cache, sequence_of(&arena, &blocks, 0)));
        }
        assert_eq!(arena.n_block_bytes(), 0, "none stays that is not allowed to");
    }
}

#[test]
fn blocks_stay_on_a_device_as_far_as_their_budget_goes() {
    if let Some(device) = &CudaDevice::to_test() {
        let folder = tempfile::tempdir().unwrap();
        let mut blocks = blocks_of_all_sizes(folder.path(), &turning());
        // One that nobody described, and one that comes twice.
        blocks[4] = blocks[4].clone().described(BlockKey::default(), BlockStatistics::default());
        blocks.push(blocks[3].clone());
        let on_processor = KvArena::new(BLOCKS, KvPrecision::F16);
        let want = [0, 100]
            .map(|start| numbers_of(&sequence_of(&on_processor, &blocks, start).unwrap(), usize::from(start > 0)));
        let arena = pages_for_blocks(device);
        let check = |start: u32| {
            let cache = sequence_of(&arena, &blocks, start).unwrap();
            check_halves(&numbers_of(&cache, usize::from(start > 0)), &want[usize::from(start > 0)]);
        };
        // Room for some, from which none goes for others of the same load; and the next load takes those.
        let token_bytes = 2 * 2 * BLOCKS.dim() * BLOCKS.n_layers;
        arena.set_block_budget(100 * token_bytes);
        for start in [0, 100] {
            check(start);
            assert_eq!(arena.n_block_bytes(), (9 + 64 + 1 + 3) * token_bytes);
        }
        arena.set_block_budget(70 * token_bytes);
        assert!(arena.n_block_bytes() <= 70 * token_bytes);
        assert_eq!(arena.block_budget(), 70 * token_bytes);
        // Room for all: what is there is not read again.
        arena.set_block_budget(usize::MAX);
        check(0);
        assert_eq!(arena.n_block_bytes(), (9 + 64 + 1 + 210 + 3 + 70) * token_bytes);
        for file in std::fs::read_dir(folder.path()).unwrap() {
            std::fs::OpenOptions::new().write(true).open(file.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        check(100);
        check(0);
        arena.set_block_budget(0);
        assert_eq!(arena.n_block_bytes(), 0);
        assert!(sequence_of(&arena, &blocks, 0).is_err(), "files that are gone");
    }
}

#[test]
fn blocks_are_loaded_together_for_what_is_read_behind_them() {
    let texts = [prompt(20), prompt(KV_PAGE as u32 + 9), prompt(33)];
    if let Some(device) = &CudaDevice::to_test() {
        for family in ["llama", "gemma3"] {
            let models = both(device, family, GgmlDType::F32, Products::F32);
            let [want, got] = models.each_ref().map(|model| {
                let blocks = texts.each_ref().map(|text| {
                    let mut cache = model.cache();
                    read(model, &mut cache, text);
                    KvBlock::from_cache(&cache, 0..text.len(), model.kv_shape(), BlockPrecision::F16, model).unwrap()
                });
                let mut cache = model.cache();
                let left: Vec<_> = [0, 2, 1, 0]
                    .map(|i| {
                        let position = cache.next_position();
                        (blocks[i].clone(), cache.leave_for(&blocks[i], position).unwrap())
                    })
                    .into();
                model.load_blocks(&mut cache, &left).unwrap();
                read(model, &mut cache, &[7, 3])
            });
            check_near(family, &got, &want, NEAR);
        }
    }
}

#[test]
fn pages_that_are_spent_are_an_error_that_changes_nothing() {
    if let Some(device) = &CudaDevice::to_test() {
        let [_, model] = both(device, "llama", GgmlDType::F32, Products::F32);
        // Room for eight texts as long as the context.
        assert_eq!(model.kv_arena().n_pages_left(), 8 * (CONTEXT as usize).div_ceil(KV_PAGE));
        model.kv_arena().set_budget(model.kv_arena().page_bytes());
        let mut cache = model.cache();
        let first = read(&model, &mut cache, &prompt(60));
        let rows = ForwardRows {
            tokens: &[1; 5],
            positions: &[60, 61, 62, 63, 64],
            slots: &[60, 61, 62, 63, 64],
            ..<_>::default()
        };
        let refused = forward(&model, rows, &mut cache, Want::default());
        assert!(matches!(refused, Err(Error::Kv(KvError::ArenaSpent { .. }))));
        assert_eq!(cache.len(), 60);
        // What was out of the budget is there again.
        model.kv_arena().set_budget(usize::MAX);
        forward(&model, rows, &mut cache, Want::default()).unwrap();
        assert!(fresh(&model, &prompt(60)) == first);
    }
}

#[test]
fn an_extended_context_turns_as_on_the_processor() {
    let tokens = prompt(20);
    if let Some(device) = &CudaDevice::to_test() {
        let models = both(device, "llama", GgmlDType::F32, Products::F32);
        let [plain, on_device] = models.map(|model| model.extended(ContextExtension::Yarn { factor: 4.0 }).unwrap());
        let positions: Vec<u32> = (0..20).map(|i| i * 140).collect();
        let slots: Vec<usize> = (0..20).collect();
        let rows = ForwardRows { tokens: &tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
        let [want, got] = [&plain, &on_device]
            .map(|model| forward(model, rows, &mut model.cache(), Want { logits: &[19], ..<_>::default() }).unwrap());
        check_near("yarn", &got.logits, &want.logits, NEAR);
    }
}

#[test]
fn what_a_device_does_not_serve_is_refused_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    if let Some(device) = &CudaDevice::to_test() {
        let [plain, model] = both(device, "llama", GgmlDType::F32, Products::F32);
        let rows = ForwardRows { tokens: &[1, 2], positions: &[0, 1], slots: &[0, 1], ..ForwardRows::default() };
        let not_there = |error: Error| assert!(matches!(error, Error::NotOnDevice { .. }), "{error}");
        let mut cache = model.cache();
        let mut record = QueryRecord::new(model.config());
        let attending = Attending::Observed(&mut record);
        let observed = ForwardSequence { rows, cache: &mut cache, want: Want::default(), attending };
        not_there(model.forward(&mut [observed]).unwrap_err());
        let summed = Want { attention: Some((&[0], &[0..1, 0..2])), ..Want::default() };
        not_there(forward(&model, rows, &mut cache, summed).unwrap_err());
        not_there(model.begin_pass(&mut cache, &[1], &[0], &[0]).unwrap_err());
        not_there(model.append_attending(&mut cache, &[1], 0..1, &[]).unwrap_err());
        let policy = AttentionPolicy::Quest { budget: "16".parse().unwrap() };
        not_there(KeySelection::begin(&model, policy, &cache, &record).unwrap_err());
        assert!(cache.is_empty());

        read(&model, &mut cache, &[1, 2, 3]);
        let mut on_processor = plain.cache();
        assert!(matches!(forward(&model, rows, &mut on_processor, Want::default()), Err(Error::Rows { .. })));
        assert!(matches!(forward(&plain, rows, &mut cache, Want::default()), Err(Error::Rows { .. })));
        cache.set_parallel(ParallelContext { slots: 0..2, temperature: 0.9, scale: 0.9 });
        not_there(forward(&model, rows, &mut cache, Want::default()).unwrap_err());
        assert_eq!(cache.len(), 3);

        let load = |family, head_dim, products| {
            SmallModel::with_head_dim(family, head_dim).write_gguf(&path, GgmlDType::F32);
            DecoderModel::load_on_device(&path, device, 1, products)
        };
        for (head_dim, products) in [(16, Products::F32), (32, Products::Int8), (32, Products::Candle)] {
            let refused = load("llama", head_dim, products).unwrap_err();
            assert!(matches!(&refused, Error::Unsupported { path: named, .. } if *named == path), "{refused}");
        }
        assert!(load("llama", 64, Products::F32).is_ok());
    }
}
