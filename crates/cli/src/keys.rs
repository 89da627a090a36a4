//! Ways into a repository: key files and passwords, read from where the user keeps them, never from an argument.
//!
//! Secrets are held in memory that is wiped when dropped and reach no message: errors name the file or the command's
//! exit status, never what it held. Files with secrets are made with mode 0600 and never overwrite anything; one that
//! others may read is used, with a warning.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use seawall_engine::crypto::Secret32;
use seawall_engine::crypto::wrap::DataSecretKey;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::slot::{self, Share, Unlock};
use zeroize::Zeroizing;

use crate::output::Output;
use crate::stop::{self, Stop};

/// No key or password file is longer; a wrong path (a disk image) must not fill memory.
const SECRET_FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a key or password comes from.
#[derive(Clone)]
pub enum KeySource {
    /// A key file, or a recovery kit.
    KeyFile(PathBuf),
    /// A file that holds a password.
    PasswordFile(PathBuf),
    /// A shell command that prints a password.
    PasswordCommand(OsString),
    /// The password itself, from the environment or a prompt.
    Password(Zeroizing<Vec<u8>>),
    /// An identity file.
    IdentityFile(PathBuf),
    /// Files of recovery shares.
    Shares(Vec<PathBuf>),
}

impl KeySource {
    /// What it is, in words; also the label of its slot.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::KeyFile(_) => "key file",
            Self::PasswordFile(_) => "password file",
            Self::PasswordCommand(_) => "password command",
            Self::Password(_) => "password",
            Self::IdentityFile(_) => "identity file",
            Self::Shares(_) => "shares",
        }
    }

    /// The files that it is read from.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::KeyFile(path) | Self::PasswordFile(path) | Self::IdentityFile(path) => vec![path.clone()],
            Self::Shares(paths) => paths.clone(),
            Self::PasswordCommand(_) | Self::Password(_) => Vec::new(),
        }
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// When the file or command can't be read, or what it gives can't be a key or password.
    pub fn unlock(&self, output: &Output) -> Result<Unlock> {
        match self {
            Self::KeyFile(path) => Ok(Unlock::KeyFile(read_key_file(path, output)?)),
            Self::PasswordFile(path) => {
                let text = read_secret_file(path, output)?;
                password(text, &format!("{}: the password file", path.display())).map(Unlock::Passphrase)
            }
            Self::PasswordCommand(command) => {
                password(run_password_command(command)?, "the password command's output").map(Unlock::Passphrase)
            }
            Self::Password(text) => password(text.clone(), "the password").map(Unlock::Passphrase),
            Self::IdentityFile(path) => Ok(Unlock::Identity(read_identity(path, output)?)),
            Self::Shares(paths) => {
                paths.iter().map(|path| read_share(path, output)).collect::<Result<_>>().map(Unlock::Shares)
            }
        }
    }
}

/// One trailing line end belongs to the file or the command, not to the password.
fn password(mut text: Zeroizing<Vec<u8>>, what: &str) -> Result<Zeroizing<Vec<u8>>> {
    if text.last() == Some(&b'\n') {
        text.pop();
        if text.last() == Some(&b'\r') {
            text.pop();
        }
    }
    if text.is_empty() { Err(Error::Usage(format!("{what} is empty"))) } else { Ok(text) }
}

/// Reads a key file or recovery kit.
///
/// # Errors
/// When it can't be read or is none.
pub fn read_key_file(path: &Path, output: &Output) -> Result<Secret32> {
    let bytes = read_secret_file(path, output)?;
    std::str::from_utf8(&bytes).ok().and_then(slot::parse_key_file).ok_or_else(|| {
        Error::Usage(format!("{}: not a key file (it begins with a line seawall-key-1)", path.display()))
    })
}

fn read_identity(path: &Path, output: &Output) -> Result<DataSecretKey> {
    let bytes = read_secret_file(path, output)?;
    std::str::from_utf8(&bytes).ok().and_then(slot::parse_identity).ok_or_else(|| {
        Error::Usage(format!("{}: not an identity file (it begins with a line seawall-identity-1)", path.display()))
    })
}

fn read_share(path: &Path, output: &Output) -> Result<Share> {
    let bytes = read_secret_file(path, output)?;
    std::str::from_utf8(&bytes).ok().and_then(Share::parse).ok_or_else(|| {
        Error::Usage(format!(
            "{}: not a share, or a digit of it is wrong (it begins with a line seawall-share-1 and has a checksum)",
            path.display()
        ))
    })
}

