//! Packs (docs/format.md §6): many sealed blobs in one object, with a sealed footer that lists them.
//!
//! A pack is written into one buffer, each blob encrypted where it lies. Reading goes the other way round: trailer,
//! footer, then single blobs by range; [`check_pack`] proves a whole pack without any key. What parity gives back of a
//! damaged one is for [`super::parity`].
//!
//! Invariants: blobs lie one directly after the other, numbered from 0; a blob is authenticated together with its
//! header, so its id, kind and place in the pack's order can't be exchanged.

use std::ops::Range;

use super::fixed::{bytes_at, u32_at, u64_at, zeros};
use super::names::PackName;
use super::parity::{self, Parity};
use crate::buffer::Buffer;
use crate::codec::Body;
use crate::crypto::blob::{BLOB_HEADER_BYTES, PackCipher};
use crate::crypto::{Secret32, TAG_BYTES, envelope, object_hash, random};
use crate::error::Damaged;
use crate::ids::{ChunkId, RepositoryId};
use crate::units::{CHUNK_BYTES_MAX, PACK_BYTES_MAX};

/// Length of a pack's header in bytes; the first blob lies here.
pub const HEADER_BYTES: usize = 64;
/// Length of a pack's trailer in bytes.
pub const TRAILER_BYTES: usize = 64;
const PACK_MAGIC: &[u8; 8] = b"SWPACK01";
const BLOB_MAGIC: &[u8; 4] = b"SWBL";
const END_MAGIC: &[u8; 8] = b"SWPEND01";
const RECORD_BYTES: usize = 48;
const BODY_HEADER_BYTES: usize = 8;
const CODEC_MAX: u8 = 7;
/// A body is at most its chunk and a header, because what does not become smaller is stored raw.
const SEALED_BYTES_MAX: usize = CHUNK_BYTES_MAX + 1024;

/// What a pack or blob holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlobKind {
    /// Content of files, and lists of extents.
    Data,
    /// Nodes of trees.
    Tree,
}

impl BlobKind {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Tree => 1,
        }
    }

    pub(super) fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Data),
            1 => Some(Self::Tree),
            _ => None,
        }
    }
}

/// True if the body of this codec names a base (docs/format.md §6.1); `None` for codecs that version 1 does not have.
pub(super) fn codec_has_base(codec: u8) -> Option<bool> {
    (codec <= CODEC_MAX).then_some(matches!(codec, 2 | 4 | 6))
}

/// One blob of a pack, as its footer lists it. The blob occupies 48 + `sealed_len` bytes from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRecord {
    /// The chunk.
    pub id: ChunkId,
    /// Where the blob's header lies in the pack.
    pub offset: u32,
    /// Length of body and tag in bytes.
    pub sealed_len: u32,
    /// Length of the chunk's plain bytes.
    pub plain_len: u32,
    /// How the body is encoded.
    pub codec: u8,
    /// The chunk that it is encoded against.
    pub base: Option<ChunkId>,
}

impl BlobRecord {
    fn end(&self) -> u64 {
        u64::from(self.offset) + (BLOB_HEADER_BYTES as u64) + u64::from(self.sealed_len)
    }
}

/// Writes one pack into memory.
#[derive(Debug)]
pub struct PackWriter {
    name: PackName,
    kind: BlobKind,
    cipher: PackCipher,
    buffer: Buffer,
    records: Vec<BlobRecord>,
    parity: Option<Parity>,
}

impl PackWriter {
    /// Begins the pack `name` in `buffer`, whose old content is lost.
    #[must_use]
    pub fn new(
        name: PackName,
        kind: BlobKind,
        repository: RepositoryId,
        cipher: PackCipher,
        mut buffer: Buffer,
    ) -> Self {
        buffer.clear();
        buffer.extend_from_slice(PACK_MAGIC);
        buffer.extend_from_slice(&[kind.code(), 0, 0, 0, 0, 0, 0, 0]);
        buffer.extend_from_slice(name.session.as_bytes());
        buffer.extend_from_slice(&name.counter.to_le_bytes());
        buffer.extend_from_slice(repository.as_bytes());
        buffer.extend_from_slice(&[0; 8]);
        Self { name, kind, cipher, buffer, records: Vec::new(), parity: None }
    }

    /// The pack gets so much parity; without this it has none.
    #[must_use]
    pub fn with_parity(self, parity: Option<Parity>) -> Self {
        Self { parity, ..self }
    }

    /// The pack's name.
    #[must_use]
    pub fn name(&self) -> PackName {
        self.name
    }

    /// What the pack holds.
    #[must_use]
    pub fn kind(&self) -> BlobKind {
        self.kind
    }

