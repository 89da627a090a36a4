//! Accidents in runs that ask for them: bytes that rot in a stored pack, copies that a faulty member stored under a wrong id, a segment
//! and a pack that the store lost.
//!
//! Only this knows of them; the verbs have to find out. All that is drawn here comes from a chance of its own, so that a run
//! without accidents is the same as if there were none.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use seawall_engine::format::names::PackName;
use seawall_engine::ids::{ChunkId, SessionId};

use super::chance::Chance;

/// Copies that were stored wrong: the session that stored them, and the chunk that they are not.
pub type Poisoned = Arc<Mutex<BTreeSet<(SessionId, ChunkId)>>>;

/// What happens to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accident {
    /// A byte of a copy is flipped.
    Rot,
    /// A segment is lost, and mostly a pack that it lists.
    Loss,
}

/// What a client does besides, in a run with accidents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Odd {
    /// Stores a copy that is not what its id says.
    Poison,
    /// `verify` of all data, which records what it finds.
    Verify,
    /// `repair --index`.
    Reindex,
    /// `repair --drop`.
    Drop,
    /// An undelete, as what was stored wrong may be of something condemned.
    Undelete,
    /// A prune that goes on despite missing chunks.
    Prune,
}

/// What goes wrong in a run, and when.
#[derive(Debug, Clone)]
pub struct Harm {
    pub luck: Chance,
    is_on: bool,
    /// Accidents that may come yet, of each kind.
    rots: usize,
    losses: usize,
    poisons: usize,
    /// How often in 1000 prunes it is `--despite-missing`.
    despite: u32,
}

impl Harm {
    pub fn new(seed: u64, is_on: bool) -> Self {
        let mut luck = Chance::new(seed ^ 0x00da_3a9e);
        let (rots, losses, poisons) =
            luck.pick(&[(2, 0, 0), (0, 0, 4), (0, 1, 0), (3, 0, 3), (4, 0, 2), (1, 2, 2), (0, 2, 0), (0, 0, 8)]);
        let despite = luck.pick(&[300, 900]);
        Self { luck, is_on, rots, losses, poisons, despite }
    }

    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// An accident, at some step.
    pub fn strikes(&mut self) -> Option<Accident> {
        if !self.is_on || self.rots + self.losses == 0 || !self.luck.happens(10) {
            return None;
        }
        let is_rot = self.losses == 0 || self.rots > 0 && self.luck.happens(500);
        *(if is_rot { &mut self.rots } else { &mut self.losses }) -= 1;
        Some(if is_rot { Accident::Rot } else { Accident::Loss })
    }

    /// What a client begins in the place of what it would have. `is_hurt`: something is lost; `lacks_segment`: a segment is.
    pub fn odd_verb(&mut self, is_owner: bool, is_hurt: bool, lacks_segment: bool) -> Option<Odd> {
        if !self.is_on {
            return None;
        }
        if is_owner && lacks_segment && self.luck.happens(400) {
            return Some(Odd::Reindex);
        }
        if self.poisons > 0 && self.luck.happens(150) {
            self.poisons -= 1;
            return Some(Odd::Poison);
        }
        let often = if is_hurt {
            [(50, Odd::Verify), (10, Odd::Drop), (50, Odd::Undelete), (150, Odd::Prune)]
        } else {
            [(20, Odd::Verify), (2, Odd::Drop), (50, Odd::Undelete), (0, Odd::Prune)]
        };
        often.into_iter().find(|(per_mille, _)| is_owner && self.luck.happens(*per_mille)).map(|(_, odd)| odd)
    }

    pub fn is_despite_missing(&mut self) -> bool {
        self.is_on && self.luck.happens(self.despite)
    }
}

/// What accidents did so far.
#[derive(Debug, Default)]
pub struct Damage {
    pub rotten: BTreeSet<(PackName, ChunkId)>,
    pub lost_segments: BTreeSet<String>,
    pub poisoned: Poisoned,
}

impl Damage {
    pub fn is_none(&self) -> bool {
        self.rotten.is_empty() && self.lost_segments.is_empty() && self.poisoned.lock().unwrap().is_empty()
    }

    /// True if the copy's bytes are what its id says, as far as they are there.
    pub fn spares(&self, pack: &PackName, chunk: &ChunkId) -> bool {
        !self.rotten.contains(&(*pack, *chunk)) && !self.poisoned.lock().unwrap().contains(&(pack.session, *chunk))
    }
}
