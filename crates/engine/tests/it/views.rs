//! Tensors that are transposed, have holes or share their numbers, brought back alone: what torch wrote of them comes out as
//! torch itself puts it in order, and of a large file only as much is in memory as the budget says.

use std::collections::BTreeMap;
use std::fs;

use seawall_engine::monitor::Silent;
use seawall_engine::readers::View;
use seawall_engine::tensors::extract;
use seawall_engine::units::MIB;

use crate::place::noise;
use crate::tensors::{Scene, fixtures, parse};

/// What torch saved, as one file and as a distributed checkpoint, becomes byte for byte the file that the safetensors library
/// writes of the same tensors in their own order.
#[test]
fn what_torch_saved_becomes_what_torch_would_write() {
    let scene = Scene::new();
    let views = fixtures().join("views");
    for name in ["model.pt", "step/.metadata", "step/__0_0.distcp"] {
        scene.write(name, &fs::read(views.join(name)).unwrap());
    }
    let root = scene.backup();
    for name in ["model.pt", "step"] {
        let report = scene.extract(&root, name, &["*"]).unwrap();
        let made = fs::read(scene.target()).unwrap();
        let expected = fs::read(views.join(format!("{name}.expected"))).unwrap();
        assert_eq!(parse(&made), parse(&expected), "{name}");
        assert_eq!(made, expected, "{name}");
        assert_eq!(report.tensors.len(), parse(&expected).len());
        let data: usize = parse(&expected).values().map(|tensor| tensor.2.len()).sum();
        assert_eq!(report.bytes, data as u64);
    }
    let report = scene.extract(&root, "model.pt", &["head.weight", "query"]).unwrap();
    let names: Vec<&str> = report.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["head.weight", "query"]);
}

/// Who shares numbers is listed, and takes nothing of its own.
#[test]
fn shared_numbers_are_listed_and_count_once() {
    let scene = Scene::new();
    scene.write("model.pt", &fs::read(fixtures().join("views/model.pt")).unwrap());
    let root = scene.backup();
    let (files, report) = scene.list(&root, "model.pt", &[]);
    let stored = |name: &str| files[0].tensors.iter().find(|stored| stored.tensor.name == name).unwrap();
    let (first, tied) = (stored("embed.weight"), stored("head.weight"));
    assert_eq!((first.tensor.view, tied.tensor.view), (View::Own, View::Shared));
    assert_eq!(first.tensor.range, tied.tensor.range);
    assert!(first.stored_bytes > 0 && tied.stored_bytes == 0);
    assert_eq!(stored("head.transposed").tensor.shape, [10, 24]);
    assert_eq!((stored("conv").tensor.view, stored("query").tensor.view), (View::Turned, View::Span));
    let mut ranges: Vec<_> = files[0].tensors.iter().filter(|stored| stored.tensor.view != View::Shared).collect();
    ranges.sort_by_key(|stored| stored.tensor.range.start);
    let bytes: u64 = ranges.iter().map(|stored| stored.tensor.range.end - stored.tensor.range.start).sum();
    assert_eq!((report.bytes, report.tensors), (bytes, files[0].tensors.len() as u64));
}

/// A tensor: name, dtype of torch, first element, shape, strides.
type Seen = (&'static str, &'static str, u64, &'static [u64], &'static [u64]);

/// The pickle of a dictionary of tensors on one storage.
fn pickled(tensors: &[Seen]) -> Vec<u8> {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let number = |number: u64| [&b"J"[..], &u32::try_from(number).unwrap().to_le_bytes()].concat();
    let tuple = |numbers: &[u64]| {
        let numbers: Vec<u8> = numbers.iter().flat_map(|&it| number(it)).collect();
        [b"(", &numbers[..], b"t"].concat()
    };
    let mut out = b"\x80\x02}(".to_vec();
    for (name, dtype, first, shape, strides) in tensors {
        let storage = [&b"("[..], &text("storage"), b"ctorch\nUntypedStorage\n", &text("0"), &text("cpu"), b"K\0tQ"];
        out.extend(text(name));
        out.extend(b"ctorch._utils\n_rebuild_tensor_v3\n(");
        out.extend(storage.concat());
        out.extend([number(*first), tuple(shape), tuple(strides), b"\x89N".to_vec()].concat());
        out.extend(format!("ctorch\n{dtype}\ntR").as_bytes());
    }
    out.extend(b"u.");
    out
}