    /// Encrypts an encoded chunk (a body of docs/format.md §6.1) into the pack.
    ///
    /// # Panics
    /// When the body is not one, or the pack would grow beyond [`PACK_BYTES_MAX`].
    pub fn push<'b>(&mut self, id: &ChunkId, body: impl Into<Body<'b>>) -> BlobRecord {
        let body = body.into();
        let (codec, base) = body_header(body.0);
        let start = self.buffer.len();
        let sealed_len = body.len() + TAG_BYTES;
        assert!(sealed_len <= SEALED_BYTES_MAX, "a body is not longer than its chunk, but for a header");
        let end = (start + BLOB_HEADER_BYTES + sealed_len + TRAILER_BYTES) as u64;
        assert!(end <= PACK_BYTES_MAX, "the pack is full: its writer must finish it in time");
        let record = BlobRecord {
            id: *id,
            offset: length_field(start),
            sealed_len: length_field(sealed_len),
            plain_len: u32_at(body.0, 4),
            codec,
            base,
        };
        let number = length_field(self.records.len());
        let header = blob_header(&record, number, self.kind);
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(body.0);
        self.buffer.extend_from_slice(body.1);
        let tag = self.cipher.seal(number, &header, &mut self.buffer[start + BLOB_HEADER_BYTES..]);
        self.buffer.extend_from_slice(&tag);
        self.records.push(record);
        record
    }

    /// Bytes so far, without footer, parity and trailer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// True while no blob is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of blobs so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.records.len()
    }

    /// Adds footer, parity and trailer: the object's bytes and its blobs in order of place.
    #[must_use]
    pub fn finish(self, index_key: &Secret32) -> (Buffer, Vec<BlobRecord>) {
        self.finish_with_salt(index_key, &random())
    }

    pub(super) fn finish_with_salt(mut self, index_key: &Secret32, salt: &[u8; 32]) -> (Buffer, Vec<BlobRecord>) {
        let footer_offset = self.buffer.len();
        let plain = encode_footer(&self.records);
        let footer = envelope::seal_with_salt(index_key, &self.name.footer(), &plain, salt);
        self.buffer.extend_from_slice(&footer);
        let place = (length_field(footer_offset), length_field(footer.len()));
        let parity = self.parity.map(|parity| parity::of(&self.buffer, place, parity)).unwrap_or_default();
        self.buffer.extend_from_slice(&parity);
        for field in [place.0, place.1, length_field(parity.len()), 0] {
            self.buffer.extend_from_slice(&field.to_le_bytes());
        }
        self.buffer.extend_from_slice(END_MAGIC);
        self.buffer.extend_from_slice(&[0; 8]);
        let hash = object_hash(&self.buffer);
        self.buffer.extend_from_slice(hash.as_bytes());
        (self.buffer, self.records)
    }
}

/// Length in bytes of the footer of a pack with so many blobs, and so many of them with a base.
#[must_use]
pub const fn footer_len(records: usize, bases: usize) -> usize {
    envelope::sealed_len(4 + records * RECORD_BYTES + bases * ChunkId::LEN)
}

fn length_field(length: usize) -> u32 {
    u32::try_from(length).expect("nothing in a pack is longer than a pack may be")
}

fn body_header(body: &[u8]) -> (u8, Option<ChunkId>) {
    let has_base = codec_has_base(body[0]).expect("the encoder writes codecs of this version");
    (body[0], has_base.then(|| ChunkId(bytes_at(body, BODY_HEADER_BYTES))))
}

fn blob_header(record: &BlobRecord, number: u32, kind: BlobKind) -> [u8; BLOB_HEADER_BYTES] {
    let mut header = [0; BLOB_HEADER_BYTES];
    header[..4].copy_from_slice(BLOB_MAGIC);
    header[4..8].copy_from_slice(&record.sealed_len.to_le_bytes());
    header[8..12].copy_from_slice(&number.to_le_bytes());
    header[12] = kind.code();
    header[16..].copy_from_slice(record.id.as_bytes());
    header
}

fn encode_footer(records: &[BlobRecord]) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + records.len() * (RECORD_BYTES + ChunkId::LEN));
    out.extend_from_slice(&length_field(records.len()).to_le_bytes());
    for record in records {
        out.extend_from_slice(record.id.as_bytes());
        for field in [record.offset, record.sealed_len, record.plain_len] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&[record.codec, 0, 0, 0]);
    }
    for base in records.iter().filter_map(|record| record.base) {
        out.extend_from_slice(base.as_bytes());
    }
    out
}

