//! What holds for every chunker, and what each does with small documents.

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use raglan_core::{Chunk, ChunkSpan, ParsedDocument, Result, TokenCounter};

use super::{ChunkerKind, WordCounter};
use crate::{Limits, read_bytes};

fn document(name: &str, text: &str) -> ParsedDocument {
    read_bytes(name, text.as_bytes().to_vec(), &Limits::default()).expect("the text can be read")
}

fn chunks(kind: ChunkerKind, document: &ParsedDocument, max: usize, overlap: usize, prefix: bool) -> Vec<ChunkSpan> {
    kind.build(max, overlap, prefix, Arc::new(WordCounter)).unwrap().chunk(document).unwrap()
}

/// A vocabulary that knows short words only: those of more than 12 bytes are one token, and others one for every two
/// bytes. So what a text counts for changes when it is cut.
struct Unknowing;

impl TokenCounter for Unknowing {
    fn token_spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let mut spans = Vec::new();
        let mut at = 0;
        for word in text.split(char::is_whitespace) {
            let end = at + word.len();
            if word.len() > 12 {
                spans.push(at..end);
            } else {
                let starts: Vec<usize> = word.char_indices().step_by(2).map(|(i, _)| at + i).collect();
                spans.extend(starts.iter().zip(starts.iter().skip(1).chain([&end])).map(|(&start, &end)| start..end));
            }
            at = end + text[end..].chars().next().map_or(0, char::len_utf8);
        }
        Ok(spans)
    }
}

#[track_caller]
fn texts(kind: ChunkerKind, name: &str, text: &str, max: usize, overlap: usize, expected: &[&str]) {
    let document = document(name, text);
    let found = chunks(kind, &document, max, overlap, false);
    let found: Vec<_> = found.iter().map(|chunk| &document.text[chunk.span.clone()]).collect();
    assert_eq!(found, expected);
}

/// Everything that the contract of [`raglan_core::Chunker`] says.
fn check(document: &ParsedDocument, chunks: &[ChunkSpan], max: usize, overlap: usize, prefix: bool) {
    check_with(&WordCounter, document, chunks, max, overlap, prefix);
}

fn check_with(
    counter: &dyn TokenCounter,
    document: &ParsedDocument,
    chunks: &[ChunkSpan],
    max: usize,
    overlap: usize,
    prefix: bool,
) {
    let text = &document.text;
    let mut covered_to = 0;
    for (i, chunk) in chunks.iter().enumerate() {
        let own = text.get(chunk.span.clone()).expect("a span lies on character boundaries");
        assert!(!own.is_empty() && own.trim() == own, "{own:?}");
        let embedded = if prefix { Chunk::prefixed(&chunk.locator, own) } else { own.to_owned() };
        let n_tokens = counter.count(&embedded).unwrap();
        assert!(n_tokens <= max, "{n_tokens} tokens in {embedded:?}");
        assert_eq!(n_tokens, chunk.n_tokens as usize);
        if i > 0 {
            assert!(chunk.span.start > chunks[i - 1].span.start && chunk.span.end > chunks[i - 1].span.end);
            if overlap == 0 {
                assert!(chunk.span.start >= covered_to);
            }
        }
        if chunk.span.start > covered_to {
            let gap = &text[covered_to..chunk.span.start];
            assert!(gap.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').is_empty(), "lost {gap:?}");
        }
        covered_to = chunk.span.end;
    }
    assert!(text[covered_to..].trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}').is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn chunks_cover_the_text_below_the_ceiling(
        text in "(# [a-z ]{1,30}\n|[a-z.,é ]{0,120}\n|\n|- [a-z ]{1,20}\n|[^\\x00-\\x08]{0,40}|[a-z漢字]{0,400}){0,12}",
        max in 16_usize..60,
        overlap in 0_usize..8,
        prefix: bool,
    ) {
        for name in ["text.md", "text.txt"] {
            // What has no text, or is not taken for text, is no document.
            let Ok(document) = read_bytes(name, text.clone().into_bytes(), &Limits::default()) else { continue };
            for kind in ChunkerKind::ALL {
                let found = chunks(kind, &document, max, overlap, prefix);
                check(&document, &found, max, overlap, prefix);
                prop_assert_eq!(&found, &chunks(kind, &document, max, overlap, prefix));
                let found = kind.build(max, overlap, prefix, Arc::new(Unknowing)).unwrap().chunk(&document).unwrap();
                check_with(&Unknowing, &document, &found, max, overlap, prefix);
            }
        }
    }
}

#[test]
fn sections_begin_chunks_unless_they_are_small() {
    let long = "one two three four five six seven eight nine ten.";
    let text = format!("# A\n\n{long}\n\n# B\n\nsmall\n\n# C\n\n{long}\n");
    let small_section = format!("# B\n\nsmall\n\n# C\n\n{long}");
    texts(ChunkerKind::Structure, "a.md", &text, 30, 0, &[&format!("# A\n\n{long}"), &small_section]);
}

#[test]
fn a_heading_is_never_the_end_of_a_chunk() {
    let long = "one two three four five six seven eight nine ten eleven twelve.";
    let text = format!("{long}\n\n# Title\n\n{long}\n");
    texts(ChunkerKind::Structure, "a.md", &text, 16, 0, &[long, &format!("# Title\n\n{long}")]);
}

#[test]
fn a_long_paragraph_is_cut_between_sentences() {
    let text = "One two three four five six seven. Eight nine ten eleven twelve thirteen. Fourteen fifteen.";
    // 8 tokens, 7 and 3
    let expected = ["One two three four five six seven. Eight nine ten eleven twelve thirteen.", "Fourteen fifteen."];
    texts(ChunkerKind::Structure, "a.txt", text, 16, 0, &expected);
    texts(ChunkerKind::Sentences, "a.txt", text, 16, 0, &expected);
}

