//! Long texts in which little is to be found: the tasks of RULER (Hsieh et al. 2024) and the passkey (Mohtashami and
//! Jaggi 2023), made by a seed.
//!
//! Lengths are counted in the tokens of the model that is to read them: a text is filled up to a number of tokens with
//! the task's own noise.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::planted::Filler;
use crate::{Draws, LongContextItem};

/// What is asked about a long text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RulerTask {
    /// A number that is said once in a text of repeated sentences, at depths from its beginning to its end.
    Passkey,
    /// A number for a word, in repeated sentences.
    NiahSingle1,
    /// A number for a word, in prose.
    NiahSingle2,
    /// A long hexadecimal name for a word, in prose.
    NiahSingle3,
    /// A number for one of four words, in prose.
    NiahMultiKey1,
    /// A number for one of many words; the text has nothing else.
    NiahMultiKey2,
    /// A long hexadecimal name for one of many; the text has nothing else.
    NiahMultiKey3,
    /// Four numbers for one word.
    NiahMultiValue,
    /// Numbers for four words.
    NiahMultiQuery,
    /// The names that were given one value, from one to the next.
    VariableTracking,
    /// The ten commonest words of a list.
    CommonWords,
    /// The three commonest words of a made-up language.
    FrequentWords,
}

impl RulerTask {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Passkey,
        Self::NiahSingle1,
        Self::NiahSingle2,
        Self::NiahSingle3,
        Self::NiahMultiKey1,
        Self::NiahMultiKey2,
        Self::NiahMultiKey3,
        Self::NiahMultiValue,
        Self::NiahMultiQuery,
        Self::VariableTracking,
        Self::CommonWords,
        Self::FrequentWords,
    ];

    /// The most tokens of an answer, as RULER has it.
    pub fn answer_tokens(self) -> usize {
        match self {
            Self::Passkey => 16,
            Self::VariableTracking => 30,
            Self::CommonWords => 120,
            Self::FrequentWords => 50,
            _ => 128,
        }
    }
}

impl fmt::Display for RulerTask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passkey => "passkey",
            Self::NiahSingle1 => "niah_single_1",
            Self::NiahSingle2 => "niah_single_2",
            Self::NiahSingle3 => "niah_single_3",
            Self::NiahMultiKey1 => "niah_multikey_1",
            Self::NiahMultiKey2 => "niah_multikey_2",
            Self::NiahMultiKey3 => "niah_multikey_3",
            Self::NiahMultiValue => "niah_multivalue",
            Self::NiahMultiQuery => "niah_multiquery",
            Self::VariableTracking => "vt",
            Self::CommonWords => "cwe",
            Self::FrequentWords => "fwe",
        })
    }
}

impl FromStr for RulerTask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(|task| task.to_string()).join(", ");
        Self::ALL
            .into_iter()
            .find(|task| task.to_string() == text)
            .ok_or_else(|| format!("no task `{text}`; there are {}", names()))
    }
}

/// Repeated around what is to be found.
const NOISE: [&str; 5] =
    ["The road is long.", "The river is wide.", "The hills are blue.", "We walk on.", "There and back again."];
/// Numbers or names that a text binds where several are asked for.
const SEVERAL: usize = 4;
/// Depths at which a passkey stands.
const DEPTHS: usize = 10;

/// Makes the items `0..n` of a task, whose text and question have about `n_tokens` by `count`, and not more.
///
/// The same seed gives the same items, and an item does not depend on how many there are, but for the passkey's depths,
/// which are spread over ten items, or over all where there are fewer.
pub fn ruler(
    task: RulerTask,
    n: usize,
    n_tokens: usize,
    seed: u64,
    count: &dyn Fn(&str) -> usize,
) -> Vec<LongContextItem> {
    (0..n)
        .map(|number| {
            let mut maker =
                Maker { draws: Draws::new(seed, number as u64), count, left: n_tokens, words: BTreeSet::new() };
            let n_depths = n.min(DEPTHS);
            let depth = if n_depths < 2 { 0.5 } else { (number % n_depths) as f32 / (n_depths - 1) as f32 };
            let item = maker.make(task, depth);
            LongContextItem { id: format!("{task}-{}", number + 1), ..item }
        })
        .collect()
}

struct Maker<'a> {
    draws: Draws,
    count: &'a dyn Fn(&str) -> usize,
    /// Tokens that there is room for.
    left: usize,
    /// Words that were made.
    words: BTreeSet<String>,
}

