//! Statistics against a plain slow reference: every pattern of the narrow kinds, any bytes of the others, any cuts.

mod builder;
mod compare;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::readers::ggml;

/// The value of one element, from the definition of its kind alone. None for an integer's bytes.
fn value(dtype: Dtype, bytes: &[u8]) -> f64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    let bits = u64::from_le_bytes(whole);
    // Exponent bits, mantissa bits, bias.
    let (exponents, mantissas, bias) = match dtype {
        Dtype::F64 => return f64::from_bits(bits),
        Dtype::F32 => (8, 23, 127),
        Dtype::Bf16 => (8, 7, 127),
        Dtype::F16 => (5, 10, 15),
        Dtype::F8E4m3 => (4, 3, 7),
        Dtype::F8E5m2 => (5, 2, 15),
        Dtype::F8E4m3Fnuz => (4, 3, 8),
        Dtype::F8E5m2Fnuz => (5, 2, 16),
        Dtype::F4 => (2, 1, 1),
        Dtype::F8E8m0 => return if bits == 255 { f64::NAN } else { (bits as f64 - 127.0).exp2() },
        other => panic!("{other:?}"),
    };
    let mantissa = bits & ((1 << mantissas) - 1);
    let exponent = bits >> mantissas & ((1 << exponents) - 1);
    let negative = bits >> (mantissas + exponents) & 1 == 1;
    let top = (1 << exponents) - 1;
    match dtype {
        Dtype::F8E4m3 if bits & 0x7f == 0x7f => return f64::NAN,
        Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz if bits == 0x80 => return f64::NAN,
        Dtype::F8E4m3 | Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz | Dtype::F4 => {}
        _ if exponent == top && mantissa > 0 => return f64::NAN,
        _ if exponent == top => return if negative { f64::NEG_INFINITY } else { f64::INFINITY },
        _ => {}
    }
    let fraction = mantissa as f64 / (1_u64 << mantissas) as f64;
    let magnitude = match exponent {
        0 => fraction * f64::from(1 - bias).exp2(),
        _ => (1.0 + fraction) * (exponent as f64 - f64::from(bias)).exp2(),
    };
    if negative { -magnitude } else { magnitude }
}

/// The bin of a magnitude: found by comparing with powers of two.
fn bin(magnitude: f64, lowest: i16) -> i16 {
    let mut exponent = 1023;
    while exponent > lowest && magnitude < f64::from(exponent).exp2() {
        exponent -= 1;
    }
    exponent
}

fn reference(values: &[f64], lowest: i16) -> Statistics {
    let mut sum = Statistics { elements: values.len() as u64, ..Statistics::default() };
    let mut bins = std::collections::BTreeMap::new();
    for &value in values {
        if value.is_nan() {
            sum.nan += 1;
        } else if value.is_infinite() {
            sum.infinite += 1;
        } else {
            let value = value + 0.0;
            let (low, high) = sum.range.unwrap_or((value, value));
            sum.range = Some((low.min(value), high.max(value)));
            sum.squares += value * value;
            if value == 0.0 {
                sum.zeros += 1;
            } else {
                *bins.entry(bin(value.abs(), lowest)).or_default() += 1;
            }
        }
    }
    sum.exponents = Exponents::from_bins(bins.into_iter().collect()).unwrap();
    sum
}

/// Numbers below the normal ones count in the bin under it.
fn lowest(dtype: Dtype) -> i16 {
    if dtype == Dtype::F64 { -1023 } else { -127 }
}

fn assert_near(case: &str, found: &Statistics, expected: &Statistics) {
    let near =
        (found.squares - expected.squares).abs() <= 1e-12 * expected.squares || found.squares == expected.squares;
    assert!(near, "{case}: squares {} for {}", found.squares, expected.squares);
    assert_eq!(&Statistics { squares: expected.squares, ..found.clone() }, expected, "{case}");
    assert!(found.is_consistent(), "{case}");
}

fn check(dtype: Dtype, bytes: &[u8]) {
    let width = dtype.width() as usize;
    let values: Vec<f64> = bytes.chunks(width).map(|element| value(dtype, element)).collect();
    assert_near(dtype.name(), &Statistics::of(dtype, bytes).unwrap(), &reference(&values, lowest(dtype)));
}

#[test]
fn every_pattern_of_sixteen_bits() {
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let patterns: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        check(dtype, &patterns);
        patterns.chunks(2).for_each(|pattern| check(dtype, pattern));
        // One of each exponent and sign among ordinary numbers, at every place of a row.
        for pattern in patterns.chunks(2).step_by(61) {
            for place in 0..9 {
                let mut bytes = patterns[0x3c00 * 2..0x3c20 * 2].to_vec();
                bytes[place * 2..place * 2 + 2].copy_from_slice(pattern);
                check(dtype, &bytes);
            }
        }
    }
}

