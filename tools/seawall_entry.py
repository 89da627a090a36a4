"""Entries of a Seawall log, as plain bytes (docs/format.md, section 8): who claims to have written one, and what it says.

What counts is decided by who signed; so the frame of an entry is read without its act, and an act that does not read to
the last byte is no act. Which bytes read is part of the format: two readers that differ here would differ in what exists.
"""

from __future__ import annotations

STORED_HEAD, STORED_HEAD_MAX, SIGNATURE_BYTES = 0x88, 0x97, 66
COUNTER_MAX = 9_999_999_999


class Malformed(Exception):
    """Bytes that are not what the format says."""


class Cbor:
    """Reads CBOR of definite lengths from front to back."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def take(self, length: int) -> bytes:
        end = self.place + length
        if end > len(self.data):
            raise Malformed("it ends early")
        taken, self.place = self.data[self.place : end], end
        return taken

    def head(self) -> tuple[int, int, int]:
        """Major type, additional information, value."""
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if info < 24:
            return major, info, info
        if info > 27:
            raise Malformed("an indefinite length")
        return major, info, int.from_bytes(self.take(1 << info - 24), "big")

    def of(self, wanted: int) -> int:
        major, _, value = self.head()
        if major != wanted:
            raise Malformed(f"major type {major} instead of {wanted}")
        return value

    def uint(self, bits: int = 64) -> int:
        value = self.of(0)
        if value >> bits:
            raise Malformed("a number that is too large")
        return value

    def int(self) -> int:
        major, _, value = self.head()
        if major > 1 or value >> 63:
            raise Malformed("not a number of 64 bits")
        return ~value if major else value

    def bytes(self, *lengths: int) -> bytes:
        found = self.take(self.of(2))
        if lengths and len(found) not in lengths:
            raise Malformed("a byte string of another length")
        return found

    def text(self) -> str:
        return self.utf8(self.of(3))

    def bool(self) -> bool:
        value = self.take(1)[0]
        if value not in (0xF4, 0xF5):
            raise Malformed("neither true nor false")
        return value == 0xF5

    def list(self, item) -> list:
        count = self.of(4)
        if count > len(self.data):
            raise Malformed("a list that is longer than all")
        return [item(self) for _ in range(count)]

    def tuple(self, *items) -> list:
        if self.of(4) != len(items):
            raise Malformed("an array of another length")
        return [item(self) for item in items]

    def fields(self, known: dict, required: tuple[int, ...]) -> dict:
        """A map; what it does not know is passed over."""
        found, least = {}, 0
        for _ in range(self.of(5)):
            key = self.uint()
            if key < least or key == 2**64 - 1:
                raise Malformed("keys that do not ascend")
            least = key + 1
            if key in known:
                found[key] = known[key](self)
            else:
                self.skip()
        missing = [field for field in required if field not in found]
        if missing:
            raise Malformed(f"no field {missing[0]}")
        return found

    def skip(self) -> None:
        """Passes over one value of any kind."""
        left = 1
        while left:
            left -= 1
            major, info, value = self.head()
            if major == 2:
                self.take(value)
            elif major == 3:
                self.utf8(value)
            elif major == 4:
                left += value
            elif major == 5:
                left += 2 * value
            elif major == 6:
                left += 1

    def utf8(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise Malformed("text that is not UTF-8") from None


def uint(bits: int = 64):
    return lambda cbor: cbor.uint(bits)


def octets(*lengths: int):
    return lambda cbor: cbor.bytes(*lengths)


def lists(item):
    return lambda cbor: cbor.list(item)


def tuples(*items):
    return lambda cbor: cbor.tuple(*items)


def maps(known: dict, required: tuple[int, ...]):
    return lambda cbor: cbor.fields(known, required)


def below(limit: int, what: str):
    def read(cbor: Cbor) -> int:
        value = cbor.uint()
        if value >= limit:
            raise Malformed(what)
        return value

    return read


def text(cbor: Cbor) -> str:
    return cbor.text()


def time(cbor: Cbor) -> list:
    return cbor.tuple(Cbor.int, below(10**9, "a second has less nanoseconds"))


ID, HASH = octets(16), octets(32)
COUNTER = below(COUNTER_MAX + 1, "a counter of more than 10 digits")
PACK = tuples(ID, COUNTER)
PACKS, IDS = lists(PACK), lists(ID)
SEGMENTS = lists(tuples(ID, COUNTER, HASH, uint(), uint()))
MEMBER = maps({0: ID, 1: HASH, 2: below(3, "an unknown role"), 3: text, 4: HASH, 5: ID, 6: HASH}, (0, 1, 2, 3))
GRANT = tuples(ID, HASH, octets(48))
SNAPSHOT = maps(
    {0: ID, 1: time, 2: text, 3: text, 4: lists(octets()), 5: lists(text), 6: HASH, 7: uint(), 8: uint(), 9: uint(),
     10: lists(tuples(text, text)), 11: text, 12: uint(), 13: ID, 14: uint(), 15: uint(), 16: uint()},
    (0, 1, 2, 3, 6, 7, 8, 9, 11, 12, 14, 15, 16),
)  # fmt: skip

# By act: the fields that are known, and those that must be there.
ACTS = {
    0: ({0: HASH, 1: MEMBER, 2: HASH, 3: uint(32)}, (0, 1, 2, 3)),
    1: ({0: ID, 1: SEGMENTS, 2: SNAPSHOT, 3: IDS}, (0, 1, 2, 3)),
    2: ({0: IDS, 1: text}, (0,)),
    3: ({0: IDS, 1: text, 2: Cbor.bool}, (0, 1, 2)),
    4: ({0: uint(8), 1: uint(), 2: PACKS, 3: lists(tuples(PACK, HASH)), 4: PACKS}, (0,)),
    5: ({0: PACKS, 1: ID, 2: SEGMENTS}, (0, 2)),
    6: ({0: IDS}, (0,)),
    7: ({0: ID, 1: SEGMENTS, 2: PACKS, 3: PACKS}, (1, 2)),
    8: ({0: MEMBER, 1: ID, 2: HASH, 3: uint(32), 4: lists(GRANT)}, ()),
    10: ({0: IDS, 1: PACKS}, (0, 1)),
    11: ({0: PACKS}, (0,)),
}
# Fields that are absent and mean something.
DEFAULTS = {2: {1: ""}, 4: {1: 0, 2: [], 3: [], 4: []}, 7: {3: []}}


class Entry:
    """An entry that somebody may have signed. Where its act can't be read, `unread` says why."""

    def __init__(self, number: int, plain: bytes):
        signed, end = plain[:-SIGNATURE_BYTES], plain[-SIGNATURE_BYTES:]
        is_array = bool(signed) and STORED_HEAD <= plain[0] <= STORED_HEAD_MAX
        if not is_array or end[:2] != b"\x58\x40":
            raise Malformed("not an entry: no array with a signature at its end")
        self.signed, self.signature = bytes([plain[0] - 1]) + signed[1:], end[2:]
        cbor = Cbor(signed)
        cbor.place = 1
        if cbor.uint() != number:
            raise Malformed("an entry of another number")
        self.previous, self.repository = cbor.bytes(0, 32), cbor.bytes(16)
        self.member, self.time = cbor.bytes(16), cbor.int()
        self.act, self.fields, self.unread = None, {}, None
        try:
            if plain[0] != STORED_HEAD:
                raise Malformed(f"an entry of {plain[0] - STORED_HEAD + 8} items")
            self.act, self.fields = read_act(cbor)
        except Malformed as why:
            self.unread = str(why)


def read_act(cbor: Cbor) -> tuple[int, dict]:
    act = cbor.uint()
    if act not in ACTS:
        raise Malformed(f"act {act}")
    known, required = ACTS[act]
    fields = {**DEFAULTS.get(act, {}), **cbor.fields(known, required)}
    if cbor.place != len(cbor.data):
        raise Malformed("bytes behind the act")
    if act == 8 and ({0, 1, 2, 3} & set(fields)) not in ({0}, {1}, {2, 3}):
        raise Malformed("a change of keys is an admission, a revocation or a rotation")
    return act, fields
