//! What the log says: the state after its entries, and how the next entry changes it.
//!
//! Pure: the caller reads and opens entries ([`crate::repo`] does); this decides whether an entry counts. An entry that
//! its signer was not allowed to write, or that contradicts what is there, or that nobody can have signed, is **void**: it
//! keeps its number in the chain and changes nothing, so that nobody who has the log key can make the log unreadable for
//! others. Void entries are remembered with the reason, for the audit trail. How stored bytes are taken as entries, and
//! what the next one has to name as the one before, is in `chain`.
//!
//! Invariants: a condemned pack becomes usable again only by UNDELETE, a deleted one never; a fenced session never commits;
//! a held snapshot is not forgotten; numbers only rise.

mod chain;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::format::log::{Act, BlobDamage, Grant, KeyChange, LogEntry, MemberRecord, SegmentRecord, SnapshotRecord};
use crate::format::names::{PackName, SegmentName};
use crate::format::slot::Role;
use crate::ids::{ChunkId, MemberId, ObjectHash, RepositoryId, SessionId, SnapshotId};
use crate::simulation::{Rule, is_left_out};

/// Void entries whose reasons are kept.
const VOIDS_MAX: usize = 1_000;

/// A snapshot as the log lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What the commit says of it.
    pub record: SnapshotRecord,
    /// Number of the log entry that committed it.
    pub number: u64,
    /// Who signed it.
    pub member: MemberId,
    /// When, in Unix milliseconds, as the writer claims.
    pub claimed_ms: i64,
}

/// A snapshot that was forgotten and may come back while its packs are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Number of the entry that forgot it.
    pub number: u64,
    /// Why.
    pub reason: String,
}

/// Who may sign, and since and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What the log says of the member.
    pub record: MemberRecord,
    /// Number of the entry that admitted the member.
    pub admitted: u64,
    /// Number of the entry that revoked the member.
    pub revoked: Option<u64>,
}

/// What AUDIT entries say of a pack.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackDamage {
    /// The whole pack is missing or unreadable.
    pub lost: bool,
    /// Blobs in it that do not decode to their chunk.
    pub chunks: BTreeSet<ChunkId>,
    /// Number of the newest entry that found something.
    pub number: u64,
}

/// What the log says of packs that are not simply there. Shared with the index, which is asked for every chunk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// Condemned packs, each with the number of the entry.
    pub condemned: BTreeMap<PackName, u64>,
    /// Packs that are being deleted, each with the number of the entry; they stay among the condemned.
    pub deleted: BTreeMap<PackName, u64>,
    /// Damage that readers and owners found. It stays until the pack is found whole, or gone.
    pub damage: BTreeMap<PackName, PackDamage>,
    /// Damage that members say they found, until a reader or owner finds the pack whole. Writers do not lean on it, which
    /// costs space; nobody gives up another copy for it.
    pub claims: BTreeMap<PackName, PackDamage>,
}

impl Standing {
    /// True if an AUDIT with this number or a later one found damage.
    #[must_use]
    pub fn is_damage_newer(&self, since: u64) -> bool {
        self.damage.values().chain(self.claims.values()).any(|damage| damage.number >= since)
    }

    /// What anybody found of a pack.
    pub fn said_of(&self, pack: &PackName) -> impl Iterator<Item = &PackDamage> {
        self.damage.get(pack).into_iter().chain(self.claims.get(pack))
    }

    /// True if nobody ever found damage that is there still.
    #[must_use]
    pub fn is_undoubted(&self) -> bool {
        self.damage.is_empty() && self.claims.is_empty()
    }

    /// True if anybody found the copy of `chunk` in this pack damaged, or all of the pack.
    #[must_use]
    pub fn is_doubted(&self, pack: &PackName, chunk: &ChunkId) -> bool {
        self.said_of(pack).any(|damage| damage.has(chunk))
    }

    /// As [`Self::is_doubted`], by what readers and owners found.
    #[must_use]
    pub fn is_damaged(&self, pack: &PackName, chunk: &ChunkId) -> bool {
        self.damage.get(pack).is_some_and(|damage| damage.has(chunk))
    }
}