impl Maker<'_> {
    fn make(&mut self, task: RulerTask, depth: f32) -> LongContextItem {
        match task {
            RulerTask::Passkey => self.passkey(depth),
            RulerTask::VariableTracking => self.variables(),
            RulerTask::CommonWords => self.common_words(),
            RulerTask::FrequentWords => self.frequent_words(),
            _ => self.needles(task),
        }
    }

    fn passkey(&mut self, depth: f32) -> LongContextItem {
        let key = self.number(5);
        let question = "What is the pass key?".to_owned();
        let needle = format!("The pass key is {key}. Remember it. {key} is the pass key.");
        let intro = "There is an important fact hidden inside a lot of irrelevant text. Find it and memorize it.";
        self.take(&[intro, &question]);
        let text = self.haystack(task_noise, vec![needle], Some(depth));
        LongContextItem {
            task: RulerTask::Passkey.to_string(),
            text: format!("{intro}\n\n{text}"),
            question,
            answer_start: "The pass key is".to_owned(),
            references: vec![key],
            answer_tokens: RulerTask::Passkey.answer_tokens(),
            depth: Some(depth),
            ..LongContextItem::default()
        }
    }

    fn needles(&mut self, task: RulerTask) -> LongContextItem {
        let kind = match task {
            RulerTask::NiahSingle3 | RulerTask::NiahMultiKey3 => "name",
            _ => "number",
        };
        let value = |maker: &mut Self| if kind == "name" { maker.name() } else { maker.number(7) };
        let key = |maker: &mut Self| {
            if task == RulerTask::NiahMultiKey3 { maker.name() } else { format!("{}-{}", maker.word(), maker.word()) }
        };
        let sentence = |key: &str, value: &str| format!("One of the special magic {kind}s for {key} is: {value}.");
        let (mut needles, mut asked, mut references) = (Vec::new(), Vec::new(), Vec::new());
        let (n_keys, n_values, n_asked) = match task {
            RulerTask::NiahMultiKey1 => (SEVERAL, 1, 1),
            RulerTask::NiahMultiValue => (1, SEVERAL, 1),
            RulerTask::NiahMultiQuery => (SEVERAL, 1, SEVERAL),
            _ => (1, 1, 1),
        };
        for i in 0..n_keys {
            let key = key(self);
            for _ in 0..n_values {
                let value = value(self);
                needles.push(sentence(&key, &value));
                if i < n_asked {
                    references.push(value);
                }
            }
            if i < n_asked {
                asked.push(key);
            }
        }
        let keys = asked.join(", ");
        let (verb, what) =
            if references.len() == 1 { ("is", kind.to_owned()) } else { ("are all", format!("{kind}s")) };
        let intro = format!("Some special magic {kind}s are hidden within the following text. Memorize them.");
        let question = format!("What {verb} the special magic {what} for {keys} mentioned in the text?");
        self.take(&[&intro, &question]);
        let text = match task {
            RulerTask::NiahSingle1 => self.haystack(task_noise, needles, None),
            RulerTask::NiahMultiKey2 | RulerTask::NiahMultiKey3 => self.haystack(
                |maker| {
                    let (key, value) = (key(maker), value(maker));
                    vec![sentence(&key, &value)]
                },
                needles,
                None,
            ),
            _ => self.haystack(|maker| Filler::BuiltIn.passage(&mut maker.draws), needles, None),
        };
        let verb = if references.len() == 1 { "is" } else { "are" };
        LongContextItem {
            task: task.to_string(),
            text: format!("{intro}\n\n{text}"),
            question,
            answer_start: format!("The special magic {what} for {keys} mentioned in the text {verb}"),
            references,
            answer_tokens: task.answer_tokens(),
            ..LongContextItem::default()
        }
    }

    fn variables(&mut self) -> LongContextItem {
        const HOPS: usize = 4;
        let value = self.number(5);
        let mut names = BTreeSet::new();
        while names.len() <= HOPS {
            names.insert((0..5).map(|_| char::from(b'A' + self.draws.below(26) as u8)).collect::<String>());
        }
        let mut names: Vec<String> = names.into_iter().collect();
        self.draws.shuffle(&mut names);
        let needles = (0..=HOPS)
            .map(|i| {
                if i == 0 {
                    format!("VAR {} = {value}.", names[0])
                } else {
                    format!("VAR {} = VAR {}.", names[i], names[i - 1])
                }
            })
            .collect();
        let intro = "Memorize and track the chain of variable assignment hidden in the following text.";
        let question = format!("Find all variables that are assigned the value {value} in the text above.");
        self.take(&[intro, &question]);
        let text = self.haystack(task_noise, needles, None);
        LongContextItem {
            task: RulerTask::VariableTracking.to_string(),
            text: format!("{intro}\n\n{text}"),
            question,
            answer_start: format!("{} variables are assigned the value {value}, they are:", HOPS + 1),
            references: names,
            answer_tokens: RulerTask::VariableTracking.answer_tokens(),
            ..LongContextItem::default()
        }
    }

    fn common_words(&mut self) -> LongContextItem {
        const COMMON: usize = 10;
        let intro = "Below is a numbered list of words. Memorize the ones that appear most often.";
        let question = format!("What are the {COMMON} most common words in the above list?");
        self.take(&[intro, &question]);
        let common: Vec<String> = (0..COMMON).map(|_| self.word()).collect();
        // RULER's counts, and smaller ones of the same ratio where there is no room for these.
        let tokens_of = |maker: &Self, word: &str| maker.tokens(&format!("1000. {word} "));
        let round: usize = common.iter().map(|word| tokens_of(self, word)).sum();
        let n_uncommon = (self.left / round.max(1) / 2).clamp(1, 3);
        let n_common = 10 * n_uncommon;
        let mut list: Vec<String> = Vec::new();
        for word in &common {
            if self.left < n_common * tokens_of(self, word) {
                break;
            }
            self.left -= n_common * tokens_of(self, word);
            list.extend(std::iter::repeat_n(word.clone(), n_common));
        }
        let n_there = list.len() / n_common;
        loop {
            let word = self.word();
            let needed = n_uncommon * tokens_of(self, &word);
            if needed > self.left {
                break;
            }
            self.left -= needed;
            list.extend(std::iter::repeat_n(word, n_uncommon));
        }
        self.draws.shuffle(&mut list);
        let numbered: Vec<String> = (1..).zip(list).map(|(i, word)| format!("{i}. {word}")).collect();
        LongContextItem {
            task: RulerTask::CommonWords.to_string(),
            text: format!("{intro}\n\n{}", numbered.join(" ")),
            question,
            answer_start: "The most common words in the list are:".to_owned(),
            references: common[..n_there].to_vec(),
            answer_tokens: RulerTask::CommonWords.answer_tokens(),
            ..LongContextItem::default()
        }
    }

    fn frequent_words(&mut self) -> LongContextItem {
        const ASKED: usize = 3;
        let intro = "Read the following coded text and track the frequency of each coded word.";
        let question = format!("What are the {ASKED} most frequently appeared words in the above coded text?");
        self.take(&[intro, &question]);
        let vocabulary: Vec<String> =
            (0..50).map(|_| (0..6).map(|_| char::from(b'a' + self.draws.below(26) as u8)).collect()).collect();
        // Zipf's law with exponent 2: word `r` comes `n / r²` times, of which π²/6 is the sum.
        let each = vocabulary.iter().map(|word| self.tokens(&format!(" {word}"))).max().unwrap_or(1);
        let n = self.left as f64 / each as f64 / (std::f64::consts::PI.powi(2) / 6.0);
        let mut text: Vec<&str> = Vec::new();
        for (rank, word) in (1..).zip(&vocabulary) {
            text.extend(std::iter::repeat_n(word.as_str(), (n / f64::from(rank * rank)) as usize));
        }
        self.draws.shuffle(&mut text);
        LongContextItem {
            task: RulerTask::FrequentWords.to_string(),
            text: format!("{intro}\n\n{}", text.join(" ")),
            question,
            answer_start: format!("The {ASKED} most frequently appeared words are:"),
            references: vocabulary[..ASKED].to_vec(),
            answer_tokens: RulerTask::FrequentWords.answer_tokens(),
            ..LongContextItem::default()
        }
    }

    /// Sentences until there is no room, with the needles among them: at a depth between 0 and 1, or anywhere.
    fn haystack(
        &mut self,
        mut more: impl FnMut(&mut Self) -> Vec<String>,
        needles: Vec<String>,
        depth: Option<f32>,
    ) -> String {
        self.take(&needles.iter().map(String::as_str).collect::<Vec<_>>());
        let mut sentences: Vec<String> = Vec::new();
        'room: loop {
            for sentence in more(self) {
                let needed = self.tokens(&format!(" {sentence}"));
                if needed > self.left {
                    break 'room;
                }
                self.left -= needed;
                sentences.push(sentence);
            }
        }
        let mut places: Vec<usize> = match depth {
            Some(depth) => vec![(depth * sentences.len() as f32).round() as usize; needles.len()],
            None => needles.iter().map(|_| self.draws.below(sentences.len() + 1)).collect(),
        };
        places.sort_unstable();
        // From the last on, so that places stay where they were drawn.
        for (place, needle) in places.into_iter().zip(needles).rev() {
            sentences.insert(place, needle);
        }
        sentences.join(" ")
    }

    fn take(&mut self, texts: &[&str]) {
        let n: usize = texts.iter().map(|text| self.tokens(text) + 2).sum();
        self.left = self.left.saturating_sub(n);
    }

    fn tokens(&self, text: &str) -> usize {
        (self.count)(text).max(1)
    }

    /// A number of so many digits, the first of which is not 0.
    fn number(&mut self, n_digits: usize) -> String {
        (0..n_digits)
            .map(|i| char::from(b'0' + (usize::from(i == 0) + self.draws.below(10 - usize::from(i == 0))) as u8))
            .collect()
    }

    /// As a UUID is written.
    fn name(&mut self) -> String {
        let part = |draws: &mut Draws, n: usize| -> String {
            (0..n).map(|_| char::from(b"0123456789abcdef"[draws.below(16)])).collect()
        };
        [8, 4, 4, 4, 12].map(|n| part(&mut self.draws, n)).join("-")
    }

    /// A word that can be pronounced, another one each time.
    fn word(&mut self) -> String {
        loop {
            let mut word = String::new();
            for _ in 0..3 {
                word.push_str(ONSETS[self.draws.below(ONSETS.len())]);
                word.push_str(VOWELS[self.draws.below(VOWELS.len())]);
            }
            word.push_str(ENDS[self.draws.below(ENDS.len())]);
            if self.words.insert(word.clone()) {
                return word;
            }
        }
    }
}

