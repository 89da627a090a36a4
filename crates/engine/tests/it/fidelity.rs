//! Everything that a Linux file system can hold comes back as it was. A tree with all of it is backed up and restored,
//! then judged twice: by rsync, which must find nothing to do, and by a comparison of what rsync does not look at
//! (holes, inode flags, link groups, nanoseconds of directories).
//!
//! Needs root, for devices, owners, trusted attributes and flags; a part that the machine can't do is skipped with a
//! printed reason, and fails where the variable CI is set.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, IFlags, Mode, OFlags, Timespec, Timestamps, XattrFlags, makedev};
use seawall_engine::backup::{BackupOptions, Source, backup};
use seawall_engine::clock::Timestamp;
use seawall_engine::codec::Effort;
use seawall_engine::crypto::Secret32;
use seawall_engine::entry::TreeKey;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, RestoreReport, restore};
use seawall_engine::stages::walk::WalkOptions;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::{KIB, MIB};

/// POSIX ACL entries as the kernel takes them: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NOBODY: u32 = u32::MAX;

/// user::rw-, user:1234:r--, group::r--, mask::r--, other::---
fn access_acl() -> Vec<u8> {
    acl(&[(1, 6, NOBODY), (2, 4, 1234), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)])
}

fn default_acl() -> Vec<u8> {
    acl(&[(1, 7, NOBODY), (2, 5, 4321), (4, 5, NOBODY), (16, 5, NOBODY), (32, 0, NOBODY)])
}

/// cap_net_bind_service+ep, as `setcap` writes it (revision 2).
fn capability() -> Vec<u8> {
    [0x0200_0001u32, 1 << 10, 0, 0, 0].into_iter().flat_map(u32::to_le_bytes).collect()
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn set_flags(path: &Path, flags: IFlags) {
    let file = File::open(path).unwrap();
    let present = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, present | flags).unwrap();
}

fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn regular_files(top: &Path) {
    for (number, length) in [0, 1, 2048, 2049, 70_000, MIB, 9 * MIB].into_iter().enumerate() {
        fs::write(top.join(format!("file of {length}")), noise(number as u64, length)).unwrap();
    }
    let twice = noise(77, 3 * MIB);
    fs::write(top.join("twice"), [twice.clone(), twice.clone()].concat()).unwrap();
    fs::write(top.join("once more"), &twice).unwrap();
    for (number, mode) in [0o000, 0o400, 0o4755, 0o2755, 0o1777, 0o6711].into_iter().enumerate() {
        let path = top.join(format!("mode {mode:o}"));
        fs::write(&path, b"program").unwrap();
        std::os::unix::fs::chown(&path, Some(1000 + number as u32), Some(2000)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

fn sparse_files(top: &Path) {
    let begins = File::create(top.join("hole first")).unwrap();
    begins.write_all_at(&noise(1, 8192), 5 * MIB as u64).unwrap();
    let ends = File::create(top.join("hole last")).unwrap();
    ends.write_all_at(&noise(2, 8192), 0).unwrap();
    ends.set_len(64 * MIB as u64 + 1).unwrap();
    File::create(top.join("only hole")).unwrap().set_len(1 << 28).unwrap();
    let comb = File::create(top.join("comb")).unwrap();
    for tooth in 0..40 {
        comb.write_all_at(&noise(tooth, 4096), tooth * 64 * KIB as u64).unwrap();
    }
}

fn special_files(top: &Path) {
    let rw = Mode::from_raw_mode(0o640);
    for (name, kind, device) in [
        ("pipe", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, makedev(1, 3)),
        ("odd", FileType::CharacterDevice, makedev(4095, 1_048_575)),
        ("disk", FileType::BlockDevice, makedev(259, 70_000)),
    ] {
        rustix::fs::mknodat(CWD, top.join(name), kind, rw, device).unwrap();
        std::os::unix::fs::lchown(top.join(name), Some(5), Some(6)).unwrap();
        attribute(&top.join(name), "trusted.seawall", name.as_bytes());
        set_mtime(&top.join(name), 1_000_000_000, 123_456_789);
    }
    for (name, target) in [("link", "file of 1"), ("broken", "/no/such/thing"), ("up", "../../.."), ("self", ".")] {
        std::os::unix::fs::symlink(target, top.join(name)).unwrap();
        std::os::unix::fs::lchown(top.join(name), Some(7), Some(8)).unwrap();
        attribute(&top.join(name), "trusted.seawall", target.as_bytes());
        set_mtime(&top.join(name), -5, 999_999_999);
    }
    std::os::unix::fs::symlink(OsStr::from_bytes(&[b'x'; 4095]), top.join("long link")).unwrap();
}

fn hard_links(top: &Path) {
    fs::create_dir_all(top.join("links/deep")).unwrap();
    let pairs = [("file of 9437184", "links/a"), ("file of 1", "links/deep/b"), ("file of 0", "links/c")];
    for (from, to) in pairs.into_iter().chain([("pipe", "links/pipe"), ("link", "links/z"), ("null", "links/null")]) {
        fs::hard_link(top.join(from), top.join(to)).unwrap();
    }
    fs::hard_link(top.join("file of 1"), top.join("links/third name")).unwrap();
    fs::write(top.join("links/first"), b"locked").unwrap();
    fs::hard_link(top.join("links/first"), top.join("zz last")).unwrap();
    set_flags(&top.join("links/first"), IFlags::IMMUTABLE);
}

fn names(top: &Path) {
    let odd: [&[u8]; 7] = [b"\xff\xfe", b"new\nline", b" ", b"-rf", b"\xc3\xa4\xcc\x88", b"a", b"a!"];
    for name in odd {
        let path = top.join("names").join(OsStr::from_bytes(name));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(&[0x80; 255])), name).unwrap();
    }
    fs::write(top.join("names/a-"), b"sorts between a and what it holds, if compared as text").unwrap();
    let mut deep = top.to_path_buf();
    for _ in 0..70 {
        deep.push("deep".repeat(10));
    }
    // Deeper than handles are kept open, and as long as a path may be for rsync to judge it.
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("bottom"), b"here").unwrap();
}

