//! Many texts written at once (continuous batching, Yu et al. 2022, with prompts cut into slices as in Sarathi).
//!
//! Each step is one forward: a token, and what is guessed behind it, of every text that is being written, and slices of
//! prompts that are still being read, within a budget of tokens. A text that ends makes room for one that waits. None
//! depends on the others, to the bit.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use raglan_kv::KvCache;
use raglan_model::{
    Attending, AttentionPolicy, DecoderModel, ForwardRows, ForwardSequence, KeySelection, QueryRecord, View, Want,
};

use crate::draft::{DraftTree, Drafter, StepTimes};
use crate::token_recycling::TokenRecycling;
use crate::{Drafts, Result, Sampler, Sampling};

/// Tokens of one step: enough for full-speed products, few enough that an interruption is heard soon and that texts
/// which are being written are not held up.
const STEP_TOKENS: usize = 256;
/// Guesses of one step, of all texts together: however many are written, prompts have room beside them.
const STEP_GUESSES: usize = STEP_TOKENS / 2;

/// Texts that a model writes at once.
///
/// The text that came first is served first. When keys and values outgrow the model's
/// [`KvArena`](raglan_kv::KvArena), the text that came last waits and is read anew later; a text for which there is
/// no room although it is alone fails.
#[derive(Debug)]
pub struct ContinuousBatch<'m> {
    model: &'m DecoderModel,
    most_at_once: usize,
    waiting: VecDeque<Sequence>,
    /// In the order in which they came.
    running: Vec<Sequence>,
    recycling: TokenRecycling,
    times: StepTimes,
    n_pushed: usize,
}

/// A text to be written.
#[derive(Clone, Debug)]
pub struct SequenceStart {
    /// What it begins with.
    pub prompt: Vec<u32>,
    /// What of that has been read: a token a slot, and the last one not among them.
    pub read: Option<KvCache>,
    /// How its tokens are chosen.
    pub sampling: Sampling,
    /// Whether its tokens are guessed; with an attention policy they are not.
    pub drafts: Drafts,
    /// Which keys its tokens attend to, from the prompt's last one on.
    pub attention: AttentionPolicy,
    /// The most tokens that are written; one always is.
    pub max_tokens: usize,
}

#[derive(Debug)]
struct Sequence {
    id: usize,
    /// The prompt and what was written; the cache has read a part of it.
    tokens: Vec<u32>,
    n_prompt: usize,
    cache: KvCache,
    sampler: Sampler,
    drafter: Option<Drafter>,
    n_to_write: usize,
    attention: AttentionPolicy,
    keys: Keys,
}

/// What decides which keys a text attends to.
#[derive(Debug)]
enum Keys {
    /// Nothing yet, while the prompt is read; what it asked.
    Observed(QueryRecord),
    /// What was made of that.
    Selected(KeySelection),
}

impl Sequence {
    /// Whether its last token alone has not been read.
    fn is_written(&self) -> bool {
        self.tokens.len() == self.cache.len() + 1
    }

    fn chooses_keys(&self) -> bool {
        self.attention != AttentionPolicy::Full
    }

    /// Whether the next token is one that chooses its keys: the prompt's last one, or one that was written.
    fn is_choosing(&self) -> bool {
        self.chooses_keys() && self.cache.len() + 1 >= self.n_prompt
    }

    /// How many tokens may be read next; those that choose their keys go one after the other.
    fn n_next(&self) -> usize {
        if self.is_choosing() {
            1
        } else if self.chooses_keys() {
            self.n_prompt - 1 - self.cache.len()
        } else {
            self.tokens.len() - self.cache.len()
        }
    }
}

/// What a sequence sends through the model in one step.
struct Slice {
    /// Index among those that run.
    of: usize,
    /// The tokens behind the cache, and behind the last of them what is guessed.
    tokens: Vec<u32>,
    positions: Vec<u32>,
    slots: Vec<usize>,
    /// Rows whose scores are wanted: the last token and its guesses, or none while the prompt is being read.
    wanted: Vec<usize>,
    views: Vec<(Range<usize>, Vec<Range<usize>>)>,
    tree: Option<DraftTree>,
}

