//! Any tree comes back, and after any change both states do: trees and changes are made by chance.
//!
//! What stands on the disk is described by a small judge of its own (`look`), so that backup, restore and comparison
//! can't agree on the same mistake.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use seawall_engine::backup::{BackupOptions, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::{KIB, MIB};

use crate::place::{assert_same, assert_whole, noise, options, paths};

/// With 4 KiB of data in each, holes stay between.
const TOOTH_STEP: u64 = 16 * KIB as u64;

#[derive(Debug, Clone)]
enum Made {
    Directory,
    /// Bytes from a seed; with few seeds, content comes twice.
    File {
        seed: u64,
        length: usize,
        text: bool,
    },
    /// Data of 4 KiB at these multiples of [`TOOTH_STEP`], and the size.
    Sparse {
        teeth: Vec<u64>,
        length: u64,
    },
    Symlink(Vec<u8>),
    Fifo,
    /// A further name for one of the files so far.
    Link(usize),
}

#[derive(Debug, Clone)]
struct Item {
    /// Which of the directories so far.
    parent: usize,
    name: Vec<u8>,
    made: Made,
    mode: u32,
    mtime: (i64, u32),
    attribute: Option<(String, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Change {
    Edit,
    Append,
    Truncate,
    Delete,
    Rename,
    Chmod,
    /// Other bytes in a new inode under the old name.
    Replace,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // Few and short ones, so that some begin with others; any byte but NUL and the slash.
    let byte = prop_oneof![4 => Just(b'a'), 1 => any::<u8>()];
    let valid = |name: &Vec<u8>| !name.iter().any(|byte| matches!(byte, 0 | b'/')) && name != b"." && name != b"..";
    prop_oneof![20 => vec(byte, 1..4), 1 => vec(1..b'/', 200..=255)].prop_filter("a name", valid)
}

fn file_length() -> impl Strategy<Value = usize> {
    let edges = prop::sample::select(vec![0, 1, 2 * KIB, 2 * KIB + 1, 64 * KIB, MIB]);
    prop_oneof![3 => edges, 4 => 0..5 * KIB, 3 => 0..300 * KIB, 1 => MIB..6 * MIB]
}

fn made() -> impl Strategy<Value = Made> {
    prop_oneof![
        3 => Just(Made::Directory),
        8 => (0..4u64, file_length(), any::<bool>()).prop_map(|(seed, length, text)| Made::File { seed, length, text }),
        1 => (vec(0..300u64, 0..6), 0..(6 * MIB as u64)).prop_map(|(teeth, length)| Made::Sparse { teeth, length }),
        1 => (vec(0..600u64, 170..180)).prop_map(|teeth| Made::Sparse { teeth, length: 0 }),
        2 => vec(1..=255u8, 1..200).prop_map(Made::Symlink),
        1 => Just(Made::Fifo),
        2 => any::<usize>().prop_map(Made::Link),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let attribute = ("[a-z.]{1,20}", vec(any::<u8>(), 0..200));
    let time = (-2_000_000_000..4_000_000_000i64, 0..1_000_000_000u32);
    (any::<usize>(), name(), made(), 0..0o10000u32, time, prop::option::weighted(0.3, attribute))
        .prop_map(|(parent, name, made, mode, mtime, attribute)| Item { parent, name, made, mode, mtime, attribute })
}

fn change() -> impl Strategy<Value = (usize, Change, u64)> {
    use Change::{Append, Chmod, Delete, Edit, Rename, Replace, Truncate};
    (any::<usize>(), prop::sample::select(vec![Edit, Append, Truncate, Delete, Rename, Chmod, Replace]), any::<u64>())
}

fn bytes(seed: u64, length: usize, text: bool) -> Vec<u8> {
    if !text {
        return noise(seed, length);
    }
    let line = |number: u64| format!("{number} of {seed}: {}\n", number.wrapping_mul(seed + 77) % 1000).into_bytes();
    (0..).flat_map(line).take(length).collect()
}

fn set_mtime(path: &Path, (seconds, nanos): (i64, u32)) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Makes one name; false where it is taken or there is nothing to link to.
fn make(path: &Path, made: &Made, files: &[PathBuf]) -> bool {
    if fs::symlink_metadata(path).is_ok() {
        return false;
    }
    match made {
        Made::Directory => fs::create_dir(path).unwrap(),
        Made::File { seed, length, text } => fs::write(path, bytes(*seed, *length, *text)).unwrap(),
        Made::Sparse { teeth, length } => {
            let file = File::create(path).unwrap();
            for tooth in teeth {
                file.write_all_at(&noise(*tooth, 4 * KIB), tooth * TOOTH_STEP).unwrap();
            }
            file.set_len(file.metadata().unwrap().len().max(*length)).unwrap();
        }
        Made::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), path).unwrap(),
        Made::Fifo => rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
        Made::Link(_) if files.is_empty() => return false,
        Made::Link(to) => fs::hard_link(&files[to % files.len()], path).unwrap(),
    }
    true
}

/// Builds the tree and gives its regular files.
fn build(source: &Path, items: &[Item]) -> Vec<PathBuf> {
    let (mut directories, mut files, mut done) = (vec![source.to_path_buf()], Vec::new(), Vec::new());
    for item in items {
        let path = directories[item.parent % directories.len()].join(OsStr::from_bytes(&item.name));
        if !make(&path, &item.made, &files) {
            continue;
        }
        match item.made {
            Made::Directory => directories.push(path.clone()),
            Made::File { .. } | Made::Sparse { .. } => files.push(path.clone()),
            _ => {}
        }
        done.push((path, item));
    }
    // From the leaves up, so that nothing changes a directory's time afterwards.
    for (path, item) in done.iter().rev() {
        let file_type = fs::symlink_metadata(path).unwrap().file_type();
        if let Some((name, value)) = item.attribute.as_ref().filter(|_| file_type.is_file() || file_type.is_dir()) {
            let set = rustix::fs::lsetxattr(path, format!("user.{name}"), value, XattrFlags::empty());
            assert!(matches!(set, Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSPC)), "{set:?}");
        }
        if !file_type.is_symlink() {
            // Whoever runs this must be able to read it, and to take it away again.
            fs::set_permissions(path, fs::Permissions::from_mode(item.mode | 0o700)).unwrap();
        }
        set_mtime(path, item.mtime);
    }
    files
}

