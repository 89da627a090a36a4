#!/usr/bin/env python3
"""Prints golden.txt: the bytes of every stored object for fixed inputs, made from docs/format.md alone.

It shares no code with the engine, so the two check each other (golden.rs holds the same inputs).
Needs blake3, cbor2 and cryptography from PyPI:  python3 golden.py > golden.txt
"""
import json
import struct

import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

fill = lambda byte, length: bytes([byte]) * length
u32, u64 = struct.Struct("<I").pack, struct.Struct("<Q").pack
hash32 = lambda data: blake3(data).digest()
keyed = lambda key, data: blake3(data, key=key).digest()
cbor = lambda value: cbor2.dumps(value)

REPOSITORY, SESSION, MEMBER, SLOT = fill(0x10, 16), fill(0x20, 16), fill(0x30, 16), fill(0x40, 16)
ID_KEY, CHUNKER_KEY, INDEX_KEY, LOG_KEY = fill(1, 32), fill(2, 32), fill(3, 32), fill(4, 32)
SIGNING_SEED, SESSION_KEY, DATA_SECRET = fill(5, 32), fill(6, 32), fill(0x48, 32)
DATA_PUBLIC = X25519PrivateKey.from_private_bytes(DATA_SECRET).public_key().public_bytes_raw()
SIGNER = Ed25519PrivateKey.from_private_bytes(SIGNING_SEED)
PUBLIC_KEY = SIGNER.public_key().public_bytes_raw()
SALT = fill(0x77, 32)
FULL_KEY = fill(0x55, 32)
PACK = "pack/" + SESSION.hex() + "/0000000007"


def hkdf(ikm, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(ikm)


def envelope(key, name, plain):
    header = b"SWSEAL01" + SALT + u64(len(plain))
    cipher = AESGCM(hkdf(key, SALT, b"seawall v1 seal " + name.encode()))
    blocks = [plain[at:at + 2**20] for at in range(0, len(plain), 2**20)] or [b""]
    out = header
    for i, block in enumerate(blocks):
        data = header + u64(i) + bytes([i == len(blocks) - 1])
        out += cipher.encrypt(i.to_bytes(12, "little"), block, data)
    return out


def seal_hpke(info, associated, plain):
    """HPKE base mode by RFC 9180 §4 and §5, with a fixed ephemeral key, for the data public key."""
    ephemeral = X25519PrivateKey.from_private_bytes(fill(0x49, 32))
    enc = ephemeral.public_key().public_bytes_raw()

    def extract(salt, suite, label, ikm):
        mac = hmac.HMAC(salt or bytes(32), hashes.SHA256())
        mac.update(b"HPKE-v1" + suite + label + ikm)
        return mac.finalize()

    def expand(prk, suite, label, info, length):
        labeled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
        return HKDFExpand(algorithm=hashes.SHA256(), length=length, info=labeled).derive(prk)

    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(DATA_PUBLIC))
    secret = expand(extract(b"", kem, b"eae_prk", shared), kem, b"shared_secret", enc + DATA_PUBLIC, 32)
    context = b"\x00" + extract(b"", suite, b"psk_id_hash", b"") + extract(b"", suite, b"info_hash", info)
    prk = extract(secret, suite, b"secret", b"")
    key, nonce = expand(prk, suite, b"key", context, 32), expand(prk, suite, b"base_nonce", context, 12)
    return enc, AESGCM(key).encrypt(nonce, plain, associated)


def session_record():
    enc, ciphertext = seal_hpke(b"seawall v1 session", REPOSITORY + SESSION + u32(3), SESSION_KEY)
    return cbor({0: 1, 1: SESSION, 2: 3, 3: 1, 4: enc, 5: ciphertext})


