//! Backups of real directories come back: content and metadata through tree and chunks, unchanged runs read nothing,
//! changed files are read again, streams commit or abort.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use seawall_engine::backup::{BackupOptions, BackupReport, Source, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Content, Extent, Kind, TreeKey};
use seawall_engine::error::{Error, Result};
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::store::local::LocalStore;
use seawall_engine::units::MIB;

fn options(source: Source) -> BackupOptions {
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
        threads: 3,
        budget_bytes: 64 * MIB,
    }
}

fn paths(root: &Path) -> Source {
    Source::Paths(WalkOptions { sources: vec![root.to_path_buf()], ..WalkOptions::default() })
}

struct Place {
    directory: tempfile::TempDir,
    unlock: Unlock,
}

impl Place {
    fn new() -> (Self, Repository) {
        let place = Self { directory: tempfile::tempdir().unwrap(), unlock: Unlock::KeyFile(Secret32::random()) };
        fs::create_dir(place.source()).unwrap();
        let store = LocalStore::create(&place.directory.path().join("repository")).unwrap();
        let slots = [(place.unlock.clone(), "test".to_owned())];
        let repository = Repository::init(Arc::new(store), &slots, Some(place.directory.path().join("cache"))).unwrap();
        (place, repository)
    }

    fn source(&self) -> std::path::PathBuf {
        self.directory.path().join("source")
    }

    fn open(&self, cache: bool) -> Repository {
        let store = LocalStore::open(&self.directory.path().join("repository")).unwrap();
        let cache = cache.then(|| self.directory.path().join("cache"));
        Repository::open(Arc::new(store), &self.unlock, cache).unwrap()
    }
}

fn content(repository: &Repository, content: &Content) -> Vec<u8> {
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
fn stored_files(repository: &Repository, report: &BackupReport) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let root = report.snapshot.as_ref().unwrap().root;
    let entries = repository.tree(&root).entries().map(Result::unwrap);
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
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

#[test]
fn files_of_all_sizes_come_back_and_an_unchanged_run_reads_nothing() {
    let (place, repository) = Place::new();
    let mut wanted = BTreeMap::new();
    for (number, length) in [0, 1, 2047, 2048, 2049, 65_536, 300_000, 5 * MIB, 40 * MIB].into_iter().enumerate() {
        let path = place.source().join(format!("{number}/file of {length}"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise(7, length)).unwrap();
        wanted.insert(path, noise(7, length));
    }
    let report = backup(&repository, options(paths(&place.source())), &Silent).unwrap();
    assert_eq!((report.files_new, report.files_unchanged, report.problems), (9, 0, 0));
    assert_eq!(stored_files(&place.open(false), &report), wanted);
    for cache in [true, false] {
        let again = backup(&place.open(cache), options(paths(&place.source())), &Silent).unwrap();
        assert_eq!((again.files_unchanged, again.bytes_read, again.chunks_new), (9, 0, 0), "with cache: {cache}");
        assert_eq!(again.snapshot.unwrap().root, report.snapshot.as_ref().unwrap().root);
    }
}

#[test]
fn a_changed_file_is_read_again_and_stored_against_its_old_version() {
    let (place, repository) = Place::new();
    let path = place.source().join("log");
    let mut text: Vec<u8> = (0..400_000).flat_map(|line| format!("{{\"line\":{line}}}\n").into_bytes()).collect();
    fs::write(&path, &text).unwrap();
    fs::write(place.source().join("other"), noise(1, 100_000)).unwrap();
    let first = backup(&repository, options(paths(&place.source())), &Silent).unwrap();
    for round in 0..4 {
        let at = text.len() / 5 * (round + 1);
        text.splice(at..at + 3, *b"changed here");
        fs::write(&path, &text).unwrap();
        let report = backup(&place.open(true), options(paths(&place.source())), &Silent).unwrap();
        assert_eq!((report.files_changed, report.files_unchanged), (1, 1));
        assert!(report.bytes_stored < 8_000, "{} bytes for one edit", report.bytes_stored);
        assert_eq!(stored_files(&place.open(false), &report)[&path], text);
    }
    let old = stored_files(&place.open(false), &first);
    assert!(old[&path].len() < text.len());
}

#[test]
fn a_stream_commits_at_its_end_and_aborts_on_failure() {
    let (place, repository) = Place::new();
    let bytes = noise(3, 9 * MIB);
    let stream = |finish: Box<dyn FnOnce() -> Result<()> + Send>| Source::Stream {
        name: b"dump.sql".to_vec(),
        reader: Box::new(std::io::Cursor::new(noise(3, 9 * MIB))),
        finish,
    };
    let failed = backup(&repository, options(stream(Box::new(|| Err(Error::Command("exit code 1".into()))))), &Silent);
    assert!(matches!(failed, Err(Error::Command(_))));
    assert_eq!(place.open(false).snapshots().len(), 0);
    let report = backup(&repository, options(stream(Box::new(|| Ok(())))), &Silent).unwrap();
    let entry = repository.tree(&report.snapshot.as_ref().unwrap().root).get(&TreeKey(b"dump.sql".to_vec()));
    let Kind::File(stored) = entry.unwrap().unwrap().kind else { panic!("a file") };
    assert_eq!(content(&repository, &stored), bytes);
}

#[test]
fn a_tree_of_many_entries_is_read_in_order_and_by_key() {
    let (place, repository) = Place::new();
    let mut wanted = Vec::new();
    for directory in 0..30 {
        for file in 0..300 {
            let path = place.source().join(format!("d{directory}/f{file}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, format!("{directory} {file} {}", "x".repeat(file * 5))).unwrap();
            wanted.push(TreeKey::from_path(&path).unwrap());
        }
    }
    wanted.sort();
    let report = backup(&repository, options(paths(&place.source())), &Silent).unwrap();
    let root = report.snapshot.unwrap().root;
    let entries: Vec<_> = repository.tree(&root).entries().map(Result::unwrap).collect();
    assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
    let files: Vec<_> = entries.iter().filter(|(_, entry)| entry.is_file()).map(|(key, _)| key.clone()).collect();
    assert_eq!(files, wanted);
    for key in wanted.iter().step_by(97) {
        assert!(repository.tree(&root).get(key).unwrap().unwrap().is_file());
        assert_eq!(repository.tree(&root).get(&key.child(b"no")).unwrap(), None);
    }
    let below = TreeKey::from_path(&place.source().join("d7")).unwrap();
    assert_eq!(repository.tree(&root).within(&below).count(), 301);
}
