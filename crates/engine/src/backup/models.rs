//! Where the files lay that earlier backups of this client read, by the tensors in them: a fine-tune that comes later, under
//! whatever name, finds the model that it began from.
//!
//! A list in the local cache: of each set of tensors the first path and the newest. It names paths only; whether a snapshot still
//! has such a file, and what it holds, is looked up when it is wanted. A list that is lost, damaged or wrong costs room in the
//! repository, never data.
//!
//! What only other clients backed up is learnt from their snapshots' tensor tables ([`look_around`]), when a file comes whose tensors
//! are in no list. That is bounded, and each snapshot is looked at once: its root is in the list too.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::backup::runs::{Mark, table_signature};
use crate::entry::{Entry, Kind, TreeKey};
use crate::ids::ChunkId;
use crate::repo::Repository;
use crate::repo::cache::{Cache, write_atomically};

const MAGIC: &[u8; 8] = b"SWMODEL2";
/// So many sets of tensors are remembered, the newest.
const SETS_MAX: usize = 2048;
/// Shorter files are no models that others would begin from, in bytes.
pub(crate) const MODEL_BYTES_MIN: u64 = 4 << 20;
/// So many snapshots of others are looked at in one backup, so many entries of them, and so many tables.
const LOOK_SNAPSHOTS_MAX: usize = 16;
const LOOK_ENTRIES_MAX: usize = 1 << 17;
const LOOK_TABLES_MAX: usize = 256;
/// Of so many snapshots is remembered that they were looked at.
const LOOKED_MAX: usize = 1024;
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
    /// What this backup read or learnt.
    new: Vec<(Mark, TreeKey)>,
    /// Roots of the snapshots that this backup looked at.
    looked: Vec<ChunkId>,
}

/// The paths of each set of tensors, and when it was met last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sets {
    paths: HashMap<Mark, (u64, Vec<TreeKey>)>,
    met: u64,
    /// Roots of the snapshots that were looked at, the newest last.
    looked: Vec<ChunkId>,
}

