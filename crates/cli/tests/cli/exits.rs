//! The table of exit codes: each code is reached, with its stable error code and a way out.

use std::process::Stdio;

use crate::world::{World, ended};

/// Arguments, exit code, error code, and what the message must name.
type Case = (&'static [&'static str], i32, &'static str, &'static str);

#[test]
fn every_failure_has_its_code_and_names_what_failed() {
    let world = World::with_repository();
    world.write("other.key", b"seawall-key-1\n0000000000000000000000000000000000000000000000000000000000000001\n");
    world.write("broken.key", b"not a key\n");
    world.open_ok(["backup", "data"]);
    let cases: &[Case] = &[
        (&["-r", "none", "--key-file", "seawall.key", "snapshots"], 10, "no-repository", "none"),
        (&["-r", "data", "--key-file", "seawall.key", "snapshots"], 10, "no-repository", "data"),
        (&["-r", "repo", "--key-file", "other.key", "snapshots"], 12, "wrong-key", ""),
        (&["-r", "repo", "--key-file", "broken.key", "snapshots"], 2, "usage", "broken.key"),
        (&["-r", "repo", "--key-file", "missing.key", "snapshots"], 1, "file", "missing.key"),
        (&["-r", "repo", "--password-command", "echo wrong", "snapshots"], 12, "wrong-key", ""),
        (&["-r", "repo", "--password-command", "exit 4", "snapshots"], 1, "command", "4"),
        (&["-r", "repo", "snapshots"], 2, "usage", "--key-file"),
        (&["snapshots"], 2, "usage", "-r"),
        (&["-r", "s3://bucket/x", "snapshots"], 1, "unsupported", "s3://bucket/x"),
        (&["init", "-r", "repo", "--key-file", "seawall.key"], 1, "repository-exists", "repo"),
        (&["-r", "repo", "--key-file", "seawall.key", "backup", "nothing-here"], 1, "file", "nothing-here"),
        (&["-r", "repo", "--key-file", "seawall.key", "ls", "ffffffff"], 1, "not-found", "ffffffff"),
        (&["-r", "repo", "--key-file", "seawall.key", "ls", "latest:/nowhere"], 1, "not-found", "/nowhere"),
        (&["-r", "repo", "--key-file", "seawall.key", "ls", "no-such-name"], 2, "usage", "no-such-name"),
        (&["-r", "repo", "--key-file", "seawall.key", "--memory", "1MiB", "snapshots"], 2, "usage", "--memory"),
        (&["-r", "repo", "--key-file", "seawall.key", "--memory", "lots", "snapshots"], 2, "usage", "lots"),
        (&["restore", "latest"], 2, "usage", "--target"),
        (&["bogus"], 2, "usage", "bogus"),
    ];
    for (arguments, code, error, names) in cases {
        let plain = world.run(*arguments).expect(*code);
        assert!(plain.stderr.contains(names), "{arguments:?}: {}", plain.stderr);
        assert_eq!(plain.stdout, "", "{arguments:?}");
        let json = world.run(arguments.iter().chain(&["--json"])).expect(*code).summary();
        assert_eq!(
            (json["code"].as_str(), json["exit"].as_i64()),
            (Some(*error), Some(i64::from(*code))),
            "{arguments:?}"
        );
        assert!(json["error"].as_str().unwrap().contains(names), "{json}");
    }
}

#[test]
fn hints_show_the_way_out() {
    let world = World::with_repository();
    let missing = world.run(["-r", "none", "snapshots"]).expect(10);
    assert!(missing.stderr.contains("hint:") && missing.stderr.contains("seawall init"), "{}", missing.stderr);
    let wrong = world.run(["-r", "repo", "--password-command", "echo wrong", "snapshots"]).expect(12);
    assert!(wrong.stderr.contains("recovery kit"), "{}", wrong.stderr);
}

