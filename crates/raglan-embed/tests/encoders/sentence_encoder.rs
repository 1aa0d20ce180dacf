//! The encoder on a small model of random weights.

use std::ops::Range;

use crate::small_model::{HIDDEN, POSITIONS, write_model};
use raglan_core::{DenseVector, Encoder};
use raglan_embed::{
    EncoderConfig, Error, ExtendedPositions, LineWindows, LongInputs, Pooling, SentenceEncoder, WindowAggregation,
    token_counter,
};
use raglan_model::{EncoderModel, EncoderModelConfig, Positions, Products, Tokenizer};
use serde_json::json;

fn load(configure: impl FnOnce(&mut EncoderConfig), threads: usize) -> SentenceEncoder {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let mut config = EncoderConfig::for_model(dir.path()).unwrap();
    configure(&mut config);
    SentenceEncoder::load(dir.path(), config, threads).unwrap()
}

/// Texts of 0 to 60 letters, enough for several batches.
fn texts() -> Vec<String> {
    (0..200usize).map(|i| (0..(i * 37) % 61).map(|j| (b'a' + ((i * j) % 26) as u8) as char).collect()).collect()
}

fn encode(encoder: &SentenceEncoder, texts: &[String]) -> Vec<DenseVector> {
    encoder.encode_passages(&texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn check_near(got: &DenseVector, want: &DenseVector) {
    assert_eq!(got.dim(), want.dim());
    for (got, want) in got.as_slice().iter().zip(want.as_slice()) {
        assert!((got - want).abs() <= 1e-6, "{got} for {want}");
    }
}

#[test]
fn a_vector_does_not_depend_on_the_batch() {
    let encoder = load(|_| (), 2);
    let texts = texts();
    let together = encode(&encoder, &texts);
    assert_eq!(together.len(), texts.len());
    let reversed: Vec<String> = texts.iter().rev().cloned().collect();
    for (got, want) in encode(&encoder, &reversed).iter().zip(together.iter().rev()) {
        check_near(got, want);
    }
    for (text, want) in texts.iter().zip(&together).step_by(7) {
        check_near(&encode(&encoder, std::slice::from_ref(text))[0], want);
    }
    assert!(encode(&encoder, &[]).is_empty());
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let want = encode(&load(|_| (), 1), &texts());
    for threads in [0, 2, 4] {
        assert_eq!(encode(&load(|_| (), threads), &texts()), want);
    }
}

#[test]
fn vectors_have_length_one_unless_that_is_not_wanted() {
    let length = |vector: &DenseVector| vector.as_slice().iter().map(|x| x * x).sum::<f32>().sqrt();
    let lengths = |normalize| {
        let encoder = load(|config| config.normalize = normalize, 1);
        encode(&encoder, &texts()[..9]).iter().map(length).collect::<Vec<_>>()
    };
    assert!(lengths(true).iter().all(|length| (length - 1.0).abs() <= 1e-6));
    assert!(lengths(false).iter().any(|length| (length - 1.0).abs() > 1e-2));
}

#[test]
fn truncated_vectors_are_the_first_coordinates_at_length_one_again() {
    let texts = texts();
    let whole = encode(&load(|config| config.normalize = false, 1), &texts[..9]);
    for dim in [1, 5, HIDDEN] {
        let encoder = load(|config| config.truncate_dim = Some(dim), 1);
        assert_eq!(encoder.config().vector_dim(), dim);
        for (got, whole) in encode(&encoder, &texts[..9]).iter().zip(&whole) {
            let first = &whole.as_slice()[..dim];
            let length = first.iter().map(|x| x * x).sum::<f32>().sqrt();
            check_near(got, &DenseVector::new(first.iter().map(|x| x / length).collect()).unwrap());
        }
        let raw = load(|config| (config.truncate_dim, config.normalize) = (Some(dim), false), 1);
        assert_eq!(encode(&raw, &texts[3..4])[0].as_slice(), &whole[3].as_slice()[..dim]);
    }
}

fn model() -> EncoderModel {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let config = EncoderModelConfig::from_file(dir.path().join("config.json")).unwrap();
    EncoderModel::load(dir.path(), config, Products::Stored).unwrap()
}

/// The hidden states of a text's own tokens in a window that holds no others, `[n_tokens, HIDDEN]`.
fn states(ids: &[u32]) -> Vec<f32> {
    let model = model();
    let framed = [&[2], ids, &[3]].concat();
    let hidden = model.hidden_states(&[&framed]).unwrap();
    hidden.rows()[HIDDEN..hidden.rows().len() - HIDDEN].to_vec()
}

fn ids(text: &str) -> Vec<u32> {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    Tokenizer::from_file(dir.path().join("tokenizer.json")).unwrap().encode(text, false).unwrap().ids
}

fn mean(states: &[f32]) -> DenseVector {
    DenseVector::new(Pooling::Mean.pool(states, HIDDEN)).unwrap()
}

fn encode_chunk(encoder: &SentenceEncoder, text: &str, chunk: Range<usize>) -> Result<DenseVector, Error> {
    Ok(encoder.encode_chunks(text, &[chunk])?.remove(0))
}

#[test]
fn one_chunk_over_the_whole_text_is_the_mean_of_its_own_tokens() {
    let encoder = load(|config| config.normalize = false, 1);
    let text = "caches keep, what is used often";
    let got = encode_chunk(&encoder, text, 0..text.len()).unwrap();
    check_near(&got, &mean(&states(&ids(text))));
    let unit = encode_chunk(&load(|_| (), 1), text, 0..text.len()).unwrap();
    assert!((unit.cosine(&got) - 1.0).abs() <= 1e-6);
    assert!((unit.as_slice().iter().map(|x| x * x).sum::<f32>() - 1.0).abs() <= 1e-6);
}

#[test]
fn chunks_have_the_tokens_that_begin_in_them() {
    let encoder = load(|config| config.normalize = false, 2);
    let text = "ab, cd é ef"; // a ##b , c ##d [é as e] e ##f
    let states = states(&ids(text));
    let of = |tokens: Range<usize>| mean(&states[tokens.start * HIDDEN..tokens.end * HIDDEN]);
    let chunks = [0..3, 3..6, 5..12, 7..9, 2..99];
    let want = [of(0..3), of(3..5), of(4..8), of(5..6), of(2..8)];
    let got = encoder.encode_chunks(text, &chunks).unwrap();
    for (got, want) in got.iter().zip(&want) {
        check_near(got, want);
    }
    assert!(encoder.encode_chunks(text, &[]).unwrap().is_empty());
    for none in [3..4, 4..4, 50..60, Range { start: 5, end: 2 }] {
        assert!(matches!(encoder.encode_chunks(text, &[0..3, none]), Err(Error::NoTokens { chunk: 1 })));
    }
    assert!(matches!(encoder.encode_chunks("", &[0..0, 0..1]), Err(Error::NoTokens { chunk: 0 })));
    let prefixed = load(|config| (config.normalize, config.passage_prefix) = (false, "q, ".into()), 1);
    let got = encode_chunk(&prefixed, text, 0..3).unwrap();
    let framed = self::states(&ids("q, ab, cd é ef"));
    check_near(&got, &mean(&framed[2 * HIDDEN..5 * HIDDEN]));
    let cls = load(|config| config.pooling = Pooling::Cls, 1);
    assert!(matches!(encode_chunk(&cls, text, 0..3), Err(Error::NotMean { pooling: Pooling::Cls })));
}

#[test]
fn long_texts_are_chunked_late_in_windows_that_overlap() {
    // Ten tokens a window less two special ones: 8, of which the first 4 have been read before.
    let encoder = load(|config| (config.normalize, config.max_tokens) = (false, 10), 1);
    for n in [7, 8, 9, 12, 13, 31] {
        let text: String = (0..n).map(|i| (b'a' + (i * 7 % 26) as u8) as char).collect();
        let ids = ids(&text);
        assert_eq!(ids.len(), n);
        let mut tokens = states(&ids[..n.min(8)]);
        let mut start = 4;
        while tokens.len() < n * HIDDEN {
            tokens.extend(&states(&ids[start..n.min(start + 8)])[4 * HIDDEN..]);
            start += 4;
        }
        let chunks: Vec<_> = (0..n).map(|i| i..i + 1).chain([0..n, n / 2..n]).collect();
        let got = encoder.encode_chunks(&text, &chunks).unwrap();
        for (got, chunk) in got.iter().zip(&chunks) {
            check_near(got, &mean(&tokens[chunk.start * HIDDEN..chunk.end * HIDDEN]));
        }
    }
    let full = load(|config| (config.max_tokens, config.passage_prefix) = (5, "abc".into()), 1);
    assert!(matches!(encode_chunk(&full, "d", 0..1), Err(Error::NoRoom { before: 4, limit: 5 })));
}

const EXTENDED: [ExtendedPositions; 3] =
    [ExtendedPositions::Grouped, ExtendedPositions::Recurrent, ExtendedPositions::Interpolated];

#[test]
fn texts_that_are_not_long_are_the_same_however_long_ones_are_read() {
    let texts: Vec<String> = texts().into_iter().filter(|text| text.len() <= 10).collect();
    let plain = load(|config| (config.max_tokens, config.query_prefix) = (12, "q, ".into()), 1);
    let want = encode(&plain, &texts);
    let queries = ["ab", "abcdefgh"]; // 8 + 2 for the prefix + 2 special ones
    let want_queries = plain.encode_queries(&queries).unwrap();
    let extended = EXTENDED.map(|positions| LongInputs::Extended { positions, limit: 40 });
    for long_inputs in extended.into_iter().chain([LongInputs::Cut, LongInputs::ParallelWindows]) {
        let configure = |config: &mut EncoderConfig| {
            (config.max_tokens, config.query_prefix, config.long_inputs) = (12, "q, ".into(), long_inputs);
        };
        let encoder = load(configure, 2);
        assert_eq!(encode(&encoder, &texts), want, "{long_inputs:?}");
        assert_eq!(encoder.encode_queries(&queries).unwrap(), want_queries, "{long_inputs:?}");
    }
}

#[test]
fn long_texts_are_read_at_the_positions_that_are_asked_for() {
    let (window, n) = (10_usize, 23_usize); // n with the special tokens
    let text: String = (0..n - 2).map(|i| (b'a' + (i * 5 % 26) as u8) as char).collect();
    let framed = [&[2], &*ids(&text), &[3]].concat();
    assert_eq!(framed.len(), n);
    for extended in EXTENDED {
        let positions = (0..n).map(|i| match extended {
            ExtendedPositions::Grouped => (i / 3) as f32, // ⌈23 / 10⌉
            ExtendedPositions::Recurrent => (i % window) as f32,
            _ => i as f32 * 9.0 / 22.0, // (10 - 1) / (23 - 1)
        });
        let want = model().hidden_states_at(&[&framed], &[Positions::Table(positions.collect())]).unwrap();
        let long_inputs = LongInputs::Extended { positions: extended, limit: n };
        let configure = |config: &mut EncoderConfig| {
            (config.normalize, config.max_tokens, config.long_inputs) = (false, window, long_inputs);
        };
        let encoder = load(configure, 1);
        check_near(&encode(&encoder, std::slice::from_ref(&text))[0], &mean(want.rows()));
        check_near(&encoder.encode_queries(&[&text]).unwrap()[0], &mean(want.rows()));
        let longer = format!("{text}b");
        let error = encoder.encode_passages(&[&longer]).unwrap_err();
        let raglan_core::Error::Part { source, .. } = error else { panic!("{error:?}") };
        assert!(matches!(source.downcast_ref(), Some(Error::TooLong { tokens: 24, limit: 23, .. })), "{source:?}");
    }
}

#[test]
fn parallel_windows_are_the_mean_of_what_their_texts_give() {
    let configure = |config: &mut EncoderConfig| {
        (config.max_tokens, config.passage_prefix) = (10, "q, ".into()); // 6 of the text in a window
        config.long_inputs = LongInputs::ParallelWindows;
    };
    let encoder = load(configure, 2);
    let words: Vec<String> = (0..5u8).map(|i| ((b'a' + i) as char).to_string().repeat(6) + " ").collect();
    for n in 1..=words.len() {
        // Each word is a window, but for the last, which is shorter.
        let short = [&words[..n], &["z".to_owned()]].concat();
        let parts = encode(&encoder, &short);
        let mut want = [0.0; HIDDEN];
        parts.iter().for_each(|part| want.iter_mut().zip(part.as_slice()).for_each(|(sum, x)| *sum += x));
        let length = want.iter().map(|x| x * x).sum::<f32>().sqrt();
        let want = DenseVector::new(want.iter().map(|x| x / length).collect()).unwrap();
        check_near(&encode(&encoder, &[short.concat()])[0], &want);
    }
    let configure_truncated = |config: &mut EncoderConfig| {
        configure(config);
        config.truncate_dim = Some(5);
    };
    let got = &encode(&load(configure_truncated, 1), &[words.concat()])[0];
    assert_eq!(got.dim(), 5);
    assert!((got.as_slice().iter().map(|x| x * x).sum::<f32>() - 1.0).abs() <= 1e-6);
}

#[test]
fn windows_of_lines_are_aggregated_as_asked() {
    let windows = |aggregation| LineWindows { lines: 2, step: 1, aggregation };
    let in_windows = |aggregation| load(move |config| config.line_windows = Some(windows(aggregation)), 2);
    let plain = load(|_| (), 1);
    let (code, short) = ("abc\ndef\nghi\njk", "abc\ndef");
    let parts = encode(&plain, &["abc\ndef\n", "def\nghi\n", "ghi\njk"].map(String::from));
    let component = |part: &DenseVector, i: usize| part.as_slice()[i];
    for aggregation in [WindowAggregation::Mean, WindowAggregation::Max] {
        let want = (0..HIDDEN).map(|i| match aggregation {
            WindowAggregation::Mean => parts.iter().map(|part| component(part, i)).sum::<f32>() / 3.0,
            WindowAggregation::Max => parts.iter().map(|part| component(part, i)).fold(f32::MIN, f32::max),
        });
        let want: Vec<f32> = want.collect();
        let length = want.iter().map(|x| x * x).sum::<f32>().sqrt();
        let encoder = in_windows(aggregation);
        let got = encoder.encode_passages(&[short, code, ""]).unwrap();
        check_near(&got[1], &DenseVector::new(want.iter().map(|x| x / length).collect()).unwrap());
        check_near(&got[0], &encode(&plain, &[short.to_owned()])[0]);
        check_near(&got[2], &encode(&plain, &[String::new()])[0]);
        check_near(&encoder.encode_queries(&[code]).unwrap()[0], &plain.encode_queries(&[code]).unwrap()[0]);
    }
    let long = format!("a\nb\nc\nd\n{}", "z".repeat(POSITIONS));
    let error = in_windows(WindowAggregation::Mean).encode_passages(&[code, &long, code]).unwrap_err();
    let raglan_core::Error::Part { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(source.downcast_ref(), Some(Error::TooLong { passage: 1, .. })), "{source:?}");
}

#[test]
fn positions_that_are_not_the_models_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let load = |positions, limit| {
        let mut config = EncoderConfig::for_model(dir.path()).unwrap();
        config.long_inputs = LongInputs::Extended { positions, limit };
        SentenceEncoder::load(dir.path(), config, 1)
    };
    assert!(load(ExtendedPositions::Grouped, POSITIONS).is_ok());
    assert!(matches!(load(ExtendedPositions::Grouped, POSITIONS - 1), Err(Error::Malformed { .. })));
    assert!(matches!(load(ExtendedPositions::RaisedBase, 2 * POSITIONS), Err(Error::Unsupported { .. })));
}

#[test]
fn poolings_and_prefixes_count() {
    let text = ["abc".to_owned()];
    let mean = encode(&load(|_| (), 1), &text);
    let cls = encode(&load(|config| config.pooling = Pooling::Cls, 1), &text);
    assert!(mean[0].cosine(&cls[0]) < 0.999);
    let prefixed = load(|config| config.query_prefix = "q: ".into(), 1);
    assert_eq!(encode(&prefixed, &text), mean);
    let queries = prefixed.encode_queries(&["abc"]).unwrap();
    check_near(&queries[0], &encode(&prefixed, &["q: abc".to_owned()])[0]);
}

#[test]
fn a_passage_that_is_too_long_is_an_error_and_a_query_is_cut() {
    let encoder = load(|config| config.max_tokens = 10, 1);
    assert!(encoder.encode_passages(&["abcdefgh"]).is_ok()); // 8 + 2 special tokens
    let error = encoder.encode_passages(&["a", "abcdefghi"]).unwrap_err();
    let raglan_core::Error::Part { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(source.downcast_ref(), Some(Error::TooLong { passage: 1, tokens: 11, limit: 10 })), "{source:?}");
    let queries = encoder.encode_queries(&["abcdefghijkl", "abcdefgh"]).unwrap();
    check_near(&queries[0], &queries[1]);
}

#[test]
fn files_of_sentence_transformers_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path());
    let plain = EncoderConfig::for_model(dir.path()).unwrap();
    assert_eq!((plain.pooling, plain.normalize, plain.max_tokens, plain.dim), (Pooling::Mean, true, POSITIONS, HIDDEN));
    let write = |name: &str, json: serde_json::Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    write("1_Pooling/config.json", json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}));
    write("sentence_bert_config.json", json!({"max_seq_length": 32}));
    write("modules.json", json!([{"type": "sentence_transformers.models.Transformer"}]));
    write("config_sentence_transformers.json", json!({"prompts": {"query": "q: ", "document": "d: "}}));
    let want = EncoderConfig {
        pooling: Pooling::Cls,
        normalize: false,
        max_tokens: 32,
        long_inputs: LongInputs::Refuse,
        line_windows: None,
        query_prefix: "q: ".into(),
        passage_prefix: "d: ".into(),
        dim: HIDDEN,
        truncate_dim: None,
        products: Products::Stored,
        onnx_runtime: None,
    };
    assert_eq!(EncoderConfig::for_model(dir.path()).unwrap(), want);
    for (mode, pooling) in
        [("mean_tokens", Pooling::Mean), ("lasttoken", Pooling::LastToken), ("max_tokens", Pooling::Max)]
    {
        write("1_Pooling/config.json", json!({format!("pooling_mode_{mode}"): true}));
        assert_eq!(EncoderConfig::for_model(dir.path()).unwrap().pooling, pooling);
    }
    for modes in [
        json!({"pooling_mode_weightedmean_tokens": true}),
        json!({"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}),
        json!({"pooling_mode_mean_tokens": true, "include_prompt": false}),
    ] {
        write("1_Pooling/config.json", modes);
        assert!(matches!(EncoderConfig::for_model(dir.path()), Err(Error::Unsupported { .. })));
    }
    write("1_Pooling/config.json", json!({"pooling_mode_mean_tokens": true}));
    write("modules.json", json!([{"type": "sentence_transformers.models.Dense"}]));
    assert!(matches!(EncoderConfig::for_model(dir.path()), Err(Error::Unsupported { .. })));
    std::fs::write(dir.path().join("modules.json"), "[").unwrap();
    assert!(matches!(EncoderConfig::for_model(dir.path()), Err(Error::Malformed { .. })));
}

#[test]
fn models_whose_files_state_no_prompt_have_those_of_their_name() {
    let parent = tempfile::tempdir().unwrap();
    let prefixes = |name: &str, stated: Option<serde_json::Value>| {
        let dir = parent.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        write_model(&dir);
        if let Some(prompts) = stated {
            let config = json!({"prompts": prompts}).to_string();
            std::fs::write(dir.join("config_sentence_transformers.json"), config).unwrap();
        }
        let config = EncoderConfig::for_model(&dir).unwrap();
        (config.query_prefix, config.passage_prefix)
    };
    let of = |query: &str, passage: &str| (query.to_owned(), passage.to_owned());
    assert_eq!(prefixes("e5-small-v2", None), of("query: ", "passage: "));
    assert_eq!(prefixes("E5-base", Some(json!({"query": "", "document": ""}))), of("query: ", "passage: "));
    let bge = "Represent this sentence for searching relevant passages: ";
    assert_eq!(prefixes("bge-small-en-v1.5", None), of(bge, ""));
    assert_eq!(prefixes("bge-base-en-v1.5", Some(json!({"query": "q: "}))), of("q: ", ""));
    for other in ["all-minilm-l6-v2", "bge-small-en", "my-e5-small-v2", "e5-small-v2-tuned"] {
        assert_eq!(prefixes(other, None), of("", ""), "{other}");
    }
}

#[test]
fn files_that_do_not_fit_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    assert!(EncoderConfig::for_model(dir.path()).is_err());
    write_model(dir.path());
    let config = EncoderConfig::for_model(dir.path()).unwrap();
    let load = |config: &EncoderConfig| SentenceEncoder::load(dir.path(), config.clone(), 1);
    for wrong in [
        EncoderConfig { dim: HIDDEN + 1, ..config.clone() },
        EncoderConfig { max_tokens: POSITIONS + 1, ..config.clone() },
        EncoderConfig { max_tokens: 2, ..config.clone() },
        EncoderConfig { truncate_dim: Some(0), ..config.clone() },
        EncoderConfig { line_windows: Some(LineWindows { lines: 2, step: 3, ..Default::default() }), ..config.clone() },
        EncoderConfig { line_windows: Some(LineWindows { step: 0, ..Default::default() }), ..config.clone() },
        EncoderConfig { truncate_dim: Some(HIDDEN + 1), ..config.clone() },
    ] {
        assert!(matches!(load(&wrong), Err(Error::Malformed { .. })));
    }
    let weights = dir.path().join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &whole[..whole.len() - 1]).unwrap();
    let error = load(&config).unwrap_err();
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    assert!(load(&config).is_err());
    assert!(token_counter(dir.path()).is_err());
}
