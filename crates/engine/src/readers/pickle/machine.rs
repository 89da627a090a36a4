//! The stack machine of pickles, with calls that call nothing. Opcodes as in Python's `pickletools`.

use super::super::input::Stream;
use super::globals::{self, Global};
use super::{Node, Refusal, TEXT_BYTES_MAX, Value};

/// A memo may be filled with gaps so long: writers number it without any.
const MEMO_GAP_MAX: usize = 1024;
/// Bytes that are charged for whatever is stored. A node is larger than what stands on stack, in memo or in a list.
const VALUE_BYTES: usize = 2 * size_of::<Value>();
const NODE_BYTES: usize = 2 * size_of::<Node>();
/// A line of protocol 0, in bytes.
const LINE_BYTES_MAX: usize = TEXT_BYTES_MAX as usize;

/// Runs to the opcode that ends the pickle.
pub(super) fn run(stream: Stream, bytes_max: usize) -> Result<(Vec<Node>, Value), Refusal> {
    let mut machine = Machine {
        stream,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: Vec::new(),
        nothing: None,
        bytes_left: bytes_max,
        is_full: false,
    };
    let root = machine.run();
    match root {
        Some(root) => Ok((machine.nodes, root)),
        None if machine.is_full => Err(Refusal::TooLarge),
        None => Err(Refusal::Torn),
    }
}

/// Tells the texts of a pickle, but for long ones, and keeps nothing: whatever its size. None where it is torn.
pub(super) fn each_text(mut stream: Stream, each: &mut dyn FnMut(&str)) -> Option<()> {
    loop {
        let opcode = stream.byte()?;
        let length = match opcode {
            b'.' => return Some(()),
            b'K' | b'h' | b'q' | 0x80 | 0x82 => 1,
            b'M' | 0x83 => 2,
            b'J' | b'j' | b'r' | 0x84 => 4,
            b'G' | 0x95 => 8,
            b'C' | b'U' | 0x8a | 0x8c => stream.byte()?.into(),
            b'B' | b'T' | b'X' | 0x8b => stream.u32()?.into(),
            0x8d | 0x8e | 0x96 => stream.u64()?,
            b'F' | b'I' | b'L' | b'P' | b'S' | b'V' | b'g' | b'p' => {
                let line = line(&mut stream)?;
                if matches!(opcode, b'S' | b'V') {
                    each(line.trim_matches(['\'', '"']));
                }
                continue;
            }
            b'c' | b'i' => {
                line(&mut stream)?;
                line(&mut stream)?;
                continue;
            }
            b'(' | b')' | b'0'..=b'2' | b'N' | b'Q' | b'R' | b'a' | b'b' | b'd' | b'e' | b'l' | b'o' | b's'..=b'u' => 0,
            b']' | b'}' | 0x81 | 0x85..=0x89 | 0x8f..=0x94 | 0x97 | 0x98 => 0,
            _ => return None,
        };
        match opcode {
            b'T' | b'U' | b'X' | 0x8c | 0x8d if length <= TEXT_BYTES_MAX => each(&stream.text(length, TEXT_BYTES_MAX)?),
            _ => stream.skip(length)?,
        }
    }
}

