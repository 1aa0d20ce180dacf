//! Keys and values that are taken out of one text and put into another, and passes that go layer by layer.

use candle_core::quantized::GgmlDType;
use raglan_kernels::KvSlice;
use raglan_kv::{BlockPrecision, Error as KvError, KV_PAGE, KvBlock, KvCache};
use raglan_model::{DecoderModel, Products};

use crate::small_model::{HEADS, SmallModel, distance, prompt};

const FAMILIES: [&str; 5] = ["llama", "mistral", "qwen2", "qwen3", "gemma3"];

fn load(family: &'static str, products: Products) -> DecoderModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    SmallModel::new(family).write_gguf(&path, GgmlDType::F32);
    DecoderModel::load(path, 2, products).unwrap()
}

/// Reads tokens behind what the cache has, the first of them at `position`; gives the logits after the last.
fn read(model: &DecoderModel, cache: &mut KvCache, tokens: &[u32], position: u32) -> Vec<f32> {
    let slots: Vec<usize> = (cache.len()..cache.len() + tokens.len()).collect();
    let positions: Vec<u32> = (position..).take(tokens.len()).collect();
    let mut pass = model.begin_pass(cache, tokens, &positions, &slots).unwrap();
    pass.finish().unwrap();
    pass.logits(&[tokens.len() - 1]).unwrap()
}

/// The keys and the values of some slots, all layers.
fn numbers(model: &DecoderModel, cache: &KvCache, slots: std::ops::Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let widen = |slice: KvSlice<'_>| match slice {
        KvSlice::F32(numbers) => numbers.to_vec(),
        KvSlice::F16(bits) => bits.iter().map(|&bits| half::f16::from_bits(bits).to_f32()).collect(),
    };
    let runs = (0..model.config().n_layers).flat_map(|layer| cache.runs(layer, slots.clone()));
    let (keys, values): (Vec<_>, Vec<_>) = runs.map(|run| (widen(run.keys), widen(run.values))).unzip();
    (keys.concat(), values.concat())
}

#[test]
fn a_block_back_at_its_place_is_as_it_was_to_the_bit() {
    for (products, precision) in [
        (Products::F32, BlockPrecision::F32),
        (Products::Stored, BlockPrecision::F16),
        (Products::Stored, BlockPrecision::F32),
    ] {
        for family in FAMILIES {
            let model = load(family, products);
            let tokens = prompt(2 * KV_PAGE as u32 + 9);
            let mut original = model.cache();
            read(&model, &mut original, &tokens, 0);
            // Neither at the border of a page nor of one page's length.
            let (start, end) = (5, 2 * KV_PAGE + 1);
            let block = KvBlock::from_cache(&original, start..end, model.kv_shape(), precision, &model).unwrap();
            assert_eq!((block.n_tokens(), block.start()), (end - start, start as u32));
            let mut other = model.cache();
            read(&model, &mut other, &tokens[..start], 0);
            other.append(&block, start as u32, &model).unwrap();
            assert!(numbers(&model, &other, 0..end) == numbers(&model, &original, 0..end), "{family} {precision:?}");
            let after = read(&model, &mut other, &tokens[end..], end as u32);
            let mut whole = model.cache();
            assert!(after == read(&model, &mut whole, &tokens, 0), "{family} {precision:?}");
        }
    }
}

#[test]
fn a_chunk_read_at_two_places_moves_to_the_same_keys() {
    for family in FAMILIES {
        let model = load(family, Products::F32);
        let chunk = prompt(40);
        let at = |position: u32| {
            let mut cache = model.cache();
            read(&model, &mut cache, &chunk, position);
            KvBlock::from_cache(&cache, 0..40, model.kv_shape(), BlockPrecision::F32, &model).unwrap()
        };
        let (near, far) = (at(0), at(600));
        let placed = |block: &KvBlock, position: u32| {
            let mut cache = model.cache();
            cache.append(block, position, &model).unwrap();
            assert_eq!(cache.next_position(), position + 40);
            numbers(&model, &cache, 0..40)
        };
        for position in [0, 77, 600] {
            let ((keys, values), (far_keys, far_values)) = (placed(&near, position), placed(&far, position));
            assert!(distance(&keys, &far_keys) <= 1e-3, "{family} at {position}: {}", distance(&keys, &far_keys));
            assert!(distance(&values, &far_values) <= 1e-3, "{family} at {position}");
        }
        assert!(distance(&placed(&near, 0).0, &placed(&near, 77).0) > 0.1, "{family}");
    }
}

