//! torch's distributed checkpoints: `.distcp` files, and `.metadata`, which tells what lies where in them.
//!
//! A `.distcp` file is a row of torch zips, or of safetensors files, one for each piece of a tensor. The files do not
//! say which tensor a piece is of: [`metadata`] does. Zips are found from the end of the file backwards, each right
//! before the next; safetensors from the start forwards. A gap ends the row: what was found until then counts.

use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use super::input::{Input, READ_BYTES_MAX, ReadAt};
use super::layout::{Builder, DIMENSIONS_MAX, Format};
use super::pickle::{Global, Node, Pickle, Refusal, Value, number};
use super::safetensors;
use super::zip::{self, Archive};
use crate::units::MIB;

/// At most so many pieces of a file.
const PIECES_MAX: usize = 1 << 16;
/// All pieces of a `.metadata`, with their names, in bytes.
const STORED_BYTES_MAX: usize = 128 * MIB;
/// What is kept of a `.metadata` file while it is read, in bytes: more than of a model's, as there is one at a time.
const PICKLE_BYTES_MAX: usize = 256 * MIB;
/// What is kept of a file's name besides its text, in bytes.
const NAME_BYTES: usize = 64;
/// The field of pieces that were written through an extension.
const TRANSFORMS: &str = "transform_descriptors";
/// How files with pieces are named.
const ENDING: &str = ".distcp";
/// So many bytes tell what begins there.
const HEAD_BYTES: usize = 16;

/// All archives of a file, the last first.
pub(super) fn archives(input: &Input) -> Vec<Archive> {
    let mut end = input.length();
    let mut archives: Vec<Archive> = Vec::new();
    while archives.len() < PIECES_MAX
        && let Some(archive) = Archive::ending_at(input, end)
    {
        let done = archive.range.start == 0 || archive.range.start >= end;
        end = archive.range.start;
        archives.push(archive);
        if done {
            break;
        }
    }
    archives
}

/// Reads safetensors files one after another. Gives how many there are.
pub(super) fn read_safetensors(input: &Input, builder: &mut Builder) -> usize {
    let mut at = 0;
    for pieces in 0..PIECES_MAX {
        let piece = input.part(at..input.length());
        let Some(length) = piece.and_then(|piece| safetensors::read(&piece, builder)) else { return pieces };
        match at.checked_add(length) {
            Some(next) if next < input.length() => at = next,
            _ => return pieces + 1,
        }
        builder.boundary(input.start() + at);
        builder.set_format(Format::Distcp);
    }
    PIECES_MAX
}

/// One piece of a checkpoint by its `.metadata`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file, relative to `.metadata`, as written: any text. Never open it without looking where it leads.
    pub file: String,
    /// Its bytes in that file.
    pub range: Range<u64>,
    /// The tensor (or other value) by its full name.
    pub name: String,
    /// Where in the tensor the piece begins, one number a dimension; empty for what is no tensor.
    pub offset: Vec<u64>,
    /// True where it was written through an extension, such as compression: its bytes are of no format known here.
    pub is_transformed: bool,
    /// True where it has no elements, as ranks have that a tensor is too small for.
    pub is_empty: bool,
}

impl Stored {
    /// What is wrong with the bytes at its place in `file`, in words that follow the file's name; none where a record lies
    /// there and its bounds are the piece's. Reads its head and its end: a hole within its numbers is not seen.
    ///
    /// A torch zip is the piece, from its first byte to its last. Of safetensors there is one record for all tensors of a
    /// file: each piece has the place of the record and the length of its own numbers, so the record has to reach at least as far.
    #[must_use]
    pub fn lack_in(&self, file: &dyn ReadAt) -> Option<String> {
        let start = self.range.start;
        let allowance = Cell::new(READ_BYTES_MAX);
        let input = Input::new(file, &allowance);
        let Some(rest) = input.part(start..input.length()) else {
            return Some(format!("it ends before {start}, where a piece is listed"));
        };
        let Some(head) = rest.head::<HEAD_BYTES>() else { return Some(format!("it can't be read at {start}")) };
        if zip::recognises(&head) && !self.is_transformed {
            let archive = input.part(self.range.clone()).and_then(|piece| Archive::ending_at(&piece, piece.length()));
            let is_whole = archive.is_some_and(|archive| archive.range.start == 0);
            return (!is_whole)
                .then(|| format!("what begins at {start} does not end at {}, as is listed", self.range.end));
        }
        if safetensors::recognises(&head) && !self.is_transformed {
            let length = safetensors::read(&rest, &mut Builder::new(Format::Safetensors, input.length()));
            let Some(end) = length.and_then(|length| start.checked_add(length)) else {
                return Some(format!("the header at {start} can't be read"));
            };
            return match self.range.end <= end && end <= input.length() {
                true => None,
                false => Some(format!("the header at {start} says {end} bytes, it has {}", input.length())),
            };
        }
        if head.iter().all(|&byte| byte == 0) && !self.range.is_empty() {
            return Some(format!("zeros are at {start}, where a piece is listed"));
        }
        (!self.is_transformed).then(|| format!("no piece begins at {start}, where one is listed"))
    }
}

