//! What a simulation puts in the place of chance, of the clock, of file times and of single rules. Only with the feature
//! `simulation`; in any other build each question here has the answer "no", and the compiler leaves it out.
//!
//! A run that is to be repeated exactly needs the same ids, and trees with the same bytes; a simulation that is to be
//! trusted must lose data when a rule is left out. `tests/sim` does both. The program that users get is built without.
//!
//! Invariants: nothing here is reached by options, environment or stored bytes; keys stay random on every thread that did
//! not ask for a seed.

/// A rule of docs/concurrency.md that a simulation can leave out, to show that it finds what is lost then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// W1: a writer leans on no pack that is condemned.
    Usable = 1,
    /// W2: a commit looks again at what was condemned meanwhile.
    LookAgain,
    /// W2: the parent from which content was taken over unseen is still live.
    ParentIsLive,
    /// G1: a pack stays that has the only copy outside the condemned ones.
    WhatStays,
    /// G3: a FENCE before an orphan is removed; without it a FENCE means nothing.
    FenceFirst,
    /// U1: with a snapshot the condemned packs come back that it needs.
    PacksComeBack,
    /// U1: of these, also those with the bases of the copies on which it does not rest.
    AllBasesComeBack,
    /// G1 for copies: the copy that stays is read before another one leaves.
    StaysIsRead,
    /// G1 for copies: a copy also leaves when its base does.
    LeavesWithBase,
    /// M1: a prune that goes on despite missing chunks walks all snapshots anew once a segment was published.
    WalksAnew,
}

#[cfg(not(feature = "simulation"))]
mod answers {
    use super::Rule;

    pub(crate) const fn fill(_: &mut [u8]) -> bool {
        false
    }

    pub(crate) const fn instant() -> Option<std::time::Instant> {
        None
    }

    pub(crate) const fn is_left_out(_: Rule) -> bool {
        false
    }
}

#[cfg(feature = "simulation")]
mod answers {
    use std::cell::RefCell;
    use std::sync::RwLock;
    use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    use std::time::Instant;

    use super::Rule;

    thread_local! {
        static CHANCE: RefCell<Option<blake3::OutputReader>> = const { RefCell::new(None) };
    }
    static INSTANT: RwLock<Option<Instant>> = RwLock::new(None);
    static PLAIN_STAT: AtomicBool = AtomicBool::new(false);
    static LEFT_OUT: AtomicU8 = AtomicU8::new(0);

    /// Random bytes on this thread follow from `seed` from now on; with none they are random again.
    pub fn seed_chance(seed: Option<u64>) {
        let reader = |seed: u64| blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        CHANCE.with_borrow_mut(|chance| *chance = seed.map(reader));
    }

    /// What every thread is told when it begins to measure a duration; with none, the time.
    pub fn set_instant(instant: Option<Instant>) {
        *INSTANT.write().unwrap_or_else(std::sync::PoisonError::into_inner) = instant;
    }

    /// Whether inode numbers and times that the file system chose are replaced by what follows from a file's modification
    /// time. Each version of a file then needs a modification time of its own.
    pub fn set_plain_stat(is_plain: bool) {
        PLAIN_STAT.store(is_plain, Ordering::SeqCst);
    }

    /// Leaves out a rule, on all threads.
    pub fn leave_out(rule: Option<Rule>) {
        LEFT_OUT.store(rule.map_or(0, |rule| rule as u8), Ordering::SeqCst);
    }

    pub(crate) fn fill(bytes: &mut [u8]) -> bool {
        CHANCE.with_borrow_mut(|chance| {
            chance.as_mut().is_some_and(|reader| {
                reader.fill(bytes);
                true
            })
        })
    }

    pub(crate) fn instant() -> Option<Instant> {
        *INSTANT.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn has_plain_stat() -> bool {
        PLAIN_STAT.load(Ordering::SeqCst)
    }

    pub(crate) fn is_left_out(rule: Rule) -> bool {
        LEFT_OUT.load(Ordering::SeqCst) == rule as u8
    }
}

#[cfg(feature = "simulation")]
pub(crate) use answers::has_plain_stat;
pub(crate) use answers::{fill, instant, is_left_out};
#[cfg(feature = "simulation")]
pub use answers::{leave_out, seed_chance, set_instant, set_plain_stat};
