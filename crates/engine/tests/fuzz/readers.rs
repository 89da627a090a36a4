//! Fuzz targets of the readers of AI files: any bytes under each name that changes how they are read, and any pickle.
//!
//! Seeds are the files of testdata/readers, which other libraries wrote.

use seawall_engine::format::tensor_table;
use seawall_engine::readers::{self, Whole, crc, tfrecord::Records};
use seawall_engine::statistics::builder::TableBuilder;

/// Names that decide a format where the bytes do not, and one that does not.
const NAMES: [&[u8]; 3] = [b"file", b"model.onnx", b"__0_0.distcp"];

macro_rules! files {
    ($($name:literal),*) => {
        vec![$(include_bytes!(concat!("../../../../testdata/readers/", $name)).to_vec()),*]
    };
}

/// One file of each kind.
pub fn files() -> Vec<Vec<u8>> {
    files![
        "model.safetensors",
        "safetensors.distcp",
        "model.pt",
        "big.pt",
        "__0_0.distcp",
        "model.gguf",
        "aligned.gguf",
        "model.onnx",
        "plain.npy",
        "record.npy",
        "arrays.npz",
        "table.arrow",
        "compressed.feather",
        "table.parquet",
        "records.tfrecord",
        "pax.tar",
        "gnu.tar",
        "other.zip"
    ]
}

/// Layouts keep their promises, and their checksums can be computed. What is whole is not when a byte is missing.
pub fn read(data: &[u8]) {
    for name in NAMES {
        if let (Whole::Yes, Some((_, shorter))) = (readers::whole(&data, name), data.split_last()) {
            // Why this name only: zips may end in a comment of any bytes, and parts come in rows.
            assert!(name != b"model.onnx" || data[0] == b'P' || readers::whole(&shorter, name) != Whole::Yes);
        }
        let Some(layout) = readers::read(&data, name) else { continue };
        assert!(layout.holds(data.len() as u64));
        assert!(layout.tensors.len() <= data.len());
        assert!(layout.checks.iter().take(64).all(|check| crc::holds(&data, check).is_ok()));
    }
    let mut records = Records::new(&data);
    let end = records.by_ref().map(|record| record.range.end).last().unwrap_or(0);
    assert!(end == records.position() && end <= data.len() as u64);
}

/// The pickles of a torch file and of a distributed checkpoint.
pub fn pickles() -> Vec<Vec<u8>> {
    let mut pickles = files!["checkpoint.metadata"];
    for file in files!["model.pt", "protocol4.pt", "big.pt", "__0_0.distcp"] {
        // The first member of torch's zips is stored, and is the pickle: from its first opcode to the next member.
        let begin = file.windows(2).position(|window| window == b"\x80\x02" || window == b"\x80\x04").unwrap();
        let length = file[begin..].windows(4).position(|window| window == b"PK\x03\x04").unwrap();
        pickles.push(file[begin..begin + length].to_vec());
    }
    pickles
}

/// As the index of a distributed checkpoint, and as the pickle of a torch file with two storages.
pub fn pickle(data: &[u8]) {
    if let readers::DistcpMetadata::Pieces(stored) = readers::distcp_metadata(&data) {
        assert!(stored.is_sorted_by(|left, right| left.file <= right.file));
        assert!(stored.len() <= data.len());
        // Whatever lies at a place, the look ends.
        stored.iter().for_each(|piece| drop(piece.lack_in(&data)));
    }
    let file = zip(&[("a/data.pkl", data), ("a/data/0", &[7; 256]), ("a/data/1", &[8; 64])]);
    let layout = readers::read(&&file[..], b"a.pt").unwrap();
    assert!(layout.holds(file.len() as u64));
    let bytes: u64 = layout.tensors.iter().map(|tensor| tensor.range.end - tensor.range.start).sum();
    assert_eq!(bytes, 256 + 64, "whatever the pickle says, all bytes of storages are told of once");
}

/// An archive of stored members.
fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut fixed = [0_u8; 20];
        fixed[8..12].copy_from_slice(&(content.len() as u32).to_le_bytes());
        fixed[12..16].copy_from_slice(&(content.len() as u32).to_le_bytes());
        fixed[16..18].copy_from_slice(&(name.len() as u16).to_le_bytes());
        directory.extend_from_slice(b"PK\x01\x02\0\0\0\0\0\0\0\0");
        directory.extend_from_slice(&fixed);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(b"PK\x03\x04\0\0\0\0\0\0");
        bytes.extend_from_slice(&fixed);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(content);
    }
    let start = bytes.len() as u32;
    bytes.extend_from_slice(&directory);
    bytes.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    bytes.extend_from_slice(&[members.len() as u8, 0, members.len() as u8, 0]);
    bytes.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&start.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

/// The tables of files with tensors.
pub fn tensor_tables() -> Vec<Vec<u8>> {
    let table = |file: &Vec<u8>| {
        let layout = readers::read(&file.as_slice(), b"file")?;
        let builder = TableBuilder::new(&layout);
        builder.add(0, file);
        (!layout.tensors.is_empty()).then(|| tensor_table::encode(&builder.finish()))
    };
    files().iter().filter_map(table).collect()
}

/// What is accepted is written as it was read.
pub fn tensor_table(data: &[u8]) {
    if let Ok(table) = tensor_table::decode(data) {
        assert!(table.tensors.len() <= data.len());
        assert_eq!(tensor_table::decode(&tensor_table::encode(&table)).unwrap(), table);
    }
}
