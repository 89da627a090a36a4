//! Which older file a file of tensors is encoded against, and where the older bytes lie.
//!
//! A training run writes the same tensors again and again, under other names: step-000100, step-000120. [`Runs`] remembers
//! the files that a backup passes, by their path with all digits left out, and by the tensors in them (a fine-tune has
//! those of its base model). [`OldFile`] is such a file with its tensors and chunks; [`TensorBases`] finds for a piece of a
//! tensor the older chunk of the same tensor and elements.
//!
//! All of it is a hint: what is found is read, compared with its id, and used only where that pays. Bytes come from the
//! local file where it still holds them, which also serves members who may not read data, else from the repository.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backup::cuts::{CutPlan, PIECE_BYTES_MAX, Parts, Piece};
use crate::backup::models::{MODEL_BYTES_MIN, Models, look_around};
use crate::chunker::{Chunker, SizeClass};
use crate::entry::{Content, Entry, Kind, TableRef, TreeKey, without_digits};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::readers::{self, Layout, Tensor};
use crate::repo::cache::Cache;
use crate::repo::{Repository, Session, StoredFile};
use crate::stages::read::{OpenFile, open_again, read_at};
use crate::statistics::table::TensorTable;
use crate::units::{KIB, MIB};

/// Shorter files are not looked at for tensors.
pub(crate) const TENSOR_FILE_BYTES_MIN: u64 = 64 * KIB as u64;
/// So many files of older snapshots are remembered.
const STORED_MAX: usize = 4096;
/// What the files of this backup may take that are remembered, in bytes.
const READ_BYTES_MAX: usize = 32 * MIB;
/// So many files are opened that the user named as bases.
const DECLARED_MAX: usize = 1024;
/// In so many snapshots is looked for a file that an earlier backup read.
const MODEL_SNAPSHOTS_MAX: usize = 16;
/// What a tensor's statistics take about, in bytes: most of it is the histogram.
const TABLE_TENSOR_BYTES: usize = 1200;
/// So many chunks of a file that is cut again are looked at.
const CHUNKS_MAX: usize = 1 << 18;
/// Words before the number of a step in a name.
const STEP_WORDS: [&[u8]; 6] = [b"step", b"iter", b"iteration", b"checkpoint", b"ckpt", b"epoch"];

/// A hash of what two files have in common.
pub(crate) type Mark = [u8; 16];

/// The file that asks for an older one, and how it is cut.
type Like<'a> = Option<(&'a Layout, &'a CutPlan)>;

/// A place on the local disk that held a chunk's plain bytes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) path: Arc<Path>,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// A chunk that may serve as base, and where its bytes may be had without the repository.
#[derive(Debug, Clone)]
pub(crate) struct BaseRef {
    pub(crate) id: ChunkId,
    pub(crate) place: Option<Place>,
}

/// A chunk of an older file.
#[derive(Debug, Clone)]
pub(crate) struct OldChunk {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) id: ChunkId,
    /// The base that was proposed for it.
    pub(crate) base: Option<BaseRef>,
}

/// An older file: its tensors and its chunks.
#[derive(Debug)]
pub(crate) struct OldFile {
    /// Where each tensor begins, by name, kind and row.
    tensors: HashMap<Mark, u64>,
    chunks: Vec<OldChunk>,
    /// Where its bytes lie on the local disk.
    path: Option<Arc<Path>>,
    /// Of all tensors.
    signature: Mark,
    /// What its numbers were like.
    table: Option<TensorTable>,
}

