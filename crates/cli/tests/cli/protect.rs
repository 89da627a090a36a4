//! The main job: protect, again, prove, and recover from nothing but the kit and the repository.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crate::world::{World, ended};

fn world_with_data() -> World {
    let world = World::new();
    world.write("data/hello.txt", b"hello\n");
    world.write("data/inner/zeros.bin", &[0; 300_000]);
    for number in 0..50u32 {
        world.write(&format!("data/many/{number}"), &number.to_le_bytes().repeat(500));
    }
    std::os::unix::fs::symlink("hello.txt", world.path("data/link")).unwrap();
    world
}

fn config_file(world: &World, ending: &str) -> PathBuf {
    let entries = std::fs::read_dir(world.path("home/.config/seawall")).unwrap();
    let mut found = entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_str().unwrap().ends_with(ending));
    let path = found.next().unwrap_or_else(|| panic!("no {ending}"));
    assert!(found.next().is_none(), "several {ending}");
    path
}

fn assert_no_scratch(world: &World) {
    for folder in ["", "home/.local/share/seawall"] {
        let Ok(entries) = std::fs::read_dir(world.path(folder)) else { continue };
        let left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().contains("scratch")), "{left:?}");
    }
}

#[test]
fn the_first_run_proves_everything() {
    let world = world_with_data();
    let report = world.ok(["protect", "data"]);
    for part in [
        "PROTECTED",
        "Recovery point",
        "every stored byte",
        "restoring everything",
        "content and metadata equal",
        "Problems        none",
    ] {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
    for (ending, begins) in [(".key", "seawall-key-1\n"), (".kit.txt", "seawall-key-1\n")] {
        let path = config_file(&world, ending);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(begins));
        assert!(report.contains(path.to_str().unwrap()), "{report}");
    }
    assert_no_scratch(&world);
    // Everything else finds repository and key by itself.
    assert_eq!(world.ok(["snapshots"]).lines().count(), 2);
    assert!(world.ok(["verify", "--read-data"]).contains("no damage found"));
}

#[test]
fn later_runs_prove_what_changed_and_say_so() {
    let world = world_with_data();
    world.ok(["protect", "data"]);
    world.write("data/new file [x]*.txt", b"new\n");
    std::fs::remove_file(world.path("data/many/7")).unwrap();
    let summary = world.run(["protect", "data", "--json"]).expect(0).summary();
    assert_eq!((summary["protected"].as_bool(), summary["repository"]["created"].as_bool()), (Some(true), Some(false)));
    assert_eq!(summary["backup"]["files_new"], 1);
    assert_eq!(summary["recovery"]["everything"], false);
    assert!(summary["recovery"]["paths_changed"].as_u64() >= Some(1), "{summary}");
    let restored =
        summary["recovery"]["paths_changed"].as_u64().unwrap() + summary["recovery"]["files_sampled"].as_u64().unwrap();
    assert!(summary["recovery"]["files"].as_u64() <= Some(restored), "{summary}");
    assert_eq!(summary["read_back"]["everything"], false);
    assert!(summary["read_back"]["packs_written"].as_u64() >= Some(1), "{summary}");
    assert_eq!(summary["compared"]["differences"], 0);
    let full = world.run(["protect", "data", "--full", "--json"]).expect(0).summary();
    assert_eq!(
        (full["recovery"]["everything"].as_bool(), full["read_back"]["everything"].as_bool()),
        (Some(true), Some(true))
    );
    assert_eq!(full["recovery"]["files"], 52);
    assert_eq!(world.ok(["snapshots"]).lines().count(), 4);
    assert_no_scratch(&world);
}

#[test]
fn the_kit_and_the_repository_are_enough() {
    let world = world_with_data();
    world.ok(["protect", "data", "--kit", "elsewhere/kit.txt"]);
    std::fs::rename(world.path("home/.local/share/seawall/repository"), world.path("copy")).unwrap();
    std::fs::remove_dir_all(world.path("home")).unwrap();
    std::fs::create_dir(world.path("home")).unwrap();
    world.ok(["-r", "copy", "--key-file", "elsewhere/kit.txt", "restore", "latest", "--target", "out"]);
    let restored = world.path("out").join(world.path("data").strip_prefix("/").unwrap());
    assert_eq!(std::fs::read(restored.join("hello.txt")).unwrap(), b"hello\n");
    assert_eq!(std::fs::read_dir(restored.join("many")).unwrap().count(), 50);
}

