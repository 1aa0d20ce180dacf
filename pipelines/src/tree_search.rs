//! The list of passages that answers best as a whole, sought in a tree (CORAG's CARROT; Wang et al. 2024).

use std::collections::HashMap;
use std::ops::Deref;

use raglan_core::{
    Context, DenseVector, Encoder, Error, LeftOut, LeftOutReason, Passage, PassageSetScorer, Result, sentence_spans,
};

use crate::Stage;

/// How far a tree search looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TreeSearchOptions {
    /// The most tokens of all passages together.
    pub budget: usize,
    /// How many of the first passages are candidates; the paper takes 60.
    pub candidates: usize,
    /// How many nodes have all of their children scored; the paper takes 10 to 50.
    pub iterations: usize,
    /// `C`: how much a node counts for having been visited seldom, beside scores from 0 to 1; the paper takes 2 to 4.
    pub exploration: f32,
    /// `λ`: how much the share of the budget that a node's passages take counts against it.
    pub cost: f32,
}

impl Default for TreeSearchOptions {
    fn default() -> Self {
        Self { budget: 1024, candidates: 60, iterations: 10, exploration: 2.4, cost: 0.1 }
    }
}

/// Chooses the list of passages that a scorer finds best, of those lists that fit a budget of tokens and that a tree
/// search meets: `Vec<Context>` → `Vec<Context>`.
///
/// A node of the tree is a list of passages, its children are the list with one more behind it that still fits. From the
/// root, the search goes to the child of highest `v / n + C · √(ln n_parent / n) − λ · tokens / budget` (`n` visits,
/// whose scores have the sum `v`) until it comes to a node whose children have no scores; they are scored in one batch, and
/// each score is a visit of all nodes above. The result is the node with the best score of its own; of equals the one
/// visited more, then the shorter one, then the one that was met first. Passages stand as in that list, which may be
/// another order than theirs, and the others are left out for want of budget.
///
/// Cost: up to `iterations · candidates` lists, each of up to `budget` tokens, are scored for a question; equal lists of
/// a question once. The scorer comes by reference, `Arc` or `Box`.
pub fn tree_search<S>(scorer: S, options: TreeSearchOptions) -> TreeSearch<S>
where
    S: Deref<Target: PassageSetScorer> + Send + Sync,
{
    TreeSearch { scorer, options }
}

/// A tree search as a stage; see [`tree_search`].
#[derive(Clone, Debug)]
pub struct TreeSearch<S> {
    scorer: S,
    options: TreeSearchOptions,
}

/// A list of passages.
struct Node {
    /// Places of the passages among the candidates.
    list: Vec<usize>,
    tokens: usize,
    parent: Option<usize>,
    /// Nodes, once they are scored.
    children: Option<Vec<usize>>,
    score: f64,
    visits: usize,
    total: f64,
}

