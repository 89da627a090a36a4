//! Differences to a base and casts of one: round trips in every shape, what is chosen, golden and hostile bodies.

use super::super::buckets::{Partition, keys_of};
use super::super::difference::{DifferenceEncoder, Operation, Shape};
use super::super::scales::ByScale;
use super::*;

/// A body with exactly that shape, whatever the samples would have said.
fn difference_body(plain: &[u8], base: &[u8], (width, head): (u8, u8), shape: &Shape) -> Vec<u8> {
    let (head, plain_len) = (head.min(plain.len() as u8), plain.len() as u32);
    let header = BodyHeader { codec: id::PLANES_DIFFERENCE, width, head, plain_len, base: Some(BASE_ID) };
    let (numbers, _) = shape.covered(&header, base.len());
    // A row is no longer than all elements.
    let shape = &Shape { by: shape.by.filter(|by| shape.buckets > 1 && by.row as usize <= numbers.len()), ..*shape };
    let mut body = Vec::new();
    header.write(&mut body);
    let (mut compressor, mut alone) = (frames::Compressor::new(), planes::PlaneEncoder::default());
    let mut encoder = DifferenceEncoder::default();
    encoder.encode(&mut compressor, &mut alone, Effort::Balanced, &header, shape, (plain, base), &mut body);
    body
}

fn decode(body: &[u8], base: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut out = Vec::new();
    Decoder::new().decode(body, Some(base), &mut out).map(|()| out)
}

