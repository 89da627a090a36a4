#!/usr/bin/env python3
"""Reads a Seawall repository without Seawall.

An independent reader of the stored format, version 1: it proves docs/format.md, from which alone it was written, and it
gets data back where no Seawall binary runs. It lists the snapshots of a repository directory, restores one, or checks
everything that is stored. It never writes to the repository. The format is in seawall_reader.py beside this file.

With --without-index it does not trust the index: it finds the blobs through the footers of the packs, and where a footer
is damaged, through the headers of the blobs themselves. A restore goes on past damage: what is lost is named on standard
error, lost pieces of files read as zeros, and the exit code is 13.

Needs Python 3.9.2 and the packages of tools/requirements.txt. Memory: about 200 bytes a chunk of the repository.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import getpass
import io
import os
import resource
import stat
import struct
import sys
from pathlib import Path
from typing import Iterator

from blake3 import blake3

import seawall_reader as reader
from seawall_reader import FAILED, MALFORMED, USAGE, Blobs, Damage, Failure, Key, Log, Report, Store
from seawall_reader import extents, need, show, split, walk

FILE, DIRECTORY, SYMLINK, FIFO, SOCKET, CHARACTER, BLOCK = range(7)
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602


# What only some kinds of entries may have (field: kinds).
ONLY = {16: (CHARACTER, BLOCK), 17: (SYMLINK,), 18: (FILE,), 19: (FILE,), 20: (FILE,), 21: (FILE,)}


def check_entry(kind: int, entry: dict) -> None:
    need(FILE <= kind <= BLOCK, f"kind {kind} needs a newer reader")
    need(all(kind in ONLY.get(field, (kind,)) for field in entry), "a field that this kind does not have")
    need(sum(field in entry for field in (18, 19, 20)) <= 1, "several contents")
    need(entry.get(3, 0) <= 0o7777, "a strange mode")
    need(all(0 <= entry[field][1] < 10**9 for field in (8, 9, 10) if field in entry), "a strange time")


def content(blobs: Blobs, entry: dict) -> Iterator[tuple[int, bytes | None, int]]:
    """The pieces of a file that has no inline content (place, chunk id or None, length); they must make up its size."""
    size, place = entry.get(11, 0), 0
    for piece, length in extents(blobs, entry):
        need(place + length <= size, "content beyond the size")
        yield place, piece, length
        place += length
    need(place == size, "content shorter than the size")


class Restore:
    """Writes a tree below a new directory, which becomes the snapshot's root.

    Every step is relative to an open directory that this run made, and follows no link, so nothing is written outside.
    Directories get their metadata when all below them is written; inode flags come last of all.
    """

    def __init__(self, blobs: Blobs, target: str, report: Report):
        self.blobs, self.report, self.root = blobs, report, os.geteuid() == 0
        os.makedirs(target, 0o700, exist_ok=True)
        if os.listdir(target):
            raise Failure(USAGE, f"{target} is not empty")
        self.stack: list[tuple[list[bytes], int, dict | None]] = [
            ([], os.open(target, os.O_RDONLY | os.O_DIRECTORY), None)
        ]
        self.links: dict[tuple, list[bytes]] = {}
        self.damaged_links: set[tuple] = set()
        self.flagged: list[tuple[list[bytes], int]] = []
        self.files = self.bytes = 0

    def run(self, entries: Iterator[tuple[bytes, dict]]) -> None:
        for key, entry in entries:
            try:
                self.place(split(key), entry)
            except MALFORMED as error:
                self.lose(split(key), entry, error)
            except OSError as error:
                self.report.problem(show(key), error)
        while len(self.stack) > 1:
            self.leave()
        for path, flags in reversed(self.flagged):
            self.set_flags(path, flags)
        self.finish_directory(*self.stack[0])

    def place(self, path: list[bytes], entry: dict) -> None:
        while len(self.stack) > 1 and self.stack[-1][0] != path[: len(self.stack[-1][0])]:
            self.leave()
        if not path:
            self.stack[0] = ([], self.stack[0][1], entry)
            return
        while len(self.stack[-1][0]) < len(path) - 1:
            self.enter(path[: len(self.stack[-1][0]) + 1], None)
        kind = entry.get(2, FILE)
        check_entry(kind, entry)
        if kind == DIRECTORY:
            self.enter(path, entry)
            return
        if not self.link(path, entry):
            self.create(self.stack[-1][1], path, kind, entry)
        self.files += 1

    def lose(self, path: list[bytes], entry: dict, why: object) -> None:
        """Reports damage to a file, which is damage to all its names."""
        self.report.damage(show(b"\0".join(path)), why)
        if 13 in entry:
            self.damaged_links.add(tuple(entry[13]))

    def enter(self, path: list[bytes], entry: dict | None) -> None:
        parent = self.stack[-1][1]
        os.mkdir(path[-1], 0o700, dir_fd=parent)
        self.stack.append((path, os.open(path[-1], os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent), entry))

    def leave(self) -> None:
        path, directory, entry = self.stack.pop()
        self.finish_directory(path, directory, entry)
        os.close(directory)

    def finish_directory(self, path: list[bytes], directory: int, entry: dict | None) -> None:
        if entry is not None:
            self.apply(path, entry, directory)

    def open_parent(self, path: list[bytes]) -> int:
        parent = os.dup(self.stack[0][1])
        for name in path[:-1]:
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
            os.close(parent)
            parent = below
        return parent

    def link(self, path: list[bytes], entry: dict) -> bool:
        """True if the entry is a further name of a file that is already there."""
        if 13 not in entry:
            return False
        first = self.links.setdefault(tuple(entry[13]), path)
        if first is path:
            return False
        parent = self.open_parent(first)
        try:
            os.link(first[-1], path[-1], src_dir_fd=parent, dst_dir_fd=self.stack[-1][1], follow_symlinks=False)
        finally:
            os.close(parent)
        if tuple(entry[13]) in self.damaged_links:
            same = show(b"\0".join(first))
            self.report.damage(show(b"\0".join(path)), f"the same file as {same}")
        return True

    def create(self, parent: int, path: list[bytes], kind: int, entry: dict) -> None:
        name, major_minor = path[-1], entry.get(16, (0, 0))
        if kind == FILE:
            self.create_file(parent, path, entry)
            return
        if kind == SYMLINK:
            os.symlink(entry.get(17, b""), name, dir_fd=parent)
        elif kind == FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            form = {SOCKET: stat.S_IFSOCK, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}[kind]
            os.mknod(name, form | 0o600, os.makedev(*major_minor), dir_fd=parent)
        self.apply(path, entry, None, parent)

    def create_file(self, parent: int, path: list[bytes], entry: dict) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = os.open(path[-1], flags, 0o600, dir_fd=parent)
        try:
            if 18 in entry:
                need(len(entry[18]) == entry.get(11, 0), "inline content of another length than the size")
                write_at(file, 0, entry[18])
            else:
                self.write_pieces(file, path, entry)
            self.bytes += entry.get(11, 0)
        finally:
            self.apply(path, entry, file)
            os.close(file)

    def write_pieces(self, file: int, path: list[bytes], entry: dict) -> None:
        os.ftruncate(file, entry.get(11, 0))
        for place, piece, length in content(self.blobs, entry):
            if piece is None:
                continue
            try:
                data = self.blobs.read(piece)
                need(len(data) == length, "a chunk of another length")
            except Damage as error:
                self.lose(path, entry, f"bytes {place} to {place + length} are lost: {error}")
                continue
            write_at(file, place, data)

    def apply(self, path: list[bytes], entry: dict, open_file: int | None, parent: int | None = None) -> None:
        """Metadata in the order in which it does not undo itself: owner, xattrs, mode, times."""
        link = entry.get(2, FILE) == SYMLINK
        shown = show(b"\0".join(path))
        where = {} if open_file is not None else {"dir_fd": parent}
        handle = open_file if open_file is not None else path[-1]
        follow = {} if open_file is not None else {"follow_symlinks": False}
        full = open_file if open_file is not None else b"/proc/self/fd/%d/%s" % (parent, path[-1])
        if self.root:
            self.attempt(shown, os.chown, handle, entry.get(4, 0), entry.get(5, 0), **where, **follow)
        for name, value in entry.get(14, []):
            self.attempt(f"{shown} ({name!r})", os.setxattr, full, name, value, **follow)
        if not link:
            self.attempt(shown, os.chmod, handle, entry.get(3, 0), **where)
        seconds, nanoseconds = entry.get(8, (0, 0))
        time = seconds * 10**9 + nanoseconds
        self.attempt(shown, os.utime, handle, ns=(time, time), **where, **follow)
        if entry.get(15):
            self.flagged.append((path, entry[15]))

    def attempt(self, what: str, act, *arguments, **named) -> None:
        try:
            act(*arguments, **named)
        except OSError as error:
            self.report.problem(what, f"{act.__name__}: {error.strerror}")

    def set_flags(self, path: list[bytes], flags: int) -> None:
        try:
            parent = self.open_parent(path)
            file = os.open(path[-1] if path else b".", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
            os.close(parent)
            try:
                # Why: others, such as ext4's EXTENTS, belong to the new file and must stay as they are.
                own = struct.unpack("l", fcntl.ioctl(file, FS_IOC_GETFLAGS, bytes(struct.calcsize("l"))))[0]
                fcntl.ioctl(file, FS_IOC_SETFLAGS, struct.pack("l", own | flags))
            finally:
                os.close(file)
        except OSError as error:
            self.report.problem(show(b"\0".join(path)), f"inode flags {flags:#x}: {error.strerror}")


def write_at(file: int, place: int, data: bytes) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


# ---- Commands ----


class Repository:
    def __init__(self, options: argparse.Namespace, report: Report):
        self.store, self.report = Store(options.repository), report
        marker = reader.read_marker(self.store, report)
        repository = marker.get("repository") or reader.repository_of_packs(self.store)
        rings = reader.open_rings(self.store, read_key(options), report, repository)
        self.ring, self.log = self.choose(rings)
        wanted, found = options.expect, (self.log.fingerprint or b"").hex()
        if wanted and wanted.strip().lower() != found:
            raise Failure(FAILED, f"substituted: the repository here has the fingerprint {found or 'that is lost'}")
        self.blobs = Blobs(self.store, self.ring, self.log.data_secrets())

    def choose(self, rings: list[dict]) -> tuple[dict, Log]:
        """The first ring that is the one of a member of the log. What is wrong with the log is reported once."""
        for ring in rings if len(rings) > 1 else []:
            with contextlib.redirect_stderr(io.StringIO()):
                log = Log(self.store, ring, Report())
            if log.fits(ring):
                rings = [ring]
                break
        log = Log(self.store, rings[0], self.report)
        if not log.knows(rings[0][3]):
            self.report.damage("key", "the key opens a slot whose member is not in the log")
        elif not log.fits(rings[0]):
            self.report.damage(f"key/{rings[0]['slot'].hex()}", "it is not the slot of its member: damaged, or planted")
        return rings[0], log

    def load(self, without_index: bool, check_filter: bool = False) -> None:
        if without_index:
            self.blobs.scan_packs(self.report)
            return
        for digest, name in self.log.segments.items():
            try:
                self.blobs.load_segment(name, digest, check_filter)
            except MALFORMED as error:
                self.report.damage(name, f"{error} (--without-index does without it)")


def read_key(options: argparse.Namespace) -> Key:
    if options.key_file:
        return Key.from_file(options.key_file)
    if options.share:
        return Key.from_shares(options.share)
    if options.password_file:
        return Key(0, Path(options.password_file).read_bytes().rstrip(b"\r\n"))
    if "SEAWALL_PASSWORD" in os.environ:
        return Key(0, os.environb[b"SEAWALL_PASSWORD"])
    return Key(0, getpass.getpass("passphrase of the repository: ").encode())


def list_snapshots(repository: Repository, options: argparse.Namespace) -> None:
    log = repository.log
    for snapshot in [one for one, _ in log.forgotten.values()] if options.forgotten else log.snapshots:
        time = datetime.datetime.fromtimestamp(snapshot[1][0], datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
        paths = " ".join(path.decode("utf-8", "backslashreplace") for path in snapshot[4])
        print(f"{snapshot[0].hex()}  {time}  {snapshot[2]}  {snapshot[8]} files  {snapshot[9]} bytes  {paths}")


def restore(repository: Repository, options: argparse.Namespace) -> None:
    snapshot = repository.log.find(options.snapshot)
    repository.load(options.without_index)
    wanted = [name for name in os.fsencode(options.path).split(b"/") if name]

    def selected(path: list[bytes]) -> bool:
        shorter = min(len(path), len(wanted))
        return path[:shorter] == wanted[:shorter]

    entries = walk(repository.blobs, snapshot[6], repository.report, "the root")
    run = Restore(repository.blobs, options.target, repository.report)
    run.run((key, entry) for key, entry in entries if selected(split(key)))
    print(f"restored {run.files} files, {run.bytes} bytes from snapshot {snapshot[0].hex()}")
    if not run.root:
        print("owners were not restored: only root can")


class Check:
    """Reads every pack whole, decodes every blob, and follows every snapshot to its last chunk.

    It names the files of which a restore, with the same options, would lose something: no more and no fewer. So what a
    chunk's places give decides, not whether all around it is in order.
    """

    def __init__(self, repository: Repository):
        self.store, self.blobs, self.report = repository.store, repository.blobs, repository.report
        self.lengths: dict[bytes, int | None] = {}  # plain length of a chunk; None: it can't be read

    def pack(self, name: str) -> None:
        data, blobs = self.store.read(name), self.blobs
        end = int.from_bytes(data[-64:-60], "little")
        if blake3(data[:-32]).digest() != data[-32:]:
            mended = blobs.mend(name)
            if mended is None:
                self.report.damage(name, "the checksum of the pack is wrong")
            else:
                data, (end, _) = mended
        session, counter, kind = bytes.fromhex(name.split("/")[1]), int(name.split("/")[2]), data[8]
        header = struct.pack("<8sB7x16sQ16s8x", b"SWPACK01", kind, session, counter, blobs.ring[2])
        if data[:64] != header or kind > 1:
            self.report.damage(name, "a header that is not this pack's")
            kind = None
        place = 64
        for number, record in enumerate(blobs.read_footer(name)):
            try:
                need(record[1] == place, "a blob that does not begin where the one before ends")
                self.blob(name, data[place : place + 48 + record[2]], number, kind, record)
            except MALFORMED as error:
                self.report.damage(f"{name} at {record[1]}", error)
            place = record[1] + 48 + record[2]
        need(place == end, "a footer that does not begin where the last blob ends")

    def blob(self, pack: str, blob: bytes, number: int, kind: int | None, record: tuple) -> None:
        chunk, offset, sealed, length, codec, base = record
        if base is not None and self.length(base) is None:
            # Of a chunk that no snapshot needs, the base may be gone before it; what needs this one is told of below.
            return
        plain, body = self.blobs.decode(pack, blob, chunk), self.blobs.open_blob(pack, blob)
        if self.blobs.has_place(chunk, pack, offset, sealed):
            self.lengths[chunk] = len(plain)
        need(struct.unpack_from("<I", blob, 8) == (number,), "a header of another blob")
        need(kind is None or blob[12] == kind, "a blob of another kind than its pack")
        need((len(plain), body[0]) == (length, codec), "a footer that says otherwise")
        need(base is None or base == body[8:40], "a footer that says another base")

    def length(self, chunk: bytes) -> int | None:
        if chunk not in self.lengths:
            try:
                self.lengths[chunk] = len(self.blobs.read(chunk))
            except Damage:
                self.lengths[chunk] = None
        return self.lengths[chunk]

    def file(self, entry: dict) -> None:
        if 18 in entry:
            need(len(entry[18]) == entry.get(11, 0), "inline content of another length than the size")
            return
        pieces = content(self.blobs, entry)
        lost = sum(self.length(piece) != length for _, piece, length in pieces if piece is not None)
        need(not lost, f"{lost} chunks are lost")

    def snapshot(self, snapshot: dict) -> None:
        name = f"snapshot {snapshot[0].hex()}"
        links: dict[tuple, object] = {}  # what is wrong with the first name of a file, which is what a restore reads
        for key, entry in walk(self.blobs, snapshot[6], self.report, name):
            group, wrong = None, None
            try:
                group = tuple(entry[13]) if 13 in entry else None
                wrong = links.get(group)
                check_entry(entry.get(2, FILE), entry)
                if entry.get(2, FILE) == FILE and group not in links:
                    self.file(entry)
            except MALFORMED as error:
                wrong = error
            if group is not None:
                links.setdefault(group, wrong)
            if wrong:
                self.report.damage(f"{name}: {show(key)}", wrong)


def check(repository: Repository, options: argparse.Namespace) -> None:
    repository.load(options.without_index, check_filter=True)
    run, snapshots = Check(repository), repository.log.snapshots
    # A pack that was condemned may go at any time: nothing needs it.
    packs = [name for name in repository.store.names("pack") if name not in repository.log.condemned]
    for name in packs:
        try:
            run.pack(name)
        except (*MALFORMED, OSError) as error:
            repository.report.damage(name, error)
    for snapshot in snapshots:
        run.snapshot(snapshot)
    chunks = sum(length is not None for length in run.lengths.values())
    print(f"read {len(packs)} packs, {chunks} chunks, {len(snapshots)} snapshots")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    codes = "Exit codes: 0 done, 1 failed, 2 usage, 3 done with problems listed, 10 no repository, 12 wrong key, 13 damage found."
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=codes, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-r", "--repository", required=True, metavar="DIRECTORY", help="where the repository is")
    parser.add_argument("--key-file", metavar="FILE", help="the key file or identity file; without it a passphrase is asked for")
    parser.add_argument("--share", metavar="FILE", action="append", help="a recovery share; once for each")
    parser.add_argument(
        "--expect", metavar="FINGERPRINT", default=os.environ.get("SEAWALL_EXPECT"), help="open no other repository"
    )
    parser.add_argument(
        "--password-file", metavar="FILE", help="read the passphrase from here (or from SEAWALL_PASSWORD)"
    )
    parser.add_argument("--without-index", action="store_true", help="find blobs in the packs, not through the index")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("snapshots", help="list the snapshots")
    listing.add_argument("--forgotten", action="store_true", help="those that were forgotten and may still be whole")
    listing.set_defaults(run=list_snapshots)
    into = commands.add_parser("restore", help="restore a snapshot into a new or empty directory")
    into.add_argument("snapshot", help="the id or its beginning, or `latest`")
    into.add_argument(
        "--target", required=True, metavar="DIR", help="becomes the root: /etc/hosts comes to DIR/etc/hosts"
    )
    into.add_argument("--path", default="/", help="only this path and what is below it")
    into.set_defaults(run=restore)
    commands.add_parser("check", help="read and prove everything that is stored").set_defaults(run=check)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options, report = parse(arguments), Report()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, hard)
    )  # Why: one descriptor is open for each level of directories.
    try:
        repository = Repository(options, report)
        options.run(repository, options)
        for name, pieces in repository.blobs.mended.items():
            report.problem(name, f"it is damaged ({pieces} of its pieces); its parity gave everything back")
        return report.code
    except Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.code
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
