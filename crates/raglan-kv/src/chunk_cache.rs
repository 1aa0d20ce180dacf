//! The blocks of an index's chunks for one model, in memory and in the index folder.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use raglan_core::ChunkId;

use crate::block::parse_hash;
use crate::block_file::{open_block, write_block};
use crate::journal::Journal;
use crate::{BlockKey, Error, KvBlock, Result, TokensHash};

/// What blocks' file names end in.
const EXTENSION: &str = "kv";
/// Uses of blocks by all processes, a line each, and sums of older ones.
const USES: &str = "uses.tsv";
/// A record of uses that is longer is shortened when it is read: some ten thousand uses.
const LONG_USES: u64 = 1 << 20;
/// Chunks of which a shortened record says how often they were asked for, the most asked for.
const ASKED_CHUNKS: usize = 4096;

/// What a [`ChunkCache`] may take, and what goes first when that is too little.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of blocks in memory.
    pub memory_bytes: u64,
    /// Bytes of blocks in the index folder.
    pub disk_bytes: u64,
    /// Blocks of one chunk, computed behind different texts.
    pub variants: usize,
    /// What goes first.
    pub eviction: Eviction,
}

/// Which blocks go first when there is no more room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Those that saved the least work for their size, where work saved long ago counts for less (the priority of
    /// Jin et al. 2024, RAGCache, of the work that Agarwal et al. 2025, Cache-Craft, count).
    #[default]
    Value,
    /// Those that were used longest ago.
    LeastRecentlyUsed,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, disk_bytes: 4 << 30, variants: 3, eviction: Eviction::default() }
    }
}

/// The blocks of an index's chunks for one model.
///
/// Blocks that are put in are in memory at once and on disk after [`flush`](Self::flush). Several processes may use one
/// folder: a file appears whole, stays readable for whoever has it open, and one that is gone or damaged is as if it
/// had never been there.
#[derive(Debug)]
pub struct ChunkCache {
    folder: Option<PathBuf>,
    limits: CacheLimits,
    state: Mutex<State>,
}

/// What a cache holds and what it was good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// Blocks on disk.
    pub blocks: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks of prompts whose block was there, ever.
    pub hits: u64,
    /// Chunks of prompts that had none.
    pub misses: u64,
    /// Tokens that did not have to be computed.
    pub saved_tokens: u64,
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Name, Entry>,
    /// The priority of what went last.
    clock: f64,
    /// Counts uses.
    now: u64,
    hits: u64,
    misses: u64,
    saved_tokens: u64,
    /// How often chunks were in prompts, with or without a block.
    asked: HashMap<ChunkId, u64>,
    /// Lines that are not in the file of uses yet.
    unwritten: Vec<String>,
}

/// What a block's file is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Name {
    chunk: ChunkId,
    tokens: TokensHash,
    behind: TokensHash,
}

#[derive(Debug, Default)]
struct Entry {
    /// With its numbers in memory, or with its file open.
    block: Option<KvBlock>,
    n_bytes: u64,
    on_disk: bool,
    priority: f64,
    last_use: u64,
    /// Tokens that it saved, ever.
    saved_tokens: u64,
}

impl Name {
    fn new(chunk: ChunkId, key: &BlockKey) -> Self {
        Self { chunk, tokens: key.tokens, behind: key.behind }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let (chunk, tokens, behind) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let name = Self { chunk: ChunkId(chunk), tokens: parse_hash(tokens)?, behind: parse_hash(behind)? };
        parts.next().is_none().then_some(name)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.chunk.0, self.tokens, self.behind)
    }
}

