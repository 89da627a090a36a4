//! The steps of a collector and of an owner: look, choose and rewrite, CONDEMN, DELETE, remove, FENCE, REMAP; forget and
//! undelete. As docs/concurrency.md has them.
//!
//! A collector removes by the log that it last read, which may be old. What it appends, it judges and appends in one step,
//! as put-if-absent makes of it.

use seawall_engine::ids::ChunkId;
use seawall_engine::rules::{self, BaseLeft, Copy, Kept};

use super::explore::{Moves, Setup};
use super::ledger::{Entry, Known, Ledger};
use super::names::{
    BASE, CHILD, Chunks, ENCODED, Packs, SEGMENTS_MAX, SESSIONS, SegmentText, chunk_id, chunk_of, each, held,
    of_session, pack_bit, pack_name, pack_set, segment_object, session_id,
};
use super::omit::{Rule, Rules};
use super::world::{Collecting, Collector, Step, World};

const NAMES: [&str; 2] = ["prune 1", "prune 2"];
const SESSIONS_OF: [u8; 2] = [3, 4];
/// A pack that nobody writes.
const PHANTOM: u8 = 127;

/// Every step that a collector can take.
pub fn steps(setup: &Setup, world: &World, collector: usize, ledger: &mut Ledger, moves: &mut Moves) {
    // Why: the collectors are alike, so that they may as well begin in order.
    if collector > 0 && world.collectors[collector - 1] == Collector::default() {
        return;
    }
    let hand = Hand { setup, world, collector, session: SESSIONS_OF[collector] };
    let own = &world.collectors[collector];
    match own.next {
        Collecting::Choose => {
            hand.look(moves);
            if let Some(view) = own.view {
                let known = ledger.known(view);
                hand.choose(&known, ledger, moves);
                hand.remove(&known, moves);
                hand.compact(view, &known, ledger, moves);
            }
        }
        Collecting::PutPack => hand.put_pack(moves),
        Collecting::PutSegment => hand.put_segment(ledger, moves),
        Collecting::Condemn => hand.condemn(ledger, moves),
        Collecting::Remap => hand.remap(ledger, moves),
    }
}

/// Appends for which it does not matter who writes them: DELETE, FENCE, FORGET, UNDELETE.
pub fn owner_steps(setup: &Setup, world: &World, ledger: &mut Ledger, moves: &mut Moves) {
    let known = ledger.known(world.log);
    let mut append = |what: &'static str, packs: Packs, number: u8, entry: Entry, ledger: &mut Ledger| {
        if let Some(log) = ledger.append(world.log, entry) {
            moves.push((Step { actor: "owner", what, packs, number }, World { log, ..*world }));
        }
    };
    for shot in &known.shots {
        append("FORGET the snapshot of session", 0, shot.session, Entry::Forget(*shot), ledger);
    }
    if setup.has_undelete {
        for shot in &known.forgotten {
            if let Some(packs) = comes_back(setup.rules, &known, shot.chunks) {
                append("UNDELETE", packs, shot.session, Entry::Undelete(*shot, packs), ledger);
            }
        }
    }
    let condemned: Vec<_> = known.state.standing.condemned.keys().copied().collect();
    let deletable = rules::may_be_deleted(&known.state, &condemned);
    for pack in &deletable {
        let packs = pack_bit(pack);
        append("DELETE", packs, 0, Entry::Delete(packs), ledger);
    }
    if deletable.len() > 1 {
        let packs = deletable.iter().fold(0, |packs, pack| packs | pack_bit(pack));
        append("DELETE", packs, 0, Entry::Delete(packs), ledger);
    }
    if setup.has_orphans {
        for session in (1..7).filter(|session| !known.is_fenced(*session)) {
            let is_left = world.packs & of_session(session) & !known.listed != 0
                || world.keys >> session & 1 == 1 && world.packs & of_session(session) == 0
                || (0..SEGMENTS_MAX)
                    .any(|counter| world.segments & !known.segment_objects & segment_object(session, counter) != 0);
            if is_left {
                append("FENCE session", 0, session, Entry::Fence(session), ledger);
            }
        }
    }
}

/// Packs that an UNDELETE must bring back; none where a chunk is lost.
fn comes_back(rules: Rules, known: &Known, chunks: Chunks) -> Option<Packs> {
    let copies: [Vec<Copy>; 3] =
        std::array::from_fn(|chunk| known.copies[chunk].iter().map(|(_, copy)| *copy).collect());
    let find = |chunk: usize, alone: bool, base: BaseLeft| {
        rules::brings_back(&known.state, &chunk_id(chunk), &copies[chunk], alone, &|_| base)
    };
    let of_base = find(BASE, true, BaseLeft::Nothing);
    let base = if rules.has(Rule::BaseComesBack) { rules::left(of_base) } else { BaseLeft::Sound };
    let mut packs = 0;
    for chunk in (0..3).filter(|chunk| chunks >> chunk & 1 == 1) {
        let copy = find(chunk, false, base)?.copy;
        packs |= pack_bit(&copy.pack);
        if copy.base.is_some() && rules.has(Rule::BaseComesBack) {
            packs |= pack_bit(&of_base?.copy.pack);
        }
    }
    Some(if rules.has(Rule::PacksComeBack) { packs & known.condemned } else { 0 })
}

