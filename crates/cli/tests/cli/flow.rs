//! Back up, look around, restore: the single steps, as a person does them.

use std::io::Write;
use std::process::Stdio;

use crate::keys::on_a_terminal;
use crate::world::{World, ended};

#[test]
fn what_is_backed_up_comes_back() {
    let world = World::with_repository();
    let first = world.open_ok(["backup", "data"]);
    assert!(first.contains("2 files: 2 new, 0 changed, 0 unchanged;"), "{first}");
    world.write("data/hello.txt", b"hello again\n");
    let second = world.open_ok(["backup", "data"]);
    // A file that is as young as the first backup may be read again; it is never new.
    assert!(second.contains("2 files: 0 new, "), "{second}");

    let table = world.open_ok(["snapshots"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.lines().next().unwrap().starts_with("ID        TIME"), "{table}");

    let data = world.path("data").display().to_string();
    assert_eq!(world.open_ok(["cat", &format!("latest:{data}/hello.txt")]), "hello again\n");
    let first_id = table.lines().nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(world.open_ok(["cat", &format!("{first_id}:{data}/hello.txt")]), "hello\n");

    let directory = world.open(["cat", &format!("latest:{data}")]).expect(1);
    assert!(directory.stderr.contains("is not a file"), "{}", directory.stderr);

    world.open_ok(["restore", &format!("latest:{data}"), "--target", "out"]);
    assert_eq!(std::fs::read(world.path("out/hello.txt")).unwrap(), b"hello again\n");
    assert_eq!(std::fs::read(world.path("out/inner/zeros.bin")).unwrap(), [0; 300_000]);
    assert_eq!(std::fs::read_link(world.path("out/link")).unwrap().to_str(), Some("hello.txt"));
    let again = world.open_ok(["restore", &format!("latest:{data}"), "--target", "out"]);
    assert!(again.contains("0 files") && again.contains("3 unchanged"), "{again}");
}

#[test]
fn ls_shows_one_level_or_all() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let data = world.path("data").display().to_string();
    let one = world.open_ok(["ls", &format!("latest:{data}")]);
    assert_eq!(one, format!("{data}/hello.txt\n{data}/inner\n{data}/link\n"));
    let all = world.open_ok(["ls", "-R", &format!("latest:{data}")]);
    assert_eq!(all.lines().count(), 4, "{all}");
    let long = world.open_ok(["ls", "-l", &format!("latest:{data}/link")]);
    assert!(long.starts_with("lrwxrwxrwx") && long.trim_end().ends_with("/link -> hello.txt"), "{long}");
}

#[test]
fn find_and_diff_show_what_there_is_and_what_changed() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    world.write("data/hello.txt", b"hello again\n");
    world.write("data/added", b"new\n");
    std::fs::remove_file(world.path("data/link")).unwrap();
    std::fs::create_dir(world.path("data/link")).unwrap();
    std::fs::remove_dir_all(world.path("data/inner")).unwrap();
    world.open_ok(["backup", "data"]);
    let table = world.open_ok(["snapshots"]);
    let ids: Vec<&str> = table.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();

    let data = world.path("data").display().to_string();
    let diff = world.open_ok(["diff", ids[0], "latest"]);
    for line in ["+  D/added", "M  D/hello.txt", "-  D/inner", "-  D/inner/zeros.bin", "T  D/link"] {
        assert!(diff.lines().any(|shown| shown == line.replace('D', &data)), "{line} is not in\n{diff}");
    }
    assert!(!diff.contains("\nU  "), "{diff}");
    let within = world.open_ok(["diff", ids[0], &format!("latest:{data}/inner"), "--metadata"]);
    assert!(within.contains("zeros.bin") && !within.contains("hello.txt"), "{within}");
    assert!(world.open_ok(["diff", ids[0], "latest", "--metadata"]).contains(&format!("U  {data}\n")));

    let found = world.open_ok(["find", "*.txt"]);
    assert_eq!(found, format!("{}  {data}/hello.txt\n{}  {data}/hello.txt\n", ids[0], ids[1]));
    assert_eq!(world.open_ok(["find", "*.bin", "--larger", "100KiB", "--type", "f"]).lines().count(), 1);
    assert_eq!(world.open_ok(["find", "*", "--snapshot", "latest", "--type", "l"]), "");
    let stats = world.open_ok(["stats"]);
    assert!(stats.contains("Snapshots       2") && stats.contains("CODEC"), "{stats}");
}

