//! What a reader gives back: tensors, embedded checksums and good places to cut, as plain data.
//!
//! [`Builder`] collects while a header is read and keeps the promises of [`Layout`]: everything lies inside the file,
//! tensors are ascending and disjoint, and memory stays under [`LAYOUT_BYTES_MAX`] whatever the header says. What does
//! not fit is left out and counted, not refused: a part of a layout is still a good hint.

use std::cmp::Reverse;
use std::ops::Range;

use super::dtype::Dtype;
use super::strided::{Strided, span};
use crate::units::MIB;

/// No layout takes more memory than about this, in bytes, with all names and shapes.
pub const LAYOUT_BYTES_MAX: usize = 64 * MIB;
/// No layout has more tensors.
pub const TENSORS_MAX: usize = 1 << 20;
/// A tensor of more dimensions is left out.
pub const DIMENSIONS_MAX: usize = 16;
/// Longer names are cut, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;

/// The format that a file was recognised as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// One safetensors file.
    Safetensors,
    /// A zip of torch.save or TorchScript.
    Torch,
    /// Several torch zips or safetensors files, one after another: a file of torch's distributed checkpoints.
    Distcp,
    /// GGUF, version 2 or 3.
    Gguf,
    /// ONNX.
    Onnx,
    /// One numpy array.
    Npy,
    /// A zip of numpy arrays.
    Npz,
    /// Any other zip.
    Zip,
    /// An Arrow IPC file (Feather version 2).
    Arrow,
    /// Parquet.
    Parquet,
    /// TFRecord. Its records are too many for a layout: [`super::tfrecord::Records`] gives them one by one.
    TfRecord,
    /// A tar archive.
    Tar,
}

/// How the shape of a [`Tensor`] stands to the one that its program sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum View {
    /// It is the same: rows after rows.
    #[default]
    Own,
    /// The program has the dimensions in another order: a transposed tensor, a Fortran array.
    Turned,
    /// A view with holes, or one that shows numbers more than once: all numbers that it spans, in one row. Or one that shows
    /// them conjugated or negated, or numbers of half a byte whose last byte is half empty: with what fills it, in one row.
    Span,
    /// It is the same, but some of its numbers are those of another tensor of the file, which has the place in
    /// [`Layout::tensors`]; this one never is there.
    Shared,
    /// No tensor: a part of a storage that no tensor covers, under the storage's name; a part of a sparse tensor; a column of
    /// which some places are empty. Its numbers need not mean anything.
    Rest,
}

/// Where one tensor lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file, at most [`NAME_BYTES_MAX`] bytes. Need not be unique; may be empty.
    pub name: String,
    /// What its elements are.
    pub dtype: Dtype,
    /// Its dimensions as they lie in the file, slowest first; the product fills `range`. Empty for a single number.
    pub shape: Vec<u64>,
    /// Whether the shape is the one that its program sees.
    pub view: View,
    /// Its bytes in the file. Never empty.
    pub range: Range<u64>,
}

/// How an embedded checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// CRC-32 as zip has it (IEEE 802.3).
    Crc32,
    /// CRC-32C as it is (Castagnoli).
    Crc32c,
    /// CRC-32C, rotated and shifted as TFRecord does.
    MaskedCrc32c,
}

/// A checksum that the file itself holds for a part of its bytes. See [`super::crc`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it covers, in the file.
    pub range: Range<u64>,
    /// How it is computed.
    pub kind: CheckKind,
    /// What it must be.
    pub expected: u32,
    /// What the covered part is called in the file.
    pub name: String,
}

/// Where the numbers of a file lie. All of it is a hint: the bytes may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// What the file was recognised as.
    pub format: Format,
    /// Ascending by range, disjoint, inside the file.
    pub tensors: Vec<Tensor>,
    /// Tensors that `tensors` does not have as their program sees them, or not at all, as they share numbers: ascending by
    /// range, inside the file. They may overlap.
    pub strided: Vec<Strided>,
    /// Embedded checksums, ascending by range, inside the file. They may cover the same bytes.
    pub checks: Vec<Check>,
    /// Other places where a cut is good (members, pages, record batches): ascending, distinct, inside the file, not 0.
    pub boundaries: Vec<u64>,
    /// So many more tensors, or their own shapes, had no room here.
    pub left_out: u64,
}

