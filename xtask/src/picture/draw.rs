//! Draws a picture of boxes, arrows and words from lines of text, as an SVG for light and dark pages.
//!
//! Each line has a kind, numbers, and after `|` its words: `size W H`, `panel X Y W H | title`, `box X Y W H | title / more`,
//! `store X Y W H | title / more`, `arrow X1 Y1 X2 Y2`, `step X Y W H | number / title / more` and `words X Y | words`.
//! `#` begins a comment.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};

/// The text of the picture of a round.
pub(crate) const SOURCE: &str = "docs/round.txt";
/// The picture of a round.
pub(crate) const PICTURE: &str = "docs/round.svg";

/// Pixels between two lines of words.
const LINE: u32 = 16;

/// Colours follow the reader's theme; the background is part of the picture, so that it is readable on any page.
const STYLE: &str = "\
  <style>
    .page { fill: #ffffff; }
    .panel { fill: #f3f5f8; stroke: #c3cad4; }
    .box { fill: #ffffff; stroke: #5b6b7f; }
    .store { fill: #e3eefc; stroke: #2f6db5; }
    .step { fill: #eaf5ea; stroke: #3d8b40; }
    .arrow { stroke: #5b6b7f; fill: none; stroke-width: 1.5; }
    .head { fill: #5b6b7f; }
    text { font: 13px system-ui, sans-serif; fill: #1d2733; }
    .title { font-weight: 600; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0f141a; }
      .panel { fill: #171e27; stroke: #38455a; }
      .box { fill: #202a36; stroke: #8fa1b8; }
      .store { fill: #16304f; stroke: #6ba5e8; }
      .step { fill: #17331b; stroke: #6fbf73; }
      .arrow { stroke: #a9b8ca; }
      .head { fill: #a9b8ca; }
      text { fill: #e8edf3; }
    }
  </style>
  <defs>
    <marker id=\"head\" markerWidth=\"9\" markerHeight=\"9\" refX=\"8\" refY=\"4.5\" orient=\"auto-start-reverse\">
      <path class=\"head\" d=\"M0,0 L9,4.5 L0,9 z\"/>
    </marker>
  </defs>
";

/// Draws the picture that the text describes.
///
/// # Errors
/// A line has an unknown kind or the wrong count of numbers; names the line.
pub(crate) fn svg(text: &str) -> Result<String> {
    let mut body = String::new();
    let mut size = None;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let shape = Shape::parse(line).with_context(|| format!("line {} is `{line}`", number + 1))?;
        if shape.kind == "size" {
            size = Some(shape.numbers::<2>()?);
        } else {
            shape.draw(&mut body).with_context(|| format!("line {} is `{line}`", number + 1))?;
        }
    }
    let [width, height] = size.context("the picture has no `size`")?;
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\">\n  <title>Peers, their stores, and the way of a round</title>\n{STYLE}  \
         <rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"10\"/>\n{body}</svg>\n"
    ))
}

/// One line of the text.
struct Shape<'a> {
    kind: &'a str,
    numbers: Vec<u32>,
    words: Vec<&'a str>,
}

impl<'a> Shape<'a> {
    fn parse(line: &'a str) -> Result<Shape<'a>> {
        let (head, words) = line.split_once('|').unwrap_or((line, ""));
        let mut parts = head.split_whitespace();
        let kind = parts.next().context("a line begins with a kind")?;
        let numbers = parts.map(|part| part.parse().with_context(|| format!("`{part}` is not a number")));
        let words = words.split(" / ").map(str::trim).filter(|word| !word.is_empty());
        Ok(Shape { kind, numbers: numbers.collect::<Result<_>>()?, words: words.collect() })
    }

    fn numbers<const N: usize>(&self) -> Result<[u32; N]> {
        let numbers = <[u32; N]>::try_from(&self.numbers[..]);
        numbers.with_context(|| format!("`{}` takes {N} numbers, got {}", self.kind, self.numbers.len()))
    }

    fn draw(&self, svg: &mut String) -> Result<()> {
        match self.kind {
            "panel" => {
                let [x, y, width, height] = self.numbers()?;
                self.rectangle(svg, 10)?;
                self.write(svg, "start", [x + 14, y + 22]);
                ensure!(width > 28 && height > 22, "the panel is too small for its title");
            }
            "box" | "store" | "step" => {
                let [x, y, width, height] = self.numbers()?;
                self.rectangle(svg, if self.kind == "store" { 14 } else { 5 })?;
                let lines = self.words.len() as u32;
                ensure!(height >= lines * LINE, "the box is too low for {lines} lines");
                self.write(svg, "middle", [x + width / 2, y + (height - lines * LINE) / 2 + 12]);
            }
            "arrow" => {
                let [x1, y1, x2, y2] = self.numbers()?;
                writeln!(svg, "  <path class=\"arrow\" marker-end=\"url(#head)\" d=\"M{x1},{y1} L{x2},{y2}\"/>")?;
            }
            "words" => {
                let [x, y] = self.numbers()?;
                for (line, words) in (0..).zip(&self.words) {
                    writeln!(svg, "  <text x=\"{x}\" y=\"{}\">{}</text>", y + line * LINE, escape(words))?;
                }
            }
            kind => bail!("`{kind}` is not a kind of shape"),
        }
        Ok(())
    }

    fn rectangle(&self, svg: &mut String, radius: u32) -> Result<()> {
        let [x, y, width, height] = self.numbers()?;
        let class = self.kind;
        let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        Ok(writeln!(svg, "  <rect class=\"{class}\" {place} rx=\"{radius}\"/>")?)
    }

    /// Writes the words from the given point down, the first line as a title.
    fn write(&self, svg: &mut String, anchor: &str, [x, y]: [u32; 2]) {
        for (line, words) in (0..).zip(&self.words) {
            let class = if line == 0 { " class=\"title\"" } else { "" };
            let y = y + line * LINE;
            let words = escape(words);
            writeln!(svg, "  <text{class} x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{words}</text>")
                .expect("a string takes everything");
        }
    }
}

fn escape(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
