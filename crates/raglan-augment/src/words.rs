//! Words of a text, and those that say nothing by themselves.

/// English words that carry no content, sorted.
#[rustfmt::skip]
const STOP_WORDS: [&str; 134] = [
    "a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any", "are", "as", "at",
    "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "cannot", "could",
    "did", "do", "does", "doing", "down", "during", "each", "few", "for", "from", "further", "had", "has", "have",
    "having", "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself",
    "just", "may", "me", "might", "more", "most", "must", "my", "no", "nor", "not", "now", "of", "off", "on", "once",
    "only", "or", "other", "our", "ours", "out", "over", "own", "s", "same", "shall", "she", "should", "so", "some",
    "such", "t", "than", "that", "the", "their", "theirs", "them", "then", "there", "these", "they", "this", "those",
    "through", "to", "too", "under", "until", "up", "upon", "us", "very", "via", "was", "we", "were", "what", "when",
    "where", "which", "while", "who", "whom", "whose", "why", "will", "with", "within", "without", "would", "yet",
    "you", "your", "yours",
];

/// Whether a word, in lower case, carries no content.
pub(crate) fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

/// The runs of letters and digits of a text, in lower case.
pub(crate) fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The words of a text that carry content.
pub(crate) fn content_words(text: &str) -> impl Iterator<Item = String> {
    words(text).filter(|word| !is_stop_word(word))
}

/// A text as it is compared with others: its words and nothing between them.
pub(crate) fn normalized(text: &str) -> String {
    words(text).collect::<Vec<_>>().join(" ")
}

/// The first `n` words of a text, as they are written.
pub(crate) fn first_words(text: &str, n: usize) -> &str {
    let mut rest = text.trim_start();
    for _ in 0..n {
        let word = rest.find(char::is_whitespace).unwrap_or(rest.len());
        rest = rest[word..].trim_start();
    }
    text[..text.len() - rest.len()].trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_as_they_are_written() {
        assert_eq!(first_words("  one, two\nthree four", 3), "one, two\nthree");
        assert_eq!(first_words("one", 3), "one");
        assert_eq!(first_words("", 3), "");
        assert_eq!(first_words("one two", 0), "");
    }

    #[test]
    fn what_carries_no_content_is_dropped() {
        assert_eq!(content_words("What is the KV-cache?").collect::<Vec<_>>(), ["kv", "cache"]);
        assert_eq!(normalized(" The  KV-cache? "), "the kv cache");
    }
}
