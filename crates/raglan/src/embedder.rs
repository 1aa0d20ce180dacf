//! The encoder of an index, loaded when it is first needed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use raglan_core::{DenseVector, Encoder, TokenCounter};
use raglan_store::ModelStamp;

use crate::Result;

/// An encoder of dense vectors, shared by threads.
pub type DenseEncoder = Arc<dyn Encoder<Vector = DenseVector>>;

type Load<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// Something that is loaded once, when it is first asked for.
struct Lazy<T> {
    loaded: OnceLock<T>,
    load: Load<T>,
}

impl<T> Lazy<T> {
    fn new(load: Load<T>) -> Self {
        Self { loaded: OnceLock::new(), load }
    }

    fn get(&self) -> Result<&T> {
        if self.loaded.get().is_none() {
            let value = (self.load)()?;
            let _ = self.loaded.set(value); // Another thread may have been first; its value is as good.
        }
        Ok(self.loaded.get().expect("the value was set above"))
    }
}

/// A dense encoder with the stamp by which an index knows it.
///
/// What an update of an unchanged folder does not need is not loaded: the stamp is there at once, the tokenizer when
/// a document is cut, the weights when a text is encoded.
pub struct Embedder {
    stamp: ModelStamp,
    counter: Arc<LazyCounter>,
    encoder: Lazy<DenseEncoder>,
}

impl Embedder {
    /// An encoder that `load` gives, and a tokenizer that `load_counter` gives, under this stamp.
    pub fn new(
        stamp: ModelStamp,
        load_counter: impl Fn() -> Result<Arc<dyn TokenCounter>> + Send + Sync + 'static,
        load: impl Fn() -> Result<DenseEncoder> + Send + Sync + 'static,
    ) -> Self {
        let counter = Arc::new(LazyCounter(Lazy::new(Box::new(load_counter))));
        Self { stamp, counter, encoder: Lazy::new(Box::new(load)) }
    }

    /// What the index writes down of the encoder.
    pub fn stamp(&self) -> &ModelStamp {
        &self.stamp
    }

    /// The encoder.
    ///
    /// # Errors
    ///
    /// Whatever loading it gives.
    pub fn encoder(&self) -> Result<&DenseEncoder> {
        self.encoder.get()
    }

    /// Loads the tokenizer now, so that damage to it is not taken for damage to the documents that it cuts.
    ///
    /// # Errors
    ///
    /// Whatever loading it gives.
    pub fn load_counter(&self) -> Result<()> {
        self.counter.0.get().map(drop)
    }

    /// Counts tokens as the encoder does.
    pub fn counter(&self) -> Arc<dyn TokenCounter> {
        self.counter.clone()
    }
}

struct LazyCounter(Lazy<Arc<dyn TokenCounter>>);

impl TokenCounter for LazyCounter {
    fn token_spans(&self, text: &str) -> raglan_core::Result<Vec<Range<usize>>> {
        let counter = self.0.get().map_err(|error| raglan_core::Error::part("tokenizer", error))?;
        counter.token_spans(text)
    }

    fn count(&self, text: &str) -> raglan_core::Result<usize> {
        let counter = self.0.get().map_err(|error| raglan_core::Error::part("tokenizer", error))?;
        counter.count(text)
    }
}
