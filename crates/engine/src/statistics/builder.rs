//! Collects the statistics of a file's tensors while its chunks are read, in any order and by several threads.
//!
//! [`TableBuilder::measure`] computes, without a lock, what a piece of the file tells; [`TableBuilder::take`] adds it. Of
//! each tensor the pieces are merged in the order of the file: what comes early waits. So the finished table depends on the
//! file and on where it was cut, never on threads.
//!
//! A cut inside an element costs nothing: the odd bytes at a piece's ends are carried, and make an element with the
//! neighbour's. A tensor of which a piece is missing, comes twice, or has too many pieces waiting, has no statistics.
//!
//! Memory: a tensor's statistics, and those of the pieces that wait ([`WAITING_MAX`] a tensor at most).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::table::{TABLE_TENSORS_MAX, TensorRecord, TensorTable};
use super::{Statistics, has_statistics};
use crate::readers::{Dtype, Layout, Tensor, View};

/// No tensor has more pieces waiting for one before them; then it has no statistics.
pub const WAITING_MAX: usize = 4096;
/// No element is wider, in bytes.
const WIDTH_MAX: usize = 16;

/// See the module's page.
#[derive(Debug)]
pub struct TableBuilder {
    tensors: Vec<Tensor>,
    left_out: u64,
    progress: Mutex<Vec<Progress>>,
}

/// What a piece of the file tells of the tensors that it touches.
#[derive(Debug)]
pub struct Measured(Vec<(usize, Part)>);

/// What a piece tells of one tensor.
#[derive(Debug)]
struct Part {
    /// Bytes of the tensor.
    range: Range<u64>,
    /// Bytes of an element that began in an earlier piece.
    head: Odd,
    /// Of the whole elements.
    whole: Statistics,
    /// Bytes of an element that ends in a later piece.
    tail: Odd,
}

/// A part of an element.
#[derive(Debug, Default, Clone, Copy)]
struct Odd {
    bytes: [u8; WIDTH_MAX],
    length: usize,
}

/// How far the pieces of a tensor have come.
#[derive(Debug, Default)]
struct Progress {
    /// Its bytes up to here are in the sum.
    done: u64,
    sum: Statistics,
    carried: Odd,
    waiting: BTreeMap<u64, Part>,
    failed: bool,
}

/// The bytes of a piece.
#[derive(Clone, Copy)]
enum Bytes<'a> {
    Plain(&'a [u8]),
    Zeros(u64),
}

/// Whether the tensor's numbers are counted. What is no tensor may hold anything: numbers that were never set, or that stand
/// where a column is empty.
fn is_counted(tensor: &Tensor) -> bool {
    tensor.view != View::Rest && has_statistics(tensor.dtype)
}

/// The tensor as a table has it: how its numbers lie in its storage is not kept.
fn as_stored(tensor: Tensor) -> Tensor {
    Tensor { view: View::Own, ..tensor }
}

impl TableBuilder {
    /// For a file with this layout.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        let tensors: Vec<Tensor> = layout.tensors.iter().take(TABLE_TENSORS_MAX).cloned().collect();
        let progress = tensors.iter().map(|_| Progress::default()).collect();
        let left_out = layout.left_out.saturating_add((layout.tensors.len() - tensors.len()) as u64);
        Self { tensors, left_out, progress: Mutex::new(progress) }
    }

    /// Measures and takes a piece of the file: its plain bytes, from `offset` on.
    pub fn add(&self, offset: u64, bytes: &[u8]) {
        self.take(self.measure(offset, bytes));
    }

    /// Takes a hole: bytes of the file that read as zero.
    pub fn add_hole(&self, range: Range<u64>) {
        self.take(self.parts(range.start, Bytes::Zeros(range.end.saturating_sub(range.start))));
    }

    /// What a piece of the file tells. For workers that hand the outcome on; it holds no lock.
    #[must_use]
    pub fn measure(&self, offset: u64, bytes: &[u8]) -> Measured {
        self.parts(offset, Bytes::Plain(bytes))
    }

    fn parts(&self, offset: u64, bytes: Bytes<'_>) -> Measured {
        let end = offset.saturating_add(bytes.length());
        let first = self.tensors.partition_point(|tensor| tensor.range.end <= offset);
        let touched = self.tensors.iter().enumerate().skip(first).take_while(|(_, tensor)| tensor.range.start < end);
        let with = touched.filter(|(_, tensor)| is_counted(tensor) && offset < end);
        let parts = with.map(|(number, tensor)| {
            let (from, to) = (offset.max(tensor.range.start), end.min(tensor.range.end));
            let inside = bytes.part(from - offset, to - offset);
            (number, Part::new(tensor.dtype, from - tensor.range.start, inside))
        });
        Measured(parts.collect())
    }

    /// Adds what a piece tells.
    pub fn take(&self, measured: Measured) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, part) in measured.0 {
            progress[number].take(self.tensors[number].dtype, part);
        }
    }

    /// The table of what was taken.
    #[must_use]
    pub fn finish(self) -> TensorTable {
        let progress = self.progress.into_inner().unwrap_or_else(PoisonError::into_inner);
        let record = |(tensor, progress): (Tensor, Progress)| {
            let is_whole = progress.done == tensor.range.end - tensor.range.start && progress.waiting.is_empty();
            let known = is_counted(&tensor) && is_whole && !progress.failed && progress.carried.length == 0;
            TensorRecord { statistics: known.then_some(progress.sum), tensor: as_stored(tensor) }
        };
        let tensors = self.tensors.into_iter().zip(progress).map(record).collect();
        TensorTable { tensors, left_out: self.left_out }
    }
}

