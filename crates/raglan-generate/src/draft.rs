//! Guessing what comes next from what stands in the prompt.
//!
//! Answers from passages quote them. When the last few tokens stand in the prompt, or earlier in the answer, the tokens
//! that follow them there are read together with the next one, at little more than the cost of one; each is kept only
//! if it is what the sampler chooses, so the answer is that of plain decoding (prompt lookup decoding).

use std::collections::HashMap;

use raglan_model::Session;

use crate::Result;

/// Tokens that are looked up: of longer runs the first to be found counts.
const RUNS: [usize; 2] = [3, 2];
/// The most tokens of a draft: so many pass beside one another in little more than the time of one.
const MOST: usize = 7;
/// A draft must have brought this many tokens on average to be worth another.
const WORTHWHILE: f64 = 0.8;
/// The weight of the last draft in that average.
const NEWEST: f64 = 0.3;
/// Tokens after which drafts are tried again when they had not been worthwhile.
const PATIENCE: usize = 24;

/// Whether tokens are guessed; answers do not depend on it, only their speed does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafts {
    /// Every token is computed after the last.
    Off,
    /// From what stands in the prompt and the answer.
    #[default]
    PromptLookup,
}

/// Where each short run of tokens was last followed by something.
#[derive(Debug, Default)]
struct Lookup {
    tokens: Vec<u32>,
    ends: HashMap<Vec<u32>, usize>,
}

impl Lookup {
    fn push(&mut self, token: u32) {
        // The runs that end before this token are now followed by something.
        let len = self.tokens.len();
        for run in RUNS {
            if run <= len {
                self.ends.insert(self.tokens[len - run..].to_vec(), len);
            }
        }
        self.tokens.push(token);
    }

    /// What followed the last tokens when they stood there before.
    fn draft(&self, most: usize) -> &[u32] {
        let len = self.tokens.len();
        let end = RUNS.iter().filter(|&&run| run <= len).find_map(|run| self.ends.get(&self.tokens[len - run..]));
        end.map_or(&[], |&end| &self.tokens[end..len.min(end + most)])
    }
}

/// A text that is continued, with drafts or without.
#[derive(Debug)]
pub(crate) struct Decoder<'s, 'm> {
    session: &'s mut Session<'m>,
    vocab_size: usize,
    lookup: Option<Lookup>,
    /// Tokens that were read ahead, how many of them turned out right, and the logits after each.
    draft: Vec<u32>,
    n_right: usize,
    ahead: Vec<f32>,
    /// Tokens gained by a draft, on average.
    gain: f64,
    n_since_draft: usize,
}

impl<'s, 'm> Decoder<'s, 'm> {
    /// Continues `session`, which has read `prompt`.
    pub fn new(session: &'s mut Session<'m>, vocab_size: usize, prompt: &[u32], drafts: Drafts) -> Self {
        let lookup = (drafts == Drafts::PromptLookup).then(|| {
            let mut lookup = Lookup::default();
            prompt.iter().for_each(|&token| lookup.push(token));
            lookup
        });
        Self {
            session,
            vocab_size,
            lookup,
            draft: Vec::new(),
            n_right: 0,
            ahead: Vec::new(),
            gain: MOST as f64,
            n_since_draft: 0,
        }
    }

    /// The logits after `token`, of which there may be `room` more in all.
    pub fn next(&mut self, token: u32, room: usize) -> Result<Vec<f32>> {
        if let Some(lookup) = &mut self.lookup {
            lookup.push(token);
        }
        if self.draft.get(self.n_right) == Some(&token) {
            self.n_right += 1;
            return Ok(self.ahead[self.n_right * self.vocab_size..][..self.vocab_size].to_vec());
        }
        self.settle();
        let draft = match &self.lookup {
            Some(lookup) if self.gain >= WORTHWHILE || self.n_since_draft >= PATIENCE => lookup.draft(MOST.min(room)),
            _ => &[],
        };
        if draft.is_empty() {
            self.n_since_draft += 1;
            return Ok(self.session.step(token)?);
        }
        self.draft = draft.to_vec();
        let tokens: Vec<u32> = std::iter::once(token).chain(self.draft.iter().copied()).collect();
        self.ahead = self.session.steps(&tokens)?;
        Ok(self.ahead[..self.vocab_size].to_vec())
    }

    /// Forgets the part of the last draft that was wrong.
    fn settle(&mut self) {
        if !self.draft.is_empty() {
            let wrong = self.draft.len() - self.n_right;
            self.session.truncate(self.session.n_tokens() - wrong);
            self.gain += NEWEST * (self.n_right as f64 - self.gain);
            self.n_since_draft = 0;
            self.draft.clear();
            self.n_right = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], expected: &[u32]) {
        let mut lookup = Lookup::default();
        tokens.iter().for_each(|&token| lookup.push(token));
        assert_eq!(lookup.draft(3), expected);
    }

    #[test]
    fn a_draft_is_what_followed_the_longest_run_last() {
        check(&[], &[]);
        check(&[1], &[]);
        check(&[1, 2, 3], &[]);
        check(&[1, 2, 9, 8, 7, 1, 2], &[9, 8, 7]);
        check(&[1, 2, 9, 1, 2, 5, 1, 2], &[5, 1, 2]); // The latest of two.
        check(&[4, 1, 2, 9, 6, 1, 2, 5, 4, 1, 2], &[9, 6, 1]); // Three tokens count for more than two.
        check(&[3, 3, 3], &[3]); // It may run into the text itself.
    }
}
