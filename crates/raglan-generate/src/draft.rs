//! Guessing what comes next, so that several tokens pass through the model in one forward.
//!
//! A draft is a tree of guesses behind the token that is read next. All of it is read together, and of each node's
//! children the one that the sampler chooses, if there is one, is kept: the text is that of plain decoding, to the bit.
//! Guesses come from what stands in the text already (prompt lookup decoding: answers from passages quote them) and,
//! where that says nothing, from what the model itself held likely the last time it read a token ([`TokenRecycling`]).
//!
//! A guess costs a row and pays with its probability. How often guesses of each kind turn out right is counted on every
//! token, guessed or not; a tree takes nodes, the likeliest first, as long as each raises the tokens that a step brings
//! for its cost, and that may be none.

use std::collections::HashMap;
use std::ops::Range;

use crate::token_recycling::{RANKS, TokenRecycling};

/// Tokens that are looked up: of longer runs the first to be found counts.
const RUNS: [usize; 2] = [3, 2];
/// The most guesses of a step, and how deep they go.
const MOST: usize = 15;
/// How many times the average a time counts at most.
const OUTLIER: f64 = 2.0;
/// The most rows of a step whose time says what a row costs; longer ones are of prompts.
const FEW_ROWS: usize = 32;
/// What a step costs besides its rows, in rows, before that was measured.
const STEP_COST: f64 = 1.5;
/// What it may cost at most: more than where the weights come from memory and rows for nothing.
const MOST_STEP_COST: f64 = 32.0;
/// The weight of the newest observation in an average.
const NEWEST: f64 = 0.06;

/// Whether tokens are guessed; answers do not depend on it, only their speed does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drafts {
    /// Every token is computed after the last.
    Off,
    /// From what stands in the prompt and the answer.
    #[default]
    PromptLookup,
    /// Likewise, and where nothing is found, from what the model held likely before: for machines on which a step of
    /// several rows costs little more than one of a single row, as where memory is slower than arithmetic.
    TokenRecycling,
}

/// Guesses behind a token: node 0 is that token, and a child stands behind its parent's descendants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DraftTree {
    pub tokens: Vec<u32>,
    /// The parent of each node; node 0 is its own.
    parents: Vec<usize>,
}

impl DraftTree {
    /// A token without guesses.
    pub fn new(root: u32) -> Self {
        Self { tokens: vec![root], parents: vec![0] }
    }

    fn push(&mut self, parent: usize, token: u32) -> usize {
        self.tokens.push(token);
        self.parents.push(parent);
        self.tokens.len() - 1
    }

    /// How many tokens stand before each node, counted from the root.
    pub fn depths(&self) -> Vec<usize> {
        let mut depths: Vec<usize> = vec![0; self.tokens.len()];
        for node in 1..self.tokens.len() {
            depths[node] = depths[self.parents[node]] + 1;
        }
        depths
    }

    /// The child of a node that is this token.
    pub fn child(&self, node: usize, token: u32) -> Option<usize> {
        (node + 1..self.tokens.len()).find(|&child| self.parents[child] == node && self.tokens[child] == token)
    }

    /// The same tree with each node's descendants right behind it, so that chains lie together.
    fn depth_first(&self) -> Self {
        let mut ordered = Self { tokens: Vec::new(), parents: Vec::new() };
        let mut open = vec![(0, 0)];
        while let Some((node, parent)) = open.pop() {
            let place = ordered.push(parent, self.tokens[node]);
            let children = (node + 1..self.tokens.len()).filter(|&child| self.parents[child] == node);
            open.extend(children.rev().map(|child| (child, place)));
        }
        ordered
    }

