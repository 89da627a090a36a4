"""Tests of seawall_parity.py, and of rescue.py on repositories whose packs have parity.

The encoder here is written from docs/format.md section 6.3, by the definition and without tables. The golden bytes are those
of the engine's tests.
"""

from __future__ import annotations

import random
import struct
import sys
import unittest
from pathlib import Path

from blake3 import blake3

sys.path.insert(0, str(Path(__file__).parent))
import seawall_parity as parity
import test_rescue

GOLDEN = Path(__file__).parent.parent / "crates/engine/src/format/golden.txt"


def product(left, right):
    result = 0
    for bit in range(8):
        result ^= (left << bit) * (right >> bit & 1)
    for bit in range(14, 7, -1):
        result ^= (0x11D << (bit - 8)) * (result >> bit & 1)
    return result


INVERSES = {x: y for x in range(1, 256) for y in range(1, 256) if product(x, y) == 1}


def with_parity(pack, shard, groups, rows):
    """A pack that had no parity, with."""
    footer, length = struct.unpack_from("<II", pack[-64:])
    kept = pack[: footer + length]
    shards = [kept[at : at + shard] for at in range(0, len(kept), shard)]
    count = len(shards)
    for number in range(count, count + groups * rows):
        total = bytearray(shard)
        for other in range(number % groups, count, groups):
            first = next(one for one in range(count, number + 1) if one % groups == number % groups)
            factor = product(first // groups ^ other // groups, INVERSES[number // groups ^ other // groups])
            row = [product(factor, byte) for byte in range(256)]
            for at, byte in enumerate(shards[other]):
                total[at] ^= row[byte]
        shards.append(bytes(total))
    short = lambda data: blake3(data).digest()[:16]
    table = b"".join(short(one) for one in shards)
    head = b"SWPARI01" + struct.pack("<6I", shard, count, groups, rows, footer, length) + short(table)
    head += short(head)
    out = kept + head + table
    out += bytes(-len(out) % shard) + b"".join(shards[count:]) + table + head
    out += struct.pack("<IIII", footer, length, len(out) - len(kept), 0) + b"SWPEND01" + bytes(8)
    return out + blake3(out).digest()


class Parity(unittest.TestCase):
    def setUp(self):
        rows = dict(line.split() for line in GOLDEN.read_text().splitlines())
        self.golden = {name: bytes.fromhex(rows[name]) for name in ("pack", "pack-parity", "pack-parity-groups")}

    def test_the_definition_gives_the_golden_bytes(self):
        self.assertEqual(with_parity(self.golden["pack"], 576, 1, 2), self.golden["pack-parity"])
        self.assertEqual(with_parity(self.golden["pack"], 64, 3, 3), self.golden["pack-parity-groups"])

    def test_any_byte_and_any_run_is_given_back(self):
        for name, run in (("pack-parity", 576 + 1), ("pack-parity-groups", 8 * 64 + 1)):
            whole = self.golden[name]
            kept, footer, damaged = parity.mend(whole)
            self.assertEqual((kept, damaged), (whole[: len(kept)], 0))
            for at in range(len(whole)):
                for length in (1, run):
                    broken = bytearray(whole)
                    broken[at : at + length] = bytes(byte ^ 0xFF for byte in broken[at : at + length])
                    found = parity.mend(bytes(broken))
                    self.assertTrue(found is not None and found[:2] == (kept, footer), (name, at, length))

    def test_any_shards_but_one_more_than_the_rows(self):
        whole, shard, groups, rows = self.golden["pack-parity-groups"], 64, 3, 3
        layout = parity.find(whole)
        chance = random.Random(1)
        for _ in range(200):
            broken = bytearray(whole)
            members = [list(range(group, layout.data + layout.parity, groups)) for group in range(groups)]
            for shards in members:
                chance.shuffle(shards)
                for number in shards[:rows]:
                    broken[layout.place(number)[0] + chance.randrange(10)] ^= 1 + chance.randrange(255)
            self.assertEqual(parity.mend(bytes(broken))[0], whole[: layout.protected])
            data = [number for shards in members for number in shards[rows:] if number < layout.data]
            if data:
                broken[layout.place(data[0])[0]] ^= 1
                self.assertIsNone(parity.mend(bytes(broken)))
        self.assertEqual(shard, layout.shard)

    def test_hostile_heads(self):
        whole = self.golden["pack-parity"]
        place = whole.index(parity.MAGIC)
        for field in range(6):
            for value in (0, 1, 63, 1 << 20, 1 << 28, 0xFFFFFFFF):
                head = bytearray(whole[place : place + 48])
                struct.pack_into("<I", head, 8 + 4 * field, value)
                if bytes(head) != whole[place : place + 48]:
                    sealed = bytes(head) + parity.short_hash(bytes(head))
                    found = parity.mend(whole[:place] + sealed + whole[place + 64 : -200])
                    # A longer shard is no lie where there is only one, and nothing is damaged.
                    self.assertTrue(found is None or found[0] == whole[:place], (field, value))
        for data in (b"", bytes(100), bytes(1000), parity.MAGIC * 100, self.golden["pack"]):
            self.assertIsNone(parity.mend(data))


class RescueWithParity(test_rescue.Rescue):
    """Only what is defined here runs: the tests that are inherited have run where they are."""

    def setUp(self):
        super().setUp()
        self.write_everything()
        for kind in (0, 1):
            self.pack(kind).write_bytes(with_parity(self.pack(kind).read_bytes(), 1024, 2, 2))
        self.whole = {kind: self.pack(kind).read_bytes() for kind in (0, 1)}

    def test_a_pack_with_parity_is_read(self):
        for options in ([], ["--without-index"]):
            self.assertEqual(self.run_rescue(*options, "check"), 0, self.err.getvalue())
        self.assert_restored(0)

    def test_damage_everywhere_is_mended(self):
        run = 3 * 1024 + 1
        for kind, whole in self.whole.items():
            for at in range(0, len(whole), 1500):
                broken = bytearray(whole)
                broken[at : at + run] = bytes(byte ^ 0xFF for byte in broken[at : at + run])
                self.pack(kind).write_bytes(broken)
                for options in ([], ["--without-index"]):
                    self.assertEqual(self.run_rescue(*options, "check"), 3, f"{at}: {self.err.getvalue()}")
                    self.assertIn("its parity gave everything back", self.err.getvalue())
            self.pack(kind).write_bytes(whole)

    def test_a_restore_goes_through_damage_and_says_so(self):
        for kind, whole in self.whole.items():
            broken = bytearray(whole)
            broken[100:3000] = bytes(2900)
            self.pack(kind).write_bytes(broken)
        self.assert_restored(3, "--without-index")

    def test_too_much_damage_is_damage(self):
        whole = self.whole[0]
        broken = bytearray(whole)
        broken[1000:6000] = bytes(5000)
        self.pack(0).write_bytes(broken)
        self.assertEqual(self.run_rescue("check"), 13)


for inherited in [name for name in dir(test_rescue.Rescue) if name.startswith("test_")]:
    setattr(RescueWithParity, inherited, None)


if __name__ == "__main__":
    unittest.main()
