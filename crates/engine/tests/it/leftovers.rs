//! Sessions beside a collector's entries: what a writer leaned on, adopted or encoded against is taken away before its
//! commit. Whatever is committed can still be read once every condemned and orphaned object is gone.

use std::sync::Arc;

use seawall_engine::backup::backup;
use seawall_engine::codec::{Effort, Encoder};
use seawall_engine::crypto::Secret32;
use seawall_engine::format::log::Act;
use seawall_engine::format::names::PackName;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::Unlock;
use seawall_engine::ids::{ChunkId, SessionId, SnapshotId};
use seawall_engine::monitor::Silent;
use seawall_engine::repo::{Committed, Repository, Session};
use seawall_engine::store::Store;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::units::MIB;
use seawall_engine::verify::Read;

use crate::damage::check;
use crate::place::{noise, options, paths};
use crate::session::{record, with_writers};

struct Scene {
    objects: Arc<MemoryStore>,
    unlock: Unlock,
    cache: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let (objects, unlock) = (Arc::new(MemoryStore::new()), Unlock::KeyFile(Secret32::random()));
        Repository::init(objects.clone(), &[(unlock.clone(), "test".to_owned())], None).unwrap();
        Self { objects, unlock, cache: tempfile::tempdir().unwrap() }
    }

    /// The repository as another process of the same user sees it.
    fn open(&self) -> Repository {
        Repository::open(self.objects.clone(), &self.unlock, Some(self.cache.path().to_owned())).unwrap()
    }

    /// Removes the objects of these packs, and all of these sessions that no segment lists.
    fn remove(&self, packs: &[PackName], sessions: &[SessionId]) {
        for name in self.objects.names() {
            let is_orphan = sessions.iter().any(|id| name.starts_with(&format!("pack/{id}/")));
            if is_orphan || packs.iter().any(|pack| pack.object() == name) {
                self.objects.delete(&name).unwrap();
            }
        }
    }

    fn reads(&self, chunk: &ChunkId, plain: &[u8]) {
        assert_eq!(
            Repository::open(self.objects.clone(), &self.unlock, None).unwrap().read_chunk(chunk).unwrap(),
            plain
        );
    }
}

/// Stores a chunk if the session claims it; tells whether it did.
fn store(repository: &Repository, session: &Session<'_>, plain: &[u8], base: Option<(&ChunkId, &[u8])>) -> bool {
    let id = repository.id_key().chunk_id(plain);
    let claimed = session.claim(&id);
    if claimed {
        let mut body = Vec::new();
        Encoder::new(Effort::Balanced).encode(plain, None, base, &mut body);
        session.store(BlobKind::Data, &id, plain.len(), &body).unwrap();
    }
    claimed
}

fn commit(session: &Session<'_>, root: ChunkId) -> Committed {
    with_writers(session, || session.commit(&mut |_| record(root)).unwrap())
}

/// One snapshot of one chunk.
fn protect(repository: &Repository, plain: &[u8]) -> (ChunkId, SnapshotId) {
    let session = Session::begin(repository, 4 * MIB).unwrap();
    let id = repository.id_key().chunk_id(plain);
    assert!(store(repository, &session, plain, None));
    match commit(&session, id) {
        Committed::Done(_, snapshot) => (id, snapshot.id),
        Committed::Again => panic!("nobody else is there"),
    }
}

fn append(repository: &Repository, act: &Act) {
    repository.append(&mut |_| Ok(act.clone())).unwrap();
}

fn condemn(repository: &Repository, packs: &[PackName]) {
    append(repository, &Act::Condemn { packs: packs.to_vec(), session: None, segments: Vec::new() });
}

fn forget(repository: &Repository, snapshots: &[SnapshotId]) {
    append(repository, &Act::Forget { snapshots: snapshots.to_vec(), reason: String::new() });
}

#[test]
fn a_chunk_of_the_session_is_stored_again_when_its_base_was_condemned_before_it_looked_anew() {
    let scene = Scene::new();
    let (repository, base) = (scene.open(), noise(1, 200_000));
    let (base_id, of_base) = protect(&repository, &base);
    let (_, parent) = protect(&repository, &noise(2, 1_000));
    let mut plain = base.clone();
    plain[1_000] ^= 1;
    let id = repository.id_key().chunk_id(&plain);

    let writer = scene.open();
    let session = Session::begin(&writer, 4 * MIB).unwrap();
    assert!(session.rest_on(&parent));
    assert_eq!(session.keyframe(&base_id), Some(base_id));
    with_writers(&session, || {
        assert!(store(&writer, &session, &plain, Some((&base_id, &base))));
        session.flush().unwrap();
    });
    assert_eq!(session.locate(&id).unwrap().base, Some(base_id), "the test is about a chunk with a base");

    let pack = repository.locate(&base_id).unwrap().pack;
    forget(&repository, &[of_base, parent]);
    condemn(&repository, &[pack]);
    assert!(matches!(commit(&session, id), Committed::Again), "the parent is forgotten");
    assert!(with_writers(&session, || store(&writer, &session, &plain, None)), "the copy that is there lost its base");
    assert!(matches!(commit(&session, id), Committed::Done(..)));
    scene.remove(&[pack], &[]);
    scene.reads(&id, &plain);
}