impl Layout {
    /// Whether what is promised of the fields holds in a file of `length` bytes. For tests; readers keep it.
    #[must_use]
    pub fn holds(&self, length: u64) -> bool {
        let mut end = 0;
        let tensors = self.tensors.iter().all(|tensor| {
            let fits = tensor.range.start >= end && tensor.range.start < tensor.range.end;
            end = tensor.range.end;
            fits && end <= length && tensor.shape.len() <= DIMENSIONS_MAX && tensor.name.len() <= NAME_BYTES_MAX
        });
        let strided = self.strided.iter().all(|strided| {
            let dimensions = strided.shape.len();
            let counted = dimensions == strided.strides.len() && dimensions <= DIMENSIONS_MAX;
            let elements = span(&strided.shape, &strided.strides).and_then(|span| strided.dtype.bytes_of(span));
            let bytes = strided.range.end.checked_sub(strided.range.start);
            let named = strided.name.len() <= NAME_BYTES_MAX;
            counted && named && elements == bytes && bytes > Some(0) && strided.range.end <= length
        });
        let in_order = self.strided.is_sorted_by_key(|strided| strided.range.start);
        let checks = self.checks.iter().all(|check| check.range.start <= check.range.end && check.range.end <= length);
        let sorted = self.checks.is_sorted_by_key(|check| check.range.start);
        let cuts = self.boundaries.is_sorted_by(|left, right| left < right);
        let inside = self.boundaries.iter().all(|&at| at > 0 && at < length);
        let few = self.tensors.len().max(self.strided.len()) <= TENSORS_MAX;
        tensors && strided && in_order && checks && sorted && cuts && inside && few
    }
}

/// Collects a [`Layout`]. Offsets that go in are those of the file, never of a part of it.
pub(super) struct Builder {
    layout: Layout,
    length: u64,
    bytes_left: usize,
}

impl Builder {
    /// For a file of `length` bytes.
    pub fn new(format: Format, length: u64) -> Self {
        let (tensors, strided, checks) = (Vec::new(), Vec::new(), Vec::new());
        let layout = Layout { format, tensors, strided, checks, boundaries: Vec::new(), left_out: 0 };
        Self { layout, length, bytes_left: LAYOUT_BYTES_MAX }
    }

    pub fn set_format(&mut self, format: Format) {
        self.layout.format = format;
    }

    /// False when there is no room: nothing is added then.
    fn charge(&mut self, bytes: usize) -> bool {
        // Why: twice, as a growing vector has room for twice what it holds.
        let Some(left) = self.bytes_left.checked_sub(2 * bytes) else { return false };
        self.bytes_left = left;
        true
    }

    /// Adds a tensor that begins at `start`, if its elements fit the file. Gives the end of its bytes.
    pub fn tensor(&mut self, name: &str, dtype: Dtype, shape: &[u64], start: u64) -> Option<u64> {
        self.view(View::Own, name, dtype, shape, start)
    }

    /// As [`Self::tensor`], for one whose shape may not be its program's.
    pub fn view(&mut self, view: View, name: &str, dtype: Dtype, shape: &[u64], start: u64) -> Option<u64> {
        let tensor = Tensor { view, ..tensor(name, dtype, shape, start)? };
        let end = tensor.range.end;
        if end <= self.length && start < end {
            if self.layout.tensors.len() < TENSORS_MAX && self.charge(tensor_bytes(&tensor)) {
                self.layout.tensors.push(tensor);
            } else {
                self.leave_out(1);
            }
        }
        (end <= self.length).then_some(end)
    }

    /// Adds a tensor by its strides (in elements) whose first number lies at `start`, if all that it spans fits the file.
    pub fn strided(&mut self, name: &str, dtype: Dtype, shape: &[u64], strides: &[u64], start: u64) {
        let bytes = span(shape, strides).and_then(|span| dtype.bytes_of(span));
        let Some(end) = bytes.and_then(|bytes| start.checked_add(bytes)) else { return };
        let name = cut_name(name);
        let fits = start < end && end <= self.length && shape.len() == strides.len() && shape.len() <= DIMENSIONS_MAX;
        let bytes = size_of::<Strided>() + name.len() + size_of_val(shape) + size_of_val(strides);
        if fits && self.layout.strided.len() < TENSORS_MAX && self.charge(bytes) {
            let (name, shape, strides) = (name.to_owned(), shape.to_vec(), strides.to_vec());
            self.layout.strided.push(Strided { name, dtype, shape, strides, range: start..end });
        } else if fits {
            self.leave_out(1);
        }
    }

    /// Counts tensors for which there was no room.
    pub fn leave_out(&mut self, tensors: u64) {
        self.layout.left_out = self.layout.left_out.saturating_add(tensors);
    }

    pub fn check(&mut self, name: &str, kind: CheckKind, range: Range<u64>, expected: u32) {
        let name = cut_name(name);
        let fits = range.start <= range.end && range.end <= self.length;
        if fits && self.charge(size_of::<Check>() + name.len()) {
            self.layout.checks.push(Check { range, kind, expected, name: name.to_owned() });
        }
    }

