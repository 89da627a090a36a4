//! A small world for one test: a folder with a home directory, and the binary run in it without the tester's own
//! environment.

use std::ffi::OsStr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder with everything of one test.
pub struct World {
    folder: tempfile::TempDir,
}

/// How one run of the program ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl World {
    /// An empty world.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::DirBuilder::new().mode(0o700).create(folder.path().join("home")).unwrap();
        Self { folder }
    }

    /// A world with a repository at `repo`, opened by `seawall.key`, and a few files in `data`.
    pub fn with_repository() -> Self {
        let world = Self::new();
        world.write("data/hello.txt", b"hello\n");
        world.write("data/inner/zeros.bin", &[0; 300_000]);
        std::os::unix::fs::symlink("hello.txt", world.path("data/link")).unwrap();
        world.ok(["init", "-r", "repo", "--key-file", "seawall.key"]);
        world
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// Writes a file, private as key files have to be, with the directories above it.
    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The program with these arguments, ready to be run in the folder.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
        command.args(arguments).current_dir(self.folder.path()).stdin(Stdio::null()).env_clear();
        command.env("HOME", self.path("home")).env("TZ", "UTC").env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }

    /// Runs it.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ended {
        ended(self.command(arguments).output().unwrap())
    }

    /// Gives the world to an ordinary user, whom the command will run as. False where that can't be done.
    pub fn become_ordinary(&self, command: &mut Command) -> bool {
        if !nix::unistd::geteuid().is_root() {
            return true;
        }
        let Ok(Some(nobody)) = nix::unistd::User::from_name("nobody") else { return false };
        let owner = format!("{}:{}", nobody.uid, nobody.gid);
        let given = Command::new("chown").args(["-R", &owner]).arg(self.path("")).status();
        std::os::unix::process::CommandExt::uid(command, nobody.uid.as_raw());
        std::os::unix::process::CommandExt::gid(command, nobody.gid.as_raw());
        // The binary itself must be within reach of that user.
        let reach = Command::new("setpriv")
            .args([
                &format!("--reuid={}", nobody.uid),
                &format!("--regid={}", nobody.gid),
                "--clear-groups",
                "test",
                "-x",
            ])
            .arg(env!("CARGO_BIN_EXE_seawall"))
            .status();
        given.is_ok_and(|status| status.success()) && reach.is_ok_and(|status| status.success())
    }

    /// Runs it with the repository and key of [`Self::with_repository`].
    pub fn open<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
        self.run(["-r", "repo", "--key-file", "seawall.key"].into_iter().chain(arguments))
    }

    /// Runs it and expects 0; gives standard output.
    pub fn ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        self.run(arguments).expect(0).stdout
    }

    /// As [`Self::open`], and expects 0; gives standard output.
    pub fn open_ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        self.open(arguments).expect(0).stdout
    }
}

/// What a finished process left.
pub fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Ended {
    /// Expects this exit code.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as JSON lines; every line must be an object with a type, and the last the summary.
    pub fn json(&self) -> Vec<Value> {
        let lines: Vec<Value> = self
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}")))
            .collect();
        assert!(lines.iter().all(|line| line["type"].is_string()), "{lines:?}");
        assert_eq!(lines.last().expect("some output")["type"], "summary", "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line["type"] == "summary").count(), 1, "{lines:?}");
        lines
    }

    /// The summary of JSON output.
    pub fn summary(&self) -> Value {
        self.json().pop().expect("checked by json()")
    }
}
