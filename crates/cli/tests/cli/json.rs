//! Shapes of JSON that scripts rest on.

use serde_json::Value;

use crate::world::World;

fn of_type<'l>(lines: &'l [Value], kind: &str) -> Vec<&'l Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

fn assert_fields(line: &Value, fields: &[&str]) {
    for field in fields {
        assert!(!line[*field].is_null(), "{field} is missing in {line}");
    }
}

#[test]
fn every_command_ends_in_one_summary() {
    let world = World::with_repository();
    let backup = world.open(["backup", "data", "--json", "--tag", "a", "--label", "k=v"]).expect(0).summary();
    assert_fields(
        &backup,
        &["snapshot", "time", "files_new", "bytes", "bytes_read", "bytes_stored", "seconds", "problems"],
    );
    assert_eq!((backup["command"].as_str(), backup["code"].as_str()), (Some("backup"), Some("ok")));
    assert_eq!((backup["files_new"].as_u64(), backup["others"].as_u64()), (Some(2), Some(1)));
    assert_eq!(backup["bytes"], 300_006);

    let snapshots = world.open(["snapshots", "--json"]).expect(0).json();
    let [snapshot] = of_type(&snapshots, "snapshot")[..] else { panic!("{snapshots:?}") };
    assert_fields(
        snapshot,
        &["id", "time", "host", "user", "paths", "files", "bytes", "bytes_stored", "number", "program"],
    );
    assert_eq!(snapshot["id"], backup["snapshot"]);
    assert_eq!(snapshot["tags"], serde_json::json!(["a"]));
    assert_eq!(snapshot["labels"], serde_json::json!([["k", "v"]]));
    assert_eq!(snapshot["paths"][0]["path"], world.path("data").to_str().unwrap());

    let place = format!("latest:{}", world.path("data").display());
    let ls = world.open(["ls", &place, "--json"]).expect(0).json();
    let kinds: Vec<&str> = of_type(&ls, "entry").iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["file", "directory", "symlink"]);
    assert_eq!(of_type(&ls, "entry")[2]["target"], "hello.txt");

    let restore = world.open(["restore", &place, "--target", "out", "--json"]).expect(0).summary();
    assert_fields(
        &restore,
        &["snapshot", "target", "files", "directories", "bytes", "unchanged", "deleted", "seconds"],
    );
    assert_eq!(restore["files"], 2);

    for (arguments, fields) in [
        (
            &["verify", "--read-data"][..],
            &["snapshots", "nodes", "chunks", "packs", "packs_read", "bytes_read", "damage"][..],
        ),
        (&["diff", "latest", "latest"], &["added", "removed", "modified", "types", "metadata"]),
        (&["find", "*"], &["matches", "entries", "snapshots", "problems"]),
        (&["stats"], &["snapshots", "all_bytes", "stored_bytes", "ratio", "codecs", "data_packs", "objects"]),
    ] {
        let summary = world.open(arguments.iter().copied().chain(["--json"])).expect(0).summary();
        assert_fields(&summary, fields);
        assert_eq!((summary["command"].as_str(), summary["exit"].as_u64()), (Some(arguments[0]), Some(0)));
    }
}

#[test]
fn cat_keeps_json_away_from_the_content() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let file = format!("latest:{}", world.path("data/hello.txt").display());
    let ended = world.open(["cat", &file, "--json"]).expect(0);
    assert_eq!(ended.stdout, "hello\n");
    let summary: Value = serde_json::from_str(ended.stderr.trim()).unwrap();
    assert_eq!((summary["type"].as_str(), summary["bytes"].as_u64()), (Some("summary"), Some(6)));
}

#[test]
fn names_that_are_not_text_keep_their_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let world = World::with_repository();
    let name = std::ffi::OsStr::from_bytes(b"odd-\xff-name");
    std::fs::write(world.path("data").join(name), "x").unwrap();
    world.open_ok(["backup", "data"]);
    let place = format!("latest:{}", world.path("data").display());
    let lines = world.open(["ls", &place, "--json"]).expect(0).json();
    let odd = lines.iter().find(|line| !line["path_hex"].is_null()).expect("the odd name is listed");
    assert!(odd["path_hex"].as_str().unwrap().ends_with("6f64642dff2d6e616d65"), "{odd}");
}

#[test]
fn long_work_tells_its_progress() {
    let world = World::with_repository();
    let slow = ["backup", "--command", "--stdin-name", "x", "--json", "--", "sh", "-c", "echo a; sleep 2; echo b"];
    let lines = world.open(slow).expect(0).json();
    let progress = of_type(&lines, "progress");
    assert_fields(
        progress.first().expect("a line of progress in two seconds"),
        &["phase", "seconds", "files_done", "bytes_done", "bytes_known", "bytes_per_second", "problems", "current"],
    );
    assert_eq!(progress[0]["phase"], "backing-up");
}
