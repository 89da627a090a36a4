//! Drift: the statistics stored with two files, or with the files of two directories, held against each other.
//!
//! Neither headers nor numbers are read: only the tree, and the tensor table of each file. Files of two directories belong
//! together where their paths below those are the same. What is found is [`Break`](crate::statistics::compare::Break), as a backup
//! finds it against the checkpoint before.
//!
//! A file that has statistics on one side only is told, never passed over: one that had them and now has none may have
//! lost its header.

use super::files::{Found, Metadata, is_part, stem};
use super::listing::code;
use super::names::Names;
use crate::entry::{TableRef, TreeKey, without_digits};
use crate::error::{Error, Result};
use crate::ids::ChunkId;
use crate::monitor::{Monitor, Phase, Problem};
use crate::repo::Repository;
use crate::repo::tree::TreeEntries;
use crate::statistics::compare::{Break, Row, rows};
use crate::statistics::table::TensorTable;

/// So many paths are named where one was to be chosen.
const NAMED_MAX: usize = 5;

/// One of the two that are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// The root of the tree.
    pub root: ChunkId,
    /// A file in it, or a directory: then all files below it.
    pub from: TreeKey,
}

/// Two files, and how their tensors differ.
#[derive(Debug, Clone, PartialEq)]
pub struct FileDrift<'t> {
    /// The old file's path; none where only the new side has it.
    pub old: Option<&'t TreeKey>,
    /// The new file's path; none where only the old side has it.
    pub new: Option<&'t TreeKey>,
    /// Their tensors that match, in the order of [`rows`].
    pub rows: Vec<Row<'t>>,
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriftReport {
    /// Files given: pairs, and files that only one side has.
    pub files: u64,
    /// Tensors given.
    pub tensors: u64,
    /// Tensors of which both sides have statistics, of one kind and shape.
    pub compared: u64,
    /// Findings that hint at damage ([`Break::is_warning`]).
    pub warnings: u64,
    /// Tensors that are new.
    pub appeared: u64,
    /// Tensors that are gone.
    pub vanished: u64,
    /// Tensors of another kind or shape.
    pub reshaped: u64,
    /// Problems told to the monitor.
    pub problems: u64,
}

