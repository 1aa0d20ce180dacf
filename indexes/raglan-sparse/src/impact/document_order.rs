//! An order in which similar chunks are neighbours, so that few blocks hold what a query seeks.

use rayon::prelude::*;

/// Components of a sketch.
const DIM: usize = 64;
/// Sets of at most this many chunks are left as they are: less than a block.
const LEAF: usize = 32;
/// Steps of the power iteration; the direction need not be exact.
const STEPS: usize = 3;
/// Sets of more chunks than this are halved in parallel.
const PARALLEL: usize = 4096;

type Sketch = [f32; DIM];

/// Rows of a matrix in compressed form: row `i` has the entries from `starts[i]` to `starts[i + 1]`.
pub struct Rows<'a> {
    pub starts: &'a [u32],
    pub terms: &'a [u32],
    pub impacts: &'a [u8],
}

/// The rows in an order in which similar ones are near to each other.
///
/// Each row is sketched: every term adds its impact, with the sign that a hash gives it, to one of 64 components
/// (feature hashing, Weinberger et al. 2009), and the sketch is brought to unit length. The rows are then halved at the
/// median of their first principal component, again and again. The order depends on nothing but the rows.
pub fn document_order(rows: &Rows<'_>) -> Vec<u32> {
    let n = rows.starts.len() - 1;
    let sketches: Vec<Sketch> = (0..n).into_par_iter().with_min_len(256).map(|row| sketch(rows, row)).collect();
    let mut order: Vec<(f32, u32)> = (0..n as u32).map(|row| (0.0, row)).collect();
    halve(&sketches, &mut order);
    order.into_iter().map(|(_, row)| row).collect()
}

fn sketch(rows: &Rows<'_>, row: usize) -> Sketch {
    let mut sketch = [0.0; DIM];
    for at in rows.starts[row] as usize..rows.starts[row + 1] as usize {
        let hash = rows.terms[at].wrapping_mul(0x9E37_79B1); // Knuth's multiplicative hash: 2³² / φ.
        let impact = f32::from(rows.impacts[at]);
        sketch[(hash >> 26) as usize] += if hash >> 25 & 1 == 0 { impact } else { -impact };
    }
    let norm = dot(&sketch, &sketch).sqrt();
    if norm > 0.0 {
        for x in &mut sketch {
            *x /= norm;
        }
    }
    sketch
}

#[inline(always)]
fn dot(a: &Sketch, b: &Sketch) -> f32 {
    let mut lanes = [0.0; 16];
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

/// Orders rows by halving them along their first principal component; the numbers beside them are scratch.
fn halve(sketches: &[Sketch], rows: &mut [(f32, u32)]) {
    if rows.len() <= LEAF {
        rows.sort_unstable_by_key(|&(_, row)| row);
        return;
    }
    let direction = principal_component(sketches, rows);
    for (along, row) in rows.iter_mut() {
        *along = dot(&sketches[*row as usize], &direction);
    }
    // Halves are whole numbers of leaves, so that blocks do not cross them.
    let middle = (rows.len() / 2).next_multiple_of(LEAF);
    if middle < rows.len() {
        rows.select_nth_unstable_by(middle, |a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    }
    let parallel = rows.len() > PARALLEL;
    let (left, right) = rows.split_at_mut(middle);
    // The order within a half is that of the selection, which does not depend on anything but the rows; sums over it
    // are the same whoever runs.
    if parallel {
        rayon::join(|| halve(sketches, left), || halve(sketches, right));
    } else {
        halve(sketches, left);
        halve(sketches, right);
    }
}

/// The direction in which the rows differ most, by power iteration on their covariance.
fn principal_component(sketches: &[Sketch], rows: &[(f32, u32)]) -> Sketch {
    let mut mean = [0.0; DIM];
    for &(_, row) in rows {
        for (mean, x) in mean.iter_mut().zip(&sketches[row as usize]) {
            *mean += x;
        }
    }
    for mean in &mut mean {
        *mean /= rows.len() as f32;
    }
    // From the row that is farthest from the mean, which is not at right angles to the direction that is sought.
    let far =
        rows.iter().map(|&(_, row)| &sketches[row as usize]).min_by(|a, b| dot(a, &mean).total_cmp(&dot(b, &mean)));
    let mut direction = *far.expect("there are rows");
    for (x, mean) in direction.iter_mut().zip(&mean) {
        *x -= mean;
    }
    for _ in 0..STEPS {
        let offset = dot(&direction, &mean);
        let mut next = [0.0; DIM];
        for &(_, row) in rows {
            let sketch = &sketches[row as usize];
            let along = dot(sketch, &direction) - offset;
            for (next, x) in next.iter_mut().zip(sketch) {
                *next += along * x;
            }
        }
        // Σ along · (x − mean), where Σ along = 0.
        let norm = dot(&next, &next).sqrt();
        if norm == 0.0 {
            break;
        }
        direction = next.map(|x| x / norm);
    }
    direction
}
