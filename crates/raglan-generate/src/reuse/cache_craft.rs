//! How far a block can be trusted behind other neighbours than it had (Agarwal et al. 2025, Cache-Craft).

use raglan_kv::{BlockStatistics, TokensHash};

/// The share of a block that has to be computed anew: `clamp(alpha · CCI · (1 − β'), 0, 1)`, with
/// `CCI = 1 / (1 + exp(−ā/b̄))`, `β` the share of the attention to old neighbours that goes to ones that are before it
/// now too, and `β' = β (1 − γ)`, `γ` being the share of pairs of these that stand the other way round.
///
/// A block that had no neighbours fits only where it has none now.
pub fn fix_share(alpha: f32, statistics: &BlockStatistics, before: &[TokensHash]) -> f32 {
    let BlockStatistics { neighbours, outside, inside, .. } = statistics;
    let total: f32 = neighbours.iter().map(|(_, paid)| paid).sum();
    // Places now of the old neighbours that are still there, in their old order.
    let mut kept = Vec::new();
    let mut kept_attention = 0.0;
    for (neighbour, paid) in neighbours {
        if let Some(at) = before.iter().position(|hash| hash == neighbour) {
            kept.push(at);
            kept_attention += paid;
        }
    }
    let beta = match (neighbours.is_empty(), before.is_empty()) {
        (true, true) => 1.0,
        (true, false) => 0.0,
        _ if total > 0.0 => kept_attention / total,
        _ => 1.0,
    };
    let pairs = kept.len() * kept.len().saturating_sub(1) / 2;
    let discordant = (0..kept.len()).flat_map(|i| (i + 1..kept.len()).map(move |j| (i, j)));
    let discordant = discordant.filter(|&(i, j)| kept[i] > kept[j]).count();
    let gamma = if pairs == 0 { 0.0 } else { discordant as f32 / pairs as f32 };
    let shift = 1.0 - beta * (1.0 - gamma);
    if shift <= 0.0 {
        return 0.0; // However large alpha is.
    }
    let impact = 1.0 / (1.0 + (-outside / inside.max(f32::MIN_POSITIVE)).exp());
    (alpha * impact * shift).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(name: &str) -> TokensHash {
        TokensHash::of_text(name)
    }

    #[track_caller]
    fn check(old: &[(&str, f32)], now: &[&str], share: f32) {
        let neighbours = old.iter().map(|(name, paid)| (hash(name), *paid)).collect();
        let statistics = BlockStatistics { neighbours, outside: 1.0, inside: 2.0, ..BlockStatistics::default() };
        let now: Vec<_> = now.iter().map(|name| hash(name)).collect();
        let got = fix_share(1.0, &statistics, &now);
        assert!((got - share).abs() <= 1e-6, "{got} instead of {share}");
    }

    const CCI: f32 = 0.622_459_3; // 1 / (1 + exp(-1/2))

    #[test]
    fn the_share_goes_by_the_neighbours_that_are_lost_and_their_order() {
        check(&[("a", 3.0), ("b", 1.0)], &["a", "b"], 0.0);
        check(&[("a", 3.0), ("b", 1.0)], &["a", "x", "b"], 0.0);
        check(&[("a", 3.0), ("b", 1.0)], &["b", "a"], CCI); // The one pair is turned round.
        check(&[("a", 3.0), ("b", 1.0)], &["a"], 0.25 * CCI);
        check(&[("a", 3.0), ("b", 1.0)], &["x"], CCI);
        check(&[("a", 1.0), ("b", 1.0), ("c", 2.0)], &["a", "c", "b"], CCI / 3.0); // One of three pairs.
        check(&[], &[], 0.0);
        check(&[], &["a"], CCI);
    }

    #[test]
    fn alpha_scales_up_to_all() {
        let statistics = BlockStatistics { outside: 0.0, inside: 1.0, ..BlockStatistics::default() };
        for (alpha, share) in [(0.0, 0.0), (0.5, 0.25), (1.0, 0.5), (3.0, 1.0), (f32::INFINITY, 1.0)] {
            assert_eq!(fix_share(alpha, &statistics, &[hash("a")]), share);
            assert_eq!(fix_share(alpha, &statistics, &[]), 0.0);
        }
    }
}
