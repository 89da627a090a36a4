//! What the options promise.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::restore::{Act, Overwrite, OwnerBy};
use crate::stages::target::metadata::Owners;

fn small_tree() -> Made {
    let mut made = Made::new();
    made.push("a", directory());
    made.push_file("a/file", &[b"con", b"tent"]);
    made.push("a/link", symlink("file"));
    made.push("b", file("text"));
    made.push("c", directory());
    made.push("c/d", directory());
    made.push("c/d/pipe", entry(Kind::Fifo, 0o600));
    made.push("c/d/text", linked(file("one"), 5));
    made.push("c/second", linked(file("one"), 5));
    made
}

const WHOLE: [(&str, &str); 9] = [
    ("a", "directory"),
    ("a/file", "file content"),
    ("a/link", "-> file"),
    ("b", "file text"),
    ("c", "directory"),
    ("c/d", "directory"),
    ("c/d/pipe", "special 10000"),
    ("c/d/text", "file one"),
    ("c/second", "file one"),
];

#[test]
fn where_a_restore_begins_and_what_it_takes() {
    let lists = |patterns: &[&str]| patterns.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
    for (from, include, exclude, wanted) in [
        ("", &[][..], &[][..], vec!["a", "a/file", "a/link", "b", "c", "c/d", "c/d/pipe", "c/d/text", "c/second"]),
        ("a", &[], &[], vec!["file", "link"]),
        ("c", &[], &[], vec!["d", "d/pipe", "d/text", "second"]),
        ("b", &[], &[], vec!["b"]),
        ("c/d/text", &[], &[], vec!["text"]),
        ("", &["text"], &[], vec!["c", "c/d", "c/d/text"]),
        ("", &["/c/d"], &[], vec!["c", "c/d", "c/d/pipe", "c/d/text"]),
        ("c", &["/c/d"], &["pipe"], vec!["d", "d/text"]),
        ("c/d", &["/c"], &[], vec!["pipe", "text"]),
        ("", &[], &["/c", "link"], vec!["a", "a/file", "b"]),
        ("", &["nothing"], &[], vec![]),
    ] {
        let place = Place::new();
        let (include, exclude) = (lists(include), lists(exclude));
        let options = RestoreOptions { from: raw_key(from), include, exclude, ..RestoreOptions::default() };
        let (report, heard) = place.run(&small_tree(), options);
        assert_eq!(report.unwrap().problems, 0, "{:?}", heard.problems());
        let mut wanted = wanted;
        wanted.sort_unstable();
        assert_eq!(place.target().into_keys().collect::<Vec<_>>(), wanted, "from {from:?}");
    }
    let options = RestoreOptions { from: raw_key("no/such"), ..RestoreOptions::default() };
    assert!(matches!(Place::new().run(&small_tree(), options).0, Err(Error::NotFound(_))));
}

#[test]
fn what_stands_there_already() {
    let old = |place: &Place| {
        fs::create_dir(place.path("target/a")).unwrap();
        fs::write(place.path("target/a/file"), b"older content").unwrap();
        fs::create_dir_all(place.path("target/b/full")).unwrap();
        fs::write(place.path("target/c"), b"no directory").unwrap();
    };
    let in_the_way_of_a_link = |place: &Place| {
        fs::remove_file(place.path("target/c")).unwrap();
        fs::create_dir_all(place.path("target/c/second/full")).unwrap();
    };
    let kept = [("a", "directory"), ("b", "directory"), ("b/full", "directory"), ("c", "file no directory")];
    for (overwrite, file, skipped, problems) in
        [(Overwrite::Never, "file older content", 2, 1), (Overwrite::IfChanged, "file content", 0, 2)]
    {
        let place = Place::new();
        old(&place);
        let (report, heard) = place.run(&small_tree(), RestoreOptions { overwrite, ..RestoreOptions::default() });
        let report = report.unwrap();
        assert_eq!((report.skipped, report.problems), (skipped, problems), "{:?}", heard.problems());
        let mut wanted = expect(kept);
        wanted.extend(expect([("a/file", file), ("a/link", "-> file")]));
        assert_eq!(place.target(), wanted);
    }
    let place = Place::new();
    old(&place);
    in_the_way_of_a_link(&place);
    let always = RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::default() };
    assert_eq!(place.run(&small_tree(), always).0.unwrap().problems, 0);
    assert_eq!(place.target(), expect(WHOLE));
}

