//! From what was found in files to the tensors of one file: parts are put together, and what can't be put into a
//! safetensors file as it is, is refused by name.
//!
//! Refused: a name that several files (or places of one file) have, parts of which some are missing, parts in several
//! directories (they are of several checkpoints), a view that shows numbers changed or in rows that overlap, a dtype that
//! safetensors does not have.

use std::collections::BTreeMap;
use std::ops::Range;

use super::files::{Found, Place, dtype_text};
use super::gather::Gather;
use super::pieces::{Placement, filled};
use crate::entry::TreeKey;
use crate::error::{Error, Result};
use crate::readers::{Dtype, NAME_BYTES_MAX, View, safetensors_dtype};

/// A tensor of more parts is refused, so that comparing each with each ends.
const PARTS_MAX: usize = 4096;

/// A part of a whole: where its bytes lie, and where they go.
#[derive(Debug)]
pub(super) struct Part {
    /// Number of the file.
    pub(super) file: usize,
    /// Its bytes in that file.
    pub(super) range: Range<u64>,
    /// Their way into the whole.
    pub(super) way: Way,
}

impl Part {
    /// Bytes that it takes in the whole.
    pub(super) fn bytes(&self) -> u64 {
        match &self.way {
            Way::Runs(_) => self.range.end - self.range.start,
            Way::Gather(gather) => gather.bytes(),
        }
    }
}

/// The way of a part's bytes into the whole.
#[derive(Debug)]
pub(super) enum Way {
    /// They lie in the order of its shape.
    Runs(Placement),
    /// They lie in another, or with holes.
    Gather(Gather),
}

/// A tensor that can be written.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) parts: Vec<Part>,
}

/// What was found in the files, by name: the number of the file, and the tensor or part.
pub(super) type ByName = BTreeMap<String, Vec<(usize, Found)>>;

/// Makes wholes of what was found, in order of names. `files` are the files' paths by their numbers.
pub(super) fn wholes(found: ByName, files: &[TreeKey]) -> Result<Vec<Whole>> {
    found.into_iter().map(|(name, found)| whole(name, &found, files)).collect()
}

fn whole(name: String, found: &[(usize, Found)], files: &[TreeKey]) -> Result<Whole> {
    let refuse = |why: String| Err(Error::Usage(format!("tensor {name:?}: {why}")));
    let path = |file: usize| files[file].to_path().display().to_string();
    for (file, found) in found {
        if let Some(why) = unfit(found) {
            return refuse(format!("{why} ({})", path(*file)));
        }
    }
    if let Some((one, other)) = apart(found, files) {
        return refuse(format!(
            "both {} and {} have parts of one, and they are of different checkpoints; name the folder of one of them",
            path(one),
            path(other)
        ));
    }
    let places: Option<Vec<&Place>> = found.iter().map(|(_, found)| found.place.as_ref()).collect();
    let (file, first) = &found[0];
    let dtype = first.tensor.dtype;
    let (shape, ways) = match (places, found) {
        (Some(places), _) => match together(found, &places) {
            Ok(together) => together,
            Err(why) => return refuse(why),
        },
        (None, [_]) => match way(first, &vec![0; first.shape().len()], first.shape()) {
            Ok(way) => (first.shape().to_vec(), vec![way]),
            Err(why) => return refuse(why),
        },
        (None, [.., (other, _)]) if other != file => {
            return refuse(format!(
                "both {} and {} have one; name a file or a smaller folder",
                path(*file),
                path(*other)
            ));
        }
        (None, _) => return refuse(format!("{} has several of that name", path(*file))),
    };
    let part =
        |((file, found), way): (&(usize, Found), Way)| Part { file: *file, range: found.tensor.range.clone(), way };
    let parts = found.iter().zip(ways).map(part).collect();
    Ok(Whole { name, dtype, shape, parts })
}

/// Two files with parts that different `.metadata` files explain: each explains those beside it.
fn apart(found: &[(usize, Found)], files: &[TreeKey]) -> Option<(usize, usize)> {
    let mut parts = found.iter().filter(|(_, found)| found.place.is_some()).map(|(file, _)| *file);
    let first = parts.next()?;
    let directory = files[first].parent();
    parts.find(|&file| files[file].parent() != directory).map(|other| (first, other))
}

/// Why a tensor can't be written, by itself.
fn unfit(found: &Found) -> Option<String> {
    let tensor = &found.tensor;
    match tensor.view {
        View::Own | View::Rest | View::Shared => {}
        View::Turned | View::Span if found.own.is_some() => {}
        View::Turned => {
            let lies = &tensor.shape;
            return Some(format!(
                "it is transposed: its numbers lie as {lies:?} and not in the order of its own shape"
            ));
        }
        View::Span if tensor.dtype.block_elements() != 1 => {
            return Some("its numbers end in the middle of a byte, which no safetensors file can say".to_owned());
        }
        View::Span => {
            return Some("its program sees its numbers changed (conjugated or negated)".to_owned());
        }
    }
    // Why: a longer name was cut, and nobody knows what it was.
    if tensor.name.len() > NAME_BYTES_MAX - char::MAX.len_utf8() {
        return Some("its name is too long".to_owned());
    }
    match safetensors_dtype(tensor.dtype) {
        Some(_) => None,
        None => Some(format!("safetensors has no dtype for it: {}", dtype_text(tensor.dtype))),
    }
}

