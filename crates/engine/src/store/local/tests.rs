//! What a directory needs beyond the conformance suite: full and read-only disks, killed writers, odd files.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::store::conformance;

fn store_in(directory: &tempfile::TempDir) -> LocalStore {
    LocalStore::create(&directory.path().join("deep/repository")).unwrap()
}

/// A store of which nothing but the test knows; the directory goes with it.
struct Scratch {
    store: LocalStore,
    _directory: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { store: store_in(&directory), _directory: directory }
    }

    fn renaming() -> Self {
        let scratch = Self::new();
        scratch.store.renames.store(true, Ordering::Relaxed);
        scratch
    }
}

impl Store for Scratch {
    fn location(&self) -> String {
        self.store.location()
    }
    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        self.store.get(name, range)
    }
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.put(name, bytes)
    }
    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.store.create(name, bytes)
    }
    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.store.head(name)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.store.list(prefix, each)
    }
    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name)
    }
    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}

fn temporaries(root: &Path) -> usize {
    std::fs::read_dir(root.join(TEMPORARIES)).map_or(0, Iterator::count)
}

fn names(store: &LocalStore) -> Vec<String> {
    let mut names = Vec::new();
    store.list("", &mut |info| names.push(info.name)).unwrap();
    names.sort();
    names
}

#[test]
fn conforms() {
    conformance::check(&|| Box::new(Scratch::new()));
}

#[test]
fn conforms_where_it_must_rename() {
    conformance::check(&|| Box::new(Scratch::renaming()));
}

#[test]
fn modes_are_private_and_no_temporary_stays() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    let root = store.path.clone();
    store.put("pack/a/0", b"x").unwrap();
    store.create("log/0", b"x").unwrap();
    store.create("log/0", b"y").unwrap();
    for (path, mode) in
        [("", 0o700), ("pack", 0o700), ("pack/a", 0o700), ("tmp", 0o700), ("pack/a/0", 0o600), ("log/0", 0o600)]
    {
        let found = std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{path}: {found:o}");
    }
    assert_eq!(temporaries(&root), 0);
}

#[test]
fn open_needs_a_directory_and_writes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(LocalStore::open(&directory.path().join("none")), Err(StoreError::Missing(_))));
    std::fs::write(directory.path().join("file"), b"x").unwrap();
    assert!(matches!(LocalStore::open(&directory.path().join("file")), Err(StoreError::Missing(_))));
    let store = LocalStore::open(directory.path()).unwrap();
    assert!(matches!(store.get("seawall", None), Err(StoreError::Missing(_))));
    assert_eq!(store.sweep_temporaries().unwrap(), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn strange_files_are_neither_read_nor_listed() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    store.put("pack/a", b"x").unwrap();
    let pack = store.path.join("pack");
    std::fs::write(directory.path().join("secret"), b"secret").unwrap();
    symlink(directory.path().join("secret"), pack.join("link")).unwrap();
    symlink(&pack, pack.join("loop")).unwrap();
    fs::mkfifoat(fs::CWD, pack.join("fifo"), FILE_MODE).unwrap();
    std::fs::write(pack.join("README.txt"), b"x").unwrap();
    std::fs::create_dir(store.path.join("lost+found")).unwrap();
    assert_eq!(names(&store), ["pack/a"]);
    for name in ["pack/link", "pack/fifo"] {
        assert!(matches!(store.get(name, None), Err(StoreError::Io { .. })), "{name}");
        assert!(matches!(store.head(name), Err(StoreError::Io { .. })), "{name}");
    }
}

#[test]
fn directories_that_vanish_are_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    store.put("pack/a/0", b"x").unwrap();
    std::fs::remove_dir_all(store.path.join("pack")).unwrap();
    std::fs::remove_dir_all(store.path.join("tmp")).unwrap();
    store.put("pack/a/1", b"y").unwrap();
    assert_eq!(names(&store), ["pack/a/1"]);
}

