use super::*;

fn ranking(hits: &[(u32, f32)]) -> Ranking {
    Ranking::best(hits.iter().map(|&(id, score)| Hit::new(ChunkId(id), score)).collect(), hits.len()).unwrap()
}

/// Fuses the lists with the method's own weights and compares ids and scores, best first.
#[track_caller]
fn check(fusion: &Fusion, lists: &[&[(u32, f32)]], weights: &[f32], expected: &[(u32, f64)]) {
    let lists: Vec<_> = lists.iter().map(|hits| ranking(hits)).collect();
    let lists: Vec<_> = lists.iter().collect();
    let fused = fusion.fuse(&lists, weights, 1000, 1000).unwrap();
    let ids: Vec<_> = fused.ids().iter().map(|id| id.0).collect();
    assert_eq!(ids, expected.iter().map(|&(id, _)| id).collect::<Vec<_>>(), "{fused:?}");
    for (hit, (id, want)) in fused.hits().iter().zip(expected) {
        assert!((f64::from(hit.score) - want).abs() <= 1e-6, "chunk {id}: {} is not {want}", hit.score);
    }
}

const BM25: &[(u32, f32)] = &[(1, 12.0), (2, 8.0), (3, 4.0)];
const DENSE: &[(u32, f32)] = &[(3, 0.9), (1, 0.5), (4, 0.1)];

#[test]
fn min_max_by_hand() {
    let expected = [
        (1, 0.75), // ½·(12−4)/(12−4) + ½·(0.5−0.1)/(0.9−0.1) = 0.5 + 0.25
        (3, 0.5),  // ½·0 + ½·1
        (2, 0.25), // ½·(8−4)/8 + absent
        (4, 0.0),  // absent + ½·0
    ];
    check(&Fusion::MIN_MAX, &[BM25, DENSE], &[], &expected);
}

#[test]
fn min_max_from_the_least_possible_score() {
    let expected = [
        (1, 0.894_736_8), // ½·12/12 + ½·(0.5+1)/(0.9+1) = 0.5 + 0.75/1.9
        (3, 0.666_666_7), // ½·4/12 + ½·1
        (2, 0.333_333_3), // ½·8/12
        (4, 0.289_473_7), // ½·(0.1+1)/1.9
    ];
    check(&Fusion::MinMax { minima: vec![0.0, -1.0] }, &[BM25, DENSE], &[], &expected);
}

#[test]
fn z_score_by_hand() {
    // Both lists have three equidistant scores: σ = step·√(2/3), so the values are √1.5, 0, −√1.5 = ±1.2247449.
    let expected = [
        (1, 0.612_372_4),  // ½·√1.5 + ½·0
        (3, 0.0),          // ½·(−√1.5) + ½·√1.5
        (2, -0.612_372_4), // ½·0 + ½·absent, the least value −√1.5
        (4, -1.224_744_9), // ½·absent + ½·(−√1.5)
    ];
    check(&Fusion::ZScore, &[BM25, DENSE], &[], &expected);
}

#[test]
fn distribution_based_by_hand() {
    // Equidistant scores: sample σ = step, so the values are 0.5 + 1/6, 0.5 and 0.5 − 1/6.
    let expected = [
        (1, 1.166_666_7), // 4/6 + 3/6
        (3, 1.0),         // 2/6 + 4/6
        (2, 0.5),         // 3/6
        (4, 0.333_333_3), // 2/6
    ];
    check(&Fusion::DistributionBased, &[BM25, DENSE], &[], &expected);
}

