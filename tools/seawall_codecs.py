"""The codecs of Seawall's stored format, version 1: from the body of a blob to the plain bytes of its chunk.

Written from docs/format.md alone, sections 6.1 and 6.2, for seawall_reader.py. Numbers are handled one by one in plain Python, so
that no further package is needed: about a second for each million numbers that are differences.
"""

from __future__ import annotations

from collections import Counter
from typing import Callable

import zstandard

from seawall_entry import Malformed

CHUNK_MAX = 8 << 20
CODECS_WITH_BASE = (2, 4, 6)
BUCKETS_MAX = 32


def need(condition: object, why: str) -> None:
    if not condition:
        raise Malformed(why)


def decode_body(body: bytes, read_base: Callable[[bytes], bytes]) -> bytes:
    """The plain bytes of a blob's body (section 6.1)."""
    need(len(body) >= 8, "a short body")
    codec, width, head, length = body[0], body[1], body[2], int.from_bytes(body[4:8], "little")
    need(length <= CHUNK_MAX, "a chunk that is too long")
    payload = body[40 if codec in CODECS_WITH_BASE else 8 :]
    if codec == 0:
        plain = payload
    elif codec == 1:
        plain = unzstd(payload, length)
    elif codec == 2:
        plain = unzstd(payload, length, read_base(body[8:40]))
    elif codec == 3:
        plain = decode_planes(payload, width, head, length)
    elif codec == 4:
        plain = decode_difference(payload, width, head, length, read_base(body[8:40]))
    elif codec == 5:
        need(len(payload) == 1, "a constant of another length")
        plain = payload * length
    elif codec == 6:
        plain = derive(payload, read_base(body[8:40]))
    elif codec == 7:
        plain = decode_scaled(payload, width, head, length)
    else:
        raise Malformed(f"codec {codec} needs a newer reader")
    need(len(plain) == length, "a body of another plain length")
    return plain


