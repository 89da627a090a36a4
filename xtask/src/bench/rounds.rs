//! One round of one workload: every act by every tool, in turn, and the rows that come of it.
//!
//!     state 0 -> first -> unchanged -> next states -> restore (judged by rsync in the first round) -> check
//!
//! All tools do one act before any does the next, so that they meet the machine in the same mood.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io, thread};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Place;
use super::rows::Row;
use super::tools::{Act, Tool};
use super::workloads::Workload;
use crate::process;

/// The disks are idle when nothing happened for so long: a journal is committed every five seconds, and discards follow it.
const DISKS_IDLE_SECONDS: u32 = 8;
const DISKS_WAIT_SECONDS_MAX: u32 = 60;

/// What bench/measure.py prints.
#[derive(Clone, Deserialize)]
struct Cost {
    wall_s: f64,
    cpu_s: f64,
    peak_bytes: u64,
    exit: i32,
}

/// One round under way.
struct Round<'a> {
    place: &'a Place,
    workload: &'a Workload,
    number: usize,
    /// Backups done so far, the same for all tools.
    backups: usize,
}

/// Runs a round and appends its rows.
pub fn run(place: &Place, workload: &Workload, tools: &[Tool], number: usize, rows: &mut Vec<Row>) -> Result<()> {
    let mut tools = tools.to_vec();
    let by = number % tools.len().max(1);
    tools.rotate_left(by);
    let mut round = Round { place, workload, number, backups: 0 };
    for tool in &tools {
        tool.clear(place)?;
    }
    let _ = fs::remove_file(place.data.join("cache/seawall.key"));
    workload.set(place, 0)?;
    for &tool in &tools {
        round.cost(tool, Act::Init)?;
    }
    round.backups("first", &[None], &tools, rows)?;
    round.backups("unchanged", &[None], &tools, rows)?;
    for (act, _) in workload.next {
        let states: Vec<_> = workload.states(place, act).into_iter().map(Some).collect();
        round.backups(act, &states, &tools, rows)?;
    }
    round.restores(&tools, rows)?;
    for (order, &tool) in tools.iter().enumerate() {
        let cost = round.cost(tool, Act::Check)?;
        rows.push(round.row("check", tool, order, cost)?);
    }
    for &tool in &tools {
        tool.clear(place)?;
    }
    round.remove_restored(&tools)
}