impl Progress {
    fn take(&mut self, dtype: Dtype, part: Part) {
        let overlaps = part.range.start < self.done || self.waiting.contains_key(&part.range.start);
        let has_room = self.waiting.len() < WAITING_MAX || part.range.start == self.done;
        self.failed |= overlaps || !has_room;
        if self.failed {
            self.waiting.clear();
            return;
        }
        self.waiting.insert(part.range.start, part);
        while let Some(part) = self.waiting.remove(&self.done) {
            self.append(dtype, &part);
        }
    }

    fn append(&mut self, dtype: Dtype, part: &Part) {
        self.done = part.range.end;
        self.carry(dtype, &part.head);
        self.sum.merge(&part.whole);
        self.carry(dtype, &part.tail);
    }

    fn carry(&mut self, dtype: Dtype, odd: &Odd) {
        self.carried.push(&odd.bytes[..odd.length]);
        if self.carried.length == width(dtype) {
            if let Some(element) = Statistics::of(dtype, &self.carried.bytes[..self.carried.length]) {
                self.sum.merge(&element);
            }
            self.carried = Odd::default();
        }
    }
}

impl Part {
    /// `start` is where in the tensor the bytes begin.
    fn new(dtype: Dtype, start: u64, bytes: Bytes<'_>) -> Self {
        let width = width(dtype) as u64;
        let length = bytes.length();
        let head = (width - start % width) % width;
        let head = head.min(length);
        let whole = (length - head) / width * width;
        Self {
            range: start..start + length,
            head: bytes.part(0, head).odd(),
            whole: bytes.part(head, head + whole).statistics(dtype),
            tail: bytes.part(head + whole, length).odd(),
        }
    }
}

impl Odd {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

impl<'a> Bytes<'a> {
    fn length(self) -> u64 {
        match self {
            Self::Plain(bytes) => bytes.len() as u64,
            Self::Zeros(length) => length,
        }
    }

    fn part(self, start: u64, end: u64) -> Self {
        let place = |at: u64| usize::try_from(at).expect("inside a slice");
        match self {
            Self::Plain(bytes) => Self::Plain(&bytes[place(start)..place(end)]),
            Self::Zeros(_) => Self::Zeros(end - start),
        }
    }

    /// Fewer bytes than an element has.
    fn odd(self) -> Odd {
        let mut odd = Odd::default();
        match self {
            Self::Plain(bytes) => odd.push(bytes),
            Self::Zeros(length) => odd.length = usize::try_from(length).expect("less than an element"),
        }
        odd
    }

    fn statistics(self, dtype: Dtype) -> Statistics {
        let known = match self {
            Self::Plain(bytes) => Statistics::of(dtype, bytes),
            Self::Zeros(length) => Statistics::of_zeros(dtype, length),
        };
        known.expect("whole elements of a kind that has statistics")
    }
}

fn width(dtype: Dtype) -> usize {
    usize::try_from(dtype.width()).unwrap_or(WIDTH_MAX).min(WIDTH_MAX)
}
