//! Arrow IPC files, which are also Feather version 2: record batches, and in them one buffer after another.
//!
//! The footer names every batch and the schema. Batches are boundaries, and so are their buffers. Where columns are plain
//! numbers (also inside lists and structures), buffers without compression are tensors `column/batch`. A column of a
//! type whose buffers can't be counted ends the naming for that file: buffers stay boundaries. Big-endian files too. In a
//! batch where a column, or one that it lies in, has empty places (nulls), its numbers are no tensor: anything lies there.

use super::dtype::Dtype;
use super::flatbuffer::{Table, Vector};
use super::input::Input;
use super::layout::{Builder, NAME_BYTES_MAX, TENSORS_MAX, View};
use crate::units::MIB;

pub(super) const MAGIC: [u8; 6] = *b"ARROW1";

/// A longer footer, or message of a batch, is not read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 16 * MIB as u64;
/// A schema of more columns, inner ones counted, is not named.
const COLUMNS_MAX: usize = 1 << 15;
/// Of a batch, further buffers are not looked at.
const BUFFERS_MAX: usize = 3 * COLUMNS_MAX;
/// Columns inside columns go so deep.
const DEPTH_MAX: usize = 16;

/// A buffer of a batch by the schema: the numbers of a column, or something else.
type Buffer = Option<Numbers>;

/// What a buffer of numbers is.
struct Numbers {
    name: String,
    dtype: Dtype,
    /// The column's place in [`Columns::outer`].
    column: usize,
}

pub(super) fn read(input: &Input, builder: &mut Builder) -> Option<()> {
    let tail_at = input.length().checked_sub(10)?;
    let tail: [u8; 10] = input.array(tail_at)?;
    tail.ends_with(&MAGIC).then_some(())?;
    let length = u64::from(u32::from_le_bytes(*tail.first_chunk()?));
    let footer_at = tail_at.checked_sub(length)?;
    let footer = input.bytes(footer_at..tail_at, MESSAGE_BYTES_MAX)?;
    let footer = Table::root(&footer)?;
    builder.boundary(input.start() + footer_at);
    let schema = footer.table(1)?;
    let columns = columns(schema);
    for (field, named) in [(2, false), (3, true)] {
        let Some(blocks) = footer.vector(field) else { continue };
        let columns = columns.as_ref().filter(|_| named);
        for number in 0..blocks.len.min(TENSORS_MAX) {
            let block: [u8; 24] = blocks.fixed(number)?;
            // A batch that can't be read costs its own buffers.
            let _ = batch(input, &block, number, columns, builder);
        }
    }
    Some(())
}

fn batch(
    input: &Input,
    block: &[u8; 24],
    number: usize,
    columns: Option<&Columns>,
    builder: &mut Builder,
) -> Option<()> {
    let field = |at: usize| block[at..at + 8].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let (start, length) = (field(0), field(8) & u64::from(u32::MAX));
    let body = start.checked_add(length)?;
    (body <= input.length()).then_some(())?;
    builder.boundary(input.start() + start);
    builder.boundary(input.start() + body);
    let message = input.bytes(start..body, MESSAGE_BYTES_MAX)?;
    // Why: a message begins with a marker and its length; before version 0.15 with the length alone.
    let skip = if message.starts_with(&[0xff; 4]) { 8 } else { 4 };
    let message = Table::root(message.get(skip..)?)?;
    // The header is a dictionary batch, which holds a record batch, or a record batch.
    let header = match message.byte(1) {
        2 => message.table(2)?.table(1)?,
        3 => message.table(2)?,
        _ => return None,
    };
    let compressed = header.table(3).is_some();
    let columns = columns.filter(|_| !compressed);
    let nodes = header.vector(1);
    let with_nulls = columns.zip(nodes).map_or_else(Vec::new, |(columns, nodes)| columns.with_nulls(nodes));
    let places: Vector = header.vector(2)?;
    for index in 0..places.len.min(BUFFERS_MAX) {
        let place: [u8; 16] = places.fixed(index)?;
        let offset = place.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let bytes = place.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let at = input.start().checked_add(body)?.checked_add(offset)?;
        builder.boundary(at);
        if let Some(Some(Numbers { name, dtype, column })) = columns.and_then(|columns| columns.buffers.get(index)) {
            let count = bytes / u64::from(dtype.width());
            let view = if with_nulls.get(*column) == Some(&false) { View::Own } else { View::Rest };
            builder.view(view, &format!("{name}/{number}"), *dtype, &[count], at);
        }
    }
    Some(())
}

/// The columns of each batch; none where a type can't be counted.
fn columns(schema: Table) -> Option<Columns> {
    let big_endian = schema.scalar::<2>(0).is_some_and(|order| order != [0, 0]);
    let fields = schema.vector(1)?;
    let mut columns = Columns { buffers: Vec::new(), outer: Vec::new(), left: COLUMNS_MAX };
    for index in 0..fields.len {
        columns.add(fields.table(index)?, "", None, DEPTH_MAX)?;
    }
    (!big_endian).then_some(columns)
}

