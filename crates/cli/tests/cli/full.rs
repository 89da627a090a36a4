//! A file system that is full, at every stage of every verb: little by little more room is left, and each verb either
//! succeeds or says so; when there is room again, everything restores and works.
//!
//! Needs root, to mount a small tmpfs and a small ext4; else the test says that it was skipped.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::crash::rounds;
use super::world::ended;
use super::yard::{Table, Verb, Yard};

const SIZE_BYTES: u64 = 48 << 20;
/// Room that is left, in KiB.
const LEFT_KIB: [u64; 9] = [0, 4, 8, 16, 40, 100, 300, 700, 1_500];

/// A file system of its own, as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(arguments: &[&str], place: &Path) -> Option<Self> {
        let status = Command::new("mount").args(arguments).arg(place).status().ok()?;
        status.success().then(|| Self(place.to_path_buf()))
    }

    fn tmpfs(place: &Path, _image: &Path) -> Option<Self> {
        Self::mount(&["-t", "tmpfs", "-o", &format!("size={SIZE_BYTES}"), "none"], place)
    }

    fn ext4(place: &Path, image: &Path) -> Option<Self> {
        File::create(image).unwrap().set_len(SIZE_BYTES).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image).status().ok()?;
        made.success().then(|| Self::mount(&["-o", "loop", image.to_str()?], place))?
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Fills the file system up to so many bytes; gives the file that does.
fn fill(place: &Path, left: u64) -> PathBuf {
    let filler = place.join("filler");
    let mut file = File::create(&filler).unwrap();
    let room = rustix::fs::statvfs(place).unwrap();
    let mut rest = (room.f_bavail * room.f_frsize).saturating_sub(left);
    let zeros = vec![0; 1 << 20];
    while rest > 0 {
        let next = rest.min(zeros.len() as u64);
        // What is left at the end may be too little for the file system's own needs.
        if file.write_all(&zeros[..usize::try_from(next).unwrap()]).is_err() {
            break;
        }
        rest -= next;
    }
    let _ = file.sync_all();
    filler
}

fn fill_up(kind: &str, mount: fn(&Path, &Path) -> Option<Mounted>) {
    let yard = Yard::new("disk/repo");
    let place = yard.world.path("disk");
    let Some(_mounted) = mount(&place, &yard.world.path("image")) else {
        let is_needed = nix::unistd::geteuid().is_root() && std::env::var_os("CI").is_some();
        assert!(!is_needed, "root can't mount {kind} here");
        println!("skipped: {kind} can't be mounted");
        return;
    };
    yard.init();
    let mut host = yard.host("host", 0xf011);
    host.file_bytes_max = 200_000;
    // Why so many: each backup has something to store.
    host.contents = u64::MAX;
    let mut table = Table::default();
    for _ in 0..3 {
        assert_eq!(ended(host.verb(Verb::Backup).output().unwrap()).code, 0);
    }
    let verbs = [Verb::Backup, Verb::Forget, Verb::Prune, Verb::Rotate];
    for round in 0..rounds().div_ceil(16).min(4) {
        for (left, verb) in LEFT_KIB.iter().flat_map(|left| verbs.map(|verb| (left, verb))) {
            let filler = fill(&place, (left + round) << 10);
            let run = ended(host.verb(verb).output().unwrap());
            std::fs::remove_file(filler).unwrap();
            let is_told = run.code == 0 || run.stderr.contains("full") || run.stderr.contains("space");
            assert!(is_told, "{verb:?} with {left} KiB: {} {}", run.code, run.stderr);
            table.note(verb, if run.code == 0 { "fits" } else { "says that the disk is full" });
            yard.check();
            if verb == Verb::Backup {
                assert_eq!(ended(host.verb(verb).output().unwrap()).code, 0, "with room again");
            }
        }
    }
    let snapshots = yard.check();
    table.print(&format!("a full {kind}:"));
    println!("{snapshots} snapshots restore");
    assert!(table.count("says that the disk is full") >= LEFT_KIB.len() as u64, "it was hardly ever full");
}

#[test]
fn a_full_tmpfs_costs_nothing() {
    fill_up("tmpfs", Mounted::tmpfs);
}

#[test]
fn a_full_ext4_costs_nothing() {
    fill_up("ext4", Mounted::ext4);
}
