//! The forward against candle's own, on small models with random weights.

use std::collections::HashMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use candle_transformers::models::{quantized_llama, quantized_qwen2, quantized_qwen3};
use raglan_model::{
    Error, ForwardRows, ForwardSequence, Forwarded, KV_PAGE, KvCache, LlamaModel, Products, Result, View, Want,
};

const HIDDEN: usize = 96;
const HEADS: usize = 6;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = HIDDEN / HEADS;
const FFN: usize = 160;
const VOCAB: usize = 67;
const CONTEXT: u32 = 700;

/// Writes a model of two layers with seeded random weights.
fn write_model(path: &Path, architecture: &str, dtype: GgmlDType) {
    let mut state = 1_u64;
    let mut tensor = |shape: &[usize], around: f32, spread: f32, dtype| {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|_| {
                // Knuth's MMIX generator; its upper bits are good enough for weights.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                around + spread * ((state >> 40) as f32 / (1 << 23) as f32 - 1.0)
            })
            .collect();
        QTensor::quantize(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), dtype).unwrap()
    };
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), tensor(&[VOCAB, HIDDEN], 0.0, 1.0, dtype)),
        ("output_norm.weight".to_owned(), tensor(&[HIDDEN], 1.0, 0.2, GgmlDType::F32)),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, tensor| tensors.push((format!("blk.{layer}.{name}"), tensor));
        for (name, n_out, n_in) in [
            ("attn_q", HIDDEN, HIDDEN),
            ("attn_k", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_v", KV_HEADS * HEAD_DIM, HIDDEN),
            ("attn_output", HIDDEN, HIDDEN),
            ("ffn_gate", FFN, HIDDEN),
            ("ffn_up", FFN, HIDDEN),
            ("ffn_down", HIDDEN, FFN),
        ] {
            add(&format!("{name}.weight"), tensor(&[n_out, n_in], 0.0, 0.3, dtype));
            if architecture == "qwen2" && ["attn_q", "attn_k", "attn_v"].contains(&name) {
                add(&format!("{name}.bias"), tensor(&[n_out], 0.0, 0.5, GgmlDType::F32));
            }
        }
        for name in ["attn_norm.weight", "ffn_norm.weight"] {
            add(name, tensor(&[HIDDEN], 1.0, 0.2, GgmlDType::F32));
        }
        if architecture == "qwen3" {
            for name in ["attn_q_norm.weight", "attn_k_norm.weight"] {
                add(name, tensor(&[HEAD_DIM], 1.0, 0.2, GgmlDType::F32));
            }
        }
    }
    let metadata: HashMap<String, Value> = [
        ("block_count", Value::U32(2)),
        ("context_length", Value::U32(CONTEXT)),
        ("embedding_length", Value::U32(HIDDEN as u32)),
        ("feed_forward_length", Value::U32(FFN as u32)),
        ("attention.head_count", Value::U32(HEADS as u32)),
        ("attention.head_count_kv", Value::U32(KV_HEADS as u32)),
        ("attention.key_length", Value::U32(HEAD_DIM as u32)),
        ("rope.dimension_count", Value::U32(HEAD_DIM as u32)),
        ("rope.freq_base", Value::F32(10_000.0)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ]
    .into_iter()
    .map(|(name, value)| (format!("{architecture}.{name}"), value))
    .collect();
    let mut metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let name = Value::String(architecture.to_owned());
    metadata.push(("general.architecture", &name));
    metadata.push(("general.dtype", &Value::U32(0))); // Candle's Qwen 3 rotates in half precision otherwise.
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| (i * i + 3 * i) % VOCAB as u32).collect()
}

/// Candle's logits after the prompt.
fn oracle(path: &Path, architecture: &str, tokens: &[u32]) -> Vec<f32> {
    let mut file = File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let input = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let device = Device::Cpu;
    let logits = match architecture {
        "llama" => {
            quantized_llama::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0).unwrap()
        }
        "qwen2" => {
            quantized_qwen2::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0).unwrap()
        }
        _ => quantized_qwen3::ModelWeights::from_gguf(content, &mut file, &device).unwrap().forward(&input, 0).unwrap(),
    };
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// The greatest difference between logits, whose standard deviation in these models is about 7.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |most, (a, b)| if (a - b).abs() <= most { most } else { (a - b).abs() })
}

