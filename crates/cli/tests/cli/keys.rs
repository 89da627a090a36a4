//! Every way to give a key: files, commands, the environment, a prompt; and what is made of them.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::world::{World, ended};

#[test]
fn each_way_in_opens_the_repository() {
    let world = World::new();
    world.write("password", b"correct horse\n");
    world.ok(["init", "-r", "repo", "--password-file", "password", "--key-file", "new.key"]);
    let mode = std::fs::metadata(world.path("new.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for arguments in
        [["--password-file", "password"], ["--password-command", "printf 'correct horse'"], ["--key-file", "new.key"]]
    {
        world.run(["-r", "repo", "snapshots"].into_iter().chain(arguments)).expect(0);
    }
    let home = world.path("");
    for (variable, value) in [
        ("SEAWALL_PASSWORD", "correct horse".to_owned()),
        ("SEAWALL_PASSWORD_FILE", home.join("password").display().to_string()),
        ("SEAWALL_PASSWORD_COMMAND", "echo correct horse".to_owned()),
        ("SEAWALL_KEY_FILE", home.join("new.key").display().to_string()),
    ] {
        let mut command = world.command(["snapshots"]);
        command.env("SEAWALL_REPOSITORY", home.join("repo")).env(variable, value);
        ended(command.output().unwrap()).expect(0);
    }
}

#[test]
fn what_the_command_line_names_shuts_out_the_environment() {
    let world = World::with_repository();
    let mut command = world.command(["-r", "repo", "--password-command", "echo wrong", "snapshots"]);
    command.env("SEAWALL_KEY_FILE", world.path("seawall.key"));
    ended(command.output().unwrap()).expect(12);
}

#[test]
fn of_several_ways_the_one_that_fits_is_used() {
    let world = World::with_repository();
    let both = ["-r", "repo", "--password-command", "echo wrong", "--key-file", "seawall.key", "snapshots"];
    world.run(both).expect(0);
}

#[test]
fn a_key_that_others_may_read_is_warned_of() {
    let world = World::with_repository();
    assert_eq!(world.open(["snapshots"]).expect(0).stderr, "");
    std::fs::set_permissions(world.path("seawall.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let warned = world.open(["snapshots"]).expect(0);
    assert!(warned.stderr.contains("seawall.key may be read by others"), "{}", warned.stderr);
}

#[test]
fn commands_do_not_inherit_the_password() {
    let world = World::new();
    let password = |arguments: &[&str]| {
        let mut command = world.command(arguments);
        command.env("SEAWALL_PASSWORD", "do not leak");
        ended(command.output().unwrap()).expect(0)
    };
    password(&["init", "-r", "repo"]);
    let script = "test -z \"$SEAWALL_PASSWORD\" && echo clean";
    password(&["-r", "repo", "backup", "--command", "--stdin-name", "out", "--", "sh", "-c", script]);
    let content = password(&["-r", "repo", "cat", "latest:/out"]);
    assert_eq!(content.stdout, "clean\n");
}

#[test]
fn a_prompt_asks_twice_for_a_new_password() {
    let world = World::new();
    // `script` gives the program a terminal; util-linux has it everywhere.
    if std::process::Command::new("script").arg("--version").output().is_err() {
        println!("skipped: the program `script` is not installed");
        return;
    }
    assert_ne!(prompted(&world, "init", &["one", "two"]), 0);
    assert!(!world.path("repo/seawall").exists());
    assert_eq!(prompted(&world, "init", &["secret", "secret"]), 0);
    assert_eq!(prompted(&world, "snapshots", &["secret"]), 0);
    assert_eq!(prompted(&world, "snapshots", &["wrong"]), 12);
}

fn prompted(world: &World, command: &str, answers: &[&str]) -> i32 {
    on_a_terminal(world, command, answers).0
}

/// Runs a command on a terminal of its own and answers its questions; gives the exit code and what was shown.
pub fn on_a_terminal(world: &World, command: &str, answers: &[&str]) -> (i32, String) {
    let line = format!("{} -r repo {command}", env!("CARGO_BIN_EXE_seawall"));
    let mut script = std::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(world.path(""));
    script.env("HOME", world.path("home")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = Vec::new();
    for answer in answers {
        // What is typed before the question is echoed by the terminal itself.
        let seen = shown.len();
        while !shown[seen..].ends_with(b": ") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "no question: {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        stdin.write_all(format!("{answer}\n").as_bytes()).unwrap();
    }
    stdout.read_to_end(&mut shown).unwrap();
    let shown = String::from_utf8_lossy(&shown).into_owned();
    assert!(!shown.contains("secret"), "the password is echoed: {shown}");
    (child.wait().unwrap().code().unwrap_or(-1), shown)
}

/// The log has the new key and its slot can't be stored: the key file goes, and what to do is told and helps.
#[test]
fn a_key_whose_slot_could_not_be_stored_is_told() {
    let world = World::with_repository();
    let add = ["-r", "repo", "--key-file", "seawall.key", "key", "add", "--role", "reader", "--label", "two"];
    let mut command = world.command(add.into_iter().chain(["--new-key-file", "two.key"]));
    std::fs::set_permissions(world.path("repo/key"), std::fs::Permissions::from_mode(0o555)).unwrap();
    let is_ordinary = world.become_ordinary(&mut command);
    let failed = is_ordinary.then(|| ended(command.output().unwrap()).expect(1));
    std::fs::set_permissions(world.path("repo/key"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let Some(failed) = failed else { return };
    assert!(failed.stderr.contains("`key remove two`, then add it again"), "{}", failed.stderr);
    assert!(!world.path("two.key").exists(), "it opens nothing");
    let verified = world.open(["verify"]).expect(3);
    assert!(verified.stderr.contains("nobody can use the key two"), "{}", verified.stderr);
    world.open_ok(["key", "remove", "two"]);
    world.open(add[4..].iter().copied().chain(["--new-key-file", "two.key"])).expect(0);
    world.open(["verify"]).expect(0);
}

#[test]
fn an_init_that_goes_on_says_so() {
    let world = World::with_repository();
    std::fs::remove_file(world.path("repo/seawall")).unwrap();
    let again = world.open(["init"]).expect(0);
    assert!(again.stderr.contains("went on with the keys that it had made"), "{}", again.stderr);
    world.open_ok(["snapshots"]);
}