/// A network file system that repeats a request whose answer was lost says that the name exists, for its own success. That
/// the temporary has a second name elsewhere (a copy of the directory with hard links) is no such success.
#[test]
fn a_name_that_exists_is_our_own_success_only_where_it_is_our_file() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    store.put("log/0", b"theirs").unwrap();
    let root = directory.path().join("deep/repository");
    let temporary = store.write_temporary(b"ours").unwrap();
    std::fs::hard_link(root.join(&temporary.name), root.join("tmp/copy")).unwrap();
    assert_eq!(store.publish(&temporary, "log/0"), Ok(Created::AlreadyThere));
    assert_eq!(store.get("log/0", None).unwrap(), b"theirs");
    std::fs::hard_link(root.join(&temporary.name), root.join("log/1")).unwrap();
    assert_eq!(store.publish(&temporary, "log/1"), Ok(Created::Created));
}

#[test]
fn a_sweep_takes_dead_temporaries_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    store.put("pack/a", b"x").unwrap();
    let living = store.write_temporary(b"unfinished").unwrap();
    std::fs::write(store.path.join("tmp/w-1-dead-0"), b"half").unwrap();
    // A writer killed between the link and the removal of its temporary: the object must stay.
    std::fs::hard_link(store.path.join("pack/a"), store.path.join("tmp/w-1-dead-1")).unwrap();
    std::fs::write(store.path.join("tmp/else"), b"not ours").unwrap();
    assert_eq!(names(&store), ["pack/a", "tmp/else"]);

    let other = LocalStore::open(&store.path).unwrap();
    assert_eq!(other.sweep_temporaries().unwrap(), 2);
    assert_eq!(store.publish(&living, "pack/b").unwrap(), Created::Created);
    drop(living);
    assert_eq!(names(&store), ["pack/a", "pack/b", "tmp/else"]);
    assert_eq!(store.get("pack/b", None).unwrap(), b"unfinished");
    assert_eq!(other.sweep_temporaries().unwrap(), 0);
}

#[test]
fn a_sweep_beside_writers_costs_them_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    let other = LocalStore::open(&store.path).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    (0..50).for_each(|number| store.put(&format!("pack/{writer}/{number}"), b"bytes").unwrap());
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            other.sweep_temporaries().unwrap();
        }
    });
    assert_eq!(names(&store).len(), 200);
}

/// The mount of a small file system for a test, or `None` (said aloud) where that is not allowed. In CI it must work.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs"]).arg(directory.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Self(directory));
        }
        assert!(std::env::var_os("CI").is_none(), "mounting a tmpfs must work in CI: run as root");
        println!("skipped: only root can mount a small tmpfs (or this system forbids it)");
        None
    }

    fn remount_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(mount) = Mount::new() else { return };
    let store = LocalStore::open(mount.0.path()).unwrap();
    store.put("pack/a/0", &vec![1; 300_000]).unwrap();
    for round in 0..3 {
        let error = store.put("pack/a/1", &vec![2; 2_000_000]).unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(error.to_string().contains("pack/a/1: the store is full"), "{error}");
        assert!(matches!(store.create("log/1", &vec![2; 2_000_000]), Err(StoreError::Full { .. })));
        assert_eq!(names(&store), ["pack/a/0"], "round {round}");
        assert_eq!(temporaries(mount.0.path()), 0);
    }
    store.put("pack/a/1", &vec![2; 300_000]).unwrap();
    assert_eq!(store.get("pack/a/0", None).unwrap(), vec![1; 300_000]);
}

#[test]
fn a_read_only_store_reads_and_refuses_to_write() {
    let Some(mount) = Mount::new() else { return };
    let store = LocalStore::open(mount.0.path()).unwrap();
    store.put("pack/a", b"x").unwrap();
    mount.remount_read_only();
    let store = LocalStore::open(mount.0.path()).unwrap();
    let refused = |error: StoreError| {
        assert!(matches!(error, StoreError::Denied { .. }), "{error}");
        assert_eq!(error.code(), "store-denied");
    };
    refused(store.put("pack/b", b"x").unwrap_err());
    refused(store.create("log/0", b"x").unwrap_err());
    refused(store.delete("pack/a").unwrap_err());
    assert_eq!(store.get("pack/a", None).unwrap(), b"x");
    assert_eq!(names(&store), ["pack/a"]);
}

