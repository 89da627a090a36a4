//! `seawall key add`: a new key.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use seawall_engine::crypto::Secret32;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::slot::{self, Lock, Role, Share, SharedSecret, Unlock};
use seawall_engine::keys::{Added, Key, add, list};
use seawall_engine::repo::Repository;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::keys::{self, KeySource};
use crate::output::printable;
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall key add --role member --label web1 --new-key-file web1.key
    seawall key add --role owner --label anna --recipient seawall-public-1:5c0f...
    seawall key add --role reader --label audit --new-passphrase
    seawall key add --role owner --label board --shares 3-of-5 --shares-directory shares";

/// Add a key
///
/// Makes a member with a role and a slot that opens with one of: a new key file, a new passphrase, the identity file
/// whose public key you name (`key generate`), or shares of which some are needed together. Only owners can.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("way").required(true).args(
    ["new_key_file", "new_passphrase", "new_passphrase_file", "recipient", "shares"])))]
pub struct Arguments {
    /// What it may do
    #[arg(long, value_enum)]
    pub role: RoleName,

    /// A name for people, which no other usable key has
    #[arg(long, value_name = "NAME")]
    pub label: String,

    /// Make this key file, with mode 0600
    #[arg(long, value_name = "FILE")]
    pub new_key_file: Option<PathBuf>,

    /// Ask for a passphrase, twice
    #[arg(long)]
    pub new_passphrase: bool,

    /// The passphrase in this file
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,

    /// The public key of an identity file
    #[arg(long, value_name = "PUBLICKEY")]
    pub recipient: Option<String>,

    /// Shares, of which M of N open the repository together
    #[arg(long, value_name = "M-of-N", requires = "shares_directory", value_parser = parse_shares)]
    pub shares: Option<(u8, u8)>,

    /// Where to write the share files
    #[arg(long, value_name = "DIR", requires = "shares")]
    pub shares_directory: Option<PathBuf>,
}

/// A role on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// Adds snapshots, reads nothing back
    Member,
    /// Reads back too
    Reader,
    /// Forgets and changes keys too
    Owner,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Member => Self::Member,
            RoleName::Reader => Self::Reader,
            RoleName::Owner => Self::Owner,
        }
    }
}

#[derive(Serialize)]
struct Made<'a> {
    slot: String,
    member: String,
    number: u64,
    label: &'a str,
    role: &'a str,
    files: Vec<String>,
    fingerprint: String,
}

