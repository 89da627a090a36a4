//! Diff: what changed between two snapshots, in order of paths.
//!
//! Two trees are merged without reading the nodes that they share, so the work follows the size of the change
//! ([`crate::repo::tree_diff`]). No content is read: files are told apart by their chunk ids, which are the content's
//! hash.
//!
//! What a restore does not bring back (inode numbers, times of the last inode change and of birth) is not a change.

use std::ops::ControlFlow;

use crate::entry::{Entry, TreeKey};
use crate::error::Result;
use crate::ids::ChunkId;
use crate::repo::Repository;
use crate::repo::tree_diff::TreeDiff;

/// In what a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// Only the second snapshot has it.
    Added,
    /// Only the first snapshot has it.
    Removed,
    /// The file's bytes (or where it has holes), the link's target, or the device's number. The metadata may differ too.
    Content,
    /// Only mode, owner, modification time, extended attributes, inode flags, or whether it has other names.
    Metadata,
    /// A file became a directory, a directory a link, and so on.
    Type,
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub key: TreeKey,
    /// In what it differs.
    pub kind: ChangeKind,
    /// The entry in the first snapshot.
    pub old: Option<Entry>,
    /// The entry in the second snapshot.
    pub new: Option<Entry>,
}

/// Totals of a diff.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffReport {
    /// Paths that only the second snapshot has.
    pub added: u64,
    /// Paths that only the first has.
    pub removed: u64,
    /// Paths whose content differs.
    pub content: u64,
    /// Paths whose metadata alone differs.
    pub metadata: u64,
    /// Paths that are another kind of object.
    pub types: u64,
    /// Plain bytes of added files and the new versions of changed ones.
    pub bytes_added: u64,
    /// Plain bytes of removed files and the old versions of changed ones.
    pub bytes_removed: u64,
    /// Tree nodes read.
    pub nodes_read: u64,
    /// Pairs of equal nodes that were not read.
    pub nodes_shared: u64,
    /// True if the receiver ended the diff early.
    pub stopped: bool,
}

/// Gives `each` what differs between the trees `a` and `b` at and below `within`, in ascending order of keys.
///
/// # Errors
/// [`Error::NotAllowed`](crate::error::Error::NotAllowed) with a member's key; when a node that the trees do not share is missing or damaged.
pub fn diff(
    repository: &Repository,
    a: &ChunkId,
    b: &ChunkId,
    within: &TreeKey,
    each: &mut dyn FnMut(Change) -> ControlFlow<()>,
) -> Result<DiffReport> {
    repository.refuse_unable_to_read()?;
    let mut report = DiffReport::default();
    let mut differing = TreeDiff::new(repository, a, b, within);
    for found in differing.by_ref() {
        let found = found?;
        let Some(kind) = change_kind(found.old.as_ref(), found.new.as_ref()) else { continue };
        let change = Change { key: found.key, kind, old: found.old, new: found.new };
        report.count(&change);
        if each(change).is_break() {
            report.stopped = true;
            break;
        }
    }
    (report.nodes_read, report.nodes_shared) = differing.nodes();
    Ok(report)
}

impl DiffReport {
    fn count(&mut self, change: &Change) {
        let counter = match change.kind {
            ChangeKind::Added => &mut self.added,
            ChangeKind::Removed => &mut self.removed,
            ChangeKind::Content => &mut self.content,
            ChangeKind::Metadata => &mut self.metadata,
            ChangeKind::Type => &mut self.types,
        };
        *counter += 1;
        if change.kind != ChangeKind::Metadata {
            let bytes =
                |entry: &Option<Entry>| entry.as_ref().filter(|entry| entry.is_file()).map_or(0, |file| file.size);
            self.bytes_added += bytes(&change.new);
            self.bytes_removed += bytes(&change.old);
        }
    }
}

/// In what two entries differ; `None` where nothing that matters does.
#[must_use]
pub fn change_kind(old: Option<&Entry>, new: Option<&Entry>) -> Option<ChangeKind> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(ChangeKind::Added),
        (Some(_), None) => Some(ChangeKind::Removed),
        (Some(old), Some(new)) if std::mem::discriminant(&old.kind) != std::mem::discriminant(&new.kind) => {
            Some(ChangeKind::Type)
        }
        (Some(old), Some(new)) if old.kind != new.kind => Some(ChangeKind::Content),
        (Some(old), Some(new)) => (!same_metadata(old, new)).then_some(ChangeKind::Metadata),
    }
}

fn same_metadata(old: &Entry, new: &Entry) -> bool {
    let numbers = |entry: &Entry| (entry.mode, entry.uid, entry.gid, entry.mtime, entry.flags, entry.links.is_some());
    numbers(old) == numbers(new) && old.user == new.user && old.group == new.group && old.xattrs == new.xattrs
}