#[test]
fn an_overlap_repeats_whole_sentences() {
    let text = "One two three four five six seven. Ha ha. Eight nine ten eleven twelve thirteen. Fourteen fifteen.";
    let expected = [
        "One two three four five six seven. Ha ha.",
        "Ha ha. Eight nine ten eleven twelve thirteen. Fourteen fifteen.",
    ];
    texts(ChunkerKind::Sentences, "a.txt", text, 16, 4, &expected);
}

#[test]
fn fixed_chunks_are_full() {
    let text = (1..=40).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let document = document("a.txt", &text);
    let sizes: Vec<_> = chunks(ChunkerKind::Tokens, &document, 16, 0, false).iter().map(|c| c.n_tokens).collect();
    assert_eq!(sizes, [16, 16, 8]);
}

#[test]
fn long_texts_are_cut_as_short_ones() {
    // Longer than what is looked at at once, in sentences of 3 to 40 words.
    let mut text = String::new();
    let mut state = 7_u32;
    while text.len() < 300_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(["One", "Straße", "An incomprehensible", "漢字"][state as usize >> 30]);
        text.push_str(&" word".repeat((state >> 8) as usize % 38 + 2));
        text.push_str(". ");
    }
    let document = document("a.txt", &text);
    for kind in ChunkerKind::ALL {
        for overlap in [0, 10] {
            let found = chunks(kind, &document, 48, overlap, false);
            check(&document, &found, 48, overlap, false);
            if kind != ChunkerKind::Tokens {
                assert!(found.iter().all(|chunk| text[chunk.span.clone()].ends_with('.')));
            }
        }
    }
}

#[test]
fn a_heading_stays_with_a_paragraph_that_is_too_long() {
    let text = format!("# Title\n\n{}\n", "One two three four five six. ".repeat(6).trim());
    let pair = "One two three four five six. One two three four five six."; // 14 tokens, and the title 2
    let expected = [&format!("# Title\n\n{pair}"), pair, pair];
    texts(ChunkerKind::Structure, "a.md", &text, 16, 0, &expected);
}

#[test]
fn an_overlap_is_as_long_as_it_may_be() {
    let text = (10..50).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let document = document("a.txt", &text);
    let found = chunks(ChunkerKind::Tokens, &document, 16, 5, false);
    let found: Vec<_> = found.iter().map(|chunk| &text[chunk.span.clone()]).collect();
    // 16 numbers of 3 bytes each, the last 5 of them once more.
    assert_eq!(found, [&text[..47], &text[33..80], &text[66..113], &text[99..]]);

    let text = "One two three four five six seven. Ha ha. Ho ho. Eight nine ten eleven twelve.";
    let expected = ["One two three four five six seven. Ha ha. Ho ho.", "Ha ha. Ho ho. Eight nine ten eleven twelve."];
    texts(ChunkerKind::Sentences, "a.txt", text, 16, 7, &expected);
}

#[test]
fn definitions_stay_whole() {
    let function = |name: &str| format!("fn {name}(n: u32) -> u32 {{\n    let m = n + 1;\n\n    m * m\n}}");
    let (one, two) = (function("one"), function("two"));
    // 27 tokens each; after a third of the ceiling a definition begins a chunk.
    texts(ChunkerKind::Structure, "a.rs", &format!("{one}\n\n{two}\n"), 64, 0, &[&one, &two]);
    // Too long, it is cut at the empty line.
    let (signature, end) = one.split_once("\n\n").unwrap();
    texts(ChunkerKind::Structure, "a.rs", &one, 20, 0, &[signature, end.trim()]);
}

#[test]
fn an_endless_word_is_cut() {
    let text = "x".repeat(300_000);
    let document = document("a.txt", &text);
    for kind in ChunkerKind::ALL {
        check(&document, &chunks(kind, &document, 32, 0, false), 32, 0, false);
        // One token by its counter, and still not one chunk.
        let found = kind.build(32, 0, false, Arc::new(Unknowing)).unwrap().chunk(&document).unwrap();
        check_with(&Unknowing, &document, &found, 32, 0, false);
        assert!(found.iter().all(|chunk| chunk.span.len() <= 32 * 64));
    }
}

#[test]
fn white_space_without_end_is_no_text() {
    let text = format!("# a\n\nb.{}c{}d", " ".repeat(200_000), "\n".repeat(200_000));
    for (name, overlap) in [("a.md", 0), ("a.txt", 4)] {
        let document = document(name, &text);
        for kind in ChunkerKind::ALL {
            check(&document, &chunks(kind, &document, 32, overlap, true), 32, overlap, true);
        }
    }
}

#[test]
fn too_long_headings_lose_their_outer_parts() {
    let (far, long) = ("far away ".repeat(12), "one two three ".repeat(10));
    let text = format!("# {}\n\n{}.\n\n## Near\n\n{}.\n", far.trim(), long.trim(), long.trim());
    let document = document("a.md", &text);
    let found = chunks(ChunkerKind::Structure, &document, 40, 0, true);
    check(&document, &found, 40, 0, true);
    assert_eq!(found.last().unwrap().locator.headings, ["Near"]);
}

#[test]
fn a_ceiling_that_is_too_low_is_refused() {
    assert!(ChunkerKind::Tokens.build(8, 0, false, Arc::new(WordCounter)).is_err());
    assert!(ChunkerKind::Tokens.build(20, 11, false, Arc::new(WordCounter)).is_err());
}
