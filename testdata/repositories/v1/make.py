"""Makes version 1 or 2 of the tree whose backups are in this directory's repository, and prints its part of contents.txt.

    python3 make.py DIRECTORY VERSION

Needs blake3 from PyPI. Kept to show what was stored, and how; ../README.md has the commands around it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

from blake3 import blake3

TOP, VERSION = Path(sys.argv[1]), int(sys.argv[2])
BLOCK = 16_384


def noise(seed: str, length: int) -> bytes:
    return hashlib.shake_256(seed.encode()).digest(length)


def lines() -> str:
    words = (hashlib.sha256(str(number).encode()).hexdigest()[:6] for number in range(1200))
    return "".join(f"line {number} of a text that is worth compressing: {word}\n" for number, word in enumerate(words))


def write(name: str | bytes, data: bytes, mode: int = 0o644) -> None:
    path = TOP / os.fsdecode(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


def first() -> None:
    write("raw", noise("raw", 6000))
    write("small", b"small enough to lie in its entry\n", 0o640)
    write("empty", b"", 0o600)
    write("program", b"#!/bin/sh\necho hello\n", 0o4755)
    write("constant", b"\x07" * 2_500_000)
    write("text/lines", lines().encode())
    write(b"names/not UTF-8 \xff\xfe", b"a name is bytes\n")
    # As BF16 numbers: signs and exponents repeat, the low bytes do not.
    write("weights.bin", b"".join(bytes([low, 0x3C if low < 128 else 0xBC]) for low in noise("weights", 40_000)))
    # Each stretch between two holes is a chunk; so many that their list lies outside the entry.
    with open(TOP / "comb", "wb") as comb:
        for tooth in range(90):
            comb.seek(tooth * BLOCK)
            comb.write(bytes([tooth + 1]) * 4096)
        comb.truncate(90 * BLOCK + 1)
    with open(TOP / "hole", "wb") as hole:
        hole.seek(1 << 20)
        hole.write(noise("after the hole", 4096))
        hole.truncate(1 << 26)
    os.link(TOP / "small", TOP / "text/second name")
    os.symlink("../small", TOP / "text/link")
    os.symlink("nowhere", TOP / "dangling")
    os.mkfifo(TOP / "pipe", 0o620)
    (TOP / "pipe").chmod(0o620)
    (TOP / "private").mkdir(0o700)
    os.setxattr(TOP / "raw", "user.note", b"\0\1 a note")
    os.setxattr(TOP / "private", "user.note", b"on a directory")


def second() -> None:
    write("text/lines", lines().replace("line 600 of", "this line was edited, 600 of").encode())
    write("new", noise("new", 3000))
    (TOP / "empty").unlink()


def names() -> list[bytes]:
    return sorted(
        os.path.relpath(os.path.join(place, name), os.fsencode(TOP))
        for place, directories, files in os.walk(os.fsencode(TOP))
        for name in directories + files
    )


def set_times(changed: list[bytes]) -> None:
    for name in changed:
        time = (1_700_000_000 + VERSION) * 10**9 + 123_456_789
        os.utime(os.path.join(os.fsencode(TOP), name), ns=(time, time), follow_symlinks=False)


def describe(name: bytes) -> str:
    """Snapshot, kind, mode, size, modification time, links, attributes, BLAKE3 of the content or of the target, path."""
    path = os.path.join(os.fsencode(TOP), name)
    found, content = os.lstat(path), b""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo"}
    kind, size = kinds[stat.S_IFMT(found.st_mode)], found.st_size
    if kind == "file":
        content = Path(os.fsdecode(path)).read_bytes()
    elif kind == "symlink":
        content = os.readlink(path)
    else:
        size = 0
    attributes = [] if kind in ("symlink", "fifo") else os.listxattr(path, follow_symlinks=False)
    texts = [f"{a}={os.getxattr(path, a).hex()}" for a in sorted(attributes) if a.startswith("user.")]
    links = 1 if kind == "directory" else found.st_nlink
    shown = name.decode("ascii", "backslashreplace")
    mode, digest = f"{stat.S_IMODE(found.st_mode):04o}", blake3(content).hexdigest()
    fields = [VERSION, kind, mode, size, found.st_mtime_ns, links, ",".join(texts) or "-", digest, shown]
    return " ".join(str(field) for field in fields)


TOP.mkdir(exist_ok=True)
first() if VERSION == 1 else second()
set_times(names() if VERSION == 1 else [b"text/lines", b"text", b"new", b"."])
if VERSION == 1:
    set_times([b"."])
print("\n".join(describe(name) for name in names()))
