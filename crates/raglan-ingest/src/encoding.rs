//! Character encodings: finding, decoding, and the way back from text to the file's bytes.

use std::ops::Range;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, GB18030, GBK, ISO_2022_JP, UTF_8, UTF_16BE, UTF_16LE};

/// How much of a file is looked at where a sample is enough.
const SAMPLE: usize = 64 << 10;

/// Text with the encoding that it was in.
pub(crate) struct Decoded {
    pub text: String,
    pub encoding: &'static Encoding,
}

/// Decodes text of unknown encoding; `None` when the bytes are no text in any encoding.
///
/// `declared` is what the text says of itself; it is believed when the bytes are not sound Unicode.
/// A byte order mark stays in the text as U+FEFF, so that UTF-8 text is the file byte for byte.
pub(crate) fn decode(bytes: Vec<u8>, declared: Option<&'static Encoding>) -> Option<Decoded> {
    if let Some(encoding) = utf_16_of(&bytes) {
        let (text, malformed) = encoding.decode_without_bom_handling(&bytes);
        return (!malformed && !has_controls(text.as_bytes())).then(|| Decoded { text: text.into_owned(), encoding });
    }
    if has_controls(&bytes) {
        return None;
    }
    let bytes = match String::from_utf8(bytes) {
        Ok(text) => return Some(Decoded { text, encoding: UTF_8 }),
        Err(error) => error.into_bytes(),
    };
    if binary_kind(&bytes).is_some() {
        return None;
    }
    let encoding = declared.filter(|&encoding| encoding != UTF_8 && encoding.is_ascii_compatible());
    let encoding = encoding.unwrap_or_else(|| guess(&bytes));
    let text = encoding.decode_without_bom_handling(&bytes).0.into_owned();
    Some(Decoded { text, encoding })
}

/// The encoding of bytes that are text but not sound UTF-8.
fn guess(bytes: &[u8]) -> &'static Encoding {
    if nearly_utf_8(bytes) {
        return UTF_8;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes, true);
    match detector.guess(None, Utf8Detection::Deny) {
        // GB18030 contains GBK, and unlike it can write every character back.
        encoding if encoding == GBK => GB18030,
        encoding => encoding,
    }
}

/// Whether the bytes are UTF-8 but for a stray error: at most one in a hundred characters beyond ASCII.
fn nearly_utf_8(bytes: &[u8]) -> bool {
    let (mut sound, mut broken) = (0_usize, 0_usize);
    for chunk in bytes.utf8_chunks() {
        sound += chunk.valid().bytes().filter(|&byte| byte >= 0xC0).count();
        broken += usize::from(!chunk.invalid().is_empty());
    }
    broken * 100 <= sound
}

/// UTF-16 by its byte order mark, or by the zeros that it has wherever a character is ASCII.
fn utf_16_of(bytes: &[u8]) -> Option<&'static Encoding> {
    match bytes {
        [0xFF, 0xFE, 0, 0, ..] => return None, // UTF-32, which no one writes to files
        [0xFF, 0xFE, ..] => return Some(UTF_16LE),
        [0xFE, 0xFF, ..] => return Some(UTF_16BE),
        _ => {}
    }
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    if sample.len() < 16 || !bytes.len().is_multiple_of(2) {
        return None;
    }
    let zeros = |at: usize| sample.iter().skip(at).step_by(2).filter(|&&byte| byte == 0).count();
    let (units, even, odd) = (sample.len() / 2, zeros(0), zeros(1));
    match (even * 50 <= units, odd * 50 <= units) {
        (true, false) if odd * 10 >= units * 4 => Some(UTF_16LE),
        (false, true) if even * 10 >= units * 4 => Some(UTF_16BE),
        _ => None,
    }
}

/// Whether there are more control characters than text has.
fn has_controls(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    let is_control = |&&byte: &&u8| byte < 0x20 && !matches!(byte, b'\t' | b'\n' | b'\r' | 0x08 | 0x0C | 0x1B);
    let controls = sample.iter().filter(is_control).count();
    let zeros = sample.iter().filter(|&&byte| byte == 0).count();
    zeros * 1000 > sample.len() || controls * 100 > sample.len()
}

/// Whether bytes have what text has not.
pub(crate) fn is_binary(bytes: &[u8]) -> bool {
    has_controls(bytes) || std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_some())
}

/// The media type of binary content, by its magic bytes.
pub(crate) fn binary_kind(bytes: &[u8]) -> Option<&'static str> {
    let kind = infer::get(&bytes[..bytes.len().min(SAMPLE)])?;
    (kind.matcher_type() != infer::MatcherType::Text).then(|| kind.mime_type())
}

