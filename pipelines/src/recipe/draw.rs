//! Recipes as pictures.

use std::fmt::Write;

use super::{Input, Port, Recipe, RecipeStage};

impl Recipe {
    /// The graph as a Mermaid flow chart; what is inside of a stage is a subgraph.
    ///
    /// ```
    /// use raglan_pipeline::Recipe;
    ///
    /// let recipe = Recipe::check("r.toml".as_ref(), "stage.words = { use = 'bm25' }")?;
    /// assert_eq!(recipe.mermaid(), "\
    /// flowchart LR
    ///   query([query])
    ///   s0[\"words<br/>bm25\"]
    ///   query -->|Query| s0
    /// ");
    /// # Ok::<(), raglan_pipeline::RecipeError>(())
    /// ```
    pub fn mermaid(&self) -> String {
        let mut text = "flowchart LR\n  query([query])\n".to_owned();
        let mut edges = String::new();
        self.mermaid_stages("s", "  ", ("query", "query"), &mut text, &mut edges);
        text + &edges
    }

    /// Writes nodes at once and edges apart, for an edge in a subgraph would draw both its ends there.
    fn mermaid_stages(&self, id: &str, indent: &str, taken: (&str, &str), nodes: &mut String, edges: &mut String) {
        for (i, stage) in self.stages.iter().enumerate() {
            let own = format!("{id}{i}");
            let name = escaped(&stage.name);
            writeln!(nodes, "{indent}{own}[\"{name}<br/>{}\"]", stage.spec.kind()).expect("strings take writes");
            for input in &stage.inputs {
                let from = match input {
                    Input::Query => taken.0.to_owned(),
                    Input::Body => taken.1.to_owned(),
                    Input::Stage(place) => format!("{id}{place}"),
                };
                writeln!(edges, "  {from} -->|{}| {own}", stage.takes).expect("strings take writes");
            }
            for (body, key) in stage.bodies.iter().zip(stage.spec.bodies()).filter(|(body, _)| !body.stages.is_empty())
            {
                let inner = format!("{own}{key}");
                writeln!(nodes, "{indent}subgraph {inner}[\"{name}: {key}\"]").expect("strings take writes");
                body.mermaid_stages(&format!("{inner}_"), &format!("{indent}  "), (taken.0, &own), nodes, edges);
                writeln!(nodes, "{indent}end").expect("strings take writes");
            }
        }
    }

    /// The graph as an SVG image: questions come from the left, and what is inside of a stage is drawn inside of it.
    pub fn svg(&self) -> String {
        let drawing = Drawing::of(self, "query");
        let (width, height) = (drawing.width + 2.0 * GAP, drawing.height + 2.0 * GAP);
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        drawing.write(GAP, GAP, &mut text);
        text + "</svg>\n"
    }
}

/// Between boxes, in pixels; room for the name of a port.
const GAP: f64 = 24.0;
const COLUMN_GAP: f64 = 72.0;
/// A box of two lines.
const BOX_HEIGHT: f64 = 44.0;
/// What a letter of 13 pixels takes at most on average.
const LETTER: f64 = 8.0;

/// A recipe laid out in columns: a stage stands to the right of all it takes from.
struct Drawing {
    width: f64,
    height: f64,
    boxes: Vec<Block>,
    /// From box to box, with what flows.
    edges: Vec<(usize, usize, Port)>,
}

