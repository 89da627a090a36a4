//! Kill -9 at random instants of a backup: what was committed stays whole, the repository stays valid, and the next run
//! goes on from what was stored. And of a restore: the same command again ends with the right tree.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use super::world::World;

const ROUNDS: u64 = 50;
/// Files in the source; each round changes some of them.
const FILES: u64 = 60;

/// A small generator of pseudo-random numbers (xorshift64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length / 8).flat_map(|_| self.below(u64::MAX).to_le_bytes()).collect()
    }
}

fn change_source(world: &World, random: &mut Random, files: u64) {
    for _ in 0..files {
        let name = format!("data/{}/{}", random.below(4), random.below(FILES));
        let length = [100, 5_000, 300_000, 3_000_000][usize::try_from(random.below(4)).unwrap()];
        let bytes = random.bytes(length);
        world.write(&name, &bytes);
    }
}

fn files_below(directory: PathBuf) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.clone()];
    while let Some(next) = open.pop() {
        for item in std::fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if item.file_type().unwrap().is_dir() {
                open.push(item.path());
            } else {
                let name = item.path().strip_prefix(&directory).unwrap().to_path_buf();
                found.insert(name, std::fs::read(item.path()).unwrap());
            }
        }
    }
    found
}

fn snapshot_ids(world: &World) -> Vec<String> {
    let lines = world.open(["--json", "snapshots"]).expect(0).json();
    let snapshots = lines.iter().filter(|line| line["type"] == "snapshot");
    snapshots.map(|snapshot| snapshot["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn fifty_kills_lose_nothing() {
    let world = World::new();
    world.ok(["init", "-r", "repo", "--key-file", "seawall.key"]);
    let mut random = Random(0x5ea_3a11);
    change_source(&world, &mut random, 120);
    world.open_ok(["backup", "data"]);
    let committed = files_below(world.path("data"));
    let first = snapshot_ids(&world);
    let (mut killed, mut took_over, mut snapshots) = (0, 0, 1);
    for round in 0..ROUNDS {
        change_source(&world, &mut random, 12);
        let arguments = ["-r", "repo", "--key-file", "seawall.key", "backup", "data"];
        let mut child = world.command(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        sleep(Duration::from_millis(random.below(250)));
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        killed += u64::from(ended.status.code().is_none());
        took_over += u64::from(String::from_utf8_lossy(&ended.stderr).contains("took over"));
        if round % 5 == 4 {
            world.open_ok(["verify", "--read-data"]);
        }
        let now = snapshot_ids(&world).len();
        assert!(now >= snapshots && now <= snapshots + 1, "round {round}: {snapshots} snapshots, then {now}");
        snapshots = now;
    }
    let last = world.open(["backup", "data"]).expect(0);
    took_over += u64::from(last.stderr.contains("took over"));
    world.open_ok(["verify", "--read-data"]);
    for (snapshot, wanted) in [("latest", files_below(world.path("data"))), (first[0].as_str(), committed)] {
        let place = format!("{snapshot}:{}", world.path("data").display());
        let target = format!("back-{snapshot}");
        world.open_ok(["restore", &place, "--target", &target]);
        assert!(files_below(world.path(&target)) == wanted, "{snapshot} differs");
    }
    assert!(killed > ROUNDS / 3, "only {killed} of {ROUNDS} runs were still alive when they were killed");
    assert!(took_over > 0, "no run took over what a killed one had stored");
}

const RESTORE_ROUNDS: u64 = 10;

#[test]
fn a_restore_killed_again_and_again_ends_right() {
    let world = World::new();
    world.ok(["init", "-r", "repo", "--key-file", "seawall.key"]);
    let mut random = Random(0x0dd_ba11);
    change_source(&world, &mut random, 60);
    for number in 0..4 {
        // Larger than what goes past the page cache, and no whole number of blocks.
        let bytes = random.bytes(24_000_000 + 8 * number);
        world.write(&format!("data/large-{number}"), &bytes);
    }
    world.open_ok(["backup", "data"]);
    let wanted = files_below(world.path("data"));
    let place = format!("latest:{}", world.path("data").display());
    let mut killed = 0;
    for round in 0..RESTORE_ROUNDS {
        let target = format!("back-{}", round / 2);
        let arguments = ["-r", "repo", "--key-file", "seawall.key", "restore", &place, "--target", &target];
        let mut child = world.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        sleep(Duration::from_millis(random.below(150)));
        child.kill().unwrap();
        killed += u64::from(child.wait().unwrap().code().is_none());
        if round % 2 == 0 {
            // This target is killed once more before it is finished.
            continue;
        }
        // What a killed run left under a name of its own the next one takes away.
        world.open_ok(["restore", &place, "--target", &target]);
        assert!(files_below(world.path(&target)) == wanted, "round {round} differs");
        std::fs::remove_dir_all(world.path(&target)).unwrap();
    }
    assert!(
        killed > RESTORE_ROUNDS / 3,
        "only {killed} of {RESTORE_ROUNDS} runs were still alive when they were killed"
    );
}
