//! The forward against candle's own, on small models with random weights.

mod small_model;

use std::ops::ControlFlow;

use candle_core::DType;
use candle_core::quantized::GgmlDType;
use raglan_kernels::AttentionMask;
use raglan_model::{Error, ForwardRows, LlamaModel, Products, Want};

use small_model::{CONTEXT, HEADS, HIDDEN, SmallModel, VOCAB, distance, gguf_oracle, prompt};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3"];

fn load_with(family: &'static str, dtype: GgmlDType, products: Products) -> (tempfile::TempDir, LlamaModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::new(family).write_gguf(&path, dtype);
    let model = LlamaModel::load(path, 2, products).unwrap();
    (folder, model)
}

fn load(family: &'static str, dtype: GgmlDType) -> (tempfile::TempDir, LlamaModel) {
    load_with(family, dtype, Products::F32)
}

/// Loads a model from a folder of safetensors.
fn load_folder(model: &SmallModel, dtype: DType, products: Products) -> LlamaModel {
    let folder = tempfile::tempdir().unwrap();
    model.write_folder(folder.path(), dtype);
    LlamaModel::load(folder.path(), 2, products).unwrap()
}

/// What the greatest difference to candle may be, over logits whose standard deviation is about 7.
const NEAR: f32 = 1e-3;

#[track_caller]
fn check_near(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    let distance = distance(got, expected);
    assert!(distance <= tolerance, "{what}: {distance}");
}

#[test]
fn logits_from_gguf_are_those_of_candle() {
    for family in FAMILIES {
        for dtype in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0] {
            let (folder, model) = load(family, dtype);
            let small = SmallModel::new(family).rounded(dtype);
            for len in [1, 2, 50] {
                let (what, tokens) = (format!("{family}, {dtype:?}, {len} tokens"), prompt(len));
                let got = model.session().prefill(&tokens).unwrap();
                check_near(&what, &got, &small.oracle(&tokens), NEAR);
                if dtype == GgmlDType::F32 && matches!(family, "llama" | "qwen2" | "qwen3") {
                    let expected = gguf_oracle(&folder.path().join("model.gguf"), family, &tokens);
                    check_near(&what, &got, &expected, NEAR);
                }
            }
        }
    }
}

#[test]
fn logits_from_safetensors_are_those_of_candle() {
    for family in FAMILIES {
        let small = SmallModel::new(family);
        let model = load_folder(&small, DType::F32, Products::F32);
        for len in [1, 2, 50] {
            let tokens = prompt(len);
            let got = model.session().prefill(&tokens).unwrap();
            check_near(&format!("{family}, {len} tokens"), &got, &small.oracle(&tokens), NEAR);
        }
    }
}

