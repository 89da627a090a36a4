//! Single nodes of a tree, for the verbs that do not simply read a tree in order: they skip what they have seen, what
//! two trees share, or what cannot hold what they look for.
//!
//! A [`NodeRef`] is what is known of a node before it is read: where it stands and which keys it may hold.
//! [`NodeReader::read`] holds the node against that, so that a tree put together wrongly is told from a sound one node
//! by node. [`Search`] walks a tree depth first with one node a level in memory.
//!
//! Invariant: below a node that was read lie only keys of `first..end`, in ascending order.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::entry::{Entry, TreeKey};
use crate::error::{Damaged, Result};
use crate::format::node::{Child, Node, decode_node};
use crate::ids::ChunkId;
use crate::repo::reader::BlobReader;
use crate::repo::repository::Repository;

/// No tree is deeper; a deeper one is damage.
const LEVELS_MAX: u8 = 12;

/// A node and what its parent says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeRef {
    /// The node.
    pub(crate) id: ChunkId,
    /// Its level above the leaves; unknown for a root.
    pub(crate) level: Option<u8>,
    /// The first key below it; unknown for a root.
    pub(crate) first: Option<TreeKey>,
    /// A key above all keys below it; none at the right edge of the tree.
    pub(crate) end: Option<TreeKey>,
    /// Entries and plain bytes below it; unknown for a root.
    pub(crate) totals: Option<(u64, u64)>,
}

/// What lies directly below a node.
pub(crate) enum Below {
    /// The entries of a leaf.
    Entries(Vec<(TreeKey, Entry)>),
    /// The nodes of the next level down.
    Nodes(Vec<NodeRef>),
}

impl NodeRef {
    /// The root of a tree.
    pub(crate) fn root(id: &ChunkId) -> Self {
        Self { id: *id, level: None, first: None, end: None, totals: None }
    }

    /// True if a key at or below `ancestor` may lie here.
    pub(crate) fn may_hold_within(&self, ancestor: &TreeKey) -> bool {
        let ends_before = self.end.as_ref().is_some_and(|end| end <= ancestor);
        let begins_after = self.first.as_ref().is_some_and(|first| first > ancestor && !first.is_within(ancestor));
        !ends_before && !begins_after
    }

    /// True if every key here lies at or below `ancestor`.
    pub(crate) fn is_within(&self, ancestor: &TreeKey) -> bool {
        // Why both: keys between two that lie within a directory lie within it too.
        self.first.as_ref().is_some_and(|first| first.is_within(ancestor))
            && self.end.as_ref().is_some_and(|end| end.is_within(ancestor))
    }

    /// What damage to this node is called where the name of the stored object is not known.
    pub(crate) fn object(&self) -> String {
        format!("tree node {}", self.id)
    }

    fn damaged(&self, why: &str) -> Damaged {
        Damaged::new(self.object(), 0, why)
    }

    /// Holds a leaf's entries against what is known of it.
    fn check_entries(&self, entries: &[(TreeKey, Entry)]) -> Result<(), Damaged> {
        if self.level.is_some_and(|level| level != 0) {
            return Err(self.damaged("a leaf at the wrong level"));
        }
        self.check_keys(entries.first().map(|(key, _)| key), entries.last().map(|(key, _)| key))
    }

    /// The children of an inner node as references, held against what is known of it.
    fn refer(&self, level: u8, children: Vec<Child>) -> Result<Vec<NodeRef>, Damaged> {
        if level == 0 || level > LEVELS_MAX || self.level.is_some_and(|expected| expected != level) {
            return Err(self.damaged("a node at the wrong level"));
        }
        self.check_keys(children.first().map(|child| &child.first), children.last().map(|child| &child.first))?;
        let mut ends: Vec<Option<TreeKey>> = children.iter().skip(1).map(|child| Some(child.first.clone())).collect();
        ends.push(self.end.clone());
        let refer = |(child, end): (Child, Option<TreeKey>)| NodeRef {
            id: child.id,
            level: Some(level - 1),
            first: Some(child.first),
            end,
            totals: Some((child.entries, child.bytes)),
        };
        Ok(children.into_iter().zip(ends).map(refer).collect())
    }

    fn check_keys(&self, first: Option<&TreeKey>, last: Option<&TreeKey>) -> Result<(), Damaged> {
        if self.first.is_some() && self.first.as_ref() != first {
            return Err(self.damaged("it does not begin with the key that the node above names"));
        }
        match (last, &self.end) {
            (Some(last), Some(end)) if last >= end => Err(self.damaged("it reaches into the range of the next node")),
            _ => Ok(()),
        }
    }