fn read_secret_file(path: &Path, output: &Output) -> Result<Zeroizing<Vec<u8>>> {
    let file = File::open(path).map_err(|error| Error::file(path, "cannot open", error))?;
    let metadata = file.metadata().map_err(|error| Error::file(path, "cannot read its metadata", error))?;
    // Pipes such as /dev/fd/3 have modes of their own and belong to nobody else.
    if metadata.is_file() && metadata.mode() & 0o077 != 0 {
        output.warn(&format!(
            "{} may be read by others (mode {:04o}); `chmod 600` it",
            path.display(),
            metadata.mode() & 0o7777
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(SECRET_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::file(path, "cannot read", error))?;
    if bytes.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(Error::Usage(format!("{}: too long for a key or password file", path.display())));
    }
    Ok(bytes)
}

fn run_password_command(command: &OsString) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |why: String| Error::Command(format!("the password command {why}"));
    let mut child = stop::spawn(Command::new("sh").arg("-c").arg(command).stdout(Stdio::piped()))
        .map_err(|error| failed(format!("can't be started: {error}")))?;
    let mut text = Zeroizing::new(Vec::with_capacity(4096));
    let stdout = child.stdout.take().expect("the pipe was asked for two lines above");
    let read = stdout.take(SECRET_FILE_BYTES_MAX).read_to_end(&mut text);
    let status = child.wait().map_err(|error| failed(format!("can't be waited for: {error}")))?;
    read.map_err(|error| failed(format!("can't be read: {error}")))?;
    if status.success() { Ok(text) } else { Err(failed(format!("failed ({status})"))) }
}

/// Asks for a password on the terminal.
///
/// # Errors
/// [`Error::Usage`] where there is no terminal; [`Error::Interrupted`] for Ctrl-C.
pub fn prompt(question: &str, stop: &Stop) -> Result<Zeroizing<Vec<u8>>> {
    prompt_or(question, stop, "")
}

/// As [`prompt`]; where there is no terminal, the error ends with `remark`.
///
/// # Errors
/// As [`prompt`].
pub fn prompt_or(question: &str, stop: &Stop, remark: &str) -> Result<Zeroizing<Vec<u8>>> {
    let answer = stop.while_prompting(|| rpassword::prompt_password(format!("{question}: ")));
    match answer {
        Ok(text) => password(Zeroizing::new(text.into_bytes()), "the password"),
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(Error::Interrupted),
        Err(_) => Err(Error::Usage(format!(
            "no key: name one with --key-file (a recovery kit is a key file too), --password-file or \
             --password-command, or set SEAWALL_PASSWORD (there is no terminal to ask on){remark}"
        ))),
    }
}

/// Asks for a new password, twice.
///
/// # Errors
/// As [`prompt`]; [`Error::Usage`] where the two differ.
pub fn prompt_new(stop: &Stop) -> Result<Zeroizing<Vec<u8>>> {
    let first = prompt("New password", stop)?;
    let second = prompt("The same password again", stop)?;
    if *first == *second { Ok(first) } else { Err(Error::Usage("the two passwords differ".to_owned())) }
}

/// Writes a new file that only its owner may read, and its directory if need be, durably. Never overwrites.
///
/// # Errors
/// When the file exists or can't be written.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_private_directory(directory)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Error::file(path, "cannot create", error))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(|error| Error::file(path, "cannot write", error))?;
    sync_directory(directory)
}

/// Makes a directory (with its parents) that only its owner may enter, unless it exists.
///
/// # Errors
/// When it can't be made.
pub fn make_private_directory(directory: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .recursive(true)
        .create(directory)
        .map_err(|error| Error::file(directory, "cannot make this directory", error))
}

/// Makes names in a directory durable.
///
/// # Errors
/// When the system can't.
pub fn sync_directory(directory: &Path) -> Result<()> {
    File::open(directory)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| Error::file(directory, "cannot sync this directory", error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn silent() -> Output {
        Output::new(false, true, false, false)
    }

    fn passphrase(source: &KeySource) -> Result<Vec<u8>> {
        match source.unlock(&silent())? {
            Unlock::Passphrase(text) => Ok(text.to_vec()),
            other => panic!("asked for a password, got {other:?}"),
        }
    }

    #[test]
    fn one_line_end_is_not_part_of_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for (text, expected) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("two\n\n", "two\n"),
            (" x ", " x "),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(passphrase(&KeySource::PasswordFile(path.clone())).unwrap(), expected.as_bytes());
        }
        std::fs::write(&path, "\n").unwrap();
        let error = passphrase(&KeySource::PasswordFile(path.clone())).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_password_command_gives_its_output_or_its_failure() {
        let command = |text: &str| KeySource::PasswordCommand(text.into());
        assert_eq!(passphrase(&command("echo se; echo cret")).unwrap(), b"se\ncret");
        for text in ["echo secret; exit 3", "kill -9 $$", "exit 1"] {
            let error = passphrase(&command(text)).unwrap_err();
            assert_eq!(error.code(), "command");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert_eq!(passphrase(&command("true")).unwrap_err().code(), "usage");
    }

    #[test]
    fn key_files_are_private_whole_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/directory/x.key");
        let secret = Secret32::random();
        write_private(&path, &slot::key_file_text(&secret)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(read_key_file(&path, &silent()).unwrap().as_bytes(), secret.as_bytes());
        assert_eq!(write_private(&path, "x").unwrap_err().code(), "file");
        assert_eq!(read_key_file(&path, &silent()).unwrap().as_bytes(), secret.as_bytes());
    }

    #[test]
    fn what_is_no_key_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.key");
        for text in ["", "seawall-key-1\nabc\n", "\u{0}", "seawall-key-2\n"] {
            std::fs::write(&path, text).unwrap();
            let error = read_key_file(&path, &silent()).unwrap_err();
            assert!(error.to_string().contains("x.key"), "{error}");
        }
        std::fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
        assert!(read_key_file(&path, &silent()).unwrap_err().to_string().contains("too long"));
        assert_eq!(read_key_file(&folder.path().join("none"), &silent()).unwrap_err().code(), "file");
    }
}
