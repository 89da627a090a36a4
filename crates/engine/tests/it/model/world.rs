//! A state of the model: the log, the objects, and how far each actor has come. Plain data of fixed size.
//!
//! An actor that never takes its next step is one that crashed or stalls for ever, so neither needs a step of its own.

use std::hash::{Hash, Hasher};

use super::explore::Setup;
use super::ledger::{Ledger, Shot};
use super::names::{Chunks, Packs, SegmentNumber, SegmentObjects, show};

/// What a writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Writing {
    #[default]
    Begin,
    PutPack,
    PutSegment,
    Commit,
    Ended,
}

/// A writer and its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Writer {
    pub next: Writing,
    /// The log that it had read when it looked chunks up.
    pub view: u32,
    pub wants: Chunks,
    /// Content is taken over from it unseen.
    pub parent: Option<Shot>,
    /// The records on which it leans, by chunk, and the one of the base.
    pub leaned: [Option<(SegmentNumber, u8)>; 3],
    pub leaned_base: Option<(SegmentNumber, u8)>,
    /// Copies that the next pack will hold.
    pub storing: u8,
    /// Its own and its adopted packs, and those of them that no segment of its own lists yet.
    pub own: Packs,
    pub unlisted: Packs,
    /// Segments to publish, and how many of them the session wrote itself.
    pub segments: [SegmentNumber; 4],
    pub written: u8,
    /// Adopted sessions.
    pub adopted: u8,
}

/// What a collector does next with what it chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Collecting {
    #[default]
    Choose,
    PutPack,
    PutSegment,
    Condemn,
    Remap,
}

/// A collector and its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Collector {
    pub next: Collecting,
    /// The log that it has read; what it removes and chooses it judges by that.
    pub view: Option<u32>,
    /// Packs to condemn, or to call gone.
    pub list: Packs,
    /// Copies that the next pack will hold, and all packs of the session.
    pub storing: u8,
    pub stored: Packs,
    /// The segment that the next entry publishes, its pack, and how many were written.
    pub segment: SegmentNumber,
    pub fresh: Packs,
    pub written: u8,
}

/// A state of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct World {
    pub log: u32,
    pub packs: Packs,
    pub segments: SegmentObjects,
    /// Sessions whose key is there.
    pub keys: u8,
    pub writers: [Writer; 3],
    pub collectors: [Collector; 2],
}

/// One step of one actor, for a trace.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    pub actor: &'static str,
    pub what: &'static str,
    pub packs: Packs,
    pub number: u8,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:9} {}", self.actor, self.what)?;
        if self.packs != 0 {
            write!(f, " {}", show(self.packs))?;
        }
        if self.number != 0 { write!(f, " ({:#b})", self.number) } else { Ok(()) }
    }
}

impl World {
    /// What is lost, if anything is.
    pub fn violation(&self, setup: &Setup, ledger: &Ledger) -> Option<&'static str> {
        let known = ledger.known_ref(self.log);
        let good = !known.damaged & !setup.rotten();
        // Why first: what the log promises has to hold even where the objects are still there.
        if known.lacks(!known.condemned & good) != 0 {
            return Some("a live snapshot needs a chunk of which every listed copy is condemned, or none is listed");
        }
        if known.segment_objects & !self.segments != 0 {
            return Some("a published segment is not there");
        }
        let has_key = |session: &u8| self.keys >> session & 1 == 1;
        let readable = (0..8).filter(has_key).fold(0, |packs, session| packs | super::names::of_session(session));
        (known.lacks(self.packs & readable & good) != 0).then_some("a live snapshot needs a chunk that cannot be read")
    }

    /// 128 bits by which a state is remembered.
    pub fn digest(&self) -> u128 {
        let mut digest = Digest(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
        self.hash(&mut digest);
        let mixed = digest.0 ^ digest.0 >> 61;
        mixed.wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645)
    }
}

/// Folds words into 128 bits by multiplication; states are few beside 2^64.
struct Digest(u128);

impl Digest {
    fn fold(&mut self, word: u128) {
        let mixed = (self.0 ^ word).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
        self.0 = mixed ^ mixed >> 67;
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(16) {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u128::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(u128::from(word) | 1 << 64);
    }

    fn write_u32(&mut self, word: u32) {
        self.fold(u128::from(word) | 1 << 64);
    }

    fn write_u128(&mut self, word: u128) {
        self.fold(word);
    }

    fn write_isize(&mut self, word: isize) {
        self.fold(word as u128 & 0xffff | 1 << 65);
    }

    fn finish(&self) -> u64 {
        self.0 as u64
    }
}
