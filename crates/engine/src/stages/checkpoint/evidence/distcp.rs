//! torch's distributed checkpoints (DCP): parts named `__RANK_NUMBER.distcp`, and `.metadata`, which is written last under
//! the name `.metadata.tmp` and renamed.
//!
//! Whoever overwrites a checkpoint in place leaves the old `.metadata` over new parts for a while. Sizes may fit then; that
//! some parts are newer than `.metadata` and others older gives it away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use super::super::listing::Seen;
use super::super::names;
use super::{Marked, Scene};
use crate::readers::distcp_metadata;

const METADATA: &str = ".metadata";
/// Clocks of several writers may differ by so many seconds.
const SKEW_SECONDS: i64 = 2;

/// Whether a file belongs to one.
pub(super) fn is_part(file: &Seen) -> bool {
    let name = file.name();
    name == METADATA || name == ".metadata.tmp" || name.ends_with(".distcp")
}

/// The newest `.metadata` says that it is finished.
pub(super) fn marked(scene: &Scene) -> Marked {
    let newest = scene.listing.files().filter(|file| file.name() == METADATA).map(|file| file.mtime).max();
    newest.map(Some).ok_or_else(|| format!("{METADATA} is not there"))
}

/// How many ranks wrote parts.
pub(super) fn ranks(scene: &Scene) -> Option<u64> {
    let highest = scene.listing.files().filter_map(|file| names::distcp_rank(file.name())).max()?;
    highest.checked_add(1)
}

/// What lacks in any directory with parts.
pub(super) fn lack(scene: &Scene) -> Option<String> {
    let parts = scene.listing.files().filter(|file| is_part(file));
    let directories: BTreeSet<&Path> = parts.filter_map(|part| part.path.parent()).collect();
    directories.into_iter().find_map(|directory| directory_lack(scene, directory).err())
}

fn directory_lack(scene: &Scene, directory: &Path) -> Result<(), String> {
    let path = directory.join(METADATA);
    let metadata = scene.listing.file(&path).ok_or_else(|| format!("{} is not there", path.display()))?;
    let shown = metadata.text();
    let open = scene.open(metadata).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let pieces =
        distcp_metadata(&open).ok_or_else(|| format!("{shown} is torn, or not of a distributed checkpoint"))?;
    let mut ends: BTreeMap<&str, u64> = BTreeMap::new();
    for piece in &pieces {
        let end = ends.entry(&piece.file).or_default();
        *end = piece.range.end.max(*end);
    }
    let mut newer = Vec::new();
    for (name, &end) in &ends {
        let relative = Path::new(name);
        if !relative.components().all(|component| matches!(component, Component::Normal(_))) {
            return Err(format!("{shown} names {name:?}, which is no file beside it"));
        }
        let path = directory.join(relative);
        let Some(part) = scene.listing.file(&path) else {
            return Err(format!("{} is missing: {shown} lists it", path.display()));
        };
        if part.size < end {
            return Err(format!("{} has {} bytes, {shown} lists parts of it up to {end}", part.text(), part.size));
        }
        newer.extend((part.mtime.seconds > metadata.mtime.seconds.saturating_add(SKEW_SECONDS)).then_some(part));
    }
    match newer.first() {
        Some(part) if newer.len() < ends.len() => Err(format!(
            "{} is newer than {shown}, others are older: it was overwritten in part (of a mere copy, touch {shown})",
            part.text()
        )),
        _ => Ok(()),
    }
}