#[test]
fn a_missing_source_is_a_problem_unless_all_are_missing() {
    let world = World::with_repository();
    let some = world.open(["backup", "data", "data/none", "--json"]).expect(3);
    assert_eq!(
        (some.summary()["files_new"].as_u64(), some.summary()["problems"]["count"].as_u64()),
        (Some(2), Some(1))
    );
    assert!(
        some.json()
            .iter()
            .any(|line| line["type"] == "problem" && line["subject"].as_str().unwrap().ends_with("/data/none"))
    );
    world.open(["backup", "none", "data/none"]).expect(1);
    let protect = world.run(["protect", "data", "none"]).expect(3);
    assert!(protect.stderr.contains("/none") && !protect.stdout.contains("PROTECTED"), "{}", protect.stderr);
    world.run(["protect", "none"]).expect(1);
    // A link that is named means what it leads to, and that is not there.
    std::os::unix::fs::symlink("nowhere", world.path("away")).unwrap();
    for sources in [&["away"][..], &["data", "away"]] {
        let told = world.open(["backup"].iter().chain(sources).copied()).expect(3);
        assert!(told.stderr.contains("/away: is a link, and what it leads to cannot be found"), "{}", told.stderr);
        let protect = world.run(["protect"].iter().chain(sources)).expect(3);
        assert!(protect.stderr.contains("/away") && !protect.stdout.contains("PROTECTED"), "{}", protect.stdout);
    }
    // What the snapshot lacks may only be missing because it was away.
    let refused = world.open(["restore", "latest", "--target", "out", "--delete", "--yes"]).expect(1);
    assert!(refused.stderr.contains("1 problem") && refused.stderr.contains("without --delete"), "{}", refused.stderr);
    assert!(!world.path("out").exists());
    world.open(["restore", "latest", "--target", "out"]).expect(0);
}

#[test]
fn after_a_rollback_readers_read_and_end_in_3_and_writers_are_refused() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    world.write("data/later", b"later");
    world.open_ok(["backup", "data"]);
    std::fs::remove_file(world.path(format!("repo/log/{:020}", 2))).unwrap();
    let readers: &[&[&str]] = &[
        &["snapshots"],
        &["ls", "latest"],
        &["find", "*.txt"],
        &["stats"],
        &["diff", "latest", "latest"],
        &["verify", "--read-data"],
        &["restore", "latest", "--target", "out"],
    ];
    for arguments in readers {
        let plain = world.open(arguments.iter().copied()).expect(3);
        assert!(plain.stderr.contains("/repo: rolled back: the log ends before"), "{}", plain.stderr);
        assert!(plain.stderr.contains("--no-cache"), "{}", plain.stderr);
        let json = world.open(arguments.iter().copied().chain(["--json"])).expect(3);
        let told = |line: &serde_json::Value| line["type"] == "problem" && line["problem"] == "rollback";
        assert_eq!(json.json().iter().filter(|line| told(line)).count(), 1, "{arguments:?}");
        let summary = json.summary();
        assert_eq!((&summary["code"], &summary["exit"]), (&"problems".into(), &3.into()), "{arguments:?}");
        assert!(summary["rollback"].as_str().unwrap().contains("the log ends before"), "{summary}");
    }
    assert_eq!(world.open(["cat", "latest:/hello.txt"]).code, 1, "an error stays what it is");
    let hello = format!("latest:{}", world.path("data/hello.txt").display());
    assert_eq!(world.open(["cat", &hello]).expect(3).stdout, "hello\n");
    assert!(world.path("out").read_dir().unwrap().next().is_some());
    for arguments in [&["backup", "data"][..], &["backup", "--dry-run", "data"], &["protect", "data"]] {
        let refused = world.open(arguments.iter().copied().chain(["--json"])).expect(1).summary();
        assert_eq!(refused["code"], "rollback", "{arguments:?}");
    }
    let elsewhere = world.open_ok(["snapshots", "--no-cache", "--json"]);
    assert_eq!(elsewhere.lines().count(), 2, "one snapshot and the summary");
}

