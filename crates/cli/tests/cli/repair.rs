//! Parity and repair: damage that is given back, damage that is dropped, and what is said of both.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use seawall_engine::crypto::Secret32;
use seawall_engine::entry::TreeKey;
use seawall_engine::format::slot::Unlock;
use seawall_engine::repo::Repository;
use seawall_engine::store::local::LocalStore;
use serde_json::Value;

use crate::world::World;

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Every pack, the longest first.
fn packs(world: &World) -> Vec<PathBuf> {
    let sessions = fs::read_dir(world.path("repo/pack")).unwrap().map(|item| item.unwrap().path());
    let mut packs: Vec<PathBuf> =
        sessions.flat_map(|session| fs::read_dir(session).unwrap().map(|item| item.unwrap().path())).collect();
    packs.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    packs
}

fn damage(pack: &PathBuf, place: usize, length: usize) {
    let mut bytes = fs::read(pack).unwrap();
    bytes.iter_mut().skip(place).take(length).for_each(|byte| *byte ^= 0x5a);
    let mut permissions = fs::metadata(pack).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(pack, permissions).unwrap();
    fs::write(pack, bytes).unwrap();
}

fn number(summary: &Value, field: &str) -> u64 {
    summary[field].as_u64().unwrap_or_else(|| panic!("{field} in {summary}"))
}

#[test]
fn parity_gives_damage_back_and_repair_stores_it_anew() {
    let world = World::with_repository();
    world.write("data/big", &noise(3 << 20));
    world.open_ok(["backup", "data", "--parity", "2%"]);
    let hit = packs(&world);
    hit.iter().for_each(|pack| damage(pack, 200, 300));

    let verify = world.open(["verify", "--read-data"]).expect(3);
    assert!(verify.stderr.contains("its parity gives everything back"), "{}", verify.stderr);
    assert!(verify.stdout.contains("`seawall repair --read-data` stores them anew"), "{}", verify.stdout);
    assert!(verify.stdout.contains("nothing is lost") && !verify.stdout.contains("DAMAGED"), "{}", verify.stdout);
    let restore = world.open(["restore", "latest", "--target", "out"]).expect(3);
    assert!(restore.stderr.contains("parity"), "{}", restore.stderr);
    let restored = world.path("out").join(world.path("data/big").strip_prefix("/").unwrap());
    assert!(fs::read(restored).unwrap() == noise(3 << 20));
    // Any command that reads says so, once a pack.
    let cat = world.open(["cat", &format!("latest:{}", world.path("data/hello.txt").display())]).expect(3);
    assert_eq!(cat.stdout, "hello\n");
    assert_eq!(cat.stderr.matches("problem: pack/").count(), 1, "{}", cat.stderr);

    let dry = world.open(["repair", "--read-data", "--dry-run", "--json"]).expect(3).summary();
    assert_eq!((number(&dry, "packs_mended_by_parity"), number(&dry, "packs_replaced")), (2, 0));
    let repair = world.open(["repair", "--read-data", "--json"]).expect(0).summary();
    assert_eq!((number(&repair, "packs_replaced"), number(&repair, "paths_lost")), (2, 0));
    world.open_ok(["verify", "--read-data"]);
    world.open_ok(["prune", "--window", "0"]);
    assert!(hit.iter().all(|pack| !pack.exists()), "what was damaged is gone");
    world.open_ok(["verify", "--read-data"]);
    world.open_ok(["restore", "latest", "--target", "again"]);
    assert!(world.open_ok(["repair"]).contains("no data was read"), "what was not looked at is not called whole");
}