impl OldFile {
    /// A file with these tensors.
    pub(crate) fn new<'t>(
        tensors: impl Iterator<Item = &'t Tensor>,
        chunks: Vec<OldChunk>,
        path: Option<Arc<Path>>,
    ) -> Self {
        let tensors: HashMap<Mark, u64> = tensors.map(|tensor| (tensor_mark(tensor), tensor.range.start)).collect();
        let signature = signature(tensors.keys().copied().collect());
        Self { tensors, chunks, path, signature, table: None }
    }

    /// With what its numbers are like.
    pub(crate) fn with_table(self, table: Option<TensorTable>) -> Self {
        Self { table, ..self }
    }

    /// What its numbers were like.
    pub(crate) fn table(&self) -> Option<&TensorTable> {
        self.table.as_ref()
    }

    /// A file of an older snapshot. None where nothing of it can be read, or nothing of use. Where it was stored with a table,
    /// its header need not be read, which for an archive means a chunk for each member.
    fn open(repository: &Repository, stored: &Stored, like: Like<'_>) -> Option<Self> {
        let path = stored.is_here.then(|| Arc::<Path>::from(stored.key.to_path()));
        let Some(file) = StoredFile::open(repository, &stored.content).ok().flatten() else {
            return Self::cut_again(repository, &path?, stored, like);
        };
        let chunks = file.chunks().iter().map(|&(offset, length, id)| OldChunk { offset, length, id, base: None });
        let table = stored.table.filter(|_| repository.can_read_data());
        let table = table.and_then(|table| repository.read_table(&table).ok());
        if let Some(whole) = table.as_ref().filter(|table| table.left_out == 0) {
            let tensors = whole.tensors.iter().map(|record| &record.tensor);
            return Some(Self::new(tensors, chunks.collect(), path).with_table(table));
        }
        let local = path.as_ref().and_then(|path| {
            let opened = open_again(path).ok()?;
            readers::read(&OpenFile { file: &opened, length: stored.size }, stored.key.name())
        });
        let remote = || repository.can_read_data().then(|| readers::read(&file, stored.key.name())).flatten();
        let layout = local.or_else(remote)?;
        Some(Self::new(layout.tensors.iter(), chunks.collect(), path).with_table(table))
    }

    /// The file at this path in the newest snapshot that has one; or on the local disk, where this key may read no snapshot.
    fn of_model(repository: &Repository, key: &TreeKey, like: Like<'_>) -> Option<Self> {
        let path = key.to_path();
        if !repository.can_read_data() {
            let size = std::fs::metadata(&path).ok()?.len();
            let stored =
                Stored { key: key.clone(), content: Content::Extents(Vec::new()), size, table: None, is_here: true };
            return Self::cut_again(repository, &Arc::from(path), &stored, like);
        }
        let snapshots = repository.snapshots().into_iter().rev();
        let holding = snapshots.filter(|snapshot| {
            let paths = snapshot.record.paths.iter().map(|path| Path::new(OsStr::from_bytes(path)));
            paths.filter_map(TreeKey::from_path).any(|source| key.is_within(&source))
        });
        let entry = holding
            .take(MODEL_SNAPSHOTS_MAX)
            .find_map(|snapshot| repository.tree(&snapshot.record.root).get(key).ok().flatten())?;
        let Kind::File(content) = entry.kind else { return None };
        let stored = Stored { key: key.clone(), content, size: entry.size, table: entry.table, is_here: true };
        Self::open(repository, &stored, like)
    }

    /// A file whose list of chunks this key may not read, but that the local disk still holds: it is cut once more, flat tensors
    /// as those of the file that asks. What comes out is compared by id.
    fn cut_again(repository: &Repository, path: &Arc<Path>, stored: &Stored, like: Like<'_>) -> Option<Self> {
        let file = open_again(path).ok()?;
        let layout = readers::read(&OpenFile { file: &file, length: stored.size }, stored.key.name())?;
        if layout.tensors.is_empty() {
            return None;
        }
        let parts = like.map_or_else(Parts::new, |(own, plan)| plan.parts_in(own, &layout));
        let plan = CutPlan::new(&layout, stored.size, parts);
        let class = SizeClass::for_length(Some(stored.size));
        let chunker = Chunker::new(&repository.keys().chunker_key);
        let mut window = vec![0; PIECE_BYTES_MAX.max(class.max)];
        let (mut offset, mut chunks) = (0, Vec::new());
        while offset < stored.size && chunks.len() < CHUNKS_MAX {
            let (Piece::Free(end) | Piece::Whole { end, .. }) = plan.piece(offset);
            let wanted = usize::try_from(end - offset).unwrap_or(usize::MAX).min(window.len());
            let read = read_at(&file, offset, &mut window[..wanted]).ok()?;
            let length = match plan.piece(offset) {
                Piece::Free(_) => chunker.cut(&class, &window[..read]),
                Piece::Whole { .. } => read,
            };
            if length == 0 {
                break;
            }
            let id = repository.id_key().chunk_id(&window[..length]);
            let short = u32::try_from(length).expect("a window is short");
            chunks.push(OldChunk { offset, length: short, id, base: None });
            offset += u64::from(short);
        }
        Some(Self::new(layout.tensors.iter(), chunks, Some(Arc::clone(path))))
    }

    /// The chunk that covers most of these bytes.
    fn chunk(&self, start: i64, length: usize) -> Option<&OldChunk> {
        let end = start + i64::try_from(length).unwrap_or(i64::MAX / 4);
        let bounds = |chunk: &OldChunk| (signed(chunk.offset), signed(chunk.offset) + i64::from(chunk.length));
        let first = self.chunks.partition_point(|chunk| bounds(chunk).1 <= start);
        let touched = self.chunks[first..].iter().take_while(|chunk| bounds(chunk).0 < end);
        touched.max_by_key(|chunk| end.min(bounds(chunk).1) - start.max(bounds(chunk).0))
    }

    fn place(&self, chunk: &OldChunk) -> Option<Place> {
        let path = Arc::clone(self.path.as_ref()?);
        Some(Place { path, offset: chunk.offset, length: chunk.length })
    }

    fn bytes(&self) -> usize {
        let statistics = self.table.as_ref().map_or(0, |table| TABLE_TENSOR_BYTES * table.tensors.len());
        size_of::<Self>() + 32 * self.tensors.len() + size_of_val(&self.chunks[..]) + statistics
    }
}

