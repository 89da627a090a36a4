//! The small files of a run that name its newest finished checkpoint: `latest` (DeepSpeed),
//! `latest_checkpointed_iteration.txt` (Megatron), `dlrover_latest.txt` (DLRover).
//!
//! They are written after a checkpoint is finished, but with plain writes: a crash leaves them empty, or on an older step.
//! So a tracker is asked for one thing, whether a checkpoint was committed; that its files are there is for others to see.

use std::fs;
use std::path::Path;

use super::evidence::Written;
use super::names;
use crate::clock::Timestamp;

/// Their names, and which one a layout can't do without.
pub(super) const DEEPSPEED: &str = "latest";
pub(super) const MEGATRON: &str = "latest_checkpointed_iteration.txt";
pub(super) const DLROVER: &str = "dlrover_latest.txt";
/// Longer files are no trackers, in bytes.
const BYTES_MAX: u64 = 4096;

/// A step of which no file was written for so many times as long as other steps took in all has files of two saves;
const SAVES_APART: i128 = 4;
/// and not below so many seconds. Why so many: a slow disk or network may keep one rank for a while.
const APART_SECONDS_MIN: i64 = 60;
const NANOS: i128 = 1_000_000_000;

/// What a tracker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Says {
    /// The file is not there.
    Missing,
    /// It is there and names nothing: torn.
    Empty,
    /// It can't be read, or is no tracker.
    Unreadable,
    /// It names a checkpoint by the name of its directory.
    Name(String),
    /// It names a checkpoint by its step.
    Step(u64),
}

/// One tracker as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tracker {
    pub name: &'static str,
    pub says: Says,
    pub mtime: Timestamp,
}

impl Tracker {
    /// Reads the tracker of this name in a run's directory.
    pub fn read(run: &Path, name: &'static str) -> Self {
        let path = run.join(name);
        let mtime = mtime(&path);
        Self { name, says: read(&path), mtime: mtime.unwrap_or_default() }
    }

    /// Why a checkpoint is not committed as far as this tells; none where it is.
    ///
    /// Why a tracker that says nothing counts against the newest step only: the ones before it were finished before that
    /// was begun. Of a run that went back to an earlier step, and left later ones behind, that is the one written last. A tracker
    /// vouches for nothing that was written after it, nor for what a later save wrote over in part before it.
    pub fn lack(&self, own: &Own, beside: &Beside) -> Option<String> {
        let told = self.lack_told(own, beside);
        told.or_else(|| if self.committed(own).is_none() { self.mixed(own, beside) } else { None })
    }

    fn lack_told(&self, own: &Own, beside: &Beside) -> Option<String> {
        let name = self.name;
        let is_newest = own.step.is_none() || own.step >= beside.newest || beside.is_last;
        let for_newest = |why: String| is_newest.then_some(why);
        let (step, shown, lies_there) = match &self.says {
            Says::Missing if beside.is_untracked => return None,
            Says::Missing => return for_newest(format!("{name} is not there")),
            Says::Empty => return for_newest(format!("{name} is empty: it was torn")).or_else(|| self.too_old(own)),
            Says::Unreadable => return for_newest(format!("{name} can't be read")),
            Says::Name(tag) if tag == own.name => return self.of_another_save(own),
            Says::Name(tag) => (names::directory(tag).map(|named| named.step), tag.clone(), (beside.is_there)(tag)),
            Says::Step(step) => {
                (Some(*step), step.to_string(), own.step == Some(*step) || beside.newest >= Some(*step))
            }
        };
        let not_this = || for_newest(format!("{name} names {shown}, not this one"));
        match (step, own.step) {
            (Some(said), Some(own)) if own > said => Some(format!("{name} names {shown}: this one is not committed")),
            (Some(said), Some(step)) if lies_there && said == step => self.of_another_save(own),
            (Some(_), Some(_)) if lies_there => self.too_old(own),
            _ if !lies_there => {
                for_newest(format!("{name} names {shown}, which is not there")).or_else(|| self.too_old(own))
            }
            // What was saved behind this one, and committed.
            (None, _) if (beside.is_later_tag)(&shown) && self.too_old(own).is_none() => None,
            (Some(_), None) if own.written.is_some() && self.too_old(own).is_none() => None,
            _ => not_this().or_else(|| self.too_old(own)),
        }
    }

    /// Told of what was written after this.
    fn too_old(&self, own: &Own) -> Option<String> {
        own.written.as_ref().filter(|written| written.is_after(self.mtime)).map(|written| self.older_than(written))
    }

    /// Told of what has this tracker and files of another save.
    fn of_another_save(&self, own: &Own) -> Option<String> {
        let written = own.written.as_ref().filter(|written| written.is_of_another_save(self.mtime));
        written.map(|written| self.older_than(written))
    }

    /// Told of what has files of two saves, by the time that lies between them.
    fn mixed(&self, own: &Own, beside: &Beside) -> Option<String> {
        let (written, usual) = own.written.as_ref().filter(|_| own.step.is_some()).zip(beside.usual_save)?;
        let limit = (SAVES_APART * usual).max(i128::from(APART_SECONDS_MIN) * NANOS);
        let (last, name, gap) = (&written.last, self.name, written.gap / NANOS);
        (written.gap > limit).then(|| {
            format!(
                "{gap} s lie between the writing of {last} and of others, and other steps took {} s: it was overwritten in part (if it was not, touch its files, then {name})",
                usual / NANOS
            )
        })
    }