/// Whether another torch zip begins at `end`, behind the last piece of a file that is listed.
pub fn goes_on(file: &dyn ReadAt, end: u64) -> bool {
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    input.array::<4>(end).is_some_and(|head| zip::recognises(&head))
}

/// What is wrong with a file of pieces, in words that follow the file's name, where nothing tells which pieces it has; none
/// where a torch zip ends at its end, or all of a safetensors file is in it. With `is_transformed` it may be anything but zeros.
pub fn lack_by_itself(file: &dyn ReadAt, is_transformed: bool) -> Option<String> {
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    let Some(head) = input.head::<HEAD_BYTES>() else { return Some("it can't be read".to_owned()) };
    if zip::recognises(&head) {
        let ends = Archive::ending_at(&input, input.length()).is_some();
        return (!ends).then(|| "it begins with a piece and does not end with one".to_owned());
    }
    if safetensors::recognises(&head) {
        let end = safetensors::read(&input, &mut Builder::new(Format::Safetensors, input.length()));
        let fits = end.is_some_and(|end| end <= input.length());
        return (!fits).then(|| "it is shorter than its header says".to_owned());
    }
    let is_zero = head.iter().all(|&byte| byte == 0);
    (is_zero || !is_transformed).then(|| "it does not begin with a piece".to_owned())
}

/// What a `.metadata` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metadata {
    /// What lies where: ascending by file and place.
    Pieces(Vec<Stored>),
    /// More than fits the bound: of more than some 100,000 pieces.
    TooLarge(Names),
    /// It is torn, or none; or a piece's numbers make no sense, and nothing is trusted, as this is asked to tell completeness.
    Unreadable,
}

/// What is known of a `.metadata` that is too large.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Names {
    /// Names of files with pieces: what stands in it and ends like one.
    pub files: BTreeSet<String>,
    /// Some pieces were written through an extension, and are of no format known here.
    pub is_transformed: bool,
}

/// Reads a `.metadata` file.
pub fn metadata(file: &dyn ReadAt) -> Metadata {
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    let Some(stream) = input.stream(0..input.length()) else { return Metadata::Unreadable };
    let pieces = match Pickle::read_within(stream, PICKLE_BYTES_MAX) {
        Ok(pickle) => pieces(&pickle),
        Err(Refusal::Torn) if input.length() <= READ_BYTES_MAX / 2 => None,
        Err(Refusal::TooLarge | Refusal::Torn) => Some(None),
    };
    match pieces {
        Some(Some(pieces)) => Metadata::Pieces(pieces),
        Some(None) => names(file).map_or(Metadata::Unreadable, Metadata::TooLarge),
        None => Metadata::Unreadable,
    }
}

/// Reads on to the end, whatever the length.
fn names(file: &dyn ReadAt) -> Option<Names> {
    let allowance = Cell::new(u64::MAX);
    let input = Input::new(file, &allowance);
    let mut names = Names::default();
    let mut bytes_left = STORED_BYTES_MAX;
    Pickle::each_text(input.stream(0..input.length())?, &mut |text| {
        names.is_transformed |= text == TRANSFORMS;
        if text.ends_with(ENDING) && !names.files.contains(text) && bytes_left >= NAME_BYTES + text.len() {
            bytes_left -= NAME_BYTES + text.len();
            names.files.insert(text.to_owned());
        }
    })?;
    Some(names)
}

/// None for what is no such file, and within it none where the pieces are too many.
fn pieces(pickle: &Pickle) -> Option<Option<Vec<Stored>>> {
    let Node::Object { class: Global::Metadata, state, .. } = *pickle.node(pickle.root)? else { return None };
    let empty = Empty::of(pickle, state);
    let mut bytes_left = STORED_BYTES_MAX;
    let mut pieces = Vec::new();
    // Pieces that are empty if they are not alone at their place.
    let mut doubtful = Vec::new();
    for &(index, info) in pickle.map(pickle.get(state, "storage_data")?)? {
        let mut piece = stored(pickle, index, info)?;
        match empty.holds(pickle, index) {
            Some(true) => piece.is_empty = true,
            Some(false) => doubtful.push(pieces.len()),
            None => {}
        }
        let bytes = size_of::<Stored>() + piece.file.len() + piece.name.len() + 8 * piece.offset.len();
        let Some(left) = bytes_left.checked_sub(2 * bytes) else { return Some(None) };
        bytes_left = left;
        pieces.push(piece);
    }
    settle(&mut pieces, &doubtful);
    pieces.sort_by(|left, right| (&left.file, left.range.start).cmp(&(&right.file, right.range.start)));
    Some(Some(pieces))
}

