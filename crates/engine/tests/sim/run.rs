//! One run: clients, faults and the order of everything follow from the seed.
//!
//! Exactly one client moves at a time, from one call on the store to the next; who, and what goes wrong with the call, is
//! drawn here. After the last step the faults end, all verbs come to their ends, and [`super::ending`] looks at what is
//! left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use seawall_engine::clock::Timestamp;
use seawall_engine::crypto::Secret32;
use seawall_engine::error::Error;
use seawall_engine::format::pack::BlobKind;
use seawall_engine::format::slot::{Role, Unlock};
use seawall_engine::ids::{ChunkId, SnapshotId};
use seawall_engine::keys;
use seawall_engine::repo::Repository;
use seawall_engine::simulation;
use seawall_engine::store::Store;

use super::account::{Accounts, Copy};
use super::chance::Chance;
use super::client::{Client, Expected, Identity, Job, Outcome, Verb};
use super::desk::Desk;
use super::ending;
use super::faults::{Fault, Faults};
use super::harm::{Accident, Harm, Odd};
use super::quiet::{Threads, stay_on_one_processor};
use super::source::Source;
use super::world::{Answer, Lie, Operation, World, failure};

/// A verb that makes more calls than this after the last fault never ends.
const CALLS_MAX: u64 = 30_000;
/// Where the clock begins.
const BEGIN: i64 = 1_800_000_000;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    pub seed: u64,
    /// Decisions until everybody only finishes what was begun.
    pub steps: u64,
    /// Directory for sources, caches and restores; the same name gives the same run.
    pub place: PathBuf,
    pub lie: Option<Lie>,
    /// Whether there are accidents.
    pub has_harm: bool,
    pub is_shown: bool,
}

/// What happened in a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Hash over all calls and what became of them.
    pub digest: String,
    pub calls: u64,
    pub entries: u64,
    pub removals: u64,
    pub crashes: u64,
    pub faults: u64,
    /// Verbs by name: ended well, ended with an error.
    pub verbs: BTreeMap<&'static str, (u64, u64)>,
    pub snapshots: u64,
    /// Accidents, and copies that were stored wrong.
    pub accidents: u64,
    /// Chunks that had copies of which two differ in their base.
    pub of_two_bases: u64,
    /// Chunks that an accident took the last good copy of, and that have one again.
    pub healed: u64,
}

/// What a verb may count on.
struct Begun {
    verb: Verb,
    /// Faults that its calls met.
    faults: u64,
    /// What it may read, and how often that had been forgotten.
    live: BTreeMap<SnapshotId, u64>,
    /// What of that has lost something, and whether a segment is lost.
    hurt: BTreeSet<SnapshotId>,
    lacks_segment: bool,
}

struct Seat {
    client: Client,
    source: Source,
    begun: Option<Begun>,
    life: u64,
    is_fresh: bool,
    spare_keys: Vec<String>,
}

pub struct Run {
    setup: Setup,
    chance: Chance,
    pub world: Arc<World>,
    desk: Arc<Desk>,
    threads: Threads,
    seats: Vec<Seat>,
    faults: Faults,
    harm: Harm,
    /// Requests that were given up and arrive later, and second ones.
    late: Vec<Operation>,
    pub accounts: Accounts,
    pub expected: Expected,
    pub owner: Unlock,
    summary: Summary,
    digest: blake3::Hasher,
    first_change: u64,
    backups: u64,
    lives: u64,
    /// How often in 1000 steps another client goes on.
    restlessness: u32,
}

fn key(seed: u64, number: usize) -> Unlock {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = u8::try_from(number).unwrap();
    Unlock::KeyFile(Secret32::new(bytes))
}

