//! Tokenizers: a model's own way to turn text into ids and back.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{NFC, Prepend, Replace};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{
    AddedToken, Decoder, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessor, SplitDelimiterBehavior,
    TruncationDirection, decoders, normalizers,
};

use crate::gguf::GgufFile;
use crate::{Error, Result};

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Texts that stand for one token and steer the model, longest first.
    special: Vec<String>,
    /// Whether tokens such as `<0x0A>` stand for bytes.
    has_bytes: bool,
}

/// A text in tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoding {
    /// The tokens' ids.
    pub ids: Vec<u32>,
    /// Where each token lies in the text, in bytes; empty for tokens that are added around it.
    pub spans: Vec<Range<usize>>,
}

/// A pair of texts in tokens, as a cross-encoder reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedPair {
    /// The tokens' ids, special ones included.
    pub ids: Vec<u32>,
    /// Which text each token belongs to, as the model was trained: 0 for both in families without segments.
    pub token_types: Vec<u32>,
}

/// Turns ids into text as they come, in whole characters.
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The last ids whose text has been given, as the context of what follows, and those whose text has not.
    ids: Vec<u32>,
    /// How many bytes of the text of `ids` have been given.
    n_given: usize,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of Hugging Face's form. Truncation and padding that it asks for are left off.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not a tokenizer, or none for any text.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        inner.with_padding(None);
        // What no vocabulary has as it is: a tokenizer that lacks the token for it would refuse one text after another.
        inner.encode("a\u{10fffd}", false).map_err(|e| malformed(e.to_string()))?;
        Ok(Self::new(inner))
    }

    /// Rebuilds the tokenizer from a GGUF file's metadata: byte-level BPE by the file's vocabulary and merges, or
    /// SentencePiece's by its vocabulary and scores.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when the metadata is not sound, [`Error::Unsupported`] when the tokenizer is of a kind
    /// that cannot be rebuilt.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
        let broken = |e: tokenizers::Error| file.malformed(format!("tokenizer: {e}"));
        let model = file.required("tokenizer.ggml.model", file.text("tokenizer.ggml.model"))?;
        let tokens = file.required("tokenizer.ggml.tokens", file.texts("tokenizer.ggml.tokens"))?;
        let types = file.integers("tokenizer.ggml.token_type")?;
        if let Some(types) = types.filter(|types| types.len() != tokens.len()) {
            let (found, wanted) = (types.len(), tokens.len());
            return Err(
                file.malformed(format!("`tokenizer.ggml.token_type` is of {found} tokens, and there are {wanted}"))
            );
        }
        let types = types.unwrap_or_default();
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        if vocab.len() != tokens.len() {
            return Err(file.malformed("a token is in the vocabulary twice"));
        }
        let (mut inner, adds_bos) = match model {
            "gpt2" => (byte_level(file, vocab)?, false),
            "llama" => (sentence_piece(file, vocab, tokens, types)?, true),
            _ => return Err(unsupported(format!("tokenizer `{model}` (can rebuild gpt2, llama)"))),
        };
        // These are matched in text before it is split.
        let added: Vec<AddedToken> = tokens
            .iter()
            .zip(types)
            .filter(|(token, kind)| matches!(**kind, CONTROL | USER_DEFINED) && !token.is_empty())
            .map(|(token, &kind)| AddedToken::from(token.clone(), kind == CONTROL).normalized(false))
            .collect();
        inner.add_tokens(added).map_err(broken)?;
        let token = |key: &str| {
            let id = file.u32(key)?;
            Ok::<_, Error>(id.and_then(|id| tokens.get(id as usize).map(|token| (token.clone(), id))))
        };
        let adds = |key: &str, default: bool| Ok::<_, Error>(file.bool(key)?.unwrap_or(default));
        let bos = token("tokenizer.ggml.bos_token_id")?;
        let eos = token("tokenizer.ggml.eos_token_id")?;
        let bos = if adds("tokenizer.ggml.add_bos_token", adds_bos)? { bos } else { None };
        let eos = if adds("tokenizer.ggml.add_eos_token", false)? { eos } else { None };
        if bos.is_some() || eos.is_some() {
            let text = |token: &Option<(String, u32)>| token.as_ref().map(|(text, _)| text.clone());
            let pieces: Vec<String> = [text(&bos), Some("$0".to_owned()), text(&eos)].into_iter().flatten().collect();
            let template = TemplateProcessing::builder()
                .try_single(pieces)
                .map_err(|e| file.malformed(format!("tokenizer: {e}")))?
                .special_tokens([bos, eos].into_iter().flatten().collect::<Vec<_>>())
                .build()
                .map_err(|e| file.malformed(format!("tokenizer: {e}")))?;
            inner.with_post_processor(Some(template));
        }
        Ok(Self::new(inner))
    }

    fn new(inner: tokenizers::Tokenizer) -> Self {
        let added = inner.get_added_tokens_decoder();
        let mut special: Vec<String> = added
            .into_values()
            .filter(|token| token.special && token.content.len() > 1)
            .map(|token| token.content)
            .collect();
        let falls_back = |model: &ModelWrapper| matches!(model, ModelWrapper::BPE(bpe) if bpe.byte_fallback);
        let has_bytes = falls_back(inner.get_model()) || matches!(inner.get_model(), ModelWrapper::Unigram(_));
        special.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Self { inner, special, has_bytes }
    }

    /// A text's tokens. The texts of special tokens become those tokens; `add_special` adds the ones that the model
    /// wants around every text.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the vocabulary has no token for a part of the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding> {
        let encoding = self.inner.encode(text, add_special).map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
        let spans = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok(Encoding { ids: encoding.get_ids().to_vec(), spans })
    }

    /// A prompt's tokens, as [`encode`](Self::encode) gives them with the special ones around; but where a chat template
    /// has written the one that begins every text, that is not there twice.
    ///
    /// # Errors
    ///
    /// As for [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Encoding> {
        let mut encoding = self.encode(text, true)?;
        if let ([added, written, ..], [of_added, ..]) = (&*encoding.ids, &*encoding.spans)
            && added == written
            && of_added.is_empty()
            && self.special.contains(&self.token(*written).unwrap_or_default())
        {
            encoding.ids.remove(0);
            encoding.spans.remove(0);
        }
        Ok(encoding)
    }

    /// The tokens of two texts with the special ones that the model wants around them and between. When there are more
    /// than `max_tokens`, the end of the longer text is cut off, and then of both alike.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the vocabulary has no token for a part of a text, or the special tokens alone are more
    /// than `max_tokens`.
    pub fn encode_pair(&self, first: &str, second: &str, max_tokens: usize) -> Result<EncodedPair> {
        let broken = |e: tokenizers::Error| Error::Tokenizer { problem: e.to_string() };
        let n_special = self.inner.get_post_processor().map_or(0, |processor| processor.added_tokens(true));
        let Some(room) = max_tokens.checked_sub(n_special) else {
            let problem = format!("a pair of texts has {n_special} special tokens, and {max_tokens} are read");
            return Err(Error::Tokenizer { problem });
        };
        let mut parts =
            [self.inner.encode(first, false).map_err(broken)?, self.inner.encode(second, false).map_err(broken)?];
        let [n_first, n_second] = [parts[0].len(), parts[1].len()];
        if n_first + n_second > room {
            // What the shorter text leaves of its half is the longer one's.
            let half = room / 2;
            let first = n_first.min((room - half).max(room.saturating_sub(n_second)));
            parts[0].truncate(first, 0, TruncationDirection::Right);
            parts[1].truncate(room - first, 0, TruncationDirection::Right);
        }
        // What was cut off is kept for those who read a text in pieces.
        parts.iter_mut().for_each(|part| drop(part.take_overflowing()));
        let [first, second] = parts;
        let pair = self.inner.post_process(first, Some(second), true).map_err(broken)?;
        Ok(EncodedPair { ids: pair.get_ids().to_vec(), token_types: pair.get_type_ids().to_vec() })
    }

    /// The text of tokens, without special ones.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let failed = |e: tokenizers::Error| Error::Tokenizer { problem: e.to_string() };
        let Some(decoder) = self.inner.get_decoder().filter(|_| self.has_bytes) else {
            return self.inner.decode(ids, true).map_err(failed);
        };
        // Bytes become text here: the library's decoder would give up a whole run of them for one that is amiss, and
        // what a stream has given could not be told from what follows.
        let special = self.inner.get_added_vocabulary();
        let (mut texts, mut bytes) = (Vec::with_capacity(ids.len()), Vec::new());
        for token in ids.iter().filter_map(|&id| self.token(id)).filter(|token| !special.is_special_token(token)) {
            match byte_of(&token) {
                Some(byte) => bytes.push(byte),
                None => {
                    flush(&mut bytes, &mut texts);
                    texts.push(token);
                }
            }
        }
        flush(&mut bytes, &mut texts);
        decoder.decode(texts).map_err(failed)
    }

    /// Begins to turn ids into text.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream { tokenizer: self, ids: Vec::new(), n_given: 0 }
    }

    /// The id of a token, given as it stands in the vocabulary.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as it stands in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text, changed so that no part of it reads as a special token: a zero-width space follows the first
    /// character of each that is spelled out. Foreign text must pass through here before it goes into a prompt.
    pub fn defuse<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for token in &self.special {
            if text.contains(token.as_str()) {
                let first = token.chars().next().map_or(0, char::len_utf8);
                let harmless = format!("{}\u{200b}{}", &token[..first], &token[first..]);
                text = Cow::Owned(text.replace(token.as_str(), &harmless));
            }
        }
        text
    }
}