impl PackDamage {
    fn has(&self, chunk: &ChunkId) -> bool {
        self.lost || self.chunks.contains(chunk)
    }
}

/// One generation of the data key pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey {
    /// Its number, from 0.
    pub generation: u32,
    /// The public key.
    pub public: [u8; 32],
    /// The secret key, wrapped for members (none for the first, which lies in the key rings).
    pub grants: Vec<Grant>,
}

/// What the log says, up to the last entry that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The repository.
    pub repository: RepositoryId,
    /// Number of the next entry.
    pub next: u64,
    /// What the next entry has to name as the one before it.
    pub head: Option<ObjectHash>,
    /// Hash of entry 0, which tells this repository from every other.
    pub fingerprint: Option<ObjectHash>,
    /// BLAKE3 of the marker, from INIT.
    pub marker: Option<ObjectHash>,
    /// Everybody who was ever admitted.
    pub members: HashMap<MemberId, Member>,
    /// The newest entry of each member that counts for something: its number, and Unix milliseconds as claimed.
    pub last_entries: HashMap<MemberId, (u64, i64)>,
    /// Snapshots in log order.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that were forgotten.
    pub forgotten: BTreeMap<SnapshotId, Forgotten>,
    /// The newest FORGET: its number and reason.
    pub newest_forget: Option<(u64, String)>,
    /// Names of the holds on each held snapshot.
    pub holds: BTreeMap<SnapshotId, BTreeSet<String>>,
    /// Published segments in log order.
    pub segments: Vec<SegmentRecord>,
    /// The name of each published segment by the hash of its stored bytes.
    published: HashMap<ObjectHash, SegmentName>,
    /// Sessions that committed or were adopted.
    pub finished_sessions: HashSet<SessionId>,
    /// Sessions of which nothing more will be published.
    pub fenced: BTreeSet<SessionId>,
    /// What is said of single packs.
    pub standing: Arc<Standing>,
    /// Generations of the data key pair, oldest first.
    pub data_keys: Vec<DataKey>,
    /// Entries that count for nothing, and why; the first thousand.
    pub voids: Vec<(u64, String)>,
}

impl State {
    /// The state before the first entry.
    #[must_use]
    pub fn new(repository: RepositoryId) -> Self {
        Self {
            repository,
            next: 0,
            head: None,
            fingerprint: None,
            marker: None,
            members: HashMap::new(),
            last_entries: HashMap::new(),
            snapshots: Vec::new(),
            forgotten: BTreeMap::new(),
            newest_forget: None,
            holds: BTreeMap::new(),
            segments: Vec::new(),
            published: HashMap::new(),
            finished_sessions: HashSet::new(),
            fenced: BTreeSet::new(),
            standing: Arc::default(),
            data_keys: Vec::new(),
            voids: Vec::new(),
        }
    }

    /// Applies the next entry, whose stored bytes have `hash`. `is_signed_by` tells whether the entry was signed with the
    /// secret key of this public key. Gives the reason where the entry is void.
    pub fn apply(
        &mut self,
        entry: &LogEntry,
        hash: ObjectHash,
        is_signed_by: impl FnOnce(&[u8; 32]) -> bool,
    ) -> Result<(), String> {
        let applied = self.judge(entry, is_signed_by).and_then(|()| self.admit(entry)).map_err(str::to_owned);
        if applied.is_ok() {
            self.perform(entry);
            self.last_entries.insert(entry.member, (entry.number, entry.time_ms));
        }
        self.advance(hash, applied.as_ref().err());
        applied
    }

    /// The next entry is behind us, with the head that follows from it.
    fn advance(&mut self, head: ObjectHash, void: Option<&String>) {
        if let Some(why) = void
            && self.voids.len() < VOIDS_MAX
        {
            self.voids.push((self.next, why.clone()));
        }
        self.head = Some(head);
        self.next += 1;
    }