/// Finds the bases for the pieces of one file.
pub(crate) struct TensorBases {
    older: Vec<Arc<OldFile>>,
    /// How far the last piece lies behind its counterpart in the first of them.
    shift: i64,
}

impl TensorBases {
    pub(crate) fn new(older: Vec<Arc<OldFile>>) -> Self {
        Self { older, shift: 0 }
    }

    /// The base for `length` bytes at `offset`, which belong to `tensor`, or to none; only one on which this session may
    /// lean. And where the older chunk has that base itself, the older chunk.
    pub(crate) fn find(
        &mut self,
        session: &Session<'_>,
        tensor: Option<&Tensor>,
        offset: u64,
        length: usize,
    ) -> Option<(BaseRef, Option<BaseRef>)> {
        let known = tensor.and_then(|tensor| {
            let mark = tensor_mark(tensor);
            let found = self.older.iter().find_map(|old| Some((old, *old.tensors.get(&mark)?)));
            found.map(|(old, start)| (old, signed(tensor.range.start) - signed(start)))
        });
        let (old, shift) = match (known, tensor) {
            (Some(found), _) => found,
            // A tensor that the older file has not resembles nothing in it.
            (None, Some(_)) => return None,
            (None, None) => (self.older.first()?, self.shift),
        };
        self.shift = shift;
        let chunk = old.chunk(signed(offset) - shift, length)?;
        let keyframe = session.keyframe(&chunk.id)?;
        let recent = BaseRef { id: chunk.id, place: old.place(chunk) };
        if keyframe == chunk.id {
            return Some((recent, None));
        }
        let proposed = chunk.base.as_ref().filter(|base| base.id == keyframe);
        Some((proposed.cloned().unwrap_or(BaseRef { id: keyframe, place: None }), Some(recent)))
    }
}

/// A file's content in the parent snapshot, and its tensor table.
#[derive(Debug, Clone)]
pub(crate) struct OldVersion {
    pub(crate) content: Content,
    pub(crate) table: Option<TableRef>,
}

/// A file of an older snapshot, as its entry says it.
struct Stored {
    key: TreeKey,
    content: Content,
    size: u64,
    table: Option<TableRef>,
    is_here: bool,
}

