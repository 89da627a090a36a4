//! What all engine tests share: a source directory, a repository beside it, and ways to look at what was stored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_engine::backup::{BackupOptions, BackupReport, Source};
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::Effort;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Content, Extent, Kind, TreeKey};
use seawall_engine::error::Result;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::store::local::LocalStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{CompareOptions, Read, VerifyOptions, compare, verify};

pub fn options(source: Source) -> BackupOptions {
    BackupOptions {
        source,
        host: "host".into(),
        user: "user".into(),
        tags: Vec::new(),
        labels: Vec::new(),
        // Why: in the past of nothing; files count as settled once they are older than a second before this.
        time: Timestamp { seconds: Timestamp::now().seconds + 10, nanos: 0 },
        program: "test".into(),
        force_read: false,
        dry_run: false,
        parent: None,
        bases: Vec::new(),
        effort: Some(Effort::Balanced),
        steady: None,
        threads: 3,
        budget_bytes: 64 * MIB,
    }
}

pub fn paths(root: &Path) -> Source {
    Source::Paths(WalkOptions { sources: vec![root.to_path_buf()], ..WalkOptions::default() })
}

pub struct Place {
    pub directory: tempfile::TempDir,
    pub unlock: Unlock,
}

impl Place {
    pub fn new() -> (Self, Repository) {
        let place = Self { directory: tempfile::tempdir().unwrap(), unlock: Unlock::KeyFile(Secret32::random()) };
        fs::create_dir(place.source()).unwrap();
        let store = LocalStore::create(&place.directory.path().join("repository")).unwrap();
        let slots = [(place.unlock.clone(), "test".to_owned())];
        let repository = Repository::init(Arc::new(store), &slots, Some(place.directory.path().join("cache"))).unwrap();
        (place, repository)
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub fn open(&self, cache: bool) -> Repository {
        let store = LocalStore::open(&self.directory.path().join("repository")).unwrap();
        let cache = cache.then(|| self.directory.path().join("cache"));
        Repository::open(Arc::new(store), &self.unlock, cache).unwrap()
    }
}

pub fn content(repository: &Repository, content: &Content) -> Vec<u8> {
    let Content::Inline(inline) = content else {
        let mut bytes = Vec::new();
        for extent in repository.extents(content) {
            match extent.unwrap() {
                Extent::Chunk { id, length } => {
                    let chunk = repository.read_chunk(&id).unwrap();
                    assert_eq!(chunk.len(), usize::try_from(length).unwrap());
                    bytes.extend(chunk);
                }
                Extent::Hole { length } => bytes.resize(bytes.len() + usize::try_from(length).unwrap(), 0),
            }
        }
        return bytes;
    };
    inline.clone()
}

/// Every regular file below the source, as the snapshot has it.
pub fn stored_files(repository: &Repository, report: &BackupReport) -> BTreeMap<PathBuf, Vec<u8>> {
    files_of(repository, &report.snapshot.as_ref().unwrap().root)
}

/// Every regular file in a tree.
pub fn files_of(repository: &Repository, root: &ChunkId) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = repository.tree(root).entries().map(Result::unwrap);
    let files = entries.filter_map(|(key, entry)| match &entry.kind {
        Kind::File(stored) => {
            let bytes = content(repository, stored);
            assert_eq!(u64::try_from(bytes.len()).unwrap(), entry.size);
            Some((key.to_path(), bytes))
        }
        _ => None,
    });
    files.collect()
}

/// Bytes that neither compress nor repeat.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// Every published object is there and every blob is what its id says.
pub fn assert_whole(repository: &Repository) {
    let options = VerifyOptions { read: Read::All, record: false, threads: 2, budget_bytes: 64 * MIB };
    assert_eq!(verify(repository, &options, &Silent).unwrap().damage, []);
}

/// Restores `source` from a snapshot into a new directory `target`, and finds no difference.
pub fn assert_restores(repository: &Repository, root: &ChunkId, source: &Path, target: &Path) {
    let from = TreeKey::from_path(source).unwrap();
    let options = RestoreOptions { from, target: target.to_path_buf(), threads: 2, ..RestoreOptions::default() };
    assert_eq!(restore(repository, root, &options, &Silent).unwrap().problems, 0);
    assert_same(repository, root, source, target);
}

/// The directory is as the snapshot has `source`.
pub fn assert_same(repository: &Repository, root: &ChunkId, source: &Path, directory: &Path) {
    let options = CompareOptions { threads: 2, budget_bytes: 64 * MIB, filter: None, owner: false };
    let from = TreeKey::from_path(source).unwrap();
    let report = compare(repository, root, &from, directory, &options, &Silent).unwrap();
    assert_eq!(report.differences, [], "{}", directory.display());
}
