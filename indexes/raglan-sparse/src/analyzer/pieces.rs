//! Cutting a text into words and identifiers.

use std::ops::Range;

/// An identifier longer than this is not kept whole; nobody types that.
const MAX_IDENTIFIER: usize = 128;

/// A stretch of text that becomes at most one term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is, in bytes.
    pub span: Range<usize>,
    /// What is to be done with it.
    pub kind: PieceKind,
    /// Its number among the words.
    pub position: usize,
}

/// What is to be done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// ASCII letters and digits: folded to lower case, looked up among stop words, stemmed.
    AsciiWord,
    /// The same for other scripts.
    Word,
    /// Folded to lower case and kept as it is: whole identifiers, `c++`, pairs of ideographs.
    Verbatim,
}

/// What a character is to the cutter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Lower,
    Upper,
    Digit,
    /// A letter without case.
    Letter,
    /// A character of a script that is written without spaces.
    Ideograph,
    Underscore,
    /// What joins words to an identifier: `.` and `::`; in English `'`.
    Joiner,
}

const SEPARATOR: u8 = 0;
const LOWER: u8 = 1;
const UPPER: u8 = 2;
const DIGIT: u8 = 3;
const UNDERSCORE: u8 = 4;
const NOT_ASCII: u8 = 5;

/// What each byte is.
const BYTE_CLASS: [u8; 256] = {
    let mut table = [SEPARATOR; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            b'a'..=b'z' => LOWER,
            b'A'..=b'Z' => UPPER,
            b'0'..=b'9' => DIGIT,
            b'_' => UNDERSCORE,
            0x80.. => NOT_ASCII,
            _ => SEPARATOR,
        };
        byte += 1;
    }
    table
};

/// How texts are cut.
#[derive(Clone, Copy, Debug)]
pub struct Cutter {
    /// Whether identifiers are cut into words.
    pub split_identifiers: bool,
    /// Whether an apostrophe is part of a word, and a possessive is taken off; else it separates.
    pub apostrophes: bool,
}

impl Cutter {
    /// Appends the pieces of the next run of word characters at or after `start`, and gives the end of that run; none
    /// when there is no more.
    ///
    /// `position` is the number of the next word and is moved on.
    pub fn next_run(&self, text: &str, start: usize, position: &mut usize, pieces: &mut Vec<Piece>) -> Option<usize> {
        let bytes = text.as_bytes();
        let mut start = start;
        loop {
            while start < bytes.len() && BYTE_CLASS[bytes[start] as usize] == SEPARATOR {
                start += 1;
            }
            if start == bytes.len() {
                return None;
            }
            if bytes[start] < 0x80 {
                break;
            }
            let character = text[start..].chars().next().expect("not at the end");
            if class_of(character).is_some() {
                break;
            }
            start += character.len_utf8();
        }
        // The common case: a word of ASCII letters, in lower case but perhaps for the first.
        let mut end = start + usize::from(BYTE_CLASS[bytes[start] as usize] == UPPER);
        while end < bytes.len() && BYTE_CLASS[bytes[end] as usize] == LOWER {
            end += 1;
        }
        if end > start && end - start > 2 && ends_plainly(bytes, end) {
            pieces.push(Piece { span: start..end, kind: PieceKind::AsciiWord, position: *position });
            *position += 1;
            return Some(end);
        }
        Some(self.any_run(text, start, position, pieces))
    }

    /// A run of any shape that begins at `start`.
    fn any_run(&self, text: &str, start: usize, position: &mut usize, pieces: &mut Vec<Piece>) -> usize {
        let mut end = start;
        let mut joined = false;
        let mut ascii = true;
        let mut n_upper = 0;
        let mut n_lower = 0;
        let mut cut = false; // Whether something may have to be cut out or apart.
        loop {
            let rest = &text[end..];
            let Some(character) = rest.chars().next() else { break };
            let joiner = self.joiner_length(rest);
            match class_of(character) {
                _ if joiner > 0 && end > start => {
                    end += joiner;
                    joined = true;
                    continue;
                }
                None => break,
                Some(Class::Ideograph | Class::Underscore) => cut = true,
                Some(Class::Upper) => {
                    cut |= n_lower > 0 || end > start && n_upper == 0;
                    n_upper += 1;
                }
                Some(Class::Lower) => {
                    cut |= n_upper > 1;
                    n_lower += 1;
                }
                Some(_) => {}
            }
            ascii &= character.is_ascii();
            end += character.len_utf8();
        }
        if !joined && !cut {
            let sign = sign_length(text, start, end);
            let (kind, span) = if sign > 0 {
                (PieceKind::Verbatim, start..end + sign)
            } else if ascii {
                (PieceKind::AsciiWord, start..end)
            } else {
                (PieceKind::Word, start..end)
            };
            pieces.push(Piece { span, kind, position: *position });
            *position += 1;
            return end + sign;
        }
        self.split(text, start..end, position, pieces);
        end
    }