/// The span of a plain-text file's own bytes that decodes to `text[span]`, where `text` is the whole file decoded
/// from `encoding`, a WHATWG label.
///
/// `None` when it cannot be told: the encoding is unknown or keeps state, or something before the end of the span did
/// not decode cleanly. The cost is one pass over the text before the span's end.
///
/// ```
/// use raglan_ingest::source_span;
///
/// assert_eq!(source_span(Some("windows-1252"), "naïve café", 7..12), Some(6..10));
/// assert_eq!(source_span(Some("UTF-8"), "naïve café", 7..12), Some(7..12));
/// ```
pub fn source_span(encoding: Option<&str>, text: &str, span: Range<usize>) -> Option<Range<usize>> {
    let encoding = match encoding {
        None => UTF_8,
        Some(label) => Encoding::for_label(label.as_bytes())?,
    };
    let (before, within) = (text.get(..span.start)?, text.get(span.clone())?);
    if encoding == ISO_2022_JP || text[..span.end].contains(char::REPLACEMENT_CHARACTER) {
        return None;
    }
    let n_bytes = |text: &str| {
        if encoding == UTF_8 {
            Some(text.len())
        } else if encoding == UTF_16LE || encoding == UTF_16BE {
            Some(2 * text.encode_utf16().count())
        } else {
            let (bytes, _, unmappable) = encoding.encode(text);
            (!unmappable).then_some(bytes.len())
        }
    };
    let start = n_bytes(before)?;
    Some(start..start + n_bytes(within)?)
}

#[cfg(test)]
mod tests {
    use encoding_rs::{BIG5, EUC_KR, SHIFT_JIS, WINDOWS_1251};

    use super::*;

    const CHINESE: &str = "检索增强生成把检索到的段落交给语言模型，让它据此回答问题。每个答案都应当能够追溯到原文。";
    const RUSSIAN: &str = "Поиск с дополненной генерацией передаёт найденные отрывки языковой модели.";
    const FRENCH: &str = "Les modèles de langue génèrent des réponses à partir des passages trouvés où l'on cherche.";

    /// Bytes decode to the text, and every character's span leads back to its bytes.
    #[track_caller]
    fn check(bytes: &[u8], text: &str, label: &str) {
        let decoded = decode(bytes.to_vec(), None).expect("the bytes are text");
        assert_eq!((decoded.text.as_str(), decoded.encoding.name()), (text, label));
        for (at, character) in text.char_indices() {
            let span = source_span(Some(label), text, at..at + character.len_utf8()).unwrap();
            let encoding = Encoding::for_label(label.as_bytes()).unwrap();
            let back = encoding.decode_without_bom_handling(&bytes[span]).0;
            assert_eq!(back.chars().next(), Some(character));
        }
    }

    fn utf_16(text: &str, to_bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(to_bytes).collect()
    }

    #[test]
    fn encodings_are_recognised_and_lead_back_to_the_bytes() {
        check(FRENCH.as_bytes(), FRENCH, "UTF-8");
        check(format!("\u{FEFF}{FRENCH}").as_bytes(), &format!("\u{FEFF}{FRENCH}"), "UTF-8");
        check(&encoding_rs::WINDOWS_1252.encode(FRENCH).0, FRENCH, "windows-1252");
        check(&WINDOWS_1251.encode(RUSSIAN).0, RUSSIAN, "windows-1251");
        check(&GB18030.encode(CHINESE).0, CHINESE, "gb18030");
        check(&utf_16(&format!("\u{FEFF}{CHINESE}😀"), u16::to_le_bytes), &format!("\u{FEFF}{CHINESE}😀"), "UTF-16LE");
        check(&utf_16(&format!("\u{FEFF}{RUSSIAN}"), u16::to_be_bytes), &format!("\u{FEFF}{RUSSIAN}"), "UTF-16BE");
        check(&utf_16(FRENCH, u16::to_le_bytes), FRENCH, "UTF-16LE");
        let japanese = "検索拡張生成は、検索した文章を言語モデルに渡して答えさせる手法である。";
        check(&SHIFT_JIS.encode(japanese).0, japanese, "Shift_JIS");
        let korean = "검색 증강 생성은 검색한 문서를 언어 모델에 전달하여 질문에 답하게 하는 방법이다.";
        check(&EUC_KR.encode(korean).0, korean, "EUC-KR");
        let taiwanese = "檢索增強生成將檢索到的段落交給語言模型，讓它據此回答問題。";
        check(&BIG5.encode(taiwanese).0, taiwanese, "Big5");
    }

    #[test]
    fn one_broken_byte_does_not_make_utf_8_another_encoding() {
        let mut bytes = CHINESE.repeat(9).into_bytes();
        bytes.push(0xFF);
        let decoded = decode(bytes, None).unwrap();
        assert_eq!(decoded.encoding, UTF_8);
        assert!(decoded.text.ends_with('\u{FFFD}'));
        assert_eq!(source_span(Some("UTF-8"), &decoded.text, 0..3), Some(0..3));
        assert_eq!(source_span(Some("UTF-8"), &decoded.text, 0..decoded.text.len()), None);
    }

    #[test]
    fn binary_content_is_no_text() {
        assert!(decode((0..=255).collect(), None).is_none());
        assert!(decode(b"\x7FELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(), None).is_none());
        assert!(decode(vec![0; 100], None).is_none());
    }
}
