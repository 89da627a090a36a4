//! Chunks and parts of the tree that can't be read: the rest comes back, the report names what did not, and what stood
//! in the target is neither lost nor half overwritten.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn id_of(plain: &[u8]) -> ChunkId {
    ChunkId(*blake3::hash(plain).as_bytes())
}

#[test]
fn a_missing_chunk_costs_the_files_that_need_it() {
    let place = Place::new();
    fs::write(place.path("target/b"), b"old").unwrap();
    let mut made = Made::new();
    made.push_file("a", &[b"shared", b"gone"]);
    made.push_file("b", &[b"gone"]);
    made.push_file("c", &[b"shared"]);
    made.push("d", file("inline"));
    made.missing = vec![id_of(b"gone")];
    let (report, heard) = place.run(&made, RestoreOptions::default());
    assert_eq!(report.unwrap().files, 2);
    assert_eq!(place.target(), expect([("b", "file old"), ("c", "file shared"), ("d", "file inline")]));
    assert_eq!(heard.problems(), [("missing", "/a".to_owned()), ("missing", "/b".to_owned())]);
}

#[test]
fn a_damaged_chunk_costs_the_files_that_need_it() {
    let place = Place::new();
    let mut made = Made::new();
    made.push_file("a", &[b"whole", b"hit"]);
    made.push_file("b", &[b"whole"]);
    let at = made.places[&id_of(b"hit")].offset as usize + BLOB_HEADER_BYTES;
    made.pack[at] ^= 1;
    let (report, heard) = place.run(&made, RestoreOptions::default());
    assert_eq!((report.unwrap().files, place.target()), (1, expect([("b", "file whole")])));
    assert_eq!(heard.problems(), [("damaged", "/a".to_owned())]);
}

#[test]
fn a_chunk_that_the_index_does_not_know_is_asked_for_by_its_id() {
    let place = Place::new();
    let mut made = Made { unindexed: true, ..Made::new() };
    made.push_file("a", &[b"one", b"two", b"one"]);
    let report = place.run(&made, RestoreOptions::default()).0.unwrap();
    assert_eq!((report.files, report.bytes, place.target()), (1, 9, expect([("a", "file onetwoone")])));
}

#[test]
fn an_unreadable_part_of_the_tree_costs_what_it_names() {
    let place = Place::new();
    for stray in ["stray", "b/stray", "c/stray"] {
        fs::create_dir_all(place.path("target").join(stray)).unwrap();
    }
    let mut made = Made::new();
    made.push("a", file("before"));
    made.push("b", directory());
    made.tree.push(None);
    // The directories d and d/e were named in the lost part.
    made.push("b/z", file("after"));
    made.push("c", directory());
    made.push("c/x", file("whole"));
    made.push("d/e/f", file("below"));
    let (report, heard) = place.run(&made, RestoreOptions { delete: true, ..RestoreOptions::default() });
    let report = report.unwrap();
    // In c nothing is unknown; in the root and in b, what seems to be a stray may have been named in the lost part.
    assert_eq!((report.files, report.deleted, report.problems), (4, 1, 1));
    let files = [("a", "file before"), ("b/z", "file after"), ("c/x", "file whole"), ("d/e/f", "file below")];
    let mut wanted = expect(files);
    for name in ["b", "b/stray", "c", "d", "d/e", "stray"] {
        wanted.insert(name.to_owned(), "directory".to_owned());
    }
    assert_eq!(place.target(), wanted);
    assert_eq!(heard.problems()[0].0, "damaged");
}

#[test]
fn a_tree_of_which_nothing_can_be_read_is_an_error() {
    let made = Made { tree: vec![None, None], ..Made::default() };
    assert!(matches!(Place::new().run(&made, RestoreOptions::default()).0, Err(Error::Damaged(_))));
}

#[test]
fn stopping_leaves_no_unfinished_files() {
    struct Impatient(AtomicUsize);
    impl Monitor for Impatient {
        fn stopped(&self) -> bool {
            self.0.fetch_add(1, Ordering::Relaxed) > 700
        }
    }
    let place = Place::new();
    let mut made = Made::new();
    let large = vec![7; 2 << 20];
    for number in 0..600 {
        made.push_file(&format!("file {number:03}"), &[&large, format!("own {number}").as_bytes()]);
    }
    let options = RestoreOptions { target: place.path("target"), threads: 2, ..RestoreOptions::default() };
    let result = restore_from(&made, &options, &Impatient(0.into()));
    assert!(matches!(result, Err(Error::Interrupted)));
    let unfinished = look(&place.path("target")).into_keys().filter(|name| name.starts_with(".seawall"));
    assert_eq!(unfinished.count(), 0);
}
