//! Tests of what is recorded of a name, on real files.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{
    CWD, FileType, IFlags, Mode, XattrFlags, fcntl_getfl, ioctl_getflags, ioctl_setflags, lsetxattr, makedev, mknodat,
    setxattr,
};

use super::*;
use crate::stages::fixture::{Walked, as_nobody, directory, is_root_or_skip, make, skip, walk_one};

/// The entry of what was walked at a path, without any problem.
fn complete_at(walked: &Walked, path: &Path) -> Entry {
    let mut problems = Vec::new();
    let entry = complete(walked.at(path), &Names::new(), None, &mut problems).unwrap();
    assert_eq!(problems, [], "{}", path.display());
    entry
}

/// Sets an attribute; false where the file system or the process cannot.
fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    let done = lsetxattr(path, name, value, XattrFlags::empty());
    if let Err(error) = done {
        skip(&format!("attribute {name} cannot be set here: {error}"));
    }
    done.is_ok()
}

#[test]
fn owners_names_are_asked_once_and_may_be_missing() {
    let names = Names::new();
    assert_eq!((names.user(0).as_deref(), names.group(0).as_deref()), (Some("root"), Some("root")));
    let unknown = 3_999_999_999;
    assert_eq!((names.user(unknown), names.group(unknown)), (None, None));
    assert_eq!(*lock(&names.users), HashMap::from([(0, Some("root".to_owned())), (unknown, None)]));
    assert_eq!(names.user(unknown), None);
}

#[test]
fn link_groups_are_for_inodes_with_several_names() {
    let (_held, root) = directory();
    make(&root, &["1", "2", "directory/inside/"]);
    fs::hard_link(root.join("1"), root.join("directory/again")).unwrap();
    let walked = walk_one(&root);
    let mut table = LinkTable::new();
    let mut group = |name: &str| table.group(&walked.at(&root.join(name)).stat);
    let first = group("1").unwrap();
    assert_eq!((group("directory/again"), first.device), (Some(first), 0));
    assert_eq!((group("2"), group("directory")), (None, None));
    // The same inode number on another file system is another inode; file systems are numbered as they appear.
    let mut elsewhere = walked.at(&root.join("1")).stat;
    elsewhere.device = (elsewhere.device.0, elsewhere.device.1 + 1);
    assert_eq!(table.group(&elsewhere), Some(LinkGroup { device: 1, inode: first.inode }));
    assert_eq!(table.group(&walked.at(&root.join("1")).stat), Some(first));
}

