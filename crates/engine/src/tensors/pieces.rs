//! Where the bytes of a part of a tensor go in the whole. Pure arithmetic.
//!
//! Both lie row after row. A part is a box of the whole, so its bytes are runs of one length that are one run in the
//! whole each; where the part reaches over all of the faster dimensions, it is a single run.

use std::ops::Range;

/// The way of a box's bytes into the whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// Bytes that lie together in both. Never 0.
    run: u64,
    /// How often the runs repeat, slowest dimension first, and how far apart they are in the whole, in bytes.
    steps: Vec<(u64, u64)>,
    /// Where the first run begins in the whole, in bytes.
    start: u64,
}

impl Placement {
    /// All of a tensor of so many bytes.
    pub(super) fn whole(bytes: u64) -> Self {
        Self { run: bytes.max(1), steps: Vec::new(), start: 0 }
    }

    /// A box of `shape` at `offset` in a tensor of `whole`, with elements of `width` bytes. None where it does not fit, has
    /// no elements, or the numbers are too large.
    pub(super) fn of_box(shape: &[u64], offset: &[u64], whole: &[u64], width: u64) -> Option<Self> {
        if shape.len() != whole.len() || offset.len() != whole.len() || shape.contains(&0) || width == 0 {
            return None;
        }
        let (mut run, mut step, mut start) = (width, width, 0_u64);
        let mut steps = Vec::new();
        for ((&length, &at), &all) in shape.iter().zip(offset).zip(whole).rev() {
            if at.checked_add(length)? > all {
                return None;
            }
            start = start.checked_add(at.checked_mul(step)?)?;
            // Why: as long as the run is all of what is below, this dimension's elements follow each other in the whole too.
            if steps.is_empty() && run == step {
                run = run.checked_mul(length)?;
            } else {
                steps.push((length, step));
            }
            step = step.checked_mul(all)?;
        }
        steps.reverse();
        Some(Self { run, steps, start })
    }

    /// Calls `each` with places of the bytes `range` of the part: where they begin in the part, where in the whole, and how
    /// many lie together.
    pub(super) fn runs<E>(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = range.start;
        while at < range.end {
            let (number, within) = (at / self.run, at % self.run);
            let length = (self.run - within).min(range.end - at);
            each(at, self.start_of(number) + within, length)?;
            at += length;
        }
        Ok(())
    }

    /// Where run `number` begins in the whole.
    fn start_of(&self, mut number: u64) -> u64 {
        let mut start = self.start;
        for (count, step) in self.steps.iter().rev() {
            start += number % count * step;
            number /= count;
        }
        start
    }
}

/// The shape that boxes (offset, shape) fill without a gap and without an overlap; none if they don't.
pub(super) fn filled(boxes: &[(&[u64], &[u64])]) -> Option<Vec<u64>> {
    let dimensions = boxes.first()?.1.len();
    let mut whole = vec![0_u64; dimensions];
    let mut volume = 0_u64;
    for (offset, shape) in boxes {
        if offset.len() != dimensions || shape.len() != dimensions {
            return None;
        }
        for ((all, at), length) in whole.iter_mut().zip(*offset).zip(*shape) {
            *all = (*all).max(at.checked_add(*length)?);
        }
        volume = volume.checked_add(crate::readers::elements(shape)?)?;
    }
    // Why both: boxes that don't overlap, lie inside and have the volume of the whole leave no gap.
    let apart = |(number, left): (usize, &(&[u64], &[u64]))| boxes[..number].iter().all(|right| !overlap(left, right));
    let fits = crate::readers::elements(&whole) == Some(volume) && boxes.iter().enumerate().all(apart);
    fits.then_some(whole)
}

