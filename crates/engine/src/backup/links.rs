//! Hard links of a running backup: which names belong to one inode, and the entry that a further name takes over.
//!
//! Invariant: two names get one link group only where nothing says that they are of different files: while the walk goes
//! on, an inode may be freed and used again, and a restore links all names of a group to the first. Groups are counted
//! and entries are weighed: beyond either limit a further name is read again, which costs time only.

use std::collections::HashMap;

use crate::clock::Timestamp;
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup};
use crate::stages::metadata::LinkTable;
use crate::stages::walk::Stat;
use crate::units::MIB;

/// So many inodes with several names are remembered, and so many of which all names were met.
const GROUPS_MAX: usize = 20_000;
/// Memory for the entries of inodes whose further names are still to come.
const ENTRIES_BYTES_MAX: usize = 16 * MIB;

/// What tells a file from another one that got its inode number later: its birth, which never changes; on a file system
/// that knows none, its size and time of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Identity {
    Born(Timestamp),
    Looks(u64, Timestamp),
}

impl From<&Stat> for Identity {
    fn from(stat: &Stat) -> Self {
        stat.btime.map_or(Self::Looks(stat.size, stat.mtime), Self::Born)
    }
}

impl From<&Entry> for Identity {
    fn from(entry: &Entry) -> Self {
        entry.btime.map_or(Self::Looks(entry.size, entry.mtime), Self::Born)
    }
}

struct Inode {
    identity: Identity,
    /// Names that were not met yet.
    names_left: u64,
    /// True if the first name is read, so that further names wait for its entry.
    read: bool,
    entry: Option<Box<Entry>>,
}

/// What is known of a group's first name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First<'l> {
    /// Its entry was not kept, or it could not be read.
    Unknown,
    /// Its entry.
    Same(&'l Entry),
    /// What was read under it is another file.
    OtherFile,
}

/// See the module's page.
#[derive(Default)]
pub(crate) struct HardLinks {
    table: LinkTable,
    inodes: HashMap<LinkGroup, Inode>,
    /// Inodes of which all names were met lately: their numbers may come again.
    finished: HashMap<LinkGroup, Identity>,
    entries_bytes: usize,
}

impl HardLinks {
    /// The group of a found name; none for an only name, and for one whose inode number was another file's before.
    pub(crate) fn group(&mut self, stat: &Stat) -> Option<LinkGroup> {
        let group = self.table.group(stat)?;
        let open = self.inodes.get(&group).map(|inode| inode.identity);
        let known = open.or_else(|| self.finished.get(&group).copied());
        known.is_none_or(|identity| identity == Identity::from(stat)).then_some(group)
    }

    /// True if the group's first name is read and its entry is to be taken over.
    pub(crate) fn is_read(&self, group: LinkGroup) -> bool {
        self.inodes.get(&group).is_some_and(|inode| inode.read)
    }

    /// A name of the group was met that waits for no other; `read` tells whether it is read.
    pub(crate) fn met(&mut self, group: LinkGroup, stat: &Stat, read: bool) {
        if self.inodes.contains_key(&group) {
            self.one_name_less(group);
        } else if self.inodes.len() < GROUPS_MAX {
            let names_left = u64::from(stat.links).saturating_sub(1);
            self.inodes.insert(group, Inode { identity: stat.into(), names_left, read, entry: None });
        }
    }

    /// Keeps the first name's entry, as it was written, where there is room.
    pub(crate) fn keep(&mut self, group: LinkGroup, entry: &Entry) {
        let Some(inode) = self.inodes.get_mut(&group).filter(|inode| inode.read && inode.entry.is_none()) else {
            return;
        };
        let bytes = weight(entry);
        if self.entries_bytes + bytes <= ENTRIES_BYTES_MAX {
            self.entries_bytes += bytes;
            inode.entry = Some(Box::new(entry.clone()));
        }
    }

    /// What a further name, found as `stat`, has of the first. Why it is asked again: the first name was read later than
    /// both were found, and where there are no births the inode may have come to another file meanwhile.
    pub(crate) fn first(&self, group: LinkGroup, stat: &Stat) -> First<'_> {
        match self.inodes.get(&group).and_then(|inode| inode.entry.as_deref()) {
            None => First::Unknown,
            Some(entry) if Identity::from(entry) == Identity::from(stat) => First::Same(entry),
            Some(_) => First::OtherFile,
        }
    }

    /// Forgets an inode once all its names were met.
    pub(crate) fn one_name_less(&mut self, group: LinkGroup) {
        let Some(inode) = self.inodes.get_mut(&group) else { return };
        inode.names_left = inode.names_left.saturating_sub(1);
        if inode.names_left > 0 {
            return;
        }
        if let Some(Inode { identity, entry, .. }) = self.inodes.remove(&group) {
            self.entries_bytes -= entry.as_deref().map_or(0, weight);
            if self.finished.len() >= GROUPS_MAX {
                self.finished.clear();
            }
            self.finished.insert(group, identity);
        }
    }
}

/// About the memory that an entry takes.
fn weight(entry: &Entry) -> usize {
    let content = match &entry.kind {
        Kind::File(Content::Inline(bytes)) | Kind::Symlink(bytes) => bytes.len(),
        Kind::File(Content::Extents(extents)) => size_of_val::<[Extent]>(extents),
        _ => 0,
    };
    let attributes: usize =
        entry.xattrs.iter().map(|(name, value)| size_of::<(Vec<u8>, Vec<u8>)>() + name.len() + value.len()).sum();
    let names = [&entry.user, &entry.group].into_iter().flatten().map(String::len).sum::<usize>();
    size_of::<Entry>() + content + attributes + names
}

#[cfg(test)]
mod tests;