impl Round<'_> {
    /// Backs up each state, or what is there; one row a tool with the sums.
    fn backups(&mut self, act: &str, states: &[Option<usize>], tools: &[Tool], rows: &mut Vec<Row>) -> Result<()> {
        let before: Vec<u64> =
            tools.iter().map(|tool| Ok(size_of(&tool.repository(self.place))?.0)).collect::<Result<_>>()?;
        let mut sums: Vec<Option<Cost>> = tools.iter().map(|_| None).collect();
        for &state in states {
            if let Some(state) = state {
                self.workload.set(self.place, state)?;
            }
            self.backups += 1;
            let source = self.workload.source(self.place);
            for (&tool, sum) in tools.iter().zip(&mut sums) {
                let cost = self.cost(tool, Act::Backup(&source, self.backups))?;
                *sum = Some(sum.take().map_or_else(|| cost.clone(), |sum| sum.and(&cost)));
            }
        }
        for (order, ((&tool, sum), before)) in tools.iter().zip(sums).zip(before).enumerate() {
            let Some(sum) = sum else { continue };
            let mut row = self.row(act, tool, order, sum)?;
            row.added_bytes = row.stored_bytes.cast_signed() - before.cast_signed();
            if let Some(name) = self.workload.changing.filter(|_| states.len() > 1) {
                let length = fs::metadata(self.workload.source(self.place).join(name))?.len();
                row.source_bytes = length * states.len() as u64;
            }
            rows.push(row);
        }
        Ok(())
    }

    /// Each tool restores into a place of its own, and all trees stay until the round ends. Why: where ext4 has no journal it
    /// takes no inode that was freed in the last minute or five, and looks for another one past all of these. After a tree of 90,000
    /// files was removed a restore took three times as long, by whatever tool.
    fn restores(&self, tools: &[Tool], rows: &mut Vec<Row>) -> Result<()> {
        self.remove_restored(tools)?;
        for (order, &tool) in tools.iter().enumerate() {
            let target = self.restored(tool);
            fs::create_dir_all(&target)?;
            let cost = self.cost(tool, Act::Restore(&target, self.backups))?;
            let mut row = self.row("restore", tool, order, cost)?;
            if self.number == 0 {
                row.differences = Some(self.differences(&target)?);
            }
            rows.push(row);
        }
        Ok(())
    }

    fn restored(&self, tool: Tool) -> PathBuf {
        self.place.data.join("restored").join(tool.name())
    }

    fn remove_restored(&self, tools: &[Tool]) -> Result<()> {
        for target in tools.iter().map(|&tool| self.restored(tool)).filter(|target| target.exists()) {
            fs::remove_dir_all(&target).context("cannot remove a restored tree")?;
        }
        Ok(())
    }

    /// How many entries rsync would have to change to make the restored tree equal to the source.
    fn differences(&self, target: &Path) -> Result<usize> {
        let source = self.workload.source(self.place);
        let restored = target.join(source.strip_prefix("/").context("the source has an absolute path")?);
        let with_slash = |path: &Path| format!("{}/", path.display());
        let options = ["-aHAXn", "--checksum", "--delete", "--itemize-changes"];
        if !restored.exists() {
            return Ok(usize::MAX);
        }
        let mut rsync = Command::new("rsync");
        let list = process::capture(rsync.args(options).arg(with_slash(&source)).arg(with_slash(&restored)))?;
        Ok(list.lines().count())
    }

    /// Every tool meets the same state: nothing of the tool before it is left to be written or discarded, what it reads is in
    /// the page cache, and there is as much free memory that the machine has really got as a first backup or a restore fills.
    /// Why each time: a virtual machine gives memory back that was not used for a minute, or was freed, and then only the tool
    /// that came first found its source there, and did not pay for fresh memory.
    fn settle(&self, tool: Tool, act: &Act) -> Result<()> {
        process::run(&mut Command::new("sync"))?;
        match act {
            Act::Init => Ok(()),
            Act::Backup(source, 1) => {
                wait_for_disks();
                warm(source)?;
                self.touch_memory()
            }
            Act::Backup(source, _) => warm(source),
            Act::Restore(..) => {
                wait_for_disks();
                warm(&tool.repository(self.place))?;
                self.touch_memory()
            }
            Act::Check => warm(&tool.repository(self.place)),
        }
    }

    /// Fills as much of the page cache as the source has bytes, and frees it. Nothing of it gets to the disk.
    fn touch_memory(&self) -> Result<()> {
        let path = self.place.data.join("scratch");
        let (bytes, _) = size_of(&self.workload.source(self.place))?;
        let mut file = fs::File::create(&path)?;
        io::copy(&mut io::repeat(1).take(bytes), &mut file)?;
        fs::remove_file(&path)?;
        Ok(())
    }

    /// Runs one act of one tool under bench/measure.py.
    fn cost(&self, tool: Tool, act: Act) -> Result<Cost> {
        self.settle(tool, &act)?;
        let mut command = Command::new("python3");
        command.args(["-I", "-S"]).arg(self.place.root.join("bench/measure.py"));
        command.arg(self.place.directory("logs")?.join(format!("{}.log", tool.name())));
        command.args(tool.command(self.place, act)).envs(tool.environment(self.place));
        if let Act::Restore(target, _) = act {
            // borg restores into the working directory.
            command.current_dir(target);
        }
        let text = process::capture(&mut command)?;
        serde_json::from_str(&text).context("cannot read what measure.py printed")
    }

    fn row(&self, act: &str, tool: Tool, order: usize, cost: Cost) -> Result<Row> {
        let (stored_bytes, _) = size_of(&tool.repository(self.place))?;
        let (source_bytes, _) = size_of(&self.workload.source(self.place))?;
        let (workload, name) = (self.workload.name, tool.name());
        let Cost { wall_s, cpu_s, peak_bytes, exit } = cost;
        let outcome = if exit == 0 { String::new() } else { format!("  EXIT {exit}: see logs/{name}.log") };
        println!(
            "{workload:<12} {act:<10} round {} {name:<8} {wall_s:>8.2} s {cpu_s:>8.2} s CPU {:>6} MiB {:>9.1} MB{outcome}",
            self.number + 1,
            peak_bytes >> 20,
            stored_bytes as f64 / 1e6,
        );
        Ok(Row {
            workload: workload.to_owned(),
            act: act.to_owned(),
            round: self.number,
            tool: name.to_owned(),
            place: order,
            wall_s,
            cpu_s,
            peak_bytes,
            stored_bytes,
            added_bytes: 0,
            source_bytes,
            differences: None,
            exit,
        })
    }
}

impl Cost {
    /// Both, one after the other.
    fn and(self, next: &Self) -> Self {
        Self {
            wall_s: self.wall_s + next.wall_s,
            cpu_s: self.cpu_s + next.cpu_s,
            peak_bytes: self.peak_bytes.max(next.peak_bytes),
            exit: if self.exit == 0 { next.exit } else { self.exit },
        }
    }
}

/// Bytes and number of the regular files below a directory, as `du --apparent-size` counts files; 0 where there is none.
pub fn size_of(directory: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut files, mut pending) = (0, 0, vec![directory.to_owned()]);
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                (bytes, files) = (bytes + entry.metadata()?.len(), files + 1);
            }
        }
    }
    Ok((bytes, files))
}

/// Waits until the disks did nothing for a while, a minute at most.
fn wait_for_disks() {
    let done = || fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let (mut before, mut idle) = (done(), 0);
    for _ in 0..DISKS_WAIT_SECONDS_MAX {
        thread::sleep(Duration::from_secs(1));
        let now = done();
        idle = if now == before { idle + 1 } else { 0 };
        if idle == DISKS_IDLE_SECONDS {
            return;
        }
        before = now;
    }
}

/// Reads every file once, so that no tool pays for the disk on behalf of the others.
fn warm(source: &Path) -> Result<()> {
    let mut pending = vec![source.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if kind.is_file() {
                let mut file = fs::File::open(entry.path())?;
                io::copy(&mut file, &mut io::sink())?;
            }
        }
    }
    Ok(())
}
