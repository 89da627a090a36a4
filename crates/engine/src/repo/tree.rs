//! A snapshot's tree: one ordered map from tree key to entry, in content-defined nodes (docs/format.md §9).
//!
//! The writer takes entries in ascending order and hands out finished nodes from the leaves up; where a boundary falls
//! depends only on keys, entry lengths and child ids, so equal ranges give equal nodes. The reader walks in order or
//! descends to one key, and holds one node a level.

use crate::crypto::Secret32;
use crate::entry::{Entry, TreeKey};
use crate::error::{Damaged, Result};
use crate::format::node::{
    Child, INNER_ITEMS, LeafWriter, NODE_BYTES, Node, decode_node, encode_inner, inner_ends_after, leaf_ends_after,
};
use crate::ids::ChunkId;

/// No tree is deeper; a deeper one is damage.
const LEVELS_MAX: u8 = 12;

/// A finished node on its way to the store.
#[derive(Debug, Clone, Copy)]
pub struct NewNode<'a> {
    /// Its plain bytes.
    pub plain: &'a [u8],
    /// Levels above the leaves.
    pub level: u8,
    /// The first key in or below it; the root's key in an empty tree.
    pub first: &'a TreeKey,
}

/// Writes a tree. `store` takes a node and gives its id.
pub struct TreeWriter<S> {
    chunker_key: Secret32,
    leaf: LeafWriter,
    first: Option<TreeKey>,
    last: Option<TreeKey>,
    entries: u64,
    bytes: u64,
    levels: Vec<Level>,
    store: S,
}

/// What a level above the leaves holds open.
#[derive(Default)]
struct Level {
    children: Vec<Child>,
    /// Encoded length of `children`.
    bytes: usize,
    /// True once a node of this level was stored.
    has_nodes: bool,
}

/// A finished tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeRoot {
    /// Id of the root node.
    pub id: ChunkId,
    /// Entries in the tree.
    pub entries: u64,
    /// Sum of the entries' sizes in bytes.
    pub bytes: u64,
}

impl<S: FnMut(NewNode<'_>) -> Result<ChunkId>> TreeWriter<S> {
    /// A writer of an empty tree.
    pub fn new(chunker_key: &Secret32, store: S) -> Self {
        Self {
            chunker_key: chunker_key.clone(),
            leaf: LeafWriter::default(),
            first: None,
            last: None,
            entries: 0,
            bytes: 0,
            levels: Vec::new(),
            store,
        }
    }

    /// Appends an entry; `key` must be above all keys before it.
    ///
    /// # Errors
    /// What storing a finished node fails with.
    pub fn push(&mut self, key: &TreeKey, entry: &Entry) -> Result<()> {
        assert!(self.last.as_ref().is_none_or(|last| last < key), "entries come in ascending order");
        let length = self.leaf.push(key, entry);
        self.first.get_or_insert_with(|| key.clone());
        self.last = Some(key.clone());
        self.entries += 1;
        self.bytes += entry.size;
        if self.leaf.is_full() || leaf_ends_after(&self.chunker_key, key, length) {
            self.finish_leaf()?;
        }
        Ok(())
    }

    /// Stores what is open and gives the root.
    ///
    /// # Errors
    /// What storing a node fails with.
    pub fn finish(mut self) -> Result<TreeRoot> {
        if self.first.is_some() {
            self.finish_leaf()?;
        }
        if self.levels.is_empty() {
            // Why not as a child: an inner node could end after it, and would have to name a first key.
            let empty = NewNode { plain: &self.leaf.take(), level: 0, first: &TreeKey::default() };
            return Ok(TreeRoot { id: (self.store)(empty)?, entries: 0, bytes: 0 });
        }
        let mut level = 0;
        loop {
            let is_top = self.levels.len() == level + 1 && !self.levels[level].has_nodes;
            if is_top && self.levels[level].children.len() == 1 {
                let root = &self.levels[level].children[0];
                return Ok(TreeRoot { id: root.id, entries: root.entries, bytes: root.bytes });
            }
            if !self.levels[level].children.is_empty() {
                self.finish_inner(level)?;
            }
            level += 1;
        }
    }

    fn finish_leaf(&mut self) -> Result<()> {
        let node = self.leaf.take();
        let first = self.first.take().unwrap_or_default();
        let id = (self.store)(NewNode { plain: &node, level: 0, first: &first })?;
        let child = Child { first, id, entries: self.entries, bytes: self.bytes };
        (self.entries, self.bytes) = (0, 0);
        self.add_child(0, child)
    }

    fn add_child(&mut self, level: usize, child: Child) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Level::default());
        }
        let open = &mut self.levels[level];
        open.bytes += child.encoded_len();
        let ends = inner_ends_after(&child.id);
        open.children.push(child);
        if ends || open.children.len() >= INNER_ITEMS || open.bytes >= NODE_BYTES {
            self.finish_inner(level)?;
        }
        Ok(())
    }

    /// Stores the open children of `level` as one node of the level above.
    fn finish_inner(&mut self, level: usize) -> Result<()> {
        let open = &mut self.levels[level];
        let children = std::mem::take(&mut open.children);
        (open.bytes, open.has_nodes) = (0, true);
        let number = u8::try_from(level + 1).unwrap_or(LEVELS_MAX);
        let node = encode_inner(number, &children);
        let first = children.first().map(|child| child.first.clone()).unwrap_or_default();
        let id = (self.store)(NewNode { plain: &node, level: number, first: &first })?;
        let entries = children.iter().map(|child| child.entries).sum();
        let bytes = children.iter().map(|child| child.bytes).sum();
        self.add_child(level + 1, Child { first, id, entries, bytes })
    }
}

