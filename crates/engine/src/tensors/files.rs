//! The files at a path of a snapshot that hold tensors, and what their layouts say.
//!
//! Files come in order of their paths. Parts of torch's distributed checkpoints (`.distcp`) do not know whose parts they
//! are: the `.metadata` file beside them tells, and gives each its place in the whole tensor. A tensor without a name is
//! called as its file, without the ending.

use std::collections::HashMap;

use crate::entry::{Content, Entry, Kind, TableRef, TreeKey};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::Monitor;
use crate::readers::{self, DistcpMetadata, Dtype, Format, Layout, Strided, Tensor, View};
use crate::repo::{Repository, StoredFile};

/// The ending of parts of distributed checkpoints, and the file that explains them.
const PART_ENDING: &[u8] = b".distcp";
const METADATA_NAME: &[u8] = b".metadata";

/// Where a part of a tensor belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its first element in the whole tensor, one number a dimension.
    pub offset: Vec<u64>,
    /// Of how many parts the whole consists, those without elements left out.
    pub parts: usize,
}

/// A tensor of a file, or a part of one.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// What the layout says; the name is the full one, where `.metadata` tells it.
    pub(super) tensor: Tensor,
    /// Its own shape and strides, where they are not those of `tensor`.
    pub(super) own: Option<Strided>,
    /// Set for parts of distributed checkpoints that `.metadata` names.
    pub(super) place: Option<Place>,
}

impl Found {
    /// True for what is a tensor under that name; false for a part of a storage that no tensor covers.
    pub(super) fn is_named(&self) -> bool {
        self.tensor.view != View::Rest
    }

    /// The dimensions that its program sees, as far as the file tells.
    pub(super) fn shape(&self) -> &[u64] {
        self.own.as_ref().map_or(&self.tensor.shape, |own| &own.shape)
    }
}

/// A file with a layout.
pub(super) struct TensorFile<'r> {
    pub(super) key: TreeKey,
    pub(super) mode: u32,
    pub(super) content: Content,
    /// Where its numbers' statistics are, if they were stored.
    pub(super) table: Option<TableRef>,
    pub(super) stored: StoredFile<'r>,
    pub(super) format: Format,
    pub(super) found: Vec<Found>,
    /// So many more tensors had no room in the layout.
    pub(super) left_out: u64,
    /// Why a part of its header could not be read, if so: there may be more tensors than were found.
    pub(super) failure: Option<Error>,
}

/// What one look at a file gave.
pub(super) enum Look<'r> {
    /// It has a layout.
    File(Box<TensorFile<'r>>),
    /// It has none that the readers know.
    Unknown(TreeKey),
    /// It can't be told, for this reason.
    Failed(TreeKey, Error),
}

/// Looks at the file at `from`, or at each below it.
///
/// # Errors
/// [`Error::NotFound`] where nothing is at `from` or it is neither file nor directory; damage of the tree; what `each`
/// fails with; [`Error::Interrupted`].
pub(super) fn each_file<'r>(
    repository: &'r Repository,
    root: &ChunkId,
    from: &TreeKey,
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(Look<'r>) -> Result<()>,
) -> Result<()> {
    repository.refuse_unable_to_read()?;
    let shown = || from.to_path().display().to_string();
    let top = repository.tree(root).get(from)?;
    // Why the root: a snapshot need not have an entry for it.
    if top.is_none() && !from.0.is_empty() {
        return Err(Error::NotFound(format!("{} is not in the snapshot", shown())));
    }
    if top.is_some_and(|entry| !entry.is_file() && !entry.is_directory()) {
        return Err(Error::NotFound(format!("{} is neither a file nor a directory", shown())));
    }
    let mut metadata = Metadata::new(repository, root);
    for item in repository.tree(root).within(from) {
        let (key, entry) = item?;
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        let Entry { mode, table, kind: Kind::File(content), .. } = entry else { continue };
        monitor.current(&key.to_path());
        each(look(repository, key, (mode, content, table), &mut metadata))?;
    }
    Ok(())
}

