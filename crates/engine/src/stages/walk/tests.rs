//! Tests of the walk, on real directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Weak;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat, unlinkat};

use super::*;
use crate::stages::exclude::ExcludeOptions;
use crate::stages::fixture::{as_nobody, directory, is_root_or_skip, make, skip, walk_one, walk_with};

fn excluding(options: ExcludeOptions) -> Excludes {
    Excludes::new(options).unwrap()
}

#[test]
fn kinds_and_their_numbers() {
    let (_held, root) = directory();
    make(&root, &["directory/", "file"]);
    fs::write(root.join("file"), b"12345").unwrap();
    fs::hard_link(root.join("file"), root.join("second name")).unwrap();
    symlink("somewhere", root.join("link")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let mut expected = vec![
        ("directory", StatKind::Directory),
        ("file", StatKind::File),
        ("link", StatKind::Symlink),
        ("pipe", StatKind::Fifo),
        ("socket", StatKind::Socket),
    ];
    if is_root_or_skip() {
        mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
        mknodat(CWD, root.join("disk"), FileType::BlockDevice, Mode::RUSR, makedev(259, 300)).unwrap();
        expected.extend([("null", StatKind::CharDevice), ("disk", StatKind::BlockDevice)]);
    }
    let walked = walk_one(&root);
    for (name, kind) in expected {
        assert_eq!(walked.at(&root.join(name)).stat.kind, kind, "{name}");
    }
    let (first, second) = (walked.at(&root.join("file")).stat, walked.at(&root.join("second name")).stat);
    assert_eq!((first.size, first.links), (5, 2));
    assert!(first.same_inode(&second) && first.btime.is_some_and(|born| born <= first.ctime));
    let disk = walked.get(&root.join("disk")).map(|found| found.stat.rdev);
    assert!(disk.is_none_or(|rdev| rdev == (259, 300)));
    assert!(walked.problems.is_empty());
}

#[test]
fn names_are_bytes_up_to_255_of_them() {
    let (_held, root) = directory();
    let names: [&[u8]; 5] = [b"\xff\xfe\x80", &[b'n'; 255], b"line\nbreak", b"\x01", "日本".as_bytes()];
    for name in names {
        fs::write(root.join(OsStr::from_bytes(name)), b"").unwrap();
    }
    let walked = walk_one(&root);
    for name in names {
        assert_eq!(walked.at(&root.join(OsStr::from_bytes(name))).name(), name);
    }
}

/// Names in which bytes around the separators `/` and NUL occur, so that a wrong order shows.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(vec![0x01u8, b' ', b'-', b'.', b'0', b'a', 0x7f, 0x80, 0xff]);
    prop::collection::vec(byte, 1..4).prop_filter("a name", |name| name != b"." && name != b"..")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_found_whole_and_in_order(paths in prop::collection::vec(prop::collection::vec(name(), 1..5), 1..30)) {
        let (_held, root) = directory();
        let base = TreeKey::from_path(&root).unwrap();
        let mut expected = BTreeSet::new();
        for path in &paths {
            let mut key = base.clone();
            for (depth, component) in path.iter().enumerate() {
                key = key.child(component);
                let place = key.to_path();
                let made = if depth + 1 < path.len() { fs::create_dir(&place) } else { fs::File::create(&place).map(drop) };
                // Where another path put a file before, this one ends.
                if made.is_err() && !place.is_dir() {
                    break;
                }
                expected.insert(key.clone());
            }
        }
        let walked = walk_one(&root);
        let found: Vec<_> = walked.found.iter().map(|found| &found.key).filter(|key| **key != base && key.is_within(&base)).collect();
        prop_assert_eq!(found, expected.iter().collect::<Vec<_>>());
    }
}