    /// The chains of which the tree consists, in order: their nodes, and the ranges of nodes that these see.
    pub fn chains(&self) -> Vec<(Range<usize>, Vec<Range<usize>>)> {
        let n = self.tokens.len();
        let starts: Vec<usize> = (0..n).filter(|&node| node == 0 || self.parents[node] != node - 1).collect();
        let ends = starts.iter().skip(1).copied().chain([n]);
        let chains = starts.iter().zip(ends).map(|(&start, end)| {
            let mut seen: Vec<Range<usize>> = std::iter::once(start..end).collect();
            let mut node = start;
            while node != 0 {
                node = self.parents[node];
                match seen.last_mut() {
                    Some(range) if range.start == node + 1 => range.start = node,
                    _ => seen.push(node..node + 1),
                }
            }
            seen.reverse();
            (start..end, seen)
        });
        chains.collect()
    }
}

/// A share that is counted, the newest observations above the old.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(f64);

impl Share {
    pub fn new(prior: f64) -> Self {
        Self(prior)
    }

    pub fn observe(&mut self, hit: bool) {
        self.0 += NEWEST * (f64::from(u8::from(hit)) - self.0);
    }

    pub fn value(self) -> f64 {
        self.0
    }
}

/// A time that is averaged, all observations alike at first and then the newest above the old.
#[derive(Clone, Copy, Debug, Default)]
struct AverageTime {
    seconds: f64,
    n_observed: u32,
}

impl AverageTime {
    fn observe(&mut self, seconds: f64) {
        self.n_observed += 1;
        // A step during which the machine did something else says little.
        let seconds = if self.n_observed > 1 { seconds.min(OUTLIER * self.seconds) } else { seconds };
        self.seconds += (seconds - self.seconds) * (1.0 / f64::from(self.n_observed)).max(NEWEST);
    }
}

/// What steps cost on this machine. It decides how much is guessed, and so the time that a text takes, but never the
/// text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepTimes {
    /// A step of one row.
    one: AverageTime,
    /// Each row more.
    more: AverageTime,
}

impl StepTimes {
    /// Notes the time of a step.
    pub fn observe(&mut self, n_rows: usize, seconds: f64) {
        if n_rows == 1 {
            self.one.observe(seconds);
        } else if n_rows <= FEW_ROWS && self.one.n_observed > 0 {
            let seconds = seconds.min(OUTLIER * self.one.seconds * n_rows as f64);
            self.more.observe((seconds - self.one.seconds).max(0.0) / (n_rows - 1) as f64);
        }
    }

    /// What a step costs besides its rows, in rows: weights are read once for all.
    fn step_cost(self) -> f64 {
        if self.more.n_observed == 0 {
            return STEP_COST;
        }
        let (one, more) = (self.one.seconds, self.more.seconds);
        if more * MOST_STEP_COST < one { MOST_STEP_COST } else { (one / more - 1.0).max(0.0) }
    }
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

    /// What followed the last tokens when they stood there before, and of how many tokens that was found.
    fn draft(&self, most: usize) -> (&[u32], usize) {
        let len = self.tokens.len();
        let found = |&run: &usize| Some((*self.ends.get(&self.tokens[len - run..])?, run));
        let end = RUNS.iter().filter(|&&run| run <= len).find_map(found);
        end.map_or((&[], 0), |(end, run)| (&self.tokens[end..len.min(end + most)], run))
    }
}

/// Guesses what comes next in one text.
#[derive(Debug)]
pub(crate) struct Drafter {
    drafts: Drafts,
    lookup: Lookup,
    /// How often the token that was looked up was right, by [`evidence`].
    right: [Share; 4],
    /// How many were right in a row.
    n_right: usize,
}

impl Drafter {
    /// For a text that begins with `prompt`; `None` when nothing is to be guessed.
    pub fn new(prompt: &[u32], drafts: Drafts) -> Option<Self> {
        if drafts == Drafts::Off {
            return None;
        }
        let mut lookup = Lookup::default();
        prompt.iter().for_each(|&token| lookup.push(token));
        Some(Self { drafts, lookup, right: [0.4, 0.6, 0.75, 0.9].map(Share::new), n_right: 0 })
    }

    /// Whether it guesses by what the model's scores were.
    pub fn recycles(&self) -> bool {
        self.drafts == Drafts::TokenRecycling
    }

