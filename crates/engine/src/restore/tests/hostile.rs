//! Trees and targets that want to lead out of the target. Nothing beside it may change, in content or metadata, and what
//! is honest in the same tree must come back all the same.

use std::os::unix::fs::{PermissionsExt, symlink as link};

use super::*;
use crate::monitor::Phase;
use crate::restore::Overwrite;

type Outcome = (BTreeMap<String, String>, Vec<&'static str>, Result<RestoreReport>);

/// Restores what `fill` makes into a target that `prepare` made ready. Returns what is in the target and the codes of
/// the problems.
fn attack(prepare: impl Fn(&Place), fill: impl Fn(&Place, &mut Made), overwrite: Overwrite) -> Outcome {
    let place = Place::new();
    prepare(&place);
    let before = place.outside();
    let mut made = Made::new();
    fill(&place, &mut made);
    let (report, heard) = place.run(&made, RestoreOptions { overwrite, ..RestoreOptions::default() });
    assert_eq!(place.outside(), before);
    (place.target(), heard.problems().into_iter().map(|(code, _)| code).collect(), report)
}

const ALL: [Overwrite; 3] = [Overwrite::Never, Overwrite::IfChanged, Overwrite::Always];

#[test]
fn names_that_are_no_names_are_problems() {
    let names: [&[u8]; 12] = [
        b"..",
        b".",
        b"..\0evil",
        b"../outside/evil",
        b"/evil",
        b"a/b",
        b"\0evil",
        b"\0\0evil",
        b"evil\0",
        b"z\0",
        b"./evil",
        &[b'n'; 256],
    ];
    for kind in [file("evil"), directory(), symlink("/"), entry(Kind::Fifo, 0o600)] {
        for name in names {
            for overwrite in ALL {
                let fill = |_: &Place, made: &mut Made| {
                    made.tree.push(Some((TreeKey(name.to_vec()), kind.clone())));
                    made.push("zz honest", file("good"));
                };
                let (target, problems, report) = attack(|_| {}, fill, overwrite);
                report.unwrap();
                assert_eq!(target, expect([("zz honest", "file good")]), "{}", name.escape_ascii());
                assert_eq!(problems.len(), 1, "{}", name.escape_ascii());
            }
        }
    }
}

#[test]
fn nothing_is_written_through_a_link_of_the_tree() {
    for overwrite in ALL {
        let fill = |place: &Place, made: &mut Made| {
            made.push("link", symlink(place.path("outside")));
            made.push("link/canary", file("evil"));
            made.push("link/new", directory());
            made.push("link/new/evil", file("evil"));
            made.push("plain", file("good"));
            made.push("plain/below", file("evil"));
        };
        let (mut target, problems, report) = attack(|_| {}, fill, overwrite);
        report.unwrap();
        assert!(target.remove("link").unwrap().ends_with("/outside"));
        assert_eq!(target, expect([("plain", "file good")]));
        assert_eq!(problems, ["skipped"; 4]);
    }
}

#[test]
fn nothing_is_written_through_a_link_that_stands_in_the_target() {
    let prepare = |place: &Place| {
        link(place.path("outside"), place.path("target/directory")).unwrap();
        link(place.path("outside/canary"), place.path("target/file")).unwrap();
        link("../outside", place.path("target/zz")).unwrap();
    };
    let fill = |_: &Place, made: &mut Made| {
        made.push("directory", directory());
        made.push("directory/canary", file("evil"));
        made.push_file("file", &[b"evil", b"er"]);
        made.push("zz", Entry { mode: 0o600, ..file("good") });
    };
    let (target, problems, report) = attack(prepare, fill, Overwrite::IfChanged);
    report.unwrap();
    assert!(target["directory"].ends_with("/outside"));
    assert_eq!((target["file"].as_str(), target["zz"].as_str(), target.len()), ("file eviler", "file good", 3));
    assert_eq!(problems, ["skipped"]);

    let (target, problems, report) = attack(prepare, fill, Overwrite::Always);
    report.unwrap();
    let wanted =
        [("directory", "directory"), ("directory/canary", "file evil"), ("file", "file eviler"), ("zz", "file good")];
    assert_eq!((target, problems), (expect(wanted), vec![]));

    let (target, problems, report) = attack(prepare, fill, Overwrite::Never);
    assert_eq!(report.unwrap().skipped, 2);
    assert!(target.values().all(|what| what.starts_with("-> ")));
    assert_eq!(problems, ["skipped"]);
}

#[test]
fn deleting_does_not_follow_links() {
    let place = Place::new();
    fs::create_dir_all(place.path("target/stray/deep")).unwrap();
    link(place.path("outside"), place.path("target/link")).unwrap();
    link(place.path("outside"), place.path("target/stray/deep/link")).unwrap();
    fs::hard_link(place.path("outside/canary"), place.path("target/stray/name")).unwrap();
    let mut made = Made::new();
    made.push("kept", file("good"));
    let (report, heard) = place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!((report.unwrap().deleted, heard.problems().len()), (5, 0));
    assert_eq!(place.target(), expect([("kept", "file good")]));
    let outside: Vec<_> = place.outside().into_keys().collect();
    assert_eq!(outside, ["outside", "outside/below", "outside/below/canary", "outside/canary"]);
    assert_eq!(fs::read(place.path("outside/canary")).unwrap(), b"sings");
}

#[test]
fn other_names_of_a_file_in_the_target_keep_content_and_metadata() {
    for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
        let place = Place::new();
        fs::hard_link(place.path("outside/canary"), place.path("target/file")).unwrap();
        // The same size and time: taken for unchanged, were it not for the mode.
        let canary = fs::File::options().write(true).open(place.path("outside/canary")).unwrap();
        canary.set_permissions(fs::Permissions::from_mode(0o644)).unwrap();
        canary.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789)).unwrap();
        let mut made = Made::new();
        made.push("file", Entry { mode: 0o4777, ..file("SINGS") });
        let (report, heard) = place.run(&made, RestoreOptions { overwrite, ..RestoreOptions::default() });
        assert_eq!((report.unwrap().files, heard.problems().len()), (1, 0));
        assert_eq!(place.target(), expect([("file", "file SINGS")]));
        assert_eq!(fs::read(place.path("outside/canary")).unwrap(), b"sings");
        assert_eq!(canary.metadata().unwrap().mode() & 0o7777, 0o644);
    }
}

