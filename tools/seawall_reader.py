"""The stored format of Seawall, version 1, read by an independent program: the library below rescue.py.

Written from docs/format.md alone; each part names its section there. Everything that comes from the repository is proved
before it is believed: a wrong byte raises Damage, and what can be reported and passed over goes into a Report. Of CBOR it
accepts more forms than a reader must, as whatever it reads is sealed by a key of the repository.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import Iterator

import cbor2
from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import seawall_parity
from seawall_codecs import CHUNK_MAX, CODECS_WITH_BASE, decode_body
from seawall_entry import Malformed
from seawall_state import Lost, Newer, State

DONE, FAILED, USAGE, PROBLEMS, NO_REPOSITORY, WRONG_KEY, DAMAGE = 0, 1, 2, 3, 10, 12, 13
# No such object is longer (section 1).
MARKER_MAX, SLOT_MAX, SESSION_MAX, ENTRY_MAX = 64 << 10, 64 << 10, 4 << 10, 64 << 20


class Failure(Exception):
    """Ends the run with an exit code."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


class Damage(Exception):
    """Stored bytes are not what they must be."""


# What reading damaged bytes can raise.
MALFORMED = (Damage, Malformed, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, struct.error)


class Report:
    """Collects what went wrong, and says it at once."""

    def __init__(self):
        self.code = DONE

    def damage(self, what: str, why: object) -> None:
        print(f"damaged: {what}: {why}", file=sys.stderr)
        self.code = DAMAGE

    def problem(self, what: str, why: object) -> None:
        print(f"problem: {what}: {why}", file=sys.stderr)
        self.code = max(self.code, PROBLEMS)


# ---- Primitives (docs/format.md, section 2) ----


def need(condition: object, why: str) -> None:
    if not condition:
        raise Damage(why)


def extract(salt: bytes, key: bytes) -> bytes:
    return hmac.new(salt or bytes(32), key, hashlib.sha256).digest()


def expand(key: bytes, info: bytes, length: int) -> bytes:
    assert length <= 32, "one block is all that the format asks for"
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()[:length]


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return expand(extract(salt, key), info, 32)


def nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def open_aead(key: bytes, number: bytes, sealed: bytes, associated: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(number, sealed, associated)
    except (InvalidTag, ValueError):
        raise Damage("decryption failed: other bytes or another key") from None


def open_envelope(purpose: bytes, name: str, stored: bytes) -> bytes:
    """Opens a sealed object (section 2.1)."""
    need(stored[:8] == b"SWSEAL01" and len(stored) >= 64, "not a sealed object")
    length = int.from_bytes(stored[40:48], "little")
    blocks = max(1, -(-length // (1 << 20)))
    need(len(stored) == 48 + length + 16 * blocks, "a sealed object of another length")
    key = hkdf(purpose, stored[8:40], b"seawall v1 seal " + name.encode())
    plain, place = [], 48
    for block in range(blocks):
        end = min(place + (1 << 20) + 16, len(stored))
        associated = stored[:48] + block.to_bytes(8, "little") + bytes([block == blocks - 1])
        plain.append(open_aead(key, nonce(block), stored[place:end], associated))
        place = end
    return b"".join(plain)


def open_hpke(secret: bytes, encapsulated: bytes, sealed: bytes, info: bytes, associated: bytes) -> bytes:
    """RFC 9180, base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM, first message."""
    own = X25519PrivateKey.from_private_bytes(secret)
    own_public = own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def labeled_extract(suite: bytes, salt: bytes, label: bytes, key: bytes) -> bytes:
        return extract(salt, b"HPKE-v1" + suite + label + key)

    def labeled_expand(suite: bytes, key: bytes, label: bytes, context: bytes, length: int) -> bytes:
        return expand(key, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context, length)

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    try:
        agreed = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    except ValueError:
        raise Damage("not an encapsulated key") from None
    prk = labeled_extract(kem, b"", b"eae_prk", agreed)
    shared = labeled_expand(kem, prk, b"shared_secret", encapsulated + own_public, 32)
    context = b"\x00" + labeled_extract(suite, b"", b"psk_id_hash", b"")
    context += labeled_extract(suite, b"", b"info_hash", info)
    key_secret = labeled_extract(suite, shared, b"secret", b"")
    key = labeled_expand(suite, key_secret, b"key", context, 32)
    return open_aead(key, labeled_expand(suite, key_secret, b"base_nonce", context, 12), sealed, associated)


def from_cbor(encoded: bytes, kind: type):
    """One CBOR item of an expected kind."""
    try:
        value = cbor2.loads(encoded)
    except Exception as error:  # Why: decoders of outside bytes fail in many ways, and all mean the same.
        raise Damage(f"not CBOR: {error}") from None
    need(isinstance(value, kind), "CBOR of another shape")
    return value


# ---- Objects and keys (sections 1, 3, 4, 5) ----


class Store:
    """The objects below a directory."""

    def __init__(self, root: str):
        self.root = Path(root)

    def path(self, name: str) -> Path:
        assert re.fullmatch(r"[a-z0-9]+(/[a-z0-9]+)*", name), name
        return self.root / name

    def read(self, name: str, most: int | None = None) -> bytes:
        """An object's bytes; of one of which a store must not choose the length, at most so many."""
        try:
            with open(self.path(name), "rb") as file:
                stored = file.read() if most is None else file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise Damage(f"{name} is missing") from None
        need(most is None or len(stored) <= most, f"{name} is longer than {most} bytes")
        return stored

    def exists(self, name: str) -> bool:
        return self.path(name).is_file()

    def names(self, folder: str) -> list[str]:
        """The names of all objects below a first component, ascending."""
        found = []
        for place, _, files in os.walk(self.root / folder):
            inner = os.path.relpath(place, self.root)
            found += [f"{inner}/{file}" for file in files if re.fullmatch("[a-z0-9]+", file)]
        return sorted(found)


class Key:
    """What the user knows: a passphrase, the bytes of a key file or an identity, or shares by their set and how many of
    it are needed."""

    def __init__(self, kind: int, secret: bytes, shares: dict[bytes, dict[int, bytes]] | None = None):
        self.kind, self.secret, self.shares = kind, secret, shares or {}

    @classmethod
    def from_file(cls, path: str) -> Key:
        """A key file or an identity file."""
        first, digits = file_lines(path, 2)
        kinds = {"seawall-key-1": 1, "seawall-identity-1": 2}
        if first not in kinds or not re.fullmatch("[0-9a-fA-F]{64}", digits):
            raise Failure(USAGE, f"{path} is not a key file or an identity file")
        return cls(kinds[first], bytes.fromhex(digits))

    @classmethod
    def from_shares(cls, paths: list[str]) -> Key:
        shares: dict[bytes, dict[int, bytes]] = {}
        for path in paths:
            first, name, place, value, checksum = file_lines(path, 5)
            try:
                need(first == "seawall-share-1", "another first line")
                needed, number = (int(part) for part in place.split(" "))
                whole = bytes.fromhex(name) + bytes([needed, number]) + bytes.fromhex(value)
                need(len(whole) == 50, "a line of another length")
                need(blake3(b"seawall v1 share" + whole).digest()[:8] == bytes.fromhex(checksum), "a wrong digit")
            except MALFORMED as error:
                raise Failure(USAGE, f"{path} is not a share: {error}") from None
            shares.setdefault(whole[:17], {})[number] = whole[18:]
        return cls(3, b"", shares)

    def purpose_key(self, name: str, slot: dict, repository: bytes) -> bytes | None:
        """The key of a slot's envelope; none where this key is not of that slot."""
        salt = slot[3]
        if self.kind == 1:
            return hkdf(self.secret, salt, b"seawall v1 key file")
        if self.kind == 2:
            try:
                secret = open_hpke(self.secret, slot[9], slot[10], b"seawall v1 slot", bytes.fromhex(name[4:]))
            except Damage:
                return None
            return hkdf(secret, salt, b"seawall v1 public key slot" + repository)
        if self.kind == 3:
            needed, place = slot[12], slot[11] + bytes([slot[12], slot[13]])
            need(1 <= needed <= slot[13], "numbers of shares that make no sense")
            # Only shares that say themselves that so many are needed.
            shares = self.shares.get(place[:17], {})
            if 0 < len(shares) < needed:
                print(f"{len(shares)} of {slot[13]} shares given, {needed - len(shares)} more needed", file=sys.stderr)
            if len(shares) < needed:
                return None
            secret = combine_shares(dict(sorted(shares.items())[:needed]))
            return hkdf(secret, salt, b"seawall v1 shares slot" + place + repository)
        return self.from_passphrase(salt, slot[4])

    def from_passphrase(self, salt: bytes, cost: list) -> bytes:
        memory_kib, passes, lanes = cost
        need(memory_kib <= 1 << 20 and passes <= 64 and 1 <= lanes <= 64, "a hostile passphrase cost")
        try:
            from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
        except ImportError:
            return derive_elsewhere(self.secret, salt, memory_kib, passes, lanes)
        derive = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib)
        return derive.derive(self.secret)


def file_lines(path: str, count: int) -> list[str]:
    """The first lines of a file of text of which the rest is remarks."""
    lines = [line.rstrip() for line in Path(path).read_text("utf-8", "replace").split("\n")]
    if len(lines) < count or any(line and not line.startswith("#") for line in lines[count:]):
        raise Failure(USAGE, f"{path} holds no key")
    return lines[:count]


def combine_shares(shares: dict[int, bytes]) -> bytes:
    """The constant terms of the polynomials over GF(256) that go through these points."""

    def multiply(left: int, right: int) -> int:
        product = 0
        for bit in range(8):
            if right >> bit & 1:
                product ^= left << bit
        for bit in range(14, 7, -1):
            if product >> bit & 1:
                product ^= 0x11B << (bit - 8)
        return product

    secret = bytearray(32)
    for number, value in shares.items():
        weight = 1
        for other in shares:
            if other != number:
                inverse = next(x for x in range(1, 256) if multiply(x, other ^ number) == 1)
                weight = multiply(weight, multiply(other, inverse))
        for at, byte in enumerate(value):
            secret[at] ^= multiply(byte, weight)
    return bytes(secret)


def derive_elsewhere(secret: bytes, salt: bytes, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Argon2id for a cryptography package that is built without it."""
    try:
        from argon2.low_level import Type, hash_secret_raw
    except ImportError:
        raise Failure(FAILED, "a passphrase needs cryptography 44 or newer, or argon2-cffi") from None
    return hash_secret_raw(secret, salt, passes, memory_kib, lanes, 32, Type.ID, 0x13)


def open_rings(store: Store, key: Key, report: Report, repository: str | None) -> list[dict]:
    """The key rings of this repository (any, where its id is not known) that the key opens; those first that open the log.

    Anybody can make a slot for a public key, so one that opens may hold somebody else's keys.
    """
    rings = []
    for name in store.names("key"):
        try:
            ring = open_slot(store, key, name, report, repository)
        except MALFORMED as error:
            report.damage(name, error)
            continue
        if ring is not None and (repository is None or ring[2].hex() == repository):
            # What the log says of a member's slot: its name, the hash of its bytes, and whether it took a secret to make it.
            ring["slot"], ring["hash"] = bytes.fromhex(name[4:]), blake3(store.read(name, SLOT_MAX)).digest()
            ring["proof"] = key.kind in (0, 1)
            rings.append(ring)
    if not rings:
        raise Failure(WRONG_KEY, "the key does not open this repository")
    return sorted(rings, key=lambda ring: not opens_log(store, ring))


def open_slot(store: Store, key: Key, name: str, report: Report, repository: str | None) -> dict | None:
    slot = from_cbor(store.read(name, SLOT_MAX), dict)
    if slot.get(0) != 1 or slot.get(1) != key.kind:
        return None
    purpose = key.purpose_key(name, slot, bytes.fromhex(repository or ""))
    if purpose is None:
        return None
    try:
        ring = from_cbor(open_envelope(purpose, name, slot.get(5, b"")), dict)
    except Damage:
        return None
    if ring.get(1) != slot.get(2):
        report.damage(name, "the role is not that of the ring")
    if ring.get(0) != 1:
        raise Failure(FAILED, f"{name}: this key ring needs a newer reader")
    return ring


def opens_log(store: Store, ring: dict) -> bool:
    """True if the log key opens some entry."""
    for name in store.names("log"):
        try:
            open_envelope(ring[7], name, store.read(name, ENTRY_MAX))
            return True
        except MALFORMED:
            continue
    return False


def repository_of_packs(store: Store) -> str | None:
    """The repository's id as the first pack says that has a header (section 6)."""
    for name in store.names("pack"):
        with open(store.path(name), "rb") as file:
            header = file.read(64)
        if len(header) == 64 and header[:8] == b"SWPACK01":
            return header[40:56].hex()
    return None


def read_marker(store: Store, report: Report) -> dict:
    """The marker; where it is lost or damaged that is reported, and the rest still reads."""
    if not (store.exists("seawall") or store.names("key")):
        raise Failure(NO_REPOSITORY, f"no repository at {store.root}")
    try:
        marker = json.loads(store.read("seawall", MARKER_MAX))
        form, required, _ = marker["format"], marker["required"], bytes.fromhex(marker["repository"])
    except (Damage, ValueError, KeyError, TypeError) as error:
        report.damage("seawall", f"the marker is damaged: {error}")
        return {}
    if form != 1 or required:
        raise Failure(FAILED, f"format {form} with features {required} needs a newer reader")
    return marker


# ---- The log (section 8) ----


class Log(State):
    """Reads and proves the log. An entry that its signer may not write, or that contradicts what is there, or that nobody
    can have signed, changes nothing."""

    def __init__(self, store: Store, ring: dict, report: Report):
        super().__init__(ring[2])
        self.store, self.ring, self.report = store, ring, report
        self.fingerprint: bytes | None = None
        numbers = [int(name[4:]) for name in store.names("log")]
        for number in range(max(numbers, default=0) + 1):
            name = f"log/{number:020}"
            try:
                stored = store.read(name, ENTRY_MAX)
                self.fingerprint = blake3(stored).digest() if number == 0 else self.fingerprint
                self.read_entry(number, name, stored)
            except (*MALFORMED, Lost) as error:
                report.damage(name, error)
                self.lose(number)
        if self.init_lost:
            report.damage(f"log/{0:020}", "without it nothing proves who may sign: what strangers wrote counts")

    def read_entry(self, number: int, name: str, stored: bytes) -> None:
        plain = open_envelope(self.ring[7], name, stored)
        try:
            why = self.take(number, plain, blake3(stored).digest(), self.is_signed)
        except Newer as what:
            raise Failure(FAILED, f"{name}: {what} needs a newer reader") from None
        if why is not None:
            self.report.problem(name, f"it counts for nothing: {why}")

    def perform(self, number: int, act: int, fields: dict) -> None:
        super().perform(number, act, fields)
        if act == 0:
            marker = self.store.path("seawall")
            if not marker.is_file() or blake3(self.store.read("seawall", MARKER_MAX)).digest() != fields[0]:
                self.report.damage("seawall", "the marker was changed")

    def is_signed(self, public: bytes, entry) -> bool:
        try:
            signed = b"seawall v1 log " + entry.signed
            Ed25519PublicKey.from_public_bytes(public).verify(entry.signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True

    def knows(self, member: bytes) -> bool:
        """True if this member was ever admitted; where entry 0 is lost nobody can tell."""
        return self.init_lost or member in self.members or member in self.revoked

    def fits(self, ring: dict) -> bool:
        """True if the ring is the one of the member that it names, and its slot the one that the log names (section 8)."""
        if self.init_lost:
            return True
        if ring[3] not in self.slots:
            return False
        public, role, slot, digest = self.slots[ring[3]]
        own = Ed25519PrivateKey.from_private_bytes(ring[10]).public_key()
        if own.public_bytes(Encoding.Raw, PublicFormat.Raw) != public or ring[1] != role:
            return False
        return slot in (None, ring["slot"]) and (ring["proof"] or digest in (None, ring["hash"]))

    def data_secrets(self) -> dict[int, bytes]:
        """The data secret keys that this key ring has, newest first (sections 4 and 8)."""
        ring, secrets = self.ring, {}
        if 9 in ring and self.init_lost:
            self.data_keys.setdefault(ring[11], (ring[8], []))
        pair = hkdf(ring[10], b"", b"seawall v1 member wrap")
        for generation, (public, grants) in sorted(self.data_keys.items(), reverse=True):
            found = [ring[9]] if generation == ring[11] and 9 in ring else []
            for member, encapsulated, sealed in grants:
                if member == ring[3] and ring[1] != 2:
                    associated = ring[2] + member + generation.to_bytes(4, "little")
                    try:
                        found.append(open_hpke(pair, encapsulated, sealed, b"seawall v1 grant", associated))
                    except MALFORMED as error:
                        self.report.problem(f"the grant of data key generation {generation}", error)
            for secret in found:
                raw = X25519PrivateKey.from_private_bytes(secret).public_key()
                if raw.public_bytes(Encoding.Raw, PublicFormat.Raw) == public:
                    secrets[generation] = secret
        return secrets

    def find(self, wanted: str) -> dict:
        """A snapshot by the beginning of its id, a forgotten one too, or the newest."""
        known = self.snapshots + [snapshot for snapshot, _ in self.forgotten.values()]
        found = self.snapshots[-1:] if wanted == "latest" else [s for s in known if s[0].hex().startswith(wanted)]
        if len(found) != 1:
            raise Failure(USAGE, f"{len(found)} snapshots are called {wanted}")
        return found[0]


# ---- Blobs (sections 6 and 7) ----


class Blobs:
    """Finds and opens blobs."""

    def __init__(self, store: Store, ring: dict, secrets: dict[int, bytes]):
        self.secrets = secrets
        self.store, self.ring = store, ring
        self.packs: list[str] = []
        self.ordinals: dict[str, int] = {}
        self.places: dict[bytes, bytes] = {}  # id -> 12 bytes a place: pack ordinal, offset, sealed length
        self.read_cached = functools.lru_cache(maxsize=16)(self.read)
        self.mended: dict[str, int] = {}  # packs whose parity gave damaged bytes back: how many of their pieces

    def add(self, chunk: bytes, pack: str, offset: int, sealed: int) -> None:
        ordinal = self.ordinals.setdefault(pack, len(self.packs))
        if ordinal == len(self.packs):
            self.packs.append(pack)
        self.places[chunk] = self.places.get(chunk, b"") + struct.pack("<III", ordinal, offset, sealed)

    def load_segment(self, name: str, digest: bytes, check_filter: bool = False) -> None:
        stored = self.store.read(name)
        need(blake3(stored).digest() == digest, "not the segment that the log published")
        plain = open_envelope(self.ring[6], name, stored)
        need(plain[:8] == b"SWINDX01", "not an index segment")
        count, packs, bases, blocks = struct.unpack_from("<QIII", plain, 8)
        records = 64 + 24 * packs
        need(len(plain) == records + 56 * count + 32 * bases + 32 * blocks, "a segment of another length")
        names = [f"pack/{s.hex()}/{c:010}" for s, c in struct.iter_unpack("<16sQ", plain[64:records])]
        last, missed = b"", 0
        for chunk, pack, offset, sealed, _, _, _, _, _ in struct.iter_unpack(
            "<32sIIIIBBHI", plain[records : records + 56 * count]
        ):
            need(chunk > last and pack < packs, "a damaged record")
            last = chunk
            self.add(chunk, names[pack], offset, sealed)
            missed += check_filter and not in_filter(plain[-32 * blocks :], blocks, chunk)
        need(not missed, f"the filter misses {missed} ids")

    def scan_packs(self, report: Report) -> None:
        """Finds blobs without the index."""
        for name in self.store.names("pack"):
            try:
                try:
                    found = [(record[0], record[1], record[2]) for record in self.read_footer(name)]
                except MALFORMED as error:
                    report.damage(name, f"{error}; looking for blobs by their headers")
                    found = list(self.scan_blobs(name))
                for chunk, offset, sealed in found:
                    self.add(chunk, name, offset, sealed)
            except (*MALFORMED, OSError) as error:
                report.damage(name, error)

    def pread(self, pack: str, offset: int, length: int) -> bytes:
        try:
            with open(self.store.path(pack), "rb", buffering=0) as file:
                bytes_read = os.pread(file.fileno(), length, offset)
        except (FileNotFoundError, OverflowError):
            raise Damage(f"{pack} is missing") from None
        need(len(bytes_read) == length, f"{pack} is shorter than it was")
        return bytes_read

    @functools.lru_cache(maxsize=4)
    def mend(self, pack: str) -> tuple[bytes, tuple[int, int]] | None:
        """What lies before the parity of a pack, damaged or not, and the footer's place in it (section 6.3)."""
        found = seawall_parity.mend(self.store.read(pack))
        if found is None:
            return None
        self.mended[pack] = found[2]
        return found[:2]

    def read_footer(self, pack: str) -> list[tuple]:
        """Records (id, offset, sealed length, plain length, codec, base or None) in order of place."""
        try:
            return self.decode_footer(pack, self.footer(pack))
        except Damage:
            mended = self.mend(pack)
            if mended is None:
                raise
            data, (offset, length) = mended
            return self.decode_footer(pack, data[offset : offset + length])

    def footer(self, pack: str) -> bytes:
        size = self.store.path(pack).stat().st_size
        need(size >= 128, "too short for a pack")
        trailer = self.pread(pack, size - 64, 64)
        offset, length, parity, _ = struct.unpack_from("<IIII", trailer)
        need(trailer[16:24] == b"SWPEND01", "no trailer")
        need(offset >= 64 and offset + length + parity + 64 == size, "a trailer with wrong places")
        return self.pread(pack, offset, length)

    def decode_footer(self, pack: str, footer: bytes) -> list[tuple]:
        plain = open_envelope(self.ring[6], f"{pack}#footer", footer)
        count = int.from_bytes(plain[:4], "little")
        need(len(plain) >= 4 + 48 * count, "a short footer")
        records = list(struct.iter_unpack("<32sIIIB3x", plain[4 : 4 + 48 * count]))
        with_base = [record[4] in CODECS_WITH_BASE for record in records]
        need(len(plain) == 4 + 48 * count + 32 * sum(with_base), "a footer of another length")
        bases = (plain[place : place + 32] for place in range(4 + 48 * count, len(plain), 32))
        return [(*record, next(bases) if based else None) for record, based in zip(records, with_base)]

    def scan_blobs(self, pack: str) -> Iterator[tuple[bytes, int, int]]:
        """Finds blobs by their headers; each one is decrypted before it is believed."""
        data, place = self.store.read(pack), 64
        while (place := data.find(b"SWBL", place)) >= 0:
            header = data[place : place + 48]
            sealed = int.from_bytes(header[4:8], "little")
            try:
                self.open_blob(pack, data[place : place + 48 + sealed])
            except Damage:
                place += 1
                continue
            yield header[16:], place, sealed
            place += 48 + sealed

    @functools.lru_cache(maxsize=64)
    def pack_keys(self, pack: str) -> list[bytes]:
        keys = self.session_keys(pack.split("/")[1])
        return [hkdf(key, b"", b"seawall v1 pack " + pack.encode()) for key in keys]

    @functools.lru_cache(maxsize=64)
    def session_keys(self, session: str) -> list[bytes]:
        """The keys that are stored for a session, of the newest generation first. There is one; but anybody who may write can
        have put another beside it, and then only the blobs tell which is right."""
        if 9 not in self.ring:
            raise Failure(FAILED, "this key may add to the repository, but not read data back")
        keys, error = [], Damage("the session's key is missing, or of a generation that this key ring does not have")
        for generation in self.secrets:
            if self.store.exists(f"session/{session}/{generation:010}"):
                try:
                    keys.append(self.session_key(session, generation))
                except MALFORMED as found:
                    error = Damage(f"the session's key: {found}")
        if not keys:
            raise error
        return keys

    def session_key(self, session: str, generation: int) -> bytes:
        record = from_cbor(self.store.read(f"session/{session}/{generation:010}", SESSION_MAX), dict)
        need(record.get(0) == 1 and record.get(3) == 1, "a session record for a newer reader")
        need(record.get(1) == bytes.fromhex(session) and record.get(2) == generation, "another session's record")
        associated = self.ring[2] + record[1] + generation.to_bytes(4, "little")
        secret = self.secrets[generation]
        return open_hpke(secret, record.get(4, b""), record.get(5, b""), b"seawall v1 session", associated)

    def open_blob(self, pack: str, blob: bytes) -> bytes:
        """The body of a blob (header and sealed bytes)."""
        need(len(blob) >= 64 and blob[:4] == b"SWBL" and blob[13:16] == bytes(3), "no blob is here")
        need(len(blob) <= 48 + CHUNK_MAX + 1024, "a blob that is too long")
        sealed, number = struct.unpack_from("<II", blob, 4)
        need(len(blob) == 48 + sealed, "a blob of another length")
        error = Damage("the session has no key")
        for key in self.pack_keys(pack):
            try:
                return open_aead(key, nonce(number), blob[48:], blob[:48])
            except Damage as found:
                error = found
        raise error

    def read(self, chunk: bytes, as_base: bool = False) -> bytes:
        """The plain bytes of a chunk, from the first of its places that gives them; for a base, that has none itself."""
        places, error = self.places.get(chunk, b""), Damage(f"chunk {chunk.hex()[:16]} is stored nowhere")
        for ordinal, offset, sealed in struct.iter_unpack("<III", places):
            try:
                blob = self.pread(self.packs[ordinal], offset, 48 + sealed)
                return self.decode(self.packs[ordinal], blob, chunk, as_base)
            except (*MALFORMED, OSError) as found:
                error = Damage(f"{self.packs[ordinal]} at {offset}: {found}")
        for ordinal, offset, sealed in struct.iter_unpack("<III", places):
            try:
                data, _ = self.mend(self.packs[ordinal]) or (b"", None)
                return self.decode(self.packs[ordinal], data[offset : offset + 48 + sealed], chunk, as_base)
            except (*MALFORMED, OSError):
                continue
        raise error

    def has_place(self, chunk: bytes, pack: str, offset: int, sealed: int) -> bool:
        place = (self.ordinals.get(pack), offset, sealed)
        return place in struct.iter_unpack("<III", self.places.get(chunk, b""))

    def decode(self, pack: str, blob: bytes, chunk: bytes, as_base: bool = False) -> bytes:
        need(blob[16:48] == chunk, "a blob of another chunk")
        body = self.open_blob(pack, blob)
        need(not (as_base and body[0] in CODECS_WITH_BASE), "a base that has a base")
        plain = decode_body(body, lambda base: self.read_cached(base, True))
        need(blake3(plain, key=self.ring[4]).digest() == chunk, "other bytes than the chunk's id says")
        return plain


def in_filter(blocks: bytes, count: int, chunk: bytes) -> bool:
    """Section 7: a split-block Bloom filter."""
    salts = (0x47B6137B, 0x44974D91, 0x8824AD5B, 0xA2B7289D, 0x705495C7, 0x2DF1424B, 0x9EFC4947, 0x5C6BFB31)
    high, low = int.from_bytes(chunk[:8], "little") >> 32, int.from_bytes(chunk[8:12], "little")
    words = struct.unpack_from("<8I", blocks, 32 * (high * count >> 32))
    return all(word >> ((low * salt & 0xFFFFFFFF) >> 27) & 1 for word, salt in zip(words, salts))


# ---- The tree (section 9) ----


def walk(blobs: Blobs, root: bytes, report: Report, where: str, above: int = 256) -> Iterator[tuple[bytes, dict]]:
    """The entries of a tree in order; damage to a node loses what is below it, and is reported."""
    try:
        level, items = from_cbor(blobs.read(root), list)
        need(0 <= level < above, "levels that do not descend")
        need(level == 0 or len(items) <= 2048, "an inner node of too many items")
        if level == 0:
            yield from decode_leaf(items)
            return
    except MALFORMED as error:
        report.damage(f"tree node {root.hex()[:16]} from {where}", error)
        return
    for first, child, _, _ in items:
        yield from walk(blobs, child, report, show(first), level)


def decode_leaf(items: list) -> list[tuple[bytes, dict]]:
    need(len(items) <= 65_536, "a leaf of too many entries")
    entries, key = [], None
    for item in items:
        shared = item.get(0, 0)
        need(shared <= len(key or b""), "a key that shares more than there is")
        next_key = (key or b"")[:shared] + item.get(1, b"")
        need(key is None or next_key > key, "keys out of order")
        need(len(next_key) <= 65_535, "a key that is too long")
        need(all(name not in (b"", b".", b"..") and b"/" not in name for name in split(next_key)), "a forbidden name")
        key = next_key
        entries.append((key, item))
    return entries


def split(key: bytes) -> list[bytes]:
    return key.split(b"\0") if key else []


def show(key: bytes) -> str:
    return "/" + key.replace(b"\0", b"/").decode("utf-8", "backslashreplace")


def extents(blobs: Blobs, entry: dict) -> Iterator[tuple[bytes | None, int]]:
    """The pieces of a file: (chunk id, or None for a hole; length)."""
    if 20 in entry:
        depth, chunk, _ = entry[20]
        yield from indirect(blobs, depth, chunk)
    else:
        yield from pieces(entry.get(19, []))


def pieces(items: list) -> Iterator[tuple[bytes | None, int]]:
    for item in items:
        yield (None, item) if isinstance(item, int) else (item[0], item[1])


def indirect(blobs: Blobs, depth: int, chunk: bytes) -> Iterator[tuple[bytes | None, int]]:
    need(1 <= depth <= 16, "a strange depth of lists")
    for piece, length in pieces(from_cbor(blobs.read(chunk), list)):
        if depth == 1 or piece is None:
            yield piece, length
        else:
            yield from indirect(blobs, depth - 1, piece)
