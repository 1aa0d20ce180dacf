//! Which pages a tile of rows visits.

use super::EMPTY_SLOT;
use crate::attention::AttentionMask;

/// The least and the greatest of some positions and segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    positions: (u32, u32),
    segments: (u32, u32),
    /// Whether some slot is empty.
    holes: bool,
}

impl Bounds {
    pub fn of(positions: &[u32], segments: &[u32]) -> Self {
        let bounds = |numbers: &mut dyn Iterator<Item = u32>| {
            numbers.fold((u32::MAX, 0), |(low, high), number| (low.min(number), high.max(number)))
        };
        Self {
            positions: bounds(&mut positions.iter().copied().filter(|&position| position != EMPTY_SLOT)),
            segments: bounds(&mut segments.iter().copied()),
            holes: positions.contains(&EMPTY_SLOT),
        }
    }

    /// Those of a page, if it has a token. Segments of empty slots count too, which makes a mask of what needs none.
    pub fn of_page(positions: &[u32], segments: &[u32]) -> Option<Self> {
        positions.iter().any(|&position| position != EMPTY_SLOT).then(|| Self::of(positions, segments))
    }

    /// What rows within these bounds see of such a page.
    fn sees(&self, page: &Self, mask: &AttentionMask) -> Sight {
        let (first, last) = self.positions;
        let (least, greatest) = page.positions;
        let window = mask.window.unwrap_or(u32::MAX);
        let one = |(low, high): (u32, u32)| (low == high).then_some(low);
        let all_segments = one(self.segments) == Some(u32::MAX) || page.segments == (0, 0);
        let out_of_window = first.saturating_sub(greatest) >= window && least >= mask.sinks;
        let other_segment = !all_segments
            && matches!((one(self.segments), one(page.segments)), (Some(own), Some(other)) if own != other && other != 0);
        let in_window = mask.window.is_none() || last.saturating_sub(least) < window || greatest < mask.sinks;
        let same_segment = matches!((one(self.segments), one(page.segments)), (Some(own), Some(other)) if own == other);
        if least > last || out_of_window || other_segment {
            Sight::Nothing
        } else if !page.holes && greatest <= first && in_window && (all_segments || same_segment) {
            Sight::All
        } else {
            Sight::Some
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sight {
    Nothing,
    Some,
    All,
}

/// Which pages each tile of rows visits.
#[derive(Debug, PartialEq, Eq)]
pub struct Visits {
    /// Where each tile's visits begin, and where the last one's end.
    pub starts: Vec<u32>,
    /// Twice the number of a page, plus one where a mask is needed.
    pub visits: Vec<u32>,
    /// The tiles, those with most visits first.
    pub order: Vec<u32>,
}

impl Visits {
    pub fn new(tiles: &[Bounds], pages: &[Option<Bounds>], mask: &AttentionMask, weighted: bool) -> Self {
        let (mut starts, mut visits) = (vec![0], Vec::new());
        for tile in tiles {
            for (number, page) in pages.iter().enumerate() {
                match page.as_ref().map_or(Sight::Nothing, |page| tile.sees(page, mask)) {
                    Sight::Nothing => {}
                    Sight::All if !weighted => visits.push(2 * number as u32),
                    Sight::All | Sight::Some => visits.push(2 * number as u32 + 1),
                }
            }
            starts.push(visits.len() as u32);
        }
        let mut order: Vec<u32> = (0..tiles.len() as u32).collect();
        order.sort_by_key(|&tile| std::cmp::Reverse(starts[tile as usize + 1] - starts[tile as usize]));
        Self { starts, visits, order }
    }
}