impl<'m> ContinuousBatch<'m> {
    /// An empty batch in which at most so many texts, one at least, are written at once.
    pub fn new(model: &'m DecoderModel, most_at_once: usize) -> Self {
        Self::with_recycling(model, most_at_once, TokenRecycling::new(model.config().vocab_size))
    }

    /// The same, with guesses from what was learned in another batch of this model.
    pub(crate) fn with_recycling(model: &'m DecoderModel, most_at_once: usize, recycling: TokenRecycling) -> Self {
        let (waiting, running) = (VecDeque::new(), Vec::new());
        Self {
            model,
            most_at_once: most_at_once.max(1),
            waiting,
            running,
            recycling,
            times: StepTimes::default(),
            n_pushed: 0,
        }
    }

    /// What was learned for guesses.
    pub(crate) fn into_recycling(self) -> TokenRecycling {
        self.recycling
    }

    /// Adds a text, and gives the number that it goes by: 0 for the first, and so on.
    pub fn push(&mut self, start: SequenceStart) -> usize {
        let id = self.n_pushed;
        self.n_pushed += 1;
        let mut cache = start.read.unwrap_or_else(|| self.model.cache());
        let chooses_keys = start.attention != AttentionPolicy::Full;
        if chooses_keys {
            // What the prompt's last tokens ask has to be seen, so they are read once more.
            cache.truncate(cache.len().saturating_sub(QueryRecord::N_TOKENS));
        }
        self.waiting.push_back(Sequence {
            id,
            cache,
            sampler: Sampler::new(start.sampling),
            drafter: if chooses_keys { None } else { Drafter::new(&start.prompt, start.drafts) },
            n_to_write: start.max_tokens,
            n_prompt: start.prompt.len(),
            tokens: start.prompt,
            attention: start.attention,
            keys: Keys::Observed(QueryRecord::new(self.model.config())),
        });
        id
    }