/// Plays one seed; what is wrong, in words.
pub fn play(setup: &Setup) -> Result<Summary, String> {
    // Why a lock: another process that plays wants the same names. It stays, and may be another user's.
    let lock = setup.place.with_extension("lock");
    let lock = fs::File::open(&lock).or_else(|_| fs::File::create(&lock)).unwrap();
    lock.lock().unwrap();
    stay_on_one_processor(0);
    let _ = fs::remove_dir_all(&setup.place);
    fs::create_dir_all(&setup.place).unwrap();
    simulation::set_plain_stat(true);
    let mut run = Run::new(setup);
    let done = run.play();
    simulation::seed_chance(None);
    // Why: after a failure verbs are still under way, and their threads have to end.
    run.seats.iter().for_each(|seat| run.desk.kill(seat.life));
    run.desk.refuse_all();
    let Run { summary, digest, seats, .. } = run;
    drop(seats);
    let _ = fs::remove_dir_all(&setup.place);
    done.map(|()| Summary { digest: digest.finalize().to_hex()[..16].to_owned(), ..summary })
}

impl Run {
    fn new(setup: &Setup) -> Self {
        let mut chance = Chance::new(setup.seed);
        simulation::seed_chance(Some(setup.seed));
        set_instant(&mut chance);
        let world = World::new(Timestamp { seconds: BEGIN, nanos: 0 });
        let owner = key(setup.seed, 0);
        let identities = admit(setup, &world, &mut chance);
        world.set_lie(setup.lie);
        let (desk, expected) = (Arc::<Desk>::default(), Expected::default());
        let accounts = Accounts::open(&world, &owner);
        let poisoned = &accounts.damage.poisoned;
        // Why now: whatever runs already is none of the clients'.
        let mut threads = Threads::new();
        let seat = |identity: Identity| {
            let (number, source) = (identity.number, Source::new(identity.source.clone(), setup.has_harm));
            let client = Client::start(identity, Arc::clone(&desk), Arc::clone(&expected), Arc::clone(poisoned));
            threads.look(Some(number));
            Seat { source, client, begun: None, life: 0, is_fresh: true, spare_keys: Vec::new() }
        };
        let seats = identities.into_iter().map(seat).collect();
        Self {
            faults: Faults::new(&mut chance),
            restlessness: chance.pick(&[50, 200, 500, 900]),
            harm: Harm::new(setup.seed, setup.has_harm),
            accounts,
            first_change: world.change(),
            setup: setup.clone(),
            chance,
            world,
            desk,
            threads,
            seats,
            late: Vec::new(),
            expected,
            owner,
            summary: Summary::default(),
            digest: blake3::Hasher::new(),
            backups: 0,
            lives: 0,
        }
    }

    fn play(&mut self) -> Result<(), String> {
        self.accounts.follow()?;
        for life in 0..self.seats.len() {
            self.seats[life].life = self.new_life();
        }
        let mut last = 0;
        for _ in 0..self.setup.steps {
            self.surprise()?;
            if self.chance.happens(self.restlessness) {
                last = self.chance.below(self.seats.len());
            }
            self.step(last)?;
        }
        self.finish()?;
        let Summary { entries, removals, snapshots, .. } = ending::check(self)?;
        (self.summary.entries, self.summary.removals, self.summary.snapshots) = (entries, removals, snapshots);
        self.summary.of_two_bases = self.accounts.of_two_bases.len() as u64;
        self.summary.healed = self.accounts.healed;
        Ok(())
    }

    fn new_life(&mut self) -> u64 {
        self.lives += 1;
        self.lives
    }

    fn note(&mut self, what: &str) {
        self.digest.update(what.as_bytes());
        self.digest.update(b"\n");
        if self.setup.is_shown {
            println!("{what}");
        }
    }

    /// What happens to nobody in particular.
    fn surprise(&mut self) -> Result<(), String> {
        if self.chance.happens(8) {
            let seconds = self.chance.pick(&[1, 60, 3_600, 90_000, 700_000, 10_000_000, -50, -100_000, -3_000_000]);
            self.note(&format!("the clock moves by {seconds} s"));
            self.world.move_clock(seconds);
        }
        self.faults.surprise(&mut self.chance);
        if let Some(accident) = self.harm.strikes() {
            self.strike(accident);
        }
        if !self.late.is_empty() && self.chance.happens(30) {
            let operation = self.late.swap_remove(self.chance.below(self.late.len()));
            self.arrive(&operation)?;
        }
        if self.faults.has_crashes() && self.chance.happens(4) {
            let client = self.chance.below(self.seats.len());
            if let Some(begun) = &mut self.seats[client].begun {
                // Why here: all its threads wait, so each sees it at its next step.
                begun.faults += 1;
                self.seats[client].client.bell.ring();
                self.note(&format!("client {client} is interrupted"));
            }
        }
        if self.faults.has_crashes() && self.chance.happens(6) {
            // One process, or the whole machine.
            let one = self.chance.below(self.seats.len());
            let all = self.chance.happens(200);
            for client in (0..self.seats.len()).filter(|client| all || *client == one) {
                self.crash(client)?;
            }
        }
        Ok(())
    }

