//! Every repository that a released format has written stays readable: each directory in testdata/repositories is
//! copied, opened with each of its keys, verified with all data, restored, and compared with its manifest.
//!
//! The manifests were made from the trees before they were backed up, by a script that shares no code with the engine
//! (testdata/repositories/README.md has the columns). That nobody edited a repository is checked by stored.txt, before
//! and after. As an ordinary user set-id bits can't be restored, so they are not compared then.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_engine::entry::TreeKey;
use seawall_engine::format::slot::{Unlock, parse_key_file};
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::restore::{RestoreOptions, restore};
use seawall_engine::store::local::LocalStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::{Read, VerifyOptions, verify};

#[test]
fn every_repository_ever_written_is_read() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/repositories");
    let entries = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let versions: BTreeSet<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    assert!(versions.iter().any(|path| path.ends_with("v1")), "version 1 is gone: {versions:?}");
    for version in versions {
        assert!(version.join("contents.txt").is_file(), "{} has no manifest", version.display());
        let before = stored(&version);
        check(&version);
        assert_eq!(stored(&version), before, "a test changed {}", version.display());
    }
}

fn text(version: &Path, name: &str) -> String {
    let path = version.join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The stored objects, after comparison with stored.txt.
fn stored(version: &Path) -> BTreeMap<String, String> {
    let top = version.join("repository");
    let mut found = BTreeMap::new();
    for path in below(&top).into_iter().filter(|path| path.is_file()) {
        let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
        found.insert(name, blake3::hash(&fs::read(&path).unwrap()).to_string());
    }
    let list = text(version, "stored.txt");
    let wanted = list.lines().map(|line| line.split_once(' ').unwrap());
    assert_eq!(found, wanted.map(|(hash, name)| (name.to_owned(), hash.to_owned())).collect(), "{}", version.display());
    found
}

/// All paths below a directory, ascending.
fn below(top: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(top).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(below(&entry.path()));
        }
    }
    found.sort();
    found
}

fn check(version: &Path) {
    let manifest = text(version, "contents.txt");
    let snapshots: BTreeSet<usize> = manifest.lines().map(snapshot_of).collect();
    assert!(!snapshots.is_empty(), "{} has an empty manifest", version.display());
    let key = parse_key_file(&text(version, "key")).unwrap();
    let passphrase = text(version, "passphrase").trim_end_matches('\n').as_bytes().to_vec();
    for unlock in [Unlock::KeyFile(key), Unlock::Passphrase(passphrase.into())] {
        // Why here: attributes of users need a real disk's file system, which /tmp may not be.
        let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let copy = place.path().join("repository");
        copy_directory(&version.join("repository"), &copy);
        let repository = Repository::open(Arc::new(LocalStore::open(&copy).unwrap()), &unlock, None).unwrap();
        let options = VerifyOptions { read: Read::All, record: false, threads: 2, budget_bytes: 64 * MIB };
        let report = verify(&repository, &options, &Silent).unwrap();
        assert_eq!(report.damage, [], "{}", version.display());
        assert_eq!(report.packs_read, report.packs);
        assert_eq!(repository.snapshots().len(), snapshots.len());
        for &number in &snapshots {
            let found = restored(&repository, number, &place.path().join(number.to_string()));
            let wanted = manifest.lines().filter(|line| snapshot_of(line) == number).map(comparable);
            assert_eq!(found, wanted.collect(), "{}, snapshot {number}", version.display());
        }
    }
}

fn snapshot_of(line: &str) -> usize {
    line.split(' ').next().unwrap().parse().unwrap()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for path in below(from) {
        let copy = to.join(path.strip_prefix(from).unwrap());
        if path.is_dir() {
            fs::create_dir(copy).unwrap();
        } else {
            fs::write(copy, fs::read(&path).unwrap()).unwrap();
        }
    }
}

/// Restores snapshot `number`, from 1, and describes what came as the manifest does.
fn restored(repository: &Repository, number: usize, target: &Path) -> BTreeSet<String> {
    let record = &repository.snapshots()[number - 1].record;
    let from = TreeKey::from_path(Path::new(OsStr::from_bytes(&record.paths[0]))).unwrap();
    let options = RestoreOptions { from, target: target.to_path_buf(), threads: 2, ..RestoreOptions::default() };
    let report = restore(repository, &record.root, &options, &Silent).unwrap();
    assert!(report.problems == 0 || !rustix::process::geteuid().is_root(), "{} problems", report.problems);
    let lines = below(target).into_iter().map(|path| comparable(&describe(number, target, &path)));
    lines.collect()
}

/// A line of a manifest, without what this user can't restore.
fn comparable(line: &str) -> String {
    let mut fields: Vec<&str> = line.splitn(9, ' ').collect();
    assert_eq!(fields.len(), 9, "{line}");
    if !rustix::process::geteuid().is_root() {
        fields[2] = &fields[2][1..];
    }
    fields.join(" ")
}

fn describe(number: usize, top: &Path, path: &Path) -> String {
    let found = fs::symlink_metadata(path).unwrap();
    let kind = found.file_type();
    let (word, content) = if kind.is_file() {
        ("file", fs::read(path).unwrap())
    } else if kind.is_symlink() {
        ("symlink", fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec())
    } else {
        assert!(kind.is_dir() || kind.is_fifo(), "{}", path.display());
        (if kind.is_dir() { "directory" } else { "fifo" }, Vec::new())
    };
    format!(
        "{number} {word} {:04o} {} {} {} {} {} {}",
        found.mode() & 0o7777,
        content.len(),
        found.mtime() * 1_000_000_000 + found.mtime_nsec(),
        if kind.is_dir() { 1 } else { found.nlink() },
        if kind.is_file() || kind.is_dir() { attributes(path) } else { "-".to_owned() },
        blake3::hash(&content),
        path.strip_prefix(top).unwrap().as_os_str().as_bytes().escape_ascii(),
    )
}

/// The attributes of users as `name=value`, values in hexadecimal digits.
fn attributes(path: &Path) -> String {
    let mut list = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|&byte| byte == 0).filter(|name| name.starts_with(b"user."));
    let texts: BTreeSet<String> = names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            let digits: String = value[..length].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}={digits}", name.escape_ascii())
        })
        .collect();
    if texts.is_empty() { "-".to_owned() } else { texts.into_iter().collect::<Vec<_>>().join(",") }
}
