//! What stands on an encoder: words for its vectors, scores of a text, or shorter vectors.

mod classification;
mod masked_language;
mod projection;

pub use classification::ClassificationHead;
pub use masked_language::{MaskedLanguageHead, TermWeights};
pub use projection::TokenProjection;
