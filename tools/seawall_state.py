"""What a repository's log says: the state after its entries, and which entries count for nothing (docs/format.md, section 8).

Pure: reading, opening and proving entries is the business of seawall_reader.py.
"""

from __future__ import annotations

OWNER = 0
# What members of any role may write; a HOLD, but not lift one.
FOR_ALL = (1, 3, 4)


class State:
    """What the log says after its entries (section 8). Packs and segments go by their object's names."""

    def __init__(self):
        self.snapshots: list[dict] = []  # those that count, in log order
        self.forgotten: dict[bytes, tuple[dict, int]] = {}  # with the number of the entry that forgot each
        self.holds: dict[bytes, set[str]] = {}
        self.segments: dict[str, bytes] = {}  # the published ones, with the hash of each
        self.members: dict[bytes, tuple[bytes, int]] = {}  # public key and role of those who may sign
        self.revoked: set[bytes] = set()
        self.fenced: set[bytes] = set()
        self.condemned: dict[str, int] = {}  # packs that nothing may need any more, with the number of the entry
        self.deleted: set[str] = set()  # those of them whose objects are being removed
        self.generation = 0
        self.data_keys: dict[int, tuple[bytes, list]] = {}  # public key of each generation, with its grants
        self.order: dict[bytes, int] = {}  # number of each snapshot's commit

    def void(self, member: bytes, act: int, fields: dict) -> str | None:
        """Why an entry of this member counts for nothing, if it does."""
        if member not in self.members:
            return "signed by a member who was revoked" if member in self.revoked else "signed by nobody known"
        if self.members[member][1] != OWNER and (act not in FOR_ALL or act == 3 and fields[2]):
            return "the signer's role does not allow it"
        if act == 1:
            own = {fields[0], *fields[3]}
            known = [snapshot[0] for snapshot in self.snapshots] + list(self.forgotten)
            if own & self.fenced:
                return "its session was fenced"
            if any(segment[0] not in own for segment in fields[1]):
                return "it publishes another session's segments"
            return "a snapshot of that id is there" if fields[2].get(0) in known else None
        if act in (5, 7):
            session, segments = (fields.get(1), fields[2]) if act == 5 else (fields.get(0), fields[1])
            if session in self.fenced:
                return "its session was fenced"
            others = any(segment[0] != session for segment in segments)
            return "it publishes another session's segments" if others else None
        if act == 10 and any(pack_name(pack) in self.deleted for pack in fields[1]):
            return "a pack that it needs is deleted"
        return self.void_key(fields) if act == 8 else None

    def void_key(self, fields: dict) -> str | None:
        if 0 in fields and (fields[0][0] in self.members or fields[0][0] in self.revoked):
            return "a member of that id was admitted before"
        if 1 in fields:
            owners = {member for member, (_, role) in self.members.items() if role == OWNER}
            if fields[1] not in self.members and fields[1] not in self.revoked:
                return "it revokes nobody"
            if owners <= {fields[1]}:
                return "the last owner can't be revoked"
        skips = 3 in fields and fields[3] != self.generation + 1
        return "it is not the next generation of the data key" if skips else None

    def perform(self, number: int, act: int, fields: dict) -> None:
        if act == 0:
            self.admit(fields[1])
            self.generation = fields[3]
            self.data_keys[fields[3]] = fields[2], []
        elif act == 1:
            self.publish(fields[1])
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
            for pack in fields[0]:
                self.condemned.setdefault(pack_name(pack), number)
        elif act == 6:
            self.fenced.update(fields[0])
        elif act == 7:
            self.publish(fields[1])
            for segment in fields[2]:
                self.segments.pop(segment_name(segment), None)
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

    def publish(self, segments: list) -> None:
        for segment in segments:
            self.segments[segment_name(segment)] = segment[2]

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
            self.members.pop(fields[1], None)
            self.revoked.add(fields[1])
        if 2 in fields:
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