impl DecodeStream<'_> {
    /// The text that a further id completes: nothing while a character is still in parts.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the decoder fails.
    pub fn push(&mut self, id: u32) -> Result<String> {
        // A character has at most four bytes, and so at most four tokens: what is still unreadable after that many
        // will not become readable.
        const PATIENCE: usize = 4;
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        let new = text.get(self.n_given..).unwrap_or_default();
        let waiting = self.ids.len().saturating_sub(1);
        if new.is_empty() || (new.ends_with(char::REPLACEMENT_CHARACTER) && waiting < PATIENCE) {
            return Ok(String::new());
        }
        let new = new.to_owned();
        // One id stays as context, because some decoders treat the first token of a text in a way of their own.
        self.ids.drain(..self.ids.len() - 1);
        self.n_given = self.tokenizer.decode(&self.ids)?.len();
        Ok(new)
    }

    /// What is left when no more ids come: parts of a character that was never completed.
    ///
    /// # Errors
    ///
    /// [`Error::Tokenizer`] when the decoder fails.
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.n_given..).unwrap_or_default().to_owned())
    }
}

// Types of tokens in GGUF files.
const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// The longest token that is made by merging, in bytes: some times those of published vocabularies.
const LONGEST_PIECE: usize = 512;
/// The space of `SentencePiece`.
const SPACE: &str = "▁";

