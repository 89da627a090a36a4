//! The log of the model: the real [`State`], computed once for each log that differs.
//!
//! Entries are real acts of one owner, applied without cryptography. Logs after which the state is the same, numbers of
//! condemnation included, are one; a world then names its log by a number. What the state says of copies is also kept as
//! sets of packs, by which a world is checked.

use std::collections::HashMap;
use std::rc::Rc;

use seawall_engine::clock::Timestamp;
use seawall_engine::format::log::{Act, LogEntry, MemberRecord, SegmentRecord, SnapshotRecord};
use seawall_engine::format::slot::Role;
use seawall_engine::ids::{MemberId, ObjectHash, RepositoryId, SnapshotId};
use seawall_engine::rules::{Copy, State};

use super::names::{
    CHILD, Chunks, Packs, SegmentNumber, SegmentObjects, SegmentTable, chunk_id, chunk_of, each, held, pack_bit,
    pack_name, segment_hash, segment_number, session_id,
};
use super::omit::{Rule, Rules};

const MEMBER: MemberId = MemberId([1; 16]);

/// A snapshot: the session that committed it and the chunks that it reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shot {
    pub session: u8,
    pub chunks: Chunks,
}

impl Shot {
    pub fn id(self) -> SnapshotId {
        let mut bytes = [0; 16];
        (bytes[0], bytes[1]) = (self.session, self.chunks);
        SnapshotId(bytes)
    }

    fn of(id: &SnapshotId) -> Self {
        Self { session: id.0[0], chunks: id.0[1] }
    }
}

/// An entry that an actor wants in the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Entry {
    Commit { shot: Shot, segments: Vec<SegmentNumber>, adopted: u8 },
    Forget(Shot),
    Undelete(Shot, Packs),
    Condemn { packs: Packs, session: u8, segment: SegmentNumber },
    Delete(Packs),
    Audit(Packs),
    Fence(u8),
    Remap { session: u8, segment: SegmentNumber, retired: Vec<SegmentNumber>, gone: Packs },
}

/// A log, by what it leads to.
pub struct Known {
    pub state: State,
    /// Chunks that live snapshots reach.
    pub live: Chunks,
    /// Packs that a published segment lists.
    pub listed: Packs,
    /// Of these, the packs with a plain copy of each chunk, and with the one that is encoded against it.
    pub plain: [Packs; 3],
    pub encoded: [Packs; 3],
    pub condemned: Packs,
    pub damaged: Packs,
    /// Published segments, newest last, and their objects.
    pub segments: Vec<(SegmentNumber, Packs)>,
    pub segment_objects: SegmentObjects,
    pub shots: Vec<Shot>,
    pub forgotten: Vec<Shot>,
    /// Of each chunk, the copies that published segments list, those of the newest first.
    pub copies: [Vec<(SegmentNumber, Copy)>; 3],
}

impl Known {
    fn new(state: State, table: &SegmentTable) -> Self {
        let segments: Vec<_> = state.segments.iter().map(|segment| segment_number(&segment.hash)).collect();
        let texts = segments.iter().map(|number| table.text(*number));
        let shots: Vec<Shot> = state.snapshots.iter().map(|snapshot| Shot::of(&snapshot.record.id)).collect();
        let mut known = Self {
            live: shots.iter().fold(0, |live, shot| live | shot.chunks),
            listed: texts.clone().fold(0, |listed, text| listed | text.packs),
            segment_objects: texts.clone().fold(0, |objects, text| objects | text.object()),
            segments: segments.iter().zip(texts).map(|(number, text)| (*number, text.packs)).collect(),
            condemned: state.standing.condemned.keys().fold(0, |set, pack| set | pack_bit(pack)),
            damaged: state.standing.damage.keys().fold(0, |set, pack| set | pack_bit(pack)),
            forgotten: state.forgotten.keys().map(Shot::of).collect(),
            plain: [0; 3],
            encoded: [0; 3],
            copies: Default::default(),
            shots,
            state,
        };
        for (segment, packs) in known.segments.iter().rev() {
            for number in each(*packs) {
                for (chunk, copy) in held(number) {
                    known.copies[chunk].push((*segment, copy));
                    let set = match &copy.base {
                        Some(base) => &mut known.encoded[chunk_of(base)],
                        None => &mut known.plain[chunk],
                    };
                    *set |= 1 << number;
                }
            }
        }
        known
    }

