//! Ratios: two things measured in turn, several times, in one run.
//!
//! Machines are shared and noisy, so an absolute time says little, and a ratio of two times that were taken a minute
//! apart not much more. Here each round measures both sides, in alternating order, and gives one ratio; the result is
//! the median of these ratios, and its spread is half the distance between the quartiles.
#![forbid(unsafe_code)]

use anyhow::Result;
use serde::Serialize;
use std::time::Instant;

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64().max(1e-9))
}

/// The middle value; the mean of the two middle ones of an even number.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of the values lies, interpolated.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = part.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// What a ratio is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
    /// Shown only.
    None,
}

impl Goal {
    /// Whether `ratio` misses the goal by more than `spread`.
    pub fn is_missed(self, ratio: f64, spread: f64) -> bool {
        match self {
            Self::AtLeast(goal) => ratio.is_nan() || ratio + spread < goal,
            Self::AtMost(goal) => ratio.is_nan() || ratio - spread > goal,
            Self::None => false,
        }
    }
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, ">= {goal}"),
            Self::AtMost(goal) => write!(f, "<= {goal}"),
            Self::None => f.write_str("-"),
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// On how much.
    pub amount: String,
    /// Median, in `unit`.
    pub value: f64,
    /// Of `value` and `reference_value`.
    pub unit: &'static str,
    /// What it is compared with.
    pub reference: String,
    /// Median, in `unit`.
    pub reference_value: f64,
    /// Median of `value / reference_value` of each round.
    pub ratio: f64,
    /// Half the distance between the quartiles of the ratios.
    pub spread: f64,
    /// What the ratio is to be.
    pub goal: Goal,
    /// Rounds.
    pub rounds: usize,
}

impl Row {
    /// Whether the goal is missed by more than the spread.
    pub fn is_missed(&self) -> bool {
        self.goal.is_missed(self.ratio, self.spread)
    }
}

/// How a comparison is named and judged.
pub struct Question<'a> {
    /// What is measured.
    pub what: &'a str,
    /// On how much.
    pub amount: String,
    /// Of both sides' figures.
    pub unit: &'static str,
    /// What it is compared with.
    pub reference: &'a str,
    /// What the ratio is to be.
    pub goal: Goal,
}

/// Measures both sides once without counting them, then `rounds` times in alternating order.
///
/// # Errors
/// Those of the sides.
pub fn compare(
    rounds: usize,
    question: Question<'_>,
    mut ours: impl FnMut() -> Result<f64>,
    mut theirs: impl FnMut() -> Result<f64>,
) -> Result<Row> {
    ours()?;
    theirs()?;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for round in 0..rounds.max(1) {
        if round % 2 == 0 {
            left.push(ours()?);
            right.push(theirs()?);
        } else {
            right.push(theirs()?);
            left.push(ours()?);
        }
    }
    Ok(row(question, &left, &right))
}

/// A line from figures that were taken in pairs.
pub fn row(question: Question<'_>, ours: &[f64], theirs: &[f64]) -> Row {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    Row {
        what: question.what.into(),
        amount: question.amount,
        value: median(ours),
        unit: question.unit,
        reference: question.reference.into(),
        reference_value: median(theirs),
        ratio: median(&ratios),
        spread: (quantile(&ratios, 0.75) - quantile(&ratios, 0.25)) / 2.0,
        goal: question.goal,
        rounds: ratios.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25), 2.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn goals_allow_for_the_spread() {
        assert!(!Goal::AtLeast(0.95).is_missed(0.94, 0.02));
        assert!(Goal::AtLeast(0.95).is_missed(0.90, 0.02));
        assert!(!Goal::AtMost(3.0).is_missed(3.05, 0.1));
        assert!(Goal::AtMost(3.0).is_missed(3.2, 0.1));
        assert!(Goal::AtLeast(0.5).is_missed(f64::NAN, 0.0), "no figure is no success");
    }

    #[test]
    fn sides_alternate() {
        let order = std::cell::RefCell::new(String::new());
        let question = Question { what: "", amount: String::new(), unit: "", reference: "", goal: Goal::None };
        let side = |name, value| {
            order.borrow_mut().push(name);
            Ok(value)
        };
        let row = compare(3, question, || side('a', 2.0), || side('b', 4.0)).unwrap();
        assert_eq!(order.into_inner(), "ababbaab");
        assert_eq!((row.ratio, row.spread, row.rounds), (0.5, 0.0, 3));
    }
}
