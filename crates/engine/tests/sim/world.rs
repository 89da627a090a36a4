//! The store of a run: what is stored, what a listing shows, and requests that arrive late.
//!
//! It keeps what docs/stores.md promises and nothing more: `create` has one winner, what was acknowledged stays and is
//! whole, LIST may be behind. A write that was not acknowledged may have taken place, take place later, or never. Its
//! clock is what stands in the times of objects, and it jumps.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use seawall_engine::clock::Timestamp;
use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError, check_name, check_prefix};

/// One call of a client.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Get(String, Option<(u64, u64)>),
    Head(String),
    List(String),
    Create(String, Arc<[u8]>),
    Put(String, Arc<[u8]>),
    Delete(String),
}

impl Operation {
    pub fn is_write(&self) -> bool {
        matches!(self, Self::Create(..) | Self::Put(..) | Self::Delete(_))
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Get(name, _) | Self::Head(name) | Self::List(name) | Self::Delete(name) => name,
            Self::Create(name, _) | Self::Put(name, _) => name,
        }
    }
}

/// Without the bytes, which differ from run to run: keys are drawn on threads that are not seeded.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Why not the place: an offset follows from the lengths of sealed blobs, which the order of two threads moves.
            Self::Get(name, None) => write!(f, "get {name}"),
            Self::Get(name, Some(_)) => write!(f, "get {name} part"),
            Self::Head(name) => write!(f, "head {name}"),
            Self::List(name) => write!(f, "list {name}"),
            Self::Create(name, _) => write!(f, "create {name}"),
            Self::Put(name, _) => write!(f, "put {name}"),
            Self::Delete(name) => write!(f, "delete {name}"),
        }
    }
}

/// What a call gives.
#[derive(Debug, Clone)]
pub enum Answer {
    Bytes(Vec<u8>),
    Created(Created),
    Info(ObjectInfo),
    Listed(Vec<ObjectInfo>),
    Done,
}

/// A promise of the store that it breaks, to show that the simulation would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// When a client crashes, its last acknowledged writes are lost.
    Forgets,
    /// `create` replaces what is there and says that it created it.
    Replaces,
}

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<[u8]>,
    modified: Timestamp,
    born: u64,
}

#[derive(Debug, Default)]
struct Inside {
    objects: BTreeMap<String, Object>,
    /// Objects that were deleted, each with the change that made it and the one that took it away.
    past: Vec<(ObjectInfo, u64, u64)>,
    /// What an accident changed or took, as it was; until it is deleted.
    before: BTreeMap<String, Arc<[u8]>>,
    /// What an accident took.
    lost: BTreeSet<String>,
    /// Counts changes.
    change: u64,
    clock: Timestamp,
    lie: Option<Lie>,
}

/// Shared by the scheduler, which changes it for the clients, and by whoever looks at it directly.
#[derive(Debug, Default)]
pub struct World(Mutex<Inside>);

impl World {
    pub fn new(clock: Timestamp) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inside { clock, ..Inside::default() })))
    }

    pub fn set_lie(&self, lie: Option<Lie>) {
        self.lock().lie = lie;
    }

    /// A crash of a store that lies about durability: its newest three objects are lost. Gives their names.
    pub fn lose_newest(&self) -> Vec<String> {
        let mut inside = self.lock();
        if inside.lie != Some(Lie::Forgets) {
            return Vec::new();
        }
        let mut newest: Vec<(u64, String)> = inside.objects.iter().map(|(name, it)| (it.born, name.clone())).collect();
        newest.sort();
        let lost: Vec<String> = newest.into_iter().rev().take(3).map(|(_, name)| name).collect();
        inside.objects.retain(|name, _| !lost.contains(name));
        lost
    }

    /// A byte of an object changes by itself.
    pub fn rot(&self, name: &str, at: u64) {
        let mut inside = self.lock();
        inside.remember(name);
        let object = inside.objects.get_mut(name).unwrap();
        let mut bytes = object.bytes.to_vec();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        object.bytes = bytes.into();
    }

    /// An object vanishes, as nobody asked.
    pub fn lose(&self, name: &str) {
        let mut inside = self.lock();
        inside.remember(name);
        let before = inside.before.remove(name);
        inside.delete(name).unwrap();
        inside.lost.insert(name.to_owned());
        inside.before.extend(before.map(|bytes| (name.to_owned(), bytes)));
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }

    pub fn clock(&self) -> Timestamp {
        self.lock().clock
    }

    pub fn move_clock(&self, seconds: i64) {
        let mut inside = self.lock();
        inside.clock.seconds = (inside.clock.seconds + seconds).max(0);
    }

    /// Number of changes so far: what a listing can go back to.
    pub fn change(&self) -> u64 {
        self.lock().change
    }

    pub fn has(&self, name: &str) -> bool {
        self.lock().objects.contains_key(name)
    }

    pub fn has_below(&self, prefix: &str) -> bool {
        self.lock().objects.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// True if an accident took the object: a second request that arrives late does not bring it back.
    pub fn has_lost(&self, name: &str) -> bool {
        self.lock().lost.contains(name)
    }

    /// Takes place; true where something changed. A listing shows what was there at the change `as_of`.
    pub fn apply(&self, operation: &Operation, as_of: u64) -> (Result<Answer, StoreError>, bool) {
        let mut inside = self.lock();
        let before = inside.change;
        let answer = match operation {
            Operation::Get(name, range) => inside.get(name, *range).map(Answer::Bytes),
            Operation::Head(name) => inside.head(name).map(Answer::Info),
            Operation::List(prefix) => inside.list(prefix, as_of).map(Answer::Listed),
            Operation::Create(name, bytes) => inside.create(name, bytes).map(Answer::Created),
            Operation::Put(name, bytes) => inside.put(name, bytes).map(|()| Answer::Done),
            Operation::Delete(name) => inside.delete(name).map(|()| Answer::Done),
        };
        (answer, inside.change != before)
    }
}

