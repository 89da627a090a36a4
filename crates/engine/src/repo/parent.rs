//! The entries of a source's newest snapshot, kept on the local disk in tree order.
//!
//! A backup merges its walk with this sequence and takes over the content of what did not change, without reading the
//! store. The file is written while the backup runs, so that after a crash it tells the next run which files were
//! finished already. It is a hint: each block has a checksum, content is taken over only while the index lists its
//! chunks, and metadata always comes from the file system.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::clock::{Timestamp, monotonic};
use crate::crypto::random;
use crate::entry::{Entry, TreeKey};
use crate::format::node::{decode_single, encode_single};
use crate::ids::{SessionId, SnapshotId};
use crate::repo::cache::{Cache, lock_if_free};
use crate::repo::repository::{Repository, Snapshot};
use crate::repo::tree::TreeEntries;
use crate::units::{KIB, MIB};

/// A block is written when it holds this many bytes, or a tenth of a second after the one before.
const BLOCK_BYTES: usize = 64 * KIB;
/// No block is longer; a longer one is damage.
const BLOCK_BYTES_MAX: usize = 16 * MIB;
const BLOCK_HEADER_BYTES: usize = 16;

/// Names the entry files of one source: a hash of host and paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceName(String);

impl SourceName {
    /// The name for these source paths on this host.
    #[must_use]
    pub fn new(host: &str, paths: &[Vec<u8>]) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(host.as_bytes());
        for path in paths {
            hasher.update(&[0]);
            hasher.update(path);
        }
        Self(hasher.finalize().to_hex()[..32].to_owned())
    }

    fn finished(&self, snapshot: &SnapshotId) -> String {
        format!("{}-{snapshot}", self.0)
    }
}

/// Writes the entries of a running backup.
pub struct EntriesWriter {
    path: PathBuf,
    source: SourceName,
    file: Option<File>,
    block: Vec<u8>,
    written_at: std::time::Instant,
}

impl EntriesWriter {
    /// A writer for `source`, whose reading began at `time`; none where nothing can be kept.
    #[must_use]
    pub fn create(cache: &Cache, source: &SourceName, time: Timestamp) -> Option<Self> {
        let directory = cache.entries_directory()?;
        let path = directory.join(format!("{}-{}.partial", source.0, SessionId(random())));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        write_block(&mut file, &encode_time(time)).ok()?;
        Some(Self {
            path,
            source: source.clone(),
            file: Some(file),
            block: Vec::with_capacity(BLOCK_BYTES + 4 * KIB),
            written_at: monotonic(),
        })
    }

    /// Appends an entry.
    pub fn push(&mut self, key: &TreeKey, entry: &Entry) {
        encode_single(key, entry, &mut self.block);
        if self.block.len() >= BLOCK_BYTES || self.written_at.elapsed().as_millis() >= 100 {
            self.flush();
        }
    }

    /// Writes what is held back. After an error nothing more is written: the file is only a hint.
    pub fn flush(&mut self) {
        self.written_at = monotonic();
        if self.block.is_empty() {
            return;
        }
        let written = self.file.as_mut().map(|file| write_block(file, &self.block));
        if !matches!(written, Some(Ok(()))) {
            self.file = None;
        }
        self.block.clear();
    }

    /// The backup was committed: the file becomes the parent of the next run, older ones are removed.
    pub fn commit(mut self, snapshot: &SnapshotId) {
        self.flush();
        let Some(directory) = self.path.parent().map(Path::to_path_buf) else { return };
        let finished = directory.join(self.source.finished(snapshot));
        if self.file.is_none() || fs::rename(&self.path, &finished).is_err() {
            let _ = fs::remove_file(&self.path);
            return;
        }
        for other in files_of(&directory, &self.source) {
            if other != finished && lock_if_free(&other).is_some() {
                let _ = fs::remove_file(other);
            }
        }
    }
}

fn write_block(file: &mut File, plain: &[u8]) -> io::Result<()> {
    file.write_all(&encode_block(plain)?)
}