#[test]
fn a_session_that_two_writers_adopted_is_published_once() {
    for is_condemned in [false, true] {
        let scene = Scene::new();
        let (repository, plain) = (scene.open(), noise(1, 50_000));
        let id = repository.id_key().chunk_id(&plain);
        let crashed = Session::begin(&repository, 4 * MIB).unwrap();
        with_writers(&crashed, || {
            store(&repository, &crashed, &plain, None);
            crashed.flush().unwrap();
        });
        drop(crashed);
        let (one, two) = (scene.open(), scene.open());
        let (first, second) = (Session::begin(&one, 4 * MIB).unwrap(), Session::begin(&two, 4 * MIB).unwrap());
        assert!(first.contains(&id) && second.contains(&id), "both adopt");
        let Committed::Done(_, snapshot) = commit(&first, id) else { panic!("the first one publishes") };
        let pack = one.locate(&id).unwrap().pack;
        if is_condemned {
            forget(&one, &[snapshot.id]);
            condemn(&one, &[pack]);
        }
        assert!(matches!(commit(&second, id), Committed::Again), "condemned: {is_condemned}");
        assert_eq!(second.adopted(), []);
        let stored = with_writers(&second, || store(&two, &second, &plain, None));
        assert_eq!(stored, is_condemned, "stored again only where that is needed");
        assert!(matches!(commit(&second, id), Committed::Done(..)));
        if is_condemned {
            scene.remove(&[pack], &[]);
        }
        scene.reads(&id, &plain);
    }
}

#[test]
fn what_an_adopter_took_over_is_not_taken_over_from_it_once_its_owner_is_fenced() {
    for is_fenced_before in [false, true] {
        let scene = Scene::new();
        let repository = scene.open();
        let (theirs, own) = (noise(1, 50_000), noise(2, 50_000));
        let (theirs_id, own_id) = (repository.id_key().chunk_id(&theirs), repository.id_key().chunk_id(&own));
        let crashed = Session::begin(&repository, 4 * MIB).unwrap();
        let owner = crashed.id();
        with_writers(&crashed, || {
            store(&repository, &crashed, &theirs, None);
            crashed.flush().unwrap();
        });
        drop(crashed);
        // Why: without its own segment the pack goes into one of the adopter's.
        for name in scene.objects.names().iter().filter(|name| name.starts_with("index/")) {
            scene.objects.delete(name).unwrap();
        }
        let adopter = Session::begin(&repository, 4 * MIB).unwrap();
        let adopter_id = adopter.id();
        with_writers(&adopter, || {
            assert!(!store(&repository, &adopter, &theirs, None) && store(&repository, &adopter, &own, None));
            adopter.flush().unwrap();
        });
        drop(adopter);

        let fence = Act::Fence { sessions: vec![owner] };
        let mark = scene.cache_mark(&owner);
        if is_fenced_before {
            append(&scene.open(), &fence);
        } else {
            // The crashed session's own mark is lost, as after a crash of the machine; its adopter's is there.
            std::fs::remove_file(mark).unwrap();
        }
        let writer = scene.open();
        let last = Session::begin(&writer, 4 * MIB).unwrap();
        assert!(last.adopted().contains(&adopter_id), "{is_fenced_before}");
        assert_eq!(last.adopted().contains(&owner), !is_fenced_before, "it answers for the owner of the packs too");
        assert!(last.contains(&own_id));
        assert_eq!(last.contains(&theirs_id), !is_fenced_before);
        if !is_fenced_before {
            append(&scene.open(), &fence);
            assert!(matches!(commit(&last, own_id), Committed::Again));
        }
        scene.remove(&[], &[owner]);
        with_writers(&last, || store(&writer, &last, &theirs, None) && store(&writer, &last, &own, None));
        assert!(matches!(commit(&last, theirs_id), Committed::Done(..)));
        scene.reads(&theirs_id, &theirs);
    }
}

/// What an adopted session stored against a base does not count where the base is condemned: the session leaned on another
/// copy meanwhile, and so did not note the base.
#[test]
fn an_own_copy_whose_base_is_gone_does_not_stand_in_for_a_condemned_one() {
    let scene = Scene::new();
    let (repository, base) = (scene.open(), noise(1, 200_000));
    let (base_id, of_base) = protect(&repository, &base);
    let (_, parent) = protect(&repository, &noise(2, 1_000));
    let mut plain = base.clone();
    plain[1_000] ^= 1;
    let id = repository.id_key().chunk_id(&plain);

    let writer = scene.open();
    let session = Session::begin(&writer, 4 * MIB).unwrap();
    assert!(session.rest_on(&parent));
    with_writers(&session, || {
        assert!(store(&writer, &session, &plain, Some((&base_id, &base))));
        session.flush().unwrap();
    });
    // Somebody else stores the same chunk without a base; then the session looks anew, and leans on that one.
    let (_, of_other) = protect(&scene.open(), &plain);
    repository.refresh().unwrap();
    forget(&repository, &[parent]);
    assert!(matches!(commit(&session, id), Committed::Again), "the parent is forgotten");
    assert!(session.contains(&id));
    let packs = [repository.locate(&base_id).unwrap().pack, repository.locate(&id).unwrap().pack];
    forget(&repository, &[of_base, of_other]);
    condemn(&repository, &packs);
    scene.remove(&packs, &[]);
    assert!(matches!(commit(&session, id), Committed::Again), "its own copy lacks the base");
    assert!(with_writers(&session, || store(&writer, &session, &plain, None)));
    assert!(matches!(commit(&session, id), Committed::Done(..)));
    scene.reads(&id, &plain);
}

