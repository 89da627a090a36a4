//! What is damaged, collected from all threads: one finding an object, however often it is met.
//!
//! A finding names the object, what is wrong in a few words, and the chunks that are known to be lost by it. Packs whose
//! own list can't be trusted are kept as suspects; their chunks are tried one by one later ([`super::examine`]). So is
//! what a segment says of a pack and the pack's footer does not.
//!
//! Invariant: only what tells damage gets here ([`tells_damage`]). What could not be read for another reason (a broken
//! connection, a key that may not) is undecided, and never recorded ([`super::Check::unreadable`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::store::StoreError;

/// So many different texts are kept of one object.
const TEXTS_MAX: usize = 3;

/// Damage of one object.
#[derive(Debug, Clone, Default)]
pub(super) struct Finding {
    pub(super) texts: Vec<String>,
    pub(super) chunks: BTreeSet<ChunkId>,
    /// True where without it the repository does not open at all.
    pub(super) hits_all: bool,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeMap<String, Finding>,
    suspects: BTreeSet<PackName>,
    /// Suspects that are certainly not whole: all but those that an earlier check found.
    torn: BTreeSet<PackName>,
    /// Suspects of which only the checksum over the whole is wrong.
    stained: BTreeSet<PackName>,
    /// Packs that were read whole and are.
    whole: BTreeSet<PackName>,
    /// Blobs that an earlier check found damaged, to be tried.
    doubted: BTreeSet<(PackName, ChunkId)>,
    /// Packs of which the index says what their footers do not.
    misfits: Misfits,
    /// Objects of which nothing could be told.
    undecided: BTreeSet<String>,
}

/// Packs whose footer lacks something that the index says of them: of each blob in the footer a hash, 8 bytes. Keyed at
/// random, so that nobody makes a false record whose hash is that of a right one.
#[derive(Debug, Default)]
pub(super) struct Misfits {
    packs: BTreeMap<PackName, HashSet<u64>>,
    key: RandomState,
}

impl Misfits {
    pub(super) fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// True where a segment tells a place that the pack's footer does not.
    pub(super) fn has(&self, id: &ChunkId, location: &Location) -> bool {
        self.packs.get(&location.pack).is_some_and(|footer| !footer.contains(&self.key.hash_one((id, location))))
    }
}

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Findings(Mutex<Inner>);