    /// Why the log would not take this entry from its member, if it would not.
    #[must_use]
    pub fn refusal(&self, entry: &LogEntry) -> Option<&'static str> {
        self.judge(entry, |_| true).and_then(|()| self.admit(entry)).err()
    }

    /// Whether the signer may say such a thing at all.
    fn judge(&self, entry: &LogEntry, is_signed_by: impl FnOnce(&[u8; 32]) -> bool) -> Result<(), &'static str> {
        if let Act::Init { member, .. } = &entry.act {
            let first = self.next == 0 && member.id == entry.member && is_signed_by(&member.public_key);
            return if first { Ok(()) } else { Err("an INIT that does not begin the log") };
        }
        let role = self.signer(&entry.member, is_signed_by)?;
        if may(role, &entry.act) { Ok(()) } else { Err("the signer's role does not allow it") }
    }

    /// The role of who signed, if it is a member who may still sign.
    fn signer(&self, id: &MemberId, is_signed_by: impl FnOnce(&[u8; 32]) -> bool) -> Result<Role, &'static str> {
        let member = self.members.get(id).ok_or("signed by somebody who is not a member")?;
        if !is_signed_by(&member.record.public_key) {
            return Err("the signature is wrong");
        }
        if member.revoked.is_some() {
            return Err("signed by a member who was revoked");
        }
        Ok(member.record.role)
    }

    /// Whether the act fits to what is there.
    fn admit(&self, entry: &LogEntry) -> Result<(), &'static str> {
        match &entry.act {
            Act::Commit { session, segments, snapshot, adopted } => {
                let own = |id: &SessionId| id == session || adopted.contains(id);
                if self.fenced.contains(session) || adopted.iter().any(|session| self.fenced.contains(session)) {
                    return Err("the session was fenced");
                }
                if !segments.iter().all(|segment| own(&segment.name.session)) {
                    return Err("it publishes another session's segments");
                }
                // Why: a name is retired by what it is called, whatever its hash. A member that gave a published segment's
                // name to a false one would see both go where an owner retires the false one. No writer commits a session
                // twice, or adopts one that was published ([`crate::rules::obstacle`]).
                if std::iter::once(session).chain(adopted).any(|id| self.finished_sessions.contains(id)) {
                    return Err("its session, or one that it adopts, was published before");
                }
                if !is_one_to_one(segments) {
                    return Err("it gives two segments one name, or a segment two");
                }
                // Why: who saw another's segment in the store could publish it under a name of its own first, and the right
                // name would be passed over without a word. So the other is told.
                if segments.iter().any(|it| self.published.get(&it.hash).is_some_and(|name| *name != it.name)) {
                    return Err("it publishes a segment that is published under another name");
                }
                if self.snapshot(&snapshot.id).is_some() || self.forgotten.contains_key(&snapshot.id) {
                    return Err("a snapshot of that id is there already");
                }
                Ok(())
            }
            Act::Condemn { session, segments, .. } | Act::Remap { session, segments, .. } => {
                if session.is_some_and(|session| self.fenced.contains(&session)) {
                    return Err("the collector's session was fenced");
                }
                if !segments.iter().all(|segment| Some(segment.name.session) == *session) {
                    return Err("it publishes another session's segments");
                }
                Ok(())
            }
            Act::Undelete { packs, .. } if packs.iter().any(|pack| self.standing.deleted.contains_key(pack)) => {
                Err("a pack that it needs is deleted")
            }
            Act::Key(KeyChange::Admit(member)) if self.members.contains_key(&member.id) => {
                Err("a member of that id was admitted before")
            }
            Act::Key(KeyChange::Revoke(id)) if !self.members.contains_key(id) => Err("it revokes nobody"),
            Act::Key(KeyChange::Revoke(id)) if self.is_last_owner(id) => Err("the last owner can't be revoked"),
            Act::Key(KeyChange::Rotate { generation, .. }) if Some(*generation) != self.generation().checked_add(1) => {
                Err("it is not the next generation of the data key")
            }
            _ => Ok(()),
        }
    }

    fn perform(&mut self, entry: &LogEntry) {
        match &entry.act {
            Act::Init { marker, member, data_public, generation } => {
                self.marker = Some(*marker);
                self.admit_member(member, entry.number);
                self.data_keys.push(DataKey { generation: *generation, public: *data_public, grants: Vec::new() });
            }
            Act::Commit { session, segments, snapshot, adopted } => {
                self.publish(segments);
                self.finished_sessions.insert(*session);
                self.finished_sessions.extend(adopted.iter().copied());
                self.snapshots.push(Snapshot {
                    record: (**snapshot).clone(),
                    number: entry.number,
                    member: entry.member,
                    claimed_ms: entry.time_ms,
                });
            }
            Act::Forget { snapshots, reason } => self.forget(snapshots, entry.number, reason),
            Act::Hold { snapshots, label, release } => self.hold(snapshots, label, *release),
            Act::Audit { lost, damaged, sound, .. } => {
                let is_member = self.members.get(&entry.member).is_some_and(|it| it.record.role == Role::Member);
                self.audit(lost, damaged, if is_member { None } else { Some(sound) }, entry.number);
            }
            Act::Condemn { packs, session, segments } => {
                self.publish(segments);
                self.finished_sessions.extend(*session);
                let standing = self.standing_mut();
                for pack in packs {
                    standing.condemned.entry(*pack).or_insert(entry.number);
                }
            }
            Act::Fence { .. } if is_left_out(Rule::FenceFirst) => {}
            Act::Fence { sessions } => self.fenced.extend(sessions.iter().copied()),
            Act::Remap { session, segments, retired, gone } => {
                self.publish(segments);
                self.finished_sessions.extend(*session);
                self.retire(retired.iter().copied().collect(), gone);
            }
            Act::Key(change) => self.change_keys(change, entry.number),
            Act::Undelete { snapshots, packs } => self.undelete(snapshots, packs),
            Act::Delete { packs } => self.delete(packs, entry.number),
        }
    }

    fn standing_mut(&mut self) -> &mut Standing {
        Arc::make_mut(&mut self.standing)
    }

    fn publish(&mut self, segments: &[SegmentRecord]) {
        for segment in segments {
            if self.published.insert(segment.hash, segment.name).is_none() {
                self.segments.push(segment.clone());
            }
        }
    }

    fn forget(&mut self, snapshots: &[SnapshotId], number: u64, reason: &str) {
        self.newest_forget = Some((number, reason.to_owned()));
        let wanted: HashSet<_> = snapshots.iter().filter(|id| !self.holds.contains_key(*id)).collect();
        let forgotten = self.snapshots.extract_if(.., |snapshot| wanted.contains(&snapshot.record.id));
        for snapshot in forgotten {
            let forgotten = Forgotten { snapshot, number, reason: reason.to_owned() };
            self.forgotten.insert(forgotten.snapshot.record.id, forgotten);
        }
    }

    fn hold(&mut self, snapshots: &[SnapshotId], label: &str, release: bool) {
        for id in snapshots {
            if release {
                if let Some(labels) = self.holds.get_mut(id) {
                    labels.remove(label);
                    if labels.is_empty() {
                        self.holds.remove(id);
                    }
                }
            } else if self.snapshot(id).is_some() {
                self.holds.entry(*id).or_default().insert(label.to_owned());
            }
        }
    }

    /// `sound`: packs that are whole again; none where the signer is a member, who can't read any back.
    fn audit(&mut self, lost: &[PackName], damaged: &[BlobDamage], sound: Option<&[PackName]>, number: u64) {
        let standing = self.standing_mut();
        for pack in sound.unwrap_or_default() {
            standing.damage.remove(pack);
            standing.claims.remove(pack);
        }
        let damage = if sound.is_some() { &mut standing.damage } else { &mut standing.claims };
        for pack in lost {
            let pack = damage.entry(*pack).or_default();
            (pack.lost, pack.number) = (true, number);
        }
        for blob in damaged {
            let pack = damage.entry(blob.pack).or_default();
            pack.chunks.insert(blob.chunk);
            pack.number = number;
        }
    }

    fn retire(&mut self, retired: HashSet<SegmentName>, gone: &[PackName]) {
        let published = &mut self.published;
        self.segments.retain(|segment| {
            let stays = !retired.contains(&segment.name);
            if !stays {
                published.remove(&segment.hash);
            }
            stays
        });
        let standing = self.standing_mut();
        for pack in gone {
            standing.condemned.remove(pack);
            standing.deleted.remove(pack);
            standing.damage.remove(pack);
            standing.claims.remove(pack);
        }
    }

    fn undelete(&mut self, snapshots: &[SnapshotId], packs: &[PackName]) {
        let standing = self.standing_mut();
        for pack in packs.iter().filter(|_| !is_left_out(Rule::PacksComeBack)) {
            standing.condemned.remove(pack);
        }
        for id in snapshots {
            self.snapshots.extend(self.forgotten.remove(id).map(|forgotten| forgotten.snapshot));
        }
        self.snapshots.sort_by_key(|snapshot| snapshot.number);
    }

    fn delete(&mut self, packs: &[PackName], number: u64) {
        let mut newest = None;
        let standing = self.standing_mut();
        for pack in packs {
            if let Some(condemned) = standing.condemned.get(pack) {
                newest = newest.max(Some(*condemned));
                standing.deleted.insert(*pack, number);
            }
        }
        // Why: what was forgotten before its packs were condemned has now probably lost some; it can't come back.
        self.forgotten.retain(|_, forgotten| newest.is_none_or(|newest| forgotten.number > newest));
    }

    fn change_keys(&mut self, change: &KeyChange, number: u64) {
        match change {
            KeyChange::Admit(member) => self.admit_member(member, number),
            KeyChange::Revoke(id) => {
                if let Some(member) = self.members.get_mut(id) {
                    member.revoked.get_or_insert(number);
                }
            }
            KeyChange::Rotate { data_public, generation, grants } => {
                let key = DataKey { generation: *generation, public: *data_public, grants: grants.clone() };
                self.data_keys.push(key);
            }
        }
    }

    fn admit_member(&mut self, record: &MemberRecord, number: u64) {
        self.members.insert(record.id, Member { record: record.clone(), admitted: number, revoked: None });
    }

    /// True if the segment with this hash of its stored bytes is published and was not retired.
    #[must_use]
    pub fn is_published(&self, segment: &ObjectHash) -> bool {
        self.published.contains_key(segment)
    }

    /// The live snapshot with this id.
    #[must_use]
    pub fn snapshot(&self, id: &SnapshotId) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.record.id == *id)
    }

    /// The newest generation of the data key pair.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.data_keys.last().map_or(0, |key| key.generation)
    }

    /// The member with this id, if it may still sign.
    #[must_use]
    pub fn active(&self, id: &MemberId) -> Option<&MemberRecord> {
        self.members.get(id).filter(|member| member.revoked.is_none()).map(|member| &member.record)
    }

    fn is_last_owner(&self, id: &MemberId) -> bool {
        let mut owners = self.members.iter().filter(|(_, it)| it.revoked.is_none() && it.record.role == Role::Owner);
        owners.all(|(owner, _)| owner == id)
    }
}

/// True if of no two different segments the names or the hashes are the same.
fn is_one_to_one(segments: &[SegmentRecord]) -> bool {
    let (mut names, mut hashes) = (HashMap::new(), HashMap::new());
    segments.iter().all(|segment| {
        *names.entry(segment.name).or_insert(segment.hash) == segment.hash
            && *hashes.entry(segment.hash).or_insert(segment.name) == segment.name
    })
}

/// Whether a role may write such an entry.
#[must_use]
pub fn may(role: Role, act: &Act) -> bool {
    match act {
        Act::Commit { .. } | Act::Audit { .. } | Act::Hold { release: false, .. } => true,
        Act::Init { .. } => false,
        Act::Forget { .. }
        | Act::Hold { .. }
        | Act::Condemn { .. }
        | Act::Fence { .. }
        | Act::Remap { .. }
        | Act::Key(_)
        | Act::Undelete { .. }
        | Act::Delete { .. } => role == Role::Owner,
    }
}

#[cfg(test)]
pub(super) mod tests;