#[test]
fn every_pattern_of_eight_bits() {
    use Dtype::{F8E4m3, F8E4m3Fnuz, F8E5m2, F8E5m2Fnuz, F8E8m0};
    for dtype in [F8E4m3, F8E5m2, F8E4m3Fnuz, F8E5m2Fnuz, F8E8m0] {
        let patterns: Vec<u8> = (0..=u8::MAX).collect();
        check(dtype, &patterns);
        patterns.chunks(1).for_each(|pattern| check(dtype, pattern));
    }
}

/// The figures of the formats' papers, so that the reference is held against something too.
#[test]
fn the_ends_of_narrow_floats() {
    for (dtype, largest, smallest) in [
        (Dtype::F8E4m3, 448.0, 1.0 / 512.0),
        (Dtype::F8E5m2, 57_344.0, 1.0 / 65_536.0),
        (Dtype::F8E4m3Fnuz, 240.0, 1.0 / 1024.0),
        (Dtype::F8E5m2Fnuz, 57_344.0, 1.0 / 131_072.0),
        (Dtype::F16, 65_504.0, 1.0 / 16_777_216.0),
    ] {
        let width = dtype.width() as usize;
        let patterns: Vec<u8> = (0..=u16::MAX).flat_map(|bits| bits.to_le_bytes()[..width].to_vec()).collect();
        let whole = Statistics::of(dtype, &patterns).unwrap();
        assert_eq!(whole.range, Some((-largest, largest)), "{dtype:?}");
        let positive = patterns.chunks(width).map(|it| Statistics::of(dtype, it).unwrap());
        let least = positive.filter_map(|it| it.range).map(|(low, _)| low).filter(|low| *low > 0.0);
        assert_eq!(least.fold(f64::INFINITY, f64::min), smallest, "{dtype:?}");
    }
}

#[test]
fn integers_and_small_codes() {
    let check = |dtype: Dtype, bytes: &[u8], values: &[f64]| {
        assert_near(dtype.name(), &Statistics::of(dtype, bytes).unwrap(), &reference(values, 0));
    };
    // Of 64 bits only what floats have exactly: the reference counts by the rounded value.
    let numbers = [0, 1, -1, 2, 7, 8, -9, 127, -128, 255, 32_767, -32_768, 1 << 31, i64::MAX - 1023, i64::MIN];
    let bytes = |width: usize| numbers.iter().flat_map(|it| it.to_le_bytes()[..width].to_vec()).collect::<Vec<u8>>();
    let values = |cut: fn(i64) -> f64| numbers.map(cut);
    check(Dtype::I64, &bytes(8), &values(|it| it as f64));
    check(Dtype::I32, &bytes(4), &values(|it| f64::from(it as i32)));
    check(Dtype::I16, &bytes(2), &values(|it| f64::from(it as i16)));
    check(Dtype::I8, &bytes(1), &values(|it| f64::from(it as i8)));
    let large = [0, 1, 255, 1 << 31, 1 << 63, (1 << 63) + (1 << 40), u64::MAX - 2047];
    let bytes_of = large.iter().flat_map(|it: &u64| it.to_le_bytes()).collect::<Vec<u8>>();
    check(Dtype::U64, &bytes_of, &large.map(|it| it as f64));
    check(Dtype::U32, &bytes(4), &values(|it| f64::from(it as u32)));
    check(Dtype::U16, &bytes(2), &values(|it| f64::from(it as u16)));
    check(Dtype::U8, &bytes(1), &values(|it| f64::from(it as u8)));
    check(Dtype::Bool, &[0, 1, 1, 0, 1], &[0.0, 1.0, 1.0, 0.0, 1.0]);
    check(Dtype::U4, &[0x0f, 0x70], &[15.0, 0.0, 0.0, 7.0]);
    check(Dtype::I4, &[0x0f, 0x78], &[-1.0, 0.0, -8.0, 7.0]);
    let floats = |code: u8| value(Dtype::F4, &[code]);
    assert_eq!([1, 2, 7, 15].map(floats), [0.5, 1.0, 6.0, -6.0]);
    let all: Vec<f64> = (0..=255_u8).flat_map(|byte| [floats(byte & 15), floats(byte >> 4)]).collect();
    assert_near("f4", &Statistics::of(Dtype::F4, &(0..=255).collect::<Vec<u8>>()).unwrap(), &reference(&all, -127));
}

#[test]
fn complex_numbers_count_by_their_parts() {
    let parts: Vec<u8> = [1.5_f32, -2.0, 0.0, 8.0].iter().flat_map(|it| it.to_le_bytes()).collect();
    assert_eq!(Statistics::of(Dtype::Complex64, &parts), Statistics::of(Dtype::F32, &parts));
    assert_eq!(Statistics::of(Dtype::Complex64, &parts[..4]), None, "half a number");
    assert_eq!(Statistics::of(Dtype::Complex128, &parts), Statistics::of(Dtype::F64, &parts));
    assert_eq!(Statistics::of(Dtype::Complex32, &parts), Statistics::of(Dtype::F16, &parts));
}