fn load_with(architecture: &str, dtype: GgmlDType, products: Products) -> (tempfile::TempDir, LlamaModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, architecture, dtype);
    let model = LlamaModel::load_gguf(path, 2, products).unwrap();
    (folder, model)
}

fn load(architecture: &str, dtype: GgmlDType) -> (tempfile::TempDir, LlamaModel) {
    load_with(architecture, dtype, Products::F32)
}

#[track_caller]
fn check_against_oracle(architecture: &str) {
    let (folder, model) = load(architecture, GgmlDType::F32);
    for len in [1, 2, 50] {
        let tokens = prompt(len);
        let expected = oracle(&folder.path().join("model.gguf"), architecture, &tokens);
        let got = model.session().prefill(&tokens).unwrap();
        let distance = distance(&got, &expected);
        assert!(distance <= 2e-3, "{architecture}, {len} tokens: {distance}");
    }
}

#[test]
fn logits_are_those_of_candle() {
    check_against_oracle("llama");
    check_against_oracle("qwen2");
    check_against_oracle("qwen3");
}

#[test]
fn a_prompt_read_in_pieces_gives_the_same_logits() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let tokens = prompt(600); // Three internal chunks at once; across their borders in pieces.
    let at_once = model.session().prefill(&tokens).unwrap();
    let mut session = model.session();
    let mut in_pieces = Vec::new();
    for piece in [&tokens[..100], &tokens[100..397], &tokens[397..]] {
        in_pieces = session.prefill(piece).unwrap();
    }
    assert!(distance(&at_once, &in_pieces) <= 2e-3, "{}", distance(&at_once, &in_pieces));
    assert_eq!(session.n_tokens(), 600);
}

#[test]
fn single_steps_agree_with_a_prefill() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let tokens = prompt(40);
    let whole = model.session().prefill(&tokens).unwrap();
    let mut session = model.session();
    session.prefill(&tokens[..30]).unwrap();
    let stepped = tokens[30..].iter().map(|&token| session.step(token).unwrap()).last().unwrap();
    assert!(distance(&whole, &stepped) <= 2e-3, "{}", distance(&whole, &stepped));
}

#[test]
fn a_shortened_session_goes_on_as_if_it_had_never_been_longer() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let tokens = prompt(50);
    let mut session = model.session();
    session.prefill(&tokens[..20]).unwrap();
    session.prefill(&[5, 6, 7]).unwrap();
    session.truncate(20);
    let again = session.prefill(&tokens[20..]).unwrap();
    let mut fresh = model.session();
    fresh.prefill(&tokens[..20]).unwrap();
    assert_eq!(again, fresh.prefill(&tokens[20..]).unwrap());
}

#[test]
fn too_long_a_text_an_unknown_token_and_no_tokens_are_errors_that_change_nothing() {
    let (_folder, model) = load("llama", GgmlDType::Q8_0);
    let mut session = model.session();
    session.prefill(&prompt(CONTEXT)).unwrap();
    assert!(matches!(session.step(1), Err(Error::ContextOverflow { tokens: 701, limit: 700 })));
    session.truncate(3);
    assert!(matches!(session.prefill(&[1, VOCAB as u32]), Err(Error::UnknownToken { id: 67 })));
    assert!(matches!(session.prefill(&[]), Err(Error::EmptyPrompt)));
    assert_eq!(session.n_tokens(), 3);
    session.step(1).unwrap();
}

