//! What an audit says of sound logs and of every way to change one.

use std::sync::Arc;

use super::*;
use crate::crypto::Secret32;
use crate::crypto::sign::SigningKey;
use crate::format::log::KeyChange;
use crate::format::log::LogEntry;
use crate::ids::SnapshotId;
use crate::monitor::Silent;
use crate::repo::Candidate;
use crate::store::memory::MemoryStore;

struct Scene {
    store: Arc<MemoryStore>,
    owner: Unlock,
    cache: tempfile::TempDir,
}

impl Scene {
    /// Four entries: INIT and three keys that were added.
    fn new() -> Self {
        let scene = Self {
            store: Arc::new(MemoryStore::new()),
            owner: Unlock::KeyFile(Secret32::random()),
            cache: tempfile::tempdir().unwrap(),
        };
        let slots = [(scene.owner.clone(), "first".to_owned())];
        let repository = Repository::init(scene.store.clone(), &slots, Some(scene.cache.path().into())).unwrap();
        for label in ["a", "b", "c"] {
            add(&repository, &Unlock::KeyFile(Secret32::random()), label);
        }
        scene
    }

    fn follow(&self, with_cache: bool) -> (Vec<Line>, Report) {
        let cache = with_cache.then(|| self.cache.path());
        let trail = Trail::open(&*self.store, &self.owner, cache, None).unwrap();
        let mut lines = Vec::new();
        let report = trail.follow(&Silent, &mut |line| {
            lines.push(line);
            true
        });
        (lines, report.unwrap())
    }

    fn kinds(&self, with_cache: bool) -> Vec<&'static str> {
        self.follow(with_cache).1.findings.iter().map(|finding| finding.kind).collect()
    }

    /// Puts an entry that this ring signs at the end, whatever the rules say.
    fn force(&self, ring: &KeyRing, time_ms: i64, act: Act) {
        let (lines, report) = self.follow(false);
        let number = report.entries;
        let last = self.store.get(&log_object(number - 1), None).unwrap();
        let entry = LogEntry {
            number,
            previous: Some(object_hash(&last)),
            repository: lines[0].frame.as_ref().unwrap().repository,
            member: ring.member,
            time_ms,
            act,
        };
        let sealed = entries::seal(&entry, &ring.log_key, &SigningKey::from_seed(&ring.signing_seed));
        self.store.put(&log_object(number), &sealed).unwrap();
    }

    fn ring(&self) -> KeyRing {
        Repository::open_ring(&*self.store, &self.owner).unwrap()
    }
}

fn replace(store: &MemoryStore, object: &str, bytes: &[u8]) {
    assert_ne!(store.get(object, None).unwrap(), bytes);
    store.delete(object).unwrap();
    store.put(object, bytes).unwrap();
}

fn add(repository: &Repository, unlock: &Unlock, label: &str) {
    let ring = repository.keys().for_member(Role::Member, 0, repository.keys().data_secret.as_ref().unwrap());
    let candidate = Candidate::seal(&ring, &unlock.lock().unwrap(), label).unwrap();
    repository.append(&mut |_| Ok(Act::Key(KeyChange::Admit(candidate.record.clone())))).unwrap();
    candidate.store(repository.store()).unwrap();
}

fn forget() -> Act {
    Act::Forget { snapshots: vec![SnapshotId([1; 16])], reason: "because".into() }
}

#[test]
fn a_sound_log_is_told_entry_by_entry() {
    let scene = Scene::new();
    let (lines, report) = scene.follow(true);
    assert_eq!((report.entries, report.void, report.findings), (4, 0, Vec::new()));
    let told: Vec<_> =
        lines.iter().map(|line| line.act.as_ref().unwrap()).map(|act| (act.name(), details(act))).collect();
    assert_eq!(told[0], ("INIT", "first owner first".to_owned()));
    assert!(told[3].0 == "KEY" && told[3].1.starts_with("member c admitted ("), "{told:?}");
    assert!(lines.iter().all(|line| line.signer == Some(("first".into(), Role::Owner))));
}

#[test]
fn what_was_done_to_the_log_is_named() {
    type Change = fn(&MemoryStore);
    let cases: [(&str, Change, &[&str], &[&str]); 7] = [
        ("the last entry is gone", |store| store.delete(&log_object(3)).unwrap(), &[], &["rollback"]),
        (
            "all entries are gone",
            |store| (0..4).for_each(|number| store.delete(&log_object(number)).unwrap()),
            &["missing"],
            &["missing", "rollback"],
        ),
        ("one in the middle is gone", |store| store.delete(&log_object(2)).unwrap(), &["missing"], &["missing"]),
        (
            "one has another byte",
            |store| {
                let mut sealed = store.get(&log_object(2), None).unwrap();
                sealed[60] ^= 1;
                replace(store, &log_object(2), &sealed);
            },
            &["damaged"],
            &["damaged"],
        ),
        (
            "one stands for another",
            |store| replace(store, &log_object(2), &store.get(&log_object(1), None).unwrap()),
            &["damaged"],
            &["damaged"],
        ),
        ("an entry of nobody", |store| store.put(&log_object(4), b"x").unwrap(), &["damaged"], &["damaged"]),
        (
            "another marker",
            |store| {
                let marker = String::from_utf8(store.get(MARKER, None).unwrap()).unwrap();
                replace(store, MARKER, marker.replace("Seawall", "Seawell").as_bytes());
            },
            &["substituted"],
            &["substituted"],
        ),
    ];
    for (name, change, without_cache, with_cache) in cases {
        let scene = Scene::new();
        change(&scene.store);
        assert_eq!(scene.kinds(false), without_cache, "{name}, no cache");
        assert_eq!(scene.kinds(true), with_cache, "{name}, with the cache");
    }
}