impl<S> TreeSearch<S>
where
    S: Deref<Target: PassageSetScorer> + Send + Sync,
{
    fn chosen(&self, mut context: Context) -> Result<Context> {
        let n = context.passages.len().min(self.options.candidates);
        let best = self.search(&context.question, &context.passages[..n])?;
        let mut passages: Vec<Option<Passage>> = context.passages.into_iter().map(Some).collect();
        context.passages = best.into_iter().map(|i| passages[i].take().expect("a list has a passage once")).collect();
        let rest = passages.into_iter().flatten();
        let left_out = rest.map(|passage| LeftOut { chunk: passage.chunk.id, reason: LeftOutReason::Budget });
        context.left_out.extend(left_out);
        Ok(context)
    }

    /// The places of the best list that is met.
    fn search(&self, question: &str, candidates: &[Passage]) -> Result<Vec<usize>> {
        let root = Node { list: vec![], tokens: 0, parent: None, children: None, score: 0.0, visits: 0, total: 0.0 };
        let mut nodes = vec![root];
        let mut known: HashMap<Vec<usize>, f64> = HashMap::new();
        for _ in 0..self.options.iterations {
            let Some(leaf) = self.descend(&nodes) else { break };
            self.expand(question, candidates, leaf, &mut nodes, &mut known)?;
        }
        let scored = nodes.into_iter().skip(1);
        let best = scored.reduce(|best, node| {
            let by_score = node.score.total_cmp(&best.score).then(node.visits.cmp(&best.visits));
            if by_score.then(best.list.len().cmp(&node.list.len())).is_gt() { node } else { best }
        });
        Ok(best.map_or_else(Vec::new, |node| node.list))
    }

    /// The best node whose children have no scores yet; none when the whole tree has.
    fn descend(&self, nodes: &[Node]) -> Option<usize> {
        // Branches that were searched to their ends are passed over.
        let mut is_open = vec![false; nodes.len()];
        for i in (0..nodes.len()).rev() {
            is_open[i] = match &nodes[i].children {
                None => true,
                Some(children) => children.iter().any(|&child| is_open[child]),
            };
        }
        let mut at = 0;
        while let Some(children) = &nodes[at].children {
            let open = children.iter().copied().filter(|&child| is_open[child]);
            let value = |child: usize| self.value(&nodes[child], nodes[at].visits);
            at = open.reduce(|best, child| if value(child) > value(best) { child } else { best })?;
        }
        is_open[at].then_some(at)
    }

    fn value(&self, node: &Node, parent_visits: usize) -> f64 {
        let TreeSearchOptions { budget, exploration, cost, .. } = self.options;
        let n = node.visits as f64;
        node.total / n + f64::from(exploration) * ((parent_visits as f64).ln() / n).sqrt()
            - f64::from(cost) * node.tokens as f64 / budget.max(1) as f64
    }

    /// Scores all children of a node, and counts their scores for all nodes above.
    fn expand(
        &self,
        question: &str,
        candidates: &[Passage],
        leaf: usize,
        nodes: &mut Vec<Node>,
        known: &mut HashMap<Vec<usize>, f64>,
    ) -> Result<()> {
        let (list, tokens) = (nodes[leaf].list.clone(), nodes[leaf].tokens);
        let tokens_with = |i: usize| tokens + candidates[i].chunk.n_tokens as usize;
        let places = (0..candidates.len()).filter(|i| !list.contains(i) && tokens_with(*i) <= self.options.budget);
        let lists: Vec<Vec<usize>> = places.map(|i| [&*list, &[i]].concat()).collect();
        let new: Vec<&Vec<usize>> = lists.iter().filter(|list| !known.contains_key(*list)).collect();
        let shown: Vec<Vec<&Passage>> = new.iter().map(|list| list.iter().map(|&i| &candidates[i]).collect()).collect();
        let scores = self.scorer.scores(question, &shown)?;
        if scores.len() != shown.len() {
            return Err(Error::Shape { what: "scores of lists", expected: shown.len(), found: scores.len() });
        }
        if scores.iter().any(|score| !score.is_finite()) {
            return Err(Error::NotFinite { what: "score of a list" });
        }
        for (list, score) in new.into_iter().cloned().zip(scores).collect::<Vec<_>>() {
            known.insert(list, f64::from(score));
        }
        let mut children = Vec::with_capacity(lists.len());
        for list in lists {
            let score = known[&list];
            let tokens = tokens_with(*list.last().expect("a child has one passage more"));
            children.push(nodes.len());
            nodes.push(Node { list, tokens, parent: Some(leaf), children: None, score, visits: 1, total: score });
            let mut above = Some(leaf);
            while let Some(i) = above {
                nodes[i].visits += 1;
                nodes[i].total += score;
                above = nodes[i].parent;
            }
        }
        nodes[leaf].children = Some(children);
        Ok(())
    }
}

impl<S> Stage<Vec<Context>> for TreeSearch<S>
where
    S: Deref<Target: PassageSetScorer> + Send + Sync,
{
    type Out = Vec<Context>;

    fn run(&self, batch: Vec<Context>) -> Result<Vec<Context>> {
        batch.into_iter().map(|context| self.chosen(context)).collect()
    }

    fn name(&self) -> String {
        let TreeSearchOptions { budget, candidates, iterations, .. } = self.options;
        format!("tree_search({budget}, {candidates}, {iterations})")
    }
}

/// Scores a list of passages by the cosine of the question and the mean of the vectors of all their sentences, halved and
/// moved to between 0 and 1.
///
/// It sees that a list lacks what the question asks, and hardly that it repeats itself: a model that reads question and
/// passages together is the better scorer, where there is one.
pub struct EncodedSets<E> {
    encoder: E,
}

impl<E> EncodedSets<E> {
    /// A scorer on an encoder, which comes by reference, `Arc` or `Box`.
    pub fn new(encoder: E) -> Self {
        Self { encoder }
    }
}

impl<E> EncodedSets<E>
where
    E: Deref<Target: Encoder<Vector = DenseVector>>,
{
    /// The sum of the vectors of a text's sentences, which are short enough for any encoder.
    fn sum_of_sentences(&self, text: &str, dim: usize) -> Result<Vec<f32>> {
        let sentences: Vec<&str> = sentence_spans(text).into_iter().map(|span| &text[span]).collect();
        let mut sum = vec![0.0; dim];
        for vector in self.encoder.encode_passages(&sentences)? {
            if vector.dim() != dim {
                return Err(Error::Shape { what: "vector of a sentence", expected: dim, found: vector.dim() });
            }
            sum.iter_mut().zip(vector.as_slice()).for_each(|(sum, x)| *sum += x);
        }
        Ok(sum)
    }
}

