//! The way of a tensor's numbers into the order of its shape, where they lie in another: transposed, with holes, shown more
//! than once. Pure arithmetic.
//!
//! Numbers come in windows of the source, so that none has to be in memory whole; of each, [`Gather::runs`] visits what the
//! tensor shows and nothing else, and gives runs of the target in which it lies together.

use std::ops::Range;

use crate::readers::elements;
use crate::units::MIB;

/// A tensor that shows numbers more than once takes at most this, in bytes: a header can't fill a disk.
const REPEATED_BYTES_MAX: u64 = 64 * MIB as u64;
/// Runs that follow each other are given together up to about so many bytes.
const RUN_BYTES: usize = MIB;

/// Takes a run of the target: where it begins, and its bytes.
type EachRun<'e, E> = &'e mut dyn FnMut(u64, &[u8]) -> Result<(), E>;
/// Takes a box: the range of each dimension.
type EachBox<'e, E> = &'e mut dyn FnMut(&[Range<u64>]) -> Result<(), E>;

/// One dimension of more than one element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dimension {
    length: u64,
    /// How far its elements are from each other in the source, in elements.
    stride: u64,
    /// How far they are in the target, in bytes.
    step: u64,
}

/// A tensor's numbers by their places in source and target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Gather {
    /// Slowest of the target first.
    dimensions: Vec<Dimension>,
    /// Numbers of `dimensions` whose stride is not 0, by falling stride, and how far all behind each reach, in elements.
    order: Vec<(usize, u64)>,
    /// Where the first element goes in the target, in bytes.
    start: u64,
    /// Bytes of an element.
    width: usize,
}

impl Gather {
    /// A box of `shape` at `offset` in a tensor of `whole`, whose elements are `strides` apart in the source. The text says
    /// why it can't be written.
    pub(super) fn new(
        (shape, strides): (&[u64], &[u64]),
        offset: &[u64],
        whole: &[u64],
        width: u64,
    ) -> Result<Self, &'static str> {
        let too_large = "its numbers are too far apart";
        let same = [strides.len(), offset.len(), whole.len()].iter().all(|&length| length == shape.len());
        if !same || shape.contains(&0) || width == 0 {
            return Err("its shape and its place do not fit");
        }
        let (mut step, mut start, mut dimensions) = (width, 0_u64, Vec::new());
        for (((&length, &stride), &at), &all) in shape.iter().zip(strides).zip(offset).zip(whole).rev() {
            if at.checked_add(length).is_none_or(|end| end > all) {
                return Err("its shape and its place do not fit");
            }
            start = at.checked_mul(step).and_then(|more| start.checked_add(more)).ok_or(too_large)?;
            if length > 1 {
                dimensions.push(Dimension { length, stride, step });
            }
            step = step.checked_mul(all).ok_or(too_large)?;
        }
        dimensions.reverse();
        let mut order: Vec<(usize, u64)> =
            (0..dimensions.len()).filter(|&at| dimensions[at].stride > 0).map(|at| (at, 0)).collect();
        order.sort_by_key(|&(at, _)| dimensions[at].stride);
        let mut reach = 0_u64;
        for (at, behind) in &mut order {
            let Dimension { length, stride, .. } = dimensions[*at];
            if stride <= reach {
                return Err("its rows overlap");
            }
            *behind = reach;
            reach = (length - 1).checked_mul(stride).and_then(|more| reach.checked_add(more)).ok_or(too_large)?;
        }
        order.reverse();
        let bytes = elements(shape).and_then(|count| count.checked_mul(width)).ok_or(too_large)?;
        if order.len() < dimensions.len() && bytes > REPEATED_BYTES_MAX {
            return Err("it shows a few numbers so often that it would take too much");
        }
        let width = usize::try_from(width).map_err(|_| too_large)?;
        Ok(Self { dimensions, order, start, width })
    }

    /// Bytes of an element.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Bytes that it takes in the target.
    pub(super) fn bytes(&self) -> u64 {
        self.dimensions.iter().map(|dimension| dimension.length).product::<u64>() * self.width as u64
    }

    /// Calls `each` with runs of the target, where they begin and their bytes, for all elements that lie in `numbers`, whole
    /// elements of the source from number `first` on.
    pub(super) fn runs<E>(&self, first: u64, numbers: &[u8], each: EachRun<'_, E>) -> Result<(), E> {
        let window = first..first + (numbers.len() / self.width) as u64;
        let mut whole: Vec<Range<u64>> = self.dimensions.iter().map(|dimension| 0..dimension.length).collect();
        let mut runs = Runs { gather: self, first, numbers, start: 0, run: Vec::new(), each };
        self.boxes(&window, 0, 0, &mut whole, &mut |part| runs.take(part))?;
        runs.flush()
    }

    /// Splits what lies in a window of the source into boxes: the dimensions before `depth` (by stride) are fixed and lead to
    /// element `base`. As no rows overlap, at most two of each dimension lie partly inside.
    fn boxes<E>(
        &self,
        window: &Range<u64>,
        depth: usize,
        base: u64,
        part: &mut Vec<Range<u64>>,
        each: EachBox<'_, E>,
    ) -> Result<(), E> {
        let Some(&(at, behind)) = self.order.get(depth) else {
            return if window.contains(&base) { each(part) } else { Ok(()) };
        };
        let Dimension { length, stride, .. } = self.dimensions[at];
        // The first index whose element, or the last behind it, is at `place` or later.
        let from = |place: u64| place.saturating_sub(base).div_ceil(stride).min(length);
        let touched = from(window.start.saturating_sub(behind))..from(window.end);
        let inside = from(window.start)..from(window.end.saturating_sub(behind)).max(from(window.start));
        if !inside.is_empty() {
            part[at] = inside.clone();
            each(part)?;
        }
        let partly = [touched.start..inside.start.min(touched.end), inside.end.max(touched.start)..touched.end];
        for index in partly.into_iter().flatten() {
            part[at] = index..index + 1;
            self.boxes(window, depth + 1, base + index * stride, part, each)?;
        }
        part[at] = 0..length;
        Ok(())
    }
}

