//! The counter of word pieces gives the library's ranges with the vocabulary of the default encoder.
//!
//! That vocabulary is taken from the cache; without it the tests say so, and fail if `RAGLAN_REQUIRE_MODELS` is set.
//! `RAGLAN_TEXTS` may name a folder, of whose files some megabytes are compared too, with the time that it takes.

use std::path::PathBuf;
use std::time::Instant;

use raglan_model::registry::ModelCache;
use raglan_model::{Tokenizer, WordPieceCounter};

struct Pair {
    counter: WordPieceCounter,
    library: Tokenizer,
}

impl Pair {
    fn of_the_default_encoder() -> Option<Self> {
        let path = match ModelCache::new(None, true).unwrap().path("all-minilm-l6-v2") {
            Ok(folder) => folder.join("tokenizer.json"),
            Err(e) if std::env::var_os("RAGLAN_REQUIRE_MODELS").is_some() => panic!("{e}"),
            Err(e) => {
                eprintln!("skipped, for want of the model: {e}");
                return None;
            }
        };
        let counter = WordPieceCounter::from_file(&path).unwrap().expect("it is of BERT's kind");
        Some(Self { counter, library: Tokenizer::from_file(&path).unwrap() })
    }

    #[track_caller]
    fn check(&self, name: &str, text: &str) {
        let want = self.library.encode(text, false).unwrap().spans;
        let got = self.counter.spans(text).unwrap();
        if got != want {
            let at = got.iter().zip(&want).take_while(|(got, want)| got == want).count();
            let token = |spans: &[std::ops::Range<usize>]| {
                spans.get(at).map(|span| (span.clone(), text[span.clone()].to_owned()))
            };
            panic!("{name}: token {at} is {:?}, and the library's is {:?}", token(&got), token(&want));
        }
    }
}

#[test]
fn chosen_texts() {
    let Some(pair) = Pair::of_the_default_encoder() else { return };
    for text in [
        "",
        "The cabbages' unthinkable naïvety cost $1,299.99 (see https://example.org/a?b=c#d) 🎉🎉",
        "Straße ÅNGSTRÖM İstanbul ﬁne Ǆ e\u{301} a\u{302}\u{323}b \u{302}",
        "東京は日本の首都です。 한국어 문장도 토큰이 된다.",
        "fn main() { let x: Vec<u8> = (0..=255).collect(); println!(\"{x:?}\"); }",
        "[CLS] text[SEP] [MASK] [mask] [[CLS]]",
        "हिन्दी में वाक्य, שָׁלוֹם, ภาษาไทย",
    ] {
        pair.check(text, text);
    }
}

#[test]
fn files_of_a_folder() {
    let Some(folder) = std::env::var_os("RAGLAN_TEXTS") else {
        return eprintln!("skipped: RAGLAN_TEXTS names no folder");
    };
    let Some(pair) = Pair::of_the_default_encoder() else { return };
    let (mut folders, mut files) = (vec![PathBuf::from(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    // Files from all over the folder, and of each a part that takes the library no more than a moment.
    let step = (files.len() / 400).max(1);
    let (mut n_bytes, mut ours, mut theirs) = (0, 0.0, 0.0);
    for path in files.iter().step_by(step) {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let mut end = text.len().min(200_000);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let text = &text[..end];
        pair.check(&path.display().to_string(), text);
        let start = Instant::now();
        std::hint::black_box(pair.counter.spans(text).unwrap());
        ours += start.elapsed().as_secs_f64();
        let start = Instant::now();
        std::hint::black_box(pair.library.encode(text, false).unwrap());
        theirs += start.elapsed().as_secs_f64();
        n_bytes += text.len();
    }
    let megabytes = n_bytes as f64 / 1e6;
    assert!(megabytes > 0.0, "the folder has no UTF-8 text");
    eprintln!("{megabytes:.1} MB: {:.1} MB/s, the library {:.1} MB/s", megabytes / ours, megabytes / theirs);
}