    /// Something happens to what is stored.
    fn strike(&mut self, accident: Accident) {
        let luck = &mut self.harm.luck;
        let mut copies = self.accounts.all_copies();
        if copies.is_empty() {
            return;
        }
        let (mut told, mut hit) = (Vec::new(), Vec::new());
        match accident {
            Accident::Rot => {
                // Mostly data, and of that mostly what is stored twice: a lost node stops much else.
                let is_data = luck.happens(900);
                let is_double = luck.happens(600);
                let all: Vec<ChunkId> = copies.iter().map(|(id, _)| *id).collect();
                let count = |id: &ChunkId| all.iter().filter(|other| *other == id).count();
                let fits = |(id, copy): &(ChunkId, Copy)| {
                    (copy.kind == BlobKind::Data) == is_data && (!is_double || count(id) > 1)
                };
                if copies.iter().any(fits) {
                    copies.retain(fits);
                }
                let (id, copy) = copies[luck.below(copies.len())];
                self.world.rot(&copy.pack.object(), copy.middle);
                self.accounts.damage.rotten.insert((copy.pack, id));
                hit.push((copy.pack, id));
                told.push(format!("a copy of {id} rots in a pack of {}", copy.pack.session));
            }
            Accident::Loss => {
                let segment = self.accounts.segments()[luck.below(self.accounts.segments().len())].clone();
                let session = segment.split('/').nth(1).unwrap();
                copies.retain(|(_, copy)| copy.kind == BlobKind::Data && copy.pack.session.to_string() == session);
                if !copies.is_empty() && luck.happens(800) {
                    let (_, copy) = copies[luck.below(copies.len())];
                    self.world.lose(&copy.pack.object());
                    hit.extend(copies.iter().filter(|(_, it)| it.pack == copy.pack).map(|(id, it)| (it.pack, *id)));
                    told.push(format!("the store loses a pack of {session}"));
                }
                self.world.lose(&segment);
                told.push(format!("the store loses {segment}"));
                self.accounts.damage.lost_segments.insert(segment);
            }
        }
        told.iter().for_each(|what| self.note(what));
        self.summary.accidents += 1;
        let is_choosing = self.is_choosing();
        self.accounts.take_harm(&hit, is_choosing);
        self.seats.iter_mut().filter_map(|seat| seat.begun.as_mut()).for_each(|begun| begun.faults += 1);
    }

    /// Whether somebody may have looked at copies, to do without others, and has not said so in the log yet.
    fn is_choosing(&self) -> bool {
        let chooses = |begun: &Begun| matches!(begun.verb, Verb::Prune { .. } | Verb::Reindex | Verb::Undelete);
        self.seats.iter().filter_map(|seat| seat.begun.as_ref()).any(chooses)
            || self.late.iter().any(|operation| operation.name().starts_with("log/"))
    }

    /// Whether the client runs `repair --index`. Its listings are not behind, and it can read each pack that is there: what it does not
    /// see it does not list anew, while it retires the lost segment, and nobody else ever lists it.
    fn is_reindex(&self, client: usize) -> bool {
        self.seats[client].begun.as_ref().is_some_and(|begun| begun.verb == Verb::Reindex)
    }

    /// One client goes on to its next call.
    fn step(&mut self, client: usize) -> Result<(), String> {
        if self.seats[client].begun.is_none() {
            let verb = self.choose_verb(client);
            return self.begin(client, verb);
        }
        self.answer_one(client)
    }

    fn answer_one(&mut self, client: usize) -> Result<(), String> {
        let calls = self.desk.calls(client);
        let operation = calls[self.chance.below(calls.len())].clone();
        let fault = self.faults.draw(&mut self.chance, &operation);
        let is_spared = operation.name().starts_with("pack/") && self.is_reindex(client);
        let fault = fault.filter(|_| !is_spared);
        let waiting = self.desk.take(client, &operation);
        let answer = self.answer(client, &operation, fault)?;
        self.summary.calls += 1;
        // Nobody waits any more only if the whole run is over.
        let _ = waiting.answer.send(answer);
        self.settle(client)
    }