/// Changes one file. Its time is put back where the number says so: change must show without it.
fn apply(path: &Path, change: &Change, number: u64) {
    let Ok(before) = fs::symlink_metadata(path) else { return };
    let file = || OpenOptions::new().read(true).write(true).open(path).unwrap();
    let at = number.checked_rem(before.len()).unwrap_or(0);
    match change {
        Change::Edit => file().write_all_at(b"!", at.saturating_sub(1)).unwrap(),
        Change::Append => file().write_all_at(&noise(number, 5000), before.len()).unwrap(),
        Change::Truncate => file().set_len(at).unwrap(),
        Change::Delete => fs::remove_file(path).unwrap(),
        Change::Rename => fs::rename(path, path.with_file_name(format!("renamed {number}"))).unwrap(),
        Change::Chmod => fs::set_permissions(path, fs::Permissions::from_mode(before.mode() ^ 0o021)).unwrap(),
        Change::Replace => {
            fs::remove_file(path).unwrap();
            fs::write(path, noise(number, usize::try_from(before.len()).unwrap().min(MIB))).unwrap();
        }
    }
    if number.is_multiple_of(2) && path.exists() {
        set_mtime(path, (before.mtime(), u32::try_from(before.mtime_nsec()).unwrap()));
    }
}

/// Waits until the file system gives newer times than it has given so far: a change within one tick shows in none.
fn tick(directory: &Path) {
    let probe = directory.join("probe");
    let stamp = || {
        fs::write(&probe, b"x").unwrap();
        let stat = fs::metadata(&probe).unwrap();
        (stat.ctime(), stat.ctime_nsec())
    };
    let first = stamp();
    while stamp() == first {}
}

