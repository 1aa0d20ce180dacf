//! Whether a method that changes answers may be used on an index.

use raglan_core::{KvFallback, KvFallbackReason};
use raglan_kv::{DriftKey, DriftRecord, DriftSample};

use crate::{Error, Result};

/// Watches what a method of reuse does to answers, and says when it may not be used.
///
/// A method is tested on the first question that tells something before any answer is given by it, and on a share of the
/// questions from then on: a test computes the prompt whole and compares what follows. Where the mean divergence of the
/// last tests is above the bound, the method is not used any more.
#[derive(Clone, Debug)]
pub struct SafetySwitch {
    record: DriftRecord,
    share: f64,
    bound: f64,
}

/// What is to be done with a question.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The method is used.
    Use {
        /// And tested.
        is_tested: bool,
    },
    /// The prompt is computed exactly; where nothing is known yet, the method is tested.
    Exact(KvFallback),
}

impl SafetySwitch {
    /// A switch that goes by a record, tests a share of the questions (0 to 1; with 0 there are no tests and no
    /// fallback), and allows a mean divergence, in nats.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] when the share or the bound is none.
    pub fn new(record: DriftRecord, share: f64, bound: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::Option { option: "kv-shadow", problem: format!("{share} is no share from 0 to 1") });
        }
        if bound.is_nan() || bound < 0.0 {
            return Err(Error::Option { option: "kv-drift", problem: format!("{bound} is no divergence") });
        }
        Ok(Self { record, share, bound })
    }

    /// What is to be done with a question, when so many were asked that are not on record yet.
    pub(crate) fn verdict(&self, key: &DriftKey, n_asked: u64) -> Result<Verdict> {
        if self.share == 0.0 {
            return Ok(Verdict::Use { is_tested: false });
        }
        let drift = self.record.of(key).map_err(raglan_model::Error::from)?;
        let exact = |reason| Ok(Verdict::Exact(KvFallback { method: key.method.clone(), reason }));
        let Some(mean_kl) = drift.mean_kl() else { return exact(KvFallbackReason::Untested) };
        if drift.is_above(self.bound) {
            let (bound, tests) = (self.bound, drift.recent.len());
            return exact(KvFallbackReason::Drift { mean_kl, bound, tests });
        }
        Ok(Verdict::Use { is_tested: is_drawn(drift.n_questions.saturating_add(n_asked), self.share) })
    }

    /// Notes how many questions were asked by a method.
    pub(crate) fn asked(&self, key: &DriftKey, n: u64) -> Result<()> {
        if self.share > 0.0 {
            self.record.asked(key, n).map_err(raglan_model::Error::from)?;
        }
        Ok(())
    }

    /// Notes what a test found.
    pub(crate) fn tested(&self, key: &DriftKey, sample: &DriftSample) -> Result<()> {
        Ok(self.record.tested(key, sample).map_err(raglan_model::Error::from)?)
    }
}

/// Whether the question behind so many is among a share of them, which are spread evenly and begin with the first.
fn is_drawn(n_before: u64, share: f64) -> bool {
    let upto = |n: u64| (n as f64 * share).ceil();
    upto(n_before + 1) > upto(n_before)
}

#[cfg(test)]
mod tests {
    use raglan_kv::{BlockPrecision, TokensHash};

    use super::*;

    #[test]
    fn a_share_of_the_questions_is_drawn_the_first_among_them() {
        for (share, n) in [(1.0, 100), (0.5, 50), (0.05, 5), (0.01, 1), (0.3, 30), (0.0, 0)] {
            let drawn: Vec<u64> = (0..100).filter(|&i| is_drawn(i, share)).collect();
            assert_eq!((drawn.len(), drawn.first()), (n, (n > 0).then_some(&0)), "{share}");
        }
        assert_eq!((0..9).filter(|&i| is_drawn(i, 0.25)).collect::<Vec<_>>(), [0, 4, 8]);
    }

    #[test]
    fn a_method_is_used_when_it_was_tested_and_stays_within_its_bound() {
        let folder = tempfile::tempdir().unwrap();
        let switch = |bound| SafetySwitch::new(DriftRecord::new(folder.path()), 0.5, bound).unwrap();
        let key =
            DriftKey { method: "naive".to_owned(), precision: BlockPrecision::F16, model: TokensHash::of_text("m") };
        let verdict = |bound| switch(bound).verdict(&key, 0).unwrap();
        let fallback = |reason| Verdict::Exact(KvFallback { method: "naive".to_owned(), reason });
        assert_eq!(verdict(0.5), fallback(KvFallbackReason::Untested));
        let sample = DriftSample { kl: 0.25, first_kl: 0.25, n_agree: 1, n_places: 2 };
        switch(0.5).asked(&key, 1).unwrap();
        switch(0.5).tested(&key, &sample).unwrap();
        assert_eq!(verdict(0.5), Verdict::Use { is_tested: false });
        switch(0.5).asked(&key, 1).unwrap();
        assert_eq!(verdict(0.25), Verdict::Use { is_tested: true });
        switch(0.5).tested(&key, &DriftSample { kl: 1.25, ..sample }).unwrap();
        let above = KvFallbackReason::Drift { mean_kl: 0.75, bound: 0.5, tests: 2 };
        assert_eq!(verdict(0.5), fallback(above));
        assert_eq!(verdict(0.75), Verdict::Use { is_tested: true });
        let off = SafetySwitch::new(DriftRecord::new(folder.path()), 0.0, 0.5).unwrap();
        assert_eq!(off.verdict(&key, 0).unwrap(), Verdict::Use { is_tested: false });
        for (share, bound) in [(1.5, 0.5), (f64::NAN, 0.5), (0.5, -1.0), (0.5, f64::NAN)] {
            assert!(SafetySwitch::new(DriftRecord::new(folder.path()), share, bound).is_err());
        }
    }
}
