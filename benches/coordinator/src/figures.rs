//! Figures: medians, percentiles, and the closing table.

use std::time::Duration;

/// The middle of some figures (of the two middle ones the lower).
///
/// # Panics
/// When there is none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() - 1) / 2]
}

/// The least latency that `share` of all don't exceed, in milliseconds.
///
/// # Panics
/// When there is none.
pub fn percentile_ms(latencies: &mut [Duration], share: f64) -> f64 {
    latencies.sort();
    let rank = (latencies.len() as f64 * share).ceil() as usize;
    latencies[rank.saturating_sub(1)].as_secs_f64() * 1e3
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At least this much.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

impl Goal {
    fn is_met(self, figure: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => figure >= goal,
            Goal::Below(goal) => figure < goal,
        }
    }
}

/// The closing table: goal, figure, met or not.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<String>,
}

impl Table {
    /// Adds a figure that there is a goal for.
    pub fn add(&mut self, what: &str, goal: Goal, figure: f64, unit: &str) {
        let wanted = match goal {
            Goal::AtLeast(goal) => format!("≥ {goal} {unit}"),
            Goal::Below(goal) => format!("< {goal} {unit}"),
        };
        let met = if goal.is_met(figure) { "met" } else { "NOT MET" };
        self.rows.push(format!("| {what} | {wanted} | {} {unit} | {met} |", readable(figure)));
    }

    /// Adds a figure that stands for itself.
    pub fn note(&mut self, what: &str, figure: f64, unit: &str) {
        self.rows.push(format!("| {what} | – | {} {unit} | – |", readable(figure)));
    }

    /// Prints it.
    pub fn print(&self) {
        println!("\n| What | Goal | Figure | Met |\n|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
    }
}

/// Three significant digits.
fn readable(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles_by_hand() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.0);
        let mut latencies: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&mut latencies, 0.5), 100.0);
        assert_eq!(percentile_ms(&mut latencies, 0.99), 198.0);
        assert_eq!(percentile_ms(&mut latencies[..1], 0.99), 1.0);
    }

    #[test]
    fn a_goal_that_is_missed_is_said() {
        let mut table = Table::default();
        table.add("rate", Goal::AtLeast(5_000.0), 4_999.0, "/s");
        table.add("time", Goal::Below(2.0), 1.994, "s");
        assert_eq!(table.rows, ["| rate | ≥ 5000 /s | 4999 /s | NOT MET |", "| time | < 2 s | 1.99 s | met |"]);
    }
}