    fn answer(
        &mut self,
        client: usize,
        operation: &Operation,
        fault: Option<Fault>,
    ) -> Result<Result<Answer, seawall_engine::store::StoreError>, String> {
        let lag = if self.is_reindex(client) { 0 } else { self.faults.lag(&mut self.chance) };
        let as_of = self.world.change().saturating_sub(lag).max(self.first_change);
        let what = operation.to_string();
        let answer = match fault {
            None | Some(Fault::Twice) => {
                let answer = self.apply(operation, as_of)?;
                if fault.is_some() {
                    self.late.push(operation.clone());
                }
                answer
            }
            Some(Fault::Before) => Err(failure(&what, "simulated failure")),
            Some(Fault::After) => {
                self.apply(operation, as_of)?.ok();
                Err(failure(&what, "simulated loss of the answer"))
            }
            Some(Fault::Late) => {
                self.late.push(operation.clone());
                Err(failure(&what, "simulated time-out"))
            }
            Some(Fault::Kind(kind)) => Err(seawall_engine::store::StoreError::from_io(what.clone(), kind.into())),
        };
        if fault.is_some_and(|fault| fault != Fault::Twice) {
            self.summary.faults += 1;
            self.seats[client].begun.as_mut().expect("it called").faults += 1;
        }
        let outcome = match &answer {
            Ok(Answer::Created(created)) => format!("{created:?}"),
            Ok(Answer::Listed(found)) => format!("{} objects", found.len()),
            Ok(_) => "ok".to_owned(),
            Err(error) => error.code().to_owned(),
        };
        let suffix = fault.map(|fault| format!(" [{fault:?}]")).unwrap_or_default();
        self.note(&format!("client {client}: {what}: {outcome}{suffix}"));
        Ok(answer)
    }

    /// The store does it, and the accounts are looked at.
    fn apply(
        &mut self,
        operation: &Operation,
        as_of: u64,
    ) -> Result<Result<Answer, seawall_engine::store::StoreError>, String> {
        let (answer, changed) = self.world.apply(operation, as_of);
        if changed {
            let name = operation.name();
            match operation {
                Operation::Delete(_) if name.starts_with("log/") => return Err(format!("{name} was removed")),
                Operation::Delete(_) => self.accounts.removed(name)?,
                _ if name.starts_with("log/") => self.accounts.follow()?,
                _ => {}
            }
        }
        Ok(answer)
    }

    fn choose_verb(&mut self, client: usize) -> Verb {
        let is_owner = self.seats[client].client.identity.role == Role::Owner;
        if let Some(odd) = self.harm.odd_verb(is_owner, self.accounts.is_hurt(), self.accounts.lacks_segment()) {
            return self.odd_verb(odd);
        }
        let despite_missing = self.harm.is_despite_missing();
        let clock = self.world.clock();
        let chance = &mut self.chance;
        if !is_owner || chance.happens(400) {
            let tag = format!("c{client}-{}", self.backups);
            self.backups += 1;
            self.seats[client].source.change(chance);
            self.expected.lock().unwrap().insert(tag.clone(), self.seats[client].source.files.clone());
            // Before its files were written, a backup reads them all; long after, none that it knows.
            let seconds = if chance.happens(100) { 0 } else { 4_000_000_000 };
            return Verb::Backup { tag, time: Timestamp { seconds, nanos: 0 }, force_read: chance.happens(50) };
        }
        match chance.below(100) {
            0..15 => Verb::Forget { keep: 1 + chance.below(4) },
            15..30 => Verb::ForgetOne { newest: chance.happens(500) },
            30..38 => Verb::Undelete,
            38..72 => Verb::Prune {
                window: chance.pick(&[0, 0, 0, 3_600, 604_800]),
                orphans: chance.pick(&[0, 3_600, 86_400]),
                left: chance.pick(&[0, 0, 20_000, u64::MAX]),
                batch: 1 + chance.below(4),
                despite_missing,
                time: clock,
            },
            72..78 => Verb::Verify { record: chance.happens(500) },
            78..85 => Verb::Read,
            85..90 => Verb::Restore,
            90..95 => Verb::Rotate,
            number => {
                let spare = &mut self.seats[client].spare_keys;
                if number < 96 || spare.is_empty() {
                    let label = format!("spare {client}-{}", self.lives * 1000 + spare.len() as u64);
                    spare.push(label.clone());
                    Verb::AddKey(label)
                } else {
                    Verb::RemoveKey(spare.remove(0))
                }
            }
        }
    }

