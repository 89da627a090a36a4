//! Where a file of tensors is cut: along its tensors, in whole rows, at the same elements in every version.
//!
//! A large tensor is cut from its start in pieces of equal length, so that a tensor which is renamed, or lies in another
//! file, gives the same chunks, and a BF16 piece holds the same elements as the FP32 piece that it was cast from. Small
//! tensors that lie together share a piece. What is no tensor is left to the content ([`Piece::Free`]), or joins the small
//! ones where it is shorter than [`GAP_BYTES_MAX`].
//!
//! A flat tensor that holds many parameters one behind the other is cut at their beginnings where these are known ([`Part`]),
//! so that its pieces hold the elements of the BF16 tensors' pieces too.
//!
//! All of it is a hint (`readers`): pieces cover whatever range of the file is asked for, whether the layout lies or not.
//! Invariant: a piece is never empty and at most [`PIECE_BYTES_MAX`] long.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use crate::codec::{Hint, NumberKind};
use crate::readers::{Dtype, Layout, Tensor};
use crate::units::{KIB, MIB};

/// Elements of a piece, where that is at least [`TARGET_BYTES`].0 and at most .1.
const TARGET_ELEMENTS: u64 = 256 * KIB as u64;
const TARGET_BYTES: (u64, u64) = (512 * KIB as u64, 2 * MIB as u64);
/// Shorter tensors share a piece with their neighbours.
pub(crate) const SMALL_BYTES_MAX: u64 = 64 * KIB as u64;
/// A piece of small tensors ends when it has this length.
const SHARED_BYTES: u64 = 256 * KIB as u64;
/// Shorter gaps join the small tensors beside them: the headers of members of an archive.
const GAP_BYTES_MAX: u64 = KIB as u64;
/// Shorter rows are taken together: kernels of a convolution.
const ROW_MIN: u64 = 64;
/// Bytes of an FP32 number.
const FP32_BYTES: u64 = 4;
/// No piece is longer.
pub(crate) const PIECE_BYTES_MAX: usize = 5 * MIB;

/// What a stretch of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// No tensor.
    Free,
    /// Small tensors; the first of them.
    Small(u32),
    /// One tensor, or a part of one.
    Tensor(u32, Grid),
}

/// Where a parameter is cut, in bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grid {
    /// Length of a piece.
    step: u64,
    /// What lies before the stretch.
    before: u64,
    /// Where the parameter ends; that may be behind the stretch.
    end: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stretch {
    range: Range<u64>,
    form: Form,
    /// What all elements are, where that is one.
    dtype: Option<Dtype>,
    /// Elements in a row of the one tensor, where it has rows of some length.
    row: Option<u32>,
    /// True if a file that is read later may hold its cast.
    is_master: bool,
}

/// A part of a tensor of FP32 numbers: one parameter, or as much of it as lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    /// Its bytes in the file.
    pub(crate) range: Range<u64>,
    /// Elements of the parameter before it, which lie elsewhere.
    pub(crate) before: u64,
    /// Elements of the whole parameter.
    pub(crate) elements: u64,
    /// Elements of a piece, from the parameter's beginning.
    pub(crate) step: u64,
    /// Elements in a row of the parameter, where it has rows of some length.
    pub(crate) row: Option<u32>,
    /// True if a file that is read later may hold its cast.
    pub(crate) is_master: bool,
}

impl Part {
    /// The same part of another tensor that is laid out alike, at another place.
    pub(crate) fn moved(&self, from: u64, to: u64) -> Self {
        let place = |offset: u64| offset - from + to;
        Self { range: place(self.range.start)..place(self.range.end), ..self.clone() }
    }
}

/// The parts of a file's tensors, by the number of the tensor: ascending, within the tensor. Most have none.
pub(crate) type Parts = BTreeMap<usize, Vec<Part>>;

/// The next piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Up to that place in the file, cuts depend on the content.
    Free(u64),
    /// Up to that place in the file.
    Whole {
        /// Where it ends in the file.
        end: u64,
        /// The tensor that it is of, or the first of several.
        tensor: usize,
        /// What its elements are.
        hint: Option<Hint>,
        /// True if a file that is read later may hold its cast.
        is_master: bool,
    },
}

/// How a file is cut.
#[derive(Debug)]
pub(crate) struct CutPlan {
    stretches: Vec<Stretch>,
    masters: Vec<Range<u64>>,
    has_casts: bool,
    parts: Parts,
}