/// A block of an entry file: `plain length (4) | stored length (4) | first 8 bytes of BLAKE3 of the stored bytes |
/// zstd frame`.
///
/// # Errors
/// When the bytes can't be compressed or are too many.
pub fn encode_block(plain: &[u8]) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK_HEADER_BYTES + zstd_safe::compress_bound(plain.len())];
    let stored = zstd_safe::compress(&mut block[BLOCK_HEADER_BYTES..], plain, 1)
        .map_err(|code| io::Error::other(zstd_safe::get_error_name(code)))?;
    block.truncate(BLOCK_HEADER_BYTES + stored);
    let hash = blake3::hash(&block[BLOCK_HEADER_BYTES..]);
    let length = |bytes: usize| u32::try_from(bytes).map(u32::to_le_bytes).map_err(io::Error::other);
    block[..4].copy_from_slice(&length(plain.len())?);
    block[4..8].copy_from_slice(&length(stored)?);
    block[8..16].copy_from_slice(&hash.as_bytes()[..8]);
    Ok(block)
}

fn read_block(file: &mut impl Read) -> Option<Vec<u8>> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    file.read_exact(&mut header).ok()?;
    let number = |at: usize| {
        let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
        usize::try_from(u32::from_le_bytes(bytes)).ok().filter(|&length| length <= BLOCK_BYTES_MAX)
    };
    let (plain_length, stored_length) = (number(0)?, number(4)?);
    let mut stored = vec![0; stored_length];
    file.read_exact(&mut stored).ok()?;
    if blake3::hash(&stored).as_bytes()[..8] != header[8..16] {
        return None;
    }
    let mut plain = vec![0; plain_length];
    let length = zstd_safe::decompress(plain.as_mut_slice(), &stored).ok()?;
    (length == plain_length).then_some(plain)
}

/// The plain bytes of the first block: when the reading began, `seconds (8) | nanoseconds (4)`.
#[must_use]
pub fn encode_time(time: Timestamp) -> Vec<u8> {
    [&time.seconds.to_le_bytes()[..], &time.nanos.to_le_bytes()].concat()
}

fn decode_time(block: &[u8]) -> Option<Timestamp> {
    let (seconds, rest) = block.split_first_chunk::<8>()?;
    let (nanos, _) = rest.split_first_chunk::<4>()?;
    Some(Timestamp { seconds: i64::from_le_bytes(*seconds), nanos: u32::from_le_bytes(*nanos) })
}

fn files_of(directory: &Path, source: &SourceName) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else { return Vec::new() };
    let of_source = |item: &fs::DirEntry| item.file_name().to_string_lossy().starts_with(&source.0);
    listing.flatten().filter(of_source).map(|item| item.path()).collect()
}

/// Entries of one file, in order; ends at the first block that is torn or damaged.
pub struct EntriesFile<R> {
    file: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> EntriesFile<R> {
    /// The file's entries, and when their reading began; none where the first block does not tell that.
    pub fn read(mut file: R) -> Option<(Self, Timestamp)> {
        let time = decode_time(&read_block(&mut file)?)?;
        Some((Self { file, block: Vec::new(), at: 0 }, time))
    }
}

impl EntriesFile<BufReader<File>> {
    fn open(path: &Path) -> Option<(Self, Timestamp)> {
        Self::read(BufReader::with_capacity(BLOCK_BYTES, File::open(path).ok()?))
    }
}

impl<R: Read> Iterator for EntriesFile<R> {
    type Item = (TreeKey, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.block.len() {
            self.block = read_block(&mut self.file)?;
            self.at = 0;
        }
        let mut rest = self.block.get(self.at..)?;
        let item = decode_single(&mut rest).ok()?;
        self.at = self.block.len() - rest.len();
        Some(item)
    }
}

enum Sequence<'r> {
    File(EntriesFile<BufReader<File>>),
    Tree(TreeEntries<'r>),
}

impl Iterator for Sequence<'_> {
    type Item = (TreeKey, Entry);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::File(file) => file.next(),
            // Why: behind a damaged node the walk goes on; what it held is read from the source again.
            Self::Tree(entries) => entries.find_map(Result::ok),
        }
    }
}