    fn odd_verb(&mut self, odd: Odd) -> Verb {
        match odd {
            Odd::Poison => {
                self.backups += 1;
                self.summary.accidents += 1;
                let time = Timestamp { seconds: 4_000_000_000, nanos: 0 };
                Verb::Poison { tag: self.backups.to_string(), time }
            }
            Odd::Verify => Verb::Verify { record: true },
            Odd::Reindex => Verb::Reindex,
            Odd::Drop => Verb::Drop,
            Odd::Undelete => Verb::Undelete,
            Odd::Prune => {
                let time = self.world.clock();
                Verb::Prune { window: 3_600, orphans: 3_600, left: 0, batch: 2, despite_missing: true, time }
            }
        }
    }

    fn begin(&mut self, client: usize, verb: Verb) -> Result<(), String> {
        self.note(&format!("client {client} begins {verb:?}"));
        let live = self.accounts.live();
        let (seed, anew) = (self.chance.next(), self.chance.happens(500));
        let seat = &mut self.seats[client];
        let is_fresh = std::mem::replace(&mut seat.is_fresh, false) || anew;
        let (hurt, lacks_segment) = (self.accounts.hurt_snapshots(), self.accounts.lacks_segment());
        seat.begun = Some(Begun { verb: verb.clone(), faults: 0, live, hurt, lacks_segment });
        seat.client.begin(Job { verb, is_fresh, life: seat.life, seed });
        self.settle(client)
    }

    /// Waits until the client stands still, and takes note if its verb is over.
    fn settle(&mut self, client: usize) -> Result<(), String> {
        self.desk.await_client(client);
        self.threads.await_quiet(client);
        if let Some(ended) = self.desk.take_ended(client) {
            let begun = self.seats[client].begun.take().expect("a verb was begun");
            if !self.is_choosing() {
                self.accounts.forget_choices();
            }
            return self.judge(client, &begun, ended.outcome);
        }
        if !self.desk.has(client) {
            return Err(format!("client {client} hangs in {:?}", self.seats[client].begun.as_ref().map(|it| &it.verb)));
        }
        Ok(())
    }

    /// Whether a verb may end like that.
    fn judge(&mut self, client: usize, begun: &Begun, outcome: Outcome) -> Result<(), String> {
        let name = begun.verb.name();
        if let (Outcome::Failed { .. }, Some(cache)) = (&outcome, self.seats[client].client.identity.cache()) {
            drop_unfinished(&cache);
        }
        let counts = self.summary.verbs.entry(name).or_default();
        let text = match outcome {
            Outcome::Wrong(what) => return Err(format!("client {client}, {:?}: {what}", begun.verb)),
            Outcome::Done { committed, asked_to_forget } => {
                counts.0 += 1;
                self.accounts.asked_to_forget.extend(asked_to_forget);
                if let Some(id) = committed.filter(|id| !self.accounts.has_committed(id)) {
                    return Err(format!("client {client}: snapshot {id} was reported and is not in the log"));
                }
                "done".to_owned()
            }
            Outcome::Failed { error, asked_to_forget, read } => {
                counts.1 += 1;
                self.accounts.asked_to_forget.extend(asked_to_forget);
                let stayed = |id: &SnapshotId| {
                    begun.live.get(id) == Some(&self.accounts.times_forgotten(id)) && self.accounts.is_live(id)
                };
                let is_fine = match read {
                    Some(id) => !stayed(&id) || self.is_hurt(begun, &id),
                    None => is_expected(&error) || error.is_damage() && !self.accounts.damage.is_none(),
                };
                if begun.faults == 0 && !is_fine {
                    return Err(format!("client {client}, {:?}, met no fault and failed: {error}", begun.verb));
                }
                format!("failed ({})", error.code())
            }
        };
        self.note(&format!("client {client}: {name} {text}"));
        Ok(())
    }

