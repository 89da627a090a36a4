//! The main job: protect, again, prove, and recover from nothing but the kit and the repository.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::world::World;

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
        let left: Vec<_> = std::fs::read_dir(world.path(folder)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().contains("scratch")), "{left:?}");
    }
}

#[test]
fn the_first_run_proves_everything() {
    let world = world_with_data();
    let report = world.ok(["protect", "data"]);
    for part in
        ["PROTECTED", "Recovery point", "every stored byte", "restoring everything", "content and metadata equal", "Problems        none"]
    {
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
    let restored = summary["recovery"]["paths_changed"].as_u64().unwrap() + summary["recovery"]["files_sampled"].as_u64().unwrap();
    assert!(summary["recovery"]["files"].as_u64() <= Some(restored), "{summary}");
    assert_eq!(summary["read_back"]["everything"], false);
    assert!(summary["read_back"]["packs_written"].as_u64() >= Some(1), "{summary}");
    assert_eq!(summary["compared"]["differences"], 0);
    let full = world.run(["protect", "data", "--full", "--json"]).expect(0).summary();
    assert_eq!((full["recovery"]["everything"].as_bool(), full["read_back"]["everything"].as_bool()), (Some(true), Some(true)));
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
    let home = world.run(["protect", "home"]).expect(2);
    assert!(home.stderr.contains("--repository") || home.stderr.contains("outside"), "{}", home.stderr);
    assert!(!world.path("data/repo").exists() && !world.path("home/.config").exists());
    world.run(["protect", "data", "-r", "data/repo", "--exclude", "repo/"]).expect(0);
}

#[test]
fn damage_ends_in_13_and_names_what_is_hit() {
    let world = world_with_data();
    world.ok(["protect", "data", "-r", "repo"]);
    let pack = largest(&world.path("repo/pack"));
    let mut bytes = std::fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&pack, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&pack, bytes).unwrap();
    let verify = world.run(["-r", "repo", "verify", "--read-data"]).expect(13);
    assert!(verify.stdout.contains("DAMAGED pack/"), "{}", verify.stdout);
    let json = world.run(["-r", "repo", "verify", "--read-data", "--json"]).expect(13);
    assert_eq!(json.summary()["code"], "damaged");
    let lines = json.json();
    let damage = lines.iter().find(|line| line["type"] == "damage").expect("damage is listed");
    assert!(damage["object"].as_str().unwrap().starts_with("pack/"), "{damage}");
    let protect = world.run(["protect", "data", "-r", "repo", "--full", "--json"]).expect(13);
    assert_eq!(protect.summary()["protected"], false);
    assert_no_scratch(&world);
}

fn largest(folder: &std::path::Path) -> PathBuf {
    let mut files = Vec::new();
    for session in std::fs::read_dir(folder).unwrap() {
        files.extend(std::fs::read_dir(session.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    files.into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_killed_first_run_is_taken_up() {
    let world = world_with_data();
    world.ok(["protect", "data"]);
    // As a kill between making the repository and naming its key leaves it: no kit, no snapshot, the key's first name.
    let home = world.path("home/.config/seawall");
    let first_name = {
        let fresh = world_with_data();
        std::fs::create_dir_all(fresh.path("home/.config")).unwrap();
        std::fs::write(fresh.path("home/.local"), "no directory").unwrap();
        fresh.run(["protect", "data"]).expect(1);
        config_file(&fresh, ".key").file_name().unwrap().to_owned()
    };
    assert!(first_name.to_str().unwrap().starts_with("new-"), "{first_name:?}");
    drop(home);
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