/// Somebody with the log key and an owner's seed writes the past anew: only who saw the log before can tell.
#[test]
fn a_past_that_was_written_anew_is_substituted() {
    let scene = Scene::new();
    let ring = scene.ring();
    for number in 1..4 {
        scene.store.delete(&log_object(number)).unwrap();
    }
    let now = Timestamp::now().seconds * 1000;
    for _ in 0..3 {
        scene.force(&ring, now, forget());
    }
    assert_eq!(scene.kinds(false), [""; 0]);
    assert_eq!(scene.kinds(true), ["substituted"]);
    // The chain itself tells where a later entry was kept.
    let other = Scene::new();
    other.store.put(&log_object(4), &scene.store.get(&log_object(3), None).unwrap()).unwrap();
    assert_eq!(other.kinds(false), ["damaged"], "it is sealed under another key");
}

#[test]
fn an_entry_that_does_not_follow_is_substituted() {
    let scene = Scene::new();
    let ring = scene.ring();
    let now = Timestamp::now().seconds * 1000;
    scene.force(&ring, now, forget());
    let kept = scene.store.get(&log_object(4), None).unwrap();
    scene.store.delete(&log_object(3)).unwrap();
    scene.store.delete(&log_object(4)).unwrap();
    scene.force(&ring, now, forget());
    scene.store.put(&log_object(4), &kept).unwrap();
    assert_eq!(scene.kinds(false), ["substituted"]);
}

#[test]
fn void_entries_are_shown_with_the_reason() {
    let scene = Scene::new();
    let owner = Repository::open(scene.store.clone(), &scene.owner, None).unwrap();
    let unlock = Unlock::KeyFile(Secret32::random());
    add(&owner, &unlock, "evil");
    let evil = Repository::open_ring(&*scene.store, &unlock).unwrap();
    let now = Timestamp::now().seconds * 1000;
    scene.force(&evil, now, forget());
    scene.force(&KeyRing { signing_seed: Secret32::random(), ..evil.clone() }, now, forget());
    owner.append(&mut |_| Ok(Act::Key(KeyChange::Revoke(evil.member)))).unwrap();
    let audit = Act::Audit { depth: 0, bytes: 0, lost: vec![], damaged: vec![], sound: vec![] };
    scene.force(&evil, now, audit);
    scene.force(&KeyRing { member: MemberId([9; 16]), ..evil }, now, forget());
    let (lines, report) = scene.follow(false);
    assert_eq!((report.void, report.findings), (4, Vec::new()));
    let voids: Vec<_> = lines.iter().filter_map(|line| line.void.as_deref()).collect();
    assert_eq!(
        voids,
        [
            "the signer's role does not allow it",
            "the signature is wrong",
            "signed by a member who was revoked",
            "signed by somebody who is not a member"
        ]
    );
}

#[test]
fn times_that_run_ahead_or_backwards_are_remarked_on() {
    let scene = Scene::new();
    let ring = scene.ring();
    let now = Timestamp::now().seconds * 1000;
    for time_ms in [now + 3_600_000, now, i64::MIN, i64::MAX] {
        scene.force(&ring, time_ms, forget());
    }
    let (_, report) = scene.follow(false);
    let told: Vec<_> = report.findings.iter().map(|it| (it.object.as_str(), it.why.contains("ahead"))).collect();
    let (four, five, six, seven) = (log_object(4), log_object(5), log_object(6), log_object(7));
    assert_eq!(told, [(&*four, true), (&*five, false), (&*six, false), (&*seven, true)]);
    assert!(report.findings.iter().all(|finding| !finding.is_damage()));
}