    /// Whether what the verb reads has lost something.
    fn is_hurt(&self, begun: &Begun, id: &SnapshotId) -> bool {
        let lacks_segment = begun.lacks_segment || self.accounts.lacks_segment();
        lacks_segment || begun.hurt.contains(id) || self.accounts.hurt_snapshots().contains(id)
    }

    /// The client's process ends. What it had asked for takes place, or later, or not.
    fn crash(&mut self, client: usize) -> Result<(), String> {
        self.note(&format!("client {client} crashes"));
        self.summary.crashes += 1;
        self.desk.kill(self.seats[client].life);
        if self.seats[client].begun.is_some() {
            for operation in self.desk.calls(client) {
                let waiting = self.desk.take(client, &operation);
                match self.chance.below(3) {
                    0 => drop(self.apply(&operation, u64::MAX)?),
                    1 if operation.is_write() => self.late.push(operation.clone()),
                    _ => {}
                }
                let _ = waiting.answer.send(Err(failure("", "this process has crashed")));
            }
            let begun = self.seats[client].begun.as_mut().expect("it runs");
            begun.faults += 1;
            self.await_end(client)?;
        }
        for name in self.world.lose_newest() {
            self.note(&format!("the store loses {name}"));
            self.accounts.removed(&name)?;
        }
        self.seats[client].life = self.new_life();
        self.seats[client].is_fresh = true;
        self.spoil_cache(client);
        Ok(())
    }

    /// The verb of a crashed client unwinds.
    fn await_end(&mut self, client: usize) -> Result<(), String> {
        while self.seats[client].begun.is_some() {
            self.settle(client)?;
            // A thread may have laid down a call right before the end.
            for operation in self.desk.calls(client) {
                let _ = self.desk.take(client, &operation).answer.send(Err(failure("", "this process has crashed")));
            }
        }
        Ok(())
    }

    /// A crash may cost the local cache, the end of its log, or parts of its segments.
    fn spoil_cache(&mut self, client: usize) {
        let Some(cache) = self.seats[client].client.identity.cache() else { return };
        match self.chance.below(6) {
            0 => drop(fs::remove_dir_all(&cache)),
            1 => cut_logs(&cache, &mut self.chance),
            2 => blank_segments(&cache, &mut self.chance),
            _ => {}
        }
    }

    /// Everybody comes to an end; no more faults.
    fn finish(&mut self) -> Result<(), String> {
        self.note("no more faults");
        self.faults = Faults::none();
        let begun = self.summary.calls;
        while let Some(client) = (0..self.seats.len()).find(|client| self.seats[*client].begun.is_some()) {
            self.answer_one(client)?;
            if self.summary.calls - begun > CALLS_MAX {
                return Err(format!("{:?} never ends", self.seats[client].begun.as_ref().map(|it| &it.verb)));
            }
        }
        for operation in std::mem::take(&mut self.late) {
            self.arrive(&operation)?;
        }
        Ok(())
    }

    /// A request arrives that its client gave up, or arrives again.
    ///
    /// Why not of what the store has lost: `repair --index` lists the packs that are there while it runs, and what comes back
    /// behind it is listed only by the next one. Nothing removes it until then, as a snapshot lacks it.
    fn arrive(&mut self, operation: &Operation) -> Result<(), String> {
        if self.world.has_lost(operation.name()) {
            return Ok(());
        }
        self.note(&format!("late: {operation}"));
        self.apply(operation, u64::MAX)?.ok();
        Ok(())
    }

    /// The verb runs alone and without faults, and must succeed.
    pub fn alone(&mut self, client: usize, verb: Verb) -> Result<(), String> {
        let before = self.summary.verbs.get(verb.name()).map_or(0, |counts| counts.1);
        let name = verb.name();
        self.begin(client, verb)?;
        while self.seats[client].begun.is_some() {
            self.answer_one(client)?;
        }
        if self.summary.verbs[name].1 > before {
            return Err(format!("client {client}: {name} alone and without faults fails"));
        }
        Ok(())
    }

