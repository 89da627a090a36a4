//! Entries of the log that the store lost or changed: whoever has seen them puts them back, and nobody goes on in silence.

use std::fs;

use crate::world::World;

/// A repository with four entries, of which a cache has seen all; and the one of two that is held.
fn seen() -> World {
    let world = World::with_repository();
    for number in 0..3 {
        world.write("data/number", &[number; 1000]);
        world.open_ok(["backup", "data"]);
    }
    world
}

fn entry(number: u64) -> String {
    format!("log/{number:020}")
}

#[test]
fn a_lost_entry_is_put_back_by_whoever_writes() {
    for number in [0, 1, 2] {
        for act in [
            &["backup", "data"][..],
            &["forget", "--keep-last", "1"],
            &["prune", "--window", "0"],
            &["key", "rotate"],
            &["hold", "latest", "--label", "x"],
        ] {
            let world = seen();
            let path = world.path("repo").join(entry(number));
            let bytes = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            world.open(["--no-cache", "snapshots"]).expect(if number == 0 { 13 } else { 3 });

            let told = world.open(act.iter().copied()).expect(3);
            assert!(
                told.stderr.contains(&entry(number)) && told.stderr.contains("put back"),
                "{act:?} {}",
                told.stderr
            );
            assert_eq!(fs::read(&path).unwrap(), bytes, "{act:?}");
            world.open_ok(["--no-cache", "verify", "--read-data"]);
            assert!(!world.open(["backup", "data"]).expect(0).stderr.contains("put back"), "told once");
        }
    }
}

#[test]
fn a_changed_entry_is_put_right_by_repair() {
    for number in [0, 1, 2] {
        for is_short in [false, true] {
            let world = seen();
            let path = world.path("repo").join(entry(number));
            let bytes = fs::read(&path).unwrap();
            let mut changed = bytes.clone();
            changed[bytes.len() / 2] ^= 1;
            changed.truncate(if is_short { 20 } else { bytes.len() });
            fs::write(&path, changed).unwrap();
            let fresh = world.open(["--no-cache", "snapshots"]).expect(13);
            assert!(fresh.stderr.contains("seawall repair"), "{}", fresh.stderr);
            let verify = world.open(["verify"]).expect(13);
            assert!(verify.stdout.contains("seawall repair"), "{}", verify.stdout);

            world.open(["repair", "--dry-run"]).expect(13);
            let told = world.open(["repair"]).expect(3);
            assert!(told.stderr.contains(&entry(number)) && told.stderr.contains("put back"), "{}", told.stderr);
            assert_eq!(fs::read(&path).unwrap(), bytes);
            world.open_ok(["--no-cache", "verify", "--read-data"]);
        }
    }
}

#[test]
fn nothing_is_put_back_where_the_log_went_back() {
    let world = seen();
    let (last, lost) = (world.path("repo").join(entry(3)), world.path("repo").join(entry(1)));
    fs::remove_file(&last).unwrap();
    fs::remove_file(&lost).unwrap();
    for act in [&["backup", "data"][..], &["repair"]] {
        world.open(act.iter().copied()).expect(1);
        assert!(!last.exists() && !lost.exists(), "{act:?}");
    }
}

#[test]
fn a_hole_is_no_rollback() {
    let world = seen();
    fs::remove_file(world.path("repo").join(entry(1))).unwrap();
    let told = world.open(["log", "verify"]).expect(13);
    assert!(told.stdout.contains("MISSING") || told.stderr.contains("missing"), "{}\n{}", told.stdout, told.stderr);
    assert!(!format!("{}{}", told.stdout, told.stderr).to_lowercase().contains("rollback"), "{}", told.stdout);
}
