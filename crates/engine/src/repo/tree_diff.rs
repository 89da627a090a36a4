//! The differences of two trees, without reading what they share: two ordered sequences are merged, and where both
//! stand before the same node it is skipped whole. Equal ranges of keys give equal nodes (docs/format.md §9), so the work
//! follows what changed, not what there is.
//!
//! Invariants: keys come out in ascending order; a node is read only if the other side does not stand before the same
//! one; one node a level and side is held.

use std::cmp::Ordering;

use crate::entry::{Entry, TreeKey};
use crate::error::{Damaged, Result};
use crate::ids::ChunkId;
use crate::repo::nodes::{Below, NodeReader, NodeRef};
use crate::repo::repository::Repository;

/// A key that is not the same on both sides.
#[derive(Debug)]
pub(crate) struct Differing {
    pub(crate) key: TreeKey,
    pub(crate) old: Option<Entry>,
    pub(crate) new: Option<Entry>,
}

/// Iterator over the differing keys of two trees.
pub(crate) struct TreeDiff<'r> {
    reader: NodeReader<'r>,
    within: TreeKey,
    sides: [Side; 2],
    last: Option<TreeKey>,
    nodes_read: u64,
    nodes_shared: u64,
    failed: bool,
}

/// What is still to come of one tree, the next at the end.
struct Side(Vec<Item>);

enum Item {
    Node(NodeRef),
    Entry(TreeKey, Entry),
}

/// What to do with the two items in front.
enum Move {
    Done,
    /// Both are the same node.
    SkipBoth,
    /// Read the node in front of these sides.
    Expand([bool; 2]),
    /// Take the entries in front of these sides.
    Take([bool; 2]),
}

impl<'r> TreeDiff<'r> {
    /// Compares what lies at and below `within` in the trees `old` and `new`.
    pub(crate) fn new(repository: &'r Repository, old: &ChunkId, new: &ChunkId, within: &TreeKey) -> Self {
        repository.begin_reading(&[*old, *new]);
        let side = |root| Side(vec![Item::Node(NodeRef::root(root))]);
        Self {
            reader: NodeReader::new(repository),
            within: within.clone(),
            sides: [side(old), side(new)],
            last: None,
            nodes_read: 0,
            nodes_shared: 0,
            failed: false,
        }
    }

    /// Nodes read, and pairs of equal nodes skipped, so far.
    pub(crate) fn nodes(&self) -> (u64, u64) {
        (self.nodes_read, self.nodes_shared)
    }

    fn next_move(&self) -> Move {
        match [self.sides[0].0.last(), self.sides[1].0.last()] {
            [None, None] => Move::Done,
            [Some(item), None] => item.alone([true, false]),
            [None, Some(item)] => item.alone([false, true]),
            [Some(Item::Node(old)), Some(Item::Node(new))] if old.id == new.id => Move::SkipBoth,
            [Some(Item::Node(old)), Some(Item::Node(new))] => Move::Expand(which_to_expand(old, new)),
            [Some(Item::Entry(old, _)), Some(Item::Entry(new, _))] => Move::Take(match old.cmp(new) {
                Ordering::Less => [true, false],
                Ordering::Greater => [false, true],
                Ordering::Equal => [true, true],
            }),
            [Some(Item::Entry(key, _)), Some(Item::Node(node))] => before(key, node, 0),
            [Some(Item::Node(node)), Some(Item::Entry(key, _))] => before(key, node, 1),
        }
    }

    /// Replaces the node in front of a side by what lies below it, as far as it is wanted.
    fn expand(&mut self, side: usize) -> Result<()> {
        let Some(Item::Node(node)) = self.sides[side].0.pop() else { return Ok(()) };
        self.nodes_read += 1;
        let items: Vec<Item> = match self.reader.read(&node)? {
            Below::Entries(entries) => entries
                .into_iter()
                .filter(|(key, _)| key.is_within(&self.within))
                .map(|(key, entry)| Item::Entry(key, entry))
                .collect(),
            Below::Nodes(nodes) => {
                nodes.into_iter().filter(|node| node.may_hold_within(&self.within)).map(Item::Node).collect()
            }
        };
        self.sides[side].0.extend(items.into_iter().rev());
        Ok(())
    }

    fn take(&mut self, sides: [bool; 2]) -> Result<Option<Differing>> {
        let mut key = None;
        let mut taken = [None, None];
        for (side, place) in taken.iter_mut().enumerate().filter(|(side, _)| sides[*side]) {
            if let Some(Item::Entry(found, entry)) = self.sides[side].0.pop() {
                key = Some(found);
                *place = Some(entry);
            }
        }
        let (Some(key), [old, new]) = (key, taken) else { return Ok(None) };
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(Damaged::new("tree", 0, "entries are out of order").into());
        }
        self.last = Some(key.clone());
        Ok((old != new).then_some(Differing { key, old, new }))
    }

    fn step(&mut self) -> Result<Option<Option<Differing>>> {
        match self.next_move() {
            Move::Done => return Ok(None),
            Move::SkipBoth => {
                self.nodes_shared += 1;
                self.sides.iter_mut().for_each(|side| {
                    side.0.pop();
                });
            }
            Move::Expand(sides) => {
                for side in (0..2).filter(|&side| sides[side]) {
                    self.expand(side)?;
                }
            }
            Move::Take(sides) => return self.take(sides).map(Some),
        }
        Ok(Some(None))
    }
}

impl Item {
    /// The move where only one side is left.
    fn alone(&self, sides: [bool; 2]) -> Move {
        match self {
            Self::Node(_) => Move::Expand(sides),
            Self::Entry(..) => Move::Take(sides),
        }
    }
}

/// The node that begins first is read, as the other may still turn out to be shared; of two that begin alike the higher
/// one, so that both come to the level on which they can be equal.
fn which_to_expand(old: &NodeRef, new: &NodeRef) -> [bool; 2] {
    match old.first.cmp(&new.first).then_with(|| new.level.cmp(&old.level)) {
        Ordering::Less => [true, false],
        Ordering::Greater => [false, true],
        Ordering::Equal => [true, true],
    }
}

/// The move where `side` stands before the entry `key` and the other side before `node`.
fn before(key: &TreeKey, node: &NodeRef, side: usize) -> Move {
    let entry_first = node.first.as_ref().is_some_and(|first| key < first);
    let chosen = if entry_first { side } else { 1 - side };
    let sides = [chosen == 0, chosen == 1];
    if entry_first { Move::Take(sides) } else { Move::Expand(sides) }
}

impl Iterator for TreeDiff<'_> {
    type Item = Result<Differing>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.step() {
                Ok(None) => return None,
                Ok(Some(None)) => {}
                Ok(Some(Some(differing))) => return Some(Ok(differing)),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
