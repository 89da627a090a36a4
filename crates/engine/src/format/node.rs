//! Tree nodes (docs/format.md §9): a snapshot's tree is one ordered map from tree key to entry, cut into leaves with
//! inner nodes above. This file makes and reads single nodes; the tree itself is built and walked by the repository.
//!
//! Invariants: keys are strictly ascending in a node and valid (no component is empty, `.`, `..` or holds a slash), so
//! nothing that restores from a decoded node can be led outside its target by a name; limits on a node bound what
//! decoding it allocates.

use minicbor::Decoder;

use super::cbor::{self, Read, Sink, Written};
pub use super::entry::{decode_extents, encode_extents};
use super::entry::{read as read_entry, write as write_entry};
use crate::crypto::Secret32;
use crate::entry::{Entry, TreeKey};
use crate::error::Damaged;
use crate::ids::ChunkId;

/// No tree key is longer: deeper paths can't be stored.
pub const KEY_BYTES_MAX: usize = 65_535;
/// A leaf ends when its encoded entries have this many bytes; an inner node when its items do.
pub const NODE_BYTES: usize = 256 * 1024;
/// A leaf ends when its full keys together have this many bytes (long paths in deep directories share most of them).
pub const LEAF_KEY_BYTES: usize = 4 << 20;
/// An inner node ends when it has this many items.
pub const INNER_ITEMS: usize = 2_048;

const LEAF_ENTRIES_MAX: u64 = 65_536;
const LEAF_KEY_BYTES_MAX: usize = LEAF_KEY_BYTES + KEY_BYTES_MAX;
const NODE: &str = "tree node";

/// A node of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Entries in ascending order of keys.
    Leaf(Vec<(TreeKey, Entry)>),
    /// Nodes one level below, in ascending order.
    Inner {
        /// Levels above the leaves, at least 1.
        level: u8,
        /// The nodes below.
        children: Vec<Child>,
    },
}

/// An inner node's reference to a node below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// Key of the first entry below.
    pub first: TreeKey,
    /// The node.
    pub id: ChunkId,
    /// Entries below.
    pub entries: u64,
    /// Plain bytes of the files below.
    pub bytes: u64,
}

impl Child {
    /// Length of the item in an inner node, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let mut item = Vec::with_capacity(self.first.0.len() + 56);
        cbor::write(&mut item, |sink| self.write(sink));
        item.len()
    }

    fn write(&self, sink: &mut Sink) -> Written {
        sink.array(4)?.bytes(&self.first.0)?.bytes(self.id.as_bytes())?.u64(self.entries)?.u64(self.bytes)?.ok()
    }
}

/// True if a node can hold this key: its path is not too deep and no component is one that a restore must refuse.
/// [`LeafWriter::push`] takes no other, so a source that has such a path is told before.
#[must_use]
pub fn is_storable(key: &TreeKey) -> bool {
    is_valid_key(&key.0, 0)
}

/// True where a leaf ends after the entry with this key, whose encoding has `encoded_len` bytes (beside the limits that
/// [`LeafWriter::is_full`] watches).
#[must_use]
pub fn leaf_ends_after(chunker_key: &Secret32, key: &TreeKey, encoded_len: usize) -> bool {
    let hash = blake3::keyed_hash(chunker_key.as_bytes(), &key.0);
    let draw = u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"));
    u64::from(draw) < (encoded_len as u64) << 16
}

/// True where an inner node ends after the child with this id (beside [`INNER_ITEMS`] and [`NODE_BYTES`]).
#[must_use]
pub fn inner_ends_after(child: &ChunkId) -> bool {
    let draw = u32::from_le_bytes(*child.0.first_chunk().expect("an id has 32 bytes"));
    u64::from(draw) * 256 < 1 << 32
}

/// Collects entries for one leaf after the other. The buffers are used again.
#[derive(Debug, Default)]
pub struct LeafWriter {
    items: Vec<u8>,
    count: u64,
    last: Vec<u8>,
    key_bytes: usize,
}

impl LeafWriter {
    /// An empty leaf.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry and gives the length of its encoding in bytes.
    ///
    /// # Panics
    /// When the key does not come after the one before, is not valid or too long: a node with it could not be read.
    pub fn push(&mut self, key: &TreeKey, entry: &Entry) -> usize {
        let start = self.items.len();
        let shared = shared_len(&self.last, &key.0);
        assert!(self.count == 0 || self.last[shared..] < key.0[shared..], "entries come in ascending order of keys");
        assert!(is_valid_key(&key.0, shared), "only valid keys are stored");
        write_entry(&mut self.items, shared, &key.0[shared..], entry);
        self.last.truncate(shared);
        self.last.extend_from_slice(&key.0[shared..]);
        self.count += 1;
        self.key_bytes += key.0.len();
        self.items.len() - start
    }