    /// A backup of this client as it stands.
    pub fn last_backup(&mut self, client: usize, name: &str) -> Verb {
        let tag = format!("c{client}-{name}");
        self.expected.lock().unwrap().insert(tag.clone(), self.seats[client].source.files.clone());
        Verb::Backup { tag, time: Timestamp { seconds: 4_000_000_000, nanos: 0 }, force_read: false }
    }

    pub fn has_harm(&self) -> bool {
        self.harm.is_on()
    }

    pub fn clients(&self) -> usize {
        self.seats.len()
    }
}

/// Errors that are no mistake where nothing went wrong with the store: others were faster.
fn is_expected(error: &Error) -> bool {
    matches!(error, Error::Refused(_) | Error::NotFound(_) | Error::Usage(_))
}

/// Whether durations look long or short: the engine writes some things only after a while.
fn set_instant(chance: &mut Chance) {
    simulation::set_instant(None);
    let now = seawall_engine::clock::monotonic();
    let far = std::time::Duration::from_secs(1_000);
    simulation::set_instant(if chance.happens(500) {
        now.checked_sub(far).or(Some(now))
    } else {
        now.checked_add(far)
    });
}

/// Makes the repository and a key for each client: the first is an owner's, one may be a member's.
fn admit(setup: &Setup, world: &Arc<World>, chance: &mut Chance) -> Vec<Identity> {
    let store: Arc<dyn Store> = world.clone();
    let owner = key(setup.seed, 0);
    let repository = Repository::init(store, &[(owner.clone(), "owner".to_owned())], None).unwrap();
    let count = 2 + chance.below(3);
    let role = |number: usize| if number == 2 { Role::Member } else { Role::Owner };
    (0..count)
        .map(|number| {
            let unlock = key(setup.seed, number);
            if number > 0 {
                keys::add(&repository, role(number), &unlock.lock().unwrap(), &format!("client {number}")).unwrap();
            }
            let directory = setup.place.join(format!("c{number}"));
            let source = directory.join("source");
            let has_cache = number == 2 || chance.happens(800);
            Identity { number, role: role(number), unlock, directory, source, has_cache }
        })
        .collect()
}

/// Removes what failed backups noted of their sources. Why: how far they came with it depends on which of two threads
/// noticed the end first, and a run has to be the same each time. It is only a hint.
fn drop_unfinished(cache: &Path) {
    for repository in fs::read_dir(cache).into_iter().flatten().flatten() {
        for item in fs::read_dir(repository.path().join("entries")).into_iter().flatten().flatten() {
            if item.path().extension().is_some_and(|extension| extension == "partial") {
                let _ = fs::remove_file(item.path());
            }
        }
    }
}

/// Cuts off the end of the cached logs.
fn cut_logs(cache: &Path, chance: &mut Chance) {
    for item in fs::read_dir(cache).into_iter().flatten().flatten() {
        let log = item.path().join("log");
        if let Ok(bytes) = fs::read(&log) {
            let _ = fs::write(&log, &bytes[..chance.below(bytes.len())]);
        }
    }
}

/// Zeros in every cached segment and directory, as a power cut leaves them. At the same place in each, as their names follow from which
/// thread sealed them.
fn blank_segments(cache: &Path, chance: &mut Chance) {
    let per_mille = chance.below(1000);
    for item in fs::read_dir(cache).into_iter().flatten().flatten() {
        let folders = ["segments", "directories"].map(|folder| item.path().join(folder));
        let files = folders.iter().flat_map(fs::read_dir).flatten().flatten();
        for segment in files.map(|file| file.path()) {
            let Ok(mut bytes) = fs::read(&segment) else { continue };
            let from = bytes.len() * per_mille / 1000;
            bytes.iter_mut().skip(from).take(100).for_each(|byte| *byte = 0);
            // Why renamed: what is mapped must not change.
            let fresh = segment.with_extension("blank");
            if fs::write(&fresh, bytes).is_ok() {
                let _ = fs::rename(&fresh, &segment);
            }
        }
    }
}

/// One run at a time in a process: see [`super::quiet`].
pub static ONE: Mutex<()> = Mutex::new(());