#[test]
fn a_repository_inside_a_source_is_refused_before_anything_is_made() {
    let world = world_with_data();
    let inside = world.run(["protect", "data", "-r", "data/repo"]).expect(2);
    assert!(inside.stderr.contains("inside the source"), "{}", inside.stderr);
    let way_out = format!("--exclude {}/", world.path("data/repo").display());
    assert!(inside.stderr.contains(&way_out), "{}", inside.stderr);
    assert!(!world.path("data/repo").exists() && !world.path("home/.config").exists());
    let pattern = way_out.strip_prefix("--exclude ").unwrap();
    world.run(["protect", "data", "-r", "data/repo", "--exclude", pattern]).expect(0);
    let again = world.run(["-r", "data/repo", "backup", "data"]).expect(2);
    assert!(again.stderr.contains(&way_out), "{}", again.stderr);
    world.run(["-r", "data/repo", "backup", "data", "--exclude", pattern]).expect(0);
    world.run(["protect", "data/repo", "-r", "data/repo"]).expect(2);
}

#[test]
fn what_this_program_placed_in_a_source_is_left_out() {
    let world = World::new();
    world.write("home/letter", b"dear\n");
    let protect = world.run(["protect", "home"]).expect(0);
    for place in ["home/.local/share/seawall/repository/", "home/.local/share/seawall/seawall-scratch-*/"] {
        assert!(protect.stderr.contains(&format!("left out: {}", world.path(place).display())), "{}", protect.stderr);
    }
    world.run(["protect", "home"]).expect(0);
    let listed = world.ok(["ls", "-R", &format!("latest:{}", world.path("home").display())]);
    assert!(listed.contains("/letter") && !listed.contains("/repository"), "{listed}");
    assert!(listed.contains("/.cache\n") && !listed.contains("/.cache/seawall"), "{listed}");
    assert_no_scratch(&world);
    // A plain backup does not choose the place, so it does not choose what is left out either, but for the cache.
    world.run(["backup", "home"]).expect(2);
    world.write("elsewhere/file", b"x");
    world.ok(["backup", "elsewhere", "home/.cache"]);
    assert!(!world.ok(["ls", "-R", "latest"]).contains("/.cache/seawall"));
}

#[test]
fn places_whose_names_are_not_utf8_are_left_out_too() {
    let world = World::new();
    let home = world.path(OsStr::from_bytes(b"home\xff"));
    std::fs::create_dir(&home).unwrap();
    std::fs::write(home.join("letter"), b"dear\n").unwrap();
    for _ in 0..2 {
        ended(world.command([OsStr::new("protect"), home.as_os_str()]).env("HOME", &home).output().unwrap()).expect(0);
    }
    let mut list = world.command(["ls", "-R", "latest"]);
    let listed = ended(list.env("HOME", &home).output().unwrap()).expect(0).stdout;
    assert!(listed.contains("/letter") && !listed.contains("/repository"), "{listed}");
    assert!(listed.contains("/.cache\n") && !listed.contains("/.cache/seawall"), "{listed}");
    let named = [OsStr::new("protect"), home.as_os_str(), OsStr::new("-r"), home.as_os_str()];
    ended(world.command(named).output().unwrap()).expect(2);
}

#[test]
fn one_key_opens_several_repositories_and_each_has_its_kit() {
    let world = world_with_data();
    let kits = |world: &World| {
        let names = std::fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut kits: Vec<String> =
            names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(".kit.txt")).collect();
        kits.sort();
        kits
    };
    for (number, repository) in ["one", "two"].into_iter().enumerate() {
        let protect = ["protect", "data", "--key-file", "my.key", "--json", "-r", repository];
        let summary = world.run(protect).expect(0).summary();
        let id = summary["repository"]["id"].as_str().unwrap().to_owned();
        let kit = format!("my.key.{}.kit.txt", &id[..8]);
        assert!(summary["repository"]["recovery_kit"].as_str().unwrap().ends_with(&kit), "{summary}");
        assert!(std::fs::read_to_string(world.path(&kit)).unwrap().contains(&id));
        assert_eq!(kits(&world).len(), number + 1);
        // Another file under the kit's name is no kit, and stays as it is.
        std::fs::write(world.path(&kit), "something else").unwrap();
        assert!(world.run(protect).expect(0).summary()["repository"]["recovery_kit"].is_null());
        assert_eq!(std::fs::read_to_string(world.path(&kit)).unwrap(), "something else");
        world.run(["protect", "data", "--key-file", "my.key", "-r", repository, "--kit", &kit]).expect(2);
    }
}

