//! Long random walks, for setups in which the search by breadth does not get far. Same seed, same walks.

use super::explore::{Setup, Violation, moves_from, start};
use super::ledger::Ledger;
use super::world::Step;

/// What the walks met.
pub struct Wandered {
    pub steps: usize,
    /// Log entries at the end of the longest log.
    pub entries: u64,
    pub violation: Option<Violation>,
}

/// Takes random steps from the start, `walks` times, until none is left or `steps_max` were taken.
pub fn wander(setup: &Setup, seed: u64, walks: usize, steps_max: usize) -> Wandered {
    let mut ledger = Ledger::new(setup.rules);
    let first = start(setup, &mut ledger);
    let mut random = Random(seed);
    let mut wandered = Wandered { steps: 0, entries: 0, violation: None };
    let mut moves = Vec::new();
    for _ in 0..walks {
        let (mut world, mut trace) = (first, Vec::<Step>::new());
        while trace.len() < steps_max {
            moves.clear();
            moves_from(setup, &world, &mut ledger, &mut moves);
            let Some((step, after)) = moves.get(random.below(moves.len())) else { break };
            trace.push(*step);
            world = *after;
            if let Some(what) = world.violation(setup, &ledger) {
                wandered.violation = Some(Violation { what, trace });
                return wandered;
            }
        }
        wandered.steps += trace.len();
        wandered.entries = wandered.entries.max(ledger.known_ref(world.log).state.next);
    }
    wandered
}

/// SplitMix64 (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    /// A number under `bound`; 0 where there is none.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) as usize % bound.max(1)
    }
}