/// A pack's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the pack holds.
    pub kind: BlobKind,
    /// The repository it was written for. Not authenticated.
    pub repository: RepositoryId,
}

/// Reads the first [`HEADER_BYTES`] bytes (or more) of the pack `name`.
///
/// # Errors
/// [`Damaged`] where they are not that pack's header.
pub fn decode_header(name: &PackName, bytes: &[u8]) -> Result<Header, Damaged> {
    let damaged = |offset, why: &str| Err(Damaged::new(name.object(), offset, why));
    if bytes.len() < HEADER_BYTES || !bytes.starts_with(PACK_MAGIC) {
        return damaged(0, "not a pack");
    }
    let Some(kind) = BlobKind::from_code(bytes[8]) else { return damaged(8, "an unknown kind of pack") };
    if bytes[16..32] != *name.session.as_bytes() || u64_at(bytes, 32) != name.counter {
        return damaged(16, "the header of another pack");
    }
    if !zeros(&bytes[9..16]) || !zeros(&bytes[56..HEADER_BYTES]) {
        return damaged(9, "reserved bytes are not zero");
    }
    Ok(Header { kind, repository: RepositoryId(bytes_at(bytes, 40)) })
}

/// Where the parts behind the blobs lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// Offset of the footer; the blobs end here.
    pub footer_offset: u32,
    /// Length of the footer in bytes.
    pub footer_len: u32,
    /// Length of the parity in bytes.
    pub parity_len: u32,
}

impl Trailer {
    /// The footer's place in the pack.
    #[must_use]
    pub fn footer(&self) -> Range<u64> {
        let start = u64::from(self.footer_offset);
        start..start + u64::from(self.footer_len)
    }

    /// True if these blobs, as [`decode_footer`] gave them, end where the footer begins.
    #[must_use]
    pub fn fits(&self, records: &[BlobRecord]) -> bool {
        records.last().map_or(HEADER_BYTES as u64, BlobRecord::end) == u64::from(self.footer_offset)
    }
}

/// Reads the trailer of a pack of `pack_len` bytes from its last bytes (at least 64).
///
/// # Errors
/// [`Damaged`] where it is not a trailer, or does not fit the pack's length.
pub fn decode_trailer(name: &PackName, pack_len: u64, tail: &[u8]) -> Result<Trailer, Damaged> {
    let offset = pack_len.saturating_sub(TRAILER_BYTES as u64);
    let damaged = |why: &str| Err(Damaged::new(name.object(), offset, why));
    let Some(bytes) = tail.last_chunk::<TRAILER_BYTES>() else { return damaged("shorter than a trailer") };
    if bytes[16..24] != *END_MAGIC {
        return damaged("no trailer: truncated, or not a pack");
    }
    if !zeros(&bytes[12..16]) || !zeros(&bytes[24..32]) {
        return damaged("reserved bytes are not zero");
    }
    let trailer =
        Trailer { footer_offset: u32_at(bytes, 0), footer_len: u32_at(bytes, 4), parity_len: u32_at(bytes, 8) };
    let end = trailer.footer().end + u64::from(trailer.parity_len) + TRAILER_BYTES as u64;
    if trailer.footer_offset < HEADER_BYTES as u32 || end != pack_len {
        return damaged("the lengths in the trailer do not fit the pack's");
    }
    Ok(trailer)
}

/// Opens a pack's footer: its blobs in order of place, each directly after the one before, the first after the header.
///
/// # Errors
/// [`Damaged`] where it is not that footer or lists blobs that can't be.
pub fn decode_footer(index_key: &Secret32, name: &PackName, footer: &[u8]) -> Result<Vec<BlobRecord>, Damaged> {
    let object = name.footer();
    let plain = envelope::open(index_key, &object, footer)?;
    let damaged = |offset: usize, why: &str| Damaged::new(object.as_str(), offset as u64, why);
    let Some((count, rest)) = plain.split_first_chunk::<4>() else { return Err(damaged(0, "too short")) };
    let count = u32::from_le_bytes(*count) as usize;
    let Some((entries, bases)) = count.checked_mul(RECORD_BYTES).and_then(|len| rest.split_at_checked(len)) else {
        return Err(damaged(0, "more blobs than the footer has room for"));
    };
    let mut bases = bases.chunks(ChunkId::LEN);
    let mut records = Vec::with_capacity(count);
    let mut place = HEADER_BYTES as u64;
    for (number, bytes) in entries.chunks_exact(RECORD_BYTES).enumerate() {
        let record = decode_record(bytes, place, &mut bases)
            .ok_or_else(|| damaged(4 + number * RECORD_BYTES, "a blob that can't lie there"))?;
        place = record.end();
        records.push(record);
    }
    match bases.next() {
        Some(_) => Err(damaged(plain.len(), "bases that belong to no blob")),
        None => Ok(records),
    }
}

