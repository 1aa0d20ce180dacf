//! What a stage gave, kept by the content of what it took.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use raglan_core::{Answer, ContentHash, Context, Query, Result};

use crate::Ranked;

/// What has a hash of its content: equal hashes mean that a stage may take the one for the other.
pub trait Content {
    /// Adds all that makes a difference.
    fn hash_into(&self, hasher: &mut ContentHasher);

    /// The hash.
    fn content_hash(&self) -> ContentHash {
        let mut hasher = ContentHasher::default();
        self.hash_into(&mut hasher);
        ContentHash(*hasher.0.finalize().as_bytes())
    }
}

/// Takes in what makes a difference, part by part.
#[derive(Clone, Default)]
pub struct ContentHasher(blake3::Hasher);

impl ContentHasher {
    /// Takes in some bytes, and that they are one part.
    pub fn part(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        self
    }

    /// Takes in a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(&number.to_le_bytes());
        self
    }
}

impl Content for Query {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        hasher.part(self.text.as_bytes());
        match &self.allowed {
            None => hasher.number(u64::MAX),
            Some(allowed) => allowed.iter().fold(hasher.number(allowed.len() as u64), |h, id| h.number(id.0.into())),
        };
    }
}

impl Content for Ranked {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        self.query.hash_into(hasher);
        hasher.number(self.ranking.len() as u64);
        for hit in self.ranking.hits() {
            hasher.number(hit.chunk.0.into()).number(hit.score.to_bits().into());
        }
        hasher.number(self.left_out.len() as u64);
        self.left_out.iter().for_each(|left| {
            hasher.number(left.chunk.0.into()).number(left.reason as u64);
        });
    }
}

impl Content for Context {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        hasher.part(self.question.as_bytes()).part(self.examples.as_bytes()).number(self.passages.len() as u64);
        for passage in &self.passages {
            let chunk = &passage.chunk;
            hasher.number(chunk.id.0.into()).number(chunk.doc.0.into()).number(passage.score.to_bits().into());
            hasher.part(chunk.text.as_bytes()).part(&passage.document.hash.0);
        }
        hasher.number(self.left_out.len() as u64);
        self.left_out.iter().for_each(|left| {
            hasher.number(left.chunk.0.into()).number(left.reason as u64);
        });
    }
}

impl Content for Answer {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        hasher.part(self.question.as_bytes()).part(self.text.as_bytes()).number(self.sources.len() as u64);
        for source in &self.sources {
            hasher.part(source.path.as_bytes()).number(source.start as u64).number(source.end as u64);
        }
    }
}

impl<T: Content> Content for Result<T> {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        match self {
            Ok(value) => value.hash_into(hasher.number(0)),
            Err(error) => {
                hasher.number(1).part(error.to_string().as_bytes());
            }
        }
    }
}

impl<A: Content, B: Content> Content for (A, B) {
    fn hash_into(&self, hasher: &mut ContentHasher) {
        self.0.hash_into(hasher);
        self.1.hash_into(hasher);
    }
}

/// Results by the content that they came of, the least recently used of which goes first.
pub(crate) struct Cache<U> {
    most: usize,
    kept: Mutex<Kept<U>>,
}

struct Kept<U> {
    /// With the moment of the last use.
    results: HashMap<ContentHash, (u64, U)>,
    by_use: BTreeMap<u64, ContentHash>,
    moment: u64,
}

impl<U: Clone> Cache<U> {
    /// For so many results.
    pub(crate) fn new(most: usize) -> Self {
        let kept = Kept { results: HashMap::new(), by_use: BTreeMap::new(), moment: 0 };
        Self { most, kept: Mutex::new(kept) }
    }

    /// The results of a batch: those that are kept, and what `run` makes of the other items, each of which it gets once.
    ///
    /// Only results that `is_kept` likes are kept.
    pub(crate) fn through<T: Content>(
        &self,
        batch: Vec<T>,
        is_kept: impl Fn(&U) -> bool,
        run: impl FnOnce(Vec<T>) -> Result<Vec<U>>,
    ) -> Result<Vec<U>> {
        let hashes: Vec<ContentHash> = batch.iter().map(Content::content_hash).collect();
        let mut results: Vec<Option<U>> = hashes.iter().map(|hash| self.lock().used(hash)).collect();
        let (mut missing, mut items) = (Vec::new(), Vec::new());
        for ((hash, result), item) in hashes.iter().zip(&results).zip(batch) {
            if result.is_none() && !missing.contains(hash) {
                missing.push(*hash);
                items.push(item);
            }
        }
        tracing::debug!(kept = hashes.len() - missing.len(), missing = missing.len(), "cached stage");
        let made = crate::batch::run_some(items, run)?;
        for (hash, result) in hashes.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            let place = missing.iter().position(|missing| missing == hash).expect("it was found missing");
            *result = Some(made[place].clone());
        }
        let mut kept = self.lock();
        for (hash, result) in missing.into_iter().zip(made).filter(|(_, result)| is_kept(result)) {
            kept.keep(hash, result, self.most);
        }
        Ok(results.into_iter().map(|result| result.expect("it was kept or made")).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept<U>> {
        // What a panic could leave behind is a result without a moment of use, which then stays.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<U: Clone> Kept<U> {
    fn used(&mut self, hash: &ContentHash) -> Option<U> {
        self.moment += 1;
        let (moment, result) = self.results.get_mut(hash)?;
        self.by_use.remove(moment);
        *moment = self.moment;
        self.by_use.insert(self.moment, *hash);
        Some(result.clone())
    }

    fn keep(&mut self, hash: ContentHash, result: U, most: usize) {
        self.moment += 1;
        if let Some((moment, _)) = self.results.insert(hash, (self.moment, result)) {
            self.by_use.remove(&moment);
        }
        self.by_use.insert(self.moment, hash);
        while self.results.len() > most {
            let (_, oldest) = self.by_use.pop_first().expect("each result has a moment");
            self.results.remove(&oldest);
        }
    }
}
