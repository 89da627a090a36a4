"""Tests of rescue.py against repositories that a small writer makes from docs/format.md alone.

Run: python3 -m unittest discover -s tools
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import unittest
import unittest.mock
from pathlib import Path

import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

sys.path.insert(0, str(Path(__file__).parent))
import rescue
import seawall_reader as reader
import seawall_state as state
from made_bodies import body, difference, planes, scaled, zstd

MEMBER, SLOT, PASSWORD_SLOT, SNAPSHOT = b"M" * 16, b"S" * 16, b"P" * 16, b"N" * 16
# What every snapshot has to say.
PLAIN_SNAPSHOT = {0: SNAPSHOT, 1: [1_700_000_000, 5], 2: "host", 3: "user", 4: [b"/s"], 5: [], 6: bytes(32), 7: 1, 8: 1,
                  9: 1, 11: "test", 12: 0, 14: 0, 15: 0, 16: 0}  # fmt: skip
ROOT = os.geteuid() == 0


def hkdf(key, salt, info):
    return HKDF(SHA256(), 32, salt or None, info).derive(key)


def envelope(purpose, name, plain):
    salt = os.urandom(32)
    out = b"SWSEAL01" + salt + struct.pack("<Q", len(plain))
    key = AESGCM(hkdf(purpose, salt, b"seawall v1 seal " + name.encode()))
    pieces = [plain[at : at + (1 << 20)] for at in range(0, len(plain), 1 << 20)] or [b""]
    head = out
    for number, piece in enumerate(pieces):
        extra = head + struct.pack("<QB", number, number == len(pieces) - 1)
        out += key.encrypt(number.to_bytes(12, "little"), piece, extra)
    return out


def seal_hpke(public, info, associated, plain):
    """RFC 9180, written out beside the reader's own."""

    def label(suite, name, value):
        return b"HPKE-v1" + suite + name + value

    def take(suite, prk, name, context, length):
        return HKDFExpand(SHA256(), length, struct.pack(">H", length) + label(suite, name, context)).derive(prk)

    def mix(salt, value):
        return HKDF.extract(SHA256(), salt or bytes(32), value)

    ephemeral, kem, suite = X25519PrivateKey.generate(), b"KEM\0\x20", b"HPKE\0\x20\0\1\0\2"
    enc = ephemeral.public_key().public_bytes_raw()
    prk = mix(b"", label(kem, b"eae_prk", ephemeral.exchange(X25519PublicKey.from_public_bytes(public))))
    shared = take(kem, prk, b"shared_secret", enc + public, 32)
    context = b"\0" + mix(b"", label(suite, b"psk_id_hash", b"")) + mix(b"", label(suite, b"info_hash", info))
    secret = mix(shared, label(suite, b"secret", b""))
    key, number = take(suite, secret, b"key", context, 32), take(suite, secret, b"base_nonce", context, 12)
    return enc, AESGCM(key).encrypt(number, plain, associated)


