//! Which names share a group, and how much is remembered of them.

use super::*;
use crate::stages::walk::StatKind;

const EARLY: Timestamp = Timestamp { seconds: 900, nanos: 1 };
const LATE: Timestamp = Timestamp { seconds: 900, nanos: 2 };

fn stat(inode: u64, links: u32) -> Stat {
    Stat {
        kind: StatKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        size: 3,
        blocks: 8,
        mtime: EARLY,
        ctime: EARLY,
        btime: Some(EARLY),
        inode,
        device: (8, 1),
        links,
        rdev: (0, 0),
        attributes: 0,
    }
}

fn entry(stat: &Stat, attribute_bytes: usize) -> Entry {
    Entry {
        kind: Kind::File(Content::Inline(b"abc".to_vec())),
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
        xattrs: vec![(b"user.x".to_vec(), vec![7; attribute_bytes])],
        flags: 0,
        table: None,
    }
}

/// Meets the first name of an inode that is read.
fn first(links: &mut HardLinks, stat: &Stat) -> LinkGroup {
    let group = links.group(stat).unwrap();
    links.met(group, stat, true);
    group
}

#[test]
fn an_inode_number_that_is_used_again_makes_no_link() {
    let plain = stat(7, 2);
    let unborn = Stat { btime: None, ..plain };
    for (case, before, after, linked) in [
        ("the same", plain, plain, true),
        ("written to meanwhile", plain, Stat { size: 4, mtime: LATE, ctime: LATE, ..plain }, true),
        ("another file, as long and as old", plain, Stat { btime: Some(LATE), ..plain }, false),
        ("no births, the same", unborn, unborn, true),
        ("no births, another time", unborn, Stat { mtime: LATE, ..unborn }, false),
        ("no births, another length", unborn, Stat { size: 4, ..unborn }, false),
    ] {
        for read in [true, false] {
            let mut links = HardLinks::default();
            let group = links.group(&before).unwrap();
            links.met(group, &before, read);
            assert_eq!(links.is_read(group), read);
            assert_eq!(links.group(&after).is_some(), linked, "{case}, read: {read}");
            links.one_name_less(group);
            assert_eq!(links.group(&after).is_some(), linked, "{case}, after its last name");
        }
    }
    let mut links = HardLinks::default();
    assert_eq!(links.group(&stat(7, 1)), None, "an only name");
}

#[test]
fn an_entry_that_was_read_from_another_file_is_not_taken_over() {
    let found = Stat { btime: None, ..stat(7, 2) };
    for (read, same) in [(found, true), (Stat { size: 4, ..found }, false), (Stat { mtime: LATE, ..found }, false)] {
        let mut links = HardLinks::default();
        let group = first(&mut links, &found);
        let kept = entry(&read, 0);
        links.keep(group, &kept);
        assert_eq!(links.first(group, &found), if same { First::Same(&kept) } else { First::OtherFile });
    }
}

#[test]
fn what_is_remembered_of_entries_is_bounded_by_bytes() {
    let mut links = HardLinks::default();
    let stats: Vec<Stat> = (0..100).map(|inode| stat(inode, 3)).collect();
    let groups: Vec<LinkGroup> = stats.iter().map(|stat| first(&mut links, stat)).collect();
    for (stat, group) in stats.iter().zip(&groups) {
        links.keep(*group, &entry(stat, MIB));
        links.keep(*group, &entry(stat, MIB));
    }
    let kept = stats.iter().zip(&groups).filter(|(stat, group)| links.first(**group, stat) != First::Unknown).count();
    assert_eq!(kept, 15, "sixteen of a mebibyte and a little do not fit");
    let held: usize = links.inodes.values().filter_map(|inode| inode.entry.as_deref()).map(weight).sum();
    assert!(links.entries_bytes == held && held <= ENTRIES_BYTES_MAX, "{held}");
    for group in &groups {
        links.one_name_less(*group);
        assert!(links.inodes.contains_key(group), "one name is still to come");
        links.one_name_less(*group);
    }
    assert_eq!((links.entries_bytes, links.inodes.len()), (0, 0));
    let group = first(&mut links, &stats[99]);
    links.keep(group, &entry(&stats[99], MIB));
    assert_eq!(links.first(group, &stats[99]), First::Same(&entry(&stats[99], MIB)), "there is room again");
}

#[test]
fn more_groups_than_are_remembered_stay_links() {
    let mut links = HardLinks::default();
    for inode in 0..GROUPS_MAX as u64 + 10 {
        first(&mut links, &stat(inode, 2));
    }
    assert_eq!(links.inodes.len(), GROUPS_MAX);
    for inode in 0..GROUPS_MAX as u64 {
        let group = links.group(&stat(inode, 2)).unwrap();
        links.one_name_less(group);
    }
    for inode in 0..GROUPS_MAX as u64 {
        let group = first(&mut links, &stat(GROUPS_MAX as u64 + inode, 2));
        links.one_name_less(group);
    }
    assert!(links.finished.len() <= GROUPS_MAX && links.inodes.is_empty());
    let links = &mut HardLinks::default();
    for inode in 0..GROUPS_MAX as u64 {
        first(links, &stat(inode, 2));
    }
    let beyond = links.group(&stat(GROUPS_MAX as u64 + 5, 2)).unwrap();
    assert!(!links.is_read(beyond));
    links.keep(beyond, &entry(&stat(1, 2), 0));
    assert!(links.first(beyond, &stat(1, 2)) == First::Unknown && links.entries_bytes == 0);
}