#[derive(Clone)]
enum Older {
    Stored(Arc<Stored>),
    /// With the step that its path tells.
    Read(Arc<OldFile>, Option<Vec<u8>>),
}

impl Older {
    fn step(&self) -> Option<Vec<u8>> {
        match self {
            Self::Stored(stored) => step_of_path(&stored.key),
            Self::Read(_, step) => step.clone(),
        }
    }
}

#[derive(Default)]
struct State {
    stored: HashMap<Mark, Older>,
    order: VecDeque<Mark>,
    read: VecDeque<(Vec<Mark>, Arc<OldFile>)>,
    read_bytes: usize,
    /// What the user named.
    declared: Vec<Arc<OldFile>>,
    /// What earlier backups read.
    models: Models,
    reading: HashSet<Mark>,
    /// Numbers of the files of each run that are to be read.
    announced: HashMap<Mark, BTreeSet<u64>>,
}

/// The files that a backup has passed, shared by all workers.
#[derive(Default)]
pub(crate) struct Runs {
    state: Mutex<State>,
    /// True when the snapshots of others were looked at. Locked while they are: who needs them too waits.
    looked: Mutex<bool>,
}

impl Runs {
    /// For a backup of a client with that cache.
    pub(crate) fn new(cache: &Cache) -> Self {
        let state = State { models: Models::load(cache), ..State::default() };
        Self { state: Mutex::new(state), looked: Mutex::default() }
    }

    /// What was read is published, as the tree `root` against that of the parent: later backups may find it.
    pub(crate) fn save(&self, cache: &Cache, parent: Option<&ChunkId>, root: ChunkId) {
        self.lock().models.save(cache, parent, root);
    }

    /// Remembers a file of an older snapshot; `is_here` where it is unchanged on the local disk. Only what lies under
    /// numbers can be followed by other names.
    pub(crate) fn note(&self, key: &TreeKey, entry: &Entry, is_here: bool) {
        let Kind::File(content) = &entry.kind else { return };
        if entry.size < TENSOR_FILE_BYTES_MIN || !key.0.iter().any(u8::is_ascii_digit) {
            return;
        }
        let (content, size, table) = (content.clone(), entry.size, entry.table);
        let stored = Arc::new(Stored { key: key.clone(), content, size, table, is_here });
        let mut state = self.lock();
        for mark in RunMarks::of(key).all() {
            state.remember(mark, Older::Stored(Arc::clone(&stored)));
        }
    }

    /// A file that will be read, the `turn`-th to be sent: others of its run wait for it, and those beside it that await what
    /// `beside` names. Whoever reads it says [`Self::end_turn`].
    pub(crate) fn announce(&self, key: &TreeKey, beside: Option<&Mark>, turn: u64) {
        let mut state = self.lock();
        for mark in [&RunMarks::of(key).run].into_iter().chain(beside) {
            state.announced.entry(*mark).or_default().insert(turn);
        }
    }

    /// The file that was announced is read, or given up.
    pub(crate) fn end_turn(&self, key: &TreeKey, beside: Option<&Mark>, turn: u64) {
        let mut state = self.lock();
        for mark in [&RunMarks::of(key).run].into_iter().chain(beside) {
            if let Some(turns) = state.announced.get_mut(mark) {
                turns.remove(&turn);
                if turns.is_empty() {
                    state.announced.remove(mark);
                }
            }
        }
    }

    /// True if no other file has to be read, or is being read, before the one of that turn: one of the same run, or with the same
    /// tensors, or beside it under the mark that it awaits. False while there is: the caller does something else meanwhile, and
    /// asks again. Whoever got true says [`Self::end`].
    pub(crate) fn begin(&self, marks: &[Mark; 2], awaited: Option<&Mark>, turn: u64) -> bool {
        let is_read = |state: &State| {
            let mut before = [&marks[0]].into_iter().chain(awaited).filter_map(|mark| state.announced.get(mark));
            before.any(|turns| turns.first().is_some_and(|first| *first < turn))
                || marks.iter().any(|mark| state.reading.contains(mark))
        };
        let mut state = self.lock();
        let is_free = !is_read(&state);
        if is_free {
            state.reading.extend(marks);
        }
        is_free
    }

