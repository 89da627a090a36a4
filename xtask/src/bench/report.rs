//! The report: what was measured, on what, and how far from the goals and from the machine's limit. One text, for the
//! screen and for docs/benchmarks.md.

use std::fmt::Write as _;
use std::process::Command;

use anyhow::Result;

use super::goals;
use super::limit::Limit;
use super::rows::{Group, Row, median};
use super::tools::Tool;
use super::workloads::WORKLOADS;
use crate::process;

const MIB: f64 = (1 << 20) as f64;

/// What the benchmark ran on.
pub struct Machine {
    day: String,
    system: String,
    processor: String,
    memory_gib: u64,
    tools: Vec<String>,
    rounds: usize,
    quick: bool,
}

impl Machine {
    /// Looks at this machine.
    pub fn look(tools: Vec<String>, rounds: usize, quick: bool) -> Result<Self> {
        let first = |path: &str, key: &str| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kib: u64 = first("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
        let cores = std::thread::available_parallelism()?;
        Ok(Self {
            day: process::capture(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned(),
            system: process::capture(Command::new("uname").args(["-s", "-r"]))?.trim().to_owned(),
            processor: format!("{} cores, {}", cores, first("/proc/cpuinfo", "model name")),
            memory_gib: kib.div_ceil(1 << 20),
            tools,
            rounds,
            quick,
        })
    }
}

/// The whole page.
pub fn page(machine: &Machine, rows: &[Row], limits: &[Limit]) -> String {
    let mut page = String::new();
    // Writing to a String never fails.
    let _ = write!(page, "{}", head(machine));
    for workload in &WORKLOADS {
        if rows.iter().any(|row| row.workload == workload.name) {
            let _ = write!(page, "\n## {}\n\n{}\n\n{}", workload.name, workload.about, table(rows, workload.name));
        }
    }
    let _ = write!(page, "\n## Figures to reach\n\n{}", verdicts(rows));
    let _ = write!(page, "\n## The machine's limit\n\n{}", limit_table(rows, limits));
    page
}

fn head(machine: &Machine) -> String {
    format!(
        "# Benchmarks\n\nMade by `cargo xtask bench --publish`; the raw rows are in [benchmarks.json](benchmarks.json). \
         Every tool with its defaults (borg: repokey, zstd,3), repositories in directories on one disk, page cache \
         warm, tools in turn and their order rotated each round.\n\nCells: wall s / CPU s / peak MiB / repository \
         afterwards, for `next` and `step` what was added; medians. `ours` is the median of the rounds' ratios of \
         Seawall to the best rival: wall, stored. `rsync` counts entries that rsync would change in the restored \
         tree.\n\n- {}, {}, {} GiB, {}\n- {}\n- rounds: {}{}\n",
        machine.processor,
        machine.system,
        machine.memory_gib,
        machine.day,
        machine.tools.join(", "),
        machine.rounds,
        if machine.quick { "; small data: this shows that it runs and measures nothing" } else { "" },
    )
}

fn table(rows: &[Row], workload: &str) -> String {
    let tools: Vec<&str> =
        Tool::ALL.map(Tool::name).into_iter().filter(|tool| rows.iter().any(|row| row.tool == *tool)).collect();
    let mut table = format!("| act | {} | ours |\n|---|{}---|\n", tools.join(" | "), "---|".repeat(tools.len()));
    for act in ["first", "unchanged", "next", "step", "restore", "check"] {
        let group = Group::new(rows, workload, act);
        if group.is_empty() {
            continue;
        }
        let cells: Vec<String> = tools.iter().map(|tool| cell(&group, act, tool)).collect();
        let _ = writeln!(table, "| {act} | {} | {} |", cells.join(" | "), ours(&group, act));
    }
    table
}

fn cell(group: &Group, act: &str, tool: &str) -> String {
    let figure = |figure: fn(&Row) -> f64| group.median(tool, figure).unwrap_or(f64::NAN);
    let Some(row) = group.of(tool).next() else { return "-".into() };
    if let Some(failed) = group.of(tool).find(|row| row.exit != 0) {
        return format!("exit {}", failed.exit);
    }
    let mut cell = format!(
        "{:.2} / {:.2} / {:.0}",
        figure(|row| row.wall_s),
        figure(|row| row.cpu_s),
        figure(|row| row.peak_bytes as f64) / MIB
    );
    let _ = match (act, row.differences) {
        ("first", _) => write!(cell, " / {:.1} MB", figure(|row| row.stored_bytes as f64) / 1e6),
        ("next" | "step", _) => write!(cell, " / +{:.2} MB", figure(|row| row.added_bytes as f64) / 1e6),
        ("restore", Some(differences)) if differences == usize::MAX => write!(cell, " / elsewhere"),
        ("restore", Some(differences)) => write!(cell, " / rsync {differences}"),
        _ => Ok(()),
    };
    cell
}

fn ours(group: &Group, act: &str) -> String {
    let ratio = |values: Vec<f64>| if values.is_empty() { "-".into() } else { format!("{:.2}", median(values)) };
    let wall = ratio(group.ratios(|row| row.wall_s));
    match act {
        "first" => format!("{wall}, {}", ratio(group.ratios(|row| row.stored_bytes as f64))),
        "next" | "step" => format!("{wall}, {}", ratio(group.ratios(|row| row.added_bytes as f64))),
        _ => wall,
    }
}

fn verdicts(rows: &[Row]) -> String {
    let mut table = "| goal | asked | measured | |\n|---|---|---|---|\n".to_owned();
    for verdict in goals::judge(rows) {
        let met = if verdict.met { "met" } else { "**missed**" };
        let _ = writeln!(table, "| {} | {} | {} | {met} |", verdict.of, verdict.asked, verdict.got);
    }
    table
}

fn limit_table(rows: &[Row], limits: &[Limit]) -> String {
    let mut table = "The same bytes through read + BLAKE3 + AES-256-GCM + write and sync, on all cores, with nothing \
                     else; and the first backup over that.\n\n| workload | files | GB | read s | write s | all s | \
                     first backup / all |\n|---|---|---|---|---|---|---|\n"
        .to_owned();
    for limit in limits {
        let first = Group::new(rows, &limit.workload, "first").median(Tool::Seawall.name(), |row| row.wall_s);
        let over = first.map_or_else(|| "-".into(), |first| format!("{:.2}", first / limit.all_s));
        let Limit { workload, files, read_s, write_s, all_s, .. } = limit;
        let gb = limit.bytes as f64 / 1e9;
        let _ =
            writeln!(table, "| {workload} | {files} | {gb:.2} | {read_s:.2} | {write_s:.2} | {all_s:.2} | {over} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::row;
    use super::*;

    #[test]
    fn the_page_shows_medians_ratios_and_failures() {
        let mut failed = row("borg", 0, 9.0);
        failed.exit = 2;
        let rows = [row("seawall", 0, 2.0), row("restic", 0, 8.0), failed];
        let limit =
            Limit { workload: "server".into(), bytes: 1 << 30, files: 7, read_s: 0.1, write_s: 0.2, all_s: 0.5 };
        let machine = Machine::look(vec!["seawall 1".into()], 1, false).unwrap();
        let page = page(&machine, &rows, &[limit]);
        let line = "| first | 2.00 / 2.00 / 100 / 0.0 MB | 8.00 / 8.00 / 100 / 0.0 MB | exit 2 | 0.25, 0.25 |";
        for part in [line, "| first, server | wall over best rival <= 0.45 | 0.25 | met |", "| 0.50 | 4.00 |"] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        assert!(!page.contains("## models"));
    }
}