impl CutPlan {
    /// A plan for a file of `length` bytes, some of whose tensors have parts. Where the layout has no tensors, all is free.
    pub(crate) fn new(layout: &Layout, length: u64, parts: Parts) -> Self {
        let mut builder = Builder { stretches: Vec::new(), open: None };
        for (index, tensor) in (0_u32..).zip(&layout.tensors) {
            builder.reach(tensor.range.start);
            match parts.get(&(index as usize)) {
                Some(parts) => builder.parts(index, tensor, parts),
                None => builder.tensor(index, tensor),
            }
        }
        builder.reach(length);
        builder.close();
        let has_casts = layout.tensors.iter().any(|tensor| tensor.dtype == Dtype::Bf16);
        Self { stretches: builder.stretches, masters: masters(layout), has_casts, parts }
    }

    /// The parts that the tensors of `other` have if they are as those of `own`, the layout that this plan is for: of the
    /// same name and length.
    pub(crate) fn parts_in(&self, own: &Layout, other: &Layout) -> Parts {
        let known: HashMap<(&str, u64), (u64, &Vec<Part>)> = self
            .parts
            .iter()
            .filter_map(|(index, parts)| Some((own.tensors.get(*index)?, parts)))
            .map(|(tensor, parts)| ((tensor.name.as_str(), length(tensor)), (tensor.range.start, parts)))
            .collect();
        let alike = other.tensors.iter().enumerate().filter(|_| !known.is_empty()).filter_map(|(index, tensor)| {
            let (from, parts) = known.get(&(tensor.name.as_str(), length(tensor)))?;
            Some((index, parts.iter().map(|part| part.moved(*from, tensor.range.start)).collect()))
        });
        alike.collect()
    }

    /// The piece that begins at `offset`. Behind the end of the plan everything is free.
    pub(crate) fn piece(&self, offset: u64) -> Piece {
        let at = self.stretches.partition_point(|stretch| stretch.range.end <= offset);
        let Some(stretch) = self.stretches.get(at) else { return Piece::Free(u64::MAX) };
        let Range { start, end } = stretch.range;
        let (tensor, Grid { step, before, end: whole }) = match stretch.form {
            Form::Free => return Piece::Free(end),
            Form::Small(tensor) => (tensor, Grid { step: u64::MAX, before: 0, end: end - start }),
            Form::Tensor(tensor, grid) => (tensor, grid),
        };
        let within = offset - start + before;
        let next = (within - within % step).checked_add(step);
        // Why: a short rest would cost as much to look up as a whole piece.
        let next = next.filter(|next| next.saturating_add(step / 8) < whole).unwrap_or(whole);
        Piece::Whole {
            end: start.saturating_add(next - before).min(end),
            tensor: tensor as usize,
            hint: stretch.dtype.and_then(|dtype| hint(dtype, within, stretch.row)),
            is_master: stretch.is_master,
        }
    }

    /// FP32 tensors behind a BF16 tensor of as many elements, which may be their cast: they have to be stored first. Ranges
    /// of the file, ascending.
    pub(crate) fn masters(&self) -> &[Range<u64>] {
        &self.masters
    }

    /// True if the file holds BF16 tensors.
    pub(crate) fn has_casts(&self) -> bool {
        self.has_casts
    }
}

fn masters(layout: &Layout) -> Vec<Range<u64>> {
    let mut casts: HashSet<u64> = HashSet::new();
    let mut masters = Vec::new();
    for tensor in &layout.tensors {
        let length = length(tensor);
        match tensor.dtype {
            Dtype::Bf16 => drop(casts.insert(length * 2)),
            Dtype::F32 if length >= SMALL_BYTES_MAX && casts.contains(&length) => masters.push(tensor.range.clone()),
            _ => {}
        }
    }
    masters
}

struct Builder {
    stretches: Vec<Stretch>,
    /// Small tensors that more may join.
    open: Option<Stretch>,
}

impl Builder {
    fn end(&self) -> u64 {
        self.open.as_ref().or(self.stretches.last()).map_or(0, |stretch| stretch.range.end)
    }

    fn close(&mut self) {
        self.stretches.extend(self.open.take());
    }

    /// Covers what lies between the last tensor and `start`.
    fn reach(&mut self, start: u64) {
        let end = self.end();
        if start <= end {
            return;
        }
        match &mut self.open {
            Some(open) if start - end < GAP_BYTES_MAX => {
                open.range.end = start;
                open.dtype = None;
            }
            _ => {
                self.close();
                let range = end..start;
                self.stretches.push(Stretch { range, form: Form::Free, dtype: None, row: None, is_master: false });
            }
        }
    }

