//! Restores from trees that are made up here, the impossible ones included, so that what no writer would write and no
//! decoder would accept is tried as well.

mod damage;
mod guard;
mod hostile;
mod mounts;
mod options;
mod order;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::origin::{Blobs, Entries, Origin};
use super::{RestoreOptions, RestoreReport, restore_from};
use crate::clock::Timestamp;
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TreeKey};
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::pack::BlobKind;
use crate::format::segment::Location;
use crate::ids::{ChunkId, SessionId};
use crate::monitor::{Monitor, Problem};
use crate::store::StoreError;

const BLOB_HEADER_BYTES: usize = 48;
const PACK: PackName = PackName { session: SessionId([1; 16]), counter: 0 };

/// A tree and its chunks in memory. A `None` in the tree is a part that can't be read.
#[derive(Default)]
struct Made {
    tree: Vec<Option<(TreeKey, Entry)>>,
    pack: Vec<u8>,
    places: HashMap<ChunkId, Location>,
    /// Chunks that are nowhere.
    missing: Vec<ChunkId>,
    /// The index knows no chunk.
    unindexed: bool,
    sources: Vec<Vec<TreeKey>>,
}

impl Made {
    /// With a root directory that is the whole source.
    fn new() -> Self {
        let mut made = Self { sources: vec![vec![TreeKey::default()]], ..Self::default() };
        made.push("", directory());
        made
    }

    /// Adds an entry; `path` is relative, and taken as it is.
    fn push(&mut self, path: &str, entry: Entry) -> &mut Self {
        self.tree.push(Some((raw_key(path), entry)));
        self
    }

    /// Stores a chunk and gives its extent.
    fn chunk(&mut self, plain: &[u8]) -> Extent {
        let id = ChunkId(*blake3::hash(plain).as_bytes());
        let length = u32::try_from(plain.len()).unwrap();
        let location = Location {
            pack: PACK,
            offset: u32::try_from(self.pack.len()).unwrap(),
            sealed_len: length,
            plain_len: length,
            codec: 0,
            kind: BlobKind::Data,
            base: None,
        };
        self.pack.extend([0; BLOB_HEADER_BYTES]);
        self.pack.extend(plain);
        self.places.insert(id, location);
        Extent::Chunk { id, length }
    }

    /// Adds a file whose content is chunks.
    fn push_file(&mut self, path: &str, pieces: &[&[u8]]) -> &mut Self {
        let extents: Vec<Extent> = pieces.iter().map(|piece| self.chunk(piece)).collect();
        let size = extents.iter().map(Extent::length).sum();
        self.push(path, Entry { size, ..entry(Kind::File(Content::Extents(extents)), 0o644) })
    }
}

struct Plain<'a>(&'a Made);

impl Blobs for Plain<'_> {
    fn decode(&mut self, id: &ChunkId, _: &Location, blob: &mut [u8], plain: &mut Vec<u8>) -> Result<()> {
        plain.clear();
        plain.extend_from_slice(&blob[BLOB_HEADER_BYTES..]);
        if blake3::hash(plain).as_bytes() != id.as_bytes() {
            return Err(Damaged::new("blob", 0, "another chunk").into());
        }
        Ok(())
    }

    fn read(&mut self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<()> {
        let location = self.0.places.get(id).filter(|_| !self.0.missing.contains(id));
        let location = location.ok_or_else(|| StoreError::Missing(format!("chunk {id}")))?;
        let start = location.offset as usize;
        let mut blob = self.0.pack[start..start + BLOB_HEADER_BYTES + location.sealed_len as usize].to_vec();
        self.decode(id, location, &mut blob, plain)
    }

    // Nothing here is encoded against others.
    fn keep(&mut self, _: &ChunkId, _: &[u8]) {}
}

impl Origin for Made {
    fn entries<'a>(&'a self, from: &TreeKey) -> Result<Entries<'a>> {
        let from = from.clone();
        let items = self.tree.iter().filter(move |item| item.as_ref().is_none_or(|(key, _)| key.is_within(&from)));
        Ok(Box::new(items.map(|item| item.clone().ok_or_else(|| Damaged::new("tree node", 0, "broken").into()))))
    }

    fn extents<'a>(&'a self, _: &'a Content) -> Box<dyn Iterator<Item = Result<Extent>> + 'a> {
        Box::new(std::iter::once(Err(Error::from(Damaged::new("list", 0, "broken")))))
    }

    fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.places.get(id).filter(|_| !self.unindexed).copied()
    }

    fn fetch(&self, _: &PackName, range: Range<u64>) -> Result<Vec<u8>> {
        if self.missing.is_empty() {
            Ok(self.pack[range.start as usize..range.end as usize].to_vec())
        } else {
            Err(StoreError::Missing(PACK.object()).into())
        }
    }

    fn reader<'a>(&'a self) -> Box<dyn Blobs + 'a> {
        Box::new(Plain(self))
    }

    fn sources(&self) -> Vec<Vec<TreeKey>> {
        self.sources.clone()
    }

    fn totals(&self) -> Option<(u64, u64)> {
        None
    }

    fn layout(&self, content: &Content, name: &[u8]) -> Option<crate::readers::Layout> {
        let Content::Extents(extents) = content else { return None };
        let chunk = |extent: &Extent| {
            let Extent::Chunk { id, length } = extent else { return Vec::new() };
            let start = self.places[id].offset as usize + BLOB_HEADER_BYTES;
            self.pack[start..start + *length as usize].to_vec()
        };
        let bytes: Vec<u8> = extents.iter().flat_map(chunk).collect();
        crate::readers::read(&&bytes[..], name)
    }
}