def unzstd(frame: bytes, length: int, prefix: bytes = b"") -> bytes:
    try:
        need(zstandard.frame_content_size(frame) in (-1, length), "a frame of another length")
        base = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
        decoder = zstandard.ZstdDecompressor(dict_data=base, max_window_size=1 << 27)
        return decoder.decompress(frame, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(f"zstd: {error}") from None


class Pieces:
    """Takes pieces off the front of a payload (section 6.2)."""

    def __init__(self, payload: bytes):
        self.rest = payload

    def take(self, count: int, may_be_mapped: bool = True) -> bytes:
        need(len(self.rest) >= 5, "a piece that ends early")
        kind, size = self.rest[0], int.from_bytes(self.rest[1:5], "little")
        stored, self.rest = self.rest[5 : 5 + size], self.rest[5 + size :]
        need(len(stored) == size, "a piece that ends early")
        if kind == 0:
            need(size == 1, "a constant of another length")
            return stored * count
        if kind == 3 and may_be_mapped:
            return mapped(stored, count)
        need(kind in (1, 2), "a piece of an unknown kind")
        piece = stored if kind == 1 else unzstd(stored, count)
        need(len(piece) == count, "a piece of another length")
        return piece


def mapped(stored: bytes, count: int) -> bytes:
    """The commonest byte, a map of the places of the others, and the others."""
    need(stored, "a map without a byte")
    parts = Pieces(stored[1:])
    bits = int.from_bytes(parts.take((count + 7) // 8, False), "little")
    need(bits >> count == 0, "a map of more places than there are")
    others = iter(parts.take(bits.bit_count() if hasattr(bits, "bit_count") else bin(bits).count("1"), False))
    need(not parts.rest, "bytes after a map")
    flags = bin(bits)[2:].zfill(count)[::-1][:count] if count else ""
    return bytes(next(others) if flag == "1" else stored[0] for flag in flags)


def decode_elements(pieces: Pieces, width: int, count: int) -> bytes:
    """Section 6.2. Planes are handled as big integers, which is fast enough without other packages."""
    planes = [int.from_bytes(pieces.take(count), "little") for _ in range(width)]
    low, rest = (int.from_bytes(bytes([mask]) * count, "little") for mask in (0x01, 0x7F))
    elements = bytearray(count * width)
    for k in range(width):
        # Undoes the rotation: bit 0 of each byte goes to bit 7 of the byte below, that of the lowest to the highest.
        unrotated = (planes[k] >> 1) & rest | (planes[(k + 1) % width] & low) << 7
        elements[k::width] = unrotated.to_bytes(count, "little")
    return bytes(elements)


def check_layout(width: int, head: int) -> None:
    need(width in (1, 2, 4, 8) and head < width, "planes of a strange width or head")


def between(elements: bytes, rest: bytes, head: int, length: int) -> bytes:
    """The elements with the bytes before and after them, which are the end of the payload."""
    need(len(elements) + len(rest) == length, "bytes around the elements that do not fit")
    return rest[:head] + elements + rest[head:]


def decode_planes(payload: bytes, width: int, head: int, length: int) -> bytes:
    """Section 6.2."""
    check_layout(width, head)
    pieces = Pieces(payload)
    elements = decode_elements(pieces, width, max(0, length - head) // width)
    return between(elements, pieces.rest, head, length)


def decode_difference(payload: bytes, width: int, head: int, length: int, base: bytes) -> bytes:
    """Section 6.2.1."""
    check_layout(width, head)
    need(len(payload) >= 8, "a difference without a shape")
    operation, buckets, shift, function = payload[:4]
    operation, by_scale = operation & ~2, operation & 2
    need(operation <= 1 and (2 if by_scale else 1) <= buckets <= BUCKETS_MAX and shift < 8 * width, "a strange difference")
    if function:
        base = derive(bytes([function - 1]), base)
    first = head + int.from_bytes(payload[4:8], "little", signed=True)
    count = max(0, length - head) // width
    start = min(count, -(min(first, 0) // width))
    end = min(count, max(0, (len(base) - first) // width))
    start, end = (start, end) if start < end else (0, 0)
    olds = [
        int.from_bytes(base[at : at + width], "little") for at in range(first + start * width, first + end * width, width)
    ]
    keys = [(rotated(old, width) >> shift) & 0xFF for old in olds]
    pieces = Pieces(payload[8:])
    if by_scale:
        keys = take_keys(pieces, keys)
    lengths, order = partition(keys, buckets)
    planes = [b"".join(pieces.take(size) for size in lengths if size) for _ in range(width)]
    elements = bytearray(len(olds) * width)
    for stored, number in zip(zip(*planes), order):
        distance = int.from_bytes(bytes(stored), "little")
        new = element_at(distance, olds[number], width, operation == 0)
        elements[number * width : (number + 1) * width] = new.to_bytes(width, "little")
    outside = b""
    if len(olds) < count:
        outside = decode_elements(pieces, width, count - len(olds))
    whole = outside[: start * width] + bytes(elements) + outside[start * width :]
    return between(whole, pieces.rest, head, length)


def rotated(element: int, width: int) -> int:
    bits = 8 * width
    return (element << 1 | element >> (bits - 1)) & ((1 << bits) - 1)


def take_keys(pieces: Pieces, exponents: list[int]) -> list[int]:
    """The keys by scale (section 6.2.3), whose fields and pieces are next."""
    fields, pieces.rest = pieces.rest[:8], pieces.rest[8:]
    need(len(fields) == 8 and 1 <= fields[0] <= 8 and fields[1:4] == bytes(3), "strange scales")
    shift, row, count = fields[0], int.from_bytes(fields[4:8], "little"), len(exponents)
    need(1 <= row <= count, "rows of a strange length")
    rows, columns = pieces.take(-(-count // row)), pieces.take(row)

    def key(number: int) -> int:
        of_row, of_column = rows[number // row], columns[number % row]
        return ((of_row + of_column - 4 * exponents[number]) >> shift) & 0xFF if of_row and of_column else 0

    return [key(number) for number in range(count)]


def decode_scaled(payload: bytes, width: int, head: int, length: int) -> bytes:
    """Section 6.2.3."""
    check_layout(width, head)
    need(payload and 2 <= payload[0] <= BUCKETS_MAX, "strange buckets")
    pieces = Pieces(payload[1:])
    count = max(0, length - head) // width
    lengths, order = partition(take_keys(pieces, [0] * count), payload[0])
    planes = [b"".join(pieces.take(size) for size in lengths if size) for _ in range(width)]
    elements = bytearray(count * width)
    for stored, number in zip(zip(*planes), order):
        turned = int.from_bytes(bytes(stored), "little")
        element = turned >> 1 | (turned & 1) << (8 * width - 1)
        elements[number * width : (number + 1) * width] = element.to_bytes(width, "little")
    return between(bytes(elements), pieces.rest, head, length)


def partition(keys: list[int], buckets: int) -> tuple[list[int], list[int]]:
    """The length of each bucket, and the numbers of the elements in order of buckets."""
    counts = Counter(keys)
    ranked = sorted(counts, key=lambda key: (-counts[key], key))
    bucket_of = {key: min(rank, buckets - 1) for rank, key in enumerate(ranked)}
    members: list[list[int]] = [[] for _ in range(buckets)]
    for number, key in enumerate(keys):
        members[bucket_of[key]].append(number)
    return [len(bucket) for bucket in members], [number for bucket in members for number in bucket]


def element_at(distance: int, old: int, width: int, is_float: bool) -> int:
    mask, top = (1 << 8 * width) - 1, 1 << (8 * width - 1)
    if is_float:
        old = old ^ mask if old & top else old | top
    new = (old + (distance >> 1 ^ -(distance & 1))) & mask
    if is_float:
        new = new ^ top if new & top else new ^ mask
    return new


def derive(payload: bytes, base: bytes) -> bytes:
    """Section 6.2.2: BF16 of FP32, rounded to nearest, ties to even."""
    need(len(payload) == 1 and payload[0] <= 1, "a function that is unknown")
    need(len(base) % 4 == 0, "a base that is no FP32")
    out = bytearray()
    for at in range(0, len(base), 4):
        bits = int.from_bytes(base[at : at + 4], "little")
        if bits & 0x7FFFFFFF > 0x7F800000:
            half = 0x7FC0 | (bits >> 16 & 0x8000 if payload[0] == 1 else 0)
        else:
            half = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        out += half.to_bytes(2, "little")
    return bytes(out)