/// What is left of a list of packs that shall be condemned, and the chunks that kept the rest (rule G1, as `prune` does).
struct Settled {
    list: Packs,
    kept: Chunks,
    /// Packs with the copies that stay though they were to leave.
    returned: Packs,
    /// Packs with the copies that stay while another one leaves, which have to be read first.
    unread: Packs,
}

struct Settling<'a> {
    rules: Rules,
    known: &'a Known,
    copies: [Vec<Copy>; 3],
    settled: Settled,
}

fn settle(rules: Rules, known: &Known, fresh: Packs, list: Packs) -> Settled {
    let mut copies: [Vec<Copy>; 3] =
        std::array::from_fn(|chunk| known.copies[chunk].iter().map(|(_, copy)| *copy).collect());
    for number in each(fresh) {
        held(number).for_each(|(chunk, copy)| copies[chunk].push(copy));
    }
    let settled = Settled { list, kept: 0, returned: 0, unread: 0 };
    let mut settling = Settling { rules, known, copies, settled };
    let (mut bases, mut staying) = (0u8, Vec::new());
    for chunk in (0..3).filter(|chunk| known.live >> chunk & 1 == 1) {
        let chosen = settling.keep(chunk, false);
        bases |= chosen.and_then(|copy| copy.base).map_or(0, |base| 1 << chunk_of(&base));
        staying.extend(chosen.map(|copy| (chunk, copy)));
    }
    for base in (0..3).filter(|base| rules.has(Rule::BaseStays) && bases >> base & 1 == 1) {
        staying.extend(settling.keep(base, true).map(|copy| (base, copy)));
    }
    let is_old = |pack: Packs| pack & fresh == 0;
    for (chunk, copy) in staying.into_iter().filter(|(_, copy)| is_old(pack_bit(&copy.pack))) {
        if settling.copies[chunk].iter().any(|other| *other != copy && settling.leaves(other)) {
            settling.settled.unread |= pack_bit(&copy.pack);
        }
    }
    settling.settled
}

impl Settling<'_> {
    fn keep(&mut self, chunk: usize, alone: bool) -> Option<Copy> {
        let list = self.settled.list;
        let standing = &self.known.state.standing;
        let leaves = |pack: &_| list & pack_bit(pack) != 0;
        let (id, copies) = (chunk_id(chunk), &self.copies[chunk]);
        let mut kept = rules::keeps(standing, &id, copies, alone, &leaves, &|base| self.bases(base));
        if !self.rules.has(Rule::SoundStays) {
            let of_base = |base: &_| rules::base_left(standing, base, &self.bases(base), &leaves);
            let stays = rules::stays(standing, &id, copies, alone, &leaves, &of_base);
            kept = stays.map_or(kept, |chosen| Kept::Stays(chosen.copy));
        }
        let (copy, returns) = match kept {
            Kept::Stays(copy) | Kept::Saved(copy) => (*copy, 0),
            Kept::Returns(copy) => (*copy, pack_bit(&copy.pack)),
            Kept::Doubtful(best) => (*best?, copies.iter().fold(0, |packs, copy| packs | pack_bit(&copy.pack))),
        };
        self.settled.kept |= u8::from(list & returns != 0) << chunk;
        self.settled.list &= !returns;
        self.settled.returned |= list & returns & pack_bit(&copy.pack);
        Some(copy)
    }

    /// Whether a copy leaves, itself or with its base.
    fn leaves(&self, copy: &Copy) -> bool {
        let is_listed = |copy: &Copy| self.settled.list & pack_bit(&copy.pack) != 0;
        let is_base_listed =
            |base| self.copies[chunk_of(&base)].iter().any(|copy| copy.base.is_none() && is_listed(copy));
        is_listed(copy) || self.rules.has(Rule::LeavesWithBase) && copy.base.is_some_and(is_base_listed)
    }

    /// Copies of a base; a phantom where a rule is left out that would not take what there is.
    fn bases(&self, base: &ChunkId) -> Vec<Copy> {
        let phantom = Copy { pack: pack_name(PHANTOM), base: None };
        if !self.rules.has(Rule::CopyWithoutBaseIsNone) {
            return vec![phantom];
        }
        let stays = self.known.damaged & !self.known.condemned & !self.settled.list;
        let is_taken = |copy: &Copy| !self.rules.has(Rule::BaseIsSound) && stays & pack_bit(&copy.pack) != 0;
        self.copies[chunk_of(base)].iter().map(|copy| if is_taken(copy) { phantom } else { *copy }).collect()
    }
}

