//! What goes wrong with calls, how often, in one run. Some runs are calm: then every verb has to succeed.

use std::io::ErrorKind;

use super::chance::Chance;
use super::world::Operation;

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    Before,
    /// It takes place, and the answer is lost.
    After,
    /// It fails, and takes place later.
    Late,
    /// It takes place, and once more later.
    Twice,
    /// It fails with this error.
    Kind(ErrorKind),
}

#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Failed calls in 1000.
    failing: u32,
    /// Writes in 1000 that arrive twice.
    doubled: u32,
    /// Listings in 1000 that are behind, and by how many changes at most.
    behind: u32,
    lag_max: usize,
    crashes: bool,
    /// The store is full from time to time.
    fills: bool,
    is_full: bool,
}

impl Faults {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn new(chance: &mut Chance) -> Self {
        Self {
            failing: chance.pick(&[0, 0, 0, 5, 20]),
            doubled: chance.pick(&[0, 10, 50]),
            behind: chance.pick(&[0, 100, 500]),
            lag_max: chance.pick(&[3, 30]),
            crashes: chance.happens(600),
            fills: chance.happens(200),
            is_full: false,
        }
    }

    pub fn has_crashes(&self) -> bool {
        self.crashes
    }

    /// A full store gets room again, or the reverse.
    pub fn surprise(&mut self, chance: &mut Chance) {
        if self.fills {
            let often = if self.is_full { 50 } else { 5 };
            self.is_full ^= chance.happens(often);
        }
    }

    /// How many changes a listing is behind.
    pub fn lag(&self, chance: &mut Chance) -> u64 {
        if chance.happens(self.behind) { chance.below(self.lag_max) as u64 } else { 0 }
    }

    pub fn draw(&self, chance: &mut Chance, operation: &Operation) -> Option<Fault> {
        let stores = matches!(operation, Operation::Create(..) | Operation::Put(..));
        if self.is_full && stores && chance.happens(700) {
            return Some(Fault::Kind(ErrorKind::StorageFull));
        }
        if chance.happens(self.failing) {
            let choices = [Fault::Before, Fault::After, Fault::Late, Fault::Kind(ErrorKind::PermissionDenied)];
            let fault = chance.pick(&choices);
            return Some(if fault == Fault::Late && !operation.is_write() { Fault::Before } else { fault });
        }
        (operation.is_write() && chance.happens(self.doubled)).then_some(Fault::Twice)
    }
}
