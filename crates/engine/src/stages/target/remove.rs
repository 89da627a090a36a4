//! Removing what stands in the target, trees included.
//!
//! A tree is taken down from its leaves, through open handles, with a bounded number of them and without recursion. No
//! link is followed; a mount point is not entered. What the caller wants kept stays, and so do the directories above
//! it. With `dry` everything is looked at and nothing is removed.

use std::io;
use std::sync::Arc;

use super::directory::{Directory, Listing, Name, Standing};
use super::ladder::Ladder;
use super::metadata;
use crate::entry::TreeKey;

/// Who is asked and told about each removal.
pub trait Removal {
    /// True if the thing at `key`, which is as `standing` says, may go. A directory that must stay is not looked into.
    fn may_remove(&mut self, key: &TreeKey, standing: &Standing) -> bool;
    /// The thing at `key` is gone, or would be.
    fn removed(&mut self, key: &TreeKey);
    /// The thing at `key` could not be removed.
    fn failed(&mut self, key: &TreeKey, error: &io::Error);
}

struct Level {
    key: TreeKey,
    listing: Listing,
    kept: bool,
}

/// Removes `key`'s last component from `directory`, with all below it. True if nothing of it is left.
///
/// # Errors
/// When a directory was moved away while it was emptied.
pub fn remove(directory: &Arc<Directory>, key: &TreeKey, dry: bool, removal: &mut dyn Removal) -> io::Result<bool> {
    let mut ladder = Ladder::new(Arc::clone(directory));
    let mut levels: Vec<Level> = Vec::new();
    let mut kept = step(&mut ladder, &mut levels, key.clone(), dry, removal);
    while let Some(level) = levels.last_mut() {
        level.kept |= kept;
        if let Some(name) = level.listing.first() {
            let below = level.key.child(name);
            level.listing.advance();
            kept = step(&mut ladder, &mut levels, below, dry, removal);
            continue;
        }
        ladder.ascend()?;
        let done = levels.pop().expect("there is a last level");
        kept = done.kept || !take(&ladder, &done.key, true, dry, removal);
    }
    Ok(!kept)
}

/// Removes a leaf, or goes down into a directory. True if something stays.
fn step(ladder: &mut Ladder, levels: &mut Vec<Level>, key: TreeKey, dry: bool, removal: &mut dyn Removal) -> bool {
    let present = ladder.lowest();
    let standing = match Name::new(key.name()).and_then(|name| present.standing(name)) {
        Ok(Some(standing)) => standing,
        Ok(None) => return false,
        Err(error) => {
            removal.failed(&key, &error);
            return true;
        }
    };
    if !removal.may_remove(&key, &standing) {
        return true;
    }
    if !standing.is_directory() {
        return !take(ladder, &key, false, dry, removal);
    }
    let opened = Name::new(key.name()).and_then(|name| present.open_same_mount(name));
    match opened.and_then(|directory| Ok((directory.names()?, directory))) {
        Ok((listing, directory)) => {
            ladder.descend(Arc::new(directory));
            levels.push(Level { key, listing, kept: false });
            false
        }
        Err(error) => {
            removal.failed(&key, &error);
            true
        }
    }
}

/// Removes one name from the present directory. True if it is gone.
fn take(ladder: &Ladder, key: &TreeKey, is_directory: bool, dry: bool, removal: &mut dyn Removal) -> bool {
    let result = if dry { Ok(()) } else { unlink(ladder.lowest(), key.name(), is_directory) };
    match &result {
        Ok(()) => removal.removed(key),
        Err(error) => removal.failed(key, error),
    }
    result.is_ok()
}

fn unlink(directory: &Directory, name: &[u8], is_directory: bool) -> io::Result<()> {
    let name = Name::new(name)?;
    let attempt = || if is_directory { directory.remove_directory(name) } else { directory.unlink(name) };
    match attempt() {
        // Append-only or immutable things resist even root until the flag is off, on them or on their directory.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let unlocked = metadata::unlock(directory.handle());
            unlocked.and_then(|()| directory.without_locks(name, attempt)).map_err(|_| error)
        }
        result => result,
    }
}
