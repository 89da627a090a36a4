//! `cargo xtask bench`: Seawall beside restic, rustic and borg, on data that anybody can have.
//!
//!     data made -> tools installed -> rounds (each act: all tools in turn) -> rows -> medians, ratios, goals
//!
//! Every tool runs with its defaults into a directory on the same disk, with the page cache warm. The order of the tools
//! rotates from round to round; a figure is the median over rounds, a ratio the median of the rounds' own ratios, so that
//! a slow round does not favour anybody. Nothing outside the data directory is written, but Debian packages that the
//! rivals are built with are installed.

mod codecs;
mod goals;
mod limit;
mod report;
mod rounds;
mod rows;
mod tools;
mod workloads;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::process;
use crate::surroundings::target_directory;
use tools::Tool;
use workloads::{WORKLOADS, Workload};

/// What `cargo xtask bench` was asked to do.
pub struct Options {
    quick: bool,
    prepare: bool,
    publish: bool,
    resume: bool,
    codecs: bool,
    rounds: usize,
    only: Vec<String>,
    without: Vec<String>,
    data: PathBuf,
}

impl Options {
    /// Reads the arguments after `bench`.
    pub fn parse(root: &Path, arguments: &[String]) -> Result<Self> {
        let data = root.join("target/bench");
        let (only, without) = (Vec::new(), Vec::new());
        let mut options = Self {
            quick: false,
            prepare: false,
            publish: false,
            resume: false,
            codecs: false,
            rounds: 0,
            only,
            without,
            data,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--quick" => options.quick = true,
                "--prepare" => options.prepare = true,
                "--publish" => options.publish = true,
                "--resume" => options.resume = true,
                "--codecs" => options.codecs = true,
                "--rounds" => options.rounds = value()?.parse().context("--rounds needs a number")?,
                "--only" => options.only.push(value()?.clone()),
                "--without" => options.without.push(value()?.clone()),
                "--data" => options.data = std::path::absolute(value()?)?,
                _ => bail!("bench does not know `{word}`"),
            }
        }
        if options.publish && (options.quick || !options.only.is_empty() || !options.without.is_empty()) {
            bail!("only a whole run is published");
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 1 } else { 3 };
        }
        let known = |name: &String| WORKLOADS.iter().any(|workload| workload.name == name);
        if let Some(name) = options.only.iter().find(|name| !known(name)) {
            bail!("no workload is called `{name}`");
        }
        if let Some(name) =
            options.without.iter().find(|name| Tool::ALL.iter().all(|tool| tool.name() != name.as_str()))
        {
            bail!("no tool is called `{name}`");
        }
        Ok(options)
    }

    /// The workloads to run: those asked for, or all; the quick run leaves out what has to be trained or is large.
    fn workloads(&self) -> Vec<&'static Workload> {
        let wanted = |workload: &&Workload| match self.only.is_empty() {
            true => !self.quick || workload.quick,
            false => self.only.iter().any(|name| name == workload.name),
        };
        WORKLOADS.iter().filter(wanted).collect()
    }

    fn tools(&self) -> Vec<Tool> {
        Tool::ALL.into_iter().filter(|tool| !self.without.iter().any(|name| name == tool.name())).collect()
    }
}

/// Where things lie during a benchmark.
pub struct Place {
    /// The project.
    pub root: PathBuf,
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    /// Data, repositories, restored trees, caches, logs.
    pub data: PathBuf,
    /// Rivals and Python environments: shared by quick and full runs.
    pub tools: PathBuf,
    /// Whether the data are the small ones.
    pub quick: bool,
}

impl Place {
    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.data.join(name);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(directory)
    }
}

