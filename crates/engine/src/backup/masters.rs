//! Finds in a file of FP32 numbers the masters of BF16 tensors that lie in other files of the same checkpoint.
//!
//! A master may be a tensor by itself, or lie in a flat one that holds many parameters one behind the other, in an order that
//! only the training framework knows (DeepSpeed, FSDP, Megatron). So it is followed by its content: the first numbers at a
//! place, as BF16, name the tensors that begin so; one of them that also fits in its middle and at its end is the part that
//! lies there, and the next is looked for behind it. A parameter that the flat tensor does not hold whole goes on where the
//! next file's tensor of that name begins: the next rank's.
//!
//! All of it is a hint: parts only say where to cut and which casts to remember. Bounds: [`TENSORS_MAX`] for all folders
//! together, [`PARTS_MAX`] for a file, and a few short reads for each tensor and part.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::backup::cuts::{Part, Parts, SMALL_BYTES_MAX, row, step};
use crate::backup::runs::Mark;
use crate::codec::{Cast, cast_of};
use crate::readers::{Dtype, Layout, Tensor};
use crate::stages::read::open_again;

/// So many BF16 tensors are remembered for the files that are read before theirs, of all folders together: about 15 MB.
const TENSORS_MAX: usize = 1 << 17;
/// So many parts are told apart in a file.
const PARTS_MAX: usize = 1 << 17;
/// So many tensors that begin alike are compared at one place.
const ALIKE_MAX: usize = 16;
/// Elements that name a tensor: its first.
const HEAD_ELEMENTS: usize = 8;
/// Elements that are compared at the beginning, in the middle and at the end.
const PROBE_ELEMENTS: u64 = 32;
/// Parameters may begin at multiples of so many elements of a flat tensor.
const PADDINGS: [u64; 3] = [32, 64, 128];

/// How many tensors of waiting files are remembered now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remembered(Arc<AtomicUsize>);

/// A BF16 tensor of a file that is read later.
#[derive(Debug, Clone, Copy)]
struct CastTensor {
    file: u32,
    /// Where it begins in the file.
    start: u64,
    elements: u64,
    /// Elements of a piece, and of a row.
    step: u64,
    row: Option<u32>,
}

/// The BF16 tensors of a checkpoint's files that are read after those with FP32 numbers.
#[derive(Debug)]
pub(crate) struct CastTensors {
    /// Names the folder of the checkpoint, and this visit to it.
    pub(crate) mark: Mark,
    files: Vec<Arc<Path>>,
    tensors: Vec<CastTensor>,
    /// Tensors by their first elements.
    heads: OnceLock<HashMap<[u8; 2 * HEAD_ELEMENTS], Vec<u32>>>,
    /// What comes behind the flat tensor of that name: a tensor, and its elements that lie before.
    ends: Mutex<HashMap<String, (u32, u64)>>,
    remembered: Remembered,
}

impl CastTensors {
    pub(crate) fn new(mark: Mark, remembered: &Remembered) -> Self {
        let (heads, ends) = (OnceLock::new(), Mutex::default());
        Self { mark, files: Vec::new(), tensors: Vec::new(), heads, ends, remembered: remembered.clone() }
    }

    /// Adds the BF16 tensors of a file, as far as there is room.
    pub(crate) fn add(&mut self, path: Arc<Path>, layout: &Layout) {
        let Ok(file) = u32::try_from(self.files.len()) else { return };
        self.files.push(path);
        for tensor in layout.tensors.iter().filter(|tensor| tensor.dtype == Dtype::Bf16) {
            let more = |count: usize| (count < TENSORS_MAX).then_some(count + 1);
            if self.remembered.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
                return;
            }
            let width = u64::from(tensor.dtype.width());
            let elements = (tensor.range.end - tensor.range.start) / width;
            let step = step(tensor) / width;
            self.tensors.push(CastTensor { file, start: tensor.range.start, elements, step, row: row(tensor) });
        }
    }

    /// The parts of a file's FP32 tensors of which BF16 tensors are the casts; and of those that are laid out like them.
    pub(crate) fn parts(&self, file: &File, layout: &Layout) -> Parts {
        let mut search = Search { casts: self, masters: file, open: None };
        let mut parts = Parts::new();
        let mut left = PARTS_MAX;
        let length = |tensor: &Tensor| tensor.range.end - tensor.range.start;
        let large = layout.tensors.iter().enumerate();
        let large = large.filter(|(_, tensor)| tensor.dtype == Dtype::F32 && length(tensor) >= SMALL_BYTES_MAX);
        for (index, tensor) in large.clone() {
            let found = search.follow(tensor, left);
            if found.iter().any(|part| part.range.end - part.range.start >= SMALL_BYTES_MAX) {
                left -= found.len();
                parts.insert(index, found);
            }
        }
        // The moments: flat tensors as long as one of several parameters, the nearest before it or else the first.
        let flat: Parts = parts.iter().filter(|(_, of)| of.len() > 1).map(|(index, of)| (*index, of.clone())).collect();
        for (index, tensor) in large.filter(|(index, _)| !parts.contains_key(index)).collect::<Vec<_>>() {
            let is_alike = |(other, of): &(&usize, &Vec<Part>)| {
                length(&layout.tensors[**other]) == length(tensor) && tensor.shape.len() == 1 && of.len() <= left
            };
            let known = flat.range(..index).rev().chain(flat.range(index..)).find(is_alike);
            if let Some((other, of)) = known {
                let from = layout.tensors[*other].range.start;
                let moved = |part: &Part| Part { is_master: false, ..part.moved(from, tensor.range.start) };
                left -= of.len();
                parts.insert(index, of.iter().map(moved).collect());
            }
        }
        parts
    }

    fn heads(&self) -> &HashMap<[u8; 2 * HEAD_ELEMENTS], Vec<u32>> {
        self.heads.get_or_init(|| {
            let mut heads: HashMap<_, Vec<u32>> = HashMap::new();
            let mut open = None;
            for (index, tensor) in (0..).zip(&self.tensors) {
                let mut head = [0; 2 * HEAD_ELEMENTS];
                if tensor.elements >= HEAD_ELEMENTS as u64 && self.read(&mut open, tensor, 0, &mut head).is_some() {
                    heads.entry(head).or_default().push(index);
                }
            }
            heads
        })
    }

    /// Reads elements of a tensor, from the `element`-th on. `open` is the file that was read from last.
    fn read(&self, open: &mut Option<(u32, File)>, tensor: &CastTensor, element: u64, into: &mut [u8]) -> Option<()> {
        if open.as_ref().is_none_or(|(file, _)| *file != tensor.file) {
            let path = self.files.get(tensor.file as usize)?;
            *open = Some((tensor.file, open_again(path).ok()?));
        }
        let offset = tensor.start.checked_add(element.checked_mul(2)?)?;
        open.as_ref()?.1.read_exact_at(into, offset).ok()
    }
}

