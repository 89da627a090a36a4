//! Properties of tensor tables: what is written is read back, what can't be true is refused, and no table is too long.

use minicbor::Encoder;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::format::tensor_table::{TABLE_BYTES_MAX, decode, encode};
use crate::readers::{Dtype, Tensor, View, ggml};
use crate::statistics::table::{TensorRecord, TensorTable};
use crate::statistics::{Exponents, Statistics};

fn dtype() -> impl Strategy<Value = Dtype> {
    prop_oneof![
        (0..27_usize).prop_map(|place| crate::format::tensor_table::KINDS[place]),
        any::<u8>().prop_map(Dtype::Width),
        proptest::sample::select(vec![2, 8, 12, 41]).prop_map(|id| ggml(id).unwrap()),
    ]
}

fn statistics() -> impl Strategy<Value = Statistics> {
    let bins = proptest::collection::btree_map(-1023..1024_i16, 1..1_u64 << 40, 0..12);
    let counts = [0..1_u64 << 40, 0..1_u64 << 40, 0..3_u64];
    (counts, bins, any::<(f64, f64)>(), 0.0..1e300).prop_map(|([nan, infinite, zeros], bins, ends, squares)| {
        let finite = zeros + bins.values().sum::<u64>();
        let [low, high] = [ends.0, ends.1].map(|end| if end.is_finite() { end + 0.0 } else { 1.0 });
        Statistics {
            elements: nan + infinite + finite,
            nan,
            infinite,
            zeros,
            range: (finite > 0).then_some((low.min(high), low.max(high))),
            squares,
            exponents: Exponents::from_bins(bins.into_iter().collect()).unwrap(),
        }
    })
}

fn table() -> impl Strategy<Value = TensorTable> {
    let shape = vec(any::<u64>(), 0..5);
    let record = ("[a-zé.]{0,30}", dtype(), shape, (0..1_u64 << 50, 1..1_u64 << 40), option::of(statistics()));
    (vec(record, 0..12), 0..3_u64).prop_map(|(records, left_out)| {
        let mut end = 0;
        let record = |(name, dtype, shape, (gap, length), statistics): (String, _, _, (u64, u64), _)| {
            let start = end + gap;
            end = start + length;
            TensorRecord { tensor: Tensor { name, dtype, shape, view: View::Own, range: start..end }, statistics }
        };
        TensorTable { tensors: records.into_iter().map(record).collect(), left_out }
    })
}

proptest! {
    #[test]
    fn tables_round_trip(table in table()) {
        prop_assert_eq!(decode(&encode(&table)).unwrap(), table);
    }

    #[test]
    fn any_change_of_a_table_is_read_or_refused(table in table(), changes in vec(super::change(), 1..4)) {
        let bytes = super::changed(&encode(&table), &changes);
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&read)).unwrap(), read);
        }
    }
}

#[test]
fn a_table_is_never_too_long() {
    let name = "n".repeat(1000);
    let record = |at: u64| TensorRecord {
        tensor: Tensor {
            name: name.clone(),
            dtype: Dtype::F32,
            shape: vec![1],
            view: View::Own,
            range: at * 4..at * 4 + 4,
        },
        statistics: None,
    };
    let table = TensorTable { tensors: (0..5000).map(record).collect(), left_out: 3 };
    let bytes = encode(&table);
    assert!(bytes.len() <= TABLE_BYTES_MAX && bytes.len() > TABLE_BYTES_MAX - 2000, "{}", bytes.len());
    let read = decode(&bytes).unwrap();
    let kept = read.tensors.len();
    assert_eq!(read.tensors, table.tensors[..kept]);
    assert_eq!(read.left_out, 3 + 5000 - kept as u64);
    assert!(decode(&vec![0; TABLE_BYTES_MAX + 1]).is_err());
}

