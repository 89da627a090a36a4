//! Comparing a restored directory with its snapshot: a faithful restore has no difference, and every kind of change is
//! found and named.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat, setxattr};
use seawall_engine::backup::backup;
use seawall_engine::entry::TreeKey;
use seawall_engine::error::Error;
use seawall_engine::ids::ChunkId;
use seawall_engine::monitor::{Monitor, Silent};
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::units::{KIB, MIB};
use seawall_engine::verify::{CompareOptions, CompareReport, DIFFERENCES_MAX, compare};

use crate::place::{Place, noise, options, paths};

const OPTIONS: CompareOptions<'static> =
    CompareOptions { threads: 3, budget_bytes: 64 * MIB, filter: None, owner: false };

struct Restored {
    place: Place,
    repository: Repository,
    root: ChunkId,
    from: TreeKey,
}

impl Restored {
    /// A snapshot of what `fill` makes.
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let (place, repository) = Place::new();
        fill(&place.source());
        let report = backup(&repository, options(paths(&place.source())), &Silent).unwrap();
        let from = TreeKey::from_path(&place.source()).unwrap();
        Self { root: report.snapshot.unwrap().root, repository, from, place }
    }

    /// A fresh restore of `from`.
    fn restore(&self, name: &str) -> PathBuf {
        let target = self.place.directory.path().join(name);
        let options = RestoreOptions { from: self.from.clone(), target: target.clone(), ..RestoreOptions::default() };
        restore(&self.repository, &self.root, &options, &Silent).unwrap();
        target
    }

    fn compare(&self, target: &Path, options: &CompareOptions<'_>) -> CompareReport {
        compare(&self.repository, &self.root, &self.from, target, options, &Silent).unwrap()
    }
}

fn fill(source: &Path) {
    fs::create_dir_all(source.join("directory/deeper")).unwrap();
    fs::write(source.join("tiny"), b"tiny").unwrap();
    fs::write(source.join("directory/middle"), noise(1, 300 * KIB)).unwrap();
    fs::write(source.join("directory/long"), noise(2, 40 * MIB)).unwrap();
    fs::write(source.join("directory/deeper/empty"), b"").unwrap();
    symlink("tiny", source.join("link")).unwrap();
    fs::hard_link(source.join("tiny"), source.join("tiny too")).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(b"data", 4 * MIB as u64).unwrap();
    sparse.set_len(16 * MIB as u64).unwrap();
    mknodat(CWD, source.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let attribute = setxattr(source.join("directory"), "user.note", b"value", XattrFlags::CREATE);
    assert!(matches!(attribute, Ok(()) | Err(rustix::io::Errno::NOTSUP)));
}

#[test]
fn a_faithful_restore_has_no_difference_and_each_change_is_named() {
    let restored = Restored::new(fill);
    let target = restored.restore("faithful");
    let report = restored.compare(&target, &OPTIONS);
    assert_eq!(report.differences, []);
    assert_eq!((report.entries, report.files, report.differences_count), (11, 6, 0));
    assert_eq!(report.bytes, (4 + 4 + 300 * KIB + 40 * MIB + 16 * MIB) as u64);

    type Change = fn(&Path);
    let cases: [(&str, &str, &str, Change); 17] = [
        ("missing file", "tiny too", "missing", |at| fs::remove_file(at.join("tiny too")).unwrap()),
        ("missing directory", "directory/deeper/empty", "missing", |at| {
            fs::remove_dir_all(at.join("directory/deeper")).unwrap();
        }),
        ("unexpected", "directory/extra", "not in the snapshot", |at| {
            fs::write(at.join("directory/extra"), b"x").unwrap();
        }),
        ("kind", "link", "a file instead of a symbolic link", |at| {
            fs::remove_file(at.join("link")).unwrap();
            fs::write(at.join("link"), b"x").unwrap();
        }),
        ("mode", "directory/middle", "mode 0640 instead of", |at| {
            fs::set_permissions(at.join("directory/middle"), fs::Permissions::from_mode(0o640)).unwrap();
        }),
        ("size", "tiny", "5 bytes instead of 4", |at| fs::write(at.join("tiny"), b"tiny!").unwrap()),
        ("inline content", "tiny", "content differs", |at| fs::write(at.join("tiny"), b"tinY").unwrap()),
        ("content", "directory/middle", "content differs", |at| flip(&at.join("directory/middle"), 299_999)),
        ("long content", "directory/long", "content differs", |at| flip(&at.join("directory/long"), 39 * MIB as u64)),
        ("truncated", "directory/long", "content differs", |at| {
            File::options().write(true).open(at.join("directory/long")).unwrap().set_len(30 * MIB as u64).unwrap();
        }),
        ("link target", "link", "leads to", |at| {
            fs::remove_file(at.join("link")).unwrap();
            symlink("elsewhere", at.join("link")).unwrap();
        }),
        ("time of a file", "directory/middle", "modified at", |at| {
            touch(&at.join("directory/middle"));
        }),
        ("time of a directory", "directory/deeper", "modified at", |at| touch(&at.join("directory/deeper"))),
        ("no hard link", "tiny too", "not a hard link", |at| {
            fs::remove_file(at.join("tiny too")).unwrap();
            fs::copy(at.join("tiny"), at.join("tiny too")).unwrap();
        }),
        ("wrong hard link", "directory/middle", "other names", |at| {
            fs::hard_link(at.join("directory/middle"), at.join("directory/second")).unwrap();
        }),
        ("data in a hole", "sparse", "content differs", |at| flip(&at.join("sparse"), 9_000_000)),
        ("filled holes", "sparse", "holes are filled", |at| {
            let file = File::options().write(true).open(at.join("sparse")).unwrap();
            for step in 0..16 {
                if step != 4 {
                    file.write_all_at(&[0; MIB], step * MIB as u64).unwrap();
                }
            }
        }),
    ];
    for (case, path, what, change) in cases {
        let target = restored.restore(case);
        change(&target);
        let report = restored.compare(&target, &OPTIONS);
        let path = restored.place.source().join(path).to_string_lossy().into_owned();
        let named = report.differences.iter().any(|found| found.path == path && found.what.contains(what));
        assert!(named, "{case}: {:?}", report.differences);
        assert_eq!(report.differences_count, report.differences.len() as u64, "{case}");
        assert!(report.differences.is_sorted());
        fs::remove_dir_all(target).unwrap();
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn touch(path: &Path) {
    File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_001)).unwrap();
}

#[test]
fn owners_and_attributes_as_root() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "nothing may be skipped in CI: needs root");
        println!("skipped: needs root");
        return;
    }
    let restored = Restored::new(fill);
    let target = restored.restore("changed");
    let options = CompareOptions { owner: true, ..OPTIONS };
    assert_eq!(restored.compare(&target, &options).differences, []);
    std::os::unix::fs::lchown(target.join("link"), Some(12), Some(34)).unwrap();
    setxattr(target.join("pipe"), "security.note", b"x", XattrFlags::CREATE).unwrap();
    setxattr(target.join("directory"), "user.note", b"other", XattrFlags::empty()).unwrap();
    setxattr(target.join("directory"), "user.more", b"", XattrFlags::empty()).unwrap();
    let whats = |report: CompareReport| {
        let names = report.differences.into_iter();
        names.map(|found| format!("{}: {}", found.path.rsplit('/').next().unwrap(), found.what)).collect::<Vec<_>>()
    };
    let plain = [
        "directory: extended attribute user.more is not in the snapshot",
        "directory: extended attribute user.note has another value",
    ];
    assert_eq!(whats(restored.compare(&target, &OPTIONS)), plain);
    let mut all: Vec<String> = plain.iter().map(|&what| what.to_owned()).collect();
    let stat = fs::symlink_metadata(restored.place.source().join("link")).unwrap();
    all.push(format!("link: owner 12:34 instead of {}:{}", stat.uid(), stat.gid()));
    all.push("pipe: extended attribute security.note is not in the snapshot".to_owned());
    assert_eq!(whats(restored.compare(&target, &options)), all);
}

