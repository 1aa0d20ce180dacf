//! Which of a few passages serves best: pairwise (Qin et al. 2023) and setwise (Zhuang et al. 2023).

use std::collections::HashMap;
use std::sync::Arc;

use raglan_core::Meter;
use raglan_model::{ChatFrame, LanguageModel};

use crate::prompt::{Labels, Wanted, encode, passage_room, read_prompts};
use crate::query_likelihood::QUESTION_TOKENS;
use crate::{Budget, Error, Judge, Judgement, Result, Task, Verdict};

/// Sorts passages by asking the model which of a few is the most relevant, as it takes to bring the best to the front of
/// a heap.
#[derive(Debug)]
pub struct Compare {
    model: Arc<LanguageModel>,
    frame: ChatFrame,
    labels: Labels,
    words: Words,
    comparison: Comparison,
    top: usize,
    max_passage_tokens: usize,
}

/// The parts of a prompt that stay.
#[derive(Debug)]
struct Words {
    question: Vec<u32>,
    passage: Vec<Vec<u32>>,
    request: Vec<u32>,
}

/// How many passages are compared at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Two, in both orders: the one that is preferred both times wins, else the one that came first.
    Pairwise,
    /// One and this many children, in one call.
    Setwise(usize),
}

impl Comparison {
    /// How many children a passage has in the heap.
    fn n_children(self) -> usize {
        match self {
            Self::Pairwise => 2,
            Self::Setwise(children) => children,
        }
    }

    /// How many passages a prompt shows.
    fn n_together(self) -> usize {
        match self {
            Self::Pairwise => 2,
            Self::Setwise(children) => children + 1,
        }
    }
}

impl Compare {
    /// A judge that finds the best `top` passages in their order, and reads up to `max_passage_tokens` of each.
    ///
    /// # Errors
    ///
    /// [`Error::Parameter`] when a set has no child or more than 25; [`Error::Labels`].
    pub fn new(
        model: Arc<LanguageModel>,
        comparison: Comparison,
        top: usize,
        max_passage_tokens: usize,
    ) -> Result<Self> {
        let n_together = comparison.n_together();
        if !(2..=26).contains(&n_together) {
            let problem = format!("is {}, and must be 1 to 25", n_together - 1);
            return Err(Error::Parameter { name: "children", problem });
        }
        let labels = Labels::of(&model, n_together)?;
        let passage = (0..n_together).map(|i| encode(&model, &format!("\n\n[{}] ", Labels::label(i))));
        Ok(Self {
            frame: ChatFrame::of_user(&model)?,
            words: Words {
                question: encode(&model, "Question: ")?,
                passage: passage.collect::<Result<_>>()?,
                request: encode(
                    &model,
                    "\n\nWhich passage is the most relevant to the question? Reply with its letter in brackets.",
                )?,
            },
            labels,
            comparison,
            top,
            max_passage_tokens,
            model,
        })
    }

    fn prompt(&self, question: &[u32], passages: &[&[u32]]) -> Wanted {
        let mut ids = [&*self.frame.before, &self.words.question, question].concat();
        for (label, passage) in self.words.passage.iter().zip(passages) {
            ids.extend(label);
            ids.extend(*passage);
        }
        Wanted::next([&*ids, &self.words.request, &self.frame.after, &self.labels.bracket].concat())
    }
}

/// One task being sorted: the passages, and what was said of pairs and sets of them.
struct Sorting<'a> {
    judge: &'a Compare,
    question: Vec<u32>,
    passages: Vec<Vec<u32>>,
    meter: Meter,
    is_over: bool,
    known: HashMap<Vec<usize>, usize>,
}

