//! Lines of SVG on a card.

use std::fmt::Write;

pub const WIDTH: f64 = 960.0;
pub const MARGIN: f64 = 24.0;

const STYLE: &str = "\
.card { fill: #ffffff; stroke: #d0d7de; }
.ink, .ours { fill: #1f2328; } .soft { fill: #59636e; } text { stroke: #ffffff; } .ours, .title { font-weight: 600; }
.rule { stroke: #59636e; } .grid { stroke: #d8dee4; } .halo { fill: #ffffff; }
text { paint-order: stroke; stroke-width: 3px; font-family: system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif; }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #3d444d; }
  .ink, .ours { fill: #f0f6fc; } .soft { fill: #9198a1; } text { stroke: #0d1117; }
  .rule { stroke: #9198a1; } .grid { stroke: #2a313c; } .halo { fill: #0d1117; }
}";

/// A picture that is being drawn. Places are in pixels from the left upper corner.
pub struct Canvas {
    height: f64,
    body: String,
}

/// How a text stands.
#[derive(Clone, Copy)]
pub struct Type {
    pub class: &'static str,
    pub size: u32,
    pub anchor: &'static str,
}

impl Type {
    pub const TITLE: Self = Self { class: "ink title", size: 19, anchor: "start" };
    pub const HEAD: Self = Self { class: "ink title", size: 13, anchor: "start" };
    pub const SMALL: Self = Self { class: "soft", size: 11, anchor: "start" };
    pub const BODY: Self = Self { class: "soft", size: 12, anchor: "start" };

    pub fn end(self) -> Self {
        Self { anchor: "end", ..self }
    }

    pub fn middle(self) -> Self {
        Self { anchor: "middle", ..self }
    }

    pub fn class(self, class: &'static str) -> Self {
        Self { class, ..self }
    }
}

impl Canvas {
    /// An empty card with its title, and how to read it.
    pub fn new(height: f64, title: &str, subtitle: &str) -> Self {
        let mut canvas = Self { height, body: String::new() };
        let right = WIDTH - 1.0;
        let bottom = height - 1.0;
        canvas.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" \
             role=\"img\" aria-label=\"{}\">\n<style>\n{STYLE}\n</style>\n<rect class=\"card\" x=\"0.5\" y=\"0.5\" \
             width=\"{right}\" height=\"{bottom}\" rx=\"10\"/>",
            escaped(title)
        ));
        canvas.text(MARGIN, 36.0, Type::TITLE, title);
        canvas.text(MARGIN, 57.0, Type::BODY, subtitle);
        canvas
    }

    /// The picture, with words at its foot.
    pub fn finish(mut self, foot: &str) -> String {
        self.text(MARGIN, self.height - 16.0, Type::SMALL, foot);
        self.body.push_str("</svg>\n");
        self.body
    }

    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.body, "{element}");
    }

    pub fn text(&mut self, x: f64, y: f64, how: Type, words: &str) {
        let Type { class, size, anchor } = how;
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(words)
        ));
    }

    pub fn bar(&mut self, x: f64, y: f64, width: f64, height: f64, color: &str) {
        let width = width.max(1.0);
        self.put(format_args!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"{color}\"/>"
        ));
    }

    /// A line of the axes: `rule` or `grid`.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64), dashed: bool) {
        let dash = if dashed { " stroke-dasharray=\"3 3\"" } else { "" };
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"{dash}/>",
            from.0, from.1, to.0, to.1
        ));
    }

    pub fn curve(&mut self, points: &[(f64, f64)], color: &str, width: f64) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.put(format_args!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" stroke-linejoin=\"round\" \
             stroke-linecap=\"round\"/>",
            points.join(" ")
        ));
    }

    pub fn dot(&mut self, x: f64, y: f64, radius: f64, color: &str) {
        self.put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" fill=\"{color}\"/>"));
    }

    /// The same, hollow.
    pub fn ring(&mut self, x: f64, y: f64, radius: f64, color: &str) {
        self.put(format_args!(
            "<circle class=\"halo\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" stroke=\"{color}\" stroke-width=\"1.8\"/>"
        ));
    }

    /// Two strokes of the background through a bar that is longer than the picture.
    pub fn cut(&mut self, x: f64, y: f64, height: f64) {
        let (bottom, top) = (y + height + 1.0, y - 1.0);
        self.put(format_args!(
            "<path class=\"halo\" d=\"M{:.1},{bottom:.1} L{:.1},{top:.1} L{:.1},{top:.1} L{:.1},{bottom:.1} Z\"/>",
            x - 5.0,
            x + 1.0,
            x + 5.0,
            x - 1.0
        ));
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// A whole number of steps of 1, 2 or 5 times a power of ten, about so many up to `end`; returns the step.
pub fn step(end: f64, steps: f64) -> f64 {
    let rough = end / steps;
    let power = 10f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        assert_eq!(step(9.3, 5.0), 2.0);
        assert_eq!(step(5000.0, 5.0), 1000.0);
        assert_eq!(escaped("a & <b>"), "a &amp; &lt;b>");
    }
}
