//! Which checkpoints could not be kept as they are, how often, and when each is tried again.
//!
//! A failure counts for a checkpoint as it was seen, inodes and times of change included: whatever changes about it, it is
//! another one, and tried at once. What failed because of the store waits like everything else, and no longer than until
//! something could be stored. Time comes in from outside.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use seawall_engine::stages::checkpoint::{Checkpoint, State};

use crate::quantities::duration;

/// Who looks once tries so often; who looks for ever tells after so many failures in a row that there is a problem.
pub const ATTEMPTS_MAX: u32 = 3;
/// The first pause is not longer, however seldom somebody looks.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(10);
/// No pause is longer than so many intervals between looks.
const PAUSE_MAX_INTERVALS: u32 = 10;

/// Failures in a row, of checkpoints as they are.
pub struct Attempts {
    /// How often somebody looks, for ever; none for one who ends.
    interval: Option<Duration>,
    failures: HashMap<PathBuf, Failure>,
}

struct Failure {
    checkpoint: Checkpoint,
    times: u32,
    next: Instant,
    /// The store failed, and not the checkpoint.
    is_of_store: bool,
}

/// What is known after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// How often it failed in a row.
    pub times: u32,
    /// After this time it is tried again; none where it is left.
    pub pause: Option<Duration>,
}

impl Failed {
    /// For people, behind the reason.
    #[must_use]
    pub fn text(&self) -> String {
        let times = if self.times == 1 { "once".to_owned() } else { format!("{} times in a row", self.times) };
        match self.pause {
            None => format!("failed {times}, and is not tried again"),
            Some(Duration::ZERO) => format!("failed {times}, tried again at once"),
            Some(pause) => format!("failed {times}, tried again in {}", duration(pause)),
        }
    }
}

impl Attempts {
    /// A few, one after another.
    #[must_use]
    pub fn few() -> Self {
        Self { interval: None, failures: HashMap::new() }
    }

    /// Again and again with growing pauses, for one who looks so often.
    #[must_use]
    pub fn for_ever(interval: Duration) -> Self {
        Self { interval: Some(interval), failures: HashMap::new() }
    }

    fn of(&self, checkpoint: &Checkpoint) -> Option<&Failure> {
        self.failures.get(&checkpoint.path).filter(|failure| failure.checkpoint.looks_like(checkpoint))
    }

    /// Whether a checkpoint may be tried now.
    #[must_use]
    pub fn may_try(&self, checkpoint: &Checkpoint, now: Instant) -> bool {
        self.of(checkpoint).is_none_or(|failure| match self.interval {
            Some(_) => failure.next <= now,
            None => failure.times < ATTEMPTS_MAX,
        })
    }

    /// Counts a failure of this checkpoint.
    pub fn failed(&mut self, checkpoint: &Checkpoint, now: Instant) -> Failed {
        self.count(checkpoint, now, false)
    }

    /// Counts a failure of the store.
    pub fn store_failed(&mut self, checkpoint: &Checkpoint, now: Instant) -> Failed {
        self.count(checkpoint, now, true)
    }

    fn count(&mut self, checkpoint: &Checkpoint, now: Instant, is_of_store: bool) -> Failed {
        let before = self.of(checkpoint).filter(|failure| failure.is_of_store == is_of_store);
        let times = before.map_or(0, |failure| failure.times).saturating_add(1);
        let pause = match self.interval {
            Some(interval) => Some(pause(interval, times)),
            None => (times < ATTEMPTS_MAX).then_some(Duration::ZERO),
        };
        let next = now + pause.unwrap_or_default();
        let failure = Failure { checkpoint: checkpoint.clone(), times, next, is_of_store };
        self.failures.insert(checkpoint.path.clone(), failure);
        Failed { times, pause }
    }

    /// Forgets the failures of one that was kept, and those of the store: it works.
    pub fn succeeded(&mut self, checkpoint: &Checkpoint) {
        self.failures.remove(&checkpoint.path);
        self.failures.retain(|_, failure| !failure.is_of_store);
    }

    /// Whether something waits because the store failed.
    #[must_use]
    pub fn wait_for_store(&self) -> bool {
        self.failures.values().any(|failure| failure.is_of_store)
    }

    /// Forgets those that are not there any more, or not as they were: nobody would try these, and nobody may wait for them.
    pub fn keep_those_of(&mut self, checkpoints: &[Checkpoint]) {
        if !self.failures.is_empty() {
            let is_tried = |it: &&Checkpoint| matches!(it.state, State::Complete | State::Settling);
            let tried: HashMap<&PathBuf, &Checkpoint> =
                checkpoints.iter().filter(is_tried).map(|checkpoint| (&checkpoint.path, checkpoint)).collect();
            self.failures.retain(|path, failure| tried.get(path).is_some_and(|it| failure.checkpoint.looks_like(it)));
        }
    }

    /// How long until the next of those that wait may be tried; none where nothing waits.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<Duration> {
        let waiting = self.failures.values().filter(|_| self.interval.is_some());
        waiting.map(|failure| failure.next.saturating_duration_since(now)).min()
    }
}

