//! A store chooses how long its objects are: what is longer than its kind, or than the log says, is not loaded, and is
//! damage like any other.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use seawall_engine::monitor::Silent;
use seawall_engine::reindex::reindex;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{Store, StoreError};
use seawall_engine::units::{MIB, PACK_BYTES_MAX};
use seawall_engine::verify::Read;

use crate::damage::check;
use crate::misled::scene;

/// Notes the longest answer to a GET of one object.
struct Measuring {
    store: Arc<MemoryStore>,
    object: Mutex<String>,
    longest: AtomicU64,
}

impl Store for Measuring {
    pass_on!(location, put, create, head, list, delete, capabilities);

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let bytes = self.store.get(name, range)?;
        if *self.object.lock().unwrap() == name {
            self.longest.fetch_max(bytes.len() as u64, Ordering::SeqCst);
        }
        Ok(bytes)
    }
}

/// The object grows by so much; the longest answer that anybody asked for while the repository was opened, checked and
/// its index written anew.
fn longest_of_grown(object: &str, growth: usize, store: &MemoryStore, scene: &crate::prune::Scene) -> (u64, u64) {
    let copy = Arc::new(store.copy());
    let mut bytes = copy.get(object, None).unwrap();
    let length = bytes.len() as u64;
    bytes.resize(bytes.len() + growth, 0);
    copy.replace(object, &bytes);
    drop(bytes);
    let measuring =
        Arc::new(Measuring { store: copy, object: Mutex::new(object.to_owned()), longest: AtomicU64::new(0) });
    if let Ok(repository) = Repository::open(measuring.clone(), &scene.unlock, None) {
        let report = check(&repository, Read::All);
        assert!(report.damage.iter().any(|it| it.object == object), "{object}: {:?}", report.damage);
        reindex(&repository, false, &Silent).unwrap();
    }
    (length, measuring.longest.load(Ordering::SeqCst))
}

#[test]
fn what_a_store_made_longer_is_not_loaded_and_is_told() {
    let (store, scene) = scene();
    let names = store.names();
    let of = |prefix: &str| names.iter().find(|name| name.starts_with(prefix)).unwrap();
    for (prefix, growth) in [("index/", 1), ("index/", 32 * MIB)] {
        let (length, longest) = longest_of_grown(of(prefix), growth, &store, &scene);
        assert_eq!(longest, length + 1, "{prefix} and {growth} bytes");
    }
    for prefix in ["seawall", "key/"] {
        let (_, longest) = longest_of_grown(of(prefix), 32 * MIB, &store, &scene);
        assert_eq!(longest, 65_536 + 1, "{prefix}");
    }
    let growth = usize::try_from(PACK_BYTES_MAX).unwrap() + MIB;
    let (_, longest) = longest_of_grown(of("pack/"), growth, &store, &scene);
    assert!(longest <= PACK_BYTES_MAX + 1, "a pack: {longest}");
}