#[test]
fn both_formats_hold_the_same_model() {
    let tokens = prompt(50);
    for family in FAMILIES {
        let from_gguf = load(family, GgmlDType::F32).1;
        let from_folder = load_folder(&SmallModel::new(family), DType::F32, Products::F32);
        let [a, b] = [from_gguf, from_folder].map(|model| model.session().prefill(&tokens).unwrap());
        check_near(family, &a, &b, 1e-4);
    }
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
    SmallModel::new("llama").write_gguf_as(&path, "rwkv", GgmlDType::F32);
    assert!(matches!(LlamaModel::load(&path, 1, Products::Stored), Err(Error::Unsupported { .. })));
    SmallModel::new("llama").write_gguf(&path, GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(16).position(|name| name == b"blk.1.ffn_up.wei").unwrap();
    let mut renamed = bytes;
    renamed[at + 4] = b'9';
    std::fs::write(&path, renamed).unwrap();
    let problem = LlamaModel::load(&path, 1, Products::Stored).unwrap_err().to_string();
    assert!(problem.contains("no tensor `blk.1.ffn_up.weight`") && problem.contains("model.gguf"), "{problem}");
}

#[test]
fn candles_products_and_ours_agree_and_blocks_are_near() {
    let tokens = prompt(50);
    for architecture in ["llama", "qwen2", "qwen3", "gemma3"] {
        let logits = |dtype, products| load_with(architecture, dtype, products).1.session().prefill(&tokens).unwrap();
        let ours = logits(GgmlDType::F32, Products::F32);
        assert!(distance(&ours, &logits(GgmlDType::F32, Products::Candle)) <= 2e-3);
        assert!(distance(&ours, &logits(GgmlDType::F32, Products::Stored)) <= 0.1); // Keys and values in half precision.
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::Q5_0] {
            let (exact, blocks) = (logits(dtype, Products::F32), logits(dtype, Products::Stored));
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let cosine = dot(&exact, &blocks) / (dot(&exact, &exact) * dot(&blocks, &blocks)).sqrt();
            assert!(cosine >= 0.998, "{architecture} {dtype:?}: {cosine}");
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

/// All of a prompt, in the order of `order`, each token to the slot it has in the prompt.
fn shuffled(model: &LlamaModel, tokens: &[u32], order: &[usize]) -> Vec<f32> {
    let mut cache = model.cache();
    let place: Vec<usize> = (0..tokens.len()).collect();
    let positions: Vec<u32> = place.iter().map(|&at| at as u32).collect();
    let mask = AttentionMask::default();
    // Once with other tokens, so that the slots are there and what is in them must be written over.
    let others: Vec<u32> = tokens.iter().map(|token| (token + 1) % VOCAB as u32).collect();
    let rows = ForwardRows { tokens: &others, positions: &positions, slots: &place, segments: None, mask };
    model.forward(&rows, &mut cache, &Want::default()).unwrap();
    let tokens: Vec<u32> = order.iter().map(|&at| tokens[at]).collect();
    let positions: Vec<u32> = order.iter().map(|&at| at as u32).collect();
    let last = order.iter().position(|&at| at == order.len() - 1).unwrap();
    let rows = ForwardRows { tokens: &tokens, positions: &positions, slots: order, segments: None, mask };
    model.forward(&rows, &mut cache, &Want { logits: &[last], ..Want::default() }).unwrap().logits
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
    let rows = ForwardRows {
        tokens: &tokens,
        positions: &positions,
        slots: &place,
        segments: None,
        mask: AttentionMask::default(),
    };
    let want = Want { logits: &[3], hidden: &[0, 19], attention: Some((&[18, 19], &[0..7, 7..20, 4..4])) };
    let forwarded = model.forward(&rows, &mut model.cache(), &want).unwrap();
    assert_eq!(forwarded.logits.len(), VOCAB);
    assert_eq!(forwarded.hidden.len(), 2 * HIDDEN);
    assert_eq!(forwarded.attention.len(), 3 * HEADS * 3);
    for head in forwarded.attention.chunks_exact(3) {
        assert!((head[0] + head[1] - 2.0).abs() <= 1e-4 && head[2] == 0.0, "{head:?}"); // Two rows.
    }
}

#[test]
fn rows_that_do_not_fit_together_are_errors_that_change_nothing() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let mut cache = model.cache();
    let mut check = |positions: &[u32], slots: &[usize], want: &Want<'_>| {
        let rows = ForwardRows { tokens: &[1, 2], positions, slots, segments: None, mask: AttentionMask::default() };
        let result = model.forward(&rows, &mut cache, want);
        assert!(cache.is_empty());
        result.unwrap_err()
    };
    let none = Want::default();
    assert!(matches!(check(&[0], &[0, 1], &none), Error::Rows { .. }));
    assert!(matches!(check(&[0, 1], &[0, 2], &none), Error::Rows { .. }));
    assert!(matches!(check(&[0, CONTEXT], &[0, 1], &none), Error::ContextOverflow { .. }));
    assert!(matches!(check(&[0, 1], &[0, 1], &Want { logits: &[2], ..none }), Error::Rows { .. }));
    assert!(matches!(
        check(&[0, 1], &[0, 1], &Want { attention: Some((&[0], &[0..1, 0..3])), ..none }),
        Error::Rows { .. }
    ));
}
