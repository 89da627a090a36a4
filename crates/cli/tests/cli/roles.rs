//! Keys and roles as users meet them: adding, listing, removing, renewing; what each role may; the audit trail.

use std::os::unix::fs::PermissionsExt;

use crate::world::{Ended, World};

fn with<'a>(world: &World, key: [&'a str; 2], arguments: &[&'a str]) -> Ended {
    world.run(["-r", "repo"].into_iter().chain(key).chain(arguments.iter().copied()))
}

#[test]
fn every_kind_of_key_opens_and_is_listed() {
    let world = World::with_repository();
    world.write("pass", b"correct horse\n");
    world.open_ok(["key", "add", "--role", "reader", "--label", "words", "--new-passphrase-file", "pass"]);
    world.open_ok(["key", "add", "--role", "member", "--label", "host", "--new-key-file", "host.key"]);
    let public = world.ok(["key", "generate", "anna.identity"]);
    let mode = std::fs::metadata(world.path("anna.identity")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    world.open_ok(["key", "add", "--role", "owner", "--label", "anna", "--recipient", public.trim()]);
    for (key, code) in [
        (["--password-file", "pass"], 0),
        (["--key-file", "host.key"], 0),
        (["--identity-file", "anna.identity"], 0),
        (["--identity-file", "host.key"], 2),
    ] {
        with(&world, key, &["snapshots"]).expect(code);
    }
    let mut command = world.command(["-r", "repo", "snapshots"]);
    command.env("SEAWALL_IDENTITY_FILE", world.path("anna.identity"));
    assert!(command.status().unwrap().success());

    let keys = world.open(["key", "list", "--json"]).expect(0).json();
    let told: Vec<_> = keys
        .iter()
        .filter(|line| line["type"] == "key")
        .map(|key| [&key["label"], &key["role"], &key["kind"]].map(|it| it.as_str().unwrap().to_owned()).join(" "))
        .collect();
    assert_eq!(
        told,
        ["key file owner key file", "words reader passphrase", "host member key file", "anna owner public key"]
    );
    let twice = world.open(["key", "add", "--role", "member", "--label", "host", "--new-key-file", "other.key"]);
    assert!(twice.expect(2).stderr.contains("already"));
    assert!(!world.path("other.key").exists(), "a file that opens nothing is left");
}

#[test]
fn any_three_of_five_shares_open_and_two_open_nothing() {
    let world = World::with_repository();
    let arguments =
        ["key", "add", "--role", "owner", "--label", "board", "--shares", "3-of-5", "--shares-directory", "shares"];
    world.open_ok(arguments);
    let files: Vec<String> = (1..=5).map(|number| format!("shares/share-{number}-of-5.txt")).collect();
    for chosen in 0u8..32 {
        let picked: Vec<&str> =
            files.iter().enumerate().filter(|(at, _)| chosen >> at & 1 == 1).map(|(_, file)| file.as_str()).collect();
        if picked.is_empty() {
            continue;
        }
        let shares = picked.iter().flat_map(|file| ["--share", file]);
        let ended = world.run(["-r", "repo"].into_iter().chain(shares).chain(["snapshots"]));
        if picked.len() >= 3 {
            ended.expect(0);
        } else {
            let missing = format!("{} more needed", 3 - picked.len());
            assert!(ended.expect(12).stderr.contains(&missing), "{chosen:05b}");
        }
    }
    let mut command = world.command(["-r", "repo", "snapshots"]);
    let list = files[2..].iter().map(|file| world.path(file)).collect::<Vec<_>>();
    command.env("SEAWALL_SHARE_FILES", std::env::join_paths(list).unwrap());
    assert!(command.status().unwrap().success());
    let text = std::fs::read_to_string(world.path(&files[0])).unwrap();
    world.write("torn", text.replacen("3 1", "3 2", 1).as_bytes());
    let torn = with(&world, ["--share", "torn"], &["snapshots"]).expect(2);
    assert!(torn.stderr.contains("torn: not a share, or a digit of it is wrong"), "{}", torn.stderr);
}

#[test]
fn a_member_adds_and_reads_nothing_back() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    world.open_ok(["key", "add", "--role", "member", "--label", "host", "--new-key-file", "host.key"]);
    let member = |arguments: &[&str]| with(&world, ["--key-file", "host.key"], arguments);
    for refused in [
        &["ls", "latest"] as &[&str],
        &["cat", "latest:/x"],
        &["restore", "latest", "--target", "out"],
        &["verify", "--read-data"],
        &["find", "*.txt"],
    ] {
        let ended = member(refused).expect(1);
        assert!(ended.stderr.contains("takes a reader's or an owner's"), "{refused:?}: {}", ended.stderr);
    }
    for refused in [
        &["forget", "latest"] as &[&str],
        &["key", "add", "--role", "owner", "--label", "me", "--new-key-file", "me.key"],
        &["key", "remove", "key file"],
        &["key", "rotate"],
    ] {
        assert!(member(refused).expect(1).stderr.contains("this key may not"), "{refused:?}");
    }
    assert!(!world.path("me.key").exists());
    let checked = member(&["verify"]).expect(0);
    assert!(checked.stderr.contains("only the log, the index"), "{}", checked.stderr);
    member(&["snapshots"]).expect(0);
    member(&["key", "list"]).expect(0);
    let stored = member(&["protect", "data"]).expect(3);
    assert!(stored.stdout.contains("STORED, NOT PROVEN"), "{}", stored.stdout);

    // What is read with the local cache is tested in the engine, where a test has its own clock.
    member(&["backup", "data"]).expect(0);
    world.write("data/new.txt", &[7; 5000]);
    let second = member(&["backup", "data", "--json"]).expect(0).summary();
    assert_eq!((&second["files_new"], &second["files_unchanged"]), (&1.into(), &2.into()), "{second}");
    // Without the cache everything is read, and nothing stored twice.
    std::fs::remove_dir_all(world.path("home/.cache")).unwrap();
    let third = member(&["backup", "data", "--json"]).expect(0).summary();
    assert!(third["bytes_read"].as_u64().unwrap() >= 305_000, "{third}");
    assert!(third["bytes_stored"].as_u64().unwrap() < 5000, "{third}");
    world.open_ok(["verify", "--read-data"]);
    world.open_ok(["restore", "latest", "--target", "out"]);
}