#[test]
fn a_prefill_can_be_interrupted() {
    let (_folder, model) = load("llama", GgmlDType::Q8_0);
    let mut heard = Vec::new();
    let result = model.session().prefill_with(&prompt(600), &mut |n_read| {
        heard.push(n_read);
        if heard.len() == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(result, Err(Error::Interrupted)));
    assert_eq!(heard, [256, 512]);
}

#[test]
fn another_architecture_and_a_missing_tensor_are_typed_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, "rwkv", GgmlDType::F32);
    assert!(matches!(LlamaModel::load_gguf(&path, 1, Products::Stored), Err(Error::Unsupported { .. })));
    write_model(&path, "llama", GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(16).position(|name| name == b"blk.1.ffn_up.wei").unwrap();
    let mut renamed = bytes;
    renamed[at + 4] = b'9';
    std::fs::write(&path, renamed).unwrap();
    let problem = LlamaModel::load_gguf(&path, 1, Products::Stored).unwrap_err().to_string();
    assert!(problem.contains("no tensor `blk.1.ffn_up.weight`") && problem.contains("model.gguf"), "{problem}");
}

#[test]
fn candles_products_and_ours_agree_and_blocks_are_near() {
    let tokens = prompt(50);
    for architecture in ["llama", "qwen2", "qwen3"] {
        let logits = |dtype, products| load_with(architecture, dtype, products).1.session().prefill(&tokens).unwrap();
        let ours = logits(GgmlDType::F32, Products::F32);
        assert!(distance(&ours, &logits(GgmlDType::F32, Products::Candle)) <= 2e-3);
        assert!(distance(&ours, &logits(GgmlDType::F32, Products::Stored)) <= 0.1); // Keys and values in half precision.
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q5_0] {
            let (exact, blocks) = (logits(dtype, Products::F32), logits(dtype, Products::Stored));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(&exact, &blocks) / (dot(&exact, &exact) * dot(&blocks, &blocks)).sqrt();
            assert!(cosine >= 0.999, "{architecture} {dtype:?}: {cosine}");
        }
    }
}

#[test]
fn several_steps_at_once_are_those_one_by_one_to_the_bit() {
    for products in [Products::F32, Products::Stored] {
        let (_folder, model) = load_with("llama", GgmlDType::Q4_1, products);
        let tokens = prompt(40);
        let (mut at_once, mut singly) = (model.session(), model.session());
        at_once.prefill(&tokens[..30]).unwrap();
        singly.prefill(&tokens[..30]).unwrap();
        let together = at_once.steps(&tokens[30..]).unwrap();
        let alone: Vec<f32> = tokens[30..].iter().flat_map(|&token| singly.step(token).unwrap()).collect();
        assert!(together == alone, "{products:?}");
    }
}

/// Sends rows of one sequence through.
fn forward(model: &LlamaModel, rows: ForwardRows<'_>, cache: &mut KvCache, want: Want<'_>) -> Result<Forwarded> {
    Ok(model.forward(&mut [ForwardSequence { rows, cache, want }])?.remove(0))
}

/// All of a prompt, in the order of `order`, each token to the slot it has in the prompt.
fn shuffled(model: &LlamaModel, tokens: &[u32], order: &[usize]) -> Vec<f32> {
    let mut cache = model.cache();
    let place: Vec<usize> = (0..tokens.len()).collect();
    let positions: Vec<u32> = place.iter().map(|&at| at as u32).collect();
    // Once with other tokens, so that the slots are there and what is in them must be written over.
    let others: Vec<u32> = tokens.iter().map(|token| (token + 1) % VOCAB as u32).collect();
    let rows = ForwardRows { tokens: &others, positions: &positions, slots: &place, ..ForwardRows::default() };
    forward(model, rows, &mut cache, Want::default()).unwrap();
    let tokens: Vec<u32> = order.iter().map(|&at| tokens[at]).collect();
    let positions: Vec<u32> = order.iter().map(|&at| at as u32).collect();
    let last = order.iter().position(|&at| at == order.len() - 1).unwrap();
    let rows = ForwardRows { tokens: &tokens, positions: &positions, slots: order, ..ForwardRows::default() };
    forward(model, rows, &mut cache, Want { logits: &[last], ..Want::default() }).unwrap().logits
}

#[test]
fn rows_may_come_in_any_order_and_over_what_was_there() {
    let (_folder, model) = load("qwen3", GgmlDType::F32);
    let tokens = prompt(37);
    let order: Vec<usize> = (0..37).map(|i| i * 5 % 37).collect();
    assert!(shuffled(&model, &tokens, &order) == model.session().prefill(&tokens).unwrap());
}