def slots():
    ring = {0: 1, 1: 0, 2: REPOSITORY, 3: MEMBER, 4: ID_KEY, 5: CHUNKER_KEY, 6: INDEX_KEY, 7: LOG_KEY,
            8: DATA_PUBLIC, 9: DATA_SECRET, 10: SIGNING_SEED, 11: 3}
    name, salt = "key/" + SLOT.hex(), fill(0x66, 16)
    key = hkdf(fill(0x55, 32), salt, b"seawall v1 key file")
    by_file = {0: 1, 1: 1, 2: 0, 3: salt, 5: envelope(key, name, cbor(ring)), 6: "kit", 7: 1_800_000_000}
    key = Argon2id(salt=salt, length=32, iterations=2, lanes=2, memory_cost=64).derive("grüße".encode())
    member = {**ring, 1: 2}
    del member[9]
    sealed = envelope(key, name, cbor(member))
    by_passphrase = {0: 1, 1: 0, 2: 2, 3: salt, 4: [64, 2, 2], 5: sealed, 6: "", 7: -1}
    secret, head = fill(0x55, 32), {0: 1, 2: 0, 3: salt, 6: "board", 7: 1_800_000_000}
    enc, ciphertext = seal_hpke(b"seawall v1 slot", SLOT, secret)
    sealed = envelope(hkdf(secret, salt, b"seawall v1 public key slot" + REPOSITORY), name, cbor(ring))
    identity = {**head, 1: 2, 5: sealed, 8: DATA_PUBLIC, 9: enc, 10: ciphertext}
    place = fill(0x67, 16) + bytes([2, 3]) + REPOSITORY
    sealed = envelope(hkdf(secret, salt, b"seawall v1 shares slot" + place), name, cbor(ring))
    shares = {**head, 1: 3, 5: sealed, 11: fill(0x67, 16), 12: 2, 13: 3}
    ordered = lambda fields: cbor(dict(sorted(fields.items())))
    return cbor(by_file), cbor(by_passphrase), ordered(identity), ordered(shares)


def share():
    """Share 3 of 2-of-3; the polynomial is 0x55 + 2 x, and 2 times 3 is 6."""
    value = fill(0x55 ^ 6, 32)
    check = hash32(b"seawall v1 share" + fill(0x67, 16) + bytes([2, 3]) + value)[:8]
    return f"seawall-share-1\n{'67' * 16}\n2 3\n{value.hex()}\n{check.hex()}\n".encode()


def acts():
    pack, other = [SESSION, 7], [fill(0x21, 16), 9_999_999_999]
    snapshots, segment = [fill(0x50, 16), fill(0x51, 16)], [SESSION, 3, fill(0xE5, 32), 100, 9_000]
    member = {0: fill(0x31, 16), 1: PUBLIC_KEY, 2: 2, 3: "host", 4: fill(0x32, 32), 5: SLOT}
    rows = [
        ("act-forget", 2, {0: snapshots, 1: "keep-last 3"}),
        ("act-hold", 3, {0: snapshots, 1: "case", 2: True}),
        ("act-audit", 4, {0: 2, 1: 2**40, 2: [pack], 3: [[pack, fill(0xA1, 32)]], 4: [other]}),
        ("act-condemn", 5, {0: [pack, other], 1: SESSION, 2: [segment]}),
        ("act-condemn-only", 5, {0: [pack], 2: []}),
        ("act-fence", 6, {0: [SESSION]}),
        ("act-remap", 7, {0: SESSION, 1: [segment], 2: [[SESSION, 0], [SESSION, 1]], 3: [other]}),
        ("act-admit", 8, {0: member}),
        ("act-revoke", 8, {1: MEMBER}),
        ("act-rotate", 8, {2: fill(0x35, 32), 3: 1, 4: [[MEMBER, fill(0x33, 32), fill(0x34, 48)]]}),
        ("act-undelete", 10, {0: snapshots, 1: [pack]}),
        ("act-delete", 11, {0: [pack]}),
    ]
    return {name: log_entry(at, fill(0xF6, 32), 0, act, fields) for at, (name, act, fields) in enumerate(rows, 2)}


def bodies():
    """(id, body): raw, constant, and one with a base."""
    first, second, base = fill(0xA1, 32), fill(0xB2, 32), fill(0xC3, 32)
    return [
        (first, bytes([0, 0, 0, 0]) + u32(5) + b"hello", 5, 0, None),
        (second, bytes([5, 0, 0, 0]) + u32(1_000_000) + b"z", 1_000_000, 5, None),
        (fill(0x93, 32), bytes([2, 0, 0, 0]) + u32(9) + base + b"not zstd", 9, 2, base),
    ]


def pack():
    out = b"SWPACK01" + bytes([0]) + bytes(7) + SESSION + u64(7) + REPOSITORY + bytes(8)
    cipher = AESGCM(hkdf(SESSION_KEY, b"", b"seawall v1 pack " + PACK.encode()))
    entries, bases = b"", b""
    for number, (chunk, body, plain_len, codec, base) in enumerate(bodies()):
        header = b"SWBL" + u32(len(body) + 16) + u32(number) + bytes([0]) + bytes(3) + chunk
        entries += chunk + u32(len(out)) + u32(len(body) + 16) + u32(plain_len) + bytes([codec, 0, 0, 0])
        bases += base or b""
        out += header + cipher.encrypt(number.to_bytes(12, "little"), body, header)
    footer = envelope(INDEX_KEY, PACK + "#footer", u32(3) + entries + bases)
    end = u32(len(out)) + u32(len(footer)) + u32(0) + bytes(4) + b"SWPEND01" + bytes(8)
    out += footer + end
    return out + hash32(out)