    /// Notes the token that was chosen.
    pub fn push(&mut self, token: u32, recycling: &mut TokenRecycling) {
        if let Some(&last) = self.lookup.tokens.last() {
            match self.lookup.draft(1) {
                ([guess], run) => {
                    self.right[evidence(self.n_right, run)].observe(*guess == token);
                    self.n_right = if *guess == token { self.n_right + 1 } else { 0 };
                }
                _ => {
                    self.n_right = 0;
                    recycling.observe(last, token);
                }
            }
        }
        self.lookup.push(token);
    }

    /// Guesses behind the last token, at most so many and so deep, when the step has `n_others` rows of other texts.
    pub fn tree(
        &self,
        recycling: &TokenRecycling,
        times: StepTimes,
        most: usize,
        deepest: usize,
        n_others: usize,
    ) -> DraftTree {
        let most = most.min(MOST);
        let root = *self.lookup.tokens.last().expect("a text that is continued has a token");
        let mut tree = DraftTree::new(root);
        // The other texts bear their share of what a step costs.
        let mut worth = Worth { tokens: 1.0, cost: times.step_cost() / (1 + n_others) as f64 + 1.0 };
        let (guesses, run) = self.lookup.draft(most.min(deepest));
        if !guesses.is_empty() {
            let mut probability = 1.0;
            for (node, &guess) in guesses.iter().enumerate() {
                probability *= self.right[evidence(self.n_right + node, run)].value();
                if !worth.pays(probability) {
                    break;
                }
                tree.push(node, guess);
            }
        } else if self.drafts == Drafts::TokenRecycling {
            // Likeliest first; a node's probability is above its children's, so these are never missed.
            let mut open: Vec<(f64, usize, usize, u32)> = Vec::new();
            let mut depths = vec![0];
            let mut last = (1.0, 0);
            while tree.tokens.len() <= most {
                let (probability, node) = last;
                if depths[node] < deepest {
                    let followers = recycling.followers(tree.tokens[node]);
                    let children = followers.iter().zip(0..RANKS).map_while(|(&token, rank)| {
                        let token = (token != TokenRecycling::UNKNOWN).then_some(token)?;
                        Some((probability * recycling.share(rank), node, rank, token))
                    });
                    open.extend(children);
                }
                // Of equals the one that was found first.
                let best = (0..open.len()).reduce(|best, at| if open[at].0 > open[best].0 { at } else { best });
                let Some(best) = best.filter(|&best| worth.pays(open[best].0)) else { break };
                let (probability, parent, _, token) = open.remove(best);
                depths.push(depths[parent] + 1);
                last = (probability, tree.push(parent, token));
            }
        }
        tree.depth_first()
    }
}

/// How well founded a token is that was looked up: found by two tokens or by three, or behind right ones, few or many.
fn evidence(n_right: usize, run: usize) -> usize {
    match n_right {
        0 => usize::from(run == RUNS[0]),
        1..4 => 2,
        _ => 3,
    }
}

/// What a step brings to one text, and what it costs in rows.
struct Worth {
    tokens: f64,
    cost: f64,
}