fn attributes_and_flags(top: &Path) {
    let file = top.join("attributes");
    fs::write(&file, b"x").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    attribute(&file, "user.empty", b"");
    attribute(&file, "user.large", &noise(3, 2000));
    attribute(&file, "trusted.name", b"\0\xff");
    attribute(&file, "system.posix_acl_access", &access_acl());
    let program = top.join("program");
    fs::write(&program, noise(4, 100_000)).unwrap();
    std::os::unix::fs::chown(&program, Some(42), Some(43)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    attribute(&program, "security.capability", &capability());
    let shared = top.join("shared");
    fs::create_dir(&shared).unwrap();
    std::os::unix::fs::chown(&shared, Some(0), Some(50)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2770)).unwrap();
    attribute(&shared, "user.on-directory", b"yes");
    attribute(&shared, "trusted.on-directory", b"yes");
    attribute(&shared, "system.posix_acl_default", &default_acl());
    fs::write(shared.join("inherits"), b"x").unwrap();
    fs::create_dir(shared.join("below")).unwrap();
    attribute(&shared.join("below"), "system.posix_acl_access", &access_acl());
    rustix::fs::removexattr(shared.join("below"), "system.posix_acl_default").unwrap();
    fs::write(shared.join("below/plain"), b"x").unwrap();
    for (name, flags) in [
        ("append", IFlags::APPEND),
        ("immutable", IFlags::IMMUTABLE),
        ("nodump", IFlags::NODUMP | IFlags::NOATIME | IFlags::SYNC),
    ] {
        fs::write(top.join(name), name).unwrap();
        set_flags(&top.join(name), flags);
    }
    for (name, flags) in [("locked directory", IFlags::IMMUTABLE), ("log directory", IFlags::APPEND | IFlags::NODUMP)] {
        fs::create_dir(top.join(name)).unwrap();
        fs::write(top.join(name).join("inside"), b"x").unwrap();
        set_mtime(&top.join(name), 1_111_111_111, 1);
        set_flags(&top.join(name), flags);
    }
}

