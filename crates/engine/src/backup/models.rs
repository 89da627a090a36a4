//! Where the files lay that earlier backups of this client read, by the tensors in them: a fine-tune that comes later, under
//! whatever name, finds the model that it began from.
//!
//! A list in the local cache: of each set of tensors the first path and the newest. It names paths only; whether a snapshot still
//! has such a file, and what it holds, is looked up when it is wanted. A list that is lost, damaged or wrong costs room in the
//! repository, never data.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::backup::runs::Mark;
use crate::entry::TreeKey;
use crate::repo::cache::{Cache, write_atomically};

const MAGIC: &[u8; 8] = b"SWMODEL1";
/// So many sets of tensors are remembered, the newest.
const SETS_MAX: usize = 2048;
/// Longer paths are not remembered, in bytes.
const KEY_BYTES_MAX: usize = 4096;
/// No list is longer, in bytes; a longer one is damage.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// Length of the hash at the end.
const HASH_BYTES: usize = 32;

/// Paths by what their files hold.
#[derive(Debug, Default)]
pub(crate) struct Models {
    known: Sets,
    /// What this backup read.
    new: Vec<(Mark, TreeKey)>,
}

/// The paths of each set of tensors, and when it was met last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sets {
    paths: HashMap<Mark, (u64, Vec<TreeKey>)>,
    met: u64,
}

impl Models {
    /// The list in the cache, if there is one.
    pub(crate) fn load(cache: &Cache) -> Self {
        let known = cache.models_path().and_then(|path| Sets::read(&path)).unwrap_or_default();
        Self { known, new: Vec::new() }
    }

    /// Where files with these tensors lay in earlier backups: the first, and the newest.
    pub(crate) fn find(&self, signature: &Mark) -> &[TreeKey] {
        self.known.paths.get(signature).map_or(&[], |(_, keys)| keys)
    }

    /// A file with these tensors was read.
    pub(crate) fn add(&mut self, signature: Mark, key: &TreeKey) {
        if self.new.len() == 2 * SETS_MAX {
            // Why: memory is bounded, and no more sets than that stay.
            self.new.drain(..SETS_MAX);
        }
        self.new.push((signature, key.clone()));
    }

    /// What this backup read is published: later ones may look there. Why the list is read again: another backup may have
    /// written it meanwhile.
    pub(crate) fn save(&mut self, cache: &Cache) {
        let Some(path) = cache.models_path().filter(|_| !self.new.is_empty()) else { return };
        let mut sets = Sets::read(&path).unwrap_or_default();
        for (signature, key) in self.new.drain(..) {
            sets.meet(signature, key);
        }
        sets.forget_oldest();
        // Why ignored: it is a hint.
        let _ = write_atomically(&path, |out| sets.write(out));
    }
}

impl Sets {
    fn meet(&mut self, signature: Mark, key: TreeKey) {
        if key.0.len() > KEY_BYTES_MAX {
            return;
        }
        self.met += 1;
        let (met, keys) = self.paths.entry(signature).or_default();
        *met = self.met;
        if keys.first() != Some(&key) {
            keys.truncate(1);
            keys.push(key);
        }
    }

    fn forget_oldest(&mut self) {
        while self.paths.len() > SETS_MAX {
            let oldest = self.paths.iter().min_by_key(|(_, (met, _))| *met).map(|(signature, _)| *signature);
            oldest.map(|signature| self.paths.remove(&signature));
        }
    }

    /// The sets, oldest first, each with its paths; a hash over all behind them.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut sets: Vec<_> = self.paths.iter().collect();
        sets.sort_unstable_by_key(|(_, (met, _))| *met);
        let mut bytes = MAGIC.to_vec();
        for (signature, (_, keys)) in sets {
            for key in keys {
                bytes.extend_from_slice(signature);
                bytes.extend_from_slice(&u32::try_from(key.0.len()).unwrap_or(0).to_le_bytes());
                bytes.extend_from_slice(&key.0);
            }
        }
        out.write_all(&bytes)?;
        out.write_all(blake3::hash(&bytes).as_bytes())
    }

    fn read(path: &Path) -> Option<Self> {
        if fs::metadata(path).ok()?.len() > LIST_BYTES_MAX {
            return None;
        }
        Self::parse(&fs::read(path).ok()?)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (content, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        let mut rest = content.strip_prefix(MAGIC)?;
        if blake3::hash(content).as_bytes() != hash {
            return None;
        }
        let mut sets = Self::default();
        while !rest.is_empty() {
            let (signature, after) = rest.split_first_chunk::<16>()?;
            let (length, after) = after.split_first_chunk::<4>()?;
            let (key, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            sets.meet(*signature, TreeKey(key.to_vec()));
            rest = after;
        }
        Some(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepositoryId;

    fn key(number: usize) -> TreeKey {
        TreeKey(format!("models/{number}").into_bytes())
    }

    fn mark(number: usize) -> Mark {
        *blake3::hash(&(number as u64).to_le_bytes()).as_bytes().first_chunk().unwrap()
    }

    #[test]
    fn the_first_path_and_the_newest_stay_and_the_oldest_sets_go() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path()), &RepositoryId([1; 16]));
        for round in 0..3 {
            let mut models = Models::load(&cache);
            assert!(models.find(&mark(0)).len() == round.min(2));
            models.add(mark(0), &key(round));
            models.add(mark(0), &key(round));
            models.save(&cache);
        }
        assert_eq!(Models::load(&cache).find(&mark(0)), [key(0), key(2)]);

        let mut models = Models::load(&cache);
        for number in 1..=SETS_MAX {
            models.add(mark(number), &key(number));
        }
        models.add(mark(1), &TreeKey(vec![b'a'; KEY_BYTES_MAX + 1]));
        models.save(&cache);
        let models = Models::load(&cache);
        assert!(models.find(&mark(0)).is_empty(), "it was met before all others");
        assert!((1..=SETS_MAX).all(|number| models.find(&mark(number)) == [key(number)]));
    }

    #[test]
    fn two_backups_at_once_keep_what_both_met() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path()), &RepositoryId([1; 16]));
        let [mut one, mut two] = [Models::load(&cache), Models::load(&cache)];
        one.add(mark(1), &key(1));
        two.add(mark(2), &key(2));
        one.save(&cache);
        two.save(&cache);
        let models = Models::load(&cache);
        assert_eq!((models.find(&mark(1)), models.find(&mark(2))), (&[key(1)][..], &[key(2)][..]));
        assert!(Models::load(&Cache::default()).find(&mark(1)).is_empty());
    }

    #[test]
    fn a_damaged_list_is_none() {
        let mut sets = Sets::default();
        sets.meet(mark(1), key(1));
        sets.meet(mark(2), key(2));
        let mut bytes = Vec::new();
        sets.write(&mut bytes).unwrap();
        assert_eq!(Sets::parse(&bytes), Some(sets));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Sets::parse(&changed), None, "byte {at}");
            assert_eq!(Sets::parse(&bytes[..at]), None, "cut at {at}");
        }
        // One with a right hash and a wrong length.
        let mut content = bytes[..bytes.len() - HASH_BYTES - 1].to_vec();
        content.extend_from_slice(blake3::hash(&content.clone()).as_bytes());
        assert_eq!(Sets::parse(&content), None);
    }
}
