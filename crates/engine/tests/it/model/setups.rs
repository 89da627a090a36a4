//! Who takes part in a search. Each setup sets one group of rules under stress, small enough to be searched far.

use super::explore::Setup;
use super::names::ENCODED;
use super::omit::{Rule, Rules};

const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 4;

const NOTHING: Setup = Setup {
    name: "",
    rules: Rules::ALL,
    writers: 1,
    collectors: 1,
    wants: &[A],
    start: &[&[A]],
    crashed: None,
    damaged: None,
    rotten: None,
    has_parents: false,
    has_adoption: false,
    has_undelete: false,
    has_orphans: false,
    has_rewrite: false,
    has_compaction: false,
    list_max: 2,
    entries_max: 6,
    states_max: 400_000,
};

/// One writer, one collector, chunks with and without base.
const BASES: Setup =
    Setup { name: "bases", wants: &[A, C], start: &[&[A, ENCODED]], has_parents: true, has_rewrite: true, ..NOTHING };

/// Two collectors and a chunk that lies in two packs.
const COLLECTORS: Setup = Setup {
    name: "collectors",
    collectors: 2,
    start: &[&[A, ENCODED], &[A]],
    has_rewrite: true,
    has_orphans: true,
    ..NOTHING
};

/// Two writers, the second of which adopts.
const ADOPTION: Setup = Setup {
    name: "adoption",
    writers: 2,
    start: &[&[B]],
    crashed: Some(A),
    has_adoption: true,
    has_orphans: true,
    list_max: 1,
    ..NOTHING
};

/// What is forgotten comes back.
const UNDELETE: Setup =
    Setup { name: "undelete", wants: &[C], start: &[&[A, ENCODED]], has_undelete: true, has_rewrite: true, ..NOTHING };

/// Segments are replaced, and deleted packs vanish from the lists.
const COMPACTION: Setup =
    Setup { name: "compaction", wants: &[A], start: &[&[A], &[B]], has_compaction: true, has_orphans: true, ..NOTHING };

/// Writers that adopt one another's leftovers.
const CHAINS: Setup = Setup { name: "chains", writers: 3, start: &[], ..ADOPTION };

/// A writer whose parent is forgotten after it encoded a chunk against another snapshot's.
const ANEW: Setup = Setup { name: "anew", wants: &[C], start: &[&[A], &[B]], has_parents: true, ..NOTHING };

/// Collectors that go on with a session of which something is published, and remove what is left of sessions.
const KEYS: Setup = Setup {
    name: "keys",
    writers: 0,
    collectors: 2,
    start: &[&[A, B]],
    has_orphans: true,
    has_rewrite: true,
    has_compaction: true,
    list_max: 1,
    ..NOTHING
};

/// A base of which one copy is damaged, and a chunk that lies plain and against that base.
const DAMAGE: Setup = Setup {
    name: "damage",
    wants: &[C],
    start: &[&[A, ENCODED], &[A, C]],
    damaged: Some(A),
    has_undelete: true,
    has_rewrite: true,
    ..NOTHING
};

/// A chunk that lies against two bases, of which the newer copy is rotten and nobody knows.
const COPIES: Setup = Setup {
    name: "copies",
    start: &[&[A, ENCODED], &[B, ENCODED]],
    rotten: Some(ENCODED),
    has_rewrite: true,
    states_max: 200_000,
    ..NOTHING
};

/// Everybody and everything.
const FULL: Setup = Setup {
    name: "full",
    writers: 2,
    collectors: 2,
    wants: &[A, C],
    start: &[&[A, ENCODED]],
    crashed: Some(A),
    has_parents: true,
    has_adoption: true,
    has_undelete: true,
    has_orphans: true,
    has_rewrite: true,
    has_compaction: true,
    ..NOTHING
};

/// Everybody for a long time, for random walks.
pub const LONG: Setup = Setup { writers: 3, entries_max: 30, name: "long", ..FULL };

/// The setups of the test.
pub const ALL: [Setup; 11] =
    [BASES, ANEW, COLLECTORS, KEYS, ADOPTION, CHAINS, UNDELETE, COMPACTION, DAMAGE, COPIES, FULL];

/// The same, searched further.
pub fn deep(setup: &Setup) -> Setup {
    // Why fewer where all take part: most of what is met there still waits to be searched, and takes memory.
    let states_max = if setup.collectors == 2 && setup.writers == 2 { 4_000_000 } else { 8_000_000 };
    Setup { entries_max: setup.entries_max + 2, states_max, ..*setup }
}

/// A setup in which leaving out the rule shows.
pub fn showing(rule: Rule) -> Setup {
    let setup = match rule {
        Rule::BaseOfLeaned | Rule::LookAgain | Rule::ParentIsLive => BASES,
        Rule::BaseOfOwn => ANEW,
        Rule::KeyAfterFence => KEYS,
        Rule::BaseStays | Rule::CopyWithoutBaseIsNone => BASES,
        Rule::SoundStays | Rule::BaseIsSound => DAMAGE,
        Rule::StaysIsRead | Rule::LeavesWithBase => COPIES,
        Rule::RetiredIsDoubtful | Rule::GoneIsUnlisted => COMPACTION,
        Rule::UniqueNames => Setup { name: "names", ..NOTHING },
        Rule::FencedCommit | Rule::PublishedOnce | Rule::FenceFirst => ADOPTION,
        Rule::OwnersAreAdopted => CHAINS,
        Rule::CondemnLooksAgain | Rule::FencedCollector => COLLECTORS,
        Rule::DeleteFirst | Rule::BaseComesBack | Rule::PacksComeBack => UNDELETE,
    };
    Setup { states_max: 3_000_000, ..setup }
}
