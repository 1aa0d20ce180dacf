//! Answers compared with the right ones: exact match, token F1 and ROUGE-L, as SQuAD and KILT compute them.
//!
//! Where several answers are right, the best value counts: [`best`].

use std::collections::{HashMap, HashSet};

/// The text as SQuAD compares it: lower case, without ASCII punctuation, without the words `a`, `an` and `the`, single
/// blanks between words.
pub fn normalised(text: &str) -> String {
    let lower = text.to_lowercase();
    let bare: String = lower.chars().filter(|character| !character.is_ascii_punctuation()).collect();
    // Articles end at what is no letter, digit or underscore, and leave a blank, as Python's `\b` has it.
    let mut kept = String::with_capacity(bare.len());
    let mut word = String::new();
    for character in bare.chars().chain(['\0']) {
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
            continue;
        }
        kept.push_str(if matches!(&*word, "a" | "an" | "the") { " " } else { &word });
        word.clear();
        if character != '\0' {
            kept.push(character);
        }
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The largest of `score(prediction, gold)` over the right answers; 0 when there are none.
pub fn best<G: AsRef<str>>(prediction: &str, golds: &[G], score: impl Fn(&str, &str) -> f64) -> f64 {
    golds.iter().map(|gold| score(prediction, gold.as_ref())).fold(0.0, f64::max)
}

/// 1 when both are the same after normalisation, else 0.
pub fn exact_match(prediction: &str, gold: &str) -> f64 {
    f64::from(normalised(prediction) == normalised(gold))
}

/// The harmonic mean of precision and recall of the normalised words, counted as often as they occur. 0 without a
/// common word.
pub fn token_f1(prediction: &str, gold: &str) -> f64 {
    let (prediction, gold) = (normalised(prediction), normalised(gold));
    let mut left: HashMap<&str, usize> = HashMap::new();
    gold.split(' ').filter(|word| !word.is_empty()).for_each(|word| *left.entry(word).or_default() += 1);
    let n_gold: usize = left.values().sum();
    let (mut n_predicted, mut common) = (0, 0);
    for word in prediction.split(' ').filter(|word| !word.is_empty()) {
        n_predicted += 1;
        if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            common += 1;
        }
    }
    // Not by way of precision and recall: 2pr / (p + r) = 2c / (predicted + gold).
    if common == 0 { 0.0 } else { 2.0 * f64::from(common) / (n_predicted + n_gold) as f64 }
}

/// 1 when the prediction without surrounding white space is the gold answer, letter by letter, else 0: KILT's accuracy.
pub fn accuracy(prediction: &str, gold: &str) -> f64 {
    f64::from(prediction.trim() == gold.trim())
}

/// 1 when the normalised text contains the normalised gold answer, as it stands, else 0. What is judged offline where no
/// judge can be asked; a gold answer that is empty after normalisation is contained nowhere.
pub fn contains(text: &str, gold: &str) -> f64 {
    let gold = normalised(gold);
    f64::from(!gold.is_empty() && normalised(text).contains(&gold))
}

/// ROUGE-L of whole texts, without normalisation, as the Python package `rouge` 1.0.1 computes it and KILT reports it.
///
/// A text is cut into sentences at full stops and those into words at white space. The union of the longest common
/// subsequences of every gold sentence with every predicted one, as a set of words, over the different words of the
/// gold text is the recall, over those of the prediction the precision: `F = 2pr / (p + r + 1e-8)`. 0 when either has
/// no sentence.
pub fn rouge_l(prediction: &str, gold: &str) -> f64 {
    let (prediction, gold) = (sentences(prediction), sentences(gold));
    if prediction.is_empty() || gold.is_empty() {
        return 0.0;
    }
    let different = |sentences: &[Vec<String>]| sentences.iter().flatten().collect::<HashSet<_>>().len() as f64;
    let mut union: HashSet<&str> = HashSet::new();
    for reference in &gold {
        for sentence in &prediction {
            union.extend(longest_common_subsequence(reference, sentence));
        }
    }
    let common = union.len() as f64;
    let (precision, recall) = (common / different(&prediction), common / different(&gold));
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// The words of each sentence; one of blanks only has one empty word, as in the package.
fn sentences(text: &str) -> Vec<Vec<String>> {
    let sentences = text.split('.').filter(|sentence| !sentence.is_empty());
    sentences
        .map(|sentence| {
            let words: Vec<String> = sentence.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() { vec![String::new()] } else { words }
        })
        .collect()
}

/// The words of a longest common subsequence; among several, the one that ends latest in `a`'s reading from the back.
fn longest_common_subsequence<'a>(a: &'a [String], b: &[String]) -> Vec<&'a str> {
    let width = b.len() + 1;
    let mut lengths = vec![0u32; (a.len() + 1) * width];
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            lengths[i * width + j] = if a[i - 1] == b[j - 1] {
                lengths[(i - 1) * width + j - 1] + 1
            } else {
                lengths[(i - 1) * width + j].max(lengths[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j) = (a.len(), b.len());
    let mut words = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            words.push(a[i - 1].as_str());
            (i, j) = (i - 1, j - 1);
        } else if lengths[(i - 1) * width + j] > lengths[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalisation_is_squads() {
        let check = |text: &str, expected: &str| assert_eq!(normalised(text), expected, "{text}");
        check("The  U.S. Army!", "us army");
        check("A man, a plan", "man plan");
        check("theatre an", "theatre");
        check("an–apple", "–apple"); // A dash beyond ASCII stays, and ends the article.
        check("", "");
        check("the", "");
        check("Ä the_a", "ä thea"); // The underscore is punctuation and goes first.
    }

    #[test]
    fn words_count_as_often_as_they_occur() {
        assert_eq!(token_f1("the cat cat", "a cat sat"), 2.0 / 4.0); // cat of [cat cat] and [cat sat]
        assert_eq!(token_f1("Paris!", "paris"), 1.0);
        assert_eq!(token_f1("", "paris"), 0.0);
        assert_eq!(token_f1("the", "the"), 0.0);
        assert_eq!(exact_match("The Paris.", "paris"), 1.0);
        assert_eq!(exact_match("Paris, France", "paris"), 0.0);
        assert_eq!(best("Paris", &["Rome", "paris"], exact_match), 1.0);
        assert_eq!(best("Paris", &[] as &[&str], exact_match), 0.0);
        assert_eq!((accuracy(" SUPPORTS\n", "SUPPORTS"), accuracy("supports", "SUPPORTS")), (1.0, 0.0));
        assert_eq!((contains("It was Jane Ballou.", "jane ballou"), contains("Jane", "the")), (1.0, 0.0));
    }

    /// Values of the package itself.
    #[test]
    fn rouge_l_is_the_packages() {
        for (prediction, gold, want) in [
            ("the cat sat on the mat", "the cat lay on a mat", 0.7272727223140496),
            ("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", 0.6153846106508877),
            ("A b. C d e. ", "C d. A b x", 0.7272727223140496),
            ("one two three", "three two one", 0.3333333283333334),
            ("Paris", "paris", 0.0),
            ("a b c b d a b", "b d c a b a", 0.749999995),
            (
                "first sentence here. the second one follows. third",
                "the first sentence. second one there. a third of it",
                0.6666666617283951,
            ),
            ("x", "x", 0.999999995),
        ] {
            let got = rouge_l(prediction, gold);
            assert!((got - want).abs() <= 1e-12, "{prediction} / {gold}: {got}, not {want}");
        }
        assert_eq!((rouge_l("", "x"), rouge_l("...", "x"), rouge_l("x", ".")), (0.0, 0.0, 0.0));
    }
}