    fn tensor(&mut self, index: u32, tensor: &Tensor) {
        let (range, dtype) = (tensor.range.clone(), tensor.dtype);
        if length(tensor) < SMALL_BYTES_MAX {
            return self.small(index, range, dtype);
        }
        self.close();
        let form = Form::Tensor(index, Grid { step: step(tensor), before: 0, end: length(tensor) });
        self.stretches.push(Stretch { range, form, dtype: Some(dtype), row: row(tensor), is_master: false });
    }

    /// A tensor that is cut at the beginnings of its parts. What lies between them is cut as any tensor is.
    fn parts(&mut self, index: u32, tensor: &Tensor, parts: &[Part]) {
        let mut at = tensor.range.start;
        for part in parts {
            self.rest(index, tensor, at..part.range.start);
            self.part(index, tensor.dtype, part);
            at = part.range.end;
        }
        self.rest(index, tensor, at..tensor.range.end);
    }

    fn rest(&mut self, index: u32, tensor: &Tensor, range: Range<u64>) {
        let elements = range.end.saturating_sub(range.start) / FP32_BYTES;
        if elements > 0 {
            let step = step(tensor) / FP32_BYTES;
            let part = Part { range, before: 0, elements, step, row: None, is_master: false };
            self.part(index, tensor.dtype, &part);
        }
    }

    fn part(&mut self, index: u32, dtype: Dtype, part: &Part) {
        let Part { range, before, elements, step, row, is_master } = part.clone();
        let length = range.end - range.start;
        if length < SMALL_BYTES_MAX {
            return self.small(index, range, dtype);
        }
        self.close();
        let bytes = |elements: u64| elements.saturating_mul(FP32_BYTES);
        let end = bytes(elements).max(bytes(before).saturating_add(length));
        let grid = Grid { step: bytes(step.max(1)), before: bytes(before), end };
        self.stretches.push(Stretch { range, form: Form::Tensor(index, grid), dtype: Some(dtype), row, is_master });
    }

    fn small(&mut self, index: u32, range: Range<u64>, dtype: Dtype) {
        // A short gap before a small tensor is part of its piece.
        let gap = self.stretches.pop_if(|last| {
            self.open.is_none() && last.form == Form::Free && last.range.end - last.range.start < GAP_BYTES_MAX
        });
        match &mut self.open {
            Some(open) if open.range.end == range.start => {
                open.range.end = range.end;
                open.dtype = open.dtype.filter(|other| *other == dtype);
            }
            _ => {
                self.close();
                let dtype = gap.is_none().then_some(dtype);
                let range = gap.map_or(range.start, |gap| gap.range.start)..range.end;
                self.open = Some(Stretch { range, form: Form::Small(index), dtype, row: None, is_master: false });
            }
        }
        if self.open.as_ref().is_some_and(|open| open.range.end - open.range.start >= SHARED_BYTES) {
            self.close();
        }
    }
}

fn length(tensor: &Tensor) -> u64 {
    tensor.range.end - tensor.range.start
}

/// Bytes of a tensor's pieces: whole rows where these are not too long, else whole elements.
pub(crate) fn step(tensor: &Tensor) -> u64 {
    let width = u64::from(tensor.dtype.width());
    let target = (TARGET_ELEMENTS.saturating_mul(width)).clamp(TARGET_BYTES.0, TARGET_BYTES.1);
    let row = tensor.shape.iter().skip(1).try_fold(1_u64, |row, &dimension| row.checked_mul(dimension));
    let row = row.and_then(|elements| tensor.dtype.bytes_of(elements)).filter(|row| *row > 0 && *row <= 2 * target);
    let unit = row.unwrap_or(width);
    (target / unit).max(1) * unit
}

/// Elements in a row of a tensor: those of its last dimension, or of as many as it takes to be [`ROW_MIN`]. None where it is
/// not a matrix of real floats.
pub(crate) fn row(tensor: &Tensor) -> Option<u32> {
    let is_float = matches!(tensor.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16);
    let mut row = 1_u64;
    for &dimension in tensor.shape.iter().skip(1).rev() {
        row = row.checked_mul(dimension)?;
        if row >= ROW_MIN {
            return u32::try_from(row).ok().filter(|_| is_float);
        }
    }
    None
}

