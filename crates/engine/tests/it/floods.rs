//! A member who writes into the log before each attempt of another to commit: the other ends, with a reason.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use seawall_engine::backup::backup;
use seawall_engine::crypto::sign::SigningKey;
use seawall_engine::crypto::{Secret32, object_hash, random};
use seawall_engine::error::Error;
use seawall_engine::format::log::{self, Act, LogEntry, SnapshotRecord};
use seawall_engine::format::names::{LOG, PackName, log_object, parse_log};
use seawall_engine::format::slot::{KeyRing, Role, Unlock};
use seawall_engine::ids::{SessionId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError};

use crate::place::{noise, options, paths};

/// Before the log takes an entry, what `evil` writes lies at its number.
struct FloodedStore {
    objects: MemoryStore,
    evil: Mutex<Option<Evil>>,
    /// Entries that others tried to write meanwhile.
    attempts: AtomicU64,
}

/// A member's key, and a snapshot that looks like the parent of others.
struct Evil {
    ring: KeyRing,
    snapshot: Option<SnapshotRecord>,
}

impl Evil {
    fn acts(&self) -> Vec<Act> {
        let lost = vec![PackName { session: SessionId([0xEE; 16]), counter: 0 }];
        let audit = Act::Audit { depth: 0, bytes: 0, lost, damaged: Vec::new(), sound: Vec::new() };
        let snapshot =
            self.snapshot.as_ref().map(|record| SnapshotRecord { id: SnapshotId(random()), ..record.clone() });
        let commit = snapshot.map(|snapshot| Act::Commit {
            session: SessionId(random()),
            segments: Vec::new(),
            snapshot: Box::new(snapshot),
            adopted: Vec::new(),
        });
        std::iter::once(audit).chain(commit).collect()
    }

    fn write(&self, objects: &MemoryStore, mut number: u64) {
        for act in self.acts() {
            let last = objects.get(&log_object(number - 1), None).unwrap();
            let (repository, member) = (self.ring.repository, self.ring.member);
            let entry = LogEntry { number, previous: Some(object_hash(&last)), repository, member, time_ms: 0, act };
            let signer = SigningKey::from_seed(&self.ring.signing_seed);
            objects.put(&log_object(number), &log::seal(&entry, &self.ring.log_key, &signer)).unwrap();
            number += 1;
        }
    }
}

impl Store for FloodedStore {
    fn location(&self) -> String {
        self.objects.location()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.objects.get(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.objects.put(name, bytes)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        if let (Some(number), Some(evil)) = (parse_log(name), &*self.evil.lock().unwrap()) {
            self.attempts.fetch_add(1, Ordering::SeqCst);
            evil.write(&self.objects, number);
        }
        self.objects.create(name, bytes)
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.objects.head(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.objects.list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects.delete(name)
    }

    fn capabilities(&self) -> Capabilities {
        self.objects.capabilities()
    }
}

/// A file of which the list of chunks lies outside its entry: between two holes is a chunk. Such a list is taken over from the
/// parent unseen, and the commit rests on the parent then.
fn write_comb(path: &Path) {
    let comb = File::create(path).unwrap();
    for tooth in 0..200_u64 {
        comb.write_all_at(&noise(tooth, 4096), tooth * 65_536).unwrap();
    }
}

/// With reports of damage alone, and with snapshots besides on which the other would build.
#[test]
fn who_floods_the_log_does_not_keep_another_busy_for_ever() {
    for with_snapshots in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        fs::create_dir(&source).unwrap();
        write_comb(&source.join("comb"));
        let store =
            Arc::new(FloodedStore { objects: MemoryStore::new(), evil: Mutex::new(None), attempts: AtomicU64::new(0) });
        let (owner, member) = (Unlock::KeyFile(Secret32::random()), Unlock::KeyFile(Secret32::random()));
        let repository = Repository::init(store.clone(), &[(owner, "owner".into())], None).unwrap();
        keys::add(&repository, Role::Member, &member.lock().unwrap(), "evil").unwrap();
        backup(&repository, options(paths(&source)), &Silent).unwrap();
        let snapshot = with_snapshots.then(|| repository.snapshots()[0].record.clone());
        let ring = Repository::open_ring(&*store, &member).unwrap();
        *store.evil.lock().unwrap() = Some(Evil { ring, snapshot });
        let flooded = backup(&repository, options(paths(&source)), &Silent);
        assert!(matches!(&flooded, Err(Error::Refused(why)) if why.contains("log show")), "{flooded:?}");
        // A walk that rests on a parent tries once, the last one as often as a commit does. The member's snapshots are no parents.
        let attempts = store.attempts.load(Ordering::SeqCst);
        assert!((1_001..1_100).contains(&attempts), "{attempts}");
        // Once that member is gone, all is as before.
        *store.evil.lock().unwrap() = None;
        let keys = keys::list(&repository).unwrap();
        keys::remove(&repository, keys::find(&keys, "evil").unwrap()).unwrap();
        backup(&repository, options(paths(&source)), &Silent).unwrap();
        let mut entries = 0;
        store.list(LOG, &mut |_| entries += 1).unwrap();
        assert_eq!(Repository::log_entries(&repository), entries);
    }
}
