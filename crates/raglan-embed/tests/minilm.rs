//! The default encoder against vectors of sentence-transformers, and its token counter against the library.
//!
//! The model comes from the cache; without it these tests say so and pass, unless `RAGLAN_REQUIRE_MODELS` is set.

use std::ops::Range;
use std::path::PathBuf;

use raglan_core::{DenseVector, Encoder};
use raglan_embed::{EncoderConfig, Pooling, SentenceEncoder, token_counter};
use raglan_model::Tokenizer;
use raglan_model::registry::{ModelCache, Progress};

const MODEL: &str = "all-minilm-l6-v2";

struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
}

fn model() -> Option<PathBuf> {
    let found = ModelCache::new(None, true).and_then(|cache| cache.ensure(MODEL, &Silent));
    match found {
        Ok(files) => Some(files.dir),
        Err(error) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{MODEL}: {error}"),
        Err(error) => {
            eprintln!("skipped: {MODEL} is not here ({error})");
            None
        }
    }
}

fn encoder(threads: usize) -> Option<SentenceEncoder> {
    let dir = model()?;
    Some(SentenceEncoder::load(&dir, EncoderConfig::for_model(&dir).unwrap(), threads).unwrap())
}

fn reference() -> (Vec<String>, Vec<DenseVector>) {
    let file: serde_json::Value = serde_json::from_str(include_str!("reference/all-minilm-l6-v2.json")).unwrap();
    let texts: Vec<String> = serde_json::from_value(file["texts"].clone()).unwrap();
    let vectors: Vec<Vec<f32>> = serde_json::from_value(file["vectors"].clone()).unwrap();
    (texts, vectors.into_iter().map(|vector| DenseVector::new(vector).unwrap()).collect())
}

#[test]
fn vectors_are_those_of_sentence_transformers() {
    let Some(encoder) = encoder(2) else { return };
    let (texts, want) = reference();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for vectors in [encoder.encode_passages(&texts).unwrap(), encoder.encode_queries(&texts).unwrap()] {
        assert_eq!(vectors.len(), want.len());
        for ((got, want), text) in vectors.iter().zip(&want).zip(&texts) {
            assert!(got.cosine(want) >= 0.9999, "{} for {text:?}", got.cosine(want));
            for (got, want) in got.as_slice().iter().zip(want.as_slice()) {
                assert!((got - want).abs() <= 1e-5, "{got} for {want} in {text:?}");
            }
        }
    }
}

#[test]
fn the_model_is_used_as_it_was_made() {
    let Some(dir) = model() else { return };
    let want = EncoderConfig {
        pooling: Pooling::Mean,
        normalize: true,
        max_tokens: 256,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        dim: 384,
    };
    assert_eq!(EncoderConfig::for_model(&dir).unwrap(), want);
}

#[test]
fn tokens_are_those_of_the_library() {
    let Some(dir) = model() else { return };
    let counter = token_counter(&dir).unwrap();
    let library = Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let (mut texts, _) = reference();
    // Prose and code that is at hand.
    let sources = ["src/sentence_encoder.rs", "tests/reference/make.py", "Cargo.toml"];
    for path in sources {
        texts.push(std::fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap());
    }
    for text in &texts {
        // Tokens that share a character (Hangul) keep it once.
        let mut free = 0;
        let mut want: Vec<Range<usize>> = library.encode(text, false).unwrap().spans;
        for span in &mut want {
            span.start = span.start.max(free);
            free = span.end;
        }
        assert_eq!(counter.token_spans(text).unwrap(), want, "{text:?}");
        assert_eq!(counter.count(text).unwrap(), want.len());
    }
}