/// The way of a tensor's bytes into a whole, in which it is the box at `offset`.
fn way(found: &Found, offset: &[u64], whole: &[u64]) -> std::result::Result<Way, String> {
    let (range, dtype) = (&found.tensor.range, found.tensor.dtype);
    let width = u64::from(dtype.width());
    match &found.own {
        None if found.shape() == whole => Ok(Way::Runs(Placement::whole(range.end - range.start))),
        _ if dtype.block_elements() != 1 => Err(format!("parts of {} are not put together", dtype.name())),
        None => {
            let placement = Placement::of_box(found.shape(), offset, whole, width);
            placement.map(Way::Runs).ok_or_else(|| "its parts are too large".to_owned())
        }
        Some(own) => {
            let gather = Gather::new((&own.shape, &own.strides), offset, whole, width);
            gather.map(Way::Gather).map_err(str::to_owned)
        }
    }
}

/// The shape of the whole, and the way of each part into it.
fn together(found: &[(usize, Found)], places: &[&Place]) -> std::result::Result<(Vec<u64>, Vec<Way>), String> {
    let (dtype, parts) = (found[0].1.tensor.dtype, places[0].parts);
    if found.len() != parts {
        return Err(format!("it has {parts} parts, of which {} are here; name the folder that holds all", found.len()));
    }
    if parts > PARTS_MAX {
        return Err(format!("it has {parts} parts; at most {PARTS_MAX} are put together"));
    }
    if found.iter().any(|(_, found)| found.tensor.dtype != dtype) {
        return Err("its parts have different dtypes".to_owned());
    }
    let boxes: Vec<(&[u64], &[u64])> =
        found.iter().zip(places).map(|((_, found), place)| (&place.offset[..], found.shape())).collect();
    let whole = filled(&boxes).ok_or("its parts leave gaps or overlap")?;
    let ways: std::result::Result<Vec<Way>, String> =
        found.iter().zip(places).map(|((_, found), place)| way(found, &place.offset, &whole)).collect();
    ways.map(|ways| (whole, ways))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::Tensor;

    fn found(dtype: Dtype, shape: &[u64], view: View, place: Option<(&[u64], usize)>) -> Found {
        let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
        let tensor = Tensor { name: "t".into(), dtype, shape: shape.to_vec(), view, range: 100..100 + bytes };
        Found { tensor, own: None, place: place.map(|(offset, parts)| Place { offset: offset.to_vec(), parts }) }
    }

    fn tried(found: Vec<(usize, Found)>) -> Result<Whole, String> {
        let files = ["/a", "/b", "/step-2/b"].map(|path| TreeKey::from_path(path.as_ref()).unwrap());
        let made = wholes(BTreeMap::from([("t".to_owned(), found)]), &files);
        made.map(|mut made| made.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_become_a_whole() {
        let part = |file, shape: &[u64], offset: &[u64], parts| {
            (file, found(Dtype::F32, shape, View::Own, Some((offset, parts))))
        };
        let alone = (0, found(Dtype::F4, &[2, 2], View::Own, Some((&[0, 0], 1))));
        for (parts, shape) in [
            (vec![(0, found(Dtype::F32, &[2, 3], View::Own, None))], Ok(&[2, 3][..])),
            (vec![part(0, &[4, 8], &[0, 0], 2), part(1, &[2, 8], &[4, 0], 2)], Ok(&[6, 8])),
            (vec![alone], Ok(&[2, 2])),
            (vec![part(0, &[4, 8], &[0, 0], 2)], Err("of which 1 are here")),
            (vec![part(0, &[4, 8], &[0, 0], 2), part(2, &[2, 8], &[4, 0], 2)], Err("both /a and /step-2/b have parts")),
            (vec![part(0, &[4, 8], &[2, 0], 1)], Err("gaps")),
            (vec![part(0, &[4, 8], &[0, 0], 2), part(1, &[4, 8], &[2, 0], 2)], Err("overlap")),
            (
                vec![part(0, &[4], &[0], 2), (1, found(Dtype::Bf16, &[4], View::Own, Some((&[4], 2))))],
                Err("different dtypes"),
            ),
        ] {
            match (tried(parts), shape) {
                (Ok(whole), Ok(shape)) => assert_eq!(whole.shape, shape),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (made, wanted) => panic!("{made:?}, and not {wanted:?}"),
            }
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let own = |file| (file, found(Dtype::F32, &[4], View::Own, None));
        let one = |dtype, view| vec![(0, found(dtype, &[256], view, None))];
        for (parts, words) in [
            (vec![own(0), own(1)], &["\"t\"", "both /a and /b"][..]),
            (vec![own(1), own(1)], &["\"t\"", "/b has several"]),
            (one(Dtype::I4, View::Own), &["\"t\"", "i4", "/a"]),
            (one(Dtype::Width(4), View::Own), &["\"t\"", "4 bytes", "big-endian"]),
            (one(Dtype::Complex128, View::Own), &["c128"]),
            (one(Dtype::F32, View::Turned), &["transposed", "[256]", "/a"]),
            (one(Dtype::F32, View::Span), &["changed"]),
        ] {
            let why = tried(parts).unwrap_err();
            assert!(words.iter().all(|word| why.contains(word)), "{why}");
        }
    }
}