    /// The file is read, or given up.
    pub(crate) fn end(&self, marks: &[Mark; 2]) {
        let mut state = self.lock();
        for mark in marks {
            state.reading.remove(mark);
        }
    }

    /// Remembers a file that this backup has read.
    pub(crate) fn remember(&self, key: &TreeKey, file: OldFile) {
        let marks = [&RunMarks::of(key).all()[..], &[file.signature]].concat();
        let file = Arc::new(file);
        let mut state = self.lock();
        state.models.add(file.signature, key);
        state.read_bytes += file.bytes();
        for mark in &marks {
            state.remember(*mark, Older::Read(Arc::clone(&file), step_of_path(key)));
        }
        state.read.push_back((marks, file));
        state.drop_oldest();
    }

    /// Remembers files that the user named as bases: those at `key` in the tree `root`, and below it.
    ///
    /// # Errors
    /// [`Error::NotFound`] where nothing is there, or no file with tensors; damage.
    pub(crate) fn declare(&self, repository: &Repository, root: &ChunkId, key: &TreeKey) -> Result<()> {
        let mut found = Vec::new();
        for entry in repository.tree(root).within(key) {
            let (place, entry) = entry?;
            if found.len() == DECLARED_MAX {
                break;
            }
            if let Kind::File(content) = entry.kind
                && entry.size >= TENSOR_FILE_BYTES_MIN
            {
                let stored = Stored { key: place, content, size: entry.size, table: entry.table, is_here: false };
                found.extend(OldFile::open(repository, &stored, None).map(Arc::new));
            }
        }
        if found.is_empty() {
            let what = format!("nothing with tensors at {} in the snapshot of the base", key.to_path().display());
            return Err(Error::NotFound(what));
        }
        self.lock().declared.extend(found);
        Ok(())
    }

    /// Older files that may hold the same tensors as `layout`, which is cut by that plan, the likeliest first; `old` is the entry of the same path in the
    /// parent. The second is the one of them that is the file's last version, or the checkpoint before it.
    pub(crate) fn older(
        &self,
        repository: &Repository,
        key: &TreeKey,
        (layout, plan): (&Layout, &CutPlan),
        old: Option<&OldVersion>,
    ) -> (Vec<Arc<OldFile>>, Option<Arc<OldFile>>) {
        let mut found: Vec<(Older, bool)> = Vec::new();
        let like = Some((layout, plan));
        if let Some(OldVersion { content, table }) = old.cloned() {
            let stored = Stored { key: key.clone(), content, size: 0, table, is_here: false };
            found.push((Older::Stored(Arc::new(stored)), true));
        }
        let marks = RunMarks::of(key).likeliest_first(key);
        let same = signature(layout.tensors.iter().map(tensor_mark).collect());
        let state = self.lock();
        let step = step_of_path(key);
        // Why: a file of the same step is another rank's or shard's, and no earlier version.
        let is_version = |older: &Older| step.is_none() || older.step() != step;
        let of_run = marks.iter().filter_map(|mark| state.stored.get(mark).cloned());
        found.extend(of_run.map(|older| (older.clone(), is_version(&older))));
        found.extend(state.declared.iter().map(|file| (Older::Read(Arc::clone(file), None), false)));
        found.extend(state.stored.get(&same).map(|file| (file.clone(), false)));
        drop(state);
        let (mut files, mut last): (Vec<Arc<OldFile>>, _) = (Vec::new(), None);
        for (older, is_version) in found {
            let file = match older {
                Older::Read(file, _) => Some(file),
                // One read of another's header is enough where it has the tensors.
                Older::Stored(_) if !files.is_empty() => None,
                Older::Stored(stored) => OldFile::open(repository, &stored, like).map(Arc::new),
            };
            let Some(file) = file.filter(|file| file.shares_with(layout)) else { continue };
            if !files.iter().any(|known| Arc::ptr_eq(known, &file)) {
                last = last.or_else(|| is_version.then(|| Arc::clone(&file)));
                files.push(file);
            }
        }
        if files.is_empty() {
            let models = self.models(repository, &same, layout);
            let marks = RunMarks::of(key).all();
            let is_of_run = |model: &TreeKey| RunMarks::of(model).all().iter().any(|mark| marks.contains(mark));
            let (of_run, others): (Vec<_>, Vec<_>) = models.into_iter().partition(is_of_run);
            // Of a run the newest: it is the checkpoint before. Else the first, from which others came.
            let mut opened =
                of_run.iter().rev().map(|model| (model, true)).chain(others.iter().map(|model| (model, false)));
            let found = opened.find_map(|(model, is_version)| {
                let file = OldFile::of_model(repository, model, like).filter(|file| file.shares_with(layout))?;
                Some((Arc::new(file), is_version))
            });
            if let Some((file, is_version)) = found {
                last = is_version.then(|| Arc::clone(&file));
                files.push(file);
            }
        }
        (files, last)
    }

