//! What the model held likely after each token when it last read it (Token Recycling, Luo et al. 2024).

use crate::draft::Share;

/// Followers that are kept of each token.
pub(crate) const RANKS: usize = 8;

/// A matrix of the likeliest followers of each token, from the scores of every row that was computed, and how often
/// each rank turned out right.
#[derive(Debug)]
pub(crate) struct TokenRecycling {
    /// `[vocab_size]`; the likeliest first.
    followers: Vec<[u32; RANKS]>,
    shares: [Share; RANKS],
}

impl TokenRecycling {
    /// Stands where no follower is known.
    pub const UNKNOWN: u32 = u32::MAX;

    pub fn new(vocab_size: usize) -> Self {
        // Rough beginnings, which every token that is chosen corrects.
        let shares = [0.30, 0.10, 0.06, 0.04, 0.03, 0.02, 0.02, 0.01].map(Share::new);
        Self { followers: vec![[Self::UNKNOWN; RANKS]; vocab_size], shares }
    }

    /// Followers of a token, the likeliest first.
    pub fn followers(&self, token: u32) -> &[u32; RANKS] {
        &self.followers[token as usize]
    }

    /// How often the follower of this rank was right.
    pub fn share(&self, rank: usize) -> f64 {
        self.shares[rank].value()
    }

    /// Counts which follower of `token` was right.
    pub fn observe(&mut self, token: u32, next: u32) {
        let followers = self.followers[token as usize];
        if followers[0] != Self::UNKNOWN {
            for (share, follower) in self.shares.iter_mut().zip(followers) {
                share.observe(follower == next);
            }
        }
    }

    /// Keeps the best of the scores after `token`; of equals those with lower ids.
    pub fn learn(&mut self, token: u32, scores: &[f32]) {
        let mut best = [(f32::NEG_INFINITY, Self::UNKNOWN); RANKS];
        for (id, &score) in (0..).zip(scores) {
            if score > best[RANKS - 1].0 {
                let place = best.partition_point(|(other, _)| *other >= score);
                best[place..].rotate_right(1);
                best[place] = (score, id);
            }
        }
        self.followers[token as usize] = best.map(|(_, id)| id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_followers_are_kept_in_order() {
        let mut recycling = TokenRecycling::new(12);
        assert_eq!(recycling.followers(3), &[TokenRecycling::UNKNOWN; RANKS]);
        recycling.learn(3, &[1.0, 5.0, f32::NAN, 2.0, 5.0, -1.0, 0.0, 3.0, f32::NEG_INFINITY, 0.5, 4.0, 0.1]);
        assert_eq!(recycling.followers(3), &[1, 4, 10, 7, 3, 0, 9, 11]);
        recycling.learn(3, &[2.0, 1.0]);
        assert_eq!(recycling.followers(3)[..3], [0, 1, TokenRecycling::UNKNOWN]);
    }

    #[test]
    fn a_rank_that_comes_true_gains() {
        let mut recycling = TokenRecycling::new(3);
        recycling.observe(0, 1); // Nothing is known of it yet.
        recycling.learn(0, &[3.0, 1.0, 2.0]);
        let before = [0, 1].map(|rank| recycling.share(rank));
        recycling.observe(0, 2);
        assert!(recycling.share(0) < before[0] && recycling.share(1) > before[1]);
    }
}