impl Sorting<'_> {
    /// The place in `candidates` of the best of them, as far as the budget allows to ask; the first, if it does not.
    fn best(&mut self, candidates: &[usize]) -> Result<usize> {
        match self.judge.comparison {
            Comparison::Setwise(_) => self.best_at_once(candidates),
            Comparison::Pairwise => {
                let mut best = 0;
                for other in 1..candidates.len() {
                    if self.best_at_once(&[candidates[best], candidates[other]])? == 1 {
                        best = other;
                    }
                }
                Ok(best)
            }
        }
    }

    /// The best of as many as one prompt shows.
    fn best_at_once(&mut self, candidates: &[usize]) -> Result<usize> {
        if let Some(&best) = self.known.get(candidates) {
            return Ok(best);
        }
        let prompt = |order: &[usize]| {
            let passages: Vec<&[u32]> = order.iter().map(|&i| &*self.passages[i]).collect();
            self.judge.prompt(&self.question, &passages)
        };
        let prompts = match self.judge.comparison {
            Comparison::Pairwise => vec![prompt(candidates), prompt(&[candidates[1], candidates[0]])],
            Comparison::Setwise(_) => vec![prompt(candidates)],
        };
        let mut said = Vec::with_capacity(prompts.len());
        let letters = &self.judge.labels.letters[..candidates.len()];
        read_prompts(&self.judge.model, &prompts, &mut self.meter, |_, logits| {
            let logits = letters.iter().map(|&letter| logits[letter as usize]);
            let best = logits.enumerate().fold(
                (0, f32::NEG_INFINITY),
                |best, (i, logit)| {
                    if logit > best.1 { (i, logit) } else { best }
                },
            );
            said.push(best.0);
            Ok(())
        })?;
        self.is_over |= said.len() < prompts.len();
        let best = match &*said {
            [best] if prompts.len() == 1 => *best,
            // The second time the two stood the other way round.
            [1, 0] => 1,
            _ => 0,
        };
        if !self.is_over {
            self.known.insert(candidates.to_vec(), best);
        }
        Ok(best)
    }

    /// Lets the passage at `at` sink in the heap until no child is better.
    fn sift_down(&mut self, heap: &mut [usize], mut at: usize) -> Result<()> {
        let n_children = self.judge.comparison.n_children();
        loop {
            let first = at * n_children + 1;
            if first >= heap.len() || self.is_over {
                return Ok(());
            }
            let children = first..heap.len().min(first + n_children);
            let candidates: Vec<usize> = std::iter::once(heap[at]).chain(heap[children].iter().copied()).collect();
            let best = self.best(&candidates)?;
            if best == 0 {
                return Ok(());
            }
            heap.swap(at, first + best - 1);
            at = first + best - 1;
        }
    }
}

impl Judge for Compare {
    fn name(&self) -> String {
        match self.comparison {
            Comparison::Pairwise => format!("pairwise(top {})", self.top),
            Comparison::Setwise(children) => format!("setwise({children}, top {})", self.top),
        }
    }

    fn judge(&self, tasks: &[Task<'_>], budget: &Budget) -> Result<Vec<Judgement>> {
        let judge = |task: &Task<'_>| {
            let meter = Meter::start(budget);
            let question = self.model.encode_text(task.question, QUESTION_TOKENS)?;
            let n_together = self.comparison.n_together();
            let rest = self.prompt(&question, &[]).ids.len() + 8 * n_together;
            let room = passage_room(&self.model, rest, n_together, self.max_passage_tokens)?;
            let passages = task.passages.iter().map(|passage| Ok(self.model.encode_text(passage, room)?));
            let passages = passages.collect::<Result<Vec<_>>>()?;
            let mut sorting = Sorting { judge: self, question, passages, meter, is_over: false, known: HashMap::new() };
            // A heap whose root is the best; what came first stands nearer to the root at the beginning.
            let mut heap: Vec<usize> = (0..task.passages.len()).collect();
            for at in (0..heap.len()).rev() {
                sorting.sift_down(&mut heap, at)?;
            }
            let mut order = Vec::with_capacity(self.top);
            while order.len() < self.top && !heap.is_empty() && !sorting.is_over {
                order.push(heap.swap_remove(0));
                sorting.sift_down(&mut heap, 0)?;
            }
            // What the budget left unsorted at least has its root in front.
            if sorting.is_over {
                order.extend(heap.first());
            }
            Ok(Judgement::new(Verdict::Order(order), &sorting.meter))
        };
        tasks.iter().map(judge).collect()
    }
}