fn directories(top: &Path) {
    for (mode, seconds) in [(0o000, 0), (0o500, -1), (0o1777, 4_000_000_000), (0o755, 1)] {
        let path = top.join(format!("directory {mode:o}"));
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"x").unwrap();
        set_mtime(&path.join("inside"), seconds, 999_999_999);
        std::os::unix::fs::chown(&path, Some(11), Some(12)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(&path, seconds, 1);
    }
    fs::create_dir(top.join("empty")).unwrap();
}

fn build(top: &Path) {
    fs::create_dir(top).unwrap();
    regular_files(top);
    sparse_files(top);
    special_files(top);
    hard_links(top);
    names(top);
    attributes_and_flags(top);
    directories(top);
    set_mtime(top, 1_234_567_890, 987_654_321);
}

/// Takes all locks off below `top`, so that it can be removed.
fn unlock(top: &Path) {
    let _ = Command::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(top).status();
}

struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        unlock(self.0.path());
    }
}

impl Place {
    /// Beside the build's own files, so that it is a real disk's file system rather than one in memory.
    fn new() -> Self {
        Self(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }
}

fn back_up(source: &Path) -> (Repository, ChunkId) {
    let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
    let repository = Repository::init(Arc::new(MemoryStore::new()), &slots, None).unwrap();
    let options = BackupOptions {
        source: Source::Paths(WalkOptions { sources: vec![source.to_path_buf()], ..WalkOptions::default() }),
        host: "host".into(),
        user: "user".into(),
        tags: Vec::new(),
        labels: Vec::new(),
        time: Timestamp::now(),
        program: "test".into(),
        force_read: false,
        dry_run: false,
        parent: None,
        bases: Vec::new(),
        effort: Some(Effort::Balanced),
        steady: None,
        threads: 2,
        budget_bytes: 64 * MIB,
    };
    let report = backup(&repository, options, &Silent).unwrap();
    assert_eq!(report.problems, 0);
    (repository, report.snapshot.unwrap().root)
}

fn restore_to(repository: &Repository, root: &ChunkId, source: &Path, target: &Path) -> RestoreReport {
    let options = RestoreOptions {
        from: TreeKey::from_path(source).unwrap(),
        target: target.to_path_buf(),
        threads: 2,
        ..RestoreOptions::default()
    };
    restore(repository, root, &options, &Loud).unwrap()
}

struct Loud;
impl seawall_engine::monitor::Monitor for Loud {
    fn problem(&self, problem: seawall_engine::monitor::Problem) {
        eprintln!("{}: {} ({})", problem.subject, problem.what, problem.code);
    }
}

/// What rsync would still change; the neutral judge.
fn rsync_differences(source: &Path, target: &Path) -> String {
    let (mut from, mut to) = (source.as_os_str().to_owned(), target.as_os_str().to_owned());
    from.push("/");
    to.push("/");
    let arguments = ["-aHAXn", "--checksum", "--delete", "--itemize-changes"];
    let output = Command::new("rsync").args(arguments).arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All that can be seen of one name, in words, so that a difference shows itself.
fn look(path: &Path, groups: &mut BTreeMap<(u64, u64), usize>) -> String {
    let stat = fs::symlink_metadata(path).unwrap();
    let next = groups.len();
    let group = *groups.entry((stat.dev(), stat.ino())).or_insert(next);
    let mut text = format!(
        "{:o} {}:{} rdev {} mtime {}.{} links {} inode {group}",
        stat.mode(),
        stat.uid(),
        stat.gid(),
        stat.rdev(),
        stat.mtime(),
        stat.mtime_nsec(),
        stat.nlink(),
    );
    if stat.is_file() {
        text += &format!(" size {} holes {:?}", stat.size(), data_ranges(path, stat.size()));
    }
    if stat.is_file() || stat.is_dir() {
        let file = rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).unwrap();
        // Which blocks hold it is the file system's own business: extents, inline data, hashed directory.
        let own = IFlags::from_bits_retain(0x0008_0000 | 0x1000_0000 | 0x1000);
        text += &format!(" flags {:?}", rustix::fs::ioctl_getflags(file.as_fd()).unwrap() & !own);
    }
    if stat.file_type().is_symlink() {
        text += &format!(" -> {:?}", fs::read_link(path).unwrap());
    }
    assert!(stat.file_type().is_socket() || stat.mode() & 0o170_000 != 0o140_000);
    text + &attributes(path)
}

fn attributes(path: &Path) -> String {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut texts: Vec<String> = names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            format!(" {}={}", name.escape_ascii(), value[..length].escape_ascii())
        })
        .collect();
    texts.sort();
    texts.concat()
}

