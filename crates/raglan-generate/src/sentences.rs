//! Sentences of an answer, and the passage numbers written in them.

use raglan_core::sentence_spans;

/// A sentence of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// The sentence without its citation markers.
    pub text: String,
    /// The numbers cited in it or right after it, from 1, in order, each once.
    pub cited: Vec<usize>,
}

/// Splits an answer into sentences and takes out markers such as `[2]` or `[1, 3]` that name one of `n_passages`
/// passages.
///
/// Sentences end as Unicode Annex 29 says, and at line ends, but not after common abbreviations, initials and the
/// numbers of a list. A marker that follows a sentence's full stop belongs to that sentence.
pub fn sentences(answer: &str, n_passages: usize) -> Vec<Sentence> {
    let mut sentences: Vec<Sentence> = Vec::new();
    for line in answer.lines() {
        for (i, span) in sentence_spans(line).into_iter().enumerate() {
            let mut text = &line[span];
            // Markers before the first word belong to the sentence before, if that is on the same line.
            if let Some(previous) = sentences.last_mut().filter(|_| i > 0) {
                while let Some((numbers, len)) = marker_at(text.trim_start(), n_passages) {
                    extend(&mut previous.cited, &numbers);
                    text = &text.trim_start()[len..];
                }
            }
            let sentence = without_markers(text, n_passages);
            if sentence.text.chars().any(char::is_alphanumeric) {
                sentences.push(sentence);
            } else if let Some(previous) = sentences.last_mut() {
                extend(&mut previous.cited, &sentence.cited);
            }
        }
    }
    sentences
}

fn extend(cited: &mut Vec<usize>, numbers: &[usize]) {
    for &number in numbers {
        if !cited.contains(&number) {
            cited.push(number);
        }
    }
}

/// A sentence with its markers taken out, and white space before them.
fn without_markers(text: &str, n_passages: usize) -> Sentence {
    let mut sentence = Sentence { text: String::with_capacity(text.len()), cited: Vec::new() };
    let mut rest = text;
    while let Some(at) = rest.find('[') {
        let (before, marked) = rest.split_at(at);
        sentence.text.push_str(before);
        if let Some((numbers, len)) = marker_at(marked, n_passages) {
            extend(&mut sentence.cited, &numbers);
            sentence.text.truncate(sentence.text.trim_end().len());
            rest = &marked[len..];
        } else {
            sentence.text.push('[');
            rest = &marked[1..];
        }
    }
    sentence.text.push_str(rest);
    sentence.text = sentence.text.trim().to_owned();
    sentence
}

/// The numbers of the marker that the text begins with, and the marker's length.
///
/// All numbers must be those of passages: `[2024]` is a year, and `x[1] = 2` is code.
fn marker_at(text: &str, n_passages: usize) -> Option<(Vec<usize>, usize)> {
    let inner = text.strip_prefix('[')?;
    let end = inner.find(']')?;
    let number = |part: &str| part.trim().parse().ok().filter(|n| (1..=n_passages).contains(n));
    let numbers: Vec<usize> = inner[..end].split([',', ';']).map(number).collect::<Option<_>>()?;
    let after = &inner[end + 1..];
    let code =
        after.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '(') || after.trim_start().starts_with('=');
    (!code).then_some((numbers, end + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: &[(&str, &[usize])]) {
        let got = sentences(answer, 4);
        let got: Vec<(&str, &[usize])> = got.iter().map(|s| (s.text.as_str(), s.cited.as_slice())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn markers_go_with_their_sentence_wherever_they_stand() {
        check("Paris [1]. It is old [2, 3].", &[("Paris.", &[1]), ("It is old.", &[2, 3])]);
        check("Paris. [1] It is old. [2][3]", &[("Paris.", &[1]), ("It is old.", &[2, 3])]);
        check("[2] Paris is large.", &[("Paris is large.", &[2])]);
    }

    #[test]
    fn what_names_no_passage_stays() {
        check("In [2024] it was x[1] = 3 and [9].", &[("In [2024] it was x[1] = 3 and [9].", &[])]);
        check("An open [1", &[("An open [1", &[])]);
    }

    #[test]
    fn abbreviations_initials_numbers_and_lists_do_not_end_sentences() {
        check("Dr. J. Smith measured 3.5 cm, e.g. Here.", &[("Dr. J. Smith measured 3.5 cm, e.g. Here.", &[])]);
        check("1. Open the lid.\n2. Close it.", &[("1. Open the lid.", &[]), ("2. Close it.", &[])]);
    }

    #[test]
    fn no_words_are_no_sentences() {
        check("", &[]);
        check(" \n--\n", &[]);
        check("[1]", &[]);
    }

    #[test]
    fn other_scripts_have_sentences_too() {
        check("今日は晴れ。明日は雨[1]。", &[("今日は晴れ。", &[]), ("明日は雨。", &[1])]);
    }
}
