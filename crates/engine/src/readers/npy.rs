//! numpy arrays: one (`.npy`), or a zip of several (`.npz`).
//!
//! A magic, a version, a length, and a Python dictionary as text, of which `descr`, `fortran_order` and `shape` are
//! read. Nothing is evaluated. Big-endian numbers, records and everything else that is no plain number get a width only.

use super::dtype::Dtype;
use super::input::Input;
use super::layout::{Builder, DIMENSIONS_MAX, View, elements};
use super::zip::Entry;

pub(super) const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// A longer header is not read, in bytes: numpy itself takes 10,000.
const HEADER_BYTES_MAX: u64 = 1 << 16;
const EXTENSION: &str = ".npy";

/// Reads the array that `input` is, under a name.
pub(super) fn read(input: &Input, name: &str, builder: &mut Builder) -> Option<()> {
    let head: [u8; 10] = input.array(0)?;
    head.starts_with(&MAGIC).then_some(())?;
    let (begin, length) = match head[6] {
        1 => (10, u16::from_le_bytes([head[8], head[9]]).into()),
        2 | 3 => (12, u64::from(input.u32(8)?)),
        _ => return None,
    };
    let header = input.bytes(begin..begin + length, HEADER_BYTES_MAX)?;
    let header = String::from_utf8_lossy(&header);
    let data = begin + length;
    let mut shape = shape(value_of(&header, "shape")?)?;
    // Why: where at most one dimension counts, both orders are one.
    let several = shape.iter().filter(|&&length| length != 1).count() > 1;
    let turned = value_of(&header, "fortran_order")?.starts_with("True") && several;
    if turned {
        shape.reverse();
    }
    let bytes = input.length() - data;
    let dtype = match plain(value_of(&header, "descr")?) {
        Some(dtype) => dtype,
        None => width(bytes, elements(&shape)?)?,
    };
    let fits = elements(&shape).and_then(|count| dtype.bytes_of(count)).is_some_and(|needed| needed <= bytes);
    if fits {
        let view = if turned { View::Turned } else { View::Own };
        let start = input.start().checked_add(data)?;
        builder.view(view, name, dtype, &shape, start);
        if turned {
            let mut step = 1_u64;
            let own = |&length: &u64| {
                let stride = step;
                step = step.saturating_mul(length);
                (length, stride)
            };
            let (own, strides): (Vec<u64>, Vec<u64>) = shape.iter().rev().map(own).unzip();
            builder.strided(name, dtype, &own, &strides, start);
        }
    }
    Some(())
}

/// Whether all members of a zip are arrays.
pub(super) fn is_npz(entries: &[Entry]) -> bool {
    !entries.is_empty() && entries.iter().all(|entry| entry.name.ends_with(EXTENSION))
}

/// Reads the members that are stored as they are.
pub(super) fn read_npz(input: &Input, entries: &[Entry], builder: &mut Builder) {
    for entry in entries {
        let member = entry.content.clone().and_then(|content| input.part(content));
        if let Some(member) = member {
            // A member that is no array after all costs its own tensor.
            let name = entry.name.strip_suffix(EXTENSION).unwrap_or(&entry.name);
            let _ = read(&member, name, builder);
        }
    }
}

/// What follows a key in the text of a dictionary.
fn value_of<'a>(header: &'a str, key: &str) -> Option<&'a str> {
    let quoted = |quote| header.split_once(&format!("{quote}{key}{quote}")).map(|(_, after)| after);
    let after = quoted('\'').or_else(|| quoted('"'))?;
    Some(after.trim_start().strip_prefix(':')?.trim_start())
}

/// A tuple of whole numbers.
fn shape(text: &str) -> Option<Vec<u64>> {
    let (numbers, _) = text.strip_prefix('(')?.split_once(')')?;
    let numbers = numbers.split(',').map(str::trim).filter(|number| !number.is_empty());
    let shape: Vec<u64> =
        numbers.take(DIMENSIONS_MAX + 1).map(|n| n.trim_end_matches('L').parse().ok()).collect::<Option<_>>()?;
    (shape.len() <= DIMENSIONS_MAX).then_some(shape)
}

/// The kind of a plain type such as `'<f4'`.
fn plain(descr: &str) -> Option<Dtype> {
    let text = descr.strip_prefix(['\'', '"'])?;
    let (text, _) = text.split_once(['\'', '"'])?;
    let (order, kind) = text.split_at_checked(1)?;
    let dtype = match kind {
        "f8" => Dtype::F64,
        "f4" => Dtype::F32,
        "f2" => Dtype::F16,
        "i8" | "m8" | "M8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u8" => Dtype::U64,
        "u4" => Dtype::U32,
        "u2" => Dtype::U16,
        "u1" => Dtype::U8,
        "b1" => Dtype::Bool,
        "c8" => Dtype::Complex64,
        "c16" => Dtype::Complex128,
        _ if kind.starts_with(['m', 'M']) && kind[1..].starts_with("8[") => Dtype::I64,
        _ => return None,
    };
    match order {
        "<" | "|" => Some(dtype),
        ">" => u8::try_from(dtype.width()).ok().map(Dtype::Width),
        _ => None,
    }
}

/// The width of elements that fill so many bytes.
fn width(bytes: u64, elements: u64) -> Option<Dtype> {
    let width = bytes.checked_div(elements)?;
    let even = width.checked_mul(elements) == Some(bytes);
    u8::try_from(width).ok().filter(|&width| even && width > 0).map(Dtype::Width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        for (descr, dtype) in [
            ("'<f4', ", Some(Dtype::F32)),
            ("\"<i8\"", Some(Dtype::I64)),
            ("'>f4'", Some(Dtype::Width(4))),
            ("'|b1'", Some(Dtype::Bool)),
            ("'<M8[ns]'", Some(Dtype::I64)),
            ("'<U7'", None),
            ("'|V2'", None),
            ("[('a', '<f4')]", None),
            ("'\u{e9}f4'", None),
            ("''", None),
            ("'", None),
        ] {
            assert_eq!(plain(descr), dtype, "{descr}");
        }
    }

    #[test]
    fn shapes() {
        for (text, expected) in [
            ("(3, 4), }", Some(vec![3, 4])),
            ("(3,)", Some(vec![3])),
            ("(3L,)", Some(vec![3])),
            ("()", Some(vec![])),
            ("(-1,)", None),
            ("(3", None),
            ("(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1)", None),
        ] {
            assert_eq!(shape(text), expected, "{text}");
        }
    }

    #[test]
    fn widths() {
        let table = [(12, 3, Some(4)), (13, 3, None), (0, 3, None), (5, 0, None), (256, 1, None)];
        for (bytes, elements, expected) in table {
            assert_eq!(width(bytes, elements), expected.map(Dtype::Width), "{bytes} in {elements}");
        }
    }
}
