//! Which passage bears out which sentence of an answer.
//!
//! Small models cite badly, so their citations are checked and, where they fail, replaced. The measure is the share
//! of a sentence's content words that a passage has, weighted by rarity:
//!
//! > support(s, p) = Σ_{t ∈ s ∩ p} w(t) ∕ Σ_{t ∈ s} w(t),  w(t) = m(t) · (1 + ln((N + 1) ∕ (df(t) + 1)))
//!
//! `t` runs over the sentence's distinct stems without stop words, `N` is the number of passages, `df(t)` how many of
//! them have `t`, and `m(t)` is 2 for words with a digit, else 1: a sentence with a wrong number is a wrong sentence.
//! A word that no passage has weighs most and lowers the support by all passages. A passage that lacks one of the
//! sentence's numbers or names is no source of it, whatever else they share, and a sentence that only says the
//! question again has none.

use std::collections::{BTreeSet, HashMap, HashSet};

use raglan_core::{AnswerSentence, Attribution};
use unicode_segmentation::UnicodeSegmentation;

use crate::sentences::sentences;

/// The least support by which a passage is taken for a sentence's source.
const MATCHED: f32 = 0.6;
/// The least support that bears out a passage which the model itself named.
const CITED: f32 = 0.4;

/// Splits an answer into sentences and finds for each the passage that supports it.
///
/// A passage that the model named is taken if it bears the sentence out, the best of them if there are several; else
/// the passage with the highest support, the earlier of equals, if that suffices; else the sentence is unsupported,
/// and the support given is the highest there was.
pub fn attribute(question: &str, answer: &str, passages: &[&str]) -> Vec<AnswerSentence> {
    let stems: Vec<HashSet<String>> = passages.iter().map(|passage| stems(passage).collect()).collect();
    let mut df: HashMap<&str, usize> = HashMap::new();
    for stem in stems.iter().flatten() {
        *df.entry(stem).or_default() += 1;
    }
    let weight = |stem: &str| {
        let rarity = 1.0 + ((passages.len() + 1) as f32 / (df.get(stem).copied().unwrap_or(0) + 1) as f32).ln();
        if stem.bytes().any(|byte| byte.is_ascii_digit()) { 2.0 * rarity } else { rarity }
    };
    let attributed = sentences(answer, passages.len()).into_iter().map(|sentence| {
        let claim = without_list_marker(&sentence.text);
        let words: BTreeSet<String> = self::stems(claim).collect();
        let (exact, echo) = (numbers_and_names(claim), repeats(question, claim));
        let total: f32 = words.iter().map(|word| weight(word)).sum();
        let support = |i: usize| {
            let shared: f32 = words.iter().filter(|&word| stems[i].contains(word)).map(|word| weight(word)).sum();
            (i, if shared > 0.0 { shared / total } else { 0.0 })
        };
        let better = |best: (usize, f32), next: (usize, f32)| if next.1 > best.1 { next } else { best };
        let highest = (0..passages.len()).map(support).reduce(better).map_or(0.0, |(_, support)| support);
        let can_be_source = |&i: &usize| !echo && exact.iter().all(|word| stems[i].contains(word));
        let cited = sentence.cited.iter().map(|number| number - 1).filter(can_be_source).map(support).reduce(better);
        let matched = (0..passages.len()).filter(can_be_source).map(support).reduce(better);
        let (source, support, attribution) = match (cited, matched) {
            (Some((i, support)), _) if support >= CITED => (Some(i), support, Attribution::Cited),
            (_, Some((i, support))) if support >= MATCHED => (Some(i), support, Attribution::Matched),
            _ => (None, highest, Attribution::Unsupported),
        };
        AnswerSentence { text: sentence.text, source, support, attribution }
    });
    attributed.collect()
}

/// The text without a list's number or dash before it.
fn without_list_marker(text: &str) -> &str {
    let text = text.trim_start();
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let marked = match rest.strip_prefix(['.', ')']) {
        Some(rest) if rest.len() < text.len() - 1 => Some(rest),
        _ => text.strip_prefix(['-', '*', '•', '–']),
    };
    marked.filter(|rest| rest.starts_with(char::is_whitespace)).map_or(text, str::trim_start)
}