/// What a member who was revoked, or whoever found its key, can still put there: it is void, it is named, and the log goes
/// on behind it, also for whoever opens the repository.
#[test]
fn what_is_no_entry_is_void_and_named() {
    let scene = Scene::new();
    let ring = scene.ring();
    let now = Timestamp::now().seconds * 1000;
    let next = |scene: &Scene| log_object(scene.follow(false).1.entries);
    for plain in [&b""[..], b"no entry", &[0x88; 200]] {
        let object = next(&scene);
        scene.store.put(&object, &crate::crypto::envelope::seal(&ring.log_key, &object, plain)).unwrap();
    }
    let repository = Repository::open(scene.store.clone(), &scene.owner, None).unwrap();
    add(&repository, &Unlock::KeyFile(Secret32::random()), "later");
    let unknown = KeyRing { signing_seed: Secret32::random(), ..ring.clone() };
    scene.force(&unknown, now, forget());
    let (lines, report) = scene.follow(true);
    assert_eq!((report.entries, report.void), (9, 4));
    let found: Vec<_> = report.findings.iter().map(|it| (it.kind, it.object.clone(), it.is_damage())).collect();
    let malformed = |number| ("malformed", log_object(number), false);
    assert_eq!(found, [malformed(4), malformed(5), malformed(6)]);
    let acts: Vec<_> = lines.iter().map(|line| line.act.as_ref().map(Act::name)).collect();
    assert_eq!(acts[4..], [None, None, None, Some("KEY"), Some("FORGET")]);
    assert!(lines[4].frame.is_none() && lines[4].void.is_some() && lines[7].void.is_none());
    let state = Repository::open(scene.store.clone(), &scene.owner, Some(scene.cache.path().into())).unwrap().state();
    assert_eq!((state.next, state.voids.len(), state.members.len()), (9, 4, 5));
}

/// A later version's entry, which an owner signed, stops; the same from anybody else does not.
#[test]
fn what_needs_a_newer_version_stops_where_an_owner_signed_it() {
    let scene = Scene::new();
    let owner = Repository::open(scene.store.clone(), &scene.owner, None).unwrap();
    let unlock = Unlock::KeyFile(Secret32::random());
    add(&owner, &unlock, "evil");
    let cache = Some(scene.cache.path().to_owned());
    drop(Repository::open(scene.store.clone(), &scene.owner, cache.clone()).unwrap());
    let time_ms = Timestamp::now().seconds * 1000;
    let unknown_act = |ring: &KeyRing| {
        let (lines, report) = scene.follow(false);
        let number = report.entries;
        let last = scene.store.get(&log_object(number - 1), None).unwrap();
        let repository = lines[0].frame.as_ref().unwrap().repository;
        let act = Act::Fence { sessions: Vec::new() };
        let member = ring.member;
        let entry = LogEntry { number, previous: Some(object_hash(&last)), repository, member, time_ms, act };
        let sealed = entries::seal(&entry, &ring.log_key, &SigningKey::from_seed(&ring.signing_seed));
        let mut plain = crate::crypto::envelope::open(&ring.log_key, &log_object(number), &sealed).unwrap();
        let end = plain.len() - 66;
        assert_eq!(plain[end - 4..end], [6, 0xa1, 0, 0x80], "a FENCE of nothing");
        plain[end - 4] = 22;
        plain[0] = 0x87;
        let signature = SigningKey::from_seed(&ring.signing_seed).sign(&[b"seawall v1 log ", &plain[..end]]);
        plain[0] = 0x88;
        plain[end + 2..].copy_from_slice(&signature);
        let object = log_object(number);
        scene.store.put(&object, &crate::crypto::envelope::seal(&ring.log_key, &object, &plain)).unwrap();
    };
    unknown_act(&Repository::open_ring(&*scene.store, &unlock).unwrap());
    let opened = Repository::open(scene.store.clone(), &scene.owner, cache.clone()).unwrap();
    assert_eq!(opened.state().voids, [(5, "an act number 22, which only an owner may write".to_owned())]);
    add(&opened, &Unlock::KeyFile(Secret32::random()), "before");
    unknown_act(&scene.ring());
    for cache in [None, cache] {
        let stopped = Repository::open(scene.store.clone(), &scene.owner, cache).err().unwrap();
        assert!(matches!(&stopped, Error::Unsupported(what) if what.contains("an act number 22")), "{stopped}");
    }
    assert_eq!(scene.kinds(false), ["malformed", "unsupported"]);
    // What was read before the stop is in the cache, whole: whoever opens with a newer program goes on from there.
    scene.store.delete(&log_object(7)).unwrap();
    let again = Repository::open(scene.store.clone(), &scene.owner, Some(scene.cache.path().into())).unwrap();
    assert_eq!((again.rollback(), again.log_entries()), (None, 7));
}

#[test]
fn a_log_that_is_not_the_expected_one_is_substituted() {
    let scene = Scene::new();
    let fingerprint = Repository::open(scene.store.clone(), &scene.owner, None).unwrap().fingerprint();
    for (expected, kinds) in [(fingerprint, &[][..]), (ObjectHash([1; 32]), &["substituted"])] {
        let trail = Trail::open(&*scene.store, &scene.owner, None, Some(expected)).unwrap();
        let report = trail.follow(&Silent, &mut |_| true).unwrap();
        assert_eq!(report.findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), kinds);
    }
}