impl ChunkCache {
    /// Opens the blocks of one model in a folder, which is made when there is something to write; without a folder,
    /// blocks are in memory only.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder is there and cannot be read.
    pub fn open(folder: Option<PathBuf>, limits: CacheLimits) -> Result<Self> {
        let mut state = State::default();
        if let Some(folder) = &folder {
            for (name, n_bytes) in files(folder)? {
                state.entries.insert(name, Entry { n_bytes, on_disk: true, ..Entry::default() });
            }
            let uses = Journal::new(folder.join(USES));
            if uses.n_bytes() > LONG_USES {
                // A record that cannot be written is read as it is.
                let _ = shorten(&uses, folder);
            }
            state.take_uses(&uses.lines()?);
        }
        Ok(Self { folder, limits, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No panic can leave a count and what it counts apart for good: files are listed anew when room is made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks of a chunk that reads as these tokens for this model, in the order of what they stood behind.
    ///
    /// A file that is gone or damaged is left out, and forgotten.
    pub fn variants(&self, chunk: ChunkId, tokens: TokensHash, model: TokensHash) -> Vec<KvBlock> {
        let mut state = self.state();
        let mut names: Vec<Name> =
            state.entries.keys().filter(|name| name.chunk == chunk && name.tokens == tokens).copied().collect();
        names.sort_unstable();
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let entry = state.entries.get_mut(&name).expect("names are of entries");
            if entry.block.is_none()
                && let Some(folder) = &self.folder
            {
                let path = path_of(folder, &name);
                entry.block = open_block(&path).ok().filter(|block| Name::new(chunk, block.key()) == name);
                if entry.block.is_none() {
                    // Whatever it is, it is no block of this chunk, and would be tried again and again.
                    let _ = fs::remove_file(path);
                }
            }
            match &entry.block {
                Some(block) if block.key().model == model => found.push(block.clone()),
                Some(_) => {}
                None => {
                    state.entries.remove(&name);
                }
            }
        }
        found
    }

    /// Whether there is a block of a chunk that depends on this; its file is not opened.
    pub fn contains(&self, chunk: ChunkId, key: &BlockKey) -> bool {
        self.state().entries.contains_key(&Name::new(chunk, key))
    }

    /// Removes the block in a file that turned out to be damaged; says whether there was one.
    pub fn forget_file(&self, file: &Path) -> bool {
        let Some(folder) = &self.folder else { return false };
        let mut state = self.state();
        let name = state.entries.keys().copied().find(|name| path_of(folder, name) == file);
        let Some(name) = name else { return false };
        self.forget(&mut state, &name);
        // One that cannot be removed would be found damaged again.
        !file.exists()
    }

    /// Takes in a block of a chunk, in place of one that depends on the same.
    pub fn insert(&self, chunk: ChunkId, block: KvBlock) {
        let name = Name::new(chunk, block.key());
        let mut state = self.state();
        state.now += 1;
        let (priority, last_use) = (state.clock + 1.0, state.now);
        let n_bytes = block.n_bytes() as u64;
        let entry = Entry { block: Some(block), n_bytes, priority, last_use, ..Entry::default() };
        state.entries.insert(name, entry);
        // A chunk's worst variant makes room for this one.
        let of_chunk = state.entries.keys().filter(|other| other.chunk == chunk && other.tokens == name.tokens);
        let mut others: Vec<Name> = of_chunk.filter(|&&other| other != name).copied().collect();
        others.sort_by(|a, b| self.cost(&state, a).total_cmp(&self.cost(&state, b)));
        let n_over = (others.len() + 1).saturating_sub(self.limits.variants.max(1));
        for other in others.into_iter().take(n_over) {
            self.forget(&mut state, &other);
        }
    }

    /// Notes that a chunk's block was used, and how many tokens that saved.
    pub fn used(&self, chunk: ChunkId, key: &BlockKey, saved_tokens: usize) {
        let name = Name::new(chunk, key);
        let mut state = self.state();
        state.note_use(&name, saved_tokens as u64);
        state.unwritten.push(format!("hit\t{name}\t{saved_tokens}"));
    }

    /// Notes that a chunk had no block.
    pub fn missed(&self, chunk: ChunkId) {
        let mut state = self.state();
        state.note_miss(chunk);
        state.unwritten.push(format!("miss\t{}", chunk.0));
    }

    /// The chunks that were in prompts, those first that were most often, then by id; with how often.
    pub fn asked(&self) -> Vec<(ChunkId, u64)> {
        self.state().by_demand()
    }

    /// Writes new blocks and uses to disk, and makes room where there is too little.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder cannot be written.
    pub fn flush(&self) -> Result<()> {
        let mut state = self.state();
        if let Some(folder) = &self.folder {
            let new: Vec<Name> =
                state.entries.iter().filter(|(_, entry)| !entry.on_disk).map(|(name, _)| *name).collect();
            if !new.is_empty() || !state.unwritten.is_empty() {
                fs::create_dir_all(folder).map_err(Error::io(folder))?;
            }
            for name in new {
                let entry = state.entries.get_mut(&name).expect("names are of entries");
                if let Some(block) = &entry.block {
                    write_block(&path_of(folder, &name), block)?;
                    entry.on_disk = true;
                }
            }
            let lines = std::mem::take(&mut state.unwritten);
            Journal::new(folder.join(USES)).append(&lines)?;
            self.make_room_on_disk(&mut state, folder)?;
        }
        self.make_room_in_memory(&mut state);
        Ok(())
    }

    /// Drops the blocks of chunks that are no more. Gives the number of blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder cannot be read.
    pub fn retain(&self, is_live: &dyn Fn(ChunkId) -> bool) -> Result<usize> {
        let mut state = self.state();
        if let Some(folder) = &self.folder {
            for (name, n_bytes) in files(folder)? {
                state.entries.entry(name).or_insert(Entry { n_bytes, on_disk: true, ..Entry::default() });
            }
        }
        let dead: Vec<Name> = state.entries.keys().filter(|name| !is_live(name.chunk)).copied().collect();
        for name in &dead {
            self.forget(&mut state, name);
        }
        Ok(dead.len())
    }

    /// Writes sums of uses in place of the uses, leaving out those of blocks that are gone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the record cannot be read or replaced.
    pub fn shorten_uses(&self) -> Result<()> {
        self.folder.as_ref().map_or(Ok(()), |folder| shorten(&Journal::new(folder.join(USES)), folder))
    }

    /// Drops all blocks, and what they were good for. Gives the number of blocks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder cannot be read or the record of uses not be removed.
    pub fn clear(&self) -> Result<usize> {
        let n = self.retain(&|_| false)?;
        if let Some(folder) = &self.folder {
            Journal::new(folder.join(USES)).remove()?;
        }
        *self.state() = State::default();
        Ok(n)
    }

    /// Bytes of blocks that the folder has room for without one having to go; without a folder, that memory has.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the folder cannot be read.
    pub fn room(&self) -> Result<u64> {
        let unwritten: u64 =
            self.state().entries.values().filter(|entry| !entry.on_disk).map(|entry| entry.n_bytes).sum();
        let (limit, there) = match &self.folder {
            Some(folder) => (self.limits.disk_bytes, files(folder)?.iter().map(|(_, n_bytes)| n_bytes).sum()),
            None => (self.limits.memory_bytes, 0),
        };
        Ok(limit.saturating_sub(there).saturating_sub(unwritten))
    }

    /// What there is, and what it was good for.
    pub fn usage(&self) -> CacheUsage {
        let state = self.state();
        let on_disk = || state.entries.values().filter(|entry| entry.on_disk);
        CacheUsage {
            blocks: on_disk().count(),
            bytes: on_disk().map(|entry| entry.n_bytes).sum(),
            hits: state.hits,
            misses: state.misses,
            saved_tokens: state.saved_tokens,
        }
    }

    /// The lower, the sooner an entry goes.
    fn cost(&self, state: &State, name: &Name) -> f64 {
        let entry = &state.entries[name];
        match self.limits.eviction {
            Eviction::Value => entry.priority,
            Eviction::LeastRecentlyUsed => entry.last_use as f64,
        }
    }

    fn forget(&self, state: &mut State, name: &Name) {
        if let Some(entry) = state.entries.remove(name)
            && let (true, Some(folder)) = (entry.on_disk, &self.folder)
        {
            // Another process may have been faster.
            let _ = fs::remove_file(path_of(folder, name));
        }
    }

    /// The names of some entries, those that go first in front.
    fn in_order(&self, state: &State, which: impl Fn(&Entry) -> bool) -> Vec<Name> {
        let mut names: Vec<Name> =
            state.entries.iter().filter(|(_, entry)| which(entry)).map(|(name, _)| *name).collect();
        names.sort_by(|a, b| self.cost(state, a).total_cmp(&self.cost(state, b)).then(a.cmp(b)));
        names
    }

    fn make_room_on_disk(&self, state: &mut State, folder: &Path) -> Result<()> {
        // Other processes write too.
        let there: BTreeMap<Name, u64> = files(folder)?.into_iter().collect();
        state.entries.retain(|name, entry| !entry.on_disk || there.contains_key(name) || entry.block.is_some());
        for (&name, &n_bytes) in &there {
            let entry = state.entries.entry(name).or_default();
            (entry.n_bytes, entry.on_disk) = (n_bytes, true);
        }
        let mut n_bytes: u64 = there.values().sum();
        for name in self.in_order(state, |entry| entry.on_disk) {
            if n_bytes <= self.limits.disk_bytes {
                break;
            }
            n_bytes = n_bytes.saturating_sub(state.entries[&name].n_bytes);
            state.clock = state.clock.max(state.entries[&name].priority);
            self.forget(state, &name);
        }
        Ok(())
    }

    fn make_room_in_memory(&self, state: &mut State) {
        let bytes_of = |entry: &Entry| {
            entry.block.as_ref().filter(|block| block.is_resident()).map_or(0, |block| block.n_bytes() as u64)
        };
        let mut n_bytes: u64 = state.entries.values().map(bytes_of).sum();
        for name in self.in_order(state, |entry| bytes_of(entry) > 0) {
            if n_bytes <= self.limits.memory_bytes {
                break;
            }
            let entry = state.entries.get_mut(&name).expect("names are of entries");
            n_bytes -= bytes_of(entry);
            entry.block = None;
            if !entry.on_disk {
                state.clock = state.clock.max(entry.priority);
                state.entries.remove(&name);
            }
        }
    }

    /// Brings blocks of files into memory as far as there is room, so that they need not be read again.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] and [`Error::Damaged`] when a file cannot be read.
    pub fn keep_resident(&self, chunk: ChunkId, block: &KvBlock) -> Result<KvBlock> {
        let resident = block.resident()?;
        let mut state = self.state();
        if let Some(entry) = state.entries.get_mut(&Name::new(chunk, block.key())) {
            entry.block = Some(resident.clone());
        }
        self.make_room_in_memory(&mut state);
        Ok(resident)
    }
}

impl State {
    fn note_use(&mut self, name: &Name, saved_tokens: u64) {
        self.hits += 1;
        self.saved_tokens = self.saved_tokens.saturating_add(saved_tokens);
        *self.asked.entry(name.chunk).or_default() += 1;
        self.note_saved(name, saved_tokens);
    }

    fn note_miss(&mut self, chunk: ChunkId) {
        self.misses += 1;
        *self.asked.entry(chunk).or_default() += 1;
    }

    fn note_saved(&mut self, name: &Name, saved_tokens: u64) {
        self.now += 1;
        let (clock, now) = (self.clock, self.now);
        if let Some(entry) = self.entries.get_mut(name) {
            // Bytes grow with tokens, so this is work for size.
            entry.priority = entry.priority.max(clock) + saved_tokens as f64 / entry.n_bytes.max(1) as f64 * 1e4;
            entry.last_use = now;
            entry.saved_tokens = entry.saved_tokens.saturating_add(saved_tokens);
        }
    }

    fn by_demand(&self) -> Vec<(ChunkId, u64)> {
        let mut asked: Vec<(ChunkId, u64)> = self.asked.iter().map(|(&chunk, &n)| (chunk, n)).collect();
        asked.sort_unstable_by_key(|&(chunk, n)| (std::cmp::Reverse(n), chunk));
        asked
    }

    /// Takes in what processes noted before. Lines that cannot be read are of another time and are left out.
    fn take_uses(&mut self, lines: &[String]) {
        for line in lines {
            let fields: Vec<&str> = line.split('\t').collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
            let chunk = || fields.get(1).and_then(|field| field.parse().ok()).map(ChunkId);
            let name = || fields.get(1).and_then(|field| Name::parse(field));
            match fields[0] {
                "hit" => {
                    if let (Some(name), Some(saved)) = (name(), number(2)) {
                        self.note_use(&name, saved);
                    }
                }
                "miss" => {
                    if let Some(chunk) = chunk() {
                        self.note_miss(chunk);
                    }
                }
                "sums" => {
                    if let (Some(hits), Some(misses), Some(saved)) = (number(1), number(2), number(3)) {
                        self.hits = self.hits.saturating_add(hits);
                        self.misses = self.misses.saturating_add(misses);
                        self.saved_tokens = self.saved_tokens.saturating_add(saved);
                    }
                }
                "saved" => {
                    if let (Some(name), Some(saved)) = (name(), number(2)) {
                        self.note_saved(&name, saved);
                    }
                }
                "asked" => {
                    if let (Some(chunk), Some(n)) = (chunk(), number(2)) {
                        let asked = self.asked.entry(chunk).or_default();
                        *asked = asked.saturating_add(n);
                    }
                }
                _ => {}
            }
        }
    }

    /// Fewer lines that say the same of the blocks that there are.
    fn uses(&self) -> Vec<String> {
        let mut lines = vec![format!("sums\t{}\t{}\t{}", self.hits, self.misses, self.saved_tokens)];
        lines.extend(self.by_demand().iter().take(ASKED_CHUNKS).map(|(chunk, n)| format!("asked\t{}\t{n}", chunk.0)));
        let mut used: Vec<(&Name, &Entry)> = self.entries.iter().filter(|(_, entry)| entry.last_use > 0).collect();
        used.sort_unstable_by_key(|(_, entry)| entry.last_use);
        lines.extend(used.iter().map(|(name, entry)| format!("saved\t{name}\t{}", entry.saved_tokens)));
        lines
    }
}

/// Puts sums in place of a folder's record of uses.
fn shorten(uses: &Journal, folder: &Path) -> Result<()> {
    let mut state = State::default();
    for (name, n_bytes) in files(folder)? {
        state.entries.insert(name, Entry { n_bytes, on_disk: true, ..Entry::default() });
    }
    uses.rewrite(|lines| {
        state.take_uses(&lines);
        state.uses()
    })
}

fn path_of(folder: &Path, name: &Name) -> PathBuf {
    folder.join(format!("{name}.{EXTENSION}"))
}

/// The blocks in a folder with their bytes; none if there is no folder.
fn files(folder: &Path) -> Result<Vec<(Name, u64)>> {
    let listed = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(Error::io(folder))?,
    };
    let mut found = Vec::new();
    for file in listed {
        let file = file.map_err(Error::io(folder))?;
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION)
            && let Some(name) = path.file_stem().and_then(|stem| Name::parse(&stem.to_string_lossy()))
            && let Ok(metadata) = file.metadata()
        {
            found.push((name, metadata.len()));
        }
    }
    Ok(found)
}
