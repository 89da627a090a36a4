//! One tree entry as a CBOR map (docs/format.md §9), and lists of extents. Runs for every file of every backup, so it
//! writes into a buffer that is used again and borrows what it reads until the entry is built.
//!
//! Invariants: what is written can be read (values that no file system should give are clamped, not refused); absent
//! fields mean zero, empty or none, so an ordinary entry is small; a field that does not fit the entry's kind, or two
//! kinds of content, are refused.

use minicbor::Decoder;
use minicbor::data::Type;

use super::cbor::{self, Read, Sink, Written};
use crate::clock::Timestamp;
use crate::entry::{Content, Entry, Extent, Kind, LinkGroup, TableRef};
use crate::error::Damaged;
use crate::ids::ChunkId;
use crate::units::CHUNK_BYTES_MAX;

const MODE_MASK: u32 = 0o7777;
/// Head of a map with up to 23 fields; the number is added.
const MAP_HEAD: u8 = 0xa0;
const EXTENT_LIST: &str = "extent list";

/// Appends one entry. `shared` and `rest` are the two parts of its shortened key.
pub(super) fn write(out: &mut Vec<u8>, shared: usize, rest: &[u8], entry: &Entry) {
    let start = out.len();
    out.push(MAP_HEAD);
    let mut count = 0;
    cbor::write(out, |sink| {
        let mut fields = Fields { sink, count: 0 };
        fields.number(0, shared as u64)?;
        fields.bytes(1, rest)?;
        fields.metadata(entry)?;
        fields.kind(&entry.kind)?;
        fields.table(entry)?;
        count = fields.count;
        Ok(())
    });
    out[start] |= count;
}

/// Writes the fields of a map in ascending order and counts them.
struct Fields<'s, 'a> {
    sink: &'s mut Sink<'a>,
    count: u8,
}

impl Fields<'_, '_> {
    fn key(&mut self, key: u8) -> Result<&mut Self, minicbor::encode::Error<std::convert::Infallible>> {
        self.count += 1;
        self.sink.u8(key)?;
        Ok(self)
    }

    fn number(&mut self, key: u8, value: u64) -> Written {
        if value != 0 { self.key(key)?.sink.u64(value)?.ok() } else { Ok(()) }
    }

    fn bytes(&mut self, key: u8, value: &[u8]) -> Written {
        if value.is_empty() { Ok(()) } else { self.key(key)?.sink.bytes(value)?.ok() }
    }

    fn text(&mut self, key: u8, value: Option<&String>) -> Written {
        value.map_or(Ok(()), |text| self.key(key)?.sink.str(text)?.ok())
    }

    fn time(&mut self, key: u8, value: Timestamp) -> Written {
        if value == Timestamp::default() { Ok(()) } else { cbor::write_time(self.key(key)?.sink, value) }
    }

    fn metadata(&mut self, entry: &Entry) -> Written {
        self.number(2, u64::from(kind_code(&entry.kind)))?;
        self.number(3, u64::from(entry.mode & MODE_MASK))?;
        self.number(4, u64::from(entry.uid))?;
        self.number(5, u64::from(entry.gid))?;
        self.text(6, entry.user.as_ref())?;
        self.text(7, entry.group.as_ref())?;
        self.time(8, entry.mtime)?;
        self.time(9, entry.ctime)?;
        if let Some(btime) = entry.btime {
            cbor::write_time(self.key(10)?.sink, btime)?;
        }
        self.number(11, entry.size)?;
        self.number(12, entry.inode)?;
        if let Some(LinkGroup { device, inode }) = entry.links {
            self.key(13)?.sink.array(2)?.u32(device)?.u64(inode)?;
        }
        if !entry.xattrs.is_empty() {
            let sink = &mut *self.key(14)?.sink;
            sink.array(entry.xattrs.len() as u64)?;
            for (name, value) in &entry.xattrs {
                sink.array(2)?.bytes(name)?.bytes(value)?;
            }
        }
        self.number(15, u64::from(entry.flags))
    }

