//! The builder: pieces cut anywhere, in any order, give the table that a single look gives.

use std::ops::Range;

use proptest::prelude::*;

use crate::readers::{Dtype, Format, Layout, Tensor, View};
use crate::statistics::Statistics;
use crate::statistics::builder::{TableBuilder, WAITING_MAX};
use crate::statistics::table::{TABLE_TENSORS_MAX, TensorTable};

const LENGTH: usize = 10_000;

fn tensor(name: &str, dtype: Dtype, range: Range<u64>) -> Tensor {
    Tensor { name: name.into(), dtype, shape: vec![range.end - range.start], view: View::Own, range }
}

/// Tensors of several kinds, with gaps between some and none between others; the last is not at the end.
fn layout() -> Layout {
    let tensors = vec![
        tensor("wide", Dtype::F64, 3..1003),
        tensor("plain", Dtype::F32, 1003..5003),
        tensor("blocks", Dtype::Width(12), 5003..5999),
        tensor("tiny", Dtype::I16, 6000..6002),
        tensor("half", Dtype::F16, 6002..8002),
        tensor("pairs", Dtype::Complex128, 8007..9607),
    ];
    Layout {
        format: Format::Safetensors,
        tensors,
        strided: Vec::new(),
        checks: Vec::new(),
        boundaries: Vec::new(),
        left_out: 0,
    }
}

fn bytes() -> Vec<u8> {
    let mut state = 9_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state.to_be_bytes()[0]
    };
    let mut bytes: Vec<u8> = (0..LENGTH).map(|_| next()).collect();
    bytes[2000..2600].fill(0);
    bytes
}

fn whole(bytes: &[u8]) -> TensorTable {
    let builder = TableBuilder::new(&layout());
    builder.add(0, bytes);
    builder.finish()
}

fn pieces(cuts: &[usize]) -> Vec<Range<usize>> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % LENGTH).chain([0, LENGTH]).collect();
    ends.sort_unstable();
    ends.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[test]
fn one_piece_gives_each_tensor_its_statistics() {
    let bytes = bytes();
    let table = whole(&bytes);
    assert_eq!(table.left_out, 0);
    for (record, tensor) in table.tensors.iter().zip(layout().tensors) {
        let place = tensor.range.start as usize..tensor.range.end as usize;
        assert_eq!(record.statistics, Statistics::of(tensor.dtype, &bytes[place]), "{}", tensor.name);
        assert_eq!(record.tensor, tensor);
    }
    assert!(table.tensors.iter().filter(|record| record.statistics.is_some()).count() == 5);
}

