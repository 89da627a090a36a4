//! safetensors: a length of eight bytes, a JSON header, the tensors' bytes.
//!
//! The header maps names to `dtype`, `shape` and `data_offsets`, which count from behind the header; `__metadata__`
//! holds texts. The format allows no holes and no overlaps; here a hole is nothing, and overlaps are sorted out by
//! the builder. A tensor whose shape does not fill its offsets is left out; of a dtype that is not known here, the
//! bytes are given without a kind.
//!
//! [`header`] is the way back: the header of a file with given tensors, as the format's own library writes it.

use super::dtype::Dtype;
use super::input::Input;
use super::json::Json;
use super::layout::{Builder, DIMENSIONS_MAX, elements};

/// A longer header is not read: the limit of the format's own library, in bytes.
const HEADER_BYTES_MAX: u64 = 100_000_000;
const METADATA_KEY: &str = "__metadata__";
/// What the header's length is made a multiple of when one is written, in bytes.
const ALIGNMENT: usize = 8;

/// Whether a file that begins so may be one; the header decides.
pub(super) fn recognises(head: &[u8]) -> bool {
    let Some((length, rest)) = head.split_first_chunk::<8>() else { return false };
    let length = u64::from_le_bytes(*length);
    (2..=HEADER_BYTES_MAX).contains(&length) && rest.first() == Some(&b'{')
}

/// Reads a header at the start of `input`. Gives the length of the whole by its header.
pub(super) fn read(input: &Input, builder: &mut Builder) -> Option<u64> {
    let header_bytes = input.u64(0).filter(|&length| length <= HEADER_BYTES_MAX)?;
    let data = 8 + header_bytes;
    let mut end = data;
    let mut json = Json::new(input.stream(8..data)?);
    json.object(|json, name| {
        if name == METADATA_KEY {
            return json.skip();
        }
        let info = Info::read(json)?;
        if let Some(tensor_end) = info.add(name, data, input, builder) {
            end = end.max(tensor_end);
        }
        Some(())
    })?;
    Some(end)
}

/// What the header says of one tensor.
#[derive(Default)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    offsets: Vec<u64>,
}

impl Info {
    fn read(json: &mut Json) -> Option<Self> {
        let mut info = Self::default();
        json.object(|json, key| {
            match key {
                "dtype" => info.dtype = json.string()?,
                "shape" => info.shape = numbers(json)?,
                "data_offsets" => info.offsets = numbers(json)?,
                _ => json.skip()?,
            }
            Some(())
        })?;
        Some(info)
    }

    /// Adds the tensor where its offsets and its shape agree. Gives where its bytes end, counted from the length field.
    fn add(&self, name: &str, data: u64, input: &Input, builder: &mut Builder) -> Option<u64> {
        let [begin, end] = self.offsets[..] else { return None };
        let bytes = end.checked_sub(begin)?;
        let data_end = data.checked_add(end)?;
        if data_end > input.length() {
            return Some(data_end);
        }
        let start = input.start() + data + begin;
        match dtype(&self.dtype) {
            Some(dtype) if elements(&self.shape).and_then(|count| dtype.bytes_of(count)) == Some(bytes) => {
                builder.tensor(name, dtype, &self.shape, start)
            }
            Some(_) => None,
            None => builder.tensor(name, Dtype::Unknown, &[bytes], start),
        };
        Some(data_end)
    }
}

/// An array of whole numbers; too many to be a shape are read and not all kept.
fn numbers(json: &mut Json) -> Option<Vec<u64>> {
    let mut numbers = Vec::new();
    json.array(|json| {
        let number = json.number()?;
        if numbers.len() <= DIMENSIONS_MAX {
            numbers.push(number);
        }
        Some(())
    })?;
    Some(numbers)
}

