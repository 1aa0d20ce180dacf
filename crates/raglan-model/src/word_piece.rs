//! Where BERT's word pieces lie in a text, fast enough for whole documents.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;

use serde::Deserialize;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::char::{canonical_combining_class, decompose_canonical};

use crate::{Error, Result, Tokenizer};

/// Finds the tokens of BERT's tokenizer without building them: the same ranges as [`Tokenizer::encode`] gives, without
/// ids.
///
/// A text is cleaned (control characters vanish, accents and case go as the file says), split at white space, around
/// punctuation and around CJK ideographs, and each word is cut into the longest pieces of the vocabulary, from its
/// start. All of that happens in one pass over the bytes. Only where combining marks may have to change places is the
/// library asked, for the stretch between two white spaces.
pub struct WordPieceCounter {
    rules: Rules,
    /// Pieces that a word begins with.
    heads: Trie,
    /// Pieces that it goes on with.
    tails: Trie,
    max_chars: usize,
    /// Texts that are one token each wherever they stand, longest first.
    added: Vec<String>,
    /// What becomes of characters beyond ASCII, by 256, worked out when the first of them is met.
    pages: Vec<OnceLock<Box<Page>>>,
    library: Tokenizer,
}

impl fmt::Debug for WordPieceCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WordPieceCounter").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl WordPieceCounter {
    /// Reads a `tokenizer.json`; nothing when its tokenizer is of another kind than BERT's.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not a tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let library = Tokenizer::from_file(path)?;
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        // What the library has read and this cannot is of another kind.
        let Ok(file) = serde_json::from_slice::<TokenizerFile>(&bytes) else {
            return Ok(None);
        };
        let PreTokenizer::BertPreTokenizer = file.pre_tokenizer;
        let Normalizer::BertNormalizer { clean_text, handle_chinese_chars, strip_accents, lowercase } = file.normalizer;
        let WordPiece { vocab, unk_token, continuing_subword_prefix, max_input_chars_per_word } = file.model;
        let mut added: Vec<String> = Vec::new();
        for token in file.added_tokens {
            // Such a token can only begin where punctuation does.
            let plain = !(token.normalized || token.lstrip || token.rstrip || token.single_word);
            if !plain || !token.content.starts_with(|c: char| c.is_ascii_punctuation()) {
                return Ok(None);
            }
            // Between two white spaces there is then all of it.
            if token.content.contains(is_separator) {
                return Ok(None);
            }
            added.push(token.content);
        }
        added.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        if !clean_text || continuing_subword_prefix.is_empty() || !vocab.contains_key(&unk_token) {
            return Ok(None);
        }
        let tails = vocab.keys().filter_map(|piece| piece.strip_prefix(&continuing_subword_prefix)).collect();
        Ok(Some(Self {
            rules: Rules {
                split_ideographs: handle_chinese_chars,
                strip_accents: strip_accents.unwrap_or(lowercase),
                lowercase,
            },
            heads: Trie::new(vocab.keys().map(String::as_str).collect()),
            tails: Trie::new(tails),
            max_chars: max_input_chars_per_word,
            added,
            pages: (0..=u32::from(char::MAX) >> 8).map(|_| OnceLock::new()).collect(),
            library,
        }))
    }

    /// Where each token lies in the text, in bytes. Tokens that share a character have the same range of it.
    ///
    /// # Errors
    ///
    /// What the library gives where it is asked.
    pub fn spans(&self, text: &str) -> Result<Vec<Range<usize>>> {
        let bytes = text.as_bytes();
        let mut spans = Vec::with_capacity(text.len() / 4);
        let mut word = Word::default();
        // Where the stretch without white space began, in bytes and in tokens.
        let mut stretch = (0, 0);
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let kind = if byte < 0x80 { ASCII[byte as usize] } else { Kind::Other };
            match kind {
                Kind::Word => {
                    let mut end = at + 1;
                    while bytes.get(end).is_some_and(|&byte| byte < 0x80 && ASCII[byte as usize] == Kind::Word) {
                        end += 1;
                    }
                    word.push_ascii(&bytes[at..end], at, self.rules.lowercase);
                    at = end;
                }
                Kind::Space => {
                    self.cut(&mut word, &mut spans);
                    at += 1;
                    if is_separator(byte as char) {
                        stretch = (at, spans.len());
                    }
                }
                Kind::Punctuation => {
                    self.cut(&mut word, &mut spans);
                    if let Some(token) = self.added.iter().find(|token| bytes[at..].starts_with(token.as_bytes())) {
                        spans.push(at..at + token.len());
                        at += token.len();
                    } else {
                        word.push_ascii(&bytes[at..=at], at, false);
                        self.cut(&mut word, &mut spans);
                        at += 1;
                    }
                }
                Kind::Nothing => at += 1,
                Kind::Other | Kind::Moves => {
                    let char = text[at..].chars().next().expect("a character begins at each step");
                    let source = at..at + char.len_utf8();
                    at = source.end;
                    for (kind, folded) in self.page(char).of(char) {
                        match kind {
                            Kind::Word | Kind::Other => word.push(folded, &source),
                            Kind::Space => self.cut(&mut word, &mut spans),
                            Kind::Punctuation => {
                                self.cut(&mut word, &mut spans);
                                word.push(folded, &source);
                                self.cut(&mut word, &mut spans);
                            }
                            Kind::Nothing => {}
                            Kind::Moves => {
                                word.clear();
                                spans.truncate(stretch.1);
                                at = text[source.start..].find(is_separator).map_or(text.len(), |n| source.start + n);
                                let encoding = self.library.encode(&text[stretch.0..at], false)?;
                                spans.extend(encoding.spans.iter().map(|s| s.start + stretch.0..s.end + stretch.0));
                                break;
                            }
                        }
                    }
                }
            }
        }
        self.cut(&mut word, &mut spans);
        Ok(spans)
    }

    /// Cuts the word into pieces, and leaves it empty.
    fn cut(&self, word: &mut Word, spans: &mut Vec<Range<usize>>) {
        let bytes = &*word.bytes;
        if bytes.is_empty() {
            return;
        }
        let before = spans.len();
        let mut start = 0;
        // As many bytes as that are no more characters than that.
        let mut unknown = bytes.len() > self.max_chars
            && std::str::from_utf8(bytes).map_or(0, |word| word.chars().count()) > self.max_chars;
        while start < bytes.len() && !unknown {
            let pieces = if start == 0 { &self.heads } else { &self.tails };
            let len = pieces.longest(&bytes[start..]);
            unknown = len == 0;
            spans.push(word.source(start..start + len.max(1)));
            start += len;
        }
        if unknown {
            spans.truncate(before);
            spans.push(word.source(0..bytes.len()));
        }
        word.clear();
    }

    fn page(&self, char: char) -> &Page {
        let number = u32::from(char) >> 8;
        self.pages[number as usize].get_or_init(|| Box::new(Page::new(number, self.rules)))
    }
}