class Writer:
    """Writes one repository with one session."""

    def __init__(self, root: Path):
        self.root, self.repository, self.session = root, os.urandom(16), os.urandom(16)
        self.id_key, self.index_key, self.log_key, self.session_key = (os.urandom(32) for _ in range(4))
        self.signer, secret = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
        public = secret.public_key().public_bytes_raw()
        self.key, self.ring = os.urandom(32), {
            0: 1, 1: 0, 2: self.repository, 3: MEMBER, 4: self.id_key, 5: os.urandom(32), 6: self.index_key,
            7: self.log_key, 8: public, 9: secret.private_bytes_raw(), 10: self.signer.private_bytes_raw(), 11: 7,
        }  # fmt: skip
        self.blobs, self.ids, self.log, self.member = {0: [], 1: []}, set(), [], MEMBER
        marker = {"about": "Seawall", "format": 1, "repository": self.repository.hex(), "required": []}
        self.put("seawall", json.dumps(marker).encode())
        self.write_slots()
        self.write_session(public, 7)
        member = {0: MEMBER, 1: self.signer.public_key().public_bytes_raw(), 2: 0, 3: "owner"}
        self.append(0, {0: blake3((root / "seawall").read_bytes()).digest(), 1: member, 2: public, 3: 7})

    def put(self, name, data):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_bytes(data)

    def write_slots(self):
        salt = os.urandom(16)
        purpose = {0: hkdf(self.key, salt, b"seawall v1 key file")}
        purpose[1] = reader.Key(0, b"secret words").from_passphrase(salt, [64, 1, 1])
        for which, slot in ((0, SLOT), (1, PASSWORD_SLOT)):
            name = f"key/{slot.hex()}"
            sealed = envelope(purpose[which], name, cbor2.dumps(self.ring))
            content = {0: 1, 1: 1 - which, 2: 0, 3: salt, 5: sealed, 6: "test", 7: 0}
            self.put(name, cbor2.dumps(content if which == 0 else {**content, 4: [64, 1, 1]}))

    def write_slot(self, slot, kind, secret, info, fields):
        name, salt = f"key/{slot.hex()}", os.urandom(16)
        sealed = envelope(hkdf(secret, salt, info), name, cbor2.dumps(self.ring))
        self.put(name, cbor2.dumps({0: 1, 1: kind, 2: 0, 3: salt, 5: sealed, 6: "", 7: 0, **fields}))

    def write_session(self, public, generation):
        associated = self.repository + self.session + struct.pack("<I", generation)
        enc, sealed = seal_hpke(public, b"seawall v1 session", associated, self.session_key)
        record = {0: 1, 1: self.session, 2: generation, 3: 1, 4: enc, 5: sealed}
        self.put(f"session/{self.session.hex()}/{generation:010}", cbor2.dumps(record))

    def append(self, act, fields):
        number, previous = len(self.log), self.log[-1] if self.log else b""
        entry = [number, previous, self.repository, self.member, 0, act, fields]
        signature = self.signer.sign(b"seawall v1 log " + cbor2.dumps(entry))
        name = f"log/{number:020}"
        stored = envelope(self.log_key, name, cbor2.dumps([*entry, signature]))
        self.put(name, stored)
        self.log.append(blake3(stored).digest())

    def chunk(self, plain, kind=0, encoded=None):
        chunk = blake3(plain, key=self.id_key).digest()
        if chunk not in self.ids:
            self.ids.add(chunk)
            self.blobs[kind].append((chunk, len(plain), encoded or body(1, plain, zstd(plain))))
        return chunk

    def write_pack(self, kind):
        counter, records = kind, []
        name = f"pack/{self.session.hex()}/{counter:010}"
        key = AESGCM(hkdf(self.session_key, b"", b"seawall v1 pack " + name.encode()))
        out = struct.pack("<8sB7x16sQ16s8x", b"SWPACK01", kind, self.session, counter, self.repository)
        for number, (chunk, length, encoded) in enumerate(self.blobs[kind]):
            header = struct.pack("<4sIIB3x32s", b"SWBL", len(encoded) + 16, number, kind, chunk)
            records.append((chunk, len(out), len(encoded) + 16, length, encoded[0], encoded[8:40]))
            out += header + key.encrypt(number.to_bytes(12, "little"), encoded, header)
        footer = struct.pack("<I", len(records)) + b"".join(struct.pack("<32sIIIB3x", *r[:5]) for r in records)
        footer = envelope(self.index_key, f"{name}#footer", footer + b"".join(r[5] for r in records if r[4] in (2, 4, 6)))
        end = struct.pack("<III4x8s8x", len(out), len(footer), 0, b"SWPEND01")
        out += footer + end
        self.put(name, out + blake3(out).digest())
        return records

    def copy(self, plain, encoded):
        """A chunk that may be stored already, by another writer as it were."""
        self.blobs[0].append((blake3(plain, key=self.id_key).digest(), len(plain), encoded))
        return self.blobs[0][-1][0]

    def commit(self, root):
        segments = []  # of which each lists a chunk once
        for record in sorted(((r[0], kind, r) for kind in (0, 1) for r in self.write_pack(kind)), key=lambda r: r[0]):
            ids = [{chunk for chunk, _, _ in segment} for segment in segments]
            number = next((n for n, found in enumerate(ids) if record[0] not in found), len(segments))
            segments[number:] = segments[number:] or [[]]
            segments[number].append(record)
        listed = [self.write_segment(number, found) for number, found in enumerate(segments)]
        self.append(1, {0: self.session, 1: listed, 2: {**PLAIN_SNAPSHOT, 6: root}, 3: []})

    def write_segment(self, number, found):
        bases = sorted({r[5] for _, _, r in found if r[4] in (2, 4, 6)})
        blocks = max(1, -(-len(found) // 24))
        words = [0] * (8 * blocks)
        salts = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31)
        plain = struct.pack("<8sQIII36x", b"SWINDX01", len(found), 2, len(bases), blocks)
        plain += b"".join(struct.pack("<16sQ", self.session, kind) for kind in (0, 1))
        for chunk, kind, record in found:
            base = bases.index(record[5]) if record[4] in (2, 4, 6) else 0xFFFFFFFF
            plain += struct.pack("<32sIIIIBBHI", chunk, kind, *record[1:5], kind, 0, base)
            block = (struct.unpack("<Q", chunk[:8])[0] >> 32) * blocks >> 32
            for j, salt in enumerate(salts):
                words[8 * block + j] |= 1 << ((struct.unpack("<I", chunk[8:12])[0] * salt & 0xFFFFFFFF) >> 27)
        name = f"index/{self.session.hex()}/{number:010}"
        sealed = envelope(self.index_key, name, plain + b"".join(bases) + struct.pack(f"<{len(words)}I", *words))
        self.put(name, sealed)
        return [self.session, number, blake3(sealed).digest(), len(found), len(sealed)]

    def tree(self, entries, per_leaf=4):
        """Leaves of a few entries each and one node above; gives the root."""
        leaves, previous = [], b""
        for number, (key, entry) in enumerate(entries):
            if number % per_leaf == 0:
                leaves.append((key, []))
                previous = b""
            shared = len(os.path.commonprefix([previous, key]))
            leaves[-1][1].append({0: shared, 1: key[shared:], **entry})
            previous = key
        ids = [[first, self.node([0, items]), len(items), 0] for first, items in leaves]
        return self.node([1, ids])

    def node(self, node):
        """A node against the one that an earlier snapshot had in its place: there the last entry was another one."""
        level, items = node
        plain, old = cbor2.dumps(node), cbor2.dumps([level, [*items[:-1], {1: b"gone", 2: 1}]])
        base = self.chunk(old, 1)
        return self.chunk(plain, 1, body(2, plain, zstd(plain, old), base=base))


def steps(writer: Writer, listed):
    """Adds chunks of numbers that have moved a little since, and a cast; gives their bytes."""
    weights = [math.sin(i) / (1 + i % 50) for i in range(600)]
    old = struct.pack("<600f", *weights)
    new = struct.pack("<600f", *(w + (i % 5 == 0) * 1e-6 * math.cos(i) for i, w in enumerate(weights)))
    integers = b"".join(struct.pack("<h", i % 90 - 45) for i in range(300))
    base, whole = writer.chunk(old, 0, body(0, old, old)), b""
    cases = [(new, 4, 0, 0, 1, 0, 0), (new[1:], 4, 3, 0, 9, 24, 1), (new + b"more than the base has", 4, 0, 0, 32, 24, 0),
             (new[:900], 4, 1, 0, 3, 24, 1499), (b"ab" + new[:70], 4, 2, 0, 2, 20, -2), (new[:9], 8, 1, 0, 2, 3, 5000),
             (integers, 2, 1, 1, 4, 8, 100), (integers, 1, 0, 1, 2, 4, -300), (new, 2, 0, 0, 16, 8, 0)]  # fmt: skip
    for plain, *shape in cases:
        listed.append((writer.chunk(plain, 0, difference(plain, old, *shape, base)), len(plain)))
        whole += plain
    for plain, *shape, scale in [(new, 4, 0, 0, 16, 24, 0, (1, 37)), (new[1:], 4, 3, 0, 32, 24, 1, (2, 599)),
                                 (integers, 2, 1, 1, 4, 8, 100, (8, 1))]:  # fmt: skip
        listed.append((writer.chunk(plain + b"+", 0, difference(plain + b"+", old, *shape, base, scale=scale)), len(plain) + 1))
        whole += plain + b"+"
    for plain, *shape in [(new, 4, 0, 32, 1, 41), (new[:1003], 8, 3, 2, 3, 125), (integers, 2, 1, 5, 1, 16), (new, 1, 0, 2, 8, 1)]:
        listed.append((writer.chunk(b"-" + plain, 0, scaled(b"-" + plain, *shape)), len(plain) + 1))
        whole += b"-" + plain
    odd = old + struct.pack("<6I", 0x7F800001, 0xFF800001, 0x7F7FFFFF, 0x3F808000, 0x3F818000, 0xFF800000)
    origin = writer.chunk(odd, 0, body(0, odd, odd))
    for function, nans in ((0, [0x7FC0, 0x7FC0]), (1, [0x7FC0, 0xFFC0])):
        halves = [e >> 16 if e & 0xFFFF < 0x8000 else (e >> 16) + 1 for e in struct.unpack("<600I", old)]
        plain = struct.pack("<606H", *halves, *nans, 0x7F80, 0x3F80, 0x3F82, 0xFF80)
        listed.append((writer.chunk(plain, 0, body(6, plain, bytes([function]), base=origin)), len(plain)))
        whole += plain
        later = bytes(byte ^ (i % 7 == 0) for i, byte in enumerate(plain))
        against = difference(later, plain, 2, 0, 0, 5, 8, 0, origin, 1 + function)
        listed.append((writer.chunk(later, 0, against), len(later)))
        whole += later
    return whole


def everything(writer: Writer):
    """A tree with every kind of entry, codec and content; gives the root and the files' content by path."""
    noise = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(250))
    edited = noise[:4000] + b"an insertion" + noise[4000:]
    floats = struct.pack("<1000H", *(15_000 + 3 * i for i in range(1000))) + b"x"
    doubles = b"abc" + struct.pack("<500d", *(i / 7 for i in range(500)))
    words = struct.pack("<300I", *([0xFF000001] * 300))
    base = writer.chunk(noise, 0, body(0, noise, noise))
    listed = [
        (base, 8000),
        (writer.chunk(edited, 0, body(2, edited, zstd(edited, noise), base=base)), 8012),
        (writer.chunk(b"z" * 5000, 0, body(5, b"z" * 5000, b"z")), 5000),
        (writer.chunk(floats, 0, planes(floats, 2, 0)), 2001),
        (writer.chunk(doubles, 0, planes(doubles, 8, 3)), 4003),
        (writer.chunk(words, 0, planes(words, 4, 0)), 1200),
    ]
    whole = noise + edited + b"z" * 5000 + floats + doubles + words + steps(writer, listed)
    lists = [writer.chunk(cbor2.dumps([list(e) for e in part])) for part in (listed[:3], listed[3:])]
    top = cbor2.dumps([[lists[0], 1], 1 << 20, [lists[1], 1]])
    deep = whole[: len(noise + edited) + 5000] + bytes(1 << 20) + whole[len(noise + edited) + 5000 :]
    time = [1_600_000_000, 123_456_789]
    file = {2: 0, 3: 0o640, 8: time}
    entries = {
        b"": {2: 1, 3: 0o755, 8: time},
        b"s": {2: 1, 3: 0o500, 8: [-3, 500_000_000]},
        b"s\0codecs": {**file, 11: len(whole), 19: [list(e) for e in listed], 21: [bytes(32), 100]},
        b"s\0deep": {**file, 11: len(deep), 20: [2, writer.chunk(top), len(top)]},
        b"s\0empty": {2: 0, 3: 0o4711},
        b"s\0fifo": {2: 3, 3: 0o620, 8: time},
        b"s\0hard": {**file, 11: 5, 13: [0, 77], 18: b"links"},
        b"s\0holes": {**file, 11: (1 << 24) + 8000, 19: [1 << 23, [base, 8000], 1 << 23]},
        b"s\0link": {2: 2, 3: 0o777, 8: time, 17: b"../nowhere"},
        b"s\0name \xff": {**file, 11: 6, 14: [[b"user.note", b"\x00\x01"]], 18: b"inline"},
        b"s\0sub": {2: 1, 3: 0o700, 8: time},
        b"s\0sub\0hard": {**file, 11: 5, 13: [0, 77], 18: b"links"},
        b"s\0sub\0linked": {**file, 11: 5000, 13: [0, 78], 19: [list(listed[2])]},
        b"s\0sub.txt": {**file, 11: 1, 18: b"t"},
        b"s\0zeds": {**file, 11: 5000, 13: [0, 78], 19: [list(listed[2])]},
    }
    contents = {
        "codecs": whole,
        "deep": deep,
        "holes": bytes(1 << 23) + noise + bytes(1 << 23),
        "empty": b"",
        "sub/hard": b"links",
        "sub/linked": b"z" * 5000,
        "sub.txt": b"t",
        "zeds": b"z" * 5000,
    }
    if ROOT:
        entries[b"s\0device"] = {2: 5, 3: 0o600, 4: 1234, 5: 4321, 8: time, 16: [1, 3]}
    return writer.tree(sorted(entries.items())), contents


