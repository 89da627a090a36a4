//! What a restore needs of a repository, and nothing more: so that tests can restore trees that no honest writer and
//! no decoder would ever let through.

use std::ops::Range;
use std::sync::Arc;

use crate::entry::{Content, Entry, Extent, TreeKey};
use crate::error::Result;
use crate::format::names::PackName;
use crate::format::segment::Location;
use crate::ids::ChunkId;
use crate::readers::{self, Layout};
use crate::repo::{Bases, BlobReader, Repository, StoredFile};

/// Entries in ascending order of keys.
pub(super) type Entries<'a> = Box<dyn Iterator<Item = Result<(TreeKey, Entry)>> + 'a>;

/// Where restored things come from.
pub(super) trait Origin: Sync {
    /// The entry at `from` and all below it.
    fn entries<'a>(&'a self, from: &TreeKey) -> Result<Entries<'a>>;
    /// The extents of content that is not inline.
    fn extents<'a>(&'a self, content: &'a Content) -> Box<dyn Iterator<Item = Result<Extent>> + 'a>;
    /// Where a chunk's blob lies, as far as is known.
    fn locate(&self, id: &ChunkId) -> Option<Location>;
    /// A range of a pack's bytes.
    fn fetch(&self, pack: &PackName, range: Range<u64>) -> Result<Vec<u8>>;
    /// Decodes blobs; one for each thread.
    fn reader<'a>(&'a self) -> Box<dyn Blobs + 'a>;
    /// For each snapshot with this tree, the paths that it protects. What lies elsewhere in the tree, it has only in
    /// part.
    fn sources(&self) -> Vec<Vec<TreeKey>>;
    /// Files and plain bytes of the whole tree, where known.
    fn totals(&self) -> Option<(u64, u64)>;
    /// Where the tensors of a file of this name lie, if that can be told.
    fn layout(&self, content: &Content, name: &[u8]) -> Option<Layout>;
}

/// Makes plain bytes of blobs.
pub(super) trait Blobs {
    /// Opens and decodes a blob that was fetched. Changes `blob`.
    fn decode(&mut self, id: &ChunkId, location: &Location, blob: &mut [u8], plain: &mut Vec<u8>) -> Result<()>;
    /// Reads a chunk from wherever it is now.
    fn read(&mut self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<()>;
    /// Keeps what was decoded or read for a while, as others are encoded against it.
    fn keep(&mut self, id: &ChunkId, plain: &[u8]);
}

/// A tree in a repository.
pub(super) struct FromRepository<'r> {
    repository: &'r Repository,
    root: ChunkId,
    bases: Arc<Bases>,
}

impl<'r> FromRepository<'r> {
    /// `bases_bytes` are for chunks that others are encoded against.
    pub(super) fn new(repository: &'r Repository, root: &ChunkId, bases_bytes: usize) -> Self {
        Self { repository, root: *root, bases: Arc::new(Bases::new(bases_bytes)) }
    }
}

impl Origin for FromRepository<'_> {
    fn entries<'a>(&'a self, from: &TreeKey) -> Result<Entries<'a>> {
        Ok(Box::new(self.repository.tree(&self.root).within(from)))
    }

    fn extents<'a>(&'a self, content: &'a Content) -> Box<dyn Iterator<Item = Result<Extent>> + 'a> {
        Box::new(self.repository.extents(content))
    }

    fn locate(&self, id: &ChunkId) -> Option<Location> {
        self.repository.locate(id)
    }

    fn fetch(&self, pack: &PackName, range: Range<u64>) -> Result<Vec<u8>> {
        Ok(self.repository.store().get_remembered(&pack.object(), Some(range))?)
    }

    fn reader<'a>(&'a self) -> Box<dyn Blobs + 'a> {
        Box::new(self.repository.blob_reader_sharing(&self.bases))
    }

    fn sources(&self) -> Vec<Vec<TreeKey>> {
        let snapshots = self.repository.snapshots();
        let of_tree = snapshots.iter().filter(|snapshot| snapshot.record.root == self.root);
        of_tree.map(|snapshot| snapshot.record.paths.iter().filter_map(|path| key_of(path)).collect()).collect()
    }

    fn totals(&self) -> Option<(u64, u64)> {
        let snapshots = self.repository.snapshots();
        let snapshot = snapshots.iter().find(|snapshot| snapshot.record.root == self.root)?;
        Some((snapshot.record.files, snapshot.record.bytes))
    }

    fn layout(&self, content: &Content, name: &[u8]) -> Option<Layout> {
        let file = StoredFile::open(self.repository, content).ok()??;
        readers::read(&file, name)
    }
}

fn key_of(path: &[u8]) -> Option<TreeKey> {
    use std::os::unix::ffi::OsStrExt;
    TreeKey::from_path(std::path::Path::new(std::ffi::OsStr::from_bytes(path)))
}

impl Blobs for BlobReader<'_> {
    fn decode(&mut self, id: &ChunkId, location: &Location, blob: &mut [u8], plain: &mut Vec<u8>) -> Result<()> {
        BlobReader::decode(self, id, location, blob, plain)
    }

    fn read(&mut self, id: &ChunkId, plain: &mut Vec<u8>) -> Result<()> {
        BlobReader::read(self, id, plain)
    }

    fn keep(&mut self, id: &ChunkId, plain: &[u8]) {
        BlobReader::keep(self, id, plain);
    }
}