#[test]
fn hard_links_join_only_what_was_restored() {
    let fill = |place: &Place, made: &mut Made| {
        // The first name is a link that points outside: what gets a second name is the link itself.
        made.push("a", linked(symlink(place.path("outside/canary")), 1));
        made.push("b", linked(file("sings"), 1));
        made.push("c", linked(Entry { size: 99, ..file("its size is wrong") }, 2));
        made.push("d", linked(file("of the same group"), 2));
        made.push("e", linked(directory(), 3));
        made.push("f", linked(directory(), 3));
    };
    let (target, problems, report) = attack(|_| {}, fill, Overwrite::IfChanged);
    report.unwrap();
    assert_eq!(target["a"], target["b"]);
    assert!(!target.contains_key("c") && !target.contains_key("d"));
    assert_eq!((target["e"].as_str(), target["f"].as_str()), ("directory", "directory"));
    assert_eq!(problems, ["damaged", "skipped"]);
}

#[test]
fn keys_out_of_order_end_the_run() {
    for second in ["a", "Z", "a/b/../c"] {
        let fill = |_: &Place, made: &mut Made| {
            made.push("a", directory());
            made.push("a/b", directory());
            made.push("b", file("x"));
            made.push(second, symlink("/"));
        };
        let (_, _, report) = attack(|_| {}, fill, Overwrite::Always);
        assert!(matches!(report, Err(Error::Damaged(_))));
    }
}

#[test]
fn content_that_lies_about_itself_leaves_no_file() {
    let hole = |length| Extent::Hole { length };
    let extents = |list: Vec<Extent>, size| Entry { size, ..entry(Kind::File(Content::Extents(list)), 0o644) };
    let fill = |_: &Place, made: &mut Made| {
        let chunk = made.chunk(b"chunk");
        let Extent::Chunk { id, .. } = chunk else { unreachable!() };
        let longer = Extent::Chunk { id, length: 6 };
        made.push("a", extents(vec![hole(u64::MAX), hole(u64::MAX)], 4));
        made.push("b", extents(vec![hole(1 << 63)], 1 << 63));
        made.push("c", extents(vec![chunk], 4));
        made.push("d", extents(vec![chunk], 6));
        made.push("e", extents(vec![longer], 6));
        made.push("f", extents(vec![chunk, longer], 11));
        made.push("g", Entry { size: 1, ..file("more") });
        let indirect = Content::Indirect { depth: 200, id, length: 5 };
        made.push("h", Entry { size: 9, ..entry(Kind::File(indirect), 0o644) });
        made.push("honest", extents(vec![chunk, hole(3), chunk], 13));
    };
    let (target, problems, report) = attack(|_| {}, fill, Overwrite::IfChanged);
    assert_eq!(report.unwrap().files, 1);
    assert_eq!(target, expect([("honest", "file chunk\0\0\0chunk")]));
    assert_eq!(problems, [["damaged"; 7].as_slice(), &["unwritable"]].concat());
}