#[test]
fn a_lost_key_is_named_and_a_kit_takes_its_place() {
    let world = world_with_data();
    world.ok(["protect", "data"]);
    let (key, kit) = (config_file(&world, ".key"), config_file(&world, ".kit.txt"));
    std::fs::remove_file(&key).unwrap();
    let lost = world.run(["snapshots"]).expect(2);
    assert!(lost.stderr.contains(key.to_str().unwrap()) && lost.stderr.contains("kit"), "{}", lost.stderr);
    world.ok(["--key-file", kit.to_str().unwrap(), "snapshots"]);
}

#[test]
fn damage_ends_in_13_and_names_what_is_hit() {
    // Kind of pack as its header says it (docs/format.md §6), and what the listing must name.
    for (kind, hit) in [(0, "/data/hard-to-compress"), (1, "snapshots hit")] {
        let world = world_with_data();
        world.write("data/hard-to-compress", &noise(400_000));
        world.ok(["protect", "data", "-r", "repo"]);
        damage(&pack_of_kind(&world, kind), kind);
        let unrecorded = world.run(["-r", "repo", "verify", "--read-data", "--no-record", "--json"]).expect(13);
        assert_eq!(unrecorded.summary()["log_entries_appended"], 0);
        let verify = world.run(["-r", "repo", "verify", "--read-data"]).expect(13);
        assert!(verify.stdout.contains("back up the same sources again"), "{}", verify.stdout);
        assert!(verify.stdout.contains("DAMAGED pack/") && verify.stdout.contains(hit), "{}", verify.stdout);
        let json = world.run(["-r", "repo", "verify", "--read-data", "--json"]).expect(13);
        assert_eq!(json.summary()["code"], "damaged");
        assert_eq!(json.summary()["log_entries_appended"], 0, "it is on record already");
        let lines = json.json();
        let damage = lines.iter().find(|line| line["type"] == "damage").expect("damage is listed");
        assert!(damage["object"].as_str().unwrap().starts_with("pack/"), "{damage}");
        assert_eq!(damage["snapshots"].as_array().map(Vec::len), Some(1), "{damage}");
        world.run(["-r", "repo", "restore", "latest", "--target", "out"]).expect(13);
        // The old tree's root is lost for good, as the time of the directory above the sources has changed since.
        world.write("beside", b"what changes that time");
        let json = world.run(["-r", "repo", "backup", "data", "--json"]).expect(0);
        assert!(kind == 1 || json.summary()["chunks_mended"].as_u64() > Some(0), "{}", json.stdout);
        if kind == 0 {
            let verify = world.run(["-r", "repo", "verify", "--read-data"]).expect(0);
            assert!(verify.stdout.contains("no snapshot loses anything by it"), "{}", verify.stdout);
            let protect = world.run(["protect", "data", "-r", "repo", "--full"]).expect(0);
            assert!(protect.stdout.contains("PROTECTED"), "{}", protect.stdout);
        } else {
            let protect = world.run(["protect", "data", "-r", "repo", "--full"]).expect(13);
            let text = &protect.stdout;
            assert!(text.contains("DAMAGED pack/") && text.contains("run protect again"), "{text}");
            assert!(!text.contains("PROTECTED"), "{text}");
        }
        assert_no_scratch(&world);
    }
}

