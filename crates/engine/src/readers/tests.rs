//! Files that other libraries wrote, under testdata/readers: what the readers say of them is what their writer knows, and
//! whatever is done to their bytes, a reading ends with no panic, in bounds, and with a layout that keeps its promises.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::input::ReadAt;
use super::*;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/readers")
}

fn bytes_of(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(name)).unwrap()
}

/// What each file holds, by its name; those of `odd.py` too.
fn expected() -> serde_json::Map<String, Json> {
    let read = |name: &str| -> serde_json::Map<String, Json> { serde_json::from_slice(&bytes_of(name)).unwrap() };
    let odd = read("odd/expected.json").into_iter().map(|(name, what)| (format!("odd/{name}"), what));
    read("expected.json").into_iter().chain(odd).collect()
}

/// The layouts expected.
fn layouts() -> impl Iterator<Item = (String, Json)> {
    expected().into_iter().filter(|(_, what)| what.get("format").is_some())
}

fn tensor_json(tensor: &Tensor) -> Json {
    let range = [tensor.range.start, tensor.range.end];
    json!({"name": tensor.name, "dtype": tensor.dtype.name(), "shape": tensor.shape, "range": range})
}

#[test]
fn files_of_other_libraries() {
    for (name, what) in layouts() {
        let bytes = bytes_of(&name);
        let layout = read(&&bytes[..], name.as_bytes()).unwrap_or_else(|| panic!("{name} is not read"));
        assert!(layout.holds(bytes.len() as u64), "{name}");
        assert_eq!(format!("{:?}", layout.format), what["format"], "{name}");
        let tensors: Vec<Json> = layout.tensors.iter().map(tensor_json).collect();
        let mut wanted = what["tensors"].clone();
        for (row, tensor) in wanted.as_array_mut().unwrap().iter_mut().zip(&layout.tensors) {
            let row = row.as_object_mut().unwrap();
            row.remove("own");
            if let Some(view) = row.remove("view") {
                assert_eq!(json!(format!("{:?}", tensor.view)), view, "{name}: {}", tensor.name);
            }
        }
        assert_eq!(json!(tensors), wanted, "{name}");
        for boundary in what["boundaries"].as_array().into_iter().flatten() {
            let at = boundary.as_u64().unwrap();
            assert!(layout.boundaries.contains(&at), "{name}: no boundary at {at} in {:?}", layout.boundaries);
        }
        if what.get("boundaries").is_some() && matches!(layout.format, Format::Parquet | Format::Tar) {
            assert_eq!(json!(layout.boundaries), what["boundaries"], "{name}: no other boundaries");
        }
        if let Some(checks) = what.get("checks") {
            assert_eq!(json!(layout.checks.len()), *checks, "{name}");
        }
    }
}

