//! How far answers by a method of reuse were from those of computing all, on record beside the blocks.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use crate::block::parse_hash;
use crate::journal::Journal;
use crate::{BlockPrecision, Result, TokensHash};

/// Tests that a mean is taken over, the last so many.
pub const DRIFT_WINDOW: usize = 16;
/// The file of the record.
const FILE: &str = "drift.tsv";
/// A record that is longer is shortened: some thousand questions.
const LONG_BYTES: u64 = 256 << 10;

/// What drift is on record for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DriftKey {
    /// The method, as it is written.
    pub method: String,
    /// How blocks are kept.
    pub precision: BlockPrecision,
    /// The model: its weights, their products and the rotation.
    pub model: TokensHash,
}

/// One prompt that was read by a method and computed whole, and what followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriftSample {
    /// The mean over the places of `KL(whole || method)` in nats; infinite where the method gave no numbers.
    pub kl: f64,
    /// That of the first place.
    pub first_kl: f64,
    /// Places at which the best token is the same.
    pub n_agree: usize,
    /// Places of the whole prompt's greedy continuation.
    pub n_places: usize,
}

/// What is on record of a method.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drift {
    /// Questions that were asked by it, tested or not.
    pub n_questions: u64,
    /// Tests, ever.
    pub n_samples: u64,
    /// The last of them, at most [`DRIFT_WINDOW`], oldest first.
    pub recent: VecDeque<DriftSample>,
}

/// The record of one model in one index, in the folder of its blocks.
///
/// It is read anew each time, so that every process goes by what all of them saw; a damaged line costs only itself.
#[derive(Clone, Debug)]
pub struct DriftRecord {
    journal: Journal,
}

impl DriftSample {
    /// Whether the greedy tokens are the same at every place.
    pub fn is_equal(&self) -> bool {
        self.n_agree == self.n_places
    }
}

impl Drift {
    fn mean(&self, of: impl Fn(&DriftSample) -> f64) -> Option<f64> {
        (!self.recent.is_empty()).then(|| self.recent.iter().map(of).sum::<f64>() / self.recent.len() as f64)
    }

    /// The mean divergence over the recent tests, in nats; none without a test.
    pub fn mean_kl(&self) -> Option<f64> {
        self.mean(|sample| sample.kl)
    }

    /// The share of places at which the best token was the same.
    pub fn top1(&self) -> Option<f64> {
        let places: usize = self.recent.iter().map(|sample| sample.n_places).sum();
        let agree: usize = self.recent.iter().map(|sample| sample.n_agree).sum();
        (places > 0).then(|| agree as f64 / places as f64)
    }

    /// The share of tests in which all greedy tokens were the same.
    pub fn greedy_equal(&self) -> Option<f64> {
        self.mean(|sample| f64::from(u8::from(sample.is_equal())))
    }

    /// Whether the mean divergence is above a bound; as long as there is one test only, also whether the divergence of
    /// its first token is.
    pub fn is_above(&self, bound: f64) -> bool {
        let first = self.recent.front().filter(|_| self.n_samples == 1).map_or(0.0, |sample| sample.first_kl);
        self.mean_kl().is_some_and(|kl| !(kl <= bound && first <= bound))
    }

    fn add(&mut self, sample: DriftSample) {
        self.n_samples += 1;
        self.recent.push_back(sample);
        if self.recent.len() > DRIFT_WINDOW {
            self.recent.pop_front();
        }
    }
}

impl DriftRecord {
    /// The record in a folder, which is made when there is something to write.
    pub fn new(folder: &Path) -> Self {
        Self { journal: Journal::new(folder.join(FILE)) }
    }

    /// What is on record, by what it is of.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when the record is there and cannot be read.
    pub fn all(&self) -> Result<BTreeMap<DriftKey, Drift>> {
        Ok(folded(&self.journal.lines()?))
    }

    /// What is on record of one method.
    ///
    /// # Errors
    ///
    /// As [`all`](Self::all).
    pub fn of(&self, key: &DriftKey) -> Result<Drift> {
        Ok(self.all()?.remove(key).unwrap_or_default())
    }

    /// Notes that so many questions were asked by a method.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](crate::Error::Io) when it cannot be written.
    pub fn asked(&self, key: &DriftKey, n: u64) -> Result<()> {
        self.add(format!("asked\t{}\t{n}", written(key)))
    }

    /// Notes what a test found.
    ///
    /// # Errors
    ///
    /// As [`asked`](Self::asked).
    pub fn tested(&self, key: &DriftKey, sample: &DriftSample) -> Result<()> {
        self.add(sample_line(key, sample))
    }

    /// Forgets all.
    ///
    /// # Errors
    ///
    /// As [`asked`](Self::asked).
    pub fn clear(&self) -> Result<()> {
        self.journal.remove()
    }

    fn add(&self, line: String) -> Result<()> {
        self.journal.append(&[line])?;
        if self.journal.n_bytes() > LONG_BYTES {
            self.shorten()?;
        }
        Ok(())
    }

    /// Writes sums in place of what is not needed line by line.
    ///
    /// # Errors
    ///
    /// As [`asked`](Self::asked).
    pub fn shorten(&self) -> Result<()> {
        self.journal.rewrite(|lines| {
            let mut short = Vec::new();
            for (key, drift) in folded(&lines) {
                let name = written(&key);
                short.push(format!("asked\t{name}\t{}", drift.n_questions));
                let n_older = drift.n_samples - drift.recent.len() as u64;
                short.push(format!("older\t{name}\t{n_older}"));
                short.extend(drift.recent.iter().map(|sample| sample_line(&key, sample)));
            }
            short
        })
    }
}

