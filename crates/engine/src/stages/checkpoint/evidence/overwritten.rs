//! Was a checkpoint overwritten in place, and not to its end? A resumed job that comes to the same step again writes over it;
//! killed then, it leaves new files beside old ones, under a marker that is old too.
//!
//! A file that was written after the marker gives it away. Yet some ordinary saves end a little after their marker, as where one
//! rank writes it and another still writes its part. So a file counts as new only if it came later after the marker than
//! the save took before it, from its oldest file to the marker; and at least by what clocks of several writers may differ.
//! Times are modification times; a copy that lost them looks as if it had been overwritten, and the reason tells the way out.

use super::super::listing::Seen;
use crate::clock::Timestamp;

/// Clocks of several writers may differ by so many seconds.
const SKEW_SECONDS: i64 = 2;

/// When the files of a checkpoint were written, that its marker vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Written {
    /// When the first of them was.
    pub oldest: Timestamp,
    /// When the last of them was.
    pub newest: Timestamp,
    /// Which one that is.
    pub last: String,
    /// The longest time between one and the next, in nanoseconds.
    pub gap: i128,
}

impl Written {
    /// Of these files; none where there are none.
    pub fn of<'s>(files: impl Iterator<Item = &'s Seen>) -> Option<Self> {
        let mut files: Vec<&Seen> = files.collect();
        files.sort_by_key(|file| file.mtime);
        let (oldest, newest) = (files.first()?.mtime, files.last()?.mtime);
        let gap = files.windows(2).map(|pair| nanos(pair[1].mtime) - nanos(pair[0].mtime)).max().unwrap_or(0);
        let last = files.iter().find(|file| file.mtime == newest)?.text().to_owned();
        Some(Self { oldest, newest, last, gap })
    }

    /// How long writing them took, in nanoseconds.
    pub fn took(&self) -> i128 {
        nanos(self.newest) - nanos(self.oldest)
    }

    /// Whether the last file came after a marker of that time, by more than clocks differ.
    pub fn is_after(&self, marker: Timestamp) -> bool {
        nanos(self.newest) - nanos(marker) > i128::from(SKEW_SECONDS) * 1_000_000_000
    }

    /// Whether the last file came so long after the marker of this very save that it is of another save.
    pub fn is_of_another_save(&self, marker: Timestamp) -> bool {
        is_of_another_save(self.newest, self.oldest, marker, SKEW_SECONDS)
    }
}

/// Whether a file came later after the marker than the save took before it, from its oldest file to the marker, and more than
/// so many seconds later.
pub(super) fn is_of_another_save(file: Timestamp, oldest: Timestamp, marker: Timestamp, skew_seconds: i64) -> bool {
    let took = nanos(marker) - nanos(oldest);
    nanos(file) - nanos(marker) > took.max(i128::from(skew_seconds) * 1_000_000_000)
}

/// Why i128: times of files may be anything.
fn nanos(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}
