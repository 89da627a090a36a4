//! Reads a Python pickle without running it: opcodes go in, a graph of plain values comes out.
//!
//! A pickle is a program for a stack machine that may call any function of Python. Here nothing is called: a call
//! becomes an object that says which name was called with which arguments, and of names only those in `globals`
//! mean anything. Protocols 0 to 5. What the values mean is for the caller to say.
//!
//! Bounds: values, texts, memo and stack together take at most [`VALUE_BYTES_MAX`], or what the caller says; longer texts
//! than [`TEXT_BYTES_MAX`], byte strings and large numbers are opaque. A value that is put into itself gives a graph with a
//! ring: who walks it must count depth, or mark where it was.

mod globals;
mod machine;
#[cfg(test)]
mod tests;

pub(super) use globals::Global;

use super::input::Stream;
use crate::units::MIB;

/// All that is kept of a pickle, in bytes.
const VALUE_BYTES_MAX: usize = 128 * MIB;
/// A longer text is opaque, in bytes.
const TEXT_BYTES_MAX: u64 = 4096;

/// A value; larger ones stand in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Value {
    /// Python's None.
    Nothing,
    /// Something that is not kept.
    Opaque,
    /// A whole number, or a truth value.
    Int(i64),
    /// A name.
    Global(Global),
    /// The node of that number.
    Node(u32),
}

/// A value that does not fit a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Text(Box<str>),
    /// A list, tuple or set.
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    /// What the pickle's writer keeps elsewhere, by its id.
    Persistent(Value),
    /// What a call would have made.
    Object {
        class: Global,
        arguments: Value,
        state: Value,
    },
}

/// Why a pickle could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It ends too early, or is none.
    Torn,
    /// It makes more values than may be kept.
    TooLarge,
}

/// The graph of one pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    /// The value that the pickle is.
    pub root: Value,
}

impl Pickle {
    /// Reads one pickle to its end.
    pub fn read(stream: Stream) -> Option<Self> {
        Self::read_within(stream, VALUE_BYTES_MAX).ok()
    }

    /// As [`Self::read`], with another bound for all that is kept, in bytes.
    pub fn read_within(stream: Stream, bytes_max: usize) -> Result<Self, Refusal> {
        let (nodes, root) = machine::run(stream, bytes_max)?;
        Ok(Self { nodes, root })
    }

    /// Tells all texts of at most [`TEXT_BYTES_MAX`] bytes, also of a pickle that is too large to be read. None where it is torn.
    pub fn each_text(stream: Stream, each: &mut dyn FnMut(&str)) -> Option<()> {
        machine::each_text(stream, each)
    }

    /// All nodes, in the order in which they were made.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(number) => self.nodes.get(number as usize),
            _ => None,
        }
    }

    pub fn text(&self, value: Value) -> Option<&str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn list(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::List(list) => Some(list),
            _ => None,
        }
    }

    pub fn map(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Map(map) => Some(map),
            _ => None,
        }
    }

    /// A list of numbers from 0.
    pub fn numbers(&self, value: Value) -> Option<Vec<u64>> {
        self.list(value)?.iter().map(|&value| number(value)).collect()
    }

    /// The value of a text key in a map: the last, as in Python.
    pub fn get(&self, map: Value, key: &str) -> Option<Value> {
        let mut entries = self.map(map)?.iter().rev();
        entries.find(|entry| self.text(entry.0) == Some(key)).map(|entry| entry.1)
    }
}

/// A number from 0.
pub(super) fn number(value: Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(number).ok(),
        _ => None,
    }
}