/// What is no tensor may hold anything: it has no figures, and the tensors beside it have theirs.
#[test]
fn what_is_no_tensor_is_not_counted() {
    let mut layout = layout();
    layout.tensors[1].view = View::Rest;
    let builder = TableBuilder::new(&layout);
    builder.add(0, &bytes());
    let known: Vec<bool> = builder.finish().tensors.iter().map(|record| record.statistics.is_some()).collect();
    assert_eq!(known, [true, false, false, true, true, true]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Cuts fall inside elements, inside tensors and between, also several within one element.
    #[test]
    fn cuts_and_order_change_nothing(cuts in proptest::collection::vec(0..LENGTH, 0..40), seed in any::<u64>()) {
        let bytes = bytes();
        let pieces = pieces(&cuts);
        let in_order = TableBuilder::new(&layout());
        pieces.iter().for_each(|piece| in_order.add(piece.start as u64, &bytes[piece.clone()]));
        let in_order = in_order.finish();
        let whole = whole(&bytes);
        for (found, expected) in in_order.tensors.iter().zip(&whole.tensors) {
            match (&found.statistics, &expected.statistics) {
                (Some(found), Some(expected)) => super::assert_near("cut", found, expected),
                (found, expected) => prop_assert_eq!(found, expected),
            }
        }
        let mut shuffled = pieces.clone();
        shuffled.sort_by_key(|piece| (piece.start as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let builder = TableBuilder::new(&layout());
        shuffled.iter().for_each(|piece| builder.add(piece.start as u64, &bytes[piece.clone()]));
        prop_assert_eq!(builder.finish(), in_order, "the order changes no bit");
    }
}

#[test]
fn elements_of_single_bytes_in_pieces_of_one() {
    let bytes = bytes();
    let builder = TableBuilder::new(&layout());
    bytes.iter().enumerate().for_each(|(at, _)| builder.add(at as u64, &bytes[at..=at]));
    for (found, expected) in builder.finish().tensors.iter().zip(&whole(&bytes).tensors) {
        if let (Some(found), Some(expected)) = (&found.statistics, &expected.statistics) {
            super::assert_near("single bytes", found, expected);
        }
        assert_eq!(found.statistics.is_some(), expected.statistics.is_some());
    }
}

#[test]
fn what_is_not_seen_once_has_no_statistics() {
    let bytes = bytes();
    let known = |missing: Range<usize>, twice: Range<usize>| {
        let builder = TableBuilder::new(&layout());
        builder.add(0, &bytes[..missing.start]);
        builder.add(missing.end as u64, &bytes[missing.end..]);
        builder.add(twice.start as u64, &bytes[twice]);
        let table = builder.finish();
        let known = table.tensors.iter().filter(|record| record.statistics.is_some());
        known.map(|record| record.tensor.name.clone()).collect::<Vec<_>>().join(" ")
    };
    for (missing, twice, expected) in [
        (0..0, 0..0, "wide plain tiny half pairs"),
        (0..3, 9607..LENGTH, "wide plain tiny half pairs"),
        (1002..1003, 0..0, "plain tiny half pairs"),
        (1002..1004, 0..0, "tiny half pairs"),
        (0..0, 6001..6002, "wide plain half pairs"),
        (2000..2600, 8000..8008, "wide tiny"),
        (9606..LENGTH, 0..0, "wide plain tiny half"),
    ] {
        assert_eq!(known(missing.clone(), twice.clone()), expected, "{missing:?} {twice:?}");
    }
}

#[test]
fn a_hole_reads_as_zeros() {
    let bytes = bytes();
    let builder = TableBuilder::new(&layout());
    builder.add(0, &bytes[..2000]);
    builder.add_hole(2000..2600);
    builder.add(2600, &bytes[2600..]);
    let with_zeros = TableBuilder::new(&layout());
    [0..2000, 2000..2600, 2600..LENGTH].into_iter().for_each(|it| with_zeros.add(it.start as u64, &bytes[it]));
    assert_eq!(builder.finish(), with_zeros.finish());
}

/// Whoever hands pieces in backwards costs one tensor its statistics, and no more memory.
#[test]
fn few_pieces_wait() {
    let tensors = vec![tensor("long", Dtype::U8, 0..10_000), tensor("next", Dtype::U8, 10_000..10_010)];
    let layout = Layout { tensors, ..layout() };
    for (pieces, known) in [(WAITING_MAX, true), (WAITING_MAX + 1, false)] {
        let builder = TableBuilder::new(&layout);
        let first = 10_000 - pieces as u64;
        (first..10_000).rev().for_each(|at| builder.add(at, &[1]));
        builder.add(0, &vec![1; first as usize]);
        builder.add(10_000, &[2; 10]);
        let table = builder.finish();
        let [long, next] = [0, 1].map(|number| table.tensors[number].statistics.is_some());
        assert_eq!((long, next), (known, true), "{pieces}");
    }
}

#[test]
fn tensors_beyond_the_limit_are_counted() {
    let many = TABLE_TENSORS_MAX as u64 + 7;
    let tensors = (0..many).map(|at| tensor("t", Dtype::U8, at..at + 1)).collect();
    let table = TableBuilder::new(&Layout { tensors, ..layout() }).finish();
    assert_eq!((table.tensors.len(), table.left_out), (TABLE_TENSORS_MAX, 7));
}
