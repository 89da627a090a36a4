//! Orbax: items (`default/`, `params/` …) with `_METADATA` and an OCDBT store in a directory that has `.orbax-checkpoint-tmp` in
//! its name until it is finished. `_CHECKPOINT_METADATA` then has a commit time; where a file system can't rename
//! atomically there is `commit_success.txt` instead.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::json::{Found, number_in_object};
use super::super::listing::Seen;
use super::super::names::{self, ORBAX_TEMPORARY};
use super::{Marked, ReadAt, Scene};
use crate::readers::ocdbt;
use crate::units::MIB;

const METADATA: &str = "_CHECKPOINT_METADATA";
const SUCCESS: &str = "commit_success.txt";
const MANIFEST: &str = "manifest.ocdbt";
const METADATA_BYTES_MAX: u64 = 64 * MIB as u64;
/// The folder of a store's data files.
const DATA: &str = "d";
/// A manifest begins with this, and its own length as u64 (TensorStore's OCDBT format).
const MANIFEST_MAGIC: [u8; 4] = [0x0c, 0xdb, 0x3a, 0x2a];
const MANIFEST_HEAD_BYTES: usize = 12;

/// Whether the names are Orbax's.
pub(super) fn is_it(scene: &Scene) -> bool {
    scene.name.contains(ORBAX_TEMPORARY)
        || scene.listing.entries().iter().any(|entry| {
            entry.name().contains(ORBAX_TEMPORARY)
                || matches!(entry.name(), METADATA | SUCCESS | MANIFEST | "_METADATA")
        })
}

/// A commit time, or the file that stands for one.
pub(super) fn marked(scene: &Scene) -> Marked {
    let success = scene.direct(SUCCESS).map(|file| file.mtime);
    let Some(metadata) = scene.direct(METADATA) else {
        return success.map(Some).ok_or_else(|| format!("neither {METADATA} nor {SUCCESS} is there"));
    };
    let bytes = scene.read(metadata, METADATA_BYTES_MAX)?;
    match number_in_object(&bytes, "commit_timestamp_nsecs") {
        Found::Torn => Err(format!("{METADATA} is torn")),
        Found::Number(1..) => Ok(Some(metadata.mtime)),
        _ => success.map(Some).ok_or_else(|| format!("{METADATA} has no commit time")),
    }
}

/// A manifest that is not as long as it says, has another checksum than it says, or names data files that are not there.
pub(super) fn lack(scene: &Scene) -> Option<String> {
    scene.listing.files().filter(|file| file.name() == MANIFEST).find_map(|file| {
        let mut head = [0; MANIFEST_HEAD_BYTES];
        let read = scene.open(file).and_then(|open| open.read_at(0, &mut head).map(|()| open.length()));
        let (magic, length) = head.split_at(MANIFEST_MAGIC.len());
        if !read.is_ok_and(|bytes| magic == MANIFEST_MAGIC && length == bytes.to_le_bytes()) {
            return Some(format!("{} is torn", file.text()));
        }
        // Why not one that is too long to be read: its length is right.
        let bytes = scene.read(file, METADATA_BYTES_MAX).ok()?;
        if !ocdbt::is_whole_manifest(&bytes) {
            return Some(format!("{} is damaged: its checksum is wrong", file.text()));
        }
        data_lack(scene, file, &bytes)
    })
}

/// The data files that a manifest names have to be there; at least one where it is not understood.
fn data_lack(scene: &Scene, manifest: &Seen, bytes: &[u8]) -> Option<String> {
    let store = manifest.path.parent().unwrap_or(Path::new(""));
    let shown = manifest.text();
    if let Some(files) = ocdbt::data_files(bytes) {
        let mut paths = files.iter().filter(|file| file.is_relative()).map(|file| store.join(file));
        let missing = paths.find(|path| scene.listing.file(path).is_none())?;
        return Some(format!("{} is missing: {shown} names it", missing.display()));
    }
    let is_data = |file: &Seen| file.path.parent().is_some_and(|folder| folder.ends_with(DATA));
    let has_data = scene.listing.files().any(|file| file.path.starts_with(store) && is_data(file));
    (!has_data).then(|| format!("no data file is beside {shown}"))
}

/// How many processes wrote parts.
pub(super) fn processes(scene: &Scene) -> Option<u64> {
    let names = scene.listing.entries().iter().filter_map(|entry| entry.name().strip_prefix("ocdbt.process_"));
    let processes: BTreeSet<&str> = names.filter(|name| names::directory(name).is_some()).collect();
    u64::try_from(processes.len()).ok().filter(|&count| count > 0)
}