#[test]
fn auto_weighs_a_list_by_how_far_its_first_stands_out() {
    // Values: 1, 0.75, 0 and 1, 0.5, 0, 0. What is left of 1 behind their means: 1 − 1.75/3 = 5/12, 1 − 1.5/4 = 7.5/12.
    // So the weights, ½ each before, are 0.4 and 0.6.
    let (close, apart): (&[_], &[_]) = (&[(1, 8.0), (2, 7.0), (3, 4.0)], &[(3, 3.0), (1, 2.0), (4, 1.0), (5, 1.0)]);
    let expected = [
        (1, 0.7), // 0.4 · 1 + 0.6 · 0.5
        (3, 0.6), // 0.4 · 0 + 0.6 · 1
        (2, 0.3), // 0.4 · 0.75
        (4, 0.0),
        (5, 0.0),
    ];
    check(&Fusion::Auto, &[close, apart], &[], &expected);
    // 3 · 5/12 and 1 · 7.5/12, that is 1.25 and 0.625, scaled to a sum of 4.
    let expected = [
        (1, 3.333_333_3), // 8/3 · 1 + 4/3 · 0.5
        (2, 2.0),         // 8/3 · 0.75
        (3, 1.333_333_3), // 4/3 · 1
        (4, 0.0),
        (5, 0.0),
    ];
    check(&Fusion::Auto, &[close, apart], &[3.0, 1.0], &expected);
}

#[test]
fn auto_of_lists_that_say_nothing_keeps_the_weights() {
    // Equal scores have the value 0.5, of which 0.5 is left; an empty list has nothing to weigh.
    check(&Fusion::Auto, &[&[(1, 2.0), (2, 2.0)], &[]], &[], &[(1, 0.5), (2, 0.5)]);
    check(&Fusion::Auto, &[&[], &[]], &[], &[]);
    check(&Fusion::Auto, &[&[(7, 1.0)]], &[2.0], &[(7, 1.0)]); // 2 · 0.5
}

#[test]
fn distribution_based_does_not_clamp() {
    // 99 scores of 0 and one of 1: μ = 0.01, σ² = (0.99² + 99·0.01²)/99 = 0.01, σ = 0.1.
    let mut hits: Vec<(u32, f32)> = (0..99).map(|id| (id, 0.0)).collect();
    hits.push((99, 1.0));
    let fused = Fusion::DistributionBased.fuse(&[&ranking(&hits)], &[], 1000, 2).unwrap();
    let (best, next) = (fused.hits()[0], fused.hits()[1]);
    assert_eq!((best.chunk.0, next.chunk.0), (99, 0));
    assert!((f64::from(best.score) - 2.15).abs() <= 1e-6); // (1 − (0.01 − 0.3)) / 0.6 = 1.29/0.6
    assert!((f64::from(next.score) - 0.483_333_3).abs() <= 1e-6); // (0 + 0.29) / 0.6
}

#[test]
fn reciprocal_rank_by_hand() {
    let expected = [
        (1, 0.032_522_5), // 1/61 + 1/62
        (3, 0.032_266_5), // 1/63 + 1/61
        (2, 0.016_129_0), // 1/62
        (4, 0.015_873_0), // 1/63
    ];
    check(&Fusion::RECIPROCAL_RANK, &[BM25, DENSE], &[], &expected);
}

#[test]
fn weights_multiply_the_values() {
    let expected = [
        (3, 0.8), // 0.2·0 + 0.8·1
        (1, 0.6), // 0.2·1 + 0.8·0.5
        (2, 0.1), // 0.2·0.5
        (4, 0.0),
    ];
    check(&Fusion::MIN_MAX, &[BM25, DENSE], &[0.2, 0.8], &expected);
    let expected = [(7, 0.5), (8, 0.25)]; // 2/(3+1), 1/(3+1)
    check(&Fusion::ReciprocalRank { k0: 3.0 }, &[&[(7, 1.0)], &[(8, 1.0)]], &[2.0, 1.0], &expected);
}

#[test]
fn single_hits_and_equal_scores_get_the_middle() {
    let lists: [&[(u32, f32)]; 2] = [&[(5, 3.3)], &[(5, 0.1), (6, 0.1), (7, 0.1)]];
    check(&Fusion::MIN_MAX, &lists, &[], &[(5, 0.5), (6, 0.25), (7, 0.25)]); // ½·0.5 + ½·0.5; ½·0.5
    check(&Fusion::DistributionBased, &lists, &[], &[(5, 1.0), (6, 0.5), (7, 0.5)]); // 0.5 + 0.5; 0.5
    check(&Fusion::ZScore, &lists, &[], &[(5, 0.0), (6, 0.0), (7, 0.0)]);
}