/// What the white space is that nothing is carried over, whatever stands around it.
fn is_separator(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r')
}

/// The part of `tokenizer.json` that matters here. A file of another kind does not fit it.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Normalizer,
    pre_tokenizer: PreTokenizer,
    model: WordPiece,
}

#[derive(Deserialize)]
struct AddedToken {
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Normalizer {
    BertNormalizer { clean_text: bool, handle_chinese_chars: bool, strip_accents: Option<bool>, lowercase: bool },
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum PreTokenizer {
    BertPreTokenizer,
}

#[derive(Deserialize)]
struct WordPiece {
    vocab: std::collections::HashMap<String, u32>,
    unk_token: String,
    continuing_subword_prefix: String,
    max_input_chars_per_word: usize,
}

/// A word as it is looked up, and where its bytes come from.
#[derive(Default)]
struct Word {
    bytes: Vec<u8>,
    /// Where the word starts in the text, while its bytes are those of the text one by one.
    start: usize,
    /// Otherwise, for each byte, the range of the character that it comes from.
    sources: Vec<(usize, usize)>,
}

impl Word {
    fn clear(&mut self) {
        self.bytes.clear();
        self.sources.clear();
    }

    fn push_ascii(&mut self, bytes: &[u8], at: usize, lowercase: bool) {
        if self.bytes.is_empty() {
            self.start = at;
        } else if !self.sources.is_empty() || self.start + self.bytes.len() != at {
            self.spell_out();
            self.sources.extend((at..at + bytes.len()).map(|at| (at, at + 1)));
        }
        if lowercase {
            self.bytes.extend(bytes.iter().map(u8::to_ascii_lowercase));
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn push(&mut self, folded: &[u8], source: &Range<usize>) {
        self.spell_out();
        self.bytes.extend_from_slice(folded);
        self.sources.extend(folded.iter().map(|_| (source.start, source.end)));
    }

    fn spell_out(&mut self) {
        if self.sources.is_empty() {
            self.sources.extend((self.start..self.start + self.bytes.len()).map(|at| (at, at + 1)));
        }
    }

    /// Where a part of the word comes from.
    fn source(&self, part: Range<usize>) -> Range<usize> {
        if self.sources.is_empty() {
            self.start + part.start..self.start + part.end
        } else {
            self.sources[part.start].0..self.sources[part.end - 1].1
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Rules {
    split_ideographs: bool,
    strip_accents: bool,
    lowercase: bool,
}

/// What a character is to the splitting of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A part of words.
    Word,
    /// The end of a word.
    Space,
    /// A word of its own.
    Punctuation,
    /// Taken out of the text; what stands around it is one word.
    Nothing,
    /// A part of words beyond ASCII.
    Other,
    /// A mark that may change places with its neighbours.
    Moves,
}

const ASCII: [Kind; 128] = {
    let mut kinds = [Kind::Word; 128];
    let mut byte = 0u8;
    while byte < 128 {
        kinds[byte as usize] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' => Kind::Space,
            0..=0x1f | 0x7f => Kind::Nothing,
            _ if byte.is_ascii_punctuation() => Kind::Punctuation,
            _ => Kind::Word,
        };
        byte += 1;
    }
    kinds
};

/// What becomes of 256 characters.
struct Page {
    /// The parts of all of them, one behind the other: what each is, and where it ends in `text`.
    parts: Vec<(Kind, u32)>,
    text: Vec<u8>,
    /// Where the parts of each character end.
    ends: Vec<u32>,
}

impl Page {
    fn new(number: u32, rules: Rules) -> Self {
        let mut page = Self { parts: Vec::new(), text: Vec::new(), ends: Vec::with_capacity(256) };
        for code in number << 8..(number + 1) << 8 {
            // Surrogates are not characters, and no text has them.
            if let Some(char) = char::from_u32(code) {
                page.push(char, rules);
            }
            page.ends.push(page.parts.len() as u32);
        }
        page
    }

    fn push(&mut self, char: char, rules: Rules) {
        // The order of cleaning is the library's, and so are the tables, of whatever edition of Unicode.
        if char == '\0' || char == char::REPLACEMENT_CHARACTER || (char.is_other() && !is_separator(char)) {
            return;
        }
        if char.is_whitespace() {
            return self.push_part(Kind::Space, ' ');
        }
        let alone = rules.split_ideographs && is_ideograph(char);
        if alone {
            self.push_part(Kind::Space, ' ');
        }
        let mut fold = |char: char| {
            if rules.strip_accents {
                if char.is_mark_nonspacing() {
                    return;
                }
                if canonical_combining_class(char) != 0 {
                    return self.push_part(Kind::Moves, char);
                }
            }
            if rules.lowercase {
                char.to_lowercase().for_each(|char| self.push_char(char));
            } else {
                self.push_char(char);
            }
        };
        if rules.strip_accents {
            decompose_canonical(char, &mut fold);
        } else {
            fold(char);
        }
        if alone {
            self.push_part(Kind::Space, ' ');
        }
    }

    fn push_char(&mut self, char: char) {
        let kind = if char.is_whitespace() {
            Kind::Space
        } else if char.is_ascii_punctuation() || char.is_punctuation() {
            Kind::Punctuation
        } else {
            Kind::Other
        };
        self.push_part(kind, char);
    }

    fn push_part(&mut self, kind: Kind, char: char) {
        self.text.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
        self.parts.push((kind, self.text.len() as u32));
    }

    fn of(&self, char: char) -> impl Iterator<Item = (Kind, &[u8])> {
        let n = (u32::from(char) & 0xff) as usize;
        let first = if n == 0 { 0 } else { self.ends[n - 1] as usize };
        (first..self.ends[n] as usize).map(|i| {
            let start = if i == 0 { 0 } else { self.parts[i - 1].1 as usize };
            let (kind, end) = self.parts[i];
            (kind, &self.text[start..end as usize])
        })
    }
}

fn is_ideograph(char: char) -> bool {
    matches!(u32::from(char),
        0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x2a6df | 0x2a700..=0x2b73f
        | 0x2b740..=0x2b81f | 0x2b920..=0x2ceaf | 0x2f800..=0x2fa1f)
}

/// Pieces by their bytes.
///
/// Node 0 is the root; the children of a node lie side by side, in the order of their bytes.
struct Trie {
    nodes: Vec<Node>,
    /// The byte that leads to each node.
    bytes: Vec<u8>,
    /// The root's child for each byte, 0 for none: of all nodes it is asked most, and has most children.
    roots: Box<[u32; 256]>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    first_child: u32,
    n_children: u16,
    is_piece: bool,
}

impl Trie {
    fn new(mut pieces: Vec<&str>) -> Self {
        pieces.sort_unstable();
        let pieces: Vec<&[u8]> = pieces.into_iter().map(str::as_bytes).filter(|piece| !piece.is_empty()).collect();
        let mut trie = Self { nodes: vec![Node::default()], bytes: vec![0], roots: Box::new([0; 256]) };
        // For each node, the pieces that begin with the bytes that lead to it, and how many bytes those are.
        let mut prefixed = vec![(0..pieces.len(), 0)];
        let mut node = 0;
        while node < prefixed.len() {
            let (mut rest, depth) = prefixed[node].clone();
            if pieces.get(rest.start).is_some_and(|piece| piece.len() == depth) && !rest.is_empty() {
                trie.nodes[node].is_piece = true;
                rest.start += 1;
            }
            trie.nodes[node].first_child = trie.nodes.len() as u32;
            while !rest.is_empty() {
                let byte = pieces[rest.start][depth];
                let n = pieces[rest.clone()].partition_point(|piece| piece[depth] == byte);
                prefixed.push((rest.start..rest.start + n, depth + 1));
                trie.nodes[node].n_children += 1;
                trie.nodes.push(Node::default());
                trie.bytes.push(byte);
                if node == 0 {
                    trie.roots[byte as usize] = trie.nodes.len() as u32 - 1;
                }
                rest.start += n;
            }
            node += 1;
        }
        trie
    }

    /// How long the longest piece is that the text begins with; 0 for none.
    fn longest(&self, text: &[u8]) -> usize {
        let mut longest = 0;
        let mut node = match text.first() {
            Some(&byte) if self.roots[byte as usize] != 0 => self.nodes[self.roots[byte as usize] as usize],
            _ => return 0,
        };
        let mut depth = 1;
        loop {
            if node.is_piece {
                longest = depth;
            }
            let Some(&byte) = text.get(depth) else { return longest };
            let first = node.first_child as usize;
            let children = &self.bytes[first..first + node.n_children as usize];
            let Some(child) = children.iter().position(|&b| b == byte) else { return longest };
            node = self.nodes[first + child];
            depth += 1;
        }
    }
}

#[cfg(test)]
mod tests;
