//! What can't be read any more, and a tree without it.
//!
//! A chunk with a sound copy is not read. One without is read from wherever it can be: a copy that an audit called lost, or
//! with the help of parity. What is read like that is stored again for the new snapshot, which leans on sound copies only
//! (rule W1).
//!
//! Invariant: only damage counts as a loss. A store that fails ends the run, so that a bad connection drops nothing.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;

use super::Loss;
use crate::codec::{Effort, Encoder};
use crate::entry::{Content, Entry, Extent, Kind, TreeKey};
use crate::error::{Error, Result};
use crate::format::node::decode_extents;
use crate::format::pack::BlobKind;
use crate::ids::ChunkId;
use crate::monitor::Monitor;
use crate::repo::nodes::{Search, Step};
use crate::repo::repository::INDIRECT_DEPTH_MAX;
use crate::repo::tree::{NewNode, TreeRoot};
use crate::repo::{BlobReader, Repository, Session, Snapshot, TreeWriter};
use crate::store::StoreError;

/// Passes on what is not damage.
pub(super) fn of_damage(error: Error) -> Result<()> {
    match error {
        Error::Damaged(_) | Error::NotFound(_) | Error::Store(StoreError::Missing(_)) => Ok(()),
        other => Err(other),
    }
}

/// Tells which files can be read whole.
pub(super) struct Judge<'r> {
    repository: &'r Repository,
    reader: BlobReader<'r>,
    plain: Vec<u8>,
    /// Whether chunks without a sound copy can be read.
    known: HashMap<ChunkId, bool>,
}

impl<'r> Judge<'r> {
    pub(super) fn new(repository: &'r Repository) -> Self {
        Self { repository, reader: repository.blob_reader(), plain: Vec::new(), known: HashMap::new() }
    }

    /// What is lost of an entry.
    pub(super) fn loss<'k>(&mut self, key: &'k TreeKey, entry: &Entry) -> Result<Option<Loss<'k>>> {
        let Kind::File(content) = &entry.kind else { return Ok(None) };
        let repository = self.repository;
        if !each_chunk(repository, content, &mut |id| self.is_readable(id))? {
            return Ok(Some(Loss::File(key)));
        }
        match &entry.table {
            Some(table) if !self.is_readable(&table.id)? => Ok(Some(Loss::Table(key))),
            _ => Ok(None),
        }
    }

    fn is_readable(&mut self, id: &ChunkId) -> Result<bool> {
        if self.repository.is_sound(id) {
            return Ok(true);
        }
        if let Some(known) = self.known.get(id) {
            return Ok(*known);
        }
        let readable = match self.reader.read(id, &mut self.plain) {
            Ok(()) => true,
            Err(error) => of_damage(error).map(|()| false)?,
        };
        self.known.insert(*id, readable);
        Ok(readable)
    }
}

/// True if every chunk of an entry's content has a sound copy in the index. No data is read, only lists of chunks.
pub(super) fn is_listed_sound(repository: &Repository, entry: &Entry) -> Result<bool> {
    let Kind::File(content) = &entry.kind else { return Ok(true) };
    each_chunk(repository, content, &mut |id| Ok(repository.is_sound(id)))
}

/// Calls `each` for every chunk that content consists of, lists of extents among them, until one gives false. A list that
/// can't be read or makes no sense gives false too.
fn each_chunk(
    repository: &Repository,
    content: &Content,
    each: &mut dyn FnMut(&ChunkId) -> Result<bool>,
) -> Result<bool> {
    match content {
        Content::Inline(_) => Ok(true),
        Content::Extents(list) => each_extent(repository, 0, list, each),
        Content::Indirect { depth, id, .. } if (1..=INDIRECT_DEPTH_MAX).contains(depth) => {
            each_listed(repository, *depth, id, each)
        }
        Content::Indirect { .. } => Ok(false),
    }
}

fn each_extent(
    repository: &Repository,
    depth: u8,
    list: &[Extent],
    each: &mut dyn FnMut(&ChunkId) -> Result<bool>,
) -> Result<bool> {
    for extent in list {
        let Extent::Chunk { id, .. } = extent else { continue };
        let whole = if depth == 0 { each(id)? } else { each_listed(repository, depth, id, each)? };
        if !whole {
            return Ok(false);
        }
    }
    Ok(true)
}

