//! ONNX: a protobuf message whose tensors hold their numbers as bytes, or name another file, which is not looked for.
//!
//! A walk over the wire format, with the few field numbers of onnx.proto that lead to tensors: initializers of graphs,
//! attributes of nodes, graphs inside attributes, local functions. Lengths decide where messages end, so fields of newer
//! versions are passed over. There is no magic: the file's name must say that it is one.
//!
//! Read are `raw_data` and the packed forms of 32- and 64-bit floats. Numbers packed as varints have no fixed width. The
//! values of a sparse tensor and their places are no tensors by themselves.

use super::dtype::Dtype;
use super::input::{Input, Stream};
use super::layout::{Builder, DIMENSIONS_MAX, View, elements};

/// Messages are nested so deep at most: graphs in branches of graphs count four each.
const DEPTH_MAX: usize = 64;
/// A longer text is no name, in bytes.
const TEXT_BYTES_MAX: u64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    SparseTensor,
    Tensor,
    /// The values of a sparse tensor, or their places.
    SparsePart,
}

/// The message in a field; none where it has no tensors.
fn child(message: Message, field: u64) -> Option<Message> {
    Some(match (message, field) {
        (Message::Model, 7) => Message::Graph,
        (Message::Model, 25) => Message::Function,
        (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
        (Message::Graph, 5) => Message::Tensor,
        (Message::Graph, 15) => Message::SparseTensor,
        (Message::Node, 5) => Message::Attribute,
        (Message::Attribute, 5 | 10) => Message::Tensor,
        (Message::Attribute, 6 | 11) => Message::Graph,
        (Message::Attribute, 22 | 23) => Message::SparseTensor,
        (Message::SparseTensor, 1 | 2) => Message::SparsePart,
        _ => return None,
    })
}

pub(super) fn recognises(name: &[u8]) -> bool {
    name.len() >= 5 && name[name.len() - 5..].eq_ignore_ascii_case(b".onnx")
}

/// Reads a model. What was found before a damaged place counts.
pub(super) fn read(input: &Input, builder: &mut Builder) -> Option<()> {
    let mut stream = input.stream(0..input.length())?;
    // Why: a model begins with its `ir_version`; any other file of that name is left alone.
    (stream.peek()? == 0x08).then_some(())?;
    let mut walk = Walk { base: input.start(), builder };
    let _ = walk.message(&mut stream, input.length(), Message::Model, DEPTH_MAX);
    Some(())
}

/// A field's value, as the wire tells it.
enum Field {
    Number(u64),
    /// So many bytes follow in the stream.
    Bytes(u64),
}

/// The next field's number and value.
fn field(stream: &mut Stream, end: u64) -> Option<(u64, Field)> {
    let tag = stream.varint()?;
    let value = match tag & 7 {
        0 => Field::Number(stream.varint()?),
        1 => Field::Number(stream.u64()?),
        2 => Field::Bytes(stream.varint()?),
        5 => Field::Number(stream.u32()?.into()),
        _ => return None,
    };
    let left = end.checked_sub(stream.position())?;
    match value {
        Field::Bytes(length) if length > left => None,
        value => Some((tag >> 3, value)),
    }
}

struct Walk<'a> {
    base: u64,
    builder: &'a mut Builder,
}

impl Walk<'_> {
    fn message(&mut self, stream: &mut Stream, end: u64, message: Message, depth: usize) -> Option<()> {
        match message {
            Message::Tensor => return self.tensor(stream, end, View::Own),
            Message::SparsePart => return self.tensor(stream, end, View::Rest),
            _ => {}
        }
        while stream.position() < end {
            let (number, value) = field(stream, end)?;
            let Field::Bytes(length) = value else { continue };
            match child(message, number) {
                Some(inner) if depth > 0 => self.message(stream, stream.position() + length, inner, depth - 1)?,
                _ => stream.skip(length)?,
            }
        }
        Some(())
    }

    fn tensor(&mut self, stream: &mut Stream, end: u64, view: View) -> Option<()> {
        let mut tensor = TensorProto::default();
        while stream.position() < end {
            let (number, value) = field(stream, end)?;
            let at = stream.position();
            match (number, value) {
                (1, Field::Number(dimension)) => tensor.dimension(dimension),
                (1, Field::Bytes(length)) => {
                    while stream.position() < at + length {
                        tensor.dimension(stream.varint()?);
                    }
                }
                (2, Field::Number(kind)) => tensor.kind = kind,
                (8, Field::Bytes(length)) if length <= TEXT_BYTES_MAX => {
                    tensor.name = stream.text(length, TEXT_BYTES_MAX)?;
                }
                (13, Field::Bytes(length)) => {
                    tensor.is_elsewhere = true;
                    stream.skip(length)?;
                }
                // `float_data`, `raw_data`, `double_data`.
                (4 | 9 | 10, Field::Bytes(length)) => {
                    tensor.data = Some((at, length));
                    stream.skip(length)?;
                }
                (_, Field::Bytes(length)) => stream.skip(length)?,
                _ => {}
            }
        }
        self.add(&tensor, view);
        Some(())
    }

    fn add(&mut self, tensor: &TensorProto, view: View) {
        let Some(dtype) = dtype(tensor.kind) else { return };
        // Why: elements of less than a byte are padded to whole bytes at the end, which the shape alone would refuse.
        let count = elements(&tensor.shape);
        let padded = count.map(|count| [count.next_multiple_of(dtype.block_elements().into())]);
        let (shape, view) = match &padded {
            Some(padded) if Some(padded[0]) != count => {
                (&padded[..], if view == View::Own { View::Span } else { view })
            }
            _ => (&tensor.shape[..], view),
        };
        if let Some((data, length)) = tensor.data
            && !tensor.is_elsewhere
            && elements(shape).and_then(|count| dtype.bytes_of(count)) == Some(length)
        {
            self.builder.view(view, &tensor.name, dtype, shape, self.base + data);
        }
    }
}

/// What is read of a tensor.
#[derive(Default)]
struct TensorProto {
    name: String,
    kind: u64,
    shape: Vec<u64>,
    /// Where its bytes begin, and how many there are.
    data: Option<(u64, u64)>,
    /// Its numbers lie in another file.
    is_elsewhere: bool,
}

impl TensorProto {
    /// One more dimension; beyond the limit one more is kept, so that the builder refuses the tensor.
    fn dimension(&mut self, length: u64) {
        if self.shape.len() <= DIMENSIONS_MAX {
            self.shape.push(length);
        }
    }
}

/// `TensorProto.DataType`. Strings have no width.
fn dtype(kind: u64) -> Option<Dtype> {
    Some(match kind {
        1 => Dtype::F32,
        2 => Dtype::U8,
        3 => Dtype::I8,
        4 => Dtype::U16,
        5 => Dtype::I16,
        6 => Dtype::I32,
        7 => Dtype::I64,
        9 => Dtype::Bool,
        10 => Dtype::F16,
        11 => Dtype::F64,
        12 => Dtype::U32,
        13 => Dtype::U64,
        14 => Dtype::Complex64,
        15 => Dtype::Complex128,
        16 => Dtype::Bf16,
        17 => Dtype::F8E4m3,
        18 => Dtype::F8E4m3Fnuz,
        19 => Dtype::F8E5m2,
        20 => Dtype::F8E5m2Fnuz,
        21 => Dtype::U4,
        22 => Dtype::I4,
        23 => Dtype::F4,
        24 => Dtype::F8E8m0,
        _ => return None,
    })
}
