//! Passages that together cover what was found, under a budget of tokens (Lin and Bilmes 2011).

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Deref;

use raglan_core::{ChunkVectors, Context, DocId, Error, LeftOut, LeftOutReason, Passage, Result};

use crate::Stage;

/// Chooses the passages of each context so that they represent all that were found and come from many documents, and
/// have at most `budget` tokens together: `Vec<Context>` → `Vec<Context>`.
///
/// What a set `S` is worth: `F(S) = C(S) / C(V) + diversity · D(S) / D(V)`, with `V` all passages of the context,
/// `C(S) = Σ_i min(Σ_{j∈S} w_ij, saturation · Σ_{j∈V} w_ij)` over cosines `w_ij`, none below 0, and
/// `D(S) = Σ_g √(Σ_{j∈S∩g} r_j)` over documents `g`, where `r_j` is the passage's score between 0 and 1 from the least of
/// the context's to the best. Passages are added by what they gain a token, as long as one fits; if a single one
/// that fits is worth more than all of these, it is taken instead, which keeps the value above `(1 − 1/√e)` of the best
/// possible. Passages stay in their order; what is not chosen is left out for want of budget.
pub fn submodular<V>(vectors: V, budget: usize, saturation: f32, diversity: f32) -> Submodular<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    Submodular { vectors, budget, saturation, diversity }
}

/// Submodular choice as a stage; see [`submodular`].
#[derive(Clone, Debug)]
pub struct Submodular<V> {
    vectors: V,
    budget: usize,
    saturation: f32,
    diversity: f32,
}

/// What passages are worth together.
struct Worth {
    /// `[n, n]`, none below 0.
    cosines: Vec<f64>,
    /// What each passage can be covered by at most.
    caps: Vec<f64>,
    relevance: Vec<f64>,
    /// The document of each passage, as a number from 0.
    groups: Vec<usize>,
    coverage_of_all: f64,
    diversity_of_all: f64,
    diversity: f64,
}

/// Sums of a set of passages, which what another one gains is computed from.
#[derive(Clone)]
struct Sums {
    covered: Vec<f64>,
    of_group: Vec<f64>,
}

impl Worth {
    fn new(passages: &[Passage], cosines: Vec<f64>, saturation: f64, diversity: f64) -> Self {
        let n = passages.len();
        let caps = cosines.chunks_exact(n.max(1)).map(|row| saturation * row.iter().sum::<f64>()).collect();
        let scores = || passages.iter().map(|passage| f64::from(passage.score));
        let (least, best) = (scores().fold(f64::INFINITY, f64::min), scores().fold(f64::NEG_INFINITY, f64::max));
        // Passages of one score are of one relevance, and not of none.
        let relevance = scores().map(|score| if best > least { (score - least) / (best - least) } else { 1.0 });
        let mut of_document: BTreeMap<DocId, usize> = BTreeMap::new();
        let groups = passages.iter().map(|passage| {
            let next = of_document.len();
            *of_document.entry(passage.chunk.doc).or_insert(next)
        });
        let mut worth = Self {
            caps,
            relevance: relevance.collect(),
            groups: groups.collect(),
            cosines,
            coverage_of_all: 1.0,
            diversity_of_all: 1.0,
            diversity,
        };
        let mut all = worth.nothing();
        (0..n).for_each(|j| worth.add(&mut all, j));
        let (coverage, diversity) = (worth.coverage(&all), worth.spread(&all));
        worth.coverage_of_all = if coverage > 0.0 { coverage } else { 1.0 };
        worth.diversity_of_all = if diversity > 0.0 { diversity } else { 1.0 };
        worth
    }

    fn nothing(&self) -> Sums {
        let n_groups = self.groups.iter().max().map_or(0, |last| last + 1);
        Sums { covered: vec![0.0; self.caps.len()], of_group: vec![0.0; n_groups] }
    }

    fn add(&self, sums: &mut Sums, j: usize) {
        let n = self.caps.len();
        for (covered, w) in sums.covered.iter_mut().zip(&self.cosines[j * n..(j + 1) * n]) {
            *covered += w;
        }
        sums.of_group[self.groups[j]] += self.relevance[j];
    }

