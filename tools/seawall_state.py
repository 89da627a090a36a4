"""What a repository's log says: the state after its entries, and which entries count for nothing (docs/format.md, section 8).

Pure: reading and opening entries is the business of seawall_reader.py, what their bytes say that of seawall_entry.py.
"""

from __future__ import annotations

from typing import Callable

from blake3 import blake3

from seawall_entry import Entry, Malformed

OWNER = 0
# What members of any role may write; a HOLD, but not lift one.
FOR_ALL = (1, 3, 4)


class Newer(Exception):
    """An owner signed what this reader does not understand."""


class Lost(Exception):
    """Entry 0 does not begin the log."""


class State:
    """What the log says after its entries (section 8). Packs and segments go by their object's names."""

    def __init__(self, repository: bytes):
        self.repository = repository
        self.head: bytes | None = b""  # what the next entry must name as the one before; None where an entry is lost
        self.init_lost = False  # then nobody knows who the first owner was, and what it wrote can't be proved
        self.snapshots: list[dict] = []  # those that count, in log order
        self.forgotten: dict[bytes, tuple[dict, int]] = {}  # with the number of the entry that forgot each
        self.holds: dict[bytes, set[str]] = {}
        self.segments: dict[bytes, str] = {}  # the published ones by the hash of each, in log order
        self.published: dict[bytes, str] = {}  # under which name
        self.members: dict[bytes, tuple[bytes, int]] = {}  # public key and role of those who may sign
        self.slots: dict[bytes, tuple] = {}  # of all ever admitted: public key, role, id and hash of the slot
        self.revoked: dict[bytes, bytes] = {}  # public key of those who may not any more
        self.finished: set[bytes] = set()  # sessions that were published
        self.fenced: set[bytes] = set()
        self.condemned: dict[str, int] = {}  # packs that nothing may need any more, with the number of the entry
        self.deleted: set[str] = set()  # those of them whose objects are being removed
        self.generation: int | None = None
        self.data_keys: dict[int, tuple[bytes, list]] = {}  # public key of each generation, with its grants
        self.order: dict[bytes, int] = {}  # number of each snapshot's commit

    def take(self, number: int, plain: bytes, digest: bytes, is_signed: Callable[[bytes, Entry], bool]) -> str | None:
        """Takes the unsealed entry at this number, whose stored bytes have that hash; says why it counts for nothing."""
        try:
            entry = Entry(number, plain)
            if entry.repository != self.repository:
                raise Malformed("it is an entry of another repository")
            # After a lost entry the chain can't be proved; the signature below still can.
            if self.head is not None and entry.previous != self.head:
                raise Malformed("it does not follow the entry before it")
        except Malformed as why:
            if number == 0:
                raise Lost(str(why)) from None
            if self.head is not None:
                self.head = blake3(b"seawall v1 void " + self.head + digest).digest()
            return str(why)
        self.head = digest
        why = self.void(number, entry, is_signed)
        if why is None:
            self.perform(number, entry.act, entry.fields)
        elif number == 0:
            raise Lost(why)
        return why

    def lose(self, number: int) -> None:
        """The entry at this number can't be had."""
        self.head = None
        self.init_lost |= number == 0

    def void(self, number: int, entry: Entry, is_signed: Callable[[bytes, Entry], bool]) -> str | None:
        """Why an entry counts for nothing, if it does."""
        if entry.act == 0:
            member = entry.fields[1]
            first = number == 0 and member[0] == entry.member and is_signed(member[1], entry)
            return None if first else "an INIT that does not begin the log"
        role, why = self.signer(entry, is_signed)
        if why is not None:
            return why
        if entry.unread is not None:
            if role == OWNER:
                raise Newer(entry.unread)
            return f"{entry.unread}, which only an owner may write"
        if role != OWNER and (entry.act not in FOR_ALL or entry.act == 3 and entry.fields[2]):
            return "the signer's role does not allow it"
        return self.contradicts(entry.act, entry.fields)

    def signer(self, entry: Entry, is_signed: Callable[[bytes, Entry], bool]) -> tuple[int, str | None]:
        """The role of who signed, and why it may not sign."""
        if entry.member in self.revoked:
            wrong = not is_signed(self.revoked[entry.member], entry)
            return OWNER, "the signature is wrong" if wrong else "signed by a member who was revoked"
        if entry.member not in self.members:
            # Where the first entry is lost, what strangers say is all there is; but nobody need understand them.
            why = "signed by somebody who is not a member"
            return OWNER, None if self.init_lost and entry.unread is None else why
        public, role = self.members[entry.member]
        return role, None if is_signed(public, entry) else "the signature is wrong"

    def contradicts(self, act: int, fields: dict) -> str | None:
        """Why an act does not fit to what is there."""
        if act == 1:
            own = {fields[0], *fields[3]}
            known = [snapshot[0] for snapshot in self.snapshots] + list(self.forgotten)
            if own & self.fenced:
                return "the session was fenced"
            if any(segment[0] not in own for segment in fields[1]):
                return "it publishes another session's segments"
            if own & self.finished:
                return "its session, or one that it adopts, was published before"
            pairs = {(segment_name(it), it[2]) for it in fields[1]}
            if not len(pairs) == len({name for name, _ in pairs}) == len({digest for _, digest in pairs}):
                return "it gives two segments one name, or a segment two"
            if any(self.published.get(it[2], segment_name(it)) != segment_name(it) for it in fields[1]):
                return "it publishes a segment that is published under another name"
            return "a snapshot of that id is there already" if fields[2][0] in known else None
        if act in (5, 7):
            session, segments = (fields.get(1), fields[2]) if act == 5 else (fields.get(0), fields[1])
            if session in self.fenced:
                return "the collector's session was fenced"
            others = any(segment[0] != session for segment in segments)
            return "it publishes another session's segments" if others else None
        if act == 10 and any(pack_name(pack) in self.deleted for pack in fields[1]):
            return "a pack that it needs is deleted"
        return self.void_key(fields) if act == 8 else None

    def void_key(self, fields: dict) -> str | None:
        if 0 in fields and (fields[0][0] in self.members or fields[0][0] in self.revoked):
            return "a member of that id was admitted before"
        if 1 in fields and not self.init_lost:
            owners = {member for member, (_, role) in self.members.items() if role == OWNER}
            if fields[1] not in self.members and fields[1] not in self.revoked:
                return "it revokes nobody"
            if owners <= {fields[1]}:
                return "the last owner can't be revoked"
        skips = 3 in fields and self.generation is not None and fields[3] != self.generation + 1
        return "it is not the next generation of the data key" if skips else None

    def perform(self, number: int, act: int, fields: dict) -> None:
        if act == 0:
            self.admit(fields[1])
            self.generation = fields[3]
            self.data_keys[fields[3]] = fields[2], []
        elif act == 1:
            self.publish(fields[1])
            self.finished.update([fields[0], *fields[3]])
            self.snapshots.append(fields[2])
            self.order[fields[2].get(0)] = number
        elif act == 2:
            going = [one for one in self.snapshots if one[0] in fields[0] and one[0] not in self.holds]
            self.snapshots = [one for one in self.snapshots if one not in going]
            self.forgotten.update({one[0]: (one, number) for one in going})
        elif act == 3:
            self.hold(*(fields[key] for key in (0, 1, 2)))
        elif act == 5:
            self.publish(fields[2])
            self.finished.update({fields.get(1)} - {None})
            for pack in fields[0]:
                self.condemned.setdefault(pack_name(pack), number)
        elif act == 6:
            self.fenced.update(fields[0])
        elif act == 7:
            self.publish(fields[1])
            self.finished.update({fields.get(0)} - {None})
            retired = set(map(segment_name, fields[2]))
            for digest in [digest for digest, name in self.segments.items() if name in retired]:
                del self.segments[digest], self.published[digest]
            for pack in map(pack_name, fields[3]):
                self.condemned.pop(pack, None)
                self.deleted.discard(pack)
        elif act == 8:
            self.change_keys(fields)
        elif act == 10:
            for pack in fields[1]:
                self.condemned.pop(pack_name(pack), None)
            back = [self.forgotten.pop(one)[0] for one in fields[0] if one in self.forgotten]
            self.snapshots = sorted(self.snapshots + back, key=lambda one: self.order[one[0]])
        elif act == 11:
            self.delete([pack_name(pack) for pack in fields[0]])

    def admit(self, member: dict) -> None:
        self.members[member[0]] = (member[1], member[2])
        self.slots[member[0]] = (member[1], member[2], member.get(5), member.get(6))

    def publish(self, segments: list) -> None:
        for segment in segments:
            if segment[2] not in self.published:
                self.segments[segment[2]] = segment_name(segment)
            self.published[segment[2]] = segment_name(segment)

    def hold(self, snapshots: list[bytes], label: str, release: bool) -> None:
        for snapshot in snapshots:
            if release:
                self.holds.get(snapshot, set()).discard(label)
            elif any(one[0] == snapshot for one in self.snapshots):
                self.holds.setdefault(snapshot, set()).add(label)
            if not self.holds.get(snapshot):
                self.holds.pop(snapshot, None)

    def change_keys(self, fields: dict) -> None:
        if 0 in fields:
            self.admit(fields[0])
        if 1 in fields:
            public, _ = self.members.pop(fields[1], (self.revoked.get(fields[1], b""), OWNER))
            self.revoked[fields[1]] = public
        if 3 in fields:
            self.generation = fields[3]
            self.data_keys[fields[3]] = fields[2], fields.get(4, [])

    def delete(self, packs: list[str]) -> None:
        named = [pack for pack in packs if pack in self.condemned]
        self.deleted.update(named)
        newest = max((self.condemned[pack] for pack in named), default=-1)
        # What was forgotten before those were condemned has probably lost something.
        self.forgotten = {one: kept for one, kept in self.forgotten.items() if kept[1] > newest}


def pack_name(pack: list) -> str:
    return f"pack/{pack[0].hex()}/{pack[1]:010}"


def segment_name(segment: list) -> str:
    return f"index/{segment[0].hex()}/{segment[1]:010}"