    /// The length of what joins two words at the beginning of `rest`, or 0.
    fn joiner_length(&self, rest: &str) -> usize {
        let length = match rest.as_bytes() {
            [b'.', ..] if self.split_identifiers => 1,
            [b':', b':', ..] if self.split_identifiers => 2,
            [b'\'', ..] if self.apostrophes => 1,
            [0xE2, 0x80, 0x99, ..] if self.apostrophes => 3, // ’
            _ => return 0,
        };
        let word_follows = rest[length..].chars().next().is_some_and(|next| match class_of(next) {
            None | Some(Class::Ideograph) => false,
            Some(_) => true,
        });
        if word_follows { length } else { 0 }
    }

    /// The pieces of a run that is more than a plain word.
    fn split(&self, text: &str, run: Range<usize>, position: &mut usize, pieces: &mut Vec<Piece>) {
        let first_piece = pieces.len();
        let first_position = *position;
        let mut has_ideographs = false;
        let mut has_separators = false;
        // The word that is being read: where it began, and the class of its last character.
        let mut word: Option<(usize, Class)> = None;
        // The last ideograph, and whether it is not in a pair yet.
        let mut ideograph: Option<(Range<usize>, bool)> = None;
        let close = |word: &mut Option<(usize, Class)>, end, position: &mut usize, pieces: &mut Vec<_>| {
            if let Some((start, _)) = word.take() {
                self.push_word(text, start..end, position, pieces);
            }
        };
        let mut at = run.start;
        while at < run.end {
            let rest = &text[at..];
            let character = rest.chars().next().expect("within the run");
            let mut length = character.len_utf8();
            let class = class_of(character).unwrap_or(Class::Joiner);
            let apostrophe = matches!(character, '\'' | '’');
            if class == Class::Joiner && !apostrophe {
                length = self.joiner_length(rest).max(1);
            }
            if class != Class::Ideograph
                && let Some((last, alone)) = ideograph.take()
                && alone
            {
                pieces.push(Piece { span: last, kind: PieceKind::Verbatim, position: *position });
                *position += 1;
            }
            match class {
                Class::Ideograph => {
                    has_ideographs = true;
                    close(&mut word, at, position, pieces);
                    let span = at..at + length;
                    if let Some((last, _)) = ideograph.take() {
                        pieces.push(Piece {
                            span: last.start..span.end,
                            kind: PieceKind::Verbatim,
                            position: *position,
                        });
                        *position += 1;
                        ideograph = Some((span, false));
                    } else {
                        ideograph = Some((span, true));
                    }
                }
                Class::Joiner if apostrophe => {
                    // Part of the word.
                    if let Some((_, last)) = &mut word {
                        *last = Class::Letter;
                    }
                }
                Class::Underscore if !self.split_identifiers => {
                    word = Some((word.map_or(at, |(start, _)| start), Class::Letter));
                }
                Class::Joiner | Class::Underscore => {
                    has_separators = true;
                    close(&mut word, at, position, pieces);
                }
                Class::Lower | Class::Upper | Class::Digit | Class::Letter => {
                    if let Some((_, last)) = word
                        && self.split_identifiers
                    {
                        let next = text[at + length..run.end].chars().next().and_then(class_of);
                        match (last, class) {
                            // getUser, fs2File
                            (Class::Lower, Class::Upper) => close(&mut word, at, position, pieces),
                            (Class::Digit, Class::Upper) if next == Some(Class::Lower) => {
                                close(&mut word, at, position, pieces);
                            }
                            // HTTPServer: the last capital begins the next word.
                            (Class::Upper, Class::Upper) if next == Some(Class::Lower) => {
                                // Not the plural of an acronym: URLs.
                                let after = text[at + length..run.end].chars().nth(1).and_then(class_of);
                                let plural =
                                    text[at + length..].starts_with('s') && !matches!(after, Some(Class::Lower));
                                if !plural {
                                    close(&mut word, at, position, pieces);
                                }
                            }
                            _ => {}
                        }
                    }
                    word = Some((word.map_or(at, |(start, _)| start), class));
                }
            }
            at += length;
        }
        close(&mut word, run.end, position, pieces);
        if let Some((last, true)) = ideograph {
            pieces.push(Piece { span: last, kind: PieceKind::Verbatim, position: *position });
            *position += 1;
        }
        let n_words = pieces.len() - first_piece;
        if self.split_identifiers && n_words > 1 && !has_ideographs {
            let words = &pieces[first_piece..];
            let whole = words[0].span.start..words[n_words - 1].span.end;
            if whole.len() <= MAX_IDENTIFIER {
                // Without separators it may also be written in lower case, and is then a word.
                let kind = match (has_separators, text[whole.clone()].is_ascii()) {
                    (true, _) => PieceKind::Verbatim,
                    (false, true) => PieceKind::AsciiWord,
                    (false, false) => PieceKind::Word,
                };
                pieces.insert(first_piece, Piece { span: whole, kind, position: first_position });
            }
        }
    }

