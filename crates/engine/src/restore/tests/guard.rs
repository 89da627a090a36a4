//! What a restore must leave: its own repository and keys, what other names of a file have, what stands in the way of
//! something that can't be restored. And what it must not leave: its own unfinished files.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink as link;

use rustix::fs::IFlags;

use super::*;
use crate::restore::{Guarded, Overwrite};

fn guarded(place: &Place) -> Vec<Guarded> {
    let at = |what, path: &str| Guarded { what, path: place.path(path) };
    vec![
        at("the repository", "target/repo"),
        // A name that leads there by a link, and something that does not exist.
        at("the key file", "way/key"),
        at("the recovery kit", "target/none"),
    ]
}

/// A target with a repository, a key, and a name outside that leads to the key.
fn prepare() -> Place {
    let place = Place::new();
    for path in ["repo/pack/p", "keys/deep/key", "keys/other", "zz/junk"] {
        let path = place.path("target").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, path_text()).unwrap();
    }
    link("target/keys/deep", place.path("way")).unwrap();
    place
}

fn path_text() -> &'static str {
    "as it was"
}

/// What of the target has to stay.
fn kept(place: &Place) -> BTreeMap<String, String> {
    let mut seen = look(&place.path("target"));
    seen.retain(|path, _| path.starts_with("repo") || path.starts_with("keys"));
    seen
}

fn texts(heard: &Heard) -> Vec<(String, String)> {
    let problems = heard.problems.lock().unwrap();
    let mut list: Vec<_> = problems.iter().map(|it| (it.subject.clone(), it.what.clone())).collect();
    list.sort();
    list
}

#[test]
fn deleting_leaves_what_the_restore_uses() {
    let place = prepare();
    let before = kept(&place);
    let mut made = Made::new();
    made.push("b", file("good"));
    for (dry_run, overwrite) in
        [(true, Overwrite::IfChanged), (false, Overwrite::IfChanged), (false, Overwrite::Always)]
    {
        let options =
            RestoreOptions { delete: true, dry_run, overwrite, guarded: guarded(&place), ..RestoreOptions::default() };
        let (report, heard) = place.run(&made, options);
        report.unwrap();
        assert_eq!(kept(&place), before);
        let key = place.path("way/key");
        let wanted = [
            ("/keys", format!("not deleted: it holds the key file {}, which this restore uses", key.display())),
            ("/repo", format!("not deleted: it is the repository {}, which", place.path("target/repo").display())),
        ];
        let told = texts(&heard);
        assert_eq!(told.len(), 2, "{told:?}");
        for ((subject, what), (path, begin)) in told.iter().zip(&wanted) {
            assert!(subject == path && what.starts_with(begin), "{told:?}");
        }
    }
    assert!(place.path("target/b").exists() && !place.path("target/zz").exists());
    // Without a guard all of it goes.
    place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() }).0.unwrap();
    assert_eq!(place.target(), expect([("b", "file good")]));
}

#[test]
fn nothing_takes_the_place_of_what_the_restore_uses() {
    let fill = |list: &[(&str, Entry)]| {
        let mut made = Made::new();
        for (path, entry) in list {
            made.push(path, entry.clone());
        }
        made
    };
    let deeper = |last: Entry| [("keys", directory()), ("keys/deep", directory()), ("keys/deep/key", last)];
    let first = |entry: Entry| linked(entry, 1);
    let trees = [
        fill(&[("keys", file("x")), ("repo", file("x"))]),
        fill(&[("keys", symlink("/")), ("repo", entry(Kind::Fifo, 0o600))]),
        fill(&[("a", first(file("x"))), ("keys", first(file("x"))), ("repo", first(file("x")))]),
        // A directory of the same name: nothing is restored into it, nothing in it deleted.
        fill(&[("repo", directory()), ("repo/pack", directory()), ("repo/pack/new", file("x"))]),
        fill(&deeper(file("another key"))),
        fill(&deeper(directory())),
        fill(&deeper(symlink("/"))),
        fill(&[[("a", first(file("x")))].as_slice(), &deeper(first(file("x")))].concat()),
    ];
    for (number, made) in trees.iter().enumerate() {
        let place = prepare();
        let mut before = kept(&place);
        let overwrite = Overwrite::Always;
        let options = RestoreOptions { delete: true, overwrite, guarded: guarded(&place), ..RestoreOptions::default() };
        let (report, heard) = place.run(made, options);
        report.unwrap();
        let mut after = kept(&place);
        // Directories above the key may be restored, and what lies beside it may go.
        for seen in [&mut before, &mut after] {
            seen.retain(|path, _| path.starts_with("repo") || path == "keys/deep/key");
        }
        assert_eq!(after, before, "tree {number}: {:?}", texts(&heard));
        assert!(heard.problems().iter().all(|(code, _)| *code == "skipped"), "tree {number}: {:?}", texts(&heard));
        assert!(!heard.problems().is_empty() && !place.path("target/zz").exists(), "tree {number}");
        let left = place.target();
        assert!(!left.keys().any(|path| path.contains(".seawall")), "{left:?}");
    }
}

