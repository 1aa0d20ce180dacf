//! What stands on an encoder: words for its vectors, scores of a text, or shorter vectors.

mod classification;
mod masked_language;
#[cfg(feature = "cuda")]
mod on_device;
mod projection;

pub use classification::ClassificationHead;
pub use masked_language::{MaskedLanguageHead, TermWeights};
#[cfg(feature = "cuda")]
pub use on_device::{DeviceMaskedLanguageHead, DeviceTokenProjection};
pub use projection::TokenProjection;
