//! Where sentences end.
//!
//! Unicode's rules (UAX 29) know no abbreviations, end a sentence at every line break, and look ahead without bound, so
//! that one hostile line costs quadratic time. These rules take one pass.

/// The pieces of a text between its sentence ends; together they are the text.
///
/// A sentence ends behind `.`, `!`, `?` and their like with the quotes and brackets that close there, if white space and
/// no lower-case letter follow; full-width marks need no white space. A point behind an initial, a number that begins
/// the sentence, or a usual abbreviation ends nothing. An empty line ends a sentence, and so does a line break before a
/// line that begins as a list item, a table row, a quote or a heading.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let (mut start, mut at) = (0, 0);
    while let Some(&byte) = bytes.get(at) {
        if byte.is_ascii() && !matches!(byte, b'\n' | b'.' | b'!' | b'?') {
            at += 1;
            continue;
        }
        let character = text[at..].chars().next().expect("`at` is the start of a character");
        let ends = if byte == b'\n' {
            let space = leading_space(&text[at..]);
            let is_end =
                space.bytes().filter(|&byte| byte == b'\n').count() > 1 || begins_item(&text[at + space.len()..]);
            at += space.len();
            is_end
        } else if let Some(mark) = Mark::of(character) {
            let marked = at;
            at += character.len_utf8();
            let mut n_marks = 1;
            let mut is_wide = mark == Mark::Wide;
            while let Some(next) = text[at..].chars().next() {
                match Mark::of(next) {
                    Some(mark) => {
                        n_marks += 1;
                        is_wide |= mark == Mark::Wide;
                    }
                    None if closes(next) => {}
                    None => break,
                }
                at += next.len_utf8();
            }
            let space = leading_space(&text[at..]);
            let next = text[at + space.len()..].chars().next();
            let is_abbreviated = || byte == b'.' && n_marks == 1 && is_abbreviation(&text[start..marked]);
            let goes_on = space.is_empty() || next.is_some_and(char::is_lowercase) || is_abbreviated();
            let is_end = is_wide || !goes_on;
            if !space.contains('\n') {
                at += space.len();
            }
            is_end
        } else {
            at += character.len_utf8();
            false
        };
        if ends && at < text.len() {
            pieces.push(&text[start..at]);
            start = at;
        }
    }
    pieces.push(&text[start..]);
    pieces
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    /// White space must follow.
    Narrow,
    /// Its own width is space enough.
    Wide,
}

impl Mark {
    fn of(character: char) -> Option<Self> {
        match character {
            '.' | '!' | '?' | '…' | '‽' | '؟' | '۔' | '।' | '॥' | '։' | '።' | '፧' | '។' => {
                Some(Self::Narrow)
            }
            '。' | '！' | '？' | '｡' | '．' => Some(Self::Wide),
            _ => None,
        }
    }
}

fn closes(character: char) -> bool {
    matches!(
        character,
        '"' | '\'' | ')' | ']' | '}' | '”' | '’' | '»' | '›' | '」' | '』' | '）' | '】' | '*' | '_' | '`'
    )
}

fn leading_space(text: &str) -> &str {
    &text[..text.len() - text.trim_start().len()]
}

/// Whether a line begins as something that stands for itself.
fn begins_item(line: &str) -> bool {
    let digits = line.bytes().take(4).take_while(u8::is_ascii_digit).count();
    line.starts_with(['|', '>', '#', '•', '‣', '–'])
        || ["- ", "* ", "+ "].iter().any(|marker| line.starts_with(marker))
        || digits > 0 && line[digits..].starts_with([')', '.']) && line[digits + 1..].starts_with(' ')
}

/// Abbreviations behind which a sentence goes on even if a capital or a number follows.
const ABBREVIATIONS: [&str; 28] = [
    "al", "approx", "bzw", "ca", "capt", "cf", "ch", "dr", "eq", "eqs", "fig", "figs", "gen", "jr", "mr", "mrs", "ms",
    "mt", "nr", "pp", "prof", "resp", "sec", "sr", "st", "viz", "vol", "vs",
];

/// Whether a sentence so far ends in something that a point abbreviates.
fn is_abbreviation(sentence: &str) -> bool {
    // Longer words are none; so little is looked at that the cost stays linear.
    let reach = sentence.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    let tail = &sentence[reach..];
    let word_start = tail
        .rfind(|c: char| !c.is_alphanumeric() && c != '.')
        .map_or(0, |at| at + tail[at..].chars().next().map_or(0, char::len_utf8));
    let word = &tail[word_start..];
    let is_initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase) && word != "I";
    let is_number_of_item = sentence.len() < 8 && sentence.trim().bytes().all(|byte| byte.is_ascii_digit());
    let is_dotted = word.contains('.') && word.chars().any(char::is_alphabetic) && word.len() <= 5;
    let lower = word.to_lowercase();
    is_initial || is_number_of_item || is_dotted || ABBREVIATIONS.binary_search(&lower.as_str()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found = sentences(text);
        assert_eq!(found.concat(), text);
        assert_eq!(found.iter().map(|piece| piece.trim()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn marks_with_space_behind_them_end_sentences() {
        check("It is. Is it? “Yes!” Version 1.2 is out.", &["It is.", "Is it?", "“Yes!”", "Version 1.2 is out."]);
        check("Wait... what? No.", &["Wait... what?", "No."]);
        check("See a.txt and b.txt", &["See a.txt and b.txt"]);
        check("", &[""]);
    }

    #[test]
    fn abbreviations_do_not() {
        check("Dr. Low met J. S. Hill, i.e. Bob. He left.", &["Dr. Low met J. S. Hill, i.e. Bob.", "He left."]);
        check("1. First. See Fig. 3 there.", &["1. First.", "See Fig. 3 there."]);
        check("It was I. Then he came.", &["It was I.", "Then he came."]);
    }

    #[test]
    fn wide_marks_need_no_space() {
        check("今日は。「行く！」明日", &["今日は。", "「行く！」", "明日"]);
    }

    #[test]
    fn lines_end_sentences_only_where_something_new_begins() {
        check("One\nline\n\nTwo\n- a\n- b\n2) c\n| d", &["One\nline", "Two", "- a", "- b", "2) c", "| d"]);
    }

    #[test]
    fn the_abbreviations_can_be_searched() {
        assert!(ABBREVIATIONS.is_sorted());
    }
}
