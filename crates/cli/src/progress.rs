//! The monitor of the command line: progress on a terminal, JSON lines with `--json`, silence otherwise.
//!
//! The engine reports often and from many threads, so reporting only stores counters; one thread of this module looks
//! at them a few times a second and draws. Problems are shown when they occur and only counted for the report, so
//! memory stays bounded. The display disappears without trace.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use seawall_engine::clock::monotonic;
use seawall_engine::monitor::{Monitor, Phase, Problem, Progress};
use serde::Serialize;

use crate::output::{Output, printable};
use crate::quantities;
use crate::stop::Stop;

const DRAW_EVERY: Duration = Duration::from_millis(150);
const JSON_EVERY: Duration = Duration::from_secs(1);
/// The rate shown is an average over about this time.
const RATE_WINDOW_SECONDS: f64 = 4.0;

/// What went wrong in a run so far.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Problems {
    /// How many.
    pub count: u64,
    /// How many of each code.
    pub by_code: BTreeMap<&'static str, u64>,
}

impl Problems {
    fn add(&mut self, problem: &Problem) {
        self.count += 1;
        *self.by_code.entry(problem.code).or_default() += 1;
    }
}

/// The monitor that the commands hand to the engine.
pub struct Display {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    output: Arc<Output>,
    stop: Arc<Stop>,
    bar: Option<ProgressBar>,
    counters: [AtomicU64; 5],
    state: Mutex<State>,
    problems: Mutex<Problems>,
    ended: Mutex<bool>,
    wake: Condvar,
}

struct State {
    phase: Phase,
    since: Instant,
    current: Vec<u8>,
}

impl Display {
    /// Starts a display. It ends, and leaves the terminal clean, when dropped.
    #[must_use]
    pub fn start(output: &Arc<Output>, stop: &Arc<Stop>) -> Self {
        let drawn = output.stderr_is_terminal() && !output.json() && !output.quiet();
        let shared = Arc::new(Shared {
            output: Arc::clone(output),
            stop: Arc::clone(stop),
            bar: drawn.then(bar),
            counters: Default::default(),
            state: Mutex::new(State { phase: Phase::Opening, since: monotonic(), current: Vec::new() }),
            problems: Mutex::default(),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        let thread = (drawn || output.json()).then(|| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.draw_until_ended())
        });
        Self { shared, thread }
    }

    /// Says something on standard output while the display stands below.
    pub fn above<T>(&self, say: impl FnOnce() -> T) -> T {
        match &self.shared.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }

    /// What went wrong so far.
    #[must_use]
    pub fn problems(&self) -> Problems {
        lock(&self.shared.problems).clone()
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        *lock(&self.shared.ended) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A display that failed has nothing left to say.
            let _ = thread.join();
        }
        if let Some(bar) = &self.shared.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").expect("the template is a constant without keys to get wrong");
    ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10)).with_style(style)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Monitor for Display {
    fn phase(&self, phase: Phase) {
        let mut state = lock(&self.shared.state);
        state.phase = phase;
        state.since = monotonic();
        state.current.clear();
        for counter in &self.shared.counters {
            counter.store(0, Ordering::Relaxed);
        }
    }

    fn progress(&self, progress: Progress) {
        let values = [
            progress.files_done,
            progress.files_known,
            progress.bytes_done,
            progress.bytes_known,
            progress.bytes_stored,
        ];
        // Reports of several threads may arrive out of order; counters only grow, so the largest is the newest.
        for (counter, value) in self.shared.counters.iter().zip(values) {
            counter.fetch_max(value, Ordering::Relaxed);
        }
    }

    fn current(&self, path: &Path) {
        if self.shared.output.verbose() && !self.shared.output.json() {
            self.shared.say(&printable(path.as_os_str().as_bytes()));
        }
        if self.thread.is_some()
            && let Ok(mut state) = self.shared.state.try_lock()
        {
            state.current.clear();
            state.current.extend_from_slice(path.as_os_str().as_bytes());
        }
    }

    fn problem(&self, problem: Problem) {
        lock(&self.shared.problems).add(&problem);
        match &self.shared.bar {
            Some(bar) => bar.suspend(|| self.shared.output.problem(&problem)),
            None => self.shared.output.problem(&problem),
        }
    }

    fn note(&self, text: &str) {
        match &self.shared.bar {
            Some(bar) => bar.suspend(|| self.shared.output.note(text)),
            None => self.shared.output.note(text),
        }
    }

    fn wants_totals(&self) -> bool {
        self.shared.bar.is_some()
    }

    fn stopped(&self) -> bool {
        self.shared.stop.requested()
    }
}

