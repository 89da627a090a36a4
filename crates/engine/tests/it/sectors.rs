//! A disk with bad sectors: the operating system answers EIO there. Parity gives such pieces back; without it they are
//! damage that is recorded and healed. What fails altogether (a disk that is gone) is no damage.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use seawall_engine::backup::backup;
use seawall_engine::format::names::PackName;
use seawall_engine::format::parity::Parity;
use seawall_engine::monitor::Silent;
use seawall_engine::repair::replace;
use seawall_engine::repo::Repository;
use seawall_engine::store::memory::MemoryStore;
use seawall_engine::store::{Capabilities, Created, ObjectInfo, Store, StoreError};
use seawall_engine::verify::{Read, VerifyOptions, verify};

use crate::damage::check;
use crate::parity::Scene;
use crate::prune::{run, thorough};

const SECTOR: u64 = 4096;

/// What of a disk can't be read.
#[derive(Debug, Clone, PartialEq)]
enum Bad {
    Nothing,
    /// These bytes of this object.
    Range(String, Range<u64>),
    /// Each range of a pack, the first time it is asked for.
    OnceEach,
    /// All packs.
    Packs,
    /// Everything.
    All,
}

/// A store on a disk that goes bad.
struct Disk {
    objects: Arc<MemoryStore>,
    bad: Mutex<Bad>,
    asked: Mutex<HashSet<(String, Option<Range<u64>>)>>,
}

impl Disk {
    fn new(objects: Arc<MemoryStore>) -> Arc<Self> {
        Arc::new(Self { objects, bad: Mutex::new(Bad::Nothing), asked: Mutex::default() })
    }

    fn set(&self, bad: Bad) {
        *self.bad.lock().unwrap() = bad;
    }

    fn fails(&self, name: &str, range: Option<&Range<u64>>) -> bool {
        match &*self.bad.lock().unwrap() {
            Bad::Nothing => false,
            Bad::All => true,
            Bad::Packs => name.starts_with("pack/"),
            Bad::OnceEach => {
                name.starts_with("pack/") && self.asked.lock().unwrap().insert((name.into(), range.cloned()))
            }
            Bad::Range(object, bad) => {
                let asked = range.cloned().unwrap_or(0..u64::MAX);
                name == object && asked.start < bad.end && bad.start < asked.end
            }
        }
    }
}

impl Store for Disk {
    fn location(&self) -> String {
        "a disk that goes bad".into()
    }

    fn get(&self, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StoreError> {
        if self.fails(name, range.as_ref()) {
            let error = io::Error::from_raw_os_error(Errno::IO.raw_os_error());
            return Err(StoreError::from_io(format!("reading {name}"), error));
        }
        self.objects.get(name, range)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.objects.put(name, bytes)
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<Created, StoreError> {
        self.objects.create(name, bytes)
    }

    fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.objects.head(name)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(ObjectInfo)) -> Result<(), StoreError> {
        self.objects.list(prefix, each)
    }

    fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.objects.delete(name)
    }

    fn capabilities(&self) -> Capabilities {
        self.objects.capabilities()
    }
}

fn open(scene: &Scene, disk: &Arc<Disk>) -> Repository {
    Repository::open(disk.clone(), &scene.owner, None).unwrap()
}

fn length(disk: &Disk, pack: &PackName) -> u64 {
    disk.head(&pack.object()).unwrap().length
}

/// The packs that are lost and the chunks that are damaged, as the log says.
fn recorded(scene: &Scene, disk: &Arc<Disk>) -> (Vec<PackName>, usize) {
    let state = open(scene, disk).state();
    let damage = &state.standing.damage;
    let lost = damage.iter().filter(|(_, damage)| damage.lost).map(|(pack, _)| *pack).collect();
    (lost, damage.values().map(|damage| damage.chunks.len()).sum())
}

