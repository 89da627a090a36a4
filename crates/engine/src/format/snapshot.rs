//! The snapshot record inside a COMMIT (docs/format.md §8): what was protected, when, by whom, and the root of its tree.

use minicbor::Decoder;

use super::cbor::{self, Read, Sink, Written, required};
use crate::clock::Timestamp;
use crate::ids::{ChunkId, SnapshotId};

/// One recovery point of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// When the source was read.
    pub time: Timestamp,
    /// The machine it was read on.
    pub host: String,
    /// The user who ran it.
    pub user: String,
    /// The source paths, as bytes.
    pub paths: Vec<Vec<u8>>,
    /// Tags for people and policies.
    pub tags: Vec<String>,
    /// Root node of the tree.
    pub root: ChunkId,
    /// Entries in the tree.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Plain bytes of all files.
    pub bytes: u64,
    /// Labels with values, in the order they were given.
    pub labels: Vec<(String, String)>,
    /// Program and version that made it.
    pub program: String,
    /// Problems that its report listed.
    pub problems: u64,
    /// The snapshot it was made against.
    pub parent: Option<SnapshotId>,
    /// Plain bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were stored for it.
    pub bytes_stored: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

impl SnapshotRecord {
    pub(super) fn write(&self, sink: &mut Sink) -> Written {
        sink.map(16 + u64::from(self.parent.is_some()))?;
        sink.u8(0)?.bytes(self.id.as_bytes())?.u8(1)?;
        cbor::write_time(sink, self.time)?;
        sink.u8(2)?.str(&self.host)?.u8(3)?.str(&self.user)?;
        sink.u8(4)?.array(self.paths.len() as u64)?;
        self.paths.iter().try_for_each(|path| sink.bytes(path)?.ok())?;
        sink.u8(5)?.array(self.tags.len() as u64)?;
        self.tags.iter().try_for_each(|tag| sink.str(tag)?.ok())?;
        sink.u8(6)?.bytes(self.root.as_bytes())?;
        sink.u8(7)?.u64(self.entries)?.u8(8)?.u64(self.files)?.u8(9)?.u64(self.bytes)?;
        sink.u8(10)?.array(self.labels.len() as u64)?;
        self.labels.iter().try_for_each(|(label, value)| sink.array(2)?.str(label)?.str(value)?.ok())?;
        sink.u8(11)?.str(&self.program)?.u8(12)?.u64(self.problems)?;
        if let Some(parent) = &self.parent {
            sink.u8(13)?.bytes(parent.as_bytes())?;
        }
        sink.u8(14)?.u64(self.bytes_read)?.u8(15)?.u64(self.bytes_stored)?.u8(16)?.u64(self.duration_ms)?.ok()
    }

    pub(super) fn read(decoder: &mut Decoder) -> Read<Self> {
        let mut draft = Draft::default();
        cbor::fields(decoder, |key, d| draft.field(key, d))?;
        draft.finish(decoder)
    }
}

#[derive(Default)]
struct Draft {
    id: Option<SnapshotId>,
    time: Option<Timestamp>,
    root: Option<ChunkId>,
    parent: Option<SnapshotId>,
    /// Host, user and program, by field number.
    texts: [Option<String>; 12],
    /// The counters, by field number.
    numbers: [Option<u64>; 17],
    paths: Vec<Vec<u8>>,
    tags: Vec<String>,
    labels: Vec<(String, String)>,
}

impl Draft {
    fn field(&mut self, key: u64, d: &mut Decoder) -> Read<bool> {
        match key {
            0 => self.id = Some(SnapshotId(cbor::bytes(d)?)),
            1 => self.time = Some(cbor::time(d)?),
            2 | 3 | 11 => self.texts[key as usize] = Some(d.str()?.to_owned()),
            4 => self.paths = cbor::list(d, 24, |d| Ok(d.bytes()?.to_vec()))?,
            5 => self.tags = cbor::list(d, 24, text)?,
            6 => self.root = Some(ChunkId(cbor::bytes(d)?)),
            7..=9 | 12 | 14..=16 => self.numbers[key as usize] = Some(d.u64()?),
            10 => {
                self.labels = cbor::list(d, 48, |d| {
                    cbor::tuple(d, 2)?;
                    Ok((text(d)?, text(d)?))
                })?;
            }
            13 => self.parent = Some(SnapshotId(cbor::bytes(d)?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn finish(mut self, decoder: &Decoder) -> Read<SnapshotRecord> {
        let mut text = |number: usize, name| required(decoder, self.texts[number].take(), name);
        let number = |number: usize, name| required(decoder, self.numbers[number], name);
        Ok(SnapshotRecord {
            id: required(decoder, self.id, "snapshot id")?,
            time: required(decoder, self.time, "snapshot time")?,
            host: text(2, "host")?,
            user: text(3, "user")?,
            paths: self.paths,
            tags: self.tags,
            root: required(decoder, self.root, "root node")?,
            entries: number(7, "entries")?,
            files: number(8, "files")?,
            bytes: number(9, "plain bytes")?,
            labels: self.labels,
            program: text(11, "program")?,
            problems: number(12, "problems")?,
            parent: self.parent,
            bytes_read: number(14, "bytes read")?,
            bytes_stored: number(15, "bytes stored")?,
            duration_ms: number(16, "duration")?,
        })
    }
}

fn text(decoder: &mut Decoder) -> Read<String> {
    decoder.str().map(str::to_owned)
}