/// Slashes become the separators of keys; nothing else is done about the path.
fn raw_key(path: &str) -> TreeKey {
    TreeKey(path.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect())
}

fn entry(kind: Kind, mode: u32) -> Entry {
    Entry {
        kind,
        mode,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: None,
        group: None,
        mtime: Timestamp { seconds: 1_500_000_000, nanos: 123_456_789 },
        ctime: Timestamp::default(),
        btime: None,
        size: 0,
        inode: 0,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    }
}

fn directory() -> Entry {
    entry(Kind::Directory, 0o755)
}

fn file(content: &str) -> Entry {
    let kind = Kind::File(Content::Inline(content.as_bytes().to_vec()));
    Entry { size: content.len() as u64, ..entry(kind, 0o644) }
}

fn symlink(target: impl AsRef<Path>) -> Entry {
    entry(Kind::Symlink(target.as_ref().as_os_str().as_bytes().to_vec()), 0o777)
}

fn linked(entry: Entry, inode: u64) -> Entry {
    Entry { links: Some(LinkGroup { device: 0, inode }), ..entry }
}

/// Remembers problems and notes.
#[derive(Default)]
struct Heard {
    problems: Mutex<Vec<Problem>>,
    notes: Mutex<Vec<String>>,
}

impl Heard {
    /// Code and subject of each problem, sorted.
    fn problems(&self) -> Vec<(&'static str, String)> {
        let mut list: Vec<_> =
            self.problems.lock().unwrap().iter().map(|problem| (problem.code, problem.subject.clone())).collect();
        list.sort();
        list
    }
}

impl Monitor for Heard {
    fn problem(&self, problem: Problem) {
        self.problems.lock().unwrap().push(problem);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }
}

/// A directory with a `target` in it, and things beside it that must stay as they are.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.path("target")).unwrap();
        fs::create_dir_all(place.path("outside/below")).unwrap();
        fs::write(place.path("outside/canary"), b"sings").unwrap();
        fs::write(place.path("outside/below/canary"), b"sings").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, made: &Made, options: RestoreOptions) -> (Result<RestoreReport>, Heard) {
        let heard = Heard::default();
        let options = RestoreOptions { target: self.path("target"), threads: 2, ..options };
        (restore_from(made, &options, &heard), heard)
    }

    /// All that is in the target: kind, and content or where a link points.
    fn target(&self) -> BTreeMap<String, String> {
        let mut seen = look(&self.path("target"));
        seen.remove("");
        seen.into_iter().map(|(path, text)| (path, text.split('|').next().unwrap().to_owned())).collect()
    }

    /// Everything beside the target, to the last bit of metadata.
    fn outside(&self) -> BTreeMap<String, String> {
        let mut seen = look(self.0.path());
        seen.retain(|path, _| !path.is_empty() && path != "target" && !path.starts_with("target/"));
        seen
    }
}

/// Paths below `top` with what stands there: `content|metadata`.
fn look(top: &Path) -> BTreeMap<String, String> {
    let (mut seen, mut waiting) = (BTreeMap::new(), vec![top.to_path_buf()]);
    while let Some(path) = waiting.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let what = if stat.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            "directory".to_owned()
        } else if stat.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else if stat.is_file() {
            format!("file {}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
        } else {
            format!("special {:o}", stat.mode() & 0o170_000)
        };
        let metadata = format!(
            "|{:o} {}:{} links {} {}.{}",
            stat.mode(),
            stat.uid(),
            stat.gid(),
            stat.nlink(),
            stat.mtime(),
            stat.mtime_nsec()
        );
        let relative = path.strip_prefix(top).unwrap().to_string_lossy().into_owned();
        seen.insert(relative, what + &metadata);
    }
    seen
}

/// `look` in the short form of [`Place::target`], from pairs.
fn expect<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(path, what)| (path.to_owned(), what.to_owned())).collect()
}