    /// Chunks that live snapshots reach and that cannot be had from `packs`.
    pub fn lacks(&self, packs: Packs) -> Chunks {
        let plain = |chunk: usize| self.plain[chunk] & packs != 0;
        let is_encoded = || (0..3).any(|base| self.encoded[base] & packs != 0 && plain(base));
        let is_there = |chunk: usize| plain(chunk) || chunk == CHILD && is_encoded();
        (0..3).filter(|chunk| self.live >> chunk & 1 == 1 && !is_there(*chunk)).fold(0, |set, chunk| set | 1 << chunk)
    }

    pub fn is_finished(&self, session: u8) -> bool {
        self.state.finished_sessions.contains(&session_id(session))
    }

    pub fn is_fenced(&self, session: u8) -> bool {
        self.state.fenced.contains(&session_id(session))
    }

    /// Everything of the state on which a rule or an actor may depend.
    fn key(&self) -> Vec<u8> {
        let mut key = vec![self.state.next as u8];
        let shots = |key: &mut Vec<u8>, shots: &[Shot]| {
            key.push(shots.len() as u8);
            shots.iter().for_each(|shot| key.extend([shot.session, shot.chunks]));
        };
        shots(&mut key, &self.shots);
        shots(&mut key, &self.forgotten);
        key.extend(self.state.forgotten.values().map(|forgotten| forgotten.number as u8));
        key.push(self.segments.len() as u8);
        self.segments.iter().for_each(|(number, _)| key.extend(number.to_le_bytes()));
        let of_all = |set: &dyn Fn(u8) -> bool| (0..8).filter(|it| set(*it)).fold(0u8, |bits, it| bits | 1 << it);
        key.push(of_all(&|session| self.is_finished(session)));
        key.push(of_all(&|session| self.is_fenced(session)));
        let standing = &self.state.standing;
        for (pack, number) in &standing.condemned {
            key.extend([pack.session.0[0], pack.counter as u8, *number as u8]);
            key.push(u8::from(standing.deleted.contains_key(pack)));
        }
        key.extend(self.damaged.to_le_bytes());
        key
    }
}

/// All logs that were met, by number.
pub struct Ledger {
    rules: Rules,
    known: Vec<Rc<Known>>,
    numbers: HashMap<Vec<u8>, u32>,
    appended: HashMap<(u32, Entry), Option<u32>>,
    pub table: SegmentTable,
}

impl Ledger {
    /// A ledger whose log number 0 has only the INIT entry.
    pub fn new(rules: Rules) -> Self {
        let mut state = State::new(RepositoryId([0; 16]));
        let member = MemberRecord {
            id: MEMBER,
            public_key: [0; 32],
            role: Role::Owner,
            label: String::new(),
            wrap_public: None,
            slot: None,
            slot_hash: None,
        };
        let act = Act::Init { marker: ObjectHash([0; 32]), member, data_public: [0; 32], generation: 0 };
        apply(&mut state, act).unwrap();
        let (table, appended) = (SegmentTable::default(), HashMap::new());
        let known = Rc::new(Known::new(state, &table));
        Self { rules, numbers: HashMap::from([(known.key(), 0)]), known: vec![known], appended, table }
    }

    pub fn known(&self, log: u32) -> Rc<Known> {
        Rc::clone(&self.known[log as usize])
    }