impl Shared {
    /// A line on standard error, above the display. Where it can't be written the run goes on.
    fn say(&self, line: &str) {
        let write = || {
            let _ = writeln!(std::io::stderr(), "{line}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn draw_until_ended(&self) {
        let every = if self.bar.is_some() { DRAW_EVERY } else { JSON_EVERY };
        let mut pace = Pace::default();
        let mut ended = lock(&self.ended);
        while !*ended {
            let (guard, waited) = self.wake.wait_timeout(ended, every).unwrap_or_else(PoisonError::into_inner);
            ended = guard;
            if waited.timed_out() && !*ended {
                self.draw(&mut pace);
            }
        }
    }

    fn draw(&self, pace: &mut Pace) {
        let [files_done, files_known, bytes_done, bytes_known, bytes_stored] =
            [0, 1, 2, 3, 4].map(|counter: usize| self.counters[counter].load(Ordering::Relaxed));
        let (phase, since, current) = {
            let state = lock(&self.state);
            (state.phase, state.since, state.current.clone())
        };
        let rate = pace.update(phase, since, bytes_done, monotonic());
        let view = View {
            phase: phase_code(phase),
            seconds: monotonic().duration_since(since).as_secs_f64(),
            files_done,
            files_known,
            bytes_done,
            bytes_known,
            bytes_stored,
            bytes_per_second: rate as u64,
            seconds_left: seconds_left(bytes_done, bytes_known, rate),
            problems: lock(&self.problems).count,
            current: String::from_utf8_lossy(&current).into_owned(),
        };
        match &self.bar {
            Some(bar) => {
                bar.set_message(render(phase, &view, terminal_columns()));
                bar.tick();
            }
            None => {
                let _ = self.output.record("progress", &view).and_then(|()| self.output.flush());
            }
        }
    }
}

/// One look at a run; also the shape of a JSON `progress` line.
#[derive(Debug, Serialize)]
struct View {
    phase: &'static str,
    seconds: f64,
    files_done: u64,
    files_known: u64,
    bytes_done: u64,
    bytes_known: u64,
    bytes_stored: u64,
    bytes_per_second: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_left: Option<u64>,
    problems: u64,
    current: String,
}

/// Exponentially smoothed rate of one phase.
#[derive(Default)]
struct Pace {
    begun: Option<(Phase, Instant)>,
    seen: Option<(Instant, u64)>,
    bytes_per_second: f64,
}

impl Pace {
    fn update(&mut self, phase: Phase, since: Instant, bytes_done: u64, now: Instant) -> f64 {
        if self.begun != Some((phase, since)) {
            *self = Self { begun: Some((phase, since)), seen: Some((since, 0)), bytes_per_second: -1.0 };
        }
        let (before, bytes_before) = self.seen.unwrap_or((since, 0));
        let seconds = now.duration_since(before).as_secs_f64();
        if seconds > 0.0 {
            let momentary = bytes_done.saturating_sub(bytes_before) as f64 / seconds;
            let weight = 1.0 - (-seconds / RATE_WINDOW_SECONDS).exp();
            self.bytes_per_second = if self.bytes_per_second < 0.0 {
                momentary
            } else {
                self.bytes_per_second + weight * (momentary - self.bytes_per_second)
            };
            self.seen = Some((now, bytes_done));
        }
        self.bytes_per_second.max(0.0)
    }
}

fn seconds_left(bytes_done: u64, bytes_known: u64, bytes_per_second: f64) -> Option<u64> {
    let left = bytes_known.checked_sub(bytes_done).filter(|_| bytes_known > 0)?;
    (bytes_per_second >= 1.0).then(|| (left as f64 / bytes_per_second).ceil() as u64)
}

fn terminal_columns() -> usize {
    let told = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if told == 0 { 80 } else { told.max(20) }
}

fn phase_code(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "opening",
        Phase::BackingUp => "backing-up",
        Phase::VerifyingStructure => "verifying-structure",
        Phase::VerifyingData => "verifying-data",
        Phase::Restoring => "restoring",
        Phase::Finishing => "finishing",
        Phase::Comparing => "comparing",
        Phase::Marking => "marking",
        Phase::Rewriting => "rewriting",
        Phase::Removing => "removing",
    }
}

fn phase_title(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "Opening",
        Phase::BackingUp => "Backing up",
        Phase::VerifyingStructure => "Checking structure",
        Phase::VerifyingData => "Reading back",
        Phase::Restoring => "Restoring",
        Phase::Finishing => "Finishing",
        Phase::Comparing => "Comparing",
        Phase::Marking => "Finding what is needed",
        Phase::Rewriting => "Rewriting packs",
        Phase::Removing => "Removing",
    }
}

