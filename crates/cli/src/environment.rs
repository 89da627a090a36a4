//! The process's surroundings: the one place that reads environment variables, the home directory, host and user name.
//!
//! They are read once, at the start, into plain fields; everything else gets them as data, so tests can make their own.
//! `SEAWALL_PASSWORD` is wiped from memory when dropped; it is never printed, and commands that this program starts do
//! not inherit it.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Name of the variable that may hold a password. Child processes are started without it.
pub const PASSWORD_VARIABLE: &str = "SEAWALL_PASSWORD";

/// What the environment says. Empty variables count as absent.
#[derive(Default)]
pub struct Environment {
    /// `SEAWALL_REPOSITORY`.
    pub repository: Option<OsString>,
    /// `SEAWALL_KEY_FILE`.
    pub key_file: Option<PathBuf>,
    /// `SEAWALL_PASSWORD_FILE`.
    pub password_file: Option<PathBuf>,
    /// `SEAWALL_PASSWORD_COMMAND`.
    pub password_command: Option<OsString>,
    /// `SEAWALL_PASSWORD`.
    pub password: Option<Zeroizing<Vec<u8>>>,
    /// `SEAWALL_IDENTITY_FILE`.
    pub identity_file: Option<PathBuf>,
    /// `SEAWALL_SHARE_FILES`: paths separated by colons.
    pub share_files: Vec<PathBuf>,
    /// `SEAWALL_PARITY`.
    pub parity: Option<OsString>,
    /// `SEAWALL_EXPECT`.
    pub expect: Option<String>,
    /// `SEAWALL_CACHE_DIR`.
    pub cache_directory: Option<PathBuf>,
    /// Where embedded repositories lie; `None` where no home directory is known.
    pub data: Option<PathBuf>,
    /// Where key files and recovery kits lie.
    pub config: Option<PathBuf>,
    /// Where caches lie.
    pub cache: Option<PathBuf>,
    /// This machine's name.
    pub host: String,
    /// Name of the user who runs this process, or the number where there is no name.
    pub user: String,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        // Services and cron jobs often run without HOME; the user database still knows it.
        let home = absolute("HOME").or_else(|| user.as_ref().map(|user| user.dir.clone()));
        let under = |variable: &str, default: &str| {
            absolute(variable).or_else(|| home.as_ref().map(|home| home.join(default))).map(|base| base.join("seawall"))
        };
        Self {
            repository: text("SEAWALL_REPOSITORY"),
            key_file: text("SEAWALL_KEY_FILE").map(PathBuf::from),
            password_file: text("SEAWALL_PASSWORD_FILE").map(PathBuf::from),
            password_command: text("SEAWALL_PASSWORD_COMMAND"),
            password: text(PASSWORD_VARIABLE).map(|password| Zeroizing::new(password.into_vec())),
            identity_file: text("SEAWALL_IDENTITY_FILE").map(PathBuf::from),
            share_files: text("SEAWALL_SHARE_FILES").map(|list| env::split_paths(&list).collect()).unwrap_or_default(),
            parity: text("SEAWALL_PARITY"),
            expect: text("SEAWALL_EXPECT").map(|text| text.to_string_lossy().into_owned()),
            cache_directory: text("SEAWALL_CACHE_DIR").map(PathBuf::from),
            data: under("XDG_DATA_HOME", ".local/share"),
            config: under("XDG_CONFIG_HOME", ".config"),
            cache: under("XDG_CACHE_HOME", ".cache"),
            host: host(),
            user: user.map_or_else(|| nix::unistd::getuid().to_string(), |user| user.name),
        }
    }

    /// Where `protect` keeps its own repository when none is named.
    #[must_use]
    pub fn embedded_repository(&self) -> Option<PathBuf> {
        self.data.as_deref().map(|data| data.join("repository"))
    }
}

fn text(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// The XDG rules say that a relative path in these variables is to be ignored.
fn absolute(variable: &str) -> Option<PathBuf> {
    text(variable).map(PathBuf::from).filter(|path| Path::is_absolute(path))
}

fn host() -> String {
    nix::unistd::gethostname()
        .ok()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "localhost".to_owned())
}