    /// Holds the totals that the node above names against what was read: a sum that only a broken writer gets wrong.
    ///
    /// # Errors
    /// [`Damaged`] where they differ.
    pub(crate) fn check_totals(&self, below: &Below) -> Result<(), Damaged> {
        let sum = match below {
            Below::Entries(entries) => entries
                .iter()
                .try_fold((0u64, 0u64), |(count, bytes), (_, entry)| Some((count + 1, bytes.checked_add(entry.size)?))),
            Below::Nodes(nodes) => nodes.iter().try_fold((0u64, 0u64), |(entries, bytes), node| {
                let (more, more_bytes) = node.totals?;
                Some((entries.checked_add(more)?, bytes.checked_add(more_bytes)?))
            }),
        };
        match self.totals {
            Some(_) if sum != self.totals => Err(self.damaged("entries or bytes below are not as many as said above")),
            _ => Ok(()),
        }
    }
}

/// Reads nodes; one for each thread.
pub(crate) struct NodeReader<'r> {
    blobs: BlobReader<'r>,
    plain: Vec<u8>,
}

impl<'r> NodeReader<'r> {
    pub(crate) fn new(repository: &'r Repository) -> Self {
        Self { blobs: repository.blob_reader(), plain: Vec::new() }
    }

    /// The tree of the snapshot with this root is read from now on.
    pub(crate) fn begin(&self, root: &ChunkId) {
        self.blobs.repository().begin_reading(&[*root]);
    }

    /// Reads a node and holds it against what is known of it.
    ///
    /// # Errors
    /// [`crate::error::Error::Damaged`] where it is missing, damaged or does not belong there.
    pub(crate) fn read(&mut self, node: &NodeRef) -> Result<Below> {
        self.blobs.read(&node.id, &mut self.plain)?;
        let decoded =
            decode_node(&self.plain).map_err(|damaged| Damaged::new(node.object(), damaged.offset, damaged.why))?;
        match decoded {
            Node::Leaf(entries) => {
                node.check_entries(&entries)?;
                Ok(Below::Entries(entries))
            }
            Node::Inner { level, children } => Ok(Below::Nodes(node.refer(level, children)?)),
        }
    }
}

/// What [`Search`] shows to its caller.
pub(crate) enum Step<'a> {
    /// A node before it is read. Breaking skips it, with `true` if something in it counts as found.
    Node(&'a NodeRef),
    /// An entry. Continue with `true` if it counts as found.
    Entry(&'a TreeKey, &'a Entry),
    /// A node that can't be read. The search goes on behind it.
    Lost(&'a NodeRef, crate::error::Error),
}

/// Answer to a [`Step`]: whether something was found here; breaking leaves out a node, or ends the search elsewhere.
pub(crate) type Answer = ControlFlow<bool, bool>;

/// A depth-first search through trees that share nodes. A node below which nothing was found is not read again in a
/// later tree.
pub(crate) struct Search<'r> {
    reader: NodeReader<'r>,
    /// First half of the ids of nodes without a find: 128 bits tell any two of them apart.
    barren: HashSet<[u8; 16]>,
    /// Whether to remember barren nodes at all.
    remembers: bool,
    ended: bool,
}

impl<'r> Search<'r> {
    /// `remembers`: whether the outcome depends on nothing but the node, so that one without a find need not be read
    /// again in the next tree.
    pub(crate) fn new(repository: &'r Repository, remembers: bool) -> Self {
        Self { reader: NodeReader::new(repository), barren: HashSet::new(), remembers, ended: false }
    }

    /// Searches one tree. False where `visit` ended the search.
    pub(crate) fn run(&mut self, root: &ChunkId, visit: &mut dyn FnMut(Step<'_>) -> Answer) -> bool {
        self.ended = false;
        self.reader.begin(root);
        self.enter(&NodeRef::root(root), visit);
        !self.ended
    }

    /// True if something was found at or below `node`.
    fn enter(&mut self, node: &NodeRef, visit: &mut dyn FnMut(Step<'_>) -> Answer) -> bool {
        let half: [u8; 16] = *node.id.0.first_chunk().expect("an id has 32 bytes");
        if self.barren.contains(&half) {
            return false;
        }
        if let ControlFlow::Break(found) = visit(Step::Node(node)) {
            return found;
        }
        let found = match self.reader.read(node) {
            Ok(Below::Entries(entries)) => self.entries(&entries, visit),
            Ok(Below::Nodes(nodes)) => {
                let mut found = false;
                for below in &nodes {
                    found |= !self.ended && self.enter(below, visit);
                }
                found
            }
            Err(error) => {
                let answer = visit(Step::Lost(node, error));
                self.note(answer);
                // Why: it may be only what the node above says that is wrong, so another tree may have it rightly.
                true
            }
        };
        if self.remembers && !found && !self.ended {
            self.barren.insert(half);
        }
        found
    }

    fn entries(&mut self, entries: &[(TreeKey, Entry)], visit: &mut dyn FnMut(Step<'_>) -> Answer) -> bool {
        let mut found = false;
        for (key, entry) in entries {
            let answer = visit(Step::Entry(key, entry));
            found |= self.note(answer);
            if self.ended {
                break;
            }
        }
        found
    }

    fn note(&mut self, answer: Answer) -> bool {
        match answer {
            ControlFlow::Continue(found) => found,
            ControlFlow::Break(found) => {
                self.ended = true;
                found
            }
        }
    }
}
