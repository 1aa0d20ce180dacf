//! Tokenizers: a model's own way to turn text into ids and back.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use tokenizers::decoders::byte_level::ByteLevel as ByteLevelDecoder;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessor, SplitDelimiterBehavior, TruncationDirection};

use crate::gguf::GgufFile;
use crate::{Error, Result};

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Texts that stand for one token and steer the model, longest first.
    special: Vec<String>,
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
    /// [`Error::Io`] when it cannot be read, [`Error::Malformed`] when it is not a tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
        inner.with_truncation(None).map_err(|e| malformed(e.to_string()))?;
        inner.with_padding(None);
        Ok(Self::new(inner))
    }

    /// Rebuilds the tokenizer from a GGUF file's metadata: byte-level BPE by the file's vocabulary and merges.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] when the metadata is not sound, [`Error::Unsupported`] when the tokenizer is of a kind
    /// that cannot be rebuilt.
    pub fn from_gguf(file: &GgufFile) -> Result<Self> {
        let unsupported = |what: String| Error::Unsupported { path: file.path().to_owned(), what };
        let broken = |e: tokenizers::Error| file.malformed(format!("tokenizer: {e}"));
        let model = file.required("tokenizer.ggml.model", file.text("tokenizer.ggml.model"))?;
        if model != "gpt2" {
            return Err(unsupported(format!("tokenizer `{model}` (can rebuild gpt2)")));
        }
        let pre = file.text("tokenizer.ggml.pre")?.unwrap_or("default");
        let Some(splits) = Splits::named(pre) else {
            return Err(unsupported(format!("pre-tokenizer `{pre}`")));
        };
        let tokens = file.required("tokenizer.ggml.tokens", file.texts("tokenizer.ggml.tokens"))?;
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        if vocab.len() != tokens.len() {
            return Err(file.malformed("a token is in the vocabulary twice"));
        }
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
        let types = file.integers("tokenizer.ggml.token_type")?.unwrap_or_default();
        // Types 3 (control) and 4 (user-defined) are matched in text before it is split.
        let added: Vec<AddedToken> = tokens
            .iter()
            .zip(types)
            .filter(|(_, kind)| matches!(**kind, 3 | 4))
            .map(|(token, &kind)| AddedToken::from(token.clone(), kind == 3).normalized(false))
            .collect();
        inner.add_tokens(added).map_err(broken)?;
        let token = |key: &str| {
            let id = file.u32(key)?;
            Ok::<_, Error>(id.and_then(|id| tokens.get(id as usize).map(|token| (token.clone(), id))))
        };
        let bos = token("tokenizer.ggml.bos_token_id")?;
        if let Some((bos, id)) =
            bos.filter(|_| file.bool("tokenizer.ggml.add_bos_token").is_ok_and(|add| add == Some(true)))
        {
            let template = TemplateProcessing::builder()
                .try_single(vec![bos.clone(), "$0".to_owned()])
                .map_err(|e| file.malformed(format!("tokenizer: {e}")))?
                .special_tokens(vec![(bos, id)])
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
        special.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        Self { inner, special }
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
        self.inner.decode(ids, true).map_err(|e| Error::Tokenizer { problem: e.to_string() })
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