#[test]
fn attention_sums_to_one_for_each_row_and_head_and_hidden_states_come_with_it() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let tokens = prompt(20);
    let place: Vec<usize> = (0..20).collect();
    let positions: Vec<u32> = (0..20).collect();
    let rows = ForwardRows { tokens: &tokens, positions: &positions, slots: &place, ..ForwardRows::default() };
    let want = Want { logits: &[3], hidden: &[0, 19], attention: Some((&[18, 19], &[0..7, 7..20, 4..4])) };
    let forwarded = forward(&model, rows, &mut model.cache(), want).unwrap();
    assert_eq!(forwarded.logits.len(), VOCAB);
    assert_eq!(forwarded.hidden.len(), 2 * HIDDEN);
    assert_eq!(forwarded.attention.len(), 2 * HEADS * 3);
    for head in forwarded.attention.chunks_exact(3) {
        assert!((head[0] + head[1] - 2.0).abs() <= 1e-4 && head[2] == 0.0, "{head:?}"); // Two rows.
    }
}

#[test]
fn rows_that_do_not_fit_together_are_errors_that_change_nothing() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let mut cache = model.cache();
    let mut check = |positions: &[u32], slots: &[usize], want: Want<'_>| {
        let rows = ForwardRows { tokens: &[1, 2], positions, slots, ..ForwardRows::default() };
        let result = forward(&model, rows, &mut cache, want);
        assert!(cache.is_empty());
        result.unwrap_err()
    };
    let none = Want::default();
    assert!(matches!(check(&[0], &[0, 1], none), Error::Rows { .. }));
    assert!(matches!(check(&[0, 1], &[0, 2], none), Error::Rows { .. }));
    assert!(matches!(check(&[0, CONTEXT], &[0, 1], none), Error::ContextOverflow { .. }));
    assert!(matches!(check(&[0, 1], &[0, 1], Want { logits: &[2], ..none }), Error::Rows { .. }));
    assert!(matches!(
        check(&[0, 1], &[0, 1], Want { attention: Some((&[0], &[0..1, 0..3])), ..none }),
        Error::Rows { .. }
    ));
}

/// Reads tokens behind what the cache has; gives the logits after each.
fn read(model: &LlamaModel, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = slots.iter().map(|&slot| slot as u32).collect();
    let all: Vec<usize> = (0..tokens.len()).collect();
    let rows = ForwardRows { tokens, positions: &positions, slots: &slots, ..ForwardRows::default() };
    forward(model, rows, cache, Want { logits: &all, ..Want::default() }).unwrap().logits
}

#[test]
fn a_clone_shares_its_pages_until_one_of_the_two_goes_another_way() {
    for (dtype, products) in [(GgmlDType::F32, Products::F32), (GgmlDType::Q4_1, Products::Stored)] {
        let (_folder, model) = load_with("llama", dtype, products);
        let page = model.kv_arena().page_bytes();
        let tokens = prompt(3 * KV_PAGE as u32 + 5);
        // At borders of pages and beside them.
        for at in [1, KV_PAGE - 1, KV_PAGE, KV_PAGE + 1, 2 * KV_PAGE + 7, 3 * KV_PAGE + 5] {
            let mut one = model.cache();
            read(&model, &mut one, &tokens[..at]);
            let mut two = one.clone();
            assert_eq!(model.kv_arena().n_bytes_taken(), at.div_ceil(KV_PAGE) * page);
            let left = read(&model, &mut two, &[1, 2, 3]);
            let right = read(&model, &mut one, &[4, 5, 6]);
            for (branch, got) in [([1, 2, 3], left), ([4, 5, 6], right)] {
                let mut fresh = model.cache();
                read(&model, &mut fresh, &tokens[..at]);
                assert!(read(&model, &mut fresh, &branch) == got, "{at} tokens shared");
            }
            drop((one, two));
            assert_eq!(model.kv_arena().n_bytes_taken(), 0);
        }
    }
}

