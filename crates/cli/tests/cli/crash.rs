//! Crashes for real: kill -9 at random instants of backup, forget, prune and rotate, and runs that are stopped while others
//! forget and prune, on the built binary with two other processes at work. Afterwards everything restores.
//!
//! A few rounds each time; `cargo xtask crash --rounds 200` for a campaign, with a table of outcomes.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread::{scope, sleep};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seawall_engine::clock::monotonic;

use super::world::{Ended, ended};
use super::yard::{Host, Table, Verb, Yard};

/// Rounds of every test run.
const ROUNDS: u64 = 16;
/// Everything is looked at after so many rounds.
const LOOK_EVERY: u64 = 8;
const VICTIMS: [Verb; 4] = [Verb::Backup, Verb::Prune, Verb::Forget, Verb::Rotate];

pub fn rounds() -> u64 {
    let told = std::env::var_os("SEAWALL_CRASH_ROUNDS");
    told.and_then(|told| told.to_str()?.parse().ok()).unwrap_or(ROUNDS)
}

fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How it ended, in words: well, or because another run was faster. Nothing else may happen.
fn judge(verb: Verb, ended: &Ended) -> &'static str {
    match ended.code {
        -1 => "killed",
        0 => "ends well",
        11 => "refused",
        1 if verb == Verb::Forget && ended.stderr.contains("no snapshot") => "forgotten by others",
        _ => panic!("{verb:?}: {}\n{}\n{}", ended.code, ended.stdout, ended.stderr),
    }
}

/// Runs to its end.
fn finish(verb: Verb, mut command: Command) -> &'static str {
    judge(verb, &ended(command.output().unwrap()))
}

impl Host<'_> {
    fn finish(&mut self, verb: Verb) {
        let command = self.verb(verb);
        finish(verb, command);
    }
}

/// Ends the neighbours also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Works on until it is told to stop; never while everything is looked at.
fn neighbour(mut host: Host<'_>, verbs: &[Verb], over: &AtomicBool, gate: &RwLock<()>, table: &Mutex<Table>) {
    for (round, verb) in verbs.iter().cycle().enumerate() {
        let _open = gate.read().unwrap();
        if over.load(Ordering::SeqCst) {
            return;
        }
        // Every fourth prune takes what crashed runs left, though some of them still run.
        let is_ruthless = *verb == Verb::Prune && round / verbs.len() % 4 == 3;
        let command = if is_ruthless { host.ruthless_prune() } else { host.verb(*verb) };
        let outcome = finish(*verb, command);
        table.lock().unwrap().note(*verb, outcome);
    }
}

/// How long each verb takes, at most.
fn durations(host: &mut Host<'_>) -> Vec<Duration> {
    let mut measured = Vec::new();
    for verb in VICTIMS {
        let begun = monotonic();
        host.finish(verb);
        measured.push(begun.elapsed());
    }
    measured
}

#[test]
fn whatever_is_killed_nothing_is_lost() {
    let yard = Yard::new("repo");
    yard.init();
    let rounds = rounds();
    let (over, gate) = (AtomicBool::new(false), RwLock::new(()));
    let (mut killed, others) = (Table::default(), Mutex::new(Table::default()));
    let mut victim = yard.host("victim", 0x5ea_3a11);
    victim.finish(Verb::Backup);
    let typical = durations(&mut victim);
    scope(|scope| {
        let stop = Stop(&over);
        let north = yard.host("north", 0x0dd_ba11);
        let south = yard.host("south", 0xcab_005e);
        let works: [(Host<'_>, &[Verb]); 2] = [
            (north, &[Verb::Backup, Verb::Verify, Verb::Backup, Verb::Backup]),
            (south, &[Verb::Backup, Verb::Forget, Verb::Prune]),
        ];
        for (host, verbs) in works {
            let (over, gate, others) = (&over, &gate, &others);
            scope.spawn(move || neighbour(host, verbs, over, gate, others));
        }
        for round in 0..rounds {
            let number = usize::try_from(round).unwrap() % VICTIMS.len();
            let mut child = start(victim.verb(VICTIMS[number]));
            let longest = u64::try_from(typical[number].as_micros()).unwrap() * 3 / 2;
            sleep(Duration::from_micros(victim.random.below(longest)));
            child.kill().unwrap();
            killed.note(VICTIMS[number], judge(VICTIMS[number], &ended(child.wait_with_output().unwrap())));
            if round % LOOK_EVERY == LOOK_EVERY - 1 {
                let _shut = gate.write().unwrap();
                yard.check();
            }
        }
        drop(stop);
    });
    VICTIMS.iter().for_each(|verb| victim.finish(*verb));
    let snapshots = yard.check();
    killed.print(&format!("{rounds} rounds of kill -9:"));
    others.lock().unwrap().print("the two other processes:");
    println!("{snapshots} snapshots restore");
    assert!(killed.count("killed") > rounds / 4, "hardly any run was still alive when it was killed");
}

#[test]
fn a_run_that_stands_still_while_others_prune_loses_nothing() {
    let yard = Yard::new("repo");
    yard.init();
    let mut table = Table::default();
    let (mut sleeper, mut other) = (yard.host("sleeper", 0x51ee_9e17), yard.host("other", 0x07e4));
    // Why: what the sleeper was storing is what the others' prunes take.
    sleeper.contents = u64::MAX;
    sleeper.finish(Verb::Backup);
    other.finish(Verb::Backup);
    let typical = durations(&mut sleeper);
    let rounds = rounds() / 2;
    for round in 0..rounds {
        let number = usize::try_from(round).unwrap() % VICTIMS.len();
        let child = start(sleeper.verb(VICTIMS[number]));
        let process = Pid::from_raw(child.id().try_into().unwrap());
        sleep(Duration::from_micros(sleeper.random.below(u64::try_from(typical[number].as_micros()).unwrap())));
        kill(process, Signal::SIGSTOP).unwrap();
        other.finish(Verb::Backup);
        other.finish(Verb::Forget);
        for _ in 0..2 {
            finish(Verb::Prune, other.ruthless_prune());
        }
        if round % 3 == 0 {
            other.finish(Verb::Rotate);
        }
        yard.check();
        kill(process, Signal::SIGCONT).unwrap();
        table.note(VICTIMS[number], judge(VICTIMS[number], &ended(child.wait_with_output().unwrap())));
        yard.check();
        sleeper.finish(Verb::Backup);
    }
    let snapshots = yard.check();
    table.print(&format!(
        "{rounds} rounds of SIGSTOP, then backup, forget, prune --window 0 --orphans 0 twice, SIGCONT:"
    ));
    println!("{snapshots} snapshots restore");
}