fn overlap(left: &(&[u64], &[u64]), right: &(&[u64], &[u64])) -> bool {
    let ends = |(offset, shape): &(&[u64], &[u64]), at: usize| (offset[at], offset[at] + shape[at]);
    (0..left.0.len()).all(|at| {
        let ((from, to), (other_from, other_to)) = (ends(left, at), ends(right, at));
        from < other_to && other_from < to
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The placement, held against indexes that are counted up one by one.
    fn check(shape: &[u64], offset: &[u64], whole: &[u64], width: u64) -> Placement {
        let placement = Placement::of_box(shape, offset, whole, width).unwrap();
        let count: u64 = shape.iter().product();
        let expected: Vec<u64> = (0..count * width)
            .map(|byte| {
                let (mut rest, mut step, mut at) = (byte / width, width, byte % width);
                for dimension in (0..shape.len()).rev() {
                    at += (rest % shape[dimension] + offset[dimension]) * step;
                    rest /= shape[dimension];
                    step *= whole[dimension];
                }
                at
            })
            .collect();
        for (from, to) in [(0, count * width), (1, count * width), (count * width / 3, count * width / 2 + 1)] {
            let mut found = Vec::new();
            let collected: Result<(), ()> = placement.runs(from..to, &mut |at, target, length| {
                assert_eq!(at, from + found.len() as u64);
                found.extend(target..target + length);
                Ok(())
            });
            collected.unwrap();
            assert_eq!(found, expected[from as usize..to as usize], "{shape:?} at {offset:?} of {whole:?}");
        }
        placement
    }

    #[test]
    fn rows_are_one_run_and_columns_are_many() {
        for (shape, offset, whole, run, steps) in [
            (&[4, 8][..], &[2, 0][..], &[10, 8][..], 128, vec![]),
            (&[4, 3], &[0, 5], &[4, 8], 12, vec![(4, 32)]),
            (&[2, 3, 5], &[1, 1, 0], &[4, 6, 5], 60, vec![(2, 120)]),
            (&[2, 3, 2], &[1, 1, 2], &[4, 6, 5], 8, vec![(2, 120), (3, 20)]),
            (&[1, 8], &[3, 0], &[4, 8], 32, vec![]),
            (&[], &[], &[], 4, vec![]),
            (&[7], &[3], &[10], 28, vec![]),
        ] {
            let placement = check(shape, offset, whole, 4);
            assert_eq!((placement.run, placement.steps), (run, steps), "{shape:?} of {whole:?}");
        }
    }

    proptest! {
        #[test]
        fn every_byte_has_its_place(
            dimensions in prop::collection::vec((1_u64..5, 0_u64..4, 0_u64..4), 1..5),
            width in prop::sample::select(vec![1_u64, 2, 4, 8]),
        ) {
            let shape: Vec<u64> = dimensions.iter().map(|it| it.0).collect();
            let offset: Vec<u64> = dimensions.iter().map(|it| it.1).collect();
            let whole: Vec<u64> = dimensions.iter().map(|it| it.0 + it.1 + it.2).collect();
            check(&shape, &offset, &whole, width);
        }
    }

    #[test]
    fn what_does_not_fit_has_no_placement() {
        for (shape, offset, whole) in [
            (&[3][..], &[8][..], &[10][..]),
            (&[0], &[0], &[10]),
            (&[3], &[0, 0], &[10]),
            (&[3], &[u64::MAX], &[10]),
            (&[1, 1], &[0, 0], &[u64::MAX, u64::MAX]),
        ] {
            assert_eq!(Placement::of_box(shape, offset, whole, 4), None, "{shape:?} {offset:?}");
        }
    }

    #[test]
    fn boxes_that_fill_a_whole() {
        type Boxes<'a> = &'a [(&'a [u64], &'a [u64])];
        let cases: [(Boxes, Option<Vec<u64>>); 9] = [
            (&[(&[0, 0], &[4, 8]), (&[4, 0], &[2, 8])], Some(vec![6, 8])),
            (&[(&[4, 0], &[2, 8]), (&[0, 0], &[4, 3]), (&[0, 3], &[4, 5])], Some(vec![6, 8])),
            (&[(&[0], &[4]), (&[5], &[4])], None),
            (&[(&[0], &[4]), (&[3], &[4])], None),
            // As many elements as the whole, one part twice and one missing.
            (&[(&[0], &[2]), (&[0], &[2]), (&[4], &[2])], None),
            (&[(&[1], &[4])], None),
            (&[(&[], &[])], Some(vec![])),
            (&[(&[0], &[4]), (&[4, 0], &[4, 1])], None),
            (&[(&[u64::MAX], &[4])], None),
        ];
        for (boxes, whole) in cases {
            assert_eq!(filled(boxes), whole, "{boxes:?}");
        }
    }
}
