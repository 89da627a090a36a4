//! tar: where members begin, and what model files among them hold.
//!
//! ustar, pax and GNU headers. A member's own headers (long names, extended fields) belong to it: the boundary lies
//! before them, and one more where its content begins. Members that begin like safetensors, numpy or GGUF files are read
//! like files, through a view; their tensors are called `member/tensor`. Compressed archives are not looked into. Of a
//! sparse member (GNU's own kind, and pax in versions 0.0, 0.1 and 1.0) the holes are not there, so it is not looked into
//! either.

use super::input::Input;
use super::layout::{Builder, Format, NAME_BYTES_MAX};
use super::{gguf, npy, safetensors};
use crate::units::KIB;

const BLOCK_BYTES: u64 = 512;
/// Extended headers and long names are not longer, in bytes.
const EXTENDED_BYTES_MAX: u64 = 64 * KIB as u64;
/// The kind of a sparse member with its map in the header, and in blocks behind it.
const SPARSE: u8 = b'S';
/// How pax names what it says of sparse members.
const PAX_SPARSE: &str = "GNU.sparse.";
/// Where the header of a sparse member, and where each block of its map, says that one more follows.
const MORE_IN_HEADER: usize = 482;
const MORE_IN_MAP: usize = 504;
/// At most so many headers are read.
const HEADERS_MAX: usize = 1 << 20;

type Block = [u8; BLOCK_BYTES as usize];

/// Whether a file that begins with this block is an archive.
pub(super) fn recognises(block: &Block) -> bool {
    block[257..].starts_with(b"ustar") && Header::parse(block).is_some()
}

/// What one header says.
struct Header {
    size: u64,
    kind: u8,
}

impl Header {
    /// None where the checksum is wrong, as at the end of the archive.
    fn parse(block: &Block) -> Option<Self> {
        let sum = |total: u64, byte: &u8| total + u64::from(*byte);
        let blanks = 8 * u64::from(b' ');
        let expected = block[..148].iter().chain(&block[156..]).fold(blanks, sum);
        (octal(&block[148..156])? == expected).then_some(())?;
        Some(Self { size: number(&block[124..136])?, kind: block[156] })
    }

    /// Bytes of content: links, directories and devices have none, whatever their size says.
    fn content_bytes(&self) -> u64 {
        if matches!(self.kind, b'1'..=b'6') { 0 } else { self.size }
    }
}

/// What headers before a member's own say of it.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    size: Option<u64>,
    /// What is stored is the member without its holes.
    is_sparse: bool,
}

/// Reads an archive as far as its headers are whole.
pub(super) fn read(input: &Input, builder: &mut Builder) {
    let mut at = 0;
    for _ in 0..HEADERS_MAX {
        match member(input, at, builder) {
            Some(next) if next > at => at = next,
            _ => return,
        }
    }
}

/// One member with its extended headers. Gives where the next begins.
fn member(input: &Input, start: u64, builder: &mut Builder) -> Option<u64> {
    let mut extended = Extended::default();
    let mut at = start;
    loop {
        let block: Block = input.array(at)?;
        let header = Header::parse(&block)?;
        let mut content = at.checked_add(BLOCK_BYTES)?;
        if header.kind == SPARSE {
            content = behind_map(input, content, block[MORE_IN_HEADER] != 0)?;
        }
        let special = matches!(header.kind, b'x' | b'g' | b'L' | b'K');
        let bytes = if special { header.size } else { extended.size.unwrap_or(header.content_bytes()) };
        let end = content.checked_add(bytes)?;
        (end <= input.length()).then_some(())?;
        at = end.checked_next_multiple_of(BLOCK_BYTES)?;
        if !special {
            builder.boundary(input.start() + start);
            builder.boundary(input.start() + content);
            if header.kind != SPARSE && !extended.is_sparse {
                let name = extended.name.unwrap_or_else(|| name(&block));
                nested(&input.part(content..end)?, &name, builder);
            }
            return Some(at);
        }
        let text =
            if matches!(header.kind, b'x' | b'L') { input.bytes(content..end, EXTENDED_BYTES_MAX) } else { None };
        match (header.kind, text) {
            (b'x', Some(text)) => pax(&text, &mut extended),
            (b'L', Some(text)) => extended.name = Some(until_zero(&text)),
            _ => {}
        }
    }
}