fn look<'r>(
    repository: &'r Repository,
    key: TreeKey,
    (mode, content, table): (u32, Content, Option<TableRef>),
    metadata: &mut Metadata<'r>,
) -> Look<'r> {
    let stored = match StoredFile::open(repository, &content) {
        Ok(Some(stored)) => stored,
        Ok(None) => {
            let why = Error::Usage(format!("{}: it has too many pieces to look into", key.to_path().display()));
            return Look::Failed(key, why);
        }
        Err(error) => return Look::Failed(key, error),
    };
    let layout = readers::read(&stored, key.name());
    let mut failure = stored.failure();
    let Some(layout) = layout else {
        return failure.map_or(Look::Unknown(key.clone()), |error| Look::Failed(key, error));
    };
    let (format, left_out) = (layout.format, layout.left_out);
    let mut found = all(layout);
    if is_part(&key)
        && let Err(error) = metadata.explain(&key, &mut found)
    {
        failure.get_or_insert(error);
    }
    found.iter_mut().filter(|found| found.tensor.name.is_empty()).for_each(|found| found.tensor.name = stem(&key));
    Look::File(Box::new(TensorFile { key, mode, content, table, stored, format, found, left_out, failure }))
}

/// The tensors of a layout, ascending by range: each with its own shape, and those that share numbers too.
fn all(layout: Layout) -> Vec<Found> {
    let mut owns: HashMap<(u64, String), Strided> = HashMap::new();
    let mut found = Vec::with_capacity(layout.tensors.len());
    let mut others = Vec::new();
    for own in layout.strided {
        let place = (own.range.start, own.name.clone());
        others.extend(owns.insert(place, own));
    }
    for tensor in layout.tensors {
        let turned = matches!(tensor.view, View::Turned | View::Span);
        let own = turned.then(|| owns.remove(&(tensor.range.start, tensor.name.clone()))).flatten();
        found.push(Found { tensor, own, place: None });
    }
    others.extend(owns.into_values());
    others.sort_by(|left, right| (left.range.start, &left.name).cmp(&(right.range.start, &right.name)));
    found.extend(others.into_iter().map(|own| {
        let (name, shape, range) = (own.name.clone(), own.shape.clone(), own.range.clone());
        let tensor = Tensor { name, dtype: own.dtype, shape, view: View::Shared, range };
        Found { tensor, own: (!own.is_row_major()).then_some(own), place: None }
    }));
    found.sort_by_key(|found| found.tensor.range.start);
    found
}

/// True for a part of a distributed checkpoint, by its name.
pub(super) fn is_part(key: &TreeKey) -> bool {
    key.name().ends_with(PART_ENDING)
}

/// A file's name without its ending.
pub(super) fn stem(key: &TreeKey) -> String {
    let name = String::from_utf8_lossy(key.name()).into_owned();
    match name.rsplit_once('.') {
        Some((stem, _)) if !stem.is_empty() => stem.to_owned(),
        _ => name,
    }
}

/// What `.metadata` of one directory says; kept while files of that directory are looked at.
pub(super) struct Metadata<'r> {
    repository: &'r Repository,
    root: ChunkId,
    directory: Option<TreeKey>,
    /// Ascending by file and place.
    pieces: Vec<Piece>,
}

struct Piece {
    stored: readers::Stored,
    /// How many pieces with elements have the same name.
    parts: usize,
}

impl Piece {
    /// Gives a tensor in the piece its name and place. A piece that is no tensor itself, but an object with tensors in it,
    /// lends them its name only.
    fn explain(&self, found: &mut Found) {
        let (stored, own) = (&self.stored, &found.tensor.name);
        if !own.is_empty() && *own != stored.name {
            found.tensor.name = format!("{}.{own}", stored.name);
            return;
        }
        found.tensor.name.clone_from(&stored.name);
        if stored.offset.len() == found.shape().len() {
            found.place = Some(Place { offset: stored.offset.clone(), parts: self.parts });
        }
    }
}

impl<'r> Metadata<'r> {
    /// Of a tree; nothing is read yet.
    pub(super) fn new(repository: &'r Repository, root: &ChunkId) -> Self {
        Self { repository, root: *root, directory: None, pieces: Vec::new() }
    }