#[test]
fn a_shared_page_that_is_written_over_stays_as_it_is_for_the_other() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let tokens = prompt(2 * KV_PAGE as u32 + 3);
    let mut original = model.cache();
    read(&model, &mut original, &tokens);
    let mut clone = original.clone();
    // Another token in the middle of the first page and at the start of the second.
    let (slots, positions) = ([KV_PAGE, 5], [KV_PAGE as u32, 5]);
    let rows = ForwardRows { tokens: &[9, 8], positions: &positions, slots: &slots, ..ForwardRows::default() };
    forward(&model, rows, &mut clone, Want::default()).unwrap();
    let mut fresh = model.cache();
    read(&model, &mut fresh, &tokens);
    let (untouched, changed) = (read(&model, &mut original, &[7]), read(&model, &mut clone, &[7]));
    assert!(untouched == read(&model, &mut fresh, &[7]));
    assert!(untouched != changed);
    // The same over the only copy.
    fresh.truncate(tokens.len());
    forward(&model, rows, &mut fresh, Want::default()).unwrap();
    assert!(changed == read(&model, &mut fresh, &[7]));
}

#[test]
fn an_arena_gives_no_more_than_its_budget_and_takes_pages_back() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let arena = model.kv_arena();
    let page = arena.page_bytes();
    arena.set_budget(3 * page + 1);
    let mut one = model.cache();
    read(&model, &mut one, &prompt(2 * KV_PAGE as u32));
    let mut two = model.cache();
    read(&model, &mut two, &[1]);
    assert_eq!((arena.n_bytes_taken(), arena.n_pages_left()), (3 * page, 0));
    let before = one.len();
    let error = model.forward(&mut [
        ForwardSequence { rows: one_row(&[2], &[1], &[1]), cache: &mut two, want: Want::default() },
        ForwardSequence { rows: one_row(&[2], &[before as u32], &[before]), cache: &mut one, want: Want::default() },
    ]);
    let Err(Error::KvArenaSpent { needed, left: 0, .. }) = error else { panic!("{error:?}") };
    assert_eq!((needed, one.len(), two.len()), (page, before, 1)); // Neither was changed.
    // A shared page cannot be copied either, and a page given back can be had again.
    let mut clone = one.clone();
    assert!(matches!(clone.keep(3, &[9]), Err(Error::KvArenaSpent { .. })));
    one.truncate(KV_PAGE);
    clone.truncate(KV_PAGE);
    assert_eq!(arena.n_pages_left(), 1);
    read(&model, &mut one, &[3]);
    drop((one, two, clone));
    assert_eq!((arena.n_bytes_taken(), arena.n_pages_left()), (0, 3));
}

fn one_row<'a>(token: &'a [u32], position: &'a [u32], slot: &'a [usize]) -> ForwardRows<'a> {
    ForwardRows { tokens: token, positions: position, slots: slot, ..ForwardRows::default() }
}