/// Twice as long each time.
fn pause(interval: Duration, times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.saturating_sub(1));
    let longest = interval.saturating_mul(PAUSE_MAX_INTERVALS);
    interval.min(FIRST_PAUSE_MAX).saturating_mul(doubled).min(longest)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use seawall_engine::clock::{Timestamp, monotonic};
    use seawall_engine::stages::checkpoint::{Pace, Scanner};

    use super::*;

    fn seen(root: &Path) -> Checkpoint {
        let pace = Pace { settle: Duration::ZERO, patience: Duration::ZERO };
        let mut scanner = Scanner::new(&[root.to_path_buf()], pace).unwrap();
        scanner.look(monotonic(), Timestamp::now(), &|_| false).checkpoints.remove(0)
    }

    #[test]
    fn a_failing_checkpoint_is_tried_again_for_ever_and_a_changed_one_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("step-1/weights.bin");
        fs::create_dir(folder.path().join("step-1")).unwrap();
        fs::write(&file, b"one").unwrap();
        let (first, begin, interval) = (seen(folder.path()), monotonic(), Duration::from_secs(10));
        let mut attempts = Attempts::for_ever(interval);
        assert!(attempts.may_try(&first, begin));
        let mut now = begin;
        for (times, pause) in [10, 20, 40, 80, 100, 100, 100].into_iter().enumerate() {
            let pause = Duration::from_secs(pause);
            let failed = attempts.failed(&first, now);
            assert_eq!(failed, Failed { times: times as u32 + 1, pause: Some(pause) });
            assert!(!attempts.may_try(&first, now + pause - Duration::from_millis(1)));
            assert_eq!(attempts.next(now), Some(pause));
            now += pause;
            assert!(attempts.may_try(&first, now), "failed {} times", times + 1);
        }
        attempts.failed(&first, now);
        // The same name, size and modification time, and another inode: as a copy that keeps times writes it anew.
        let modified = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(folder.path().join("new"), b"two").unwrap();
        fs::File::options().write(true).open(folder.path().join("new")).unwrap().set_modified(modified).unwrap();
        fs::rename(folder.path().join("new"), &file).unwrap();
        let second = seen(folder.path());
        assert_eq!(first.fingerprint, second.fingerprint);
        assert!(attempts.may_try(&second, now));
        assert_eq!(attempts.failed(&second, now).times, 1, "it is another one");
        attempts.keep_those_of(&[second]);
        assert!(attempts.next(now).is_some());
        attempts.keep_those_of(&[first]);
        assert_eq!(attempts.next(now), None, "nobody waits for what is not as it was");
        attempts.failed(&seen(folder.path()), now);
        attempts.keep_those_of(&[]);
        assert_eq!(attempts.next(now), None);
    }

    #[test]
    fn what_the_store_refused_waits_longer_each_time_until_something_is_stored() {
        let [one, two] = ["one", "two"].map(|name| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("step-1.safetensors"), name).unwrap();
            seen(folder.path())
        });
        let (mut attempts, now) = (Attempts::for_ever(Duration::from_secs(2)), monotonic());
        let mut pauses = Vec::new();
        for times in 1..=5 {
            let failed = attempts.store_failed(&one, now);
            assert_eq!(failed.times, times);
            pauses.push(failed.pause.unwrap().as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 20]);
        assert!(!attempts.may_try(&one, now) && attempts.may_try(&two, now) && attempts.wait_for_store());
        attempts.succeeded(&two);
        assert!(attempts.may_try(&one, now) && !attempts.wait_for_store() && attempts.next(now).is_none());
        // What failed by itself waits on.
        attempts.store_failed(&one, now);
        assert_eq!(attempts.failed(&one, now).times, 1);
        attempts.succeeded(&two);
        assert!(!attempts.may_try(&one, now) && !attempts.wait_for_store());
    }

    #[test]
    fn who_ends_tries_a_few_times() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("step-1.safetensors"), b"one").unwrap();
        let (checkpoint, now) = (seen(folder.path()), monotonic());
        let mut attempts = Attempts::few();
        for times in 1..=ATTEMPTS_MAX {
            assert!(attempts.may_try(&checkpoint, now));
            assert_eq!(attempts.failed(&checkpoint, now).pause.is_some(), times < ATTEMPTS_MAX);
        }
        assert!(!attempts.may_try(&checkpoint, now) && attempts.next(now).is_none());
    }

    #[test]
    fn pauses_grow_to_ten_intervals() {
        let seconds = |interval, times| pause(Duration::from_secs(interval), times).as_secs();
        assert_eq!([1, 2, 3, 30, u32::MAX].map(|times| seconds(3600, times)), [10, 20, 40, 36_000, 36_000]);
        assert_eq!([1, 2, 5, 99].map(|times| seconds(2, times)), [2, 4, 20, 20]);
        let failed = Failed { times: 4, pause: Some(Duration::from_secs(80)) };
        assert_eq!(failed.text(), "failed 4 times in a row, tried again in 1 min 20 s");
    }
}
