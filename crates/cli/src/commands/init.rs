//! `seawall init`: makes an empty repository with the key slots that the user names.

use std::path::Path;
use std::sync::Arc;

use seawall_engine::crypto::Secret32;
use seawall_engine::error::{Error, Result};
use seawall_engine::format::names::{MARKER, log_object};
use seawall_engine::format::slot::{self, Unlock};
use seawall_engine::repo::Repository;
use seawall_engine::store::Store;
use seawall_engine::store::local::LocalStore;
use serde::Serialize;

use crate::keys::{self, KeySource};
use crate::run::{Outcome, Run};

const EXAMPLES: &str = "\
Examples:
    seawall init -r /backup/repo                                     with a password from the terminal
    seawall init -r /backup/repo --key-file ~/seawall.key            with a key file
    seawall init -r /backup/repo --password-command 'pass seawall'   with a password manager";

/// Make an empty repository
///
/// Each way in that is named becomes a key slot: a key file, a password, or both. A key file that does not exist yet
/// is made, with a random key and mode 0600. If nothing is named, a password is asked for, twice.
///
/// Losing every key means losing the data. Keep a copy of the key file, or the password, away from this machine.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Arguments {}

#[derive(Serialize)]
struct Made {
    repository: String,
    fingerprint: String,
    location: String,
    slots: Vec<&'static str>,
}

impl Arguments {
    /// Makes the repository.
    ///
    /// # Errors
    /// When there is one already, or a key or the repository can't be made.
    pub fn run(&self, run: &Run) -> anyhow::Result<Outcome> {
        let location =
            run.settings.repository.clone().or_else(|| run.environment.embedded_repository()).ok_or_else(|| {
                Error::Usage("init needs a place: name one with -r DIR or SEAWALL_REPOSITORY".to_owned())
            })?;
        let mut keys = run.settings.keys.clone();
        if location.join(MARKER).exists() {
            return Err(Error::RepositoryExists(location.display().to_string()).into());
        }
        if keys.is_empty() {
            keys.push(KeySource::Password(keys::prompt_new(&run.stop)?));
        }
        let slots = keys.iter().map(|key| new_slot(key, run)).collect::<Result<Vec<_>>>()?;
        let repository = make_repository(run, &location, &slots)?;
        let made = Made {
            repository: repository.id().to_string(),
            fingerprint: repository.fingerprint().to_string(),
            location: location.display().to_string(),
            slots: keys.iter().map(KeySource::label).collect(),
        };
        run.output.report(format!("Made repository {} at {}", made.repository, made.location))?;
        run.output.report(format!("Its fingerprint, for --expect: {}", made.fingerprint))?;
        run.output
            .report(format!("It opens with: {}. Keep that safe, away from this machine.", made.slots.join(", ")))?;
        Outcome::done(made)
    }
}

/// Makes a repository in a directory, which is made if need be.
///
/// # Errors
/// When there is one already or it can't be made.
pub fn make_repository(run: &Run, location: &Path, slots: &[(Unlock, String)]) -> Result<Repository> {
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(location)?);
    let goes_on = store.head(&log_object(0)).is_ok();
    let repository = Repository::init(store, slots, run.settings.cache.clone())?;
    if goes_on {
        run.output
            .note("an earlier `init` here did not come to its end: this one went on with the keys that it had made");
    }
    Ok(run.prepare(repository))
}

fn new_slot(key: &KeySource, run: &Run) -> Result<(Unlock, String)> {
    if let KeySource::KeyFile(path) = key
        && !path.exists()
    {
        let secret = Secret32::random();
        keys::write_private(path, &slot::key_file_text(&secret))?;
        run.output.note(&format!("made the key file {}", path.display()));
    }
    Ok((key.unlock(&run.output)?, key.label().to_owned()))
}