def product(left, right):
    """In GF(256) with 0x11d."""
    result = 0
    for bit in range(8):
        result ^= (left << bit) * (right >> bit & 1)
    for bit in range(14, 7, -1):
        result ^= (0x11D << (bit - 8)) * (result >> bit & 1)
    return result


def pack_with_parity(share_rows, shard, groups):
    """The same blobs; §6.3 step by step."""
    footer, length = struct.unpack_from("<II", pack()[-64:])
    protected = pack()[:footer + length]
    data = [protected[at:at + shard] for at in range(0, len(protected), shard)]
    parity = []
    for number in range(len(data), len(data) + groups * share_rows):
        total = bytearray(shard)
        for other in range(number % groups, len(data), groups):
            first = next(one for one in range(len(data), number + 1) if one % groups == number % groups)
            element = number // groups ^ other // groups
            inverse = next(x for x in range(256) if product(element, x) == 1)
            factor = product(first // groups ^ other // groups, inverse)
            for at, byte in enumerate(data[other]):
                total[at] ^= product(factor, byte)
        parity.append(bytes(total))
    table = b"".join(hash32(one)[:16] for one in data + parity)
    head = b"SWPARI01" + struct.pack("<6I", shard, len(data), groups, share_rows, footer, length) + hash32(table)[:16]
    head += hash32(head)[:16]
    out = protected + head + table
    out += bytes(-len(out) % shard) + b"".join(parity) + table + head
    out += u32(footer) + u32(length) + u32(len(out) - len(protected)) + u32(0) + b"SWPEND01" + fill(0, 8)
    return out + hash32(out)


def segment():
    """100 records over two packs; every tenth has a base; ids are hashes."""
    salts = [0x47b6137b, 0x44974d91, 0x8824ad5b, 0xa2b7289d, 0x705495c7, 0x2df1424b, 0x9efc4947, 0x5c6bfb31]
    rows, bases = [], [fill(0xC3, 32)]
    for n in range(100):
        based = n % 10 == 0
        tail = u32(n % 2) + u32(64 + 1000 * n) + u32(100 + n) + u32(200 + n)
        tail += bytes([2 if based else 1, n % 2, 0, 0]) + u32(0 if based else 0xFFFFFFFF)
        rows.append((hash32(u32(n)), tail))
    rows.sort()
    blocks = max(1, -(-len(rows) // 24))
    bloom = [[0] * 8 for _ in range(blocks)]
    for chunk, _ in rows:
        a, c = int.from_bytes(chunk[:8], "little"), int.from_bytes(chunk[8:12], "little")
        for word, salt in enumerate(salts):
            bloom[((a >> 32) * blocks) >> 32][word] |= 1 << ((c * salt % 2**32) >> 27)
    out = b"SWINDX01" + u64(len(rows)) + u32(2) + u32(len(bases)) + u32(blocks) + bytes(36)
    out += SESSION + u64(7) + fill(0x21, 16) + u64(0)
    out += b"".join(chunk + tail for chunk, tail in rows) + b"".join(bases)
    return out + b"".join(u32(word) for block in bloom for word in block)


def log_entry(number, previous, time, act, fields):
    signed = [number, previous, REPOSITORY, MEMBER, time, act, fields]
    signature = SIGNER.sign(b"seawall v1 log " + cbor(signed))
    return envelope(LOG_KEY, f"log/{number:020}", cbor(signed + [signature]))


def init():
    member = {0: MEMBER, 1: PUBLIC_KEY, 2: 0, 3: "owner"}
    return log_entry(0, b"", 1_800_000_000_123, 0, {0: hash32(marker()), 1: member, 2: DATA_PUBLIC, 3: 0})


def commit():
    snapshot = {0: fill(0x50, 16), 1: [1_800_000_000, 999_999_999], 2: "node7", 3: "root", 4: [b"/srv", b"/\xff"],
                5: ["a", "b"], 6: fill(0xD4, 32), 7: 10, 8: 7, 9: 2**40, 10: [["job", "nightly"]], 11: "seawall 0.1.0", 12: 1,
                13: fill(0x51, 16), 14: 5_000, 15: 4_000, 16: 61_000}
    segments = [[SESSION, 0, fill(0xE5, 32), 100, 9_000], [SESSION, 1, fill(0xE6, 32), 1, 200]]
    return log_entry(1, fill(0xF6, 32), -1, 1, {0: SESSION, 1: segments, 2: snapshot, 3: [fill(0x22, 16)]})


def marker():
    about = ("A Seawall backup repository: encrypted, and of use only together with its key. Its stored format is "
             "described in the project's docs/format.md; do not change or delete anything here by hand.")
    suites = {"aead": "aes-256-gcm", "chunk_id": "blake3-keyed", "kdf": "hkdf-sha256", "signature": "ed25519",
              "wrap": "hpke-x25519-hkdf-sha256-aes-256-gcm"}
    fields = {"about": about, "format": 1, "repository": REPOSITORY.hex(), "required": [], "suites": suites, "sites": 1,
              "single_writer": False}
    return json.dumps(fields, indent=2, ensure_ascii=False).encode() + b"\n"


def leaf():
    chunk = lambda byte, length: [fill(byte, 32), length]
    items = [
        {2: 1, 3: 0o755},
        {1: b"bin", 2: 1, 3: 0o755, 8: [1_700_000_000, 5], 9: [1_700_000_001, 6], 10: [1_699_999_999, 0], 12: 2},
        {0: 3, 1: b"\0sh", 3: 0o4755, 4: 1000, 5: 100, 6: "ada", 7: "users", 8: [-5, 999_999_999], 11: 5, 12: 77,
         13: [1, 2**40], 14: [[b"security.capability", b"\x01\0"], [b"user.\xff", b""]], 15: 0x30, 18: b"hello"},
        {1: b"data", 3: 0o600, 11: 4_194_304 + 70_000, 12: 3, 19: [chunk(0xA1, 65_536), 4_194_304, chunk(0xA2, 4_464)]},
        {0: 1, 1: b"ev\0null", 2: 5, 3: 0o666, 16: [1, 3]},
        {0: 4, 1: b"sda", 2: 6, 16: [8, 0]},
        {1: b"empty", 19: []},
        {1: b"huge", 11: 2**43, 20: [2, fill(0xA3, 32), 7_000]},
        {1: b"link", 2: 2, 3: 0o777, 11: 7, 17: b"bin/\xffsh"},
        {1: b"pipe", 2: 3, 3: 0o644},
        {1: b"sock", 2: 4, 3: 0o700},
        {1: b"zero\xff"},
    ]
    return cbor([0, items])


def leaf_with_table():
    return cbor([0, [{1: b"model", 11: 65_536, 19: [[fill(0xA1, 32), 65_536]], 21: [fill(0xA6, 32), 123]}]])


def tensor_table():
    statistics = {0: 1006, 1: 1, 2: 2, 3: 3, 4: [-0.75, 1.5], 5: 12.25, 6: [-127, 100, -30, 300, 0, 600]}
    tensors = [
        {1: 23, 4: 1, 5: {0: 1, 3: 1, 4: [0.0, 0.0]}},
        {0: "layer.0.weight", 1: 4, 2: [2, 503], 3: 1024, 4: 2012, 5: statistics},
        {0: "blocks", 1: 1024 + 12, 2: [256], 3: 4096, 4: 144},
        {0: "records", 1: 256 + 12, 2: [3], 3: 2**40, 4: 36},
    ]
    return cbor({0: tensors, 1: 9})


def inner():
    return cbor([1, [[b"", fill(0xA4, 32), 700, 2**33], [b"usr\0lib", fill(0xA5, 32), 1, 0]]])


def main():
    by_file, by_passphrase, identity, shares = slots()
    rows = {
        "chunk-id": keyed(ID_KEY, b"hello"),
        "envelope": envelope(LOG_KEY, "log/00000000000000000012", b"hello"),
        "envelope-empty": envelope(LOG_KEY, "a", b""),
        "envelope-blocks-hash": hash32(envelope(LOG_KEY, "a", fill(0x61, 2**20) + b"b")),
        "marker": marker(),
        "slot-key-file": by_file,
        "slot-passphrase": by_passphrase,
        "slot-identity": identity,
        "slot-shares": shares,
        "share": share(),
        "session": session_record(),
        "pack": pack(),
        "pack-parity": pack_with_parity(2, 576, 1),
        "pack-parity-groups": pack_with_parity(3, 64, 3),
        "segment": segment(),
        "log-init": init(),
        "log-commit": commit(),
        **acts(),
        "leaf": leaf(),
        "leaf-empty": cbor([0, []]),
        "leaf-table": leaf_with_table(),
        "tensor-table": tensor_table(),
        "inner": inner(),
        "extents": cbor([[fill(0xA1, 32), 65_536], 2**40, [fill(0xA2, 32), 1], 7]),
    }
    for name, value in rows.items():
        print(name, value.hex())


if __name__ == "__main__":
    main()
