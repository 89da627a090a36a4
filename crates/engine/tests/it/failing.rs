//! A store of which some answers fail: those of GETs of names with a beginning, so many times.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_engine::store::{Store, StoreError};

/// See the page.
pub struct Failing {
    store: Arc<dyn Store>,
    prefix: String,
    left: AtomicU64,
    /// So many GETs pass before.
    passing: AtomicU64,
}

impl Failing {
    pub fn new(store: Arc<dyn Store>, prefix: &str, times: u64) -> Arc<Self> {
        Arc::new(Self { store, prefix: prefix.to_owned(), left: AtomicU64::new(times), passing: AtomicU64::new(0) })
    }

    /// Fails once, after so many that pass.
    pub fn after(store: Arc<dyn Store>, prefix: &str, passing: u64) -> Arc<Self> {
        let prefix = prefix.to_owned();
        Arc::new(Self { store, prefix, left: AtomicU64::new(1), passing: AtomicU64::new(passing) })
    }

    /// Fails so many times more.
    pub fn set(&self, times: u64) {
        self.left.store(times, Ordering::SeqCst);
    }
}

impl Store for Failing {
    pass_on!(location, put, create, head, list, delete, capabilities);

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        let take = |left: &AtomicU64| {
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
        };
        if name.starts_with(&self.prefix) && !take(&self.passing) && take(&self.left) {
            let source = std::io::Error::other("input/output error");
            return Err(StoreError::from_io(format!("cannot read {name}"), source));
        }
        self.store.get(name, range)
    }
}