/// Gives `each` the tensors of the files of `new` against those of `old`, file by file, in order of their paths.
///
/// # Errors
/// [`Error::NotFound`] where a side is not there, where no file has statistics on either side, and of single files also
/// where one of them has none, and where no tensor of either has a name as asked for; [`Error::Usage`] for a file against a directory and for what is no pattern; damage of a
/// tree; what `each` fails with. A table that can't be read is a problem, as is a file that had one and has none now.
pub fn compare(
    repository: &Repository,
    old: &Side,
    new: &Side,
    names: &[String],
    monitor: &dyn Monitor,
    each: &mut dyn FnMut(&FileDrift<'_>) -> Result<()>,
) -> Result<DriftReport> {
    repository.refuse_unable_to_read()?;
    let names = Names::new(names)?;
    monitor.phase(Phase::Opening);
    let is_single = is_file(repository, new)?;
    if is_file(repository, old)? != is_single {
        return Err(Error::Usage(format!(
            "{} and {}: one is a file, one a directory",
            shown(&old.from),
            shown(&new.from)
        )));
    }
    let metadata = |side: &Side| Metadata::new(repository, &side.root);
    let (metadata, report, is_seen) = ([metadata(old), metadata(new)], DriftReport::default(), false);
    let mut drifts = Drifts { repository, names, monitor, metadata, report, is_seen };
    let (mut olds, mut news) = (Files::of(repository, old)?, Files::of(repository, new)?);
    loop {
        if monitor.stopped() {
            return Err(Error::Interrupted);
        }
        let (before, now) = match (&olds.next, &news.next) {
            (None, None) => break,
            (Some(before), Some(now)) => (before.below <= now.below, now.below <= before.below),
            (before, now) => (before.is_some(), now.is_some()),
        };
        let before = if before { olds.take()? } else { None };
        let now = if now { news.take()? } else { None };
        if is_single {
            [&before, &now].into_iter().flatten().try_for_each(Held::require_table)?;
        }
        drifts.pair(before, now, each)?;
    }
    if !drifts.is_seen {
        let why = "no file there was stored with statistics of its tensors, in either snapshot";
        return Err(Error::NotFound(format!("{}: {why}", shown(&new.from))));
    }
    // Why: a check that was to look at tensors, and has looked at none, must not look like one that found nothing.
    if drifts.report.tensors == 0 && drifts.report.problems == 0 && drifts.names.is_choosy() {
        return Err(Error::NotFound(format!("{}: no tensor, old or new, has a name as asked for", shown(&new.from))));
    }
    Ok(drifts.report)
}

/// The path in another tree that belongs to `path`: the same, else the one that differs from it in digits only (those of
/// another step), where that is one.
///
/// # Errors
/// [`Error::NotFound`] if there is none; [`Error::Usage`] naming them if there are several; damage of the tree.
pub fn counterpart(repository: &Repository, root: &ChunkId, path: &TreeKey) -> Result<TreeKey> {
    if path.0.is_empty() || repository.tree(root).get(path)?.is_some() {
        return Ok(path.clone());
    }
    let (wanted, depth) = (without_digits(&path.0), path.depth());
    let mut above = TreeKey::default();
    for name in path.components().take(depth - 1).take_while(|name| !name.iter().any(u8::is_ascii_digit)) {
        above = above.child(name);
    }
    let mut found = Vec::new();
    for item in repository.tree(root).within(&above) {
        let (key, _) = item?;
        if key.depth() == depth && without_digits(&key.0) == wanted {
            found.push(key);
        }
    }
    match &found[..] {
        [] => Err(Error::NotFound(format!(
            "{} is not in the other snapshot, nor a path that differs from it in digits only",
            shown(path)
        ))),
        [one] => Ok(one.clone()),
        several => {
            let mut named: Vec<String> = several.iter().take(NAMED_MAX).map(shown).collect();
            if several.len() > NAMED_MAX {
                named.push(format!("{} more", several.len() - NAMED_MAX));
            }
            let (path, named) = (shown(path), named.join(", "));
            Err(Error::Usage(format!("several paths differ from {path} in digits only; write which: {named}")))
        }
    }
}

fn shown(key: &TreeKey) -> String {
    key.to_path().display().to_string()
}

/// True for a file, false for a directory. A snapshot need not have an entry for its root.
fn is_file(repository: &Repository, side: &Side) -> Result<bool> {
    match repository.tree(&side.root).get(&side.from)? {
        Some(entry) if entry.is_file() => Ok(true),
        Some(entry) if entry.is_directory() => Ok(false),
        None if side.from.0.is_empty() => Ok(false),
        None => Err(Error::NotFound(format!("{} is not in the snapshot", shown(&side.from)))),
        Some(_) => Err(Error::NotFound(format!("{} is neither a file nor a directory", shown(&side.from)))),
    }
}

/// A file of one side.
struct Held {
    key: TreeKey,
    /// Its path below where that side begins.
    below: Vec<u8>,
    table: Option<TableRef>,
}

impl Held {
    fn require_table(&self) -> Result<()> {
        let why = "it was stored without statistics (files under 64 KiB are, and those without tensors)";
        self.table.map(|_| ()).ok_or_else(|| Error::NotFound(format!("{}: {why}", shown(&self.key))))
    }
}

/// The files of one side, in order of their paths below its beginning.
struct Files<'r> {
    entries: TreeEntries<'r>,
    from: TreeKey,
    next: Option<Held>,
}

impl<'r> Files<'r> {
    fn of(repository: &'r Repository, side: &Side) -> Result<Self> {
        let entries = repository.tree(&side.root).within(&side.from);
        let mut files = Self { entries, from: side.from.clone(), next: None };
        files.take()?;
        Ok(files)
    }

    /// Gives the next one, and looks up the one behind it.
    fn take(&mut self) -> Result<Option<Held>> {
        let taken = self.next.take();
        for item in &mut self.entries {
            let (key, entry) = item?;
            if entry.is_file() {
                let below = &key.0[self.from.0.len()..];
                let below = below.strip_prefix(&[0]).unwrap_or(below).to_vec();
                self.next = Some(Held { below, table: entry.table, key });
                break;
            }
        }
        Ok(taken)
    }
}

/// A comparison that is under way.
struct Drifts<'r> {
    repository: &'r Repository,
    names: Names,
    monitor: &'r dyn Monitor,
    /// Of the old side and of the new one.
    metadata: [Metadata<'r>; 2],
    report: DriftReport,
    /// True once a file with statistics was met.
    is_seen: bool,
}

