//! What the pictures have in common: a canvas of lines, its colours for light and for dark, and text that is safe in
//! XML.
//!
//! A picture stands alone: no fonts, scripts or images from elsewhere. Colours are classes; readers that prefer dark
//! get the other set by a media query.

use std::fmt::Write;

const STYLE: &str = "
  svg { font-family: ui-sans-serif, system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; font-size: 12px }
  .mono { font-family: ui-monospace, 'DejaVu Sans Mono', monospace; font-size: 11px }
  .head { font-size: 17px; font-weight: 600 }
  .paper { fill: #ffffff } text { fill: #1c2128 } .dim { fill: #59636e } .rule { stroke: #d0d7de }
  .free { fill: #e4e9ef } .used { fill: #3f74bf } .log { fill: #e08600 } .header { fill: #7d4fb0 }
  .super { fill: #0b8f7c } .reserved { fill: #9aa4af } .damaged { fill: #cf3a3a } .frame { fill: none; stroke: #8c959f }
  .flush { fill: #3f74bf; fill-opacity: .16 } .flushbar { fill: #3f74bf; fill-opacity: .55 }
  .ack { stroke: #14833b; stroke-width: 2 } .acktext { fill: #14833b; font-weight: 600 }
  .old { fill: #59636e; fill-opacity: .30 } .either { fill: #e08600; fill-opacity: .40 }
  .new { fill: #14833b; fill-opacity: .35 }
  .lane { stroke: #d0d7de; stroke-width: 1 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117 } text { fill: #e6edf3 } .dim { fill: #9aa4af } .rule { stroke: #3d444d }
    .free { fill: #262d36 } .used { fill: #5b9bf0 } .log { fill: #f0a33a } .header { fill: #b083e8 }
    .super { fill: #2fc4ac } .reserved { fill: #5d6873 } .damaged { fill: #f47067 } .frame { stroke: #6e7681 }
    .flush { fill: #5b9bf0; fill-opacity: .18 } .flushbar { fill: #5b9bf0; fill-opacity: .6 }
    .ack { stroke: #3fb950 } .acktext { fill: #3fb950 }
    .old { fill: #9aa4af; fill-opacity: .30 } .either { fill: #f0a33a; fill-opacity: .40 }
    .new { fill: #3fb950; fill-opacity: .35 } .lane { stroke: #2a313a }
  }
";

/// Width of a picture.
pub(crate) const WIDTH: f64 = 1000.0;
/// Where a picture begins below its head, facts and legend.
pub(crate) const TOP: f64 = 92.0;

/// A picture in the making. Positions and lengths are pixels.
pub(crate) struct Canvas {
    body: String,
}

impl Canvas {
    pub(crate) fn new() -> Self {
        Self { body: String::new() }
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(arguments);
        self.body.push('\n');
    }

    /// A rectangle; `hover` is shown when the pointer rests on it.
    pub(crate) fn rect(&mut self, class: &str, [x, y, width, height]: [f64; 4], hover: &str) {
        let (x, y, width, height) = (round(x), round(y), round(width), round(height));
        let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        if hover.is_empty() {
            self.put(format_args!("<rect class=\"{class}\" {place}/>"));
        } else {
            self.put(format_args!("<rect class=\"{class}\" {place}><title>{}</title></rect>", escape(hover)));
        }
    }

    pub(crate) fn line(&mut self, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
        let (x1, y1, x2, y2) = (round(x1), round(y1), round(x2), round(y2));
        self.put(format_args!("<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"));
    }

    /// Text that begins at `x`, with its baseline at `y`. `anchor` is start, middle or end.
    pub(crate) fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let (x, y, text) = (round(x), round(y), escape(text));
        self.put(format_args!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"));
    }

    /// What stands above each picture: its title, facts, and boxes of colours and what they mean, in a row. A remark
    /// may follow that row.
    pub(crate) fn head(&mut self, title: &str, facts: &str, entries: &[(&str, &str)], remark: &str) {
        self.text("head", 20.0, 30.0, "start", title);
        self.text("dim", 20.0, 50.0, "start", facts);
        let (mut x, y) = (20.0, 74.0);
        for (class, meaning) in entries {
            self.rect(class, [x, y - 10.0, 12.0, 12.0], "");
            self.text("dim", x + 17.0, y, "start", meaning);
            x += 17.0 + 6.7 * meaning.len() as f64 + 14.0;
        }
        if !remark.is_empty() {
            self.text("dim", x, y, "start", remark);
        }
    }

    /// The finished picture. `title` and `description` are for those who cannot see it.
    pub(crate) fn finish(self, height: f64, title: &str, description: &str) -> String {
        let (width, height) = (round(WIDTH), round(height));
        let (title, description) = (escape(title), escape(description));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<desc>{description}</desc>\n\
             <style>{STYLE}</style>\n<rect class=\"paper\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n\
             {}</svg>\n",
            self.body
        )
    }
}

/// Two digits behind the point are more than a screen can show.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Text as XML has it. Characters that XML cannot have become question marks.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            letter => out.push(letter),
        }
    }
    out
}