/// What is known of a path from an earlier run.
pub struct Known {
    /// The entry as it was recorded.
    pub entry: Entry,
    /// When that run began to read: what changed later may be newer than its entry although its times are equal.
    pub read_at: Timestamp,
    /// True if that run did not commit: what it says was stored may not be.
    pub unfinished: bool,
    /// True if whoever signed it may say anything: a base that is checked, never taken over.
    pub only_base: bool,
}

/// What an earlier run knows of the source, asked in ascending key order.
#[derive(Default)]
pub struct Parent<'r> {
    sequences: Vec<Earlier<'r>>,
    snapshot: Option<SnapshotId>,
}

/// What one earlier run knows.
struct Earlier<'r> {
    entries: std::iter::Peekable<Sequence<'r>>,
    read_at: Timestamp,
    unfinished: bool,
    only_base: bool,
}

impl<'r> Parent<'r> {
    /// Opens what there is: the file of a run that did not finish, and the newest snapshot, from the local file if that
    /// is its, else from the repository where the key may read it. Damage only makes the parent shorter. Of a snapshot that
    /// [`Repository::trusts`] does not name, nothing may be taken over.
    #[must_use]
    pub fn open(repository: &'r Repository, source: &SourceName, snapshot: Option<&Snapshot>) -> Self {
        let mut parent = Self::default();
        let directory = repository.cache().entries_directory();
        let unfinished = directory.as_ref().and_then(|directory| largest_unfinished(directory, source));
        if let Some((file, time)) = unfinished.and_then(|path| EntriesFile::open(&path)) {
            let entries = Sequence::File(file).peekable();
            parent.sequences.push(Earlier { entries, read_at: time, unfinished: true, only_base: false });
        }
        let Some(snapshot) = snapshot else { return parent };
        let only_base = !repository.trusts(snapshot);
        let record = &snapshot.record;
        let path = directory.map(|directory| directory.join(source.finished(&record.id)));
        let (entries, read_at) = if let Some((file, time)) = path.and_then(|path| EntriesFile::open(&path)) {
            (Sequence::File(file), time)
        } else if repository.can_read_data() {
            (Sequence::Tree(repository.tree(&record.root).entries()), record.time)
        } else {
            return parent;
        };
        parent.snapshot = (!only_base).then_some(record.id);
        let entries = entries.peekable();
        parent.sequences.push(Earlier { entries, read_at, unfinished: false, only_base });
        parent
    }

    /// The committed snapshot from which it takes over.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.snapshot
    }

    /// Tells all entries of all that is known.
    pub fn drain(self, each: &mut dyn FnMut(&TreeKey, &Entry)) {
        for (key, entry) in self.sequences.into_iter().flat_map(|earlier| earlier.entries) {
            each(&key, &entry);
        }
    }

    /// What is known for `key`, the freshest first. Keys must be asked for in ascending order; what lies between, `gone` is
    /// told.
    pub fn take(&mut self, key: &TreeKey, gone: &mut dyn FnMut(&TreeKey, &Entry)) -> [Option<Known>; 2] {
        let mut found = [None, None];
        for (place, earlier) in found.iter_mut().zip(&mut self.sequences) {
            while let Some((known, entry)) = earlier.entries.next_if(|(known, _)| known < key) {
                gone(&known, &entry);
            }
            let entry = earlier.entries.next_if(|(known, _)| known == key).map(|(_, entry)| entry);
            let Earlier { read_at, unfinished, only_base, .. } = *earlier;
            *place = entry.map(|entry| Known { entry, read_at, unfinished, only_base });
        }
        found
    }
}

/// The largest file that a run which is gone left unfinished.
fn largest_unfinished(directory: &Path, source: &SourceName) -> Option<PathBuf> {
    let unfinished = files_of(directory, source).into_iter().filter(|path| path.extension().is_some());
    let abandoned = unfinished.filter(|path| lock_if_free(path).is_some());
    abandoned.max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
}