/// Makes `levels` directories in each other, each with a file before and one after the next directory.
fn make_deep(root: &Path, levels: usize, name: &str) {
    let mut current = openat(CWD, root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        for file in ["a", "z"] {
            openat(&current, file, OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
        }
        mkdirat(&current, name, Mode::RWXU).unwrap();
        current = openat(&current, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
}

/// Removes it again, with one open directory at a time.
fn remove_deep(root: &Path, name: &str) {
    let open = |at: &OwnedFd, name: &str| openat(at, name, OFlags::DIRECTORY, Mode::empty());
    let mut current = openat(CWD, root, OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut depth = 0;
    while let Ok(next) = open(&current, name) {
        (current, depth) = (next, depth + 1);
    }
    for _ in 0..depth {
        current = open(&current, "..").unwrap();
        unlinkat(&current, name, AtFlags::REMOVEDIR).unwrap();
        for file in ["a", "z"] {
            unlinkat(&current, file, AtFlags::empty()).unwrap();
        }
    }
}

#[test]
fn three_thousand_levels_with_few_open_directories() {
    const LEVELS: usize = 3000;
    let (_held, root) = directory();
    let name = "directory with a name of some length, so that the path is beyond PATH_MAX soon";
    make_deep(&root, LEVELS, name);
    let options = WalkOptions { sources: vec![root.clone()], ..WalkOptions::default() };
    let (mut last, mut longest, mut files) = (TreeKey::default(), 0, 0);
    let mut open: Vec<Weak<Directory>> = Vec::new();
    let summary = walk(&options, &mut |event| {
        let Event::Found(found) = event else { panic!("{event:?}") };
        assert!(last <= found.key);
        files += u32::from(found.stat.kind == StatKind::File);
        longest = longest.max(found.key.0.len());
        let directory = Arc::downgrade(&found.directory);
        (last, _) = (found.key, drop(found.directory));
        open.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&directory));
        open.push(directory);
        assert!(open.len() <= OPEN_ANCESTORS + 1, "{} directories are open", open.len());
        ControlFlow::Continue(())
    });
    remove_deep(&root, name);
    assert_eq!(files as usize, 2 * LEVELS);
    assert_eq!(summary.unwrap().problems, 0);
    assert!(longest > 200_000);
}

/// The limit is the process's, so the walk runs in a process of its own.
#[test]
fn forty_descriptors_are_enough_for_two_hundred_levels() {
    let (_held, root) = directory();
    make_deep(&root, 200, "d");
    let child = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 40 && exec \"$0\" --exact --ignored stages::walk::tests::in_a_process_with_few_descriptors",
        ])
        .arg(std::env::current_exe().unwrap())
        .current_dir(&root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "a part of another test, which runs it"]
fn in_a_process_with_few_descriptors() {
    if !Path::new("d/d/z").exists() {
        return println!("nothing to do but in the directory that the other test makes");
    }
    let options = WalkOptions { sources: vec![PathBuf::from(".")], ..WalkOptions::default() };
    let mut files = 0;
    let summary = walk(&options, &mut |event| {
        let Event::Found(found) = event else { panic!("{event:?}") };
        files += u32::from(found.stat.kind == StatKind::File);
        ControlFlow::Continue(())
    });
    assert_eq!((summary.unwrap().problems, files), (0, 400));
}

#[test]
fn directories_that_move_away_while_the_walk_is_below() {
    let (_held, root) = directory();
    make(&root, &["aside/", "tree/"]);
    let tree = root.join("tree");
    make_deep(&tree, 150, "d");
    let options = WalkOptions { sources: vec![tree.clone()], ..WalkOptions::default() };
    let at = |levels: usize| (0..levels).fold(tree.clone(), |path, _| path.join("d"));
    let (mut last_files, mut problems) = (Vec::new(), Vec::new());
    let summary = walk(&options, &mut |event| {
        match event {
            Event::Found(found) if found.key == TreeKey::from_path(&at(150)).unwrap() => {
                // Levels 20 and below go elsewhere: still reached upwards. Level 9 is replaced by another directory.
                fs::rename(at(20), root.join("aside/twenty")).unwrap();
                fs::rename(at(9), root.join("aside/nine")).unwrap();
                make(&at(9), &["z"]);
            }
            Event::Found(found) if found.name() == b"z" => last_files.push(found.key.depth()),
            Event::Found(_) => {}
            Event::Problem(problem) => problems.push(problem),
        }
        ControlFlow::Continue(())
    });
    let base = TreeKey::from_path(&tree).unwrap().depth();
    let levels: BTreeSet<usize> = last_files.iter().map(|depth| depth - base - 1).collect();
    // Levels 9 to 19 are lost (they are neither above level 20 nor where they were), each with a problem.
    let expected: BTreeSet<usize> = (0..9).chain(20..150).collect();
    assert_eq!(levels, expected);
    assert_eq!(problems.iter().filter(|problem| problem.code == "vanished").count(), 11);
    assert_eq!(summary.unwrap().problems, 11);
}

#[test]
fn sources_merge_and_their_parents_lead_to_them() {
    let (_held, root) = directory();
    make(&root, &["a/b/c/file", "a/b/other", "a/beside", "apart/file", "real/inside", "unseen/file"]);
    symlink(root.join("real"), root.join("link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    symlink("ring", root.join("ring")).unwrap();
    let sources = ["a/b/c", "a/b", "a/./b/", "apart/file", "link", "dangling", "missing", "ring"];
    let sources = sources.iter().map(|source| root.join(source)).collect();
    let walked = walk_with(&WalkOptions { sources, ..WalkOptions::default() });
    let expected =
        ["a/b", "a/b/c", "a/b/c/file", "a/b/other", "apart/file", "dangling", "link", "real", "real/inside", "ring"];
    assert_eq!(walked.below(&root), expected);
    assert_eq!(walked.found[0].key, TreeKey::default());
    assert_eq!(walked.found[0].name(), b".");
    for parent in ["", "a", "apart"] {
        let found = walked.at(&root.join(parent).components().collect::<PathBuf>());
        assert!(found.parent_only && found.stat.kind == StatKind::Directory, "{parent}");
    }
    assert!(walked.get(&root.join("a/beside")).is_none() && walked.get(&root.join("unseen")).is_none());
    assert_eq!(walked.codes(), ["dangling", "missing", "ring"].map(|name| (name, "unreadable")));
    let resolved: Vec<_> = walked.summary.sources.iter().map(|key| key.name().to_vec()).collect();
    assert_eq!(resolved, [&b"b"[..], b"c", b"file", b"dangling", b"link", b"real", b"ring"]);
}

#[test]
fn no_source_at_all_is_an_error() {
    let (_held, root) = directory();
    let run = |sources| walk(&WalkOptions { sources, ..WalkOptions::default() }, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(run(Vec::new()), Err(Error::Usage(_))));
    assert!(matches!(run(vec![root.join("missing")]), Err(Error::File { .. })));
}

#[test]
fn excludes_prune_but_never_a_named_source() {
    let (_held, root) = directory();
    let files = ["cache/deep/file", "cache/other", "keep.o/file", "src/a.o", "src/main", "src/cache", "big"];
    make(&root, &files);
    fs::write(root.join("big"), vec![0; 1001]).unwrap();
    let excludes = excluding(ExcludeOptions {
        patterns: ["cache/", "*.o", "!keep.o"].map(String::from).to_vec(),
        larger_than: Some(1000),
        ..ExcludeOptions::default()
    });
    let walk_sources = |sources: &[&str]| {
        let sources = sources.iter().map(|source| root.join(source)).collect();
        walk_with(&WalkOptions { sources, excludes: excludes.clone(), one_file_system: false })
    };
    let walked = walk_sources(&[""]);
    assert_eq!(walked.below(&root), ["keep.o", "keep.o/file", "src", "src/cache", "src/main"]);
    assert_eq!(walked.summary.excluded, 3);

    let walked = walk_sources(&["", "cache/deep", "big", "src/a.o"]);
    let expected = ["big", "cache/deep", "cache/deep/file", "keep.o", "keep.o/file", "src", "src/a.o", "src/cache"];
    assert_eq!(walked.below(&root)[..8], expected);
    assert!(walked.at(&root.join("cache")).parent_only);
    assert!(walked.get(&root.join("cache/other")).is_none());
}

#[test]
fn markers_leave_the_directory_and_the_marker() {
    let (_held, root) = directory();
    let signed = "Signature: 8a477f597d28d172789f06886806bc55\n# made by a test\n";
    let files = ["tagged/file", "tagged/sub/file", "unsigned/file", "plain/file", "plain/.nobackup", "short/file"];
    make(&root, &files);
    for (name, content) in [
        ("tagged/CACHEDIR.TAG", signed),
        ("unsigned/CACHEDIR.TAG", "Signature: something else"),
        ("short/CACHEDIR.TAG", "Signature"),
        ("CACHEDIR.TAG", signed),
        ("unsigned/.marker", "no-backup of this"),
    ] {
        fs::write(root.join(name), content).unwrap();
    }
    let excludes = excluding(ExcludeOptions {
        cachedir_tag: true,
        if_present: vec![".nobackup".into(), ".marker:no-back".into()],
        ..ExcludeOptions::default()
    });
    let walked = walk_with(&WalkOptions { sources: vec![root.clone()], excludes, one_file_system: false });
    let expected = [
        "CACHEDIR.TAG",
        "plain",
        "plain/.nobackup",
        "short",
        "short/CACHEDIR.TAG",
        "short/file",
        "tagged",
        "tagged/CACHEDIR.TAG",
        "unsigned",
        "unsigned/.marker",
    ];
    assert_eq!(walked.below(&root), expected);
    assert_eq!(walked.summary.excluded, 5);
}

/// A file system of its own, unmounted when dropped.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn at(place: &'a Path) -> Option<Self> {
        let mount = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(place).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(place))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}

#[test]
fn one_file_system_keeps_the_mount_point_alone() {
    let (_held, root) = directory();
    make(&root, &["mounted/", "file"]);
    let place = root.join("mounted");
    let Some(_mounted) = Mounted::at(&place) else { return skip("needs the right to mount a tmpfs") };
    make(&place, &["deep/file", "beside"]);
    let walk_sources = |sources: &[&str], one_file_system| {
        let sources = sources.iter().map(|source| root.join(source)).collect();
        walk_with(&WalkOptions { sources, one_file_system, ..WalkOptions::default() })
    };
    let everything = ["file", "mounted", "mounted/beside", "mounted/deep", "mounted/deep/file"];
    assert_eq!(walk_sources(&[""], false).below(&root), everything);
    let walked = walk_sources(&[""], true);
    assert_eq!(walked.below(&root), ["file", "mounted"]);
    assert_eq!(walked.summary.other_file_systems, 1);
    assert!(!walked.at(&place).parent_only);
    assert_eq!(walk_sources(&["", "mounted"], true).below(&root), everything);
    assert_eq!(
        walk_sources(&["", "mounted/deep"], true).below(&root),
        ["file", "mounted", "mounted/deep", "mounted/deep/file"]
    );
}

#[test]
fn an_unreadable_directory_is_a_problem_and_the_walk_goes_on() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["closed/file", "listed/file", "open/file", "passage/source/file", "passage/hidden"]);
    for (name, mode) in [("", 0o755), ("closed", 0o000), ("listed", 0o744), ("passage", 0o711)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let walked = as_nobody(|| walk_one(&root));
    assert_eq!(walked.below(&root), ["closed", "listed", "open", "open/file", "passage"]);
    assert_eq!(walked.codes(), [("closed", "unreadable"), ("file", "unreadable"), ("passage", "unreadable")]);

    // What may be passed but not listed still leads to a source below it.
    let walked = as_nobody(|| walk_one(&root.join("passage/source")));
    assert_eq!(walked.below(&root), ["passage/source", "passage/source/file"]);
    assert!(walked.problems.is_empty());
    let sources = vec![root.join("passage"), root.join("passage/source")];
    let walked = as_nobody(|| walk_with(&WalkOptions { sources, ..WalkOptions::default() }));
    assert_eq!(walked.below(&root), ["passage", "passage/source", "passage/source/file"]);
    assert_eq!(walked.codes(), [("passage", "unreadable")]);
}