#[test]
fn streams_commit_only_what_ended_well() {
    let world = World::with_repository();
    let mut child = world
        .command(["-r", "repo", "--key-file", "seawall.key", "backup", "--stdin", "--stdin-name", "piped"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&b"0123456789".repeat(300_000)).unwrap();
    ended(child.wait_with_output().unwrap()).expect(0);
    let piped = world.open_ok(["cat", "latest:/piped"]);
    assert_eq!(piped.len(), 3_000_000);

    let failing =
        world.open(["backup", "--command", "--stdin-name", "x", "--", "sh", "-c", "echo half; exit 7"]).expect(1);
    assert!(failing.stderr.contains('7'), "{}", failing.stderr);
    assert_eq!(world.open_ok(["snapshots"]).lines().count(), 2);
    world.open_ok(["backup", "--command", "--stdin-name", "x", "--", "echo", "whole"]);
    assert_eq!(world.open_ok(["cat", "latest:/x"]), "whole\n");
}

#[test]
fn deleting_needs_a_yes() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let place = format!("latest:{}", world.path("data").display());
    world.open_ok(["restore", &place, "--target", "out"]);
    world.write("out/stray", b"x");
    let asked = world.open(["restore", &place, "--target", "out", "--delete"]).expect(2);
    assert!(asked.stderr.contains("--yes") && world.path("out/stray").exists(), "{}", asked.stderr);
    let dry = world.open_ok(["restore", &place, "--target", "out", "--delete", "--dry-run"]);
    assert!(dry.lines().any(|line| line.starts_with("delete  ") && line.ends_with("/stray")), "{dry}");
    assert!(world.path("out/stray").exists());
    world.open(["restore", &place, "--target", "out", "--delete", "--yes"]);
    assert!(!world.path("out/stray").exists());
}

#[test]
fn the_question_before_deleting_says_how_much_would_go() {
    if std::process::Command::new("script").arg("--version").output().is_err() {
        println!("skipped: the program `script` is not installed");
        return;
    }
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let command =
        format!("--key-file seawall.key restore latest:{} --target out --delete", world.path("data").display());
    // Nothing to delete, nothing to ask.
    assert_eq!(on_a_terminal(&world, &command, &[]).0, 0);
    world.write("out/stray", b"x");
    world.write("out/inner/stray", b"x");
    let (code, shown) = on_a_terminal(&world, &command, &["n"]);
    assert_eq!(code, 1, "{shown}");
    assert!(shown.contains("2 paths in ") && shown.contains("nothing was changed"), "{shown}");
    assert!(!shown.contains("hint:") && world.path("out/inner/stray").exists(), "{shown}");
    assert_eq!(on_a_terminal(&world, &command, &["yes"]).0, 0);
    assert!(!world.path("out/stray").exists() && !world.path("out/inner/stray").exists());
}

#[test]
fn a_host_and_a_path_below_a_source_name_that_path() {
    let world = World::with_repository();
    world.open_ok(["backup", "data", "--host", "web1"]);
    let data = world.path("data").display().to_string();
    assert_eq!(world.open_ok(["cat", &format!("latest:web1:{data}/hello.txt")]), "hello\n");
    assert_eq!(world.open_ok(["ls", &format!("latest:web1:{data}/inner")]), format!("{data}/inner/zeros.bin\n"));
    world.open_ok(["restore", &format!("latest:web1:{data}/inner"), "--target", "out"]);
    assert!(world.path("out/zeros.bin").exists());
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let world = World::with_repository();
    let line = format!(
        "ulimit -Sn 64; ulimit -Hn; {} -q -r repo --key-file seawall.key backup --command --stdin-name n -- \
         sh -c 'ulimit -Sn'",
        env!("CARGO_BIN_EXE_seawall")
    );
    let shell = std::process::Command::new("sh").args(["-c", &line]).current_dir(world.path("")).output().unwrap();
    assert_eq!(world.open_ok(["cat", "latest:/n"]), ended(shell).expect(0).stdout);
}

#[test]
fn in_place_puts_back_what_is_gone() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    std::fs::remove_file(world.path("data/hello.txt")).unwrap();
    std::fs::remove_dir_all(world.path("data/inner")).unwrap();
    let data = world.path("data").display().to_string();
    world.open_ok(["restore", &format!("latest:{data}/hello.txt"), "--in-place"]);
    assert_eq!(std::fs::read(world.path("data/hello.txt")).unwrap(), b"hello\n");
    assert!(!world.path("data/inner").exists());
    world.open_ok(["restore", &format!("latest:{data}/inner"), "--in-place"]);
    assert_eq!(std::fs::read(world.path("data/inner/zeros.bin")).unwrap().len(), 300_000);
}