/// The stems of words with a digit, and of capitalised ones but the first, which is capitalised in any sentence.
///
/// A number in brackets is a citation, if a wrong one, and no claim.
fn numbers_and_names(text: &str) -> Vec<String> {
    let is_exact = |&(at, word): &(usize, &str)| {
        let bracketed = text[..at].ends_with('[') && text[at + word.len()..].starts_with(']');
        let first = !text[..at].contains(char::is_alphanumeric);
        let number = word.bytes().any(|byte| byte.is_ascii_digit()) && !bracketed;
        number || !first && word.starts_with(char::is_uppercase)
    };
    let words = text.unicode_word_indices().filter(is_exact).map(|(_, word)| word.to_lowercase());
    words.filter(|word| STOP_WORDS.binary_search(&&**word).is_err()).map(|word| stem(&word)).collect()
}

/// Whether a sentence is the question once more: its very words, or a question of no other words.
fn repeats(question: &str, sentence: &str) -> bool {
    let words = |text: &str| text.unicode_words().map(str::to_lowercase).collect::<Vec<_>>();
    if words(question) == words(sentence) {
        return true;
    }
    let asked: HashSet<String> = stems(question).collect();
    sentence.trim_end().ends_with('?') && stems(sentence).all(|stem| asked.contains(&stem))
}

/// The stems of a text's content words, in order. A text of nothing but stop words keeps them.
fn stems(text: &str) -> impl Iterator<Item = String> {
    let words: Vec<String> = text.unicode_words().map(str::to_lowercase).collect();
    let is_stop_word = |word: &str| STOP_WORDS.binary_search(&word).is_ok();
    let all_stop_words = words.iter().all(|word| is_stop_word(word));
    words.into_iter().filter(move |word| all_stop_words || !is_stop_word(word)).map(|word| stem(&word))
}

/// A word without the commonest English endings, so that `stores`, `stored` and `storing` are one.
///
/// Words with a digit and words of other scripts stay as they are.
fn stem(word: &str) -> String {
    let word = word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word);
    if word.len() < 4 || !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return word.to_owned();
    }
    if let Some(body) = word.strip_suffix("ies").or_else(|| word.strip_suffix("ied")).filter(|body| body.len() > 1) {
        return format!("{body}i");
    }
    let mut stem = word;
    if !["ss", "us", "is"].iter().any(|ending| stem.ends_with(ending)) {
        stem = stem.strip_suffix('s').unwrap_or(stem);
    }
    let inflected = |body: &&str| body.len() > 2 && body.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    if let Some(body) = ["ing", "ed", "ly"].iter().find_map(|ending| stem.strip_suffix(ending).filter(inflected)) {
        // `stopped` and `stopping` are `stop`, but `filled` is `fill`.
        let twice = body.as_bytes().ends_with(&[body.as_bytes()[body.len() - 1]; 2]);
        stem = if twice && !body.ends_with(['l', 's', 'z']) { &body[..body.len() - 1] } else { body };
    }
    match (stem.strip_suffix('y'), stem.strip_suffix('e')) {
        (Some(body), _) if body.len() > 1 => format!("{body}i"),
        (_, Some(body)) if body.len() > 2 => body.to_owned(),
        _ => stem.to_owned(),
    }
}

/// Words that say nothing about what a sentence claims, sorted.
#[rustfmt::skip]
const STOP_WORDS: &[&str] = &[
    "a", "about", "above", "according", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at",
    "based", "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "could",
    "did", "do", "does", "doing", "down", "during", "each", "few", "for", "from", "further", "had", "has", "have",
    "having", "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "it's", "its",
    "itself", "just", "me", "mentioned", "more", "most", "my", "no", "nor", "not", "of", "off", "on", "once", "only",
    "or", "other", "our", "out", "over", "own", "passage", "passages", "provided", "same", "she", "should", "so",
    "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those",
    "through", "to", "too", "under", "until", "up", "very", "was", "we", "were", "what", "when", "where", "which",
    "while", "who", "whom", "why", "will", "with", "would", "you", "your",
];

#[cfg(test)]
mod tests {
    use super::*;

    const PASSAGES: [&str; 3] = [
        "The lighthouse at Skerry was lit on 4 October 1906 and is 38 metres tall.",
        "Ferries leave the harbour every two hours; a ticket costs 12 pounds.",
        "The island's puffins nest on the northern cliffs from April to August.",
    ];

    #[track_caller]
    fn check(answer: &str, expected: &[(Option<usize>, Attribution)]) {
        let got = attribute("Does a ferry go to the lighthouse?", answer, &PASSAGES);
        let sources: Vec<_> = got.iter().map(|sentence| (sentence.source, sentence.attribution)).collect();
        assert_eq!(sources, expected, "{got:#?}");
    }

