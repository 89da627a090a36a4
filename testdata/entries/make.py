"""Makes entries.txt: unsealed entries of a log, and what a reader has to make of each (docs/format.md, section 8).

    python3 make.py > entries.txt

A line is a name, the verdict (`counts`, `void`, or `stops`: it needs a newer reader), the head of the log after it, and the
plain bytes, in hexadecimal digits. All stand at number 5 of the same log, whose head before is 32 bytes 0xF6; for the hash of
an entry's stored bytes stands that of its plain bytes. The members are below; the snapshot 0x50 is there, the sessions 0x2f are
fenced, and 0x2e are published with a segment of hash 0xE0. The engine (rules/state/chain/tests.rs) and the independent reader (tools/test_entries.py) are both held against it.

The named cases have their verdict from this page, by hand. Those named `changed` are valid acts with one byte changed and then
signed anew, as an owner and as a member: their verdict is the independent reader's, so that both readers are held against
each other. Needs the packages of tools/requirements.txt.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

fill = lambda byte, length: bytes([byte]) * length
REPOSITORY, HEAD, NUMBER = fill(0x10, 16), fill(0xF6, 32), 5
# Id, seed of the signing key, role (0 owner, 2 member).
OWNER, MEMBER, REVOKED, STRANGER = (fill(byte, 16) for byte in (0x30, 0x31, 0x32, 0x33))
SEEDS = {OWNER: fill(5, 32), MEMBER: fill(6, 32), REVOKED: fill(7, 32), STRANGER: fill(8, 32)}
SIGNERS = {member: Ed25519PrivateKey.from_private_bytes(seed) for member, seed in SEEDS.items()}

SESSION, FENCED, PACK = fill(0x20, 16), fill(0x2F, 16), [fill(0x20, 16), 7]
PUBLISHED = fill(0x2E, 16)
SNAPSHOT = {0: fill(0x51, 16), 1: [1_800_000_000, 1], 2: "h", 3: "u", 4: [b"/s"], 5: ["t"], 6: fill(0xD4, 32), 7: 1, 8: 1, 9: 1,
            10: [["a", "b"]], 11: "p", 12: 0, 13: fill(0x50, 16), 14: 1, 15: 1, 16: 1}  # fmt: skip
SEGMENT = [SESSION, 3, fill(0xE5, 32), 1, 300]
ADMITTED = {0: fill(0x34, 16), 1: fill(9, 32), 2: 2, 3: "new", 4: fill(10, 32), 5: fill(11, 16)}
ACTS = {
    "commit": (1, {0: SESSION, 1: [SEGMENT], 2: SNAPSHOT, 3: [fill(0x21, 16)]}),
    "forget": (2, {0: [fill(0x50, 16)], 1: "r"}),
    "hold": (3, {0: [fill(0x50, 16)], 1: "l", 2: False}),
    "audit": (4, {0: 2, 1: 9, 2: [PACK], 3: [[PACK, fill(0xA1, 32)]], 4: [PACK]}),
    "condemn": (5, {0: [PACK], 1: SESSION, 2: [SEGMENT]}),
    "fence": (6, {0: [SESSION]}),
    "remap": (7, {0: SESSION, 1: [SEGMENT], 2: [[SESSION, 0]], 3: [PACK]}),
    "admit": (8, {0: ADMITTED}),
    "revoke": (8, {1: MEMBER}),
    "rotate": (8, {2: fill(12, 32), 3: 1, 4: [[OWNER, fill(13, 32), fill(14, 48)]]}),
    "undelete": (10, {0: [fill(0x50, 16)], 1: [PACK]}),
    "delete": (11, {0: [PACK]}),
}


def signed(items: bytes, head: int, member: bytes, domain: bytes = b"seawall v1 log ") -> bytes:
    """`items` without the array's head; the head of the stored array."""
    signature = SIGNERS[member].sign(domain + bytes([head - 1]) + items)
    return bytes([head]) + items + b"\x58\x40" + signature


def items(member: bytes, act: bytes, number: int = NUMBER, head: bytes = HEAD, repository: bytes = REPOSITORY) -> bytes:
    return b"".join(map(cbor2.dumps, (number, head, repository, member, 1_800_000_000_000))) + act


def act(number: int, fields: dict) -> bytes:
    return cbor2.dumps(number) + cbor2.dumps(fields)


def entry(member: bytes, name: str, **frame) -> bytes:
    return signed(items(member, act(*ACTS[name]), **frame), 0x88, member)


def void_head(plain: bytes) -> bytes:
    return blake3(b"seawall v1 void " + HEAD + blake3(plain).digest()).digest()