#[test]
fn sequences_together_are_those_alone_to_the_bit_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_model(&path, "qwen3", GgmlDType::Q4_1);
    let lengths = [1, 70, 3, 200, 64, 2];
    let texts: Vec<Vec<u32>> = lengths.iter().map(|&len| prompt(len + 5)[5..].to_vec()).collect();
    for products in [Products::F32, Products::Stored] {
        let mut expected: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 4] {
            let model = LlamaModel::load_gguf(&path, threads, products).unwrap();
            let alone = || texts.iter().map(|text| read(&model, &mut model.cache(), text)).collect();
            let expected = expected.get_or_insert_with(alone);
            let mut caches: Vec<KvCache> = texts.iter().map(|_| model.cache()).collect();
            // In two forwards, each sequence cut elsewhere.
            let mut got = vec![Vec::new(); texts.len()];
            for part in 0..2 {
                let ranges: Vec<_> = texts
                    .iter()
                    .enumerate()
                    .map(|(i, text)| {
                        let cut = (text.len() * (i + 1)).div_ceil(7);
                        if part == 0 { 0..cut } else { cut..text.len() }
                    })
                    .collect();
                let slots: Vec<Vec<usize>> = ranges.iter().map(|range| range.clone().collect()).collect();
                let positions: Vec<Vec<u32>> =
                    ranges.iter().map(|r| (r.start as u32..r.end as u32).collect()).collect();
                let rows: Vec<Vec<usize>> = ranges.iter().map(|range| (0..range.len()).collect()).collect();
                let mut sequences: Vec<ForwardSequence<'_>> = Vec::new();
                let mut of = Vec::new();
                for (i, cache) in caches.iter_mut().enumerate().filter(|(i, _)| !ranges[*i].is_empty()) {
                    let tokens = &texts[i][ranges[i].clone()];
                    let (positions, slots) = (&*positions[i], &*slots[i]);
                    let rows_of = ForwardRows { tokens, positions, slots, ..ForwardRows::default() };
                    let want = Want { logits: &rows[i], ..Want::default() };
                    sequences.push(ForwardSequence { rows: rows_of, cache, want });
                    of.push(i);
                }
                for (i, forwarded) in of.into_iter().zip(model.forward(&mut sequences).unwrap()) {
                    got[i].extend(forwarded.logits);
                }
            }
            assert!(&got == expected, "{products:?} on {threads} threads");
        }
    }
}

#[test]
fn a_branch_of_a_tree_is_the_text_with_it_alone_to_the_bit() {
    for (dtype, products) in [(GgmlDType::F32, Products::F32), (GgmlDType::Q4_1, Products::Stored)] {
        let (_folder, model) = load_with("llama", dtype, products);
        let len = KV_PAGE - 3; // Branches lie across the border of a page.
        let start = prompt(len as u32);
        let mut cache = model.cache();
        read(&model, &mut cache, &start);
        // 7 ─ 11 ─ 12 ─ 13
        //  │     └ 14
        //  └ 15 ─ 16
        let tokens = [7, 11, 12, 13, 14, 15, 16];
        let positions = [0, 1, 2, 3, 2, 1, 2].map(|depth| (len + depth) as u32);
        let slots: Vec<usize> = (len..len + 7).collect();
        let views = [
            View { rows: 0..4, slots: &[0..len, len..len + 4] },
            View { rows: 4..5, slots: &[0..len + 2, len + 4..len + 5] },
            View { rows: 5..7, slots: &[0..len + 1, len + 5..len + 7] },
        ];
        let rows = ForwardRows {
            tokens: &tokens,
            positions: &positions,
            slots: &slots,
            views: &views,
            ..ForwardRows::default()
        };
        let want = Want { logits: &[0, 1, 2, 3, 4, 5, 6], ..Want::default() };
        let logits = forward(&model, rows, &mut cache, want).unwrap().logits;
        let paths: [&[usize]; 3] = [&[0, 1, 2, 3], &[0, 1, 4], &[0, 5, 6]];
        for path in paths {
            let mut alone = model.cache();
            read(&model, &mut alone, &start);
            let branch: Vec<u32> = path.iter().map(|&node| tokens[node]).collect();
            let expected = read(&model, &mut alone, &branch);
            for (&node, expected) in path.iter().zip(expected.chunks_exact(VOCAB)) {
                assert!(&logits[node * VOCAB..(node + 1) * VOCAB] == expected, "{products:?} {path:?} {node}");
            }
            // The branch is kept and the text goes on.
            let mut kept = cache.clone();
            kept.keep(len, &path.iter().map(|node| len + node).collect::<Vec<_>>()).unwrap();
            assert!(read(&model, &mut kept, &[20, 21]) == read(&model, &mut alone, &[20, 21]));
        }
        let mut refuse = |views: &[View<'_>]| {
            let result = forward(&model, ForwardRows { views, ..rows }, &mut cache, Want::default());
            assert!(matches!(result, Err(Error::Rows { .. })));
        };
        refuse(&views[1..]);
        refuse(&views[..2]);
        refuse(&[View { rows: 0..7, slots: &[0..2, 2..len + 8] }]);
    }
}
