//! torch's distributed checkpoints: `.distcp` files, and `.metadata`, which tells what lies where in them.
//!
//! A `.distcp` file is a row of torch zips, or of safetensors files, one for each piece of a tensor. The files do not
//! say which tensor a piece is of: [`metadata`] does. Zips are found from the end of the file backwards, each right
//! before the next; safetensors from the start forwards. A gap ends the row: what was found until then counts.

use std::cell::Cell;
use std::ops::Range;

use super::input::{Input, READ_BYTES_MAX, ReadAt};
use super::layout::{Builder, Format};
use super::pickle::{Global, Node, Pickle, Value, number};
use super::safetensors;
use super::zip::Archive;
use crate::units::MIB;

/// At most so many pieces of a file.
const PIECES_MAX: usize = 1 << 16;
/// All pieces of a `.metadata`, with their names, in bytes.
const STORED_BYTES_MAX: usize = 128 * MIB;

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
}

/// What a `.metadata` file says lies where: ascending by file and place. None when it is not one, or says more than fits
/// its bound; a piece whose numbers make no sense makes the whole untrusted, as this is asked to tell completeness.
pub fn metadata(file: &dyn ReadAt) -> Option<Vec<Stored>> {
    let allowance = Cell::new(READ_BYTES_MAX);
    let input = Input::new(file, &allowance);
    let pickle = Pickle::read(input.stream(0..input.length())?)?;
    let Node::Object { class: Global::Metadata, state, .. } = *pickle.node(pickle.root)? else { return None };
    let mut bytes_left = STORED_BYTES_MAX;
    let mut pieces = Vec::new();
    for &(index, info) in pickle.map(pickle.get(state, "storage_data")?)? {
        let piece = stored(&pickle, index, info)?;
        let bytes = size_of::<Stored>() + piece.file.len() + piece.name.len() + 8 * piece.offset.len();
        bytes_left = bytes_left.checked_sub(2 * bytes)?;
        pieces.push(piece);
    }
    pieces.sort_by(|left, right| (&left.file, left.range.start).cmp(&(&right.file, right.range.start)));
    Some(pieces)
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
    })
}

/// The fields of an object of that class.
fn state(pickle: &Pickle, object: Value, wanted: Global) -> Option<Value> {
    match *pickle.node(object)? {
        Node::Object { class, state, .. } if class == wanted => Some(state),
        _ => None,
    }
}
