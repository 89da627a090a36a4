//! The steps of a writer: begin (look up, adopt), put a pack, put a segment, commit. As `repo/session.rs` does it.
//!
//! What a writer decides without asking the store is part of the step before it. A commit reads the log, judges and
//! appends in one step: put-if-absent makes every slower attempt fail and start anew.

use seawall_engine::rules::{self, Copy, Draft, Obstacle};

use super::explore::{Moves, Setup};
use super::ledger::{Entry, Known, Ledger, Shot};
use super::names::{
    BASE, CHILD, CRASHED, Chunks, ENCODED, Packs, SEGMENTS_MAX, SHARED, SegmentNumber, SegmentText, chunk_id, chunk_of,
    each, held, of_session, owners, pack_bit, pack_name, pack_set, segment_hash, segment_object, session_id,
};
use super::omit::Rule;
use super::world::{Step, World, Writer, Writing};

const NAMES: [&str; 3] = ["writer 1", "writer 2", "writer 3"];
const SESSIONS: [u8; 3] = [1, 2, 6];

/// The session of a writer.
pub fn session_of(writer: usize) -> u8 {
    SESSIONS[writer]
}

/// Every step that a writer can take.
pub fn steps(setup: &Setup, world: &World, writer: usize, ledger: &mut Ledger, moves: &mut Moves) {
    let pen = Pen { setup, world, writer, session: session_of(writer) };
    match world.writers[writer].next {
        Writing::Begin => pen.begin(ledger, moves),
        Writing::PutPack => pen.put_pack(moves),
        Writing::PutSegment => pen.put_segment(ledger, moves),
        Writing::Commit => pen.commit(ledger, moves),
        Writing::Ended => {}
    }
}

/// A copy of a chunk that a published index lists and on which a snapshot may lean (`Index::lean`).
fn lean(setup: &Setup, known: &Known, chunk: usize, alone: bool, has_own: bool) -> Option<(SegmentNumber, Copy)> {
    let mut has_alone = |base: &_| {
        let has_own = has_own && chunk_of(base) == BASE;
        !setup.rules.has(Rule::BaseOfLeaned) || has_own || lean(setup, known, chunk_of(base), true, has_own).is_some()
    };
    let standing = &known.state.standing;
    known.copies[chunk]
        .iter()
        .find(|(_, copy)| rules::leans_on(standing, &chunk_id(chunk), [copy], alone, &mut has_alone).is_some())
        .copied()
}

/// Whether one of the packs has such a copy.
fn holds(packs: Packs, chunk: usize, encoded: bool) -> bool {
    each(packs).any(|number| held(number).any(|(it, copy)| it == chunk && copy.base.is_some() == encoded))
}

struct Pen<'a> {
    setup: &'a Setup,
    world: &'a World,
    writer: usize,
    session: u8,
}

