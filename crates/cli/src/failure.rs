//! How a run ends: the table of exit codes, and an error turned into text, stable code, hint and exit code.
//!
//! The engine says what failed and on what; the way out is added here, by error code, because only the command line
//! knows its own options. Codes and exit codes are a contract with scripts (`docs` and `--help` list them): a meaning,
//! once given, does not change.

use std::io;

use seawall_engine::error::Error;
use seawall_engine::format::names::LOG;
use seawall_engine::store::StoreError;

/// Exit codes of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line made no sense.
    Usage = 2,
    /// Done, with problems listed.
    Problems = 3,
    /// No repository there.
    NoRepository = 10,
    /// Refused: another owner operation is under way.
    Refused = 11,
    /// The key does not open the repository.
    WrongKey = 12,
    /// Stored bytes are damaged.
    Damage = 13,
    /// The user interrupted the run.
    Interrupted = 130,
}

impl Exit {
    /// The number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// The table for `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done                                  11  refused: another owner operation is under way
    1  failed                                12  wrong key
    2  the command line made no sense        13  damage found
    3  done, with problems listed           130  interrupted
   10  no repository there";

/// An error, ready to be shown.
#[derive(Debug)]
pub struct Failure {
    /// Stable machine-readable code.
    pub code: &'static str,
    /// What failed and on what, in one line.
    pub message: String,
    /// The way out, where one is known.
    pub hint: Option<&'static str>,
    /// What the process exits with.
    pub exit: Exit,
}

impl From<&anyhow::Error> for Failure {
    fn from(error: &anyhow::Error) -> Self {
        let code = code_of(error);
        let hint = if is_of_log(error) { Some(OF_LOG) } else { hint(code) };
        Self { code, message: message_of(error), hint, exit: exit(code) }
    }
}

/// True if the reader of standard output went away: `seawall ls … | head` is no failure.
#[must_use]
pub fn is_closed_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What to do where an entry of the log is missing or damaged.
pub const OF_LOG: &str = "only hosts whose cache saw the whole log still open this repository: on one that used it before, \
                          run `seawall repair`, which puts back what its cache saw; until then change nothing";

fn is_of_log(error: &anyhow::Error) -> bool {
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    match cause {
        Some(Error::Damaged(damaged)) => damaged.object.starts_with(LOG),
        Some(Error::Store(StoreError::Missing(object))) => object.starts_with(LOG),
        _ => false,
    }
}

fn code_of(error: &anyhow::Error) -> &'static str {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or("failed", Error::code)
}

/// The contexts and then the engine's own text. What lies deeper is in that text already.
fn message_of(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        parts.push(cause.to_string());
        if cause.is::<Error>() {
            break;
        }
    }
    parts.join(": ")
}