#[test]
fn unreadable_files_end_in_3_and_the_rest_is_kept() {
    let world = World::with_repository();
    world.write("data/shut/file", b"x");
    // Root reads everything; a file whose reading fails is one that vanished or a directory that may not be entered,
    // and neither can be had as root without races. So this test gives up root where it can.
    let mut command = world.command(["-r", "repo", "--key-file", "seawall.key", "backup", "data", "--json"]);
    if !world.become_ordinary(&mut command) {
        println!("skipped: running as root and no user to become");
        return;
    }
    std::fs::set_permissions(world.path("data/shut"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let ended = ended(command.output().unwrap()).expect(3);
    let lines = ended.json();
    assert!(lines.iter().any(|line| line["type"] == "problem" && line["problem"] == "unreadable"), "{lines:?}");
    let summary = ended.summary();
    assert_eq!(summary["code"], "problems");
    assert_eq!(summary["problems"]["by_code"]["unreadable"], 1);
    assert_eq!(summary["files_new"], 2);
    std::fs::set_permissions(world.path("data/shut"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn an_interrupt_ends_in_130_and_leaves_a_good_repository() {
    let world = World::with_repository();
    let arguments = ["-r", "repo", "--key-file", "seawall.key", "backup", "--stdin", "--stdin-name", "x", "--json"];
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        let child = world
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe stays open and silent, so the backup waits until the signal comes.
        wait_until_reading(child.id());
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let ended = ended(wait_keeping_stdin(child)).expect(130);
        assert_eq!(ended.summary()["code"], "interrupted");
    }
    world.open_ok(["backup", "data"]);
    assert_eq!(world.open_ok(["snapshots", "--json"]).lines().count(), 2);
}

/// Waits until the program has started its second thread, so that its signals are blocked and watched.
fn wait_until_reading(process: u32) {
    let tasks = format!("/proc/{process}/task");
    while std::fs::read_dir(&tasks).map_or(0, Iterator::count) < 3 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn wait_keeping_stdin(mut child: std::process::Child) -> std::process::Output {
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    output
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let world = World::with_repository();
    for number in 0..400 {
        world.write(&format!("data/many/a-rather-long-name-to-fill-the-buffer-{number:0100}"), b"");
    }
    world.open_ok(["backup", "data"]);
    let mut child = world
        .command(["-r", "repo", "--key-file", "seawall.key", "ls", "-R", "latest"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = ended(child.wait_with_output().unwrap()).expect(0);
    assert_eq!(ended.stderr, "");
}

/// Something stands in a pack's place that can't be read: nobody knows whether the pack is damaged, and so the log is not
/// told that it is.
#[test]
fn what_could_not_be_checked_ends_in_3_and_is_not_recorded() {
    let world = World::with_repository();
    world.write("data/noise", &(0..50_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    world.open_ok(["backup", "data"]);
    let session = std::fs::read_dir(world.path("repo/pack")).unwrap().next().unwrap().unwrap().path();
    let pack = std::fs::read_dir(session).unwrap().next().unwrap().unwrap().path();
    std::fs::rename(&pack, world.path("away")).unwrap();
    std::os::unix::fs::symlink(&pack, &pack).unwrap();
    for read in [&["verify", "--json"][..], &["verify", "--read-data", "--json"]] {
        let ended = world.open(read.iter().copied()).expect(3);
        let summary = ended.summary();
        assert_eq!((summary["damage"].as_u64(), summary["log_entries_appended"].as_u64()), (Some(0), Some(0)));
        assert!(summary["undecided"].as_u64() > Some(0), "{summary}");
    }
    let told = world.open(["verify"]).expect(3);
    assert!(told.stdout.contains("could not be checked"), "{}", told.stdout);
    std::fs::remove_file(&pack).unwrap();
    std::fs::rename(world.path("away"), &pack).unwrap();
    world.open(["verify", "--read-data"]).expect(0);
}

/// A file that ends before its size says, and of which no block is on a disk: what nobody read is not taken for zeros.
#[test]
fn a_file_that_ends_early_is_a_problem_and_gets_no_zeros() {
    let world = World::with_repository();
    let file = "/sys/kernel/uevent_seqnum";
    let said = world.run(["-r", "repo", "--key-file", "seawall.key", "backup", file]).expect(3);
    assert!(said.stderr.contains("of 4096 bytes; what could be read is kept"), "{}", said.stderr);
    let kept = world.open_ok(["cat", &format!("latest:{file}")]);
    assert!(kept.trim_end().bytes().all(|byte| byte.is_ascii_digit()), "{kept:?}");
}
