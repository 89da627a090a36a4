//! Builds a file's content from its extents: inline in the entry while short, else lists of extents that are chunks
//! themselves, so that an entry stays small and memory bounded however long the file is.

use crate::entry::{Content, Extent};
use crate::error::Result;
use crate::format::node::encode_extents;
use crate::ids::ChunkId;

/// An entry holds at most this many extents itself.
pub(crate) const EXTENTS_INLINE_MAX: usize = 128;
/// A list chunk holds this many extents.
const LIST_EXTENTS: usize = 8192;

/// Collects extents in order. `store` takes a list's plain bytes and gives its id.
#[derive(Default)]
pub(crate) struct ContentBuilder {
    levels: Vec<Vec<Extent>>,
    length: u64,
}

impl ContentBuilder {
    /// Plain bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends an extent; neighbouring holes become one.
    pub(crate) fn push(&mut self, extent: Extent, store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        self.length += extent.length();
        self.push_at(0, extent, store)
    }

    fn push_at(&mut self, level: usize, extent: Extent, store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        if self.levels.len() == level {
            self.levels.push(Vec::new());
        }
        let list = &mut self.levels[level];
        match (list.last_mut(), extent) {
            (Some(Extent::Hole { length }), Extent::Hole { length: more }) => *length += more,
            _ => list.push(extent),
        }
        if list.len() >= LIST_EXTENTS { self.spill(level, store) } else { Ok(()) }
    }

    fn spill(&mut self, level: usize, store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>) -> Result<()> {
        let bytes = encode_extents(&std::mem::take(&mut self.levels[level]));
        let id = store(&bytes)?;
        let length = u32::try_from(bytes.len()).expect("a list of 8,192 extents is shorter than 4 GiB");
        self.push_at(level + 1, Extent::Chunk { id, length }, store)
    }

    /// The content.
    pub(crate) fn finish(mut self, store: &mut dyn FnMut(&[u8]) -> Result<ChunkId>) -> Result<Content> {
        if self.levels.len() <= 1 && self.levels.first().is_none_or(|list| list.len() <= EXTENTS_INLINE_MAX) {
            return Ok(Content::Extents(self.levels.pop().unwrap_or_default()));
        }
        let mut level = 0;
        loop {
            let is_top = level > 0 && level + 1 == self.levels.len();
            match self.levels[level].as_slice() {
                [Extent::Chunk { id, length }] if is_top => {
                    let depth = u8::try_from(level).expect("a file has few list levels");
                    return Ok(Content::Indirect { depth, id: *id, length: *length });
                }
                [] => {}
                _ => self.spill(level, store)?,
            }
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::node::decode_extents;
    use std::collections::HashMap;

    fn resolve(lists: &HashMap<ChunkId, Vec<u8>>, depth: u8, id: &ChunkId, into: &mut Vec<Extent>) {
        for extent in decode_extents(&lists[id]).unwrap() {
            match extent {
                Extent::Chunk { id, .. } if depth > 1 => resolve(lists, depth - 1, &id, into),
                other => into.push(other),
            }
        }
    }

    #[test]
    fn extents_come_back_in_order_whatever_their_number() {
        for count in [0usize, 1, 128, 129, 8191, 8192, 8193, 20_000] {
            let mut lists = HashMap::new();
            let mut store = |bytes: &[u8]| {
                let id = ChunkId(*blake3::hash(bytes).as_bytes());
                lists.insert(id, bytes.to_vec());
                Ok(id)
            };
            let extents: Vec<_> = (0..count)
                .map(|number| Extent::Chunk {
                    id: ChunkId(*blake3::hash(&u64::try_from(number).unwrap().to_le_bytes()).as_bytes()),
                    length: 7,
                })
                .collect();
            let mut builder = ContentBuilder::default();
            for extent in &extents {
                builder.push(*extent, &mut store).unwrap();
            }
            assert_eq!(builder.length(), 7 * u64::try_from(count).unwrap());
            let back = match builder.finish(&mut store).unwrap() {
                Content::Extents(list) => {
                    assert!(count <= EXTENTS_INLINE_MAX);
                    list
                }
                Content::Indirect { depth, id, length } => {
                    assert!(count > EXTENTS_INLINE_MAX);
                    assert_eq!(lists[&id].len(), usize::try_from(length).unwrap());
                    let mut back = Vec::new();
                    resolve(&lists, depth, &id, &mut back);
                    back
                }
                Content::Inline(_) => panic!("never inline"),
            };
            assert_eq!(back, extents, "{count} extents");
        }
    }
}
