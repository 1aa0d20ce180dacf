//! The default language model itself: its tokenizer, and whether it knows what it should.
//!
//! These tests run when the model is in the cache, say so when it is not, and fail then if `RAGLAN_REQUIRE_MODELS` is
//! set.

use std::fs::File;
use std::path::PathBuf;

use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama;
use raglan_model::registry::ModelCache;
use raglan_model::{DecoderModel, GgufFile, Products, Tokenizer};

pub fn model_file() -> Option<PathBuf> {
    let cache = ModelCache::new(None, true).unwrap();
    let found = cache.path("smollm2-135m-instruct").map(|folder| folder.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    match found.map_err(|e| e.to_string()).and_then(|path| path.exists().then_some(path).ok_or("no file".to_owned())) {
        Ok(path) => Some(path),
        Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
        Err(e) => {
            eprintln!("skipped, for want of the model: {e}");
            None
        }
    }
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32
}

#[test]
fn text_survives_the_tokenizer() {
    let Some(path) = model_file() else { return };
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(path).unwrap()).unwrap();
    for text in [
        "Hello",
        " Hello  world\n\n",
        "naïve café, 漢字, 🦀🧪, \u{200b}, \t12,345.67",
        "fn main() {\n    println!(\"{}\", 1);\n}",
        "",
    ] {
        let encoding = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&encoding.ids).unwrap(), text);
        let mut stream = tokenizer.decode_stream();
        let mut streamed: String = encoding.ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, text);
    }
}

#[test]
fn tokens_are_those_of_the_models_own_tokenizer() {
    let Some(path) = model_file() else { return };
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(path).unwrap()).unwrap();
    let pieces = |text: &str| -> Vec<String> {
        tokenizer.encode(text, true).unwrap().ids.iter().map(|id| tokenizer.token(*id).unwrap()).collect()
    };
    // No space before the text, digits one by one, control tokens whole.
    assert_eq!(pieces("Hello 2024"), ["Hello", "Ġ", "2", "0", "2", "4"]);
    assert_eq!(pieces("<|im_start|>user\nHi<|im_end|>"), ["<|im_start|>", "user", "Ċ", "Hi", "<|im_end|>"]);
    let defused = tokenizer.defuse("a <|im_end|> b");
    let control = tokenizer.token_id("<|im_end|>").unwrap();
    assert!(!tokenizer.encode(&defused, true).unwrap().ids.contains(&control));
    let spans = tokenizer.encode("né 漢", false).unwrap().spans;
    assert!(spans.iter().all(|span| "né 漢".get(span.clone()).is_some()), "{spans:?}");
}

#[test]
fn broken_utf8_from_the_model_comes_out_as_replacement_characters_at_most() {
    let Some(path) = model_file() else { return };
    let tokenizer = Tokenizer::from_gguf(&GgufFile::open(path).unwrap()).unwrap();
    let mut half = tokenizer.encode("漢", false).unwrap().ids;
    assert!(half.len() > 1, "the character is one token");
    half.pop();
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    for id in half.into_iter().chain(tokenizer.encode(" then words", false).unwrap().ids) {
        text += &stream.push(id).unwrap();
    }
    text += &stream.finish().unwrap();
    assert!(text.ends_with(" then words") && text.starts_with('\u{fffd}'), "{text:?}");
}

#[test]
fn the_model_knows_a_capital() {
    let Some(path) = model_file() else { return };
    let file = GgufFile::open(&path).unwrap();
    let (tokenizer, model) =
        (Tokenizer::from_gguf(&file).unwrap(), DecoderModel::from_gguf(&file, 2, Products::F32).unwrap());
    assert_eq!(model.config().end_tokens.len(), 2); // `<|im_end|>` and `<|endoftext|>`.
    let mut session = model.session();
    let mut logits = session.prefill(&tokenizer.encode("The capital of France is", true).unwrap().ids).unwrap();
    let mut ids = Vec::new();
    for _ in 0..6 {
        ids.push(argmax(&logits));
        logits = session.step(*ids.last().unwrap()).unwrap();
    }
    let text = tokenizer.decode(&ids).unwrap();
    assert!(text.starts_with(" Paris"), "{text:?}");
}

#[test]
fn logits_are_near_those_of_candles_own_quantised_forward() {
    let Some(path) = model_file() else { return };
    let file = GgufFile::open(&path).unwrap();
    let (tokenizer, model) =
        (Tokenizer::from_gguf(&file).unwrap(), DecoderModel::from_gguf(&file, 2, Products::F32).unwrap());
    let ids = tokenizer.encode("Water boils at a lower temperature on a mountain because", true).unwrap().ids;
    let got = model.session().prefill(&ids).unwrap();
    let mut reader = File::open(&path).unwrap();
    let content = gguf_file::Content::read(&mut reader).unwrap();
    let mut oracle = quantized_llama::ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).unwrap();
    let input = Tensor::new(ids.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let expected: Vec<f32> = oracle.forward(&input, 0).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    // Candle rounds activations to eight bits before each product, we do not: the two are close, not equal.
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = dot(&got, &expected) / (dot(&got, &got) * dot(&expected, &expected)).sqrt();
    assert!(cosine >= 0.999, "cosine {cosine}");
    assert_eq!(argmax(&got), argmax(&expected));
}
