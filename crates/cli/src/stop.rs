//! Stopping: what Ctrl-C and a polite kill do.
//!
//! The first SIGINT, SIGTERM or SIGHUP only sets a flag that every long run looks at; the run then ends in order and
//! the process exits with 130. The second one exits at once: the repository bears that too, only scratch files may
//! stay behind. Signals are blocked in all threads and taken by one waiting thread, so no code ever runs inside a
//! signal handler. Commands that this program starts must not inherit the blocked mask: [`spawn`] sees to that.

use std::fs::File;
use std::io;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{SigSet, Signal};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::environment::PASSWORD_VARIABLE;

const INTERRUPTED: i32 = 130;

/// The wish to stop, shared by everything that runs long.
#[derive(Default)]
pub struct Stop {
    requested: AtomicBool,
    /// Set while a prompt has changed the terminal: how it was before.
    prompting: Mutex<Option<Terminal>>,
}

/// The terminal that a prompt reads from, and its settings from before.
struct Terminal {
    device: File,
    before: Termios,
}

impl Terminal {
    /// Opens the terminal and stops it from showing what is typed. `None` where there is none.
    fn silenced() -> Option<Self> {
        let device = File::options().read(true).write(true).open("/dev/tty").ok()?;
        let before = tcgetattr(&device).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&device, OptionalActions::Now, &silent).ok()?;
        Some(Self { device, before })
    }

    /// If the terminal went away there is nothing to put right.
    fn restore(&self) {
        let _ = tcsetattr(&self.device, OptionalActions::Now, &self.before);
    }
}

impl Stop {
    /// Blocks the signals in this thread (and all that it starts later) and waits for them in a thread of its own.
    /// Must be called before any other thread exists.
    ///
    /// # Errors
    /// When the system refuses to block signals or to start a thread.
    pub fn install() -> io::Result<Arc<Self>> {
        let stop = Arc::new(Self::default());
        let signals = handled();
        signals.thread_block()?;
        let waiting = Arc::clone(&stop);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while signals.wait().is_ok() {
                waiting.signalled();
            }
        })?;
        Ok(stop)
    }

    /// True once the user wants to stop.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Wishes to stop, as the first signal does.
    #[cfg(test)]
    pub fn request(&self) {
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Runs a prompt for a secret. Nothing that is typed is shown, from before the question appears: the prompt itself
    /// turns that off only after asking, too late for a fast typist or a paste.
    ///
    /// A signal that arrives meanwhile ends the process at once with the terminal as it was: nothing has begun yet, and
    /// a thread that waits for keys could not look at the flag.
    pub fn while_prompting<T>(&self, prompt: impl FnOnce() -> T) -> T {
        *self.prompting() = Terminal::silenced();
        let answer = prompt();
        if let Some(terminal) = self.prompting().take() {
            terminal.restore();
        }
        answer
    }

    fn prompting(&self) -> std::sync::MutexGuard<'_, Option<Terminal>> {
        self.prompting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Why exit: the second signal must end the process even where a thread hangs in the kernel.
    fn signalled(&self) {
        let prompting = self.prompting();
        if let Some(terminal) = prompting.as_ref() {
            terminal.restore();
        }
        if prompting.is_some() || self.requested.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED);
        }
        drop(prompting);
        let _ = io::Write::write_all(
            &mut io::stderr(),
            b"\nseawall: stopping; nothing will be left broken (once more: stop at once)\n",
        );
    }
}

fn handled() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
}

/// Starts a command with signals unblocked and without the password variable.
///
/// # Errors
/// When the command can't be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    command.env_remove(PASSWORD_VARIABLE);
    // Why a thread: a child inherits the mask of the thread that starts it, and this one keeps its own.
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| {
            handled().thread_unblock()?;
            command.spawn()
        });
        starting.join().unwrap_or_else(|_| Err(io::Error::other("the thread that starts commands failed")))
    })
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn commands_start_with_signals_unblocked() {
        let blocked = std::thread::spawn(|| {
            handled().thread_block().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", "grep SigBlk /proc/self/status"]).stdout(Stdio::piped());
            let output = spawn(&mut command).unwrap().wait_with_output().unwrap();
            assert!(handled().iter().all(|signal| SigSet::thread_get_mask().unwrap().contains(signal)));
            String::from_utf8(output.stdout).unwrap()
        });
        let line = blocked.join().unwrap();
        let mask = u64::from_str_radix(line.trim().rsplit(':').next().unwrap().trim(), 16).unwrap();
        for signal in handled().iter() {
            assert_eq!(mask & (1 << (signal as u64 - 1)), 0, "{signal} is blocked: {line}");
        }
    }
}