#[test]
fn excludes_and_dry_runs_do_what_they_say() {
    let world = World::with_repository();
    world.write("data/skip.tmp", b"x");
    world.write("patterns", b"# comment\n./data/inner/\n");
    let dry = world.open_ok(["backup", "data", "--dry-run"]);
    assert!(dry.contains("nothing was stored") && dry.contains("3 files"), "{dry}");
    assert_eq!(world.open_ok(["snapshots"]).lines().count(), 1);
    world.open_ok(["backup", "data", "--exclude", "*.tmp", "--exclude-file", "patterns"]);
    let listed = world.open_ok(["ls", &format!("latest:{}", world.path("data").display())]);
    assert!(!listed.contains("skip.tmp") && !listed.contains("inner") && listed.contains("hello.txt"), "{listed}");
    world.open_ok(["backup", "data", "--exclude", "data/*.txt", "--exclude", "./skip.tmp"]);
    let listed = world.open_ok(["ls", &format!("latest:{}", world.path("data").display())]);
    assert!(listed.contains("skip.tmp") && !listed.contains("hello.txt"), "{listed}");
}

#[test]
fn help_completions_and_manual_pages_cover_every_command() {
    let world = World::new();
    let help = world.ok(["--help"]);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.contains(&"backup") && commands.contains(&"restore"), "{commands:?}");
    world.ok(["man", "pages"]);
    for command in &commands {
        let page = std::fs::read_to_string(world.path(format!("pages/seawall-{command}.1"))).unwrap();
        assert!(page.contains("Examples:") || page.contains("EXTRA"), "{command} has no examples");
        let text = world.ok([command, "--help"]);
        assert!(text.contains("Examples:") && text.contains("Usage: seawall"), "{command}: {text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = world.ok(["completions", shell]);
        assert!(commands.iter().all(|command| script.contains(command)), "{shell}");
    }
}

/// What was never stored is not deleted as a stray, unless that is asked for.
#[test]
fn deleting_stops_at_what_the_backup_left_out() {
    let world = World::with_repository();
    world.write("data/live.db", b"never stored");
    world.open_ok(["backup", "data", "--exclude", "*.db", "--label", "excluded-paths=0"]);
    world.write("data/stray", b"x");
    let place = format!("latest:{}", world.path("data").display());
    let restore = |more: &[&str]| {
        let fixed = ["restore", &place, "--in-place", "--delete", "--yes"];
        world.open(fixed.into_iter().chain(more.iter().copied()))
    };
    let refused = restore(&[]).expect(1).stderr;
    assert!(refused.contains("1 excluded path") && refused.contains("--delete-excluded"), "{refused}");
    assert!(world.path("data/live.db").exists() && world.path("data/stray").exists());
    let dry = restore(&["--delete-excluded", "--dry-run"]).expect(0).stdout;
    assert!(dry.contains("live.db") && world.path("data/live.db").exists(), "{dry}");
    restore(&["--delete-excluded", "--exclude", "*.db"]).expect(0);
    assert!(world.path("data/live.db").exists() && !world.path("data/stray").exists());
    restore(&["--delete-excluded"]).expect(0);
    assert!(!world.path("data/live.db").exists());

    // Nothing left out, nothing refused.
    world.open_ok(["backup", "data"]);
    restore(&[]).expect(0);
    world.open(["restore", &place, "--target", "out", "--delete-excluded"]).expect(2);
}

/// A mount point is kept, what is mounted there is not; the snapshot says so.
#[test]
fn other_file_systems_that_were_left_out_are_counted() {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &str| std::fs::metadata(path).map(|it| it.dev()).ok();
    if device("/dev/shm").is_none() || device("/dev/shm") == device("/dev") {
        println!("skipped: /dev/shm is no file system of its own");
        return;
    }
    let world = World::with_repository();
    world.open(["backup", "/dev", "--one-file-system"]);
    let snapshots = world.open(["snapshots", "--json"]).expect(0).json();
    let labels = snapshots[0]["labels"].as_array().unwrap();
    let count = labels.iter().find(|label| label[0] == "other-file-systems").unwrap();
    assert!(count[1].as_str().unwrap().parse::<u64>().unwrap() >= 1, "{labels:?}");
}
