//! The encoders of an index, loaded when they are first needed.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use raglan_core::{DenseVector, Encoder, SparseVector, TokenCounter, TokenMatrix};
use raglan_embed::TokenBag;
use raglan_store::{ModelStamp, Passport};

use crate::Result;
use crate::entity_graph::GraphExtractor;
use crate::ngrams::NgramTokenizer;

/// An encoder of dense vectors, shared by threads.
pub type DenseEncoder = Arc<dyn Encoder<Vector = DenseVector>>;

/// The part of an index, and the model in its passport, of learned sparse vectors.
pub(crate) const SPARSE: &str = "sparse";

/// The part of an index, and the model in its passport, of token vectors.
pub(crate) const LATE: &str = "late";

/// The part of an index, and the model in its passport whose tokenizer it is of, of n-grams.
pub(crate) const NGRAMS: &str = "ngrams";

/// The part of an index, and the model in its passport that finds entities, of the graph.
pub(crate) const GRAPH: &str = "graph";

/// The parts of an index that are made by others than the dense encoder.
const FURTHER: [&str; 4] = [SPARSE, LATE, NGRAMS, GRAPH];

type Load<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// Something that is loaded once, when it is first asked for.
pub(crate) struct Lazy<T> {
    loaded: OnceLock<T>,
    load: Load<T>,
}

impl<T> Lazy<T> {
    pub(crate) fn new(load: Load<T>) -> Self {
        Self { loaded: OnceLock::new(), load }
    }

    pub(crate) fn get(&self) -> Result<&T> {
        if self.loaded.get().is_none() {
            let value = (self.load)()?;
            let _ = self.loaded.set(value); // Another thread may have been first; its value is as good.
        }
        Ok(self.loaded.get().expect("the value was set above"))
    }
}

/// An encoder with the stamp by which an index knows it.
///
/// What an update of an unchanged folder does not need is not loaded: the stamp is there at once, the tokenizer when
/// a document is cut, the weights when a text is encoded.
pub struct Embedder<V = DenseVector> {
    stamp: ModelStamp,
    counter: Arc<LazyCounter>,
    encoder: Lazy<Arc<dyn Encoder<Vector = V>>>,
}

impl<V> Embedder<V> {
    /// An encoder that `load` gives, and a tokenizer that `load_counter` gives, under this stamp.
    pub fn new(
        stamp: ModelStamp,
        load_counter: impl Fn() -> Result<Arc<dyn TokenCounter>> + Send + Sync + 'static,
        load: impl Fn() -> Result<Arc<dyn Encoder<Vector = V>>> + Send + Sync + 'static,
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
    pub fn encoder(&self) -> Result<&Arc<dyn Encoder<Vector = V>>> {
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

/// A learned sparse encoder, and the tokenizer by itself for queries that need no model.
pub struct SparseEmbedder {
    /// The encoder.
    pub embedder: Embedder<SparseVector>,
    bag: Lazy<Arc<TokenBag>>,
}

impl SparseEmbedder {
    /// An encoder, and what `load_bag` gives.
    pub fn new(
        embedder: Embedder<SparseVector>,
        load_bag: impl Fn() -> Result<Arc<TokenBag>> + Send + Sync + 'static,
    ) -> Self {
        Self { embedder, bag: Lazy::new(Box::new(load_bag)) }
    }

    /// Gives the tokens of inference-free queries.
    ///
    /// # Errors
    ///
    /// Whatever loading it gives.
    pub fn bag(&self) -> Result<&Arc<TokenBag>> {
        self.bag.get()
    }
}

/// What makes the parts of an index, by their kind; words need nothing.
#[derive(Clone, Default)]
pub struct Encoders {
    /// One vector a chunk.
    pub dense: Option<Arc<Embedder>>,
    /// A weight for each of a vocabulary's words.
    pub sparse: Option<Arc<SparseEmbedder>>,
    /// One vector a token.
    pub late: Option<Arc<Embedder<TokenMatrix>>>,
    /// The tokens that n-grams are of.
    pub ngrams: Option<Arc<NgramTokenizer>>,
    /// The entities of the graph; their vectors are by the dense encoder, if there is one.
    pub graph: Option<Arc<GraphExtractor>>,
}

impl Encoders {
    /// One dense encoder, or none.
    pub fn dense(embedder: Option<Arc<Embedder>>) -> Self {
        Self { dense: embedder, ..Self::default() }
    }

    /// Puts what made the index into a passport.
    pub fn stamp(&self, passport: &mut Passport) {
        passport.embedder = self.dense.as_ref().map(|embedder| embedder.stamp().clone());
        let dim = passport.embedder.as_ref().map_or(0, |stamp| stamp.dim);
        let further = [
            (SPARSE, self.sparse.as_ref().map(|sparse| sparse.embedder.stamp().clone())),
            (LATE, self.late.as_ref().map(|late| late.stamp().clone())),
            (NGRAMS, self.ngrams.as_ref().map(|ngrams| ngrams.stamp().clone())),
            (GRAPH, self.graph.as_ref().map(|graph| ModelStamp { dim, ..graph.stamp.clone() })),
        ];
        passport.models.retain(|part, _| !FURTHER.contains(&part.as_str()));
        for (part, stamp) in further {
            passport.models.extend(stamp.map(|stamp| (part.to_owned(), stamp)));
        }
    }

    /// The stamps of those that make vectors of chunks.
    pub fn stamps(&self) -> impl Iterator<Item = &ModelStamp> {
        let dense = self.dense.iter().map(|embedder| embedder.stamp());
        let sparse = self.sparse.iter().map(|sparse| sparse.embedder.stamp());
        dense.chain(sparse).chain(self.late.iter().map(|late| late.stamp()))
    }

    /// Whether there are none, so that the index has words only.
    pub fn is_empty(&self) -> bool {
        self.stamps().next().is_none() && self.ngrams.is_none() && self.graph.is_none()
    }

    /// The encoders that an index with this passport lacks, and those it has.
    pub fn split(&self, passport: &Passport) -> (Self, Self) {
        let those = |has: bool| {
            let wanted = |part| passport.models.contains_key(part) == has;
            Self {
                dense: self.dense.clone().filter(|_| passport.embedder.is_some() == has),
                sparse: self.sparse.clone().filter(|_| wanted(SPARSE)),
                late: self.late.clone().filter(|_| wanted(LATE)),
                ngrams: self.ngrams.clone().filter(|_| wanted(NGRAMS)),
                graph: self.graph.clone().filter(|_| wanted(GRAPH)),
            }
        };
        (those(false), those(true))
    }

    /// What counts the tokens of chunks: the tokenizer of the first encoder there is.
    pub fn counter(&self) -> Option<Arc<dyn TokenCounter>> {
        let dense = self.dense.as_ref().map(|embedder| embedder.counter());
        dense
            .or_else(|| self.sparse.as_ref().map(|sparse| sparse.embedder.counter()))
            .or_else(|| self.late.as_ref().map(|late| late.counter()))
    }

    /// These encoders, and those of another set where these have none.
    pub fn or(self, other: Self) -> Self {
        Self {
            dense: self.dense.or(other.dense),
            sparse: self.sparse.or(other.sparse),
            late: self.late.or(other.late),
            ngrams: self.ngrams.or(other.ngrams),
            graph: self.graph.or(other.graph),
        }
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