/// One entry: a `MetadataIndex` and its `_StorageInfo`.
fn stored(pickle: &Pickle, index: Value, info: Value) -> Option<Stored> {
    let index = state(pickle, index, Global::MetadataIndex)?;
    let info = state(pickle, info, Global::StorageInfo)?;
    let start = number(pickle.get(info, "offset")?)?;
    let end = start.checked_add(number(pickle.get(info, "length")?)?)?;
    let offset = match pickle.get(index, "offset") {
        None | Some(Value::Nothing) => Vec::new(),
        Some(offset) => pickle.numbers(offset)?,
    };
    Some(Stored {
        file: pickle.text(pickle.get(info, "relative_path")?)?.to_owned(),
        range: start..end,
        name: pickle.text(pickle.get(index, "fqn")?)?.to_owned(),
        offset,
        // The writer leaves the field out where there is none.
        is_transformed: !matches!(pickle.get(info, TRANSFORMS), None | Some(Value::Nothing)),
        is_empty: false,
    })
}

/// Pieces without elements, by `state_dict_metadata`.
struct Empty<'p>(HashMap<&'p str, EmptyOf<'p>>);

/// Those of one tensor.
struct EmptyOf<'p> {
    /// All its pieces.
    chunks: &'p [Value],
    /// Where empty ones begin, and whether a piece with elements begins there too.
    places: HashMap<&'p [Value], bool>,
}

impl<'p> Empty<'p> {
    fn of(pickle: &'p Pickle, metadata: Value) -> Self {
        let mut found = Self(HashMap::new());
        let tensors = pickle.get(metadata, "state_dict_metadata").and_then(|tensors| pickle.map(tensors));
        // Why: a hostile file may name one list of pieces for each of many tensors. Of others each piece is a node.
        let mut looks_left = pickle.nodes().len();
        for &(name, tensor) in tensors.unwrap_or_default() {
            let Some(Node::Object { state, .. }) = pickle.node(tensor) else { continue };
            let chunks = pickle.get(*state, "chunks").and_then(|chunks| pickle.list(chunks));
            let (Some(name), Some(chunks)) = (pickle.text(name), chunks) else { continue };
            let Some(left) = looks_left.checked_sub(chunks.len()) else { break };
            looks_left = left;
            let all = || chunks.iter().filter_map(|&chunk| begin_of(pickle, chunk));
            let empty = all().filter(|(_, is_empty)| *is_empty);
            let mut places: HashMap<&[Value], bool> = empty.map(|(begin, _)| (begin, false)).collect();
            if !places.is_empty() {
                let full = all().filter(|(_, is_empty)| !is_empty);
                for (begin, _) in full {
                    places.entry(begin).and_modify(|is_shared| *is_shared = true);
                }
                found.0.insert(name, EmptyOf { chunks, places });
            }
        }
        found
    }

    /// Some where the piece of that index is without elements: true for certain; false where one with elements begins at the same
    /// place, so that it is so only if both are stored.
    fn holds(&self, pickle: &Pickle, index: Value) -> Option<bool> {
        if self.0.is_empty() {
            return None;
        }
        let index = state(pickle, index, Global::MetadataIndex)?;
        let of = self.0.get(pickle.text(pickle.get(index, "fqn")?)?)?;
        let begin = pickle.list(pickle.get(index, "offset")?)?;
        if !*of.places.get(begin)? {
            return Some(true);
        }
        let number = usize::try_from(number(pickle.get(index, "index")?)?).ok()?;
        (begin_of(pickle, *of.chunks.get(number)?) == Some((begin, true))).then_some(false)
    }
}

/// Where a piece begins, and whether it has no elements.
fn begin_of(pickle: &Pickle, chunk: Value) -> Option<(&[Value], bool)> {
    let Node::Object { class: Global::StoredChunk, arguments, state } = *pickle.node(chunk)? else { return None };
    let (begin, sizes) = (pickle.list(state)?, pickle.list(arguments)?);
    let few = begin.len() <= DIMENSIONS_MAX && sizes.len() <= DIMENSIONS_MAX;
    few.then(|| (begin, sizes.contains(&Value::Int(0))))
}

/// Of pieces at the place of one with elements those are empty that are not alone there: of two pieces that were written under one
/// place, torch keeps one.
fn settle(pieces: &mut [Stored], doubtful: &[usize]) {
    if doubtful.is_empty() {
        return;
    }
    let mut counts: HashMap<(&str, &[u64]), usize> = HashMap::new();
    for piece in pieces.iter() {
        *counts.entry((&piece.name, &piece.offset)).or_default() += 1;
    }
    let is_one_of_several = |&&at: &&usize| counts.get(&(&pieces[at].name[..], &pieces[at].offset[..])) > Some(&1);
    let empty: Vec<usize> = doubtful.iter().filter(is_one_of_several).copied().collect();
    empty.into_iter().for_each(|at| pieces[at].is_empty = true);
}

/// The fields of an object of that class.
fn state(pickle: &Pickle, object: Value, wanted: Global) -> Option<Value> {
    match *pickle.node(object)? {
        Node::Object { class, state, .. } if class == wanted => Some(state),
        _ => None,
    }
}