    /// Where files with these tensors lay in earlier backups; where no list has any, in the snapshots of others, if there are
    /// enough numbers to be worth that.
    fn models(&self, repository: &Repository, same: &Mark, layout: &Layout) -> Vec<TreeKey> {
        let known = self.lock().models.find(same).to_vec();
        let bytes: u64 = layout.tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum();
        if !known.is_empty() || bytes < MODEL_BYTES_MIN {
            return known;
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::replace(&mut *looked, true) {
            // Why not under the other lock: the files that need nothing of this go on meanwhile.
            let known = self.lock().models.looked_at();
            let learnt = look_around(repository, &known);
            self.lock().models.learn(learnt);
        }
        drop(looked);
        self.lock().models.find(same).to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OldFile {
    fn shares_with(&self, layout: &Layout) -> bool {
        layout.tensors.iter().any(|tensor| self.tensors.contains_key(&tensor_mark(tensor)))
    }
}

impl State {
    fn remember(&mut self, mark: Mark, older: Older) {
        if self.stored.insert(mark, older).is_none() {
            self.order.push_back(mark);
        }
        while self.order.len() > STORED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.stored.remove(&oldest);
            }
        }
    }

    fn drop_oldest(&mut self) {
        while self.read_bytes > READ_BYTES_MAX && self.read.len() > 1 {
            let Some((marks, file)) = self.read.pop_front() else { return };
            self.read_bytes -= file.bytes();
            for mark in marks {
                if matches!(self.stored.get(&mark), Some(Older::Read(known, _)) if Arc::ptr_eq(known, &file)) {
                    self.stored.remove(&mark);
                    self.order.retain(|known| *known != mark);
                }
            }
        }
    }
}

/// What no two files that are read at a time have in common: the run, and the tensors.
pub(crate) fn reading_marks(key: &TreeKey, layout: &Layout) -> [Mark; 2] {
    [RunMarks::of(key).run, signature(layout.tensors.iter().map(tensor_mark).collect())]
}

/// What the files of a run have in common.
pub(crate) struct RunMarks {
    /// Folders and name without the numbers of steps: ranks and shards stay apart.
    step: Mark,
    /// The folder as it is, and the name without its digits.
    place: Mark,
    /// All folders without their digits, and the name as it is.
    folder: Mark,
    /// Folders and name without their digits.
    run: Mark,
}

impl RunMarks {
    pub(crate) fn of(key: &TreeKey) -> Self {
        let (folders, name) = key.0.split_at(key.0.len() - key.name().len());
        let (bare_folders, bare_name) = (without_digits(folders), without_digits(name));
        Self {
            step: mark(b"step", [without_steps(&key.0).as_slice()]),
            place: mark(b"place", [folders, bare_name.as_slice()]),
            folder: mark(b"folder", [bare_folders.as_slice(), name]),
            run: mark(b"run", [bare_folders.as_slice(), bare_name.as_slice()]),
        }
    }

    /// What the files of a run share: folders and name without their digits.
    pub(crate) fn run(&self) -> Mark {
        self.run
    }

