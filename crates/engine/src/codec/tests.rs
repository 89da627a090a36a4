//! Round trips over kinds of data, hostile bodies, and a second zstd decoder.

mod against_bases;
mod scaled;

use std::io::Read;

use proptest::prelude::*;

use super::*;
use crate::units::{KIB, MIB};

const BASE_ID: ChunkId = ChunkId([0xb5; 32]);

/// Incompressible bytes from a seed: BLAKE3's extended output.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Standard normal numbers (Box and Muller), scaled.
fn normals(seed: u64, count: usize, scale: f64) -> Vec<f64> {
    let uniform: Vec<f64> = noise(seed, count * 8)
        .as_chunks()
        .0
        .iter()
        .map(|&bytes| (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64)
        .collect();
    (0..count)
        .map(|at| {
            let (u, v) = (uniform[at].max(1e-300), uniform[(at + 1) % count]);
            scale * (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        })
        .collect()
}

/// Lines as a log or a data set has them.
fn json_lines(seed: u64, length: usize) -> Vec<u8> {
    let mut lines = Vec::with_capacity(length + 200);
    let mut number = seed;
    while lines.len() < length {
        number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let kind = ["click", "view", "purchase", "error", "login"][(number >> 33) as usize % 5];
        let line = format!(
            "{{\"id\":{},\"kind\":\"{kind}\",\"user\":\"u{:05}\",\"score\":{:.4},\"text\":\"the {kind} of {}\"}}\n",
            lines.len(),
            number >> 40 & 0xffff,
            (number >> 20 & 0xffff) as f64 / 65536.0,
            number >> 50 & 0x3ff,
        );
        lines.extend_from_slice(line.as_bytes());
    }
    lines.truncate(length);
    lines
}

fn bf16(seed: u64, count: usize) -> Vec<u8> {
    normals(seed, count, 0.02)
        .iter()
        .flat_map(|&x| ((x as f32).to_bits() as u64 >> 16).to_le_bytes()[..2].to_vec())
        .collect()
}

fn fp32(seed: u64, count: usize) -> Vec<u8> {
    normals(seed, count, 0.02).iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
}

fn fp64(seed: u64, count: usize) -> Vec<u8> {
    normals(seed, count, 0.02).iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn encode(effort: Effort, plain: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![1, 2, 3];
    Encoder::new(effort).encode(plain, None, base.map(|base| (&BASE_ID, base)), &mut body);
    body
}

/// Encodes, checks what must hold for every body, decodes, compares.
fn check(effort: Effort, plain: &[u8], base: Option<&[u8]>) -> (BodyHeader, usize) {
    let body = encode(effort, plain, base);
    let (header, start) = BodyHeader::parse(&body).unwrap();
    assert_eq!(header.plain_len as usize, plain.len());
    assert_eq!(header.base, has_base(header.codec).then_some(BASE_ID));
    assert!(body.len() <= plain.len() + 8, "{} bytes became {}", plain.len(), body.len());
    let mut out = noise(9, 100);
    Decoder::new().decode(&body, base, &mut out).unwrap();
    assert!(out == plain, "codec {} did not give the same bytes back", header.codec);
    (header, body.len() - start)
}

#[test]
fn kinds_of_data_get_their_codecs() {
    let text = json_lines(1, 300 * KIB);
    let from_exponent = fp32(2, 60_000).split_off(3);
    let words: Vec<u8> = (0..50_000u32).flat_map(|n| (n.wrapping_mul(0x9e37_79b9) >> 12).to_le_bytes()).collect();
    for (what, plain, codec, shape, share) in [
        ("nothing", vec![], id::RAW, (0, 0), 1.0),
        ("one byte", vec![5], id::CONSTANT, (0, 0), 1.0),
        ("zeros", vec![0; MIB], id::CONSTANT, (0, 0), 0.001),
        ("noise", noise(3, 300 * KIB), id::RAW, (0, 0), 1.0),
        ("text", text, id::ZSTD, (0, 0), 0.3),
        ("BF16", bf16(4, 150_000), id::PLANES, (2, 0), 0.68),
        ("FP32", fp32(5, 80_000), id::PLANES, (4, 0), 0.86),
        ("FP32 from an exponent on", from_exponent, id::PLANES, (4, 1), 0.86),
        ("FP64", fp64(6, 80_000), id::PLANES, (8, 0), 0.95),
        ("32-bit words under 2^20", words, id::PLANES, (4, 0), 0.65),
    ] {
        let (header, length) = check(Effort::Balanced, &plain, None);
        assert_eq!((header.codec, (header.width, header.head)), (codec, shape), "{what}");
        assert!(length as f64 <= share * plain.len().max(1) as f64, "{what}: {length} of {}", plain.len());
    }
}

#[test]
fn eight_bit_floats_are_no_larger_than_zstd_makes_them() {
    // Sign, exponent and the mantissa's first two bits, with the bias of a wider type: the same statistics.
    let e5m2 = |x: &f64| (x.to_bits() >> 56) as u8 & 0x80 | (x.to_bits() >> 50) as u8 & 0x7f;
    let plain: Vec<u8> = normals(3, 256 * KIB, 0.02).iter().map(e5m2).collect();
    let hint = Hint { width: 1, head: 0, kind: NumberKind::F8E5m2, row: None };
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(plain.len()));
    zstd_safe::compress(&mut frame, &plain, 3).unwrap();
    let mut body = Vec::new();
    Encoder::new(Effort::Balanced).encode(&plain, Some(&hint), None, &mut body);
    assert!(body[0] == id::PLANES && body.len() < frame.len() + 64, "{}, by zstd {}", body.len(), frame.len());
    // Stretches that come again are found all the same.
    let again = plain[..4 * KIB].repeat(64);
    Encoder::new(Effort::Balanced).encode(&again, Some(&hint), None, &mut body);
    assert!(body.len() < 8 * KIB && body[0] == id::ZSTD, "{} in codec {}", body.len(), body[0]);
}

/// Blocks of 32 eight-bit weights behind their scale: nothing repeats but by chance. Where something does, it is still found.
#[test]
fn nothing_is_searched_in_eight_bit_weights_and_what_repeats_is_found() {
    let weights = normals(4, 256 * KIB, 32.0);
    let mut plain = Vec::new();
    for block in weights.chunks(32) {
        plain.extend([0x12, block[0].abs() as u8]);
        plain.extend(block.iter().map(|&weight| weight as i8 as u8));
    }
    let [body, searched] = [Effort::Balanced, Effort::Dense].map(|effort| check(effort, &plain, None));
    assert_eq!((body.0.codec, searched.0.codec), (id::ZSTD, id::ZSTD));
    assert!(body.1 <= searched.1 + searched.1 / 200, "{}, with a search {}", body.1, searched.1);

    let repeated: Vec<u8> = plain.chunks(4 * KIB).flat_map(|piece| piece.repeat(2)).collect();
    let (header, length) = check(Effort::Balanced, &repeated, None);
    assert!(header.codec == id::ZSTD && length < 6 * body.1 / 5, "{length}, once {}", body.1);
}

#[test]
fn bf16_is_found_at_either_phase() {
    let numbers = bf16(7, 100_000);
    for skip in 0..2 {
        let (header, length) = check(Effort::Balanced, &numbers[skip..], None);
        assert_eq!((header.codec, header.width, header.head), (id::PLANES, 2, skip as u8));
        assert!(length * 100 < numbers.len() * 69, "{length}");
    }
}

#[test]
fn an_edited_chunk_costs_little_against_its_base() {
    let base = json_lines(8, MIB);
    let mut plain = base.clone();
    plain.splice(400_000..400_010, *b"an edit that changes the length");
    let (header, length) = check(Effort::Balanced, &plain, Some(&base));
    assert_eq!(header.codec, id::ZSTD_PREFIX);
    assert!(length < 300, "{length}");
}

#[test]
fn a_strange_base_is_not_used() {
    let plain = json_lines(9, 100 * KIB);
    for base in [noise(1, 100 * KIB), Vec::new(), vec![0; 5]] {
        assert_eq!(check(Effort::Balanced, &plain, Some(&base)).0.codec, id::ZSTD);
    }
    // Too small for the base's id to pay.
    assert!(!has_base(check(Effort::Balanced, &plain[..100], Some(&plain[..100])).0.codec));
}

/// A base that looks like a zstd dictionary is still taken as plain content, on both sides.
#[test]
fn a_base_may_begin_like_a_dictionary() {
    let mut base = vec![0x37, 0xa4, 0x30, 0xec];
    base.extend(noise(2, 50_000));
    // A copy: where the prefix and the input share memory, zstd takes the prefix as overwritten.
    let plain = base[100..].to_vec();
    let (header, length) = check(Effort::Balanced, &plain, Some(&base));
    assert_eq!(header.codec, id::ZSTD_PREFIX);
    assert!(length < 100, "{length}");
}

#[test]
fn a_decoder_is_used_again_after_damage() {
    let (mut decoder, mut out) = (Decoder::new(), Vec::new());
    let good = encode(Effort::Balanced, &json_lines(3, 50_000), None);
    let mut bad = good.clone();
    bad.truncate(good.len() / 2);
    decoder.decode(&good, None, &mut out).unwrap();
    assert_eq!(out.len(), 50_000);
    assert!(decoder.decode(&bad, None, &mut out).is_err());
    assert!(out.is_empty());
    decoder.decode(&good, None, &mut out).unwrap();
    assert_eq!(out, json_lines(3, 50_000));
}

#[test]
fn wrong_bodies_are_refused_in_words() {
    let frame = |plain: &[u8]| encode(Effort::Balanced, plain, None).split_off(8);
    let text = json_lines(4, 5000);
    let body = |codec: u8, shape: [u8; 2], length: u32, rest: &[u8]| {
        [&[codec, shape[0], shape[1], 0], &length.to_le_bytes()[..], rest].concat()
    };
    // Two elements of one byte, both zero but for what the map says.
    let mapped = |parts: &[u8]| {
        let content = [&[0], parts].concat();
        let piece = [&[3, content.len() as u8, 0, 0, 0], &content[..]].concat();
        body(3, [1, 0], 2, &piece)
    };
    let two_frames = [frame(&text), frame(&text)].concat();
    for (wrong, why) in [
        (vec![0; 7], "shorter than its header"),
        (body(8, [0, 0], 0, &[]), "unknown"),
        (body(0, [2, 0], 0, &[]), "do not fit codec"),
        (body(3, [3, 0], 0, &[]), "do not fit codec"),
        (body(3, [2, 2], 0, &[]), "do not fit codec"),
        (vec![0, 0, 0, 1, 0, 0, 0, 0], "do not fit codec"),
        (body(0, [0, 0], CHUNK_BYTES_MAX as u32 + 1, &[]), "over the limit"),
        (body(2, [0, 0], 5, &[1; 31]), "inside the base"),
        (body(2, [0, 0], 5, &[1; 32]), "base is missing"),
        (body(4, [2, 0], 5, &[1; 32]), "base is missing"),
        (body(6, [0, 0], 5, &[1; 32]), "base is missing"),
        (body(0, [0, 0], 5, b"four"), "not as many"),
        (body(5, [0, 0], 5, b"ab"), "not one byte"),
        (body(5, [0, 0], 5, b""), "not one byte"),
        (body(1, [0, 0], 5, b"nonsense"), "not a zstd frame"),
        (body(1, [0, 0], 4999, &frame(&text)), "content size"),
        (body(1, [0, 0], 5000, &two_frames), "after the zstd frame"),
        (body(3, [2, 0], 4, &[1, 2, 0, 0]), "plane's header"),
        (body(3, [2, 0], 4, &[1, 3, 0, 0, 0, 1, 2]), "inside a plane"),
        (body(3, [2, 0], 4, &[1, 1, 0, 0, 0, 1, 2]), "kind or length"),
        (body(3, [2, 0], 4, &[0, 2, 0, 0, 0, 1, 2]), "kind or length"),
        (body(3, [2, 0], 4, &[9, 2, 0, 0, 0, 1, 2]), "kind or length"),
        (body(3, [2, 1], 4, &[0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 9]), "around the elements"),
        // A map of two places in which a third bit is set; other bytes that are too many; something behind them.
        (mapped(&[0, 1, 0, 0, 0, 4, 1, 1, 0, 0, 0, 9]), "more places"),
        (mapped(&[0, 1, 0, 0, 0, 1, 1, 2, 0, 0, 0, 9, 9]), "kind or length"),
        (mapped(&[0, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 9, 7]), "after a piece"),
        (mapped(&[3, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 9]), "kind or length"),
        (mapped(&[]), "plane's header"),
    ] {
        let damage = Decoder::new().decode(&wrong, None, &mut Vec::new()).unwrap_err();
        assert!(damage.to_string().contains(why), "{why:?} expected, got {damage}");
    }
}

/// Bodies of known content, byte by byte as docs/format.md §6 says: what was stored stays readable.
#[test]
fn golden_bodies_decode() {
    let hex =
        |text: &str| -> Vec<u8> { text.split_whitespace().map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect() };
    for (body, plain) in [
        ("00 00 00 00 03 00 00 00 61 62 63", b"abc".to_vec()),
        ("05 00 00 00 04 00 00 00 7a", b"zzzz".to_vec()),
        // One raw block (03 in the block header: last, raw, length 3 << 3 = 0x19).
        ("01 00 00 00 03 00 00 00 28 b5 2f fd 20 03 19 00 00 61 62 63", b"abc".to_vec()),
        // Head 01, elements 0x8001 and 0x4002 (rotated 0x0003 and 0x8004), tail ff.
        ("03 02 01 00 06 00 00 00 01 02 00 00 00 03 04 01 02 00 00 00 00 80 01 ff", hex("01 01 80 02 40 ff")),
        // Head none, two equal elements 0x3f800000 (1.0; rotated 0x7f000000): constant planes.
        (
            "03 04 00 00 08 00 00 00 00 01 00 00 00 00 00 01 00 00 00 00 00 01 00 00 00 00 00 01 00 00 00 7f",
            hex("00 00 80 3f 00 00 80 3f"),
        ),
        // Ten elements of one byte; rotated they are zero but for the second and the tenth: 80 becomes 01, 41 becomes 82.
        (
            "03 01 00 00 0a 00 00 00 03 0f 00 00 00 00 01 02 00 00 00 02 02 01 02 00 00 00 01 82",
            hex("00 80 00 00 00 00 00 00 00 41"),
        ),
    ] {
        let mut out = Vec::new();
        Decoder::new().decode(&hex(body), None, &mut out).unwrap();
        assert_eq!(out, plain, "{body}");
    }
}

/// An independent decoder reads our frames, those of planes with forced Huffman literals too.
#[test]
fn ruzstd_reads_every_frame() {
    for effort in [Effort::Fast, Effort::Balanced, Effort::Dense] {
        let text = json_lines(5, 400 * KIB);
        let body = encode(effort, &text, None);
        assert_eq!(body[0], id::ZSTD);
        assert!(second_opinion(&body[8..]) == text);

        let body = encode(effort, &fp32(6, 60_000), None);
        assert_eq!(body[0], id::PLANES);
        let (mut rest, mut frames, mut decoder) = (&body[8..], 0, frames::Decompressor::new());
        for _ in 0..4 {
            let length = u32::from_le_bytes(rest[1..5].try_into().unwrap()) as usize;
            if rest[0] == 2 {
                frames += 1;
                let mut plane = vec![0; 60_000];
                decoder.decompress(&rest[5..5 + length], &mut plane).unwrap();
                assert!(second_opinion(&rest[5..5 + length]) == plane);
            }
            rest = &rest[5 + length..];
        }
        assert!(frames > 0);
    }
}

fn second_opinion(frame: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(frame).unwrap().read_to_end(&mut plain).unwrap();
    plain
}

/// Plain bytes of many kinds and lengths.
fn plain_bytes() -> impl Strategy<Value = Vec<u8>> {
    (0u8..8, any::<u64>(), 0usize..30_000, 0usize..9).prop_map(|(kind, seed, length, skip)| {
        let mut bytes = match kind {
            0 => noise(seed, length),
            1 => json_lines(seed, length),
            2 => bf16(seed, length / 2 + 1),
            3 => fp32(seed, length / 4 + 1),
            4 => fp64(seed, length / 8 + 1),
            5 => vec![seed as u8; length],
            6 => [json_lines(seed, length / 2), fp32(seed, length / 8 + 1)].concat(),
            _ => noise(seed, length % 64),
        };
        bytes.drain(..skip.min(bytes.len()));
        bytes
    })
}

/// Numbers as a few steps of training leave them: each moved by a small share of a common size.
fn stepped(old: &[u8], seed: u64, share: f32) -> Vec<u8> {
    let moves = normals(seed, old.len() / 4 + 1, f64::from(share) * 0.02);
    let numbers = old.as_chunks::<4>().0.iter().zip(moves);
    numbers.flat_map(|(&bytes, step)| (f32::from_le_bytes(bytes) + step as f32).to_le_bytes()).collect()
}

fn effort() -> impl Strategy<Value = Effort> {
    prop::sample::select(vec![Effort::Fast, Effort::Balanced, Effort::Dense])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_chunk_comes_back(plain in plain_bytes(), effort in effort()) {
        check(effort, &plain, None);
    }

    #[test]
    fn edited_chunks_come_back(base in plain_bytes(), at: prop::sample::Index, new in plain_bytes(), effort in effort()) {
        let mut plain = base.clone();
        let at = at.index(plain.len() + 1);
        plain.splice(at..(at + new.len() / 3).min(base.len()), new.iter().copied().take(new.len() / 4));
        check(effort, &plain, Some(&base));
    }

    /// Any width and phase is decodable, whatever the sample would have said.
    #[test]
    fn planes_of_any_shape_come_back(
        plain in plain_bytes(),
        (width, head) in prop::sample::select(vec![1u8, 2, 4, 8]).prop_flat_map(|width| (Just(width), 0..width)),
    ) {
        let plain_len = plain.len() as u32;
        let header = BodyHeader { codec: id::PLANES, width, head: head.min(plain.len() as u8), plain_len, base: None };
        let mut body = Vec::new();
        header.write(&mut body);
        let mut compressor = frames::Compressor::new();
        planes::PlaneEncoder::default().encode(&mut compressor, Effort::Balanced, &header, &plain, &mut body);
        let mut out = Vec::new();
        Decoder::new().decode(&body, None, &mut out).unwrap();
        prop_assert!(out == plain);
    }

    /// Changed bodies give an error or as many bytes as they announce; never a panic, never more memory than a chunk.
    #[test]
    fn hostile_bodies_do_no_harm(
        plain in plain_bytes(),
        with_base: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        let base = with_base.then_some(&plain[..]);
        let mut body = encode(Effort::Balanced, &plain, base);
        for (place, value) in changes {
            let place = if value % 3 == 0 { place.index(body.len().min(16)) } else { place.index(body.len()) };
            body[place] = value;
        }
        body.truncate(cut.index(body.len() * 4) + 1);
        let mut out = Vec::new();
        match Decoder::new().decode(&body, base, &mut out) {
            Ok(()) => prop_assert_eq!(out.len(), BodyHeader::parse(&body).unwrap().0.plain_len as usize),
            Err(_) => prop_assert!(out.is_empty()),
        }
        prop_assert!(out.capacity() <= CHUNK_BYTES_MAX);
    }
}