/// What to tell the encoder of elements that begin a whole number of bytes before `within`, in rows of `row`.
fn hint(dtype: Dtype, within: u64, row: Option<u32>) -> Option<Hint> {
    let (width, kind) = match dtype {
        Dtype::F64 | Dtype::Complex128 => (8, NumberKind::F64),
        Dtype::F32 | Dtype::Complex64 => (4, NumberKind::F32),
        Dtype::F16 | Dtype::Complex32 => (2, NumberKind::F16),
        Dtype::Bf16 => (2, NumberKind::Bf16),
        Dtype::F8E4m3 | Dtype::F8E4m3Fnuz => (1, NumberKind::F8E4m3),
        Dtype::F8E5m2 | Dtype::F8E5m2Fnuz => (1, NumberKind::F8E5m2),
        Dtype::I64 | Dtype::U64 => (8, NumberKind::Integer),
        Dtype::I32 | Dtype::U32 => (4, NumberKind::Integer),
        Dtype::I16 | Dtype::U16 => (2, NumberKind::Integer),
        Dtype::I8 | Dtype::U8 | Dtype::Bool => (1, NumberKind::Integer),
        _ => return None,
    };
    let head = (u64::from(width) - within % u64::from(width)) % u64::from(width);
    let row = row.filter(|&row| within.is_multiple_of(u64::from(width) * u64::from(row)));
    Some(Hint { width, head: u8::try_from(head).expect("less than eight"), kind, row })
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "lists of ranges may hold one")]
mod tests {
    use super::*;
    use crate::readers::{Format, View};

    fn plan(tensors: &[(Dtype, &[u64], u64)], length: u64) -> CutPlan {
        let tensors = tensors.iter().enumerate().map(|(number, (dtype, shape, start))| {
            let bytes = dtype.bytes_of(shape.iter().product()).unwrap();
            Tensor {
                name: number.to_string(),
                dtype: *dtype,
                shape: shape.to_vec(),
                view: View::Own,
                range: *start..start + bytes,
            }
        });
        let (checks, boundaries) = (Vec::new(), Vec::new());
        let layout = Layout {
            format: Format::Safetensors,
            tensors: tensors.collect(),
            strided: Vec::new(),
            checks,
            boundaries,
            left_out: 0,
        };
        assert!(layout.holds(length));
        CutPlan::new(&layout, length, Parts::new())
    }

    /// Ends of all pieces, with the tensor of each; free ones have none.
    fn pieces(plan: &CutPlan, length: u64) -> Vec<(u64, Option<usize>)> {
        let (mut offset, mut pieces) = (0, Vec::new());
        while offset < length {
            let (end, tensor) = match plan.piece(offset) {
                Piece::Free(end) => (end.min(length), None),
                Piece::Whole { end, tensor, .. } => (end, Some(tensor)),
            };
            assert!(end > offset && (tensor.is_none() || end - offset <= PIECE_BYTES_MAX as u64));
            pieces.push((end, tensor));
            offset = end;
        }
        pieces
    }

    const KB: u64 = KIB as u64;
    const MB: u64 = MIB as u64;

    #[test]
    fn a_large_tensor_is_cut_in_whole_rows_from_its_start() {
        // 100,000 bytes a row: ten rows are as near to 1 MiB as whole rows get; the last piece is the rest.
        let length = 4096 + 2_500_000 + 9;
        let plan = plan(&[(Dtype::F32, &[25, 25_000], 4096)], length);
        let ends = [4096, 1_004_096, 2_004_096, 2_504_096, length];
        let tensors = [None, Some(0), Some(0), Some(0), None];
        assert_eq!(pieces(&plan, length), ends.into_iter().zip(tensors).collect::<Vec<_>>());
        assert_eq!(plan.piece(u64::MAX), Piece::Free(u64::MAX));
    }

    #[test]
    fn bf16_and_fp32_pieces_hold_the_same_elements() {
        let count = |dtype: Dtype| {
            let plan = plan(&[(dtype, &[3000, 1000], 0)], dtype.bytes_of(3_000_000).unwrap());
            let ends = pieces(&plan, dtype.bytes_of(3_000_000).unwrap());
            ends.iter().map(|(end, _)| end / u64::from(dtype.width())).collect::<Vec<_>>()
        };
        assert_eq!(count(Dtype::Bf16), count(Dtype::F32));
        assert_eq!(count(Dtype::Bf16)[0], 262_000);
    }