/// The exit code that belongs to an error code.
#[must_use]
pub fn exit(code: &str) -> Exit {
    match code {
        "usage" => Exit::Usage,
        "no-repository" => Exit::NoRepository,
        "refused" => Exit::Refused,
        "wrong-key" | "shares" => Exit::WrongKey,
        // An object that the log lists and the store lacks is damage too.
        "damaged" | "missing" => Exit::Damage,
        "interrupted" => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "no-repository" => {
            "check -r (or SEAWALL_REPOSITORY); `seawall init -r DIR` makes a repository, \
             `seawall protect PATH` makes one and protects PATH at once"
        }
        "repository-exists" => "use it (`seawall backup`, `seawall snapshots`), or name another place with -r",
        "unsupported" => "a newer seawall may know more; `seawall --version` shows this one",
        "wrong-key" => {
            "give the right one with --key-file, --password-file or --password-command; \
             the recovery kit that `protect` wrote is itself a key file. If it is the right one, its slot in `key/` is \
             damaged, if nobody removed it: put that object back from a copy of the repository, or open it with another key, whose \
             `seawall verify` names the slot, and make a new key (`seawall key add`)"
        }
        "shares" => "name more share files of the same set, each with --share; any that are enough will do",
        "held" => {
            "`seawall hold --list` shows the holds; an owner lifts one with `seawall hold --release SNAPSHOT --label NAME`"
        }
        "not-allowed" => "use a key whose role allows it; `seawall key list` shows the roles",
        "refused" => "where another operation was in the way, wait until it has ended, then run this again",
        "damaged" | "missing" => {
            "`seawall verify --read-data` lists every damaged object and the paths that it hits; \
             everything else still restores"
        }
        "rollback" => {
            "somebody put an older or another copy of the repository, or another repository, in its place. If that was \
             you, do what the message says; if not, keep this copy and find out who did. Commands that only read show what \
             is there"
        }
        "substituted" => {
            "compare with the recovery kit, or with what `seawall key add` printed for you; if somebody put another \
             repository in its place, find out who did"
        }
        "store-full" => {
            "free space where the repository lies, then run this again: what was stored is kept and adopted"
        }
        "store-denied" => "check who owns the repository's directory and whether it is mounted read-only",
        "store-io" => "check the disk or mount that holds the repository; running this again continues",
        "not-found" => {
            "`seawall snapshots` lists what there is; `seawall ls SNAPSHOT:/PATH` shows what is inside, \
             `seawall tensors SNAPSHOT:/PATH` what is in files of models"
        }
        "interrupted" => "run the same command again: it continues from what is stored already",
        "changed" => "run this again once the source is at rest; what was stored is kept for that",
        "command" => "nothing was committed; mend the command and run this again",
        "usage" => "`seawall COMMAND --help` shows the options with examples",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;
    use seawall_engine::error::Damaged;

    #[test]
    fn every_engine_error_has_its_exit_code() {
        let io = || io::Error::from(io::ErrorKind::NotFound);
        let cases: Vec<(Error, &str, Exit)> = vec![
            (Error::NoRepository("/x".into()), "no-repository", Exit::NoRepository),
            (Error::RepositoryExists("/x".into()), "repository-exists", Exit::Failed),
            (Error::Unsupported("x".into()), "unsupported", Exit::Failed),
            (Error::WrongKey, "wrong-key", Exit::WrongKey),
            (Error::Shares("x".into()), "shares", Exit::WrongKey),
            (Error::NotAllowed("forget"), "not-allowed", Exit::Failed),
            (Error::Refused("x".into()), "refused", Exit::Refused),
            (Error::Held("x".into()), "held", Exit::Failed),
            (Damaged::new("pack/x", 7, "x").into(), "damaged", Exit::Damage),
            (Error::Rollback("x".into()), "rollback", Exit::Failed),
            (Error::Substituted("x".into()), "substituted", Exit::Failed),
            (StoreError::Missing("pack/x".into()).into(), "missing", Exit::Damage),
            (StoreError::from_io("x", io::ErrorKind::StorageFull.into()).into(), "store-full", Exit::Failed),
            (StoreError::from_io("x", io::ErrorKind::PermissionDenied.into()).into(), "store-denied", Exit::Failed),
            (Error::file("/x", "cannot open", io()), "file", Exit::Failed),
            (Error::NotFound("x".into()), "not-found", Exit::Failed),
            (Error::Usage("x".into()), "usage", Exit::Usage),
            (Error::Interrupted, "interrupted", Exit::Interrupted),
            (Error::Changed("x".into()), "changed", Exit::Failed),
            (Error::Command("x".into()), "command", Exit::Failed),
        ];
        for (error, code, exit) in cases {
            let failure = Failure::from(&anyhow::Error::from(error).context("while testing"));
            assert_eq!((failure.code, failure.exit), (code, exit));
            assert!(failure.message.starts_with("while testing: "), "{}", failure.message);
        }
    }

    #[test]
    fn a_cause_is_told_once() {
        let error = Error::file("/etc/x", "cannot open", io::Error::from(io::ErrorKind::NotFound));
        let failure = Failure::from(&anyhow::Error::from(error));
        assert_eq!(failure.message.matches("not found").count(), 1, "{}", failure.message);
        assert!(failure.message.starts_with("/etc/x: cannot open"), "{}", failure.message);
    }

    #[test]
    fn other_errors_keep_their_whole_chain() {
        let error = Err::<(), _>(io::Error::other("boom")).context("cannot write the kit").unwrap_err();
        let failure = Failure::from(&error);
        assert_eq!((failure.code, failure.exit), ("failed", Exit::Failed));
        assert_eq!(failure.message, "cannot write the kit: boom");
    }

    #[test]
    fn the_help_names_every_exit_code() {
        for exit in [Exit::Done, Exit::Failed, Exit::Usage, Exit::Problems, Exit::NoRepository, Exit::Refused] {
            assert!(EXIT_CODES.contains(&format!(" {}  ", exit.code())), "{exit:?}");
        }
        for exit in [Exit::WrongKey, Exit::Damage, Exit::Interrupted] {
            assert!(EXIT_CODES.contains(&format!(" {}  ", exit.code())), "{exit:?}");
        }
    }
}
