"""Bodies of blobs for the tests of rescue.py, made from docs/format.md, sections 6.1 and 6.2, alone: step by step, slow and plain."""

from __future__ import annotations

import struct

import zstandard


def body(codec, plain, payload, width=0, head=0, base=b""):
    return struct.pack("<BBBxI", codec, width, head, len(plain)) + base + payload


def zstd(plain, prefix=None):
    base = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT) if prefix else None
    return zstandard.ZstdCompressor(level=6, dict_data=base, write_dict_id=False).compress(plain)


def planes(plain, width, head):
    count = (len(plain) - head) // width
    elements = [int.from_bytes(plain[head + i * width : head + (i + 1) * width], "little") for i in range(count)]
    bits = 8 * width
    turned = [(e << 1 | e >> (bits - 1)) & ((1 << bits) - 1) for e in elements]
    payload = b""
    for k in range(width):
        plane = bytes(e >> (8 * k) & 0xFF for e in turned)
        kind, data = (0, plane[:1]) if len(set(plane)) == 1 else (2, zstd(plane)) if k % 2 else (1, plane)
        payload += struct.pack("<BI", kind, len(data)) + data
    return body(3, plain, payload + plain[:head] + plain[head + count * width :], width, head)


def plane(data):
    """A piece of each kind in turn, by what suits."""
    common = max(set(data), key=data.count)
    if len(set(data)) > 1 and data.count(common) * 2 > len(data):
        flags = [byte != common for byte in data]
        bits = bytes(sum(flag << i for i, flag in enumerate(flags[at : at + 8])) for at in range(0, len(data), 8))
        others = bytes(byte for byte in data if byte != common)
        parts = [struct.pack("<BI", 2, len(zstd(bits))) + zstd(bits), struct.pack("<BI", 1, len(others)) + others]
        return struct.pack("<BI", 3, 1 + sum(map(len, parts))) + bytes([common]) + b"".join(parts)
    kind, data = (0, data[:1]) if len(set(data)) == 1 else (2, zstd(data))
    return struct.pack("<BI", kind, len(data)) + data


def by_scale(exponents, shift, row):
    """Section 6.2.3: scales that say little, with zeros among them; their bytes, and the keys that they make."""
    count = len(exponents)
    rows = bytes((7 * i + i // 3) % 256 for i in range((count + row - 1) // row))
    columns = bytes((11 * i + 5) % 200 for i in range(row))
    keys = []
    for i, exponent in enumerate(exponents):
        r, c = rows[i // row], columns[i % row]
        keys.append((r + c - 4 * exponent) // 2**shift % 256 if r and c else 0)
    return struct.pack("<B3xI", shift, row) + plane(rows) + plane(columns), keys


def scaled(plain, width, head, buckets, shift, row):
    """Codec 7 of section 6.2.3."""
    bits, count = 8 * width, (len(plain) - head) // width
    elements = [int.from_bytes(plain[head + i * width : head + (i + 1) * width], "little") for i in range(count)]
    scales, keys = by_scale([0] * count, shift, row)
    ranks = sorted(set(keys), key=lambda key: (-keys.count(key), key))
    payload = bytes([buckets]) + scales
    for k in range(width):
        for bucket in range(buckets):
            members = [e for e, key in zip(elements, keys) if min(ranks.index(key), buckets - 1) == bucket]
            piece = bytes((e << 1 | e >> (bits - 1)) >> 8 * k & 255 for e in members)
            payload += plane(piece) if piece else b""
    return body(7, plain, payload + plain[:head] + plain[head + count * width :], width, head)


def difference(plain, old, width, head, operation, buckets, shift, place, base, function=0, scale=None):
    """Section 6.2.1, step by step as it is written there. `old` is the base as the function gives it."""
    bits = 8 * width
    mask, top = (1 << bits) - 1, 1 << (bits - 1)

    def ordered(e):
        return (~e & mask if e & top else e ^ top) if operation == 0 else e

    count = (len(plain) - head) // width
    inside, outside = [], []
    for i in range(count):
        at = head + i * width
        new, other = int.from_bytes(plain[at : at + width], "little"), old[max(0, at + place) : max(0, at + place + width)]
        if at + place >= 0 and len(other) == width:
            inside.append((new, int.from_bytes(other, "little")))
        else:
            outside.append((new << 1 | new >> (bits - 1)) & mask)
    keys = [((e << 1 | e >> (bits - 1)) & mask) >> shift & 255 for _, e in inside]
    scales = b""
    if scale:
        scales, keys = by_scale(keys, *scale)
    ranks = sorted(set(keys), key=lambda key: (-keys.count(key), key))
    stored = []
    for new, e in inside:
        signed = (ordered(new) - ordered(e) + top) % (1 << bits) - top
        stored.append(2 * signed if signed >= 0 else -2 * signed - 1)
    payload = struct.pack("<BBBBi", operation | (2 if scale else 0), buckets, shift, function, place) + scales
    for k in range(width):
        for bucket in range(buckets):
            piece = [s >> 8 * k & 255 for s, key in zip(stored, keys) if min(ranks.index(key), buckets - 1) == bucket]
            payload += plane(bytes(piece)) if piece else b""
    for k in range(width if outside else 0):
        payload += plane(bytes(e >> 8 * k & 255 for e in outside))
    return body(4, plain, payload + plain[:head] + plain[head + count * width :], width, head, base)
