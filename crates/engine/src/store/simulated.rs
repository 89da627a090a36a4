//! A store that fails on purpose: the ground of the engine's crash tests.
//!
//! A [`Plan`] says at which operation what goes wrong; the same plan and the same calls give the same failures. After a
//! crash every operation fails until [`SimulatedStore::reboot`], which leaves what had reached the store and nothing
//! planned. The usual test: for k = 0, 1, 2 … run the verb on a store with [`Plan::crash_at_write`] `(k)`; stop when it
//! did not crash; else reboot and check that what was committed is whole and that the verb can be run again.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::memory::MemoryStore;
use super::{Capabilities, Created, ObjectInfo, Store, StoreError};

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    FailBefore,
    /// It takes effect, but its caller is told that it failed (a lost answer).
    FailAfter,
    /// The machine stops before it.
    CrashBefore,
    /// The machine stops after it took effect and before its caller learns so.
    CrashAfter,
    /// The machine stops within it: a `put` leaves the first half of its bytes (as no conforming store does); any other
    /// operation is as [`Self::CrashBefore`].
    CrashTorn,
}

/// What goes wrong, and when. Operations are numbered from 0, all kinds together; writes (`put`, `create`, `delete`) also
/// among themselves.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Faults by the number of the operation.
    pub at_operation: BTreeMap<u64, Fault>,
    /// Faults by the number of the write.
    pub at_write: BTreeMap<u64, Fault>,
    /// Failures at random operations, as often as told.
    pub random: Option<RandomFailures>,
    /// The store is full when it would hold more than this.
    pub capacity_bytes: Option<u64>,
    /// LIST does not show this many of the newest objects yet.
    pub unlisted: usize,
    /// A crash undoes this many of the newest acknowledged writes (a store that lies about durability).
    pub lost_in_crash: usize,
}

/// Transient failures ([`Fault::FailBefore`] and [`Fault::FailAfter`] alike) of about `per_mille` in 1000 operations.
#[derive(Debug, Clone, Copy)]
pub struct RandomFailures {
    /// Which operations: another seed, another choice.
    pub seed: u64,
    /// How many in 1000.
    pub per_mille: u64,
}

impl Plan {
    /// The machine stops right before write number `number`.
    #[must_use]
    pub fn crash_at_write(number: u64) -> Self {
        Self::default().write(number, Fault::CrashBefore)
    }

    /// Adds a fault at an operation.
    #[must_use]
    pub fn operation(mut self, number: u64, fault: Fault) -> Self {
        self.at_operation.insert(number, fault);
        self
    }

    /// Adds a fault at a write.
    #[must_use]
    pub fn write(mut self, number: u64, fault: Fault) -> Self {
        self.at_write.insert(number, fault);
        self
    }

    fn fault(&self, operation: u64, write: Option<u64>) -> Option<Fault> {
        let planned = write.and_then(|number| self.at_write.get(&number)).or_else(|| self.at_operation.get(&operation));
        planned.copied().or_else(|| self.random.and_then(|random| random.fault(operation)))
    }
}

impl RandomFailures {
    fn fault(self, operation: u64) -> Option<Fault> {
        // One round of splitmix64 over seed and number.
        let mut mixed = self.seed.wrapping_add(operation.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let fault = if mixed >> 63 == 0 { Fault::FailBefore } else { Fault::FailAfter };
        (mixed % 1000 < self.per_mille).then_some(fault)
    }
}

/// How often each verb was called, failed calls included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Operations {
    /// Calls of `get`.
    pub get: u64,
    /// Calls of `put`.
    pub put: u64,
    /// Calls of `create`.
    pub create: u64,
    /// Calls of `head`.
    pub head: u64,
    /// Calls of `list`.
    pub list: u64,
    /// Calls of `delete`.
    pub delete: u64,
    /// Bytes that `get` gave.
    pub bytes_read: u64,
}

impl Operations {
    /// Calls that change the store.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.put + self.create + self.delete
    }

    /// All calls.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.writes() + self.get + self.head + self.list
    }
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    operations: Operations,
    crashed: bool,
    /// Objects written, oldest first.
    written: Vec<String>,
}

/// A [`MemoryStore`] behind a [`Plan`].
#[derive(Debug, Default)]
pub struct SimulatedStore {
    objects: MemoryStore,
    state: Mutex<State>,
}