#[test]
fn parity_can_be_asked_for_in_the_environment() {
    let world = World::with_repository();
    let parity_of = |world: &World| {
        let bytes = fs::read(&packs(world)[0]).unwrap();
        bytes.windows(8).filter(|window| window == b"SWPARI01").count()
    };
    let backup = |value: &str, more: &[&str]| {
        let arguments = ["-r", "repo", "--key-file", "seawall.key", "backup", "--force-read", "data"];
        let mut command = world.command(arguments.iter().chain(more));
        crate::world::ended(command.env("SEAWALL_PARITY", value).output().unwrap())
    };
    backup("2%", &["--parity", "0"]).expect(0);
    assert_eq!(parity_of(&world), 0, "the option wins");
    world.write("data/more", &noise(1 << 20));
    backup("2%", &[]).expect(0);
    assert_eq!(parity_of(&world), 2);
    backup("90%", &[]).expect(2);
    world.open(["backup", "data", "--parity", "0.1%"]).expect(2);
}

#[test]
fn what_is_lost_is_listed_and_dropped_when_told_so() {
    let world = World::with_repository();
    world.write("data/big", &noise(3 << 20));
    world.open_ok(["backup", "data"]);
    world.write("data/hello.txt", b"hello again\n");
    fs::remove_file(world.path("data/big")).unwrap();
    world.open_ok(["backup", "data"]);
    let newest = world.open(["snapshots", "--json"]).expect(0);
    let lost = &packs(&world)[0];
    fs::remove_file(lost).unwrap();
    world.open(["verify"]).expect(13);
    world.open_ok(["backup", "data"]);

    let before = world.open(["log", "show", "--json"]).expect(0).json().len();
    let dry = world.open(["repair", "--dry-run"]).expect(13);
    assert!(dry.stdout.contains("lost: ") && dry.stdout.contains("data/big"), "{}", dry.stdout);
    assert!(!dry.stdout.contains("hello.txt"), "{}", dry.stdout);
    assert_eq!(world.open(["log", "show", "--json"]).expect(0).json().len(), before);
    world.open(["repair", "--drop"]).expect(2);
    let listed = world.open(["repair", "--json"]).expect(13);
    let paths = listed.json().iter().filter(|line| line["type"] == "lost").count();
    assert_eq!((paths as u64, number(&listed.summary(), "paths_lost")), (1, 1));

    let dropped = world.open(["repair", "--drop", "--yes"]).expect(0);
    assert!(dropped.stdout.contains("is forgotten") && dropped.stdout.contains("stands for it"), "{}", dropped.stdout);
    world.open_ok(["repair"]);
    world.open_ok(["verify", "--read-data"]);
    // `latest` is still what was backed up last, and not what was repaired last.
    let hello = format!("latest:{}", world.path("data/hello.txt").display());
    assert_eq!(world.open_ok(["cat", &hello]), "hello again\n");
    let now = world.open(["snapshots", "--json"]).expect(0);
    assert_eq!(number(&now.summary(), "snapshots"), number(&newest.summary(), "snapshots") + 1);
    assert!(world.open_ok(["snapshots", "--forgotten"]).lines().count() >= 1);
}

/// A pack with the tensor tables of a file alone: the file is whole, and verify and repair say so in words.
#[test]
fn a_lost_tensor_table_is_told_apart_from_lost_files() {
    let world = World::with_repository();
    let header = br#"{"w":{"dtype":"F32","shape":[50000],"data_offsets":[0,200000]}}"#;
    let model = [&(header.len() as u64).to_le_bytes()[..], header, &noise(200_000)].concat();
    world.write("data/model.safetensors", &model);
    let place = |world: &World| format!("latest:{}", world.path("data/model.safetensors").display());
    world.open_ok(["backup", "data"]);
    assert!(world.open_ok(["tensors", &place(&world), "--statistics"]).contains("50000"));
    // Packs of trees have tables in them, and the nodes of the tree: only the blob of the table is damaged.
    let (pack, at) = table_blob(&world);
    damage(&pack, at, 8);
    let verify = world.open(["verify", "--read-data"]).expect(13);
    assert!(verify.stdout.contains("whole, without its tensor statistics: "), "{}", verify.stdout);
    assert!(verify.stdout.contains("model.safetensors") && !verify.stdout.contains("path hit"), "{}", verify.stdout);
    let repair = world.open(["repair"]).expect(3);
    assert!(
        repair.stdout.contains("Of 1 file only the tensor statistics are lost: they restore whole"),
        "{}",
        repair.stdout
    );
    assert_eq!(
        world.run(["-r", "repo", "--key-file", "seawall.key", "restore", &place(&world), "--target", "out"]).code,
        0
    );
    let dropped = world.open(["repair", "--drop", "--yes"]).expect(0);
    assert!(dropped.stdout.contains("stands for it"), "{}", dropped.stdout);
    world.open_ok(["repair"]);
    let shown = world.open_ok(["tensors", &place(&world)]);
    assert!(shown.contains("[50000]"), "{shown}");
}