    pub fn boundary(&mut self, at: u64) {
        if at > 0 && at < self.length && self.charge(size_of::<u64>()) {
            self.layout.boundaries.push(at);
        }
    }

    /// Sorts, and leaves out what overlaps: of tensors that share bytes, the one that begins first stays, of those
    /// with one beginning the longest, of equal ones the first that was added.
    pub fn finish(mut self) -> Layout {
        let mut end = 0;
        self.layout.tensors.sort_by_key(|tensor| (tensor.range.start, Reverse(tensor.range.end)));
        self.layout.tensors.retain(|tensor| {
            let free = tensor.range.start >= end;
            end = if free { tensor.range.end } else { end };
            free
        });
        self.layout.strided.sort_by_key(|strided| strided.range.start);
        self.layout.checks.sort_by_key(|check| check.range.start);
        self.layout.boundaries.sort_unstable();
        self.layout.boundaries.dedup();
        self.layout
    }
}

/// None when the shape has too many dimensions, or its bytes can't be counted in 64 bits.
fn tensor(name: &str, dtype: Dtype, shape: &[u64], start: u64) -> Option<Tensor> {
    if shape.len() > DIMENSIONS_MAX {
        return None;
    }
    let end = start.checked_add(dtype.bytes_of(elements(shape)?)?)?;
    let (name, shape) = (cut_name(name).to_owned(), shape.to_vec());
    Some(Tensor { name, dtype, shape, view: View::Own, range: start..end })
}

fn tensor_bytes(tensor: &Tensor) -> usize {
    size_of::<Tensor>() + tensor.name.len() + size_of_val(&tensor.shape[..])
}

/// The product of a shape; 1 of an empty one. None where 64 bits don't hold it.
#[must_use]
pub fn elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1_u64, |product, &dimension| product.checked_mul(dimension))
}

/// The longest beginning of a name that is allowed and ends between characters.
fn cut_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(tensors: &[(u64, u64)], length: u64) -> Vec<(u64, u64)> {
        let mut builder = Builder::new(Format::Npy, length);
        for &(start, bytes) in tensors {
            builder.tensor("t", Dtype::U8, &[bytes], start);
        }
        let layout = builder.finish();
        assert!(layout.holds(length));
        layout.tensors.into_iter().map(|tensor| (tensor.range.start, tensor.range.end)).collect()
    }

    #[test]
    fn tensors_end_up_sorted_and_disjoint() {
        for (tensors, kept) in [
            (&[(4, 4), (0, 4)][..], vec![(0, 4), (4, 8)]),
            (&[(0, 4), (2, 4), (4, 1)], vec![(0, 4), (4, 5)]),
            (&[(0, 2), (0, 6)], vec![(0, 6)]),
            (&[(8, 2), (9, 2), (3, 0)], vec![(8, 10)]),
            (&[(u64::MAX, 2), (2, u64::MAX)], vec![]),
        ] {
            assert_eq!(ranges(tensors, 10), kept, "{tensors:?}");
        }
    }

    #[test]
    fn of_equal_ranges_the_first_name_stays() {
        let mut builder = Builder::new(Format::Torch, 100);
        builder.tensor("first", Dtype::F32, &[2], 0);
        builder.tensor("tied", Dtype::F32, &[2], 0);
        assert_eq!(builder.finish().tensors[0].name, "first");
    }

    #[test]
    fn memory_is_bounded() {
        let mut builder = Builder::new(Format::Zip, u64::MAX);
        let name = "\u{20ac}".repeat(NAME_BYTES_MAX);
        for at in 0..2 * TENSORS_MAX as u64 {
            builder.tensor(&name, Dtype::U8, &[1], at);
            builder.boundary(at);
        }
        let layout = builder.finish();
        assert!(layout.holds(u64::MAX));
        assert_eq!(layout.tensors[0].name.len(), NAME_BYTES_MAX / 3 * 3);
        let names: usize = layout.tensors.iter().map(tensor_bytes).sum();
        assert!(names + 8 * layout.boundaries.len() <= LAYOUT_BYTES_MAX / 2);
        assert!(layout.tensors.len() > 10_000);
        assert_eq!(layout.left_out, 2 * TENSORS_MAX as u64 - layout.tensors.len() as u64);
    }

    #[test]
    fn dimensions_are_bounded() {
        let mut builder = Builder::new(Format::Npy, 100);
        assert_eq!(builder.tensor("", Dtype::U8, &[1; 17], 0), None);
        assert_eq!(builder.tensor("", Dtype::U8, &[u64::MAX, 2, 0], 0), None);
        assert_eq!(builder.tensor("", Dtype::U8, &[1; 16], 0), Some(1));
    }
}
