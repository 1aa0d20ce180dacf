//! Entities and relations without a model.

use std::ops::Range;

use raglan_core::Result;
use rustc_hash::FxHashSet;
use unicode_segmentation::UnicodeSegmentation;

use crate::{Extraction, Extractor};

/// Finds names by their capitals, and relates those of one sentence.
///
/// A name is a run of words that begin with a capital or hold a letter and a digit, with nothing but spaces between them;
/// numbers behind one, and words such as `of` between two, are part of it. Function words, months and days are no names, and
/// a word that begins a sentence is none by itself when the text has it in lower case too. Each name of a sentence is
/// related to the few that follow it there. Texts without capitals have no entities.
#[derive(Clone, Copy, Debug, Default)]
pub struct RuleExtractor;

/// To how many of those that follow it in a sentence a name is related: in a list, not all to all.
const NEIGHBOURS: usize = 4;

/// The most words of a name: what is longer is a heading in capitals.
const MAX_WORDS: usize = 8;

/// Words that may stand inside of a name.
#[rustfmt::skip]
const INNER: &[&str] = &[
    "al", "bin", "da", "de", "del", "della", "den", "der", "di", "du", "for", "ibn", "la", "le", "of", "on", "the", "van",
    "von", "y",
];

/// Words that are written with a capital and name nothing, or nothing that tells texts apart.
#[rustfmt::skip]
const NO_NAMES: &[&str] = &[
    "a", "about", "above", "after", "again", "against", "all", "also", "although", "an", "and", "another", "any", "april",
    "are", "as", "at", "august", "be", "because", "been", "before", "below", "between", "both", "but", "by", "can", "could",
    "december", "despite", "did", "do", "does", "during", "each", "eight", "either", "february", "few", "first", "five",
    "for", "four", "friday", "from", "further", "had", "has", "have", "having", "he", "hence", "her", "here", "his", "how",
    "however", "i", "if", "in", "indeed", "instead", "into", "is", "it", "its", "january", "july", "june", "last", "later",
    "many", "march", "may", "might", "monday", "more", "moreover", "most", "much", "must", "nine", "no", "nor", "not",
    "november", "now", "october", "of", "on", "once", "one", "only", "or", "other", "our", "over", "saturday", "second",
    "september", "seven", "several", "she", "should", "since", "six", "so", "some", "such", "sunday", "ten", "than",
    "that", "the", "their", "then", "there", "therefore", "these", "they", "this", "those", "three", "through",
    "thursday", "thus", "to", "tuesday", "two", "under", "until", "was", "we", "wednesday", "were", "what", "when", "where",
    "which", "while", "who", "whom", "whose", "why", "with", "would", "yet", "you",
];

impl Extractor for RuleExtractor {
    fn extract(&self, texts: &[&str]) -> Result<Vec<Extraction>> {
        Ok(texts.iter().map(|text| extract(text)).collect())
    }

    fn fingerprint(&self) -> String {
        "rules/1".to_owned()
    }
}

fn extract(text: &str) -> Extraction {
    let in_lower_case: FxHashSet<&str> =
        text.unicode_words().filter(|word| word.starts_with(char::is_lowercase)).collect();
    let mut names = Vec::new();
    let mut relations = Vec::new();
    for sentence in text.lines().flat_map(str::unicode_sentences) {
        let of_sentence = names_of(sentence, &in_lower_case);
        for (i, subject) in of_sentence.iter().enumerate() {
            relations.extend(of_sentence[i + 1..].iter().take(NEIGHBOURS).map(|object| (*subject, *object)));
        }
        names.extend(of_sentence);
    }
    Extraction::new(names, relations)
}

/// The names in a sentence, in order.
fn names_of<'a>(sentence: &'a str, in_lower_case: &FxHashSet<&str>) -> Vec<&'a str> {
    let words: Vec<Range<usize>> =
        sentence.unicode_word_indices().map(|(start, word)| start..start + without_possessive(word).len()).collect();
    let word = |i: usize| &sentence[words[i].clone()];
    // Whether only spaces are between a word and the one before.
    let follows = |i: usize| i > 0 && sentence[words[i - 1].end..words[i].start].chars().all(char::is_whitespace);
    let mut names = Vec::new();
    let mut next = 0;
    while next < words.len() {
        let start = next;
        next += 1;
        if !begins_a_name(word(start)) {
            continue;
        }
        let mut end = next;
        while next < words.len() && follows(next) {
            if is_part(word(next)) || word(next).chars().all(|c| c.is_ascii_digit()) {
                end = next + 1;
            } else if INNER.binary_search(&word(next)).is_err() {
                break;
            }
            next += 1;
        }
        next = end;
        let is_ordinary = start == 0 && end == 1 && in_lower_case.contains(&*word(0).to_lowercase());
        if !is_ordinary && end - start <= MAX_WORDS {
            names.push(&sentence[words[start].start..words[end - 1].end]);
        }
    }
    names
}

fn begins_a_name(word: &str) -> bool {
    is_part(word) && NO_NAMES.binary_search(&&*word.to_lowercase()).is_err()
}

/// Whether a word has a capital in front, or both letters and digits.
fn is_part(word: &str) -> bool {
    word.starts_with(char::is_uppercase)
        || word.contains(char::is_alphabetic) && word.contains(|c: char| c.is_ascii_digit())
}

fn without_possessive(word: &str) -> &str {
    word.strip_suffix("'s").or_else(|| word.strip_suffix("’s")).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, entities: &[&str], relations: &[[u32; 2]]) {
        let said = RuleExtractor.extract(&[text]).unwrap().remove(0);
        assert_eq!(said.entities(), entities);
        assert_eq!(said.relations(), relations);
    }

    #[test]
    fn word_lists_are_sorted_for_the_search() {
        assert!(INNER.is_sorted() && NO_NAMES.is_sorted());
    }

    #[test]
    fn names_are_runs_of_capitals() {
        check("The University of the Andes is in Bogotá.", &["university of the andes", "bogotá"], &[[0, 1]]);
        check("In 1969 Apollo 11 landed, with Neil Armstrong.", &["apollo 11", "neil armstrong"], &[[0, 1]]);
        check("Ghana's President met him. It rained.", &["ghana", "president"], &[[0, 1]]);
        check("a gene called p53 and nothing more", &["p53"], &[]);
        check("", &[], &[]);
        check("nothing here has a name", &[], &[]);
    }

    #[test]
    fn an_ordinary_word_that_begins_a_sentence_is_no_name() {
        check("Pages are cached. Eviction frees pages.", &["eviction"], &[]);
    }

    #[test]
    fn relations_stay_within_a_sentence() {
        check("Ada met Bob. Cid met Dora.", &["ada", "bob", "cid", "dora"], &[[0, 1], [2, 3]]);
    }
}
