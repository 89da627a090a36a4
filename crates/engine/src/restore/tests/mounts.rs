//! What is mounted in the target, and a target that is full. Needs root and `mount`.

use std::io;
use std::process::{Command, Stdio};

use super::*;

/// A mount that ends with the test.
struct Mount(PathBuf);

impl Mount {
    /// `None`, and says so, where this machine does not let tests mount.
    fn new(arguments: &[&str], place: PathBuf) -> Option<Self> {
        fs::create_dir_all(&place).unwrap();
        let status = Command::new("mount").args(arguments).arg(&place).stderr(Stdio::null()).status();
        if status.is_ok_and(|status| status.success()) {
            return Some(Self(place));
        }
        assert!(std::env::var_os("CI").is_none(), "mounting is not possible");
        eprintln!("skipped: mounting is not possible here");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn deleting_does_not_enter_mounts() {
    let place = Place::new();
    let outside = place.path("outside").into_os_string().into_string().unwrap();
    let Some(_other) = Mount::new(&["-t", "tmpfs", "tmpfs"], place.path("target/stray/other")) else { return };
    // The same file system again: the device number does not tell.
    let Some(_bound) = Mount::new(&["--bind", &outside], place.path("target/stray/bound")) else { return };
    let Some(_kept) = Mount::new(&["-t", "tmpfs", "tmpfs"], place.path("target/kept")) else { return };
    fs::write(place.path("target/stray/other/precious"), b"x").unwrap();
    fs::write(place.path("target/stray/goes"), b"x").unwrap();
    fs::write(place.path("target/kept/precious"), b"x").unwrap();
    let before = place.outside();
    let mut made = Made::new();
    made.push("kept", directory());
    made.push("kept/file", file("good"));
    let (report, heard) = place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() });
    assert_eq!((report.unwrap().deleted, place.outside()), (1, before));
    let problems = ["/stray/bound", "/stray/other"].map(|path| ("unwritable", path.to_owned()));
    assert_eq!((heard.problems(), heard.notes.lock().unwrap().len()), (problems.to_vec(), 1));
    for (path, there) in [("stray/other/precious", true), ("kept/precious", true), ("stray/goes", false)] {
        assert_eq!(place.path("target").join(path).exists(), there, "{path}");
    }
}

#[test]
fn a_full_disk_ends_the_run_and_spoils_nothing() {
    let place = Place::new();
    let Some(_small) = Mount::new(&["-t", "tmpfs", "-o", "size=3m", "tmpfs"], place.path("target")) else { return };
    fs::write(place.path("target/b"), b"old").unwrap();
    let mut made = Made::new();
    made.push("a", file("fits"));
    made.push_file("b", &[&vec![1; 2 << 20], &vec![2; 2 << 20]]);
    for number in 0..100 {
        made.push_file(&format!("c{number:03}"), &[&vec![number; 1 << 20]]);
    }
    let (report, heard) = place.run(&made, RestoreOptions::default());
    let Err(Error::File { source, .. }) = report else { panic!("{report:?}") };
    assert_eq!((source.kind(), heard.problems().len()), (io::ErrorKind::StorageFull, 0));
    let target = place.target();
    assert_eq!(target["b"], "file old");
    assert!(target.get("a").is_none_or(|what| what == "file fits"));
    assert!(target.iter().all(|(name, what)| !name.starts_with(".seawall") && what.len() != "file ".len()));
}
