//! The measured rows, and medians and ratios over them.

use serde::{Deserialize, Serialize};

use super::tools::Tool;

/// One run of one tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The workload.
    pub workload: String,
    /// What was done: first, unchanged, next, step, restore or check.
    pub act: String,
    /// Round, from 0.
    pub round: usize,
    /// The tool.
    pub tool: String,
    /// Its place in the order of this round, from 0.
    pub place: usize,
    /// Seconds from start to end; for several backups in a row, their sum.
    pub wall_s: f64,
    /// User and system seconds of the process and what it started.
    pub cpu_s: f64,
    /// Largest resident set, in bytes.
    pub peak_bytes: u64,
    /// Bytes in the repository afterwards.
    pub stored_bytes: u64,
    /// By how many bytes the repository grew.
    pub added_bytes: i64,
    /// Bytes of the source's files at that time; for several backups in a row, of those that changed.
    pub source_bytes: u64,
    /// Differences that rsync found between source and restored tree, where it was asked.
    pub differences: Option<usize>,
    /// Exit code, the first that was not 0.
    pub exit: i32,
}

/// The median; of an even number, the mean of the middle two. NaN of nothing.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// The rows of one workload and act.
pub struct Group<'a> {
    rows: Vec<&'a Row>,
}

impl<'a> Group<'a> {
    /// Picks them.
    pub fn new(rows: &'a [Row], workload: &str, act: &str) -> Self {
        Self { rows: rows.iter().filter(|row| row.workload == workload && row.act == act).collect() }
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows of one tool.
    pub fn of(&self, tool: &str) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().copied().filter(move |row| row.tool == tool)
    }

    /// Median of a figure over one tool's rounds; none where it did not run.
    pub fn median(&self, tool: &str, figure: impl Fn(&Row) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.of(tool).map(figure).collect();
        (!values.is_empty()).then(|| median(values))
    }

    /// Seawall's figure divided by the best rival's, round by round.
    pub fn ratios(&self, figure: impl Fn(&Row) -> f64) -> Vec<f64> {
        let ours = self.of(Tool::Seawall.name());
        let ratio = |ours: &Row| {
            let rivals = self.rows.iter().filter(|row| row.round == ours.round && row.tool != ours.tool);
            let best = rivals.map(|row| figure(row)).min_by(f64::total_cmp)?;
            Some(figure(ours) / best)
        };
        ours.filter_map(ratio).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with a wall time; stored bytes are a hundred times that.
    pub fn row(tool: &str, round: usize, wall_s: f64) -> Row {
        Row {
            workload: "server".into(),
            act: "first".into(),
            round,
            tool: tool.to_owned(),
            place: 0,
            wall_s,
            cpu_s: wall_s,
            peak_bytes: 100 << 20,
            stored_bytes: (wall_s * 100.0) as u64,
            added_bytes: 0,
            source_bytes: 1 << 30,
            differences: None,
            exit: 0,
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_ratio_is_taken_within_its_round_against_the_best_rival() {
        let rows = [
            row("seawall", 0, 2.0),
            row("restic", 0, 8.0),
            row("borg", 0, 4.0),
            row("seawall", 1, 3.0),
            row("restic", 1, 6.0),
            row("borg", 1, 9.0),
        ];
        let group = Group::new(&rows, "server", "first");
        assert_eq!(group.ratios(|row| row.wall_s), [0.5, 0.5]);
        assert_eq!(group.median("restic", |row| row.wall_s), Some(7.0));
        assert_eq!(group.median("rustic", |row| row.wall_s), None);
        assert!(Group::new(&rows, "server", "check").is_empty());
    }
}