/// The dtypes by the names of the format's own library (`safetensors::Dtype`), in the order in which it writes tensors:
/// wide ones first, so that each is aligned.
const DTYPES: [(&str, Dtype); 22] = [
    ("U64", Dtype::U64),
    ("I64", Dtype::I64),
    ("F64", Dtype::F64),
    ("C64", Dtype::Complex64),
    ("F32", Dtype::F32),
    ("U32", Dtype::U32),
    ("I32", Dtype::I32),
    ("BF16", Dtype::Bf16),
    ("F16", Dtype::F16),
    ("U16", Dtype::U16),
    ("I16", Dtype::I16),
    ("F8_E5M2FNUZ", Dtype::F8E5m2Fnuz),
    ("F8_E4M3FNUZ", Dtype::F8E4m3Fnuz),
    ("F8_E8M0", Dtype::F8E8m0),
    ("F8_E4M3", Dtype::F8E4m3),
    ("F8_E5M2", Dtype::F8E5m2),
    ("I8", Dtype::I8),
    ("U8", Dtype::U8),
    ("F6_E3M2", Dtype::F6E3m2),
    ("F6_E2M3", Dtype::F6E2m3),
    ("F4", Dtype::F4),
    ("BOOL", Dtype::Bool),
];

fn dtype(name: &str) -> Option<Dtype> {
    DTYPES.iter().find(|row| row.0 == name).map(|row| row.1)
}

/// The name that safetensors has for a dtype; none where it has none: quantised blocks, big-endian numbers, a few others.
#[must_use]
pub fn dtype_name(dtype: Dtype) -> Option<&'static str> {
    rank(dtype).map(|rank| DTYPES[rank].0)
}

fn rank(dtype: Dtype) -> Option<usize> {
    DTYPES.iter().position(|row| row.1 == dtype)
}

/// A tensor that is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Outline<'a> {
    /// Its name; each comes once.
    pub name: &'a str,
    /// What its elements are.
    pub dtype: Dtype,
    /// Its dimensions, slowest first.
    pub shape: &'a [u64],
}

/// The start of a safetensors file, and where its tensors go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// All bytes before those of the tensors: the length, and the JSON padded with spaces to a multiple of 8.
    pub bytes: Vec<u8>,
    /// Where in the file each tensor's bytes begin, in the order in which they were given.
    pub starts: Vec<u64>,
    /// Length of the file.
    pub file_bytes: u64,
}

