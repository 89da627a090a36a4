//! Many seeds, in several processes: what `cargo xtask sim` asks for in environment variables.
//!
//! Each process plays every so-manyth seed and prints what it found; the first one starts the others and adds up.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::quiet;
use super::run::{ONE, Setup, Summary, play};

/// Decisions of a run, unless told otherwise.
pub const STEPS: u64 = 500;
/// Seeds after which a process tells how far it is.
const TOLD_EVERY: u64 = 250;

#[expect(clippy::disallowed_methods, reason = "the tests of the simulation are told by their caller what to play")]
fn variable(name: &str) -> Option<u64> {
    std::env::var(format!("SEAWALL_SIM_{name}")).ok()?.parse().ok()
}

/// Where the files of a process lie: in memory, and each time under the same name, as paths are part of what is stored.
fn place(job: u64) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    base.join(format!("seawall-simulation-{job:03}"))
}

/// An ordinary run of this seed.
pub fn setup(seed: u64) -> Setup {
    let job = variable("JOB").unwrap_or(0);
    Setup {
        seed,
        steps: variable("STEPS").unwrap_or(STEPS),
        place: place(job),
        lie: None,
        has_harm: variable("HARM").is_some_and(|harm| harm > 0),
        is_shown: variable("TRACE").is_some(),
    }
}

/// A run as one of several processes plays it: the names of its files have the number of the process.
pub fn setup_of_job(seed: u64, job: u64) -> Setup {
    Setup { place: place(job), ..setup(seed) }
}

/// The command that plays a run again.
pub fn again(setup: &Setup) -> String {
    let job = variable("JOB").map(|job| format!(" --job {job}")).unwrap_or_default();
    format!("again: cargo xtask sim --seed {} --steps {}{job} --trace", setup.seed, setup.steps)
}

/// True, with words, where the kernel does not tell what this needs; never in CI.
pub fn skipped() -> bool {
    let possible = quiet::is_possible();
    if !possible {
        println!("skipped: /proc does not tell what threads wait for");
    }
    assert!(possible || std::env::var_os("CI").is_none(), "the simulation can't run here");
    !possible
}

/// Sums over many runs.
#[derive(Debug, Default)]
pub struct Total {
    runs: u64,
    sum: Summary,
}

impl Total {
    pub fn add(&mut self, one: &Summary) {
        self.runs += 1;
        let sum = &mut self.sum;
        sum.calls += one.calls;
        sum.entries += one.entries;
        sum.removals += one.removals;
        sum.crashes += one.crashes;
        sum.faults += one.faults;
        sum.snapshots += one.snapshots;
        sum.accidents += one.accidents;
        sum.of_two_bases += one.of_two_bases;
        sum.healed += one.healed;
        for (name, (done, failed)) in &one.verbs {
            let counts = sum.verbs.entry(name).or_default();
            *counts = (counts.0 + done, counts.1 + failed);
        }
    }

    /// Each verb succeeded often and failed sometimes, and there were crashes and removals.
    pub fn assert_everything_happened(&self) {
        let some = |count: u64| count >= self.runs;
        let sum = &self.sum;
        assert!(some(sum.removals) && some(sum.crashes) && some(sum.faults), "{self}");
        let rare: BTreeMap<_, _> =
            sum.verbs.iter().filter(|(_, (done, failed))| *done * 50 < self.runs || *failed == 0).collect();
        assert!(sum.verbs.len() == 10 && rare.is_empty(), "hardly ever: {rare:?}\n{self}");
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { calls, entries, removals, crashes, faults, snapshots, verbs, .. } = &self.sum;
        let Summary { accidents, of_two_bases, healed, .. } = &self.sum;
        writeln!(
            f,
            "{} runs: {calls} calls, {entries} log entries, {removals} objects removed, {crashes} crashes, {faults} other \
             faults; {accidents} accidents, {healed} chunks healed, {of_two_bases} stored against different bases; {snapshots} \
             snapshots restored at the end",
            self.runs
        )?;
        let verbs: Vec<String> =
            verbs.iter().map(|(name, (done, failed))| format!("{name} {done} + {failed} failed")).collect();
        write!(f, "{}", verbs.join(", "))
    }
}

/// Plays the seeds of one process; false where one loses something.
fn play_share(job: u64, jobs: u64) -> bool {
    quiet::stay_on_one_processor(job);
    let (first, count) = (variable("SEED").unwrap_or(1), variable("SEEDS").unwrap_or(1));
    let (mut total, mut good) = (Total::default(), true);
    for seed in (first..first + count).filter(|seed| (seed - first) % jobs == job) {
        let setup = setup(seed);
        match play(&setup) {
            Ok(summary) => {
                if count == 1 {
                    println!("seed {seed}: digest {}", summary.digest);
                }
                total.add(&summary);
            }
            Err(what) => {
                println!("seed {seed}: WRONG: {what}\n{}", again(&setup));
                good = false;
            }
        }
        if total.runs % TOLD_EVERY == 0 {
            println!("job {job}: {} runs, at seed {seed}", total.runs);
        }
    }
    println!("job {job}: {total}");
    good
}

#[test]
#[ignore = "cargo xtask sim plays any number of seeds"]
fn as_told() {
    if skipped() {
        return;
    }
    let _one = ONE.lock().unwrap();
    let jobs = variable("JOBS").unwrap_or(1);
    if let Some(job) = variable("JOB") {
        // As one of several, or alone as that one.
        assert!(play_share(if jobs == 1 { 0 } else { job }, jobs), "something is wrong");
        return;
    }
    if jobs == 1 {
        assert!(play_share(0, 1), "something is wrong");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let start = |job: u64| {
        let mut command = Command::new(&program);
        command.args(["--ignored", "--exact", "campaign::as_told", "--nocapture"]);
        command.env("SEAWALL_SIM_JOB", job.to_string()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let mut children: Vec<_> = (0..jobs).map(start).collect();
    std::thread::scope(|scope| {
        for child in &mut children {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            scope.spawn(move || {
                for line in lines.map_while(Result::ok).filter(|line| line.contains(':')) {
                    println!("{line}");
                }
            });
        }
    });
    let good = children.iter_mut().all(|child| child.wait().unwrap().success());
    assert!(good, "something is wrong");
}
