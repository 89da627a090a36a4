//! Pickles by hand, one a group of opcodes, and what must come out of them. Nothing of them ever runs.

use std::cell::Cell;

use super::super::dtype::Dtype;
use super::super::input::Input;
use super::*;

fn read(bytes: &[u8]) -> Option<Pickle> {
    let allowance = Cell::new(1 << 30);
    Pickle::read(Input::new(&bytes, &allowance).stream(0..bytes.len() as u64)?)
}

/// A value in the manner of Python's `repr`.
fn shown(pickle: &Pickle, value: Value) -> String {
    let list = |values: &[Value]| values.iter().map(|&value| shown(pickle, value)).collect::<Vec<_>>().join(",");
    match (value, pickle.node(value)) {
        (Value::Nothing, _) => "None".into(),
        (Value::Opaque, _) => "?".into(),
        (Value::Int(number), _) => number.to_string(),
        (Value::Global(global), _) => format!("{global:?}"),
        (_, Some(Node::Text(text))) => format!("'{text}'"),
        (_, Some(Node::List(values))) => format!("[{}]", list(values)),
        (_, Some(Node::Map(pairs))) => {
            let pair = |(key, value): &(Value, Value)| format!("{}:{}", shown(pickle, *key), shown(pickle, *value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","))
        }
        (_, Some(Node::Persistent(id))) => format!("<{}>", shown(pickle, *id)),
        (_, Some(Node::Object { class, arguments, state })) => {
            format!("{class:?}({})+{}", shown(pickle, *arguments), shown(pickle, *state))
        }
        (Value::Node(_), None) => "gone".into(),
    }
}

#[test]
fn opcodes() {
    for (bytes, expected) in [
        (&b"\x80\x02N."[..], "None"),
        (b"K\x07.", "7"),
        (b"M\x01\x02.", "513"),
        (b"J\xff\xff\xff\xff.", "-1"),
        (b"\x8a\x00.", "0"),
        (b"\x8a\x02\x00\x80.", "-32768"),
        (b"\x8a\x09123456789.", "?"),
        (b"\x8b\x01\x00\x00\x00\x05.", "5"),
        (b"I42\n.", "42"),
        (b"L-3L\n.", "-3"),
        (b"F1.5\n.", "?"),
        (b"G01234567.", "?"),
        (b"\x88.", "1"),
        (b"S'a b'\n.", "'a b'"),
        (b"X\x02\x00\x00\x00hi.", "'hi'"),
        (b"\x8c\x02\xff!.", "'\u{fffd}!'"),
        (b"C\x03abc.", "?"),
        (b"\x96\x03\x00\x00\x00\x00\x00\x00\x00abc.", "?"),
        (b"(K\x01K\x02t.", "[1,2]"),
        (b"K\x01K\x02\x86.", "[1,2]"),
        (b"(K\x01l.", "[1]"),
        (b"]K\x01aK\x02a.", "[1,2]"),
        (b"](K\x01K\x02e.", "[1,2]"),
        (b"\x8f(K\x01\x90.", "[1]"),
        (b"}K\x01K\x02s(K\x03K\x04u.", "{1:2,3:4}"),
        (b"(K\x01K\x02d.", "{1:2}"),
        (b"]q\x000h\x00.", "[]"),
        (b"]\x94h\x00\x86.", "[[],[]]"),
        (b"K\x05p0\ng0\n\x86.", "[5,5]"),
        (b"K\x01K\x020.", "1"),
        (b"K\x01(K\x02K\x031.", "1"),
        (b"K\x01(0.", "1"),
        (b"K\x012\x86.", "[1,1]"),
        (b"ctorch\nFloatStorage\n.", "Storage(F32)"),
        (b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93)R.", "{}"),
        (b"cos\nsystem\n(S'rm'\ntR.", "Other(['rm'])+None"),
        (b"(S'x'\niposix\nsystem\n.", "Other(['x'])+None"),
        (b"(cposix\nsystem\nS'x'\no.", "Other(['x'])+None"),
        (b"cm\nC\n)\x81}S'a'\nK\x01sb.", "Other([])+{'a':1}"),
        (b"cm\nC\n)}\x92.", "Other([])+None"),
        (b"cm\nC\n)\x81(S'a'\nK\x01u.", "Other([])+{'a':1}"),
        (b"cm\nC\n)\x81K\x01a.", "Other([])+[1]"),
        (b"ctorch\nSize\n(K\x02K\x03t\x85R.", "[2,3]"),
        (b"S'key'\nQ.", "<'key'>"),
        (b"Pkey\n.", "<?>"),
        (b"\x82\x01.", "?"),
        (b"\x97\x98.", "?"),
        (b"\x95\x02\x00\x00\x00\x00\x00\x00\x00N.", "None"),
    ] {
        let pickle = read(bytes);
        let found = pickle.map(|pickle| shown(&pickle, pickle.root)).unwrap_or_default();
        assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn what_is_no_pickle_ends() {
    for bytes in [
        &b""[..],
        b"N",
        b".",
        b"\xee.",
        b"a.",
        b"K\x01(a.",
        b"K\x01(\x85.",
        b"t.",
        b"K\x01(\x85K\x02t.",
        b"(K\x01d.",
        b"h\x00.",
        b"X\xff\xff\xff\xffhi.",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffhi.",
        b"Nr\xff\xff\xff\xff.",
        b"cmodule",
        b"Gx.",
    ] {
        assert!(read(bytes).is_none(), "{:?}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_ring_is_read() {
    let pickle = read(b"]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.list(pickle.root), Some(&[pickle.root][..]));
}

#[test]
fn memory_is_bounded() {
    // Empty lists, and the same text again and again: each costs more than its opcode.
    for piece in [&b"]"[..], b"X\x01\x00\x00\x00a", b"(", b"K\x01", b"]\x94", b"2"] {
        let bytes = [b"N", &piece.repeat(8 << 20)[..], b"."].concat();
        assert!(read(&bytes).is_none(), "{piece:?}");
    }
    let long = [b"X\x01\x20\x00\x00", &[b'a'; 0x2001][..], b"."].concat();
    assert_eq!(read(&long).unwrap().root, Value::Opaque);
}

#[test]
fn names_mean_what_torch_means() {
    for (module, name, global) in [
        ("torch", "BFloat16Storage", Global::Storage(Dtype::Bf16)),
        ("torch", "float8_e4m3fn", Global::Dtype(Dtype::F8E4m3)),
        ("torch.storage", "UntypedStorage", Global::Storage(Dtype::Unknown)),
        ("torch._utils", "_rebuild_tensor_v2", Global::Tensor),
        ("torch._utils", "_rebuild_tensor_v3", Global::TensorWithDtype),
        ("torch._utils", "_rebuild_parameter", Global::Parameter),
        ("torch._tensor", "_rebuild_from_type_v2", Global::FromType),
        ("collections", "OrderedDict", Global::Map),
        ("builtins", "eval", Global::Other),
        ("numpy", "float32", Global::Other),
        ("torch", "load", Global::Other),
    ] {
        assert_eq!(globals::find(module, name), global, "{module}.{name}");
    }
}