#[test]
fn a_filter_says_what_is_expected() {
    let restored = Restored::new(fill);
    let target = restored.restore("partial");
    fs::remove_file(target.join("sparse")).unwrap();
    flip(&target.join("directory/long"), 1000);
    let all = restored.compare(&target, &OPTIONS);
    let long = restored.place.source().join("directory/long").to_string_lossy().into_owned();
    // The directory's time, the file's time, its content, and the missing one.
    assert_eq!(all.differences_count, 4, "{:?}", all.differences);
    let chosen = |key: &TreeKey| key.name() != b"sparse" && key.name() != b"long";
    let report = restored.compare(&target, &CompareOptions { filter: Some(&chosen), ..OPTIONS });
    let whats: Vec<_> = report.differences.iter().map(|found| (&found.path, &found.what[..11])).collect();
    let source = restored.place.source().to_string_lossy().into_owned();
    assert_eq!(whats, [(&source, "modified at"), (&long, "modified at")], "metadata of what is there is compared");
    assert_eq!(report.files, 4);
}

#[test]
fn one_file_is_found_under_its_name() {
    let mut restored = Restored::new(fill);
    restored.from = TreeKey::from_path(&restored.place.source().join("directory/middle")).unwrap();
    let target = restored.restore("one");
    fs::write(target.join("other"), b"stood there before").unwrap();
    let report = restored.compare(&target, &OPTIONS);
    assert_eq!((report.differences, report.entries, report.files), (Vec::new(), 1, 1));
    flip(&target.join("middle"), 7);
    assert_eq!(restored.compare(&target, &OPTIONS).differences_count, 2);
    fs::remove_file(target.join("middle")).unwrap();
    assert_eq!(restored.compare(&target, &OPTIONS).differences[0].what, "missing");
}

#[test]
fn differences_are_capped_and_counted() {
    let restored = Restored::new(|source| {
        for number in 0..DIFFERENCES_MAX + 200 {
            fs::write(source.join(format!("{number}")), b"x").unwrap();
        }
    });
    let target = restored.place.directory.path().join("nothing");
    fs::create_dir(&target).unwrap();
    let report = restored.compare(&target, &OPTIONS);
    assert_eq!(report.differences.len(), DIFFERENCES_MAX);
    assert!(report.differences_count >= DIFFERENCES_MAX as u64 + 200);
}

#[test]
fn what_can_not_be_compared_is_an_error() {
    let restored = Restored::new(fill);
    let missing = restored.place.directory.path().join("missing");
    let run = |from: &TreeKey, at: &Path, monitor: &dyn Monitor| {
        compare(&restored.repository, &restored.root, from, at, &OPTIONS, monitor)
    };
    let not_there = io::ErrorKind::NotFound;
    match run(&restored.from, &missing, &Silent) {
        Err(Error::File { source, .. }) => assert_eq!(source.kind(), not_there),
        other => panic!("{other:?}"),
    }
    let no = run(&restored.from.child(b"no"), restored.place.directory.path(), &Silent);
    assert!(matches!(no, Err(Error::NotFound(_))), "{no:?}");
    struct Stopped;
    impl Monitor for Stopped {
        fn stopped(&self) -> bool {
            true
        }
    }
    let target = restored.restore("stopped");
    assert!(matches!(run(&restored.from, &target, &Stopped), Err(Error::Interrupted)));
}