#[test]
fn removing_and_renewing_keys() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    for (label, file) in [("laptop", "laptop.key"), ("second", "second.key")] {
        world.open_ok(["key", "add", "--role", "owner", "--label", label, "--new-key-file", file]);
    }
    let slots = |world: &World| std::fs::read_dir(world.path("repo/key")).unwrap().count();
    assert_eq!(slots(&world), 3);
    world.open_ok(["key", "remove", "laptop"]);
    assert_eq!(slots(&world), 2);
    with(&world, ["--key-file", "laptop.key"], &["snapshots"]).expect(12);
    assert!(world.open(["key", "remove", "key file"]).expect(2).stderr.contains("--yes"));
    world.open(["key", "remove", "nobody"]).expect(1);
    let rotated = world.open(["key", "rotate", "--json"]).expect(0).summary();
    assert_eq!((&rotated["generation"], &rotated["sessions_wrapped"]), (&1.into(), &1.into()));
    world.open_ok(["backup", "data"]);
    for key in [["--key-file", "seawall.key"], ["--key-file", "second.key"]] {
        with(&world, key, &["verify", "--read-data"]).expect(0);
    }
    world.open_ok(["key", "rotate", "--resume"]);
    world.open_ok(["key", "remove", "key file", "--yes"]);
    world.open(["snapshots"]).expect(12);
    let last = with(&world, ["--key-file", "second.key"], &["key", "remove", "second", "--yes"]).expect(11);
    assert!(last.stderr.contains("last owner"), "{}", last.stderr);

    let shown = with(&world, ["--key-file", "second.key"], &["log", "show"]).expect(0).stdout;
    for part in ["first owner", "owner laptop admitted", "revoked", "data key generation 1, granted to 2", "COMMIT"] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
    assert!(!shown.contains("VOID"), "{shown}");
}

#[test]
fn the_log_is_verified() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    world.open_ok(["backup", "data"]);
    let lines = world.open(["log", "show", "--json"]).expect(0).json();
    let entries: Vec<_> = lines.iter().filter(|line| line["type"] == "entry").collect();
    assert_eq!((entries.len(), &entries[2]["act"], &entries[2]["role"]), (3, &"COMMIT".into(), &"owner".into()));
    assert!(entries[1]["snapshots"][0].is_string() && entries[1]["segments"][0].is_string());
    assert_eq!(world.open(["log", "show", "--latest", "1", "--json"]).expect(0).json().len(), 2);
    assert!(
        world.open(["log", "verify"]).expect(0).stdout.contains("3 entries read, 0 of them void, the chain is whole")
    );
    std::fs::remove_file(world.path("repo/log/00000000000000000002")).unwrap();
    assert!(world.open(["log", "verify"]).expect(13).stdout.contains("ROLLBACK"));
    world.open(["--no-cache", "log", "verify"]).expect(0);
    std::fs::write(world.path("repo/log/00000000000000000001"), b"x").unwrap();
    assert!(world.open(["log", "verify"]).expect(13).stdout.contains("DAMAGED"));
}