/// A zip of stored members, without checksums.
fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let start = out.len() as u32;
        let lengths = [content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let fields =
            [&[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &lengths, &(name.len() as u16).to_le_bytes()].concat();
        out.extend([&b"PK\x03\x04"[..], &fields, &[0; 2], name.as_bytes(), content].concat());
        directory.extend([&b"PK\x01\x02\x14\0"[..], &fields, &[0; 12], &start.to_le_bytes(), name.as_bytes()].concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let place = [directory.len() as u32, out.len() as u32].map(u32::to_le_bytes).concat();
    [&out[..], &directory, b"PK\x05\x06\0\0\0\0", &count, &count, &place, &[0; 2]].concat()
}

/// Megabytes in many chunks, of which chunks end inside numbers; with room for all, and for one chunk at a time.
#[test]
fn large_tensors_come_in_windows() {
    let tensors: &[Seen] = &[
        // Its rows of three bytes make the chunks.
        ("bytes", "uint8", 0, &[1_400_000, 3], &[3, 1]),
        ("turned", "float64", 1, &[600, 700], &[1, 600]),
        ("box", "float32", 77, &[50, 40, 300], &[1, 20_000, 60]),
        ("rows", "float16", 5, &[1000, 1500], &[2001, 1]),
        ("complete", "int64", 2, &[300, 1000], &[1000, 1]),
        ("behind", "int32", 1_050_000, &[200, 300], &[1, 200]),
    ];
    let numbers = noise(9, 4_440_000);
    let pickle = pickled(tensors);
    let members =
        [("m/data.pkl", &pickle[..]), ("m/byteorder", b"little"), ("m/data/0", &numbers), ("m/version", b"3\n")];
    let scene = Scene::new();
    scene.write("model.pt", &zip(&members));
    let root = scene.backup();
    let (files, _) = scene.list(&root, "model.pt", &["bytes"]);
    assert!(files[0].tensors[0].chunks >= 8, "{:?}", files[0].tensors);
    let mut expected = BTreeMap::new();
    for (name, dtype, first, shape, strides) in tensors {
        let width = dtype.trim_start_matches(char::is_alphabetic).parse::<usize>().unwrap() / 8;
        let mut bytes = Vec::new();
        for mut element in 0..shape.iter().product::<u64>() {
            let mut at = *first;
            for (length, stride) in shape.iter().zip(*strides).rev() {
                at += element % length * stride;
                element /= length;
            }
            bytes.extend_from_slice(&numbers[at as usize * width..][..width]);
        }
        expected.insert((*name).to_owned(), (shape.to_vec(), bytes));
    }
    let file_chunks = scene.chunks(&root, "model.pt", &(0..u64::MAX)).len() as u64;
    for budget_bytes in [1, 3 * MIB, 64 * MIB] {
        let options = seawall_engine::tensors::ExtractOptions { budget_bytes, ..scene.options("model.pt", &["*"]) };
        let report = extract(&scene.repository, &root, &options, &Silent).unwrap();
        let made = parse(&fs::read(scene.target()).unwrap());
        let made: BTreeMap<_, _> = made.into_iter().map(|(name, (_, shape, bytes))| (name, (shape, bytes))).collect();
        assert!(made == expected, "{budget_bytes}: {:?}", report.tensors);
        assert_eq!(report.bytes, expected.values().map(|tensor| tensor.1.len() as u64).sum::<u64>());
        // Those in order together, and each of the four others, fetch each chunk at most once; headers come on top.
        assert!(report.blobs <= 6 * file_chunks, "{} of {file_chunks}", report.blobs);
    }
}
