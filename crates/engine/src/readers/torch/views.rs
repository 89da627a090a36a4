//! What the pickle of a torch file says: which storages there are, and which tensors are views of them.
//!
//! Every container is visited once, to a depth of [`DEPTH_MAX`], so rings and shared values end; a tensor as often as a
//! container has it, since each place gives it a name. Sizes are checked when a
//! view meets its storage's bytes. Names take at most [`VIEW_BYTES_MAX`] together; later tensors have none then, and are
//! left out.

use super::super::dtype::Dtype;
use super::super::layout::{DIMENSIONS_MAX, NAME_BYTES_MAX, View as Shown, elements};
use super::super::pickle::{Global, Node, Pickle, Value, number};
use super::super::strided::{row_major, span};
use super::{Described, Storages};
use crate::units::MIB;

/// Containers nested deeper are not looked into.
const DEPTH_MAX: usize = 48;
/// All views of one pickle, with their names, in bytes.
const VIEW_BYTES_MAX: usize = 64 * MIB;

/// What makes a tensor: torch's functions, and its wrappers of one tensor.
const TENSORS: [Global; 4] = [Global::Tensor, Global::TensorWithDtype, Global::Parameter, Global::FromType];

/// A tensor as a part of a storage, in bytes from its start.
pub(super) struct View {
    pub name: String,
    pub dtype: Dtype,
    /// As it lies: slowest dimension first. Where the view leaves holes, the number of elements that it spans.
    pub shape: Vec<u64>,
    pub shown: Shown,
    /// Shape and strides, in elements, as its program has them; none where it shows the numbers changed.
    pub own: Option<(Vec<u64>, Vec<u64>)>,
    pub start: u64,
    pub end: u64,
}

/// All that a pickle says of its storages.
#[derive(Default)]
pub(super) struct Views {
    storages: Storages,
}

impl Views {
    pub fn of(pickle: &Pickle) -> Self {
        let mut storages = Storages::new();
        for node in pickle.nodes() {
            if let &Node::Persistent(id) = node
                && let Some((key, dtype)) = storage(pickle, id)
            {
                storages.entry(key.to_owned()).or_default().dtype = dtype;
            }
        }
        let visited = vec![false; pickle.nodes().len()];
        let mut walk = Walk { pickle, storages, visited, path: String::new(), bytes_left: VIEW_BYTES_MAX };
        walk.visit(pickle.root, 0);
        Self { storages: walk.storages }
    }

    /// What is said of a storage; the second asking for the same has nothing.
    pub fn take(&mut self, key: &str) -> Described {
        self.storages.remove(key).unwrap_or_default()
    }
}

/// Key and kind of a storage, from its persistent id: `("storage", class, key, device, elements)`.
fn storage(pickle: &Pickle, id: Value) -> Option<(&str, Dtype)> {
    match pickle.list(id)? {
        [tag, Value::Global(Global::Storage(dtype)), key, ..] if pickle.text(*tag) == Some("storage") => {
            Some((pickle.text(*key)?, *dtype))
        }
        _ => None,
    }
}

struct Walk<'a> {
    pickle: &'a Pickle,
    storages: Storages,
    visited: Vec<bool>,
    path: String,
    bytes_left: usize,
}