#[test]
fn every_kind_becomes_its_entry() {
    let (_held, root) = directory();
    make(&root, &["directory/"]);
    let long_target = "t/".repeat(2047);
    fs::write(root.join("file"), b"12345").unwrap();
    fs::set_permissions(root.join("file"), fs::Permissions::from_mode(0o6751)).unwrap();
    symlink(&long_target, root.join("link")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    if is_root_or_skip() {
        mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
        mknodat(CWD, root.join("disk"), FileType::BlockDevice, Mode::RUSR, makedev(259, 300)).unwrap();
    }
    let walked = walk_one(&root);
    let kind = |name: &str| complete_at(&walked, &root.join(name)).kind;
    assert_eq!(kind("directory"), Kind::Directory);
    assert_eq!((kind("pipe"), kind("socket")), (Kind::Fifo, Kind::Socket));
    if walked.get(&root.join("null")).is_some() {
        assert_eq!((kind("null"), kind("disk")), (Kind::CharDevice(1, 3), Kind::BlockDevice(259, 300)));
    }
    let link = complete_at(&walked, &root.join("link"));
    assert_eq!((link.kind, link.size), (Kind::Symlink(long_target.into_bytes()), 4094));
    let file = complete_at(&walked, &root.join("file"));
    assert_eq!((file.kind, file.size, file.mode), (Kind::File(Content::Inline(Vec::new())), 5, 0o6751));
    let stat = walked.at(&root.join("file")).stat;
    assert_eq!((file.mtime, file.inode, file.uid), (stat.mtime, stat.inode, stat.uid));
    assert_eq!(complete_at(&walked, Path::new("/")).kind, Kind::Directory);
}

#[test]
fn attributes_of_all_namespaces_on_all_kinds() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["file", "directory/"]);
    symlink("file", root.join("link")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    mknodat(CWD, root.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    for name in ["file", "directory", "link", "pipe", "null"] {
        let mut expected: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let user = matches!(name, "file" | "directory");
        let given = [("user.binary", &b"\0\xff\n"[..]), ("user.empty", b""), ("trusted.t", b"1"), ("security.s", b"2")];
        for (attribute, value) in given.into_iter().filter(|(attribute, _)| user || !attribute.starts_with("user.")) {
            if !set(&root.join(name), attribute, value) {
                return;
            }
            expected.push((attribute.into(), value.into()));
        }
        expected.sort();
        assert_eq!(complete_at(&walk_one(&root), &root.join(name)).xattrs, expected, "{name}");
    }
}

#[test]
fn many_and_long_attributes_need_more_than_one_try() {
    let (_held, root) = directory();
    make(&root, &["many", "long"]);
    for number in 0..60 {
        if !set(&root.join("many"), &format!("user.an attribute with a long name {number:03}"), b"v") {
            return;
        }
    }
    let value = vec![7; 3000];
    if !set(&root.join("long"), "user.long", &value) {
        return;
    }
    let walked = walk_one(&root);
    assert_eq!(complete_at(&walked, &root.join("many")).xattrs.len(), 60);
    assert_eq!(complete_at(&walked, &root.join("long")).xattrs, [(b"user.long".to_vec(), value)]);
}

#[test]
fn growing_has_an_end() {
    let mut asked = 0;
    let outcome = attributes::grow(|room| {
        asked = room.len();
        Err(Errno::RANGE)
    });
    assert_eq!((outcome, asked), (Err(Errno::RANGE), 16 << 20));
    let enough = attributes::grow(|room| if room.len() < 60_000 { Err(Errno::RANGE) } else { Ok(60_000) });
    assert_eq!(enough.map(|value| value.len()), Ok(60_000));
}

/// A POSIX ACL as the kernel stores it: version 2, then (tag, permissions, id) of user::rw-, user:1:r--, group::r--,
/// mask::r--, other::--- (acl(5), linux/posix_acl_xattr.h).
fn acl() -> Vec<u8> {
    const NO_ID: u32 = u32::MAX;
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [(1u16, 6u16, NO_ID), (2, 4, 1), (4, 4, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)] {
        bytes.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn acls_and_capabilities_are_attributes() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["file", "directory/"]);
    // CAP_NET_BIND_SERVICE, permitted and effective: struct vfs_cap_data of revision 2.
    let capability: Vec<u8> = [0x0200_0001u32, 1 << 10, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let given = [
        ("file", "security.capability", capability),
        ("file", "system.posix_acl_access", acl()),
        ("directory", "system.posix_acl_default", acl()),
    ];
    for (name, attribute, value) in &given {
        if !set(&root.join(name), attribute, value) {
            return;
        }
    }
    let walked = walk_one(&root);
    let xattrs = |name: &str| complete_at(&walked, &root.join(name)).xattrs;
    let pair = |place: usize| (given[place].1.as_bytes().to_vec(), given[place].2.clone());
    assert_eq!(xattrs("file"), [pair(0), pair(1)]);
    assert_eq!(xattrs("directory"), [pair(2)]);
}

#[test]
fn flags_that_can_be_restored() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["file", "directory/"]);
    let table = [("file", IFlags::NODUMP | IFlags::APPEND | IFlags::NOATIME), ("directory", IFlags::IMMUTABLE)];
    for (name, flags) in table {
        let file = File::open(root.join(name)).unwrap();
        // On ext4 these hold the extents flag, which says how the file lies on this disk and is not to be kept.
        let before = ioctl_getflags(&file).unwrap_or(IFlags::empty());
        if let Err(error) = ioctl_setflags(&file, before | flags) {
            return skip(&format!("inode flags cannot be set here: {error}"));
        }
        let walked = walk_one(&root);
        let entry = complete_at(&walked, &root.join(name));
        // Before anything is asserted, so that the directory can be removed.
        ioctl_setflags(&file, before).unwrap();
        assert_eq!(entry.flags, flags.bits(), "{name}");
        let known = (IFlags::APPEND | IFlags::IMMUTABLE | IFlags::NODUMP).bits();
        assert_eq!(walked.at(&root.join(name)).stat.attributes, flags.bits() & known);
    }
}