    #[test]
    fn a_short_rest_joins_and_a_row_longer_than_a_piece_is_cut() {
        let plan_of = |shape: &[u64]| {
            let length = 2 * shape.iter().product::<u64>();
            (pieces(&plan(&[(Dtype::Bf16, shape, 0)], length), length), length)
        };
        let (ends, length) = plan_of(&[256 * KB + 1000]);
        assert_eq!(ends, [(length, Some(0))], "the rest of 1,000 elements is not alone");
        let (ends, _) = plan_of(&[2, 3 * MB]);
        assert_eq!(ends[0], (512 * KB, Some(0)));
    }

    #[test]
    fn small_tensors_and_short_gaps_share_pieces() {
        let small = |start| (Dtype::F32, &[384][..], start);
        let plan = plan(&[small(100), small(1636), small(3300), (Dtype::F32, &[40_000], 5000)], 165_000);
        assert_eq!(pieces(&plan, 165_000), [(5000, Some(0)), (165_000, Some(3))]);
        let Piece::Whole { hint: None, .. } = plan.piece(0) else { panic!("gaps are no elements") };
        let Piece::Whole { hint: Some(hint), .. } = plan.piece(5000) else { panic!("all FP32") };
        assert_eq!((hint.width, hint.head, hint.kind), (4, 0, NumberKind::F32));
        let Piece::Whole { hint: Some(hint), .. } = plan.piece(5001) else { panic!("all FP32") };
        assert_eq!(hint.head, 3);
    }

    #[test]
    fn many_small_tensors_are_cut_between_two() {
        let tensors: Vec<_> = (0..400).map(|number| (Dtype::F16, &[2048_u64][..], number * 4096)).collect();
        let plan = plan(&tensors, 400 * 4096);
        let ends = pieces(&plan, 400 * 4096);
        assert!(ends.iter().all(|(end, _)| end % 4096 == 0) && ends.len() == 7, "{ends:?}");
        assert_eq!(ends[0].0, 256 * KB);
    }

    #[test]
    fn masters_are_fp32_behind_bf16_of_as_many_elements() {
        let sizes: [(Dtype, &[u64], u64); 4] = [
            (Dtype::F32, &[50_000], 0),
            (Dtype::Bf16, &[50_000], 200_000),
            (Dtype::F32, &[50_000], 300_000),
            (Dtype::F32, &[40_000], 500_000),
        ];
        let plan = plan(&sizes, 660_000);
        assert_eq!(plan.masters(), [300_000..500_000]);
        assert!(plan.has_casts());
    }

    /// A flat tensor with a parameter of 1,000 columns, most of which lies before it, a short one, and a gap.
    #[test]
    fn parts_are_cut_along_the_rows_of_their_parameters() {
        let tensor = |name: &str, start: u64| Tensor {
            name: name.into(),
            dtype: Dtype::F32,
            shape: vec![600_000],
            view: View::Own,
            range: start..start + 2_400_000,
        };
        let (checks, boundaries) = (Vec::new(), Vec::new());
        let tensors = vec![tensor("flat", 100)];
        let layout =
            Layout { format: Format::Safetensors, tensors, checks, boundaries, left_out: 0, strided: Vec::new() };
        let part = |from: u64, to: u64, before, elements| Part {
            range: 100 + 4 * from..100 + 4 * to,
            before,
            elements,
            step: 262_000,
            row: Some(1000),
            is_master: true,
        };
        let parts = vec![
            part(0, 200_000, 400_000, 600_000),
            part(200_000, 200_100, 0, 100),
            part(300_000, 600_000, 0, 900_000),
        ];
        let plan = CutPlan::new(&layout, 2_400_100, Parts::from([(0, parts)]));
        let (mut offset, mut found) = (100, Vec::new());
        while let Piece::Whole { end, hint, is_master, tensor: 0 } = plan.piece(offset) {
            found.push(((end - 100) / 4, is_master, hint.is_some_and(|hint| hint.row.is_some())));
            offset = end;
        }
        let expected = [
            // 400,000 before: the parameter's second piece ends at 524,000, and the rest is no piece of its own but the last.
            (124_000, true, true),
            (200_000, true, true),
            (200_100, false, false),
            (300_000, false, false),
            (562_000, true, true),
            // The parameter goes on in another file: what is left of this piece stays apart.
            (600_000, true, true),
        ];
        assert_eq!(found, expected);
        // An older file, where the tensor lies elsewhere and another is longer, is cut alike.
        let other = Layout { tensors: vec![tensor("flat", 7100), tensor("longer", 3_000_000)], ..layout.clone() };
        let alike = plan.parts_in(&layout, &other);
        assert_eq!(alike.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!(alike[&0][2].range, 7100 + 1_200_000..7100 + 2_400_000);
    }
}