#[test]
fn parity_gives_a_bad_sector_back() {
    let scene = Scene::new(Parity::of_share(0.02));
    let long =
        |disk: &Disk| scene.packs().into_iter().filter(|pack| length(disk, pack) > 16 * SECTOR).collect::<Vec<_>>();
    let packs = long(&Disk::new(scene.copy()));
    assert!(packs.len() >= 2);
    for pack in packs {
        let last = length(&Disk::new(scene.copy()), &pack) - 1;
        for place in [0, last / 2, last - last / 20, last] {
            let disk = Disk::new(scene.copy());
            let start = place / SECTOR * SECTOR;
            disk.set(Bad::Range(pack.object(), start..start + SECTOR));
            let case = format!("{pack} at {start}");
            scene.assert_restores(&case, &open(&scene, &disk));
            for read in [Read::All, Read::Nothing] {
                let report = check(&open(&scene, &disk), read.clone());
                assert_eq!((&report.damage[..], report.undecided), (&[][..], 0), "{case} {read:?}");
                assert!(report.entries_appended == 0, "{case} {read:?}: nothing is lost");
                let mended: Vec<_> = report.mended.iter().map(|it| it.object.clone()).collect();
                assert!(mended == [pack.object()] || read == Read::Nothing && mended.is_empty(), "{case}: {mended:?}");
            }
            let replaced = replace(&open(&scene, &disk), &[pack], &Silent).unwrap();
            assert_eq!((replaced.packs, replaced.problems), (1, 0), "{case}");
            run(&open(&scene, &disk), &thorough()).unwrap();
            assert!(!disk.objects.names().contains(&pack.object()), "{case}: what lay in it was stored anew");
            scene.assert_restores(&case, &open(&scene, &disk));
        }
    }
}

/// The chunks in it are damage, not the whole pack; the next backup stores them again.
#[test]
fn a_bad_sector_without_parity_is_damage_and_heals() {
    let scene = Scene::new(None);
    let disk = Disk::new(scene.copy());
    let pack = scene.data_pack();
    let start = length(&disk, &pack) / 2 / SECTOR * SECTOR;
    disk.set(Bad::Range(pack.object(), start..start + SECTOR));
    let report = check(&open(&scene, &disk), Read::All);
    assert_eq!(report.undecided, 0, "{report:?}");
    let [damage] = &report.damage[..] else { panic!("{report:?}") };
    assert!(damage.object == pack.object() && !damage.paths.is_empty(), "{damage:?}");
    let (lost, chunks) = recorded(&scene, &disk);
    assert!(lost.is_empty() && (1..=2).contains(&chunks), "{lost:?} {chunks}");
    backup(&open(&scene, &disk), scene.options(), &Silent).unwrap();
    scene.assert_restores("healed", &open(&scene, &disk));
    let report = check(&open(&scene, &disk), Read::All);
    assert_eq!((report.damage.len(), report.harmless.len(), report.undecided), (0, 1, 0), "{report:?}");
    // Nothing that is needed goes, and what can't be read does not end a prune.
    run(&open(&scene, &disk), &thorough()).unwrap();
    scene.assert_restores("pruned", &open(&scene, &disk));
}

#[test]
fn what_fails_altogether_is_no_damage() {
    let scene = Scene::new(None);
    let pack = scene.data_pack();
    let disk = Disk::new(scene.copy());
    assert!(length(&disk, &pack) > 128 * 1024);
    for bad in [Bad::All, Bad::Packs, Bad::OnceEach, Bad::Range(pack.object(), 0..u64::MAX)] {
        let repository = open(&scene, &disk);
        disk.set(bad.clone());
        let options = VerifyOptions { read: Read::All, record: true, threads: 2, budget_bytes: 1 << 24 };
        let outcome = verify(&repository, &options, &Silent);
        disk.set(Bad::Nothing);
        if let Ok(report) = outcome {
            assert_eq!(report.damage, [], "{bad:?}");
            assert!((report.undecided == 0) == (bad == Bad::OnceEach), "{bad:?}: {report:?}");
        }
        assert_eq!(recorded(&scene, &disk), (Vec::new(), 0), "{bad:?}");
        scene.assert_restores("the disk is back", &open(&scene, &disk));
    }
}

/// A file system that checks sums fails a short object as a whole.
#[test]
fn a_short_pack_may_fail_from_end_to_end() {
    let scene = Scene::new(None);
    let disk = Disk::new(scene.copy());
    let short = |pack: &PackName| length(&disk, pack) <= 128 * 1024;
    let packs: Vec<PackName> = scene.packs().into_iter().filter(short).collect();
    assert!(!packs.is_empty());
    for pack in packs {
        let disk = Disk::new(scene.copy());
        disk.set(Bad::Range(pack.object(), 0..u64::MAX));
        check(&open(&scene, &disk), Read::All);
        assert_eq!(recorded(&scene, &disk).0, [pack]);
    }
}