/// Up to the end of the line, which is left out.
fn line(stream: &mut Stream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        match stream.byte()? {
            b'\n' => break,
            _ if bytes.len() == LINE_BYTES_MAX => return None,
            byte => bytes.push(byte),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

struct Machine<'a> {
    stream: Stream<'a>,
    nodes: Vec<Node>,
    stack: Vec<Value>,
    /// Heights of the stack where lists of operands begin.
    marks: Vec<usize>,
    memo: Vec<Value>,
    /// The empty tuple: one for all, as nothing is ever added to it.
    nothing: Option<Value>,
    bytes_left: usize,
    /// Something did not fit.
    is_full: bool,
}

impl Machine<'_> {
    fn run(&mut self) -> Option<Value> {
        loop {
            match self.stream.byte()? {
                b'.' => return self.pop(),
                opcode => self.step(opcode)?,
            }
        }
    }

    fn step(&mut self, opcode: u8) -> Option<()> {
        match opcode {
            b'N' => self.push(Value::Nothing),
            b'I' | b'L' | b'F' | b'J' | b'K' | b'M' | b'G' | 0x88..=0x8b => self.number(opcode),
            b'S' | b'T' | b'U' | b'V' | b'X' | 0x8c | 0x8d => self.text(opcode),
            b'B' | b'C' | 0x8e | 0x96 => self.byte_string(opcode),
            b'(' | b'0' | b'1' | b'2' => self.arrange(opcode),
            b'g' | b'h' | b'j' | b'p' | b'q' | b'r' | 0x94 => self.remember(opcode),
            b'd' | b'}' | b'l' | b']' | b't' | b')' | 0x85..=0x87 | 0x8f | 0x91 => self.collect(opcode),
            b'a' | b'e' | b's' | b'u' | 0x90 => self.extend(opcode),
            b'c' | b'i' | b'o' | b'R' | b'b' | 0x81 | 0x92 | 0x93 => self.object(opcode),
            b'P' | b'Q' => self.persistent(opcode),
            0x80 => self.stream.skip(1),
            0x95 => self.stream.skip(8),
            // Names by number of a register that only the writer has; buffers that are sent beside the pickle.
            0x82..=0x84 => self.stream.skip(1 << (opcode - 0x82)).and_then(|()| self.push(Value::Opaque)),
            0x97 => self.push(Value::Opaque),
            0x98 => Some(()),
            _ => None,
        }
    }

    fn number(&mut self, opcode: u8) -> Option<()> {
        let value = match opcode {
            b'I' | b'L' => {
                let line = self.line()?;
                line.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int)
            }
            b'F' => self.line().map(|_| Value::Opaque)?,
            b'J' => Value::Int(i32::from_le_bytes(self.stream.array()?).into()),
            b'K' => Value::Int(self.stream.byte()?.into()),
            b'M' => Value::Int(u16::from_le_bytes(self.stream.array()?).into()),
            b'G' => self.stream.skip(8).map(|()| Value::Opaque)?,
            0x88 => Value::Int(1),
            0x89 => Value::Int(0),
            _ => {
                let length = if opcode == 0x8a { self.stream.byte()?.into() } else { self.stream.u32()?.into() };
                self.long(length)?
            }
        };
        self.push(value)
    }

    /// A number of `length` bytes, lowest first, in two's complement.
    fn long(&mut self, length: u64) -> Option<Value> {
        if length > 8 {
            return self.stream.skip(length).map(|()| Value::Opaque);
        }
        let bytes = self.stream.bytes(length, 8)?;
        let fill = if bytes.last().is_some_and(|&last| last >= 0x80) { 0xff } else { 0 };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        Some(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, opcode: u8) -> Option<()> {
        let length = match opcode {
            b'S' | b'V' => {
                let line = self.line()?;
                return self.push_text(line.trim_matches(['\'', '"']).to_owned());
            }
            b'U' | 0x8c => self.stream.byte()?.into(),
            0x8d => self.stream.u64()?,
            _ => self.stream.u32()?.into(),
        };
        if length > TEXT_BYTES_MAX {
            self.stream.skip(length)?;
            return self.push(Value::Opaque);
        }
        let text = self.stream.text(length, TEXT_BYTES_MAX)?;
        self.push_text(text)
    }

    fn push_text(&mut self, text: String) -> Option<()> {
        self.charge(text.len())?;
        self.push_node(Node::Text(text.into_boxed_str()))
    }

    fn byte_string(&mut self, opcode: u8) -> Option<()> {
        let length = match opcode {
            b'C' => self.stream.byte()?.into(),
            b'B' => self.stream.u32()?.into(),
            _ => self.stream.u64()?,
        };
        self.stream.skip(length)?;
        self.push(Value::Opaque)
    }

    /// Marks, and what only moves the top of the stack.
    fn arrange(&mut self, opcode: u8) -> Option<()> {
        match opcode {
            b'(' => {
                self.charge(VALUE_BYTES)?;
                self.marks.push(self.stack.len());
                Some(())
            }
            b'1' => self.operands().map(drop),
            b'2' => self.top().and_then(|value| self.push(value)),
            // Why: Python's machine drops a mark when there is no value above it.
            _ if self.marks.last() == Some(&self.stack.len()) => self.marks.pop().map(drop),
            _ => self.pop().map(drop),
        }
    }

    fn remember(&mut self, opcode: u8) -> Option<()> {
        let place = match opcode {
            b'g' | b'p' => self.line()?.parse().ok()?,
            b'h' | b'q' => self.stream.byte()?.into(),
            b'j' | b'r' => self.stream.u32()? as usize,
            _ => self.memo.len(),
        };
        if matches!(opcode, b'g' | b'h' | b'j') {
            let value = *self.memo.get(place)?;
            return self.push(value);
        }
        let value = self.top()?;
        if place >= self.memo.len() {
            let more = place - self.memo.len() + 1;
            self.charge((more <= MEMO_GAP_MAX).then_some(more)? * VALUE_BYTES)?;
            self.memo.resize(place + 1, Value::Opaque);
        }
        self.memo[place] = value;
        Some(())
    }

    fn collect(&mut self, opcode: u8) -> Option<()> {
        let node = match opcode {
            b'}' => Node::Map(Vec::new()),
            b'd' => Node::Map(pairs(&self.operands()?)?),
            b')' => return self.empty_tuple(),
            b']' | 0x8f => Node::List(Vec::new()),
            b'l' | b't' | 0x91 => Node::List(self.operands()?),
            _ => {
                let count = usize::from(opcode - 0x84);
                let first = self.stack.len().checked_sub(count)?;
                (first >= self.floor()).then_some(())?;
                Node::List(self.stack.split_off(first))
            }
        };
        self.push_node(node)
    }

    fn empty_tuple(&mut self) -> Option<()> {
        let tuple = match self.nothing {
            Some(tuple) => tuple,
            None => self.node(Node::List(Vec::new()))?,
        };
        self.nothing = Some(tuple);
        self.push(tuple)
    }

    /// Adds to the list or map below the operands.
    fn extend(&mut self, opcode: u8) -> Option<()> {
        let (values, keyed) = match opcode {
            b'a' => (vec![self.pop()?], false),
            b's' => {
                let value = self.pop()?;
                (vec![self.pop()?, value], true)
            }
            b'u' => (self.operands()?, true),
            _ => (self.operands()?, false),
        };
        let Value::Node(mut place) = self.top()? else { return Some(()) };
        if let Some(&Node::Object { state, .. }) = self.nodes.get(place as usize) {
            place = self.content(place, state, keyed)?;
        }
        self.charge(values.len() * VALUE_BYTES)?;
        match self.nodes.get_mut(place as usize)? {
            Node::Map(map) if keyed => map.extend(pairs(&values)?),
            Node::List(list) if !keyed => list.extend(values),
            _ => {}
        }
        Some(())
    }

    /// The list or map that stands for the content of an object of a class derived from one: its state.
    fn content(&mut self, object: u32, state: Value, keyed: bool) -> Option<u32> {
        match state {
            Value::Node(number) => return Some(number),
            Value::Nothing => {}
            _ => return Some(object),
        }
        let Value::Node(content) = self.node(if keyed { Node::Map(Vec::new()) } else { Node::List(Vec::new()) })?
        else {
            return None;
        };
        if let Some(Node::Object { state, .. }) = self.nodes.get_mut(object as usize) {
            *state = Value::Node(content);
        }
        Some(content)
    }

    fn object(&mut self, opcode: u8) -> Option<()> {
        match opcode {
            b'c' => {
                let global = self.global()?;
                return self.push(Value::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let global = match (self.text_of(module), self.text_of(name)) {
                    (Some(module), Some(name)) => globals::find(module, name),
                    _ => Global::Other,
                };
                return self.push(Value::Global(global));
            }
            b'b' => return self.build(),
            _ => {}
        }
        let (class, arguments) = match opcode {
            b'i' => {
                let global = self.global()?;
                let operands = self.operands()?;
                (Value::Global(global), self.node(Node::List(operands))?)
            }
            b'o' => {
                let mut operands = self.operands()?;
                let class = (!operands.is_empty()).then(|| operands.remove(0))?;
                (class, self.node(Node::List(operands))?)
            }
            0x92 => {
                let (_keywords, arguments) = (self.pop()?, self.pop()?);
                (self.pop()?, arguments)
            }
            _ => {
                let arguments = self.pop()?;
                (self.pop()?, arguments)
            }
        };
        self.call(class, arguments)
    }

    /// The place of every call. None is made.
    fn call(&mut self, class: Value, arguments: Value) -> Option<()> {
        let class = if let Value::Global(global) = class { global } else { Global::Other };
        match class {
            Global::Map => self.push_node(Node::Map(Vec::new())),
            Global::Tuple => {
                let first = self.list_of(arguments).and_then(|list| list.first().copied());
                self.push(first.unwrap_or(Value::Opaque))
            }
            _ => self.push_node(Node::Object { class, arguments, state: Value::Nothing }),
        }
    }

    fn build(&mut self) -> Option<()> {
        let new_state = self.pop()?;
        let Value::Node(number) = self.top()? else { return Some(()) };
        match self.nodes.get_mut(number as usize) {
            Some(Node::Object { class: Global::StoredChunk, .. }) => self.build_chunk(number, new_state),
            Some(Node::Object { state, .. }) => *state = new_state,
            _ => {}
        }
        Some(())
    }

    /// Keeps where a part begins as its state, and its shape as its arguments. The map of its fields goes: there are many.
    fn build_chunk(&mut self, chunk: u32, fields: Value) {
        let field = |wanted: &str| match fields {
            Value::Node(number) => match self.nodes.get(number as usize) {
                Some(Node::Map(map)) => {
                    map.iter().rev().find(|entry| self.text_of(entry.0) == Some(wanted)).map(|entry| entry.1)
                }
                _ => None,
            },
            _ => None,
        };
        let (offsets, sizes) = (field("offsets"), field("sizes"));
        if let Some(Node::Object { arguments, state, .. }) = self.nodes.get_mut(chunk as usize) {
            *state = offsets.unwrap_or(Value::Nothing);
            *arguments = sizes.unwrap_or(Value::Nothing);
        }
        self.forget(fields);
    }

    /// Lets go of what a list or map holds: nobody asks for it. Who mentions it again finds nothing there.
    fn forget(&mut self, value: Value) {
        let Value::Node(number) = value else { return };
        if let Some(node @ (Node::List(_) | Node::Map(_))) = self.nodes.get_mut(number as usize) {
            let values = match &*node {
                Node::Map(map) => 2 * map.len(),
                Node::List(list) => list.len(),
                _ => 0,
            };
            *node = Node::List(Vec::new());
            self.bytes_left += values * VALUE_BYTES;
        }
    }

    fn persistent(&mut self, opcode: u8) -> Option<()> {
        let id = match opcode {
            b'P' => self.line().map(|_| Value::Opaque)?,
            _ => self.pop()?,
        };
        self.push_node(Node::Persistent(id))
    }

    fn global(&mut self) -> Option<Global> {
        let (module, name) = (self.line()?, self.line()?);
        Some(globals::find(&module, &name))
    }

    fn line(&mut self) -> Option<String> {
        line(&mut self.stream)
    }

    fn charge(&mut self, bytes: usize) -> Option<()> {
        match self.bytes_left.checked_sub(bytes) {
            Some(left) => self.bytes_left = left,
            None => {
                self.is_full = true;
                return None;
            }
        }
        Some(())
    }

    fn push(&mut self, value: Value) -> Option<()> {
        self.charge(VALUE_BYTES)?;
        self.stack.push(value);
        Some(())
    }

    fn push_node(&mut self, node: Node) -> Option<()> {
        let value = self.node(node)?;
        self.push(value)
    }

    fn node(&mut self, node: Node) -> Option<Value> {
        let values = match &node {
            Node::List(list) => list.len(),
            Node::Map(map) => 2 * map.len(),
            _ => 0,
        };
        self.charge(NODE_BYTES + values * VALUE_BYTES)?;
        let number = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node);
        Some(Value::Node(number))
    }

    /// No value below this height may be taken.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Option<Value> {
        self.stack.get(self.floor()..)?.last().copied()
    }

    fn pop(&mut self) -> Option<Value> {
        self.top()?;
        self.bytes_left += VALUE_BYTES;
        self.stack.pop()
    }

    /// Everything above the last mark, which goes.
    fn operands(&mut self) -> Option<Vec<Value>> {
        let mark = self.marks.pop()?;
        let operands = (mark <= self.stack.len()).then(|| self.stack.split_off(mark))?;
        self.bytes_left += (operands.len() + 1) * VALUE_BYTES;
        Some(operands)
    }

    fn text_of(&self, value: Value) -> Option<&str> {
        match value {
            Value::Node(number) => match self.nodes.get(number as usize)? {
                Node::Text(text) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }

    fn list_of(&self, value: Value) -> Option<&[Value]> {
        match value {
            Value::Node(number) => match self.nodes.get(number as usize)? {
                Node::List(list) => Some(list),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Keys and values in turn; none when one is left over.
fn pairs(values: &[Value]) -> Option<Vec<(Value, Value)>> {
    let (pairs, rest) = values.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|&[key, value]| (key, value)).collect())
}