/// Where the blocks of a sparse member's map end that begin at `at`. Its size does not count them.
fn behind_map(input: &Input, mut at: u64, mut more: bool) -> Option<u64> {
    while more {
        let block: Block = input.array(at)?;
        more = block[MORE_IN_MAP] != 0;
        at = at.checked_add(BLOCK_BYTES)?;
    }
    Some(at)
}

/// Reads a member that is a model file.
fn nested(member: &Input, name: &str, builder: &mut Builder) {
    let Some(head) = member.head::<16>().filter(|_| member.length() > 16) else { return };
    let mut inner = Builder::new(Format::Tar, member.start() + member.length());
    // What can't be read has no tensors.
    let _ = if head.starts_with(&npy::MAGIC) {
        npy::read(member, "", &mut inner)
    } else if head.starts_with(&gguf::MAGIC) {
        gguf::read(member, &mut inner)
    } else if safetensors::recognises(&head) {
        safetensors::read(member, &mut inner).map(drop)
    } else {
        None
    };
    let inner = inner.finish();
    builder.leave_out(inner.left_out);
    let full = |own: &str| if own.is_empty() { name.to_owned() } else { format!("{name}/{own}") };
    for tensor in inner.tensors {
        builder.view(tensor.view, &full(&tensor.name), tensor.dtype, &tensor.shape, tensor.range.start);
    }
    for own in inner.strided {
        builder.strided(&full(&own.name), own.dtype, &own.shape, &own.strides, own.range.start);
    }
    for check in inner.checks {
        builder.check(&full(&check.name), check.kind, check.range, check.expected);
    }
}

/// `length key=value\n`, one after another.
fn pax(mut text: &[u8], extended: &mut Extended) {
    while let Some(space) = text.iter().position(|&byte| byte == b' ') {
        let length = std::str::from_utf8(&text[..space]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let Some(record) = length.filter(|&length| length > space).and_then(|length| text.get(space + 1..length))
        else {
            return;
        };
        text = &text[space + 1 + record.len()..];
        let record = String::from_utf8_lossy(record);
        match record.trim_end_matches('\n').split_once('=') {
            Some(("path", path)) => extended.name = Some(path.to_owned()),
            Some(("size", size)) => extended.size = size.parse().ok(),
            Some((key, _)) if key.starts_with(PAX_SPARSE) => extended.is_sparse = true,
            _ => {}
        }
    }
}

fn name(block: &Block) -> String {
    let (prefix, name) = (until_zero(&block[345..500]), until_zero(&block[..100]));
    // Why: GNU tar writes times where ustar has the prefix, and other spaces behind its name.
    if prefix.is_empty() || !block[257..].starts_with(b"ustar\0") { name } else { format!("{prefix}/{name}") }
}

fn until_zero(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text[..text.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}

/// A number in octal digits, or, where the first bit is set, in bytes, highest first.
fn number(field: &[u8]) -> Option<u64> {
    match field.split_first()? {
        (&0x80, rest) => rest.iter().try_fold(0_u64, |value, &byte| Some(value.checked_mul(256)? | u64::from(byte))),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = field.iter().skip_while(|&&byte| byte == b' ').take_while(|&&byte| !matches!(byte, b' ' | 0));
    digits.into_iter().try_fold(0_u64, |value, &byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 8)?;
        value.checked_mul(8)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"        17 \0", Some(15)),
            (b"\0\0\0\0", Some(0)),
            (b"018\0", None),
            (b"7777777777777777777777777", None),
            (b"\x80\0\0\0\0\0\0\x01\0\0\0\0", Some(1 << 32)),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\xff\xff\xff\xff", None),
        ] {
            assert_eq!(number(field), value, "{field:x?}");
        }
    }

    #[test]
    fn extended_fields() {
        for (text, name, size) in [
            ("30 mtime=1700000000.123456789\n9 path=a\n11 size=12\n", Some("a"), Some(12)),
            ("9 path=a\n9 path=b\n", Some("b"), None),
            ("99 path=a\n", None, None),
            ("0 path=a\n", None, None),
            ("2 path=a\n", None, None),
            ("x path=a\n", None, None),
        ] {
            let mut extended = Extended::default();
            pax(text.as_bytes(), &mut extended);
            assert_eq!((extended.name.as_deref(), extended.size), (name, size), "{text:?}");
        }
    }
}