struct Hand<'a> {
    setup: &'a Setup,
    world: &'a World,
    collector: usize,
    session: u8,
}

impl Hand<'_> {
    fn push(&self, moves: &mut Moves, what: &'static str, packs: Packs, number: u8, world: World) {
        moves.push((Step { actor: NAMES[self.collector], what, packs, number }, world));
    }

    fn own(&self) -> Collector {
        self.world.collectors[self.collector]
    }

    fn with(&self, own: Collector) -> World {
        let mut world = *self.world;
        world.collectors[self.collector] = own;
        world
    }

    fn look(&self, moves: &mut Moves) {
        let own = self.own();
        if own.view != Some(self.world.log) {
            let own = Collector { view: Some(self.world.log), ..own };
            self.push(moves, "reads the log", 0, 0, self.with(own));
        }
    }

    /// Any set of packs, and what has to be rewritten of it.
    fn choose(&self, known: &Known, ledger: &mut Ledger, moves: &mut Moves) {
        let candidates: Vec<Packs> = each(known.listed & !known.condemned).map(|number| 1 << number).collect();
        for set in 1..1u32 << candidates.len() {
            if set.count_ones() > self.setup.list_max {
                continue;
            }
            let chosen = candidates.iter().enumerate().filter(|(place, _)| set >> place & 1 == 1);
            let list = chosen.fold(0, |list, (_, pack)| list | pack);
            let settled = settle(self.setup.rules, known, 0, list);
            if settled.list == list {
                let own = Collector { next: Collecting::Condemn, list, ..self.own() };
                self.push(moves, "chooses", list, 0, self.with(own));
                continue;
            }
            // What is to be stored again is read.
            if self.audits(settled.returned, known, ledger, moves) {
                continue;
            }
            let plain = settled.kept;
            let is_child = plain >> CHILD & 1 == 1;
            let encoded = plain & !(1 << CHILD) | ENCODED;
            let base_stays = plain >> BASE & 1 == 1 || self.base_stays(known, list);
            for storing in [Some(plain), (is_child && base_stays).then_some(encoded)].into_iter().flatten() {
                let is_new = self.own().stored & pack_set(self.session, storing) == 0;
                if self.setup.has_rewrite && is_new && self.own().written < SEGMENTS_MAX {
                    let own = Collector { next: Collecting::PutPack, list, storing, ..self.own() };
                    self.push(moves, "chooses, will rewrite", list, storing, self.with(own));
                }
            }
        }
    }

    /// Reads the copies in these packs; true where one is not what its id says, and the log is told.
    fn audits(&self, packs: Packs, known: &Known, ledger: &mut Ledger, moves: &mut Moves) -> bool {
        let found = packs & self.setup.rotten() & !known.damaged;
        if found != 0
            && let Some(log) = ledger.append(self.world.log, Entry::Audit(found))
        {
            self.push(moves, "reads, AUDIT", found, 0, World { log, ..*self.world });
        }
        found != 0
    }

    fn base_stays(&self, known: &Known, list: Packs) -> bool {
        known.plain[BASE] & !list & !known.condemned != 0
    }

    fn put_pack(&self, moves: &mut Moves) {
        let mut own = self.own();
        let pack = pack_set(self.session, own.storing);
        own = Collector { next: Collecting::PutSegment, storing: 0, stored: own.stored | pack, fresh: pack, ..own };
        let mut world = self.with(own);
        world.packs |= pack;
        if self.own().stored == 0 {
            world.keys |= 1 << self.session;
        }
        self.push(moves, "puts pack", pack, 0, world);
    }

    fn put_segment(&self, ledger: &mut Ledger, moves: &mut Moves) {
        let mut own = self.own();
        let text = SegmentText { session: self.session, counter: own.written, packs: own.fresh };
        own.segment = ledger.table.number(text);
        own.written += 1;
        own.next = Collecting::Condemn;
        let mut world = self.with(own);
        world.segments |= text.object();
        self.push(moves, "puts segment of", text.packs, 0, world);
    }

    fn idle(&self) -> Collector {
        let own = self.own();
        Collector { next: Collecting::Choose, list: 0, segment: 0, fresh: 0, storing: 0, ..own }
    }

    fn condemn(&self, ledger: &mut Ledger, moves: &mut Moves) {
        let own = self.own();
        let known = ledger.known(self.world.log);
        let judged = if self.setup.rules.has(Rule::CondemnLooksAgain) {
            let there = own.list & known.listed & !known.condemned;
            let settled = settle(self.setup.rules, &known, own.fresh, there);
            if self.setup.rules.has(Rule::StaysIsRead) && self.audits(settled.unread, &known, ledger, moves) {
                return;
            }
            settled.list
        } else {
            own.list
        };
        let entry = Entry::Condemn { packs: judged, session: self.session, segment: own.segment };
        let log = if judged == 0 && own.segment == 0 { None } else { ledger.append(self.world.log, entry) };
        let world = self.with(self.idle());
        match log {
            Some(log) => self.push(moves, "CONDEMN", judged, 0, World { log, ..world }),
            None => self.push(moves, "gives up what it chose", own.list, 0, world),
        }
    }

    /// Removes one object, by the log that the collector knows.
    fn remove(&self, known: &Known, moves: &mut Moves) {
        let rules = self.setup.rules;
        for number in each(self.world.packs & known.condemned) {
            if rules::may_remove(&known.state, &pack_name(number)) || !rules.has(Rule::DeleteFirst) {
                self.push(
                    moves,
                    "removes",
                    1 << number,
                    0,
                    World { packs: self.world.packs & !(1 << number), ..*self.world },
                );
            }
        }
        if !self.setup.has_orphans {
            return;
        }
        for number in each(self.world.packs) {
            let is_listed = known.listed >> number & 1 == 1;
            if self.may_remove_orphan(known, number / 16, is_listed) {
                let packs = self.world.packs & !(1 << number);
                self.push(moves, "removes orphan", 1 << number, 0, World { packs, ..*self.world });
            }
        }
        for session in 0..7 {
            for counter in 0..SEGMENTS_MAX {
                let object = segment_object(session, counter);
                let is_listed = known.segment_objects & object != 0;
                if self.world.segments & object != 0 && self.may_remove_orphan(known, session, is_listed) {
                    let segments = self.world.segments & !object;
                    self.push(moves, "removes a segment of session", 0, session, World { segments, ..*self.world });
                }
            }
            self.remove_key(known, session, moves);
        }
    }

    fn remove_key(&self, known: &Known, session: u8, moves: &mut Moves) {
        let is_listed = known.listed & of_session(session) != 0;
        let is_over = !self.setup.rules.has(Rule::KeyAfterFence) && known.is_finished(session) && !is_listed;
        if self.world.keys >> session & 1 == 1 && (is_over || self.may_remove_orphan(known, session, is_listed)) {
            let keys = self.world.keys & !(1 << session);
            self.push(moves, "removes the key of session", 0, session, World { keys, ..*self.world });
        }
    }

    fn may_remove_orphan(&self, known: &Known, session: u8, is_listed: bool) -> bool {
        let unfenced = !self.setup.rules.has(Rule::FenceFirst) && !is_listed && session < SESSIONS - 1;
        unfenced || rules::may_remove_orphan(&known.state, &session_id(session), is_listed)
    }

    /// Writes a segment that stands for all published ones, without the packs whose objects are gone.
    fn compact(&self, view: u32, known: &Known, ledger: &mut Ledger, moves: &mut Moves) {
        if !self.setup.has_compaction || view != self.world.log || self.own().written == SEGMENTS_MAX {
            return;
        }
        let deleted = known.state.standing.deleted.keys().fold(0, |set, pack| set | pack_bit(pack));
        let gone = deleted & !self.world.packs;
        if gone == 0 && known.segments.len() < 2 {
            return;
        }
        let mut own = self.own();
        let packs = known.listed & !gone;
        own.next = Collecting::Remap;
        own.list = gone;
        if !self.setup.rules.has(Rule::GoneIsUnlisted) {
            return self.push(moves, "calls gone", gone, 0, self.with(own));
        }
        let text = SegmentText { session: self.session, counter: own.written, packs };
        own.segment = ledger.table.number(text);
        own.written += 1;
        let mut world = self.with(own);
        world.segments |= text.object();
        self.push(moves, "puts segment of", packs, 0, world);
    }

    fn remap(&self, ledger: &mut Ledger, moves: &mut Moves) {
        let own = self.own();
        let world = self.with(self.idle());
        let known = ledger.known(self.world.log);
        let retired: Vec<_> =
            if own.segment == 0 { Vec::new() } else { known.segments.iter().map(|(it, _)| *it).collect() };
        let entry = Entry::Remap { session: self.session, segment: own.segment, retired, gone: own.list };
        // Why: the segments that are retired are those that the new one was made of.
        let log = if own.view == Some(self.world.log) { ledger.append(self.world.log, entry) } else { None };
        match log {
            Some(log) => self.push(moves, "REMAP, gone:", own.list, 0, World { log, ..world }),
            None => self.push(moves, "gives up the new segment", 0, 0, world),
        }
    }
}
