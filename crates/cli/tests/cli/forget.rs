//! Forgetting by name and by rules, and holds.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use seawall_engine::clock::Timestamp;

use crate::world::World;

/// Ids of the live snapshots, oldest first.
fn ids(world: &World) -> Vec<String> {
    let lines = world.open(["--json", "snapshots"]).expect(0).json();
    let snapshots = lines.iter().filter(|line| line["type"] == "snapshot");
    snapshots.map(|line| line["id"].as_str().unwrap().to_owned()).collect()
}

/// A repository with `count` snapshots, whose log entries the store dates one day apart; the newest is of today.
fn days(count: u64) -> World {
    let world = World::with_repository();
    for _ in 0..count {
        world.open_ok(["backup", "data"]);
    }
    let log = world.path("repo/log");
    let mut entries: Vec<_> = std::fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    assert_eq!(entries.len() as u64, count + 1);
    for (age, entry) in entries.iter().skip(1).rev().enumerate() {
        set_age(entry, age as u64);
    }
    world
}

fn today() -> String {
    let days = Timestamp::now().seconds / 86_400;
    let date = Command::new("date").args(["-u", "+%Y-%m-%d", "-d", &format!("@{}", days * 86_400)]).output().unwrap();
    String::from_utf8(date.stdout).unwrap().trim().to_owned()
}

fn set_age(path: &Path, days: u64) {
    let now = u64::try_from(Timestamp::now().seconds).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(now - days * 86_400);
    let file = std::fs::File::options().append(true).open(path).unwrap();
    file.set_modified(time).unwrap();
}

#[test]
fn rules_go_by_the_time_of_the_store_and_say_why() {
    let world = days(5);
    let all = ids(&world);
    let arguments = ["forget", "--keep-daily", "3"];
    let shown = world.open_ok(arguments.into_iter().chain(["--dry-run"]));
    assert_eq!(ids(&world), all, "a dry run changes nothing");
    let line =
        |id: &str| shown.lines().find(|line| line.contains(&id[..8])).unwrap_or_else(|| panic!("{id} in {shown}"));
    // The store's times are days apart, the claims are all of today: those that run ahead of the store count by
    // themselves, and make nothing expire.
    for id in &all[..4] {
        assert!(line(id).starts_with("keep") && line(id).contains("doubtful time"), "{shown}");
    }
    assert!(line(&all[4]).starts_with("keep") && line(&all[4]).ends_with(&format!("daily {}", today())), "{shown}");
    assert!(world.open_ok(arguments).contains("0 snapshots forgotten, 5 kept"));
}

#[test]
fn what_no_rule_keeps_is_forgotten() {
    let world = days(1);
    (0..4).for_each(|_| drop(world.open_ok(["backup", "data"])));
    let all = ids(&world);
    let shown = world.open_ok(["forget", "--keep-last", "2", "--keep-daily", "1"]);
    assert!(shown.contains("3 snapshots forgotten, 2 kept"), "{shown}");
    assert_eq!(ids(&world), all[3..]);
}

#[test]
fn names_and_holds() {
    let world = days(3);
    let all = ids(&world);
    world.open_ok(["hold", &all[0][..10], "--label", "case 7"]);
    for arguments in [&["forget", &all[0]][..], &["forget", "-n", &all[0]], &["forget", "--dry-run", &all[1], &all[0]]]
    {
        let refused = world.open(arguments.iter().copied()).expect(1);
        assert!(refused.stderr.contains("case 7") && refused.stderr.contains("hold --release"), "{}", refused.stderr);
        assert_eq!(refused.stdout, "");
    }
    assert!(world.open_ok(["hold", "--list"]).contains("case 7"));
    let shown = world.open_ok(["forget", "--keep-last", "1"]);
    assert!(shown.lines().any(|line| line.starts_with("keep") && line.contains("hold")), "{shown}");
    assert!(ids(&world).contains(&all[0]) && ids(&world).contains(&all[2]));
    world.open_ok(["hold", "--release", &all[0], "--label", "case 7"]);
    world.open(["hold", "--release", &all[0], "--label", "case 7"]).expect(1);
    world.open_ok(["forget", &all[0]]);
    assert!(!ids(&world).contains(&all[0]));
    world.open(["forget", &all[0]]).expect(1);
    world.open(["forget"]).expect(2);
    world.open(["forget", &all[2], "--keep-last", "1"]).expect(2);
}
