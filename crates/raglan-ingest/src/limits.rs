//! How much one file may cost.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds on what one file may be and cost; a file beyond one of them is skipped with the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Size of the file in bytes.
    pub file_bytes: u64,
    /// Size of the extracted text, and of all that is unpacked on the way to it divided by eight, in bytes.
    pub text_bytes: u64,
    /// Pages, slides, sheets or chapters.
    pub pages: u32,
    /// How deep structure is followed; what lies deeper is read as flat text.
    pub depth: u32,
    /// Wall time.
    pub time: Duration,
    /// Memory of a worker process above what it needs at rest, in bytes.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 100 << 20,
            text_bytes: 64 << 20,
            pages: 10_000,
            depth: 256,
            time: Duration::from_secs(30),
            memory_bytes: 1 << 30,
        }
    }
}

impl Limits {
    /// Bytes that the parts of a package may unpack to: markup is rarely more than eight times its text.
    pub(crate) fn unpacked_bytes(&self) -> u64 {
        self.text_bytes.saturating_mul(8)
    }
}
