//! When all threads of a client wait: only then the scheduler decides what happens next, so that a run does not depend on
//! which of two threads was faster.
//!
//! A thread waits if the kernel says that it sleeps on a futex, and has run no nanosecond between two looks at its clock of
//! processor time, with every other thread asleep at a moment in between. A thread that was woken and sleeps again in that
//! time has run. All threads stay on one processor: one that was woken on another looks asleep until that hears of it. One
//! run at a time in a process: new threads count as the released client's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

const TASKS: &str = "/proc/self/task";
/// Number of the system call in which a lock, a condition or a channel waits.
const FUTEX: &str = if cfg!(target_arch = "x86_64") { "202 " } else { "98 " };
/// Looks without a pause before the scheduler gives the processor away.
const EAGER_LOOKS: u32 = 20;

struct Thread {
    client: Option<usize>,
    /// What the thread waits for, as the kernel says.
    system_call: File,
}

/// The threads of this process.
pub struct Threads {
    known: BTreeMap<i32, Thread>,
    count: u64,
}

impl Threads {
    /// Those that are there now belong to no client.
    pub fn new() -> Self {
        let mut threads = Self { known: BTreeMap::new(), count: 0 };
        threads.look(None);
        threads
    }

    /// Threads that are new belong to this client.
    pub fn look(&mut self, client: Option<usize>) {
        self.count = count();
        let mut there = BTreeMap::new();
        for item in fs::read_dir(TASKS).unwrap().flatten() {
            let Some(id) = item.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if let Some(known) = self.known.remove(&id) {
                there.insert(id, known);
            } else if let Ok(system_call) = File::open(item.path().join("syscall")) {
                there.insert(id, Thread { client, system_call });
            }
        }
        self.known = there;
    }

    /// Returns once all threads of this client wait.
    pub fn await_quiet(&mut self, client: usize) {
        let mut looks = 0;
        while !self.is_quiet(client) {
            looks += 1;
            if looks < EAGER_LOOKS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    fn is_quiet(&mut self, client: usize) -> bool {
        if count() != self.count {
            self.look(Some(client));
        }
        let own: Vec<(i32, &Thread)> =
            self.known.iter().filter(|(_, it)| it.client == Some(client)).map(|(id, it)| (*id, it)).collect();
        let before: Vec<_> = own.iter().map(|(id, _)| processor_time(*id)).collect();
        let (mut waits, mut gone) = (true, false);
        for (_, thread) in &own {
            match thread.waits() {
                Some(true) => {}
                Some(false) => waits = false,
                None => gone = true,
            }
        }
        let stood = own.iter().map(|(id, _)| processor_time(*id)).eq(before);
        if gone {
            self.count = 0;
            return false;
        }
        waits && stood && count() == self.count
    }
}

impl Thread {
    /// Whether it sleeps on a futex; none once it has ended.
    fn waits(&self) -> Option<bool> {
        let mut text = [0; 8];
        let length = self.system_call.read_at(&mut text, 0).ok().filter(|length| *length > 0)?;
        Some(text[..length].starts_with(FUTEX.as_bytes()))
    }
}

/// How many threads there are.
fn count() -> u64 {
    // A directory has one link for each directory in it, and two of its own.
    fs::metadata(TASKS).unwrap().nlink() - 2
}

/// Processor time that the thread has used; none once it has ended. The clock's number is what
/// `pthread_getcpuclockid` makes of a thread's id.
fn processor_time(thread: i32) -> Option<(i64, i64)> {
    const OF_THREAD: i32 = 4;
    const PRECISE: i32 = 2;
    let time = clock_gettime(ClockId::from_raw((!thread << 3) | OF_THREAD | PRECISE)).ok()?;
    Some((time.tv_sec(), time.tv_nsec()))
}

/// Keeps this thread, and those that it starts, on one of the processors that it may use; `number` says which.
pub fn stay_on_one_processor(number: u64) {
    let allowed = sched_getaffinity(None).unwrap();
    let processors: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).collect();
    let mut one = CpuSet::new();
    one.set(processors[usize::try_from(number).unwrap() % processors.len()]);
    sched_setaffinity(None, &one).unwrap();
}

/// True where the kernel tells what this needs.
pub fn is_possible() -> bool {
    File::open(format!("{TASKS}/{}/syscall", std::process::id())).is_ok()
}