/// A stage, or what the recipe takes.
struct Block {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
    title: String,
    kind: &'static str,
    inner: Vec<(&'static str, Drawing)>,
}

impl Drawing {
    /// `input` is what to call what the recipe takes.
    fn of(recipe: &Recipe, input: &str) -> Self {
        // Box 0 is what the recipe takes, and box i + 1 is stage i.
        let mut columns = vec![0];
        let mut boxes = vec![Block::leaf(input, "")];
        let mut edges = Vec::new();
        for (i, stage) in recipe.stages.iter().enumerate() {
            let mut column = 1;
            for source in &stage.inputs {
                let from = if let Input::Stage(place) = *source { place + 1 } else { 0 };
                column = column.max(columns[from] + 1);
                edges.push((from, i + 1, stage.takes));
            }
            columns.push(column);
            boxes.push(Block::of(stage));
        }
        let n_columns = columns.iter().max().map_or(1, |last| last + 1);
        let (mut x, mut height) = (0.0, 0.0_f64);
        for column in 0..n_columns {
            let (mut y, mut width) = (0.0, 0.0_f64);
            for (block, _) in boxes.iter_mut().zip(&columns).filter(|(_, own)| **own == column) {
                (block.x, block.y) = (x, y);
                y += block.height + GAP;
                width = width.max(block.width);
            }
            height = height.max(y - GAP);
            x += width + COLUMN_GAP;
        }
        Self { width: x - COLUMN_GAP, height, boxes, edges }
    }

    fn write(&self, left: f64, top: f64, text: &mut String) {
        for &(from, to, port) in &self.edges {
            let (from, to) = (&self.boxes[from], &self.boxes[to]);
            let (x1, y1) = (left + from.x + from.width, top + from.y + BOX_HEIGHT / 2.0);
            let (x2, y2) = (left + to.x, top + to.y + BOX_HEIGHT / 2.0);
            let bend = (x2 - x1) / 2.0;
            writeln!(
                text,
                "<path d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#777\"/>\
                 <path d=\"M{x2} {y2} l-7 -4 v8 z\" fill=\"#777\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"10\" fill=\"#777\">{port}</text>",
                x1 + bend,
                x2 - bend,
                x2 - 9.0,
                y2 - 5.0
            )
            .expect("strings take writes");
        }
        for block in &self.boxes {
            block.write(left, top, text);
        }
    }
}

impl Block {
    fn leaf(title: &str, kind: &'static str) -> Self {
        let letters = title.chars().count().max(kind.len());
        let width = letters as f64 * LETTER + GAP;
        Self { x: 0.0, y: 0.0, width, height: BOX_HEIGHT, title: title.to_owned(), kind, inner: Vec::new() }
    }

    fn of(stage: &RecipeStage) -> Self {
        let mut block = Self::leaf(&stage.name, stage.spec.kind());
        let bodies = stage.bodies.iter().zip(stage.spec.bodies()).filter(|(body, _)| !body.stages.is_empty());
        for (body, &key) in bodies {
            let drawing = Drawing::of(body, "input");
            block.width = block.width.max(drawing.width + 2.0 * GAP);
            block.height += drawing.height + 2.0 * GAP;
            block.inner.push((key, drawing));
        }
        block
    }

    fn write(&self, left: f64, top: f64, text: &mut String) {
        let (x, y) = (left + self.x, top + self.y);
        let fill = if self.kind.is_empty() { "#eef" } else { "#f8f8f8" };
        let (width, height) = (self.width, self.height);
        let (title, kind) = (escaped(&self.title), self.kind);
        let (text_x, title_y, kind_y) = (x + 12.0, y + 19.0, y + 36.0);
        writeln!(
            text,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"6\" fill=\"{fill}\" stroke=\"#444\"/>\
             <text x=\"{text_x}\" y=\"{title_y}\" font-weight=\"bold\">{title}</text>\
             <text x=\"{text_x}\" y=\"{kind_y}\" fill=\"#555\">{kind}</text>"
        )
        .expect("strings take writes");
        let mut inner_y = y + BOX_HEIGHT;
        for (key, drawing) in &self.inner {
            let key_y = inner_y + GAP - 8.0;
            writeln!(text, "<text x=\"{text_x}\" y=\"{key_y}\" font-style=\"italic\">{key}</text>")
                .expect("strings take writes");
            drawing.write(x + GAP, inner_y + GAP, text);
            inner_y += drawing.height + 2.0 * GAP;
        }
    }
}

/// Text that is only text in XML and in Mermaid.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            c if c.is_control() => {}
            c => escaped.push(c),
        }
    }
    escaped
}