/// Collects elements in the order of the target.
struct Runs<'a, E> {
    gather: &'a Gather,
    first: u64,
    numbers: &'a [u8],
    /// Where `run` begins in the target.
    start: u64,
    run: Vec<u8>,
    each: EachRun<'a, E>,
}

impl<E> Runs<'_, E> {
    /// Takes a box of elements that all lie in the window.
    fn take(&mut self, part: &[Range<u64>]) -> Result<(), E> {
        let dimensions = &self.gather.dimensions;
        // Why asked: a box that is one element wide in a larger tensor has no elements that follow each other.
        let (outer, stride, count) = match dimensions.split_last() {
            Some((last, outer)) if last.step == self.gather.width as u64 => {
                (outer.len(), last.stride, part[outer.len()].end - part[outer.len()].start)
            }
            _ => (dimensions.len(), 0, 1),
        };
        let mut index: Vec<u64> = part.iter().map(|range| range.start).collect();
        loop {
            let sum = |of: fn(&Dimension) -> u64| {
                dimensions.iter().zip(&index).map(|(dimension, at)| of(dimension) * at).sum::<u64>()
            };
            self.row(sum(|it| it.stride), sum(|it| it.step), stride, count)?;
            // The next row: the fastest of the outer dimensions that has a next.
            let Some(at) = (0..outer).rev().find(|&at| index[at] + 1 < part[at].end) else { return Ok(()) };
            index[at] += 1;
            (at + 1..outer).for_each(|faster| index[faster] = part[faster].start);
        }
    }

    /// Takes `count` elements from `source` on, each `stride` behind the other.
    fn row(&mut self, source: u64, target: u64, stride: u64, count: u64) -> Result<(), E> {
        let width = self.gather.width;
        let place = |number: u64| usize::try_from(number).expect("inside a window");
        let target = self.gather.start + target;
        if self.start + self.run.len() as u64 != target {
            self.flush()?;
            self.start = target;
        }
        let (mut at, step) = (place(source - self.first) * width, place(stride) * width);
        let mut left = place(count);
        while left > 0 {
            let now = left.min(RUN_BYTES / width);
            let numbers = &self.numbers[at..];
            match width {
                _ if step == width => self.run.extend_from_slice(&numbers[..now * width]),
                1 => take::<1>(numbers, step, now, &mut self.run),
                2 => take::<2>(numbers, step, now, &mut self.run),
                4 => take::<4>(numbers, step, now, &mut self.run),
                8 => take::<8>(numbers, step, now, &mut self.run),
                _ => (0..now).for_each(|number| {
                    self.run.extend_from_slice(&numbers[number * step..number * step + width]);
                }),
            }
            left -= now;
            at += if left > 0 { now * step } else { 0 };
            if self.run.len() >= RUN_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), E> {
        if !self.run.is_empty() {
            (self.each)(self.start, &self.run)?;
            self.start += self.run.len() as u64;
            self.run.clear();
        }
        Ok(())
    }
}

