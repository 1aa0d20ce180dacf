//! What all plots are drawn with: scales, axes, and text that cannot break out.

use std::fmt::{Display, Write};

/// Text as the content of an element or an attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => told += "&amp;",
            '<' => told += "&lt;",
            '>' => told += "&gt;",
            '"' => told += "&quot;",
            '\'' => told += "&#39;",
            c if c.is_control() => told.push(' '),
            c => told.push(c),
        }
    }
    told
}

/// Takes values to pixels.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) from: f64,
    pub(super) to: f64,
    is_logarithmic: bool,
}

impl Scale {
    /// Even steps for even differences.
    pub(super) fn linear(low: f64, high: f64, from: f64, to: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, from, to, is_logarithmic: false }
    }

    /// Even steps for even ratios, with room around what is shown. The values are above 0.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        let (low, high) = if low <= high { (low, high) } else { (1.0, 1.0) };
        Self { low: low / 1.35, high: high * 1.35, from, to, is_logarithmic: true }
    }

    /// Where a value is drawn; what is beyond an end is drawn at it.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = match self.is_logarithmic {
            true => (value.max(f64::MIN_POSITIVE) / self.low).ln() / (self.high / self.low).ln(),
            false => (value - self.low) / (self.high - self.low),
        };
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }

    /// Round values, about `n` of them.
    pub(super) fn ticks(&self, n: usize) -> Vec<f64> {
        if self.is_logarithmic {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let steps: &[f64] = if (self.high / self.low).log10() > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let values = decades.flat_map(|decade| steps.iter().map(move |step| step * 10f64.powi(decade)));
            return values.filter(|value| (self.low..=self.high).contains(value)).collect();
        }
        let rough = (self.high - self.low) / n.max(1) as f64;
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        (first..).map(|i| i as f64 * step).take_while(|value| *value <= self.high + step * 1e-9).take(50).collect()
    }
}

/// A drawing under way.
pub(super) struct Drawing {
    text: String,
}

impl Drawing {
    /// An empty one of `width` by `height` pixels that says what it shows to those who cannot see it.
    pub(super) fn new(width: f64, height: f64, told: &str) -> Self {
        let told = escaped(told);
        let size = format!(r#"viewBox="0 0 {width} {height}" width="{width}" height="{height}""#);
        Self { text: format!(r#"<svg {size} role="img" aria-label="{told}">"#) }
    }

    /// Adds elements as they are.
    pub(super) fn raw(&mut self, elements: impl Display) {
        write!(self.text, "{elements}").expect("a string takes all that is written");
    }

    /// A line of a class.
    pub(super) fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        self.raw(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// Text of a class: `start`, `middle` and `end` say which of its points lies at `x`.
    pub(super) fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.raw(format_args!(r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escaped(text)));
    }

    /// A horizontal axis with its grid between `top` and `bottom`, and what it measures.
    pub(super) fn x_axis(&mut self, scale: &Scale, ticks: &[(f64, String)], [top, bottom]: [f64; 2], title: &str) {
        for (value, label) in ticks {
            let x = scale.at(*value);
            self.line("grid", [x, top, x, bottom]);
            self.text("tick middle", x, bottom + 16.0, label);
        }
        self.line("axis", [scale.from, bottom, scale.to, bottom]);
        self.text("title end", scale.to, bottom + 33.0, title);
    }

    /// A vertical axis with its grid between `left` and `right`, and what it measures.
    pub(super) fn y_axis(&mut self, scale: &Scale, ticks: &[(f64, String)], [left, right]: [f64; 2], title: &str) {
        for (value, label) in ticks {
            let y = scale.at(*value);
            self.line("grid", [left, y, right, y]);
            self.text("tick end", left - 8.0, y + 4.0, label);
        }
        self.text("title start", 2.0, scale.to.min(scale.from) - 12.0, title);
    }

    pub(super) fn finish(mut self) -> String {
        self.text += "</svg>";
        self.text
    }
}

/// Moves ascending positions apart so that none is nearer than `gap` to the next, and all lie within `low..=high` if
/// there is room.
pub(super) fn spread(positions: &mut [f64], gap: f64, low: f64, high: f64) {
    let mut least = low;
    for position in positions.iter_mut() {
        *position = position.max(least);
        least = *position + gap;
    }
    let mut most = high;
    for position in positions.iter_mut().rev() {
        *position = position.min(most);
        most = *position - gap;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let rounded = |scale: Scale| scale.ticks(5).iter().map(|tick| format!("{tick:.2}")).collect::<Vec<_>>();
        assert_eq!(rounded(Scale::linear(0.0, 1.0, 0.0, 100.0)), ["0.00", "0.20", "0.40", "0.60", "0.80", "1.00"]);
        assert_eq!(rounded(Scale::linear(0.61, 0.69, 0.0, 100.0)), ["0.62", "0.64", "0.66", "0.68"]);
        assert_eq!(rounded(Scale::logarithmic([0.4, 3.0].into_iter(), 0.0, 1.0)), ["0.50", "1.00", "2.00"]);
        assert!(!Scale::linear(0.5, 0.5, 0.0, 1.0).ticks(5).is_empty());
        assert!(!Scale::logarithmic(std::iter::empty(), 0.0, 1.0).ticks(5).is_empty());
    }

    #[test]
    fn labels_move_apart() {
        let mut positions = [10.0, 11.0, 12.0, 50.0];
        spread(&mut positions, 10.0, 0.0, 55.0);
        assert_eq!(positions, [10.0, 20.0, 30.0, 50.0]);
        let mut positions = [54.0, 55.0];
        spread(&mut positions, 10.0, 0.0, 55.0);
        assert_eq!(positions, [45.0, 55.0]);
    }

    #[test]
    fn text_cannot_break_out() {
        assert_eq!(escaped("a<b & \"c\"'\n"), "a&lt;b &amp; &quot;c&quot;&#39; ");
    }
}