/// Prepares, measures, prints; `false` when a run of a tool failed. A missed goal is a result, not a failure.
pub fn run(root: &Path, options: &Options) -> Result<bool> {
    let data = if options.quick { options.data.join("quick") } else { options.data.clone() };
    let (target, tools) = (target_directory(root)?, options.data.join("tools"));
    let place = Place { root: root.to_owned(), target, data, tools, quick: options.quick };
    fs::create_dir_all(&place.data).with_context(|| format!("cannot make {}", place.data.display()))?;
    let (workloads, tools) = (options.workloads(), options.tools());
    if options.codecs {
        return codecs::run(&place).map(|()| true);
    }
    for workload in &workloads {
        workload.make(&place)?;
    }
    let mut versions = Vec::new();
    for tool in &tools {
        tool.install(&place)?;
        versions.push(tool.version(&place)?);
    }
    if options.prepare {
        println!("ready: {}", versions.join(", "));
        return Ok(true);
    }
    let mut rows = if options.resume { measured(&place, options.rounds, tools.len())? } else { Vec::new() };
    let mut limits = Vec::new();
    for workload in &workloads {
        limits.push(limit::measure(&place, workload)?);
        if rows.iter().any(|row| row.workload == workload.name) {
            continue;
        }
        for round in 0..options.rounds {
            rounds::run(&place, workload, &tools, round, &mut rows)?;
            let text = serde_json::to_string_pretty(&rows)?;
            fs::write(place.data.join("rows.json"), text).context("cannot write the rows")?;
        }
    }
    let machine = report::Machine::look(versions, options.rounds, options.quick)?;
    let page = report::page(&machine, &rows, &limits);
    print!("{page}");
    if options.publish {
        publish(root, &page, &rows)?;
    }
    Ok(rows.iter().all(|row| row.exit == 0))
}

/// The rows that an interrupted run of the same build left of workloads of which it finished all rounds.
fn measured(place: &Place, rounds: usize, tools: usize) -> Result<Vec<rows::Row>> {
    let text = fs::read_to_string(place.data.join("rows.json")).context("no rows of an interrupted run")?;
    let rows: Vec<rows::Row> = serde_json::from_str(&text).context("cannot read the rows of an interrupted run")?;
    let is_finished = |workload: &str| {
        let checks = rows.iter().filter(|row| row.workload == workload && row.act == "check");
        checks.count() == rounds * tools
    };
    let finished: Vec<bool> = rows.iter().map(|row| is_finished(&row.workload)).collect();
    Ok(rows.into_iter().zip(finished).filter_map(|(row, finished)| finished.then_some(row)).collect())
}

fn publish(root: &Path, page: &str, rows: &[rows::Row]) -> Result<()> {
    fs::write(root.join("docs/benchmarks.md"), page).context("cannot write docs/benchmarks.md")?;
    let lines: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    let text = format!("[\n{}\n]\n", lines?.join(",\n"));
    fs::write(root.join("docs/benchmarks.json"), text).context("cannot write docs/benchmarks.json")
}

/// A Python environment below the tools with these packages, made once, and again when they are others.
fn python(place: &Place, name: &str, packages: &[&str], no_dependencies: &[&str]) -> Result<PathBuf> {
    let directory = place.tools.join(name);
    let python = directory.join("bin/python");
    let done = directory.join("complete");
    let wanted = [packages, no_dependencies].concat().join("\n");
    if !fs::read_to_string(&done).is_ok_and(|made| made == wanted) {
        process::run(std::process::Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
        let pip = |extra: &[&str], packages: &[&str]| {
            let quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            process::run(std::process::Command::new(&python).args(quiet).args(extra).args(packages))
        };
        pip(&[], packages)?;
        if !no_dependencies.is_empty() {
            pip(&["--no-deps"], no_dependencies)?;
        }
        fs::write(&done, wanted)?;
    }
    Ok(python)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options> {
        Options::parse(Path::new("/p"), &words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_choose_rounds_workloads_and_tools() {
        let all = parse(&[]).unwrap();
        assert_eq!((all.rounds, all.workloads().len(), all.tools().len()), (3, 5, 4));
        let quick = parse(&["--quick", "--without", "borg"]).unwrap();
        assert_eq!((quick.rounds, quick.tools().len()), (1, 3));
        assert!(quick.workloads().len() < 5);
        let one = parse(&["--only", "models", "--rounds", "5"]).unwrap();
        assert_eq!((one.rounds, one.workloads()[0].name), (5, "models"));
        for wrong in
            [&["--only", "nothing"][..], &["--rounds"], &["--without", "tar"], &["--fast"], &["--publish", "--quick"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