impl Walk<'_> {
    fn visit(&mut self, value: Value, depth: usize) {
        let (Value::Node(number), Some(node)) = (value, self.pickle.node(value)) else { return };
        // Why not tensors: the same object under two keys is two names, and below a tensor nothing grows.
        let is_tensor = matches!(node, Node::Object { class, .. } if TENSORS.contains(class));
        let visited = std::mem::replace(&mut self.visited[number as usize], true);
        if (visited && !is_tensor) || depth == DEPTH_MAX {
            return;
        }
        match node {
            Node::Map(map) => {
                for &(key, value) in map {
                    self.below(key, value, depth);
                }
            }
            Node::List(list) => {
                for (place, &value) in list.iter().enumerate() {
                    self.below(Value::Int(place as i64), value, depth);
                }
            }
            &Node::Object { class, arguments, state } => self.object(class, arguments, state, depth),
            Node::Text(_) | Node::Persistent(_) => {}
        }
    }

    /// Visits a value under a key of its container.
    fn below(&mut self, key: Value, value: Value, depth: usize) {
        if !matches!(value, Value::Node(_)) {
            return;
        }
        let length = self.path.len();
        let dot = if length == 0 { "" } else { "." };
        let name = match key {
            Value::Int(number) => format!("{dot}{number}"),
            _ => format!("{dot}{}", self.pickle.text(key).unwrap_or("?")),
        };
        if length + name.len() <= 2 * NAME_BYTES_MAX {
            self.path.push_str(&name);
        }
        self.visit(value, depth + 1);
        self.path.truncate(length);
    }

    fn object(&mut self, class: Global, arguments: Value, state: Value, depth: usize) {
        let argument = |place: usize| self.pickle.list(arguments).and_then(|list| list.get(place).copied());
        match class {
            // Why: this calls itself, and a list may hold itself.
            _ if depth > DEPTH_MAX => {}
            Global::Tensor | Global::TensorWithDtype => {
                self.tensor(class, arguments);
            }
            Global::Parameter => {
                let data = argument(0).unwrap_or(Value::Nothing);
                self.visit(data, depth + 1);
            }
            Global::FromType => {
                if let (Some(Value::Global(class)), Some(inner)) = (argument(0), argument(2)) {
                    self.object(class, inner, Value::Nothing, depth + 1);
                }
            }
            // Why: whatever else was called, the tensors among its arguments and in its state are there.
            _ => {
                self.visit(arguments, depth + 1);
                self.visit(state, depth + 1);
            }
        }
    }

    /// Notes a view; none when its arguments are not those of torch.
    fn tensor(&mut self, class: Global, arguments: Value) -> Option<()> {
        let &[persistent, offset, shape, strides, ref rest @ ..] = self.pickle.list(arguments)? else { return None };
        let Node::Persistent(id) = *self.pickle.node(persistent)? else { return None };
        let (key, mut dtype) = storage(self.pickle, id)?;
        if let (Global::TensorWithDtype, Some(&Value::Global(Global::Dtype(own)))) = (class, rest.get(2)) {
            dtype = own;
        }
        let dimensions = |value| {
            // Why first: a list may be long, and many tensors may have the same.
            let short = self.pickle.list(value).is_some_and(|list| list.len() <= DIMENSIONS_MAX);
            short.then(|| self.pickle.numbers(value)).flatten()
        };
        let own = (dimensions(shape)?, dimensions(strides)?);
        let (shape, mut shown) = as_it_lies(&own.0, &own.1)?;
        let mut own = Some(own);
        // What torch has to do to the numbers before it shows them: conjugate or negate.
        let changes = rest.get(2).and_then(|&metadata| self.pickle.map(metadata));
        if changes.is_some_and(|changes| !changes.is_empty()) {
            (shown, own) = (Shown::Span, None);
        }
        let start = number(offset)?.checked_mul(dtype.width().into())?;
        let end = start.checked_add(dtype.bytes_of(elements(&shape)?)?)?;
        let lists = 8 * (shape.len() + own.as_ref().map_or(0, |own| 2 * own.0.len()));
        self.bytes_left = self.bytes_left.checked_sub(2 * (size_of::<View>() + self.path.len() + lists))?;
        let view = View { name: self.path.clone(), dtype, shape, shown, own, start, end };
        self.storages.get_mut(key)?.views.push(view);
        Some(())
    }
}

