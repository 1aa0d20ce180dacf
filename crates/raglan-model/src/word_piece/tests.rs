use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::json;

use super::*;

/// A tokenizer of a few pieces: single characters of many scripts, some of them only inside of words, and words.
fn tokenizer_file(dir: &Path, normalizer: &serde_json::Value) -> std::path::PathBuf {
    let mut vocab = BTreeMap::new();
    let words =
        ["the", "cache", "caches", "##che", "##ing", "read", "##re", "##ad", "strasse", "東", "##é", "Cache", "é"];
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
    let heads = ('a'..='w').chain('0'..='7').chain("!\"#$%[].-_äßжд中한".chars()).chain('\u{1100}'..='\u{1112}');
    let tails = ('b'..='z').chain('0'..='9').chain("ßж".chars()).chain('\u{1161}'..='\u{11c2}');
    let pieces = special.iter().chain(&words).map(|&piece| piece.to_owned());
    let pieces = pieces.chain(heads.map(String::from)).chain(tails.map(|char| format!("##{char}")));
    for piece in pieces {
        let id = vocab.len();
        vocab.entry(piece).or_insert(id);
    }
    let added: Vec<_> = special
        .iter()
        .map(|token| {
            json!({"id": vocab[*token], "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocab},
    });
    let path = dir.join("tokenizer.json");
    std::fs::write(&path, file.to_string()).unwrap();
    path
}

fn uncased() -> serde_json::Value {
    json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
           "lowercase": true})
}

fn cased() -> serde_json::Value {
    json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": false, "strip_accents": false,
           "lowercase": false})
}

struct Pair {
    library: Tokenizer,
    counter: WordPieceCounter,
    _dir: tempfile::TempDir,
}

impl Pair {
    fn new(normalizer: &serde_json::Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = tokenizer_file(dir.path(), normalizer);
        let counter = WordPieceCounter::from_file(&path).unwrap().expect("it is BERT's");
        Self { library: Tokenizer::from_file(&path).unwrap(), counter, _dir: dir }
    }

    #[track_caller]
    fn check(&self, text: &str) {
        let want = self.library.encode(text, false).unwrap().spans;
        let got = self.counter.spans(text).unwrap();
        assert_eq!(got, want, "{text:?} ({})", text.escape_unicode());
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn random_text(seed: &mut u64) -> String {
    let pools: [Range<u32>; 14] = [
        0x61..0x7b,       // letters
        0x61..0x7b,       // again, so that words get long
        0x20..0x7f,       // printable
        0x00..0x21,       // controls
        0x80..0x250,      // Latin
        0x300..0x370,     // combining marks
        0x370..0x600,     // Greek, Cyrillic, Hebrew
        0x900..0xa00,     // Devanagari, Bengali
        0xac00..0xd7a4,   // Hangul syllables
        0x4e00..0xa000,   // ideographs
        0x1e00..0x2100,   // more Latin and Greek, punctuation, spaces
        0x3000..0x3100,   // CJK punctuation, kana, the tone marks
        0x1d100..0x1d200, // musical symbols, some of which move
        0x0..0x11_0000,
    ];
    let mut text = String::new();
    for _ in 0..random(seed) % 40 {
        match random(seed) % 12 {
            0 => text.push(' '),
            1 => text.push_str(["[SEP]", "[CLS]", "[", "cache", "Caching", "the", "\r\n"][random(seed) as usize % 7]),
            _ => {
                let pool = &pools[random(seed) as usize % pools.len()];
                let code = pool.start + (random(seed) % u64::from(pool.end - pool.start)) as u32;
                text.extend(char::from_u32(code));
            }
        }
    }
    text
}

#[test]
fn agrees_with_the_library_on_chosen_texts() {
    for normalizer in [uncased(), cased()] {
        let pair = Pair::new(&normalizer);
        let long = "a".repeat(99) + " " + &"a".repeat(100) + " " + &"b".repeat(101) + " " + &"é".repeat(100) + "x";
        let texts = [
            "",
            " ",
            "The caches, caching; unreadable!",
            "CACHE Cache cache",
            "a[SEP]b[[CLS]]x [PAD",
            "e\u{301}e\u{301}a \u{301} a\u{301}",
            "na\u{200b}me\u{ad}x \u{200b}",
            "한국 가각힣",
            "東京は中\u{301}国",
            "İstanbul ΑΣ Straße ﬁ",
            "a\u{a0}b\u{3000}c\u{2028}d",
            "\u{feff}bom \u{fffd}\u{0}zero",
            "g\u{302e}\u{302f}\u{301}h x\u{1d165}\u{301}\u{1d16d}y z",
            "≯ ; ` \u{340}",
            &long,
        ];
        texts.iter().for_each(|text| pair.check(text));
    }
}

#[test]
fn agrees_with_the_library_on_random_texts() {
    for (normalizer, seed) in [(uncased(), 1), (cased(), 2)] {
        let pair = Pair::new(&normalizer);
        let mut seed = seed;
        for _ in 0..3000 {
            pair.check(&random_text(&mut seed));
        }
    }
}

/// Every character up to the ideographs, and of the others every 61st; all with `RAGLAN_ALL_CHARACTERS`.
#[test]
fn agrees_with_the_library_on_every_character() {
    let step = if std::env::var_os("RAGLAN_ALL_CHARACTERS").is_some() { 1 } else { 61 };
    let pair = Pair::new(&uncased());
    let chars: Vec<char> = (0..0x3400).chain((0x3400..0x11_0000).step_by(step)).filter_map(char::from_u32).collect();
    for chars in chars.chunks(64) {
        let text: String = chars.iter().map(|char| format!("a{char}b {char} ")).collect();
        pair.check(&text);
    }
}

#[test]
fn a_tokenizer_of_another_kind_is_left_to_the_library() {
    let dir = tempfile::tempdir().unwrap();
    let mut dirty = uncased();
    dirty["clean_text"] = json!(false);
    for normalizer in [json!(null), json!({"type": "NFC"}), dirty] {
        assert!(WordPieceCounter::from_file(tokenizer_file(dir.path(), &normalizer)).unwrap().is_none());
    }
    let path = tokenizer_file(dir.path(), &uncased());
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(matches!(WordPieceCounter::from_file(&path), Err(Error::Malformed { .. })));
}
