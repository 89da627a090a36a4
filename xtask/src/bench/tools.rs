//! The tools that are compared: how each gets here, and its command line for each act. Defaults throughout; borg has none
//! for encryption and compression that suits, so it gets `repokey` and `zstd,3`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Place, python};
use crate::process;
use crate::surroundings::find_program;

const PASSWORD: &str = "benchmark";
/// What borg is built with; there is no wheel of it.
const BORG_NEEDS: [&str; 7] =
    ["libssl-dev", "libacl1-dev", "liblz4-dev", "libzstd-dev", "libxxhash-dev", "pkg-config", "gcc"];

/// A backup program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// This project's release build.
    Seawall,
    /// From Debian, its newest.
    Restic,
    /// From crates.io.
    Rustic,
    /// From PyPI.
    Borg,
}

/// One thing that a tool is asked to do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act<'a> {
    /// Make a repository.
    Init,
    /// Back up the source; the number tells backups of one repository apart.
    Backup(&'a Path, usize),
    /// Restore the newest backup (that number) into a directory.
    Restore(&'a Path, usize),
    /// Read and check every stored byte.
    Check,
}

impl Tool {
    /// All of them, ours first.
    pub const ALL: [Self; 4] = [Self::Seawall, Self::Restic, Self::Rustic, Self::Borg];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Seawall => "seawall",
            Self::Restic => "restic",
            Self::Rustic => "rustic",
            Self::Borg => "borg",
        }
    }

    fn program(self, place: &Place) -> PathBuf {
        match self {
            Self::Seawall => place.target.join("release/seawall"),
            Self::Restic => place.tools.join("restic/usr/bin/restic"),
            Self::Rustic => place.tools.join("rustic/bin/rustic"),
            Self::Borg => place.tools.join("borg/bin/borg"),
        }
    }

    /// Builds or installs it, unless it is there.
    pub fn install(self, place: &Place) -> Result<()> {
        fs::create_dir_all(&place.tools)?;
        if self == Self::Seawall {
            let arguments = ["build", "--release", "--locked", "--package", "seawall"];
            return process::run(Command::new("cargo").current_dir(&place.root).args(arguments));
        }
        if self.program(place).exists() {
            return Ok(());
        }
        println!("installing {}", self.name());
        match self {
            Self::Restic => restic_from_debian(&place.tools),
            Self::Rustic => {
                let directory = place.tools.join("rustic");
                process::run(Command::new("cargo").args(["install", "rustic-rs", "--locked", "--root"]).arg(directory))
            }
            _ => {
                if find_program("apt-get").is_some() && crate::surroundings::is_root() {
                    crate::test::apt_get(&["update", "-qq"])?;
                    crate::test::apt_get(&[&["install", "-y", "-qq"][..], &BORG_NEEDS].concat())?;
                }
                python(place, "borg", &["borgbackup==1.4.5"], &[]).map(drop)
            }
        }
    }

    /// Name and version as the tool tells it.
    pub fn version(self, place: &Place) -> Result<String> {
        let argument = if self == Self::Restic { "version" } else { "--version" };
        let text = process::capture(Command::new(self.program(place)).arg(argument))?;
        let words: Vec<&str> = text.split_whitespace().take(2).collect();
        Ok(words.join(" "))
    }

    /// Its repository for a workload.
    pub fn repository(self, place: &Place) -> PathBuf {
        place.data.join("repository").join(self.name())
    }

    /// Removes its repository and its caches.
    pub fn clear(self, place: &Place) -> Result<()> {
        for directory in [self.repository(place), place.data.join("cache").join(self.name())] {
            if directory.exists() {
                fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
            }
            fs::create_dir_all(directory.parent().context("directories of tools have a parent")?)?;
        }
        if self == Self::Borg {
            fs::create_dir_all(self.repository(place))?;
        }
        Ok(())
    }

    /// The arguments for an act, the program first.
    pub fn command(self, place: &Place, act: Act) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let repository = text(&self.repository(place));
        let key = text(&place.data.join("cache/seawall.key"));
        let archive = |number: usize| format!("{repository}::{number}");
        let words: Vec<String> = match (self, act) {
            (Self::Seawall, Act::Init) => strings(&["init", "-r", &repository, "--key-file", &key]),
            (Self::Seawall, Act::Backup(source, _)) => {
                strings(&["backup", "-r", &repository, "--key-file", &key, &text(source)])
            }
            (Self::Seawall, Act::Restore(target, _)) => {
                strings(&["restore", "-r", &repository, "--key-file", &key, "latest", "--target", &text(target)])
            }
            (Self::Seawall, Act::Check) => strings(&["verify", "-r", &repository, "--key-file", &key, "--read-data"]),
            (Self::Borg, Act::Init) => strings(&["init", "-e", "repokey", &repository]),
            (Self::Borg, Act::Backup(source, number)) => {
                strings(&["create", "-C", "zstd,3", &archive(number), &text(source)])
            }
            (Self::Borg, Act::Restore(_, number)) => strings(&["extract", &archive(number)]),
            (Self::Borg, Act::Check) => strings(&["check", "--verify-data", &repository]),
            (_, Act::Init) => strings(&["init"]),
            (_, Act::Backup(source, _)) => strings(&["backup", &text(source)]),
            (Self::Restic, Act::Restore(target, _)) => strings(&["restore", "latest", "--target", &text(target)]),
            (_, Act::Restore(target, _)) => strings(&["restore", "latest", &text(target)]),
            (_, Act::Check) => strings(&["check", "--read-data"]),
        };
        std::iter::once(text(&self.program(place))).chain(words).collect()
    }

    /// What it reads from its environment: passwords and caches, never a person's own.
    pub fn environment(self, place: &Place) -> Vec<(&'static str, PathBuf)> {
        let repository = self.repository(place);
        let cache = place.data.join("cache").join(self.name());
        let password = PathBuf::from(PASSWORD);
        match self {
            Self::Seawall => vec![("SEAWALL_CACHE_DIR", cache)],
            Self::Restic => {
                vec![("RESTIC_REPOSITORY", repository), ("RESTIC_PASSWORD", password), ("RESTIC_CACHE_DIR", cache)]
            }
            Self::Rustic => {
                vec![("RUSTIC_REPOSITORY", repository), ("RUSTIC_PASSWORD", password), ("RUSTIC_CACHE_DIR", cache)]
            }
            Self::Borg => vec![("BORG_PASSPHRASE", password), ("BORG_BASE_DIR", cache)],
        }
    }
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// The newest restic that Debian has, unpacked beside the data; the machine's own packages stay as they are.
fn restic_from_debian(tools: &Path) -> Result<()> {
    let format = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
    let mirrors = process::capture(Command::new("apt-get").args(format)).context("restic is taken from Debian")?;
    let Some(mirror) = mirrors.lines().find(|line| !line.contains("security")) else {
        bail!("this machine knows no mirror of Debian")
    };
    let state = tools.join("apt");
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(state.join(directory))?;
    }
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    fs::write(state.join("sources.list"), format!("deb [signed-by={keyring}] {mirror} sid main\n"))?;
    let option = |name: &str, value: String| ["-o".to_owned(), format!("{name}={value}")];
    let path = |name: &str| state.join(name).display().to_string();
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.current_dir(&state).args(option("Dir::Etc::sourcelist", path("sources.list")));
        command.args(option("Dir::Etc::sourceparts", "-".into())).args(option("Dir::State::lists", path("lists")));
        process::run(command.args(option("Dir::Cache", path("cache"))).args(["-qq"]).args(arguments))
    };
    apt_get(&["update"])?;
    apt_get(&["download", "restic"])?;
    let files = fs::read_dir(&state)?.collect::<Result<Vec<_>, _>>()?;
    let is_package = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "deb");
    let Some(package) = files.into_iter().map(|file| file.path()).find(is_package) else {
        bail!("apt-get downloaded no package")
    };
    process::run(Command::new("dpkg").arg("-x").arg(package).arg(tools.join("restic")))
}