#[test]
fn other_files_have_no_layout() {
    for (name, bytes) in [
        ("empty", &b""[..]),
        ("short", b"G"),
        ("text.txt", b"some words, and { a brace"),
        ("zeros", &[0; 4096]),
        ("ones", &[0xff; 4096]),
        // torch.save before version 1.6: a pickle of its magic number first.
        ("legacy.pt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."),
        ("version1.gguf", b"GGUF\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("big_endian.gguf", b"GGUF\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ("text.onnx", b"no protobuf of a model"),
        ("torn.pt", b"PK\x03\x04 and nothing more"),
        ("encrypted.parquet", b"PAR1 and then PARE"),
    ] {
        assert_eq!(read(&bytes, name.as_bytes()), None, "{name}");
    }
}

#[test]
fn tensors_are_as_wide_as_they_say() {
    for (name, _) in layouts() {
        let bytes = bytes_of(&name);
        for tensor in read(&&bytes[..], name.as_bytes()).unwrap().tensors {
            let elements = tensor.shape.iter().product();
            if !matches!(tensor.dtype, Dtype::Unknown) {
                assert_eq!(tensor.dtype.bytes_of(elements), Some(tensor.range.end - tensor.range.start), "{tensor:?}");
            }
        }
    }
}

#[test]
fn embedded_checksums_hold_until_a_byte_is_wrong() {
    let mut seen = 0;
    for (name, _) in layouts() {
        let mut bytes = bytes_of(&name);
        let mut checks = read(&&bytes[..], name.as_bytes()).unwrap().checks;
        checks.extend(tfrecord::Records::new(&&bytes[..]).flat_map(|record| record.checks));
        for check in checks {
            assert!(crc::holds(&&bytes[..], &check).unwrap(), "{name}: {check:?}");
            if check.range.is_empty() {
                continue;
            }
            let at = (check.range.start + check.range.end) as usize / 2;
            bytes[at] ^= 0x10;
            assert!(!crc::holds(&&bytes[..], &check).unwrap(), "{name}: {check:?}");
            bytes[at] ^= 0x10;
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen} checksums");
}

#[test]
fn records_are_given_one_by_one() {
    let bytes = bytes_of("records.tfrecord");
    let ranges: Vec<[u64; 2]> =
        tfrecord::Records::new(&&bytes[..]).map(|record| [record.range.start, record.range.end]).collect();
    assert_eq!(json!(ranges), expected()["records.tfrecord"]["records"]);
}

/// The pieces that a `.metadata` names.
fn pieces(metadata: &[u8]) -> Vec<Stored> {
    match distcp_metadata(&metadata) {
        DistcpMetadata::Pieces(pieces) => pieces,
        other => panic!("{other:?}"),
    }
}

#[test]
fn metadata_of_a_distributed_checkpoint() {
    let bytes = bytes_of("checkpoint.metadata");
    let stored = pieces(&bytes);
    let found = stored.iter().map(|piece| {
        let range = [piece.range.start, piece.range.end];
        json!({"file": piece.file, "range": range, "name": piece.name, "offset": piece.offset})
    });
    assert_eq!(json!(found.collect::<Vec<_>>()), expected()["checkpoint.metadata"]["stored"]);
    assert_eq!(distcp_metadata(&&bytes[..bytes.len() - 1]), DistcpMetadata::Unreadable);
    let model = bytes_of("model.pt");
    assert_eq!(distcp_metadata(&&model[..]), DistcpMetadata::Unreadable);
}

/// A `.metadata` as Python writes it (protocol 2), of so many pieces of 100 ranks.
fn large_metadata(count: u32) -> Vec<u8> {
    const CHECKPOINT: &str = "ctorch.distributed.checkpoint.";
    let mut memo = 0_u32;
    let mut remember = |out: &mut Vec<u8>| {
        out.extend([b'r']);
        out.extend(memo.to_le_bytes());
        memo += 1;
    };
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend([b'X']);
        out.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        out.extend(text.as_bytes());
    };
    let number = |out: &mut Vec<u8>, number: u32| {
        out.extend([b'J']);
        out.extend(number.to_le_bytes());
    };
    let mut size = |out: &mut Vec<u8>, first: u32| {
        out.extend(b"ctorch\nSize\n");
        number(out, first);
        out.extend(b"K\0\x86");
        remember(out);
        out.push(0x85);
        remember(out);
        out.push(b'R');
        remember(out);
    };
    let mut out = b"\x80\x02".to_vec();
    out.extend(format!("{CHECKPOINT}metadata\nMetadata\n").bytes());
    out.extend(b")\x81}(");
    text(&mut out, "state_dict_metadata");
    out.push(b']');
    for piece in 0..count {
        out.extend(format!("{CHECKPOINT}metadata\nChunkStorageMetadata\n").bytes());
        out.extend(b")\x81}(");
        for field in ["offsets", "sizes"] {
            text(&mut out, field);
            size(&mut out, piece % 100);
        }
        out.extend(b"uba");
    }
    text(&mut out, "storage_data");
    out.push(b'}');
    for piece in 0..count {
        out.push(b'(');
        out.extend(format!("{CHECKPOINT}metadata\nMetadataIndex\n").bytes());
        out.extend(b")\x81}(");
        text(&mut out, "fqn");
        text(&mut out, &format!("layer {}", piece / 100));
        text(&mut out, "offset");
        size(&mut out, piece % 100);
        out.extend(b"ub");
        out.extend(format!("{CHECKPOINT}filesystem\n_StorageInfo\n").bytes());
        out.extend(b")\x81}(");
        text(&mut out, "relative_path");
        text(&mut out, &format!("__{}_0.distcp", piece % 100));
        text(&mut out, "offset");
        number(&mut out, piece / 100 * 1000);
        text(&mut out, "length");
        number(&mut out, 1000);
        out.extend(b"ubu");
    }
    out.extend(b"ub.");
    out
}

/// Each rank of a large cluster writes a piece of most tensors. What does not fit is told from what is torn.
#[test]
fn metadata_of_many_pieces() {
    let bytes = large_metadata(30_000);
    let found = pieces(&bytes);
    assert_eq!(found.len(), 30_000);
    let last = found.last().unwrap();
    assert_eq!((last.file.as_str(), last.range.clone()), ("__9_0.distcp", 299_000..300_000));
    assert_eq!((last.name.as_str(), &last.offset[..]), ("layer 299", &[9, 0][..]));
    assert_eq!(distcp_metadata(&&bytes[..bytes.len() - 1]), DistcpMetadata::Unreadable);
    // More than fits, with the same names behind it.
    let lists = b"]".repeat(3 << 20);
    let larger = [&bytes[..2], &lists, &large_metadata(200)[2..]].concat();
    let DistcpMetadata::TooLarge(names) = distcp_metadata(&&larger[..]) else { panic!("it fits") };
    assert_eq!((names.files.len(), names.is_transformed), (100, false));
    assert!(names.files.contains("__0_0.distcp") && names.files.contains("__99_0.distcp"));
    assert_eq!(distcp_metadata(&&larger[..larger.len() - 1]), DistcpMetadata::Unreadable);
}

/// The pieces that `.metadata` names are the archives that the scan of the file finds.
#[test]
fn metadata_and_file_agree() {
    let (metadata, file) = (bytes_of("checkpoint.metadata"), bytes_of("__0_0.distcp"));
    let layout = read(&&file[..], b"__0_0.distcp").unwrap();
    let pieces: Vec<_> = pieces(&metadata).into_iter().filter(|piece| piece.file == "__0_0.distcp").collect();
    assert_eq!(pieces.len(), layout.tensors.len());
    for (piece, tensor) in pieces.iter().zip(&layout.tensors) {
        assert!(piece.range.start <= tensor.range.start && tensor.range.end <= piece.range.end, "{piece:?} {tensor:?}");
    }
}

/// Without its pickle, a torch file still tells where its numbers are.
#[test]
fn a_torch_file_with_a_damaged_pickle() {
    let mut bytes = bytes_of("big.pt");
    let whole = read(&&bytes[..], b"").unwrap();
    let at = bytes.windows(3).position(|window| window == b"\x80\x02}").unwrap();
    bytes[at + 2] = 0xee;
    let layout = read(&&bytes[..], b"").unwrap();
    let shown = |layout: &Layout| -> Vec<_> { layout.tensors.iter().map(|tensor| tensor.range.clone()).collect() };
    assert_eq!(shown(&layout), shown(&whole));
    assert!(layout.tensors.iter().all(|tensor| tensor.dtype == Dtype::Unknown && tensor.name.starts_with("data/")));
}

/// An error of the file ends the reading, wherever it comes.
#[test]
fn errors_end_the_reading() {
    struct Failing(Vec<u8>, Cell<usize>);
    impl ReadAt for Failing {
        fn length(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            self.1.set(self.1.get().checked_sub(1).ok_or(io::ErrorKind::Other)?);
            (&self.0[..]).read_at(offset, buffer)
        }
    }
    for (name, _) in layouts() {
        let bytes = bytes_of(&name);
        for reads in 0..40 {
            let layout = read(&Failing(bytes.clone(), Cell::new(reads)), name.as_bytes());
            assert!(reads > 0 || layout.is_none(), "{name}");
            assert!(layout.is_none_or(|layout| layout.holds(bytes.len() as u64)), "{name}, {reads} reads");
        }
    }
}

/// Reads what is left of a file after something was done to it.
fn read_damaged(name: &str, bytes: &[u8]) {
    if let Some(layout) = read(&bytes, name.as_bytes()) {
        assert!(layout.holds(bytes.len() as u64), "{name}");
        // A file of a few KiB has no million tensors: each takes bytes of the header.
        assert!(layout.tensors.len() <= bytes.len(), "{name}");
    }
    let _ = distcp_metadata(&bytes);
    tfrecord::Records::new(&bytes).for_each(drop);
}

#[test]
fn truncations() {
    for name in expected().keys() {
        let bytes = bytes_of(name);
        for length in (0..bytes.len()).step_by(7).chain(bytes.len().saturating_sub(64)..bytes.len()) {
            read_damaged(name, &bytes[..length]);
        }
    }
}

/// Numbers that a hostile header may hold in place of a length, offset or count.
const HOSTILE: [u64; 8] = [0, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX - 7, u64::MAX];

#[test]
fn hostile_lengths_everywhere() {
    for name in expected().keys() {
        let mut bytes = bytes_of(name);
        for at in (0..bytes.len()).step_by(3) {
            let width = (bytes.len() - at).min([1, 4, 8][at % 9 / 3]);
            let saved = bytes[at..at + width].to_vec();
            let value = HOSTILE[at % HOSTILE.len()].to_le_bytes();
            bytes[at..at + width].copy_from_slice(&value[..width]);
            read_damaged(name, &bytes);
            bytes[at..at + width].copy_from_slice(&saved);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_damage(
        file in any::<prop::sample::Index>(),
        hint in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        cuts: bool,
    ) {
        let names: Vec<String> = expected().keys().cloned().collect();
        let mut bytes = bytes_of(&names[file.index(names.len())]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if cuts {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_damaged(&names[hint.index(names.len())], &bytes);
    }
}