/// Runs as an ordinary user, whom permissions hold back: as user and group 65534 where the test is run by root.
fn as_ordinary_user(run: fn()) {
    if !rustix::process::geteuid().is_root() {
        return run();
    }
    // Why a thread: the system calls change this one, not the whole process, and it ends with them.
    let thread = std::thread::spawn(move || {
        let (group, user) = (rustix::fs::Gid::from_raw(65_534), rustix::fs::Uid::from_raw(65_534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        assert!(!rustix::process::geteuid().is_root());
        run();
    });
    thread.join().unwrap();
}

#[test]
fn a_directory_without_permission_is_said() {
    as_ordinary_user(refused_directory);
}

fn refused_directory() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    store.put("pack/a", b"x").unwrap();
    std::fs::set_permissions(store.path.join("pack"), std::fs::Permissions::from_mode(0o500)).unwrap();
    let error = store.put("pack/b", b"x").unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error}");
    assert!(matches!(store.create("pack/b", b"x"), Err(StoreError::Denied { .. })));
    assert_eq!((temporaries(&store.path), names(&store)), (0, vec!["pack/a".to_owned()]));
    std::fs::set_permissions(store.path.join("pack"), std::fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(store.get("pack/a", None), Err(StoreError::Denied { .. })));
    std::fs::set_permissions(store.path.join("pack"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(store.get("pack/a", None).unwrap(), b"x");
}

const CHILD_DIRECTORY: &str = "SEAWALL_TEST_KILLED_WRITER";
const CHILD_OBJECT_BYTES: usize = 6 * MIB + 17;

/// Not a test: the process that [`killed_writers_leave_whole_objects`] kills. It writes until then.
#[test]
#[ignore = "run by killed_writers_leave_whole_objects"]
fn killed_writer() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else { return };
    let store = LocalStore::open(Path::new(&directory)).unwrap();
    let session = std::process::id();
    for number in 0u64.. {
        store.put(&format!("pack/{session}/{number}"), &vec![number as u8; CHILD_OBJECT_BYTES]).unwrap();
        store.create(&format!("log/{session}/{number}"), &[number as u8; 100]).unwrap();
        println!("acknowledged {number}");
    }
}

#[test]
fn killed_writers_leave_whole_objects() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_in(&directory);
    for round in 0..12u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "store::local::tests::killed_writer", "--nocapture"])
            .env(CHILD_DIRECTORY, &store.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let session = child.id();
        // Steps of 7 ms land in different stages of a write of about 15 ms.
        std::thread::sleep(Duration::from_millis(40 + 7 * round));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let acknowledged =
            String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("ack")).count();
        check_whole(&store, session, acknowledged);
    }
    store.sweep_temporaries().unwrap();
    assert_eq!(temporaries(&store.path), 0);
}

/// Every object of a killed writer is whole, and every acknowledged one is there.
fn check_whole(store: &LocalStore, session: u32, acknowledged: usize) {
    let mut packs = 0;
    store
        .list(&format!("pack/{session}/"), &mut |info| {
            let number: u64 = info.name.rsplit('/').next().unwrap().parse().unwrap();
            assert_eq!(store.get(&info.name, None).unwrap(), vec![number as u8; CHILD_OBJECT_BYTES]);
            packs += 1;
        })
        .unwrap();
    assert!(packs >= acknowledged, "{packs} packs, {acknowledged} acknowledged");
    for number in 0..acknowledged {
        assert_eq!(store.get(&format!("log/{session}/{number}"), None).unwrap(), [number as u8; 100]);
        store.delete(&format!("pack/{session}/{number}")).unwrap();
    }
}