/// Counts columns and their buffers.
struct Columns {
    buffers: Vec<Buffer>,
    /// Of each column, in the order of a batch's nodes, the one that it lies in: always one before it.
    outer: Vec<Option<usize>>,
    /// How many columns may still come: tables of a hostile schema may share their inner ones.
    left: usize,
}

impl Columns {
    /// Which columns have empty places in a batch, or lie in one that has, by its nodes. Fewer than there are columns where
    /// the batch has fewer nodes.
    fn with_nulls(&self, nodes: Vector) -> Vec<bool> {
        let mut with_nulls: Vec<bool> = Vec::new();
        for (number, outer) in self.outer.iter().enumerate() {
            // A node: how many values, how many of them are null.
            let Some(node) = nodes.fixed::<16>(number) else { break };
            let own = node[8..].iter().any(|&byte| byte != 0);
            with_nulls.push(own || outer.is_some_and(|outer| with_nulls[outer]));
        }
        with_nulls
    }

    /// Adds a column's buffers, then those of the columns in it.
    fn add(&mut self, field: Table, path: &str, outer: Option<usize>, depth: usize) -> Option<()> {
        self.left = self.left.checked_sub(1)?;
        let name = field.text(0).unwrap_or_default();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if depth == 0 || path.len() > NAME_BYTES_MAX {
            return None;
        }
        let column = self.outer.len();
        self.outer.push(outer);
        if field.table(4).is_some() {
            // Only the places in the dictionary are in the batch.
            self.buffers.extend([None, None]);
            return Some(());
        }
        let kind = field.byte(2);
        match kind {
            // Null has none. Then those with numbers, or something as wide as them, in their second buffer.
            1 => return Some(()),
            2 | 3 | 6..=11 | 15 | 18 => {
                let dtype = field.table(3).and_then(|details| number(kind, details));
                self.buffers.extend([None, dtype.map(|dtype| Numbers { name: path.clone(), dtype, column })]);
            }
            // Texts and byte strings: offsets and content.
            4 | 5 | 19 | 20 => self.buffers.extend([None, None, None]),
            // Lists and maps: offsets, then the inner column.
            12 | 17 | 21 => self.buffers.extend([None, None]),
            // Structures and lists of fixed length: only which are there.
            13 | 16 => self.buffers.push(None),
            _ => return None,
        }
        let Some(children) = field.vector(5) else { return Some(()) };
        (0..children.len).try_for_each(|index| self.add(children.table(index)?, &path, Some(column), depth - 1))
    }
}

/// The numbers of a type: whole numbers, floats, and dates, times, time stamps and durations, which are numbers too.
fn number(kind: u8, details: Table) -> Option<Dtype> {
    match kind {
        2 => {
            let bits = details.scalar(0).map_or(0, i32::from_le_bytes);
            Some(match (bits, details.byte(1) != 0) {
                (8, true) => Dtype::I8,
                (16, true) => Dtype::I16,
                (32, true) => Dtype::I32,
                (64, true) => Dtype::I64,
                (8, false) => Dtype::U8,
                (16, false) => Dtype::U16,
                (32, false) => Dtype::U32,
                (64, false) => Dtype::U64,
                _ => return None,
            })
        }
        3 => match details.scalar(0).map_or(0, i16::from_le_bytes) {
            0 => Some(Dtype::F16),
            1 => Some(Dtype::F32),
            2 => Some(Dtype::F64),
            _ => None,
        },
        10 | 18 => Some(Dtype::I64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schema whose columns share their inner columns, level by level: `64^levels` ways lead to the innermost.
    fn schema(levels: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        let number = |bytes: &mut Vec<u8>, value: usize| bytes.extend_from_slice(&(value as u32).to_le_bytes());
        // The list of field offsets of all tables: fields 1 and 5 are the vector, field 2 the type.
        number(&mut bytes, 20);
        for offset in [16_u16, 12, 0, 4, 8, 0, 0, 4] {
            bytes.extend_from_slice(&offset.to_le_bytes());
        }
        for level in 0..=levels {
            // A table: back to its offsets, the vector's place, the type of a structure. Then the vector.
            let table = bytes.len();
            number(&mut bytes, table - 4);
            number(&mut bytes, if level < levels { 8 } else { 0 });
            number(&mut bytes, 13);
            if level == levels {
                break;
            }
            number(&mut bytes, 64);
            let end = bytes.len() + 4 * 64;
            (0..64).for_each(|place| number(&mut bytes, end - (table + 16 + 4 * place)));
        }
        bytes
    }

    #[test]
    fn columns_that_share_inner_ones_end() {
        let count = |levels| columns(Table::root(&schema(levels)).unwrap()).map(|columns| columns.buffers.len());
        assert_eq!(count(1), Some(64));
        assert_eq!(count(2), Some(64 + 64 * 64));
        assert_eq!(count(12), None);
    }
}