fn shape() -> impl Strategy<Value = Shape> {
    let operation = prop::sample::select(vec![Operation::Float, Operation::Integer]);
    let place = prop_oneof![Just(0i32), -9..9i32, -20_000..20_000i32, Just(i32::MIN), Just(i32::MAX)];
    let by = prop::option::of((1u32..400, 1..=8u8).prop_map(|(row, shift)| ByScale { row, shift }));
    (operation, 1..=32u8, 0..8u8, place, by).prop_map(|(operation, buckets, shift, place, by)| Shape {
        operation,
        buckets,
        shift,
        place,
        cast: None,
        by,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Any bytes against any base, in any shape.
    #[test]
    fn differences_of_any_shape_come_back(
        plain in plain_bytes(),
        base in plain_bytes(),
        (width, head) in prop::sample::select(vec![1u8, 2, 4, 8]).prop_flat_map(|width| (Just(width), 0..width)),
        shape in shape(),
    ) {
        let body = difference_body(&plain, &base, (width, head), &shape);
        prop_assert!(decode(&body, &base).unwrap() == plain);
        for cast in Cast::ALL {
            let (mut whole, mut given) = (base.clone(), Vec::new());
            whole.truncate(whole.len() / 4 * 4);
            prop_assert!(cast.apply(&whole, &mut given));
            let body = difference_body(&plain, &given, (width, head), &Shape { cast: Some(cast), ..shape });
            prop_assert!(decode(&body, &whole).unwrap() == plain);
            prop_assert!(decode(&body, &[&whole[..], &[0]].concat()).is_err());
        }
        // Any other base gives an error or as many bytes.
        for base in [&base[..base.len() / 2], &plain] {
            prop_assert!(decode(&body, base).is_err_and(|_| true) || decode(&body, base).unwrap().len() == plain.len());
        }
    }

    /// What the encoder chooses comes back, hint right, wrong or missing.
    #[test]
    fn steps_of_training_come_back(
        old in plain_bytes(),
        seed: u64,
        cut in 0usize..200,
        kind in 0usize..7,
        (width, head) in (0u8..10, 0u8..10),
        effort in effort(),
    ) {
        let plain = stepped(&old[cut.min(old.len())..], seed, 0.01);
        let hint = Hint { width, head, kind: KINDS[kind], row: (seed % 2 == 0).then_some(64) };
        for hint in [None, Some(&hint)] {
            let mut body = Vec::new();
            Encoder::new(effort).encode(&plain, hint, Some((&BASE_ID, &old)), &mut body);
            prop_assert!(body.len() <= plain.len() + 8);
            prop_assert!(decode(&body, &old).unwrap() == plain);
        }
    }

    #[test]
    fn hostile_differences_do_no_harm(
        old in plain_bytes(),
        shape in shape(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let plain = stepped(&old, 1, 0.01);
        let mut body = difference_body(&plain, &old, (4, 0), &shape);
        for (place, value) in changes {
            let place = if value % 3 == 0 { place.index(body.len().min(56)) } else { place.index(body.len()) };
            body[place] = value;
        }
        body.truncate(cut.index(body.len() * 4) + 1);
        if let Ok(out) = decode(&body, &old) {
            prop_assert_eq!(out.len(), BodyHeader::parse(&body).unwrap().0.plain_len as usize);
        }
    }
}

const KINDS: [NumberKind; 7] = [
    NumberKind::Integer,
    NumberKind::F8E4m3,
    NumberKind::F8E5m2,
    NumberKind::F16,
    NumberKind::Bf16,
    NumberKind::F32,
    NumberKind::F64,
];

fn as_bf16(fp32: &[u8]) -> Vec<u8> {
    let mut cast = Vec::new();
    assert!(Cast::Bf16.apply(fp32, &mut cast));
    cast
}

/// Each kind of step gets its codec and form, and the share of the plain bytes that the form is for.
#[test]
fn steps_of_training_are_stored_as_differences() {
    let old = fp32(1, 200_000);
    let new = stepped(&old, 2, 0.01);
    let (old_bf16, new_bf16) = (as_bf16(&old), as_bf16(&new));
    let shifted = [&noise(3, 1234)[..], &old[..]].concat();
    let doubles = fp64(5, 60_000);
    let moved: Vec<u8> =
        doubles.as_chunks().0.iter().flat_map(|&x| (f64::from_le_bytes(x) * 1.000_001).to_le_bytes()).collect();
    let bytes: Vec<u8> = noise(6, 200_000);
    let bumped: Vec<u8> = bytes.iter().zip(noise(7, 200_000)).map(|(byte, step)| byte.wrapping_add(step % 3)).collect();
    let bf16_hint = Hint { width: 2, head: 0, kind: NumberKind::Bf16, row: None };
    let int8 = Hint { width: 1, head: 0, kind: NumberKind::Integer, row: None };
    for (what, plain, hint, base, codec, buckets, share) in [
        ("FP32", &new[..], None, &old[..], id::PLANES_DIFFERENCE, 16, 0.66),
        ("FP32 from the second byte", &new[1..], None, &old[1..], id::PLANES_DIFFERENCE, 16, 0.66),
        ("FP32 from the third byte", &new[2..], None, &old[2..], id::PLANES_DIFFERENCE, 16, 0.66),
        ("FP32 from the exponent on", &new[3..], None, &old[3..], id::PLANES_DIFFERENCE, 16, 0.66),
        ("BF16", &new_bf16, None, &old_bf16, id::PLANES_DIFFERENCE, 16, 0.32),
        ("BF16 whose base is the older FP32", &new_bf16, Some(&bf16_hint), &old, id::PLANES_DIFFERENCE, 16, 0.32),
        ("FP64", &moved, None, &doubles, id::PLANES_DIFFERENCE, 1, 0.65),
        ("FP32 further on in the base", &new, None, &shifted, id::PLANES_DIFFERENCE, 16, 0.66),
        ("FP32 of which the base has a part", &new, None, &old[200_000..], id::PLANES_DIFFERENCE, 16, 0.75),
        ("INT8", &bumped, Some(&int8), &bytes, id::PLANES_DIFFERENCE, 1, 0.25),
        ("FP32 of another tensor", &new, None, &fp32(9, 200_000), id::PLANES, 0, 0.86),
        ("a cast", &old_bf16, None, &old, id::DERIVED, 0, 0.001),
    ] {
        let mut body = Vec::new();
        Encoder::new(Effort::Balanced).encode(plain, hint, Some((&BASE_ID, base)), &mut body);
        assert_eq!(body[0], codec, "{what}");
        assert!(decode(&body, base).unwrap() == plain, "{what}");
        assert!((body.len() as f64) < share * plain.len() as f64, "{what}: {} of {}", body.len(), plain.len());
        assert!(codec != id::PLANES_DIFFERENCE || body[41] == buckets, "{what}: {} buckets", body[41]);
    }
}

/// The check is given the partition that the encoder made; one of another shape or length does no harm.
#[test]
fn a_known_partition_is_used_only_where_it_fits() {
    let old = bf16(1, 20_000);
    let new = stepped(&old, 2, 0.01);
    let elements = old.as_chunks().0;
    let shape = Shape { operation: Operation::Float, buckets: 16, shift: 8, place: 0, cast: None, by: None };
    let body = difference_body(&new, &old, (2, 0), &shape);
    for (count, shift, buckets, what) in [
        (20_000, 8, 16, "the right one"),
        (20_000, 8, 5, "of fewer buckets"),
        (20_000, 7, 16, "of another key"),
        (19_000, 8, 16, "of a part of the base"),
    ] {
        let known = Partition::new(count, shift, buckets, keys_of::<u16, 2>(&elements[..count], shift));
        let mut out = Vec::new();
        Decoder::new().decode_knowing(&body, Some(&old), Some(&known), &mut out).unwrap();
        assert!(out == new, "{what}");
    }
}

/// What was found out while a chunk was encoded is used for its estimate, and for no other's.
#[test]
fn an_estimate_after_encoding_is_that_of_a_new_encoder() {
    let hint = Hint { width: 2, head: 0, kind: NumberKind::Bf16, row: None };
    let old = bf16(1, 20_000);
    let (recent, other) = (stepped(&old, 2, 0.01), noise(3, 40_000));
    let mut encoder = Encoder::new(Effort::Balanced);
    for (plain, base) in [(stepped(&recent, 4, 0.01), Some((&BASE_ID, &old[..]))), (other, None)] {
        encoder.encode(&plain, Some(&hint), base, &mut Vec::new());
        let estimate = encoder.estimate(&plain, Some(&hint), &recent);
        assert!(estimate.is_some());
        assert_eq!(estimate, Encoder::new(Effort::Balanced).estimate(&plain, Some(&hint), &recent));
    }
}

#[test]
fn efforts_choose_their_forms() {
    let old = fp32(1, 200_000);
    let new = stepped(&old, 2, 0.01);
    let lengths = [(Effort::Fast, 1), (Effort::Balanced, 16), (Effort::Dense, 16)].map(|(effort, buckets)| {
        let body = encode(effort, &new, Some(&old));
        assert_eq!((body[0], body[41]), (id::PLANES_DIFFERENCE, buckets), "{effort:?}");
        body.len()
    });
    assert!(lengths[1] * 100 < lengths[0] * 97, "{lengths:?}");
}

/// Where only few elements changed, a map tells which: far less than the bit an element that a Huffman code takes.
#[test]
fn sparse_changes_cost_less_than_a_bit_an_element() {
    let old = bf16(1, 100_000);
    let mut new = old.clone();
    for at in 0..3_000 {
        let place = (at * 7_919 % 100_000) * 2;
        new[place] = new[place].wrapping_add(1);
    }
    let body = encode(Effort::Balanced, &new, Some(&old));
    assert_eq!(body[0], id::PLANES_DIFFERENCE);
    // 3 % of the elements: 0.19 bits each, and the size of the step.
    assert!(body.len() < 100_000 / 8 * 40 / 100, "{}", body.len());
    assert!(decode(&body, &old).unwrap() == new);
}

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// Bodies of known content, byte by byte as docs/format.md §6.2.1 and §6.2.2 say.
#[test]
fn golden_bodies_with_bases_decode() {
    let id = "b5 ".repeat(32);
    for (what, body, base, plain) in [
        (
            // 3f80 + 1, bf80 (one step further from zero, so -1), 3f80 and 4000: distances 2, 1, 0, 0.
            "fast, one byte of head and tail",
            format!(
                "04 02 01 00 0a 00 00 00 {id} 00 01 00 00 00 00 00 00 01 04 00 00 00 02 01 00 00 00 01 00 00 00 00 aa bb"
            ),
            "aa 80 3f 7f bf 80 3f 00 40 cc",
            "aa 81 3f 80 bf 80 3f 00 40 bb",
        ),
        (
            // Keys 7f, 80, 7f, 7f by shift 8: first the elements behind 7f (distances 2, 4, 6), then that behind 80 (8).
            "two buckets",
            format!(
                "04 02 00 00 08 00 00 00 {id} 00 02 08 00 00 00 00 00 01 03 00 00 00 02 04 06 01 01 00 00 00 08 00 01 00 00 00 00 00 01 00 00 00 00"
            ),
            "80 3f 00 40 80 3f 80 3f",
            "81 3f 04 40 82 3f 83 3f",
        ),
        (
            // The base begins two bytes earlier and has one element too few: the last stands alone (3f80 rotated: 00, 7f).
            "another place, and more than the base",
            format!(
                "04 02 00 00 04 00 00 00 {id} 01 01 00 00 02 00 00 00 00 01 00 00 00 01 00 01 00 00 00 00 00 01 00 00 00 00 00 01 00 00 00 7f"
            ),
            "99 99 05 00",
            "04 00 80 3f",
        ),
        (
            // The base's 3f80_8001 is 3f81 as BF16: a distance of 1.
            "against the base's cast",
            format!("04 02 00 00 02 00 00 00 {id} 00 01 00 01 00 00 00 00 00 01 00 00 00 02 00 01 00 00 00 00"),
            "01 80 80 3f",
            "82 3f",
        ),
        ("derived", format!("06 00 00 00 04 00 00 00 {id} 00"), "00 80 80 3f 01 00 80 ff", "80 3f c0 7f"),
        (
            "derived, NaN with its sign",
            format!("06 00 00 00 04 00 00 00 {id} 01"),
            "00 80 81 3f 01 00 80 ff",
            "82 3f c0 ff",
        ),
    ] {
        assert_eq!(decode(&hex(&body), &hex(base)).unwrap(), hex(plain), "{what}");
    }
}

#[test]
fn wrong_bodies_with_bases_are_refused_in_words() {
    let body = |codec: u8, shape: [u8; 2], length: u32, rest: &[u8]| {
        [&[codec, shape[0], shape[1], 0], &length.to_le_bytes()[..], &[0xb5; 32], rest].concat()
    };
    let difference = |head: [u8; 4], rest: &[u8]| body(4, [2, 0], 4, &[&head[..], &[0; 4], rest].concat());
    let planes = [0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    assert_eq!(decode(&difference([0, 1, 0, 0], &planes), &[1, 2, 3, 4]).unwrap(), [1, 2, 3, 4]);
    for (wrong, why) in [
        (body(4, [2, 0], 4, &[0; 7]), "inside the difference's shape"),
        (body(4, [3, 0], 4, &[0; 20]), "do not fit codec"),
        (difference([4, 1, 0, 0], &planes), "operation"),
        (difference([2, 1, 0, 0], &planes), "buckets or shift"),
        (difference([2, 2, 0, 0], &planes), "shift or row of scales"),
        (difference([2, 2, 0, 0], &[1, 0, 0, 0]), "inside the shape of scales"),
        (difference([2, 2, 0, 0], &[1, 0, 0, 0, 3, 0, 0, 0]), "longer than all"),
        (difference([0, 0, 0, 0], &planes), "buckets or shift"),
        (difference([0, 33, 0, 0], &planes), "buckets or shift"),
        (difference([0, 1, 16, 0], &planes), "buckets or shift"),
        (difference([0, 1, 0, 3], &planes), "cast of the base"),
        (difference([0, 1, 0, 0], &planes[..6]), "plane's header"),
        (difference([0, 1, 0, 0], &[&planes[..], &[9]].concat()), "around the elements"),
        (difference([0, 1, 0, 0], &[1, 1, 0, 0, 0, 0]), "kind or length"),
        (body(6, [0, 0], 2, &[]), "function is not one byte"),
        (body(6, [0, 0], 2, &[0, 0]), "function is not one byte"),
        (body(6, [0, 0], 2, &[2]), "function that is unknown"),
        (body(6, [0, 0], 4, &[0]), "another length"),
        (body(6, [2, 0], 2, &[0]), "do not fit codec"),
    ] {
        let damage = decode(&wrong, &[1, 2, 3, 4]).unwrap_err();
        assert!(damage.to_string().contains(why), "{why:?} expected, got {damage}");
    }
}
