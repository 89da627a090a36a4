//! Freeing space: what prune says and does, what comes back, and what does not.

use std::sync::Arc;

use seawall_engine::crypto::Secret32;
use seawall_engine::forget::forget;
use seawall_engine::format::slot::Unlock;
use seawall_engine::repo::Repository;
use seawall_engine::store::local::LocalStore;
use serde_json::Value;

use crate::world::World;

/// Bytes that do not compress, other ones for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Forgets the oldest snapshot, as an owner's other program would; gives its id.
fn forget_oldest(world: &World) -> String {
    let text = std::fs::read_to_string(world.path("seawall.key")).unwrap();
    let digits = text.lines().nth(1).unwrap();
    let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
    let unlock = Unlock::KeyFile(Secret32::new(std::array::from_fn(byte)));
    let store = LocalStore::open(&world.path("repo")).unwrap();
    let repository = Repository::open(Arc::new(store), &unlock, None).unwrap();
    let oldest = repository.snapshots()[0].record.id;
    forget(&repository, &[oldest], "test").unwrap();
    oldest.to_string()
}

fn world_with_two() -> World {
    let world = World::with_repository();
    for seed in [1, 2] {
        world.write("data/big", &noise(seed, 3 << 20));
        world.open_ok(["backup", "data"]);
    }
    world
}

fn number(summary: &Value, field: &str) -> u64 {
    summary[field].as_u64().unwrap_or_else(|| panic!("{field} in {summary}"))
}

#[test]
fn prune_says_what_it_will_free_then_frees_it_after_the_window() {
    let world = world_with_two();
    let oldest = forget_oldest(&world);
    let dry = world.open(["prune", "--dry-run", "--json"]).expect(0).summary();
    assert_eq!((dry["dry_run"].as_bool(), number(&dry, "condemned_packs")), (Some(true), 0));
    assert!(number(&dry["planned"], "freed_bytes") >= 3 << 20, "{dry}");

    let text = world.open_ok(["prune"]);
    assert!(text.contains("plan:") && text.contains("wait") && text.contains("undelete"), "{text}");
    assert!(world.open_ok(["snapshots", "--forgotten"]).contains(&oldest[..8]));
    assert!(world.open_ok(["stats"]).contains("can still come back"));
    let verify = world.open(["verify", "--read-data", "--json"]).expect(0).summary();
    assert!(number(&verify, "condemned_packs") > 0);

    let text = world.open_ok(["undelete", &oldest[..6]]);
    assert!(text.contains("snapshot is back"), "{text}");
    assert_eq!(number(&world.open(["snapshots", "--json"]).expect(0).summary(), "snapshots"), 2);
    world.open_ok(["verify", "--read-data"]);
    world.open_ok(["restore", &oldest[..8], "--target", "old"]);
    assert_eq!(
        std::fs::read(world.path("old").join(world.path("data/big").strip_prefix("/").unwrap()))
            .or_else(|_| std::fs::read(world.path("old/big")))
            .unwrap(),
        noise(1, 3 << 20)
    );

    forget_oldest(&world);
    let now = world.open(["prune", "--window", "0", "--max-unused", "0%", "--json"]).expect(0).summary();
    assert!(number(&now, "deleted_bytes") >= 3 << 20, "{now}");
    assert!(now["waiting_until"].is_null());
    let gone = world.open(["undelete", &oldest[..8]]).expect(1);
    assert!(gone.stderr.contains("can still come back"), "{}", gone.stderr);
    world.open_ok(["verify", "--read-data"]);
    assert!(world.open_ok(["snapshots", "--forgotten"]).lines().count() <= 1);
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let world = World::with_repository();
    for arguments in [
        &["prune", "--window", "7"][..],
        &["prune", "--window", "-1d"],
        &["prune", "--max-unused", "120%"],
        &["prune", "--max-rewrite", "much"],
        &["undelete"],
        &["undelete", "latest"],
    ] {
        world.open(arguments.iter().copied()).expect(2);
    }
    let nothing = world.open(["undelete", "abcdef"]).expect(1);
    assert!(nothing.stderr.contains("snapshots --forgotten"), "{}", nothing.stderr);
    let summary = world.open(["prune", "--json"]).expect(0).summary();
    assert_eq!((number(&summary, "condemned_packs"), number(&summary, "problems")), (0, 0));
}

/// A chunk that is kept only as the base of another is stored for that one's sake; prune says how many, before and after.
#[test]
fn bases_that_nothing_else_needs_are_told_in_words() {
    let world = World::with_repository();
    for version in [0, 1] {
        // Half of each file stays, so that its one chunk is stored against the older one.
        for file in 0..10 {
            let bytes = [noise(1 + 1000 * file, 30_000), noise(100 + version + 1000 * file, 30_000)].concat();
            world.write(&format!("data/part {file}"), &bytes);
        }
        world.open_ok(["backup", "data"]);
    }
    forget_oldest(&world);
    let dry = world.open_ok(["prune", "--dry-run", "--window", "0", "--max-unused", "0%"]);
    assert!(dry.contains("10 chunks may be stored without a base that is kept for them"), "{dry}");
    let without = world.open_ok(["prune", "--dry-run", "--no-rebase", "--window", "0", "--max-unused", "0%"]);
    assert!(!without.contains("without a base"), "{without}");
    let done = world.open_ok(["prune", "--window", "0", "--max-unused", "0%"]);
    assert!(done.contains("stored 10 chunks (") && done.contains("without the base that was kept for them"), "{done}");
    world.open_ok(["verify", "--read-data"]);
}
