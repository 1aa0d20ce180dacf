//! Where a question looks.

use crate::KvUsage;

/// The attention that a prompt's end, with the question, pays to the tokens of its passages: for each token the mean
/// over the tokens behind the last passage, summed over the heads of the layers that count.
#[derive(Clone, Debug, PartialEq)]
pub struct PassageAttention {
    /// Indices of the context's passages that are in the prompt, in its order.
    pub shown: Vec<usize>,
    /// How many tokens each of them has.
    pub lengths: Vec<usize>,
    /// What the question's tokens pay, passage after passage.
    pub of_question: Vec<f32>,
    /// What is paid when "N/A" stands in place of the question; `None` when the prompt asks before its passages too, so
    /// that they were read with the question in mind.
    pub of_nothing: Option<Vec<f32>>,
    /// What keys and values were used to read the prompt.
    pub kv: Option<KvUsage>,
    /// Tokens that were computed.
    pub computed_tokens: usize,
}
