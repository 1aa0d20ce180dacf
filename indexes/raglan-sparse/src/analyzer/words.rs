//! From a word to its term: case, diacritics, stop words, stem; and the memory that makes that fast.

use std::collections::HashMap;

use tantivy::tokenizer::{
    AsciiFoldingFilter, LowerCaser, RawTokenizer, Stemmer, StopWordFilter, TextAnalyzer, TextAnalyzerBuilder,
    TokenStream,
};

use super::{AnalyzerConfig, StemLanguage};

/// Short ASCII words are remembered in a table of fixed size, where a newer word takes the place of an older one.
const SHORT: usize = 15;

/// 2^13 entries of 32 bytes: half of what a core's second-level cache holds, and nine of ten words of a text.
const TABLE_BITS: u32 = 13;

/// Other words are remembered until there are this many, and then forgotten together.
const MAX_LONG: usize = 1 << 16;

/// What a word of up to 15 ASCII bytes becomes.
#[derive(Clone, Copy)]
struct Entry {
    /// The word in lower case with its length in the highest byte; 0 for no word.
    key: u128,
    term: [u8; SHORT],
    /// The term's length, or 0 for a stop word.
    length: u8,
}

const NO_ENTRY: Entry = Entry { key: 0, term: [0; SHORT], length: 0 };

/// Makes terms of words and remembers them.
pub struct Words {
    /// Lower case, stop words, stem; folded before the stemmer for English, after it for others, whose stemmers know
    /// their letters.
    word_chain: TextAnalyzer,
    verbatim_chain: TextAnalyzer,
    table: Vec<Entry>,
    long: HashMap<Box<str>, Option<Box<str>>>,
}

impl Words {
    pub fn new(config: &AnalyzerConfig) -> Self {
        let mut chain: TextAnalyzerBuilder = TextAnalyzer::builder(RawTokenizer::default()).filter_dynamic(LowerCaser);
        let fold_first = matches!(config.language, StemLanguage::English | StemLanguage::None);
        if fold_first {
            chain = chain.filter_dynamic(AsciiFoldingFilter);
        }
        if let Some(language) = config.language.tantivy() {
            if let Some(stop_words) = StopWordFilter::new(language).filter(|_| config.stop_words) {
                chain = chain.filter_dynamic(stop_words);
            }
            chain = chain.filter_dynamic(Stemmer::new(language));
        }
        if !fold_first {
            chain = chain.filter_dynamic(AsciiFoldingFilter);
        }
        Self {
            word_chain: chain.build(),
            verbatim_chain: TextAnalyzer::builder(RawTokenizer::default())
                .filter(LowerCaser)
                .filter(AsciiFoldingFilter)
                .build(),
            table: Vec::new(),
            long: HashMap::new(),
        }
    }

    /// Writes the term of an ASCII word to `term`; says whether it has one, which a stop word has not.
    #[inline]
    pub fn ascii_word(&mut self, word: &str, term: &mut String) -> bool {
        let bytes = word.as_bytes();
        if bytes.len() > SHORT {
            return self.word(word, term);
        }
        if self.table.is_empty() {
            self.table.resize(1 << TABLE_BITS, NO_ENTRY);
        }
        let mut lower = [0; 16];
        for (lower, byte) in lower.iter_mut().zip(bytes) {
            *lower = byte.to_ascii_lowercase();
        }
        lower[SHORT] = bytes.len() as u8;
        let key = u128::from_le_bytes(lower);
        // Both halves by odd constants of the golden ratio's digits, so that every byte reaches the top bits.
        let hash = ((key as u64) ^ ((key >> 64) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xD1B5_4A32_D192_ED03);
        let slot = (hash >> (64 - TABLE_BITS)) as usize;
        let entry = &self.table[slot];
        if entry.key == key {
            term.clear();
            term.push_str(std::str::from_utf8(&entry.term[..usize::from(entry.length)]).expect("terms here are ASCII"));
            return entry.length > 0;
        }
        let kept = run_chain(&mut self.word_chain, word, term);
        if term.len() <= SHORT && term.is_ascii() {
            let mut entry = Entry { key, ..NO_ENTRY };
            if kept {
                entry.term[..term.len()].copy_from_slice(term.as_bytes());
                entry.length = term.len() as u8;
            }
            self.table[slot] = entry;
        }
        kept
    }

    /// Writes the term of a word to `term`; says whether it has one.
    pub fn word(&mut self, word: &str, term: &mut String) -> bool {
        if let Some(known) = self.long.get(word) {
            term.clear();
            term.push_str(known.as_deref().unwrap_or_default());
            return known.is_some();
        }
        let kept = run_chain(&mut self.word_chain, &without_marks(word), term);
        if self.long.len() >= MAX_LONG {
            self.long.clear();
        }
        self.long.insert(word.into(), kept.then(|| term.as_str().into()));
        kept
    }

    /// Writes a text that is not stemmed to `term`; says whether anything is left of it.
    pub fn verbatim(&mut self, text: &str, term: &mut String) -> bool {
        if text.is_ascii() {
            term.clear();
            term.push_str(text);
            term.make_ascii_lowercase();
            return true;
        }
        run_chain(&mut self.verbatim_chain, &without_marks(text), term)
    }
}

/// The text without what does not show: combining marks on Latin letters, soft hyphens, joiners; with `'` for `’`.
fn without_marks(text: &str) -> String {
    text.chars()
        .filter(|c| !matches!(c, '\u{300}'..='\u{36F}' | '\u{AD}' | '\u{200C}' | '\u{200D}'))
        .map(|c| if c == '’' { '\'' } else { c })
        .collect()
}

fn run_chain(chain: &mut TextAnalyzer, text: &str, term: &mut String) -> bool {
    term.clear();
    let mut stream = chain.token_stream(text);
    if stream.advance() {
        term.push_str(&stream.token().text);
    }
    !term.is_empty()
}