#[test]
fn empty_lists_change_nothing_and_ties_go_by_lower_id() {
    let lists: [&[(u32, f32)]; 3] = [&[(9, 2.0)], &[], &[(4, 2.0)]];
    check(&Fusion::RECIPROCAL_RANK, &lists, &[], &[(4, 1.0 / 61.0), (9, 1.0 / 61.0)]);
    for name in Fusion::NAMES {
        let fusion: Fusion = name.parse().unwrap();
        check(&fusion, &[&[], &[]], &[], &[]);
        assert_eq!(fusion.name(), name);
    }
}

#[test]
fn only_the_depth_counts() {
    let (bm25, dense) = (ranking(BM25), ranking(DENSE));
    let fused = Fusion::MIN_MAX.fuse(&[&bm25, &dense], &[], 2, 10).unwrap();
    // At depth 2 the lists are 12, 8 and 0.9, 0.5: chunk 4 is gone, chunk 3 is in the second only.
    assert_eq!(fused.hits(), ranking(&[(1, 0.5), (3, 0.5), (2, 0.0)]).hits());
}

#[test]
fn parts_add_up_to_the_score() {
    let (bm25, dense) = (ranking(BM25), ranking(DENSE));
    let parts = Fusion::MIN_MAX.contributions(&[&bm25, &dense], &[], 1000).unwrap();
    assert_eq!(parts[0].chunk, ChunkId(1));
    assert!((parts[0].parts[0] - 0.5).abs() <= 1e-6 && (parts[0].parts[1] - 0.25).abs() <= 1e-6);
    assert!((parts[0].score() - 0.75).abs() <= 1e-6);
}

#[test]
fn parameters_outside_their_domain_are_refused() {
    let list = ranking(BM25);
    let fails = |fusion: &Fusion, weights: &[f32]| fusion.fuse(&[&list, &list], weights, 10, 10).is_err();
    assert!(fails(&Fusion::ZScore, &[1.0]));
    assert!(fails(&Fusion::ZScore, &[1.0, -1.0]));
    assert!(fails(&Fusion::ZScore, &[1.0, f32::NAN]));
    assert!(fails(&Fusion::MIN_MAX, &[0.0, 0.0]));
    assert!(fails(&Fusion::MinMax { minima: vec![0.0] }, &[]));
    assert!(fails(&Fusion::MinMax { minima: vec![0.0, 5.0] }, &[])); // Above the score 4.
    assert!(fails(&Fusion::ReciprocalRank { k0: f32::INFINITY }, &[]));
    assert!("minmax".parse::<Fusion>().is_err());
}

#[test]
fn fusing_keeps_what_was_left_out_unless_it_came_back() {
    use raglan_core::LeftOutReason::Irrelevant;

    use crate::Ranked;

    let left_out = |id| LeftOut { chunk: ChunkId(id), reason: Irrelevant };
    let item = |hits, left_out| Ranked { left_out, ..Ranked::new("q".into(), ranking(hits)) };
    let lists = (vec![item(BM25, vec![left_out(4), left_out(8)])], vec![item(DENSE, vec![left_out(8), left_out(9)])]);
    let fused = fuse(Fusion::MIN_MAX, 10).run(lists).unwrap();
    assert_eq!(fused[0].left_out, [left_out(8), left_out(9)]); // Chunk 4 is in the second list.
}

#[test]
fn any_nesting_of_lists_is_fused_in_order() {
    use crate::Ranked;

    let list = |id| vec![Ranked::new("q".into(), ranking(&[(id, 1.0)]))];
    let stage = fuse(Fusion::RECIPROCAL_RANK, 3).weights([1.0, 3.0, 2.0]);
    let nested = stage.run(((list(1), list(2)), list(3))).unwrap();
    assert_eq!(nested[0].ranking.ids(), [2, 3, 1].map(ChunkId));
    assert_eq!(stage.run(vec![list(1), list(2), list(3)]).unwrap(), nested);
    assert!(stage.run(vec![list(1), list(2), vec![]]).is_err());
}