impl Drop for CastTensors {
    fn drop(&mut self) {
        self.remembered.0.fetch_sub(self.tensors.len(), Ordering::Relaxed);
    }
}

/// A look through one file of masters.
struct Search<'a> {
    casts: &'a CastTensors,
    masters: &'a File,
    open: Option<(u32, File)>,
}

impl Search<'_> {
    /// The parts of one tensor, from its beginning as far as they are found.
    fn follow(&mut self, tensor: &Tensor, parts_max: usize) -> Vec<Part> {
        let Range { start, end } = tensor.range;
        let (mut at, mut parts, mut used) = (start, Vec::new(), HashSet::new());
        let ends = || self.casts.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let mut guess = ends().get(&tensor.name).copied();
        while parts.len() < parts_max && end - at >= 4 {
            let padded = PADDINGS.map(|padding| start + (at - start).next_multiple_of(4 * padding));
            let places = std::iter::once(at).chain(padded.into_iter().filter(|&place| place > at && place < end));
            let mut places = places.map(|place| (place, if place == at { guess } else { None }));
            let Some((place, (index, before))) =
                places.find_map(|(place, guess)| Some((place, self.begins(place..end, guess, &used)?)))
            else {
                break;
            };
            let CastTensor { elements, step, row, .. } = self.casts.tensors[index as usize];
            let count = (elements - before).min((end - place) / 4);
            at = place + 4 * count;
            parts.push(Part { range: place..at, before, elements, step, row, is_master: true });
            used.insert(index);
            guess = if before + count < elements { Some((index, before + count)) } else { Some((index + 1, 0)) };
        }
        if let (Some(guess), false) = (guess, parts.is_empty()) {
            let ends = || self.casts.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends().insert(tensor.name.clone(), guess);
        }
        parts
    }

    /// The tensor whose master begins there, and how many of its elements lie before; `guess` is looked at first.
    fn begins(&mut self, range: Range<u64>, guess: Option<(u32, u64)>, used: &HashSet<u32>) -> Option<(u32, u64)> {
        let mut head = Vec::new();
        let mut bytes = [0; 4 * HEAD_ELEMENTS];
        let is_long = range.end - range.start >= bytes.len() as u64;
        if is_long && self.masters.read_exact_at(&mut bytes, range.start).is_ok() {
            Cast::Bf16.apply(&bytes, &mut head);
        }
        let alike =
            head.as_slice().try_into().ok().and_then(|head: [u8; 2 * HEAD_ELEMENTS]| self.casts.heads().get(&head));
        // Why those behind the guess first: of norms that are all ones, the next is the likeliest.
        let alike = alike.map_or(&[][..], Vec::as_slice);
        let (before, behind) =
            alike.split_at(alike.partition_point(|&index| guess.is_some_and(|(next, _)| index < next)));
        let alike = behind.iter().chain(before).filter(|index| !used.contains(index)).take(ALIKE_MAX);
        let candidates: Vec<(u32, u64)> = guess.into_iter().chain(alike.map(|index| (*index, 0))).collect();
        candidates.into_iter().find(|&(index, before)| !used.contains(&index) && self.fits(index, before, &range))
    }

    /// True if the numbers there are the masters of the tensor's, from its `before`-th on, wherever they are compared.
    fn fits(&mut self, index: u32, before: u64, range: &Range<u64>) -> bool {
        let Some(tensor) = self.casts.tensors.get(index as usize) else { return false };
        let count = tensor.elements.saturating_sub(before).min((range.end - range.start) / 4);
        let probes = [0, count / 2, count.saturating_sub(PROBE_ELEMENTS)];
        count > 0
            && probes.into_iter().all(|at| {
                let length = PROBE_ELEMENTS.min(count - at) as usize;
                let (mut plain, mut master) = ([0; 2 * PROBE_ELEMENTS as usize], [0; 4 * PROBE_ELEMENTS as usize]);
                let (plain, master) = (&mut plain[..2 * length], &mut master[..4 * length]);
                self.masters.read_exact_at(master, range.start + 4 * at).is_ok()
                    && self.casts.read(&mut self.open, tensor, before + at, plain).is_some()
                    && cast_of(plain, master).is_some()
            })
    }
}

#[cfg(test)]
mod tests;