    fn all(&self) -> [Mark; 4] {
        [self.step, self.place, self.folder, self.run]
    }

    /// First what differs in nothing but the step. Else, where a name tells a step, the file before it lies beside it; and where
    /// not, numbers in names are those of shards and ranks, and the file before it has the same name in another folder.
    fn likeliest_first(&self, key: &TreeKey) -> [Mark; 4] {
        let Self { step, place, folder, run } = *self;
        if step_of(key.name()).is_some() { [step, place, folder, run] } else { [step, folder, place, run] }
    }
}

/// The step that the last part of a path tells which tells one.
fn step_of_path(key: &TreeKey) -> Option<Vec<u8>> {
    key.0.rsplit(|&byte| byte == 0).find_map(step_of)
}

/// A path without the numbers behind words for steps.
fn without_steps(path: &[u8]) -> Vec<u8> {
    let lower = path.to_ascii_lowercase();
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        let Some(number) = STEP_WORDS.iter().filter(|word| lower[at..].starts_with(word)).find_map(|word| {
            let begin = at + word.len();
            let gap = path[begin..].iter().position(|byte| !matches!(byte, b'-' | b'_' | b'.' | b'='))?;
            let digits = path[begin + gap..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            (digits > 0).then_some(begin + gap..begin + gap + digits)
        }) else {
            out.push(path[at]);
            at += 1;
            continue;
        };
        out.extend_from_slice(&path[at..number.start]);
        at = number.end;
    }
    out
}

/// The number of the step that a name tells, without zeros in front: the one behind a word for steps.
pub(crate) fn step_of(name: &[u8]) -> Option<Vec<u8>> {
    let name = name.to_ascii_lowercase();
    STEP_WORDS.iter().find_map(|word| {
        name.windows(word.len()).enumerate().filter(|(_, found)| found == word).find_map(|(at, _)| {
            let rest = &name[at + word.len()..];
            let start = rest.iter().position(|byte| !matches!(byte, b'-' | b'_' | b'.' | b'='))?;
            let digits: Vec<u8> = rest[start..].iter().copied().take_while(u8::is_ascii_digit).collect();
            let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
            (!digits.is_empty()).then(|| digits[zeros..].to_vec())
        })
    })
}

/// Names a tensor by what its next version has too: name, kind, and the length of a row. Rows may have been added.
fn tensor_mark(tensor: &Tensor) -> Mark {
    let row = tensor.shape.iter().skip(1).fold(1_u64, |row, dimension| row.wrapping_mul(*dimension));
    let kind = format!("{:?}", tensor.dtype);
    mark(b"tensor", [tensor.name.as_bytes(), kind.as_bytes(), &row.to_le_bytes()])
}

/// The signature of the file of which that is the table; none where it does not have all tensors.
pub(crate) fn table_signature(table: &TensorTable) -> Option<Mark> {
    let marks = || table.tensors.iter().map(|record| tensor_mark(&record.tensor)).collect();
    (table.left_out == 0).then(|| signature(marks()))
}

fn signature(mut tensors: Vec<Mark>) -> Mark {
    tensors.sort_unstable();
    tensors.dedup();
    mark(b"signature", [tensors.as_flattened()])
}

pub(crate) fn mark<const N: usize>(what: &[u8], parts: [&[u8]; N]) -> Mark {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(what).chain(parts) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn key(path: &str) -> TreeKey {
        TreeKey::from_path(Path::new(path)).unwrap()
    }

    #[test]
    fn digits_tell_no_run_apart_but_letters_do() {
        for (left, right, step, place, folder, run) in [
            ("/r/step-0100/w.pt", "/r/step-120/w.pt", true, false, true, true),
            ("/r/step-100/w-1-of-2.pt", "/r/step-200/w-1-of-2.pt", true, false, true, true),
            ("/r/step-100/w-1-of-2.pt", "/r/step-200/w-2-of-2.pt", false, false, false, true),
            ("/r/iter_0000100/mp_rank_00/w.pt", "/r/iter_0000200/mp_rank_00/w.pt", true, false, true, true),
            ("/r/iter_0000100/mp_rank_00/w.pt", "/r/iter_0000200/mp_rank_01/w.pt", false, false, true, true),
            ("/r/step-100.pt", "/r/step-200.pt", true, true, false, true),
            ("/r/Step=100_rank_1.pt", "/r/Step=200_rank_1.pt", true, true, false, true),
            ("/r1/step-100.pt", "/r2/step-200.pt", false, false, false, true),
            ("/r/100/w.pt", "/r/200/w.pt", false, false, true, true),
            ("/r/step-100/a.pt", "/r/step-100/b.pt", false, false, false, false),
            ("/r/a/w.pt", "/r/b/w.pt", false, false, false, false),
            ("/r/1/w.pt", "/r/1w.pt", false, false, false, false),
        ] {
            let (one, two) = (RunMarks::of(&key(left)), RunMarks::of(&key(right)));
            let equal = (one.step == two.step, one.place == two.place, one.folder == two.folder, one.run == two.run);
            assert_eq!(equal, (step, place, folder, run), "{left}, {right}");
        }
    }

    #[test]
    fn a_step_in_a_name_is_told_from_the_number_of_a_shard() {
        for (path, is_beside) in [
            ("/run-2/step-000100.safetensors", true),
            ("/run-2/model_epoch=3.ckpt", true),
            ("/run/Checkpoint_40.pt", true),
            ("/run/iter0000100.pt", true),
            ("/checkpoint-120/model-00001-of-00002.safetensors", false),
            ("/step-100/__0_0.distcp", false),
            ("/step-100/steps.pt", false),
        ] {
            let marks = RunMarks::of(&key(path));
            assert_eq!(marks.likeliest_first(&key(path))[1] == marks.place, is_beside, "{path}");
        }
    }

    #[test]
    fn one_file_of_a_run_or_with_the_same_tensors_is_read_at_a_time() {
        let runs = Runs::default();
        let [first, second, third, other] =
            [(1, 1), (1, 2), (2, 1), (3, 3)].map(|(run, tensors)| [[run; 16], [tensors + 9; 16]]);
        assert!(runs.begin(&first, None, 1));
        assert!(!runs.begin(&second, None, 2) && !runs.begin(&third, None, 3));
        assert!(runs.begin(&other, None, 4));
        runs.end(&first);
        assert!(runs.begin(&second, None, 2) && runs.begin(&third, None, 3));
    }

    #[test]
    fn what_was_announced_first_is_read_first() {
        let runs = Runs::default();
        let [first, second] = ["/r/step-1.pt", "/r/step-2.pt"].map(key);
        runs.announce(&first, None, 7);
        runs.announce(&second, None, 8);
        let marks = |key| [RunMarks::of(key).run, [0; 16]];
        assert!(!runs.begin(&marks(&second), None, 8));
        assert!(runs.begin(&marks(&first), None, 7));
        runs.end(&marks(&first));
        assert!(!runs.begin(&marks(&second), None, 8));
        runs.end_turn(&first, None, 7);
        assert!(runs.begin(&marks(&second), None, 8));
        runs.end_turn(&second, None, 8);
        assert!(runs.lock().announced.is_empty());
    }

    fn file_of(size: u64) -> Entry {
        let (mtime, ctime) = (Timestamp::default(), Timestamp::default());
        Entry {
            kind: Kind::File(Content::Extents(Vec::new())),
            mode: 0o600,
            uid: 0,
            gid: 0,
            user: None,
            group: None,
            mtime,
            ctime,
            btime: None,
            size,
            inode: 1,
            links: None,
            xattrs: Vec::new(),
            flags: 0,
            table: None,
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let runs = Runs::default();
        let entry = file_of(TENSOR_FILE_BYTES_MIN);
        for number in 0..2 * STORED_MAX {
            let name: String = number.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect();
            runs.note(&key(&format!("/{name}/1")), &entry, true);
        }
        assert_eq!(runs.lock().stored.len(), STORED_MAX);
        assert_eq!(runs.lock().order.len(), STORED_MAX);
    }
}