    fn kind(&mut self, kind: &Kind) -> Written {
        match kind {
            Kind::Directory | Kind::Fifo | Kind::Socket => Ok(()),
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                self.key(16)?.sink.array(2)?.u32(*major)?.u32(*minor)?.ok()
            }
            Kind::Symlink(target) => self.bytes(17, target),
            Kind::File(Content::Inline(bytes)) => self.bytes(18, bytes),
            Kind::File(Content::Extents(extents)) => write_extents(self.key(19)?.sink, extents),
            Kind::File(Content::Indirect { depth, id, length }) => {
                self.key(20)?.sink.array(3)?.u8(*depth)?.bytes(id.as_bytes())?.u32(*length)?.ok()
            }
        }
    }

    /// Only files have one; of others it is left away, so that what is written can be read.
    fn table(&mut self, entry: &Entry) -> Written {
        match entry.table.filter(|_| entry.is_file()) {
            Some(TableRef { id, length }) => self.key(21)?.sink.array(2)?.bytes(id.as_bytes())?.u32(length)?.ok(),
            None => Ok(()),
        }
    }
}

fn kind_code(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 0,
        Kind::Directory => 1,
        Kind::Symlink(_) => 2,
        Kind::Fifo => 3,
        Kind::Socket => 4,
        Kind::CharDevice(..) => 5,
        Kind::BlockDevice(..) => 6,
    }
}

/// Reads one entry: the two parts of its shortened key, and the rest of it.
pub(super) fn read<'b>(decoder: &mut Decoder<'b>) -> Read<(usize, &'b [u8], Entry)> {
    let mut draft = Draft::default();
    cbor::fields(decoder, |key, d| draft.field(key, d))?;
    let Ok(shared) = usize::try_from(draft.shared) else {
        return cbor::refuse(decoder, "a shared key length beyond any key");
    };
    let rest = draft.rest;
    match draft.finish() {
        Some(entry) => Ok((shared, rest, entry)),
        None => cbor::refuse(decoder, "fields that do not belong to the entry's kind"),
    }
}

#[derive(Default)]
struct Draft<'b> {
    shared: u64,
    rest: &'b [u8],
    kind: u8,
    mode: u32,
    uid: u32,
    gid: u32,
    user: Option<&'b str>,
    group: Option<&'b str>,
    mtime: Timestamp,
    ctime: Timestamp,
    btime: Option<Timestamp>,
    size: u64,
    inode: u64,
    links: Option<LinkGroup>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    flags: u32,
    special: Special<'b>,
    table: Option<TableRef>,
}

/// What only some kinds of entries have.
#[derive(Default)]
enum Special<'b> {
    #[default]
    Nothing,
    Device(u32, u32),
    Target(&'b [u8]),
    Content(Content),
    /// More than one of them.
    Several,
}