class Scene(unittest.TestCase):
    """A repository that a Writer makes, and the reader run on it."""

    def setUp(self):
        self.scratch = Path(tempfile.mkdtemp(prefix="rescue"))
        self.addCleanup(self.clean, self.scratch)
        self.repository, self.target = self.scratch / "repository", self.scratch / "target"
        self.writer = Writer(self.repository)
        self.key_file = self.scratch / "key"
        self.key_file.write_text(f"seawall-key-1\n{self.writer.key.hex()}\n# a remark\n")

    def clean(self, scratch):
        for place, _, _ in os.walk(scratch):
            os.chmod(place, 0o700)
        shutil.rmtree(scratch)

    def run_rescue(self, *arguments, key=None):
        self.out, self.err = io.StringIO(), io.StringIO()
        key = key or ["--key-file", str(self.key_file)]
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            return rescue.main(["-r", str(self.repository), *key, *arguments])

    def write_everything(self):
        root, self.contents = everything(self.writer)
        self.writer.commit(root)

    def pack(self, kind):
        return self.repository / f"pack/{self.writer.session.hex()}/{kind:010}"

    def damage(self, path, place):
        data = bytearray(path.read_bytes())
        data[place] ^= 0x40
        path.write_bytes(data)

    def assert_restored(self, code, *options):
        self.assertEqual(
            self.run_rescue(*options, "restore", "latest", "--target", str(self.target)), code, self.err.getvalue()
        )
        for name, content in self.contents.items():
            self.assertTrue((self.target / "s" / name).read_bytes() == content, name)


