//! What the clients back up: a directory each, with files that others have too, or had, or nearly had.
//!
//! Every version of a file gets a modification time of its own, so that a run looks the same each time.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::chance::Chance;

/// The files of a source, by path.
pub type Files = BTreeMap<PathBuf, Arc<[u8]>>;

const FILES_MAX: usize = 12;
/// Holes are whole pages.
const PAGE: usize = 4096;
/// Pieces of a file with holes.
const TEETH: usize = 66;

pub struct Source {
    root: PathBuf,
    pub files: Files,
    versions: u64,
    /// Whether much of it is versions that share half.
    has_halves: bool,
}

/// Bytes that neither compress nor repeat.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

/// The kind of content of which versions share half.
const HALVES: usize = 10;

/// Content for a file: of few kinds, so that sources share much.
fn content(chance: &mut Chance, has_halves: bool) -> Vec<u8> {
    let kind = if has_halves && chance.happens(400) { HALVES } else { chance.below(12) };
    match kind {
        11 => with_holes(chance.next()),
        // Lies in the entry itself.
        0 => noise(chance.next() % 4, 300),
        1..=3 => noise(10 + chance.next() % 6, 4_000),
        4 => noise(20 + chance.next() % 4, 15_000),
        // Long enough to be cut.
        5 => noise(30 + chance.next() % 2, 90_000),
        // Versions that share half, so that a base of few of them does not pay.
        HALVES => [noise(60, 6_000), noise(61 + chance.next() % 4, 6_000)].concat(),
        // Versions that are worth encoding against each other.
        _ => {
            let mut bytes = noise(40 + chance.next() % 2, 12_000);
            for edit in 0..chance.below(6) {
                bytes[edit * 1_900..edit * 1_900 + 5].copy_from_slice(b"other");
            }
            bytes
        }
    }
}

/// More pieces between holes than an entry holds: the list of extents is a chunk, and what it names is taken over unseen.
fn with_holes(seed: u64) -> Vec<u8> {
    let teeth = [50, 51, 52].map(|tooth| noise(tooth + seed % 3 * 10, PAGE));
    let hole = vec![0; PAGE];
    (0..TEETH).map(|number| [&teeth[number % 3][..], &hole].concat()).collect::<Vec<_>>().concat()
}

impl Source {
    pub fn new(root: PathBuf, has_halves: bool) -> Self {
        fs::create_dir_all(&root).unwrap();
        Self { root, files: Files::new(), versions: 0, has_halves }
    }

    /// Changes some files.
    pub fn change(&mut self, chance: &mut Chance) {
        if self.versions == 0 {
            self.write(self.root.join("a/long"), with_holes(chance.next()));
        }
        let count = if self.versions == 1 { 5 } else { chance.below(4) };
        for _ in 0..count {
            let number = chance.below(FILES_MAX);
            let path = self.root.join(["a", "b", "c"][number % 3]).join(number.to_string());
            if self.files.contains_key(&path) && chance.happens(250) {
                fs::remove_file(&path).unwrap();
                self.files.remove(&path);
            } else {
                let bytes = content(chance, self.has_halves);
                self.write(path, bytes);
            }
        }
    }

    fn write(&mut self, path: PathBuf, bytes: Vec<u8>) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        let file = File::create(&path).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (number, page) in (0..).zip(bytes.chunks(PAGE)).filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
            file.write_all_at(page, number * PAGE as u64).unwrap();
        }
        self.versions += 1;
        let time = UNIX_EPOCH + Duration::from_secs(1_000_000_000 + self.versions);
        file.set_modified(time).unwrap();
        self.files.insert(path, bytes.into());
    }
}

/// Every regular file below a directory, by path.
pub fn files_below(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for item in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if item.file_type().unwrap().is_dir() {
                open.push(item.path());
            } else {
                found.insert(item.path(), fs::read(item.path()).unwrap());
            }
        }
    }
    found
}