impl<'b> Draft<'b> {
    fn field(&mut self, key: u64, d: &mut Decoder<'b>) -> Read<bool> {
        match key {
            0 => self.shared = d.u64()?,
            1 => self.rest = d.bytes()?,
            2 => self.kind = d.u8()?,
            3 => self.mode = d.u32()?,
            4 => self.uid = d.u32()?,
            5 => self.gid = d.u32()?,
            6 => self.user = Some(d.str()?),
            7 => self.group = Some(d.str()?),
            8 => self.mtime = cbor::time(d)?,
            9 => self.ctime = cbor::time(d)?,
            10 => self.btime = Some(cbor::time(d)?),
            11 => self.size = d.u64()?,
            12 => self.inode = d.u64()?,
            13 => {
                cbor::tuple(d, 2)?;
                self.links = Some(LinkGroup { device: d.u32()?, inode: d.u64()? });
            }
            14 => {
                self.xattrs = cbor::list(d, 24, |d| {
                    cbor::tuple(d, 2)?;
                    Ok((d.bytes()?.to_vec(), d.bytes()?.to_vec()))
                })?;
            }
            15 => self.flags = d.u32()?,
            16..=20 => self.special(key, d)?,
            21 => {
                cbor::tuple(d, 2)?;
                self.table = Some(TableRef { id: ChunkId(cbor::bytes(d)?), length: chunk_length(d)? });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn special(&mut self, key: u64, d: &mut Decoder<'b>) -> Read<()> {
        let special = match key {
            16 => {
                cbor::tuple(d, 2)?;
                Special::Device(d.u32()?, d.u32()?)
            }
            17 => Special::Target(d.bytes()?),
            18 => Special::Content(Content::Inline(d.bytes()?.to_vec())),
            19 => Special::Content(Content::Extents(read_extents(d)?)),
            _ => {
                cbor::tuple(d, 3)?;
                let (depth, id) = (d.u8()?, ChunkId(cbor::bytes(d)?));
                if depth == 0 {
                    return cbor::refuse(d, "indirect content of depth 0");
                }
                Special::Content(Content::Indirect { depth, id, length: chunk_length(d)? })
            }
        };
        self.special = if matches!(self.special, Special::Nothing) { special } else { Special::Several };
        Ok(())
    }

    fn finish(self) -> Option<Entry> {
        let kind = match (self.kind, self.special) {
            (0, Special::Nothing) => Kind::File(Content::Inline(Vec::new())),
            (0, Special::Content(content)) => Kind::File(content),
            (1, Special::Nothing) => Kind::Directory,
            (2, Special::Nothing) => Kind::Symlink(Vec::new()),
            (2, Special::Target(target)) => Kind::Symlink(target.to_vec()),
            (3, Special::Nothing) => Kind::Fifo,
            (4, Special::Nothing) => Kind::Socket,
            (5, Special::Device(major, minor)) => Kind::CharDevice(major, minor),
            (6, Special::Device(major, minor)) => Kind::BlockDevice(major, minor),
            _ => return None,
        };
        let is_whole = self.mode <= MODE_MASK && (self.table.is_none() || matches!(kind, Kind::File(_)));
        is_whole.then(|| Entry {
            kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            user: self.user.map(str::to_owned),
            group: self.group.map(str::to_owned),
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            size: self.size,
            inode: self.inode,
            links: self.links,
            xattrs: self.xattrs,
            flags: self.flags,
            table: self.table,
        })
    }
}

fn chunk_length(decoder: &mut Decoder) -> Read<u32> {
    let length = decoder.u32()?;
    if length as usize > CHUNK_BYTES_MAX { cbor::refuse(decoder, "longer than any chunk") } else { Ok(length) }
}

/// The plain bytes of a list of extents, for indirect content. Holes that follow each other become one.
#[must_use]
pub fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(9 + extents.len() * 40);
    cbor::write(&mut out, |sink| write_extents(sink, extents));
    out
}

/// Reads what [`encode_extents`] wrote.
///
/// # Errors
/// [`Damaged`] where it is not a list of extents.
pub fn decode_extents(bytes: &[u8]) -> Result<Vec<Extent>, Damaged> {
    cbor::whole(EXTENT_LIST, bytes, read_extents)
}

fn write_extents(sink: &mut Sink, extents: &[Extent]) -> Written {
    // Why merged: so that readers may refuse holes in a row, which cost a byte each but 40 in memory.
    let runs = || extents.chunk_by(|left, right| is_hole(left) && is_hole(right));
    sink.array(runs().count() as u64)?;
    for run in runs() {
        match run[0] {
            Extent::Chunk { id, length } => sink.array(2)?.bytes(id.as_bytes())?.u32(length)?,
            Extent::Hole { .. } => sink.u64(run.iter().map(Extent::length).fold(0, u64::saturating_add))?,
        };
    }
    Ok(())
}

fn is_hole(extent: &Extent) -> bool {
    matches!(extent, Extent::Hole { .. })
}

fn read_extents(decoder: &mut Decoder) -> Read<Vec<Extent>> {
    let mut after_hole = false;
    cbor::list(decoder, 36, |d| {
        let hole = matches!(d.datatype()?, Type::U8 | Type::U16 | Type::U32 | Type::U64);
        if hole && after_hole {
            return cbor::refuse(d, "a hole after a hole");
        }
        after_hole = hole;
        if hole {
            return Ok(Extent::Hole { length: d.u64()? });
        }
        cbor::tuple(d, 2)?;
        Ok(Extent::Chunk { id: ChunkId(cbor::bytes(d)?), length: chunk_length(d)? })
    })
}