impl Scene {
    fn cache_mark(&self, session: &SessionId) -> std::path::PathBuf {
        let mut open = vec![self.cache.path().to_owned()];
        while let Some(directory) = open.pop() {
            for item in std::fs::read_dir(&directory).unwrap().flatten() {
                if item.file_name().to_str() == Some(&session.to_string()) && item.path().is_file() {
                    return item.path();
                }
                open.extend(item.path().is_dir().then(|| item.path()));
            }
        }
        panic!("the session has no mark")
    }
}

/// How a crashed session left a base and what it stored against it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Left {
    OneSegment,
    TwoSegments,
    NoSegment,
    /// The base's pack is lost, and so the segment that lists it is worth nothing.
    NoBase,
}

#[test]
fn what_a_crashed_session_stored_against_its_own_is_adopted_with_it() {
    for left in [Left::OneSegment, Left::TwoSegments, Left::NoSegment, Left::NoBase] {
        let scene = Scene::new();
        let (repository, base) = (scene.open(), noise(1, 200_000));
        let mut plain = base.clone();
        plain[1_000] ^= 1;
        let [base_id, id] = [&base, &plain].map(|plain| repository.id_key().chunk_id(plain));
        let crashed = Session::begin(&repository, 4 * MIB).unwrap();
        with_writers(&crashed, || {
            assert!(store(&repository, &crashed, &base, None));
            if left == Left::TwoSegments || left == Left::NoBase {
                crashed.flush().unwrap();
            }
            assert_eq!(crashed.keyframe(&base_id), Some(base_id));
            assert!(store(&repository, &crashed, &plain, Some((&base_id, &base))));
            crashed.flush().unwrap();
        });
        let packs = [base_id, id].map(|id| crashed.locate(&id).unwrap().pack);
        drop(crashed);
        match left {
            Left::OneSegment => assert_eq!(packs[0], packs[1]),
            Left::TwoSegments => assert_ne!(packs[0], packs[1]),
            Left::NoBase => scene.objects.delete(&packs[0].object()).unwrap(),
            Left::NoSegment => {
                let names = scene.objects.names();
                names.iter().filter(|name| name.starts_with("index/")).for_each(|it| scene.objects.delete(it).unwrap());
            }
        }
        let writer = scene.open();
        let session = Session::begin(&writer, 4 * MIB).unwrap();
        with_writers(&session, || {
            let [stored_base, stored] = [&base, &plain].map(|plain| store(&writer, &session, plain, None));
            assert_eq!((stored_base, stored), (left == Left::NoBase, left == Left::NoBase), "{left:?}");
        });
        assert!(matches!(commit(&session, id), Committed::Done(..)), "{left:?}");
        scene.reads(&base_id, &base);
        scene.reads(&id, &plain);
    }
}

/// A pack of an adopted session holds a chunk whose base is gone. No segment lists it, nobody needs it, and that is no damage.
#[test]
fn what_an_adopted_pack_holds_without_its_base_is_no_damage() {
    let scene = Scene::new();
    let (repository, base) = (scene.open(), noise(1, 200_000));
    let (mut plain, other) = (base.clone(), noise(2, 5_000));
    plain[1_000] ^= 1;
    let [base_id, id, other_id] = [&base, &plain, &other].map(|plain| repository.id_key().chunk_id(plain));
    let crashed = Session::begin(&repository, 4 * MIB).unwrap();
    with_writers(&crashed, || {
        assert!(store(&repository, &crashed, &base, None));
        crashed.flush().unwrap();
        assert!(store(&repository, &crashed, &plain, Some((&base_id, &base))));
        assert!(store(&repository, &crashed, &other, None));
        crashed.flush().unwrap();
    });
    let [of_base, pack, of_other] = [base_id, id, other_id].map(|id| crashed.locate(&id).unwrap().pack);
    assert!(of_base != pack && of_other == pack);
    drop(crashed);
    scene.objects.delete(&of_base.object()).unwrap();
    // Without its segments the packs' own lists are read.
    let names = scene.objects.names();
    names.iter().filter(|name| name.starts_with("index/")).for_each(|it| scene.objects.delete(it).unwrap());
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("file"), &other).unwrap();
    let report = backup(&scene.open(), options(paths(source.path())), &Silent).unwrap();
    assert_eq!(report.adopted.len(), 1);
    scene.reads(&other_id, &other);
    let found = check(&scene.open(), Read::All);
    assert!(found.damage.is_empty() && found.packs_read > 1, "{found:?}");
}
