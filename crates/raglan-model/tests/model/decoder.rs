//! The forward against candle's own, on small models with random weights.

use std::ops::{ControlFlow, Range};

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use raglan_kernels::{RotaryEmbedding, RotaryPairs, RotaryScaling};
use raglan_kv::{Error as KvError, KV_PAGE, KvCache};
use raglan_model::{
    Attending, DecoderModel, Error, ForwardRows, ForwardSequence, Forwarded, Products, Result, View, Want,
};
use serde_json::json;

use crate::small_model::{CONTEXT, HEADS, HIDDEN, SmallModel, VOCAB, distance, gguf_oracle, prompt};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3"];

fn load_with(family: &'static str, dtype: GgmlDType, products: Products) -> (tempfile::TempDir, DecoderModel) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::new(family).write_gguf(&path, dtype);
    let model = DecoderModel::load(path, 2, products).unwrap();
    (folder, model)
}

fn load(family: &'static str, dtype: GgmlDType) -> (tempfile::TempDir, DecoderModel) {
    load_with(family, dtype, Products::F32)
}

/// Loads a model from a folder of safetensors.
fn load_folder(model: &SmallModel, dtype: DType, products: Products) -> DecoderModel {
    let folder = tempfile::tempdir().unwrap();
    model.write_folder(folder.path(), dtype);
    DecoderModel::load(folder.path(), 2, products).unwrap()
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
fn shards_and_halved_weights_are_read() {
    let tokens = prompt(20);
    for (dtype, rounding) in [(DType::BF16, GgmlDType::BF16), (DType::F16, GgmlDType::F16)] {
        // Norms are matrices to no one: those of this model are rounded in the file alone.
        let mut small = SmallModel::new("llama").rounded(rounding);
        for tensor in small.tensors.values_mut() {
            *tensor = tensor.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        small.write_shards(folder.path(), dtype);
        for products in [Products::F32, Products::Candle] {
            let model = DecoderModel::load(folder.path(), 2, products).unwrap();
            check_near("shards", &model.session().prefill(&tokens).unwrap(), &small.oracle(&tokens), NEAR);
        }
    }
}

#[test]
fn low_frequencies_are_slowed_as_llama_3_has_it() {
    let mut small = SmallModel::new("llama");
    small.config["rope_scaling"] = json!({
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let tokens = prompt(100);
    let from_folder = load_folder(&small, DType::F32, Products::F32);
    let got = from_folder.session().prefill(&tokens).unwrap();
    check_near("llama3", &got, &small.oracle(&tokens), NEAR);
    assert!(distance(&got, &load("llama", GgmlDType::F32).1.session().prefill(&tokens).unwrap()) > 1.0);

    // A GGUF file has the divisors as a tensor.
    let rope = |scaling| RotaryEmbedding::new(16, 10_000.0, RotaryPairs::Halves, &scaling).unwrap();
    let (plain, slowed) = (rope(RotaryScaling::None), rope(from_folder.config().rope.scaling.clone()));
    let divisors = plain.frequencies().iter().zip(slowed.frequencies()).map(|(a, b)| (a / b) as f32).collect();
    let divisors = Tensor::from_vec(divisors, 8, &Device::Cpu).unwrap();
    small.tensors.insert("rope_freqs.weight".into(), divisors);
    let folder = tempfile::tempdir().unwrap();
    small.write_gguf(&folder.path().join("model.gguf"), GgmlDType::F32);
    let from_gguf = DecoderModel::load(folder.path().join("model.gguf"), 2, Products::F32).unwrap();
    check_near("rope_freqs", &from_gguf.session().prefill(&tokens).unwrap(), &got, NEAR);
}

#[test]
fn gguf_files_name_their_rotary_scaling() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let load = |metadata: Vec<(&'static str, Value)>| {
        let mut small = SmallModel::new("qwen2");
        small.metadata = metadata;
        small.write_gguf(&path, GgmlDType::F32);
        DecoderModel::load(&path, 1, Products::F32)
    };
    let text = |text: &str| Value::String(text.to_owned());
    let scaling = |metadata| load(metadata).unwrap().config().rope.scaling.clone();
    assert_eq!(
        scaling(vec![("rope.scaling.type", text("none")), ("rope.scaling.factor", Value::F32(2.0))]),
        RotaryScaling::None
    );
    let linear = RotaryScaling::Linear { factor: 2.0 };
    assert_eq!(scaling(vec![("rope.scaling.type", text("linear")), ("rope.scaling.factor", Value::F32(2.0))]), linear);
    assert_eq!(scaling(vec![("rope.scale_linear", Value::F32(2.0))]), linear);
    let yarn = || vec![("rope.scaling.type", text("yarn")), ("rope.scaling.factor", Value::F32(4.0))];
    assert!(matches!(load(yarn()), Err(Error::Malformed { .. })));
    let mut whole = yarn();
    whole.push(("rope.scaling.original_context_length", Value::U32(500)));
    let model = load(whole).unwrap();
    let expected = RotaryScaling::Yarn { factor: 4.0, original_len: 500, beta_fast: 32.0, beta_slow: 1.0 };
    assert_eq!((&model.config().rope.scaling, model.config().context_len), (&expected, 2000));
    assert!(matches!(load(vec![("rope.scaling.type", text("longrope"))]), Err(Error::Unsupported { .. })));
}

#[test]
fn a_folder_that_is_amiss_is_a_typed_error() {
    let small = SmallModel::new("llama");
    let folder = tempfile::tempdir().unwrap();
    let load = || DecoderModel::load(folder.path(), 1, Products::F32);
    assert!(matches!(load(), Err(Error::Io { path, .. }) if path.ends_with("config.json")));
    small.write_folder(folder.path(), DType::F32);
    load().unwrap();
    let with = |key: &str, value: serde_json::Value| {
        let mut config = small.config.clone();
        config[key] = value;
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        load().unwrap_err()
    };
    assert!(matches!(with("model_type", json!("rwkv")), Error::Unsupported { .. }));
    assert!(matches!(with("quantization_config", json!({})), Error::Unsupported { .. }));
    assert!(matches!(with("hidden_size", json!(0)), Error::Malformed { .. }));
    assert!(matches!(with("num_key_value_heads", json!(4)), Error::Malformed { .. }));
    assert!(matches!(with("rope_theta", json!(-1.0)), Error::Malformed { .. }));
    let problem = with("intermediate_size", json!(161)).to_string();
    assert!(problem.contains("has shape [160, 96] where [161, 96] is needed"), "{problem}");
    let problem = with("num_hidden_layers", json!(4)).to_string();
    assert!(problem.contains("no tensor `model.layers.3."), "{problem}");
    let problem = with("num_hidden_layers", json!(2)).to_string();
    assert!(problem.contains("tensor `model.layers.2.") && problem.contains("it has 2"), "{problem}");
    assert!(matches!(with("rms_norm_eps", json!(0.0)), Error::Malformed { .. }));
    let problem = with("eos_token_id", json!([1, 67])).to_string();
    assert!(problem.contains("`eos_token_id` is 67, and the vocabulary has 67 tokens"), "{problem}");
}

#[test]
fn a_gguf_file_that_is_amiss_is_a_typed_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut small = SmallModel::new("llama");
    let (name, extra) = small.tensors.iter().find(|(name, _)| name.contains("layers.2.")).unwrap();
    let (name, extra) = (name.replace("layers.2.", "layers.30."), extra.clone());
    small.tensors.insert(name, extra);
    small.write_gguf(&path, GgmlDType::F32);
    let problem = DecoderModel::load(&path, 1, Products::F32).unwrap_err().to_string();
    assert!(problem.contains("tensor `blk.30.") && problem.contains("it has 3"), "{problem}");
}

#[test]
fn a_prompt_read_in_pieces_gives_the_same_logits() {
    for family in FAMILIES {
        let (_folder, model) = load(family, GgmlDType::F32);
        let tokens = prompt(600); // Three internal chunks at once; across their borders in pieces.
        let at_once = model.session().prefill(&tokens).unwrap();
        let mut session = model.session();
        let mut in_pieces = Vec::new();
        for piece in [&tokens[..100], &tokens[100..397], &tokens[397..]] {
            in_pieces = session.prefill(piece).unwrap();
        }
        assert!(at_once == in_pieces, "{family}");
        assert_eq!(session.n_tokens(), 600);
    }
}

#[test]
fn single_steps_agree_with_a_prefill() {
    for family in FAMILIES {
        let (_folder, model) = load(family, GgmlDType::F32);
        let tokens = prompt(40);
        let whole = model.session().prefill(&tokens).unwrap();
        let mut session = model.session();
        session.prefill(&tokens[..30]).unwrap();
        let stepped = tokens[30..].iter().map(|&token| session.step(token).unwrap()).last().unwrap();
        assert!(whole == stepped, "{family}");
    }
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
    assert!(matches!(DecoderModel::load(&path, 1, Products::Stored), Err(Error::Unsupported { .. })));
    SmallModel::new("llama").write_gguf(&path, GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(16).position(|name| name == b"blk.1.ffn_up.wei").unwrap();
    let mut renamed = bytes;
    renamed[at + 4] = b'9';
    std::fs::write(&path, renamed).unwrap();
    let problem = DecoderModel::load(&path, 1, Products::Stored).unwrap_err().to_string();
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

/// Sends rows of one sequence through.
fn forward(model: &DecoderModel, rows: ForwardRows<'_>, cache: &mut KvCache, want: Want<'_>) -> Result<Forwarded> {
    Ok(model.forward(&mut [ForwardSequence { rows, cache, want, attending: Attending::All }])?.remove(0))
}

/// All of a prompt, in the order of `order`, each token to the slot it has in the prompt.
fn shuffled(model: &DecoderModel, tokens: &[u32], order: &[usize]) -> Vec<f32> {
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
    for family in FAMILIES {
        let (_folder, model) = load(family, GgmlDType::F32);
        let tokens = prompt(37);
        let order: Vec<usize> = (0..37).map(|i| i * 5 % 37).collect();
        assert!(shuffled(&model, &tokens, &order) == model.session().prefill(&tokens).unwrap(), "{family}");
    }
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
    assert_eq!(forwarded.attention.len(), 3 * HEADS * 3);
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
    assert!(matches!(check(&[0, 1], &[0, 0], none), Error::Rows { .. }));
    assert!(matches!(check(&[0, CONTEXT], &[0, 1], none), Error::ContextOverflow { .. }));
    assert!(matches!(check(&[0, 1], &[0, 1], Want { logits: &[2], ..none }), Error::Rows { .. }));
    assert!(matches!(
        check(&[0, 1], &[0, 1], Want { attention: Some((&[0], &[0..1, 0..3])), ..none }),
        Error::Rows { .. }
    ));
}

#[test]
fn a_view_has_each_slot_once() {
    let (_folder, model) = load("llama", GgmlDType::F32);
    let check = |seen: &[Range<usize>]| {
        let views = [View { rows: 0..3, slots: seen }];
        let rows = ForwardRows {
            tokens: &[1, 2, 3],
            positions: &[0, 1, 2],
            slots: &[0, 1, 2],
            views: &views,
            ..<_>::default()
        };
        forward(&model, rows, &mut model.cache(), Want::default())
    };
    check(&[1..2, 2..2, 0..1, 2..3]).unwrap();
    assert!(matches!(check(&[0..2, 1..3]), Err(Error::Rows { .. })));
    assert!(matches!(check(&[0..1, 1..3, 0..1]), Err(Error::Rows { .. })));
}

/// Reads tokens behind what the cache has; gives the logits after each.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32]) -> Vec<f32> {
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
        ForwardSequence {
            rows: one_row(&[2], &[1], &[1]),
            cache: &mut two,
            want: Want::default(),
            attending: Attending::All,
        },
        ForwardSequence {
            rows: one_row(&[2], &[before as u32], &[before]),
            cache: &mut one,
            want: Want::default(),
            attending: Attending::All,
        },
    ]);
    let Err(Error::Kv(KvError::ArenaSpent { needed, left: 0, .. })) = error else { panic!("{error:?}") };
    assert_eq!((needed, one.len(), two.len()), (page, before, 1)); // Neither was changed.
    // A shared page cannot be copied either, and a page given back can be had again.
    let mut clone = one.clone();
    assert!(matches!(clone.keep(3, &[9]), Err(KvError::ArenaSpent { .. })));
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
    check_together("qwen3");
    check_together("gemma3");
}

fn check_together(family: &'static str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::new(family).write_gguf(&path, GgmlDType::Q4_1);
    let lengths = [1, 70, 3, 200, 64, 2];
    let texts: Vec<Vec<u32>> = lengths.iter().map(|&len| prompt(len + 5)[5..].to_vec()).collect();
    for products in [Products::F32, Products::Stored] {
        let mut expected: Option<Vec<Vec<f32>>> = None;
        for threads in [1, 2, 4] {
            let model = DecoderModel::load(&path, threads, products).unwrap();
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
                    sequences.push(ForwardSequence { rows: rows_of, cache, want, attending: Attending::All });
                    of.push(i);
                }
                for (i, forwarded) in of.into_iter().zip(model.forward(&mut sequences).unwrap()) {
                    got[i].extend(forwarded.logits);
                }
            }
            assert!(&got == expected, "{family}, {products:?} on {threads} threads");
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