    /// How many texts are left.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Whether no text is left.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Does one forward, and gives each token that was chosen with its text's number to `on_token`, which may end that
    /// text. A text that fails is given its error, and is gone; the others do not notice.
    ///
    /// # Errors
    ///
    /// [`Error::Model`](crate::Error::Model) when the forward fails as a whole, which only a damaged model does.
    pub fn step(&mut self, on_token: &mut dyn FnMut(usize, Result<u32>) -> ControlFlow<()>) -> Result<()> {
        self.admit(on_token);
        let mut with_drafts = true;
        while !self.running.is_empty() {
            let slices = self.slices(with_drafts);
            let begin = Instant::now();
            match self.forward(&slices) {
                Ok(scores) => {
                    let n_rows = slices.iter().map(|slice| slice.tokens.len()).sum();
                    self.times.observe(n_rows, begin.elapsed().as_secs_f64());
                    self.choose(slices, scores, on_token)?;
                    break;
                }
                Err(raglan_model::Error::Kv(raglan_kv::Error::ArenaSpent { .. })) if with_drafts => with_drafts = false,
                Err(raglan_model::Error::Kv(raglan_kv::Error::ArenaSpent { .. })) if self.running.len() > 1 => {
                    if let Some(mut newest) = self.running.pop() {
                        newest.cache.truncate(0);
                        newest.keys = Keys::Observed(QueryRecord::new(self.model.config()));
                        self.waiting.push_front(newest);
                    }
                }
                Err(e @ raglan_model::Error::Kv(raglan_kv::Error::ArenaSpent { .. })) => {
                    if let Some(only) = self.running.pop() {
                        let _ = on_token(only.id, Err(e.into()));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Lets texts that wait begin while there is room for them.
    fn admit(&mut self, on_token: &mut dyn FnMut(usize, Result<u32>) -> ControlFlow<()>) {
        while self.running.len() < self.most_at_once
            && let Some(next) = self.waiting.front()
        {
            // Those that run are in want of pages too.
            let wanting = |sequence: &Sequence| {
                sequence.cache.n_pages_to_append(sequence.tokens.len() + 1 - sequence.cache.len())
            };
            let wanted: usize = self.running.iter().map(wanting).sum::<usize>() + wanting(next);
            if !self.running.is_empty() && wanted > self.model.kv_arena().n_pages_left() {
                break;
            }
            let Some(next) = self.waiting.pop_front() else { break };
            match self.refusal(&next) {
                Some(error) => {
                    let _ = on_token(next.id, Err(error.into()));
                }
                None => self.running.push(next),
            }
        }
    }

    /// Why a text cannot be read.
    fn refusal(&self, sequence: &Sequence) -> Option<raglan_model::Error> {
        let config = self.model.config();
        let (tokens, limit) = (sequence.tokens.len(), config.context_len);
        let unknown = sequence.tokens.iter().find(|&&id| id as usize >= config.vocab_size);
        if tokens == 0 {
            Some(raglan_model::Error::EmptyPrompt)
        } else if tokens > limit {
            Some(raglan_model::Error::ContextOverflow { tokens, limit })
        } else if sequence.chooses_keys() && sequence.cache.parallel().is_some() {
            let problem =
                "passages that were read side by side are attended to in full; leave the attention policy out";
            Some(raglan_model::Error::Rows { problem })
        } else {
            unknown.map(|&id| raglan_model::Error::UnknownToken { id })
        }
    }

    /// What passes next: all texts that are being written, and of the prompts as much as the budget allows.
    fn slices(&self, with_drafts: bool) -> Vec<Slice> {
        let n_written = self.running.iter().filter(|sequence| sequence.is_written()).count();
        let (mut slices, mut n_tokens, mut n_guesses) = (Vec::new(), 0, if with_drafts { STEP_GUESSES } else { 0 });
        for written in [true, false] {
            for (of, sequence) in self.running.iter().enumerate().filter(|(_, s)| s.is_written() == written) {
                let n = if written { 1 } else { sequence.n_next().min(STEP_TOKENS.saturating_sub(n_tokens)) };
                if n > 0 {
                    let others = (n_tokens + n_written).saturating_sub(slices.len() + 1);
                    let slice = self.slice(of, n, n_guesses, others);
                    n_tokens += slice.tokens.len();
                    n_guesses -= slice.tokens.len() - n;
                    slices.push(slice);
                }
            }
        }
        slices
    }

    fn slice(&self, of: usize, n: usize, n_guesses: usize, n_others: usize) -> Slice {
        let sequence = &self.running[of];
        let n_read = sequence.cache.len();
        let mut tokens = sequence.tokens[n_read..n_read + n].to_vec();
        let last = n - 1;
        let tree = (n_read + n == sequence.tokens.len()).then(|| match &sequence.drafter {
            Some(drafter) if n_guesses > 0 && n == 1 => {
                let room = self.model.config().context_len - sequence.tokens.len();
                let deepest = room.min(sequence.n_to_write.saturating_sub(1));
                drafter.tree(&self.recycling, self.times, n_guesses, deepest, n_others)
            }
            _ => DraftTree::new(tokens[last]),
        });
        let next = sequence.cache.next_position();
        let mut positions: Vec<u32> = (next..).take(n).collect();
        let mut views = Vec::new();
        if let Some(tree) = &tree {
            tokens.extend(&tree.tokens[1..]);
            positions.extend(tree.depths().iter().skip(1).map(|&depth| next + (last + depth) as u32));
            let chains = tree.chains();
            if chains.len() > 1 {
                // A tree's root is the only row before it.
                views.extend(chains.into_iter().map(|(rows, seen)| {
                    let slots = seen.into_iter().map(|nodes| n_read + nodes.start..n_read + nodes.end);
                    let mut slots: Vec<_> = slots.collect();
                    slots[0].start = 0; // The root, which all see, stands right behind what was read.
                    (rows, slots)
                }));
            }
        }
        let wanted = if tree.is_some() { (last..tokens.len()).collect() } else { Vec::new() };
        Slice { of, slots: (n_read..n_read + tokens.len()).collect(), tokens, positions, wanted, views, tree }
    }

    /// The scores after the rows that each slice wants.
    fn forward(&mut self, slices: &[Slice]) -> raglan_model::Result<Vec<Vec<f32>>> {
        let views: Vec<Vec<View<'_>>> = slices
            .iter()
            .map(|slice| slice.views.iter().map(|(rows, slots)| View { rows: rows.clone(), slots }).collect())
            .collect();
        for slice in slices {
            let sequence = &mut self.running[slice.of];
            if sequence.is_choosing()
                && let Keys::Observed(record) = &sequence.keys
            {
                let selection = KeySelection::begin(self.model, sequence.attention, &sequence.cache, record)?;
                sequence.keys = Keys::Selected(selection);
            }
        }
        let mut running: Vec<Option<&mut Sequence>> = self.running.iter_mut().map(Some).collect();
        let mut sequences = Vec::with_capacity(slices.len());
        for (slice, views) in slices.iter().zip(&views) {
            let rows = ForwardRows {
                tokens: &slice.tokens,
                positions: &slice.positions,
                slots: &slice.slots,
                views,
                ..ForwardRows::default()
            };
            let sequence = running[slice.of].take().expect("a text has one slice");
            let attending = match &mut sequence.keys {
                _ if sequence.attention == AttentionPolicy::Full => Attending::All,
                Keys::Observed(record) => Attending::Observed(record),
                Keys::Selected(selection) => Attending::Selected(selection),
            };
            let want = Want { logits: &slice.wanted, ..Want::default() };
            sequences.push(ForwardSequence { rows, cache: &mut sequence.cache, want, attending });
        }
        Ok(self.model.forward(&mut sequences)?.into_iter().map(|forwarded| forwarded.logits).collect())
    }

    /// Chooses tokens by the scores, as far as guesses were right.
    fn choose(
        &mut self,
        slices: Vec<Slice>,
        scores: Vec<Vec<f32>>,
        on_token: &mut dyn FnMut(usize, Result<u32>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (vocab_size, context_len) = (self.model.config().vocab_size, self.model.config().context_len);
        let mut gone = Vec::new();
        for (slice, mut scores) in slices.into_iter().zip(scores) {
            let Some(tree) = slice.tree else { continue };
            let sequence = &mut self.running[slice.of];
            let n_read = sequence.tokens.len();
            let first = slice.slots[slice.wanted[0]];
            let (mut node, mut kept) = (0, Vec::new());
            let ended = loop {
                let token = match sequence.sampler.next(&mut scores[node * vocab_size..(node + 1) * vocab_size]) {
                    Ok(token) => token,
                    Err(e) => {
                        let _ = on_token(sequence.id, Err(e.of_weights(self.model.path()).into()));
                        break true;
                    }
                };
                sequence.tokens.push(token);
                sequence.n_to_write = sequence.n_to_write.saturating_sub(1);
                if let Some(drafter) = &mut sequence.drafter {
                    drafter.push(token, &mut self.recycling);
                }
                if on_token(sequence.id, Ok(token)).is_break() || sequence.n_to_write == 0 {
                    break true;
                }
                if sequence.tokens.len() > context_len {
                    let error =
                        raglan_model::Error::ContextOverflow { tokens: sequence.tokens.len(), limit: context_len };
                    let _ = on_token(sequence.id, Err(error.into()));
                    break true;
                }
                let Some(child) = tree.child(node, token) else { break false };
                kept.push(first + child);
                node = child;
            };
            if sequence.drafter.as_ref().is_some_and(Drafter::recycles) {
                for (&token, scores) in tree.tokens.iter().zip(scores.chunks_exact(vocab_size)) {
                    self.recycling.learn(token, scores);
                }
            }
            if ended {
                gone.push(slice.of);
            } else {
                sequence.cache.keep(n_read, &kept).map_err(raglan_model::Error::from)?;
            }
        }
        gone.sort_unstable();
        for of in gone.into_iter().rev() {
            self.running.remove(of);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use raglan_model::Products;

    use super::*;
    use crate::byte_model;

    /// What is written of five texts, in how many steps, and the most branches of a step, when rows cost nothing.
    fn write(model: &DecoderModel, temperature: f32, drafts: Drafts) -> (Vec<Vec<u32>>, usize, usize) {
        let mut batch = ContinuousBatch::new(model, 2);
        for i in 0..5 {
            batch.push(SequenceStart {
                prompt: (0..20 + 30 * i).map(|j| i * 41 + j % 5).collect(),
                read: None,
                sampling: Sampling { temperature, seed: u64::from(i), ..Sampling::default() },
                drafts,
                attention: AttentionPolicy::Full,
                max_tokens: 70,
            });
        }
        let mut free = StepTimes::default();
        free.observe(1, 1.0);
        free.observe(2, 1.0);
        let (mut texts, mut n_steps, mut n_branches) = (vec![Vec::new(); 5], 0, 0);
        while !batch.is_empty() {
            batch.times = free;
            let branches = batch.slices(true).iter().map(|slice| slice.views.len()).max();
            n_branches = n_branches.max(branches.unwrap_or(0));
            n_steps += 1;
            let take = &mut |id: usize, token: Result<u32>| {
                texts[id].push(token.unwrap());
                ControlFlow::Continue(())
            };
            batch.step(take).unwrap();
        }
        (texts, n_steps, n_branches)
    }

    #[test]
    fn guesses_of_many_texts_leave_room_for_prompts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.gguf");
        byte_model::write(&path);
        let model = DecoderModel::load(&path, 2, Products::F32).unwrap();
        let mut batch = ContinuousBatch::new(&model, 40);
        let push = |batch: &mut ContinuousBatch<'_>, n_prompt: usize, max_tokens| {
            let prompt = (0..n_prompt as u32).map(|i| i % 5).collect();
            batch.push(SequenceStart {
                prompt,
                read: None,
                sampling: Sampling::default(),
                drafts: Drafts::PromptLookup,
                attention: AttentionPolicy::Full,
                max_tokens,
            })
        };
        for _ in 0..32 {
            push(&mut batch, 6, 200);
        }
        let mut take = |_: usize, _: Result<u32>| ControlFlow::Continue(());
        batch.step(&mut take).unwrap();
        // Texts that go round in circles are guessed as far as may be.
        for sequence in &mut batch.running {
            let mut drafter = Drafter::new(&[1, 2, 3, 4, 5], Drafts::PromptLookup).unwrap();
            (0..500).for_each(|i| drafter.push(i % 5 + 1, &mut batch.recycling));
            sequence.drafter = Some(drafter);
        }
        batch.times = StepTimes::default();
        batch.times.observe(1, 1.0);
        batch.times.observe(2, 1.0);
        push(&mut batch, 200, 1);
        batch.admit(&mut take);
        let slices = batch.slices(true);
        let (written, prompts): (Vec<_>, Vec<_>) = slices.iter().partition(|slice| slice.of < 32);
        let n_rows: usize = written.iter().map(|slice| slice.tokens.len()).sum();
        assert_eq!((written.len(), n_rows), (32, 32 + STEP_GUESSES));
        assert_eq!(prompts.iter().map(|slice| slice.tokens.len()).sum::<usize>(), STEP_TOKENS - n_rows);
    }

    #[test]
    fn trees_of_guesses_save_steps_and_change_no_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes.gguf");
        byte_model::write(&path);
        for products in [Products::F32, Products::Stored] {
            let model = DecoderModel::load(&path, 2, products).unwrap();
            for temperature in [0.0, 0.7, 1.5] {
                let (plain, n_plain, _) = write(&model, temperature, Drafts::Off);
                let (drafted, n_drafted, n_branches) = write(&model, temperature, Drafts::TokenRecycling);
                assert!(plain == drafted, "temperature {temperature}");
                assert!(n_drafted < n_plain, "temperature {temperature}: {n_drafted} of {n_plain} steps");
                assert!(temperature == 0.0 || n_branches > 1, "temperature {temperature}");
            }
        }
    }
}