impl SimulatedStore {
    /// An empty store with which nothing is wrong.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with a plan.
    #[must_use]
    pub fn with_plan(plan: Plan) -> Self {
        Self::over(MemoryStore::new(), plan)
    }

    /// A store that begins with these objects: one starting point for many plans ([`MemoryStore::copy`]).
    #[must_use]
    pub fn over(objects: MemoryStore, plan: Plan) -> Self {
        Self { objects, state: Mutex::new(State { plan, ..State::default() }) }
    }

    /// Changes the plan and begins to count operations anew.
    pub fn set_plan(&self, plan: Plan) {
        let mut state = self.lock();
        state.plan = plan;
        state.operations = Operations::default();
    }

    /// Ends a crash: what had reached the store is there, no plan is left, and counting begins anew.
    pub fn reboot(&self) {
        self.set_plan(Plan::default());
        self.lock().crashed = false;
    }

    /// True between a planned crash and [`Self::reboot`].
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.lock().crashed
    }

    /// The calls since the store was made, or since the last [`Self::set_plan`] or [`Self::reboot`].
    #[must_use]
    pub fn operations(&self) -> Operations {
        self.lock().operations
    }

    /// What is stored, past all plans: to look at it, damage it or copy it.
    #[must_use]
    pub fn objects(&self) -> &MemoryStore {
        &self.objects
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and runs it as the plan says.
    fn run<T>(
        &self,
        what: &str,
        kind: fn(&mut Operations) -> &mut u64,
        effect: impl FnOnce(&mut State) -> Result<T, StoreError>,
        torn: impl FnOnce(),
    ) -> Result<T, StoreError> {
        let mut state = self.lock();
        if state.crashed {
            return Err(failure(what, "the simulated store has crashed"));
        }
        let before = state.operations;
        *kind(&mut state.operations) += 1;
        let write = (state.operations.writes() > before.writes()).then(|| before.writes());
        match state.plan.fault(before.total(), write) {
            None => effect(&mut state),
            Some(Fault::FailBefore) => Err(failure(what, "simulated failure")),
            Some(Fault::FailAfter) => effect(&mut state).and(Err(failure(what, "simulated loss of the answer"))),
            Some(fault) => {
                // Why: the newest writes are lost as they were before this operation, which nobody acknowledged.
                self.lose(&mut state);
                if fault == Fault::CrashTorn {
                    torn();
                } else if fault == Fault::CrashAfter {
                    effect(&mut state)?;
                }
                state.crashed = true;
                Err(failure(what, "simulated crash"))
            }
        }
    }

    fn lose(&self, state: &mut State) {
        let kept = state.written.len().saturating_sub(state.plan.lost_in_crash);
        for name in state.written.drain(kept..) {
            // It can't fail: the name was good when it was written.
            let _ = self.objects.delete(&name);
        }
    }

    fn check_capacity(&self, state: &State, what: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match state.plan.capacity_bytes {
            Some(capacity) if self.objects.total_bytes() + bytes.len() as u64 > capacity => {
                Err(StoreError::from_io(what, io::ErrorKind::StorageFull.into()))
            }
            _ => Ok(()),
        }
    }
}

fn failure(what: &str, text: &'static str) -> StoreError {
    StoreError::Io { what: what.to_owned(), source: io::Error::other(text) }
}