/// Appends `count` elements of so many bytes, each `step` bytes behind the other.
fn take<const WIDTH: usize>(numbers: &[u8], step: usize, count: usize, run: &mut Vec<u8>) {
    run.reserve(count * WIDTH);
    for number in 0..count {
        run.extend_from_slice(&numbers[number * step..][..WIDTH]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is gathered by windows of so many elements, held against indexes that are counted up one by one.
    fn check((shape, strides): (&[u64], &[u64]), offset: &[u64], whole: &[u64], width: usize, window: usize) {
        let gather = Gather::new((shape, strides), offset, whole, width as u64).unwrap();
        let span = 1 + shape.iter().zip(strides).map(|(length, stride)| (length - 1) * stride).sum::<u64>() as usize;
        let source: Vec<u8> = (0..span * width).map(|at| (at * 7 + at / 251) as u8).collect();
        let mut expected = vec![0; whole.iter().product::<u64>() as usize * width];
        let count: u64 = shape.iter().product();
        for number in 0..count {
            let (mut rest, mut step, mut from, mut to) = (number, 1, 0, 0);
            for at in (0..shape.len()).rev() {
                let index = rest % shape[at];
                (rest, from, to) = (rest / shape[at], from + index * strides[at], to + (index + offset[at]) * step);
                step *= whole[at];
            }
            let (from, to) = (from as usize * width, to as usize * width);
            expected[to..to + width].copy_from_slice(&source[from..from + width]);
        }
        let (mut made, mut written) = (vec![0; expected.len()], 0);
        for (number, numbers) in source.chunks(window * width).enumerate() {
            let gathered: Result<(), ()> = gather.runs((number * window) as u64, numbers, &mut |start, run| {
                made[start as usize..start as usize + run.len()].copy_from_slice(run);
                written += run.len();
                Ok(())
            });
            gathered.unwrap();
        }
        assert_eq!(made, expected, "{shape:?} by {strides:?} at {offset:?} of {whole:?}, {window} at a time");
        assert_eq!((written, gather.bytes()), (count as usize * width, (count as usize * width) as u64));
    }

    /// The dimensions' places in the source, slowest first, holes, and how many dimensions repeat.
    fn strides(shape: &[u64], order: &[usize], holes: &[u64], repeated: usize) -> Vec<u64> {
        let (mut strides, mut step) = (vec![0; shape.len()], 1);
        let order: Vec<usize> = order.iter().copied().filter(|&at| at < shape.len()).collect();
        for (number, &at) in order.iter().enumerate().rev() {
            if number >= repeated {
                strides[at] = step;
                step = step * shape[at] + holes[at];
            }
        }
        strides
    }

    proptest! {
        #[test]
        fn every_element_has_its_place(
            dimensions in prop::collection::vec((1_u64..5, 0_u64..3, 0_u64..3, 0_u64..3), 0..5),
            order in Just((0..5).collect::<Vec<usize>>()).prop_shuffle(),
            repeated in 0_usize..2,
            width in prop::sample::select(vec![1_usize, 2, 3, 4, 8, 16]),
            window in 1_usize..40,
        ) {
            let shape: Vec<u64> = dimensions.iter().map(|it| it.0).collect();
            let offset: Vec<u64> = dimensions.iter().map(|it| it.1).collect();
            let whole: Vec<u64> = dimensions.iter().map(|it| it.0 + it.1 + it.2).collect();
            let holes: Vec<u64> = dimensions.iter().map(|it| it.3).collect();
            check((&shape, &strides(&shape, &order, &holes, repeated)), &offset, &whole, width, window);
        }
    }

    #[test]
    fn windows_of_a_long_row_are_given_in_pieces() {
        check((&[3, 700_000], &[1, 3]), &[0, 0], &[3, 700_000], 2, 900_000);
        check((&[2, 700_000], &[700_000, 1]), &[0, 0], &[2, 700_000], 2, 1_000_000);
    }

    #[test]
    fn what_can_not_be_gathered_is_said() {
        for (shape, strides, why) in [
            (&[4, 4][..], &[2, 1][..], "overlap"),
            (&[4, 4], &[1, 1], "overlap"),
            (&[1 << 40, 2], &[0, 1], "too much"),
            (&[3, 3], &[u64::MAX, 1], "too far"),
            (&[1 << 40, 1 << 40], &[1 << 40, 1], "too far"),
            (&[0], &[1], "fit"),
            (&[2], &[1, 1], "fit"),
        ] {
            let made = Gather::new((shape, strides), &vec![0; shape.len()], shape, 4);
            assert!(made.as_ref().is_err_and(|text| text.contains(why)), "{shape:?} by {strides:?}: {made:?}");
        }
        assert!(Gather::new((&[3], &[2]), &[8], &[10], 4).is_err());
    }

    /// A window of a matrix of 2^30 columns is no matter of 2^30 steps.
    #[test]
    fn only_what_a_window_holds_is_visited() {
        let gather = Gather::new((&[1 << 30, 4], &[1, 1 << 30]), &[0, 0], &[1 << 30, 4], 4).unwrap();
        let mut part = vec![0..1 << 30, 0..4];
        let mut boxes = Vec::new();
        let window = (1 << 30) - 5..(1 << 30) + 3;
        let split: Result<(), ()> = gather.boxes(&window, 0, 0, &mut part, &mut |part| {
            boxes.push(part.to_vec());
            Ok(())
        });
        split.unwrap();
        assert_eq!(boxes, [vec![(1 << 30) - 5..1 << 30, 0..1], vec![0..3, 1..2]]);
    }
}
