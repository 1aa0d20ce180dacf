//! How a budget of tokens is best spent: the computation allocation model of DRAG (Yue et al., 2024).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What is spent: passages, demonstrations and calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Allocation {
    /// Passages of a question, `k`.
    pub passages: usize,
    /// Demonstrations, `m`.
    pub demonstrations: usize,
    /// Calls of the model, `n`; 1 is one reading without follow-up questions.
    pub calls: usize,
}

impl Allocation {
    /// `k` passages, `m` demonstrations, `n` calls.
    pub fn new(passages: usize, demonstrations: usize, calls: usize) -> Self {
        Self { passages, demonstrations, calls }
    }

    /// `ln(θ + 0.01)`, where nothing is spent too.
    fn logs(&self) -> [f64; 3] {
        [self.passages, self.demonstrations, self.calls].map(|n| (n as f64 + 0.01).ln())
    }
}

/// How well an allocation did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The questions and the metric: values of one name are comparable.
    pub set: String,
    /// What was spent.
    pub allocation: Allocation,
    /// The metric; more is better.
    pub value: f64,
}

/// What one passage and what one demonstration are worth to a model on a set of questions, in standard deviations of the
/// metric over the allocations that were measured: `P(1,0,1) − P(0,0,1)` and `P(0,1,1) − P(0,0,1)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Informativeness {
    /// That of a passage.
    pub passage: f64,
    /// That of a demonstration.
    pub demonstration: f64,
}

/// Predicts a metric from what is spent: `P(θ) ≈ (a + b ⊙ i)ᵀ ln(θ + 0.01) + c`, with `θ = (k, m, n)`, the metric in standard
/// deviations about the mean of its set, `i` the [`Informativeness`], and `b₃ = 0`.
///
/// The paper puts a sigmoid around it, which matters where budgets are so large that the metric saturates, beyond 128,000
/// tokens; it is left out here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllocationModel {
    /// `a`, of passages, demonstrations and calls.
    pub a: [f64; 3],
    /// `b`, of passages and demonstrations.
    pub b: [f64; 2],
    /// `c`.
    pub c: f64,
    /// The informativeness of each set that it was fitted to.
    pub informativeness: BTreeMap<String, Informativeness>,
    /// The share of the variance that the fit explains; at most 1.
    pub r_squared: f64,
    /// How many measurements it was fitted to; the paper asks for 30 or more.
    pub n_measured: usize,
}

/// Keeps the normal equations solvable where measurements do not tell all coefficients apart.
const RIDGE: f64 = 1e-6;

impl AllocationModel {
    /// Fits the model by least squares.
    ///
    /// # Errors
    ///
    /// [`Error::Fit`] when there are no measurements, one is not a finite number, or a set lacks one of the allocations
    /// (0, 0, 1), (1, 0, 1) and (0, 1, 1), by which its informativeness is told.
    pub fn fit(measured: &[Measured]) -> Result<Self> {
        let refuse = |problem: String| Error::Fit { problem };
        if measured.is_empty() {
            return Err(refuse("nothing was measured".to_owned()));
        }
        let mut sets: BTreeMap<&str, Vec<(Allocation, f64)>> = BTreeMap::new();
        for Measured { set, allocation, value } in measured {
            if !value.is_finite() {
                return Err(refuse(format!("a value of `{set}` is not a number")));
            }
            sets.entry(set).or_default().push((*allocation, *value));
        }
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        let mut informativeness = BTreeMap::new();
        for (set, mut values) in sets {
            standardise(&mut values);
            let of = |k, m| {
                let wanted = Allocation::new(k, m, 1);
                let found: Vec<f64> = values.iter().filter(|(a, _)| *a == wanted).map(|(_, value)| *value).collect();
                if found.is_empty() {
                    let problem = format!("`{set}` was not measured with {k} passages, {m} demonstrations and 1 call");
                    return Err(refuse(problem));
                }
                Ok(found.iter().sum::<f64>() / found.len() as f64)
            };
            let nothing = of(0, 0)?;
            let i = Informativeness { passage: of(1, 0)? - nothing, demonstration: of(0, 1)? - nothing };
            informativeness.insert(set.to_owned(), i);
            for (allocation, value) in values {
                rows.push(features(allocation, i));
                targets.push(value);
            }
        }
        let [a0, a1, a2, b0, b1, c] = least_squares(&rows, &targets);
        let mut model =
            Self { a: [a0, a1, a2], b: [b0, b1], c, informativeness, r_squared: 0.0, n_measured: measured.len() };
        let mean = targets.iter().sum::<f64>() / targets.len() as f64;
        let weights = [a0, a1, a2, b0, b1, c];
        let predicted = rows.iter().map(|row| row.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>());
        let left: f64 = predicted.zip(&targets).map(|(p, t)| (p - t).powi(2)).sum();
        let total: f64 = targets.iter().map(|t| (t - mean).powi(2)).sum();
        model.r_squared = if total > 0.0 { 1.0 - left / total } else { 1.0 };
        Ok(model)
    }