impl Pen<'_> {
    fn push(&self, moves: &mut Moves, what: &'static str, packs: Packs, number: u8, world: World) {
        moves.push((Step { actor: NAMES[self.writer], what, packs, number }, world));
    }

    fn with(&self, writer: Writer) -> World {
        let mut world = *self.world;
        world.writers[self.writer] = writer;
        world
    }

    fn begin(&self, ledger: &mut Ledger, moves: &mut Moves) {
        // Why: the writers are alike, so that they may as well begin in order.
        if self.writer > 0 && self.world.writers[self.writer - 1].next == Writing::Begin {
            return;
        }
        let known = ledger.known(self.world.log);
        let parents = known.shots.iter().copied().filter(|_| self.setup.has_parents).map(Some);
        let parents: Vec<Option<Shot>> = std::iter::once(None).chain(parents).collect();
        for adopted in self.adoptions(&known) {
            for parent in &parents {
                for wants in self.setup.wants {
                    let wants = wants | parent.map_or(0, |parent| parent.chunks);
                    let mut draft = Writer { view: self.world.log, wants, parent: *parent, ..Writer::default() };
                    for session in (0..8).filter(|session| adopted >> session & 1 == 1) {
                        self.adopt(session, &known, ledger, &mut draft);
                    }
                    self.look_up(&known, draft, "begins, wants", moves);
                }
            }
        }
    }

    /// Sets of sessions that a new writer may adopt: none, one, or all that seem to be left over.
    fn adoptions(&self, known: &Known) -> Vec<u8> {
        if !self.setup.has_adoption {
            return vec![0];
        }
        let is_over = |session: u8| known.is_finished(session) || known.is_fenced(session);
        let left = SESSIONS.into_iter().chain([CRASHED]).filter(|session| {
            let has_segments = (0..SEGMENTS_MAX).any(|it| self.world.segments & segment_object(*session, it) != 0);
            let has_left = has_segments || self.world.packs & of_session(*session) != 0;
            *session != self.session && !is_over(*session) && has_left
        });
        let mut sets: Vec<u8> = left.map(|session| 1 << session).collect();
        sets.push(sets.iter().fold(0, |all, one| all | one));
        sets.push(0);
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// Takes over what a session left behind.
    fn adopt(&self, session: u8, known: &Known, ledger: &Ledger, draft: &mut Writer) {
        draft.adopted |= 1 << session;
        let mut listed = 0;
        let other = (0..3).find(|writer| SESSIONS[*writer] == session).map(|writer| &self.world.writers[writer]);
        let segments = other.map_or([0; 4], |other| other.segments);
        for number in segments.into_iter().filter(|number| *number != 0) {
            let text = ledger.table.text(number);
            let are_there = self.world.packs & text.packs == text.packs;
            if text.session != session || self.world.segments & text.object() == 0 || !are_there {
                continue;
            }
            let others = owners(text.packs) & !(1 << self.session | 1 << session);
            if self.setup.rules.has(Rule::OwnersAreAdopted) {
                let is_over = |it: u8| known.is_finished(it) || known.is_fenced(it);
                if (0..8).any(|it| others >> it & 1 == 1 && is_over(it)) {
                    continue;
                }
            }
            listed |= text.packs;
            if self.has_bases(known, text.packs, draft) {
                if self.setup.rules.has(Rule::OwnersAreAdopted) {
                    draft.adopted |= others;
                }
                draft.own |= text.packs;
                let free = draft.segments.iter_mut().find(|slot| **slot == 0).expect("few segments are adopted");
                *free = number;
            }
        }
        for number in each(self.world.packs & of_session(session) & !listed) {
            if self.has_bases(known, 1 << number, draft) {
                draft.own |= 1 << number;
                draft.unlisted |= 1 << number;
            }
        }
    }

    /// Whether the bases of these packs' copies can be answered for; notes that the session leans on them.
    fn has_bases(&self, known: &Known, packs: Packs, draft: &mut Writer) -> bool {
        !holds(packs, CHILD, true) || holds(draft.own | packs, BASE, false) || self.lean_on_base(known, draft)
    }

    fn lean_on_base(&self, known: &Known, draft: &mut Writer) -> bool {
        let found = lean(self.setup, known, BASE, true, false);
        if let Some((segment, copy)) = found {
            draft.leaned_base = Some((segment, pack_bit(&copy.pack).trailing_zeros() as u8));
        }
        found.is_some()
    }

    /// Looks up what the snapshot needs, and goes on to store what is not there: plain, or c against a.
    fn look_up(&self, known: &Known, mut draft: Writer, what: &'static str, moves: &mut Moves) {
        let unseen = draft.parent.map_or(0, |parent| parent.chunks);
        let mut missing: Chunks = 0;
        let wanted = draft.wants & !unseen;
        for chunk in (0..3).filter(|chunk| wanted >> chunk & 1 == 1) {
            if !self.is_stored(known, &mut draft, chunk) {
                missing |= 1 << chunk;
            }
        }
        let mut choices = vec![(missing, draft)];
        if missing >> CHILD & 1 == 1 {
            let plain = missing & !(1 << CHILD);
            let mut leaning = draft;
            let is_own = missing >> BASE & 1 == 1 || holds(draft.own, BASE, false);
            if is_own || self.lean_on_base(known, &mut leaning) {
                choices.push((plain | ENCODED, leaning));
            }
        }
        for (storing, mut draft) in choices {
            draft.storing = storing;
            draft.next = self.after_storing(&draft);
            let mut world = self.with(draft);
            world.keys |= 1 << self.session;
            self.push(moves, what, pack_set(0, draft.wants), draft.adopted, world);
        }
    }

    fn after_storing(&self, draft: &Writer) -> Writing {
        match (draft.storing, draft.unlisted) {
            (0, 0) => Writing::Commit,
            (0, _) => Writing::PutSegment,
            _ => Writing::PutPack,
        }
    }

    /// Whether the snapshot may lean on a copy of the chunk; notes on which.
    fn is_stored(&self, known: &Known, draft: &mut Writer, chunk: usize) -> bool {
        let has_own = holds(draft.own, BASE, false);
        if let Some((segment, copy)) = lean(self.setup, known, chunk, false, has_own) {
            draft.leaned[chunk] = Some((segment, pack_bit(&copy.pack).trailing_zeros() as u8));
            if copy.base.is_some() {
                self.lean_on_base(known, draft);
            }
            return true;
        }
        if holds(draft.own, chunk, false) {
            return true;
        }
        let is_encoded = chunk == CHILD && holds(draft.own, CHILD, true);
        is_encoded && (!self.setup.rules.has(Rule::BaseOfOwn) || has_own || self.lean_on_base(known, draft))
    }

    fn put_pack(&self, moves: &mut Moves) {
        let mut draft = self.world.writers[self.writer];
        let owner = if self.setup.rules.has(Rule::UniqueNames) { self.session } else { SHARED };
        let pack = pack_set(owner, draft.storing);
        draft.own |= pack;
        draft.unlisted |= pack;
        draft.storing = 0;
        draft.next = Writing::PutSegment;
        let mut world = self.with(draft);
        world.packs |= pack;
        self.push(moves, "puts pack", pack, 0, world);
    }

    fn put_segment(&self, ledger: &mut Ledger, moves: &mut Moves) {
        let mut draft = self.world.writers[self.writer];
        let Some(free) = draft.segments.iter().position(|slot| *slot == 0) else { return };
        if draft.written == SEGMENTS_MAX {
            return;
        }
        let text = SegmentText { session: self.session, counter: draft.written, packs: draft.unlisted };
        draft.segments[free] = ledger.table.number(text);
        draft.written += 1;
        draft.unlisted = 0;
        draft.next = Writing::Commit;
        let mut world = self.with(draft);
        world.segments |= text.object();
        self.push(moves, "puts segment of", text.packs, 0, world);
    }

    fn commit(&self, ledger: &mut Ledger, moves: &mut Moves) {
        let known = ledger.known(self.world.log);
        let draft = self.world.writers[self.writer];
        match self.obstacle(&known, ledger, &draft) {
            None => {}
            Some(Obstacle::ParentForgotten(_)) => {
                let anew = Writer { view: self.world.log, parent: None, leaned: [None; 3], leaned_base: None, ..draft };
                return self.look_up(&known, anew, "looks anew, wants", moves);
            }
            Some(Obstacle::Fenced(session) | Obstacle::Published(session)) if session != session_id(self.session) => {
                let own = draft.own & of_session(self.session);
                let anew = Writer {
                    view: self.world.log,
                    parent: None,
                    leaned: [None; 3],
                    leaned_base: None,
                    own,
                    unlisted: own,
                    segments: [0; 4],
                    adopted: 0,
                    ..draft
                };
                return self.look_up(&known, anew, "gives up what it adopted, wants", moves);
            }
            Some(_) => {
                let ended = Writer { next: Writing::Ended, ..draft };
                return self.push(moves, "gives up: a session is fenced or published", 0, 0, self.with(ended));
            }
        }
        let lost = self.lost(&known, ledger, &draft);
        if lost != 0 {
            let again = Writer { storing: lost, next: Writing::PutPack, ..draft };
            return self.push(moves, "has to store again", pack_set(0, lost), 0, self.with(again));
        }
        let segments: Vec<_> = draft.segments.into_iter().filter(|number| *number != 0).collect();
        let shot = Shot { session: self.session, chunks: draft.wants };
        let number = draft.adopted;
        if let Some(log) = ledger.append(self.world.log, Entry::Commit { shot, segments, adopted: draft.adopted }) {
            let mut world = self.with(Writer { next: Writing::Ended, ..Writer::default() });
            world.log = log;
            self.push(moves, "COMMIT", pack_set(0, draft.wants), number, world);
        }
    }

    fn obstacle(&self, known: &Known, ledger: &Ledger, draft: &Writer) -> Option<Obstacle> {
        let adopted = (0..8).filter(|session| draft.adopted >> session & 1 == 1).map(session_id).collect();
        let session = session_id(self.session);
        let since = ledger.known_ref(draft.view).state.next;
        let draft = Draft { session, adopted, parent: draft.parent.map(Shot::id), since };
        let found = rules::obstacle(&known.state, &draft)?;
        let rule = match found {
            Obstacle::Fenced(_) => Rule::FencedCommit,
            Obstacle::Published(_) => Rule::PublishedOnce,
            Obstacle::ParentForgotten(_) | Obstacle::ParentDamaged(_) => Rule::ParentIsLive,
        };
        self.setup.rules.has(rule).then_some(found)
    }

    /// Chunks on which the session leaned and must not any more, and that it has no copy of its own of.
    fn lost(&self, known: &Known, ledger: &Ledger, draft: &Writer) -> Chunks {
        if !self.setup.rules.has(Rule::LookAgain) {
            return 0;
        }
        let since = ledger.known_ref(draft.view).state.next;
        let is_doubtful = |(segment, pack): (SegmentNumber, u8)| {
            let is_retired = self.setup.rules.has(Rule::RetiredIsDoubtful);
            // Why: a segment that is published is never doubtful for being retired.
            let shown = if is_retired { segment } else { known.segments.first().map_or(0, |(first, _)| *first) };
            rules::is_doubtful(&known.state, since, &segment_hash(shown), &pack_name(pack))
        };
        let has_own = holds(draft.own, BASE, false);
        let is_lost = |chunk: usize, alone: bool| {
            lean(self.setup, known, chunk, alone, has_own).is_none()
                && !holds(draft.own, chunk, false)
                && (alone || !holds(draft.own, chunk, true) || chunk != CHILD)
        };
        let chunks = (0..3).filter(|chunk| draft.leaned[*chunk].is_some_and(is_doubtful) && is_lost(*chunk, false));
        let lost = chunks.fold(0, |lost, chunk| lost | 1 << chunk);
        let base = draft.leaned_base.is_some_and(is_doubtful) && is_lost(BASE, true);
        lost | u8::from(base) << BASE
    }
}
