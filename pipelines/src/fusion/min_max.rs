//! Min-max normalisation.

use raglan_core::Result;

use super::{Values, invalid};

/// `(s − min) / (max − min)`, where min is `floor` or the least score; 0.5 where max = min; absent = 0.
///
/// For a list of equal scores others choose 1 (HippoRAG) or 0 (PromptReps); 0.5, as in Qdrant, neither praises nor
/// condemns hits about which the list says nothing.
pub(super) fn values(scores: &[f64], floor: Option<f64>) -> Result<Values> {
    let least = scores.iter().copied().fold(f64::INFINITY, f64::min);
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if let Some(floor) = floor.filter(|&floor| least < floor) {
        return Err(invalid("minimum", format!("{floor} is above a score, {least}")));
    }
    let min = floor.unwrap_or(least);
    let value = |s: &f64| if max > min { (s - min) / (max - min) } else { 0.5 };
    Ok(Values { present: scores.iter().map(value).collect(), absent: 0.0 })
}
