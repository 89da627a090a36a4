//! A source that is worth something only as a whole: a file that vanishes or changes while it is read ends the backup, and
//! so does whoever looks at the source before the commit. Nothing is committed then, and what was stored serves the next run.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use seawall_engine::backup::{BackupOptions, BackupReport, Steady, backup};
use seawall_engine::error::{Error, Result};
use seawall_engine::monitor::Monitor;
use seawall_engine::stages::checkpoint::Listing;
use seawall_engine::units::MIB;

use crate::place::{Place, assert_whole, noise, options, paths};

/// Does something once, when the file of this name is about to be read.
struct At<'a> {
    name: &'a str,
    act: &'a (dyn Fn() + Sync),
    done: AtomicBool,
}

impl Monitor for At<'_> {
    fn current(&self, path: &Path) {
        if path.ends_with(self.name) && !self.done.swap(true, Ordering::SeqCst) {
            (self.act)();
        }
    }
}

/// A source of a large file and two small ones.
fn place() -> Place {
    let (place, _) = Place::new();
    fs::write(place.source().join("a"), noise(1, 8 * MIB)).unwrap();
    fs::write(place.source().join("b"), noise(2, 10_000)).unwrap();
    fs::write(place.source().join("c"), noise(3, 10_000)).unwrap();
    let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    for name in ["a", "b", "c"] {
        // Why: the clock of a file system is coarse, and a change right behind the writing might not show.
        File::options().write(true).open(place.source().join(name)).unwrap().set_modified(past).unwrap();
    }
    place
}

/// A backup by one thread, which reads the files in order, and does `act` before it reads `name`.
fn run(place: &Place, steady: Option<Steady>, name: &str, act: &(dyn Fn() + Sync)) -> Result<BackupReport> {
    let monitor = At { name, act, done: AtomicBool::new(false) };
    let options = BackupOptions { steady, threads: 1, ..options(paths(&place.source())) };
    backup(&place.open(true), options, &monitor)
}

fn refused(place: &Place, steady: Steady, name: &str, act: &(dyn Fn() + Sync), named: &str) {
    match run(place, Some(steady), name, act) {
        Err(Error::Changed(what)) => assert!(what.contains(named), "{what}"),
        other => panic!("{:?}", other.map(|report| report.snapshot)),
    }
    assert_eq!(place.open(false).snapshots().len(), 0, "nothing is committed");
}

#[test]
fn a_file_that_vanishes_ends_it_and_the_next_run_adopts_what_was_stored() {
    let place = place();
    let gone = place.source().join("c");
    let remove = || fs::remove_file(&gone).unwrap();
    refused(&place, Box::new(|| Ok(())), "c", &remove, "source/c");
    let report = run(&place, Some(Box::new(|| Ok(()))), "", &|| {}).unwrap();
    assert_eq!((report.problems, report.adopted.len()), (0, 1));
    assert!(report.bytes_stored < MIB as u64, "{} bytes are stored again", report.bytes_stored);
    assert_whole(&place.open(false));
    let kept = place.directory.path().join("cache").join(place.open(false).id().to_string()).join("entries");
    assert_eq!(fs::read_dir(kept).unwrap().count(), 1, "one list of entries stays of a run");

    // Without the wish it is a problem in the report, as before.
    fs::write(&gone, noise(4, 10_000)).unwrap();
    let report = run(&place, None, "c", &remove).unwrap();
    assert_eq!(report.problems, 1);
}

/// Says so when it is dropped, also by a panic.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_file_that_does_not_come_to_rest_ends_it() {
    let place = place();
    let growing = place.source().join("a");
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&ended);
        let grow = || {
            let mut file = File::options().append(true).open(&growing).unwrap();
            let ended = &ended;
            file.write_all(b"x").unwrap();
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    file.write_all(b"x").unwrap();
                }
            });
        };
        refused(&place, Box::new(|| Ok(())), "a", &grow, "source/a");
    });
    run(&place, Some(Box::new(|| Ok(()))), "", &|| {}).unwrap();
}

/// Compares the source with what it was when this was made.
fn unchanged(source: PathBuf) -> Steady {
    let before = Listing::of(&source).unwrap();
    Box::new(move || match before.difference(&Listing::of(&source).unwrap()) {
        None => Ok(()),
        Some(path) => Err(Error::Changed(path.display().to_string())),
    })
}

#[test]
fn what_changed_between_the_look_and_the_reading_is_found_before_the_commit() {
    let place = place();
    let source = place.source();
    let overwrite = || {
        let file = File::options().write(true).open(source.join("c")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"other", 7).unwrap();
    };
    refused(&place, unchanged(place.source()), "a", &overwrite, "c");
    let steady = unchanged(place.source());
    fs::write(source.join("d"), b"new").unwrap();
    refused(&place, steady, "", &|| {}, "");
    let report = run(&place, Some(unchanged(place.source())), "", &|| {}).unwrap();
    let files = report.files_new + report.files_changed + report.files_unchanged;
    assert_eq!((files, report.problems), (4, 0));
}