/// The pack in which the model's tensor table lies, and a place inside of it there.
fn table_blob(world: &World) -> (PathBuf, usize) {
    let text = fs::read_to_string(world.path("seawall.key")).unwrap();
    let digits = text.lines().nth(1).unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    let unlock = Unlock::KeyFile(Secret32::new(std::array::from_fn(byte)));
    let store = LocalStore::open(&world.path("repo")).unwrap();
    let repository = Repository::open(Arc::new(store), &unlock, None).unwrap();
    let root = repository.snapshots()[0].record.root;
    let key = TreeKey::from_path(&world.path("data/model.safetensors")).unwrap();
    let entry = repository.tree(&root).get(&key).unwrap().unwrap();
    let location = repository.locate(&entry.table.unwrap().id).unwrap();
    (world.path("repo").join(location.pack.object()), location.offset as usize + 20)
}

#[test]
fn a_lost_index_segment_is_written_anew() {
    let world = World::with_repository();
    world.write("data/big", &noise(100_000));
    world.open_ok(["backup", "data"]);
    let sessions = fs::read_dir(world.path("repo/index")).unwrap().map(|item| item.unwrap().path());
    sessions.for_each(|session| fs::remove_dir_all(session).unwrap());
    let refused = world.open(["prune", "--no-cache"]).expect(13);
    assert!(refused.stderr.contains("repair --index"), "{}", refused.stderr);

    let dry = world.open(["repair", "--index", "--dry-run", "--json", "--no-cache"]).expect(0).summary();
    assert!(number(&dry, "segments_lost") > 0 && dry["number"].is_null(), "{dry}");
    let repair = world.open(["repair", "--index", "--json", "--no-cache"]).expect(0).summary();
    assert_eq!(number(&repair, "records"), number(&dry, "records"));
    assert!(number(&repair, "packs_read") > 0 && number(&repair, "number") > 0, "{repair}");
    let again = world.open_ok(["repair", "--index"]);
    assert!(again.contains("no index segment is lost"), "{again}");
    world.open_ok(["verify", "--read-data", "--no-cache"]);
    world.open_ok(["prune", "--window", "0"]);
    world.open_ok(["restore", "latest", "--target", "out"]);
}

/// What the repository has lost and the disk still has: a restore says what it lacks, and --delete does not take the last copy.
#[test]
fn what_a_repair_left_out_is_told_and_never_deleted() {
    let world = World::with_repository();
    world.write("data/big", &noise(3 << 20));
    world.open_ok(["backup", "data"]);
    fs::remove_file(&packs(&world)[0]).unwrap();
    world.open(["verify"]).expect(13);
    let repair = world.open(["repair", "--drop", "--yes", "--json"]).expect(0).summary();
    let lost = number(&repair["dropped"][0], "paths_lost");
    assert!(lost > 0, "{repair}");
    let listed = world.open(["snapshots", "--json"]).expect(0).json();
    let repaired = listed.iter().find(|line| line["id"] == repair["dropped"][0]["new"]).unwrap();
    assert_eq!(number(repaired, "problems"), lost, "{repaired}");

    let place = format!("latest:{}", world.path("data").display());
    for more in [&["--yes"][..], &["--yes", "--delete-excluded"], &["--dry-run"]] {
        let arguments = ["restore", &place, "--in-place", "--delete"].into_iter().chain(more.iter().copied());
        let refused = world.open(arguments).expect(1);
        assert!(refused.stderr.contains("a repair left") && refused.stderr.contains("--delete"), "{}", refused.stderr);
    }
    assert!(world.path("data/big").exists(), "the last copy");
    let told = world.open(["restore", &place, "--target", "out", "--json"]).expect(3);
    assert_eq!(number(&told.summary()["problems"], "count"), 1, "{}", told.stdout);
    let told = world.open(["restore", &place, "--target", "out"]).expect(3);
    let paths = if lost == 1 { "1 path".to_owned() } else { format!("{lost} paths") };
    assert!(told.stderr.contains(&format!("has lost {paths}")), "{}", told.stderr);
}

