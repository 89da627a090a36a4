"""Tests of what rescue.py still reads when the objects are lost or false that everything begins with: the marker, the first
entry of the log, key slots, the keys of sessions.

Run: python3 -m unittest discover -s tools
"""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import cbor2
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

sys.path.insert(0, str(Path(__file__).parent))
import seawall_reader as reader
import test_rescue
from test_rescue import MEMBER, PLAIN_SNAPSHOT, SNAPSHOT, envelope, hkdf, seal_hpke


class Losses(test_rescue.Scene):
    def identity_slot(self, slot, ring=None, identity=None):
        """Writes a slot for an identity, whose file then is the key."""
        self.identity = identity or X25519PrivateKey.generate()
        public, secret = self.identity.public_key().public_bytes_raw(), os.urandom(32)
        enc, sealed = seal_hpke(public, b"seawall v1 slot", slot, secret)
        info, own = b"seawall v1 public key slot" + self.writer.repository, self.writer.ring
        self.writer.ring = ring or own
        self.writer.write_slot(slot, 2, secret, info, {8: public, 9: enc, 10: sealed})
        self.writer.ring = own
        self.key_file.write_text(f"seawall-identity-1\n{self.identity.private_bytes_raw().hex()}\n")

    def test_without_the_first_entry_or_the_marker_all_is_restored(self):
        self.write_everything()
        self.identity_slot(b"I" * 16)
        first, marker = self.repository / f"log/{0:020}", self.repository / "seawall"
        lost = [
            (first.unlink, "is missing"),
            (lambda: self.damage(first, 100), "decryption failed"),
            (marker.unlink, "is missing"),
            (lambda: marker.write_bytes(b"{"), "the marker is damaged"),
            (lambda: marker.write_bytes(marker.read_bytes().replace(b"Seawall", b"seaWall")), "was changed"),
        ]
        kept = first.read_bytes(), marker.read_bytes()
        for lose, said in lost:
            lose()
            self.assert_restored(13)
            self.assertIn(said, self.err.getvalue())
            for place, _, _ in os.walk(self.target):
                os.chmod(place, 0o700)
            test_rescue.shutil.rmtree(self.target)
            first.write_bytes(kept[0])
            marker.write_bytes(kept[1])

    def test_without_the_first_entry_members_are_still_told_apart(self):
        other, signer = b"W" * 16, Ed25519PrivateKey.generate()
        self.writer.append(8, {0: {0: other, 1: signer.public_key().public_bytes_raw(), 2: 2, 3: "writer"}})
        self.write_everything()
        owner, self.writer.signer, self.writer.member = self.writer.signer, signer, other
        self.writer.append(2, {0: [SNAPSHOT], 1: "a member's role does not allow it"})
        self.writer.member, self.writer.signer = MEMBER, owner
        (self.repository / f"log/{0:020}").unlink()
        self.assertEqual(self.run_rescue("snapshots"), 13)
        self.assertIn("role does not allow", self.err.getvalue())
        self.assertIn(SNAPSHOT.hex(), self.out.getvalue())

    def test_a_grant_that_does_not_open_costs_only_itself(self):
        self.write_everything()
        secret = X25519PrivateKey.generate()
        public, pair = secret.public_key().public_bytes_raw(), hkdf(self.writer.ring[10], b"", b"seawall v1 member wrap")
        wrap_public = X25519PrivateKey.from_private_bytes(pair).public_key().public_bytes_raw()
        associated = self.writer.repository + MEMBER + struct.pack("<I", 8)
        right = seal_hpke(wrap_public, b"seawall v1 grant", associated, secret.private_bytes_raw())
        grants = [[MEMBER, bytes(32), bytes(48)], [MEMBER, right[0], bytes(48)], [MEMBER, *right]]
        self.writer.append(8, {2: public, 3: 8, 4: grants})
        self.writer.write_session(public, 8)
        (self.repository / f"session/{self.writer.session.hex()}/0000000007").unlink()
        self.assertEqual(self.run_rescue("check"), 3)
        self.assertIn("grant of data key generation 8", self.err.getvalue())
        self.assert_restored(3)

    def test_a_planted_or_damaged_session_key_does_not_hide_the_right_one(self):
        self.write_everything()
        secret = X25519PrivateKey.generate()
        public, pair = secret.public_key().public_bytes_raw(), hkdf(self.writer.ring[10], b"", b"seawall v1 member wrap")
        wrap_public = X25519PrivateKey.from_private_bytes(pair).public_key().public_bytes_raw()
        associated = self.writer.repository + MEMBER + struct.pack("<I", 8)
        grant = seal_hpke(wrap_public, b"seawall v1 grant", associated, secret.private_bytes_raw())
        self.writer.append(8, {2: public, 3: 8, 4: [[MEMBER, *grant]]})
        right, self.writer.session_key = self.writer.session_key, os.urandom(32)
        self.writer.write_session(public, 8)
        self.writer.session_key = right
        newest = self.repository / f"session/{self.writer.session.hex()}/0000000008"
        for content in (newest.read_bytes(), b"no record", bytes(5000)):
            newest.write_bytes(content)
            self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())

    def test_planted_slots_do_not_hide_the_right_one(self):
        self.write_everything()
        own = self.writer.ring
        self.identity_slot(b"I" * 16)
        planted = [
            {**own, 2: os.urandom(16)},  # another repository
            {**own, 7: os.urandom(32)},  # another log key
            {**own, 3: b"X" * 16},  # a member whom the log does not know
        ]
        for number, ring in enumerate(planted):
            for slot in (bytes([number]) * 16, bytes([0xF0 + number]) * 16):
                self.identity_slot(slot, ring, self.identity)
        self.assertEqual(self.run_rescue("check"), 0, self.err.getvalue())

    def test_shares_say_themselves_how_many_are_needed(self):
        # Whoever has one share makes a slot that asks for that share alone.
        name, value = os.urandom(16), os.urandom(32)
        info = b"seawall v1 shares slot" + name + bytes([1, 5]) + self.writer.repository
        self.writer.write_slot(b"H" * 16, 3, value, info, {11: name, 12: 1, 13: 5})
        check = blake3(b"seawall v1 share" + name + bytes([3, 1]) + value).digest()[:8]
        share = self.scratch / "share"
        share.write_text(f"seawall-share-1\n{name.hex()}\n3 1\n{value.hex()}\n{check.hex()}\n")
        self.assertEqual(self.run_rescue("snapshots", key=["--share", str(share)]), 12)

    def test_only_the_expected_repository_is_opened(self):
        self.write_everything()
        right = blake3((self.repository / f"log/{0:020}").read_bytes()).hexdigest()
        self.assertEqual(self.run_rescue("--expect", right, "snapshots"), 0, self.err.getvalue())
        self.assertEqual(self.run_rescue("--expect", "00" * 32, "snapshots"), 1)
        self.assertIn("substituted", self.err.getvalue())

    def test_the_log_goes_on_after_whatever_somebody_put_there(self):
        self.write_everything()
        for plain in (b"", b"no entry", b"\x88" * 200, cbor2.dumps([2, b"", b"", b"", 0, 2, {}, b""])):
            number = len(self.writer.log)
            name = f"log/{number:020}"
            stored = envelope(self.writer.log_key, name, plain)
            self.writer.put(name, stored)
            digest = blake3(stored).digest()
            self.writer.log.append(blake3(b"seawall v1 void " + self.writer.log[-1] + digest).digest())
        self.writer.append(1, {0: b"E" * 16, 1: [], 2: {**PLAIN_SNAPSHOT, 0: b"Q" * 16}, 3: []})
        self.assertEqual(self.run_rescue("snapshots"), 3, self.err.getvalue())
        self.assertEqual(len(self.out.getvalue().splitlines()), 2)
        self.assertEqual(self.err.getvalue().count("it counts for nothing"), 4)

    def test_an_entry_that_stops_is_named(self):
        self.writer.append(22, {0: 1})
        self.assertEqual(self.run_rescue("snapshots"), reader.FAILED)
        self.assertIn("act 22 needs a newer reader", self.err.getvalue())