/// The dimensions by falling stride, if a tensor fills all that it spans; else the span alone. None without elements,
/// or when a number is too large.
fn as_it_lies(shape: &[u64], strides: &[u64]) -> Option<(Vec<u64>, Shown)> {
    if shape.len() != strides.len() || shape.len() > DIMENSIONS_MAX || shape.contains(&0) {
        return None;
    }
    if row_major(shape, strides) {
        return Some((shape.to_vec(), Shown::Own));
    }
    let mut dimensions: Vec<(u64, u64)> = strides.iter().copied().zip(shape.iter().copied()).collect();
    dimensions.sort_by_key(|&(stride, length)| (std::cmp::Reverse(stride), std::cmp::Reverse(length)));
    let span = span(shape, strides)?;
    let sorted: Vec<u64> = dimensions.into_iter().map(|(_, length)| length).collect();
    Some(if elements(&sorted)? == span { (sorted, Shown::Turned) } else { (vec![span], Shown::Span) })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::super::input::Input;
    use super::*;

    /// Lists that hold the list before twice, and a list that holds itself.
    #[test]
    fn shared_values_and_rings_end() {
        let mut shared = b"]\x94".to_vec();
        (0..45).for_each(|number| shared.extend([b'h', number, b'h', number, 0x86, 0x94]));
        shared.push(b'.');
        for bytes in [&shared[..], b"]q\x00h\x00a."] {
            let allowance = Cell::new(1 << 20);
            let stream = Input::new(&bytes, &allowance).stream(0..bytes.len() as u64).unwrap();
            assert!(Views::of(&Pickle::read(stream).unwrap()).storages.is_empty());
        }
    }

    /// A tensor whose numbers torch conjugates before it shows them, and the same without.
    #[test]
    fn numbers_that_torch_changes_are_not_its_own() {
        for (changes, shown) in [(&b"}X\x04\0\0\0conj\x88s"[..], Shown::Span), (b"}", Shown::Own), (b"N", Shown::Own)] {
            let call = [
                &b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("[..],
                b"(X\x07\0\0\0storagectorch\nComplexFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ",
                b"K\0K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)R",
                changes,
                b"tR.",
            ];
            let bytes = &call.concat()[..];
            let allowance = Cell::new(1 << 20);
            let stream = Input::new(&bytes, &allowance).stream(0..bytes.len() as u64).unwrap();
            let views = Views::of(&Pickle::read(stream).unwrap()).take("0").views;
            assert_eq!((views.len(), views[0].shown, &views[0].shape[..]), (1, shown, &[2][..]), "{changes:?}");
        }
    }

    #[test]
    fn shapes_as_they_lie() {
        for (shape, strides, lies) in [
            (&[2, 3][..], &[3, 1][..], Some((vec![2, 3], Shown::Own))),
            (&[2, 3], &[1, 2], Some((vec![3, 2], Shown::Turned))),
            (&[3, 3], &[1, 3], Some((vec![3, 3], Shown::Turned))),
            (&[2, 3], &[6, 1], Some((vec![9], Shown::Span))),
            (&[2, 3], &[0, 1], Some((vec![3], Shown::Span))),
            (&[], &[], Some((vec![], Shown::Own))),
            (&[1, 4], &[7, 1], Some((vec![1, 4], Shown::Own))),
            (&[4, 1, 5], &[5, 1, 1], Some((vec![4, 1, 5], Shown::Own))),
            (&[2, 0], &[1, 1], None),
            (&[2], &[1, 1], None),
            (&[u64::MAX], &[u64::MAX], None),
            (&[u64::MAX, 2], &[0, 0], None),
        ] {
            assert_eq!(as_it_lies(shape, strides), lies, "{shape:?} {strides:?}");
        }
    }

    /// A subclass that is made from a subclass that is made from itself: a list that holds itself as arguments.
    #[test]
    fn wrappers_of_themselves_end() {
        let wrapper = b"ctorch._tensor\n_rebuild_from_type_v2\n";
        let bytes = [&b"\x80\x02"[..], wrapper, b"]q\x00(", wrapper, b"Nh\x00eR."].concat();
        let allowance = Cell::new(1 << 20);
        let bytes = &bytes[..];
        let stream = Input::new(&bytes, &allowance).stream(0..bytes.len() as u64).unwrap();
        let pickle = Pickle::read(stream).unwrap();
        assert!(matches!(pickle.node(pickle.root), Some(Node::Object { class: Global::FromType, .. })));
        assert!(Views::of(&pickle).storages.is_empty());
    }

    /// The same tensor under two keys has two names; the same dictionary under two keys gives names by the first.
    #[test]
    fn a_tensor_has_a_name_for_each_place() {
        let call = [
            &b"\x80\x02}(X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n("[..],
            b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ",
            b"K\0K\x02\x85K\x01\x85\x89N",
            b"tRq\x00X\x01\0\0\0bh\x00X\x01\0\0\0c}X\x01\0\0\0dh\x00sq\x01X\x01\0\0\0eh\x01u.",
        ];
        let bytes = &call.concat()[..];
        let allowance = Cell::new(1 << 20);
        let stream = Input::new(&bytes, &allowance).stream(0..bytes.len() as u64).unwrap();
        let views = Views::of(&Pickle::read(stream).unwrap()).take("0").views;
        assert_eq!(views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c.d"]);
    }
}