    /// Gives the tensors of a file their names and places. Where there is no `.metadata`, or it can't be understood or is
    /// too large, they stay as they are.
    pub(super) fn explain(&mut self, file: &TreeKey, found: &mut [Found]) -> Result<()> {
        let directory = file.parent().unwrap_or_default();
        if self.directory.as_ref() != Some(&directory) {
            self.pieces = self.read(&directory)?;
            self.directory = Some(directory);
        }
        for found in found.iter_mut().filter(|found| found.is_named()) {
            let Some(piece) = self.piece(file.name(), &found.tensor) else { continue };
            piece.explain(found);
        }
        Ok(())
    }

    fn read(&self, directory: &TreeKey) -> Result<Vec<Piece>> {
        let entry = self.repository.tree(&self.root).get(&directory.child(METADATA_NAME))?;
        let Some(Entry { kind: Kind::File(content), .. }) = entry else { return Ok(Vec::new()) };
        let Some(file) = StoredFile::open(self.repository, &content)? else { return Ok(Vec::new()) };
        let stored = readers::distcp_metadata(&file);
        if let Some(error) = file.failure() {
            return Err(error);
        }
        let DistcpMetadata::Pieces(stored) = stored else { return Ok(Vec::new()) };
        let mut counts = HashMap::new();
        // Why not those without elements: no file has a tensor for them.
        let full = stored.iter().filter(|piece| !piece.is_empty);
        full.for_each(|piece| *counts.entry(piece.name.clone()).or_insert(0) += 1);
        let parts = |name: &String| counts.get(name).copied().unwrap_or(0);
        Ok(stored.into_iter().map(|stored| Piece { parts: parts(&stored.name), stored }).collect())
    }

    /// The piece of the file in which the tensor lies.
    fn piece(&self, file: &[u8], tensor: &Tensor) -> Option<&Piece> {
        let start =
            |piece: &Piece| (piece.stored.file.as_bytes(), piece.stored.range.start) <= (file, tensor.range.start);
        let piece = &self.pieces[self.pieces.partition_point(start).checked_sub(1)?];
        let is_in = piece.stored.file.as_bytes() == file && tensor.range.end <= piece.stored.range.end;
        is_in.then_some(piece)
    }
}

/// A dtype for people, also where it is only a width.
pub(super) fn dtype_text(dtype: Dtype) -> String {
    match dtype {
        Dtype::Width(bytes) => format!("numbers of {bytes} bytes, big-endian or of no known kind"),
        Dtype::Unknown => "bytes of no known kind".to_owned(),
        known => known.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_name_what_is_in_them() {
        let place = |offset: &[u64]| Some(Place { offset: offset.to_vec(), parts: 3 });
        // The name in the file, its shape, the piece's offset, and what becomes of them.
        for (own, shape, offset, name, expected) in [
            ("", &[4, 8][..], &[4, 0][..], "layer.w", place(&[4, 0])),
            ("layer.w", &[4, 8], &[4, 0], "layer.w", place(&[4, 0])),
            ("", &[], &[], "layer.w", place(&[])),
            ("", &[4], &[], "layer.w", None),
            ("state.0", &[4], &[], "layer.w.state.0", None),
        ] {
            let stored = readers::Stored {
                file: "part".to_owned(),
                range: 0..1000,
                name: "layer.w".to_owned(),
                offset: offset.to_vec(),
                is_transformed: false,
                is_empty: false,
            };
            let (dtype, view, shape) = (Dtype::U8, View::Own, shape.to_vec());
            let tensor = Tensor { name: own.to_owned(), dtype, shape, view, range: 10..20 };
            let mut found = Found { tensor, own: None, place: None };
            Piece { stored, parts: 3 }.explain(&mut found);
            assert_eq!((found.tensor.name.as_str(), found.place), (name, expected), "{own:?}");
        }
    }

    #[test]
    fn files_without_an_ending_are_their_own_stem() {
        for (name, expected) in [("w.npy", "w"), ("a.b.npy", "a.b"), ("plain", "plain"), (".npy", ".npy"), ("", "")] {
            assert_eq!(stem(&TreeKey(name.into())), expected);
        }
    }
}