/// A table of one tensor with these statistics, each number as given.
fn of_one(write: impl FnOnce(&mut Encoder<&mut Vec<u8>>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    encoder.map(1).unwrap().u8(0).unwrap().array(1).unwrap();
    encoder.map(3).unwrap().u8(1).unwrap().u8(2).unwrap().u8(4).unwrap().u8(8).unwrap().u8(5).unwrap();
    write(&mut encoder);
    bytes
}

#[test]
fn what_can_not_be_true_is_refused() {
    let statistics = |elements: u64, zeros: u64, range: Option<(f64, f64)>, squares: f64, bins: &[i64]| {
        of_one(|encoder| {
            encoder.map(4 + u64::from(range.is_some())).unwrap();
            encoder.u8(0).unwrap().u64(elements).unwrap().u8(3).unwrap().u64(zeros).unwrap();
            if let Some((low, high)) = range {
                encoder.u8(4).unwrap().array(2).unwrap().f64(low).unwrap().f64(high).unwrap();
            }
            encoder.u8(5).unwrap().f64(squares).unwrap().u8(6).unwrap().array(bins.len() as u64).unwrap();
            for bin in bins {
                encoder.i64(*bin).unwrap();
            }
        })
    };
    let range = Some((-1.0, 1.0));
    assert!(decode(&statistics(2, 1, range, 1.0, &[0, 1])).is_ok());
    for (case, bytes) in [
        ("too few", statistics(3, 1, range, 1.0, &[0, 1])),
        ("too many", statistics(1, 1, range, 1.0, &[0, 1])),
        ("no range", statistics(2, 1, None, 1.0, &[0, 1])),
        ("a range of nothing", statistics(0, 0, range, 1.0, &[])),
        ("range turned round", statistics(2, 1, Some((1.0, -1.0)), 1.0, &[0, 1])),
        ("range without end", statistics(2, 1, Some((1.0, f64::INFINITY)), 1.0, &[0, 1])),
        ("range of NaN", statistics(2, 1, Some((f64::NAN, 1.0)), 1.0, &[0, 1])),
        ("squares of NaN", statistics(2, 1, range, f64::NAN, &[0, 1])),
        ("negative squares", statistics(2, 1, range, -1.0, &[0, 1])),
        ("half a bin", statistics(2, 1, range, 1.0, &[0, 1, 2])),
        ("an empty bin", statistics(2, 1, range, 1.0, &[0, 1, 2, 0])),
        ("bins not ascending", statistics(3, 1, range, 1.0, &[0, 1, 0, 1])),
        ("a sum over 2^64", statistics(1, 1, range, 1.0, &[0, i64::MAX, 1, i64::MAX, 2, 2])),
        ("an exponent that is none", statistics(2, 1, range, 1.0, &[1 << 20, 1])),
    ] {
        assert!(decode(&bytes).is_err(), "{case}");
    }
}

#[test]
fn kinds_of_a_later_version_are_unknown() {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes);
    encoder.map(1).unwrap().u8(0).unwrap().array(1).unwrap().map(3).unwrap();
    encoder.u8(1).unwrap().u8(200).unwrap().u8(4).unwrap().u8(8).unwrap().u8(9).unwrap().str("new").unwrap();
    let table = decode(&bytes).unwrap();
    assert_eq!(table.tensors[0].tensor.dtype, Dtype::Unknown);
    assert_eq!(table.tensors[0].tensor.range, 0..8);
}

#[test]
fn tensors_must_follow_each_other() {
    let record = |start, length| TensorRecord {
        tensor: Tensor {
            name: "t".into(),
            dtype: Dtype::U8,
            shape: Vec::new(),
            view: View::Own,
            range: start..start + length,
        },
        statistics: None,
    };
    let refused = |tensors| decode(&encode(&TensorTable { tensors, left_out: 0 })).is_err();
    assert!(!refused(vec![record(0, 4), record(4, 4)]));
    assert!(refused(vec![record(0, 4), record(3, 4)]));
    assert!(refused(vec![record(8, 4), record(0, 4)]));
    assert!(refused(vec![record(0, 0)]));
}