/// The byte that a token such as `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Makes text of bytes and puts it behind other texts.
fn flush(bytes: &mut Vec<u8>, texts: &mut Vec<String>) {
    if !bytes.is_empty() {
        texts.push(String::from_utf8_lossy(bytes).into_owned());
        bytes.clear();
    }
}

/// Byte-level BPE.
fn byte_level(file: &GgufFile, vocab: Vocab) -> Result<tokenizers::Tokenizer> {
    let broken = |e: tokenizers::Error| file.malformed(format!("tokenizer: {e}"));
    let pre = file.text("tokenizer.ggml.pre")?.unwrap_or("default");
    let Some(splits) = Splits::named(pre) else {
        return Err(Error::Unsupported { path: file.path().to_owned(), what: format!("pre-tokenizer `{pre}`") });
    };
    let mut merges = Vec::new();
    for merge in file.required("tokenizer.ggml.merges", file.texts("tokenizer.ggml.merges"))? {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(file.malformed(format!("merge `{merge}` is not a pair")));
        };
        merges.push((left.to_owned(), right.to_owned()));
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(splits.ignore_merges).build();
    let mut inner = tokenizers::Tokenizer::new(bpe.map_err(broken)?);
    if splits.nfc {
        inner.with_normalizer(Some(NormalizerWrapper::NFC(NFC))).map_err(broken)?;
    }
    inner.with_pre_tokenizer(Some(splits.pre_tokenizer().map_err(broken)?));
    inner.with_decoder(Some(ByteLevelDecoder::new(false, true, true)));
    Ok(inner)
}

