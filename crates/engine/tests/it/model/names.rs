//! Names of the model: three chunks, packs that are named by what they hold, segments in a table.
//!
//! A pack is a session and a set of copies, so a set of packs is one `u128` and a name tells the content. A session never
//! stores the same set of copies twice. The third chunk may be stored plain or encoded: against the first one, or by the
//! session [`SHARED`] against the second.

use std::collections::HashMap;

use seawall_engine::format::names::{PackName, SegmentName};
use seawall_engine::ids::{ChunkId, ObjectHash, SessionId};
use seawall_engine::rules::Copy;

/// A set of chunks: bit 0 is a, bit 1 is b, bit 2 is c.
pub type Chunks = u8;
/// A set of packs: bit `16 * session + copies`.
pub type Packs = u128;
/// A set of segment objects: bit `4 * session + counter`.
pub type SegmentObjects = u32;

/// The chunk that serves as a base.
pub const BASE: usize = 0;
/// The chunk that may be encoded against it.
pub const CHILD: usize = 2;
/// The base of the session [`SHARED`]. Why only there: a name of a pack has four bits for what it holds.
pub const OTHER_BASE: usize = 1;
/// In a set of copies, bits 0 to 2 are plain copies; this is c encoded against a, or b.
pub const ENCODED: u8 = 8;

/// Sessions by number.
pub const SEED: u8 = 0;
pub const CRASHED: u8 = 5;
/// What all packs are named after where names are not unique.
pub const SHARED: u8 = 7;
pub const SESSIONS: u8 = 8;
/// Segments that a session may write.
pub const SEGMENTS_MAX: u8 = 4;

pub fn chunk_id(chunk: usize) -> ChunkId {
    ChunkId([chunk as u8 + 1; 32])
}

pub fn chunk_of(id: &ChunkId) -> usize {
    usize::from(id.0[0]) - 1
}

/// What a session encodes against.
pub fn base_of(session: u8) -> usize {
    if session == SHARED { OTHER_BASE } else { BASE }
}

pub fn session_id(session: u8) -> SessionId {
    SessionId([session; 16])
}

pub fn pack_number(session: u8, copies: u8) -> u8 {
    session * 16 + copies
}

pub fn pack_set(session: u8, copies: u8) -> Packs {
    1 << pack_number(session, copies)
}

pub fn of_session(session: u8) -> Packs {
    0xffff << (16 * session)
}

pub fn pack_name(number: u8) -> PackName {
    PackName { session: session_id(number / 16), counter: u64::from(number % 16) }
}

pub fn pack_bit(name: &PackName) -> Packs {
    1 << (u64::from(name.session.0[0]) * 16 + name.counter)
}

/// The members of a set of packs.
pub fn each(packs: Packs) -> impl Iterator<Item = u8> {
    let mut rest = packs;
    std::iter::from_fn(move || {
        let number = rest.trailing_zeros();
        rest &= rest.wrapping_sub(1);
        (number < 128).then_some(number as u8)
    })
}

/// The sessions that wrote these packs, one bit each.
pub fn owners(packs: Packs) -> u8 {
    each(packs).fold(0, |set, number| set | 1 << (number / 16))
}

/// What a pack holds: each chunk, and whether the copy is encoded against the base.
pub fn held(number: u8) -> impl Iterator<Item = (usize, Copy)> {
    let pack = pack_name(number);
    (0..4usize).filter(move |bit| number >> bit & 1 == 1).map(move |bit| match bit {
        3 => (CHILD, Copy { pack, base: Some(chunk_id(base_of(number / 16))) }),
        _ => (bit, Copy { pack, base: None }),
    })
}

/// Packs for people.
pub fn show(packs: Packs) -> String {
    let one = |number: u8| {
        let names = ["a", "b", "c", if base_of(number / 16) == BASE { "c@a" } else { "c@b" }];
        let held: Vec<_> = (0..4).filter(|bit| number >> bit & 1 == 1).map(|bit| names[bit]).collect();
        format!("{}:{{{}}}", number / 16, held.join(","))
    };
    each(packs).map(one).collect::<Vec<_>>().join(" ")
}

/// A segment: who wrote it, and the packs that it lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SegmentText {
    pub session: u8,
    pub counter: u8,
    pub packs: Packs,
}

impl SegmentText {
    pub fn name(&self) -> SegmentName {
        SegmentName { session: session_id(self.session), counter: u64::from(self.counter) }
    }

    pub fn object(&self) -> SegmentObjects {
        segment_object(self.session, self.counter)
    }
}

pub fn segment_object(session: u8, counter: u8) -> SegmentObjects {
    1 << (session * SEGMENTS_MAX + counter)
}

/// Number of a segment in the table; 0 is none.
pub type SegmentNumber = u16;

/// Every segment that was ever written on any path.
#[derive(Default)]
pub struct SegmentTable {
    texts: Vec<SegmentText>,
    numbers: HashMap<SegmentText, SegmentNumber>,
}

impl SegmentTable {
    pub fn number(&mut self, text: SegmentText) -> SegmentNumber {
        let texts = &mut self.texts;
        *self.numbers.entry(text).or_insert_with(|| {
            texts.push(text);
            SegmentNumber::try_from(texts.len()).expect("the bounds keep the table small")
        })
    }

    pub fn text(&self, number: SegmentNumber) -> SegmentText {
        self.texts[usize::from(number) - 1]
    }
}

pub fn segment_hash(number: SegmentNumber) -> ObjectHash {
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&number.to_le_bytes());
    ObjectHash(bytes)
}

pub fn segment_number(hash: &ObjectHash) -> SegmentNumber {
    SegmentNumber::from_le_bytes([hash.0[0], hash.0[1]])
}
