//! Pages of keys and values: which are free, and which sequences share them.

use crate::{Error, Result};

/// Tokens of a page. A page is what attention takes at a time, so that a chunk begins with a page of its own.
pub const PAGE_TOKENS: usize = 64;

/// Hands out the pages of one arena.
///
/// A page can have several holders (sequences that begin alike, or that read the same chunk); it is free again when the
/// last has given it back. Of free pages the one with the lowest number goes first.
#[derive(Clone, Debug)]
pub struct PagePool {
    holders: Vec<u32>,
    free: std::collections::BTreeSet<u32>,
}

impl PagePool {
    /// A pool whose pages are all free.
    pub fn new(n_pages: u32) -> Self {
        Self { holders: vec![0; n_pages as usize], free: (0..n_pages).collect() }
    }

    /// How many pages nobody holds.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// Takes pages for `n_tokens` tokens.
    ///
    /// # Errors
    ///
    /// [`Error::Pages`] when there are not so many; none is taken then.
    pub fn take(&mut self, n_tokens: usize) -> Result<Vec<u32>> {
        let needed = n_tokens.div_ceil(PAGE_TOKENS);
        if needed > self.free.len() {
            return Err(Error::Pages { needed, free: self.free.len() });
        }
        let pages: Vec<u32> = (0..needed).filter_map(|_| self.free.pop_first()).collect();
        pages.iter().for_each(|&page| self.holders[page as usize] = 1);
        Ok(pages)
    }

    /// Takes pages that are held already once more.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when nobody holds one of them; none is taken then.
    pub fn share(&mut self, pages: &[u32]) -> Result<()> {
        self.check(pages)?;
        pages.iter().for_each(|&page| self.holders[page as usize] += 1);
        Ok(())
    }

    /// Gives pages back, each once.
    ///
    /// # Errors
    ///
    /// [`Error::Row`] when nobody holds one of them.
    pub fn give_back(&mut self, pages: &[u32]) -> Result<()> {
        for &page in pages {
            self.check(&[page])?;
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders == 0 {
                self.free.insert(page);
            }
        }
        Ok(())
    }

    fn check(&self, pages: &[u32]) -> Result<()> {
        let missing = pages.iter().find(|&&page| self.holders.get(page as usize).is_none_or(|&holders| holders == 0));
        match missing {
            Some(&page) => Err(Error::Row { row: page as usize, n_rows: self.holders.len() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_taken_shared_and_given_back() {
        let mut pool = PagePool::new(4);
        let first = pool.take(PAGE_TOKENS + 1).unwrap();
        assert_eq!(first, [0, 1]);
        pool.share(&first[..1]).unwrap();
        pool.give_back(&first).unwrap();
        assert_eq!(pool.n_free(), 3, "one page is still held");
        assert_eq!(pool.take(PAGE_TOKENS).unwrap(), [1], "the lowest free page");
        pool.give_back(&[0]).unwrap();
        assert_eq!(pool.take(0).unwrap(), []);
        assert_eq!(pool.take(4 * PAGE_TOKENS), Err(Error::Pages { needed: 4, free: 3 }));
        assert_eq!(pool.n_free(), 3);
    }

    #[test]
    fn pages_that_nobody_holds_are_refused() {
        let mut pool = PagePool::new(2);
        assert_eq!(pool.give_back(&[0]), Err(Error::Row { row: 0, n_rows: 2 }));
        assert_eq!(pool.share(&[7]), Err(Error::Row { row: 7, n_rows: 2 }));
    }
}
