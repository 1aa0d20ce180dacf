//! How far a download has come.

/// Is told how far the fetching of a model has come.
///
/// Work comes as a sequence of steps (a download, an extraction, a check), each `start`, any number of `advance`,
/// `finish`; after an error the `finish` may be missing. Calls come from one thread at a time and must be quick.
pub trait Progress: Send + Sync {
    /// A step begins: `what` is shown to a person, `bytes` is its length where that is known.
    fn start(&self, what: &str, bytes: Option<u64>);
    /// `bytes` more are done.
    fn advance(&self, bytes: u64);
    /// The step is over.
    fn finish(&self);
    /// Whether the work is to be given up; it is asked several times a second.
    fn interrupted(&self) -> bool {
        false
    }
}

/// A [`Progress`] that tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _what: &str, _bytes: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self) {}
}