/// What could not be read is not called whole, and nothing is given up meanwhile.
#[test]
fn what_could_not_be_checked_is_told_and_nothing_is_dropped() {
    let world = World::with_repository();
    world.write("data/big", &noise(3 << 20));
    world.open_ok(["backup", "data"]);
    let entries = |world: &World| world.open(["log", "show", "--json"]).expect(0).json().len();
    let before = entries(&world);
    // Neither there nor missing: what a store says that can't be asked.
    let pack = packs(&world).remove(0);
    let aside = world.path("aside");
    fs::rename(&pack, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &pack).unwrap();
    let repair = world.open(["repair"]).expect(3);
    assert!(
        repair.stdout.contains("could not be checked") && !repair.stdout.contains("Nothing is lost"),
        "{}",
        repair.stdout
    );
    assert_eq!(number(&world.open(["repair", "--json"]).expect(3).summary(), "undecided"), 1);
    let refused = world.open(["repair", "--drop", "--yes"]).expect(11);
    assert!(refused.stderr.contains("nothing was dropped"), "{}", refused.stderr);
    assert_eq!(entries(&world), before);
    fs::rename(&aside, &pack).unwrap();
    let whole = world.open(["repair"]).expect(0);
    assert!(whole.stdout.contains("Nothing is lost"), "{}", whole.stdout);
}

/// Damage by which no snapshot loses anything is told, as `verify` does.
#[test]
fn damage_that_is_left_has_its_exit_code() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let slot = format!("repo/key/{}", "0a".repeat(16));
    fs::write(world.path(&slot), b"no slot").unwrap();
    world.open(["verify"]).expect(13);
    for arguments in [&["repair"][..], &["repair", "--drop", "--yes"]] {
        let repair = world.open(arguments.iter().copied()).expect(13);
        assert!(
            repair.stdout.contains("DAMAGED key/") && !repair.stdout.contains("Nothing is lost"),
            "{}",
            repair.stdout
        );
    }
    assert_eq!(number(&world.open(["repair", "--json"]).expect(13).summary(), "damage"), 1);
    fs::remove_file(world.path(&slot)).unwrap();
    world.open_ok(["repair"]);
}

/// While an index segment is lost, nobody knows what is: whether this client still has it in its cache or not.
#[test]
fn nothing_is_dropped_while_an_index_segment_is_lost() {
    let world = World::with_repository();
    world.open_ok(["backup", "data"]);
    let entries = |world: &World| world.open(["log", "show", "--json"]).expect(0).json().len();
    let before = entries(&world);
    let sessions = fs::read_dir(world.path("repo/index")).unwrap().map(|item| item.unwrap().path());
    sessions.for_each(|session| fs::remove_dir_all(session).unwrap());
    let verify = world.open(["verify", "--no-cache"]).expect(13);
    assert!(verify.stdout.contains("repair --index"), "{}", verify.stdout);
    for more in [&["--no-cache"][..], &[]] {
        for verb in [&["repair"][..], &["repair", "--drop", "--yes"]] {
            let repair = world.open(verb.iter().chain(more).copied()).expect(13);
            let said = format!("{}{}", repair.stdout, repair.stderr);
            assert!(said.contains("repair --index") && !said.contains("is forgotten"), "{said}");
        }
    }
    assert_eq!(entries(&world), before);
    assert_eq!(number(&world.open(["snapshots", "--json"]).expect(0).summary(), "snapshots"), 1);
    world.open_ok(["repair", "--index", "--no-cache"]);
    world.open_ok(["repair", "--no-cache"]);
}
