//! The reference: plain loops and `f64` sums.

/// Divides one vector by its length, unless that is 0.
pub fn l2_normalize(row: &mut [f32]) {
    let mut sum = 0.0;
    for &x in row.iter() {
        sum += f64::from(x) * f64::from(x);
    }
    if sum > 0.0 {
        let length = sum.sqrt();
        for x in row {
            *x = (f64::from(*x) / length) as f32;
        }
    }
}