impl Drifts<'_> {
    fn pair(
        &mut self,
        old: Option<Held>,
        new: Option<Held>,
        each: &mut dyn FnMut(&FileDrift<'_>) -> Result<()>,
    ) -> Result<()> {
        let has_table = |held: &Option<Held>| held.as_ref().is_some_and(|held| held.table.is_some());
        if !has_table(&old) && !has_table(&new) {
            return Ok(());
        }
        self.is_seen = true;
        let Some(either) = new.as_ref().or(old.as_ref()) else { return Ok(()) };
        let called = stem(&either.key);
        self.monitor.current(&either.key.to_path());
        let (Some(before), Some(now)) = (self.table(0, old.as_ref(), &called), self.table(1, new.as_ref(), &called))
        else {
            return Ok(());
        };
        match (before, now) {
            (Table::Unknown, Table::Known(now)) => {
                let key = shown(&either.key);
                self.monitor
                    .note(&format!("{key}: the old file was stored without statistics: nothing to compare with"));
                self.give(old.as_ref(), new.as_ref(), rows(None, &now), each)
            }
            (Table::Known(before), Table::Known(now)) => {
                self.give(old.as_ref(), new.as_ref(), rows(Some(&before), &now), each)
            }
            (_, Table::Unknown) => {
                let what = "the old file was stored with statistics of its tensors, this one without: no tensors were \
                    recognised in it, or it became short";
                self.problem(&either.key, "not-compared", what.to_owned());
                Ok(())
            }
        }
    }

    /// The table of a file, with the names that its tensors have for people. That of no file is empty. None where it can't
    /// be read, which is told.
    fn table(&mut self, side: usize, held: Option<&Held>, called: &str) -> Option<Table> {
        let Some(held) = held else { return Some(Table::Known(TensorTable::default())) };
        let Some(place) = &held.table else { return Some(Table::Unknown) };
        let mut table = match self.repository.read_table(place) {
            Ok(table) => table,
            Err(error) => {
                self.problem(&held.key, code(&error), format!("its statistics can't be read: {error}"));
                return None;
            }
        };
        if is_part(&held.key) {
            self.explain(side, &held.key, &mut table);
        }
        // Why the new file's: what has no name is the one tensor of its file, and that is called otherwise each step.
        let nameless = table.tensors.iter_mut().filter(|record| record.tensor.name.is_empty());
        nameless.for_each(|record| record.tensor.name = called.to_owned());
        if table.left_out > 0 {
            let (key, count) = (shown(&held.key), table.left_out);
            self.monitor.note(&format!("{key}: the statistics of {count} of its tensors were not stored: too many"));
        }
        Some(Table::Known(table))
    }

    fn explain(&mut self, side: usize, key: &TreeKey, table: &mut TensorTable) {
        let found = table.tensors.iter().map(|record| Found { tensor: record.tensor.clone(), own: None, place: None });
        let mut found: Vec<Found> = found.collect();
        if let Err(error) = self.metadata[side].explain(key, &mut found) {
            self.problem(key, code(&error), format!("the names of its tensors can't be read: {error}"));
        }
        for (record, found) in table.tensors.iter_mut().zip(found) {
            record.tensor.name = found.tensor.name;
        }
    }

    fn give(
        &mut self,
        old: Option<&Held>,
        new: Option<&Held>,
        mut rows: Vec<Row<'_>>,
        each: &mut dyn FnMut(&FileDrift<'_>) -> Result<()>,
    ) -> Result<()> {
        rows.retain(|row| self.names.is_match(row.name));
        if rows.is_empty() {
            return Ok(());
        }
        let report = &mut self.report;
        report.files += 1;
        report.tensors += rows.len() as u64;
        for row in &rows {
            report.compared += u64::from(row.drift.is_some());
            for found in &row.findings {
                let counter = match found {
                    Break::Appeared => &mut report.appeared,
                    Break::Vanished => &mut report.vanished,
                    Break::Reshaped => &mut report.reshaped,
                    _ => &mut report.warnings,
                };
                *counter += 1;
            }
        }
        each(&FileDrift { old: old.map(|held| &held.key), new: new.map(|held| &held.key), rows })
    }

    fn problem(&mut self, key: &TreeKey, code: &'static str, what: String) {
        self.report.problems += 1;
        self.monitor.problem(Problem::path(&key.to_path(), code, what));
    }
}

/// What is known of a file's tensors.
enum Table {
    /// Their statistics.
    Known(TensorTable),
    /// The file is there, without.
    Unknown,
}