#[test]
fn a_target_inside_of_what_the_restore_uses_is_refused() {
    let place = prepare();
    link("target/repo/pack", place.path("into")).unwrap();
    let before = look(place.0.path());
    for target in ["target/repo", "target/repo/pack/new/deep", "into/new", "into"] {
        let options =
            RestoreOptions { target: place.path(target), guarded: guarded(&place), ..RestoreOptions::default() };
        let refused = restore_from(&Made::new(), &options, &Heard::default());
        assert!(matches!(&refused, Err(Error::Usage(what)) if what.contains("the repository")), "{refused:?}");
        assert_eq!(look(place.0.path()), before, "{target}");
    }
}

#[test]
fn a_directory_goes_only_for_what_can_be_read() {
    let place = Place::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        fs::create_dir_all(place.path("target").join(name)).unwrap();
        fs::write(place.path("target").join(name).join("only copy"), "x").unwrap();
    }
    let mut made = Made::new();
    let Extent::Chunk { mut id, length } = made.chunk(b"lost") else { unreachable!() };
    id.0[0] ^= 1;
    let lost = Entry { size: 4, ..entry(Kind::File(Content::Extents(vec![Extent::Chunk { id, length }])), 0o644) };
    made.push("a", lost.clone());
    made.push("b", entry(Kind::CharDevice(1 << 12, 3), 0o666));
    made.push("c", linked(lost, 1));
    made.push("d", linked(file("its other name is lost"), 1));
    made.push("e", file("good"));
    made.push("f", symlink("e"));
    let always = RestoreOptions { overwrite: Overwrite::Always, ..RestoreOptions::default() };
    let before = place.target();
    let (planned, _) = place.run(&made, RestoreOptions { dry_run: true, ..always.clone() });
    assert_eq!((planned.unwrap().problems, place.target()), (0, before));
    let (report, heard) = place.run(&made, always);
    report.unwrap();
    let mut wanted = expect([("e", "file good"), ("f", "-> e")]);
    for name in &names[..4] {
        wanted
            .extend([((*name).to_owned(), "directory".to_owned()), (format!("{name}/only copy"), "file x".to_owned())]);
    }
    assert_eq!(place.target(), wanted, "{:?}", heard.problems());
    assert_eq!(heard.problems().len(), 4, "{:?}", heard.problems());
}

#[test]
fn what_cannot_go_whole_is_not_begun() {
    let place = Place::new();
    fs::create_dir_all(place.path("target/a/precious")).unwrap();
    fs::write(place.path("target/a/beside"), "x").unwrap();
    let before = place.target();
    let mut made = Made::new();
    made.push("a", file("good"));
    let options =
        RestoreOptions { overwrite: Overwrite::Always, exclude: vec!["precious".into()], ..RestoreOptions::default() };
    let (report, heard) = place.run(&made, options);
    report.unwrap();
    assert_eq!((place.target(), heard.problems()), (before, vec![("skipped", "/a".to_owned())]));
}

fn flags(path: &Path) -> IFlags {
    rustix::fs::ioctl_getflags(fs::File::open(path).unwrap().as_fd()).unwrap() & (IFlags::IMMUTABLE | IFlags::NODUMP)
}

