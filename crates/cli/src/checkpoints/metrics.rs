//! The state of all runs as metrics in the text format of Prometheus, for node_exporter's textfile collector.
//!
//! The file is replaced as a whole: a reader sees the old one or the new one. An age is of the moment of writing; for
//! an alert that also sees a watch that died, take `time() - seawall_checkpoint_finished_timestamp_seconds`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use seawall_engine::crypto::random;
use seawall_engine::error::{Error, Result};

use super::status::RunStatus;

/// What a watch counted since it began, for one run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Checkpoints made durable.
    pub durable: u64,
    /// Attempts that were discarded.
    pub discarded: u64,
    /// Seconds from the completion marker to the commit, of the last one.
    pub durable_seconds: Option<f64>,
}

/// Name, type and help of a metric, and its value.
type Metric = (&'static str, &'static str, &'static str, fn(&RunStatus, &Counts) -> Option<f64>);

const METRICS: [Metric; 12] = [
    ("age_seconds", "gauge", "Age of the newest durable checkpoint.", |run, _| run.age_seconds),
    ("finished_timestamp_seconds", "gauge", "When the newest durable checkpoint was finished.", |run, _| run.finished),
    ("step", "gauge", "Step of the newest durable checkpoint.", |run, _| number(run.durable_step)),
    ("newest_step", "gauge", "Newest step on disk, finished or not.", |run, _| number(run.newest_step)),
    ("steps_at_risk", "gauge", "Steps on disk that are not durable.", |run, _| number(run.steps_at_risk)),
    (
        "steps_at_risk_by_rate",
        "gauge",
        "Steps done since the newest durable checkpoint, by the run's rate.",
        |run, _| number(run.steps_at_risk_by_rate),
    ),
    ("gpu_hours_at_risk", "gauge", "Age of the newest durable checkpoint in hours, times GPUs.", |run, _| {
        run.gpu_hours_at_risk
    }),
    ("incomplete", "gauge", "Checkpoints on disk that lack something and are not being written.", |run, _| {
        number(Some(run.incomplete))
    }),
    ("damaged", "gauge", "Checkpoints in the repository that do not count: damage was found since.", |run, _| {
        number(Some(run.damaged))
    }),
    ("durable_seconds", "gauge", "Seconds from completion marker to commit of the last checkpoint.", |_, counts| {
        counts.durable_seconds
    }),
    ("durable_total", "counter", "Checkpoints made durable since the watch began.", |_, counts| {
        number(Some(counts.durable))
    }),
    (
        "discarded_total",
        "counter",
        "Attempts discarded because the checkpoint changed while it was read.",
        |_, counts| number(Some(counts.discarded)),
    ),
];

fn number(count: Option<u64>) -> Option<f64> {
    count.map(|count| count as f64)
}

/// The text of all metrics. `scanned` is when the directories were looked through last, in Unix seconds; `store_trouble` whether
/// the store could not be read, or something waits because it could not be written.
#[must_use]
pub fn render(runs: &[RunStatus], counts: &BTreeMap<String, Counts>, scanned: f64, store_trouble: bool) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        let mut lines = String::new();
        for run in runs {
            let counts = counts.get(&run.run).copied().unwrap_or_default();
            if let Some(value) = value(run, &counts) {
                let label = escaped(&run.run);
                let _ = writeln!(lines, "seawall_checkpoint_{name}{{run=\"{label}\"}} {value}");
            }
        }
        if !lines.is_empty() {
            let _ = write!(
                text,
                "# HELP seawall_checkpoint_{name} {help}\n# TYPE seawall_checkpoint_{name} {kind}\n{lines}"
            );
        }
    }
    for (name, help, value) in [
        (
            "store_trouble",
            "1 while the store can't be read, or checkpoints wait because it failed.",
            f64::from(store_trouble),
        ),
        ("scan_timestamp_seconds", "When the directories were looked through last.", scanned),
    ] {
        let name = format!("seawall_checkpoint_{name}");
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n");
    }
    text
}

/// The value of a label, with what the format wants escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Replaces the file.
///
/// # Errors
/// When it can't be written or renamed; the old one is still there then.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    // Why random: watches in several containers may have the same number, and one directory. Why the ending: the collector
    // reads what ends in .prom.
    name.push(format!(".{:016x}.tmp", u64::from_le_bytes(random())));
    let temporary = path.with_file_name(name);
    replace(path, &temporary, text).map_err(|error| Error::file(path, "cannot write the metrics", error))
}

/// Writes the text under a name that nobody has, follows no link there, and renames it.
fn replace(path: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(temporary, path));
    if written.is_err() {
        // Why ignored: the error that matters is the first.
        let _ = fs::remove_file(temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_as_the_format_wants_them() {
        let run = RunStatus {
            run: "/runs/a \"b\"\\c\n".to_owned(),
            durable_step: Some(120),
            age_seconds: Some(1.5),
            steps_at_risk: Some(20),
            ..RunStatus::default()
        };
        let counts =
            BTreeMap::from([(run.run.clone(), Counts { durable: 3, discarded: 1, durable_seconds: Some(2.25) })]);
        let text = render(&[run], &counts, 1000.5, true);
        let label = r#"{run="/runs/a \"b\"\\c\n"}"#;
        for line in [
            format!("seawall_checkpoint_age_seconds{label} 1.5"),
            format!("seawall_checkpoint_step{label} 120"),
            format!("seawall_checkpoint_steps_at_risk{label} 20"),
            format!("seawall_checkpoint_durable_seconds{label} 2.25"),
            format!("seawall_checkpoint_durable_total{label} 3"),
            "# TYPE seawall_checkpoint_discarded_total counter".to_owned(),
            "seawall_checkpoint_scan_timestamp_seconds 1000.5".to_owned(),
            "seawall_checkpoint_store_trouble 1".to_owned(),
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("gpu_hours"), "what is not known is not told:\n{text}");
        for line in text.lines() {
            assert!(line.starts_with('#') || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn the_file_is_replaced_and_nothing_else_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seawall.prom");
        write(&path, "old\n").unwrap();
        write(&path, "new\n").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        // What another watch with this number, or somebody else, has put there stays, and is not followed.
        let (theirs, target) = (folder.path().join("seawall.prom.tmp"), folder.path().join("target"));
        fs::write(&target, "theirs").unwrap();
        std::os::unix::fs::symlink(&target, &theirs).unwrap();
        let same_number = folder.path().join(format!("seawall.prom.{}.tmp", std::process::id()));
        std::os::unix::fs::symlink(&target, &same_number).unwrap();
        write(&path, "newer\n").unwrap();
        assert_eq!(replace(&path, &theirs, "x").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&target).unwrap(), "theirs");
        assert!(theirs.is_symlink() && same_number.is_symlink());
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer\n");
        assert!(write(&folder.path().join("none/x.prom"), "x").unwrap_err().to_string().contains("metrics"));
    }
}
