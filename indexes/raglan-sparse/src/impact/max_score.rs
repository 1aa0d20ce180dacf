//! MaxScore, a block at a time (Turtle and Flood 1995; blocks in place of single documents).
//!
//! Terms are sorted by what they can add at most. Those whose bounds together do not reach the threshold are not
//! essential: no chunk gets among the best by them alone. Only blocks of the others are visited; a block whose essential
//! maxima and the bounds of the rest do not reach the threshold is passed over, and the rest are looked up from the
//! greatest down for as long as one of its chunks can still reach it.

use super::part::TermRuns;
use super::part_file::BLOCK;

/// What keeps the docs that are found.
pub trait Collector {
    /// Sums below this one are not wanted any more; at least 1.
    fn floor(&self) -> u32;

    /// Takes a doc with its sum.
    fn push(&mut self, sum: u32, doc: u32);
}

/// A term's runs, and how far they have been walked.
struct Cursor<'a> {
    runs: &'a TermRuns<'a>,
    run: usize,
    /// The block of `run`; past the last, greater than every block.
    block: u32,
    /// Where the postings of `run` begin.
    posting: usize,
}

impl<'a> Cursor<'a> {
    fn new(runs: &'a TermRuns<'a>) -> Self {
        let mut cursor = Self { runs, run: 0, block: 0, posting: runs.first_posting(0) };
        cursor.go_to(0);
        cursor
    }

    #[inline(always)]
    fn go_to(&mut self, run: usize) {
        self.run = run;
        self.block = self.runs.blocks.get(run).map_or(u32::MAX, |&block| u32::from(block));
    }

    /// What the next run can add at most.
    #[inline]
    fn max(&self) -> u32 {
        self.runs.weight * u32::from(self.runs.maxima[self.run])
    }

    #[inline(always)]
    fn add(&mut self, sums: &mut [u32; BLOCK]) {
        self.posting = self.runs.add(self.run, self.posting, sums);
        self.go_to(self.run + 1);
    }

    #[inline]
    fn pass(&mut self) {
        self.posting += self.runs.run_length(self.run);
        self.go_to(self.run + 1);
    }

    /// Goes to the first run of `block` or a later one.
    fn seek(&mut self, block: u32) {
        if self.block >= block {
            return;
        }
        let blocks = &self.runs.blocks[self.run..];
        let mut step = 1;
        while step < blocks.len() && u32::from(blocks[step]) < block {
            step *= 2;
        }
        let (begin, end) = (step / 2, blocks.len().min(step + 1));
        let passed = begin + blocks[begin..end].partition_point(|&other| u32::from(other) < block);
        self.go_to(self.run + passed);
        self.posting = self.runs.first_posting(self.run);
    }
}

/// Gives `found` the docs of a part that reach its floor, of those whose bits are in `mask`.
pub fn max_score<'a>(runs: impl IntoIterator<Item = &'a TermRuns<'a>>, mask: &[u64], found: &mut impl Collector) {
    let mut cursors: Vec<Cursor<'_>> = runs.into_iter().map(Cursor::new).collect();
    cursors.sort_by_key(|cursor| cursor.runs.bound());
    // What the terms up to each can add at most.
    let bounds: Vec<u32> = cursors
        .iter()
        .scan(0_u32, |sum, cursor| {
            *sum = sum.wrapping_add(cursor.runs.bound());
            Some(*sum)
        })
        .collect();
    let mut first_essential = 0;
    loop {
        while first_essential < cursors.len() && bounds[first_essential] < found.floor() {
            first_essential += 1;
        }
        let (others, essential) = cursors.split_at_mut(first_essential);
        let block = essential.iter().map(|cursor| cursor.block).min().unwrap_or(u32::MAX);
        let Some(&mask) = mask.get(block as usize) else { return };
        let rest = first_essential.checked_sub(1).map_or(0, |last| bounds[last]);
        let here = essential.iter().filter(|cursor| cursor.block == block);
        let bound = here.fold(rest, |sum, cursor| sum.wrapping_add(cursor.max()));
        if mask == 0 || bound < found.floor() {
            essential.iter_mut().filter(|cursor| cursor.block == block).for_each(Cursor::pass);
            continue;
        }
        let mut sums = [0; BLOCK];
        for cursor in essential.iter_mut().filter(|cursor| cursor.block == block) {
            cursor.add(&mut sums);
        }
        if add_others(others, &bounds, block, &mut sums, found.floor()) {
            push_block(block, mask, &sums, found);
        }
    }
}

/// Adds what the terms that are not essential are worth in a block; says whether one of its chunks may reach the floor.
fn add_others(others: &mut [Cursor<'_>], bounds: &[u32], block: u32, sums: &mut [u32; BLOCK], floor: u32) -> bool {
    let mut most = sums.iter().copied().max().expect("a block has docs");
    for (cursor, &bound) in others.iter_mut().zip(bounds).rev() {
        if most.wrapping_add(bound) < floor {
            return false;
        }
        cursor.seek(block);
        if cursor.block == block {
            cursor.add(sums);
            most = sums.iter().copied().max().expect("a block has docs");
        }
    }
    most >= floor
}

pub fn push_block(block: u32, mask: u64, sums: &[u32; BLOCK], found: &mut impl Collector) {
    // Few docs of a block reach the floor: most groups are passed over whole.
    const GROUP: usize = 8;
    for (group, sums) in sums.as_chunks::<GROUP>().0.iter().enumerate() {
        let mut most = 0;
        for &sum in sums {
            most = most.max(sum);
        }
        if most < found.floor() {
            continue;
        }
        for (lane, &sum) in sums.iter().enumerate() {
            let doc = group * GROUP + lane;
            if sum >= found.floor() && mask >> doc & 1 == 1 {
                found.push(sum, block * BLOCK as u32 + doc as u32);
            }
        }
    }
}