#[test]
fn shorter_numbers_come_near() {
    for family in FAMILIES {
        let model = load(family, Products::F32);
        let mut cache = model.cache();
        read(&model, &mut cache, &prompt(90), 3);
        let placed = |precision| {
            let block = KvBlock::from_cache(&cache, 10..90, model.kv_shape(), precision, &model).unwrap();
            let mut other = model.cache();
            other.append(&block, 200, &model).unwrap();
            (numbers(&model, &other, 0..80), block.n_bytes())
        };
        let ((keys, values), n_bytes) = placed(BlockPrecision::F32);
        let most = |numbers: &[f32]| numbers.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        // Half a unit of the last place of the largest, and of a scale of 127 steps; keys turn in addition.
        for (precision, share, smaller) in [
            (BlockPrecision::F16, 1.0 / 2048.0, 1.9),
            (BlockPrecision::Bf16, 1.0 / 256.0, 1.9),
            (BlockPrecision::Int8, 1.5 / 254.0, 3.0),
        ] {
            let ((near_keys, near_values), bytes) = placed(precision);
            assert!(distance(&keys, &near_keys) <= most(&keys) * share, "{family} {precision:?}");
            assert!(distance(&values, &near_values) <= most(&values) * share, "{family} {precision:?}");
            assert!(bytes as f64 * smaller <= n_bytes as f64, "{precision:?}: {bytes} of {n_bytes}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = load("llama", Products::F32);
    let mut cache = model.cache();
    read(&model, &mut cache, &prompt(20), 0);
    read(&model, &mut cache, &prompt(20), 50);
    let take = |slots| KvBlock::from_cache(&cache, slots, model.kv_shape(), BlockPrecision::F16, &model);
    assert!(matches!(take(30..41), Err(KvError::Slots { .. })));
    assert!(matches!(take(10..30), Err(KvError::Slots { .. })));
    let block = take(20..40).unwrap();
    let gemma = load("gemma3", Products::F32);
    let error = gemma.cache().append(&block, 0, &gemma).unwrap_err();
    assert!(matches!(error, KvError::Shape { .. }), "{error}");
    assert_eq!(take(7..7).unwrap().n_tokens(), 0);
}

#[test]
fn rows_that_go_on_alone_give_what_they_would_have_given() {
    for family in FAMILIES {
        let model = load(family, Products::F32);
        let tokens = prompt(100);
        let mut whole = model.cache();
        let expected = read(&model, &mut whole, &tokens, 0);
        // All keys and values are there, so the last rows give the same when the others stop half way.
        let mut again = whole.clone();
        let places: Vec<usize> = (0..100).collect();
        let positions: Vec<u32> = (0..100).collect();
        let mut pass = model.begin_pass(&mut again, &tokens, &positions, &places).unwrap();
        pass.layer().unwrap();
        pass.retain(&[3, 98, 99]);
        assert_eq!(pass.slots(), [3, 98, 99]);
        pass.finish().unwrap();
        assert!(pass.logits(&[2]).unwrap() == expected, "{family}");
    }
}

#[test]
fn shares_of_attention_add_up_and_are_what_mass_is_made_of() {
    for family in FAMILIES {
        let model = load(family, Products::F32);
        let (tokens, slots) = (prompt(150), (0..150).collect::<Vec<_>>());
        let positions: Vec<u32> = (0..150).collect();
        let mut cache = model.cache();
        let mut pass = model.begin_pass(&mut cache, &tokens, &positions, &slots).unwrap();
        while !pass.is_finished() {
            pass.layer().unwrap();
            let rows = 70..150;
            let whole = 0..150;
            let all = pass.attention_share(rows.clone(), std::slice::from_ref(&whole)).unwrap();
            assert_eq!(all.len(), 80 * HEADS);
            assert!(all.iter().all(|share| (share - 1.0).abs() <= 1e-5), "{family}");
            let part = pass.attention_share(rows.clone(), &[0..10, 30..80]).unwrap();
            let rest = pass.attention_share(rows.clone(), &[10..30, 80..150]).unwrap();
            assert!(part.iter().zip(&rest).all(|(a, b)| (a + b - 1.0).abs() <= 1e-5), "{family}");
            let mass = pass.attention_mass(&rows.collect::<Vec<_>>(), &[0..10, 30..80]).unwrap();
            for head in 0..HEADS {
                let sum: f32 = part.iter().skip(head).step_by(HEADS).sum();
                let expected = mass[2 * head] + mass[2 * head + 1];
                assert!((sum - expected).abs() <= 1e-3, "{family}: {sum} and {expected}");
            }
        }
    }
}
