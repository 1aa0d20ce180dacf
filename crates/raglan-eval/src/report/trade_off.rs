//! A page that plots one figure of several methods against another.

use std::fmt::Write;

use super::figures::{BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, colour, names};
use super::html::{STYLE, write_figure};
use super::svg::{Drawing, Scale, escaped};

/// A table of methods with plots of what they cost and what they give.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TradeOffReport {
    /// What was compared.
    pub title: String,
    /// On what, and how, in a sentence or two.
    pub lead: String,
    /// What the columns of the table are, the first being that of the methods' names.
    pub heads: Vec<String>,
    /// The methods: the name, and a cell for each further column.
    pub rows: Vec<(String, Vec<String>)>,
    /// The plots.
    pub plots: Vec<TradeOff>,
}

/// One figure against another, a point for each method.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TradeOff {
    /// What it shows.
    pub title: String,
    /// How it is read.
    pub caption: String,
    /// What goes to the right.
    pub x: PlotAxis,
    /// What goes up.
    pub y: PlotAxis,
    /// By row of the table where its point lies, if it has one.
    pub points: Vec<Option<[f64; 2]>>,
}

/// What an axis measures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlotAxis {
    /// Its name and its unit.
    pub title: String,
    /// Whether equal steps are equal ratios; what is not above 0 lies at the lower end then.
    pub is_logarithmic: bool,
}

impl TradeOffReport {
    /// The report as one page of HTML with its style and its plots inside; it follows the reader's choice of dark or
    /// light.
    pub fn html(&self) -> String {
        let mut page = String::new();
        self.write(&mut page).expect("a string takes all that is written");
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let title = escaped(&self.title);
        writeln!(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>")?;
        writeln!(page, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>")?;
        writeln!(page, "<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>")?;
        writeln!(page, "<header><h1>{title}</h1>\n<p>{}</p></header>\n<section>", escaped(&self.lead))?;
        let heads: Vec<String> = self.heads.iter().map(|head| escaped(head)).collect();
        writeln!(page, "<div class=\"wide\"><table>\n<thead><tr><th>{}</th></tr></thead>", heads.join("</th><th>"))?;
        writeln!(page, "<tbody>")?;
        for (i, (name, cells)) in self.rows.iter().enumerate() {
            write!(page, "<tr><th class=\"{}\"><i></i>{}</th>", colour(i), escaped(name))?;
            for cell in cells {
                write!(page, "<td>{}</td>", escaped(cell))?;
            }
            writeln!(page, "</tr>")?;
        }
        writeln!(page, "</tbody></table></div>\n<div class=\"figures\">")?;
        for plot in &self.plots {
            write_figure(page, &escaped(&plot.title), &escaped(&plot.caption), &plot.drawn(&self.rows))?;
        }
        writeln!(page, "</div>\n</section>\n</main>\n</body>\n</html>")
    }
}

impl TradeOff {
    fn drawn(&self, rows: &[(String, Vec<String>)]) -> String {
        let points: Vec<(usize, &str, [f64; 2])> = rows
            .iter()
            .zip(&self.points)
            .enumerate()
            .filter_map(|(i, ((name, _), point))| Some((i, name.as_str(), (*point)?)))
            .collect();
        let x = self.x.scale(points.iter().map(|(.., [x, _])| *x), LEFT, RIGHT);
        let y = self.y.scale(points.iter().map(|(.., [_, y])| *y), BOTTOM, TOP);
        let mut drawing = Drawing::new(WIDTH, HEIGHT, &self.title);
        drawing.x_axis(&x, &ticks(&x), [TOP, BOTTOM], &self.x.title);
        drawing.y_axis(&y, &ticks(&y), [LEFT, RIGHT], &self.y.title);
        for (i, name, [at_x, at_y]) in &points {
            let title = escaped(&format!("{name}: {} {at_y:.4}, {} {at_x:.4}", self.y.title, self.x.title));
            drawing.raw(format_args!(r#"<g class="{}"><title>{title}</title>"#, colour(*i)));
            let (at_x, at_y) = (x.at(*at_x), y.at(*at_y));
            drawing.raw(format_args!(r#"<circle class="dot" cx="{at_x:.1}" cy="{at_y:.1}" r="5.5"/></g>"#));
        }
        names(&mut drawing, points.iter().map(|(i, name, point)| (*i, *name, x.at(point[0]), y.at(point[1]))));
        drawing.finish()
    }
}

impl PlotAxis {
    fn scale(&self, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Scale {
        if self.is_logarithmic {
            return Scale::logarithmic(values.filter(|value| *value > 0.0), from, to);
        }
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let room = ((high - low) * 0.08).max(1e-3);
        Scale::linear(if low >= 0.0 { (low - room).max(0.0) } else { low - room }, high + room, from, to)
    }
}

/// Round values with no more digits than they need.
fn ticks(scale: &Scale) -> Vec<(f64, String)> {
    let told = |value: f64| {
        let told = format!("{value:.6}");
        told.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    scale.ticks(6).into_iter().map(|tick| (tick, told(tick))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_holds_its_table_and_a_point_for_each_method() {
        let axis = |title: &str, is_logarithmic| PlotAxis { title: title.to_owned(), is_logarithmic };
        let page = TradeOffReport {
            title: "a < b".to_owned(),
            lead: "on x & y".to_owned(),
            heads: vec!["method".to_owned(), "KL".to_owned()],
            rows: [("full", "0"), ("naive", "0.5"), ("none", "")]
                .map(|(a, b)| (a.to_owned(), vec![b.to_owned()]))
                .into(),
            plots: vec![TradeOff {
                title: "KL against time".to_owned(),
                caption: "Down and to the left is better.".to_owned(),
                x: axis("TTFT in ms", false),
                y: axis("KL in nats", true),
                points: vec![Some([100.0, 0.0]), Some([10.0, 0.5]), None],
            }],
        }
        .html();
        assert_eq!(page.matches("<circle class=\"dot\"").count(), 2, "{page}");
        assert!(page.contains("a &lt; b") && page.contains("x &amp; y") && page.contains("<td>0.5</td>"), "{page}");
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
        assert!(
            TradeOffReport { plots: vec![TradeOff::default()], ..TradeOffReport::default() }.html().contains("svg")
        );
    }
}
