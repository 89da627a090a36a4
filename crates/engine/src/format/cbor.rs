//! CBOR as this format uses it: definite lengths, maps with ascending integer keys (docs/format.md, introduction).
//!
//! Small pieces over minicbor that the object modules share. Decoders work with minicbor's error, which carries the
//! position, and become [`Damaged`] at the edge ([`whole`]). Unknown map keys are skipped; unknown shapes are refused.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use crate::clock::Timestamp;
use crate::crypto::Secret32;
use crate::error::Damaged;

pub(super) type Failure = minicbor::decode::Error;
pub(super) type Read<T> = Result<T, Failure>;
pub(super) type Sink<'a> = Encoder<&'a mut Vec<u8>>;
pub(super) type Written = Result<(), minicbor::encode::Error<Infallible>>;

pub(super) const NANOS_MAX: u32 = 999_999_999;

/// Appends what `body` writes.
pub(super) fn write(out: &mut Vec<u8>, body: impl FnOnce(&mut Sink) -> Written) {
    body(&mut Encoder::new(out)).expect("appending to memory does not fail");
}

/// Writes a time as `[seconds, nanoseconds]`.
pub(super) fn write_time(sink: &mut Sink, time: Timestamp) -> Written {
    // Why min: a broken file system driver may report more, and what is written must be readable.
    sink.array(2)?.i64(time.seconds)?.u32(time.nanos.min(NANOS_MAX))?.ok()
}

/// Reads one value that fills `bytes` to the end.
pub(super) fn whole<'b, T>(
    object: &str,
    bytes: &'b [u8],
    read: impl FnOnce(&mut Decoder<'b>) -> Read<T>,
) -> Result<T, Damaged> {
    let mut decoder = Decoder::new(bytes);
    let value = read(&mut decoder).map_err(|failure| damaged(object, &failure))?;
    if decoder.position() != bytes.len() {
        return Err(Damaged::new(object, decoder.position() as u64, "bytes after the end"));
    }
    Ok(value)
}

/// A decoder's failure as damage of `object`.
pub(super) fn damaged(object: &str, failure: &Failure) -> Damaged {
    Damaged::new(object, failure.position().unwrap_or(0) as u64, failure.to_string())
}

/// A refusal at the decoder's position.
pub(super) fn refuse<T>(decoder: &Decoder, why: &'static str) -> Read<T> {
    Err(Failure::message(why).at(decoder.position()))
}

/// The value of a field that must be there.
pub(super) fn required<T>(decoder: &Decoder, field: Option<T>, name: &'static str) -> Read<T> {
    match field {
        Some(value) => Ok(value),
        None => Err(Failure::message(format_args!("no field {name}")).at(decoder.position())),
    }
}

/// Reads a map. `each` gets a key and reads its value, or returns false for a key it does not know.
pub(super) fn fields<'b>(
    decoder: &mut Decoder<'b>,
    mut each: impl FnMut(u64, &mut Decoder<'b>) -> Read<bool>,
) -> Read<()> {
    let count = map(decoder)?;
    let mut next = 0;
    for _ in 0..count {
        let key = decoder.u64()?;
        if key < next || key == u64::MAX {
            return refuse(decoder, "map keys are not ascending");
        }
        next = key + 1;
        if !each(key, decoder)? {
            skip(decoder)?;
        }
    }
    Ok(())
}

/// Passes over one value of any kind. Why not the library's own: that lets indefinite lengths and stray breaks pass, and
/// what is passed over decides with the rest whether an entry of the log can be read.
pub(super) fn skip(decoder: &mut Decoder) -> Read<()> {
    let mut left = 1_u64;
    while left > 0 {
        left -= 1;
        match decoder.datatype()? {
            Type::Array => left = left.saturating_add(array(decoder)?),
            Type::Map => left = left.saturating_add(map(decoder)?.saturating_mul(2)),
            Type::Tag => {
                decoder.tag()?;
                left = left.saturating_add(1);
            }
            Type::ArrayIndef | Type::MapIndef | Type::BytesIndef | Type::StringIndef | Type::Break => {
                return refuse(decoder, "an indefinite length");
            }
            _ => decoder.skip()?,
        }
    }
    Ok(())
}

/// Reads the head of a map: its length.
fn map(decoder: &mut Decoder) -> Read<u64> {
    match decoder.map()? {
        Some(length) => Ok(length),
        None => refuse(decoder, "a map without length"),
    }
}

/// Reads the head of an array: its length.
pub(super) fn array(decoder: &mut Decoder) -> Read<u64> {
    match decoder.array()? {
        Some(length) => Ok(length),
        None => refuse(decoder, "an array without length"),
    }
}

/// Reads the head of an array of exactly `length` items.
pub(super) fn tuple(decoder: &mut Decoder, length: u64) -> Read<()> {
    if array(decoder)? == length { Ok(()) } else { refuse(decoder, "an array of another length") }
}

/// Reads an array of like items, each at least `item_bytes_min` long.
pub(super) fn list<'b, T>(
    decoder: &mut Decoder<'b>,
    item_bytes_min: usize,
    mut item: impl FnMut(&mut Decoder<'b>) -> Read<T>,
) -> Read<Vec<T>> {
    let count = array(decoder)?;
    let mut items = Vec::with_capacity(room(decoder, count, item_bytes_min));
    for _ in 0..count {
        items.push(item(decoder)?);
    }
    Ok(items)
}

/// How many of `count` items may be allocated for at once: no more than the rest of the input can hold.
pub(super) fn room(decoder: &Decoder, count: u64, item_bytes_min: usize) -> usize {
    let rest = decoder.input().len() - decoder.position();
    usize::try_from(count).unwrap_or(usize::MAX).min(rest / item_bytes_min)
}

/// Reads a byte string of exactly `N` bytes.
pub(super) fn bytes<const N: usize>(decoder: &mut Decoder) -> Read<[u8; N]> {
    match decoder.bytes()?.try_into() {
        Ok(bytes) => Ok(bytes),
        Err(_) => refuse(decoder, "a byte string of another length"),
    }
}

/// Reads a secret of 32 bytes.
pub(super) fn secret(decoder: &mut Decoder) -> Read<Secret32> {
    bytes(decoder).map(Secret32::new)
}

/// Reads `[seconds, nanoseconds]`.
pub(super) fn time(decoder: &mut Decoder) -> Read<Timestamp> {
    tuple(decoder, 2)?;
    let time = Timestamp { seconds: decoder.i64()?, nanos: decoder.u32()? };
    if time.nanos > NANOS_MAX { refuse(decoder, "a second has less nanoseconds") } else { Ok(time) }
}