impl Arguments {
    /// Adds it.
    ///
    /// # Errors
    /// When the key that opened the repository is not an owner's, or the new one can't be made.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        if self.label.is_empty() || self.label.chars().any(char::is_control) {
            return Err(Error::Usage("--label must be readable text".to_owned()).into());
        }
        let repository = run.open_to_write(&run.location()?)?;
        let role = Role::from(self.role);
        if repository.role() != Role::Owner {
            return Err(Error::NotAllowed("change keys: that takes an owner's").into());
        }
        // Why the files come first: a key that the repository has and nobody holds is worse than a file of no use.
        let (lock, files) = self.lock(run, &repository)?;
        let added = match add(&repository, role, &lock, &self.label) {
            Ok(added) => added,
            Err(error) => return Err(self.after_failure(&repository, &files, error)),
        };
        self.report(run, &added, &files, &repository.fingerprint().to_string())
    }

    /// What a failure left is told. Files of a key that opens nothing are removed; those of one that may open stay.
    fn after_failure(&self, repository: &Repository, files: &[PathBuf], error: Error) -> anyhow::Error {
        let label = printable(self.label.as_bytes());
        let is_this = |key: &&Key| key.member.is_some() && key.revoked().is_none() && key.label() == self.label;
        // Why only then: all else fails before anything was written, and another key may have this label.
        let key = match &error {
            Error::Store(_) => list(repository).map(|keys| keys.iter().find(is_this).map(|key| key.slot.is_some())),
            _ => Ok(None),
        };
        let told = match key {
            Ok(None) => None,
            Ok(Some(false)) => Some(format!("the key {label} has no slot: `key remove {label}`, then add it again")),
            Ok(Some(true)) | Err(_) => {
                let told = format!("the key {label} may be there: its files stay; `key list` shows it");
                return anyhow::Error::from(error).context(told);
            }
        };
        discard(files);
        match told {
            Some(told) => anyhow::Error::from(error).context(told),
            None => error.into(),
        }
    }

    fn lock(&self, run: &Run, repository: &Repository) -> Result<(Lock, Vec<PathBuf>)> {
        if let Some(path) = &self.new_key_file {
            let secret = Secret32::random();
            keys::write_private(path, &slot::key_file_text(&secret))?;
            return Ok((Lock::KeyFile(secret), vec![path.clone()]));
        }
        if let Some(path) = &self.new_passphrase_file {
            return match KeySource::PasswordFile(path.clone()).unlock(&run.output)? {
                Unlock::Passphrase(text) => Ok((Lock::Passphrase(text), Vec::new())),
                _ => Err(Error::Usage("a password file gives a passphrase".to_owned())),
            };
        }
        if let Some(text) = &self.recipient {
            let public = slot::parse_public_key(text).ok_or_else(|| {
                Error::Usage("--recipient takes what `seawall key generate` prints: seawall-public-1:...".to_owned())
            })?;
            return Ok((Lock::Recipient(public), Vec::new()));
        }
        if let (Some((needed, count)), Some(directory)) = (self.shares, &self.shares_directory) {
            let (secret, shares) = SharedSecret::generate(needed, count)
                .ok_or_else(|| Error::Usage("--shares M-of-N needs 1 <= M <= N".to_owned()))?;
            let files = self.write_shares(directory, &shares, count, repository)?;
            return Ok((Lock::Shares(secret), files));
        }
        Ok((Lock::Passphrase(keys::prompt_new(&run.stop)?), Vec::new()))
    }

    fn write_shares(
        &self,
        directory: &Path,
        shares: &[Share],
        count: u8,
        repository: &Repository,
    ) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for share in shares {
            let path = directory.join(format!("share-{}-of-{count}.txt", share.number));
            let remarks = format!(
                "# Share {} of {count} of the key {} to the seawall repository {}. Any {} of them open it:\n\
                 #   seawall -r DIR --expect {} --share FILE --share FILE ... snapshots\n",
                share.number,
                printable(self.label.as_bytes()),
                repository.id(),
                share.needed,
                repository.fingerprint()
            );
            let digits = share.text();
            let mut text = Zeroizing::new(String::with_capacity(digits.len() + remarks.len()));
            text.push_str(&digits);
            text.push_str(&remarks);
            if let Err(error) = keys::write_private(&path, &text) {
                discard(&files);
                return Err(error);
            }
            files.push(path);
        }
        Ok(files)
    }

    fn report(&self, run: &Run, added: &Added, files: &[PathBuf], fingerprint: &str) -> anyhow::Result<Outcome> {
        let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
        let role = Role::from(self.role).name();
        run.output.report(format!(
            "Added the key {} ({role}), slot {}",
            printable(self.label.as_bytes()),
            added.slot
        ))?;
        for file in &files {
            run.output.report(format!("  {file}"))?;
        }
        run.output.report(format!("The repository's fingerprint is {fingerprint}"))?;
        if self.recipient.is_some() || self.shares.is_some() {
            run.output.note(
                "an identity or shares do not prove which repository they open: tell who holds them the fingerprint, for \
                 --expect or SEAWALL_EXPECT",
            );
        }
        let (slot, member, fingerprint) = (added.slot.to_string(), added.member.to_string(), fingerprint.to_owned());
        Outcome::done(Made { slot, member, number: added.number, label: &self.label, role, files, fingerprint })
    }
}

/// Files with keys that open nothing only confuse.
fn discard(files: &[PathBuf]) {
    for file in files {
        let _ = std::fs::remove_file(file);
    }
}

/// `3-of-5`.
fn parse_shares(text: &str) -> std::result::Result<(u8, u8), String> {
    let parsed = text.split_once("-of-").and_then(|(needed, count)| Some((needed.parse().ok()?, count.parse().ok()?)));
    match parsed {
        Some((needed, count)) if 1 <= needed && needed <= count => Ok((needed, count)),
        _ => Err("write M-of-N, as in 3-of-5, with 1 <= M <= N <= 255".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_shares_make_sense() {
        assert_eq!(parse_shares("3-of-5"), Ok((3, 5)));
        assert_eq!(parse_shares("255-of-255"), Ok((255, 255)));
        for refused in ["", "3", "3-5", "0-of-5", "6-of-5", "3-of-256", "-1-of-5", "3-of-5-of-7"] {
            assert!(parse_shares(refused).is_err(), "{refused}");
        }
    }
}
