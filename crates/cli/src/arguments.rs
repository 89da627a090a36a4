//! The command line as it is written: the options that every command takes, and the list of commands.
//!
//! Only syntax lives here. `settings.rs` turns the global part into a checked form; each command's own arguments stand
//! in its file under `commands/`, where their doc comments are the help and the manual page.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    backup, cat, completions, diff, find, forget, hold, init, key, log, ls, man, protect, prune, repair, restore,
    snapshots, stats, tensors, undelete, verify, watch,
};
use crate::failure::EXIT_CODES;
use crate::quantities::parse_size;

static AFTER_HELP: LazyLock<String> = LazyLock::new(|| format!("{EXAMPLES}\n\n{EXIT_CODES}"));

const EXAMPLES: &str = "\
Examples:
    seawall protect ~/projects
    seawall init -r /backup/repo --key-file ~/seawall.key
    seawall backup -r /backup/repo --key-file ~/seawall.key /srv/models
    seawall snapshots -r /backup/repo --key-file ~/seawall.key
    seawall restore -r /backup/repo --key-file ~/seawall.key latest --target /recovered
    seawall ls 2026-11-22:/srv/models
    seawall cat latest:web1:/etc:/etc/fstab";

/// Disaster recovery for AI data centres: back up, prove, restore
///
/// Seawall keeps deduplicated, compressed and encrypted snapshots of files and command outputs in a repository, and
/// proves that they come back. `seawall protect PATH` does the whole: it makes a repository and its key, backs up,
/// reads everything back, restores into a scratch folder, compares, and tells how long a recovery takes. Run again, it
/// takes seconds. The single steps are commands too.
///
/// Snapshots are named by the beginning of their id, by `latest`, `latest:HOST` or `latest:HOST:/SOURCE`, or by a date
/// or time: the newest at or before it. SNAPSHOT:/PATH is a path inside one; latest:HOST:/PATH is too, where /PATH is no
/// source itself but lies in one.
#[derive(Debug, Parser)]
#[command(name = "seawall", version, after_help = EXIT_CODES, after_long_help = AFTER_HELP.as_str())]
#[command(disable_help_subcommand = true)]
pub struct Arguments {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: GlobalArguments,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes, as written.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArguments {
    /// The repository: a directory or file:///PATH [SEAWALL_REPOSITORY; else the one that `protect` made]
    #[arg(short, long, global = true, value_name = "DIR")]
    pub repository: Option<OsString>,

    /// Open it with this key file; a recovery kit is one too [SEAWALL_KEY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// Open it with the password in this file [SEAWALL_PASSWORD_FILE; or the password itself in SEAWALL_PASSWORD]
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,

    /// Open it with the password that this shell command prints [SEAWALL_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND")]
    pub password_command: Option<OsString>,

    /// Open it with this identity file, whose public key was added [SEAWALL_IDENTITY_FILE]
    #[arg(long, global = true, value_name = "FILE")]
    pub identity_file: Option<PathBuf>,

    /// Open it with recovery shares: name this once for each [SEAWALL_SHARE_FILES, separated by colons]
    #[arg(long, global = true, value_name = "FILE")]
    pub share: Vec<PathBuf>,

    /// Open it only if it has this fingerprint, 64 digits that `init` and `key add` print [SEAWALL_EXPECT]
    #[arg(long, global = true, value_name = "FINGERPRINT")]
    pub expect: Option<String>,

    /// One JSON object a line: progress, problems, results, and a final `summary`
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress, no report; only problems, errors and asked-for data
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Name every file that is worked on
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Work without the local cache of index and trees
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    pub no_cache: bool,

    /// Where the local cache lies [SEAWALL_CACHE_DIR; else ~/.cache/seawall]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,

    /// Threads that compute [else as many as the machine has]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,

    /// Bytes in flight at most
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, default_value = "256MiB")]
    pub memory: u64,
}

/// The commands. Their help is the doc comment of their arguments, so the variants have none.
#[derive(Debug, Subcommand)]
pub enum Command {
    Protect(Box<protect::Arguments>),
    Init(init::Arguments),
    Backup(Box<backup::Arguments>),
    Watch(Box<watch::Arguments>),
    Snapshots(snapshots::Arguments),
    Ls(ls::Arguments),
    Cat(cat::Arguments),
    Find(find::Arguments),
    Diff(diff::Arguments),
    Tensors(tensors::Arguments),
    Restore(Box<restore::Arguments>),
    Verify(verify::Arguments),
    Forget(Box<forget::Arguments>),
    Hold(hold::Arguments),
    Key(Box<key::Arguments>),
    Log(log::Arguments),
    Stats(stats::Arguments),
    Repair(repair::Arguments),
    Prune(prune::Arguments),
    Undelete(undelete::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl Command {
    /// The command's name, as the summary carries it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Protect(_) => "protect",
            Self::Init(_) => "init",
            Self::Backup(_) => "backup",
            Self::Watch(_) => "watch",
            Self::Snapshots(_) => "snapshots",
            Self::Ls(_) => "ls",
            Self::Cat(_) => "cat",
            Self::Find(_) => "find",
            Self::Stats(_) => "stats",
            Self::Diff(_) => "diff",
            Self::Tensors(_) => "tensors",
            Self::Verify(_) => "verify",
            Self::Restore(_) => "restore",
            Self::Forget(_) => "forget",
            Self::Hold(_) => "hold",
            Self::Repair(_) => "repair",
            Self::Prune(_) => "prune",
            Self::Undelete(_) => "undelete",
            Self::Key(_) => "key",
            Self::Log(_) => "log",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
        }
    }

    /// True if it does nothing but show: then it ends when nobody reads it any more. Everything else is carried through.
    #[must_use]
    pub fn is_listing(&self) -> bool {
        match self {
            Self::Snapshots(_)
            | Self::Ls(_)
            | Self::Cat(_)
            | Self::Find(_)
            | Self::Diff(_)
            | Self::Stats(_)
            | Self::Completions(_)
            | Self::Man(_) => true,
            // These look for what is broken, and the exit code tells.
            Self::Tensors(arguments) => !arguments.checks(),
            _ => false,
        }
    }

    /// True if the result is bytes on standard output, so that JSON has to go elsewhere.
    #[must_use]
    pub fn writes_bytes(&self) -> bool {
        matches!(self, Self::Cat(_) | Self::Completions(_))
    }
}