fn decode_record<'a>(bytes: &[u8], place: u64, bases: &mut impl Iterator<Item = &'a [u8]>) -> Option<BlobRecord> {
    let codec = bytes[44];
    let base = match codec_has_base(codec)? {
        true => Some(ChunkId::from_slice(bases.next()?)?),
        false => None,
    };
    let record = BlobRecord {
        id: ChunkId(bytes_at(bytes, 0)),
        offset: u32_at(bytes, 32),
        sealed_len: u32_at(bytes, 36),
        plain_len: u32_at(bytes, 40),
        codec,
        base,
    };
    let sound = u64::from(record.offset) == place
        && plausible(record.offset, record.sealed_len, record.plain_len)
        && zeros(&bytes[45..]);
    sound.then_some(record)
}

/// True if a blob can lie there with these lengths. Readers allocate by them, so they are checked before.
pub(super) fn plausible(offset: u32, sealed_len: u32, plain_len: u32) -> bool {
    let end = u64::from(offset) + (BLOB_HEADER_BYTES as u64) + u64::from(sealed_len);
    offset as usize >= HEADER_BYTES
        && end <= PACK_BYTES_MAX
        && (BODY_HEADER_BYTES + TAG_BYTES..=SEALED_BYTES_MAX).contains(&(sealed_len as usize))
        && plain_len as usize <= CHUNK_BYTES_MAX
}

/// Proves a whole pack without a key: header, trailer and the BLAKE3 over everything.
///
/// # Errors
/// [`Damaged`] where it is not that pack, or was truncated or changed by accident.
pub fn check_pack(name: &PackName, bytes: &[u8]) -> Result<Trailer, Damaged> {
    decode_header(name, bytes)?;
    let trailer = decode_trailer(name, bytes.len() as u64, bytes)?;
    let (hashed, hash) = bytes.split_at(bytes.len() - 32);
    if object_hash(hashed).as_bytes() != hash {
        return Err(Damaged::new(name.object(), hashed.len() as u64, "the checksum over the pack does not match"));
    }
    Ok(trailer)
}

/// What stands in clear before a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobFrame {
    /// The chunk.
    pub id: ChunkId,
    /// What the chunk is.
    pub kind: BlobKind,
    /// Where the blob ends in the pack.
    pub end: usize,
}

/// The blob with this number at `place` of a pack's bytes; `None` where none can lie there.
#[must_use]
pub fn blob_at(pack: &[u8], place: usize, number: u32) -> Option<BlobFrame> {
    let header = pack.get(place..)?.first_chunk::<BLOB_HEADER_BYTES>()?;
    let (sealed_len, kind) = (u32_at(header, 4), BlobKind::from_code(header[12])?);
    let end = place.checked_add(BLOB_HEADER_BYTES)?.checked_add(sealed_len as usize)?;
    let is_one = header.starts_with(BLOB_MAGIC)
        && u32_at(header, 8) == number
        && zeros(&header[13..16])
        && plausible(u32::try_from(place).ok()?, sealed_len, 0)
        && end <= pack.len();
    is_one.then(|| BlobFrame { id: ChunkId(bytes_at(header, 16)), kind, end })
}

/// Decrypts one blob (its header and sealed bytes, exactly) in place and gives the place of the body in `blob`.
/// `offset` is the blob's place in the pack, for the error.
///
/// # Errors
/// [`Damaged`] where it is not the blob of chunk `expected` in that pack, or was changed.
pub fn open_blob(
    cipher: &PackCipher,
    name: &PackName,
    offset: u64,
    blob: &mut [u8],
    expected: &ChunkId,
) -> Result<Range<usize>, Damaged> {
    let damaged = |why: &str| Damaged::new(name.object(), offset, why);
    let Some((header, sealed)) = blob.split_first_chunk_mut::<BLOB_HEADER_BYTES>() else {
        return Err(damaged("shorter than a blob's header"));
    };
    if !header.starts_with(BLOB_MAGIC) || u32_at(header, 4) as usize != sealed.len() {
        return Err(damaged("no blob of that length here"));
    }
    if header[16..] != *expected.as_bytes() {
        return Err(damaged("the blob of another chunk"));
    }
    let Some(body) = cipher.open(u32_at(header, 8), header, sealed) else {
        return Err(damaged("the blob does not authenticate: changed, or another key"));
    };
    Ok(BLOB_HEADER_BYTES..BLOB_HEADER_BYTES + body.len())
}
