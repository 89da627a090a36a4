//! What a run that crashed had finished is neither read nor stored again, and what it had not is.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_engine::backup::{BackupOptions, BackupReport, backup};
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::{Content, Kind, TreeKey};
use seawall_engine::format::slot::Unlock;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::simulated::{Plan, SimulatedStore};
use seawall_engine::units::{KIB, MIB};

use crate::place::{assert_restores, assert_same, assert_whole, noise, options, paths};

struct Scene {
    directory: tempfile::TempDir,
    unlock: Unlock,
    store: Arc<SimulatedStore>,
}

impl Scene {
    fn new() -> Self {
        let (directory, unlock) = (tempfile::tempdir().unwrap(), Unlock::KeyFile(Secret32::random()));
        let store = Arc::new(SimulatedStore::new());
        fs::create_dir(directory.path().join("source")).unwrap();
        Repository::init(store.clone(), &[(unlock.clone(), "test".to_owned())], None).unwrap();
        Self { directory, unlock, store }
    }

    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn open(&self) -> Repository {
        Repository::open(self.store.clone(), &self.unlock, Some(self.directory.path().join("cache"))).unwrap()
    }

    /// The smallest packs that there are, so that some are stored before the end.
    fn options(&self) -> BackupOptions {
        BackupOptions { budget_bytes: 16 * MIB, threads: 1, ..options(paths(&self.source())) }
    }

    /// A run that ends right before its write number `write`.
    fn crash_at(&self, write: u64) {
        self.store.set_plan(Plan::crash_at_write(write));
        assert!(backup(&self.open(), self.options(), &Silent).is_err());
        assert!(self.store.crashed(), "the run was shorter than {write} writes");
        self.store.reboot();
    }

    /// The run after a crash: whatever it took over, the snapshot is whole and as the source.
    fn resume(&self) -> BackupReport {
        let report = backup(&self.open(), self.options(), &Silent).unwrap();
        let fresh = Repository::open(self.store.clone(), &self.unlock, None).unwrap();
        let root = report.snapshot.as_ref().unwrap().root;
        assert_whole(&fresh);
        assert_same(&fresh, &root, &self.source(), &self.source());
        assert_restores(&fresh, &root, &self.source(), &self.directory.path().join("target"));
        report
    }

    fn stored(&self, prefix: &str) -> usize {
        self.store.objects().names().iter().filter(|name| name.starts_with(prefix)).count()
    }
}

/// A path so long that the entries of few files fill a block of the local list, however fast the run is.
fn long_directory(source: &Path) -> PathBuf {
    let deep: PathBuf = std::iter::repeat_n("d".repeat(250), 12).collect();
    fs::create_dir_all(source.join(&deep)).unwrap();
    source.join(deep)
}

#[test]
fn finished_files_are_not_read_again() {
    let scene = Scene::new();
    let directory = long_directory(&scene.source());
    let (files, length) = (96, 400_000);
    for number in 0..files {
        fs::write(directory.join(format!("{number:03}")), noise(number, length)).unwrap();
    }
    let total = files * length as u64;
    // The session's key and five packs of 4 MiB are stored: a half.
    scene.crash_at(6);
    let report = scene.resume();
    assert_eq!(report.adopted.len(), 1);
    assert_eq!(report.files_unchanged + report.files_new + report.files_changed, files);
    assert!(report.files_unchanged >= files / 4, "{} files taken over", report.files_unchanged);
    assert!(report.bytes_read <= total * 3 / 4, "{} of {total} bytes read again", report.bytes_read);
    assert!(report.bytes_new <= total * 3 / 4, "{} of {total} bytes stored again", report.bytes_new);
    let again = backup(&scene.open(), scene.options(), &Silent).unwrap();
    assert_eq!((again.files_unchanged, again.bytes_read, again.adopted.len()), (files, 0, 0));
}

#[test]
fn a_crash_after_each_of_many_writes_always_leads_to_a_whole_snapshot() {
    for write in [0, 1, 2, 4, 7, 8, 9, 10] {
        let scene = Scene::new();
        let directory = long_directory(&scene.source());
        for number in 0..60 {
            fs::write(directory.join(format!("{number:03}")), noise(number % 45, 500_000)).unwrap();
        }
        scene.store.set_plan(Plan::crash_at_write(write));
        let _ = backup(&scene.open(), scene.options(), &Silent);
        scene.store.reboot();
        scene.store.set_plan(Plan::crash_at_write(write / 2));
        let _ = backup(&scene.open(), scene.options(), &Silent);
        scene.store.reboot();
        let report = scene.resume();
        assert!(report.bytes_read + report.bytes_new <= 2 * report.bytes);
    }
}

#[test]
fn a_stored_extent_list_does_not_stand_for_its_chunks() {
    let scene = Scene::new();
    let sparse = scene.source().join("a sparse file");
    let file = File::create(&sparse).unwrap();
    // More extents than an entry holds, yet so few bytes that their pack stays open to the end.
    for tooth in 0..130 {
        file.write_all_at(&noise(tooth, 4 * KIB), tooth * 64 * KIB as u64).unwrap();
    }
    // So much in the entries that tree packs, with the extent list in the first, are stored before.
    for number in 0..3000 {
        fs::write(scene.source().join(format!("inline {number:04}")), noise(1000 + number, 2 * KIB)).unwrap();
    }
    scene.crash_at(2);
    assert_eq!((scene.stored("session/"), scene.stored("pack/")), (1, 1));
    let report = scene.resume();
    assert_eq!(report.adopted.len(), 1);
    assert!(report.files_unchanged >= 2000, "{} files taken over", report.files_unchanged);
    let repository = scene.open();
    let key = TreeKey::from_path(&sparse).unwrap();
    let entry = repository.tree(&report.snapshot.unwrap().root).get(&key).unwrap().unwrap();
    let Kind::File(Content::Indirect { id, .. }) = entry.kind else {
        panic!("a list of extents, or this tests nothing")
    };
    let list = repository.locate(&id).unwrap();
    assert_eq!(list.pack.session, report.adopted[0], "the list was stored before the crash");
    assert!(report.bytes_read >= 130 * 4 * KIB as u64, "{} bytes read", report.bytes_read);
}