fn data_ranges(path: &Path, size: u64) -> Vec<(u64, u64)> {
    use rustix::fs::SeekFrom;
    let file = File::open(path).unwrap();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        at = rustix::fs::seek(&file, SeekFrom::Hole(start)).unwrap();
        ranges.push((start, at));
    }
    ranges
}

fn look_at_all(top: &Path) -> BTreeMap<PathBuf, String> {
    let (mut seen, mut groups, mut waiting) = (BTreeMap::new(), BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(relative) = waiting.pop() {
        let path = top.join(&relative);
        seen.insert(relative.clone(), look(&path, &mut groups));
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            let mut names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            waiting.extend(names.into_iter().rev().map(|name| relative.join(name)));
        }
    }
    seen
}

fn assert_same(source: &Path, target: &Path) {
    let differences = rsync_differences(source, target);
    let first: Vec<&str> = differences.lines().filter(|line| line.len() < 200).take(20).collect();
    assert!(differences.is_empty(), "rsync would change: {first:#?}");
    let (wanted, found) = (look_at_all(source), look_at_all(target));
    for (path, text) in &wanted {
        assert_eq!(found.get(path), Some(text), "{}", path.display());
    }
    assert_eq!(wanted.len(), found.len());
}

/// Whether the judge can work here; says why not.
fn can_judge() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if Command::new("rsync").arg("--version").output().is_err() {
        "rsync is not installed"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    eprintln!("skipped: {missing}");
    false
}

#[test]
fn everything_comes_back_and_again_and_over_something_else() {
    if !can_judge() {
        return;
    }
    let place = Place::new();
    let (source, target) = (place.path("source"), place.path("target"));
    build(&source);
    let (repository, root) = back_up(&source);

    // Into a directory whose default ACL and set-group-id bit must not leak in.
    fs::create_dir(place.path("shared")).unwrap();
    fs::set_permissions(place.path("shared"), fs::Permissions::from_mode(0o2777)).unwrap();
    attribute(&place.path("shared"), "system.posix_acl_default", &default_acl());
    std::os::unix::fs::chown(place.path("shared"), None, Some(99)).unwrap();
    let leaky = place.path("shared/target");
    for target in [&target, &leaky] {
        let report = restore_to(&repository, &root, &source, target);
        assert_eq!((report.problems, report.unchanged, report.skipped), (0, 0, 0));
        assert_same(&source, target);
    }

    let again = restore_to(&repository, &root, &source, &target);
    assert_eq!((again.problems, again.files, again.others, again.bytes), (0, 0, 0, 0));
    assert_same(&source, &target);

    // Everything about what stands there is wrong, one thing each; only content is told apart by size and time.
    unlock(&target);
    fs::write(target.join("file of 70000"), b"other").unwrap();
    fs::set_permissions(target.join("file of 2049"), fs::Permissions::from_mode(0o777)).unwrap();
    attribute(&target.join("file of 2048"), "user.stray", b"x");
    attribute(&target.join("file of 2048"), "system.posix_acl_access", &access_acl());
    attribute(&target.join("names"), "system.posix_acl_default", &default_acl());
    attribute(&target.join("directory 755"), "user.stray", b"x");
    rustix::fs::removexattr(target.join("program"), "security.capability").unwrap();
    fs::remove_file(target.join("link")).unwrap();
    fs::write(target.join("link"), b"not a link").unwrap();
    fs::remove_file(target.join("null")).unwrap();
    rustix::fs::mknodat(CWD, target.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 5)).unwrap();
    fs::remove_file(target.join("links/a")).unwrap();
    fs::write(target.join("links/a"), b"alone").unwrap();
    std::os::unix::fs::lchown(target.join("broken"), Some(1), Some(1)).unwrap();
    let report = restore_to(&repository, &root, &source, &target);
    assert_eq!(report.problems, 0);
    assert_same(&source, &target);
}