class Rescue(Scene):
    def test_restores_content_and_metadata(self):
        self.write_everything()
        self.assert_restored(0)
        source, stats = self.target / "s", {}
        for name in os.listdir(bytes(source)):
            stats[name] = os.lstat(bytes(source) + b"/" + name)
        self.assertEqual(stat.S_IMODE(os.lstat(source).st_mode), 0o500)
        self.assertEqual(os.lstat(source).st_mtime_ns, -2_500_000_000)
        self.assertEqual(stat.S_IMODE(stats[b"empty"].st_mode), 0o4711)
        self.assertTrue(stat.S_ISFIFO(stats[b"fifo"].st_mode))
        self.assertEqual(os.readlink(source / "link"), "../nowhere")
        for name in (b"link", b"fifo", b"codecs", b"sub"):
            self.assertEqual(stats[name].st_mtime_ns, 1_600_000_000_123_456_789, name)
        self.assertEqual((stats[b"hard"].st_nlink, stats[b"hard"].st_ino), (2, os.stat(source / "sub/hard").st_ino))
        self.assertLess(stats[b"holes"].st_blocks * 512, 1 << 20)
        self.assertEqual(os.getxattr(bytes(source) + b"/name \xff", "user.note"), b"\0\1")
        if ROOT:
            self.assertEqual((stats[b"device"].st_rdev, stats[b"device"].st_uid), (os.makedev(1, 3), 1234))

    def test_lists_and_checks(self):
        self.write_everything()
        self.assertEqual(self.run_rescue("snapshots"), 0)
        self.assertIn(f"{SNAPSHOT.hex()}  2023-11-14 22:13:20Z  host", self.out.getvalue())
        self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())
        self.assertEqual(self.run_rescue("--without-index", "check"), 0, self.err.getvalue())
        self.assertIn("read 2 packs", self.out.getvalue())

    def test_restores_one_path(self):
        self.write_everything()
        self.assertEqual(
            self.run_rescue("restore", SNAPSHOT.hex()[:6], "--target", str(self.target), "--path", "/s/sub"), 0
        )
        found = [os.path.join(place, f) for place, _, files in os.walk(self.target) for f in files]
        self.assertEqual(sorted(found), [str(self.target / "s/sub" / name) for name in ("hard", "linked")])

    def test_keys(self):
        password = self.scratch / "password"
        for words, code in (("secret words\n", 0), ("other words", 12)):
            password.write_text(words)
            self.assertEqual(self.run_rescue("snapshots", key=["--password-file", str(password)]), code)
        self.key_file.write_text("seawall-key-1\n" + "00" * 32)
        self.assertEqual(self.run_rescue("snapshots"), 12)
        self.key_file.write_text("something else")
        self.assertEqual(self.run_rescue("snapshots"), 2)
        shutil.rmtree(self.repository)
        self.assertEqual(self.run_rescue("snapshots"), 10)

    def test_an_identity_opens_its_slot(self):
        identity, secret, slot = X25519PrivateKey.generate(), os.urandom(32), b"I" * 16
        public = identity.public_key().public_bytes_raw()
        enc, sealed = seal_hpke(public, b"seawall v1 slot", slot, secret)
        info = b"seawall v1 public key slot" + self.writer.repository
        self.writer.write_slot(slot, 2, secret, info, {8: public, 9: enc, 10: sealed})
        for key, code in ((identity.private_bytes_raw(), 0), (os.urandom(32), 12)):
            self.key_file.write_text(f"seawall-identity-1\n{key.hex()}\n# a remark\n")
            self.assertEqual(self.run_rescue("snapshots"), code)

    def test_a_planted_slot_is_passed_over(self):
        self.write_everything()
        identity, ring = X25519PrivateKey.generate(), self.writer.ring
        public, info = identity.public_key().public_bytes_raw(), b"seawall v1 public key slot" + self.writer.repository
        self.key_file.write_text(f"seawall-identity-1\n{identity.private_bytes_raw().hex()}\n")
        for place, change in ((b"I" * 16, {}), (bytes(16), {4: os.urandom(32), 10: os.urandom(32)})):
            self.writer.ring, secret = {**ring, **change}, os.urandom(32)
            enc, sealed = seal_hpke(public, b"seawall v1 slot", place, secret)
            self.writer.write_slot(place, 2, secret, info, {8: public, 9: enc, 10: sealed})
        self.assert_restored(0)

    def test_enough_shares_open_their_slot(self):
        # The field by powers of the generator 3, unlike the reader, which multiplies.
        powers = [1]
        for _ in range(254):
            double = powers[-1] << 1
            powers.append((double ^ 0x11B if double > 255 else double) ^ powers[-1])
        logs = {power: at for at, power in enumerate(powers)}
        times = lambda a, b: powers[(logs[a] + logs[b]) % 255] if a and b else 0
        secret, first, second, name = (os.urandom(size) for size in (32, 32, 32, 16))
        info = b"seawall v1 shares slot" + name + bytes([3, 5]) + self.writer.repository
        self.writer.write_slot(b"H" * 16, 3, secret, info, {11: name, 12: 3, 13: 5})
        files = []
        for x in range(1, 6):
            value = bytes(c ^ times(a, x) ^ times(b, times(x, x)) for c, a, b in zip(secret, first, second))
            check = blake3(b"seawall v1 share" + name + bytes([3, x]) + value).digest()[:8]
            files.append(str(self.scratch / f"share{x}"))
            Path(files[-1]).write_text(f"seawall-share-1\n{name.hex()}\n3 {x}\n{value.hex()}\n{check.hex()}\n")
        for chosen in range(1, 32):
            picked = [option for at in range(5) if chosen >> at & 1 for option in ("--share", files[at])]
            self.assertEqual(self.run_rescue("snapshots", key=picked), 0 if len(picked) >= 6 else 12, chosen)
        self.run_rescue("snapshots", key=["--share", files[0]])
        self.assertIn("1 of 5 shares given, 2 more needed", self.err.getvalue())
        Path(files[0]).write_text(Path(files[0]).read_text().replace("3 1", "3 2"))
        self.assertEqual(self.run_rescue("snapshots", key=["--share", files[0]]), 2)

    def test_a_renewed_data_key_comes_from_its_grant(self):
        writer, secret = self.writer, X25519PrivateKey.generate()
        self.write_everything()
        public = secret.public_key().public_bytes_raw()
        pair = X25519PrivateKey.from_private_bytes(hkdf(writer.ring[10], b"", b"seawall v1 member wrap"))
        associated = writer.repository + MEMBER + struct.pack("<I", 8)
        wrapped = seal_hpke(
            pair.public_key().public_bytes_raw(), b"seawall v1 grant", associated, secret.private_bytes_raw()
        )
        writer.append(8, {2: public, 3: 8, 4: [[MEMBER, *wrapped]]})
        self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())
        writer.write_session(public, 8)
        (self.repository / f"session/{writer.session.hex()}/0000000007").unlink()
        self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())
        self.assert_restored(0)

    def test_what_a_revoked_member_writes_counts_for_nothing(self):
        self.writer.append(8, {0: {0: b"2" * 16, 1: bytes(32), 2: 0, 3: "second"}})
        self.writer.append(8, {1: MEMBER})
        self.write_everything()
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.scratch / "none")), 2)
        self.assertIn("0 snapshots", self.err.getvalue())

    def test_repositories_that_earlier_programs_wrote(self):
        versions = sorted((Path(__file__).parents[1] / "testdata/repositories").glob("*/"))
        for version in (path for path in versions if path.is_dir()):
            self.repository = version / "repository"
            for option, name in (("--key-file", "key"), ("--password-file", "passphrase")):
                self.assertEqual(self.run_rescue("check", key=[option, str(version / name)]), 0, self.err.getvalue())
        self.assertIn("v1", [path.name for path in versions])

    def test_hpke_agrees_with_another_implementation(self):
        try:
            from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
        except ImportError:
            self.skipTest("this version of cryptography has no HPKE")
        secret = X25519PrivateKey.generate()
        sealed = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).encrypt(b"plain", secret.public_key(), b"info")
        opened = reader.open_hpke(secret.private_bytes_raw(), sealed[:32], sealed[32:], b"info", b"")
        self.assertEqual(opened, b"plain")

    def test_large_envelopes(self):
        for length in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20):
            sealed = envelope(b"k" * 32, "log/0", bytes(length))
            self.assertEqual(reader.open_envelope(b"k" * 32, "log/0", sealed), bytes(length))
            for wrong in (sealed[:-1], sealed + b"x", sealed[:-1] + bytes([sealed[-1] ^ 1])):
                self.assertRaises(reader.Damage, reader.open_envelope, b"k" * 32, "log/0", wrong)
            self.assertRaises(reader.Damage, reader.open_envelope, b"k" * 32, "log/1", sealed)

    def test_without_index(self):
        self.write_everything()
        shutil.rmtree(self.repository / "index")
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 13)
        shutil.rmtree(self.target)
        self.assert_restored(0, "--without-index")

    def test_without_footers(self):
        self.write_everything()
        for kind in (0, 1):
            self.damage(self.pack(kind), -100)
        self.assert_restored(13, "--without-index")
        self.assertEqual(self.run_rescue("check"), 13)

    def test_a_damaged_blob_costs_only_itself(self):
        self.write_everything()
        _, offset, *_ = self.writer.write_pack(0)[2]
        self.damage(self.pack(0), offset + 60)
        self.contents["codecs"] = self.contents["codecs"].replace(b"z" * 5000, bytes(5000))
        self.contents["deep"] = self.contents["deep"].replace(b"z" * 5000, bytes(5000))
        self.contents["zeds"] = self.contents["sub/linked"] = bytes(5000)
        self.assert_restored(13)
        self.assertIn("/s/codecs: bytes 16012 to 21012 are lost", self.err.getvalue())
        shutil.rmtree(self.target)
        self.damage(self.pack(0), offset)
        self.damage(self.pack(0), -100)
        self.assert_restored(13, "--without-index")
        self.assertEqual(self.run_rescue("check"), 13)

    def test_a_base_is_a_copy_without_base(self):
        first, middle = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(250)), b""
        middle, last = b"middle " + first, b"last " + first
        ids = {name: blake3(plain, key=self.writer.id_key).digest() for name, plain in
               (("first", first), ("middle", middle))}  # fmt: skip
        based = body(2, middle, zstd(middle, first), base=ids["first"])
        alone = body(1, middle, zstd(middle))
        top = self.writer.chunk(last, 0, body(2, last, zstd(last, middle), base=ids["middle"]))
        for encoded in (based, alone, based):
            self.writer.copy(middle, encoded)
        self.writer.chunk(first)
        file = {2: 0, 3: 0o644, 11: len(last), 19: [[top, len(last)]]}
        self.writer.commit(self.writer.tree([(b"", {2: 1, 3: 0o755}), (b"s", {2: 1, 3: 0o755}), (b"s\0last", file)]))
        self.contents = {"last": last}
        for options in ((), ("--without-index",)):
            self.assert_restored(0, *options)
            self.assertEqual(self.run_rescue(*options, "check"), 0, self.err.getvalue())
            shutil.rmtree(self.target)
        # Without the copy that stands alone the chunk itself can be read, but not as a base.
        records = self.writer.write_pack(0)
        alone = next(record for record in records if record[0] == ids["middle"] and record[4] == 1)
        self.damage(self.pack(0), alone[1] + 60)
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 13)
        self.assertIn("a base that has a base", self.err.getvalue())

    def named(self):
        """The paths and tree nodes that the last run called damaged."""
        return set(re.findall(r"^damaged: (?:snapshot \w+: )?(/[^:\n]*|tree node \w+)", self.err.getvalue(), re.M))

    def compare_check_with_restore(self, *options):
        self.run_rescue(*options, "check")
        checked = self.named()
        self.run_rescue(*options, "restore", "latest", "--target", str(self.target))
        self.assertEqual(checked, self.named())
        if not any(name.startswith("tree node") for name in checked):
            for name, content in self.contents.items():
                whole = (self.target / "s" / name).read_bytes() == content
                self.assertEqual(whole, f"/s/{name}" not in checked, name)
        for place, _, _ in os.walk(self.target):
            os.chmod(place, 0o700)
        shutil.rmtree(self.target)
        return checked

    def test_check_names_what_restore_fails_on(self):
        self.write_everything()
        for kind in (0, 1):
            pack, records = self.pack(kind), self.writer.write_pack(kind)
            stored, hit = pack.read_bytes(), []
            around = [3, 8, 20, 45, len(stored) - 100, len(stored) - 60, len(stored) - 1]
            for place in [*around, *(record[1] + 60 for record in records), *(record[1] + 20 for record in records)]:
                pack.write_bytes(stored)
                self.damage(pack, place)
                found = self.compare_check_with_restore()
                self.assertTrue(place not in around or not found, (place, found))
                hit.append(bool(found))
                self.compare_check_with_restore("--without-index")
            self.assertGreater(sum(hit), 1)
            pack.unlink()
            self.assertTrue(self.compare_check_with_restore())
            pack.write_bytes(stored)

    def test_check_names_what_the_index_lacks(self):
        self.write_everything()
        lost, add = blake3(b"z" * 5000, key=self.writer.id_key).digest(), reader.Blobs.add
        without = lambda blobs, chunk, *place: chunk == lost or add(blobs, chunk, *place)
        with unittest.mock.patch.object(reader.Blobs, "add", without):
            found = self.compare_check_with_restore()
        self.assertEqual(found, {"/s/codecs", "/s/deep", "/s/sub/linked", "/s/zeds"})

    def test_a_wrong_checksum_is_said_once(self):
        self.write_everything()
        self.damage(self.pack(0), -1)
        self.assertEqual(self.run_rescue("check"), 13)
        self.assertEqual(self.err.getvalue().splitlines(), [
            f"damaged: pack/{self.writer.session.hex()}/0000000000: the checksum of the pack is wrong"
        ])  # fmt: skip

    def test_a_damaged_node_costs_only_what_is_below(self):
        self.write_everything()
        _, offset, *_ = self.writer.write_pack(1)[0]
        self.damage(self.pack(1), offset + 60)
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 13)
        self.assertEqual((self.target / "s/sub.txt").read_bytes(), b"t")
        self.assertFalse((self.target / "s/codecs").exists())

    def test_the_log_is_proved(self):
        self.write_everything()
        entry = self.repository / f"log/{1:020}"
        stored, signer = entry.read_bytes(), self.writer.signer
        cases = {
            "decryption failed": lambda: self.damage(entry, 100),
            "is missing": lambda: entry.rename(entry.with_name(f"{2:020}")),
            "is longer than": lambda: os.truncate(entry, (64 << 20) + 1),
        }
        for said, act in cases.items():
            act()
            self.assertEqual(self.run_rescue("snapshots"), 13)
            self.assertIn(said, self.err.getvalue())
            entry.write_bytes(stored)
        (self.repository / f"log/{2:020}").unlink()
        # Whoever has the log key can do this: it counts for nothing, and the log goes on.
        for said, previous in (("signature is wrong", self.writer.log[0]), ("does not follow", bytes(32))):
            self.writer.log = [previous]
            self.writer.signer = Ed25519PrivateKey.generate() if "signature" in said else signer
            self.writer.append(1, {0: b"E" * 16, 1: [], 2: PLAIN_SNAPSHOT, 3: []})
            self.assertEqual(self.run_rescue("snapshots"), 3)
            self.assertIn(said, self.err.getvalue())

    def test_what_each_act_does(self):
        self.write_everything()
        pack, other = [self.writer.session, 0], [self.writer.session, 1]
        collector, fresh = b"C" * 16, [b"C" * 16, 0, bytes(32), 1, 1]
        listed = [[self.writer.session, 0], [self.writer.session, 1]]
        names = [state.pack_name(pack), state.pack_name(other)]
        snapshot = {**PLAIN_SNAPSHOT, 0: b"Q" * 16}
        public = bytes(32)
        # Each step: act, fields, what then holds of the log.
        steps = [
            (4, {0: 2, 1: 0, 2: [], 3: [], 4: []}, lambda log: len(log.snapshots) == 1),
            (3, {0: [SNAPSHOT], 1: "audit", 2: False}, lambda log: log.holds == {SNAPSHOT: {"audit"}}),
            (2, {0: [SNAPSHOT], 1: "old"}, lambda log: len(log.snapshots) == 1),
            (3, {0: [SNAPSHOT], 1: "audit", 2: True}, lambda log: not log.holds),
            (2, {0: [SNAPSHOT], 1: "old"}, lambda log: not log.snapshots and list(log.forgotten) == [SNAPSHOT]),
            (5, {0: [pack, other], 2: []}, lambda log: sorted(log.condemned) == sorted(names)),
            (10, {0: [SNAPSHOT], 1: [pack]}, lambda log: len(log.snapshots) == 1 and list(log.condemned) == names[1:]),
            (11, {0: [other, pack]}, lambda log: log.deleted == {names[1]} and len(log.snapshots) == 1),
            (10, {0: [], 1: [other]}, "a pack that it needs is deleted"),
            (7, {0: collector, 1: [fresh], 2: listed, 3: [other]}, lambda log: not log.deleted and len(log.segments) == 1),
            (6, {0: [collector]}, lambda log: log.fenced == {collector}),
            (5, {0: [], 1: collector, 2: [fresh]}, "the collector's session was fenced"),
            (1, {0: collector, 1: [], 2: snapshot, 3: []}, "the session was fenced"),
            (1, {0: b"D" * 16, 1: [fresh], 2: snapshot, 3: []}, "another session's segments"),
            (1, {0: b"D" * 16, 1: [[b"D" * 16, 0, *fresh[2:]]], 2: snapshot, 3: []}, "published under another name"),
            (1, {0: b"D" * 16, 1: [], 2: snapshot, 3: [self.writer.session]}, "was published before"),
            (1, {0: self.writer.session, 1: [[*listed[0], b"F" * 32, 1, 1]], 2: snapshot, 3: []}, "was published before"),
            (1, {0: b"D" * 16, 1: [[b"D" * 16, 0, bytes([n] * 32), 1, 1] for n in (1, 2)], 2: snapshot, 3: []}, "one name"),
            (1, {0: b"D" * 16, 1: [[b"D" * 16, n, b"F" * 32, 1, 1] for n in (1, 2)], 2: snapshot, 3: []}, "one name"),
            (1, {0: b"D" * 16, 1: [], 2: {**snapshot, 0: SNAPSHOT}, 3: []}, "of that id is there"),
            (8, {0: {0: b"W" * 16, 1: public, 2: 2, 3: "writer"}}, lambda log: len(log.members) == 2),
            (8, {0: {0: MEMBER, 1: public, 2: 0, 3: "again"}}, "was admitted before"),
            (8, {1: MEMBER}, "the last owner"),
            (8, {1: b"X" * 16}, "revokes nobody"),
            (8, {1: b"W" * 16}, lambda log: len(log.members) == 1),
            (8, {2: public, 3: 9, 4: []}, "next generation"),
            (8, {2: public, 3: 8, 4: []}, lambda log: log.generation == 8),
            (2, {0: [SNAPSHOT], 1: "old"}, lambda log: not log.snapshots),
            (5, {0: [pack], 2: []}, lambda log: SNAPSHOT in log.forgotten),
            (11, {0: [pack]}, lambda log: not log.forgotten),
        ]
        for act, fields, expected in steps:
            self.writer.append(act, fields)
            report = reader.Report()
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                log = reader.Log(reader.Store(str(self.repository)), self.writer.ring, report)
            last = said.getvalue().splitlines()[-1:]
            if isinstance(expected, str):
                self.assertIn(expected, "".join(last), (act, fields))
                self.assertIn(f"{len(self.writer.log) - 1:020}", "".join(last))
            else:
                self.assertNotIn(f"{len(self.writer.log) - 1:020}", "".join(last), (act, fields))
                self.assertTrue(expected(log), (act, fields, vars(log)))

    def test_only_owners_forget_and_nobody_after_being_revoked(self):
        self.write_everything()
        owner, member = self.writer.signer, Ed25519PrivateKey.generate()
        other = b"W" * 16
        self.writer.append(8, {0: {0: other, 1: member.public_key().public_bytes_raw(), 2: 2, 3: "writer"}})

        def append_as(who, signer, act, fields):
            self.writer.member, self.writer.signer = who, signer
            self.writer.append(act, fields)
            self.writer.member, self.writer.signer = MEMBER, owner

        append_as(other, member, 2, {0: [SNAPSHOT], 1: "evil"})
        self.assertEqual(self.run_rescue("snapshots"), 3)
        self.assertIn("role does not allow", self.err.getvalue())
        self.assertIn(SNAPSHOT.hex(), self.out.getvalue())
        self.writer.append(8, {1: other})
        append_as(other, member, 3, {0: [SNAPSHOT], 1: "mine", 2: False})
        self.assertEqual(self.run_rescue("snapshots"), 3)
        self.assertIn("was revoked", self.err.getvalue())

    def test_forgotten_snapshots_are_listed_apart_and_may_be_restored(self):
        self.write_everything()
        self.writer.append(2, {0: [SNAPSHOT], 1: "old"})
        self.assertEqual((self.run_rescue("snapshots"), self.out.getvalue()), (0, ""))
        self.assertEqual(self.run_rescue("snapshots", "--forgotten"), 0)
        self.assertIn(SNAPSHOT.hex(), self.out.getvalue())
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 2)
        self.assertEqual(self.run_rescue("restore", SNAPSHOT.hex()[:6], "--target", str(self.target)), 0)

    def test_what_is_condemned_is_no_damage(self):
        self.write_everything()
        self.writer.append(2, {0: [SNAPSHOT], 1: "old"})
        self.writer.append(5, {0: [[self.writer.session, 0], [self.writer.session, 1]], 2: []})
        self.damage(self.pack(0), 200)
        self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())

    def test_a_changed_marker_is_refused(self):
        marker = self.repository / "seawall"
        marker.write_bytes(marker.read_bytes().replace(b"Seawall", b"seaWall"))
        self.assertEqual(self.run_rescue("snapshots"), 13)
        self.assertIn("marker was changed", self.err.getvalue())

    def test_unknown_things_need_a_newer_reader(self):
        self.writer.append(9, {})
        self.assertEqual(self.run_rescue("snapshots"), 1)
        self.assertIn("newer reader", self.err.getvalue())

    def test_hostile_trees_write_nothing_outside(self):
        file = {2: 0, 3: 0o644, 11: 1, 18: b"x"}
        link = {2: 2, 17: b"../outside"}
        hostile = [
            [(b"a", link), (b"a\0f", file)],
            [(b"..\0outside\0f", file)],
            [(b"a/../../outside/f", file)],
            [(b"a\0\0f", file)],
            [(b"b", link), (b"b", {2: 1, 3: 0o755}), (b"b\0f", file)],
            [(b"f", file), (b"f\0g", file)],
        ]
        for entries in hostile:
            self.setUp()
            outside = self.scratch / "outside"
            outside.mkdir()
            self.writer.commit(self.writer.tree(entries))
            self.assertNotEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 0, entries)
            self.assertEqual(os.listdir(outside), [], entries)

    def test_a_target_with_content_is_refused(self):
        self.write_everything()
        self.target.mkdir()
        (self.target / "mine").write_text("mine")
        self.assertEqual(self.run_rescue("restore", "latest", "--target", str(self.target)), 2)
        self.assertEqual(os.listdir(self.target), ["mine"])


if __name__ == "__main__":
    unittest.main()
