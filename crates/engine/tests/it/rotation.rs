//! `key rotate` beside a prune that removes old sessions with their keys: whatever the order, no key that is needed is called
//! lost, and everything reads afterwards.

use std::sync::Arc;

use seawall_engine::forget::forget;
use seawall_engine::keys::rotate;
use seawall_engine::monitor::Silent;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;

use crate::beside::{At, Between};
use crate::place::noise;
use crate::prune::{Scene, run, thorough};

#[test]
fn a_prune_before_any_call_of_a_rotation_makes_no_key_a_lost_one() {
    let (base, mut scene) = Scene::new();
    scene.write("old", &noise(1, 50_000));
    let old = scene.backup();
    scene.write("old", &noise(2, 50_000));
    let newer = scene.backup();
    rotate(&scene.open(), false, false, &Silent).unwrap();
    forget(&scene.open(), &[old, newer], "test").unwrap();
    let mut calls = 0;
    loop {
        let store = Arc::new(MemoryStore::copy(&base));
        scene.store = store.clone();
        let unlock = scene.unlock.clone();
        let other = Repository::open(store.clone(), &unlock, None).unwrap();
        let prune = Box::new(move || {
            run(&other, &thorough()).unwrap();
        });
        let between = Arc::new(Between::new(store, At::Operation(calls), prune));
        let repository = Repository::open(between.clone(), &unlock, None).unwrap();
        let rotated = rotate(&repository, false, false, &Silent).unwrap();
        assert_eq!(rotated.unreadable, [], "before call {calls}");
        assert_eq!(scene.check(), 0, "before call {calls}");
        if !between.is_over() {
            break;
        }
        calls += 1;
    }
    assert!(calls > 20, "{calls}");
}
