//! A store that fails for a while while `verify` runs: what could not be read is a problem, and never recorded as damage.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use seawall_engine::crypto::{Secret32, wrap};
use seawall_engine::error::Error;
use seawall_engine::format::log::{Act, Grant, KeyChange};
use seawall_engine::format::names::PackName;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::keys;
use seawall_engine::monitor::{Monitor, Problem, Silent};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::simulated::{Fault, Plan, RandomFailures, SimulatedStore};
use seawall_engine::verify::{Read, VerifyOptions, VerifyReport, verify};

use crate::prune::{Change, Scene};

/// Keeps what is a problem.
#[derive(Default)]
struct Problems(Mutex<Vec<Problem>>);

impl Monitor for Problems {
    fn problem(&self, problem: Problem) {
        self.0.lock().unwrap().push(problem);
    }
}

/// Two snapshots with bases, lists and several packs.
fn scene() -> (MemoryStore, Scene) {
    let (store, mut scene) = Scene::new();
    for edits in 0..2 {
        scene.change(1, Change::Version(1, edits));
        scene.change(2, Change::Noise(u64::from(edits)));
        scene.change(3, Change::Sparse(u64::from(edits)));
        scene.backup();
    }
    (store.copy(), scene)
}

/// Verifies on a store with a plan; the report, if it got that far, and the problems told.
fn check(
    scene: &Scene,
    base: &MemoryStore,
    plan: Plan,
    read: &Read,
) -> (Arc<SimulatedStore>, Result<VerifyReport, Error>, Vec<Problem>) {
    let store = Arc::new(SimulatedStore::over(base.copy(), Plan::default()));
    let repository = Repository::open(store.clone(), &scene.unlock, None).unwrap();
    store.set_plan(plan);
    let problems = Problems::default();
    let options = VerifyOptions { read: read.clone(), record: true, threads: 1, budget_bytes: 1 << 24 };
    let outcome = verify(&repository, &options, &problems);
    (store, outcome, problems.0.into_inner().unwrap())
}

/// The packs that the log then calls damaged.
fn recorded(scene: &Scene, store: &Arc<SimulatedStore>) -> BTreeSet<PackName> {
    store.reboot();
    let repository = Repository::open(store.clone(), &scene.unlock, None).unwrap();
    let standing = &repository.state().standing;
    assert!(standing.claims.is_empty());
    standing.damage.keys().copied().collect()
}

#[test]
fn one_failure_at_any_operation_is_no_damage() {
    let (base, scene) = scene();
    let mut told = 0;
    for read in [Read::Nothing, Read::All] {
        for number in 0.. {
            let (store, outcome, problems) =
                check(&scene, &base, Plan::default().operation(number, Fault::FailBefore), &read);
            let ended = store.operations().total() <= number;
            assert_eq!(recorded(&scene, &store), BTreeSet::new(), "{read:?} {number}");
            if let Ok(report) = outcome {
                assert_eq!((report.damage, report.harmless), (Vec::new(), Vec::new()), "{read:?} {number}");
                assert_eq!(report.undecided, problems.len() as u64, "{read:?} {number}: {problems:?}");
                assert!(problems.iter().all(|problem| problem.code == "unreadable"), "{problems:?}");
                told += report.undecided;
            }
            if ended {
                break;
            }
        }
    }
    assert!(told > 20, "{told}");
}

/// One pack is really lost, and much else fails by chance: only that pack is named.
#[test]
fn beside_failures_only_what_is_damaged_is_recorded() {
    let (whole, scene) = scene();
    let (mut named, mut failed) = (0, 0);
    for seed in 0..40 {
        let base = whole.copy();
        let packs: Vec<String> = base.names().into_iter().filter(|name| name.starts_with("pack/")).collect();
        let lost = &packs[seed as usize % packs.len()];
        base.delete(lost).unwrap();
        let random = Some(RandomFailures { seed, per_mille: 50 });
        let read = if seed % 2 == 0 { Read::All } else { Read::Nothing };
        let (store, outcome, _) = check(&scene, &base, Plan { random, ..Plan::default() }, &read);
        let lost = PackName::parse(lost).unwrap();
        let recorded = recorded(&scene, &store);
        assert!(recorded.iter().all(|pack| *pack == lost), "seed {seed}: {recorded:?}");
        named += recorded.len();
        failed += usize::from(outcome.is_err() || outcome.is_ok_and(|report| report.undecided > 0));
    }
    assert!(named > 5 && failed > 5, "{named} named, {failed} with failures");
}

/// A pack that was damaged does not count as whole again while some of it could not be read.
#[test]
fn what_could_not_be_read_is_not_whole_again() {
    let (base, scene) = scene();
    let packs: Vec<String> = base.names().into_iter().filter(|name| name.starts_with("pack/")).collect();
    let mut met = 0;
    for pack in packs {
        let bytes = base.get(&pack, None).unwrap();
        let broken = base.copy();
        broken.delete(&pack).unwrap();
        let (store, ..) = check(&scene, &broken, Plan::default(), &Read::Nothing);
        let pack = PackName::parse(&pack).unwrap();
        assert_eq!(recorded(&scene, &store), BTreeSet::from([pack]));
        store.objects().replace(&pack.object(), &bytes);
        let known = store.objects().copy();
        for number in 0.. {
            let plan = Plan::default().operation(number, Fault::FailBefore);
            let (store, _, problems) = check(&scene, &known, plan, &Read::All);
            let ended = store.operations().total() <= number;
            let is_whole = recorded(&scene, &store).is_empty();
            let is_undecided = problems.iter().any(|problem| problem.subject == pack.object());
            assert!(!(is_undecided && is_whole), "{} at operation {number}", pack.object());
            assert!(!ended || is_whole, "without a failure it is whole again");
            met += u32::from(is_undecided);
            if ended {
                break;
            }
        }
    }
    assert!(met > 2, "{met}");
}

/// A reader that was left out of a renewal of the data key can't read what is written since. That is no damage.
#[test]
fn what_a_key_may_not_read_is_no_damage() {
    let (_, mut scene) = Scene::new();
    scene.change(1, Change::Noise(1));
    scene.backup();
    let reader = Unlock::KeyFile(Secret32::random());
    let owner = scene.open();
    keys::add(&owner, Role::Reader, &reader.lock().unwrap(), "reader").unwrap();
    let (ring, (secret, public)) = (owner.keys(), wrap::generate());
    let (encapsulated, ciphertext) = wrap::seal_grant(&ring.wrap_public(), &owner.id(), &ring.member, 1, &secret);
    let grants = vec![Grant { member: ring.member, encapsulated, ciphertext }];
    let renewed = KeyChange::Rotate { data_public: *public.as_bytes(), generation: 1, grants };
    owner.append(&mut |_| Ok(Act::Key(renewed.clone()))).unwrap();
    scene.change(1, Change::Noise(2));
    scene.backup();
    let left_out = Repository::open(scene.store.clone(), &reader, None).unwrap();
    let options = VerifyOptions { read: Read::All, record: true, threads: 1, budget_bytes: 1 << 24 };
    let report = verify(&left_out, &options, &Silent).unwrap();
    assert_eq!(report.damage, []);
    assert!(report.undecided > 0);
    assert!(scene.open().state().standing.is_undoubted());
}