#[test]
fn kinds_without_statistics() {
    for dtype in [ggml(12).unwrap(), Dtype::Width(4), Dtype::Unknown, Dtype::F6E2m3, Dtype::F6E3m2] {
        assert_eq!(Statistics::of(dtype, &vec![0; dtype.width() as usize * 4]), None, "{dtype:?}");
        assert_eq!(Statistics::of_zeros(dtype, 0), None, "{dtype:?}");
    }
    assert_eq!(Statistics::of(Dtype::F32, &[0; 7]), None, "not whole elements");
    assert_eq!(Statistics::of(Dtype::F32, &[]), Some(Statistics::default()));
}

#[test]
fn a_hole_is_so_many_zeros() {
    for dtype in [Dtype::F32, Dtype::F64, Dtype::I8, Dtype::F4, Dtype::F8E8m0, Dtype::Complex128, Dtype::F8E4m3Fnuz] {
        for elements in [0, 1, 3000] {
            let bytes = vec![0; dtype.width() as usize * elements];
            let zeros = Statistics::of_zeros(dtype, bytes.len() as u64);
            assert_eq!(zeros, Statistics::of(dtype, &bytes), "{dtype:?} {elements}");
        }
    }
    assert_eq!(Statistics::of_zeros(Dtype::F32, 6), None);
}

/// Histograms by hand: share of elements times binades.
#[test]
fn distances() {
    let bins = |bins: &[(i16, u64)]| Exponents::from_bins(bins.to_vec()).unwrap();
    for (left, right, distance) in [
        (bins(&[(0, 5)]), bins(&[(0, 70)]), Some(0.0)),
        (bins(&[(0, 5)]), bins(&[(3, 1)]), Some(3.0)),
        (bins(&[(-10, 3), (0, 1)]), bins(&[(-10, 4)]), Some(2.5)),
        (bins(&[(0, 1), (4, 1)]), bins(&[(1, 1), (3, 1)]), Some(1.0)),
        (bins(&[(0, 1), (1, 1)]), bins(&[(1, 1), (2, 1)]), Some(1.0)),
        (bins(&[]), bins(&[(1, 1)]), None),
        (bins(&[]), bins(&[]), None),
    ] {
        assert_eq!(left.distance(&right), distance, "{left:?} {right:?}");
        assert_eq!(right.distance(&left), distance, "{right:?} {left:?}");
    }
    assert_eq!(Exponents::from_bins(vec![(1, 1), (1, 1)]), None);
    assert_eq!(Exponents::from_bins(vec![(1, 0)]), None);
}

/// Bits of floats, many of them ordinary, some at the ends.
fn bits(exponents: u32, mantissas: u32) -> impl Strategy<Value = u64> {
    let top = (1_u64 << exponents) - 1;
    let exponent = prop_oneof![20 => top / 2 - 8..top / 2 + 3, 1 => Just(0), 1 => Just(top), 1 => 0..=top];
    let mantissa = prop_oneof![8 => any::<u64>(), 1 => Just(0)];
    (any::<bool>(), exponent, mantissa).prop_map(move |(negative, exponent, mantissa)| {
        u64::from(negative) << (exponents + mantissas) | exponent << mantissas | mantissa & ((1 << mantissas) - 1)
    })
}

/// Long enough for several blocks; special numbers are only in some.
fn floats(width: usize, bits: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<u8>> {
    (vec(bits, 0..40), 0..5000_usize, 0..5000_usize).prop_map(move |(drawn, before, behind)| {
        let plain = if width == 8 { 0x3f80_1234_5678_9abc_u64 } else { 0x3c12_3456 };
        let run = |length| std::iter::repeat_n(plain, length);
        run(before).chain(drawn).chain(run(behind)).flat_map(|bits| bits.to_le_bytes()[..width].to_vec()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_fp32(bytes in floats(4, bits(8, 23))) {
        check(Dtype::F32, &bytes);
    }

    #[test]
    fn any_fp64(bytes in floats(8, bits(11, 52))) {
        check(Dtype::F64, &bytes);
    }

    #[test]
    fn stretches_merge_to_the_whole(
        bytes in floats(4, bits(8, 23)),
        cuts in vec(any::<proptest::sample::Index>(), 0..6),
        dtype in proptest::sample::select(vec![Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::I32, Dtype::F8E5m2]),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() / 4 + 1) * 4).collect();
        cuts.sort_unstable();
        cuts.push(bytes.len());
        let (mut merged, mut start) = (Statistics::default(), 0);
        for cut in cuts {
            merged.merge(&Statistics::of(dtype, &bytes[start..cut]).unwrap());
            start = cut;
        }
        assert_near(dtype.name(), &merged, &Statistics::of(dtype, &bytes).unwrap());
    }
}