    #[test]
    fn a_valid_citation_is_kept_and_an_invalid_one_replaced() {
        check("The lighthouse is 38 metres tall [1].", &[(Some(0), Attribution::Cited)]);
        check("The lighthouse is 38 metres tall [2].", &[(Some(0), Attribution::Matched)]);
        check("The lighthouse is 38 metres tall [7].", &[(Some(0), Attribution::Matched)]);
        check("The lighthouse is 38 metres tall [2, 1].", &[(Some(0), Attribution::Cited)]);
    }

    #[test]
    fn uncited_sentences_find_their_passages_in_other_word_forms() {
        check(
            "Tickets for the ferry cost 12 pounds. Puffins are nesting on the cliffs in the north from April!",
            &[(Some(1), Attribution::Matched), (Some(2), Attribution::Matched)],
        );
    }

    #[test]
    fn what_no_passage_says_is_unsupported() {
        check("Whales visit the bay in winter.", &[(None, Attribution::Unsupported)]);
        check("The lighthouse was painted red by Dutch sailors [1].", &[(None, Attribution::Unsupported)]);
        check("Ferries cost 15 pounds in 1999.", &[(None, Attribution::Unsupported)]);
    }

    #[test]
    fn a_number_or_name_that_a_passage_lacks_is_not_from_it() {
        check(
            "The lighthouse at Skerry was lit in October 1907 and is 38 metres tall [1].",
            &[(None, Attribution::Unsupported)],
        );
        check(
            "The lighthouse at Norway is 38 metres tall and was lit on 4 October.",
            &[(None, Attribution::Unsupported)],
        );
        check("Puffins of the island nest on northern cliffs for 12 pounds.", &[(None, Attribution::Unsupported)]);
    }

    #[test]
    fn the_question_once_more_is_no_answer() {
        let echo = ["Is the lighthouse at Skerry 38 metres tall?", "The lighthouse is 38 metres tall."];
        let got = |question| attribute(question, &echo.join(" "), &PASSAGES);
        let sources: Vec<_> = got("Is the lighthouse at Skerry 38 metres tall?").iter().map(|s| s.source).collect();
        assert_eq!(sources, [None, Some(0)]);
        assert_eq!(attribute("the lighthouse is 38 metres tall", echo[1], &PASSAGES)[0].source, None);
    }

    #[test]
    fn a_list_marker_is_no_claim() {
        check("2. The lighthouse is 38 metres tall.", &[(Some(0), Attribution::Matched)]);
        check("- The lighthouse is 38 metres tall.", &[(Some(0), Attribution::Matched)]);
        assert_eq!(without_list_marker("1906 was the year"), "1906 was the year");
        assert_eq!(without_list_marker("3.5 metres"), "3.5 metres");
    }

    #[test]
    fn support_is_the_weighted_share_of_words() {
        let got = attribute("", "Cats bark loudly", &["cats purr", "dogs bark"]);
        // `cat` and `bark` are in one of two passages, `loud` in none: w = 1 + ln(3/2) = 1.405 and 1 + ln 3 = 2.099.
        let expected = 1.405 / (1.405 + 1.405 + 2.099);
        assert!((got[0].support - expected).abs() <= 1e-3, "{}", got[0].support);
        assert_eq!(got[0].source, None);
    }

    #[test]
    fn without_passages_nothing_is_supported() {
        assert_eq!(attribute("", "Paris [1].", &[])[0].attribution, Attribution::Unsupported);
        assert!(attribute("", "", &["a"]).is_empty());
    }

    #[test]
    fn word_forms_share_a_stem() {
        for forms in [
            &["store", "stores", "stored", "storing"][..],
            &["stop", "stops", "stopped", "stopping"],
            &["ferry", "ferries"],
            &["city", "cities", "city's"],
            &["index", "indexes", "indexed", "indexing"],
            &["study", "studies", "studied"],
        ] {
            let stems: HashSet<String> = forms.iter().map(|form| stem(form)).collect();
            assert_eq!(stems.len(), 1, "{forms:?} have {stems:?}");
        }
        assert_ne!(stem("this"), stem("thi"));
        assert_eq!(stem("string"), "string");
    }

    #[test]
    fn stop_words_are_sorted_for_the_search() {
        assert!(STOP_WORDS.is_sorted());
    }
}