    /// Number of entries so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// True while it has no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Encoded bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True where the leaf must end here, whatever its last key.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.items.len() >= NODE_BYTES || self.key_bytes >= LEAF_KEY_BYTES
    }

    /// The node's plain bytes; the writer is then empty again. Without entries it is the empty tree.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let mut node = Vec::with_capacity(self.items.len() + 11);
        cbor::write(&mut node, |sink| sink.array(2)?.u8(0)?.array(self.count)?.ok());
        node.extend_from_slice(&self.items);
        self.items.clear();
        self.last.clear();
        (self.count, self.key_bytes) = (0, 0);
        node
    }
}

fn shared_len(left: &[u8], right: &[u8]) -> usize {
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

/// True if a key is valid, given that its first `known` bytes begin a valid key.
fn is_valid_key(key: &[u8], known: usize) -> bool {
    if key.is_empty() {
        return true;
    }
    // Why from there: every component that ends within the known bytes was looked at before.
    let start = key[..known].iter().rposition(|&byte| byte == 0).map_or(0, |place| place + 1);
    key.len() <= KEY_BYTES_MAX && key[start..].split(|&byte| byte == 0).all(is_valid_component)
}

fn is_valid_component(component: &[u8]) -> bool {
    !matches!(component, b"" | b"." | b"..") && !component.contains(&b'/')
}

/// The plain bytes of an inner node.
///
/// # Panics
/// When the children do not come in ascending order, or there are more than [`INNER_ITEMS`].
#[must_use]
pub fn encode_inner(level: u8, children: &[Child]) -> Vec<u8> {
    assert!(level > 0 && children.len() <= INNER_ITEMS, "an inner node within its limits");
    assert!(children.is_sorted_by(|left, right| left.first < right.first), "children come in ascending order");
    let mut node = Vec::with_capacity(16 + children.iter().map(|child| child.first.0.len() + 56).sum::<usize>());
    cbor::write(&mut node, |sink| {
        sink.array(2)?.u8(level)?.array(children.len() as u64)?;
        children.iter().try_for_each(|child| child.write(sink))
    });
    node
}

/// Reads a node.
///
/// # Errors
/// [`Damaged`] where it is not a node, its keys are not valid and ascending, or it is beyond the limits.
pub fn decode_node(bytes: &[u8]) -> Result<Node, Damaged> {
    cbor::whole(NODE, bytes, |decoder| {
        cbor::tuple(decoder, 2)?;
        match decoder.u8()? {
            0 => read_leaf(decoder).map(Node::Leaf),
            level => Ok(Node::Inner { level, children: read_children(decoder)? }),
        }
    })
}

fn read_leaf(decoder: &mut Decoder) -> Read<Vec<(TreeKey, Entry)>> {
    let count = cbor::array(decoder)?;
    if count > LEAF_ENTRIES_MAX {
        return cbor::refuse(decoder, "more entries than a leaf may have");
    }
    let mut entries = Vec::with_capacity(cbor::room(decoder, count, 16));
    let mut last = Vec::new();
    let mut key_bytes = 0;
    for number in 0..count {
        let (shared, rest, entry) = read_entry(decoder)?;
        if shared > last.len() || (number > 0 && last[shared..] >= *rest) {
            return cbor::refuse(decoder, "keys are not ascending");
        }
        last.truncate(shared);
        last.extend_from_slice(rest);
        key_bytes += last.len();
        if key_bytes > LEAF_KEY_BYTES_MAX || !is_valid_key(&last, shared) {
            return cbor::refuse(decoder, "a key that no entry can have");
        }
        entries.push((TreeKey(last.clone()), entry));
    }
    Ok(entries)
}

fn read_children(decoder: &mut Decoder) -> Read<Vec<Child>> {
    let mut last: Option<TreeKey> = None;
    let children = cbor::list(decoder, 37, |d| {
        cbor::tuple(d, 4)?;
        let first = TreeKey(d.bytes()?.to_vec());
        if !is_valid_key(&first.0, 0) || last.as_ref().is_some_and(|last| *last >= first) {
            return cbor::refuse(d, "keys are not valid or not ascending");
        }
        last = Some(first.clone());
        Ok(Child { first, id: ChunkId(cbor::bytes(d)?), entries: d.u64()?, bytes: d.u64()? })
    })?;
    if children.len() > INNER_ITEMS {
        return cbor::refuse(decoder, "more items than an inner node may have");
    }
    Ok(children)
}

/// Appends an entry on its own, with its full key, for local caches.
pub fn encode_single(key: &TreeKey, entry: &Entry, out: &mut Vec<u8>) {
    write_entry(out, 0, &key.0, entry);
}

/// Reads an entry that [`encode_single`] wrote and moves `bytes` behind it.
///
/// # Errors
/// [`Damaged`] where it is not an entry.
pub fn decode_single(bytes: &mut &[u8]) -> Result<(TreeKey, Entry), Damaged> {
    let mut decoder = Decoder::new(bytes);
    let (shared, rest, entry) = read_entry(&mut decoder).map_err(|failure| cbor::damaged("entry", &failure))?;
    if shared != 0 || !is_valid_key(rest, 0) {
        return Err(Damaged::new("entry", 0, "a key that no entry can have"));
    }
    let key = TreeKey(rest.to_vec());
    *bytes = &bytes[decoder.position()..];
    Ok((key, entry))
}
