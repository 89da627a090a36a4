//! Decoded bases that the readers of one operation share, so that each is fetched and decoded once while many chunks
//! that are encoded against it pass by; and the order of packs in which they do.
//!
//! Bounded by bytes; what came first goes first. Why no finer order: whoever shares bases goes through packs in the order of
//! the bases, so that a base is wanted for a while, and then not again. Nothing depends on what is kept, nor on the order, but
//! time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::format::names::PackName;
use crate::ids::ChunkId;

/// Plain bytes of chunks that others are encoded against.
pub struct Bases {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: HashMap<ChunkId, Arc<Vec<u8>>>,
    order: VecDeque<ChunkId>,
    bytes: usize,
}

impl Bases {
    /// Keeps at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default() }
    }

    /// How many bytes it keeps at most.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// The plain bytes, where they are kept.
    #[must_use]
    pub fn get(&self, id: &ChunkId) -> Option<Arc<Vec<u8>>> {
        self.lock().by_id.get(id).map(Arc::clone)
    }

    /// Keeps the plain bytes of a chunk, which were compared with its id, in place of older ones.
    pub fn add(&self, id: &ChunkId, plain: Arc<Vec<u8>>) {
        let mut kept = self.lock();
        if plain.len() > self.bytes_max || kept.by_id.contains_key(id) {
            return;
        }
        kept.bytes += plain.len();
        kept.by_id.insert(*id, plain);
        kept.order.push_back(*id);
        while kept.bytes > self.bytes_max {
            let Some(oldest) = kept.order.pop_front() else { return };
            let dropped = kept.by_id.remove(&oldest).map_or(0, |plain| plain.len());
            kept.bytes -= dropped;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which packs lean on which: have chunks that are encoded against chunks of others. About 60 bytes for each that does.
#[derive(Debug, Default)]
pub struct Leanings(HashMap<PackName, PackName>);

impl Leanings {
    /// Takes note that a chunk in `pack` is encoded against one in `lead`. Of several leads the last counts: when it was
    /// read, the others were too.
    pub fn add(&mut self, pack: PackName, lead: PackName) {
        let last = self.0.entry(pack).or_insert(lead);
        *last = lead.max(*last);
    }

    /// Numbers of `packs`, each once, in an order in which what is encoded against a base comes soon after it: each pack is
    /// followed by those that lean on it, each of these by those that lean on that one, and so on; else as they are given.
    #[must_use]
    pub fn order(&self, packs: &[PackName]) -> Vec<usize> {
        let numbers: HashMap<PackName, usize> = packs.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        // None where a pack has its place already.
        let mut followers = vec![Some(Vec::new()); packs.len()];
        let mut firsts = Vec::new();
        for (at, name) in packs.iter().enumerate() {
            match self.0.get(name).and_then(|lead| numbers.get(lead)) {
                Some(&lead) if lead != at => followers[lead].get_or_insert_default().push(at),
                _ => firsts.push(at),
            }
        }
        let mut order = Vec::with_capacity(packs.len());
        // Why all of them at the end: packs may lean on one another in a ring, which nothing leads to.
        for first in firsts.into_iter().chain(0..packs.len()) {
            let mut next = vec![first];
            while let Some(at) = next.pop() {
                let Some(followers) = followers[at].take() else { continue };
                order.push(at);
                next.extend(followers.into_iter().rev());
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    #[test]
    fn packs_follow_what_they_lean_on() {
        let name = |counter| PackName { session: SessionId([7; 16]), counter };
        let packs: Vec<PackName> = (0..10).map(name).collect();
        let mut leanings = Leanings::default();
        // 4 leans on 0 and 1; 7 on 4; 5 on 2; 8 on what is not read; 9 on itself; 3 and 6 on each other.
        for (pack, lead) in [(4, 1), (4, 0), (7, 4), (5, 2), (8, 77), (9, 9), (3, 6), (6, 3)] {
            leanings.add(name(pack), name(lead));
        }
        assert_eq!(leanings.order(&packs), [0, 1, 4, 7, 2, 5, 8, 9, 3, 6]);
        assert_eq!(Leanings::default().order(&packs), (0..10).collect::<Vec<_>>());
        assert!(leanings.order(&[]).is_empty());
    }

    #[test]
    fn the_oldest_make_way_and_what_is_too_long_is_not_kept() {
        let bases = Bases::new(100);
        let id = |number| ChunkId([number; 32]);
        for (number, length) in [(1, 40), (2, 40), (1, 40), (3, 101), (4, 20)] {
            bases.add(&id(number), Arc::new(vec![number; length]));
        }
        let kept = |bases: &Bases| (1..=6).filter(|&number| bases.get(&id(number)).is_some()).collect::<Vec<u8>>();
        assert_eq!(kept(&bases), [1, 2, 4]);
        bases.add(&id(5), Arc::new(vec![5; 1]));
        assert_eq!(kept(&bases), [2, 4, 5]);
        bases.add(&id(6), Arc::new(vec![6; 100]));
        assert_eq!(kept(&bases), [6]);
        assert_eq!(*bases.get(&id(6)).unwrap(), vec![6; 100]);
    }
}