    /// The metric that an allocation is expected to reach, in standard deviations about the mean of the measurements.
    pub fn predict(&self, allocation: Allocation, i: Informativeness) -> f64 {
        let weights = [self.a[0], self.a[1], self.a[2], self.b[0], self.b[1], self.c];
        features(allocation, i).iter().zip(weights).map(|(x, w)| x * w).sum()
    }
}

/// What passages, demonstrations and questions cost, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenCosts {
    /// A passage.
    pub passage: f64,
    /// The question and the answer of a demonstration.
    pub demonstration: f64,
    /// The question, with all that stands around it.
    pub question: f64,
}

impl TokenCosts {
    /// Tokens of an allocation over all its calls: `n · (m · (k · passage + demonstration) + k · passage + question)`.
    pub fn of(&self, allocation: Allocation) -> f64 {
        let Allocation { passages, demonstrations, calls } = allocation;
        let (k, m) = (passages as f64, demonstrations as f64);
        calls as f64 * (m * (k * self.passage + self.demonstration) + k * self.passage + self.question)
    }
}

/// Of the allocations that cost at most `budget` tokens, the one that is expected to do best, with that expectation; of
/// equals the cheapest. None when the budget allows none of them.
pub fn best_allocation(
    model: &AllocationModel,
    i: Informativeness,
    grid: &[Allocation],
    costs: &TokenCosts,
    budget: f64,
) -> Option<(Allocation, f64)> {
    let affordable = grid.iter().copied().filter(|allocation| costs.of(*allocation) <= budget);
    let expected = affordable.map(|allocation| (allocation, model.predict(allocation, i)));
    expected.reduce(|best, next| {
        let order = next.1.total_cmp(&best.1).then(costs.of(best.0).total_cmp(&costs.of(next.0)));
        if order.is_gt() { next } else { best }
    })
}

fn features(allocation: Allocation, i: Informativeness) -> [f64; 6] {
    let [k, m, n] = allocation.logs();
    [k, m, n, i.passage * k, i.demonstration * m, 1.0]
}

/// Subtracts the mean and divides by the standard deviation; values that are all the same become 0.
fn standardise(values: &mut [(Allocation, f64)]) {
    let n = values.len() as f64;
    let mean = values.iter().map(|(_, value)| value).sum::<f64>() / n;
    let deviation = (values.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / n).sqrt();
    for (_, value) in values {
        *value = if deviation > 0.0 { (*value - mean) / deviation } else { 0.0 };
    }
}