#[test]
fn unchanged_files_are_not_rewritten() {
    let place = Place::new();
    let first = place.run(&small_tree(), RestoreOptions::default()).0.unwrap();
    assert_eq!((first.files, first.directories, first.others, first.unchanged), (4, 4, 2, 0));
    let inodes = || {
        let names = ["a/file", "a/link", "b", "c/d/pipe", "c/d/text", "c/second"];
        names.map(|name| fs::symlink_metadata(place.path("target").join(name)).unwrap().ino())
    };
    let before = inodes();
    assert_eq!(before[4], before[5]);
    for overwrite in [Overwrite::IfChanged, Overwrite::Never] {
        let again = place.run(&small_tree(), RestoreOptions { overwrite, ..RestoreOptions::default() }).0.unwrap();
        assert_eq!((again.files, again.others, again.bytes, again.problems), (0, 0, 0, 0));
        assert_eq!((again.unchanged + again.skipped, inodes()), (6, before));
    }
    let always = RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::default() };
    assert_eq!(place.run(&small_tree(), always).0.unwrap().files, 4);
    assert!(inodes().iter().zip(before).all(|(now, before)| *now != before));
}

#[test]
fn deleting_removes_what_the_snapshot_lacks_and_nothing_else() {
    let place = Place::new();
    for path in ["a/stray/deep", "kept/deep", "zz", "c/d/before", "0"] {
        fs::create_dir_all(place.path("target").join(path)).unwrap();
    }
    for path in ["a/stray/deep/file", "a/file.stray", "kept/deep/precious", "zz/old", "c/d/zzz"] {
        fs::write(place.path("target").join(path), b"x").unwrap();
    }
    let options = RestoreOptions { delete: true, exclude: vec!["precious".to_owned()], ..RestoreOptions::default() };
    let planned = place.run(&small_tree(), RestoreOptions { dry_run: true, ..options.clone() }).0.unwrap();
    let report = place.run(&small_tree(), options).0.unwrap();
    let mut wanted = expect(WHOLE);
    wanted.extend(expect([("kept", "directory"), ("kept/deep", "directory"), ("kept/deep/precious", "file x")]));
    assert_eq!(place.target(), wanted);
    assert_eq!((report.deleted, planned.deleted, report.problems), (9, 9, 0));
}

#[test]
fn deleting_spares_directories_that_were_backed_up_in_part() {
    let place = Place::new();
    fs::create_dir_all(place.path("target/c/d")).unwrap();
    for path in ["stray", "c/stray", "c/d/stray"] {
        fs::write(place.path("target").join(path), b"x").unwrap();
    }
    let mut made = small_tree();
    made.sources = vec![vec![raw_key("c/d"), raw_key("a")], vec![raw_key("c")]];
    let (report, heard) = place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!((report.unwrap().deleted, heard.notes.lock().unwrap().len()), (1, 2));
    assert!(place.path("target/stray").exists() && place.path("target/c/stray").exists());
    made.sources = Vec::new();
    let unknown = place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() }).0;
    assert!(matches!(unknown, Err(Error::Usage(_))));
}

#[test]
fn a_single_file_deletes_nothing_beside_it() {
    let place = Place::new();
    fs::write(place.path("target/beside"), b"x").unwrap();
    let options = RestoreOptions { from: raw_key("a/file"), delete: true, ..RestoreOptions::default() };
    assert_eq!(place.run(&small_tree(), options).0.unwrap().deleted, 0);
    assert_eq!(place.target(), expect([("beside", "file x"), ("file", "file content")]));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let place = Place::new();
    fs::create_dir(place.path("target/a")).unwrap();
    fs::write(place.path("target/a/file"), b"older").unwrap();
    fs::write(place.path("target/stray"), b"x").unwrap();
    let before = look(&place.path("target"));
    let options = RestoreOptions { delete: true, ..RestoreOptions::default() };
    let planned = place.run(&small_tree(), RestoreOptions { dry_run: true, ..options.clone() }).0.unwrap();
    assert_eq!(look(&place.path("target")), before);
    let actions: Vec<_> = planned.actions.iter().map(|action| (action.act, action.path.to_str().unwrap())).collect();
    let mut wanted = vec![(Act::Update, "/a/file")];
    let created = ["/a/link", "/b", "/c", "/c/d", "/c/d/pipe", "/c/d/text", "/c/second"];
    wanted.extend(created.map(|path| (Act::Create, path)));
    wanted.push((Act::Delete, "/stray"));
    assert_eq!(actions, wanted);
    let done = place.run(&small_tree(), options).0.unwrap();
    assert_eq!((done.files, done.directories, done.others), (planned.files, planned.directories, planned.others));
    assert_eq!(done.deleted, planned.deleted);
    let absent = RestoreOptions { dry_run: true, target: place.path("absent"), ..RestoreOptions::default() };
    assert_eq!(restore_from(&small_tree(), &absent, &Heard::default()).unwrap().files, 4);
    assert!(!place.path("absent").exists());
}

