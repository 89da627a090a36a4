//! Browsing and diff over real backups: listings, searches, files and ranges of files, counts, changes.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use seawall_engine::backup::backup;
use seawall_engine::browse::{FindOptions, cat, find, list, stats};
use seawall_engine::diff::{ChangeKind, diff};
use seawall_engine::entry::TreeKey;
use seawall_engine::error::Error;
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::units::{KIB, MIB};

use crate::place::{Place, noise, options, paths};

fn key(path: &Path) -> TreeKey {
    TreeKey::from_path(path).unwrap()
}

fn take(place: &Place, repository: &Repository) -> SnapshotRecord {
    backup(repository, options(paths(&place.source())), &Silent).unwrap().snapshot.unwrap()
}

#[test]
fn listings_are_flat_or_whole() {
    let (place, repository) = Place::new();
    let source = place.source();
    // Enough in one directory that a flat listing of the one above can skip nodes.
    for number in 0..3000 {
        let path = source.join(format!("many/below {}/file {number}", number / 1000));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, noise(number, 100)).unwrap();
    }
    fs::write(source.join("many.txt"), b"sorts between many and what is in it, or not").unwrap();
    fs::create_dir(source.join("empty")).unwrap();
    let root = take(&place, &repository).root;
    let names = |path: &Path, recursive| {
        let mut names = Vec::new();
        list(&repository, &root, &key(path), recursive, &mut |key, _| {
            names.push(key.to_path().strip_prefix(&source).unwrap().to_string_lossy().into_owned());
            ControlFlow::Continue(())
        })
        .unwrap();
        names
    };
    assert_eq!(names(&source, false), ["empty", "many", "many.txt"]);
    assert_eq!(names(&source.join("many"), false), ["many/below 0", "many/below 1", "many/below 2"]);
    assert_eq!(names(&source.join("many/below 1"), false).len(), 1000);
    assert_eq!(names(&source, true).len(), 3 + 3 + 3000);
    assert_eq!(names(&source.join("empty"), true), [""; 0]);
    assert_eq!(names(&source.join("many.txt"), true), ["many.txt"]);
    let mut count = 0;
    list(&repository, &root, &key(&source), true, &mut |_, _| {
        count += 1;
        if count < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    assert_eq!(count, 10, "the receiver ends it");
    let missing = list(&repository, &root, &key(&source.join("no")), false, &mut |_, _| ControlFlow::Continue(()));
    assert!(matches!(missing, Err(Error::NotFound(_))));
}

#[test]
fn files_and_ranges_come_out_in_order() {
    let (place, repository) = Place::new();
    let source = place.source();
    let big = noise(1, 20 * MIB + 17);
    fs::write(source.join("big"), &big).unwrap();
    fs::write(source.join("tiny"), b"0123456789").unwrap();
    fs::write(source.join("empty"), b"").unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"end", 8 * MIB as u64).unwrap();
    drop(sparse);
    symlink("big", source.join("link")).unwrap();
    let root = take(&place, &repository).root;
    let read = |name: &str, range| {
        let mut out = Vec::new();
        let count = cat(&repository, &root, &key(&source.join(name)), range, &mut out).unwrap();
        assert_eq!(count, out.len() as u64);
        out
    };
    for name in ["big", "tiny", "empty", "sparse"] {
        assert!(read(name, None) == fs::read(source.join(name)).unwrap(), "{name}");
    }
    let at = |place: u64| usize::try_from(place).unwrap();
    let length = big.len() as u64;
    for range in [0..1, 5..5, 3_000_000..9_999_999, length - 1..length, 0..length, 12_345..12_346] {
        assert!(read("big", Some(range.clone())) == big[at(range.start)..at(range.end)], "{range:?}");
    }
    assert_eq!(read("tiny", Some(3..6)), b"345");
    assert_eq!(read("tiny", Some(8..100)), b"89", "a range may reach beyond the end");
    assert_eq!(read("tiny", Some(100..200)), b"");
    assert_eq!(read("big", Some(length..length + 5)), b"");
    assert_eq!(read("sparse", Some(8 * MIB as u64 - 2..8 * MIB as u64 + 3)), b"\0\0end");
    let mut out = Vec::new();
    for (name, is_missing) in [("no", true), ("link", false)] {
        match cat(&repository, &root, &key(&source.join(name)), None, &mut out) {
            Err(Error::NotFound(text)) => assert_eq!(!text.contains("is not a file"), is_missing, "{text}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// A reader that goes away in the middle must not leave threads waiting for each other.
#[test]
fn an_output_that_fails_ends_the_reading() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (place, repository) = Place::new();
    fs::write(place.source().join("big"), noise(1, 40 * MIB)).unwrap();
    let root = take(&place, &repository).root;
    let outcome = cat(&repository, &root, &key(&place.source().join("big")), None, &mut Full(9 * MIB));
    assert!(matches!(outcome, Err(Error::File { .. })), "{outcome:?}");
}

#[test]
fn a_search_covers_all_snapshots() {
    let (place, repository) = Place::new();
    let source = place.source();
    fs::create_dir(source.join("logs")).unwrap();
    fs::write(source.join("logs/app.log"), noise(1, 5000)).unwrap();
    fs::write(source.join("app.conf"), b"x").unwrap();
    take(&place, &repository);
    fs::write(source.join("logs/second.log"), noise(2, 50)).unwrap();
    take(&place, &repository);
    let snapshots = repository.snapshots();
    let names = |options: FindOptions| {
        let mut names = Vec::new();
        let report = find(&repository, &snapshots, &options, &mut |snapshot, key, _| {
            names.push((snapshot.number, String::from_utf8(key.name().to_vec()).unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((report.matches, report.problems_count), (names.len() as u64, 0));
        names
    };
    let named = |patterns: &[&str]| FindOptions {
        patterns: patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        ..FindOptions::default()
    };
    let log = |number, name: &str| (number, name.to_owned());
    assert_eq!(names(named(&["*.log"])), [log(1, "app.log"), log(2, "app.log"), log(2, "second.log")]);
    assert_eq!(
        names(FindOptions { larger_than: Some(4999), ..named(&["*.log"]) }),
        [log(1, "app.log"), log(2, "app.log")]
    );
    assert_eq!(names(named(&["second*"])), [log(2, "second.log")]);
    assert_eq!(names(FindOptions { types: vec!['d'], ..named(&["logs", "*.conf"]) }).len(), 2);
    assert_eq!(names(named(&[&format!("{}/*", source.display())])).len(), 4, "paths: app.conf and logs, twice");
    let mut first = 0;
    let report = find(&repository, &snapshots, &FindOptions::default(), &mut |_, _, _| {
        first += 1;
        ControlFlow::Break(())
    });
    assert_eq!((first, report.unwrap().stopped), (1, true));
}

#[test]
fn stats_add_up() {
    let (place, repository) = Place::new();
    fs::write(place.source().join("noise"), noise(1, MIB)).unwrap();
    fs::write(place.source().join("zeros"), vec![0; 3 * MIB]).unwrap();
    let text: Vec<u8> = (0..40_000).flat_map(|line| format!("line {line}\n").into_bytes()).collect();
    fs::write(place.source().join("text"), &text).unwrap();
    let first = take(&place, &repository);
    let mut changed = text.clone();
    changed[100_000] = b'!';
    fs::write(place.source().join("text"), &changed).unwrap();
    let second = take(&place, &repository);
    let stats = stats(&repository).unwrap();
    let repository_bytes: u64 = walk_bytes(&place.directory.path().join("repository"));
    let marker = fs::metadata(place.directory.path().join("repository/seawall")).unwrap().len();
    assert_eq!(stats.stored_bytes() + marker, repository_bytes);
    assert_eq!((stats.snapshots, stats.log_entries, stats.keys.objects, stats.sessions.objects), (2, 3, 1, 2));
    assert_eq!((stats.newest_bytes, stats.all_bytes), (second.bytes, first.bytes + second.bytes));
    assert_eq!(stats.data_packs + stats.tree_packs, stats.packs.objects);
    assert_eq!(stats.chunks, stats.codecs.iter().map(|codec| codec.chunks).sum::<u64>());
    let names: Vec<_> = stats.codecs.iter().map(|codec| codec.name()).collect();
    assert!(names.contains(&"raw") && names.contains(&"zstd") && names.contains(&"zstd with prefix"), "{names:?}");
    assert!(stats.with_base > 0 && stats.ratio().unwrap() > 2.0, "{stats:?}");
}

fn walk_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => walk_bytes(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[test]
fn diff_names_each_kind_of_change() {
    let (place, repository) = Place::new();
    let source = place.source();
    for name in ["same", "content", "mode", "gone", "file to link", "big"] {
        fs::write(source.join(name), noise(5, 100 * KIB)).unwrap();
    }
    symlink("same", source.join("link")).unwrap();
    let first = take(&place, &repository);
    fs::write(source.join("content"), noise(6, 100 * KIB)).unwrap();
    fs::set_permissions(source.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(source.join("gone")).unwrap();
    fs::remove_file(source.join("file to link")).unwrap();
    symlink("same", source.join("file to link")).unwrap();
    fs::remove_file(source.join("link")).unwrap();
    symlink("content", source.join("link")).unwrap();
    fs::write(source.join("new"), noise(7, 10 * KIB)).unwrap();
    let second = take(&place, &repository);
    let mut found = Vec::new();
    let report = diff(&repository, &first.root, &second.root, &key(&source), &mut |change| {
        assert_eq!(
            (change.old.is_none(), change.new.is_none()),
            match change.kind {
                ChangeKind::Added => (true, false),
                ChangeKind::Removed => (false, true),
                _ => (false, false),
            }
        );
        found.push((String::from_utf8(change.key.name().to_vec()).unwrap(), change.kind));
        ControlFlow::Continue(())
    })
    .unwrap();
    let wanted = [
        ("source", ChangeKind::Metadata),
        ("content", ChangeKind::Content),
        ("file to link", ChangeKind::Type),
        ("gone", ChangeKind::Removed),
        ("link", ChangeKind::Content),
        ("mode", ChangeKind::Metadata),
        ("new", ChangeKind::Added),
    ];
    assert_eq!(found, wanted.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!((report.added, report.removed, report.content, report.metadata, report.types), (1, 1, 2, 2, 1));
    assert_eq!(report.bytes_added, (100 + 10) * KIB as u64);
    assert_eq!(report.bytes_removed, (100 + 100 + 100) * KIB as u64);
    let stopped = diff(&repository, &first.root, &second.root, &key(&source), &mut |_| ControlFlow::Break(()));
    assert!(stopped.unwrap().stopped);
}