#[test]
fn what_an_ordinary_user_may_not_read_is_said() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["closed", "closed directory/"]);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["closed", "closed directory"] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        if !set(&root.join(name), "user.private", b"1") || !set(&root.join(name), "security.public", b"2") {
            return;
        }
    }
    as_nobody(|| {
        let walked = walk_one(&root);
        for name in ["closed", "closed directory"] {
            let mut problems = Vec::new();
            let entry = complete(walked.at(&root.join(name)), &Names::new(), None, &mut problems).unwrap();
            assert_eq!(entry.xattrs, [(b"security.public".to_vec(), b"2".to_vec())]);
            assert_eq!((problems.len(), problems[0].code), (1, "metadata"), "{problems:?}");
            assert!(problems[0].what.contains("user.private") && problems[0].subject.ends_with(name));
        }
        let closed = walked.at(&root.join("closed"));
        let error = open_file(closed).unwrap_err();
        assert_eq!(read_problem(closed, &error).code, "unreadable");
    });
}

#[test]
fn a_file_is_opened_only_if_it_is_still_that_file() {
    let (_held, root) = directory();
    make(&root, &["gone", "pipe", "link", "other", "same", "target"]);
    let walked = walk_one(&root);
    let found = |name: &str| walked.at(&root.join(name));
    for name in ["gone", "pipe", "link"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    symlink("target", root.join("link")).unwrap();
    fs::rename(root.join("target"), root.join("other")).unwrap();
    for (name, code) in [("gone", "vanished"), ("pipe", "changed"), ("link", "changed"), ("other", "changed")] {
        // The pipe has no writer: an open that waits for one would never return.
        let error = open_file(found(name)).unwrap_err();
        assert_eq!(read_problem(found(name), &error).code, code, "{name}");
    }
    let file = open_file(found("same")).unwrap();
    assert_eq!(stat_file(&file).unwrap(), found("same").stat);
    let own = rustix::process::geteuid();
    assert!(own.as_raw() != found("same").stat.uid || fcntl_getfl(&file).unwrap().contains(OFlags::NOATIME));
    let mut problems = Vec::new();
    let entry = complete_file(found("same"), &file, &Names::new(), None, &mut problems);
    assert_eq!(entry, complete_at(&walked, &root.join("same")));
    assert_eq!(problems, []);
}

#[test]
fn another_users_file_is_opened_although_its_access_time_will_change() {
    if !is_root_or_skip() {
        return;
    }
    let (_held, root) = directory();
    make(&root, &["file"]);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    as_nobody(|| {
        let walked = walk_one(&root);
        assert!(open_file(walked.at(&root.join("file"))).is_ok());
    });
}

#[test]
fn a_link_that_vanished_is_an_error_and_a_vanished_directory_a_problem() {
    let (_held, root) = directory();
    make(&root, &["directory/"]);
    symlink("target", root.join("link")).unwrap();
    let walked = walk_one(&root);
    fs::remove_file(root.join("link")).unwrap();
    fs::remove_dir(root.join("directory")).unwrap();
    let mut problems = Vec::new();
    let outcome = complete(walked.at(&root.join("link")), &Names::new(), None, &mut problems);
    assert!(matches!(outcome, Err(Error::File { .. })));
    assert!(complete(walked.at(&root.join("directory")), &Names::new(), None, &mut problems).is_ok());
    assert_eq!(problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["metadata"]);
}

#[test]
fn a_name_too_long_for_a_path_still_gives_its_attributes() {
    let (_held, root) = directory();
    let name = "n".repeat(255);
    let mut place = root.clone();
    // 15 x 256 bytes stay below PATH_MAX (4096), so that the attribute can be set by path.
    for _ in 0..14 {
        place.push(&name);
    }
    fs::create_dir_all(&place).unwrap();
    place.push(&name);
    fs::write(&place, b"").unwrap();
    if setxattr(&place, "user.deep", b"1", XattrFlags::empty()).is_err() {
        return skip("attributes cannot be set here");
    }
    // One name more in front of it all makes the path longer than any call takes.
    let top = root.join("m".repeat(255));
    fs::create_dir(&top).unwrap();
    fs::rename(root.join(&name), top.join(&name)).unwrap();
    let walked = walk_one(&root);
    let last = walked.found.iter().find(|found| found.stat.kind == StatKind::File).unwrap();
    assert!(last.key.0.len() > 4096);
    let mut problems = Vec::new();
    let entry = complete(last, &Names::new(), None, &mut problems).unwrap();
    assert_eq!((entry.xattrs, problems), (vec![(b"user.deep".to_vec(), b"1".to_vec())], vec![]));
}