    fn older_than(&self, written: &Written) -> String {
        let (last, name) = (&written.last, self.name);
        format!("{last} is newer than {name}: it was written anew and is not committed (of a mere copy, touch {name})")
    }

    /// When the checkpoint was committed, if this names it.
    pub fn committed(&self, own: &Own) -> Option<Timestamp> {
        let names_it = match &self.says {
            Says::Name(tag) => tag == own.name,
            Says::Step(step) => own.step == Some(*step),
            _ => false,
        };
        names_it.then_some(self.mtime)
    }
}

/// The checkpoint that a tracker is asked of.
pub(super) struct Own<'c> {
    pub name: &'c str,
    pub step: Option<u64>,
    /// When its files were written; none where it has a marker of its own, which tells more.
    pub written: Option<Written>,
}

/// What lies beside it in its run.
#[derive(Clone, Copy)]
pub(super) struct Beside<'b> {
    /// The newest step of the run on disk.
    pub newest: Option<u64>,
    /// Whether a directory of this name is there.
    pub is_there: &'b dyn Fn(&str) -> bool,
    /// Whether this is the name of a whole checkpoint without a step, written after this one.
    pub is_later_tag: &'b dyn Fn(&str) -> bool,
    /// True where several steps lie in the run and nobody writes a tracker.
    pub is_untracked: bool,
    /// True if it was written after every other step of the run.
    pub is_last: bool,
    /// How long other steps of the run took to write, in nanoseconds.
    pub usual_save: Option<i128>,
}

fn mtime(path: &Path) -> Option<Timestamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(Timestamp { seconds: metadata.mtime(), nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0) })
}

fn read(path: &Path) -> Says {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() => metadata,
        // Why a link counts as none: `latest` is often one, moved before what it leads to is durable.
        Ok(_) => return Says::Missing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Says::Missing,
        Err(_) => return Says::Unreadable,
    };
    if metadata.len() > BYTES_MAX {
        return Says::Unreadable;
    }
    let Ok(bytes) = fs::read(path) else { return Says::Unreadable };
    // Why zeros: what a crash leaves of a file that had grown.
    let text = String::from_utf8_lossy(&bytes).trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned();
    match text.parse() {
        _ if text.is_empty() => Says::Empty,
        Ok(step) => Says::Step(step),
        // Some trackers hold a path.
        Err(_) => match text.trim_end_matches('/').rsplit('/').next() {
            Some(name) if !name.is_empty() => Says::Name(name.to_owned()),
            _ => Says::Unreadable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_trackers_say_of_steps() {
        let name = |step| if step == 100 { "global_step100" } else { "global_step200" };
        let own = |step| Own { name: name(step), step: Some(step), written: None };
        let there = |name: &str| matches!(name, "global_step100" | "global_step200" | "best" | "behind");
        let later = |name: &str| name == "behind";
        let newest = Some(200);
        let beside = Beside {
            newest,
            is_there: &there,
            is_later_tag: &later,
            is_untracked: false,
            is_last: false,
            usual_save: None,
        };
        // The file's bytes, and what it says against steps 100 and 200, of which 200 is the newest.
        for (bytes, against_100, against_200) in [
            (Some("global_step200"), None, None),
            (Some("global_step200\n"), None, None),
            (Some("200\n"), None, None),
            (Some("/runs/a/global_step200"), None, None),
            (Some("global_step200/"), None, None),
            (Some("behind"), None, None),
            (Some("/"), None, Some("latest can't be read")),
            (Some("global_step100"), None, Some("latest names global_step100: this one is not committed")),
            (Some("100"), None, Some("latest names 100: this one is not committed")),
            (Some("global_step300"), None, Some("latest names global_step300, which is not there")),
            (Some("300"), None, Some("latest names 300, which is not there")),
            (Some("best"), None, Some("latest names best, not this one")),
            (Some(""), None, Some("latest is empty: it was torn")),
            (Some("\0\0\0\0"), None, Some("latest is empty: it was torn")),
            (None, None, Some("latest is not there")),
        ] {
            let run = tempfile::tempdir().unwrap();
            if let Some(bytes) = bytes {
                fs::write(run.path().join(DEEPSPEED), bytes).unwrap();
            }
            let tracker = Tracker::read(run.path(), DEEPSPEED);
            for (step, against) in [(100, against_100), (200, against_200)] {
                assert_eq!(tracker.lack(&own(step), &beside).as_deref(), against, "{bytes:?} of {step}");
            }
            // Step 100 was written last: what says nothing counts against it too.
            let last = Beside { is_last: true, ..beside };
            let says_nothing = against_200.is_some_and(|why| !why.contains("not committed"));
            assert_eq!(tracker.lack(&own(100), &last).is_some(), says_nothing, "{bytes:?}");
            let names_200 = bytes.is_some_and(|bytes| bytes.contains("200"));
            assert_eq!(tracker.committed(&own(200)).is_some(), names_200, "{bytes:?}");
        }
    }
}
