//! Damaged packs of which nothing is lost, because their parity gives all of it back.
//!
//! Looked at once the other stages have found what is damaged. Such a pack is named, and it is not recorded in the log:
//! snapshots still restore, and a later backup may lean on what it holds. It has spent its parity on this damage,
//! though, so it should be replaced before the next ([`mod@crate::repair`] does).
//!
//! Invariant: only damaged bytes count as mended. A pack that is as it was written and does not fit the index stays
//! damage, as does one with a chunk that can't be read from the mended bytes either.

use std::collections::BTreeSet;

use super::{Check, Damage};
use crate::error::{Error, Result};
use crate::format::names::PackName;
use crate::format::pack::{check_pack, decode_footer};
use crate::format::parity::Mended;
use crate::ids::ChunkId;
use crate::monitor::Problem;
use crate::repo::object::read_object;
use crate::repo::{BlobReader, tell_mended};
use crate::units::PACK_BYTES_MAX;

/// The damaged packs of which nothing is lost.
pub(super) fn gather(check: &Check<'_>) -> Result<BTreeSet<PackName>> {
    note_silent(check);
    let mut reader = check.repository.blob_reader();
    let mut mended = BTreeSet::new();
    for (pack, chunks) in check.findings.packs() {
        check.go_on()?;
        if let Ok(Some(given)) = check.repository.mend(&pack)
            && is_damaged(check, &pack, &given)
            && has_footer(check, &pack, &given)
            && (!check.repository.can_read_data() || chunks.iter().all(|id| is_readable(check, &mut reader, &pack, id)))
        {
            mended.insert(pack);
        }
    }
    Ok(mended)
}

/// Trees are read with the help of parity, without a word; here the packs are named.
fn note_silent(check: &Check<'_>) {
    let told = check.repository.mended_packs();
    let told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (pack, shards) in told.iter().filter(|(pack, _)| !check.findings.has(&pack.object())) {
        check.findings.object(&pack.object(), format!("{shards} of its pieces are damaged"));
    }
}

/// Tells of each as a problem; packs that were read with the help of parity are all in the report now.
pub(super) fn tell(check: &Check<'_>, mended: &[Damage]) {
    tell_mended(&check.repository.mended_packs(), &mut |_| {});
    for damage in mended {
        let what = format!("{}; its parity gives everything back, and `repair` stores it anew", damage.what);
        check.monitor.problem(Problem { subject: damage.object.clone(), what, code: "mended" });
    }
}

/// True if bytes of it are not what was written.
fn is_damaged(check: &Check<'_>, pack: &PackName, given: &Mended) -> bool {
    given.damaged_shards() > 0
        || match read_object(check.repository.store(), &pack.object(), PACK_BYTES_MAX) {
            Ok(bytes) => check_pack(pack, &bytes).is_err(),
            Err(Error::Store(error)) => error.is_bad_medium(),
            Err(error) => matches!(error, Error::Damaged(_)),
        }
}

fn has_footer(check: &Check<'_>, pack: &PackName, given: &Mended) -> bool {
    let Ok(Some(mut footer)) = check.repository.get_as_far(pack, given.footer()) else { return false };
    given.apply(given.footer().start, &mut footer.bytes);
    decode_footer(&check.repository.keys().index_key, pack, &footer.bytes).is_ok()
}

/// True if the copies of a chunk in this pack can be read from its mended bytes.
fn is_readable(check: &Check<'_>, reader: &mut BlobReader<'_>, pack: &PackName, id: &ChunkId) -> bool {
    let mut plain = Vec::new();
    let index = check.repository.index();
    index.copies(id).map(|found| found.location).filter(|location| location.pack == *pack).all(|location| {
        let blob = check.repository.fetch_mended(&location);
        blob.is_ok_and(|blob| blob.is_some_and(|mut blob| reader.decode(id, &location, &mut blob, &mut plain).is_ok()))
    })
}
