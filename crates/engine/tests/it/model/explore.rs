//! Breadth first through every state that some order of steps leads to. The first violation found is a shortest one.
//!
//! Of a visited state only 128 bits and the number of the state before it are kept; a trace is found again by walking the
//! numbers back and taking the steps anew.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use super::ledger::{Entry, Ledger, Shot};
use super::names::{CRASHED, Chunks, ENCODED, Packs, SEED, SHARED, SegmentText, pack_set};
use super::omit::{Rule, Rules};
use super::world::{Step, World, Writer, Writing};
use super::{collector, writer};

/// The steps that can be taken from a state, and where they lead.
pub type Moves = Vec<(Step, World)>;

/// Who takes part, what they may do, and how far.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub name: &'static str,
    pub rules: Rules,
    pub writers: usize,
    pub collectors: usize,
    /// What a writer's source may hold.
    pub wants: &'static [Chunks],
    /// Snapshots of the start: the sets of copies in each pack of each.
    pub start: &'static [&'static [u8]],
    /// Copies in a pack that a crashed session left.
    pub crashed: Option<u8>,
    /// Copies in a pack of the first snapshot that an AUDIT calls lost.
    pub damaged: Option<u8>,
    /// Copies in a pack of the second snapshot that are not what their ids say, as only who reads them knows.
    pub rotten: Option<u8>,
    pub has_parents: bool,
    pub has_adoption: bool,
    pub has_undelete: bool,
    pub has_orphans: bool,
    pub has_rewrite: bool,
    pub has_compaction: bool,
    /// Packs that are condemned at once.
    pub list_max: u32,
    /// Log entries after the start.
    pub entries_max: u64,
    /// States after which no further level is begun; one that would double them is left unfinished.
    pub states_max: usize,
}

impl Setup {
    /// Packs whose copies are not what their ids say.
    pub fn rotten(&self) -> Packs {
        self.rotten.map_or(0, |copies| pack_set(SHARED, copies))
    }
}

/// What a search met.
pub struct Explored {
    pub states: usize,
    pub steps: usize,
    pub depth: usize,
    pub logs: usize,
    /// Whether every state within the bounds was met.
    pub is_whole: bool,
    pub violation: Option<Violation>,
}

/// A shortest way to a state in which something is lost.
pub struct Violation {
    pub what: &'static str,
    pub trace: Vec<Step>,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, step) in self.trace.iter().enumerate() {
            writeln!(f, "  {:2} {step}", number + 1)?;
        }
        write!(f, "     {}", self.what)
    }
}

/// A set of digests: they are spread already.
type Digests = HashSet<u128, BuildHasherDefault<Spread>>;

#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only digests are hashed");
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = digest as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Search<'s> {
    setup: &'s Setup,
    ledger: Ledger,
    seen: Digests,
    /// Of each state in the order of discovery, the one that it was met from.
    before: Vec<u32>,
    first: World,
    steps: usize,
}

/// Searches until something is lost, everything was seen or the bound is met.
pub fn explore(setup: &Setup) -> Explored {
    let mut ledger = Ledger::new(setup.rules);
    let first = start(setup, &mut ledger);
    let mut search = Search { setup, ledger, seen: Digests::default(), before: vec![0], first, steps: 0 };
    search.seen.insert(first.digest());
    search.run()
}

