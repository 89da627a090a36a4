//! `--effort auto`: what is spent on a chunk follows how far the store is behind.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use seawall_engine::backup::{BackupOptions, backup};
use seawall_engine::codec::Effort;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::TreeKey;
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::Monitor;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{Store, StoreError};
use seawall_engine::tensors::{ListOptions, list};
use seawall_engine::units::MIB;

use crate::place::{assert_whole, options, paths, stored_files};
use crate::tensor_files::{model, scaled, weights};

/// A store that takes packs only once the gate is open.
#[derive(Default)]
struct Gate {
    store: MemoryStore,
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

impl Store for Gate {
    pass_on!(location, create, head, list, delete, capabilities);

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.store.get(name, range)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if name.starts_with("pack/") {
            let open = self.open.lock().unwrap();
            let waited = self.opened.wait_timeout_while(open, Duration::from_secs(120), |open| !*open).unwrap();
            assert!(!waited.1.timed_out(), "nobody opened the gate");
        }
        self.store.put(name, bytes)
    }
}

/// Opens the gate when the last file is about to be read: by one thread, so the one before it is sealed.
struct Opener<'a>(&'a Gate);

impl Monitor for Opener<'_> {
    fn current(&self, path: &Path) {
        if path.ends_with("z-last") {
            self.0.open();
        }
    }
}

/// While three full packs wait, chunks are encoded as `dense` does, which sorts by scale; while none does, as `fast`, which
/// does not. Packs are an eighth of the budget, at least 4 MiB, so that four chunks of 1 MB at 0.83 fill one: of the 15 chunks
/// here the last three are sealed while three packs wait, and no fourth is full, which would have to wait for room.
#[test]
fn a_store_that_is_behind_is_given_denser_chunks() {
    let numbers = scaled(weights(3, 3_800_000));
    for (effort, is_slow, wanted) in [(None, true, true), (None, false, false), (Some(Effort::Fast), true, false)] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        // Why apart: files of tensors wait until the walk leaves their directory.
        fs::create_dir_all(source.join("a")).unwrap();
        fs::write(source.join("a/m.safetensors"), model(&numbers, &[1; 400], "")).unwrap();
        fs::write(source.join("z-last"), b"last").unwrap();
        let gate = Arc::new(Gate::default());
        let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
        let repository = Repository::init(gate.clone(), &slots, None).unwrap();
        // Why: where no pack is full before the end, none waits.
        let budget_bytes = if is_slow { 32 * MIB } else { 256 * MIB };
        let options = BackupOptions { effort, threads: 1, budget_bytes, ..options(paths(&source)) };
        let report = backup(&repository, options, &Opener(&gate)).unwrap();
        assert!(report.packs.len() > 3 || !is_slow, "{report:?}");
        let from = TreeKey::from_path(&source).unwrap();
        let mut encodings = BTreeSet::new();
        let root = report.snapshot.as_ref().unwrap().root;
        list(&repository, &root, &ListOptions { from, names: Vec::new() }, &Opener(&gate), &mut |file| {
            encodings.extend(file.tensors.iter().flat_map(|stored| stored.encodings.clone()));
            Ok(())
        })
        .unwrap();
        assert_eq!(encodings.contains("scaled"), wanted, "{effort:?}, slow {is_slow}: {encodings:?}");
        assert!(encodings.contains("planes"), "{effort:?}: {encodings:?}");
        assert_eq!(stored_files(&repository, &report).len(), 2);
        assert_whole(&repository);
    }
}
