//! The figures to reach, and whether a benchmark reached them.
//!
//! A wall goal is a ratio to the best rival of that row, the median of the rounds' ratios. Memory is the median of the
//! peaks. `stored` asks for no more bytes than the best rival after the first backup.

use super::rows::{Group, Row, median};
use super::tools::Tool;

/// What one act on one workload should cost.
struct Goal {
    workload: &'static str,
    act: &'static str,
    /// Wall time over the best rival's.
    wall: f64,
    /// Peak memory in MiB.
    memory: u64,
    /// Whether the repository must be no larger than the best rival's.
    stored: bool,
}

const fn goal(workload: &'static str, act: &'static str, wall: f64, memory: u64, stored: bool) -> Goal {
    Goal { workload, act, wall, memory, stored }
}

const GOALS: [Goal; 13] = [
    goal("server", "first", 0.45, 300, true),
    goal("dataset", "first", 0.5, 300, true),
    goal("checkpoints", "first", 0.35, 300, true),
    goal("bf16", "first", 0.35, 300, true),
    goal("models", "first", 0.35, 300, true),
    goal("server", "unchanged", 0.25, 150, false),
    goal("server", "restore", 0.6, 300, false),
    goal("checkpoints", "restore", 0.5, 300, false),
    goal("server", "check", 0.5, 300, false),
    goal("dataset", "check", 0.5, 300, false),
    goal("checkpoints", "check", 0.5, 300, false),
    goal("bf16", "check", 0.5, 300, false),
    goal("models", "check", 0.5, 300, false),
];

/// What each later version of the table may add, as a part of its own bytes.
const VERSION_ADDS_MAX: f64 = 0.001;

/// One line of the verdict.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    /// Workload and act.
    pub of: String,
    /// What was asked.
    pub asked: String,
    /// What was measured.
    pub got: String,
    /// Whether it is enough.
    pub met: bool,
}

/// Judges every goal that was measured.
pub fn judge(rows: &[Row]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for goal in &GOALS {
        let group = Group::new(rows, goal.workload, goal.act);
        let of = format!("{}, {}", goal.act, goal.workload);
        let walls = group.ratios(|row| row.wall_s);
        if !walls.is_empty() {
            verdicts.push(at_most(&of, "wall over best rival", median(walls), goal.wall, 2));
        }
        if let Some(peak) = group.median(Tool::Seawall.name(), |row| row.peak_bytes as f64) {
            verdicts.push(at_most(&of, "peak MiB", peak / f64::from(1 << 20), goal.memory as f64, 0));
        }
        let stored = group.ratios(|row| row.stored_bytes as f64);
        if goal.stored && !stored.is_empty() {
            verdicts.push(at_most(&of, "stored over best rival", median(stored), 1.0, 3));
        }
    }
    let versions = Group::new(rows, "dataset", "next");
    if let Some(added) = versions.median(Tool::Seawall.name(), |row| row.added_bytes as f64 / row.source_bytes as f64) {
        let of = "next, dataset";
        verdicts.push(at_most(of, "% that a later version adds", added * 100.0, VERSION_ADDS_MAX * 100.0, 3));
    }
    verdicts
}

fn at_most(of: &str, what: &str, got: f64, limit: f64, digits: usize) -> Verdict {
    Verdict {
        of: of.to_owned(),
        asked: format!("{what} <= {limit:.*}", digits.min(2)),
        got: format!("{got:.digits$}"),
        met: got <= limit,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    #[test]
    fn goals_are_met_or_missed_by_the_median_ratio() {
        let rounds = |ours: [f64; 3]| -> Vec<Row> {
            let pair = |(round, &wall)| [row("seawall", round, wall), row("restic", round, 10.0)];
            ours.iter().enumerate().flat_map(pair).collect()
        };
        let wall = |ours| judge(&rounds(ours)).into_iter().find(|verdict| verdict.asked.starts_with("wall")).unwrap();
        assert!(wall([4.0, 4.4, 9.0]).met);
        let missed = wall([4.0, 5.0, 9.0]);
        assert_eq!((missed.met, missed.got.as_str()), (false, "0.50"));
    }

    #[test]
    fn only_what_was_measured_is_judged() {
        assert!(judge(&[]).is_empty());
        let alone = judge(&[row("seawall", 0, 1.0)]);
        assert_eq!(alone.len(), 1, "without rivals there is only memory: {alone:?}");
    }
}
