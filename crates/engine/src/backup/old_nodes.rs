//! Finds the node of the parent snapshot's tree that covers the same keys as a new node: the base against which the new
//! one is encoded, so that a changed entry costs its own bytes and not its neighbours'.
//!
//! A look-up descends from the old root and reads inner nodes only; of the node that it finds, only the id. Nodes come
//! in nearly ascending order, so the way down to the last one is kept: one inner node a level, whatever the size of the
//! tree. What it gives is a hint. Where a node on the way can't be read there is none, and the new node is stored whole.

use crate::entry::TreeKey;
use crate::ids::ChunkId;
use crate::repo::Repository;
use crate::repo::nodes::{Below, NodeReader, NodeRef};

/// The parent snapshot's tree; one for each thread.
pub(crate) struct OldNodes<'r> {
    reader: NodeReader<'r>,
    root: ChunkId,
    /// The nodes on the way down to the last find, the root first, with what lies below each (nothing below a leaf).
    way: Vec<(ChunkId, Vec<NodeRef>)>,
}

impl<'r> OldNodes<'r> {
    /// The tree under `root`.
    pub(crate) fn new(repository: &'r Repository, root: ChunkId) -> Self {
        Self { reader: NodeReader::new(repository), root, way: Vec::new() }
    }

    /// The node at `level` whose range of keys holds `key`; none where the old tree is lower.
    pub(crate) fn holding(&mut self, level: u8, key: &TreeKey) -> Option<ChunkId> {
        let mut node = NodeRef::root(&self.root);
        for depth in 0.. {
            if node.level == Some(level) {
                break;
            }
            let below = self.below(depth, &node)?;
            let own_level = below.first().map_or(0, |child| child.level.map_or(0, |level| level + 1));
            if own_level <= level {
                return (own_level == level).then_some(node.id);
            }
            let at = below.partition_point(|child| child.first.as_ref().is_some_and(|first| first <= key));
            node = below.get(at.saturating_sub(1))?.clone();
        }
        Some(node.id)
    }

    /// What lies below an inner node at this depth from the root.
    fn below(&mut self, depth: usize, node: &NodeRef) -> Option<&[NodeRef]> {
        if self.way.get(depth).is_none_or(|(id, _)| *id != node.id) {
            let below = match self.reader.read(node).ok()? {
                Below::Entries(_) => Vec::new(),
                Below::Nodes(nodes) => nodes,
            };
            self.way.truncate(depth);
            self.way.push((node.id, below));
        }
        self.way.get(depth).map(|(_, below)| below.as_slice())
    }
}

#[cfg(test)]
mod tests;