/// Bytes that no codec makes smaller (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn pack_of_kind(world: &World, kind: u8) -> PathBuf {
    let mut packs = Vec::new();
    for session in std::fs::read_dir(world.path("repo/pack")).unwrap() {
        packs.extend(std::fs::read_dir(session.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    packs.into_iter().find(|path| std::fs::read(path).unwrap()[8] == kind).expect("a pack of each kind")
}

/// Flips a bit: in the middle of a pack of data, where the noise lies in whatever order threads stored the files, else in
/// every blob. Where a tree has nodes besides its root, and in which order they lie, depends on keys and threads.
fn damage(pack: &std::path::Path, kind: u8) {
    let mut bytes = std::fs::read(pack).unwrap();
    let places = if kind == 0 { vec![bytes.len() / 2] } else { bodies(&bytes) };
    for place in places {
        bytes[place] ^= 1;
    }
    std::fs::set_permissions(pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(pack, bytes).unwrap();
}

/// Where the bodies of blobs begin: blobs follow each other from byte 64, each with a header of 48 bytes and the length of
/// its body in bytes 4 to 7 (docs/format.md §6).
fn bodies(pack: &[u8]) -> Vec<usize> {
    let (mut place, mut bodies) = (64, Vec::new());
    while pack[place..].starts_with(b"SWBL") {
        bodies.push(place + 48);
        place += 48 + u32::from_le_bytes(pack[place + 4..place + 8].try_into().unwrap()) as usize;
    }
    bodies
}

#[test]
fn a_first_run_that_was_cut_short_is_taken_up() {
    let world = world_with_data();
    // Cut short after the key was made: the repository can't be made where a file stands in the way.
    world.write("home/.local/share/seawall/repository", b"no directory");
    world.run(["protect", "data"]).expect(1);
    let first_name = config_file(&world, ".key");
    assert!(first_name.file_name().unwrap().to_str().unwrap().starts_with("new-"), "{first_name:?}");
    let key = std::fs::read(&first_name).unwrap();
    std::fs::remove_file(world.path("home/.local/share/seawall/repository")).unwrap();
    world.ok(["protect", "data"]);
    let own_name = config_file(&world, ".key");
    assert!(!first_name.exists());
    assert_eq!(std::fs::read(&own_name).unwrap(), key);
    // Cut short after the repository was made: its key still has its first name.
    std::fs::rename(&own_name, &first_name).unwrap();
    world.ok(["snapshots"]);
    world.ok(["protect", "data"]);
    assert!(own_name.exists() && !first_name.exists());
}

/// The disk of the repository is not mounted: its empty mount point is no place for a new repository.
#[test]
fn nothing_is_made_where_another_repository_was_before() {
    let world = world_with_data();
    world.ok(["protect", "-r", "disk/repository", "data"]);
    std::fs::rename(world.path("disk"), world.path("elsewhere")).unwrap();
    std::fs::create_dir(world.path("disk")).unwrap();
    let refused = world.run(["protect", "-r", "disk/repository", "data"]).expect(11);
    assert!(
        refused.stderr.contains("Is its disk mounted?") && refused.stderr.contains("seawall init -r"),
        "{}",
        refused.stderr
    );
    assert!(std::fs::read_dir(world.path("disk")).unwrap().next().is_none());
    std::fs::remove_dir(world.path("disk")).unwrap();
    std::fs::rename(world.path("elsewhere"), world.path("disk")).unwrap();
    world.ok(["protect", "-r", "disk/repository", "data"]);
}

#[test]
fn passwords_become_slots_of_their_own() {
    let world = world_with_data();
    world.write("password", b"secret\n");
    world.ok(["protect", "data", "-r", "repo", "--password-file", "password"]);
    world.ok(["-r", "repo", "--password-command", "echo secret", "snapshots"]);
    world.ok(["-r", "repo", "snapshots"]);
    let again = world.ok(["protect", "data", "-r", "repo", "--password-file", "password"]);
    assert!(again.contains("PROTECTED"), "{again}");
}

#[test]
fn an_interrupt_leaves_no_scratch_folder() {
    let world = world_with_data();
    world.ok(["protect", "data"]);
    let mut interrupted = 0;
    for milliseconds in (0..20).map(|round| 10 + round * 15) {
        let mut command = world.command(["protect", "data", "--full", "--json"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let process = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
        let ended = ended(child.wait_with_output().unwrap());
        // Killed outright (-1) only before it began to listen; finished (0) if the signal came too late.
        assert!([-1, 0, 130].contains(&ended.code), "{ended:?}");
        interrupted += u32::from(ended.code == 130);
        assert_no_scratch(&world);
    }
    assert!(interrupted > 0, "no run was interrupted");
    world.ok(["protect", "data"]);
}

#[test]
fn an_ordinary_user_protects_a_folder_of_their_own() {
    let world = world_with_data();
    let mut command = world.command(["protect", "data", "--json"]);
    if !world.become_ordinary(&mut command) {
        println!("skipped: running as root and no user to become");
        return;
    }
    let summary = ended(command.output().unwrap()).expect(0).summary();
    assert_eq!((summary["protected"].as_bool(), summary["problems"]["count"].as_u64()), (Some(true), Some(0)));
    let mut command = world.command(["restore", "latest", "--target", "out", "--json"]);
    world.become_ordinary(&mut command);
    let restored = ended(command.output().unwrap()).expect(0);
    assert_eq!(restored.summary()["problems"]["count"], 0);
    if nix::unistd::geteuid().is_root() {
        let lines = restored.json();
        assert_eq!(lines.iter().filter(|line| line["type"] == "note").count(), 1, "{lines:?}");
    }
}
