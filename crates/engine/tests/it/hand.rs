//! Snapshots that are put together by hand, chunk by chunk: what a correct backup does not make.

use std::path::Path;

use seawall_engine::clock::Timestamp;
use seawall_engine::codec::{Effort, Encoder};
use seawall_engine::entry::{Content, Entry, Extent, Kind, TreeKey};
use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::node::{Child, LeafWriter, encode_inner};
use seawall_engine::format::pack::BlobKind;
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::{Committed, Repository, Session};
use seawall_engine::units::MIB;

use crate::session::{record, with_writers};

/// A session in which chunks are stored one by one.
pub struct Hand<'a, 'r> {
    repository: &'r Repository,
    session: &'a Session<'r>,
}

/// Commits a snapshot whose root `make` gives. The session knows of what `repository` has read so far.
pub fn craft(repository: &Repository, make: impl FnOnce(&Hand<'_, '_>) -> ChunkId) -> SnapshotId {
    let session = Session::begin(repository, 4 * MIB).unwrap();
    with_writers(&session, || {
        let root = make(&Hand { repository, session: &session });
        match session.commit(&mut |_| record(root)).unwrap() {
            Committed::Done(_, snapshot) => snapshot.id,
            Committed::Again => panic!("nothing was leaned on"),
        }
    })
}

/// Commits a snapshot of what `like` is of, newer than it.
pub fn craft_like(
    repository: &Repository,
    like: &SnapshotRecord,
    make: impl FnOnce(&Hand<'_, '_>) -> ChunkId,
) -> SnapshotId {
    let session = Session::begin(repository, 4 * MIB).unwrap();
    with_writers(&session, || {
        let root = make(&Hand { repository, session: &session });
        let id = record(root).id;
        match session.commit(&mut |_| SnapshotRecord { id, root, ..like.clone() }).unwrap() {
            Committed::Done(_, snapshot) => snapshot.id,
            Committed::Again => panic!("nothing was leaned on"),
        }
    })
}

impl Hand<'_, '_> {
    /// Stores what has this id, whatever the bytes are; nothing where the session knows of a copy.
    pub fn store_as(&self, kind: BlobKind, id: &ChunkId, plain: &[u8], base: Option<(&ChunkId, &[u8])>) -> bool {
        let is_new = self.session.claim(id);
        if is_new {
            let mut body = Vec::new();
            Encoder::new(Effort::Balanced).encode(plain, None, base, &mut body);
            self.session.store(kind, id, plain.len(), &body).unwrap();
        }
        is_new
    }

    pub fn put(&self, kind: BlobKind, plain: &[u8]) -> ChunkId {
        let id = self.repository.id_key().chunk_id(plain);
        self.store_as(kind, &id, plain, None);
        id
    }

    /// A chunk of data as an extent.
    pub fn extent(&self, plain: &[u8]) -> Extent {
        Extent::Chunk { id: self.put(BlobKind::Data, plain), length: u32::try_from(plain.len()).unwrap() }
    }

    /// A leaf as a child of an inner node; keys in ascending order.
    pub fn leaf(&self, files: &[(&str, Content, u64)]) -> Child {
        let mut leaf = LeafWriter::new();
        for (path, content, size) in files {
            leaf.push(&key(path), &file(content.clone(), *size));
        }
        let bytes = files.iter().map(|(_, _, size)| size).sum();
        let id = self.put(BlobKind::Tree, &leaf.take());
        Child { first: key(files[0].0), id, entries: files.len() as u64, bytes }
    }

    pub fn inner(&self, children: &[Child]) -> ChunkId {
        self.put(BlobKind::Tree, &encode_inner(1, children))
    }
}

pub fn key(path: &str) -> TreeKey {
    TreeKey::from_path(Path::new(path)).unwrap()
}

/// A chunk that is somewhere, as an extent.
pub fn extent_of(id: ChunkId, length: usize) -> Extent {
    Extent::Chunk { id, length: u32::try_from(length).unwrap() }
}

pub fn file(content: Content, size: u64) -> Entry {
    let time = Timestamp { seconds: 1, nanos: 0 };
    Entry {
        kind: Kind::File(content),
        mode: 0o600,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: time,
        ctime: time,
        btime: None,
        size,
        inode: 0,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}