/// Walks `root` and runs `act` when the name `when` is found.
fn walk_and(root: &Path, when: &str, act: impl Fn()) -> (Vec<String>, Vec<Problem>) {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    let options = WalkOptions { sources: vec![root.to_path_buf()], ..WalkOptions::default() };
    let outcome = walk(&options, &mut |event| {
        match event {
            Event::Found(name) => {
                if name.name() == when.as_bytes() {
                    act();
                }
                found.push(String::from_utf8_lossy(name.name()).into_owned());
            }
            Event::Problem(problem) => problems.push(problem),
        }
        ControlFlow::Continue(())
    });
    outcome.unwrap();
    (found, problems)
}

#[test]
fn what_changes_under_the_walk_is_reported_and_never_followed() {
    let (_held, root) = directory();
    let tree = root.join("tree");
    make(&root, &["tree/1", "tree/2", "tree/directory/inside", "tree/last", "outside/secret"]);
    let (found, problems) = walk_and(&tree, "1", || fs::remove_file(tree.join("2")).unwrap());
    assert!(!found.contains(&"2".to_owned()) && found.contains(&"inside".to_owned()));
    assert_eq!((problems.len(), problems[0].code), (1, "vanished"));

    let (found, problems) = walk_and(&tree, "directory", || {
        fs::rename(tree.join("directory"), root.join("moved")).unwrap();
        symlink(root.join("outside"), tree.join("directory")).unwrap();
    });
    assert!(!found.contains(&"secret".to_owned()) && found.contains(&"last".to_owned()));
    assert_eq!((problems.len(), problems[0].code), (1, "vanished"));
}