impl<E> PassageSetScorer for EncodedSets<E>
where
    E: Deref<Target: Encoder<Vector = DenseVector>> + Send + Sync,
{
    fn scores(&self, question: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>> {
        let question = self.encoder.encode_queries(&[question])?;
        let Some(question) = question.first() else {
            return Err(Error::Shape { what: "vectors of questions", expected: 1, found: 0 });
        };
        let mut sums: HashMap<&str, Vec<f32>> = HashMap::new();
        let mut scores = Vec::with_capacity(lists.len());
        for list in lists {
            let mut of_list = vec![0.0; question.dim()];
            for passage in list {
                let text = passage.chunk.text.as_str();
                if !sums.contains_key(text) {
                    sums.insert(text, self.sum_of_sentences(text, question.dim())?);
                }
                of_list.iter_mut().zip(&sums[text]).for_each(|(sum, x)| *sum += x);
            }
            scores.push((0.5 + 0.5 * question.cosine(&DenseVector::new(of_list)?)) as f32);
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::passages_for_tests::{ids, passage};

    /// Wants the words of the question, each once, in their order; counts the lists that it reads.
    #[derive(Default)]
    struct Wants {
        lists: Mutex<Vec<Vec<u32>>>,
    }

    impl PassageSetScorer for Wants {
        fn scores(&self, question: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>> {
            let score = |list: &Vec<&Passage>| {
                let ids = list.iter().map(|passage| passage.chunk.id.0).collect();
                self.lists.lock().unwrap().push(ids);
                let words: Vec<&str> = list.iter().flat_map(|passage| passage.chunk.text.split(' ')).collect();
                let wanted: Vec<&str> = question.split(' ').collect();
                let n_right = wanted.iter().zip(&words).filter(|(a, b)| a == b).count();
                n_right as f32 / wanted.len().max(words.len()) as f32
            };
            Ok(lists.iter().map(score).collect())
        }
    }

    #[track_caller]
    fn check(question: &str, texts: &[&str], options: TreeSearchOptions, expected: &[u32]) {
        let scorer = Wants::default();
        let passages = (1..).zip(texts).map(|(id, text)| passage(id, 0, text)).collect();
        let found = tree_search(&scorer, options).run(vec![Context::new(question, passages)]).unwrap();
        assert_eq!(ids(&found[0]), expected);
        assert_eq!(found[0].left_out.len(), texts.len() - expected.len());
        let mut lists = scorer.lists.into_inner().unwrap();
        let n_lists = lists.len();
        lists.sort();
        lists.dedup();
        assert_eq!(lists.len(), n_lists, "no list is scored twice");
        assert!(n_lists <= options.iterations * options.candidates);
        assert!(lists.iter().all(|list| {
            list.iter().map(|id| texts[*id as usize - 1].split(' ').count()).sum::<usize>() <= options.budget
        }));
    }

    const FEW: TreeSearchOptions =
        TreeSearchOptions { budget: 9, candidates: 4, iterations: 99, exploration: 2.4, cost: 0.1 };

    #[test]
    fn the_whole_list_counts_and_not_its_parts() {
        // The third passage is of no use alone, and the best first one is not in the best list.
        check("a b c d", &["a b x y", "a b", "c d"], FEW, &[2, 3]);
        check("a b c d", &["c d", "a b", "a"], FEW, &[2, 1]);
        // The same within another budget: what no longer fits is no child.
        check("a b c d", &["a b x y", "a b", "c d"], TreeSearchOptions { budget: 3, ..FEW }, &[2]);
        check("a b c d", &["a b x y", "a b", "c d"], TreeSearchOptions { budget: 1, ..FEW }, &[]);
        check("a b c d", &["a b x y", "a b", "c d"], TreeSearchOptions { iterations: 0, ..FEW }, &[]);
        check("a b", &[], FEW, &[]);
        // Only candidates count.
        check("a b c d", &["a b x y", "a b", "c d"], TreeSearchOptions { candidates: 1, ..FEW }, &[1]);
    }

    #[test]
    fn few_steps_find_what_an_exhaustive_search_finds_when_the_scores_lead_there() {
        let texts = ["a", "b", "c", "d", "e"];
        let options = TreeSearchOptions { budget: 5, candidates: 5, iterations: 12, exploration: 0.3, cost: 0.1 };
        check("a b c d", &texts, options, &[1, 2, 3, 4]);
        check("c a e", &texts, options, &[3, 1, 5]);
    }

    #[test]
    fn of_lists_that_are_worth_the_same_the_shorter_one_is_taken() {
        struct Indifferent;

        impl PassageSetScorer for Indifferent {
            fn scores(&self, _: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>> {
                Ok(vec![0.5; lists.len()])
            }
        }

        let passages = (1..=3).map(|id| passage(id, 0, "a b")).collect();
        let found = tree_search(&Indifferent, FEW).run(vec![Context::new("a", passages)]).unwrap();
        assert_eq!(found[0].passages.len(), 1);
    }

    #[test]
    fn scores_that_are_none_are_refused() {
        struct Broken;

        impl PassageSetScorer for Broken {
            fn scores(&self, _: &str, lists: &[Vec<&Passage>]) -> Result<Vec<f32>> {
                Ok(vec![f32::NAN; lists.len()])
            }
        }

        let passages = vec![passage(1, 0, "a b")];
        let found = tree_search(&Broken, FEW).run(vec![Context::new("a", passages)]);
        assert!(matches!(found, Err(Error::NotFinite { .. })));
    }
}