impl Findings {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, object: &str, what: String, change: impl FnOnce(&mut Finding)) {
        let mut inner = self.lock();
        let finding = inner.objects.entry(object.to_owned()).or_default();
        if finding.texts.len() < TEXTS_MAX && !finding.texts.contains(&what) {
            finding.texts.push(what);
        }
        change(finding);
    }

    /// An object is damaged; what is lost by it, other calls tell.
    pub(super) fn object(&self, object: &str, what: impl Into<String>) {
        self.with(object, what.into(), |_| {});
    }

    /// An object without which the repository does not open.
    pub(super) fn vital(&self, object: &str, what: impl Into<String>) {
        self.with(object, what.into(), |finding| finding.hits_all = true);
    }

    /// A chunk is lost by the damage of an object.
    pub(super) fn chunk(&self, object: &str, what: impl Into<String>, id: ChunkId) {
        self.with(object, what.into(), |finding| {
            finding.chunks.insert(id);
        });
    }

    /// A chunk can't be read. The object is the one that the error names, or `object`.
    pub(super) fn unreadable(&self, object: &str, error: &Error, id: ChunkId) {
        let (named, what) = describe(error);
        self.chunk(named.as_deref().unwrap_or(object), what, id);
    }

    /// A pack is not whole.
    pub(super) fn suspect(&self, pack: PackName, error: &Error) {
        self.object(&pack.object(), describe(error).1);
        let mut inner = self.lock();
        inner.suspects.insert(pack);
        inner.torn.insert(pack);
    }

    /// Nothing can be told of this object; true the first time.
    pub(super) fn undecided(&self, object: &str) -> bool {
        self.lock().undecided.insert(object.to_owned())
    }

    pub(super) fn is_undecided(&self, object: &str) -> bool {
        self.lock().undecided.contains(object)
    }

    /// How many objects those are.
    pub(super) fn undecided_count(&self) -> usize {
        self.lock().undecided.len()
    }

    /// The checksum over a pack does not match, though its list is right: some of its blobs are damaged.
    pub(super) fn stained(&self, pack: PackName) {
        self.object(&pack.object(), "the checksum over the pack does not match");
        let mut inner = self.lock();
        inner.suspects.insert(pack);
        inner.stained.insert(pack);
    }

    /// Each blob of this pack is to be tried; nothing is said of it yet.
    pub(super) fn try_each(&self, pack: PackName) {
        self.lock().suspects.insert(pack);
    }

    /// The index says more of this pack than its footer, which has these blobs: what is more is to be tried.
    pub(super) fn misfit(&self, pack: PackName, footer: impl Iterator<Item = (ChunkId, Location)>) {
        let mut inner = self.lock();
        let hashes = footer.map(|(id, location)| inner.misfits.key.hash_one((&id, &location))).collect();
        inner.misfits.packs.insert(pack, hashes);
    }

    pub(super) fn take_misfits(&self) -> Misfits {
        std::mem::take(&mut self.lock().misfits)
    }

    /// An earlier check found this pack lost.
    pub(super) fn recall(&self, pack: PackName) {
        self.object(&pack.object(), "an earlier check found it damaged");
        self.lock().suspects.insert(pack);
    }

    /// An earlier check found this blob damaged.
    pub(super) fn doubt(&self, pack: PackName, chunk: ChunkId) {
        self.lock().doubted.insert((pack, chunk));
    }

    pub(super) fn doubted(&self) -> BTreeSet<(PackName, ChunkId)> {
        self.lock().doubted.clone()
    }

    /// A pack was read whole, and all that it consists of is as it must be.
    pub(super) fn whole(&self, pack: PackName) {
        self.lock().whole.insert(pack);
    }

    pub(super) fn is_whole(&self, pack: &PackName) -> bool {
        self.lock().whole.contains(pack)
    }

    pub(super) fn all_stained(&self) -> BTreeSet<PackName> {
        self.lock().stained.clone()
    }

    pub(super) fn torn(&self) -> BTreeSet<PackName> {
        self.lock().torn.clone()
    }

    pub(super) fn has(&self, object: &str) -> bool {
        self.lock().objects.contains_key(object)
    }

    /// The packs that are damaged, each with the chunks that could not be read from it.
    pub(super) fn packs(&self) -> Vec<(PackName, Vec<ChunkId>)> {
        let inner = self.lock();
        let packs = inner.objects.iter().filter_map(|(object, finding)| Some((PackName::parse(object)?, finding)));
        packs.map(|(pack, finding)| (pack, finding.chunks.iter().copied().collect())).collect()
    }

    /// The chunks that are lost by damage of packs.
    pub(super) fn chunks_in_packs(&self) -> Vec<ChunkId> {
        let inner = self.lock();
        let packs = inner.objects.iter().filter(|(object, _)| PackName::parse(object).is_some());
        packs.flat_map(|(_, finding)| finding.chunks.iter().copied()).collect()
    }

    pub(super) fn suspects(&self) -> BTreeSet<PackName> {
        self.lock().suspects.clone()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().objects.is_empty()
    }

    /// All findings in order of objects' names.
    pub(super) fn take(&self) -> Vec<(String, Finding)> {
        std::mem::take(&mut self.lock().objects).into_iter().collect()
    }
}

/// True if an error tells that something is damaged or gone. All else tells only that it could not be read now.
pub(super) fn tells_damage(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::NotFound(_) | Error::Rollback(_))
}

/// The object that an error names, if it names one, and what is wrong.
pub(super) fn describe(error: &Error) -> (Option<String>, String) {
    match error {
        Error::Damaged(damaged) => {
            // A footer is a part of its pack.
            let object = damaged.object.strip_suffix("#footer").unwrap_or(&damaged.object);
            let stored = object.contains('/').then(|| object.to_owned());
            (stored, damaged.why.clone())
        }
        Error::Store(StoreError::Missing(object)) => (Some(object.clone()), "it is missing".to_owned()),
        other => (None, format!("it can't be read: {other}")),
    }
}
