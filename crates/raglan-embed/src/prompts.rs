//! What stands before texts for models whose files do not say so.

/// What a model wants before its texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prompts {
    pub query: &'static str,
    pub passage: &'static str,
}

/// E5's, from the model cards and section 3 of the paper (Wang et al. 2022): both sides have one.
const E5: Prompts = Prompts { query: "query: ", passage: "passage: " };

/// BGE's of version 1.5, from the model cards: queries alone have one.
const BGE: Prompts = Prompts { query: "Represent this sentence for searching relevant passages: ", passage: "" };

/// The models, by the names that they are published under, without the owner's.
const BY_NAME: [(&str, Prompts); 12] = [
    ("e5-small", E5),
    ("e5-base", E5),
    ("e5-large", E5),
    ("e5-small-v2", E5),
    ("e5-base-v2", E5),
    ("e5-large-v2", E5),
    ("multilingual-e5-small", E5),
    ("multilingual-e5-base", E5),
    ("multilingual-e5-large", E5),
    ("bge-small-en-v1.5", BGE),
    ("bge-base-en-v1.5", BGE),
    ("bge-large-en-v1.5", BGE),
];

impl Prompts {
    /// Those of a model of exactly this name, upper and lower case being one.
    pub fn of_model(name: &str) -> Option<Self> {
        BY_NAME.iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|&(_, prompts)| prompts)
    }
}