    fn push_word(&self, text: &str, span: Range<usize>, position: &mut usize, pieces: &mut Vec<Piece>) {
        let word = &text[span.clone()];
        let stem = match word.strip_suffix(['s', 'S']) {
            Some(owner) if self.apostrophes => owner.strip_suffix(['\'', '’']).unwrap_or(word),
            _ => word,
        };
        let span = span.start..span.start + stem.len();
        let kind = if stem.is_ascii() { PieceKind::AsciiWord } else { PieceKind::Word };
        pieces.push(Piece { span, kind, position: *position });
        *position += 1;
    }
}

/// Whether a plain word that ends at `end` is not followed by more of a run, or of a sign.
fn ends_plainly(bytes: &[u8], end: usize) -> bool {
    match bytes.get(end) {
        None => true,
        Some(&byte) => match byte {
            b'.' | b'\'' => bytes.get(end + 1).is_none_or(|&next| BYTE_CLASS[next as usize] == SEPARATOR),
            b':' => bytes.get(end + 1) != Some(&b':'),
            _ => BYTE_CLASS[byte as usize] == SEPARATOR,
        },
    }
}

/// The length of `++` or `#` after a language's name of one or two letters (C++, g++, C#), or 0.
fn sign_length(text: &str, start: usize, end: usize) -> usize {
    let rest = &text.as_bytes()[end..];
    let letters = text.as_bytes()[start..end].iter().all(u8::is_ascii_alphabetic);
    let length = match rest {
        [b'+', b'+', ..] if letters && end - start <= 2 => 2,
        [b'#', ..] if letters && end - start == 1 => 1,
        _ => return 0,
    };
    let alone =
        rest.get(length).is_none_or(|&next| BYTE_CLASS[next as usize] == SEPARATOR && !matches!(next, b'+' | b'#'));
    if alone { length } else { 0 }
}

/// What a character is; none when it separates words.
fn class_of(character: char) -> Option<Class> {
    if character.is_ascii() {
        return match BYTE_CLASS[character as usize] {
            LOWER => Some(Class::Lower),
            UPPER => Some(Class::Upper),
            DIGIT => Some(Class::Digit),
            UNDERSCORE => Some(Class::Underscore),
            _ => None,
        };
    }
    match character as u32 {
        // Thai, Lao, Myanmar, Khmer; Hangul Jamo; kana, Bopomofo; ideographs; Hangul syllables; half-width forms;
        // the ideographs of the supplementary planes.
        0x0E01..=0x0E30 | 0x0E32..=0x0E33 | 0x0E40..=0x0E46 | 0x0E81..=0x0EB0 | 0x1000..=0x102A | 0x1780..=0x17B3 => {
            Some(Class::Ideograph)
        }
        0x1100..=0x11FF
        | 0x3005..=0x3007
        | 0x3031..=0x3035
        | 0x3041..=0x3096
        | 0x309D..=0x309F
        | 0x30A1..=0x30FA
        | 0x30FC..=0x30FF
        | 0x3105..=0x312F
        | 0x3131..=0x318E
        | 0x31A0..=0x31BF
        | 0x31F0..=0x31FF
        | 0x3400..=0x4DBF
        | 0x4E00..=0x9FFF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFF66..=0xFFDC
        | 0x20000..=0x3FFFF => Some(Class::Ideograph),
        // Combining marks, the soft hyphen and the joiners belong to the word they stand in.
        0x0300..=0x036F | 0x00AD | 0x200C..=0x200D => Some(Class::Letter),
        _ if character.is_lowercase() => Some(Class::Lower),
        _ if character.is_uppercase() => Some(Class::Upper),
        _ if character.is_numeric() => Some(Class::Digit),
        _ if character.is_alphabetic() => Some(Class::Letter),
        // Vowel signs and viramas that are not alphabetic: Indic, Arabic, Hebrew, Thai.
        0x0591..=0x05BD | 0x064B..=0x065F | 0x0E31..=0x0E4E | 0x0900..=0x0DFF | 0x0F18..=0x0FBC => {
            is_mark(character).then_some(Class::Letter)
        }
        _ => None,
    }
}

/// Whether a character of the Indic, Arabic, Hebrew or Thai blocks that is not alphabetic is a mark on a letter.
fn is_mark(character: char) -> bool {
    // What is neither alphabetic nor numeric there and not punctuation: viramas, nuktas, tone marks and points.
    !matches!(
        character as u32,
        0x0964 | 0x0965 | 0x0970 | 0x05BE | 0x0DF4 | 0x0E2F | 0x0E3F | 0x0AF0 | 0x0AF1 | 0x0BF3..=0x0BFA
    )
}