def cases():
    """Name, verdict, whether it follows the entry before, plain bytes."""
    for name in ACTS:
        yield f"owner-{name}", "counts", True, entry(OWNER, name)
        allowed = name in ("commit", "hold", "audit")
        yield f"member-{name}", "counts" if allowed else "void", True, entry(MEMBER, name)
        for who, member in (("revoked", REVOKED), ("stranger", STRANGER)):
            yield f"{who}-{name}", "void", True, entry(member, name)
    valid = entry(OWNER, "forget")
    yield "empty", "void", False, b""
    yield "one-byte", "void", False, b"\x88"
    yield "not-cbor", "void", False, b"\xff" * 100
    yield "no-signature", "void", False, valid[:-66]
    yield "short-signature", "void", False, valid[:-66] + b"\x58\x3f" + bytes(63)
    yield "long-head-of-signature", "void", False, valid[:-66] + b"\x59\x00\x40" + valid[-64:]
    yield "byte-behind", "void", False, valid + b"\0"
    yield "array-of-seven", "void", False, b"\x87" + valid[1:-66]
    yield "only-a-signature", "void", False, valid[-66:]
    yield "another-number", "void", False, entry(OWNER, "forget", number=6)
    yield "another-repository", "void", False, entry(OWNER, "forget", repository=fill(0x11, 16))
    yield "unchained", "void", False, entry(OWNER, "forget", head=fill(0xF7, 32))
    yield "unchained-and-unknown", "void", False, signed(items(OWNER, act(99, {}), head=fill(0xF7, 32)), 0x88, OWNER)
    yield "without-previous", "void", False, entry(OWNER, "forget", head=b"")
    yield "previous-of-31", "void", False, entry(OWNER, "forget", head=HEAD[:31])
    yield "wrong-signature", "void", True, valid[:-1] + bytes([valid[-1] ^ 1])
    yield "another-domain", "void", True, signed(items(OWNER, act(*ACTS["forget"])), 0x88, OWNER, b"seawall v2 log ")
    yield "signed-by-another", "void", True, signed(items(OWNER, act(*ACTS["forget"])), 0x88, MEMBER)
    for number in (9, 12, 23, 24, 2**64 - 1):
        for who, member in (("owner", OWNER), ("member", MEMBER), ("revoked", REVOKED), ("stranger", STRANGER)):
            verdict = "stops" if who == "owner" else "void"
            yield f"{who}-act-{number}", verdict, True, signed(items(member, act(number, {0: 1})), 0x88, member)
        unsigned = signed(items(OWNER, act(number, {})), 0x88, MEMBER)
        yield f"unsigned-act-{number}", "void", True, unsigned
    for head in (0x89, 0x97):
        for who, member in (("owner", OWNER), ("member", MEMBER)):
            more = items(member, act(*ACTS["forget"])) + b"\x01" * (head - 0x88)
            yield f"{who}-items-{head - 0x80}", "stops" if who == "owner" else "void", True, signed(more, head, member)
    yield "items-24", "void", False, signed(items(OWNER, act(*ACTS["forget"])), 0x98, OWNER)
    yield from odd_fields()
    yield from contradictions()


def odd_fields():
    def owner(name: str, verdict: str, encoded: bytes):
        return name, verdict, True, signed(items(OWNER, encoded), 0x88, OWNER)

    snapshots = cbor2.dumps([fill(0x50, 16)])
    yield owner("indefinite-map", "stops", b"\x02\xbf\x00" + snapshots + b"\xff")
    yield owner("indefinite-list", "stops", b"\x02\xa1\x00\x9f\xff")
    yield owner("keys-descend", "stops", b"\x02\xa2\x01\x61r\x00" + snapshots)
    yield owner("key-twice", "stops", b"\x02\xa2\x00" + snapshots + b"\x00" + snapshots)
    yield owner("no-fields", "stops", b"\x02\xa0")
    yield owner("without-reason", "counts", b"\x02\xa1\x00" + snapshots)
    yield owner("long-heads", "counts", b"\x18\x02\xb8\x01\x18\x00\x98\x01\x58\x10" + fill(0x50, 16))
    yield owner("bytes-behind-the-act", "stops", b"\x02\xa1\x00" + snapshots + b"\x00")
    yield owner("text-not-utf8", "stops", b"\x02\xa2\x00" + snapshots + b"\x01\x61\xff")
    unknown = {
        "float": (b"\xfb" + bytes(8), True), "half": (b"\xf9\x00\x00", True), "tag": (b"\xc1\x00", True),
        "null": (b"\xf6", True), "simple": (b"\xf8\x20", True), "nested": (b"\x82\x81\xa1\x61k\x20\x40", True),
        "indefinite": (b"\x9f\xff", False), "indefinite-bytes": (b"\x5f\xff", False), "break": (b"\xff", False),
        "reserved": (b"\xfc", False), "bad-text": (b"\x61\xff", False), "too-long": (b"\x5a\xff\xff\xff\xff", False),
        "huge-array": (b"\x9b" + fill(0xFF, 8), False),
    }  # fmt: skip
    for name, (value, reads) in unknown.items():
        encoded = b"\x02\xa2\x00" + snapshots + b"\x18\x63" + value
        yield owner(f"unknown-field-{name}", "counts" if reads else "stops", encoded)
    for name, role in (("role-3", 3), ("role-256", 256)):
        yield owner(name, "stops", act(8, {0: {**ADMITTED, 2: role}}))
    yield owner("two-changes-of-keys", "stops", act(8, {0: ADMITTED, 1: MEMBER}))
    yield owner("generation-of-33-bits", "stops", act(8, {2: fill(12, 32), 3: 2**32, 4: []}))
    yield owner("counter-of-11-digits", "stops", act(11, {0: [[SESSION, 10**10]]}))


