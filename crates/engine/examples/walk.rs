//! Measures the walk: `cargo run --example walk -- [--metadata] [--exclude=PATTERN]... PATH...` prints entries, problems,
//! seconds and peak memory. With `--metadata` every entry is completed too (attributes, owners' names, link targets), on the same thread.

use std::ops::ControlFlow;
use std::path::PathBuf;

use seawall_engine::clock::monotonic;
use seawall_engine::error::Result;
use seawall_engine::stages::exclude::{ExcludeOptions, Excludes};
use seawall_engine::stages::metadata::{self, LinkTable, Names};
use seawall_engine::stages::walk::{Event, WalkOptions, walk};

fn main() -> Result<()> {
    let (flags, paths): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let sources = paths.into_iter().map(PathBuf::from).collect();
    let complete = flags.iter().any(|flag| flag == "--metadata");
    let patterns = flags.iter().filter_map(|flag| flag.strip_prefix("--exclude=").map(String::from)).collect();
    let excludes = Excludes::new(ExcludeOptions { patterns, ..ExcludeOptions::default() })?;
    let (names, mut links, mut problems) = (Names::new(), LinkTable::new(), Vec::new());
    let mut attributes = 0;
    let begun = monotonic();
    let summary = walk(&WalkOptions { sources, excludes, one_file_system: false }, &mut |event| {
        match event {
            Event::Found(found) if complete => {
                let link = links.group(&found.stat);
                attributes +=
                    metadata::complete(&found, &names, link, &mut problems).map_or(0, |entry| entry.xattrs.len());
            }
            Event::Found(_) => {}
            Event::Problem(problem) => problems.push(problem),
        }
        ControlFlow::Continue(())
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let (entries, excluded, trouble) = (summary.entries, summary.excluded, problems.len());
    println!("{entries} entries, {excluded} excluded, {attributes} attributes, {trouble} problems, {seconds:.3} s");
    problems.iter().take(5).for_each(|problem| println!("{}: {} ({})", problem.subject, problem.what, problem.code));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
    Ok(())
}
