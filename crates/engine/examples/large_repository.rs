//! Fills a repository with many snapshots of many tiny chunks, all real: for measuring what opening and pruning a large
//! one takes (bench/scale.py).
//!
//!     cargo run --release -p seawall-engine --example large_repository -- REPOSITORY KEY-FILE SNAPSHOTS CHUNKS CACHE
//!
//! The repository must exist. Every tenth snapshot stores chunks of its own, of 8 bytes, in files of a hundred; the nine after
//! it are of the same tree. All together have CHUNKS chunks.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs, thread};

use seawall_engine::clock::Timestamp;
use seawall_engine::codec::{Effort, Encoder};
use seawall_engine::crypto::random;
use seawall_engine::entry::{Content, Entry, Extent, Kind, TreeKey};

use seawall_engine::format::log::SnapshotRecord;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::{Unlock, parse_key_file};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::repo::tree::TreeRoot;
use seawall_engine::repo::{Committed, Repository, Session, TreeWriter};
use seawall_engine::store::local::LocalStore;
use seawall_engine::units::MIB;

const FILE_CHUNKS: u64 = 100;
/// So many snapshots in a row have the same tree.
const ALIKE: u64 = 10;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [place, key_file, snapshots, chunks, cache] = words.as_slice() else {
        return Err("REPOSITORY KEY-FILE SNAPSHOTS CHUNKS CACHE".into());
    };
    let key = parse_key_file(&fs::read_to_string(key_file)?).ok_or("not a key file")?;
    let store = Arc::new(LocalStore::open(Path::new(place))?);
    let (snapshots, chunks): (u64, u64) = (snapshots.parse()?, chunks.parse()?);
    let repository = Repository::open(store, &Unlock::KeyFile(key), Some(cache.into()))?;
    let mut root = None;
    for number in 0..snapshots {
        let known = root.filter(|_| number % ALIKE != 0);
        root = Some(backup(&repository, number, chunks * ALIKE / snapshots, known)?);
    }
    Ok(())
}

fn backup(repository: &Repository, number: u64, chunks: u64, known: Option<TreeRoot>) -> Result<TreeRoot> {
    let session = Session::begin(repository, 24 * MIB)?;
    let (end, ended) = crossbeam_channel::bounded(0);
    let queue = session.writer_queue();
    thread::scope(|scope| {
        scope.spawn(|| session.write_packs(&queue, &ended));
        let committed = match known {
            Some(root) => Ok(root),
            None => fill(repository, &session, number, chunks),
        }
        .and_then(|root| commit(&session, number, root));
        drop(end);
        committed
    })
}

fn fill(repository: &Repository, session: &Session<'_>, number: u64, chunks: u64) -> Result<TreeRoot> {
    let mut encoder = Encoder::new(Effort::Fast);
    let mut body = Vec::new();
    let mut store = |kind, plain: &[u8]| -> seawall_engine::error::Result<ChunkId> {
        let id = repository.id_key().chunk_id(plain);
        if session.claim(&id) {
            encoder.encode(plain, None, None, &mut body);
            session.store(kind, &id, plain.len(), &body)?;
        }
        Ok(id)
    };
    let mut files = Vec::new();
    for first in (0..chunks).step_by(FILE_CHUNKS as usize) {
        let mut extents = Vec::new();
        for chunk in first..chunks.min(first + FILE_CHUNKS) {
            let id = store(BlobKind::Data, &(number * chunks + chunk).to_le_bytes())?;
            extents.push(Extent::Chunk { id, length: 8 });
        }
        files.push((TreeKey::from_path(Path::new(&format!("/files/{first:08}"))).ok_or("a path")?, extents));
    }
    let chunker_key = repository.keys().chunker_key.clone();
    let mut tree = TreeWriter::new(&chunker_key, |node| store(BlobKind::Tree, node.plain));
    for (key, extents) in &files {
        tree.push(key, &entry(extents))?;
    }
    Ok(tree.finish()?)
}

fn commit(session: &Session<'_>, number: u64, root: TreeRoot) -> Result<TreeRoot> {
    let committed = session.commit(&mut |_| SnapshotRecord {
        id: SnapshotId(random()),
        time: Timestamp { seconds: 1_700_000_000 + number.cast_signed() * 600, nanos: 0 },
        host: "host".into(),
        user: "user".into(),
        paths: vec![b"/files".to_vec()],
        tags: Vec::new(),
        root: root.id,
        entries: root.entries,
        files: root.entries,
        bytes: root.bytes,
        labels: Vec::new(),
        program: "large_repository".into(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    })?;
    match committed {
        Committed::Done(..) => Ok(root),
        Committed::Again => Err("somebody else prunes here".into()),
    }
}

fn entry(extents: &[Extent]) -> Entry {
    let none = Timestamp { seconds: 0, nanos: 0 };
    Entry {
        kind: Kind::File(Content::Extents(extents.to_vec())),
        mode: 0o644,
        uid: 0,
        gid: 0,
        user: None,
        group: None,
        mtime: none,
        ctime: none,
        btime: None,
        size: 8 * extents.len() as u64,
        inode: 1,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}