/// The weights that make `Σ (row · weights − target)² + RIDGE · |weights|²` least, by the normal equations.
fn least_squares<const N: usize>(rows: &[[f64; N]], targets: &[f64]) -> [f64; N] {
    let mut matrix = [[0.0; N]; N];
    let mut right = [0.0; N];
    for (row, target) in rows.iter().zip(targets) {
        for i in 0..N {
            right[i] += row[i] * target;
            for j in 0..N {
                matrix[i][j] += row[i] * row[j];
            }
        }
    }
    for (i, row) in matrix.iter_mut().enumerate() {
        row[i] += RIDGE;
    }
    // Elimination with row pivots; the ridge keeps every pivot above 0.
    for i in 0..N {
        let pivot = (i..N).max_by(|&a, &b| matrix[a][i].abs().total_cmp(&matrix[b][i].abs())).expect("i is below N");
        matrix.swap(i, pivot);
        right.swap(i, pivot);
        for j in i + 1..N {
            let factor = matrix[j][i] / matrix[i][i];
            let above = matrix[i];
            matrix[j].iter_mut().zip(above).for_each(|(below, above)| *below -= factor * above);
            right[j] -= factor * right[i];
        }
    }
    let mut weights = [0.0; N];
    for i in (0..N).rev() {
        let known: f64 = (i + 1..N).map(|j| matrix[i][j] * weights[j]).sum();
        weights[i] = (right[i] - known) / matrix[i][i];
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(set: &str, k: usize, m: usize, n: usize, value: f64) -> Measured {
        Measured { set: set.to_owned(), allocation: Allocation::new(k, m, n), value }
    }

    #[test]
    fn a_line_is_fitted_as_by_hand() {
        // Through (0, 1), (1, 3), (2, 4): the slope is Σ(x−1)(y−8/3) / Σ(x−1)² = 3/2, at x = 0 it is 8/3 − 3/2 = 7/6.
        let [slope, intercept] = least_squares(&[[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]], &[1.0, 3.0, 4.0]);
        assert!((slope - 1.5).abs() <= 1e-5 && (intercept - 7.0 / 6.0).abs() <= 1e-5, "{slope} {intercept}");
    }

    #[test]
    fn three_measurements_are_met_as_by_hand() {
        // .2, .6, .2: the mean is 1/3 and the deviation √(.32/9) = .18856, so they are −1/√2, √2 and −1/√2.
        let list = [measured("s", 0, 0, 1, 0.2), measured("s", 1, 0, 1, 0.6), measured("s", 0, 1, 1, 0.2)];
        let model = AllocationModel::fit(&list).unwrap();
        let i = model.informativeness["s"];
        assert!((i.passage - 4.5f64.sqrt()).abs() <= 1e-9 && i.demonstration.abs() <= 1e-9, "{i:?}"); // √2 + 1/√2
        for (allocation, want) in [((0, 0), -0.5f64.sqrt()), ((1, 0), 2f64.sqrt()), ((0, 1), -0.5f64.sqrt())] {
            let got = model.predict(Allocation::new(allocation.0, allocation.1, 1), i);
            assert!((got - want).abs() <= 1e-4, "{allocation:?}: {got}, not {want}");
        }
        assert!((model.r_squared - 1.0).abs() <= 1e-6);
    }

    #[test]
    fn planted_coefficients_are_found_again() {
        // Two sets, whose values follow the formula with informativeness of their own; as values are standardised, all
        // coefficients of a set are found up to its factor, and the order of predictions is that of the values.
        for seed in 0..20_u64 {
            let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f64 / f64::from(1 << 24)
            };
            let a = [random(), random(), random()];
            let mut list = Vec::new();
            for k in [0, 1, 2, 5, 10] {
                for m in [0, 1, 4] {
                    for n in [1, 2, 3] {
                        let logs = Allocation::new(k, m, n).logs();
                        let value = a.iter().zip(logs).map(|(a, log)| a * log).sum::<f64>();
                        list.push(measured("s", k, m, n, 0.3 + 0.1 * value));
                    }
                }
            }
            let model = AllocationModel::fit(&list).unwrap();
            assert!(model.r_squared > 1.0 - 1e-9, "{model:?}");
            let i = model.informativeness["s"];
            let effects = [model.a[0] + model.b[0] * i.passage, model.a[1] + model.b[1] * i.demonstration, model.a[2]];
            for (got, planted) in effects.iter().zip(a) {
                let want = effects[0] / a[0] * planted;
                assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{effects:?} of {a:?}");
            }
        }
    }

    #[test]
    fn the_best_that_a_budget_allows_is_chosen() {
        let list = [measured("s", 0, 0, 1, 0.2), measured("s", 1, 0, 1, 0.6), measured("s", 0, 1, 1, 0.3)];
        let model = AllocationModel::fit(&list).unwrap();
        let i = model.informativeness["s"];
        let costs = TokenCosts { passage: 100.0, demonstration: 20.0, question: 30.0 };
        // 2 · (3 · (10 · 100 + 20) + 10 · 100 + 30) = 8,180
        assert_eq!(costs.of(Allocation::new(10, 3, 2)), 8180.0);
        let grid: Vec<Allocation> = [0, 1, 10].iter().flat_map(|&k| [0, 1].map(|m| Allocation::new(k, m, 1))).collect();
        let best = |budget| best_allocation(&model, i, &grid, &costs, budget).map(|(allocation, _)| allocation);
        assert_eq!(best(10.0), None);
        assert_eq!(best(30.0), Some(Allocation::new(0, 0, 1)));
        assert_eq!(best(130.0), Some(Allocation::new(1, 0, 1)));
        assert_eq!(best(1e9), Some(Allocation::new(10, 1, 1)));
    }

    #[test]
    fn what_cannot_be_fitted_is_refused() {
        assert!(matches!(AllocationModel::fit(&[]), Err(Error::Fit { .. })));
        let list = [measured("s", 0, 0, 1, 0.2), measured("s", 1, 0, 1, 0.6)];
        assert!(AllocationModel::fit(&list).unwrap_err().to_string().contains("0 passages, 1 demonstrations"));
        let nan = [measured("s", 0, 0, 1, f64::NAN)];
        assert!(matches!(AllocationModel::fit(&nan), Err(Error::Fit { .. })));
        let flat: Vec<Measured> = [(0, 0), (1, 0), (0, 1)].iter().map(|&(k, m)| measured("s", k, m, 1, 0.5)).collect();
        assert_eq!(
            AllocationModel::fit(&flat).unwrap().predict(Allocation::new(5, 5, 5), Informativeness::default()),
            0.0
        );
    }
}
