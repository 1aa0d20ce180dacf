//! What holds for every chunker, and what each does with small documents.

use std::sync::Arc;

use proptest::prelude::*;
use raglan_core::{Chunk, ChunkSpan, ParsedDocument};

use super::{ChunkerKind, WordCounter};
use crate::{Limits, read_bytes};
use raglan_core::TokenCounter;

fn document(name: &str, text: &str) -> ParsedDocument {
    read_bytes(name, text.as_bytes().to_vec(), &Limits::default()).expect("the text can be read")
}

fn chunks(kind: ChunkerKind, document: &ParsedDocument, max: usize, overlap: usize, prefix: bool) -> Vec<ChunkSpan> {
    kind.build(max, overlap, prefix, Arc::new(WordCounter)).unwrap().chunk(document).unwrap()
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
    let text = &document.text;
    let mut covered_to = 0;
    for (i, chunk) in chunks.iter().enumerate() {
        let own = text.get(chunk.span.clone()).expect("a span lies on character boundaries");
        assert!(!own.is_empty() && own.trim() == own, "{own:?}");
        let embedded = if prefix { Chunk::prefixed(&chunk.locator, own) } else { own.to_owned() };
        let n_tokens = WordCounter.count(&embedded).unwrap();
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
fn an_endless_word_is_cut() {
    let text = "x".repeat(300_000);
    let document = document("a.txt", &text);
    for kind in ChunkerKind::ALL {
        check(&document, &chunks(kind, &document, 32, 0, false), 32, 0, false);
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