/// Everything below `top` that a restore must bring back, in words.
fn look(top: &Path) -> BTreeMap<PathBuf, String> {
    let (mut seen, mut waiting, mut inodes) = (BTreeMap::new(), vec![top.to_path_buf()], Vec::new());
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let mut text = format!("{:o} {}.{}", stat.mode(), stat.mtime(), stat.mtime_nsec());
        if stat.is_dir() {
            let mut inside: Vec<_> = fs::read_dir(&path).unwrap().map(|item| item.unwrap().path()).collect();
            inside.sort();
            waiting.extend(inside);
        } else {
            let inode = inodes.iter().position(|&known| known == stat.ino()).unwrap_or(inodes.len());
            inodes.push(stat.ino());
            text += &format!(" inode {inode} of {} names", stat.nlink());
        }
        if stat.is_file() {
            text += &format!(" {} bytes {}", stat.len(), blake3::hash(&fs::read(&path).unwrap()));
        } else if stat.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
        }
        if stat.is_file() || stat.is_dir() {
            text += &attributes(&path);
        }
        seen.insert(path.strip_prefix(top).unwrap().to_path_buf(), text);
    }
    seen
}

fn attributes(path: &Path) -> String {
    let mut names = vec![0; 64 * KIB];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut listed: Vec<&[u8]> = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()).collect();
    listed.sort();
    let each = listed.into_iter().map(|name| {
        let mut value = vec![0; 64 * KIB];
        let length = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
        format!(" {}={}", String::from_utf8_lossy(name), blake3::hash(&value[..length]))
    });
    each.collect()
}

struct Scene {
    directory: tempfile::TempDir,
    store: Arc<MemoryStore>,
    unlock: Unlock,
    settled: bool,
    cache: bool,
}

impl Scene {
    fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    fn open(&self, cache: bool) -> Repository {
        let cache = cache.then(|| self.directory.path().join("cache"));
        Repository::open(self.store.clone(), &self.unlock, cache).unwrap()
    }

    fn back_up(&self) -> ChunkId {
        let plain = options(paths(&self.source()));
        // Settled files may be taken over; without that, all that is new is read again.
        let time = if self.settled { plain.time } else { Timestamp::now() };
        let report = backup(&self.open(self.cache), BackupOptions { time, ..plain }, &Silent).unwrap();
        assert_eq!(report.problems, 0);
        report.snapshot.unwrap().root
    }

    /// The snapshot comes back as what was seen when it was made.
    fn check(&self, root: &ChunkId, wanted: &BTreeMap<PathBuf, String>) {
        let (fresh, target) = (self.open(false), self.directory.path().join("target"));
        let from = seawall_engine::entry::TreeKey::from_path(&self.source()).unwrap();
        let options = RestoreOptions { from, target: target.clone(), threads: 2, ..RestoreOptions::default() };
        assert_eq!(restore(&fresh, root, &options, &Silent).unwrap().problems, 0);
        assert_eq!(&look(&target), wanted);
        assert_same(&fresh, root, &self.source(), &target);
        fs::remove_dir_all(target).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_and_any_change_of_it_come_back(
        items in vec(item(), 0..45),
        changes in vec(change(), 0..20),
        settled in any::<bool>(),
        cache in any::<bool>(),
    ) {
        let (directory, unlock) = (tempfile::tempdir().unwrap(), Unlock::KeyFile(Secret32::random()));
        let scene = Scene { directory, store: Arc::new(MemoryStore::new()), unlock, settled, cache };
        fs::create_dir(scene.source()).unwrap();
        let slots = [(scene.unlock.clone(), "test".to_owned())];
        Repository::init(scene.store.clone(), &slots, None).unwrap();
        let files = build(&scene.source(), &items);

        let before = look(&scene.source());
        let first = scene.back_up();
        assert_same(&scene.open(false), &first, &scene.source(), &scene.source());
        scene.check(&first, &before);

        tick(scene.directory.path());
        for (file, change, number) in changes.iter().filter(|_| !files.is_empty()) {
            apply(&files[file % files.len()], change, *number);
        }
        let after = look(&scene.source());
        let second = scene.back_up();
        assert_same(&scene.open(false), &second, &scene.source(), &scene.source());
        scene.check(&second, &after);
        scene.check(&first, &before);
        assert_whole(&scene.open(false));
    }
}