#[test]
fn owners_by_name_fall_back_to_numbers() {
    let owners = Owners::new(OwnerBy::Name);
    let named = |user: &str| Entry { user: Some(user.to_owned()), group: Some(user.to_owned()), ..file("x") };
    assert_eq!(owners.of(&Entry { uid: 12, gid: 13, ..named("root") }), (0, 0));
    assert_eq!(owners.of(&Entry { uid: 12, gid: 13, ..named("no such user") }), (12, 13));
    assert_eq!(owners.of(&Entry { uid: 12, gid: 13, ..file("x") }), (12, 13));
}

/// Runs as the user and group 65534.
fn as_nobody<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let started = std::thread::spawn(move || {
        // Why a thread: the system call changes this one and those that it starts, not the whole process.
        let (group, user) = (rustix::fs::Gid::from_raw(65_534), rustix::fs::Uid::from_raw(65_534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        run()
    });
    started.join().unwrap()
}

#[test]
fn what_an_ordinary_user_cannot_do_is_a_problem_for_each_file() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    let place = Place::new();
    let own = |entry: Entry| Entry { uid: 65_534, gid: 65_534, ..entry };
    let mut made = Made::new();
    made.tree.clear();
    made.push("", own(directory()));
    made.push("a", Entry { uid: 0, mode: 0o4755, xattrs: vec![(b"trusted.x".to_vec(), b"y".to_vec())], ..file("x") });
    made.push("b", own(Entry { mode: 0o500, ..directory() }));
    made.push("b/own", own(Entry { mode: 0o4755, ..file("own") }));
    made.push("c", entry(Kind::CharDevice(1, 3), 0o666));
    std::os::unix::fs::chown(place.path("target"), Some(65_534), Some(65_534)).unwrap();
    fs::set_permissions(place.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let target = place.path("target");
    let (report, heard) = as_nobody(move || {
        let heard = Heard::default();
        let options = RestoreOptions { target, threads: 2, ..RestoreOptions::default() };
        let report = restore_from(&made, &options, &heard).unwrap();
        // Again, over a read-only directory of his own, with everything to be written anew.
        let options = RestoreOptions { overwrite: Overwrite::Always, ..options };
        assert_eq!(restore_from(&made, &options, &Heard::default()).unwrap().problems, 2);
        (report, heard)
    });
    assert_eq!((report.files, report.problems), (2, 2));
    assert_eq!(heard.problems(), [("metadata", "/a".to_owned()), ("unwritable", "/c".to_owned())]);
    let text = heard.problems.lock().unwrap().iter().find(|it| it.code == "metadata").unwrap().what.clone();
    assert!(text.contains("owner 0:") && text.contains("set-id") && text.contains("trusted.x"), "{text}");
    let mode = |path: &str| fs::metadata(place.path("target").join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("a"), mode("b"), mode("b/own")), (0o755, 0o500, 0o4755));
}

#[test]
fn trees_deeper_than_handles_are_kept_open_come_back_and_go_again() {
    let place = Place::new();
    let mut made = Made::new();
    let mut path = String::new();
    for level in 0..300 {
        path.push_str(if level == 0 { "d" } else { "/d" });
        made.push(&path, Entry { mode: 0o700, ..directory() });
    }
    made.push(&format!("{path}/bottom"), file("deep"));
    // What follows needs the way back up.
    for level in (1..300).step_by(50).rev() {
        made.push(&format!("{}/e", vec!["d"; level].join("/")), file("up"));
    }
    let report = place.run(&made, RestoreOptions::default()).0.unwrap();
    assert_eq!((report.files, report.directories, report.problems), (7, 301, 0));
    assert_eq!(fs::symlink_metadata(place.path("target").join(&path)).unwrap().mtime(), 1_500_000_000);
    let empty = place.run(&Made::new(), RestoreOptions { delete: true, ..RestoreOptions::default() }).0.unwrap();
    assert_eq!((empty.deleted, place.target().len()), (307, 0));
}

#[test]
fn file_systems_that_may_refuse_later_are_told_apart() {
    use std::os::fd::AsFd;
    let open = |path: &str| std::fs::File::open(path).unwrap();
    assert!(crate::restore::tells_of_failures(open("/dev/shm").as_fd()));
    assert!(!crate::restore::tells_of_failures(open("/proc").as_fd()));
}