#[test]
fn a_source_that_goes_away_is_reported() {
    for (keep_whole, replaced) in [(false, false), (false, true), (true, true)] {
        let (_held, root) = directory();
        make(&root, &["1", "way/source/file"]);
        let first = if keep_whole { root.clone() } else { root.join("1") };
        let options = WalkOptions { sources: vec![first, root.join("way/source")], ..WalkOptions::default() };
        let mut said = Vec::new();
        let outcome = walk(&options, &mut |event| {
            match event {
                Event::Found(found) if found.name() == b"1" => {
                    fs::rename(root.join("way"), root.join("aside")).unwrap();
                    if replaced {
                        fs::write(root.join("way"), b"").unwrap();
                    }
                }
                Event::Found(found) => {
                    assert!(found.name() != b"source" && !(found.parent_only && found.name() == b"way"))
                }
                Event::Problem(problem) => said.push(problem.code),
            }
            ControlFlow::Continue(())
        });
        assert_eq!((outcome.unwrap().problems, said), (1, vec!["vanished"]), "{keep_whole} {replaced}");
    }
}

#[test]
fn the_receiver_may_stop_it() {
    let (_held, root) = directory();
    make(&root, &["1", "2", "3"]);
    let mut seen = 0;
    let options = WalkOptions { sources: vec![root], ..WalkOptions::default() };
    let summary = walk(&options, &mut |_| {
        seen += 1;
        if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(summary.unwrap().stopped);
    assert_eq!(seen, 2);
}

#[test]
fn a_listing_is_sorted_and_finds_its_names() {
    let (_held, root) = directory();
    let names: Vec<String> = (0..5000).map(|number| format!("{:x}", number * 7919 % 5003)).collect();
    make(&root, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let parent = Directory::root().unwrap();
    let path = CString::new(root.as_os_str().as_bytes()).unwrap();
    let opened = Directory::open_at(&parent, &path, Purpose::List).unwrap();
    // A small buffer, so that the directory is read in many calls.
    let (mut listing, error) = opened.list(&mut Vec::with_capacity(1 << 10));
    let mut expected: Vec<&str> = names.iter().map(String::as_str).collect();
    expected.sort_unstable();
    let listed: Vec<_> = (0..listing.len()).map(|place| listing.get(place).name.to_str().unwrap()).collect();
    assert_eq!((listed, error), (expected, None));
    assert!(listing.contains(c"a") && !listing.contains(c"absent"));
    listing.add_missing([c"a", c"absent"].into_iter()).unwrap();
    assert_eq!(listing.len(), 5001);
    assert!(listing.contains(c"absent"));
    listing.retain(|name| name == b"absent");
    assert_eq!(listing.len(), 1);
}

#[test]
fn the_process_file_system_does_not_break_it() {
    // /proc has directories that vanish and files that are not what they say.
    assert!(walk_one(Path::new("/proc/self/")).found.len() > 20);
}