fn set_flags(path: &Path, flags: IFlags) -> bool {
    let file = fs::File::open(path).unwrap();
    let present = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty());
    let mask = (IFlags::IMMUTABLE | IFlags::NODUMP).bits();
    rustix::fs::ioctl_setflags(&file, IFlags::from_bits_retain(present.bits() & !mask) | flags).is_ok()
}

#[test]
fn other_names_of_a_file_in_the_target_keep_their_flags() {
    for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
        for (theirs, ours) in [
            (IFlags::IMMUTABLE, IFlags::empty()),
            (IFlags::empty(), IFlags::NODUMP),
            (IFlags::IMMUTABLE, IFlags::IMMUTABLE),
            (IFlags::IMMUTABLE | IFlags::NODUMP, IFlags::IMMUTABLE),
        ] {
            let place = Place::new();
            let outside = place.path("outside/canary");
            fs::hard_link(&outside, place.path("target/file")).unwrap();
            fs::hard_link(&outside, place.path("target/zz")).unwrap();
            let canary = fs::File::options().write(true).open(&outside).unwrap();
            std::os::unix::fs::PermissionsExt::set_mode(&mut canary.metadata().unwrap().permissions(), 0o644);
            canary.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
            canary.set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_500_000_000, 123_456_789)).unwrap();
            if !set_flags(&outside, theirs) {
                eprintln!("skipped: this file system or user can't set the immutable flag");
                return;
            }
            let mut made = Made::new();
            made.push("file", Entry { flags: ours.bits(), ..file("sings") });
            // The stray zz is deleted: a name of the same locked file goes.
            let (report, heard) =
                place.run(&made, RestoreOptions { overwrite, delete: true, ..RestoreOptions::default() });
            let (at_home, restored) = (flags(&outside), flags(&place.path("target/file")));
            let names = fs::read_dir(place.path("target")).unwrap().count();
            set_flags(&outside, IFlags::empty());
            set_flags(&place.path("target/file"), IFlags::empty());
            let report = report.unwrap();
            assert_eq!((at_home, restored, names), (theirs, ours, 1), "{overwrite:?} {:?}", texts(&heard));
            let same = overwrite == Overwrite::IfChanged && theirs == ours;
            assert_eq!((report.files, report.unchanged, report.deleted), (u64::from(!same), u64::from(same), 1));
            assert_eq!(fs::read(&outside).unwrap(), b"sings");
        }
    }
}

#[test]
fn what_killed_restores_left_goes_where_the_next_one_comes_by() {
    let place = Place::new();
    fs::create_dir_all(place.path("target/a/elsewhere")).unwrap();
    // No process has a number of ten digits.
    let left =
        [".seawall-2000000000-0", "a/.seawall-2000000000-00000000000000aa-1", "a/elsewhere/.seawall-2000000000-2"];
    for name in left.iter().chain(&["a/.seawall-mine", "a/.seawall-2000000000-7"]) {
        fs::write(place.path("target").join(name), "half").unwrap();
    }
    link("x", place.path("target/a/.seawall-2000000000-5")).unwrap();
    fs::create_dir(place.path("target/a/.seawall-2000000000-6")).unwrap();
    let mut made = Made::new();
    made.push("a", directory());
    made.push("a/file", file("good"));
    let before = place.target();
    let options = RestoreOptions { exclude: vec![".seawall-2000000000-7".into()], ..RestoreOptions::default() };
    place.run(&made, RestoreOptions { dry_run: true, ..options.clone() }).0.unwrap();
    assert_eq!(place.target(), before);
    let (report, heard) = place.run(&made, options);
    report.unwrap();
    let wanted = [
        ("a", "directory"),
        ("a/.seawall-2000000000-6", "directory"),
        ("a/.seawall-2000000000-7", "file half"),
        ("a/.seawall-mine", "file half"),
        ("a/elsewhere", "directory"),
        ("a/elsewhere/.seawall-2000000000-2", "file half"),
        ("a/file", "file good"),
    ];
    assert_eq!(place.target(), expect(wanted));
    assert_eq!((heard.problems().len(), heard.notes.lock().unwrap().len()), (0, 2));
}