    fn coverage(&self, sums: &Sums) -> f64 {
        sums.covered.iter().zip(&self.caps).map(|(covered, cap)| covered.min(*cap)).sum()
    }

    fn spread(&self, sums: &Sums) -> f64 {
        sums.of_group.iter().map(|sum| sum.sqrt()).sum()
    }

    fn value(&self, sums: &Sums) -> f64 {
        self.coverage(sums) / self.coverage_of_all + self.diversity * self.spread(sums) / self.diversity_of_all
    }

    fn with(&self, sums: &Sums, j: usize) -> f64 {
        let mut sums = sums.clone();
        self.add(&mut sums, j);
        self.value(&sums)
    }
}

/// What a passage gained a token when it was last looked at.
struct Gain {
    per_token: f64,
    passage: usize,
    /// How many were chosen then.
    n_chosen: usize,
}

impl Ord for Gain {
    fn cmp(&self, other: &Self) -> Ordering {
        self.per_token.total_cmp(&other.per_token).then(other.passage.cmp(&self.passage))
    }
}

impl PartialOrd for Gain {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Gain {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Gain {}

/// The passages that are chosen, in the order in which they are. A gain never grows when more is chosen, so only the
/// passage that was best when it was last looked at is looked at again, until one stays the best.
fn choose(worth: &Worth, tokens: &[usize], budget: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let (mut sums, mut value, mut spent) = (worth.nothing(), 0.0, 0);
    let gain = |sums: &Sums, value: f64, j: usize| (worth.with(sums, j) - value) / tokens[j].max(1) as f64;
    let fits = |spent: usize, j: usize| spent + tokens[j] <= budget;
    let candidates = (0..tokens.len()).filter(|&j| fits(0, j));
    let mut heap: BinaryHeap<Gain> =
        candidates.map(|passage| Gain { per_token: gain(&sums, value, passage), passage, n_chosen: 0 }).collect();
    while let Some(best) = heap.pop() {
        let j = best.passage;
        if !fits(spent, j) {
            continue;
        }
        if best.n_chosen < chosen.len() {
            heap.push(Gain { per_token: gain(&sums, value, j), passage: j, n_chosen: chosen.len() });
            continue;
        }
        worth.add(&mut sums, j);
        value = worth.value(&sums);
        spent += tokens[j];
        chosen.push(j);
    }
    let nothing = worth.nothing();
    let singles = (0..tokens.len()).filter(|&j| fits(0, j)).map(|j| (worth.with(&nothing, j), j));
    match singles.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) {
        Some((of_single, j)) if of_single > value => vec![j],
        _ => chosen,
    }
}

impl<V> Submodular<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    fn chosen(&self, context: Context) -> Result<Context> {
        let ids: Vec<_> = context.passages.iter().map(|passage| passage.chunk.id).collect();
        let vectors = self.vectors.vectors(&ids)?;
        if vectors.len() != ids.len() {
            return Err(Error::Shape { what: "vectors", expected: ids.len(), found: vectors.len() });
        }
        let cosines = vectors.iter().flat_map(|a| vectors.iter().map(|b| a.cosine(b).max(0.0)));
        let (saturation, diversity) = (f64::from(self.saturation), f64::from(self.diversity));
        let worth = Worth::new(&context.passages, cosines.collect(), saturation, diversity);
        let tokens: Vec<usize> = context.passages.iter().map(|passage| passage.chunk.n_tokens as usize).collect();
        Ok(kept(context, &choose(&worth, &tokens, self.budget)))
    }
}

/// The passages at these places, in the order of the context; the others are left out for want of budget.
fn kept(mut context: Context, places: &[usize]) -> Context {
    let passages = std::mem::take(&mut context.passages);
    for (i, passage) in passages.into_iter().enumerate() {
        if places.contains(&i) {
            context.passages.push(passage);
        } else {
            context.left_out.push(LeftOut { chunk: passage.chunk.id, reason: LeftOutReason::Budget });
        }
    }
    context
}

impl<V> Stage<Vec<Context>> for Submodular<V>
where
    V: Deref<Target: ChunkVectors> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        batch.into_iter().map(|context| self.chosen(context)).collect()
    }

    fn name(&self) -> String {
        format!("submodular({}, {}, {})", self.budget, self.saturation, self.diversity)
    }
}

