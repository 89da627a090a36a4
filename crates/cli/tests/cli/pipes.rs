//! A reader of standard output that goes away: the work is done all the same, and the exit code says how.

use std::process::Stdio;

use crate::checkpoints::{repository, write_checkpoint};
use crate::world::{Ended, World, ended};

/// Runs it with a standard output that nobody reads, from the first byte on.
fn unheard<'a>(world: &World, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let fixed = ["-r", "repo", "--key-file", "seawall.key"];
    let mut command = world.command(fixed.into_iter().chain(arguments));
    ended(command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap())
}

/// Changes a byte in the middle of each pack.
fn damage(world: &World) {
    for session in std::fs::read_dir(world.path("repo/pack")).unwrap() {
        for pack in std::fs::read_dir(session.unwrap().path()).unwrap() {
            let path = pack.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn damage_is_told_by_the_exit_code_alone() {
    let world = World::with_repository();
    let mut random = crate::yard::Random(0x5ea);
    let noise: Vec<u8> = (0..200_000).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    world.write("data/noise", &noise);
    world.open_ok(["backup", "data", "--parity", "0"]);
    for arguments in [&["verify", "--read-data"][..], &["verify", "--read-data", "--json"], &["snapshots"]] {
        unheard(&world, arguments.iter().copied()).expect(0);
    }
    // A listing ends well: its reader has what he wanted.
    unheard(&world, ["ls", "-R", "latest"]).expect(0);
    unheard(&world, ["ls", "ffffffff"]).expect(1);
    damage(&world);
    for arguments in [&["verify", "--read-data"][..], &["verify", "--read-data", "--json"]] {
        unheard(&world, arguments.iter().copied()).expect(13);
    }
    for (target, more) in [("out", None), ("out-json", Some("--json"))] {
        unheard(&world, ["restore", "latest", "--target", target].into_iter().chain(more)).expect(13);
    }
}

#[test]
fn what_was_begun_is_finished() {
    let world = repository();
    for step in 1..=4 {
        write_checkpoint(&world, 1000 * step);
    }
    unheard(&world, ["backup", "--checkpoints", "runs", "--settle", "0s"]).expect(0);
    let count = |world: &World| world.open_ok(["snapshots", "--json"]).lines().count() - 1;
    assert_eq!(count(&world), 4);

    // More is printed beforehand than a pipe or a buffer takes.
    let world = repository();
    let folder = format!("{0}/{0}/{0}", "x".repeat(250));
    let sources: Vec<String> = (0..40).map(|number| format!("{number}/{folder}")).collect();
    sources.iter().for_each(|source| world.write(&format!("{source}/file"), b"x"));
    for _ in 0..3 {
        world.open_ok(["backup"].into_iter().chain(sources.iter().map(String::as_str)));
    }
    let printed = world.open_ok(["forget", "--keep-last", "1", "--dry-run"]);
    assert!(printed.len() > 80_000, "{}", printed.len());
    unheard(&world, ["forget", "--keep-last", "1"]).expect(0);
    assert_eq!(count(&world), 1);
}

#[test]
fn a_full_disk_under_the_report_spoils_no_exit_code() {
    let world = World::with_repository();
    let full = |arguments: &[&str]| {
        let fixed = ["-r", "repo", "--key-file", "seawall.key"];
        let mut command = world.command(fixed.iter().chain(arguments));
        let disk = std::fs::File::options().write(true).open("/dev/full").unwrap();
        ended(command.stdout(disk).stderr(Stdio::piped()).output().unwrap())
    };
    let told = full(&["backup", "data"]).expect(1);
    assert!(told.stderr.contains("cannot write the output"), "{}", told.stderr);
    assert_eq!(world.open_ok(["snapshots", "--json"]).lines().count(), 2, "the backup was made");
    // Where nobody hears at all, the exit code is left.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = world.command(["-r", "none", "--key-file", "seawall.key", "verify"]);
    let deaf = command.stdout(Stdio::null()).stderr(Stdio::from(writer)).status().unwrap();
    assert_eq!(deaf.code(), Some(10));
}