    pub fn known_ref(&self, log: u32) -> &Known {
        &self.known[log as usize]
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// The log after one more entry; none where the entry would be void, so that no honest actor writes it.
    pub fn append(&mut self, log: u32, entry: Entry) -> Option<u32> {
        if let Some(after) = self.appended.get(&(log, entry.clone())) {
            return *after;
        }
        let mut state = self.known[log as usize].state.clone();
        let is_unfenced = match entry {
            Entry::Commit { .. } => !self.rules.has(Rule::FencedCommit),
            Entry::Condemn { .. } | Entry::Remap { .. } => !self.rules.has(Rule::FencedCollector),
            _ => false,
        };
        let hidden = if is_unfenced { std::mem::take(&mut state.fenced) } else { Default::default() };
        // The log itself keeps that rule, too.
        let is_again = matches!(entry, Entry::Commit { .. }) && !self.rules.has(Rule::PublishedOnce);
        let finished = if is_again { std::mem::take(&mut state.finished_sessions) } else { Default::default() };
        let after = apply(&mut state, self.act(&entry)).ok().map(|()| {
            state.fenced.extend(hidden);
            state.finished_sessions.extend(finished);
            self.intern(state)
        });
        self.appended.insert((log, entry), after);
        after
    }

    fn intern(&mut self, state: State) -> u32 {
        let known = Known::new(state, &self.table);
        let all = &mut self.known;
        *self.numbers.entry(known.key()).or_insert_with(|| {
            all.push(Rc::new(known));
            all.len() as u32 - 1
        })
    }

    fn act(&self, entry: &Entry) -> Act {
        let names = |packs: &Packs| each(*packs).map(pack_name).collect::<Vec<_>>();
        let record = |number: &SegmentNumber| {
            let name = self.table.text(*number).name();
            SegmentRecord { name, hash: segment_hash(*number), records: 0, bytes: 0 }
        };
        let fresh = |number: &SegmentNumber| (*number != 0).then(|| record(number)).into_iter().collect::<Vec<_>>();
        let publisher = |session: u8, number: &SegmentNumber| (*number != 0).then(|| session_id(session));
        match entry {
            Entry::Commit { shot, segments, adopted } => Act::Commit {
                session: session_id(shot.session),
                segments: segments.iter().map(record).collect(),
                snapshot: Box::new(snapshot(shot.id())),
                adopted: (0..8).filter(|session| adopted >> session & 1 == 1).map(session_id).collect(),
            },
            Entry::Forget(shot) => Act::Forget { snapshots: vec![shot.id()], reason: String::new() },
            Entry::Undelete(shot, packs) => Act::Undelete { snapshots: vec![shot.id()], packs: names(packs) },
            Entry::Condemn { packs, session, segment } => {
                Act::Condemn { packs: names(packs), session: publisher(*session, segment), segments: fresh(segment) }
            }
            Entry::Delete(packs) => Act::Delete { packs: names(packs) },
            Entry::Audit(packs) => {
                Act::Audit { depth: 0, bytes: 0, lost: names(packs), damaged: Vec::new(), sound: Vec::new() }
            }
            Entry::Fence(session) => Act::Fence { sessions: vec![session_id(*session)] },
            Entry::Remap { session, segment, retired, gone } => Act::Remap {
                session: publisher(*session, segment),
                segments: fresh(segment),
                retired: retired.iter().map(|number| self.table.text(*number).name()).collect(),
                gone: names(gone),
            },
        }
    }
}

fn apply(state: &mut State, act: Act) -> Result<(), String> {
    let number = state.next;
    let entry = LogEntry { number, previous: None, repository: state.repository, member: MEMBER, time_ms: 0, act };
    state.apply(&entry, ObjectHash([0; 32]), |_| true)
}

fn snapshot(id: SnapshotId) -> SnapshotRecord {
    SnapshotRecord {
        id,
        time: Timestamp { seconds: 0, nanos: 0 },
        host: String::new(),
        user: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        root: chunk_id(0),
        entries: 0,
        files: 0,
        bytes: 0,
        labels: Vec::new(),
        program: String::new(),
        problems: 0,
        parent: None,
        bytes_read: 0,
        bytes_stored: 0,
        duration_ms: 0,
    }
}
