//! When an entry may be taken over without reading.

use std::sync::Arc;

use super::*;
use crate::crypto::Secret32;
use crate::format::slot::Unlock;
use crate::store::memory::MemoryStore;

const CHANGED_AT: Timestamp = Timestamp { seconds: 1000, nanos: 5 };
const READ_AT: Timestamp = Timestamp { seconds: 1002, nanos: 0 };

fn stat(kind: StatKind) -> Stat {
    Stat {
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 3,
        blocks: 8,
        mtime: Timestamp { seconds: 900, nanos: 1 },
        ctime: CHANGED_AT,
        btime: None,
        inode: 7,
        device: (8, 1),
        links: 1,
        rdev: (0, 0),
        attributes: 0,
    }
}

fn known(kind: Kind, stat: &Stat) -> Known {
    let entry = Entry {
        kind,
        mode: stat.mode,
        uid: stat.uid,
        gid: stat.gid,
        user: None,
        group: None,
        mtime: stat.mtime,
        ctime: stat.ctime,
        btime: stat.btime,
        size: stat.size,
        inode: stat.inode,
        links: None,
        xattrs: Vec::new(),
        flags: 0,
    };
    Known { entry, read_at: READ_AT, unfinished: false }
}

#[test]
fn only_what_is_complete_settled_stored_and_equal_is_taken_over() {
    let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
    let repository = Repository::init(Arc::new(MemoryStore::new()), &slots, None).unwrap();
    let stored = Stored { repository: &repository, session: None };
    let inline = || Kind::File(Content::Inline(b"abc".to_vec()));
    let missing = ChunkId([1; 32]);
    let later = |time: Timestamp| Timestamp { nanos: time.nanos + 1, ..time };

    type Change = Box<dyn Fn(&mut Known, &mut Stat)>;
    let cases: [(&str, bool, Change); 15] = [
        ("as it was", true, Box::new(|_, _| {})),
        ("more names: not its content", true, Box::new(|_, stat| stat.links = 2)),
        ("incomplete: its attributes could not be read", false, Box::new(|known, _| known.entry.inode = 0)),
        ("incomplete, on a file system without inode numbers", false, {
            Box::new(|known, stat| (known.entry.inode, stat.inode) = (0, 0))
        }),
        ("another inode", false, Box::new(|_, stat| stat.inode = 8)),
        ("another size", false, Box::new(|_, stat| stat.size = 4)),
        ("a nanosecond newer", false, Box::new(move |_, stat| stat.mtime = later(stat.mtime))),
        ("time put back", false, Box::new(move |_, stat| stat.ctime = later(stat.ctime))),
        ("changed just before it was read", false, Box::new(|known, _| known.read_at.seconds = 1001)),
        ("read at the beginning of time", false, Box::new(|known, _| known.read_at.seconds = i64::MIN)),
        ("another kind", false, Box::new(|_, stat| stat.kind = StatKind::Fifo)),
        ("a pipe that became a file", false, Box::new(|known, _| known.entry.kind = Kind::Fifo)),
        ("a chunk that is not stored", false, {
            let extents = vec![Extent::Hole { length: 1 }, Extent::Chunk { id: missing, length: 2 }];
            Box::new(move |known, _| known.entry.kind = Kind::File(Content::Extents(extents.clone())))
        }),
        ("a list that is not stored", false, {
            let content = Content::Indirect { depth: 1, id: missing, length: 2 };
            Box::new(move |known, _| known.entry.kind = Kind::File(content.clone()))
        }),
        ("only holes", true, {
            let extents = vec![Extent::Hole { length: 3 }];
            Box::new(move |known, _| known.entry.kind = Kind::File(Content::Extents(extents.clone())))
        }),
    ];
    for (case, wanted, change) in cases {
        for unfinished in [false, true] {
            let mut stat = stat(StatKind::File);
            let mut known = Known { unfinished, ..known(inline(), &stat) };
            change(&mut known, &mut stat);
            assert_eq!(is_unchanged(&known, &stat, &stored), wanted, "{case}, unfinished: {unfinished}");
        }
    }
}

#[test]
fn devices_are_always_looked_at_anew() {
    let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
    let repository = Repository::init(Arc::new(MemoryStore::new()), &slots, None).unwrap();
    let stored = Stored { repository: &repository, session: None };
    for (kind, stat_kind, wanted) in [
        (Kind::Directory, StatKind::Directory, true),
        (Kind::Symlink(b"abc".to_vec()), StatKind::Symlink, true),
        (Kind::Socket, StatKind::Socket, true),
        (Kind::CharDevice(1, 3), StatKind::CharDevice, false),
        (Kind::BlockDevice(8, 1), StatKind::BlockDevice, false),
    ] {
        let stat = stat(stat_kind);
        assert_eq!(is_unchanged(&known(kind, &stat), &stat, &stored), wanted, "{stat_kind:?}");
    }
}
