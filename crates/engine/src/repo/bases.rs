//! Decoded bases that the readers of one operation share, so that each is fetched and decoded once while many chunks
//! that are encoded against it pass by.
//!
//! Bounded by bytes; what came first goes first. Why no finer order: whoever shares bases goes through packs in the order of
//! the bases, so that a base is wanted for a while, and then not again. Nothing depends on what is kept but time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

#[cfg(test)]
mod tests {
    use super::*;

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
        bases.add(&id(6), Arc::new(vec![6; 90]));
        assert_eq!(kept(&bases), [6]);
        assert_eq!(*bases.get(&id(6)).unwrap(), vec![6; 90]);
    }
}
