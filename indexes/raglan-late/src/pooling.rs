//! Fewer vectors a text: like tokens become one.

use raglan_core::TokenMatrix;
use raglan_kernels::l2_normalize;

/// Merges a text's token vectors into `⌈n / factor⌉`, by Ward's clustering; each new vector is the mean of its cluster,
/// brought to length 1, and stands where its first token stood.
///
/// Ward's method merges, again and again, the two clusters whose union has the least more variance (Ward 1963). On trained
/// late-interaction models a factor of 2 costs next to nothing, and 3 about a hundredth (Clavié, Chaffin and Adams 2024).
/// The cost is `n³` steps at worst for a text of `n` tokens, and `n²` products.
///
/// # Panics
///
/// When `factor` is 0.
pub fn pool_tokens(text: &TokenMatrix, factor: usize) -> TokenMatrix {
    let (n, dim) = (text.n_tokens(), text.dim());
    let wanted = n.div_ceil(factor);
    if wanted == n {
        return text.clone();
    }
    // Increase of variance by merging clusters a < b, at `a · n + b`: at first half the squared distance.
    let rows: Vec<&[f32]> = text.rows().collect();
    let mut cost = vec![f64::INFINITY; n * n];
    for a in 0..n {
        for b in a + 1..n {
            let square = |(x, y): (&f32, &f32)| f64::from(x - y) * f64::from(x - y);
            cost[a * n + b] = rows[a].iter().zip(rows[b]).map(square).sum::<f64>() / 2.0;
        }
    }
    let mut members: Vec<Vec<usize>> = (0..n).map(|token| vec![token]).collect();
    // The cheapest partner after each cluster.
    let cheapest = |cost: &[f64], a: usize| {
        let row = &cost[a * n..(a + 1) * n];
        let least = |best: (usize, f64), (b, &cost): (usize, &f64)| if cost < best.1 { (b, cost) } else { best };
        row.iter().enumerate().fold((a, f64::INFINITY), least)
    };
    let mut nearest: Vec<(usize, f64)> = (0..n).map(|a| cheapest(&cost, a)).collect();
    for _ in wanted..n {
        let least = |best: usize, a: usize| if nearest[a].1 < nearest[best].1 { a } else { best };
        let a = (0..n).reduce(least).expect("there are tokens");
        let b = nearest[a].0;
        let (n_a, n_b, joined) = (members[a].len() as f64, members[b].len() as f64, cost[a * n + b]);
        let merged = std::mem::take(&mut members[b]);
        members[a].extend(merged);
        for c in (0..n).filter(|&c| c != a && !members[c].is_empty()) {
            let n_c = members[c].len() as f64;
            let (to_a, to_b) = (a.min(c) * n + a.max(c), b.min(c) * n + b.max(c));
            // Lance and Williams's update.
            cost[to_a] = ((n_a + n_c) * cost[to_a] + (n_b + n_c) * cost[to_b] - n_c * joined) / (n_a + n_b + n_c);
        }
        for c in 0..n {
            cost[b.min(c) * n + b.max(c)] = f64::INFINITY;
        }
        nearest[b].1 = f64::INFINITY;
        for c in 0..n {
            // Only costs of pairs with `a` or `b` have changed.
            if c == a || (!members[c].is_empty() && (c < a || nearest[c].0 == b)) {
                nearest[c] = cheapest(&cost, c);
            }
        }
    }
    let mut pooled = Vec::with_capacity(wanted * dim);
    for tokens in members.iter().filter(|tokens| !tokens.is_empty()) {
        let mut mean = vec![0.0f64; dim];
        for &token in tokens {
            mean.iter_mut().zip(rows[token]).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        pooled.extend(mean.iter().map(|sum| (sum / tokens.len() as f64) as f32));
    }
    l2_normalize(&mut pooled, dim).expect("rows are whole");
    TokenMatrix::new(dim, pooled).expect("means of finite vectors are finite")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_tokens_become_one() {
        let rows = vec![1.0, 0.0, 0.0, 1.0, 0.995, 0.0998, 0.0998, 0.995, 0.0, -1.0];
        let pooled = pool_tokens(&TokenMatrix::new(2, rows.clone()).unwrap(), 2);
        assert_eq!(pooled.n_tokens(), 3); // ⌈5 / 2⌉
        let want = [[0.9988, 0.05], [0.05, 0.9988], [0.0, -1.0]];
        for (got, want) in pooled.rows().zip(want) {
            assert!((got[0] - want[0]).abs() <= 1e-3 && (got[1] - want[1]).abs() <= 1e-3, "{got:?} is not {want:?}");
        }
        let text = TokenMatrix::new(2, rows).unwrap();
        assert_eq!(pool_tokens(&text, 1), text);
        assert_eq!(pool_tokens(&text, 100).n_tokens(), 1);
        assert_eq!(pool_tokens(&TokenMatrix::new(2, vec![]).unwrap(), 3).n_tokens(), 0);
    }
}