#[test]
fn metadata_that_makes_no_sense_is_a_loss_of_its_own() {
    let xattr = |name: &[u8]| vec![(name.to_vec(), b"value".to_vec())];
    let odd = [
        Entry { uid: u32::MAX, ..file("x") },
        Entry { gid: u32::MAX, ..file("x") },
        Entry { mtime: Timestamp { seconds: 0, nanos: 0x3fff_ffff }, ..file("x") },
        Entry { xattrs: xattr(b""), ..file("x") },
        Entry { xattrs: xattr(b"user.a\0b"), ..file("x") },
        Entry { xattrs: xattr(b"nonsense"), ..file("x") },
        Entry { xattrs: vec![(b"user.large".to_vec(), vec![1; 1 << 20])], ..file("x") },
    ];
    for entry in odd {
        let fill = |_: &Place, made: &mut Made| {
            made.push("file", entry.clone());
            made.push("honest", file("good"));
        };
        let (target, problems, report) = attack(|_| {}, fill, Overwrite::IfChanged);
        report.unwrap();
        assert_eq!((target.len(), problems), (2, vec!["metadata"]), "{entry:?}");
    }
    let place = Place::new();
    let mut made = Made::new();
    made.push("set-id", Entry { gid: u32::MAX, mode: 0o6755, ..file("x") });
    place.run(&made, RestoreOptions::default()).0.unwrap();
    let mode = fs::metadata(place.path("target/set-id")).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o755, "the owner is not the recorded one");
}

#[test]
fn device_numbers_are_exact_or_refused() {
    for (major, minor) in [(1 << 12, 3), (1, 1 << 20), (u32::MAX, u32::MAX)] {
        for kind in [Kind::CharDevice(major, minor), Kind::BlockDevice(major, minor)] {
            let fill = |_: &Place, made: &mut Made| {
                made.push("device", entry(kind.clone(), 0o666));
            };
            let (target, problems, report) = attack(|_| {}, fill, Overwrite::IfChanged);
            report.unwrap();
            assert_eq!((target.len(), problems), (0, vec!["unwritable"]));
        }
    }
}

#[test]
fn a_first_name_that_was_swapped_meanwhile_gets_no_second() {
    struct Swapping<'a>(&'a Place, Heard);
    impl Monitor for Swapping<'_> {
        fn phase(&self, phase: Phase) {
            if phase == Phase::Finishing {
                fs::remove_file(self.0.path("target/a/first")).unwrap();
                fs::hard_link(self.0.path("outside/canary"), self.0.path("target/a/first")).unwrap();
                fs::rename(self.0.path("target/c"), self.0.path("target/moved")).unwrap();
                link(self.0.path("outside"), self.0.path("target/c")).unwrap();
            }
        }
        fn problem(&self, problem: Problem) {
            self.1.problem(problem);
        }
    }
    let place = Place::new();
    let mut made = Made::new();
    made.push("a", directory());
    made.push("a/first", linked(file("one"), 1));
    made.push("b", linked(file("one"), 1));
    made.push("c", Entry { mode: 0o777, ..directory() });
    made.push("c/first", linked(file("two"), 2));
    made.push("d", linked(file("two"), 2));
    let options = RestoreOptions { target: place.path("target"), threads: 2, ..RestoreOptions::default() };
    let monitor = Swapping(&place, Heard::default());
    restore_from(&made, &options, &monitor).unwrap();
    let problems = monitor.1.problems().into_iter().map(|(_, subject)| subject).collect::<Vec<_>>();
    assert_eq!(problems, ["/b", "/c", "/d"]);
    assert!(!place.path("target/b").exists() && !place.path("target/d").exists());
    assert_eq!(fs::metadata(place.path("outside")).unwrap().mode() & 0o777, 0o755);
}
