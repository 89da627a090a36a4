//! Backups of real directories come back: content and metadata through tree and chunks, unchanged runs read nothing,
//! changed files are read again, streams commit or abort.

use std::collections::BTreeMap;
use std::fs;

use seawall_engine::backup::{Source, backup};
use seawall_engine::entry::{Kind, TreeKey};
use seawall_engine::error::{Error, Result};
use seawall_engine::monitor::Silent;
use seawall_engine::units::MIB;

use crate::place::{Place, content, noise, options, paths, stored_files};

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
        assert_eq!((again.files_unchanged, again.bytes_read), (9, 0), "with cache: {cache}");
        // The times of directories above the source, which belong to others, may have changed: a leaf, and the root where
        // chance has cut the tree into several nodes.
        assert!(again.chunks_new <= 2, "{} new chunks, with cache: {cache}", again.chunks_new);
        assert_eq!(stored_files(&place.open(false), &again), wanted);
    }
}

#[test]
fn a_changed_file_is_read_again_and_stored_against_its_old_version() {
    let (place, repository) = Place::new();
    let path = place.source().join("log");
    let line = |number: u64| format!("{{\"line\":{number},\"text\":\"{}\"}}\n", blake3::hash(&number.to_le_bytes()));
    let mut text: Vec<u8> = (0..60_000).flat_map(|number| line(number).into_bytes()).collect();
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
