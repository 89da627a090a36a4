"""Parity inside packs: gives the damaged bytes of a pack back (docs/format.md, section 6.3).

Written from that section alone, beside seawall_reader.py. It needs no key: hashes of the pieces tell which are damaged, and
what is computed is held against them. What it gives is proved like all else by whoever uses it.
"""

from __future__ import annotations

import struct
from typing import Iterator

from blake3 import blake3

MAGIC, HEAD, TRAILER = b"SWPARI01", 64, 64
HEADS_MAX = 4  # A sound pack has two; more are an attempt to keep a reader busy.


def _tables() -> tuple[list[int], list[int]]:
    powers, logarithms, element = [], [0] * 256, 1
    for exponent in range(255):
        powers.append(element)
        logarithms[element] = exponent
        element = element << 1 ^ (0x11D if element & 0x80 else 0)
    return powers, logarithms


POWERS, LOGARITHMS = _tables()


def product(left: int, right: int) -> int:
    return POWERS[(LOGARITHMS[left] + LOGARITHMS[right]) % 255] if left and right else 0


def inverse(element: int) -> int:
    return POWERS[-LOGARITHMS[element] % 255]


def times(factor: int, data: bytes) -> int:
    """The products of a factor and each byte, as one big integer, which XOR adds quickly."""
    return int.from_bytes(data.translate(bytes(product(factor, byte) for byte in range(256))), "little")


class Layout:
    """Where a pack's shards lie, from a head that is whole and stands where it says."""

    def __init__(self, pack: bytes, at: int):
        head = pack[at : at + HEAD]
        if at < 0 or len(head) < HEAD or head[:8] != MAGIC or short_hash(head[:48]) != head[48:]:
            raise ValueError("no head of parity")
        self.shard, self.data, self.groups, self.rows, start, length = struct.unpack_from("<6I", head, 8)
        self.footer, self.protected = (start, length), start + length
        possible = self.shard % 64 == 0 and 0 < self.shard <= 1 << 20 and 0 < self.rows <= 32
        possible = possible and 0 < self.groups <= self.data == -(-self.protected // self.shard)
        self.parity = self.groups * self.rows
        if not possible or start < 64 or self.data + self.parity > 256 * self.groups:
            raise ValueError("a head of parity that can't be")
        self.table = 16 * (self.data + self.parity)
        self.parity_start = -(-(self.protected + HEAD + self.table) // self.shard) * self.shard
        self.parity_end = self.parity_start + self.parity * self.shard
        if at not in (self.protected, self.parity_end + self.table):
            raise ValueError("a head of parity at another place")
        copies = (pack[place : place + self.table] for place in (self.protected + HEAD, self.parity_end))
        self.hashes = next((table for table in copies if short_hash(table) == head[32:48]), None)

    def place(self, number: int) -> tuple[int, int]:
        if number < self.data:
            return number * self.shard, min((number + 1) * self.shard, self.protected)
        start = self.parity_start + (number - self.data) * self.shard
        return start, start + self.shard

    def is_sound(self, pack: bytes, number: int) -> bool:
        start, end = self.place(number)
        return short_hash(pack[start:end]) == self.hashes[16 * number : 16 * number + 16]

    def factor(self, parity: int, data: int) -> int:
        first = parity - (parity - self.data) // self.groups * self.groups
        element = data // self.groups
        return product(first // self.groups ^ element, inverse(parity // self.groups ^ element))


def short_hash(data: bytes) -> bytes:
    return blake3(data).digest()[:16]


def places(pack: bytes) -> Iterator[int]:
    """Where a head may be: at the end, or wherever the magic stands."""
    yield len(pack) - HEAD - TRAILER
    at = len(pack)
    while (at := pack.rfind(MAGIC, 0, at + len(MAGIC) - 1)) >= 0:
        yield at


def find(pack: bytes) -> Layout | None:
    tried = 0
    for at in places(pack):
        try:
            layout = Layout(pack, at)
        except ValueError:
            continue
        if layout.hashes is not None:
            return layout
        tried += 1
        if tried == HEADS_MAX:
            return None
    return None


def mend(pack: bytes) -> tuple[bytes, tuple[int, int], int] | None:
    """What lies before the parity, as it was written; the footer's place and length; the number of damaged shards. None
    where the pack has no parity, or more is damaged than that gives back."""
    layout = find(pack)
    if layout is None:
        return None
    mended, damaged = bytearray(pack[: layout.protected]), 0
    numbers = range(layout.data + layout.parity)
    wrong = {number for number in numbers if not layout.is_sound(pack, number)}
    for group in range(layout.groups):
        members = numbers[group :: layout.groups]
        lost = [number for number in members if number in wrong and number < layout.data]
        parity = [number for number in members if number not in wrong and number >= layout.data]
        if len(parity) < len(lost):
            return None
        if lost:
            sound = [number for number in members if number not in wrong and number < layout.data]
            for number, shard in zip(lost, solve(layout, pack, sound, lost, parity[: len(lost)])):
                start, end = layout.place(number)
                mended[start:end] = shard[: end - start]
                if short_hash(mended[start:end]) != layout.hashes[16 * number : 16 * number + 16]:
                    return None
    return bytes(mended), layout.footer, len(wrong)


def solve(layout: Layout, pack: bytes, sound: list[int], lost: list[int], parity: list[int]) -> list[bytes]:
    """The lost data shards of one group, by Gauss and Jordan, on rows of factors with the shard they add up to."""
    rows = []
    for number in parity:
        total = times(1, slice_of(layout, pack, number))
        for data in sound:
            total ^= times(layout.factor(number, data), slice_of(layout, pack, data))
        rows.append(([layout.factor(number, data) for data in lost], total.to_bytes(layout.shard, "little")))
    for column in range(len(lost)):
        pivot = next(row for row in range(column, len(rows)) if rows[row][0][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = scaled(rows[column], inverse(rows[column][0][column]))
        for row in range(len(rows)):
            if row != column and rows[row][0][column]:
                factors, total = scaled(rows[column], rows[row][0][column])
                left = [one ^ other for one, other in zip(rows[row][0], factors)]
                rows[row] = (left, (times(1, rows[row][1]) ^ times(1, total)).to_bytes(layout.shard, "little"))
    return [total for _, total in rows]


def slice_of(layout: Layout, pack: bytes, number: int) -> bytes:
    start, end = layout.place(number)
    return pack[start:end]


def scaled(row: tuple[list[int], bytes], factor: int) -> tuple[list[int], bytes]:
    factors, total = row
    return [product(factor, one) for one in factors], times(factor, total).to_bytes(len(total), "little")