impl Inside {
    fn find(&self, name: &str) -> Result<&Object, StoreError> {
        check_name(name)?;
        self.objects.get(name).ok_or_else(|| StoreError::Missing(name.to_owned()))
    }

    fn get(&self, name: &str, range: Option<(u64, u64)>) -> Result<Vec<u8>, StoreError> {
        Ok(part(&self.find(name)?.bytes, range))
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        Ok(info(name, self.find(name)?))
    }

    fn list(&self, prefix: &str, as_of: u64) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        let there = self.objects.iter().filter(|(_, object)| object.born <= as_of);
        let there = there.map(|(name, object)| info(name, object));
        let gone = self.past.iter().filter(|(_, born, gone)| *born <= as_of && as_of < *gone);
        let mut found: Vec<ObjectInfo> = there.chain(gone.map(|(info, ..)| info.clone())).collect();
        found.retain(|info| info.name.starts_with(prefix));
        Ok(found)
    }

    fn create(&mut self, name: &str, bytes: &Arc<[u8]>) -> Result<Created, StoreError> {
        check_name(name)?;
        if self.objects.contains_key(name) && self.lie != Some(Lie::Replaces) {
            return Ok(Created::AlreadyThere);
        }
        self.change += 1;
        let object = Object { bytes: Arc::clone(bytes), modified: self.clock, born: self.change };
        self.objects.insert(name.to_owned(), object);
        Ok(Created::Created)
    }

    fn put(&mut self, name: &str, bytes: &Arc<[u8]>) -> Result<(), StoreError> {
        match self.objects.get(name) {
            Some(there) if *there.bytes == **bytes => Ok(()),
            Some(_) => Err(failure(&format!("writing {name}"), "other bytes are there")),
            None => self.create(name, bytes).map(|_| ()),
        }
    }

    /// Keeps the bytes of an object to which an accident is about to happen.
    fn remember(&mut self, name: &str) {
        if let Some(object) = self.objects.get(name) {
            self.before.entry(name.to_owned()).or_insert(Arc::clone(&object.bytes));
        }
    }

    fn delete(&mut self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.before.remove(name);
        if let Some(object) = self.objects.remove(name) {
            self.change += 1;
            self.past.push((info(name, &object), object.born, self.change));
        }
        Ok(())
    }
}

fn part(bytes: &[u8], range: Option<(u64, u64)>) -> Vec<u8> {
    let Some((start, end)) = range else { return bytes.to_vec() };
    let clip = |at: u64| usize::try_from(at).unwrap().min(bytes.len());
    bytes[clip(start)..clip(end).max(clip(start))].to_vec()
}

fn info(name: &str, object: &Object) -> ObjectInfo {
    ObjectInfo { name: name.to_owned(), length: object.bytes.len() as u64, modified: object.modified }
}

pub fn failure(what: &str, text: &'static str) -> StoreError {
    StoreError::Io { what: what.to_owned(), source: io::Error::other(text) }
}

/// Looks at the world past the scheduler: for what checks a run.
impl Store for World {
    fn location(&self) -> String {
        "simulated".to_owned()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.lock().get(name, range.map(|range| (range.start, range.end)))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.lock().put(name, &bytes.into())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.lock().create(name, &bytes.into())
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.lock().head(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        let found = self.lock().list(prefix, u64::MAX)?;
        found.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.lock().delete(name)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_create: true, ranged_get: true }
    }
}

/// The world as if no accident had happened: for accounts, which are to know what a snapshot reaches whatever is left of it.
pub struct Unharmed(pub Arc<World>);

impl Store for Unharmed {
    fn location(&self) -> String {
        self.0.location()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let inside = self.0.lock();
        let range = range.map(|range| (range.start, range.end));
        inside.before.get(name).map_or_else(|| inside.get(name, range), |bytes| Ok(part(bytes, range)))
    }

    fn put(&self, name: &str, _: &[u8]) -> Result<(), StoreError> {
        Err(failure(&format!("writing {name}"), "accounts write nothing"))
    }

    fn create(&self, name: &str, _: &[u8]) -> Result<Created, StoreError> {
        Err(failure(&format!("creating {name}"), "accounts write nothing"))
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.0.head(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.0.list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        Err(failure(&format!("deleting {name}"), "accounts write nothing"))
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }
}
