//! The rows as text and as JSON.

use arenite_shim::ladder::{Part, Row};
use serde_json::{json, Value};

const HEADS: [&str; 9] = ["rung", "cases", "epochs", "states", "distinct", "of mount", "failures", "seconds", "cpu"];

fn cells(row: &Row) -> [String; 9] {
    let count = |number: u64| if number == 0 { "-".into() } else { grouped(number) };
    let seconds = format!("{:.1}", row.elapsed.as_secs_f64());
    let failures = match row.not_tried {
        Some(_) => "not tried".into(),
        None => row.failures.len().to_string(),
    };
    let name = format!("{} {}", row.rung, row.what);
    [
        name,
        count(row.cases),
        count(row.epochs),
        count(row.states),
        count(row.distinct),
        count(row.mount_images),
        failures,
        seconds,
        format!("{:.1}", row.cpu.as_secs_f64()),
    ]
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group)).collect();
    groups.join(" ")
}

/// One row as it is done.
pub fn line(row: &Row) -> String {
    let [name, cases, _, states, distinct, _, failures, seconds, cpu] = cells(row);
    if let Some(why) = &row.not_tried {
        return format!("{name}: not tried: {why}");
    }
    format!(
        "{name}: {cases} cases, {states} states, {distinct} distinct, {failures} failures, {seconds} s, {cpu} s cpu"
    )
}

/// What each source of a rung gave and took, the most expensive first.
pub fn profile(row: &Row) -> String {
    let mut parts: Vec<_> = row.parts.iter().collect();
    parts.sort_by_key(|(_, part)| std::cmp::Reverse(part.cpu));
    let line = |(name, part): (&String, &Part)| {
        let (seed, slowest) = part.slowest;
        let seconds = part.cpu.as_secs_f64();
        format!(
            "  {name:<20} {:>5} cases {:>10} states {:>8} distinct {seconds:>7.2} s cpu {:>8.0} states/s, \
             slowest {seed} {:.2} s\n",
            part.cases,
            grouped(part.states),
            grouped(part.distinct),
            part.states as f64 / seconds.max(0.001),
            slowest.as_secs_f64()
        )
    };
    parts.into_iter().map(line).collect()
}

/// The table, then what failed, then what else there is to say.
pub fn text(rows: &[Row]) -> String {
    let mut lines = vec![HEADS.map(String::from)];
    lines.extend(rows.iter().map(cells));
    let width = |column: usize| lines.iter().map(|cells| cells[column].len()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, cells) in lines.iter().enumerate() {
        let cell = |(column, cell): (usize, &String)| match column {
            0 => format!("{cell:<0$}", widths[0]),
            _ => format!("  {cell:>0$}", widths[column]),
        };
        text += cells.iter().enumerate().map(cell).collect::<String>().trim_end();
        text.push('\n');
        if number == 0 {
            text += &"-".repeat(widths.iter().sum::<usize>() + 16);
            text.push('\n');
        }
    }
    for row in rows {
        row.not_tried.iter().for_each(|why| text += &format!("rung {}: not tried: {why}\n", row.rung));
        row.notes.iter().for_each(|note| text += &format!("rung {}: {note}\n", row.rung));
        for failure in &row.failures {
            text += &format!("FAILED {failure}\n       again: cargo crash -- --replay {}\n", failure.replay);
        }
    }
    text
}

/// The same as JSON: an object with the rows, each figure under its name.
pub fn json(rows: &[Row]) -> String {
    let failures = |row: &Row| -> Vec<Value> {
        row.failures.iter().map(|failure| json!({ "replay": failure.replay, "what": failure.what })).collect()
    };
    let parts = |row: &Row| -> Value {
        let part = |(name, part): (&String, &Part)| {
            let counts = json!({
                "cases": part.cases, "states": part.states, "distinct": part.distinct,
                "mount_images": part.mount_images, "cpu_seconds": part.cpu.as_secs_f64(),
                "slowest_seed": part.slowest.0,
            });
            (name.clone(), counts)
        };
        Value::Object(row.parts.iter().map(part).collect())
    };
    let row = |row: &Row| {
        json!({
            "rung": row.rung, "what": row.what, "cases": row.cases, "epochs": row.epochs, "states": row.states,
            "distinct": row.distinct, "mount_images": row.mount_images, "second_crashes": row.second_crashes,
            "failures": failures(row), "seconds": row.elapsed.as_secs_f64(), "cpu_seconds": row.cpu.as_secs_f64(),
            "cut_short": row.cut_short, "not_tried": row.not_tried,
            "parts": parts(row), "notes": row.notes,
        })
    };
    let rows: Vec<_> = rows.iter().map(row).collect();
    format!("{:#}\n", json!({ "rungs": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arenite_shim::explore::Failure;

    #[test]
    fn every_figure_is_in_both_forms() {
        let failures = vec![Failure { replay: "7:arenas:12:l3:-".into(), what: "mount: no".into() }];
        let row = Row { rung: 2, what: "things".into(), states: 1_234_567, failures, ..Row::default() };
        let text = text(std::slice::from_ref(&row));
        assert!(text.contains("2 things") && text.contains("1 234 567"), "{text}");
        assert!(
            text.contains("FAILED 7:arenas:12:l3:-: mount: no\n       again: cargo crash -- --replay 7:"),
            "{text}"
        );
        let absent = Row { rung: 7, not_tried: Some("no tool".into()), ..Row::default() };
        assert!(!self::text(std::slice::from_ref(&absent)).contains(" 0 "), "a rung that was not tried is not green");
        assert!(self::text(&[absent]).contains("rung 7: not tried: no tool"));
        let json: Value = serde_json::from_str(&json(&[row])).unwrap();
        assert_eq!(json["rungs"][0]["states"], 1_234_567);
        assert_eq!(json["rungs"][0]["failures"][0]["replay"], "7:arenas:12:l3:-");
    }
}