#[cfg(test)]
mod tests {
    use raglan_core::{ChunkId, DenseVector};

    use super::*;
    use crate::passages_for_tests::{ids, passage};

    /// Chunks 1 to 3 say the same, 4 something else.
    struct Four;

    impl ChunkVectors for Four {
        fn vectors(&self, ids: &[ChunkId]) -> Result<Vec<DenseVector>> {
            ids.iter().map(|id| DenseVector::new(if id.0 < 4 { vec![1.0, 0.0] } else { vec![0.0, 1.0] })).collect()
        }
    }

    #[track_caller]
    fn check(budget: usize, diversity: f32, texts: [&str; 4], docs: [u32; 4], expected: &[u32]) {
        let passages = (1..).zip(texts).zip(docs).map(|((id, text), doc)| passage(id, doc, text)).collect();
        let found = submodular(&Four, budget, 0.34, diversity).run(vec![Context::new("q", passages)]).unwrap();
        assert_eq!(ids(&found[0]), expected);
        assert_eq!(found[0].left_out.len(), 4 - expected.len());
    }

    #[test]
    fn what_repeats_gains_nothing_and_tokens_count() {
        // A third of what can be covered is enough: one of three that say the same.
        check(4, 0.0, ["a b"; 4], [0; 4], &[1, 4]);
        check(2, 0.0, ["a b"; 4], [0; 4], &[1]);
        check(3, 0.0, ["a b c d", "a b", "a b", "c"], [0; 4], &[2, 4]);
        check(1, 0.0, ["a b"; 4], [0; 4], &[]);
        // Of what says the same, that of another document is taken.
        check(6, 0.5, ["a b"; 4], [0, 0, 1, 0], &[1, 3, 4]);
    }

    #[test]
    fn a_single_passage_that_is_worth_more_than_the_cheap_ones_is_taken() {
        // 4 is cheap and covers itself only; 1 covers three, and no longer fits beside it.
        check(4, 0.0, ["a b c d", "a b c d e", "a b c d e", "a"], [0; 4], &[1]);
    }

    #[test]
    fn looking_again_only_at_the_best_chooses_as_looking_at_all() {
        let mut state = 7_u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24)
        };
        for n in [0, 1, 2, 5, 9, 16] {
            for budget in [0, 7, 20, 1000] {
                let vectors: Vec<Vec<f64>> = (0..n).map(|_| (0..3).map(|_| random() - 0.3).collect()).collect();
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
                let cosines = vectors
                    .iter()
                    .flat_map(|a| vectors.iter().map(move |b| (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).max(0.0)));
                let passages: Vec<Passage> = (0..n).map(|id| passage(id as u32, id as u32 % 3, "")).collect();
                let worth = Worth::new(&passages, cosines.collect(), 0.3, 0.7);
                let tokens: Vec<usize> = (0..n).map(|_| 1 + (random() * 9.0) as usize).collect();
                assert_eq!(choose(&worth, &tokens, budget), plain(&worth, &tokens, budget), "{n} {budget}");
            }
        }
    }

    /// Looks at every passage before each choice.
    fn plain(worth: &Worth, tokens: &[usize], budget: usize) -> Vec<usize> {
        let (mut chosen, mut sums) = (Vec::new(), worth.nothing());
        loop {
            let (value, spent) = (
                if chosen.is_empty() { 0.0 } else { worth.value(&sums) },
                chosen.iter().map(|&j: &usize| tokens[j]).sum::<usize>(),
            );
            let left = (0..tokens.len()).filter(|j| !chosen.contains(j) && spent + tokens[*j] <= budget);
            let gains = left.map(|j| ((worth.with(&sums, j) - value) / tokens[j] as f64, j));
            match gains.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) {
                Some((_, j)) => {
                    worth.add(&mut sums, j);
                    chosen.push(j);
                }
                None => break,
            }
        }
        let value = if chosen.is_empty() { 0.0 } else { worth.value(&sums) };
        let single = (0..tokens.len()).filter(|&j| tokens[j] <= budget).map(|j| (worth.with(&worth.nothing(), j), j));
        match single.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) {
            Some((of_single, j)) if of_single > value => vec![j],
            _ => chosen,
        }
    }
}