/// `SentencePiece`'s merging of neighbours, the pair first whose union has the highest score: BPE whose merges are all
/// ways to cut a token into two, in the order of scores. Characters that are no tokens are written in bytes.
fn sentence_piece(file: &GgufFile, vocab: Vocab, tokens: &[String], types: &[i64]) -> Result<tokenizers::Tokenizer> {
    let broken = |e: tokenizers::Error| file.malformed(format!("tokenizer: {e}"));
    let scores = file.required("tokenizer.ggml.scores", file.floats("tokenizer.ggml.scores"))?;
    if scores.len() != tokens.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(file.malformed("`tokenizer.ggml.scores` is not a number for each token"));
    }
    let is_piece = |id: u32| matches!(types.get(id as usize), None | Some(&(NORMAL | USER_DEFINED)));
    let mut ranked = Vec::new();
    for (id, token) in (0..).zip(tokens).filter(|(id, token)| is_piece(*id) && token.len() <= LONGEST_PIECE) {
        for (cut, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(cut);
            if let (Some(&a), Some(&b)) = (vocab.get(left), vocab.get(right))
                && is_piece(a)
                && is_piece(b)
            {
                ranked.push((id, a, b));
            }
        }
    }
    // Of equals the one whose left part is the likelier: that is found first.
    ranked.sort_by(|(token, a, _), (other, b, _)| {
        let score = |id: &u32| scores[*id as usize];
        score(other).total_cmp(&score(token)).then_with(|| token.cmp(other)).then_with(|| score(b).total_cmp(&score(a)))
    });
    let text = |id: u32| tokens[id as usize].clone();
    let merges = ranked.into_iter().map(|(_, a, b)| (text(a), text(b))).collect();
    let falls_back = types.contains(&BYTE);
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(falls_back).fuse_unk(true);
    if let Some(unknown) = file.u32("tokenizer.ggml.unknown_token_id")?.and_then(|id| tokens.get(id as usize)) {
        builder = builder.unk_token(unknown.clone());
    }
    let mut inner = tokenizers::Tokenizer::new(builder.build().map_err(broken)?);
    let spaced = Replace::new(" ", SPACE).map_err(broken)?;
    let mut decoders: Vec<DecoderWrapper> = vec![Replace::new(SPACE, " ").map_err(broken)?.into(), Fuse::new().into()];
    if file.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
        let prefixed = normalizers::Sequence::new(vec![Prepend::new(SPACE.to_owned()).into(), spaced.into()]);
        inner.with_normalizer(Some(prefixed)).map_err(broken)?;
        decoders.push(Strip::new(' ', 1, 0).into());
    } else {
        inner.with_normalizer(Some(spaced)).map_err(broken)?;
    }
    inner.with_decoder(Some(decoders::sequence::Sequence::new(decoders)));
    Ok(inner)
}

/// How text is split before merges are applied, by the name that GGUF files give it.
struct Splits {
    nfc: bool,
    ignore_merges: bool,
    how: How,
}

enum How {
    /// GPT-2's own pattern.
    Gpt2,
    /// Each digit by itself, then GPT-2's pattern.
    DigitsThenGpt2,
    /// Another pattern.
    Pattern(&'static str),
}

impl Splits {
    fn named(pre: &str) -> Option<Self> {
        const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        let splits = |nfc, ignore_merges, how| Some(Self { nfc, ignore_merges, how });
        match pre {
            "gpt-2" | "gpt2" => splits(false, false, How::Gpt2),
            "smollm" => splits(false, false, How::DigitsThenGpt2),
            "llama-bpe" | "llama3" | "llama-v3" => splits(false, true, How::Pattern(LLAMA3)),
            "qwen2" => splits(true, false, How::Pattern(QWEN2)),
            _ => None,
        }
    }