fn written(DriftKey { method, precision, model }: &DriftKey) -> String {
    format!("{method}\t{precision}\t{model}")
}

fn sample_line(key: &DriftKey, sample: &DriftSample) -> String {
    let DriftSample { kl, first_kl, n_agree, n_places } = sample;
    format!("drift\t{}\t{kl}\t{first_kl}\t{n_agree}\t{n_places}", written(key))
}

fn folded(lines: &[String]) -> BTreeMap<DriftKey, Drift> {
    let mut all: BTreeMap<DriftKey, Drift> = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, method, precision, model, numbers @ ..] = &fields[..] else { continue };
        let (Ok(precision), Some(model)) = (precision.parse(), parse_hash(model)) else { continue };
        let drift = all.entry(DriftKey { method: (*method).to_owned(), precision, model }).or_default();
        match (*kind, numbers) {
            ("asked", [n]) => drift.n_questions = drift.n_questions.saturating_add(n.parse().unwrap_or(0)),
            ("older", [n]) => drift.n_samples = drift.n_samples.saturating_add(n.parse().unwrap_or(0)),
            ("drift", numbers) => {
                if let Some(sample) = sample(numbers) {
                    drift.add(sample);
                }
            }
            _ => {}
        }
    }
    all
}

fn sample(numbers: &[&str]) -> Option<DriftSample> {
    let [kl, first_kl, n_agree, n_places] = numbers else { return None };
    let divergence = |text: &str| text.parse().ok().filter(|kl: &f64| *kl >= 0.0);
    let n_places = n_places.parse().ok()?;
    let n_agree = n_agree.parse().ok().filter(|n| *n <= n_places)?;
    Some(DriftSample { kl: divergence(kl)?, first_kl: divergence(first_kl)?, n_agree, n_places })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(method: &str) -> DriftKey {
        DriftKey { method: method.to_owned(), precision: BlockPrecision::F16, model: TokensHash::of_text("model") }
    }

    fn of_kl(kl: f64) -> DriftSample {
        DriftSample { kl, first_kl: kl / 2.0, n_agree: 3, n_places: 4 }
    }

    #[test]
    fn every_process_goes_by_what_all_saw() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (DriftRecord::new(folder.path()), DriftRecord::new(folder.path()));
        assert_eq!(a.of(&key("naive")).unwrap(), Drift::default());
        a.asked(&key("naive"), 1).unwrap();
        b.asked(&key("naive"), 1).unwrap();
        a.tested(&key("naive"), &of_kl(0.25)).unwrap();
        b.tested(&key("naive"), &DriftSample { kl: 0.75, first_kl: 0.0, n_agree: 4, n_places: 4 }).unwrap();
        b.tested(&key("link=8"), &of_kl(f64::INFINITY)).unwrap();
        let drift = a.of(&key("naive")).unwrap();
        assert_eq!((drift.n_questions, drift.n_samples, drift.mean_kl()), (2, 2, Some(0.5)));
        assert_eq!((drift.top1(), drift.greedy_equal()), (Some(7.0 / 8.0), Some(0.5)));
        assert!(drift.is_above(0.49) && !drift.is_above(0.5));
        assert!(a.of(&key("link=8")).unwrap().is_above(1e300));
        assert_eq!(a.of(&DriftKey { precision: BlockPrecision::Int8, ..key("naive") }).unwrap(), Drift::default());
        a.clear().unwrap();
        assert!(b.all().unwrap().is_empty());
    }

    #[test]
    fn the_first_test_is_also_of_the_first_token() {
        let folder = tempfile::tempdir().unwrap();
        let record = DriftRecord::new(folder.path());
        let first = DriftSample { kl: 0.1, first_kl: 0.9, n_agree: 3, n_places: 4 };
        record.tested(&key("naive"), &first).unwrap();
        assert!(record.of(&key("naive")).unwrap().is_above(0.5));
        assert!(!Drift { n_samples: 2, recent: [first, first].into(), n_questions: 2 }.is_above(0.5));
        assert!(!Drift::default().is_above(0.0));
    }

    #[test]
    fn what_is_shortened_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let record = DriftRecord::new(folder.path());
        for i in 0..3 * DRIFT_WINDOW {
            record.asked(&key("naive"), 1).unwrap();
            record.tested(&key("naive"), &of_kl(i as f64 / 7.0)).unwrap();
        }
        record.asked(&key("link=8"), 1).unwrap();
        let (before, long) = (record.all().unwrap(), record.journal.n_bytes());
        record.shorten().unwrap();
        assert_eq!(record.all().unwrap(), before);
        assert!(record.journal.n_bytes() < long / 3);
        record.shorten().unwrap();
        assert_eq!(record.all().unwrap(), before);
    }

    #[test]
    fn numbers_that_cannot_be_are_left_out() {
        for numbers in ["NaN\t0\t1\t2", "-1\t0\t1\t2", "0\t0\t3\t2", "0\t0\t1", "0\tx\t1\t2", "0\t0\t1\t2\t3"] {
            assert_eq!(sample(&numbers.split('\t').collect::<Vec<_>>()), None, "{numbers}");
        }
        let lines = ["drift\tnaive\tf16", "asked\tnaive\tf17\t00\t1", "", "asked\tnaive\tf16\txyz\t1"];
        assert!(folded(&lines.map(str::to_owned)).is_empty());
    }
}
