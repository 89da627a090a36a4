//! What a restore must never take, and where it must never go: its own repository and keys, and through links that somebody put
//! in the place of what was backed up.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::world::World;

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// All paths below a directory, sorted.
fn below(top: &Path) -> Vec<std::path::PathBuf> {
    let (mut seen, mut waiting) = (Vec::new(), vec![top.to_owned()]);
    while let Some(path) = waiting.pop() {
        if std::fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen.push(path);
    }
    seen.sort();
    seen
}

#[test]
fn a_restore_does_not_delete_the_repository_that_it_reads() {
    let world = World::new();
    world.write("srv/data/file", b"content");
    world.write("srv/stray/junk", b"junk");
    world.ok(["init", "-r", "srv/repo", "--key-file", "srv/keys/own.key"]);
    let open = ["-r", "srv/repo", "--key-file", "srv/keys/own.key", "--cache-dir", "srv/cache"];
    let run = |arguments: &[&str]| world.run(open.iter().chain(arguments));
    run(&["backup", "srv/data"]).expect(0);
    let place = format!("latest:{}", world.path("srv/data").display());
    let stay = || ["srv/repo", "srv/keys", "srv/cache"].map(|name| below(&world.path(name)));
    let before = stay();
    let restore = ["restore", &place, "--target", "srv", "--delete", "--yes"];
    for more in [&["--dry-run"][..], &["--delete-excluded"], &["--overwrite", "always"]] {
        let told = run(&[&restore, more].concat()).expect(3);
        assert_eq!(stay(), before, "{more:?}");
        let repository = format!("it is the repository {}", world.path("srv/repo").display());
        for why in [repository.as_str(), "it holds the key file srv/keys/own.key", "it is the cache srv/cache"] {
            assert!(told.stderr.contains(&format!("not deleted: {why}")), "{}", told.stderr);
        }
    }
    assert_eq!(read(world.path("srv/file")), "content");
    assert!(!world.path("srv/stray").exists());
    run(&["verify", "--read-data"]).expect(0);
    // Nor is anything restored into it.
    let before = stay();
    let inside = run(&["restore", &place, "--target", "srv/repo/pack/new"]).expect(2);
    assert!(inside.stderr.contains(&world.path("srv/repo").display().to_string()), "{}", inside.stderr);
    assert_eq!(stay(), before);
}

#[test]
fn a_restore_of_the_home_keeps_what_protect_made_there() {
    let world = World::new();
    world.write("home/letter", b"dear\n");
    world.ok(["protect", "home"]);
    let home = world.path("home");
    world.write("home/stray", b"x");
    let place = format!("latest:{}", home.display());
    let stay = || [".local", ".config"].map(|name| below(&home.join(name)));
    let before = stay();
    let restore = ["restore", &place, "--in-place", "--delete", "--yes"];
    let refused = world.run(restore).expect(1);
    assert!(refused.stderr.contains("--delete-excluded"), "{}", refused.stderr);
    for more in [&["--dry-run"][..], &[], &["--overwrite", "always"]] {
        let told = world.run(restore.iter().chain(&["--delete-excluded"]).chain(more)).expect(3);
        assert_eq!(stay(), before, "{}", told.stderr);
        assert!(told.stderr.contains("not deleted: it is the repository"), "{}", told.stderr);
        assert!(home.join(".cache/seawall").exists());
    }
    assert!(!home.join("stray").exists());
    world.ok(["verify", "--read-data"]);
}

#[test]
fn a_restore_in_place_follows_no_link() {
    let world = World::with_repository();
    for name in ["home/mallory/project/passwd", "home/mallory/project/deep/passwd"] {
        world.write(name, b"mine");
    }
    world.open_ok(["backup", "home/mallory"]);
    for (name, content) in [("passwd", "root"), ("shadow", "secret"), ("deep/passwd", "root")] {
        world.write(&format!("etc/{name}"), content.as_bytes());
    }
    let project = world.path("home/mallory/project");
    std::fs::remove_dir_all(&project).unwrap();
    // What is missing is made.
    let deep = format!("latest:{}", project.join("deep/passwd").display());
    world.open_ok(["restore", &deep, "--in-place", "--dry-run"]);
    assert!(!project.exists());
    world.open_ok(["restore", &deep, "--in-place"]);
    assert_eq!(read(project.join("deep/passwd")), "mine");
    std::fs::remove_dir_all(&project).unwrap();
    symlink("../../etc", &project).unwrap();
    let state = || {
        let paths = below(&world.path("etc"));
        let look = |path: &std::path::PathBuf| {
            let at = std::fs::symlink_metadata(path).unwrap();
            (path.clone(), at.permissions(), at.modified().unwrap())
        };
        paths.iter().map(look).collect::<Vec<_>>()
    };
    let before = state();
    for name in ["project/passwd", "project", "project/deep", "project/deep/passwd"] {
        let place = format!("latest:{}", world.path("home/mallory").join(name).display());
        for more in [&[][..], &["--delete", "--yes"], &["--dry-run"], &["--overwrite", "always"]] {
            let arguments = ["restore", &place, "--in-place"];
            let refused = world.open(arguments.iter().chain(more).copied()).expect(2);
            assert_eq!(state(), before, "{name} {more:?}");
            let link = format!("{}: a symbolic link", project.display());
            assert!(refused.stderr.contains(&link) && refused.stderr.contains("--target"), "{}", refused.stderr);
        }
    }
    // A link in a path that the user wrote is his own business.
    let place = format!("latest:{}", project.display());
    world.open_ok(["restore", &place, "--target", "home/mallory/project"]);
    assert_eq!((read(world.path("etc/passwd")), read(world.path("etc/shadow"))), ("mine".into(), "secret".into()));
}