    fn pre_tokenizer(&self) -> tokenizers::Result<PreTokenizerWrapper> {
        // No space is put before the text: files of this kind were trained without.
        Ok(match self.how {
            How::Gpt2 => ByteLevel::new(false, true, true).into(),
            How::DigitsThenGpt2 => {
                Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()]).into()
            }
            How::Pattern(regex) => {
                let pattern = SplitPattern::Regex(regex.to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
                Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::quantized::gguf_file::{self, Value};
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;

    const BOS: u32 = 1;

    /// Writes a GGUF file with a vocabulary of `SentencePiece`'s: special tokens, all bytes, then pieces by score.
    fn write_vocabulary(path: &Path, pieces: &[&str], add_space_prefix: bool) {
        let special = [("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL), ("\n\n", USER_DEFINED)];
        let mut tokens: Vec<(String, i64)> = special.map(|(token, kind)| (token.to_owned(), kind)).into();
        tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), BYTE)));
        tokens.extend(pieces.iter().map(|piece| (piece.to_string(), NORMAL)));
        let n_first = tokens.len() - pieces.len();
        let score = |i: usize| if i < n_first { 0.0 } else { -((i - n_first) as f32) };
        let texts = Value::Array(tokens.iter().map(|(token, _)| Value::String(token.clone())).collect());
        let types = Value::Array(tokens.iter().map(|(_, kind)| Value::I32(*kind as i32)).collect());
        let scores = Value::Array((0..tokens.len()).map(|i| Value::F32(score(i))).collect());
        let (model, prefix) = (Value::String("llama".into()), Value::Bool(add_space_prefix));
        let metadata = [
            ("tokenizer.ggml.model", &model),
            ("tokenizer.ggml.tokens", &texts),
            ("tokenizer.ggml.token_type", &types),
            ("tokenizer.ggml.scores", &scores),
            ("tokenizer.ggml.bos_token_id", &Value::U32(BOS)),
            ("tokenizer.ggml.unknown_token_id", &Value::U32(0)),
            ("tokenizer.ggml.add_space_prefix", &prefix),
        ];
        let nothing = Tensor::zeros((1, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        let nothing = QTensor::quantize(&nothing, GgmlDType::F32).unwrap();
        let mut file = std::fs::File::create(path).unwrap();
        gguf_file::write(&mut file, &metadata, &[("nothing", &nothing)]).unwrap();
    }

    fn sentence_pieces(pieces: &[&str], add_space_prefix: bool) -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocabulary.gguf");
        write_vocabulary(&path, pieces, add_space_prefix);
        Tokenizer::from_gguf(&GgufFile::open(path).unwrap()).unwrap()
    }

    // The likeliest first. `lo` before `ow`, so `low` is `lo` and `w` at first.
    const PIECES: [&str; 12] = ["lo", "ow", "low", "▁low", "er", "▁", "l", "o", "w", "e", "r", "lower"];

    #[track_caller]
    fn check(add_space_prefix: bool, text: &str, expected: &[&str]) {
        let tokenizer = sentence_pieces(&PIECES, add_space_prefix);
        let ids = tokenizer.encode(text, false).unwrap().ids;
        let tokens: Vec<String> = ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(tokens, expected);
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let mut stream = tokenizer.decode_stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        streamed += &stream.finish().unwrap();
        assert_eq!(streamed, text);
    }

    #[test]
    fn pairs_merge_by_the_score_of_their_union() {
        check(false, "low", &["low"]);
        check(false, "wow", &["w", "ow"]);
        check(false, "low low", &["low", "▁low"]);
        // `lower` scores below `▁low`, which has taken its first part by then.
        check(false, "lower lower", &["lower", "▁low", "er"]);
        check(true, "lower", &["▁low", "er"]);
        check(true, " low", &["▁", "▁low"]);
        check(false, "low\n\nlow", &["low", "\n\n", "low"]);
        check(false, "", &[]);
    }

    #[test]
    fn what_no_piece_has_is_written_in_bytes() {
        check(false, "lé", &["l", "<0xC3>", "<0xA9>"]);
        check(true, "\n", &["▁", "<0x0A>"]);
        let tokenizer = sentence_pieces(&PIECES, true);
        for text in ["naïve 漢字, 🦀🧪 \u{200b}low", "🦀🦀🦀", "\t\r\n\u{0}", " two  spaces "] {
            let ids = tokenizer.encode(text, false).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            let mut stream = tokenizer.decode_stream();
            let mut streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            streamed += &stream.finish().unwrap();
            assert_eq!(streamed, text);
        }
    }

    #[test]
    fn any_bytes_decode_as_far_as_they_are_characters() {
        let tokenizer = sentence_pieces(&PIECES, false);
        let mut state = 3_u64;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..9)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 56) as u8
                })
                .collect();
            let ids: Vec<u32> =
                bytes.iter().map(|&byte| tokenizer.token_id(&format!("<0x{byte:02X}>")).unwrap()).collect();
            assert_eq!(tokenizer.decode(&ids).unwrap(), String::from_utf8_lossy(&bytes));
        }
        // A byte that is amiss takes none of the characters around it with it.
        let ids = ["<0xF0>", "<0x9F>", "<0xA6>", "<0x80>", "<0xFF>", "<0xC3>", "<0xA9>", "l"];
        let mut stream = tokenizer.decode_stream();
        let mut streamed = String::new();
        for id in ids {
            streamed += &stream.push(tokenizer.token_id(id).unwrap()).unwrap();
        }
        assert_eq!(streamed, "🦀\u{fffd}él");
    }

    #[test]
    fn the_token_that_begins_a_text_is_there_once() {
        let tokenizer = sentence_pieces(&PIECES, false);
        let low = tokenizer.token_id("low").unwrap();
        assert_eq!(tokenizer.encode("low", true).unwrap().ids, [BOS, low]);
        assert_eq!(tokenizer.encode("<s>low", true).unwrap().ids, [BOS, BOS, low]);
        assert_eq!(tokenizer.encode_prompt("<s>low").unwrap().ids, [BOS, low]);
        assert_eq!(tokenizer.encode_prompt("<s>low").unwrap().spans, [0..3, 3..6]);
        assert_eq!(tokenizer.encode_prompt("low").unwrap().ids, [BOS, low]);
        assert_eq!(tokenizer.encode_prompt("").unwrap().ids, [BOS]);
        assert_eq!(tokenizer.defuse("</s>"), "<\u{200b}/s>");
    }

    #[test]
    fn a_tokenizer_that_refuses_unknown_words_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = r#"{"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]",
            "continuing_subword_prefix": "+", "max_input_chars_per_word": 100, "vocab": {}}}"#;
        std::fs::write(&path, json).unwrap();
        assert!(
            matches!(Tokenizer::from_file(&path), Err(Error::Malformed { problem, .. }) if problem.contains("[UNK]"))
        );
    }

    #[test]
    fn a_vocabulary_that_is_amiss_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocabulary.gguf");
        write_vocabulary(&path, &["low", "low"], false);
        let twice = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap());
        assert!(matches!(twice, Err(Error::Malformed { .. })));
        write_vocabulary(&path, &PIECES, false);
        let whole = std::fs::read(&path).unwrap();
        let at = whole.windows(21).position(|key| key == b"tokenizer.ggml.scores").unwrap();
        let mut renamed = whole;
        renamed[at + 20] = b'x';
        std::fs::write(&path, renamed).unwrap();
        let problem = Tokenizer::from_gguf(&GgufFile::open(&path).unwrap()).unwrap_err().to_string();
        assert!(problem.contains("metadata lacks `tokenizer.ggml.scores`"), "{problem}");
    }
}
