//! A store in memory: the reference for what a [`Store`] means, and the ground of tests.
//!
//! It does not outlive the process. Besides the seven verbs it has what tests of damage need: [`MemoryStore::replace`]
//! breaks the rule that objects never change, and [`MemoryStore::copy`] gives an independent store with the same objects.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Capabilities, Created, ObjectInfo, Store, StoreError, check_name, check_prefix, clip};
use crate::clock::Timestamp;

#[derive(Debug, Clone)]
struct Object {
    bytes: Arc<[u8]>,
    modified: Timestamp,
}

impl Object {
    fn info(&self, name: &str) -> ObjectInfo {
        ObjectInfo { name: name.to_owned(), length: self.bytes.len() as u64, modified: self.modified }
    }
}

/// Objects in a map.
#[derive(Debug, Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Object>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An independent store with the objects that this one holds now (the bytes are shared, not copied).
    #[must_use]
    pub fn copy(&self) -> Self {
        Self { objects: Mutex::new(self.lock().clone()) }
    }

    /// The names of all objects, ascending.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Length of all objects together, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.lock().values().map(|object| object.bytes.len() as u64).sum()
    }

    /// Sets an object to `bytes`, whether it was there or not, which no [`Store`] does: for tests of damage.
    pub fn replace(&self, name: &str, bytes: &[u8]) {
        self.lock().insert(name.to_owned(), Object { bytes: bytes.into(), modified: Timestamp::now() });
    }

    // Why: the map is consistent between any two statements that change it, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Object>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Result<Object, StoreError> {
        check_name(name)?;
        self.lock().get(name).cloned().ok_or_else(|| StoreError::Missing(name.to_owned()))
    }
}

impl Store for MemoryStore {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let bytes = self.find(name)?.bytes;
        let range = clip(range, bytes.len() as u64);
        Ok(bytes[range.start as usize..range.end as usize].to_vec())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        match self.create(name, bytes)? {
            Created::Created => Ok(()),
            Created::AlreadyThere if *self.find(name)?.bytes == *bytes => Ok(()),
            Created::AlreadyThere => Err(StoreError::from_io(format!("writing {name}"), other_bytes_there())),
        }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        check_name(name)?;
        let mut objects = self.lock();
        if objects.contains_key(name) {
            return Ok(Created::AlreadyThere);
        }
        objects.insert(name.to_owned(), Object { bytes: bytes.into(), modified: Timestamp::now() });
        Ok(Created::Created)
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        Ok(self.find(name)?.info(name))
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        check_prefix(prefix)?;
        // Why: `each` may use the store, so the lock is not held while it runs.
        let found: Vec<ObjectInfo> = {
            let objects = self.lock();
            let below = objects.range(prefix.to_owned()..).take_while(|(name, _)| name.starts_with(prefix));
            below.map(|(name, object)| object.info(name)).collect()
        };
        found.into_iter().for_each(each);
        Ok(())
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.lock().remove(name);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_create: true, ranged_get: true }
    }
}

/// The error of a `put` whose name already holds other bytes.
pub(crate) fn other_bytes_there() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::AlreadyExists, "an object of that name with other bytes is there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;

    #[test]
    fn conforms() {
        conformance::check(&|| Box::new(MemoryStore::new()));
    }

    #[test]
    fn a_copy_is_independent() {
        let store = MemoryStore::new();
        store.put("pack/a", b"one").unwrap();
        let copy = store.copy();
        copy.replace("pack/a", b"damaged");
        store.delete("pack/a").unwrap();
        assert_eq!(copy.get("pack/a", None).unwrap(), b"damaged");
        assert_eq!((store.names().len(), copy.names().len(), copy.total_bytes()), (0, 1, 7));
    }
}
