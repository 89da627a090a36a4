//! When an entry may be taken over without reading; and that the names of an inode never get another file's content.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::backup::files::Queues;
use crate::crypto::Secret32;
use crate::entry::TableRef;
use crate::format::slot::Unlock;
use crate::ids::SnapshotId;
use crate::monitor::Silent;
use crate::repo::parent::EntriesFile;
use crate::stages::walk::{WalkOptions, walk};
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
        table: None,
    };
    Known { entry, read_at: READ_AT, unfinished: false, only_base: false }
}

#[test]
fn only_what_is_complete_settled_stored_and_equal_is_taken_over() {
    let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
    let repository = Repository::init(Arc::new(MemoryStore::new()), &slots, None).unwrap();
    let stored = Stored { repository: &repository, session: None, parent: None };
    let inline = || Kind::File(Content::Inline(b"abc".to_vec()));
    let missing = ChunkId([1; 32]);
    let later = |time: Timestamp| Timestamp { nanos: time.nanos + 1, ..time };

    type Change = Box<dyn Fn(&mut Known, &mut Stat)>;
    let cases: [(&str, bool, Change); 17] = [
        ("as it was", true, Box::new(|_, _| {})),
        ("more names: not its content", true, Box::new(|_, stat| stat.links = 2)),
        ("incomplete: its attributes could not be read", false, Box::new(|known, _| known.entry.inode = 0)),
        ("incomplete, on a file system without inode numbers", false, {
            Box::new(|known, stat| (known.entry.inode, stat.inode) = (0, 0))
        }),
        ("a snapshot that somebody else signed", false, Box::new(|known, _| known.only_base = true)),
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
        ("a tensor table that is not stored", false, {
            Box::new(move |known, _| known.entry.table = Some(TableRef { id: missing, length: 2 }))
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
    let stored = Stored { repository: &repository, session: None, parent: None };
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

/// What the walk finds under these names now.
fn find(source: &Path, names: &[&str]) -> Vec<Event> {
    let mut events = Vec::new();
    let options = WalkOptions { sources: vec![source.to_path_buf()], ..WalkOptions::default() };
    walk(&options, &mut |event| {
        if let Event::Found(found) = &event
            && names.iter().any(|name| found.key == TreeKey::from_path(&source.join(name)).unwrap())
        {
            events.push(event);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(events.len(), names.len());
    events
}

/// What `feed` does with an assembler, and a worker beside it; gives the written entries by name.
fn assemble(feed: impl FnOnce(&mut Assembler<'_, '_>)) -> BTreeMap<Vec<u8>, Entry> {
    let slots = [(Unlock::KeyFile(Secret32::random()), "test".to_owned())];
    let directory = tempfile::tempdir().unwrap();
    let cache = Some(directory.path().to_path_buf());
    let repository = Repository::init(Arc::new(MemoryStore::new()), &slots, cache).unwrap();
    let session = Session::begin(&repository, MIB).unwrap();
    let (end, ended) = crossbeam_channel::bounded(0);
    let run = Run::new(&session, &repository, &Silent, (None, None), Queues::new(1, 8 * MIB), ended);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| Worker::new(&run).work());
        let name = SourceName::new("host", &[]);
        let mut assembler = Assembler::new(&run, Parent::default(), &name, READ_AT, false);
        feed(&mut assembler);
        let (_, _, entries) = assembler.finish().unwrap();
        entries.unwrap().commit(&SnapshotId([1; 16]));
        drop(end);
        worker.join().unwrap();
    });
    let listing = fs::read_dir(repository.cache().entries_directory().unwrap()).unwrap();
    let path = listing.map(|item| item.unwrap().path()).next().unwrap();
    let (entries, _) = EntriesFile::read(fs::File::open(path).unwrap()).unwrap();
    entries.map(|(key, entry)| (key.name().to_vec(), entry)).collect()
}

/// Makes a file with this content whose inode has the number `inode`, which is free. False where the file system does not
/// use numbers again.
fn make_with_inode(path: &Path, inode: u64, content: &[u8], others: &Path) -> bool {
    for number in 0..2000 {
        fs::write(path, content).unwrap();
        if fs::metadata(path).unwrap().ino() == inode {
            return true;
        }
        fs::rename(path, others.join(number.to_string())).unwrap();
    }
    fs::write(path, content).unwrap();
    println!("skipped: this file system does not use the numbers of inodes again");
    false
}

/// `first` and `second` are one file, then both go and others get its inode: after the first was read, or before that
/// but after both were found.
#[test]
fn a_name_never_gets_the_content_of_a_file_that_had_its_inode_before() {
    for read_before in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().canonicalize().unwrap();
        let others = tempfile::tempdir().unwrap();
        let at = |name: &str| source.join(name);
        fs::write(at("first"), b"an old text").unwrap();
        fs::hard_link(at("first"), at("second")).unwrap();
        let old = fs::metadata(at("first")).unwrap();
        // As long and as old as the first: nothing but its birth tells that it is another file.
        let replace = |name: &str| {
            fs::remove_file(at("first")).unwrap();
            fs::remove_file(at("second")).unwrap();
            let made = make_with_inode(&at(name), old.ino(), b"a new file.", others.path());
            fs::File::options().write(true).open(at(name)).unwrap().set_modified(old.modified().unwrap()).unwrap();
            fs::hard_link(at(name), at(&format!("{name} too"))).unwrap();
            made
        };
        let mut reused = true;
        let written = assemble(|assembler| {
            if read_before {
                find(&source, &["first"]).into_iter().for_each(|event| assembler.event(event).unwrap());
                while !assembler.pending.is_empty() {
                    assembler.wait().unwrap();
                }
                reused = replace("second");
                let found = find(&source, &["second", "second too"]);
                found.into_iter().for_each(|event| assembler.event(event).unwrap());
            } else {
                let found = find(&source, &["first", "second"]);
                reused = replace("first");
                fs::write(at("second"), b"yet another").unwrap();
                found.into_iter().for_each(|event| assembler.event(event).unwrap());
            }
        });
        if !reused || old.created().is_err() {
            return;
        }
        let content =
            |name: &str| written.get(name.as_bytes()).map(|entry| (entry.kind.clone(), entry.links.is_some()));
        let inline = |text: &[u8]| Kind::File(Content::Inline(text.to_vec()));
        if read_before {
            assert_eq!(content("first"), Some((inline(b"an old text"), true)));
            assert_eq!(content("second"), Some((inline(b"a new file."), false)), "no link of the first");
            assert_eq!(content("second too"), Some((inline(b"a new file."), false)));
        } else {
            // The second name is another inode by now: that is a problem of the report, and not the first's content.
            assert_eq!(content("first"), Some((inline(b"a new file."), false)));
            assert_eq!(content("second"), None);
        }
    }
}
