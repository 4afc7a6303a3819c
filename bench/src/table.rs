//! The table that people read.
#![forbid(unsafe_code)]

use crate::measure::{Goal, Row};
use std::fmt::Write;

/// A figure with its unit, with a prefix that keeps it short.
fn figure(value: f64, unit: &str) -> String {
    match unit {
        "s" if value < 1e-3 => return format!("{:.1} us", value * 1e6),
        "s" if value < 1.0 => return format!("{:.2} ms", value * 1e3),
        "s" | "" | "ns" | "ticks" => return format!("{value:.2} {unit}").trim_end().into(),
        _ => {}
    }
    let (scaled, prefix) = match value {
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    format!("{scaled:.2} {prefix}{unit}")
}

/// All lines, columns aligned.
pub fn render(rows: &[Row]) -> String {
    let mut lines = vec![["what", "how much", "rate", "reference", "its rate", "ratio", "spread", "goal", ""]
        .map(String::from)
        .to_vec()];
    for row in rows {
        let verdict = match row.goal {
            Goal::None => "",
            _ if row.is_missed() => "MISSED",
            _ => "ok",
        };
        lines.push(vec![
            row.what.clone(),
            row.amount.clone(),
            figure(row.value, row.unit),
            row.reference.clone(),
            figure(row.reference_value, row.unit),
            format!("{:.2}", row.ratio),
            format!("{:.2}", row.spread),
            row.goal.to_string(),
            verdict.into(),
        ]);
    }
    let widths: Vec<usize> = (0..9).map(|at| lines.iter().map(|line| line[at].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn figures_are_short() {
        assert_eq!(super::figure(2.5e9, "B/s"), "2.50 GB/s");
        assert_eq!(super::figure(12_345_678.0, "op/s"), "12.35 Mop/s");
        assert_eq!(super::figure(0.002, "s"), "2.00 ms");
        assert_eq!(super::figure(0.000_002, "s"), "2.0 us");
        assert_eq!(super::figure(6.0, ""), "6.00");
    }
}
