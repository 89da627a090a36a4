//! Distributed checkpoints of more pieces than can be kept in memory: their parts are named, and looked at by themselves.

use super::*;

/// A `.metadata` that does not fit, and names these files.
fn large_metadata(files: &[&str]) -> Vec<u8> {
    let mut bytes = b"]".repeat(3 << 20);
    for file in files {
        bytes.push(b'X');
        bytes.extend(u32::try_from(file.len()).unwrap().to_le_bytes());
        bytes.extend(file.bytes());
    }
    bytes.push(b'.');
    bytes
}

#[test]
fn distributed_checkpoints_with_more_pieces_than_can_be_kept() {
    check(
        Layout::Dcp,
        Some(2),
        |run| {
            dcp(&run.join("step-100"));
            write(run.join("step-100/.metadata"), large_metadata(&["__0_0.distcp", "__1_0.distcp"]));
        },
        &[
            (
                "torn metadata",
                |run| cut(run.join("step-100/.metadata")),
                ".metadata is torn, or not of a distributed checkpoint",
            ),
            (
                "no names",
                |run| write(run.join("step-100/.metadata"), large_metadata(&[])),
                ".metadata is torn, or not of a distributed checkpoint",
            ),
            (
                "a name that leads elsewhere",
                |run| write(run.join("step-100/.metadata"), large_metadata(&["../__0_0.distcp"])),
                ".metadata names \"../__0_0.distcp\", which is no file beside it",
            ),
            (
                "a part is missing",
                |run| remove(run.join("step-100/__1_0.distcp")),
                "__1_0.distcp is missing: .metadata lists it",
            ),
            (
                "a part of a byte",
                |run| write(run.join("step-100/__1_0.distcp"), "x"),
                "__1_0.distcp: it does not begin with a piece",
            ),
            (
                "a part of something else",
                |run| write(run.join("step-100/__1_0.distcp"), "x".repeat(1000)),
                "__1_0.distcp: it does not begin with a piece",
            ),
            (
                "a part is short",
                |run| cut(run.join("step-100/__0_0.distcp")),
                "__0_0.distcp: it begins with a piece and does not end with one",
            ),
            (
                "a hole at the beginning",
                |run| edit(run.join("step-100/__1_0.distcp"), |bytes| bytes[..100].fill(0)),
                "__1_0.distcp: it does not begin with a piece",
            ),
            (
                "overwritten in part",
                |run| {
                    touch(run.join("step-100/.metadata"), 1000);
                    touch(run.join("step-100/__0_0.distcp"), 985);
                    touch(run.join("step-100/__1_0.distcp"), 1016);
                },
                "__1_0.distcp is newer than .metadata, others are older: it was overwritten in part (of a mere copy, touch .metadata)",
            ),
        ],
    );
}
