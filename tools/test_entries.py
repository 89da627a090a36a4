"""Holds the reader's judgement of log entries against testdata/entries, as the engine's is held.

Run: python3 -m unittest discover -s tools
"""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

sys.path.insert(0, str(Path(__file__).parent))
import seawall_state as state

ENTRIES = Path(__file__).parents[1] / "testdata/entries/entries.txt"


def fill(byte: int, length: int) -> bytes:
    return bytes([byte]) * length


def public(seed: int) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(fill(seed, 32)).public_key().public_bytes_raw()


def before() -> state.State:
    """The log up to number 5, as testdata/entries/make.py describes it."""
    log = state.State(fill(0x10, 16))
    member = lambda byte, seed, role: {0: fill(byte, 16), 1: public(seed), 2: role, 3: ""}
    log.perform(0, 0, {0: b"", 1: member(0x30, 5, 0), 2: b"", 3: 0})
    log.perform(1, 8, {0: member(0x31, 6, 2)})
    log.perform(2, 8, {0: member(0x32, 7, 0)})
    log.perform(3, 8, {1: fill(0x32, 16)})
    log.perform(4, 1, {0: fill(0x2E, 16), 1: [[fill(0x2E, 16), 0, fill(0xE0, 32), 1, 1]], 2: {0: fill(0x50, 16)}, 3: []})
    log.fenced.add(fill(0x2F, 16))
    log.head = fill(0xF6, 32)
    return log


def is_signed(key: bytes, entry) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(entry.signature, b"seawall v1 log " + entry.signed)
    except InvalidSignature:
        return False
    return True


def judge(plain: bytes) -> tuple[str, bytes]:
    """The verdict, and the head of the log after the entry."""
    log, digest = before(), blake3(plain).digest()
    try:
        why = log.take(5, plain, digest, is_signed)
    except state.Newer:
        return "stops", digest
    return "counts" if why is None else "void", log.head


class Entries(unittest.TestCase):
    def test_each_is_judged_as_the_format_says(self):
        lines = [line.split(" ") for line in ENTRIES.read_text().splitlines()]
        for name, verdict, head, plain in lines:
            self.assertEqual(judge(bytes.fromhex(plain)), (verdict, bytes.fromhex(head)), name)
        verdicts = [verdict for _, verdict, _, _ in lines]
        self.assertTrue(all(verdicts.count(verdict) > 40 for verdict in ("counts", "void", "stops")), len(lines))


if __name__ == "__main__":
    unittest.main()
