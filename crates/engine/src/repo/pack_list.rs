//! What a stored pack says that it holds: by its footer; where that is damaged by what its parity gives back, or else by
//! the blobs themselves.
//!
//! A blob's header tells in clear where the next one begins, and its body, once opened, all that a footer says of it
//! (docs/format.md §6). Nothing is believed for standing there: a footer is sealed, and so is each blob with its header.

use std::ops::Range;

use crate::codec::BodyHeader;
use crate::crypto::blob::PackCipher;
use crate::error::{Damaged, Error, Result};
use crate::format::names::PackName;
use crate::format::pack::{
    BlobKind, BlobRecord, HEADER_BYTES, TRAILER_BYTES, blob_at, decode_footer, decode_header, decode_trailer, open_blob,
};
use crate::ids::ChunkId;
use crate::repo::object::read_object;
use crate::repo::repository::Repository;
use crate::units::PACK_BYTES_MAX;

/// Every sealed object begins like this.
const FOOTER_MAGIC: &[u8] = b"SWSEAL01";

/// What a pack holds.
#[derive(Debug)]
pub(crate) struct PackList {
    pub(crate) kind: BlobKind,
    /// In order of place.
    pub(crate) records: Vec<BlobRecord>,
    /// There is nothing else in it.
    pub(crate) is_all: bool,
}

/// The list of a stored pack of this length, from its header and footer.
///
/// # Errors
/// [`Error::Damaged`] where they are not what they must be; when the store fails.
pub(crate) fn read_list(repository: &Repository, name: &PackName, length: u64) -> Result<PackList> {
    let (store, object) = (repository.store(), name.object());
    let tail = store.get(&object, Some(length.saturating_sub(TRAILER_BYTES as u64)..length))?;
    let trailer = decode_trailer(name, length, &tail)?;
    let footer = store.get(&object, Some(trailer.footer()))?;
    let header = store.get(&object, Some(0..HEADER_BYTES as u64))?;
    let records = decode_footer(&repository.keys().index_key, name, &footer)?;
    if !trailer.fits(&records) {
        return Err(Damaged::new(object, trailer.footer().start, "its blobs do not end where its footer begins").into());
    }
    Ok(PackList { kind: decode_header(name, &header)?.kind, records, is_all: true })
}

/// The list of a pack whose footer or header is damaged; none where nothing of it can be had.
///
/// # Errors
/// When the store fails: what it hides may well be there.
pub(crate) fn recover_list(repository: &Repository, name: &PackName) -> Result<Option<PackList>> {
    let mended = mended_list(repository, name)?;
    if mended.is_some() { Ok(mended) } else { blob_by_blob(repository, name) }
}

fn mended_list(repository: &Repository, name: &PackName) -> Result<Option<PackList>> {
    let Some(mended) = repository.mend(name)? else { return Ok(None) };
    let part = |range: Range<u64>| -> Result<Vec<u8>> {
        let mut bytes = repository.store().get(&name.object(), Some(range.clone()))?;
        // Why: the end may be cut off.
        bytes.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
        mended.apply(range.start, &mut bytes);
        Ok(bytes)
    };
    let (footer, header) = (part(mended.footer())?, part(0..HEADER_BYTES as u64)?);
    let records = decode_footer(&repository.keys().index_key, name, &footer);
    let (Ok(records), Ok(header)) = (records, decode_header(name, &header)) else { return Ok(None) };
    Ok(Some(PackList { kind: header.kind, records, is_all: true }))
}

/// Opens blob after blob, as far as their headers lead.
fn blob_by_blob(repository: &Repository, name: &PackName) -> Result<Option<PackList>> {
    let bytes = match read_object(repository.store(), &name.object(), PACK_BYTES_MAX) {
        Err(Error::Damaged(_)) => return Ok(None),
        read => read?,
    };
    let length = bytes.len() as u64;
    let keys = match repository.session_key(&name.session) {
        Ok(key) => std::iter::once(key).chain(repository.other_session_keys(&name.session)),
        Err(error @ Error::Store(_)) if !error.is_damage() => return Err(error),
        Err(_) => return Ok(None),
    };
    let ciphers: Vec<PackCipher> = keys.map(|key| PackCipher::new(&key, name)).collect();
    let (mut place, mut records, mut kind, mut unopened) = (HEADER_BYTES, Vec::new(), None, 0);
    for number in 0.. {
        let Some(blob) = blob_at(&bytes, place, number) else { break };
        match ciphers.iter().find_map(|cipher| open(cipher, name, &bytes[place..blob.end], place, &blob.id)) {
            Some(record) => {
                kind.get_or_insert(blob.kind);
                records.push(record);
            }
            None => unopened += 1,
        }
        place = blob.end;
    }
    let end = decode_trailer(name, length, &bytes).ok().map(|trailer| trailer.footer().start);
    let is_end = end == Some(place as u64) || bytes.get(place..).is_some_and(|rest| rest.starts_with(FOOTER_MAGIC));
    let is_all = unopened == 0 && is_end;
    Ok(kind.map(|kind| PackList { kind, records, is_all }))
}

/// What a footer would say of this blob; none where it is not whole.
fn open(cipher: &PackCipher, name: &PackName, blob: &[u8], place: usize, id: &ChunkId) -> Option<BlobRecord> {
    let mut blob = blob.to_vec();
    let body = open_blob(cipher, name, place as u64, &mut blob, id).ok()?;
    let (header, _) = BodyHeader::parse(&blob[body.clone()]).ok()?;
    let sealed_len = u32::try_from(blob.len() - body.start).ok()?;
    let BodyHeader { codec, plain_len, base, .. } = header;
    Some(BlobRecord { id: *id, offset: u32::try_from(place).ok()?, sealed_len, plain_len, codec, base })
}