impl Worth {
    /// Takes a guess of this probability if it makes tokens cheaper.
    fn pays(&mut self, probability: f64) -> bool {
        let pays = (self.tokens + probability) * self.cost > self.tokens * (self.cost + 1.0);
        if pays {
            self.tokens += probability;
            self.cost += 1.0;
        }
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], expected: &[u32]) {
        let mut lookup = Lookup::default();
        tokens.iter().for_each(|&token| lookup.push(token));
        assert_eq!(lookup.draft(3).0, expected);
    }

    #[test]
    fn a_lookup_finds_what_followed_the_longest_run_last() {
        check(&[], &[]);
        check(&[1], &[]);
        check(&[1, 2, 3], &[]);
        check(&[1, 2, 9, 8, 7, 1, 2], &[9, 8, 7]);
        check(&[1, 2, 9, 1, 2, 5, 1, 2], &[5, 1, 2]); // The latest of two.
        check(&[4, 1, 2, 9, 6, 1, 2, 5, 4, 1, 2], &[9, 6, 1]); // Three tokens count for more than two.
        check(&[3, 3, 3], &[3]); // It may run into the text itself.
    }

    #[test]
    fn a_tree_is_cut_into_chains_with_what_they_see() {
        // 0 ─ 1 ─ 2     nodes as they were found: 0; 1 and 2 under 0; 3 under 2; 4 under 1; 5 under 1
        let mut tree = DraftTree::new(50);
        for (parent, token) in [(0, 51), (0, 52), (2, 53), (1, 54), (1, 55)] {
            tree.push(parent, token);
        }
        let tree = tree.depth_first();
        assert_eq!(tree.tokens, [50, 51, 54, 55, 52, 53]);
        assert_eq!(tree.depths(), [0, 1, 2, 2, 1, 2]);
        let nodes = |tree: DraftTree| -> Vec<(Range<usize>, Vec<usize>)> {
            tree.chains().into_iter().map(|(own, seen)| (own, seen.into_iter().flatten().collect())).collect()
        };
        assert_eq!(nodes(tree.clone()), [(0..3, vec![0, 1, 2]), (3..4, vec![0, 1, 3]), (4..6, vec![0, 4, 5])]);
        assert_eq!(
            (tree.child(0, 52), tree.child(1, 55), tree.child(0, 55), tree.child(5, 9)),
            (Some(4), Some(3), None, None)
        );
        assert_eq!(nodes(DraftTree::new(7)), [(0..1, vec![0])]);
    }

    #[test]
    fn guesses_that_do_not_come_true_are_given_up_and_taken_up_again() {
        let mut free = StepTimes::default();
        free.observe(1, 1.0);
        free.observe(2, 1.0); // Rows cost nothing.
        let mut recycling = TokenRecycling::new(100);
        let mut drafter = Drafter::new(&[1, 2, 3, 4, 1, 2], Drafts::PromptLookup).unwrap();
        assert_eq!(drafter.tree(&recycling, free, MOST, 2, 0).tokens, [2, 3, 4]);
        assert_eq!(drafter.tree(&recycling, free, 1, 2, 0).tokens, [2, 3]);
        assert_eq!(drafter.tree(&recycling, free, MOST, 0, 0).tokens, [2]);
        // 1, 2 is followed by something else each time.
        for other in 10..60 {
            [other, 1, 2].into_iter().for_each(|token| drafter.push(token, &mut recycling));
        }
        assert_eq!(drafter.tree(&recycling, free, MOST, 5, 0).tokens, [2]);
        for _ in 0..30 {
            [70, 1, 2].into_iter().for_each(|token| drafter.push(token, &mut recycling));
        }
        assert!(drafter.tree(&recycling, free, MOST, 5, 0).tokens.len() > 3);
    }

    #[test]
    fn what_the_model_held_likely_is_guessed_where_nothing_is_found() {
        let mut recycling = TokenRecycling::new(8);
        recycling.learn(5, &[0.0, 9.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0]);
        recycling.learn(1, &[7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        (0..200).for_each(|_| recycling.observe(5, 1));
        let drafter = Drafter::new(&[4, 5], Drafts::TokenRecycling).unwrap();
        assert_eq!(drafter.tree(&recycling, StepTimes::default(), MOST, 2, 0).tokens[..3], [5, 1, 0]);
        assert_eq!(drafter.tree(&recycling, StepTimes::default(), 1, 2, 0).tokens, [5, 1]);
        assert_eq!(drafter.tree(&recycling, StepTimes::default(), MOST, 1, 0).tokens[..2], [5, 1]);
        let lookup_only = Drafter::new(&[4, 5], Drafts::PromptLookup).unwrap();
        assert_eq!(lookup_only.tree(&recycling, StepTimes::default(), MOST, 2, 0).tokens, [5]);
    }
}