fn task_noise(_: &mut Maker<'_>) -> Vec<String> {
    NOISE.map(str::to_owned).to_vec()
}

const ONSETS: [&str; 14] = ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"];
const VOWELS: [&str; 5] = ["a", "e", "i", "o", "u"];
const ENDS: [&str; 6] = ["n", "r", "s", "l", "t", ""];

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> usize {
        text.split_whitespace().count()
    }

    #[test]
    fn texts_have_their_length_and_hold_what_is_asked_for() {
        for task in RulerTask::ALL {
            for n_tokens in [400, 3000] {
                let items = ruler(task, 3, n_tokens, 5, &words);
                assert_eq!(items, ruler(task, 3, n_tokens, 5, &words));
                assert_ne!(items, ruler(task, 3, n_tokens, 6, &words));
                for item in &items {
                    let n = words(&item.text) + words(&item.question);
                    assert!(n <= n_tokens && n + 160 >= n_tokens, "{task}: {n} of {n_tokens}");
                    assert!(!item.references.is_empty());
                    for reference in &item.references {
                        assert!(item.text.contains(reference), "{task}: {reference}");
                        assert_eq!(
                            item.score(&format!("It is {reference}, I think.")),
                            1.0 / item.references.len() as f64
                        );
                    }
                    assert_eq!(item.task.parse(), Ok(task));
                }
            }
        }
        assert!("niah".parse::<RulerTask>().unwrap_err().contains("niah_single_1"));
    }

    #[test]
    fn passkeys_stand_at_all_depths() {
        let items = ruler(RulerTask::Passkey, 5, 2000, 1, &words);
        for (item, depth) in items.iter().zip([0.0, 0.25, 0.5, 0.75, 1.0]) {
            let at = item.text.find("The pass key is").unwrap() as f32 / item.text.len() as f32;
            assert!((at - depth).abs() <= 0.1, "{at} {depth}");
            assert_eq!(item.depth, Some(depth));
        }
    }

    #[test]
    fn common_words_are_the_commonest() {
        for (task, n) in [(RulerTask::CommonWords, 10), (RulerTask::FrequentWords, 3)] {
            let item = &ruler(task, 1, 2500, 3, &words)[0];
            let times = |word: &str| item.text.split_whitespace().filter(|other| *other == word).count();
            let least = item.references.iter().map(|word| times(word)).min().unwrap();
            let others = item.text.split_whitespace().filter(|word| !item.references.iter().any(|r| r == word));
            assert_eq!(item.references.len(), n);
            assert!(others.filter(|word| word.len() > 4).map(times).max().unwrap() < least);
        }
    }

    #[test]
    fn a_chain_of_variables_is_in_order() {
        let item = &ruler(RulerTask::VariableTracking, 1, 800, 2, &words)[0];
        let places: Vec<usize> =
            item.references.iter().map(|name| item.text.find(&format!("VAR {name} =")).unwrap()).collect();
        assert!(places.is_sorted());
    }
}
