//! Planes by scale, alone and of differences: round trips in every shape, what is chosen, golden and hostile bodies.

use super::super::scaled::{ScaledEncoder, Shape};
use super::super::scales::ByScale;
use super::*;

const ROW: usize = 384;

/// A body with exactly that shape, whatever the samples would have said.
fn body_of(plain: &[u8], (width, head): (u8, u8), shape: &Shape, exponent: u8) -> Vec<u8> {
    let (head, plain_len) = (head.min(plain.len() as u8), plain.len() as u32);
    let header = BodyHeader { codec: id::PLANES_SCALED, width, head, plain_len, base: None };
    let mut body = Vec::new();
    header.write(&mut body);
    let frames = (&mut frames::Compressor::new(), Effort::Balanced);
    ScaledEncoder::default().encode(frames, &header, (shape, exponent), plain, &mut body);
    body
}

fn decode(body: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut out = Vec::new();
    Decoder::new().decode(body, None, &mut out).map(|()| out)
}

fn shape() -> impl Strategy<Value = Shape> {
    (2..=32u8, 1..=8u8, 1..500u32).prop_map(|(buckets, shift, row)| Shape { buckets, by: ByScale { row, shift } })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes in rows of any length.
    #[test]
    fn planes_by_scale_of_any_shape_come_back(
        plain in plain_bytes(),
        (width, head) in prop::sample::select(vec![1u8, 2, 4, 8]).prop_flat_map(|width| (Just(width), 0..width)),
        exponent in 0..8u8,
        shape in shape(),
    ) {
        let count = plain.len().saturating_sub(usize::from(head)) / usize::from(width);
        prop_assume!(count > 0);
        let by = ByScale { row: shape.by.row.min(count as u32), ..shape.by };
        let body = body_of(&plain, (width, head), &Shape { by, ..shape }, exponent + 8 * width - 8);
        prop_assert!(decode(&body).unwrap() == plain);
    }

    #[test]
    fn hostile_scales_do_no_harm(
        seed: u64,
        shape in shape(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let plain = fp32(seed, 3000);
        let mut body = body_of(&plain, (4, 0), &shape, 24);
        for (place, value) in changes {
            let place = if value % 3 == 0 { place.index(body.len().min(40)) } else { place.index(body.len()) };
            body[place] = value;
        }
        body.truncate(cut.index(body.len() * 4) + 1);
        if let Ok(out) = decode(&body) {
            prop_assert_eq!(out.len(), BodyHeader::parse(&body).unwrap().0.plain_len as usize);
        }
    }
}

/// FP32 numbers in rows of [`ROW`], whose size is `spread` octaves wide over the rows, and as many over the columns; one row
/// and one column are zeros.
fn matrix(seed: u64, rows: usize, spread: f64) -> Vec<f32> {
    let size = |number: usize, of: usize| ((number * 7919 % of) as f64 / of as f64 * spread).exp2();
    let numbers = normals(seed, rows * ROW, 1e-4).into_iter().enumerate();
    let number = |(at, number): (usize, f64)| match (at / ROW, at % ROW) {
        (3, _) | (_, 5) => 0.0,
        (row, column) => (number * size(row, rows) * size(column, ROW)) as f32,
    };
    numbers.map(number).collect()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn encoded(effort: Effort, plain: &[u8], row: Option<u32>, base: Option<&[u8]>) -> Vec<u8> {
    let hint = Hint { width: 4, head: 0, kind: NumberKind::F32, row };
    let mut body = Vec::new();
    Encoder::new(effort).encode(plain, Some(&hint), base.map(|base| (&BASE_ID, base)), &mut body);
    let mut out = Vec::new();
    Decoder::new().decode(&body, base, &mut out).unwrap();
    assert!(out == plain);
    body
}

#[test]
fn a_matrix_is_sorted_by_scale_where_that_saves() {
    let row = Some(ROW as u32);
    for (spread, effort, row, codec) in [
        (8.0, Effort::Dense, row, id::PLANES_SCALED),
        (8.0, Effort::Balanced, row, id::PLANES),
        (8.0, Effort::Fast, row, id::PLANES),
        (8.0, Effort::Dense, None, id::PLANES),
        (8.0, Effort::Dense, Some(7), id::PLANES),
        (0.0, Effort::Dense, row, id::PLANES),
    ] {
        let plain = bytes(&matrix(1, 600, spread));
        let body = encoded(effort, &plain, row, None);
        assert_eq!(body[0], codec, "{spread} octaves, {effort:?}, rows of {row:?}");
        let plainly = encoded(effort, &plain, None, None);
        let share = if codec == id::PLANES_SCALED { 95 } else { 100 };
        assert!(body.len() * 100 <= plainly.len() * share, "{} against {}", body.len(), plainly.len());
    }
}

#[test]
fn differences_are_sorted_by_scale_where_that_saves() {
    let row = Some(ROW as u32);
    let old = matrix(1, 600, 0.0);
    for (spread, effort, is_by_scale) in [
        (6.0, Effort::Dense, true),
        (6.0, Effort::Balanced, false),
        (6.0, Effort::Fast, false),
        (0.0, Effort::Dense, false),
    ] {
        let steps = matrix(2, 600, spread);
        let new: Vec<f32> = old.iter().zip(steps).map(|(old, step)| old + step * 1e-4).collect();
        let (old, new) = (bytes(&old), bytes(&new));
        let body = encoded(effort, &new, row, Some(&old));
        assert_eq!(
            (body[0], body[40]),
            (id::PLANES_DIFFERENCE, if is_by_scale { 2 } else { 0 }),
            "{spread}, {effort:?}"
        );
        let plainly = encoded(effort, &new, None, Some(&old));
        let share = if is_by_scale { 97 } else { 100 };
        assert!(body.len() * 100 <= plainly.len() * share, "{} against {}", body.len(), plainly.len());
    }
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Bodies of known content, byte by byte as docs/format.md §6.2.3 says.
#[test]
fn golden_bodies_by_scale_decode() {
    // Elements 8000 0001 7fff 0000 in rows of two; scales 1 and 3, 1 and none: keys 1 0 2 0.
    let scales = "01 00 00 00 02 00 00 00  01 02 00 00 00 01 03  01 02 00 00 00 01 00";
    let pieces = "01 02 00 00 00 02 00  01 02 00 00 00 01 fe  00 01 00 00 00 00  01 02 00 00 00 00 ff";
    let body = hex(&format!("07 02 01 00 0a 00 00 00  02 {scales} {pieces} aa bb"));
    assert_eq!(decode(&body).unwrap(), hex("aa 00 80 01 00 ff 7f 00 00 bb"));
    // Distances 2 4 6 8 to elements with exponents 0 1 1 0 (shift 8): with scales 9 and 1, 4 and 4, and t = 1 the keys are 6, 4, 0, 2.
    let id = "b5 ".repeat(32);
    let scales = "01 00 00 00 02 00 00 00  01 02 00 00 00 09 01  01 02 00 00 00 04 04";
    let pieces = "00 01 00 00 00 06  00 01 00 00 00 08  00 01 00 00 00 04  00 01 00 00 00 02  ";
    let zeros = "00 01 00 00 00 00 ".repeat(4);
    let body = hex(&format!("04 02 00 00 08 00 00 00 {id} 03 04 08 00 00 00 00 00 {scales} {pieces} {zeros}"));
    let base = hex("00 00 80 00 80 00 00 00");
    let mut out = Vec::new();
    Decoder::new().decode(&body, Some(&base), &mut out).unwrap();
    assert_eq!(out, hex("01 00 82 00 83 00 04 00"));
}

#[test]
fn scales_that_do_not_fit_are_refused() {
    let shape = Shape { buckets: 4, by: ByScale { row: 10, shift: 1 } };
    let body = body_of(&fp32(1, 100), (4, 0), &shape, 24);
    assert!(decode(&body).is_ok());
    // Behind the header of 8: buckets, shift, zeros, row.
    for (place, value, why) in [
        (8, 1, "buckets"),
        (8, 33, "buckets"),
        (9, 0, "shift or row"),
        (9, 9, "shift or row"),
        (10, 1, "shift or row"),
        (13, 0, "shift or row"),
        (13, 101, "longer than all"),
        (16, 1, "longer than all"),
    ] {
        let mut body = body.clone();
        body[place] = value;
        let error = decode(&body).unwrap_err();
        assert!(error.why.contains(why), "{place} {value}: {}", error.why);
    }
    for length in [8, 12, 16, 20, body.len() - 1] {
        assert!(decode(&body[..length]).is_err(), "{length}");
    }
}