impl Search<'_> {
    fn run(mut self) -> Explored {
        let (mut level, mut depth, mut numbered) = (vec![self.first], 0, 0);
        let mut moves = Moves::new();
        while !level.is_empty() && self.seen.len() < self.setup.states_max {
            let mut next = Vec::new();
            for world in &level {
                moves.clear();
                moves_from(self.setup, world, &mut self.ledger, &mut moves);
                self.steps += moves.len();
                for (_, after) in &moves {
                    if !self.seen.insert(after.digest()) {
                        continue;
                    }
                    self.before.push(numbered);
                    if let Some(what) = after.violation(self.setup, &self.ledger) {
                        let trace = self.trace();
                        return self.report(depth + 1, false, Some(Violation { what, trace }));
                    }
                    next.push(*after);
                }
                numbered += 1;
                if self.seen.len() > 2 * self.setup.states_max {
                    return self.report(depth, false, None);
                }
            }
            level = next;
            depth += usize::from(!level.is_empty());
        }
        self.report(depth, level.is_empty(), None)
    }

    fn report(self, depth: usize, is_whole: bool, violation: Option<Violation>) -> Explored {
        let (states, steps, logs) = (self.seen.len(), self.steps, self.ledger.len());
        Explored { states, steps, depth, logs, is_whole, violation }
    }

    /// The steps to the newest state.
    fn trace(&mut self) -> Vec<Step> {
        let mut path = vec![self.before.len() - 1];
        while path[path.len() - 1] != 0 {
            path.push(self.before[path[path.len() - 1]] as usize);
        }
        path.reverse();
        // Why again from the start: a state's number tells when it was met, and that is the same each time.
        let mut again = Search {
            setup: self.setup,
            ledger: Ledger::new(self.setup.rules),
            seen: Digests::default(),
            before: Vec::new(),
            first: self.first,
            steps: 0,
        };
        again.first = start(self.setup, &mut again.ledger);
        again.follow(&path)
    }

    fn follow(&mut self, path: &[usize]) -> Vec<Step> {
        self.seen.insert(self.first.digest());
        let (mut trace, mut queue, mut met) = (Vec::new(), std::collections::VecDeque::from([self.first]), 0);
        let (mut number, mut place) = (0, 0);
        let mut moves = Moves::new();
        while let Some(world) = queue.pop_front() {
            moves.clear();
            moves_from(self.setup, &world, &mut self.ledger, &mut moves);
            for (step, after) in &moves {
                if self.seen.insert(after.digest()) {
                    met += 1;
                    queue.push_back(*after);
                    if number == path[place] && met == path[place + 1] {
                        trace.push(*step);
                    }
                }
            }
            if number == path[place] {
                place += 1;
                if place + 1 == path.len() {
                    break;
                }
            }
            number += 1;
        }
        trace
    }
}

/// Every step that any actor can take, within the bounds.
pub fn moves_from(setup: &Setup, world: &World, ledger: &mut Ledger, moves: &mut Moves) {
    for writer in 0..setup.writers {
        writer::steps(setup, world, writer, ledger, moves);
    }
    for collector in 0..setup.collectors {
        collector::steps(setup, world, collector, ledger, moves);
    }
    if setup.collectors > 0 {
        collector::owner_steps(setup, world, ledger, moves);
    }
    let audits = u64::from(setup.damaged.is_some());
    let entries_max = 1 + setup.start.len() as u64 + audits + setup.entries_max;
    moves.retain(|(_, after)| ledger.known_ref(after.log).state.next <= entries_max);
}

/// The repository before the first step.
pub fn start(setup: &Setup, ledger: &mut Ledger) -> World {
    let mut world = World {
        log: 0,
        packs: 0,
        segments: 0,
        keys: 1 << SHARED,
        writers: Default::default(),
        collectors: Default::default(),
    };
    for (place, copies) in setup.start.iter().enumerate() {
        // Why 7: no writer has that session where names are unique.
        let first = if setup.rules.has(Rule::UniqueNames) { SEED } else { SHARED };
        let session = [first, SHARED][place];
        let packs = copies.iter().fold(0, |packs, copies| packs | pack_set(session, *copies));
        let text = SegmentText { session, counter: 0, packs };
        let held = copies.iter().fold(0, |held, copies| held | copies);
        let chunks = held & !ENCODED | (held & ENCODED) >> 1;
        let entry =
            Entry::Commit { shot: Shot { session, chunks }, segments: vec![ledger.table.number(text)], adopted: 0 };
        world.log = ledger.append(world.log, entry).expect("the start is a good log");
        world.packs |= packs;
        world.segments |= text.object();
        world.keys |= 1 << session;
    }
    if let Some(copies) = setup.damaged {
        let audit = Entry::Audit(pack_set(SEED, copies));
        world.log = ledger.append(world.log, audit).expect("the start is a good log");
    }
    if let Some(copies) = setup.crashed {
        world.packs |= pack_set(CRASHED, copies);
        world.keys |= 1 << CRASHED;
    }
    for writer in &mut world.writers[setup.writers..] {
        *writer = Writer { next: Writing::Ended, ..Writer::default() };
    }
    world
}