#[test]
fn no_other_repository_is_opened_than_the_expected_one() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    // Made by somebody else, as it were; the same key opens it.
    let other =
        world.run(["--no-cache", "init", "-r", "other", "--key-file", "seawall.key", "--json"]).expect(0).summary();
    let public = world.ok(["key", "generate", "anna.identity"]);
    let add = ["key", "add", "--role", "owner", "--label", "anna", "--recipient", public.trim(), "--json"];
    let added = world.open(add).expect(0).summary();
    let [right, wrong] = [&added, &other].map(|summary| summary["fingerprint"].as_str().unwrap().to_owned());
    assert!(right.len() == 64 && right != wrong);
    for arguments in [&["snapshots"][..], &["ls", "latest"]] {
        world.open(arguments.iter().copied().chain(["--expect", &right])).expect(0);
        let refused = world.open(arguments.iter().copied().chain(["--expect", &wrong, "--json"])).expect(1).summary();
        assert_eq!(refused["code"], "substituted", "{refused}");
    }
    let mut command = world.command(["-r", "repo", "--identity-file", "anna.identity", "snapshots"]);
    assert!(command.env("SEAWALL_EXPECT", &right).status().unwrap().success());
    assert!(!command.env("SEAWALL_EXPECT", &wrong).status().unwrap().success());
    assert!(world.open(["log", "verify", "--expect", &wrong]).expect(13).stdout.contains("SUBSTITUTED"));
    world.open(["snapshots", "--expect", "short"]).expect(2);

    std::fs::rename(world.path("repo"), world.path("kept")).unwrap();
    std::fs::rename(world.path("other"), world.path("repo")).unwrap();
    assert!(world.open(["snapshots"]).expect(3).stderr.contains("--expect"), "it is told");
    assert!(world.open(["log", "verify"]).expect(13).stdout.contains("SUBSTITUTED"), "also by the audit trail");
    assert!(world.open(["log", "show"]).expect(13).stdout.contains("SUBSTITUTED"));
    assert_eq!(world.open(["backup", "data", "--json"]).expect(1).summary()["code"], "rollback");
    world.open(["--expect", &wrong, "backup", "data"]).expect(0);
    world.open(["log", "verify"]).expect(0);
    world.open_ok(["snapshots"]);
}

#[test]
fn a_backup_says_why_everything_is_read() {
    let world = World::with_repository();
    for name in ["one", "two"] {
        let file = format!("{name}.key");
        world.open_ok(["key", "add", "--role", "reader", "--label", name, "--new-key-file", &file]);
    }
    let backup = |key: &str, more: &[&str]| with(&world, ["--key-file", key], &[&["backup", "data"], more].concat());
    let json = |key: &str, more: &[&str]| {
        with(&world, ["--key-file", key], &[&["--json", "backup", "data"], more].concat()).expect(0).summary()
    };
    let first = json("one.key", &[]);
    assert_eq!((first["parent_use"].as_str(), first["parent"].as_str()), (Some("none"), None));
    let id = first["snapshot"].as_str().unwrap();
    let told = backup("two.key", &["--dry-run"]).expect(0).stdout;
    let line = format!("parent: none of your own or an owner's; {} is another member's", &id[..8]);
    assert!(told.contains(&line) && told.contains("every file would be read"), "{told}");
    let second = json("two.key", &[]);
    assert_eq!((second["parent_use"].as_str(), second["parent"].as_str()), (Some("other-member"), Some(id)));
    assert!(second["bytes_read"].as_u64() > Some(300_000), "{second}");
    let asked = backup("two.key", &["--parent", id]).expect(0).stdout;
    assert!(asked.contains(&line) && asked.contains("every file was read"), "{asked}");
    let own = backup("two.key", &[]).expect(0).stdout;
    assert!(!own.contains("parent:"), "{own}");
    world.open_ok(["key", "remove", "one", "--yes"]);
    let removed = backup("two.key", &["--parent", id]).expect(0).stdout;
    assert!(removed.contains(&format!("the key that made {} was removed", &id[..8])), "{removed}");
}