fn each_listed(
    repository: &Repository,
    depth: u8,
    id: &ChunkId,
    each: &mut dyn FnMut(&ChunkId) -> Result<bool>,
) -> Result<bool> {
    if !each(id)? {
        return Ok(false);
    }
    match repository.read_chunk(id).and_then(|bytes| Ok(decode_extents(&bytes)?)) {
        Ok(list) => each_extent(repository, depth - 1, &list, each),
        Err(error) => of_damage(error).map(|()| false),
    }
}

/// A tree without what is lost.
pub(super) struct Left {
    pub(super) root: TreeRoot,
    pub(super) files: u64,
    pub(super) lost: u64,
}

/// Stores chunks that have no sound copy.
struct Keeper<'a, 'r> {
    repository: &'r Repository,
    session: &'a Session<'r>,
    reader: BlobReader<'r>,
    encoder: Encoder,
    plain: Vec<u8>,
    body: Vec<u8>,
}

impl Keeper<'_, '_> {
    /// Makes sure that the snapshot can lean on a chunk; false where it can't be had.
    fn keep(&mut self, kind: BlobKind, id: &ChunkId) -> Result<bool> {
        if self.session.contains(id) {
            return Ok(true);
        }
        if let Err(error) = self.reader.read(id, &mut self.plain) {
            return of_damage(error).map(|()| false);
        }
        let plain = std::mem::take(&mut self.plain);
        let stored = self.store(kind, id, &plain);
        self.plain = plain;
        stored.map(|()| true)
    }

    fn store(&mut self, kind: BlobKind, id: &ChunkId, plain: &[u8]) -> Result<()> {
        if !self.session.claim(id) {
            return Ok(());
        }
        self.encoder.encode(plain, None, None, &mut self.body);
        self.session.store(kind, id, plain.len(), &self.body)
    }

    fn keep_entry(&mut self, entry: &Entry) -> Result<bool> {
        let Kind::File(content) = &entry.kind else { return Ok(true) };
        let repository = self.repository;
        each_chunk(repository, content, &mut |id| self.keep(BlobKind::Data, id))
    }

    /// The entry, without a tensor table that can't be had.
    fn with_table<'e>(&mut self, entry: &'e Entry) -> Result<Cow<'e, Entry>> {
        match &entry.table {
            Some(table) if !self.keep(BlobKind::Tree, &table.id)? => {
                Ok(Cow::Owned(Entry { table: None, ..entry.clone() }))
            }
            _ => Ok(Cow::Borrowed(entry)),
        }
    }
}

/// Writes the snapshot's tree anew without what is lost of it.
pub(super) fn without_lost<'r>(
    repository: &'r Repository,
    session: &Session<'r>,
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
) -> Result<Left> {
    let keeper = || Keeper {
        repository,
        session,
        reader: repository.blob_reader(),
        encoder: Encoder::new(Effort::Balanced),
        plain: Vec::new(),
        body: Vec::new(),
    };
    let (mut content, mut nodes) = (keeper(), keeper());
    let mut tree = TreeWriter::new(&repository.keys().chunker_key, |node: NewNode<'_>| {
        let id = repository.id_key().chunk_id(node.plain);
        nodes.store(BlobKind::Tree, &id, node.plain).map(|()| id)
    });
    let (mut files, mut lost, mut failure) = (0, 0u64, None);
    let mut take = |step: Step<'_>| -> Result<()> {
        match step {
            Step::Node(_) if monitor.stopped() => return Err(Error::Interrupted),
            Step::Node(_) => {}
            Step::Lost(node, error) => {
                of_damage(error)?;
                // Why saturating: a node says what is below it, and a member may have written it.
                lost = lost.saturating_add(node.totals.map_or(snapshot.record.entries, |(entries, _)| entries));
            }
            Step::Entry(key, entry) => {
                if content.keep_entry(entry)? {
                    files += u64::from(entry.is_file());
                    tree.push(key, content.with_table(entry)?.as_ref())?;
                } else {
                    lost += 1;
                }
            }
        }
        Ok(())
    };
    Search::new(repository, false).run(&snapshot.record.root, &mut |step| match take(step) {
        Ok(()) => ControlFlow::Continue(false),
        Err(error) => {
            failure = Some(error);
            ControlFlow::Break(false)
        }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(Left { root: tree.finish()?, files, lost }),
    }
}
