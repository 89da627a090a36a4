//! Large files, past the page cache and through it: whatever their length, their holes and the order of their pieces.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::clock::Timestamp;
use crate::entry::{Content, Kind};
use crate::stages::target::metadata::OwnerBy;
use crate::units::MIB;

const LEAST: u64 = DIRECT_FILE_BYTES_MIN;
const PIECE: u64 = 1_000_003;

fn plan(directory: &Path, size: u64, replace: bool) -> FilePlan {
    let entry = Entry {
        kind: Kind::File(Content::Inline(Vec::new())),
        mode: 0o644,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        user: None,
        group: None,
        mtime: Timestamp { seconds: 1_500_000_000, nanos: 0 },
        ctime: Timestamp::default(),
        btime: None,
        size,
        inode: 0,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
        table: None,
    };
    let directory = Arc::new(Directory::open_root(directory).unwrap());
    FilePlan { key: TreeKey(b"file".to_vec()), entry, directory, replace, clears: false }
}

fn content(size: u64, holes: &[std::ops::Range<u64>]) -> Vec<u8> {
    let mut all: Vec<u8> = (0..size).map(|place| u8::try_from(place % 253).unwrap() | 1).collect();
    for hole in holes {
        all[usize::try_from(hole.start).unwrap()..usize::try_from(hole.end.min(size)).unwrap()].fill(0);
    }
    all
}

/// The pieces outside of holes.
fn pieces(size: u64, holes: &[std::ops::Range<u64>]) -> Vec<std::ops::Range<u64>> {
    let (mut list, mut at) = (Vec::new(), 0);
    while at < size {
        if let Some(hole) = holes.iter().find(|hole| hole.contains(&at)) {
            at = hole.end;
            continue;
        }
        let hole = holes.iter().map(|hole| hole.start).filter(|&start| start > at).min();
        let end = (at + PIECE).min(size).min(hole.unwrap_or(size));
        list.push(at..end);
        at = end;
    }
    list
}

/// Writes a file from three threads; where `refused_from` says so, each later piece comes from memory that is refused.
fn write(place: &Path, size: u64, holes: &[std::ops::Range<u64>], replace: bool, refused_from: usize) -> bool {
    let all = content(size, holes);
    let file = TargetFile::new(plan(place, size, replace), &OpenFiles::new(4));
    let pieces = pieces(size, holes);
    pieces.iter().for_each(|_| file.claim());
    let (work, count) = (Mutex::new(pieces.iter().enumerate()), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let (mut good, mut bad) = (Scratch::default(), Scratch::misaligned());
                loop {
                    let next = work.lock().unwrap().next();
                    let Some((number, piece)) = next else { break };
                    let scratch = if number < refused_from { &mut good } else { &mut bad };
                    let bytes = &all[usize::try_from(piece.start).unwrap()..usize::try_from(piece.end).unwrap()];
                    file.write(bytes, piece.start, scratch).unwrap();
                    assert!(!file.release());
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(count.into_inner(), pieces.len());
    let direct = matches!(file.lock().direct, Direct::Open(_));
    assert!(file.release());
    file.finish(&Owners::new(OwnerBy::Number), &|_, _| unreachable!()).unwrap().unwrap();
    let path = place.join("file");
    assert!(fs::read(&path).unwrap() == all, "size {size}, holes {holes:?}, refused from {refused_from}");
    direct
}

#[test]
fn any_length_comes_back() {
    let place = tempfile::tempdir().unwrap();
    for size in [LEAST - 1, LEAST, LEAST + 1, LEAST + 4095, LEAST + 4096, LEAST + 4097, 3 * LEAST + 511] {
        let direct = write(place.path(), size, &[], true, usize::MAX);
        assert!(size >= LEAST || !direct, "{size} bytes are too few");
    }
}

#[test]
fn an_older_longer_file_is_replaced_whole() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("file");
    for size in [LEAST - 1, LEAST + 77] {
        fs::write(&path, vec![0xee; 2 * usize::try_from(LEAST).unwrap()]).unwrap();
        let old = fs::metadata(&path).unwrap().ino();
        write(place.path(), size, &[], true, usize::MAX);
        assert_ne!(fs::metadata(&path).unwrap().ino(), old, "it is another file");
    }
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "a list of holes, of which some have one")]
fn holes_stay_holes() {
    let place = tempfile::tempdir().unwrap();
    let mib = MIB as u64;
    for holes in [
        vec![0..4 * mib],
        vec![mib + 5..6 * mib + 7],
        vec![4096..8192, 2 * mib..5 * mib, 9 * mib..LEAST + 2 * mib],
        vec![3 * mib..LEAST + 2 * mib + 9],
    ] {
        let size = LEAST + 2 * mib + 9;
        write(place.path(), size, &holes, true, usize::MAX);
        let stat = fs::metadata(place.path().join("file")).unwrap();
        let whole: u64 = holes.iter().map(|hole| hole.end.min(size) - hole.start).sum();
        // A file system may keep a block at each end of a hole, and some of its own.
        assert!(stat.blocks() * 512 <= size - whole + 16 * 8192, "{holes:?}: {} blocks", stat.blocks());
    }
}

#[test]
fn refused_at_any_piece_it_goes_on_through_the_cache() {
    let memory = Path::new("/dev/shm");
    let place = tempfile::tempdir().unwrap();
    let in_memory = if memory.is_dir() { tempfile::tempdir_in(memory).ok() } else { None };
    for place in [Some(&place), in_memory.as_ref()].into_iter().flatten() {
        let size = LEAST + 12_345;
        for refused_from in [0, 1, 4, 7, usize::MAX] {
            write(place.path(), size, &[], true, refused_from);
        }
    }
}

#[test]
fn many_tiny_holes_go_through_the_cache() {
    let place = tempfile::tempdir().unwrap();
    let holes: Vec<_> = (0..1500).map(|number| number * 4096 + 9..number * 4096 + 4090).collect();
    let direct = write(place.path(), LEAST + 5, &holes, true, usize::MAX);
    assert!(!direct, "more blocks waited than may");
}

#[test]
fn a_failure_leaves_nothing_and_is_told_once() {
    let place = tempfile::tempdir().unwrap();
    let file = TargetFile::new(plan(place.path(), 1 << 62, false), &OpenFiles::new(4));
    let mut scratch = Scratch::default();
    // No file system takes a piece there: beyond the largest file, or beyond the disk.
    let far = (1 << 62) - 8192;
    file.write(&[1; 8192], 0, &mut scratch).unwrap();
    assert!(file.write(&[1; 8192], far, &mut scratch).is_err());
    file.write(&[1; 8192], far, &mut scratch).unwrap();
    assert!(file.finish(&Owners::new(OwnerBy::Number), &|_, _| unreachable!()).unwrap().is_none());
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn an_unfinished_file_is_locked_also_after_it_was_closed() {
    let place = tempfile::tempdir().unwrap();
    let file = TargetFile::new(plan(place.path(), LEAST, true), &OpenFiles::new(4));
    file.write(b"begin", 0, &mut Scratch::default()).unwrap();
    let temporary = fs::read_dir(place.path()).unwrap().next().unwrap().unwrap().path();
    let is_locked = || {
        let other = fs::File::open(&temporary).unwrap();
        rustix::fs::flock(&other, rustix::fs::FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
    };
    assert!(is_locked());
    file.lock().close();
    assert!(!is_locked());
    file.write(b"end", LEAST - 3, &mut Scratch::default()).unwrap();
    assert!(is_locked());
    drop(file);
    assert!(!temporary.exists());
}