impl Store for SimulatedStore {
    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let effect = |state: &mut State| {
            let bytes = self.objects.get(name, range)?;
            state.operations.bytes_read += bytes.len() as u64;
            Ok(bytes)
        };
        self.run(&format!("reading {name}"), |operations| &mut operations.get, effect, || {})
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let what = format!("writing {name}");
        let effect = |state: &mut State| {
            self.check_capacity(state, &what, bytes)?;
            self.objects.put(name, bytes)?;
            state.written.push(name.to_owned());
            Ok(())
        };
        let torn = || self.objects.replace(name, &bytes[..bytes.len() / 2]);
        self.run(&what, |operations| &mut operations.put, effect, torn)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        let what = format!("writing {name}");
        let effect = |state: &mut State| {
            self.check_capacity(state, &what, bytes)?;
            let created = self.objects.create(name, bytes)?;
            if created == Created::Created {
                state.written.push(name.to_owned());
            }
            Ok(created)
        };
        self.run(&what, |operations| &mut operations.create, effect, || {})
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        let effect = |_: &mut State| self.objects.head(name);
        self.run(&format!("looking up {name}"), |operations| &mut operations.head, effect, || {})
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let effect = |state: &mut State| {
            let shown = state.written.len().saturating_sub(state.plan.unlisted);
            let mut found = Vec::new();
            self.objects.list(prefix, &mut |info| {
                if !state.written[shown..].contains(&info.name) {
                    found.push(info);
                }
            })?;
            Ok(found)
        };
        let found = self.run(&format!("listing {prefix}"), |operations| &mut operations.list, effect, || {})?;
        found.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        let effect = |state: &mut State| {
            self.objects.delete(name)?;
            state.written.retain(|written| written != name);
            Ok(())
        };
        self.run(&format!("deleting {name}"), |operations| &mut operations.delete, effect, || {})
    }

    fn capabilities(&self) -> Capabilities {
        self.objects.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    const ALL: [&str; 3] = ["pack/a", "pack/b", "log/c"];

    /// Writes three objects in order until one fails; gives the names that are stored after a reboot.
    fn stored_after(plan: Plan) -> Vec<String> {
        let store = SimulatedStore::with_plan(plan);
        let failed = store
            .put(ALL[0], b"0123456789")
            .and_then(|()| store.put(ALL[1], b"0123456789"))
            .and_then(|()| store.create(ALL[2], b"0123456789").map(|_| ()));
        if store.crashed() {
            assert!(failed.is_err());
            assert!(store.get(ALL[0], None).unwrap_err().to_string().contains("crashed"));
        }
        store.reboot();
        let mut names = Vec::new();
        store.list("", &mut |info| names.push(format!("{} {}", info.name, info.length))).unwrap();
        names
    }

    #[test]
    fn conforms_without_a_plan() {
        conformance::check(&|| Box::new(SimulatedStore::new()));
    }

    #[test]
    fn faults_have_the_effect_they_name() {
        let (a, b, c) = ("pack/a 10", "pack/b 10", "log/c 10");
        let cases: [(Plan, &[&str]); 9] = [
            (Plan::default(), &[c, a, b]),
            (Plan::crash_at_write(0), &[]),
            (Plan::crash_at_write(2), &[a, b]),
            (Plan::default().write(1, Fault::CrashAfter), &[a, b]),
            (Plan::default().write(1, Fault::CrashTorn), &[a, "pack/b 5"]),
            (Plan::default().write(2, Fault::CrashTorn), &[a, b]),
            (Plan::default().operation(1, Fault::FailBefore), &[a]),
            (Plan::default().operation(1, Fault::FailAfter), &[a, b]),
            (Plan { lost_in_crash: 1, ..Plan::crash_at_write(2) }, &[a]),
        ];
        for (plan, expected) in cases {
            assert_eq!(stored_after(plan.clone()), expected, "{plan:?}");
        }
    }

    #[test]
    fn a_full_store_refuses_and_stays_usable() {
        let store = SimulatedStore::with_plan(Plan { capacity_bytes: Some(15), ..Plan::default() });
        store.put("pack/a", b"0123456789").unwrap();
        assert!(matches!(store.put("pack/b", b"0123456789"), Err(StoreError::Full { .. })));
        store.delete("pack/a").unwrap();
        store.put("pack/b", b"0123456789").unwrap();
        assert_eq!(store.operations(), Operations { put: 3, delete: 1, ..Operations::default() });
    }

    #[test]
    fn a_listing_may_lag_but_a_get_does_not() {
        let store = SimulatedStore::with_plan(Plan { unlisted: 1, ..Plan::default() });
        store.put("pack/a", b"a").unwrap();
        store.put("pack/b", b"b").unwrap();
        let mut names = Vec::new();
        store.list("pack/", &mut |info| names.push(info.name)).unwrap();
        assert_eq!(names, ["pack/a"]);
        assert_eq!(store.get("pack/b", None).unwrap(), b"b");
    }

    #[test]
    fn random_failures_repeat_with_the_seed_and_are_about_as_many_as_asked() {
        let failures = |seed| {
            let random = Some(RandomFailures { seed, per_mille: 100 });
            let store = SimulatedStore::with_plan(Plan { random, ..Plan::default() });
            store.objects().replace("pack/a", b"a");
            (0..2000).map(|_| store.head("pack/a").is_err()).collect::<Vec<bool>>()
        };
        let first = failures(7);
        assert_eq!(first, failures(7));
        assert_ne!(first, failures(8));
        let count = first.iter().filter(|failed| **failed).count();
        assert!((140..260).contains(&count), "{count} of 2000");
    }
}
