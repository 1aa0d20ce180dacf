//! Counting tokens as a model does.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use raglan_core::TokenCounter;
use raglan_model::Tokenizer;

use crate::{Error, Result};

/// Counts tokens as the model in `dir` does: by its `tokenizer.json`, special tokens left out.
///
/// # Errors
///
/// [`Error::Model`] when that file cannot be read or is not a tokenizer.
pub fn token_counter(dir: &Path) -> Result<Arc<dyn TokenCounter>> {
    Ok(Arc::new(LibraryCounter(Tokenizer::from_file(dir.join("tokenizer.json"))?)))
}

/// Any tokenizer, through the `tokenizers` library.
struct LibraryCounter(Tokenizer);

impl TokenCounter for LibraryCounter {
    fn token_spans(&self, text: &str) -> raglan_core::Result<Vec<Range<usize>>> {
        let mut spans = self.0.encode(text, false).map_err(Error::from)?.spans;
        disjoin(&mut spans);
        Ok(spans)
    }
}

/// Takes from each range what the ones before it hold: the parts of one character may be several tokens, of which the
/// first then has the character and the others are empty.
fn disjoin(spans: &mut [Range<usize>]) {
    let mut free = 0;
    for span in spans {
        span.start = span.start.max(free);
        span.end = span.end.max(span.start);
        free = span.end;
    }
}
