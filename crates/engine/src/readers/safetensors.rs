//! safetensors: a length of eight bytes, a JSON header, the tensors' bytes.
//!
//! The header maps names to `dtype`, `shape` and `data_offsets`, which count from behind the header; `__metadata__`
//! holds texts. The format allows no holes and no overlaps; here a hole is nothing, and overlaps are sorted out by
//! the builder. A tensor whose shape does not fill its offsets is left out; of a dtype that is not known here, the
//! bytes are given without a kind.

use super::dtype::Dtype;
use super::input::Input;
use super::json::Json;
use super::layout::{Builder, DIMENSIONS_MAX, elements};

/// A longer header is not read: the limit of the format's own library, in bytes.
const HEADER_BYTES_MAX: u64 = 100_000_000;
const METADATA_KEY: &str = "__metadata__";

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

/// The names of the format's own library (`safetensors::Dtype`).
fn dtype(name: &str) -> Option<Dtype> {
    Some(match name {
        "F64" => Dtype::F64,
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        "F8_E4M3" => Dtype::F8E4m3,
        "F8_E5M2" => Dtype::F8E5m2,
        "F8_E4M3FNUZ" => Dtype::F8E4m3Fnuz,
        "F8_E5M2FNUZ" => Dtype::F8E5m2Fnuz,
        "F8_E8M0" => Dtype::F8E8m0,
        "F6_E2M3" => Dtype::F6E2m3,
        "F6_E3M2" => Dtype::F6E3m2,
        "F4" => Dtype::F4,
        "I64" => Dtype::I64,
        "I32" => Dtype::I32,
        "I16" => Dtype::I16,
        "I8" => Dtype::I8,
        "U64" => Dtype::U64,
        "U32" => Dtype::U32,
        "U16" => Dtype::U16,
        "U8" => Dtype::U8,
        "BOOL" => Dtype::Bool,
        "C64" => Dtype::Complex64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Layout, read as read_file};

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
}