/// Two lines for the terminal: how far and how fast, and what is being worked on.
fn render(phase: Phase, view: &View, columns: usize) -> String {
    let mut parts = Vec::new();
    if view.bytes_known > 0 {
        let share = (view.bytes_done as f64 / view.bytes_known as f64).min(1.0);
        let full = (share * 20.0) as usize;
        parts.push(format!("[{}{}] {:.0} %", "#".repeat(full), "-".repeat(20 - full), share * 100.0));
        parts.push(format!("{} of {}", quantities::bytes(view.bytes_done), quantities::bytes(view.bytes_known)));
    } else if view.bytes_done > 0 {
        parts.push(quantities::bytes(view.bytes_done));
    }
    if view.bytes_per_second > 0 {
        parts.push(format!("{}/s", quantities::bytes(view.bytes_per_second)));
    }
    if let Some(left) = view.seconds_left {
        parts.push(format!("{} left", quantities::duration(Duration::from_secs(left))));
    }
    if view.files_done > 0 {
        parts.push(quantities::counted(view.files_done, "file", "files"));
    }
    if view.problems > 0 {
        parts.push(quantities::counted(view.problems, "problem", "problems"));
    }
    let head = format!("{}  {}", phase_title(phase), parts.join("  "));
    format!("{}\n  {}", first_columns(&head, columns), last_columns(&printable(view.current.as_bytes()), columns - 3))
}

fn first_columns(text: &str, columns: usize) -> String {
    text.chars().take(columns.saturating_sub(1)).collect()
}

/// The end of a path tells more than its beginning.
fn last_columns(text: &str, columns: usize) -> String {
    let length = text.chars().count();
    if length <= columns {
        text.to_owned()
    } else {
        format!("…{}", text.chars().skip(length + 1 - columns).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            phase: "backing-up",
            seconds: 2.0,
            files_done: 1_234,
            files_known: 0,
            bytes_done: 512 << 20,
            bytes_known: 1 << 30,
            bytes_stored: 0,
            bytes_per_second: 256 << 20,
            seconds_left: Some(2),
            problems: 1,
            current: "/srv/models/\u{1b}]0;x/weights.safetensors".to_owned(),
        }
    }

    #[test]
    fn the_display_shows_rate_time_left_file_and_problems() {
        let text = render(Phase::BackingUp, &view(), 200);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "Backing up  [##########----------] 50 %  512 MiB of 1.00 GiB  256 MiB/s  2.00 s left  1,234 files  1 problem"
        );
        assert_eq!(lines[1], "  /srv/models/\\u{1b}]0;x/weights.safetensors");
    }

    #[test]
    fn the_display_fits_into_the_terminal() {
        for columns in [20, 40, 80] {
            for line in render(Phase::BackingUp, &view(), columns).lines() {
                assert!(line.chars().count() < columns, "{columns}: {line:?}");
            }
        }
        assert!(render(Phase::BackingUp, &view(), 40).ends_with("weights.safetensors"));
    }

    #[test]
    fn the_rate_follows_and_begins_anew_with_a_phase() {
        let begin = monotonic();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert!((pace.update(Phase::BackingUp, begin, 1_000, at(1)) - 1_000.0).abs() < 1.0);
        let slower = pace.update(Phase::BackingUp, begin, 1_000, at(3));
        assert!(slower > 100.0 && slower < 1_000.0, "{slower}");
        assert!((pace.update(Phase::Restoring, at(3), 50, at(4)) - 50.0).abs() < 1.0);
        assert_eq!(seconds_left(50, 150, 50.0), Some(2));
        assert_eq!(seconds_left(50, 0, 50.0), None);
        assert_eq!(seconds_left(0, 100, 0.0), None);
    }

    #[test]
    fn problems_are_counted_by_code() {
        let mut problems = Problems::default();
        for number in 0..150 {
            let code = if number % 3 == 0 { "unreadable" } else { "vanished" };
            problems.add(&Problem { subject: number.to_string(), what: "x".to_owned(), code });
        }
        assert_eq!(problems.count, 150);
        assert_eq!(problems.by_code, BTreeMap::from([("unreadable", 50), ("vanished", 100)]));
    }
}