type ReadNode<'r> = Box<dyn Fn(&ChunkId) -> Result<Vec<u8>> + 'r>;

/// Reads a tree through `read`, which gives a node's plain bytes.
pub struct TreeReader<'r> {
    read: ReadNode<'r>,
    root: ChunkId,
}

impl<'r> TreeReader<'r> {
    /// A reader of the tree under `root`.
    pub fn new(root: ChunkId, read: impl Fn(&ChunkId) -> Result<Vec<u8>> + 'r) -> Self {
        Self { read: Box::new(read), root }
    }

    /// All entries in order.
    #[must_use]
    pub fn entries(self) -> TreeEntries<'r> {
        self.within(&TreeKey::default())
    }

    /// The entry at `key` and all below it, in order, reading only the nodes that can hold them.
    #[must_use]
    pub fn within(self, key: &TreeKey) -> TreeEntries<'r> {
        TreeEntries {
            within: key.clone(),
            levels: Vec::new(),
            leaf: Vec::new().into_iter(),
            start: Some(self.root),
            last: None,
            reader: self,
            done: false,
        }
    }

    /// The entry at exactly `key`.
    ///
    /// # Errors
    /// When a node is missing or damaged.
    pub fn get(self, key: &TreeKey) -> Result<Option<Entry>> {
        match self.within(key).next() {
            Some(Ok((found, entry))) if found == *key => Ok(Some(entry)),
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        }
    }

    fn node(&self, id: &ChunkId) -> Result<Node> {
        let bytes = (self.read)(id)?;
        decode_node(&bytes)
            .map_err(|damaged| Damaged::new(format!("tree node {id}"), damaged.offset, damaged.why).into())
    }
}

/// Iterator over a part of a tree; see [`TreeReader::within`]. After an error it goes on behind the damaged node.
pub struct TreeEntries<'r> {
    reader: TreeReader<'r>,
    within: TreeKey,
    start: Option<ChunkId>,
    levels: Vec<(u8, std::vec::IntoIter<Child>)>,
    leaf: std::vec::IntoIter<(TreeKey, Entry)>,
    last: Option<TreeKey>,
    done: bool,
}

impl TreeEntries<'_> {
    fn enter(&mut self, id: &ChunkId, below: Option<u8>) -> Result<()> {
        match self.reader.node(id)? {
            Node::Leaf(items) => {
                if below.is_some_and(|level| level != 1) {
                    return Err(Damaged::new(format!("tree node {id}"), 0, "a leaf at the wrong level").into());
                }
                self.leaf = items.into_iter();
            }
            Node::Inner { level, mut children } => {
                if level == 0 || level > LEVELS_MAX || below.is_some_and(|above| level + 1 != above) {
                    return Err(Damaged::new(format!("tree node {id}"), 0, "a node at the wrong level").into());
                }
                // The child that may hold the first wanted key is the last whose first key is not above it.
                let skip = children.partition_point(|child| child.first <= self.within).saturating_sub(1);
                children.drain(..skip);
                self.levels.push((level, children.into_iter()));
            }
        }
        Ok(())
    }

    fn next_node(&mut self) -> Option<Result<()>> {
        if let Some(root) = self.start.take() {
            return Some(self.enter(&root, None));
        }
        loop {
            let (level, children) = self.levels.last_mut()?;
            let level = *level;
            match children.next() {
                Some(child) if child.first > self.within && !child.first.is_within(&self.within) => return None,
                Some(child) => return Some(self.enter(&child.id, Some(level))),
                None => {
                    self.levels.pop();
                }
            }
        }
    }
}

impl Iterator for TreeEntries<'_> {
    type Item = Result<(TreeKey, Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            for (key, entry) in self.leaf.by_ref() {
                if key < self.within {
                    continue;
                }
                if !key.is_within(&self.within) {
                    self.done = true;
                    return None;
                }
                if self.last.as_ref().is_some_and(|last| *last >= key) {
                    self.done = true;
                    return Some(Err(Damaged::new("tree", 0, "entries are out of order").into()));
                }
                self.last = Some(key.clone());
                return Some(Ok((key, entry)));
            }
            match self.next_node() {
                None => self.done = true,
                Some(Ok(())) => {}
                Some(Err(error)) => return Some(Err(error)),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_tree_is_one_leaf_whatever_its_id() {
        let mut stored = Vec::new();
        // This id is one after which an inner node ends.
        let ending = ChunkId([0; 32]);
        let writer = TreeWriter::new(&Secret32::random(), |node: NewNode<'_>| {
            stored.push(node.plain.to_vec());
            Ok(ending)
        });
        assert_eq!(writer.finish().unwrap(), TreeRoot { id: ending, entries: 0, bytes: 0 });
        assert_eq!(stored, [LeafWriter::new().take()]);
        assert!(inner_ends_after(&ending));
    }
}
