//! Programs that tests run beside the project's own: which package of Debian has them, and how they get here.
//!
//! As root on Debian, what is missing is installed. Else it is named and the tests that need it skip themselves, which
//! with CI=true they must not.

use std::process::Command;

use anyhow::Result;

use super::Outcome;
use crate::process;
use crate::surroundings::{find_program, is_root};

/// Program, Debian package, what needs it.
const PROGRAMS: [(&str, &str, &str); 7] = [
    ("rsync", "rsync", "the neutral judge of a restore's fidelity"),
    ("setfattr", "attr", "extended attributes"),
    ("setfacl", "acl", "access control lists"),
    ("chattr", "e2fsprogs", "inode flags"),
    ("setcap", "libcap2-bin", "file capabilities"),
    ("mkfifo", "coreutils", "special files"),
    ("python3", "python3", "the independent reader"),
];

/// Makes sure that all programs are there; says which are not, and what that leaves out.
pub fn install() -> Result<Outcome> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    if is_root() && find_program("apt-get").is_some() {
        let packages = missing.iter().map(|(_, package, _)| *package);
        apt_get(&["update", "-qq"])?;
        apt_get(&["install", "-y", "-qq", "--no-install-recommends"].into_iter().chain(packages).collect::<Vec<_>>())?;
    }
    let missing = self::missing();
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    let list = missing.iter().map(|(program, package, why)| format!("{program} (package {package}; {why})"));
    Ok(Outcome::Skipped(format!("not installed: {}", list.collect::<Vec<_>>().join(", "))))
}

fn missing() -> Vec<(&'static str, &'static str, &'static str)> {
    PROGRAMS.into_iter().filter(|(program, _, _)| find_program(program).is_none()).collect()
}

/// Runs apt-get without questions.
pub fn apt_get(arguments: &[&str]) -> Result<()> {
    process::run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments))
}
