//! torch's distributed checkpoints (DCP): parts named `__RANK_NUMBER.distcp`, and `.metadata`, which is written last under
//! the name `.metadata.tmp` and renamed.
//!
//! Whoever overwrites a checkpoint in place leaves the old `.metadata` over new parts for a while. Sizes may fit then. What
//! gives it away: some parts are much newer than `.metadata` and others are not; or no piece lies where `.metadata` lists one,
//! which also tells a part whose bytes were lost. New parts with each piece where the old one was are the new checkpoint:
//! all that `.metadata` says of it is true.
//!
//! A `.metadata` of more than some 100,000 pieces is too large to be kept in memory. Then the names of its parts are read, and
//! each has to be there and is held against itself alone: it begins and ends as one, and was not written after `.metadata` where
//! others were not.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use super::super::listing::Seen;
use super::super::names;
use super::overwritten::is_of_another_save;
use super::{Marked, Scene};
use crate::readers::{
    DistcpMetadata, DistcpNames, ReadAt, Stored, distcp_goes_on, distcp_lack_by_itself, distcp_metadata,
};

const METADATA: &str = ".metadata";
/// Clocks of several writers may differ by so many seconds. Why more than elsewhere: many hosts write the parts, and all at
/// once, so that the save as the times tell it may be shorter than their clocks differ; and pieces are looked at besides.
const SKEW_SECONDS: i64 = 10;
/// About so many pieces are looked at, of whatever number: each costs small reads at two places, and a file system far away
/// takes a millisecond for one. Of each part two, however many parts there are.
const LOOKS_MAX: usize = 4096;

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
    let pieces = match distcp_metadata(&open) {
        DistcpMetadata::Pieces(pieces) => pieces,
        DistcpMetadata::TooLarge(names) => return unlisted_lack(scene, directory, metadata, &names),
        DistcpMetadata::Unreadable => return Err(format!("{shown} is torn, or not of a distributed checkpoint")),
    };
    let mut parts = Vec::new();
    for pieces in pieces.chunk_by(|left, right| left.file == right.file) {
        parts.push((part(scene, directory, pieces, shown)?, pieces));
    }
    written_in_part(metadata, parts.iter().map(|(part, _)| *part))?;
    let looks = (LOOKS_MAX / parts.len().max(1)).max(2);
    parts.into_iter().try_for_each(|(part, pieces)| {
        let fail = |why: String| format!("{}: {why} (in {shown})", part.text());
        let open = scene.open(part).map_err(|error| format!("{} can't be read: {error}", part.text()))?;
        part_lack(&open, pieces, looks).map_or(Ok(()), |why| Err(fail(why)))
    })
}

/// What lacks where `.metadata` is too large to tell more than the names of its parts.
fn unlisted_lack(scene: &Scene, directory: &Path, metadata: &Seen, names: &DistcpNames) -> Result<(), String> {
    let shown = metadata.text();
    let find = |name: &String| {
        let path = directory.join(below(name, shown)?);
        scene.listing.file(&path).ok_or_else(|| format!("{} is missing: {shown} lists it", path.display()))
    };
    let parts: Vec<&Seen> = names.files.iter().map(find).collect::<Result<_, _>>()?;
    if parts.is_empty() {
        return Err(format!("{shown} is torn, or not of a distributed checkpoint"));
    }
    written_in_part(metadata, parts.iter().copied())?;
    parts.into_iter().try_for_each(|part| {
        let open = scene.open(part).map_err(|error| format!("{} can't be read: {error}", part.text()))?;
        let lack = distcp_lack_by_itself(&open, names.is_transformed);
        lack.map_or(Ok(()), |why| Err(format!("{}: {why}", part.text())))
    })
}

/// The name of a part, if it is one of a file beside `.metadata`.
fn below<'n>(name: &'n str, shown: &str) -> Result<&'n Path, String> {
    let relative = Path::new(name);
    match relative.components().all(|component| matches!(component, Component::Normal(_))) {
        true => Ok(relative),
        false => Err(format!("{shown} names {name:?}, which is no file beside it")),
    }
}

/// Whether some parts came so long after `.metadata` that they are of another save, and others not.
fn written_in_part<'s>(metadata: &Seen, parts: impl Iterator<Item = &'s Seen> + Clone) -> Result<(), String> {
    let Some(oldest) = parts.clone().map(|part| part.mtime).min() else { return Ok(()) };
    let is_newer = |part: &&Seen| is_of_another_save(part.mtime, oldest, metadata.mtime, SKEW_SECONDS);
    let (newer, older): (Vec<&Seen>, Vec<&Seen>) = parts.partition(is_newer);
    match newer.first().filter(|_| !older.is_empty()) {
        None => Ok(()),
        Some(part) => Err(format!(
            "{} is newer than {shown}, others are older: it was overwritten in part (of a mere copy, touch {shown})",
            part.text(),
            shown = metadata.text()
        )),
    }
}

/// The file of these pieces, if it is there and long enough.
fn part<'s>(scene: &'s Scene, directory: &Path, pieces: &[Stored], shown: &str) -> Result<&'s Seen, String> {
    let name = pieces.first().map(|piece| piece.file.as_str()).unwrap_or_default();
    let path = directory.join(below(name, shown)?);
    let Some(part) = scene.listing.file(&path) else {
        return Err(format!("{} is missing: {shown} lists it", path.display()));
    };
    let end = pieces.iter().map(|piece| piece.range.end).max().unwrap_or(0);
    if part.size < end {
        return Err(format!("{} has {} bytes, {shown} lists parts of it up to {end}", part.text(), part.size));
    }
    Ok(part)
}

/// What is wrong with a part: some of its pieces are looked at, the first and the last always. `pieces` ascend.
fn part_lack(part: &dyn ReadAt, pieces: &[Stored], looks: usize) -> Option<String> {
    // Why: pieces in safetensors share one place.
    let places: Vec<&Stored> =
        pieces.chunk_by(|left, right| left.range.start == right.range.start).filter_map(furthest).collect();
    let last = places.last()?;
    let wrong = spread(places.len(), looks).find_map(|place| places[place].lack_in(part));
    let goes_on = || distcp_goes_on(part, last.range.end).then(|| "it goes on behind its last piece".to_owned());
    wrong.or_else(goes_on)
}

fn furthest(pieces: &[Stored]) -> Option<&Stored> {
    pieces.iter().max_by_key(|piece| piece.range.end)
}

/// At most `count` (at least 2) numbers below `length`, evenly spread, the first and the last among them.
fn spread(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let steps = count.min(length).saturating_sub(1).max(1);
    let last = length.saturating_sub(1);
    (0..=steps).map(move |step| last / steps * step + last % steps * step / steps).take(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_pieces_stand_for_many() {
        for (length, count, expected) in [
            (0, 2, &[][..]),
            (1, 2, &[0]),
            (2, 2, &[0, 1]),
            (100_000, 2, &[0, 99_999]),
            (4, 9, &[0, 1, 2, 3]),
            (10, 4, &[0, 3, 6, 9]),
            (11, 4, &[0, 3, 6, 10]),
        ] {
            assert_eq!(spread(length, count).collect::<Vec<_>>(), expected, "{length}, {count}");
        }
    }
}
