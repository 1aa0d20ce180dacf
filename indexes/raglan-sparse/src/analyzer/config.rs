//! The parameters of an analyzer.

use serde::{Deserialize, Serialize};
use tantivy::tokenizer::Language;

/// How texts become terms. Equal parameters mean equal terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AnalyzerConfig {
    /// The language whose words are stemmed.
    pub language: StemLanguage,
    /// Whether the language's most frequent words are left out.
    pub stop_words: bool,
    /// Whether identifiers are split into their words, beside being kept whole.
    pub split_identifiers: bool,
}

impl Default for AnalyzerConfig {
    fn default() -> Self {
        Self { language: StemLanguage::English, stop_words: true, split_identifiers: true }
    }
}

impl AnalyzerConfig {
    /// The parameters as JSON.
    pub fn fingerprint(&self) -> String {
        serde_json::to_string(self).expect("three plain fields")
    }
}

macro_rules! languages {
    ($($language:ident),*) => {
        /// A language of the Snowball stemmers.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[expect(missing_docs, reason = "languages")]
        #[non_exhaustive]
        pub enum StemLanguage {
            /// Words stay as they are, and there are no stop words.
            None,
            #[default]
            English,
            $($language),*
        }

        impl StemLanguage {
            /// Every language, and none.
            pub const ALL: &[Self] = &[Self::None, Self::English, $(Self::$language),*];

            pub(crate) fn tantivy(self) -> Option<Language> {
                match self {
                    Self::None => None,
                    Self::English => Some(Language::English),
                    $(Self::$language => Some(Language::$language)),*
                }
            }
        }
    };
}

languages!(
    Arabic, Danish, Dutch, Finnish, French, German, Greek, Hungarian, Italian, Norwegian, Portuguese, Romanian,
    Russian, Spanish, Swedish, Tamil, Turkish
);

impl std::str::FromStr for StemLanguage {
    type Err = String;

    /// Reads the name that serde writes, such as `english` or `none`.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let parsed = Self::ALL.iter().find(|language| language.to_string() == name.to_lowercase());
        parsed.copied().ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("no stemmer for `{name}`; there are {}", all.join(", "))
        })
    }
}

impl std::fmt::Display for StemLanguage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}