def contradictions():
    commit, number = ACTS["commit"][1], 1
    changed = {
        "fenced": {0: FENCED, 1: []}, "adopts-fenced": {3: [FENCED]}, "another-session": {0: fill(0x22, 16)},
        "known-snapshot": {2: {**SNAPSHOT, 0: fill(0x50, 16)}},
        "published-under-another-name": {1: [[SESSION, 3, fill(0xE0, 32), 1, 300]]},
        "published-session": {0: PUBLISHED, 1: []}, "adopts-published": {3: [PUBLISHED]},
        "published-name-of-another-hash": {1: [[PUBLISHED, 0, fill(0xE9, 32), 1, 300]], 3: [PUBLISHED]},
        "two-hashes-of-a-name": {1: [SEGMENT, [*SEGMENT[:2], fill(0xE9, 32), 1, 300]]},
        "two-names-of-a-hash": {1: [SEGMENT, [SESSION, 9, *SEGMENT[2:]]]},
    }  # fmt: skip
    for name, fields in changed.items():
        yield name, "void", True, signed(items(MEMBER, act(number, {**commit, **fields})), 0x88, MEMBER)
    yield "second-init", "void", True, signed(items(OWNER, act(0, {0: HEAD, 1: ADMITTED, 2: HEAD, 3: 0})), 0x88, OWNER)
    yield "generation-skipped", "void", True, signed(items(OWNER, act(8, {2: HEAD, 3: 2, 4: []})), 0x88, OWNER)
    yield "generation-again", "void", True, signed(items(OWNER, act(8, {2: HEAD, 3: 0, 4: []})), 0x88, OWNER)
    yield "last-owner", "void", True, signed(items(OWNER, act(8, {1: OWNER})), 0x88, OWNER)
    yield "nobody-revoked", "void", True, signed(items(OWNER, act(8, {1: STRANGER})), 0x88, OWNER)
    yield "admitted-again", "void", True, signed(items(OWNER, act(8, {0: {**ADMITTED, 0: REVOKED}})), 0x88, OWNER)


def changed():
    """Every act with one byte of it changed by chance, or one more or less, then signed anew."""
    chance = random.Random(5)
    for name, (number, fields) in ACTS.items():
        encoded = act(number, fields)
        for _ in range(12):
            place, mutated = chance.randrange(len(encoded)), bytearray(encoded)
            kind = chance.randrange(4)
            if kind == 0:
                del mutated[place]
            elif kind == 1:
                mutated.insert(place, chance.randrange(256))
            else:
                mutated[place] = chance.choice((mutated[place] ^ 1 << chance.randrange(8), chance.randrange(256)))
            signers = (("owner", OWNER), ("member", MEMBER)) if name in ("commit", "hold", "audit") else (("owner", OWNER),)
            for who, member in signers:
                yield f"changed-{who}-{name}", signed(items(member, bytes(mutated)), 0x88, member)


def main() -> None:
    from test_entries import judge

    for name, verdict, follows, plain in cases():
        print(name, verdict, (blake3(plain).digest() if follows else void_head(plain)).hex(), plain.hex())
    for name, plain in changed():
        verdict, head = judge(plain)
        print(name, verdict, head.hex(), plain.hex())


if __name__ == "__main__":
    main()
