//! Streams as sources: standard input, or what a command prints.
//!
//! A thread reads ahead into a short queue, so that a source that says nothing for hours does not keep Ctrl-C waiting.
//! A command's exit status decides: only where it ends well does the backup commit.

use std::ffi::OsString;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use seawall_engine::error::{Error, Result};

use crate::stop::{self, Stop};

const PIECE_BYTES: usize = 1 << 20;
const PIECES_AHEAD: usize = 4;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A reader that ends with an error once the user wants to stop.
pub struct Stoppable {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    given: usize,
    ended: bool,
    stop: Arc<Stop>,
}

impl Stoppable {
    /// Reads `source` ahead in a thread of its own.
    pub fn new(source: impl Read + Send + 'static, stop: &Arc<Stop>) -> Self {
        let (send, pieces) = sync_channel(PIECES_AHEAD);
        std::thread::spawn(move || read_ahead(source, &send));
        Self { pieces, piece: Vec::new(), given: 0, ended: false, stop: Arc::clone(stop) }
    }

    fn next_piece(&mut self) -> io::Result<bool> {
        loop {
            if self.stop.requested() {
                return Err(io::Error::other("interrupted"));
            }
            match self.pieces.recv_timeout(LOOK_EVERY) {
                Ok(piece) => {
                    self.piece = piece?;
                    self.given = 0;
                    return Ok(true);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
        }
    }
}

fn read_ahead(mut source: impl Read, send: &SyncSender<io::Result<Vec<u8>>>) {
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let read = source.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let last = match read {
            Ok(0) => return,
            Ok(_) => send.send(Ok(piece)).is_err(),
            Err(error) => {
                // If nobody listens any more the error has no addressee.
                let _ = send.send(Err(error));
                true
            }
        };
        if last {
            return;
        }
    }
}

impl Read for Stoppable {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.piece.len() && !self.ended {
            self.ended = !self.next_piece()?;
        }
        let count = buffer.len().min(self.piece.len() - self.given);
        buffer[..count].copy_from_slice(&self.piece[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

/// A running command whose output is being backed up. It is killed if it still runs when dropped.
pub struct Producer {
    name: String,
    child: Arc<Mutex<Child>>,
}

impl Producer {
    /// Starts a program (no shell) and gives its standard output.
    ///
    /// # Errors
    /// [`Error::Usage`] for an empty command; [`Error::Command`] if it can't be started.
    pub fn start(command: &[OsString], stop: &Arc<Stop>) -> Result<(Self, Stoppable)> {
        let (program, arguments) =
            command.split_first().ok_or_else(|| Error::Usage("--command needs a command after --".to_owned()))?;
        let name = program.to_string_lossy().into_owned();
        let mut child = stop::spawn(Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()))
            .map_err(|error| Error::Command(format!("{name} can't be started: {error}")))?;
        let output = child.stdout.take().expect("the pipe was asked for when the command was started");
        Ok((Self { name, child: Arc::new(Mutex::new(child)) }, Stoppable::new(output, stop)))
    }

    /// What to call at the end of its output: waits for it, and refuses unless it ended well.
    #[must_use]
    pub fn ended_well(&self) -> Box<dyn FnOnce() -> Result<()> + Send> {
        let (name, child) = (self.name.clone(), Arc::clone(&self.child));
        Box::new(move || {
            let status = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
            match status {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(Error::Command(format!("{name} failed ({status})"))),
                Err(error) => Err(Error::Command(format!("{name} can't be waited for: {error}"))),
            }
        })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(child.try_wait(), Ok(None)) {
            // It may end by itself between the two calls; then there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> [OsString; 3] {
        ["sh", "-c", script].map(OsString::from)
    }

    #[test]
    fn a_command_gives_its_output_and_its_verdict() {
        let stop = Arc::new(Stop::default());
        for (script, bytes, good) in [
            ("printf hello", 5, true),
            ("head -c 5000000 /dev/zero", 5_000_000, true),
            ("printf hello; exit 3", 5, false),
            ("printf hello; kill -9 $$", 5, false),
        ] {
            let (producer, mut reader) = Producer::start(&shell(script), &stop).unwrap();
            let mut output = Vec::new();
            reader.read_to_end(&mut output).unwrap();
            assert_eq!(output.len(), bytes, "{script}");
            assert_eq!(producer.ended_well()().is_ok(), good, "{script}");
        }
        let missing = Producer::start(&["/no/such/program".into()], &stop).err().unwrap();
        assert_eq!(missing.code(), "command");
        assert_eq!(Producer::start(&[], &stop).err().unwrap().code(), "usage");
    }

    #[test]
    fn the_wish_to_stop_ends_a_silent_stream() {
        let stop = Arc::new(Stop::default());
        let (producer, mut reader) = Producer::start(&shell("exec sleep 1000"), &stop).unwrap();
        stop.request();
        assert!(reader.read(&mut [0; 16]).is_err());
        drop(producer);
    }

    #[test]
    fn errors_of_the_source_are_passed_on() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("boom"))
            }
        }
        let mut reader = Stoppable::new(io::Cursor::new(b"abc").chain(Broken), &Arc::new(Stop::default()));
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "boom");
    }
}