/// The header of a file with these tensors, byte for byte as the format's own library writes it: in order of dtype, then
/// name, with the note that they are laid out as PyTorch has them. None where a dtype has no name here, elements don't
/// fill whole bytes, a name is that of the metadata, or the header gets longer than the format allows.
#[must_use]
pub fn header(tensors: &[Outline]) -> Option<Header> {
    let ranks: Vec<usize> = tensors.iter().map(|tensor| rank(tensor.dtype)).collect::<Option<_>>()?;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| (ranks[at], tensors[at].name));
    let mut text = format!(r#"{{"{METADATA_KEY}":{{"format":"pt"}}"#);
    let (mut starts, mut end) = (vec![0; tensors.len()], 0_u64);
    for at in order {
        let Outline { name, dtype, shape } = tensors[at];
        let next = end.checked_add(dtype.bytes_of(elements(shape)?)?)?;
        if name == METADATA_KEY || text.len() as u64 > HEADER_BYTES_MAX {
            return None;
        }
        let name = serde_json::Value::from(name);
        let shape: Vec<String> = shape.iter().map(u64::to_string).collect();
        let (dtype, shape) = (DTYPES[ranks[at]].0, shape.join(","));
        text += &format!(r#",{name}:{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{end},{next}]}}"#);
        (starts[at], end) = (end, next);
    }
    text.push('}');
    text += &" ".repeat(text.len().next_multiple_of(ALIGNMENT) - text.len());
    let length = Some(text.len() as u64).filter(|&length| length <= HEADER_BYTES_MAX)?;
    let data = 8 + length;
    starts.iter_mut().for_each(|start| *start += data);
    let bytes = [&length.to_le_bytes()[..], text.as_bytes()].concat();
    Some(Header { bytes, starts, file_bytes: end.checked_add(data)? })
}

#[cfg(test)]
mod tests {
    use super::super::{Dtype, Format, Layout, read as read_file};
    use super::{DTYPES, Outline, header};

    fn layout(header: &str, data_bytes: usize) -> Option<Layout> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data_bytes, 0);
        let layout = read_file(&&bytes[..], b"")?;
        assert!(layout.format == Format::Safetensors && layout.holds(bytes.len() as u64));
        Some(layout)
    }

    #[test]
    fn headers_and_what_they_give() {
        let one = |dtype, shape, offsets| {
            format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        // Header, then bytes of data, and the ranges of the tensors, counted from the data.
        for (header, data_bytes, ranges) in [
            (one("F32", "[2,3]", "[0,24]"), 24, Some(vec![(0, 24)])),
            (one("F4", "[4]", "[8,10]"), 24, Some(vec![(8, 10)])),
            (one("F32", "[]", "[0,4]"), 4, Some(vec![(0, 4)])),
            (one("NEW", "[2]", "[0,3]"), 4, Some(vec![(0, 3)])),
            (one("F32", "[2]", "[0,7]"), 24, Some(vec![])),
            (one("F32", "[2]", "[4,0]"), 24, Some(vec![])),
            (one("F32", "[6]", "[0,24]"), 20, Some(vec![])),
            (one("U8", "[18446744073709551615,3]", "[0,4]"), 4, Some(vec![])),
            (one("U8", "[1]", "[18446744073709551614,18446744073709551615]"), 4, Some(vec![])),
            (one("U8", "[1]", "[-1,0]"), 4, None),
            (one("U8", "[[1]]", "[0,1]"), 4, None),
            (r#"{"__metadata__":{"a":"b","c":[{}]}}  "#.into(), 4, Some(vec![])),
            (r#"{"t":5}"#.into(), 4, None),
            (r#"{"t":{}}"#.into(), 4, Some(vec![])),
        ] {
            let found = layout(&header, data_bytes).map(|layout| {
                let data = 8 + header.len() as u64;
                layout.tensors.iter().map(|tensor| (tensor.range.start - data, tensor.range.end - data)).collect()
            });
            assert_eq!(found, ranges, "{header}");
        }
    }

    #[test]
    fn a_name_may_come_twice() {
        let info = |offsets| format!(r#""t":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        let layout = layout(&format!("{{{},{}}}", info("[4,8]"), info("[0,4]")), 8).unwrap();
        assert_eq!(layout.tensors.len(), 2);
    }

    /// What `safetensors.serialize` 0.8.0 writes for one tensor of two elements of each dtype that it takes from numpy and
    /// ml_dtypes; `float4_e2m1fn_x2` has two in a byte.
    const BY_THE_LIBRARY: &str = concat!(
        r#"{"__metadata__":{"format":"pt"},"uint64":{"dtype":"U64","shape":[2],"data_offsets":[0,16]},"#,
        r#""int64":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},"#,
        r#""float64":{"dtype":"F64","shape":[2],"data_offsets":[32,48]},"#,
        r#""complex64":{"dtype":"C64","shape":[2],"data_offsets":[48,64]},"#,
        r#""float32":{"dtype":"F32","shape":[2],"data_offsets":[64,72]},"#,
        r#""uint32":{"dtype":"U32","shape":[2],"data_offsets":[72,80]},"#,
        r#""int32":{"dtype":"I32","shape":[2],"data_offsets":[80,88]},"#,
        r#""bfloat16":{"dtype":"BF16","shape":[2],"data_offsets":[88,92]},"#,
        r#""float16":{"dtype":"F16","shape":[2],"data_offsets":[92,96]},"#,
        r#""uint16":{"dtype":"U16","shape":[2],"data_offsets":[96,100]},"#,
        r#""int16":{"dtype":"I16","shape":[2],"data_offsets":[100,104]},"#,
        r#""float8_e5m2fnuz":{"dtype":"F8_E5M2FNUZ","shape":[2],"data_offsets":[104,106]},"#,
        r#""float8_e4m3fnuz":{"dtype":"F8_E4M3FNUZ","shape":[2],"data_offsets":[106,108]},"#,
        r#""float8_e8m0fnu":{"dtype":"F8_E8M0","shape":[2],"data_offsets":[108,110]},"#,
        r#""float8_e4m3fn":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[110,112]},"#,
        r#""float8_e5m2":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[112,114]},"#,
        r#""int8":{"dtype":"I8","shape":[2],"data_offsets":[114,116]},"#,
        r#""uint8":{"dtype":"U8","shape":[2],"data_offsets":[116,118]},"#,
        r#""float4_e2m1fn_x2":{"dtype":"F4","shape":[4],"data_offsets":[118,120]},"#,
        r#""bool":{"dtype":"BOOL","shape":[2],"data_offsets":[120,122]}} "#,
    );

    #[test]
    fn a_header_is_the_one_that_the_library_writes() {
        let (two, four) = ([2_u64], [4_u64]);
        let outline = |name, dtype, shape| Outline { name, dtype, shape };
        let tensors = [
            outline("bool", Dtype::Bool, &two[..]),
            outline("float4_e2m1fn_x2", Dtype::F4, &four),
            outline("uint8", Dtype::U8, &two),
            outline("int8", Dtype::I8, &two),
            outline("float8_e5m2", Dtype::F8E5m2, &two),
            outline("float8_e4m3fn", Dtype::F8E4m3, &two),
            outline("float8_e8m0fnu", Dtype::F8E8m0, &two),
            outline("float8_e4m3fnuz", Dtype::F8E4m3Fnuz, &two),
            outline("float8_e5m2fnuz", Dtype::F8E5m2Fnuz, &two),
            outline("int16", Dtype::I16, &two),
            outline("uint16", Dtype::U16, &two),
            outline("float16", Dtype::F16, &two),
            outline("bfloat16", Dtype::Bf16, &two),
            outline("int32", Dtype::I32, &two),
            outline("uint32", Dtype::U32, &two),
            outline("float32", Dtype::F32, &two),
            outline("complex64", Dtype::Complex64, &two),
            outline("float64", Dtype::F64, &two),
            outline("int64", Dtype::I64, &two),
            outline("uint64", Dtype::U64, &two),
        ];
        let header = header(&tensors).unwrap();
        assert_eq!(header.bytes[..8], (BY_THE_LIBRARY.len() as u64).to_le_bytes());
        assert_eq!(std::str::from_utf8(&header.bytes[8..]), Ok(BY_THE_LIBRARY));
        let data = header.bytes.len() as u64;
        assert_eq!((header.starts[0], header.starts[19], header.file_bytes), (data + 120, data, data + 122));
    }

    #[test]
    fn what_is_written_is_read() {
        let names = ["plain", "a \"quoted\" \u{e9}\n\\", "", "z/y"];
        let shapes: [&[u64]; 4] = [&[2, 3], &[], &[5], &[1, 1, 4]];
        for (_, dtype) in DTYPES {
            let shape_of = |shape: &[u64]| [shape, &[u64::from(dtype.block_elements())]].concat();
            let shapes: Vec<Vec<u64>> = shapes.iter().map(|shape| shape_of(shape)).collect();
            let tensors: Vec<Outline> =
                names.iter().zip(&shapes).map(|(name, shape)| Outline { name, dtype, shape }).collect();
            let header = header(&tensors).unwrap();
            let mut file = header.bytes.clone();
            assert_eq!(file.len() % 8, 0);
            file.resize(usize::try_from(header.file_bytes).unwrap(), 7);
            let layout = read_file(&&file[..], b"").unwrap();
            assert_eq!(layout.tensors.len(), 4, "{dtype:?}");
            for tensor in layout.tensors {
                let at = names.iter().position(|name| **name == tensor.name).unwrap();
                assert_eq!((tensor.dtype, &tensor.shape, tensor.range.start), (dtype, &shapes[at], header.starts[at]));
            }
        }
    }

    #[test]
    fn what_can_not_be_written() {
        let one = |name, dtype, shape| header(&[Outline { name, dtype, shape }]).is_some();
        let (large, name) = ([u64::MAX, 2], "n".repeat(101_000_000));
        for (name, dtype, shape, fits) in [
            ("t", Dtype::F32, &[3][..], true),
            ("t", Dtype::F4, &[3], false),
            ("t", Dtype::Width(4), &[3], false),
            ("t", Dtype::Complex128, &[3], false),
            ("__metadata__", Dtype::F32, &[3], false),
            ("t", Dtype::U8, &large, false),
            (&name, Dtype::U8, &[3], false),
        ] {
            assert_eq!(one(name, dtype, shape), fits, "{dtype:?} {shape:?}");
        }
        assert_eq!(header(&[]).unwrap().file_bytes, 8 + 32);
    }
}