impl Models {
    /// The list in the cache, if there is one.
    pub(crate) fn load(cache: &Cache) -> Self {
        let known = cache.models_path().and_then(|path| Sets::read(&path)).unwrap_or_default();
        Self { known, new: Vec::new(), looked: Vec::new() }
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

    /// Roots of the snapshots that were looked at.
    pub(crate) fn looked_at(&self) -> Vec<ChunkId> {
        self.known.looked.clone()
    }

    /// Takes in what [`look_around`] found.
    pub(crate) fn learn(&mut self, learnt: Learnt) {
        for (signature, key) in learnt.models {
            self.known.meet(signature, key.clone());
            self.add(signature, &key);
        }
        learnt.looked.iter().for_each(|root| self.known.look(*root));
        self.looked.extend(learnt.looked);
    }

    /// What this backup read is published, as the tree `root` against that of the parent: later ones may look there. Why the
    /// list is read again: another backup may have written it meanwhile.
    pub(crate) fn save(&mut self, cache: &Cache, parent: Option<&ChunkId>, root: ChunkId) {
        let Some(path) = cache.models_path() else { return };
        let known = Sets::read(&path);
        if known.is_none() && self.new.is_empty() && self.looked.is_empty() {
            return;
        }
        let mut sets = known.unwrap_or_default();
        for (signature, key) in self.new.drain(..) {
            sets.meet(signature, key);
        }
        self.looked.drain(..).for_each(|root| sets.look(root));
        // Why: where all that the parent has is in the list, so is all of this snapshot.
        if parent.is_none_or(|parent| sets.looked.contains(parent)) {
            sets.look(root);
        }
        sets.forget_oldest();
        // Why ignored: it is a hint.
        let _ = write_atomically(&path, |out| sets.write(out));
    }
}

/// What others' snapshots tell: signatures with paths, and the roots of those snapshots.
#[derive(Debug, Default)]
pub(crate) struct Learnt {
    models: Vec<(Mark, TreeKey)>,
    looked: Vec<ChunkId>,
}

/// Learns where files with tensors lie in the newest snapshot of each source, other clients' too. Of each that is not in
/// `known` the entries are read, and the tensor tables of its large files; nothing for a key that may not read. What can't be
/// read is passed over.
pub(crate) fn look_around(repository: &Repository, known: &[ChunkId]) -> Learnt {
    let mut learnt = Learnt::default();
    if !repository.can_read_data() {
        return learnt;
    }
    let mut sources = HashSet::new();
    let snapshots = repository.snapshots().into_iter().rev().map(|snapshot| snapshot.record);
    let newest = snapshots.filter(|record| sources.insert((record.host.clone(), record.paths.clone())));
    let unseen = newest.map(|record| record.root).filter(|root| !known.contains(root));
    learnt.looked = unseen.take(LOOK_SNAPSHOTS_MAX).collect();
    // Why the oldest first: of a set the path that is met last is the newest.
    learnt.looked.reverse();
    let (mut entries, mut tables) = (LOOK_ENTRIES_MAX, LOOK_TABLES_MAX);
    for root in &learnt.looked {
        for (key, entry) in repository.tree(root).entries().map_while(Result::ok).take(entries) {
            entries -= 1;
            let Entry { kind: Kind::File(_), size: MODEL_BYTES_MIN.., table: Some(table), .. } = entry else {
                continue;
            };
            if tables == 0 {
                break;
            }
            tables -= 1;
            let signature = repository.read_table(&table).ok().and_then(|table| table_signature(&table));
            learnt.models.extend(signature.map(|signature| (signature, key)));
        }
    }
    learnt
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

    fn look(&mut self, root: ChunkId) {
        self.looked.retain(|known| *known != root);
        self.looked.push(root);
        let surplus = self.looked.len().saturating_sub(LOOKED_MAX);
        self.looked.drain(..surplus);
    }

    fn forget_oldest(&mut self) {
        while self.paths.len() > SETS_MAX {
            let oldest = self.paths.iter().min_by_key(|(_, (met, _))| *met).map(|(signature, _)| *signature);
            oldest.map(|signature| self.paths.remove(&signature));
        }
    }

    /// The roots, after how many they are; the sets, oldest first, each with its paths; a hash over all behind them.
    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut sets: Vec<_> = self.paths.iter().collect();
        sets.sort_unstable_by_key(|(_, (met, _))| *met);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&u32::try_from(self.looked.len()).unwrap_or(0).to_le_bytes());
        self.looked.iter().for_each(|root| bytes.extend_from_slice(&root.0));
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
        let (count, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(HASH_BYTES)?;
        let (roots, after) = after.split_at_checked(length)?;
        sets.looked = roots.as_chunks::<HASH_BYTES>().0.iter().map(|root| ChunkId(*root)).collect();
        rest = after;
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

/// A list, read and written again; none where it is damaged. For tests: what is remembered stays the same.
#[must_use]
pub fn rewritten(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Sets::parse(bytes)?.write(&mut out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::RepositoryId;

    const ROOT: ChunkId = ChunkId([7; 32]);

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
            models.save(&cache, None, ROOT);
        }
        assert_eq!(Models::load(&cache).find(&mark(0)), [key(0), key(2)]);

        let mut models = Models::load(&cache);
        for number in 1..=SETS_MAX {
            models.add(mark(number), &key(number));
        }
        models.add(mark(1), &TreeKey(vec![b'a'; KEY_BYTES_MAX + 1]));
        models.save(&cache, None, ROOT);
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
        one.save(&cache, None, ROOT);
        two.save(&cache, None, ROOT);
        let models = Models::load(&cache);
        assert_eq!((models.find(&mark(1)), models.find(&mark(2))), (&[key(1)][..], &[key(2)][..]));
        assert!(Models::load(&Cache::default()).find(&mark(1)).is_empty());
    }

    /// A client's own snapshot need not be looked at where the list knows all that it took over from its parent.
    #[test]
    fn own_snapshots_are_known_by_their_parents() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::new(Some(directory.path()), &RepositoryId([1; 16]));
        let roots = [1, 2, 3, 4].map(|number| ChunkId([number; 32]));
        Models::load(&cache).save(&cache, None, roots[0]);
        assert_eq!(Models::load(&cache).looked_at(), [], "nothing to remember, no list");
        for (parent, root) in [(None, roots[0]), (Some(&roots[0]), roots[1]), (Some(&roots[3]), roots[2])] {
            let mut models = Models::load(&cache);
            models.add(mark(1), &key(1));
            models.save(&cache, parent, root);
        }
        assert_eq!(Models::load(&cache).looked_at(), roots[..2]);
        let mut models = Models::load(&cache);
        models.learn(Learnt { models: vec![(mark(2), key(2))], looked: vec![roots[3]] });
        assert_eq!(models.find(&mark(2)), [key(2)]);
        models.save(&cache, Some(&roots[3]), roots[2]);
        let models = Models::load(&cache);
        assert_eq!(
            (models.find(&mark(2)), models.looked_at()),
            (&[key(2)][..], vec![roots[0], roots[1], roots[3], roots[2]])
        );
    }

    #[test]
    fn a_damaged_list_is_none() {
        let mut sets = Sets::default();
        sets.meet(mark(1), key(1));
        sets.meet(mark(2), key(2));
        (0..3).for_each(|root| sets.look(ChunkId([root; 32])));
        sets.look(ChunkId([0; 32]));
        assert_eq!(sets.looked, [1, 2, 0].map(|root| ChunkId([root; 32])));
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
